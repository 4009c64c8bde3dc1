//! The other end of a box without keys: what it left is put in place, what need not be kept goes, and what it may do next is
//! signed for it.
//!
//! [`Shape`] and [`Shape::plan`] decide how much that is (pure); [`Granting::round`] does it. The box never tells names ahead: it
//! gets places, and its manifests say what went where.

mod plan;

use std::{collections::HashSet, ops::RangeInclusive, sync::Arc};

use futures::{StreamExt, stream};
use spotter_bucket::{
    Batch, Bucket, BucketError, CommitId, ErrorKind, Keep, Layout, Manifest, S3Bucket, Unread,
    layout::NameError, s3::presign::LONGEST, vault,
};
use ulid::Ulid;

use crate::{
    agent_client::BackupInfo,
    checkpoints::{
        Shelf,
        prune::{self, Order, PruneError},
    },
    clock::Clock,
    spec::Checkpoints,
};

use plan::{MOST_SIGNATURES, MOST_UPLOADS, parts_waiting, with_slack};
pub use plan::{Plan, Shape, wanted};

/// What lives less long is of no use: a box begins nothing with what ends within ten minutes.
const LEAST_LIFE_US: u64 = 20 * 60 * 1_000_000;
/// Most objects that the box may read: commits, and the data of the newest.
const MOST_READ: usize = 3_000;
/// Most bytes of grants in one call to the agent, which takes four million.
const MOST_BYTES: usize = 2 << 20;
/// Requests in flight.
const IN_FLIGHT: usize = 8;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum GrantingError {
    /// The bucket refused.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A name that no key can have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There are no keys to sign with, or they end at once.
    #[error("there are no bucket keys here that live long enough to sign with")]
    NoKeys,
    /// A box that were shown none of them would begin anew.
    #[error(
        "all {0} commits in the bucket are larger than any box reads: nothing is signed, since a training would begin at step 0"
    )]
    TooLarge(usize),
    /// A request could not be signed.
    #[error(transparent)]
    Sign(#[from] spotter_bucket::s3::sign::SignError),
}

/// The bucket of a run whose box has no keys.
pub struct Granting {
    bucket: Arc<S3Bucket>,
    shelf: Shelf,
    rules: Checkpoints,
}

impl Granting {
    /// With the keys of this laptop.
    pub fn new(bucket: S3Bucket, run: &str, rules: &Checkpoints) -> Result<Self, NameError> {
        let bucket = Arc::new(bucket);
        let target = bucket.target().clone();
        Ok(Self {
            shelf: Shelf::new(bucket.clone(), &target, run)?,
            bucket,
            rules: rules.clone(),
        })
    }

