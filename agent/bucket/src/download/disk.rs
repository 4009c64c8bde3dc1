//! What of a file lies on the disk and hashes right, piece by piece; and room for what comes.

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{DownloadError, Job};
use crate::{hashes::RangeHasher, manifest::ManifestFile};

/// A range of a file that is hashed as one.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) range: Range<u64>,
    /// As [`crate::hashes`] writes it.
    pub(super) hash: String,
}

impl Piece {
    pub(super) fn length(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The pieces of a file in order. An empty file has none: there is nothing of it to be wrong.
pub(super) fn pieces(file: &ManifestFile) -> Vec<Piece> {
    let hashes = match file.part_size_bytes {
        0 => std::slice::from_ref(&file.blake3),
        _ => &file.parts,
    };
    let (mut start, mut pieces) = (0, Vec::with_capacity(hashes.len()));
    for hash in hashes {
        let length = file.size_bytes - start;
        let end = start
            + match file.part_size_bytes {
                0 => length,
                part => part.min(length),
            };
        if end > start {
            pieces.push(Piece {
                range: start..end,
                hash: hash.clone(),
            });
        }
        start = end;
    }
    pieces
}

/// Removes below `root` all that none of the jobs will write, links above all: nothing may lead elsewhere. Makes directories.
///
/// # Errors
/// When the disk refuses.
pub fn make_room(root: &Path, jobs: &[Job]) -> Result<(), DownloadError> {
    let wanted: std::collections::HashSet<&Path> =
        jobs.iter().map(|job| job.path.as_path()).collect();
    let failed = |path: &Path, source| DownloadError::Disk {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(root) {
        Ok(found) if found.is_dir() => sweep(root, &wanted).map_err(|err| failed(root, err))?,
        Ok(found) if found.is_file() && wanted.contains(root) => {}
        Ok(_) => fs::remove_file(root).map_err(|err| failed(root, err))?,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(failed(root, err)),
    }
    for dir in jobs.iter().filter_map(|job| job.path.parent()) {
        fs::create_dir_all(dir).map_err(|err| failed(dir, err))?;
    }
    Ok(())
}

fn sweep(dir: &Path, wanted: &std::collections::HashSet<&Path>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            if wanted.contains(path.as_path()) {
                fs::remove_dir_all(&path)?;
            } else {
                sweep(&path, wanted)?;
            }
        } else if !kind.is_file() || !wanted.contains(path.as_path()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Bytes that are put on the disk at once while more of the file comes.
const SYNCED_BYTES: u64 = 64 << 20;

/// A file that pieces are written to.
#[derive(Debug)]
pub(super) struct Place {
    /// Where it is.
    pub(super) path: PathBuf,
    file: File,
    /// Whose turn it is: the system lets one write to a file at a time, and the others wait for it at the cost of a core each.
    turn: Mutex<()>,
    /// Bytes written since somebody last put them on the disk.
    unsynced: AtomicU64,
    /// Held by who does.
    syncing: Mutex<()>,
}

impl Place {
    /// Writes these bytes from `at` on.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(bytes, at)
    }

    /// Counts bytes that were written, and puts them on the disk when they are many and nobody else does: the disk works while more
    /// comes, rather than at the end.
    pub(super) fn wrote(&self, bytes: u64) -> io::Result<()> {
        let unsynced = self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match self.syncing.try_lock() {
            Ok(_syncing) if unsynced >= SYNCED_BYTES => {
                self.unsynced.store(0, Ordering::Relaxed);
                self.file.sync_data()
            }
            _ => Ok(()),
        }
    }
}

/// Where a file comes down, and its pieces there that do not hash right. A file that is not there or has another size is made anew.
pub(super) fn survey(job: &Job) -> io::Result<(Place, Vec<Piece>)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&job.path)?;
    let missing = if file.metadata()?.len() == job.file.size_bytes {
        wrong_pieces(&file, &job.file).collect::<io::Result<_>>()?
    } else {
        file.set_len(0)?;
        file.set_len(job.file.size_bytes)?;
        pieces(&job.file)
    };
    let place = Place {
        path: job.path.clone(),
        file,
        turn: Mutex::default(),
        unsynced: AtomicU64::new(0),
        syncing: Mutex::default(),
    };
    Ok((place, missing))
}

/// Reads a file on the disk, piece by piece as it is asked, and gives those that do not hash right.
fn wrong_pieces(file: &File, of: &ManifestFile) -> impl Iterator<Item = io::Result<Piece>> {
    let mut buffer = vec![0; (1_u64 << 20).min(of.size_bytes) as usize];
    let wrong = move |piece: Piece| {
        hash_piece(file, &piece, &mut buffer)
            .map(|hash| (hash != piece.hash).then_some(piece))
            .transpose()
    };
    pieces(of).into_iter().filter_map(wrong)
}

fn hash_piece(file: &File, piece: &Piece, buffer: &mut [u8]) -> io::Result<String> {
    let mut hasher = RangeHasher::like(&piece.hash, piece.range.start);
    let mut at = piece.range.start;
    while at < piece.range.end {
        let wanted = ((piece.range.end - at) as usize).min(buffer.len());
        file.read_exact_at(&mut buffer[..wanted], at)?;
        hasher.update(&buffer[..wanted]);
        at += wanted as u64;
    }
    Ok(hasher.finish())
}

/// Whether all of a file's bytes are on the disk and hash right. Nothing is written.
pub fn is_there(job: &Job) -> bool {
    fs::symlink_metadata(&job.path)
        .is_ok_and(|found| found.is_file() && found.len() == job.file.size_bytes)
        && File::open(&job.path).is_ok_and(|file| wrong_pieces(&file, &job.file).next().is_none())
}
