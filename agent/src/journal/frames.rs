//! The files of the journal: segments, and the frames in them as far as they are whole.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{FallocateFlags, fallocate};
use tracing::warn;

use super::{Entry, SEGMENT_BYTES};

/// Frames above this are not ours: a corrupt length must not make us allocate it.
const FRAME_LIMIT_BYTES: usize = 256 << 10;
/// Length and CRC-32 before each event.
pub(super) const HEADER_BYTES: usize = 8;

pub(super) struct Tail {
    pub(super) good_bytes: u64,
    pub(super) all_bytes: u64,
    pub(super) next: u64,
}

pub(super) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.events"))
}

pub(super) fn list_segments(dir: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut segments = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let first = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".events")?.parse().ok());
        if let Some(first) = first {
            segments.insert(first, path);
        }
    }
    Ok(segments)
}

pub(super) fn open_segment(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    // Room for the news of a full disk. Not every file system can; then a full disk means waiting for space.
    let room = i64::try_from(SEGMENT_BYTES).unwrap_or(0);
    if let Err(err) = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, room) {
        warn!(error = %err, "no space could be reserved for the journal");
    }
    Ok(file)
}

pub(super) fn scan(file: &mut File, first: u64) -> io::Result<Tail> {
    let all_bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    let mut reader = io::BufReader::new(file);
    let mut tail = Tail {
        good_bytes: 0,
        all_bytes,
        next: first,
    };
    while let Some((entry, bytes)) = next_frame(&mut reader)? {
        tail.good_bytes += bytes;
        tail.next = entry.seq + 1;
    }
    Ok(tail)
}

/// The next whole frame with its length on disk; `None` at the end or where the rest is not a frame.
pub(super) fn next_frame(reader: &mut impl Read) -> io::Result<Option<(Entry, u64)>> {
    let mut header = [0; HEADER_BYTES];
    if !fill(reader, &mut header)? {
        return Ok(None);
    }
    let (length, crc) = header.split_at(4);
    let length = u32::from_le_bytes(length.try_into().expect("four of eight bytes")) as usize;
    let crc = u32::from_le_bytes(crc.try_into().expect("four of eight bytes"));
    if length == 0 || length > FRAME_LIMIT_BYTES {
        return Ok(None);
    }
    let mut payload = vec![0; length];
    if !fill(reader, &mut payload)? || crc32fast::hash(&payload) != crc {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&payload)
        .ok()
        .map(|entry| (entry, (HEADER_BYTES + length) as u64)))
}

/// Whether the whole buffer could be read.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(err) => Err(err),
    }
}