    /// Puts commits in place, deletes what need not be kept, and answers what the box may do from now on: read what is there, whoever put
    /// it there, see what of it is damaged and, where it has too little left, store more.
    ///
    /// # Errors
    /// When the bucket cannot be read, nothing can be signed, or the bucket would look empty to the box and is not.
    pub async fn round(
        &self,
        attempt: u32,
        backup: &BackupInfo,
    ) -> Result<Vec<Batch>, GrantingError> {
        let vault = self.shelf.vault();
        self.shelf.adopt(&Clock::system()).await?;
        self.prune().await;
        let commits = vault.read_all().await?;
        let manifests: Vec<&Manifest> = commits
            .iter()
            .filter_map(|(_, read)| read.as_ref().ok())
            .collect();
        let mut there = readable(&commits, &self.shelf.layout)?;
        let names = there.len();
        for manifest in &manifests {
            // A box may have written anything into its manifest: it is let read what is its run's.
            let keys: Vec<String> = manifest
                .files
                .iter()
                .map(|file| file.key.clone())
                .filter(|key| key.starts_with(&self.shelf.layout.data_prefix()))
                .collect();
            // The newest in any case.
            if there.len() > names && there.len() + keys.len() > MOST_READ {
                break;
            }
            there.extend(keys);
        }
        // By their names alone the box knows what of it was found damaged.
        let damaged = known_marks(vault.damaged().await)?;
        there.extend(damaged.iter().map(|id| self.shelf.layout.damaged_key(id)));
        // In this order all commits and marks go with the first call: what the box lists it takes for all there is, and before the next call
        // of the same look none may be missing. Data it does not list without asking for each object too.
        there.sort_unstable();
        there.dedup();
        let signer = self
            .bucket
            .presigner(LONGEST)
            .ok_or(GrantingError::NoKeys)?;
        let now_us = u64::try_from(Clock::system().now_us()).unwrap_or(0);
        let life_us = signer.expires_us().saturating_sub(now_us);
        if life_us < LEAST_LIFE_US {
            return Err(GrantingError::NoKeys);
        }
        let (signer, reads) = signed(signer, move |signer| {
            let reads: Result<Vec<_>, _> = there.iter().map(|key| signer.read(key)).collect();
            signer.batch(reads?)
        })
        .await?;
        let mut batches = split(reads);
        let last = manifests.first().copied();
        if let Some(plan) = wanted(last, self.rules.every, backup, now_us, life_us) {
            self.abort_uploads(0..=attempt.saturating_sub(1)).await;
            let layout = &self.shelf.layout;
            let lot = CommitId {
                step: attempt.into(),
                ulid: Ulid::generate(),
            };
            let mut puts = last_words(layout, attempt).to_vec();
            for number in 0..plan.files {
                puts.push(layout.data_key(&lot, &format!("file-{number:05}"))?);
            }
            puts.extend((0..plan.commits).map(|_| layout.waiting_key(&Ulid::generate())));
            // What was begun for this box and is not over may be under way: it is signed anew, so that it outlives its first grants.
            let parts = plan.parts.max(with_slack(parts_waiting(backup)));
            let room = (MOST_SIGNATURES / (4 + parts)).min(MOST_UPLOADS);
            let mut uploads = match parts {
                0 => Vec::new(),
                _ => self.uploads_of(attempt..=attempt).await,
            };
            uploads.sort_unstable();
            uploads.truncate(room as usize);
            let more = plan.uploads.saturating_sub(uploads.len() as u32);
            uploads.extend(self.begin_uploads(&lot, more, layout).await?);
            let (_, stock) = signed(signer, move |signer| {
                let mut grants = Vec::new();
                for key in &puts {
                    grants.push(signer.put(key)?);
                }
                for (key, id) in &uploads {
                    grants.push(signer.upload(key, id, parts)?);
                }
                signer.batch(grants)
            })
            .await?;
            batches.extend(split(stock));
        }
        Ok(batches)
    }

    async fn begin_uploads(
        &self,
        lot: &CommitId,
        count: u32,
        layout: &Layout,
    ) -> Result<Vec<(String, String)>, GrantingError> {
        let keys: Result<Vec<String>, NameError> = (0..count)
            .map(|number| layout.data_key(lot, &format!("upload-{number:05}")))
            .collect();
        let begin = |key: String| async move {
            let id = self.shelf.bucket.create_upload(&key).await?;
            Ok::<_, BucketError>((key, id))
        };
        let mut begun = stream::iter(keys?).map(begin).buffer_unordered(IN_FLIGHT);
        let mut uploads = Vec::new();
        while let Some(one) = begun.next().await {
            uploads.push(one?);
        }
        Ok(uploads)
    }

    /// Puts commits where they belong.
    ///
    /// # Errors
    /// When the bucket refuses.
    pub async fn adopt(&self) -> Result<usize, BucketError> {
        self.shelf.adopt(&Clock::system()).await
    }

    /// Ends uploads that were begun for boxes of these attempts. Best effort: what stays costs nothing while it is empty.
    pub async fn abort_uploads(&self, attempts: RangeInclusive<u32>) {
        let abort = |(key, id): (String, String)| async move {
            if let Err(err) = self.shelf.bucket.abort_upload(&key, &id).await {
                tracing::debug!(error = %err, "an upload that nobody carries out stays");
            }
        };
        stream::iter(self.uploads_of(attempts).await)
            .for_each_concurrent(IN_FLIGHT, abort)
            .await;
    }

