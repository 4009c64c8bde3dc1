//! Brings a checkpoint, or a run's results, from the bucket to a directory here: what lies there and hashes right is not read again.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::statvfs::statvfs;
use spotter_bucket::{
    BucketError, Manifest, ManifestFile,
    download::{self, Brought, DownloadError, Job},
    layout::check_path,
    names::PARTIAL_SUFFIX,
};
use tokio::task;

use super::Shelf;
use crate::fault;

/// Files put on the disk for good at once: it answers several nearly as soon as one, and thousands of small ones wait for nothing else.
const FINISHERS: usize = 4;

/// Why a checkpoint did not come.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The bucket does not hold what was committed: another checkpoint may be whole.
    #[error("{0}")]
    Damaged(String),
    /// Something else lies where it would go.
    #[error("{} is there already, and is not this checkpoint", .0.display())]
    InTheWay(PathBuf),
    /// It does not fit.
    #[error("it needs {needed_bytes} more bytes, and {} has {free_bytes} free", dir.display())]
    Space {
        /// Directory.
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
        source: io::Error,
    },
    /// The bucket refused.
    #[error(transparent)]
    Bucket(BucketError),
    /// The bucket went silent.
    #[error("{0}")]
    Silent(String),
}

impl From<DownloadError> for PullError {
    fn from(err: DownloadError) -> Self {
        match err {
            DownloadError::Damaged { .. } => Self::Damaged(err.to_string()),
            DownloadError::Disk { path, source } => Self::Disk { path, source },
            DownloadError::Bucket(err) => Self::Bucket(err),
            DownloadError::Stalled => Self::Silent(err.to_string()),
        }
    }
}

/// Where it is now, and what came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The file or directory.
    pub path: PathBuf,
    /// Bytes.
    pub brought: Brought,
}

/// Brings a checkpoint to `to`, under its own name; files that the trainer keeps side by side get a directory of their own. It has
/// its name only when all of it is there and proved. What came before a failure is kept for the next try ([`remainder`]), and
/// nothing is left behind where nothing came.
///
/// # Errors
/// See [`PullError`].
pub async fn pull(
    shelf: &Shelf,
    manifest: &Manifest,
    to: &Path,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Pulled, PullError> {
    let name = &manifest.path;
    if check_path(name).is_err() || name.contains('/') || name.starts_with('.') {
        return Err(PullError::Damaged(format!(
            "{name:?} is no name of a checkpoint"
        )));
    }
    let path = to.join(name);
    let finals = jobs(manifest, &path);
    let partial = partial_of(to, name);
    let is_new = !to.exists();
    let room = {
        let (to, path, partial) = (to.to_owned(), path.clone(), partial.clone());
        let (finals, partials) = (finals.clone(), jobs(manifest, &partial));
        blocking(move || {
            if fs::symlink_metadata(&path).is_ok() {
                return match finals.iter().all(download::is_there) {
                    true => Ok(false),
                    false => Err(PullError::InTheWay(path)),
                };
            }
            fault::point("pull.make_room.before");
            make_room(&to, &partial, &partials)?;
            fault::point("pull.make_room.after");
            Ok(true)
        })
    };
    let room = match room.await {
        Err(err) => return Err(cleared(err, to, &partial, is_new).await),
        Ok(room) => room,
    };
    if !room {
        let total = manifest.total_bytes();
        progress(total, total);
        let brought = Brought {
            reused_bytes: total,
            fetched_bytes: 0,
        };
        return Ok(Pulled { path, brought });
    }
    let downloaded = download::download(&shelf.bucket, jobs(manifest, &partial), progress).await;
    let brought = match downloaded {
        Err(err) => {
            if matches!(err, DownloadError::Damaged { .. }) {
                // No further try would go on from it.
                let partial = partial.clone();
                blocking(move || {
                    remove(&partial);
                    Ok(())
                })
                .await?;
            }
            return Err(cleared(err.into(), to, &partial, is_new).await);
        }
        Ok(brought) => brought,
    };
    let (jobs, there, to) = (jobs(manifest, &partial), path.clone(), to.to_owned());
    blocking(move || {
        settle(&jobs)?;
        sync_dirs(jobs.iter().flat_map(|job| above(&job.path, &partial)))?;
        fault::point("pull.rename.before");
        fs::rename(&partial, &there).map_err(disk(&there))?;
        fault::point("pull.rename.after");
        sync_dirs([to.as_path()])
    })
    .await?;
    Ok(Pulled { path, brought })
}

/// Where what came of a checkpoint of that name waits for the rest; `None`: nothing waits.
pub fn remainder(to: &Path, name: &str) -> Option<PathBuf> {
    Some(partial_of(to, name)).filter(|partial| partial.exists())
}

fn partial_of(to: &Path, name: &str) -> PathBuf {
    to.join(format!("{name}{PARTIAL_SUFFIX}"))
}

/// A failure, after an empty remainder is gone, and `to` where it was made for nothing.
async fn cleared(err: PullError, to: &Path, partial: &Path, is_new: bool) -> PullError {
    let (to, partial) = (to.to_owned(), partial.to_owned());
    let clear = move || {
        if is_hollow(&partial) {
            remove(&partial);
        }
        if is_new {
            // Only where nothing is in it.
            let _ = fs::remove_dir(&to);
        }
        Ok(())
    };
    let _ = blocking(clear).await;
    err
}

/// A remainder that stays takes space and does no other harm: why nothing came is what is told.
fn remove(partial: &Path) {
    let _ = match partial.is_dir() {
        true => fs::remove_dir_all(partial),
        false => fs::remove_file(partial),
    };
}

/// Whether nothing below has any bytes on the disk: files get their lengths before they get their data.
fn is_hollow(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::read_dir(path)
            .is_ok_and(|entries| entries.flatten().all(|entry| is_hollow(&entry.path()))),
        Ok(found) => found.blocks() == 0,
        Err(_) => true,
    }
}

