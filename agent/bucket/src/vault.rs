//! The checkpoints of one run in its bucket: lists, pins and deletes them. Agent and laptop do it by the same rules.
//!
//! Deleting has two phases: [`Vault::bury`] puts a tombstone and takes the commit away; [`Vault::purge`] deletes the data when the grace is
//! over by the server's clock, unless a restore reads it (see `marks.rs`). A crash anywhere leaves what the next purge finds.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::sorted::sort_by;
use crate::{
    bucket::{Bucket, BucketError, ErrorKind, ListedObject},
    layout::{CommitId, Layout},
    manifest::{self, MAX_MANIFEST_BYTES, Manifest},
    retention::{self, Commit},
};

mod adopt;
mod marks;

pub use adopt::Adopted;
pub use marks::{DamageMark, Holds};

/// Version of the small records beside commits.
const FORMAT: u32 = 1;
/// Requests in flight.
const IN_FLIGHT: usize = 8;

/// The checkpoints of a run.
#[derive(Clone, Copy)]
pub struct Vault<'a> {
    /// Where they are.
    pub bucket: &'a dyn Bucket,
    /// Their keys.
    pub layout: &'a Layout,
    /// The run.
    pub run: &'a str,
}

/// A deleted checkpoint whose data is still there.
#[derive(Debug, Clone, PartialEq)]
pub struct Tombstone {
    /// The commit that was.
    pub id: CommitId,
    /// When it was deleted, by the server's clock, milliseconds since the epoch.
    pub deleted_ms: u64,
    /// Key of the record.
    pub key: String,
    /// What it held; `None` when the record is damaged, and then its data is never touched.
    pub manifest: Option<Manifest>,
}

/// A deleted checkpoint whose data went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// The commit that was.
    pub id: String,
    /// Objects deleted.
    pub objects: usize,
    /// Their bytes.
    pub size_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct TombstoneRecord {
    v: u32,
    id: String,
    by: String,
    manifest: String,
}

/// Orders names of commits by the time at which they were written.
fn written(id: &CommitId) -> (u64, CommitId) {
    (id.made_ms(), *id)
}

/// All commits as [`retention`] takes them.
pub fn as_commits(all: Vec<(CommitId, Result<Manifest, String>)>) -> Vec<Commit> {
    let commit = |(id, manifest): (CommitId, Result<Manifest, String>)| Commit {
        id: id.to_string(),
        manifest: manifest.ok(),
    };
    all.into_iter().map(commit).collect()
}