    /// Uploads that were begun for boxes of these attempts and are not over, by key and id. Best effort.
    async fn uploads_of(&self, attempts: RangeInclusive<u32>) -> Vec<(String, String)> {
        let data = self.shelf.layout.data_prefix();
        let uploads = self
            .shelf
            .bucket
            .list_uploads(&data)
            .await
            .unwrap_or_default();
        let is_theirs = |key: &str| {
            let lot = self.shelf.layout.data_of_key(key);
            lot.is_some_and(|(lot, name)| {
                name.starts_with("upload-")
                    && u32::try_from(lot.step).is_ok_and(|attempt| attempts.contains(&attempt))
            })
        };
        let theirs = uploads.into_iter().filter(|upload| is_theirs(&upload.key));
        theirs
            .map(|upload| (upload.key, upload.upload_id))
            .collect()
    }

    /// What the box would delete if it could.
    async fn prune(&self) {
        let order = Order {
            keep: Keep {
                last: self.rules.keep_last,
                every_steps: self.rules.keep_every_steps.into(),
                best: self.rules.keep_best.clone(),
            },
            grace: self.rules.keep_grace,
            at_rest: false,
            dry_run: false,
            now_us: self.shelf.server_us(&Clock::system()),
        };
        match prune::prune(&self.shelf, &order).await {
            Ok(_) => {}
            Err(err @ (PruneError::NewestDamaged { .. } | PruneError::Bucket(_))) => {
                tracing::warn!(error = %err, "old checkpoints were not deleted, will try again");
            }
        }
    }
}

/// Keys of the commits that a box may read: one that is larger than it reads would only fill its memory.
///
/// # Errors
/// `TooLarge` when that would be none of those that are there.
fn readable(commits: &[vault::Read], layout: &Layout) -> Result<Vec<String>, GrantingError> {
    let mut keys = Vec::new();
    for (id, read) in commits {
        if let Err(Unread::TooLarge(why)) = read {
            tracing::warn!(%id, why, "a commit is not signed for the box, which goes on from another one");
        } else {
            keys.push(layout.commit_key(id));
        }
    }
    match keys.is_empty() && !commits.is_empty() {
        true => Err(GrantingError::TooLarge(commits.len())),
        false => Ok(keys),
    }
}

/// Marks that these keys may not list are not known, and no reason to sign for nothing.
fn known_marks(
    asked: Result<HashSet<CommitId>, BucketError>,
) -> Result<HashSet<CommitId>, BucketError> {
    asked.or_else(|err| match err.kind {
        ErrorKind::Denied => {
            tracing::debug!(error = %err, "which checkpoints were found damaged is not known to the box");
            Ok(HashSet::new())
        }
        _ => Err(err),
    })
}

/// What a box that ends itself leaves under names that are known ahead: how it ended, what happened, and what it measured.
fn last_words(layout: &Layout, attempt: u32) -> [String; 3] {
    [
        layout.ending_key(attempt),
        layout.events_key(attempt),
        layout.samples_key(attempt),
    ]
}

/// Pieces that a call takes.
fn split(batch: Batch) -> Vec<Batch> {
    let mut pieces: Vec<Batch> = Vec::new();
    let mut bytes = MOST_BYTES;
    for grant in batch.grants {
        let more = grant.key.len() + grant.upload_id.len() + grant.signatures.len() + 16;
        if bytes + more > MOST_BYTES {
            pieces.push(Batch {
                query: batch.query.clone(),
                expires_us: batch.expires_us,
                grants: Vec::new(),
            });
            bytes = 0;
        }
        bytes += more;
        let piece = pieces.last_mut().expect("the first grant made one");
        piece.grants.push(grant);
    }
    pieces
}

