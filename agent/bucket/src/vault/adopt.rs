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
/// Times that one is asked for which the bucket refuses, or does not give back as it was put.
const TRIES: u32 = 3;

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

/// What became of one that waited.
enum Became {
    /// It is in place since now.
    New,
    /// It was in place, was deleted since, or is gone.
    Known,
    /// The bucket refused it, which may pass.
    Refused(String),
    /// It is no commit of this run, or one that only a newer spotter reads.
    Useless(String),
}

impl Vault<'_> {
    /// Puts commits where they belong that a box without keys left where it could. A place that was just filled stays for a minute:
    /// whoever filled it reads it back. What is torn there is put anew. `server_s`: now by the server's clock, seconds since the epoch. What is
    /// damaged, or refused each time it is asked for, stays where it is and is named: it must not keep the others waiting. One refusal alone
    /// hides none: whoever looks next goes on from the newest that is in place.
    pub async fn adopt(&self, server_s: i64) -> Result<Adopted, BucketError> {
        let listed = self.bucket.list(&self.layout.commits_prefix()).await?;
        let mut waiting: Vec<&ListedObject> = listed
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
        for try_number in 1..=TRIES {
            let mut refused = Vec::new();
            for object in waiting {
                let why = match self.adopt_one(object, &buried, &known, server_s).await? {
                    Became::New => {
                        adopted.new += 1;
                        continue;
                    }
                    Became::Known => continue,
                    Became::Refused(_) if try_number < TRIES => {
                        refused.push(object);
                        continue;
                    }
                    Became::Refused(why) | Became::Useless(why) => why,
                };
                adopted.passed_over.push(format!("{}: {why}", object.key));
            }
            waiting = refused;
        }
        Ok(adopted)
    }

    /// Puts one where it belongs. `buried`: what was deleted since; `known`: keys that were there.
    async fn adopt_one(
        &self,
        object: &ListedObject,
        buried: &HashSet<CommitId>,
        known: &HashSet<&str>,
        server_s: i64,
    ) -> Result<Became, BucketError> {
        let bytes = match self.bucket.get(&object.key, None).await {
            Ok(bytes) => bytes,
            // Somebody else was faster.
            Err(err) if err.kind == ErrorKind::NotFound => return Ok(Became::Known),
            Err(err) if is_passing(&err) => return Err(err),
            Err(err) => return Ok(Became::Refused(err.to_string())),
        };
        let manifest = match Manifest::open(&bytes) {
            Ok(manifest) if manifest.run == self.run => manifest,
            Ok(manifest) => {
                let run = manifest.run;
                return Ok(Became::Useless(format!("it says it is of run {run}")));
            }
            Err(err) => return Ok(Became::Useless(err.to_string())),
        };
        let Ok(id) = manifest.id.parse::<CommitId>() else {
            return Ok(Became::Useless("it names no commit".to_owned()));
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
                    return Ok(Became::Useless(why.to_string()));
                }
                // A put that was cut off may have left anything.
                Ok(_) => false,
                Err(err) if is_passing(&err) => return Err(err),
                Err(err) => return Ok(Became::Refused(err.to_string())),
            }
        } else {
            false
        };
        if !is_whole {
            self.bucket.put(&key, bytes.clone()).await?;
            if self.bucket.get(&key, None).await? != bytes {
                let why =
                    "where it belongs the bucket gives back something else than was put there";
                return Ok(Became::Refused(why.to_owned()));
            }
        }
        if server_s > object.modified_s.saturating_add(READ_BACK_S) {
            self.bucket.delete(&object.key).await?;
        }
        Ok(match is_whole {
            true => Became::Known,
            false => Became::New,
        })
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
    async fn a_commit_that_may_not_be_read_keeps_no_other_waiting_and_one_refusal_hides_none() {
        // Reads in this order: the first copy that waits, what lies where it belongs, the second copy and what was put for it; then each time
        // again the first copy and what lies where it belongs.
        let always = [1, 5, 7].as_slice();
        for (kind, refused, expected) in [
            (ErrorKind::Denied, always, Some((1, 1))),
            (ErrorKind::Refused, always, Some((1, 1))),
            (ErrorKind::Denied, &[1, 5], Some((2, 0))),
            (ErrorKind::Refused, &[1], Some((2, 0))),
            (ErrorKind::Denied, &[0], Some((2, 0))),
            (ErrorKind::Transient, &[1], None),
            (ErrorKind::Skewed, &[1], None),
        ] {
            let case = format!("{kind:?} {refused:?}");
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
            for after in refused {
                bucket.fail_after("GetObject", *after, 1, kind);
            }
            let adopted = vault.adopt(i64::MAX).await.ok();
            let found = adopted.map(|adopted| (adopted.new, adopted.passed_over.len()));
            assert_eq!(found, expected, "{case}");
            let is_whole = matches!(vault.read(&second).await, Ok(Some(Ok(_))));
            assert_eq!(is_whole, expected.is_some(), "{case}");
            let waits = bucket.object(&layout.waiting_key(&first.ulid)).is_some();
            let is_whole = matches!(vault.read(&first).await, Ok(Some(Ok(_))));
            let is_adopted = expected.is_some_and(|(new, _)| new == 2);
            assert_eq!((is_whole, waits), (is_adopted, !is_adopted), "{case}");
        }
    }
}
