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
    manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError, Unread},
    retention::{self, Commit},
};

mod adopt;
mod marks;

pub use adopt::{Adopted, Left};
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

/// Why a manifest of so many bytes is not read; `None`: it is.
pub fn too_large(size_bytes: u64) -> Option<Unread> {
    let size_bytes = usize::try_from(size_bytes).unwrap_or(usize::MAX);
    (size_bytes > MAX_MANIFEST_BYTES).then(|| (&ManifestError::TooLarge(size_bytes)).into())
}

/// Orders names of commits by the time at which they were written.
fn written(id: &CommitId) -> (u64, CommitId) {
    (id.made_ms(), *id)
}

/// A commit that is there, as far as it was read.
pub type Read = (CommitId, Result<Manifest, Unread>);

/// Names of what may be whole and was not read, among commits and what waits to become one: while there is any, no data may go, since it
/// may be theirs.
pub fn hidden(all: &[Read], left: &Left) -> Vec<String> {
    let commits = all.iter().filter_map(|(id, commit)| {
        let why = commit.as_ref().err()?;
        why.may_be_whole().then(|| id.to_string())
    });
    let waiting = left.unread.iter();
    let waiting = waiting
        .filter(|(_, why)| why.may_be_whole())
        .map(|(name, _)| name.clone());
    commits.chain(waiting).collect()
}

/// All commits as [`retention`] takes them.
pub fn as_commits(all: Vec<Read>) -> Vec<Commit> {
    let commit = |(id, manifest): Read| Commit {
        id: id.to_string(),
        manifest: manifest.ok(),
    };
    all.into_iter().map(commit).collect()
}

impl Vault<'_> {
    /// Names of all commits that are small enough to be read, last written first.
    pub async fn ids(&self) -> Result<Vec<CommitId>, BucketError> {
        let listed = self.listed().await?.into_iter();
        let readable = listed.filter(|(_, size_bytes)| *size_bytes <= MAX_MANIFEST_BYTES as u64);
        Ok(readable.map(|(id, _)| id).collect())
    }

    /// Names and bytes of all commits, last written first.
    async fn listed(&self) -> Result<Vec<(CommitId, u64)>, BucketError> {
        let listed = self.bucket.list(&self.layout.commits_prefix()).await?;
        let mut found: Vec<(CommitId, u64)> = listed
            .iter()
            .filter_map(|object| {
                let id = self.layout.commit_of_key(&object.key)?;
                Some((id, object.size_bytes))
            })
            .collect();
        sort_by(&mut found, |a, b| written(&b.0).cmp(&written(&a.0)));
        Ok(found)
    }

    /// One commit. `None`: there is none of that name; the inner error says how it is damaged.
    pub async fn read(
        &self,
        id: &CommitId,
    ) -> Result<Option<Result<Manifest, Unread>>, BucketError> {
        let bytes = match self.bucket.get(&self.layout.commit_key(id), None).await {
            Ok(bytes) => bytes,
            Err(err) if err.kind == ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        Ok(Some(self.open(id, &bytes)))
    }

    fn open(&self, id: &CommitId, bytes: &[u8]) -> Result<Manifest, Unread> {
        let manifest = Manifest::open(bytes).map_err(|err| Unread::from(&err))?;
        if manifest.id != id.to_string() || manifest.run != self.run {
            return Err(Unread::Damaged(format!(
                "it says it is {} of run {}",
                manifest.id, manifest.run
            )));
        }
        Ok(manifest)
    }

    /// All commits, last written first; of one that cannot be read, why.
    pub async fn read_all(&self) -> Result<Vec<Read>, BucketError> {
        let listed = self.listed().await?;
        let read = |(id, size_bytes): (CommitId, u64)| async move {
            let commit = match too_large(size_bytes) {
                Some(why) => Some(Err(why)),
                None => self.read(&id).await?,
            };
            Ok::<_, BucketError>((id, commit))
        };
        let mut reads = stream::iter(listed).map(read).buffered(IN_FLIGHT);
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
    /// restores that are long over left. With `dry_run` nothing is deleted.
    ///
    /// # Errors
    /// As the bucket's, and `Refused` while a commit that may be whole cannot be read, see [`hidden`]; then no data goes.
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
        // What waits before the commits: one that is put in place meanwhile is then in one of the two.
        let left = self.waiting().await?;
        let all = self.read_all().await?;
        if let [first, ..] = hidden(&all, &left).as_slice() {
            return Err(BucketError {
                operation: "GetObject",
                key: format!("{}{first}.json", self.layout.commits_prefix()),
                kind: ErrorKind::Refused,
                status: 0,
                code: None,
                message: "this spotter cannot read this commit, which may be a newer one's: no data is freed, since it may be its"
                    .to_owned(),
            });
        }
        let commits = as_commits(all);
        let holds = self.holds(now_ms).await?;
        // What still lies where a box left it would be put in place again when no tombstone told that it was deleted.
        let waiting: HashSet<&str> = left.manifests.iter().map(|one| one.id.as_str()).collect();
        let alive: HashSet<&str> = commits.iter().map(|commit| commit.id.as_str()).collect();
        let mut purged = Vec::new();
        let mut at = 0;
        while at < tombstones.len() {
            let id = tombstones[at].id.to_string();
            if !is_due(&tombstones[at])
                || holds.read.contains(&id)
                || holds.pinned.contains(&id)
                || waiting.contains(id.as_str())
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
                .chain(&left.manifests)
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
mod tests;