/// Signs aside: thousands of signatures take a moment.
async fn signed<S: Send + 'static>(
    signer: S,
    sign: impl FnOnce(&S) -> Result<Batch, spotter_bucket::s3::sign::SignError> + Send + 'static,
) -> Result<(S, Batch), GrantingError> {
    let signing = tokio::task::spawn_blocking(move || {
        let batch = sign(&signer);
        (signer, batch)
    });
    let (signer, batch) = signing.await.expect("signing does not panic");
    Ok((signer, batch?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_and_marks_go_to_the_box_before_the_data_that_fills_more_calls() {
        let layout = Layout::new("runs", "tiny").unwrap();
        let id = CommitId::generate(Some(7));
        let read = |key: String| spotter_bucket::Grant {
            key,
            signatures: vec![0; 64],
            ..spotter_bucket::Grant::default()
        };
        let data = (0..MOST_BYTES / 64).map(|n| layout.data_key(&id, &format!("{n:05}")).unwrap());
        let mut keys: Vec<String> = data.collect();
        keys.extend([layout.damaged_key(&id), layout.commit_key(&id)]);
        keys.sort_unstable();
        let pieces = split(Batch {
            query: "q".to_owned(),
            expires_us: 7,
            grants: keys.into_iter().map(read).collect(),
        });
        assert!(pieces.len() > 1);
        let first: Vec<&str> = pieces[0]
            .grants
            .iter()
            .map(|one| one.key.as_str())
            .collect();
        assert_eq!(
            first[..2],
            [layout.commit_key(&id), layout.damaged_key(&id)]
        );
    }

    #[test]
    fn a_commit_that_no_box_reads_is_not_signed_for_one() {
        let layout = Layout::new("runs", "tiny").unwrap();
        let unread: [fn(String) -> Unread; 4] = [
            Unread::Damaged,
            Unread::Newer,
            Unread::TooLarge,
            Unread::Refused,
        ];
        let commits: Vec<vault::Read> = unread
            .iter()
            .map(|why| (CommitId::generate(Some(7)), Err(why("no".to_owned()))))
            .collect();
        let keys = readable(&commits, &layout).unwrap();
        let expected = [0, 1, 3].map(|at: usize| layout.commit_key(&commits[at].0));
        assert_eq!(keys, expected);
        // A bucket that shows none of what it has is not an empty one.
        assert!(readable(&[], &layout).unwrap().is_empty());
        let shown = readable(&commits[2..3], &layout);
        assert!(
            matches!(shown, Err(GrantingError::TooLarge(1))),
            "{shown:?}"
        );
    }

    #[test]
    fn marks_that_may_not_be_listed_stop_no_grants() {
        let refused = |kind| {
            let err = BucketError {
                operation: "ListObjectsV2",
                key: "runs/tiny/damaged/".to_owned(),
                kind,
                status: 403,
                code: None,
                message: "no".to_owned(),
            };
            known_marks(Err(err)).map_err(|err| err.kind)
        };
        assert_eq!(refused(ErrorKind::Denied), Ok(HashSet::new()));
        assert_eq!(refused(ErrorKind::Transient), Err(ErrorKind::Transient));
    }

    #[test]
    fn a_box_may_leave_its_last_words_and_what_it_measured() {
        let layout = Layout::new("runs", "tiny").unwrap();
        let left = last_words(&layout, 3);
        for part in ["endings/3.json", "events/3.jsonl", "samples/3.pb"] {
            assert!(left.iter().any(|key| key.ends_with(part)), "{part}");
        }
    }

    #[test]
    fn what_is_signed_comes_in_calls_that_the_agent_takes() {
        let grant = |bytes| spotter_bucket::Grant {
            signatures: vec![0; bytes],
            ..spotter_bucket::Grant::default()
        };
        let batch = Batch {
            query: "q".to_owned(),
            expires_us: 7,
            grants: [1, 1 << 20, 1 << 20, 1 << 20, 3 << 20, 1]
                .map(grant)
                .to_vec(),
        };
        let pieces = split(batch);
        let found: Vec<usize> = pieces.iter().map(|piece| piece.grants.len()).collect();
        assert_eq!(found, [2, 1, 1, 1, 1]);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.query == "q" && piece.expires_us == 7)
        );
        assert!(split(Batch::default()).is_empty());
    }
}
