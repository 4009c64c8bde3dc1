//! What is deleted for good, and what stays whatever happens.

use ulid::Ulid;

use super::marks::READER_LIFE;
use super::*;
use crate::{
    manifest::{self, ManifestFile},
    memory::MemoryBucket,
};

const HOUR: Duration = Duration::from_secs(3600);
const NOW_US: u64 = 1_800_000_000_000_000;

fn id(step: u64) -> CommitId {
    CommitId {
        step,
        ulid: Ulid::from_parts(1_700_000_000_000 + step, 1),
    }
}

fn manifest_of_one(key: &str) -> bytes::Bytes {
    crate::memory::collection("run", &id(0).to_string(), "a", b"a", key)
}

fn empty() -> (MemoryBucket, Layout) {
    (MemoryBucket::new(), Layout::new("p", "run").unwrap())
}

fn vault<'a>(bucket: &'a MemoryBucket, layout: &'a Layout) -> Vault<'a> {
    Vault {
        bucket,
        layout,
        run: "run",
    }
}

/// A bucket in which step 1 was committed and buried, and an hour and more later the time at which its data is due.
async fn with_a_buried_step() -> (MemoryBucket, Layout, u64) {
    let (bucket, layout) = empty();
    commit(&bucket, &layout, 1, 1);
    let buried = vault(&bucket, &layout)
        .bury(&id(1), "a test", NOW_US)
        .await
        .unwrap();
    assert!(buried);
    (bucket, layout, NOW_US / 1_000 + 2 * 3_600_000)
}

/// A commit of one file of its own and one of another commit.
fn commit(bucket: &MemoryBucket, layout: &Layout, step: u64, shared: u64) {
    let file = |path: &str, of: u64| {
        let key = layout.data_key(&id(of), path).unwrap();
        bucket.insert(&key, "data");
        ManifestFile {
            path: format!("{of}-{path}"),
            mode: 0o644,
            mtime_ns: 0,
            size_bytes: 4,
            blake3: blake3::hash(b"data").to_hex().to_string(),
            key,
            part_size_bytes: 0,
            parts: Vec::new(),
        }
    };
    let mut files = vec![file("own", step)];
    files.push(file("base", shared));
    let mut manifest = Manifest {
        v: manifest::FORMAT,
        id: id(step).to_string(),
        run: "run".into(),
        attempt: 1,
        step: Some(step),
        rule: "generic".into(),
        path: format!("checkpoint-{step}"),
        directory: true,
        committed_us: 0,
        server_us: 0,
        prev: None,
        metric: None,
        files,
        encoding: None,
        self_blake3: String::new(),
    };
    bucket.insert(&layout.commit_key(&id(step)), manifest.seal());
}

#[tokio::test]
async fn data_goes_after_the_grace_and_never_what_a_commit_still_uses() {
    let (bucket, layout) = empty();
    for (step, shared) in [(1, 1), (2, 1), (3, 3)] {
        commit(&bucket, &layout, step, shared);
    }
    let vault = vault(&bucket, &layout);
    assert_eq!(vault.ids().await.unwrap(), [id(3), id(2), id(1)]);
    assert!(vault.bury(&id(1), "a test", NOW_US).await.unwrap());
    assert!(!vault.bury(&id(1), "a test", NOW_US).await.unwrap());
    assert_eq!(vault.ids().await.unwrap(), [id(3), id(2)]);
    let soon = NOW_US / 1_000 + 3_599_999;
    assert_eq!(vault.purge(HOUR, soon, false).await.unwrap(), []);
    let later = soon + 1;
    let dry = vault.purge(HOUR, later, true).await.unwrap();
    let own = layout.data_key(&id(1), "own").unwrap();
    assert!(bucket.object(&own).is_some());
    assert_eq!(vault.purge(HOUR, later, false).await.unwrap(), dry);
    assert_eq!((dry[0].objects, dry[0].size_bytes), (1, 4));
    assert!(bucket.object(&own).is_none());
    let base = layout.data_key(&id(1), "base").unwrap();
    assert!(bucket.object(&base).is_some(), "the second commit uses it");
    assert_eq!(vault.tombstones().await.unwrap(), []);
}