impl Vault<'_> {
    /// Names of all commits, last written first.
    pub async fn ids(&self) -> Result<Vec<CommitId>, BucketError> {
        let listed = self.bucket.list(&self.layout.commits_prefix()).await?;
        let mut ids: Vec<CommitId> = listed
            .iter()
            .filter(|object| object.size_bytes <= MAX_MANIFEST_BYTES as u64)
            .filter_map(|object| self.layout.commit_of_key(&object.key))
            .collect();
        sort_by(&mut ids, |a, b| written(b).cmp(&written(a)));
        Ok(ids)
    }

    /// One commit. `None`: there is none of that name; the inner error says how it is damaged.
    pub async fn read(
        &self,
        id: &CommitId,
    ) -> Result<Option<Result<Manifest, String>>, BucketError> {
        let bytes = match self.bucket.get(&self.layout.commit_key(id), None).await {
            Ok(bytes) => bytes,
            Err(err) if err.kind == ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        Ok(Some(self.open(id, &bytes)))
    }

    fn open(&self, id: &CommitId, bytes: &[u8]) -> Result<Manifest, String> {
        let manifest = Manifest::open(bytes).map_err(|err| {
            let mut text = err.to_string();
            let mut cause = std::error::Error::source(&err);
            while let Some(err) = cause {
                text = format!("{text}: {err}");
                cause = err.source();
            }
            text
        })?;
        if manifest.id != id.to_string() || manifest.run != self.run {
            return Err(format!(
                "it says it is {} of run {}",
                manifest.id, manifest.run
            ));
        }
        Ok(manifest)
    }

    /// All commits, last written first; of a damaged one, why.
    pub async fn read_all(&self) -> Result<Vec<(CommitId, Result<Manifest, String>)>, BucketError> {
        let ids = self.ids().await?;
        let read = |id: CommitId| async move { Ok((id, self.read(&id).await?)) };
        let mut reads = stream::iter(ids).map(read).buffered(IN_FLIGHT);
        let mut commits = Vec::new();
        while let Some(read) = reads.next().await {
            let (id, commit) = read?;
            // Gone since it was listed.
            commits.extend(commit.map(|commit| (id, commit)));
        }
        Ok(commits)
    }

    /// The same for [`retention`].
    pub async fn commits(&self) -> Result<Vec<Commit>, BucketError> {
        Ok(as_commits(self.read_all().await?))
    }

    /// First phase: a tombstone, then the commit goes. False when there is no such commit, or it is damaged.
    pub async fn bury(&self, id: &CommitId, by: &str, now_us: u64) -> Result<bool, BucketError> {
        let key = self.layout.commit_key(id);
        let bytes = match self.bucket.get(&key, None).await {
            Ok(bytes) => bytes,
            Err(err) if err.kind == ErrorKind::NotFound => return Ok(false),
            Err(err) => return Err(err),
        };
        if self.open(id, &bytes).is_err() {
            return Ok(false);
        }
        let record = TombstoneRecord {
            v: FORMAT,
            id: id.to_string(),
            by: by.to_owned(),
            manifest: String::from_utf8_lossy(&bytes).into_owned(),
        };
        let body = serde_json::to_vec(&record).expect("strings and numbers always serialise");
        self.bucket
            .put(&self.layout.tombstone_key(id, now_us / 1_000), body.into())
            .await?;
        self.bucket.delete(&key).await?;
        Ok(true)
    }

    /// All tombstones, oldest first.
    pub async fn tombstones(&self) -> Result<Vec<Tombstone>, BucketError> {
        let listed = self.bucket.list(&self.layout.tombstones_prefix()).await?;
        let found: Vec<(CommitId, u64, String)> = listed
            .into_iter()
            .filter_map(|object| {
                let (id, deleted_ms) = self.layout.tombstone_of_key(&object.key)?;
                Some((id, deleted_ms, object.key))
            })
            .collect();
        let read = |(id, deleted_ms, key): (CommitId, u64, String)| async move {
            let manifest = match self.bucket.get(&key, None).await {
                Ok(bytes) => serde_json::from_slice::<TombstoneRecord>(&bytes)
                    .ok()
                    .filter(|record| record.v == FORMAT && record.id == id.to_string())
                    .and_then(|record| self.open(&id, record.manifest.as_bytes()).ok()),
                // Another purge was faster.
                Err(err) if err.kind == ErrorKind::NotFound => return Ok(None),
                Err(err) => return Err(err),
            };
            Ok(Some(Tombstone {
                id,
                deleted_ms,
                key,
                manifest,
            }))
        };
        let mut reads = stream::iter(found).map(read).buffered(IN_FLIGHT);
        let mut tombstones = Vec::new();
        while let Some(read) = reads.next().await {
            tombstones.extend(read?);
        }
        Ok(tombstones)
    }

    /// When the next data is due, milliseconds since the epoch by the server's clock; `None`: nothing waits.
    pub async fn next_purge_ms(&self, grace: Duration) -> Result<Option<u64>, BucketError> {
        let listed = self.bucket.list(&self.layout.tombstones_prefix()).await?;
        let due = |object: &ListedObject| {
            let (_, deleted_ms) = self.layout.tombstone_of_key(&object.key)?;
            Some(deleted_ms.saturating_add(grace.as_millis() as u64))
        };
        Ok(listed.iter().filter_map(due).min())
    }

    /// Second phase: deletes the data of checkpoints that were deleted before the grace, unless somebody reads them, and what
    /// restores that are long over left. With `dry_run` nothing is deleted; nor while a commit is of a newer spotter.
    pub async fn purge(
        &self,
        grace: Duration,
        now_ms: u64,
        dry_run: bool,
    ) -> Result<Vec<Purged>, BucketError> {
        let is_due = |tombstone: &Tombstone| {
            tombstone
                .deleted_ms
                .saturating_add(grace.as_millis() as u64)
                <= now_ms
        };
        // The tombstones before the commits: a checkpoint that is being deleted is then in one of the two.
        let mut tombstones = self.tombstones().await?;
        if !tombstones.iter().any(is_due) {
            return Ok(Vec::new());
        }
        let all = self.read_all().await?;
        // What a newer spotter committed may refer to any of it, and only that spotter can tell.
        let is_newer = |commit: &Result<Manifest, String>| {
            let why = commit.as_ref().err();
            why.is_some_and(|why| manifest::is_newer(why))
        };
        if all.iter().any(|(_, commit)| is_newer(commit)) {
            return Ok(Vec::new());
        }
        let commits = as_commits(all);
        let holds = self.holds(now_ms).await?;
        // What still lies where a box left it would be put in place again when no tombstone told that it was deleted.
        let waiting = self.waiting().await?;
        let alive: HashSet<&str> = commits.iter().map(|commit| commit.id.as_str()).collect();
        let mut purged = Vec::new();
        let mut at = 0;
        while at < tombstones.len() {
            let id = tombstones[at].id.to_string();
            if !is_due(&tombstones[at])
                || holds.read.contains(&id)
                || holds.pinned.contains(&id)
                || waiting.contains(&id)
                || tombstones[at].manifest.is_none()
            {
                at += 1;
                continue;
            }
            let due = tombstones.remove(at);
            let manifest = due.manifest.as_ref().expect("it was just looked at");
            if alive.contains(id.as_str()) {
                // Whoever buried it died before the commit went: it exists, and may be chosen again.
                if !dry_run {
                    self.bucket.delete(&due.key).await?;
                }
                continue;
            }
            let others: Vec<&Manifest> = tombstones
                .iter()
                .filter_map(|tombstone| tombstone.manifest.as_ref())
                .collect();
            let keys =
                retention::purgeable(manifest, &commits, &others, &self.layout.data_prefix());
            let sizes: BTreeMap<&str, u64> = manifest
                .files
                .iter()
                .map(|file| (file.key.as_str(), file.size_bytes))
                .collect();
            if !dry_run {
                self.delete_all(&keys).await?;
                self.bucket.delete(&due.key).await?;
            }
            purged.push(Purged {
                id,
                objects: keys.len(),
                size_bytes: keys.iter().map(|key| sizes[key]).sum(),
            });
        }
        if !dry_run {
            self.forget_readers(now_ms).await?;
        }
        Ok(purged)
    }

    /// Deletes objects, several at a time.
    pub async fn delete_all(&self, keys: &[&str]) -> Result<(), BucketError> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let delete = |key: String| async move { self.bucket.delete(&key).await };
        let mut deletes = stream::iter(keys).map(delete).buffer_unordered(IN_FLIGHT);
        while let Some(deleted) = deletes.next().await {
            deleted?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::marks::READER_LIFE;
    use super::*;
    use crate::{manifest::ManifestFile, memory::MemoryBucket};

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
        let (bucket, layout) = (MemoryBucket::new(), Layout::new("p", "run").unwrap());
        for (step, shared) in [(1, 1), (2, 1), (3, 3)] {
            commit(&bucket, &layout, step, shared);
        }
        let vault = Vault {
            bucket: &bucket,
            layout: &layout,
            run: "run",
        };
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
        let (bucket, layout) = (MemoryBucket::new(), Layout::new("p", "run").unwrap());
        for step in 1..=2 {
            commit(&bucket, &layout, step, step);
        }
        let vault = Vault {
            bucket: &bucket,
            layout: &layout,
            run: "run",
        };
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
        let (bucket, layout) = (MemoryBucket::new(), Layout::new("p", "run").unwrap());
        let vault = Vault {
            bucket: &bucket,
            layout: &layout,
            run: "run",
        };
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
        let (bucket, layout) = (MemoryBucket::new(), Layout::new("p", "run").unwrap());
        commit(&bucket, &layout, 1, 1);
        let newer = layout.commit_key(&id(2));
        bucket.insert(&newer, "{\"v\": 99, \"pieces\": [\"of what step 1 had\"]}");
        let vault = Vault {
            bucket: &bucket,
            layout: &layout,
            run: "run",
        };
        vault.bury(&id(1), "a test", NOW_US).await.unwrap();
        let later = NOW_US / 1_000 + 2 * 3_600_000;
        assert_eq!(vault.purge(HOUR, later, false).await.unwrap(), []);
        bucket.insert(&newer, "{\"v\": 1");
        let purged = vault.purge(HOUR, later, false).await.unwrap();
        assert_eq!(purged.len(), 1, "what is damaged restores nothing");
    }

    #[tokio::test]
    async fn a_damaged_tombstone_deletes_nothing() {
        let (bucket, layout) = (MemoryBucket::new(), Layout::new("p", "run").unwrap());
        commit(&bucket, &layout, 1, 1);
        let vault = Vault {
            bucket: &bucket,
            layout: &layout,
            run: "run",
        };
        vault.bury(&id(1), "a test", NOW_US).await.unwrap();
        let key = vault.tombstones().await.unwrap().remove(0).key;
        assert!(bucket.corrupt(&key));
        let later = NOW_US / 1_000 + 2 * 3_600_000;
        assert_eq!(vault.purge(HOUR, later, false).await.unwrap(), []);
        assert!(
            bucket
                .object(&layout.data_key(&id(1), "own").unwrap())
                .is_some()
        );
    }
}
