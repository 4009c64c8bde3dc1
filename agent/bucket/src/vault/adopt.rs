//! Commits that a box without keys left where it could, put where they belong.

use std::collections::HashSet;

use super::{Vault, too_large};
use crate::{
    bucket::{BucketError, ErrorKind, ListedObject},
    layout::CommitId,
    manifest::{MAX_MANIFEST_BYTES, Manifest, Unread},
};

/// Within so long whoever put a commit has read it back.
const READ_BACK_S: i64 = 60;

/// What became of commits that waited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adopted {
    /// Commits that were put in place.
    pub new: usize,
    /// Keys that were passed over, each with the reason.
    pub passed_over: Vec<String>,
}

/// What lies where boxes without keys leave their commits.
#[derive(Debug, Default)]
pub struct Left {
    /// What could be read.
    pub manifests: Vec<Manifest>,
    /// Names of what could not, each with the reason.
    pub unread: Vec<(String, Unread)>,
}

impl Vault<'_> {
    /// Puts commits where they belong that a box without keys left where it could. A place that was just filled stays for a minute:
    /// whoever filled it reads it back. What is torn there is put anew. `server_s`: now by the server's clock, seconds since the epoch. What is
    /// damaged, or may not be read, stays where it is and is named: it must not keep the others waiting.
    pub async fn adopt(&self, server_s: i64) -> Result<Adopted, BucketError> {
        let listed = self.bucket.list(&self.layout.commits_prefix()).await?;
        let waiting: Vec<&ListedObject> = listed
            .iter()
            .filter(|object| self.layout.is_waiting(&object.key))
            .filter(|object| object.size_bytes <= MAX_MANIFEST_BYTES as u64)
            .collect();
        if waiting.is_empty() {
            return Ok(Adopted::default());
        }
        let buried = self.bucket.list(&self.layout.tombstones_prefix()).await?;
        let buried: HashSet<CommitId> = buried
            .iter()
            .filter_map(|object| Some(self.layout.tombstone_of_key(&object.key)?.0))
            .collect();
        let known: HashSet<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        let mut adopted = Adopted::default();
        for object in waiting {
            let mut pass_over = |why: &dyn std::fmt::Display| {
                adopted.passed_over.push(format!("{}: {why}", object.key));
            };
            let bytes = match self.bucket.get(&object.key, None).await {
                Ok(bytes) => bytes,
                // Somebody else was faster.
                Err(err) if err.kind == ErrorKind::NotFound => continue,
                Err(err) if is_passing(&err) => return Err(err),
                Err(err) => {
                    pass_over(&err);
                    continue;
                }
            };
            let manifest = match Manifest::open(&bytes) {
                Ok(manifest) if manifest.run == self.run => manifest,
                Ok(manifest) => {
                    pass_over(&format_args!("it says it is of run {}", manifest.run));
                    continue;
                }
                Err(err) => {
                    pass_over(&err);
                    continue;
                }
            };
            let Ok(id) = manifest.id.parse::<CommitId>() else {
                pass_over(&"it names no commit");
                continue;
            };
            let key = self.layout.commit_key(&id);
            // One that was deleted since must not come back.
            let is_whole = if buried.contains(&id) {
                true
            } else if known.contains(key.as_str()) {
                match self.read(&id).await {
                    Ok(Some(Ok(_))) => true,
                    // A newer spotter's, perhaps: neither it nor what waits may go.
                    Ok(Some(Err(why))) if why.may_be_whole() => {
                        pass_over(&why);
                        continue;
                    }
                    // A put that was cut off may have left anything.
                    Ok(_) => false,
                    Err(err) if is_passing(&err) => return Err(err),
                    Err(err) => {
                        pass_over(&err);
                        continue;
                    }
                }
            } else {
                false
            };
            if !is_whole {
                self.bucket.put(&key, bytes.clone()).await?;
                if self.bucket.get(&key, None).await? != bytes {
                    continue;
                }
                adopted.new += 1;
            }
            if server_s > object.modified_s.saturating_add(READ_BACK_S) {
                self.bucket.delete(&object.key).await?;
            }
        }
        Ok(adopted)
    }

    /// Commits that lie where a box without keys left them.
    pub async fn waiting(&self) -> Result<Left, BucketError> {
        let listed = self.bucket.list(&self.layout.commits_prefix()).await?;
        let mut left = Left::default();
        for object in listed {
            if !self.layout.is_waiting(&object.key) {
                continue;
            }
            let opened = match too_large(object.size_bytes) {
                Some(why) => Err(why),
                None => match self.bucket.get(&object.key, None).await {
                    Ok(bytes) => Manifest::open(&bytes).map_err(|err| Unread::from(&err)),
                    // Somebody else was faster.
                    Err(err) if err.kind == ErrorKind::NotFound => continue,
                    Err(err) if is_passing(&err) => return Err(err),
                    Err(err) => Err(Unread::Refused(err.to_string())),
                },
            };
            match opened {
                Ok(manifest) => left.manifests.push(manifest),
                Err(why) => {
                    let name = object.key.rsplit('/').next().unwrap_or_default();
                    let name = name.strip_suffix(".json").unwrap_or(name);
                    left.unread.push((name.to_owned(), why));
                }
            }
        }
        Ok(left)
    }
}

