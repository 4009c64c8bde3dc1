//! One log file through truncation, rotation and rename: every position means the same bytes for ever.
//!
//! A generation is one life of the content under the name: it ends when the file is replaced (another inode) or truncated.
//! The table of generations lies beside the log, so that positions survive a restart of the daemon.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{DirEntryExt, FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::files;

/// Most bytes of one read: a chunk of the contract.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes at the beginning of a generation by which it is known again.
const HEAD_BYTES: usize = 64;
/// How long a replaced file may still grow while its successor is empty: its writer has yet to notice.
const LINGER: Duration = Duration::from_secs(3);
/// Replaced files that we keep open, so that their deletion takes nothing from a reader who is behind.
const KEPT_FILES: usize = 8;
/// How often the length is noted, by which a truncation is noticed after a restart.
const NOTE_INTERVAL: Duration = Duration::from_secs(5);

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Rises by one whenever the file was truncated or replaced.
    pub generation: u64,
    /// Bytes from the start of that generation.
    pub offset: u64,
}

/// What one read gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where `data` begins.
    pub position: Position,
    /// The bytes; empty when there are no more yet.
    pub data: Vec<u8>,
    /// Bytes known to be lost in front of `data`.
    pub gap_bytes: u64,
}

impl Chunk {
    /// Where the next read begins.
    pub fn next(&self) -> Position {
        Position {
            offset: self.position.offset + self.data.len() as u64,
            ..self.position
        }
    }

