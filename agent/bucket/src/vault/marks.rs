//! Small records beside the commits, whose names say it all: what people pinned, what restores read, what was found damaged.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{FORMAT, Vault};
use crate::bucket::{BucketError, ErrorKind, ListedObject};
use crate::layout::CommitId;

/// A restore that says nothing for so long is over, whatever became of it.
pub(super) const READER_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What keeps checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holds {
    /// Commits that people pinned.
    pub pinned: HashSet<String>,
    /// Commits that are being read.
    pub read: HashSet<String>,
}

#[derive(Serialize)]
struct MarkRecord<'a> {
    v: u32,
    id: &'a str,
    by: &'a str,
    since_us: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    why: &'a str,
}

/// What a mark says of a checkpoint that was found damaged; what it does not say is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DamageMark {
    /// Who found it: a `restore` of a box, or a `verify`.
    pub by: String,
    /// When, microseconds since the epoch by the server's clock; 0: nobody knows.
    pub since_us: u64,
    /// What was found.
    pub why: String,
}

impl Vault<'_> {
    /// What keeps checkpoints now; `now_ms` by the server's clock.
    pub async fn holds(&self, now_ms: u64) -> Result<Holds, BucketError> {
        let pins = self.bucket.list(&self.layout.pins_prefix()).await?;
        let readers = self.bucket.list(&self.layout.readers_prefix()).await?;
        let alive =
            |since_ms: u64| since_ms.saturating_add(READER_LIFE.as_millis() as u64) > now_ms;
        Ok(Holds {
            pinned: pins
                .iter()
                .filter_map(|object| self.layout.pin_of_key(&object.key))
                .map(|id| id.to_string())
                .collect(),
            read: readers
                .iter()
                .filter_map(|object| self.layout.reader_of_key(&object.key))
                .filter(|(_, since_ms)| alive(*since_ms))
                .map(|(id, _)| id.to_string())
                .collect(),
        })
    }

    /// Keeps a checkpoint from retention until it is unpinned. `by` says who wanted it.
    pub async fn pin(&self, id: &CommitId, by: &str, now_us: u64) -> Result<(), BucketError> {
        let body = mark(id, by, "", now_us);
        self.bucket.put(&self.layout.pin_key(id), body).await?;
        Ok(())
    }

    /// Lets retention have it again.
    pub async fn unpin(&self, id: &CommitId) -> Result<(), BucketError> {
        self.bucket.delete(&self.layout.pin_key(id)).await
    }

    /// Says that a checkpoint is being read, so that its data stays. Returns the key to delete at the end.
    pub async fn begin_reading(
        &self,
        id: &CommitId,
        by: &str,
        now_us: u64,
    ) -> Result<String, BucketError> {
        let reader = Ulid::from_parts(now_us / 1_000, Ulid::generate().random());
        let key = self.layout.reader_key(id, &reader);
        self.bucket.put(&key, mark(id, by, "", now_us)).await?;
        Ok(key)
    }

    /// Says that a checkpoint was found damaged, so that no box takes it for saved, nor refers to what it holds. `by` says who found it,
    /// `why` what.
    pub async fn mark_damaged(
        &self,
        id: &CommitId,
        by: &str,
        why: &str,
        now_us: u64,
    ) -> Result<(), BucketError> {
        let body = mark(id, by, why, now_us);
        self.bucket.put(&self.layout.damaged_key(id), body).await?;
        Ok(())
    }

    /// What the mark says of a checkpoint that was found damaged; `None`: there is none.
    pub async fn damage_of(&self, id: &CommitId) -> Result<Option<DamageMark>, BucketError> {
        match self.bucket.get(&self.layout.damaged_key(id), None).await {
            // A mark counts by its name alone.
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default())),
            Err(err) if err.kind == ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// It was found whole since, or is gone.
    pub async fn unmark_damaged(&self, id: &CommitId) -> Result<(), BucketError> {
        self.bucket.delete(&self.layout.damaged_key(id)).await
    }

    /// Commits that were found damaged.
    pub async fn damaged(&self) -> Result<HashSet<CommitId>, BucketError> {
        let listed = self.bucket.list(&self.layout.damaged_prefix()).await?;
        let id = |object: &ListedObject| self.layout.damaged_of_key(&object.key);
        Ok(listed.iter().filter_map(id).collect())
    }

    pub(super) async fn forget_readers(&self, now_ms: u64) -> Result<(), BucketError> {
        for object in self.bucket.list(&self.layout.readers_prefix()).await? {
            let over = self
                .layout
                .reader_of_key(&object.key)
                .is_some_and(|(_, since_ms)| {
                    since_ms.saturating_add(READER_LIFE.as_millis() as u64) <= now_ms
                });
            if over {
                self.bucket.delete(&object.key).await?;
            }
        }
        Ok(())
    }
}

fn mark(id: &CommitId, by: &str, why: &str, since_us: u64) -> Bytes {
    let record = MarkRecord {
        v: FORMAT,
        id: &id.to_string(),
        by,
        since_us,
        why,
    };
    serde_json::to_vec(&record)
        .expect("strings and numbers always serialise")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layout::Layout, memory::MemoryBucket};

    const NOW_US: u64 = 1_800_000_000_000_000;

    fn id(step: u64) -> CommitId {
        CommitId {
            step,
            ulid: Ulid::from_parts(1_700_000_000_000 + step, 1),
        }
    }

    #[tokio::test]
    async fn pins_are_marks_beside_the_commits() {
        let (bucket, layout) = (MemoryBucket::new(), Layout::new("p", "run").unwrap());
        let vault = Vault {
            bucket: &bucket,
            layout: &layout,
            run: "run",
        };
        vault.pin(&id(1), "a test", NOW_US).await.unwrap();
        let holds = vault.holds(NOW_US / 1_000).await.unwrap();
        assert_eq!(holds.pinned, HashSet::from([id(1).to_string()]));
        vault.unpin(&id(1)).await.unwrap();
        assert_eq!(vault.holds(NOW_US / 1_000).await.unwrap(), Holds::default());
    }

    #[tokio::test]
    async fn what_was_found_damaged_is_marked_until_it_is_found_whole() {
        let (bucket, layout) = (MemoryBucket::new(), Layout::new("p", "run").unwrap());
        let vault = Vault {
            bucket: &bucket,
            layout: &layout,
            run: "run",
        };
        for step in 1..=2 {
            let id = id(step);
            let marked = vault.mark_damaged(&id, "a test", "its data is gone", NOW_US);
            marked.await.unwrap();
        }
        let mark = DamageMark {
            by: "a test".to_owned(),
            since_us: NOW_US,
            why: "its data is gone".to_owned(),
        };
        assert_eq!(vault.damage_of(&id(1)).await.unwrap(), Some(mark));
        assert_eq!(vault.damage_of(&id(3)).await.unwrap(), None);
        bucket.insert(&layout.damaged_key(&id(2)), "{}");
        let unsaid = Some(DamageMark::default());
        assert_eq!(vault.damage_of(&id(2)).await.unwrap(), unsaid);
        assert_eq!(
            vault.damaged().await.unwrap(),
            HashSet::from([id(1), id(2)])
        );
        vault.unmark_damaged(&id(1)).await.unwrap();
        assert_eq!(vault.damaged().await.unwrap(), HashSet::from([id(2)]));
    }
}