/// Whether what failed passes, and for all of them at once.
fn is_passing(err: &BucketError) -> bool {
    matches!(err.kind, ErrorKind::Transient | ErrorKind::Skewed)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ulid::Ulid;

    use super::*;
    use crate::{
        layout::Layout,
        memory::{MemoryBucket, collection},
    };

    #[tokio::test]
    async fn a_commit_that_was_torn_on_its_way_is_put_again_before_its_copy_goes() {
        let (bucket, layout) = (MemoryBucket::new(), Layout::new("p", "run").unwrap());
        let vault = Vault {
            bucket: &bucket,
            layout: &layout,
            run: "run",
        };
        let id = CommitId {
            step: 0,
            ulid: Ulid::from_parts(1_700_000_000_000, 1),
        };
        let body = collection("run", &id.to_string(), "a", b"a", "p/run/data/x");
        let waiting = layout.waiting_key(&id.ulid);
        let key = layout.commit_key(&id);
        let later_s = i64::MAX;
        for torn in [Bytes::new(), body.slice(..body.len() / 2)] {
            bucket.insert(&waiting, body.clone());
            bucket.insert(&key, torn);
            let adopted = vault.adopt(later_s).await.unwrap();
            assert_eq!(adopted.new, 1);
            assert_eq!(bucket.object(&key), Some(body.clone()));
            assert_eq!(bucket.object(&waiting), None);
            // And what is whole is left as it is.
            bucket.insert(&waiting, body.clone());
            let puts = bucket.count("PutObject");
            let adopted = vault.adopt(later_s).await.unwrap();
            assert_eq!((adopted.new, bucket.count("PutObject")), (0, puts));
            assert_eq!(bucket.object(&waiting), None);
        }
        // What a newer spotter may have put there is left as it is, and so is what waits.
        let newer = Bytes::from_static(b"{\"v\": 99}");
        bucket.insert(&key, newer.clone());
        bucket.insert(&waiting, body.clone());
        let adopted = vault.adopt(later_s).await.unwrap();
        assert_eq!((adopted.new, adopted.passed_over.len()), (0, 1));
        assert_eq!(bucket.object(&key), Some(newer));
        assert_eq!(bucket.object(&waiting), Some(body.clone()));
        // One that cannot be read back stays in both places.
        bucket.remove(&key);
        bucket.insert(&waiting, body.clone());
        bucket.fail_after("GetObject", 1, 1, ErrorKind::Transient);
        assert!(vault.adopt(later_s).await.is_err());
        assert_eq!(bucket.object(&waiting), Some(body));
    }

    #[tokio::test]
    async fn a_commit_that_may_not_be_read_keeps_no_other_waiting() {
        for (kind, is_passed_over) in [
            (ErrorKind::Denied, true),
            (ErrorKind::Refused, true),
            (ErrorKind::Transient, false),
            (ErrorKind::Skewed, false),
        ] {
            let (bucket, layout) = (MemoryBucket::new(), Layout::new("p", "run").unwrap());
            let vault = Vault {
                bucket: &bucket,
                layout: &layout,
                run: "run",
            };
            let [first, second] = [1, 2].map(|number| CommitId {
                step: 0,
                ulid: Ulid::from_parts(1_700_000_000_000, number),
            });
            for id in [&first, &second] {
                let body = collection("run", &id.to_string(), "a", b"a", "p/run/data/x");
                bucket.insert(&layout.waiting_key(&id.ulid), body);
            }
            bucket.insert(&layout.commit_key(&first), Bytes::from_static(b"torn"));
            // The first read is of the copy that waits, the second of what lies where it belongs.
            bucket.fail_after("GetObject", 1, 1, kind);
            let adopted = vault.adopt(i64::MAX).await;
            assert_eq!(adopted.is_ok(), is_passed_over, "{kind:?}");
            let is_there = bucket.object(&layout.commit_key(&second)).is_some();
            assert_eq!(is_there, is_passed_over, "{kind:?}");
            assert!(bucket.object(&layout.waiting_key(&first.ulid)).is_some());
            if let Ok(adopted) = adopted {
                assert_eq!((adopted.new, adopted.passed_over.len()), (1, 1), "{kind:?}");
            }
        }
    }
}