    /// Whether there was nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.gap_bytes == 0
    }
}

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The caller's position was never given out.
    #[error("there is no position {} in generation {}: the log has {newest_offset} bytes in generation {newest_generation}", position.offset, position.generation)]
    NoSuchPosition {
        /// What was asked for.
        position: Position,
        /// Newest generation.
        newest_generation: u64,
        /// Its length.
        newest_offset: u64,
    },
    /// The file system refused.
    #[error("log {path} cannot be read")]
    Io {
        /// The log.
        path: String,
        /// Why.
        source: io::Error,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Table {
    v: u32,
    generations: Vec<Generation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Generation {
    number: u64,
    device: u64,
    inode: u64,
    /// Bytes that were there when last looked at.
    length: u64,
    /// First bytes, hex.
    head: String,
    /// Its bytes were overwritten: they are nowhere any more.
    truncated: bool,
}

impl Generation {
    fn is_in(&self, meta: &fs::Metadata) -> bool {
        (self.device, self.inode) == (meta.dev(), meta.ino())
    }
}

/// A followed file. Shared by all its readers.
pub struct LogFile {
    path: PathBuf,
    table_path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    generations: Vec<Generation>,
    files: BTreeMap<u64, File>,
    first_generation: u64,
    replaced_at: Option<Instant>,
    noted: Instant,
    dirty: bool,
}

impl LogFile {
    /// Follows `path`; the first generation ever seen gets the number `first_generation`.
    pub fn open(path: &Path, table_path: &Path, first_generation: u64) -> io::Result<Self> {
        let table = files::read_if_there(table_path)?;
        // A table that cannot be parsed is as good as none: positions are then refused, never mistaken.
        let generations = table
            .and_then(|bytes| serde_json::from_slice::<Table>(&bytes).ok())
            .map(|table| table.generations);
        let inner = Inner {
            generations: generations.unwrap_or_default(),
            files: BTreeMap::new(),
            first_generation,
            replaced_at: None,
            noted: Instant::now(),
            dirty: false,
        };
        Ok(Self {
            path: path.to_owned(),
            table_path: table_path.to_owned(),
            inner: Mutex::new(inner),
        })
    }

    /// Bytes from a position on, at most [`CHUNK_BYTES`]. Moves on to the next generation where one has ended.
    pub fn read(&self, from: Position) -> Result<Chunk, LogError> {
        self.read_from(&mut self.lock(), from)
            .map_err(|err| match err {
                ReadError::Io(source) => LogError::Io {
                    path: self.path.display().to_string(),
                    source,
                },
                ReadError::NoSuchPosition(newest) => LogError::NoSuchPosition {
                    position: from,
                    newest_generation: newest.generation,
                    newest_offset: newest.offset,
                },
            })
    }

    /// The first line that begins at most `bytes` before the end; the end itself when the last line is longer.
    pub fn tail(&self, bytes: u64) -> Result<Position, LogError> {
        let mut inner = self.lock();
        self.tail_in(&mut inner, bytes)
            .map_err(|source| LogError::Io {
                path: self.path.display().to_string(),
                source,
            })
    }

    /// Notes what became of the file. Called while nobody reads, so that no generation is missed.
    pub fn look(&self) -> Result<(), LogError> {
        self.refresh(&mut self.lock())
            .map_err(|source| LogError::Io {
                path: self.path.display().to_string(),
                source,
            })
    }

    /// Oldest position whose bytes may still be there.
    pub fn beginning(&self) -> Position {
        let inner = self.lock();
        let generation = inner
            .generations
            .first()
            .map_or(inner.first_generation, |oldest| oldest.number);
        Position {
            generation,
            offset: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read_from(&self, inner: &mut Inner, from: Position) -> Result<Chunk, ReadError> {
        self.refresh(inner)?;
        let (mut position, mut gap_bytes) = (from, 0);
        loop {
            let Some(newest) = inner.generations.last().cloned() else {
                let start = Position {
                    generation: inner.first_generation,
                    offset: 0,
                };
                return if from == start || from == Position::default() {
                    Ok(Chunk {
                        position: start,
                        data: Vec::new(),
                        gap_bytes: 0,
                    })
                } else {
                    Err(ReadError::NoSuchPosition(start))
                };
            };
            if position.generation == newest.number {
                if position.offset > newest.length {
                    return Err(ReadError::NoSuchPosition(Position {
                        generation: newest.number,
                        offset: newest.length,
                    }));
                }
                let data = inner.bytes_at(position, newest.length)?;
                self.refresh(inner)?;
                // Truncated while we read: those bytes may belong to the next generation.
                if inner.generations.last().is_some_and(|last| {
                    last.number != newest.number && data_is_doubtful(inner, &newest)
                }) {
                    continue;
                }
                return Ok(Chunk {
                    position,
                    data,
                    gap_bytes,
                });
            }
            if position.generation > newest.number {
                return Err(ReadError::NoSuchPosition(Position {
                    generation: newest.number,
                    offset: newest.length,
                }));
            }
            let Some(index) = inner
                .generations
                .iter()
                .position(|known| known.number >= position.generation)
            else {
                return Err(ReadError::NoSuchPosition(Position {
                    generation: newest.number,
                    offset: newest.length,
                }));
            };
            let known = inner.generations[index].clone();
            if known.number > position.generation {
                // Older than anything that the table remembers.
                position = Position {
                    generation: known.number,
                    offset: 0,
                };
                continue;
            }
            match self.read_old(inner, &known, index, position)? {
                Old::Data(data) => {
                    return Ok(Chunk {
                        position,
                        data,
                        gap_bytes,
                    });
                }
                Old::MayStillGrow => {
                    return Ok(Chunk {
                        position,
                        data: Vec::new(),
                        gap_bytes,
                    });
                }
                Old::Lost(bytes) => gap_bytes += bytes,
                Old::Over => {}
            }
            position = Position {
                generation: inner.generations[index + 1].number,
                offset: 0,
            };
        }
    }

    /// Reads a generation that has a successor.
    fn read_old(
        &self,
        inner: &mut Inner,
        old: &Generation,
        index: usize,
        position: Position,
    ) -> Result<Old, ReadError> {
        if old.truncated || !self.find(inner, old)? {
            return Ok(Old::Lost(old.length.saturating_sub(position.offset)));
        }
        // The successor first: a writer that has moved on writes no more here, so what we read then is all.
        let is_last_but_one = index + 2 == inner.generations.len();
        let writer_moved = !is_last_but_one
            || inner.generations[index + 1].length > 0
            || inner.replaced_at.is_none_or(|at| at.elapsed() > LINGER);
        let length = inner.files[&old.number].metadata()?.len();
        if length > old.length {
            inner.generations[index].length = length;
            inner.dirty = true;
        }
        let data = inner.bytes_at(position, length)?;
        Ok(match (data.is_empty(), writer_moved) {
            (false, _) => Old::Data(data),
            (true, true) => Old::Over,
            (true, false) => Old::MayStillGrow,
        })
    }

    /// Makes sure that an old generation is open; false when its file is gone.
    fn find(&self, inner: &mut Inner, old: &Generation) -> io::Result<bool> {
        if inner.files.contains_key(&old.number) {
            return Ok(true);
        }
        // After a restart: a rotated log usually stays in its directory under another name.
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.ino() != old.inode {
                continue;
            }
            let file = File::open(entry.path())?;
            if old.is_in(&file.metadata()?) && head_of(&file)?.starts_with(&old.head) {
                inner.files.insert(old.number, file);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks at the file under the name and notes what became of it.
    fn refresh(&self, inner: &mut Inner) -> io::Result<()> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            // In the middle of a rotation, or nothing was written yet.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return inner.look_at_open_file(),
            Err(err) => return Err(err),
        };
        let meta = file.metadata()?;
        let head = head_of(&file)?;
        match inner.generations.last_mut() {
            Some(current) if current.is_in(&meta) => {
                let known = current.number;
                if meta.len() < current.length || !head.starts_with(&current.head) {
                    current.truncated = true;
                    inner.files.remove(&known);
                    inner.begin(&meta, head, file);
                } else {
                    let grew = meta.len() > current.length;
                    let new_head = head != current.head;
                    current.length = meta.len();
                    current.head = head;
                    inner.dirty |= grew;
                    inner.files.entry(known).or_insert(file);
                    let due = inner.dirty && inner.noted.elapsed() > NOTE_INTERVAL;
                    if !new_head && !due {
                        return Ok(());
                    }
                }
            }
            Some(_) => {
                inner.look_at_open_file()?;
                inner.replaced_at = Some(Instant::now());
                inner.begin(&meta, head, file);
            }
            None => inner.begin(&meta, head, file),
        }
        self.note(inner);
        Ok(())
    }

    fn note(&self, inner: &mut Inner) {
        let table = Table {
            v: 1,
            generations: inner.generations.clone(),
        };
        let written = serde_json::to_vec(&table)
            .map_err(io::Error::other)
            .and_then(|bytes| files::write_durably(&self.table_path, &bytes));
        // Reading goes on without the note; it is tried again, and only a restart before that would miss it.
        inner.dirty = written.is_err();
        if let Err(err) = written {
            warn!(table = %self.table_path.display(), error = %err, "the generations of a log could not be noted, will retry");
        }
        inner.noted = Instant::now();
    }

    fn tail_in(&self, inner: &mut Inner, bytes: u64) -> io::Result<Position> {
        self.refresh(inner)?;
        let Some(newest) = inner.generations.last().cloned() else {
            return Ok(Position {
                generation: inner.first_generation,
                offset: 0,
            });
        };
        let start = newest.length.saturating_sub(bytes);
        if start == 0 {
            return Ok(Position {
                generation: newest.number,
                offset: 0,
            });
        }
        // A line begins behind a line end, which may be the byte in front of `start`.
        let mut offset = start - 1;
        loop {
            let data = inner.bytes_at(
                Position {
                    generation: newest.number,
                    offset,
                },
                newest.length,
            )?;
            if data.is_empty() {
                // One line without an end: its last bytes are better than none.
                return Ok(Position {
                    generation: newest.number,
                    offset: start,
                });
            }
            if let Some(at) = data.iter().position(|byte| *byte == b'\n') {
                let line = offset + at as u64 + 1;
                let offset = if line < newest.length { line } else { start };
                return Ok(Position {
                    generation: newest.number,
                    offset,
                });
            }
            offset += data.len() as u64;
        }
    }
}

impl Inner {
    fn begin(&mut self, meta: &fs::Metadata, head: String, file: File) {
        let number = self
            .generations
            .last()
            .map_or(self.first_generation, |last| last.number + 1);
        let length = meta.len();
        let generation = Generation {
            number,
            device: meta.dev(),
            inode: meta.ino(),
            length,
            head,
            truncated: false,
        };
        self.generations.push(generation);
        self.files.insert(number, file);
        while self.files.len() > KEPT_FILES {
            self.files.pop_first();
        }
    }

    /// The name is gone or belongs to another file; ours may have grown meanwhile.
    fn look_at_open_file(&mut self) -> io::Result<()> {
        if let Some(current) = self.generations.last_mut()
            && let Some(file) = self.files.get(&current.number)
        {
            current.length = current.length.max(file.metadata()?.len());
        }
        Ok(())
    }

    fn bytes_at(&self, position: Position, end: u64) -> io::Result<Vec<u8>> {
        let Some(file) = self.files.get(&position.generation) else {
            return Ok(Vec::new());
        };
        let wanted = usize::try_from(end.saturating_sub(position.offset))
            .unwrap_or(CHUNK_BYTES)
            .min(CHUNK_BYTES);
        let mut data = vec![0; wanted];
        let mut filled = 0;
        while filled < wanted {
            match file.read_at(&mut data[filled..], position.offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        data.truncate(filled);
        Ok(data)
    }
}

enum Old {
    Data(Vec<u8>),
    MayStillGrow,
    Lost(u64),
    Over,
}

enum ReadError {
    Io(io::Error),
    NoSuchPosition(Position),
}

impl From<io::Error> for ReadError {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

/// A replaced file still holds what we read from it; a truncated one may not have.
fn data_is_doubtful(inner: &Inner, read: &Generation) -> bool {
    inner
        .generations
        .iter()
        .any(|known| known.number == read.number && known.truncated)
}

fn head_of(file: &File) -> io::Result<String> {
    let mut head = [0; HEAD_BYTES];
    let read = file.read_at(&mut head, 0)?;
    Ok(hex::encode(&head[..read]))
}

/// Number that the next log of the same name begins with, so that positions of this one are never mistaken for its own.
pub fn next_first_generation(table_path: &Path, first_generation: u64) -> io::Result<u64> {
    let newest = files::read_if_there(table_path)?
        .and_then(|bytes| serde_json::from_slice::<Table>(&bytes).ok())
        .and_then(|table| table.generations.last().map(|newest| newest.number));
    Ok(newest.unwrap_or(first_generation) + 1)
}

#[cfg(test)]
mod tests;
