//! Code to the box and results back.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use nix::{sys::signal, unistd::Pid};
use spotter::{
    sync::{Method, SyncError, fetch, push},
    tunnel::Lane,
};

use crate::sshd::{NOISY_RC, TestBox};

/// Every file and link under a directory with its content.
pub fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, at: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(at).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                walk(root, &path, found);
                continue;
            }
            let content = if kind.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(
                path.strip_prefix(root).unwrap().display().to_string(),
                content,
            );
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

pub fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn project(root: &Path) {
    write(root, ".gitignore", b"*.tmp\n!keep.tmp\n");
    write(root, ".git/HEAD", b"ref");
    write(root, "train.py", b"print('hello')\n");
    write(root, "a b/it's $HOME.txt", b"spaces");
    write(root, "keep.tmp", b"kept");
    write(root, "drop.tmp", b"dropped");
    write(root, "old/deep/file", b"old");
    symlink("train.py", root.join("link")).unwrap();
    fs::set_permissions(root.join("train.py"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A box where rsync cannot be found by a command that comes in over ssh.
pub fn hide_rsync(test_box: &TestBox) {
    let bin = test_box.path("bin");
    fs::create_dir(&bin).unwrap();
    for tool in [
        "sh", "tar", "mkdir", "cat", "mv", "xargs", "rm", "rmdir", "head", "true", "tr", "sleep",
    ] {
        let found = ["/usr/bin", "/bin"]
            .map(|at| Path::new(at).join(tool))
            .into_iter()
            .find(|path| path.exists())
            .unwrap();
        symlink(found, bin.join(tool)).unwrap();
    }
    let rc = format!("{NOISY_RC}\nexport PATH={}\n", bin.display());
    test_box.rc(&rc);
}

async fn pushes_what_is_not_ignored_and_removes_only_what_it_brought(method: Method) {
    let test_box = TestBox::new();
    match method {
        Method::Rsync => test_box.rc(NOISY_RC),
        Method::Tar => hide_rsync(&test_box),
    }
    let tunnel = test_box.connect().await;
    let (here, there) = (test_box.path("project"), test_box.path("home/work dir"));
    project(&here);
    let to = there.to_str().unwrap();
    let mut told = 0;
    let report = push(&tunnel, &here, to, None, &mut |_| told += 1)
        .await
        .unwrap();
    assert_eq!(
        (report.method, report.files, report.removed),
        (method, 6, 0)
    );
    assert!(told > 0, "nothing was said of how far it is");
    let mut expected = tree(&here);
    expected.retain(|path, _| !path.starts_with(".git/") && path != "drop.tmp");
    assert_eq!(tree(&there), expected);
    let mode = fs::metadata(there.join("train.py"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);

    // The run writes files of its own, and the user deletes and changes some here.
    write(&there, "checkpoints/1.pt", b"precious");
    write(&there, "old/by-the-run", b"stays");
    fs::remove_dir_all(here.join("old")).unwrap();
    fs::remove_file(here.join("keep.tmp")).unwrap();
    write(&here, "train.py", b"print('hello again')\n");
    let report = push(&tunnel, &here, to, None, &mut |_| ()).await.unwrap();
    assert_eq!((report.files, report.removed), (4, 2));
    let found = tree(&there);
    assert_eq!(found.get("train.py").unwrap(), b"print('hello again')\n");
    assert_eq!(found.get("checkpoints/1.pt").unwrap(), b"precious");
    assert_eq!(found.get("old/by-the-run").unwrap(), b"stays");
    assert!(!found.contains_key("old/deep/file") && !found.contains_key("keep.tmp"));
    assert!(
        !there.join("old/deep").exists(),
        "an empty directory stayed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rsync_pushes_through_a_noisy_shell() {
    pushes_what_is_not_ignored_and_removes_only_what_it_brought(Method::Rsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tar_pushes_where_rsync_is_missing() {
    pushes_what_is_not_ignored_and_removes_only_what_it_brought(Method::Tar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_leads_out_is_refused() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    for path in ["../x", "/etc/passwd", "a/../../b"] {
        let outcome = fetch(
            &tunnel,
            "/tmp",
            &[path.to_owned()],
            &[],
            &test_box.path("r"),
            &mut |_| (),
        )
        .await;
        assert!(matches!(outcome, Err(SyncError::Path { .. })), "{path}");
    }
    let outcome = push(
        &tunnel,
        &test_box.path("laptop"),
        "relative",
        None,
        &mut |_| (),
    )
    .await;
    assert!(matches!(outcome, Err(SyncError::Path { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_its_connection_was_killed() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    let (here, there) = (test_box.path("project"), test_box.path("home/work"));
    let big: Vec<u8> = (0..30_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    write(&here, "big", &big);
    write(&here, "small", b"s");
    let killer = tokio::spawn({
        let (tunnel, partial) = (tunnel.clone(), there.clone());
        async move {
            // Temporary names of rsync begin with a dot.
            let began = |dir: &Path| {
                fs::read_dir(dir).is_ok_and(|entries| {
                    entries
                        .flatten()
                        .any(|e| e.file_name().to_string_lossy().starts_with(".big"))
                })
            };
            for _ in 0..3000 {
                if began(&partial) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let group = tunnel
                .process(Lane::Bulk)
                .await
                .expect("the copy runs over it");
            signal::killpg(Pid::from_raw(group as i32), signal::Signal::SIGKILL).unwrap();
        }
    });
    let report = push(&tunnel, &here, there.to_str().unwrap(), None, &mut |_| ())
        .await
        .unwrap();
    killer.await.unwrap();
    assert_eq!(report.files, 2);
    assert!(tree(&there) == tree(&here), "the copy is not whole");
}
