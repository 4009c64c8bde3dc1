//! Results from the box: several connections at once, and gone on with after a kill.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, SystemTime},
};

use nix::{sys::signal, unistd::Pid};
use spotter::{
    agent_client::FileHash,
    error::chain,
    sync::{Method, Progress, SyncError, SyncReport, fetch},
    tunnel::Tunnel,
};
use tokio::time::timeout;

use crate::{
    relay::{Hold, Relay},
    sshd::{NOISY_RC, TestBox},
    sync::{hide_rsync, tree, write},
};

const MIB: usize = 1 << 20;

/// Nothing is waited for longer: what hangs is a failure.
const LIMIT: Duration = Duration::from_secs(240);

/// Bytes that neither compress nor repeat.
fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// What the box would say of its files.
fn listed(root: &Path, names: &[&str]) -> Vec<FileHash> {
    let hash = |name: &&str| {
        let bytes = fs::read(root.join(name)).unwrap();
        FileHash {
            path: (*name).to_owned(),
            size_bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
        }
    };
    names.iter().map(hash).collect()
}

async fn fetches_what_exists_and_names_what_does_not(method: Method) {
    let test_box = TestBox::new();
    match method {
        Method::Rsync => test_box.rc(NOISY_RC),
        Method::Tar => hide_rsync(&test_box),
    }
    let tunnel = test_box.connect().await;
    let (there, here) = (test_box.path("home/work"), test_box.path("results"));
    write(&there, "checkpoints/final.pt", &[7; 100_000]);
    write(&there, "logs/a/train.log", b"log");
    write(&there, "secret", b"not asked for");
    symlink("/etc", there.join("logs/out")).unwrap();
    symlink("a/train.log", there.join("logs/newest")).unwrap();
    let paths = ["checkpoints/final.pt", "./logs/", "nothing/here"].map(str::to_owned);
    let names = ["checkpoints/final.pt", "logs/a/train.log", "logs/newest"];
    let listed = listed(&there, &names);
    let report = fetch(
        &tunnel,
        there.to_str().unwrap(),
        &paths,
        &listed,
        &here,
        &mut |_| (),
    )
    .await
    .unwrap();
    assert_eq!(
        (report.method, report.missing),
        (method, vec!["nothing/here".to_owned()])
    );
    let found = tree(&here);
    let came: Vec<&str> = found.keys().map(String::as_str).collect();
    // A link that stays inside is its file.
    assert_eq!(came, names);
    let newest = here.join("logs/newest");
    assert!(newest.symlink_metadata().unwrap().is_file());
    assert_eq!(found["checkpoints/final.pt"], [7; 100_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rsync_fetches_through_a_noisy_shell() {
    fetches_what_exists_and_names_what_does_not(Method::Rsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tar_fetches_where_rsync_is_missing() {
    fetches_what_exists_and_names_what_does_not(Method::Tar).await;
}

/// A box behind a relay, with noise in files of so many MiB.
struct Behind {
    test_box: TestBox,
    relay: Relay,
    files: Vec<FileHash>,
}

impl Behind {
    async fn new(method: Method, files: &[(&str, usize)]) -> (Behind, Tunnel) {
        let test_box = TestBox::new();
        if method == Method::Tar {
            hide_rsync(&test_box);
        }
        let there = test_box.path("home/work");
        for (name, mib) in files {
            write(&there, name, &noise(name, mib * MIB));
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        let relay = Relay::open(&test_box).await;
        let tunnel = test_box
            .connect_to(test_box.target_at(relay.port).await)
            .await;
        let files = listed(&there, &names);
        let behind = Behind {
            test_box,
            relay,
            files,
        };
        (behind, tunnel)
    }

    fn here(&self) -> std::path::PathBuf {
        self.test_box.path("results")
    }

    fn total(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    async fn fetch(
        &self,
        tunnel: &Tunnel,
        tell: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<SyncReport, SyncError> {
        let there = self.test_box.path("home/work");
        let paths: Vec<String> = self.files.iter().map(|file| file.path.clone()).collect();
        let (from, here) = (there.to_str().unwrap(), self.here());
        let work = fetch(tunnel, from, &paths, &self.files, &here, tell);
        timeout(LIMIT, work).await.expect("the fetch hangs")
    }

    /// Everything came, and nothing of ours lies about.
    fn assert_whole(&self) {
        let (there, here) = (tree(&self.test_box.path("home/work")), tree(&self.here()));
        assert_eq!(
            there.keys().collect::<Vec<_>>(),
            here.keys().collect::<Vec<_>>()
        );
        assert!(there == here, "other bytes came");
        assert!(!self.here().join(".spotter-incoming").exists());
    }

    /// The processes of rsync on both sides; both lie below the box's directory.
    fn copies(&self) -> Vec<i32> {
        let is_copy = |pid: &i32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|words| words.split(|byte| *byte == 0).next() == Some(b"rsync"))
        };
        let mut pids = self.test_box.processes();
        pids.retain(is_copy);
        pids
    }
}

async fn several_files_come_at_once(method: Method) {
    let files = [("a", 9), ("b", 9), ("c", 9), ("deep/d", 9)];
    let (behind, tunnel) = Behind::new(method, &files).await;
    // None of four connections gets on until each of them has brought its share: copies after one another would take longer than is
    // waited for.
    behind.relay.hold(Hold::UntilSeveral {
        connections: 4,
        bytes: 4 * MIB as u64,
    });
    let mut told = Vec::new();
    let report = behind
        .fetch(&tunnel, &mut |at| told.push((at.bytes, at.total_bytes)))
        .await
        .unwrap();
    assert_eq!((report.method, report.files), (method, 4));
    behind.assert_whole();

    let busy: Vec<u64> = behind
        .relay
        .brought()
        .into_iter()
        .filter(|bytes| *bytes >= 4 * MIB as u64)
        .collect();
    let total = behind.total();
    assert!(busy.len() >= 4, "{busy:?}");
    for bytes in busy {
        assert!(bytes < total / 2, "{bytes} over one connection");
    }
    assert!(told.is_sorted(), "the bar goes back: {told:?}");
    assert_eq!(told.first(), Some(&(0, Some(total))));
    assert_eq!(told.last(), Some(&(total, Some(total))));
    // Only those that a tunnel always has stay.
    behind
        .test_box
        .until("the end of further connections", || {
            behind.relay.open_connections() <= 2
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_files_come_over_connections_of_their_own() {
    several_files_come_at_once(Method::Rsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_archives_come_over_connections_of_their_own() {
    several_files_come_at_once(Method::Tar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_takes_no_further_connection_is_fetched_from_over_the_first() {
    let files = [("a", 9), ("b", 9)];
    let (behind, tunnel) = Behind::new(Method::Rsync, &files).await;
    // The control and the bulk connection.
    behind.relay.most(2);
    behind.fetch(&tunnel, &mut |_| ()).await.unwrap();
    behind.assert_whole();
}

/// Ends a fetch in the middle of a large file, as `how` says, and fetches again: answers the bytes of the file that were here, and
/// those that the second try brought.
async fn fetched_twice(how: Killed) -> (u64, u64) {
    let (behind, tunnel) = Behind::new(Method::Rsync, &[("out/final.pt", 16), ("log", 1)]).await;
    behind.relay.hold(Hold::After(12 * MIB as u64));
    let behind = std::sync::Arc::new(behind);
    let first = tokio::spawn({
        let behind = std::sync::Arc::clone(&behind);
        async move { behind.fetch(&tunnel, &mut |_| ()).await }
    });
    let largest = |dir: &Path| {
        let sizes = fs::read_dir(dir).into_iter().flatten().flatten();
        sizes
            .filter_map(|entry| entry.metadata().ok())
            .map(|found| found.len())
            .max()
            .unwrap_or(0)
    };
    let incoming = behind.here().join(".spotter-incoming");
    behind
        .test_box
        .until("a good part of the file", || {
            largest(&incoming) > 8 * MIB as u64
        })
        .await;
    let half = match how {
        // Ctrl-C: the future is dropped, and rsync puts aside what it has.
        Killed::Dropped => {
            first.abort();
            let _ = first.await;
            behind
                .test_box
                .until("the end of rsync", || behind.copies().is_empty())
                .await;
            let partial = behind.here().join("out/.spotter-partial");
            largest(&incoming).max(largest(&partial))
        }
        // The power, or the kernel when memory is short: nobody puts anything aside.
        Killed::Hard => {
            let half = largest(&incoming);
            for pid in behind.copies() {
                let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGKILL);
            }
            assert!(first.await.unwrap().is_err());
            assert!(largest(&incoming) >= half, "it was put aside");
            half
        }
    };
    behind.relay.hold(Hold::Open);
    let tunnel = behind
        .test_box
        .connect_to(behind.test_box.target_at(behind.relay.port).await)
        .await;
    let before: u64 = behind.relay.brought().iter().sum();
    behind.fetch(&tunnel, &mut |_| ()).await.unwrap();
    behind.assert_whole();
    (half, behind.relay.brought().iter().sum::<u64>() - before)
}

#[derive(Clone, Copy)]
enum Killed {
    Dropped,
    Hard,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_was_given_up_goes_on_from_the_bytes_it_has() {
    let (half, brought) = fetched_twice(Killed::Dropped).await;
    // What rsync had in its buffers when it ended may be lost.
    assert!(half > 6 * MIB as u64, "{half} bytes were put aside");
    assert!(
        brought < (17 * MIB) as u64 - half + MIB as u64,
        "{brought} bytes came with {half} here"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_was_killed_hard_goes_on_from_the_bytes_it_has() {
    let (half, brought) = fetched_twice(Killed::Hard).await;
    assert!(
        brought < (17 * MIB) as u64 - half + MIB as u64,
        "{brought} bytes came with {half} here"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_brings_only_what_is_not_here_yet() {
    let (behind, tunnel) = Behind::new(Method::Tar, &[("a", 2), ("b", 2), ("c", 1)]).await;
    behind.relay.hold(Hold::After(3 * MIB as u64));
    let behind = std::sync::Arc::new(behind);
    let first = tokio::spawn({
        let behind = std::sync::Arc::clone(&behind);
        async move { behind.fetch(&tunnel, &mut |_| ()).await }
    });
    let whole = behind.here().join("a");
    behind
        .test_box
        .until("the first file", || whole.exists())
        .await;
    first.abort();
    let _ = first.await;

    behind.relay.hold(Hold::Open);
    let tunnel = behind
        .test_box
        .connect_to(behind.test_box.target_at(behind.relay.port).await)
        .await;
    let before: u64 = behind.relay.brought().iter().sum();
    let mut told = Vec::new();
    behind
        .fetch(&tunnel, &mut |at| told.push(at.bytes))
        .await
        .unwrap();
    let brought = behind.relay.brought().iter().sum::<u64>() - before;
    behind.assert_whole();
    assert!(
        brought < 4 * MIB as u64,
        "{brought} bytes came of {}",
        behind.total()
    );
    assert_eq!(told.first(), Some(&(2 * MIB as u64)), "what is here counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_same_size_and_time_with_other_bytes_is_brought_anew() {
    let (behind, tunnel) = Behind::new(Method::Rsync, &[("a", 1)]).await;
    write(&behind.here(), "a", &noise("other", MIB));
    let when = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for root in [behind.here(), behind.test_box.path("home/work")] {
        let file = fs::OpenOptions::new().append(true).open(root.join("a"));
        file.unwrap().set_modified(when).unwrap();
    }
    behind.fetch(&tunnel, &mut |_| ()).await.unwrap();
    behind.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_the_file_that_did_not_come_and_the_others_come_all_the_same() {
    let files = [("a", 9), ("b", 9), ("c", 9)];
    let (behind, tunnel) = Behind::new(Method::Rsync, &files).await;
    fs::remove_file(behind.test_box.path("home/work").join("b")).unwrap();
    let err = behind.fetch(&tunnel, &mut |_| ()).await.unwrap_err();
    let text = chain(&err);
    assert!(
        text.starts_with("`b` did not come: rsync ended with code 23: "),
        "{text}"
    );
    assert!(text.contains("No such file"), "{text}");
    behind.assert_whole();
}