/// Brings the files of a collection of results into `to`, over what lies there under their names. Returns what came.
///
/// # Errors
/// See [`PullError`].
pub async fn pull_files(
    shelf: &Shelf,
    files: &[ManifestFile],
    to: &Path,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Brought, PullError> {
    let partial = to.join(PARTIAL_SUFFIX);
    let job = |dir: &Path, file: &ManifestFile| Job {
        file: file.clone(),
        path: dir.join(&file.path),
    };
    let wanted: Vec<(Job, Job)> = files
        .iter()
        .map(|file| (job(&partial, file), job(to, file)))
        .collect();
    // What is here already, is.
    let (wanted, reused_bytes, to) = {
        let to = to.to_owned();
        blocking(move || {
            let (there, missing): (Vec<_>, Vec<_>) = wanted
                .into_iter()
                .partition(|(_, there)| download::is_there(there));
            let reused = there
                .iter()
                .map(|(job, _)| job.file.size_bytes)
                .sum::<u64>();
            Ok((missing, reused, to))
        })
        .await?
    };
    let jobs: Vec<Job> = wanted.iter().map(|(job, _)| job.clone()).collect();
    let is_new = !to.exists();
    let room = {
        let (to, partial, jobs) = (to.clone(), partial.clone(), jobs.clone());
        blocking(move || make_room(&to, &partial, &jobs)).await
    };
    let downloaded = match room {
        Ok(()) => download::download(&shelf.bucket, jobs.clone(), progress)
            .await
            .map_err(PullError::from),
        Err(err) => Err(err),
    };
    let mut brought = match downloaded {
        Err(err) => return Err(cleared(err, &to, &partial, is_new).await),
        Ok(brought) => brought,
    };
    blocking(move || {
        settle(&jobs)?;
        for (from, to) in &wanted {
            if let Some(dir) = to.path.parent() {
                fs::create_dir_all(dir).map_err(disk(dir))?;
            }
            fs::rename(&from.path, &to.path).map_err(disk(&to.path))?;
        }
        sync_dirs(wanted.iter().flat_map(|(_, there)| above(&there.path, &to)))?;
        match fs::remove_dir_all(&partial) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(disk(&partial)(err)),
            _ => Ok(()),
        }
    })
    .await?;
    brought.reused_bytes += reused_bytes;
    Ok(brought)
}

fn jobs(manifest: &Manifest, at: &Path) -> Vec<Job> {
    let job = |file: &ManifestFile| Job {
        file: file.clone(),
        path: match manifest.directory {
            true => at.join(&file.path),
            false => at.to_owned(),
        },
    };
    manifest.files.iter().map(job).collect()
}

fn make_room(to: &Path, partial: &Path, jobs: &[Job]) -> Result<(), PullError> {
    fs::create_dir_all(to).map_err(disk(to))?;
    download::make_room(partial, jobs)?;
    let stat = statvfs(to).map_err(|err| disk(to)(err.into()))?;
    // The types differ between targets, so the casts are needed on some of them.
    #[allow(clippy::unnecessary_cast)]
    let free_bytes = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    let lacking = |job: &Job| {
        let there = fs::symlink_metadata(&job.path).map_or(0, |found| found.blocks() * 512);
        job.file.size_bytes.saturating_sub(there)
    };
    let needed_bytes: u64 = jobs.iter().map(lacking).sum();
    if free_bytes < needed_bytes {
        return Err(PullError::Space {
            dir: to.to_owned(),
            needed_bytes,
            free_bytes,
        });
    }
    Ok(())
}

/// Finishes every file, several at a time: only then does any of it get its name.
fn settle(jobs: &[Job]) -> Result<(), PullError> {
    let share = jobs.len().div_ceil(FINISHERS).max(1);
    let finish_all = |jobs: &[Job]| {
        jobs.iter().try_for_each(|job| {
            finish(job).map_err(disk(&job.path))?;
            fault::point("pull.finish.after");
            Ok(())
        })
    };
    thread::scope(|scope| {
        let shares = jobs.chunks(share);
        let threads: Vec<_> = shares
            .map(|jobs| scope.spawn(move || finish_all(jobs)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("finishing files does not panic"))
    })
}

/// Has directories on the disk for good, each once: their names are what makes files visible.
fn sync_dirs<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Result<(), PullError> {
    let dirs: BTreeSet<&Path> = dirs.into_iter().collect();
    dirs.into_iter().try_for_each(|dir| {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(disk(dir))
    })
}

/// The directories of a file, up to `root`.
fn above<'a>(path: &'a Path, root: &Path) -> impl Iterator<Item = &'a Path> {
    let root = root.to_owned();
    let above = path.ancestors().skip(1);
    above.take_while(move |dir| dir.starts_with(&root))
}

/// Mode and time as committed, and everything on the disk for good.
fn finish(job: &Job) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(&job.path)?;
    file.set_permissions(fs::Permissions::from_mode(job.file.mode & 0o777 | 0o600))?;
    let distance = Duration::from_nanos(job.file.mtime_ns.unsigned_abs());
    let time: SystemTime = match job.file.mtime_ns >= 0 {
        true => UNIX_EPOCH + distance,
        false => UNIX_EPOCH - distance,
    };
    file.set_modified(time)?;
    file.sync_all()
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> PullError {
    let path = path.to_owned();
    move |source| PullError::Disk { path, source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    task::spawn_blocking(work)
        .await
        .expect("looking at files does not panic")
}
