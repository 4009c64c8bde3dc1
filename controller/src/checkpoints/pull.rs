//! Brings a checkpoint, or a run's results, from the bucket to a directory here: what lies there and hashes right is not read again.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::statvfs::statvfs;
use spotter_bucket::{
    Manifest, ManifestFile,
    download::{self, Brought, DownloadError, Job},
    layout::check_path,
    names::PARTIAL_SUFFIX,
};
use tokio::task;

use super::Shelf;
use crate::fault;

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
    /// The bucket refused, or went silent. What came stays for the next try.
    #[error(transparent)]
    Download(DownloadError),
}

impl From<DownloadError> for PullError {
    fn from(err: DownloadError) -> Self {
        match err {
            DownloadError::Damaged { .. } => Self::Damaged(err.to_string()),
            DownloadError::Disk { path, source } => Self::Disk { path, source },
            other => Self::Download(other),
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
/// its name only when all of it is there and proved.
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
    let partial = to.join(format!("{name}{PARTIAL_SUFFIX}"));
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
    if !room.await? {
        let total = manifest.total_bytes();
        progress(total, total);
        let brought = Brought {
            reused_bytes: total,
            fetched_bytes: 0,
        };
        return Ok(Pulled { path, brought });
    }
    let brought = download::download(&shelf.bucket, jobs(manifest, &partial), progress).await?;
    let (manifest, there) = (manifest.clone(), path.clone());
    blocking(move || {
        for job in jobs(&manifest, &partial) {
            finish(&job).map_err(disk(&job.path))?;
            fault::point("pull.finish.after");
        }
        fault::point("pull.rename.before");
        fs::rename(&partial, &there).map_err(disk(&there))?;
        fault::point("pull.rename.after");
        Ok(())
    })
    .await?;
    Ok(Pulled { path, brought })
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
    {
        let (to, partial, jobs) = (to.clone(), partial.clone(), jobs.clone());
        blocking(move || make_room(&to, &partial, &jobs)).await?;
    }
    let mut brought = download::download(&shelf.bucket, jobs, progress).await?;
    blocking(move || {
        for (from, to) in &wanted {
            finish(from).map_err(disk(&from.path))?;
            if let Some(dir) = to.path.parent() {
                fs::create_dir_all(dir).map_err(disk(dir))?;
            }
            fs::rename(&from.path, &to.path).map_err(disk(&to.path))?;
        }
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
        let there = fs::symlink_metadata(&job.path).map_or(0, |found| {
            use std::os::unix::fs::MetadataExt;
            found.blocks() * 512
        });
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
