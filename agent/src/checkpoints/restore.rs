//! Fetches a committed checkpoint and proves it before training can see it.
//!
//! Newest first; whatever is damaged is told and passed over for the one before. Files arrive under a name that nobody takes for a
//! checkpoint, are hashed, judged by their own format and synced, and only then renamed.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use serde_json::json;
use spotter_bucket::download::{self, DownloadError, Read};
use spotter_bucket::vault::too_large;
use spotter_bucket::whole::export::is_export;
use spotter_bucket::{BucketError, CommitId, Manifest};
use tokio::task;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::index::{self, Index};
use super::landing::{self, Damage, Landing};
use super::standing::{Unanswered, chain};
use super::{Backup, CheckpointInfo};

/// Longest wait for the mark that a checkpoint is read.
const MARK_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for any byte before the restore is given up.
const STALLED: Duration = Duration::from_secs(600);

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The checkpoint.
    pub checkpoint: CheckpointInfo,
    /// Absolute path of the file or directory; the checkpoint directory itself for files that lie side by side.
    pub path: PathBuf,
    /// Newer commits that were damaged, or of a newer spotter, and passed over, with the reason.
    pub skipped: Vec<String>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no commit of that name.
    #[error("the bucket holds no checkpoint {0}")]
    NoSuchCheckpoint(String),
    /// The one that was asked for is damaged, or of a newer spotter.
    #[error("checkpoint {id} cannot be restored: {reason}")]
    Damaged {
        /// Its name.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There are commits, but none came back whole. Beginning anew would hide that, so it is an error.
    #[error("no checkpoint in the bucket can be restored: {}", skipped.join("; "))]
    NoneWhole {
        /// Each with its reason.
        skipped: Vec<String>,
    },
    /// It does not fit on the disk.
    #[error("the checkpoint needs {needed_bytes} bytes, {} has {free_bytes} free", dir.display())]
    Space {
        /// Checkpoint directory.
        dir: PathBuf,
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// The disk refused.
    #[error("{} could not be written", path.display())]
    Disk {
        /// File or directory in question.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bucket refused.
    #[error("the bucket refused to give the checkpoint")]
    Bucket(#[source] BucketError),
    /// The bucket gave nothing for too long.
    #[error("the bucket gave nothing in {} s{}", STALLED.as_secs(), if problem.is_empty() { String::new() } else { format!(": {problem}") })]
    NoAnswer {
        /// What it said instead, if anything.
        problem: String,
    },
}

/// Why one commit was not restored.
enum Failed {
    /// It is damaged, or of a newer spotter: another may be whole, and read.
    Damage(String),
    /// Another would fail the same way.
    Fatal(RestoreError),
}

impl Failed {
    /// Whether another try of the same would fail the same way.
    fn is_final(&self) -> bool {
        matches!(
            self,
            Failed::Damage(_) | Failed::Fatal(RestoreError::Disk { .. })
        )
    }
}

/// The bucket with the patience of a restore: what passes is outlasted.
struct Patient<'a>(&'a Backup);

impl Read for Patient<'_> {
    fn read<'a>(
        &'a self,
        key: &'a str,
        range: Range<u64>,
        buffer: BytesMut,
    ) -> BoxFuture<'a, Result<Bytes, BucketError>> {
        Box::pin(async move {
            let (bucket, standing) = (&self.0.bucket, &self.0.standing);
            let never = CancellationToken::new();
            let mut buffer = Some(buffer);
            let get = || bucket.get_into(key, range.clone(), buffer.take().unwrap_or_default());
            match standing.ask(&never, get).await {
                Ok(bytes) => Ok(bytes),
                Err(Unanswered::Bucket(err)) => Err(err),
                Err(Unanswered::Stopped) => unreachable!("nobody cancels this token"),
            }
        })
    }
}

impl From<Damage> for Failed {
    fn from(damage: Damage) -> Failed {
        match damage {
            Damage::Content(reason) => Failed::Damage(reason),
            Damage::Disk { path, source } => Failed::Fatal(RestoreError::Disk { path, source }),
        }
    }
}

