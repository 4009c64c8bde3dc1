//! Copies of session logs on the laptop, each byte once however often the link broke: what a box printed outlives the box.
//!
//! A copy is two files: the bytes, and an index with one line per generation of the log on the box, `<generation> <bytes of the
//! copy before it> <first offset>`. The line is written before its first byte, so the place to go on is always known from
//! the lengths alone, wherever a crash came. What the box measured is copied by [`minutes`].

pub mod minutes;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::agent_client::{LogPiece, LogPosition};

/// The folder of all copies.
#[derive(Debug, Clone)]
pub struct Logbook {
    dir: PathBuf,
}

/// The copy of one session's log.
#[derive(Debug)]
pub struct LogCopy {
    bytes: File,
    index: File,
    length: u64,
    at: LogPosition,
}

impl Logbook {
    /// Copies live below `home`.
    pub fn new(home: &Path) -> Logbook {
        Logbook {
            dir: home.join("logs"),
        }
    }

    /// Where the bytes of a session's log are copied to.
    pub fn path(&self, run: &str, attempt: u32, session: &str) -> PathBuf {
        self.dir.join(run).join(format!("{attempt}-{session}.log"))
    }

    /// Where a copy goes on, for whoever only reads it; `None`: there is none.
    pub fn position(
        &self,
        run: &str,
        attempt: u32,
        session: &str,
    ) -> io::Result<Option<LogPosition>> {
        let path = self.path(run, attempt, session);
        // The length first: a line of the index that comes after it begins where these bytes end.
        let read = fs::metadata(&path).and_then(|bytes| {
            Ok((
                bytes.len(),
                fs::read_to_string(path.with_extension("index"))?,
            ))
        });
        match read {
            Ok((length, index)) => Ok(Some(position(&index, length))),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Opens a copy, made where there is none, at the place where it goes on.
    pub fn open(&self, run: &str, attempt: u32, session: &str) -> io::Result<LogCopy> {
        let path = self.path(run, attempt, session);
        let folder = path.parent().expect("a copy lies in the folder of its run");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let append = |path: &Path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .read(true)
                .mode(0o600)
                .open(path)
        };
        let bytes = append(&path)?;
        let index_path = path.with_extension("index");
        let index = append(&index_path)?;
        let length = bytes.metadata()?.len();
        let at = position(&fs::read_to_string(&index_path)?, length);
        Ok(LogCopy {
            bytes,
            index,
            length,
            at,
        })
    }
}

/// The place on the box after the last byte of a copy of `length` bytes (pure).
fn position(index: &str, length: u64) -> LogPosition {
    let last = index.lines().filter_map(entry).next_back();
    match last {
        Some((generation, before, first)) => LogPosition {
            generation,
            offset: first + length.saturating_sub(before),
        },
        None => LogPosition {
            generation: 0,
            offset: length,
        },
    }
}

/// One line of the index; `None` for one that a crash cut short.
fn entry(line: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = line.split(' ').map(str::parse);
    let entry = (
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    );
    numbers.next().is_none().then_some(entry)
}

impl LogCopy {
    /// Where to go on reading on the box.
    pub fn position(&self) -> LogPosition {
        self.at
    }

    /// Answers when what was appended is on the disk for good: the box that printed it may go.
    pub fn settle(&self) -> io::Result<()> {
        self.bytes.sync_all()
    }

    /// Appends a piece. What is known already is left out, a gap is recorded by its position.
    pub fn append(&mut self, piece: &LogPiece) -> io::Result<()> {
        let mut data = piece.data.as_slice();
        // An older generation was copied before this one began.
        if piece.position.generation < self.at.generation {
            return Ok(());
        }
        let same = piece.position.generation == self.at.generation;
        if same && piece.position.offset < self.at.offset {
            let known = (self.at.offset - piece.position.offset).min(data.len() as u64) as usize;
            data = &data[known..];
        } else if piece.position != self.at {
            // Ends of lines on both sides: a line that a crash cut short must not swallow this one.
            let line = format!(
                "\n{} {} {}\n",
                piece.position.generation, self.length, piece.position.offset
            );
            self.index.write_all(line.as_bytes())?;
            self.index.sync_data()?;
            self.at = piece.position;
        }
        self.bytes.write_all(data)?;
        self.length += data.len() as u64;
        self.at.offset += data.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(generation: u64, offset: u64, data: &[u8]) -> LogPiece {
        LogPiece {
            position: LogPosition { generation, offset },
            data: data.to_vec(),
            gap_bytes: 0,
            end: false,
        }
    }

    #[test]
    fn a_copy_goes_on_where_it_stood_through_reopening_repetition_truncation_and_gaps() {
        let home = tempfile::tempdir().unwrap();
        let book = Logbook::new(home.path());
        for (piece, next) in [
            (piece(0, 0, b"one "), (0, 4)),
            (piece(0, 0, b"one two "), (0, 8)),
            (piece(0, 4, b"two "), (0, 8)),
            (piece(1, 0, b"three "), (1, 6)),
            (piece(1, 10, b"five"), (1, 14)),
        ] {
            let mut copy = book.open("r", 1, "train").unwrap();
            copy.append(&piece).unwrap();
            let expected = LogPosition {
                generation: next.0,
                offset: next.1,
            };
            assert_eq!(copy.position(), expected);
            assert_eq!(
                book.open("r", 1, "train").unwrap().position(),
                expected,
                "after reopening"
            );
        }
        assert_eq!(
            fs::read(book.path("r", 1, "train")).unwrap(),
            b"one two three five"
        );
    }

    #[test]
    fn an_index_that_a_crash_cut_short_is_read_up_to_its_last_whole_line() {
        assert_eq!(
            position("", 7),
            LogPosition {
                generation: 0,
                offset: 7
            }
        );
        assert_eq!(
            position("\n1 7 0\n\n2 9", 12),
            LogPosition {
                generation: 1,
                offset: 5
            }
        );
        assert_eq!(
            position("\n1 7 0\n\n2 9\n2 12 0\n", 12),
            LogPosition {
                generation: 2,
                offset: 0
            }
        );
    }
}