#[tokio::test]
async fn what_is_read_or_whose_commit_came_back_stays() {
    let (bucket, layout) = empty();
    for step in 1..=2 {
        commit(&bucket, &layout, step, step);
    }
    let vault = vault(&bucket, &layout);
    let reader = vault.begin_reading(&id(1), "a test", NOW_US).await.unwrap();
    let buried = bucket.object(&layout.commit_key(&id(2))).unwrap();
    for step in 1..=2 {
        vault.bury(&id(step), "a test", NOW_US).await.unwrap();
    }
    // As if whoever buried it had died in between.
    bucket.insert(&layout.commit_key(&id(2)), buried);
    let later = NOW_US / 1_000 + 2 * 3_600_000;
    assert_eq!(vault.purge(HOUR, later, false).await.unwrap(), []);
    for step in 1..=2 {
        let own = layout.data_key(&id(step), "own").unwrap();
        assert!(bucket.object(&own).is_some(), "{step}");
    }
    assert_eq!(vault.tombstones().await.unwrap().len(), 1);
    // A restore that was never ended holds nothing for ever.
    let next_day = later + READER_LIFE.as_millis() as u64;
    assert_eq!(vault.purge(HOUR, next_day, false).await.unwrap().len(), 1);
    assert!(bucket.object(&reader).is_none());
}

#[tokio::test]
async fn what_was_deleted_while_it_waited_stays_until_it_waits_no_more() {
    let (bucket, layout) = empty();
    let vault = vault(&bucket, &layout);
    let key = layout.data_key(&id(0), "a").unwrap();
    bucket.insert(&key, "a");
    let body = manifest_of_one(&key);
    bucket.insert(&layout.waiting_key(&id(0).ulid), body);
    assert_eq!(vault.adopt(0).await.unwrap().new, 1);
    vault.bury(&id(0), "a test", NOW_US).await.unwrap();
    let later = NOW_US / 1_000 + 2 * 3_600_000;
    assert_eq!(vault.purge(HOUR, later, false).await.unwrap(), []);
    assert_eq!(vault.adopt(0).await.unwrap().new, 0, "it was deleted");
    assert_eq!(vault.adopt(i64::MAX).await.unwrap().new, 0);
    assert_eq!(vault.purge(HOUR, later, false).await.unwrap().len(), 1);
    assert_eq!(bucket.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_goes_that_a_commit_of_a_newer_spotter_may_refer_to() {
    let (bucket, layout, later) = with_a_buried_step().await;
    let newer = layout.commit_key(&id(2));
    let body = "{\"v\": 99, \"pieces\": [\"of what step 1 had\"]}";
    let vault = vault(&bucket, &layout);
    let huge = bytes::Bytes::from(vec![b' '; MAX_MANIFEST_BYTES + 1]);
    for hidden in [bytes::Bytes::from_static(body.as_bytes()), huge] {
        for key in [&newer, &layout.waiting_key(&id(2).ulid)] {
            bucket.insert(key, hidden.clone());
            let err = vault.purge(HOUR, later, false).await.unwrap_err();
            assert_eq!(
                (err.kind, err.key.as_str()),
                (ErrorKind::Refused, key.as_str())
            );
            bucket.remove(key);
        }
    }
    bucket.insert(&newer, "{\"v\": 1");
    let purged = vault.purge(HOUR, later, false).await.unwrap();
    assert_eq!(purged.len(), 1, "what is damaged restores nothing");
}

#[tokio::test]
async fn what_a_commit_refers_to_that_still_waits_stays() {
    let (bucket, layout, later) = with_a_buried_step().await;
    let vault = vault(&bucket, &layout);
    let key = layout.data_key(&id(1), "own").unwrap();
    let body = crate::memory::collection("run", &id(0).to_string(), "a", b"data", &key);
    bucket.insert(&layout.waiting_key(&id(0).ulid), body);
    let purged = vault.purge(HOUR, later, false).await.unwrap();
    assert_eq!((purged.len(), purged[0].objects), (1, 1));
    assert!(bucket.object(&key).is_some());
    let base = layout.data_key(&id(1), "base").unwrap();
    assert!(bucket.object(&base).is_none());
}

#[tokio::test]
async fn a_damaged_tombstone_deletes_nothing() {
    let (bucket, layout, later) = with_a_buried_step().await;
    let vault = vault(&bucket, &layout);
    let key = vault.tombstones().await.unwrap().remove(0).key;
    assert!(bucket.corrupt(&key));
    assert_eq!(vault.purge(HOUR, later, false).await.unwrap(), []);
    assert!(
        bucket
            .object(&layout.data_key(&id(1), "own").unwrap())
            .is_some()
    );
}