impl Backup {
    /// Restores a commit, or the newest whole one. `Ok(None)`: the bucket holds none at all. `progress` gets bytes done and in all.
    pub async fn restore(
        &self,
        id: Option<&str>,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Option<Restored>, RestoreError> {
        let _alone = self.restoring.lock().await;
        let stop = CancellationToken::new();
        let commits = self.places.commits_prefix();
        let listed = Index::listed(&*self.bucket, &self.standing, &stop, &commits);
        let listed = self.patiently(listed).await?;
        // What is too large to be read is there all the same: passed over in silence it would leave a bucket that looks empty.
        let unread = listed.iter().filter_map(|(name, size_bytes)| {
            let why = too_large(*size_bytes)?;
            Some((name.clone(), why.to_string()))
        });
        let unread: HashMap<String, String> = unread.collect();
        let mut names: Vec<String> = listed.into_iter().map(|(name, _)| name).collect();
        if let Some(id) = id {
            names.retain(|name| name == id);
            if names.is_empty() {
                return Err(RestoreError::NoSuchCheckpoint(id.to_owned()));
            }
        }
        let mut skipped = Vec::new();
        if id.is_none() {
            let mut doubted = self.marked(&stop).await.unwrap_or_default();
            doubted.extend(self.distrusted().iter().cloned());
            // All there is all the same: a mark is one reader's word. Behind the others none is downloaded again on each new box.
            let marked: Vec<String> = names
                .extract_if(.., |name| doubted.contains(name))
                .collect();
            names = self.exports_last(names, &unread).await?;
            names.extend(marked);
        }
        let mut vanished = Vec::new();
        for name in &names {
            let began = Instant::now();
            let restored = match unread.get(name) {
                Some(why) => Err(Failed::Damage(why.clone())),
                None => self.restore_commit(name, progress).await,
            };
            match restored {
                Ok(None) if id.is_some() => {
                    return Err(RestoreError::NoSuchCheckpoint(name.clone()));
                }
                Ok(None) => vanished.push(format!("{name}: it was listed, and is not there")),
                Ok(Some((checkpoint, path))) => {
                    let detail = json!({
                        "id": checkpoint.id, "step": checkpoint.step, "path": path, "size_bytes": checkpoint.size_bytes,
                        "seconds": began.elapsed().as_secs_f64(), "skipped": skipped,
                    });
                    self.standing.event("checkpoint.restored", detail);
                    info!(id = checkpoint.id, path = %path.display(), "checkpoint restored");
                    return Ok(Some(Restored {
                        checkpoint,
                        path,
                        skipped,
                    }));
                }
                Err(Failed::Fatal(err)) => return Err(err),
                Err(Failed::Damage(reason)) => {
                    warn!(
                        id = name,
                        reason, "a checkpoint in the bucket cannot be restored"
                    );
                    if id.is_some() {
                        return Err(RestoreError::Damaged {
                            id: name.clone(),
                            reason,
                        });
                    }
                    skipped.push(format!("{name}: {reason}"));
                }
            }
        }
        // A bucket that lists what it does not give is not an empty one: a training that began anew would push out what it hides.
        skipped.append(&mut vanished);
        if skipped.is_empty() {
            Ok(None)
        } else {
            Err(RestoreError::NoneWhole { skipped })
        }
    }

    /// The same commits, behind the others those that hold what was left for others: no training goes on from such a one while it can help it.
    /// `unread`: those that are not read.
    async fn exports_last(
        &self,
        names: Vec<String>,
        unread: &HashMap<String, String>,
    ) -> Result<Vec<String>, RestoreError> {
        let (mut order, mut exports) = (Vec::new(), Vec::new());
        let mut asked = names.len() > 1;
        for name in names {
            // Only names without a step leave it open.
            let is_export = match asked && has_no_step(&name) {
                true if unread.contains_key(&name) => None,
                true => self.is_export(&name).await?,
                false => Some(false),
            };
            asked &= is_export != Some(false);
            match is_export {
                Some(true) => exports.push(name),
                _ => order.push(name),
            }
        }
        order.append(&mut exports);
        Ok(order)
    }

    /// `None`: it cannot be read.
    async fn is_export(&self, name: &str) -> Result<Option<bool>, RestoreError> {
        let stop = CancellationToken::new();
        let key = self.places.commit_key(name);
        let (bucket, standing, places) = (&*self.bucket, &self.standing, &self.places);
        let read = index::read_manifest(bucket, standing, &stop, places, name, &key);
        let Some(Ok(manifest)) = self.patiently(read).await? else {
            return Ok(None);
        };
        let files = manifest.files.iter().map(|file| file.path.as_str());
        Ok(Some(is_export(&manifest.path, manifest.step, files)))
    }

    async fn restore_commit(
        &self,
        id: &str,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Option<(CheckpointInfo, PathBuf)>, Failed> {
        let mark = self.begin_reading(id).await;
        let restored = self.restore_marked(id, progress).await;
        self.end_reading(mark).await;
        restored
    }

    /// `Ok(None)`: the commit was deleted since it was listed.
    async fn restore_marked(
        &self,
        id: &str,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Option<(CheckpointInfo, PathBuf)>, Failed> {
        let stop = CancellationToken::new();
        let key = self.places.commit_key(id);
        let (bucket, standing, places) = (&*self.bucket, &self.standing, &self.places);
        let read = index::read_manifest(bucket, standing, &stop, places, id, &key);
        let manifest = match self.patiently(read).await.map_err(Failed::Fatal)? {
            None => return Ok(None),
            Some(Err(reason)) => return Err(Failed::Damage(reason)),
            Some(Ok(manifest)) => manifest,
        };
        let landing = Landing::plan(&self.options.dir, &manifest).map_err(Failed::Damage)?;
        let total = manifest.total_bytes();
        let there = {
            let (landing, manifest) = (landing.clone(), manifest.clone());
            task::spawn_blocking(move || landing.is_there(&manifest))
                .await
                .expect("hashing files does not panic")
        };
        if there {
            progress(total, total);
        } else {
            if let Err(failed) = self.fetch(&landing, &manifest, progress).await {
                // What came whole is gone on with the next time, unless it is of no use: the disk may be just large enough for one.
                if failed.is_final() {
                    task::spawn_blocking(move || landing.abandon())
                        .await
                        .expect("removing files does not panic");
                }
                if let Failed::Damage(why) = &failed {
                    self.distrust(id, why).await;
                }
                return Err(failed);
            }
        }
        let info = CheckpointInfo::from(&manifest);
        let ledger = std::sync::Arc::clone(&self.ledger);
        let path = task::spawn_blocking(move || {
            // Held from the rename to the note, so that no scan takes the files for a new checkpoint in between.
            let mut ledger = ledger
                .lock()
                .expect("nothing panics while it holds the ledger");
            if !there {
                landing.install(&manifest)?;
            }
            let candidate = landing.candidate(&manifest)?;
            // What was there before may be somebody's own.
            let restored = !there || ledger.is_restored(&candidate.key);
            if let Err(err) = ledger.record(&manifest.id, &candidate, restored) {
                warn!(error = %err, "the ledger of saved checkpoints cannot be written; a restart will compare them with the bucket");
            }
            Ok::<_, Damage>(landing.path())
        });
        Ok(Some((
            info,
            path.await.expect("renaming files does not panic")?,
        )))
    }

    async fn fetch(
        &self,
        landing: &Landing,
        manifest: &Manifest,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<(), Failed> {
        let (prepared, wanted) = (landing.clone(), manifest.clone());
        let dir = self.options.dir.clone();
        let jobs = task::spawn_blocking(move || {
            let free_bytes = landing::free_bytes(&dir)?;
            let jobs = prepared.prepare(&wanted)?;
            let needed_bytes = wanted
                .total_bytes()
                .saturating_sub(prepared.landed_bytes(&wanted));
            Ok::<_, Damage>((jobs, needed_bytes, free_bytes))
        });
        let (jobs, needed_bytes, free_bytes) =
            jobs.await.expect("looking at files does not panic")?;
        if free_bytes < needed_bytes {
            return Err(Failed::Fatal(RestoreError::Space {
                dir: self.options.dir.clone(),
                needed_bytes,
                free_bytes,
            }));
        }
        let patient = Patient(self);
        match download::download(&patient, jobs, progress).await {
            Ok(_) => {}
            Err(DownloadError::Bucket(err)) => {
                return Err(Failed::Fatal(RestoreError::Bucket(err)));
            }
            Err(DownloadError::Stalled) => return Err(Failed::Fatal(self.no_answer())),
            Err(err) => return Err(Damage::from(err).into()),
        }
        let (landing, manifest) = (landing.clone(), manifest.clone());
        let finish = task::spawn_blocking(move || landing.finish(&manifest));
        Ok(finish.await.expect("looking at files does not panic")?)
    }

    /// Says in the bucket that the checkpoint is read, so that nobody deletes its data meanwhile. Where that fails, the grace of
    /// deleted data must do.
    async fn begin_reading(&self, id: &str) -> Option<String> {
        let id = id.parse().ok()?;
        let vault = self.places.vault(&*self.bucket);
        let mark = vault.begin_reading(&id, "restore", self.server_us());
        match time::timeout(MARK_LIMIT, mark).await {
            Ok(Ok(key)) => Some(key),
            Ok(Err(err)) => {
                debug!(error = %chain(&err), "a restore could not be marked in the bucket");
                None
            }
            Err(_) => None,
        }
    }

    async fn end_reading(&self, mark: Option<String>) {
        let Some(key) = mark else { return };
        // One that stays is taken for over after a day.
        if let Ok(Err(err)) = time::timeout(MARK_LIMIT, self.bucket.delete(&key)).await {
            debug!(error = %chain(&err), "the mark of a restore could not be removed");
        }
    }

    async fn patiently<T>(
        &self,
        question: impl Future<Output = Result<T, Unanswered>>,
    ) -> Result<T, RestoreError> {
        match time::timeout(STALLED, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Unanswered::Bucket(err))) => Err(RestoreError::Bucket(err)),
            Ok(Err(Unanswered::Stopped)) | Err(_) => Err(self.no_answer()),
        }
    }

    fn no_answer(&self) -> RestoreError {
        RestoreError::NoAnswer {
            problem: self.state().problem,
        }
    }
}

/// Whether a commit's name says no step, or step 0.
fn has_no_step(name: &str) -> bool {
    name.parse::<CommitId>().is_ok_and(|id| id.step == 0)
}
