//! The run file of the box: what is refused, and where its paths lead.

use super::*;

#[test]
fn working_directories_resolve_below_home() {
    let home = Some(Path::new("/root"));
    assert_eq!(resolve("/workspace/x", home), Some("/workspace/x".into()));
    assert_eq!(resolve("x", home), Some("/root/x".into()));
    assert_eq!(resolve("~/x", home), Some("/root/x".into()));
    assert_eq!(resolve("", home), None);
    assert_eq!(resolve("x", None), None);
}

#[test]
fn run_names_cannot_leave_a_prefix_or_hide() {
    for name in ["a", "flightmind-d24", "v1.2_x"] {
        assert!(is_run_name(name), "{name}");
    }
    for name in ["", "..", ".x", "a/b", "a b", &"x".repeat(64)] {
        assert!(!is_run_name(name), "{name}");
    }
}

#[test]
fn nonsense_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let wish = |attempt, keep_last, every_s| Wish {
        run: "r".into(),
        attempt,
        workdir: dir.path().join("w").display().to_string(),
        backup: Some(BackupWish {
            target: "s3://bucket/p".into(),
            dir: "ckpt".into(),
            every_s,
            keep_last,
            ..BackupWish::default()
        }),
        ..Wish::default()
    };
    assert!(matches!(
        RunFile::decide(wish(0, 2, 60)),
        Err(ConfigureError::Attempt)
    ));
    assert!(matches!(
        RunFile::decide(wish(1, 1, 60)),
        Err(ConfigureError::KeepLast)
    ));
    assert!(matches!(
        RunFile::decide(wish(1, 2, 0)),
        Err(ConfigureError::Every)
    ));
    let good = RunFile::decide(wish(1, 2, 60)).unwrap();
    assert!(good.workdir.is_dir());
    assert_eq!(good.backup.unwrap().dir, dir.path().join("w/ckpt"));
}
