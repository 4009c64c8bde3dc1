//! What each framework promises about its checkpoints: which files must be there, and in which order they are written (pure).
//!
//! A rule knows one writer's habits. It can say that something is still to come, which no silence outweighs, or that nothing is,
//! which shortens the wait. Whether a file is whole and has no writer is asked besides. Start at [`judge`].

use std::io;

use super::candidate::{Candidate, FileStat};
use super::structure::{self, ReadAt};
use crate::sorted::sort_by;
use shape::Shape;

mod dcp;
mod deepspeed;
mod hf;
mod megatron;
mod nanochat;
mod orbax;
pub mod shape;
mod sharded;
pub mod user;

/// Longest marker, tracker or state that is read.
const MAX_NOTE_BYTES: u64 = 16 << 20;

/// How long nothing may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silence {
    /// As for one file whose format proves it.
    File,
    /// As for files of several processes.
    Directory,
    /// The same once there is one to compare with, and before that as for something that nothing speaks for: nobody says what is written
    /// last, or by how many.
    Unordered,
    /// As for something that nothing speaks for.
    Unknown,
}

/// What a framework's rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// It is not mine.
    None,
    /// All that my writer writes is there.
    Done {
        /// Name of the rule.
        rule: &'static str,
        /// Wait that is still needed.
        silence: Silence,
    },
    /// Something is still to come, or was taken away; what.
    Missing(String),
}

/// Files of the checkpoint directory, to be read in small pieces.
pub trait Disk {
    /// Opens a file by its path relative to the checkpoint directory; `None`: it is not there.
    fn open(&self, path: &str) -> io::Result<Option<Box<dyn ReadAt>>>;

    /// The system's description of a file or directory; `None`: it is not there.
    fn stat(&self, path: &str) -> io::Result<Option<FileStat>>;
}

/// A candidate with the disk it lies on.
pub struct View<'a> {
    /// The candidate.
    pub candidate: &'a Candidate,
    /// Where its files are.
    pub disk: &'a dyn Disk,
    /// Shapes of checkpoints that were found finished in this session.
    pub finished: &'a [Shape],
}

impl View<'_> {
    /// Its own name.
    fn name(&self) -> &str {
        &self.candidate.path
    }

    fn file(&self, path: &str) -> Option<&FileStat> {
        let files = &self.candidate.files;
        let at = files.binary_search_by(|file| file.path.as_str().cmp(path));
        at.ok().map(|at| &files[at])
    }

    fn has(&self, path: &str) -> bool {
        self.file(path).is_some()
    }

    /// Directories that hold files, the candidate's own being empty.
    fn folders(&self) -> Vec<&str> {
        let mut folders: Vec<&str> = self
            .candidate
            .files
            .iter()
            .map(|file| split(&file.path).0)
            .collect();
        sort_by(&mut folders, |one, other| one.cmp(other));
        folders.dedup();
        folders
    }

    /// Names in one directory.
    fn names<'b>(&'b self, folder: &'b str) -> impl Iterator<Item = &'b str> {
        self.candidate
            .files
            .iter()
            .map(|file| split(&file.path))
            .filter(move |(of, _)| *of == folder)
            .map(|(_, name)| name)
    }

    fn open(&self, path: &str) -> io::Result<Option<Box<dyn ReadAt>>> {
        if self.candidate.is_flat() {
            self.disk.open(path)
        } else {
            self.disk.open(&format!("{}/{path}", self.candidate.path))
        }
    }

    /// The system's description of a directory of its own.
    fn stat(&self, folder: &str) -> io::Result<Option<FileStat>> {
        if self.candidate.is_flat() {
            self.disk.stat(folder)
        } else {
            self.disk
                .stat(join(&self.candidate.path, folder).trim_end_matches('/'))
        }
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        read(self.open(path)?)
    }

    /// Reads a file that lies beside a directory: in its parent, which may be the checkpoint directory.
    fn read_beside(&self, folder: &str, name: &str) -> io::Result<Option<Vec<u8>>> {
        if folder.is_empty() {
            return read(self.disk.open(name)?);
        }
        self.read(&join(split(folder).0, name))
    }

    /// Name of a directory, by itself.
    fn name_of<'b>(&'b self, folder: &'b str) -> &'b str {
        if folder.is_empty() {
            self.name()
        } else {
            split(folder).1
        }
    }
}

fn read(file: Option<Box<dyn ReadAt>>) -> io::Result<Option<Vec<u8>>> {
    file.map(|file| structure::head(&*file, MAX_NOTE_BYTES))
        .transpose()
}

/// Directory and name; the directory of a bare name is empty.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

/// Asks every rule. Something missing by one of them outweighs the others; several may agree, as for a Trainer on DeepSpeed.
pub fn judge(view: &View<'_>) -> io::Result<(Opinion, Vec<&'static str>)> {
    let rules = [
        hf::judge,
        dcp::judge,
        deepspeed::judge,
        megatron::judge,
        orbax::judge,
        nanochat::judge,
        sharded::judge,
    ];
    let mut all: Option<(&'static str, Silence)> = None;
    let mut names = Vec::new();
    for rule in rules {
        match rule(view)? {
            Opinion::None => {}
            Opinion::Missing(what) => return Ok((Opinion::Missing(what), Vec::new())),
            Opinion::Done { rule, silence } => {
                names.push(rule);
                let longest = all.map_or(silence, |(_, before)| before.max(silence));
                all = Some((rule, longest));
            }
        }
    }
    let opinion = all.map_or(Opinion::None, |(rule, silence)| Opinion::Done {
        rule,
        silence,
    });
    Ok((opinion, names))
}

/// Whether ranks are 0, 1, 2 and so on, without a hole; the first that is missing otherwise.
fn first_hole(ranks: &[u64]) -> Option<u64> {
    (0..)
        .zip(ranks)
        .find(|(at, rank)| at != *rank)
        .map(|(at, _)| at)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A checkpoint directory in memory: path, time of writing, content.
    #[derive(Default)]
    pub(crate) struct Memory(pub BTreeMap<String, (i64, Vec<u8>)>);

    impl Memory {
        pub(crate) fn of(files: &[(&str, i64, &[u8])]) -> Memory {
            let entry = |(path, time, bytes): &(&str, i64, &[u8])| {
                ((*path).to_owned(), (*time, bytes.to_vec()))
            };
            Memory(files.iter().map(entry).collect())
        }

        pub(crate) fn without(mut self, path: &str) -> Memory {
            self.0.remove(path).expect("it was there");
            self
        }

        /// The candidate of a directory; `.`: of everything that lies at the top.
        pub(crate) fn candidate(&self, path: &str) -> Candidate {
            let below = format!("{path}/");
            let files = self.0.iter().filter_map(|(name, (time, bytes))| {
                let inner = if path == "." {
                    (!name.contains('/')).then_some(name.as_str())?
                } else {
                    name.strip_prefix(&below)
                        .filter(|name| !name.is_empty() && !name.ends_with('/'))?
                };
                Some(FileStat {
                    path: inner.to_owned(),
                    ino: 1,
                    size_bytes: bytes.len() as u64,
                    mtime_ns: *time,
                    ctime_ns: *time,
                    mode: 0o644,
                })
            });
            Candidate {
                key: if path == "." {
                    "step:100".into()
                } else {
                    format!("dir:{path}")
                },
                path: path.to_owned(),
                step: if path == "." {
                    Some(100)
                } else {
                    super::super::names::step_of(path)
                },
                directory: true,
                unfinished: None,
                unreadable: None,
                files: files.collect(),
            }
        }

        /// What all rules together say of a directory, in words.
        pub(crate) fn says(&self, path: &str) -> String {
            let candidate = self.candidate(path);
            let view = View {
                candidate: &candidate,
                disk: self,
                finished: &[],
            };
            match judge(&view).unwrap() {
                (Opinion::None, _) => "nobody's".to_owned(),
                (Opinion::Missing(what), _) => what,
                (Opinion::Done { silence, .. }, rules) => {
                    format!("{} {silence:?}", rules.join("+"))
                }
            }
        }
    }

    impl Disk for Memory {
        fn stat(&self, path: &str) -> io::Result<Option<FileStat>> {
            let below = format!("{path}/");
            let times = |(_, (time, _)): (&String, &(i64, Vec<u8>))| *time;
            let written = self.0.get(path).map(|(time, _)| *time);
            let inside = |(name, _): &(&String, &(i64, Vec<u8>))| {
                name.starts_with(&below) && !name.ends_with('/')
            };
            let written = written.or_else(|| self.0.iter().filter(inside).map(times).max());
            // Of a directory, its name with a slash says when it was renamed.
            let renamed = self.0.get(&below).map(|(time, _)| *time);
            Ok(written.map(|mtime_ns| FileStat {
                path: String::new(),
                ino: 1,
                size_bytes: 0,
                mtime_ns,
                ctime_ns: renamed.unwrap_or(mtime_ns),
                mode: 0,
            }))
        }

        fn open(&self, path: &str) -> io::Result<Option<Box<dyn ReadAt>>> {
            let found = self.0.get(path).map(|(_, bytes)| bytes.clone());
            Ok(found.map(|bytes| Box::new(bytes) as Box<dyn ReadAt>))
        }
    }

    #[test]
    fn what_no_rule_knows_is_nobodys() {
        let files = Memory::of(&[
            ("save-5/weights.bin", 1, b"w"),
            ("save-5/notes.txt", 2, b"n"),
        ]);
        assert_eq!(files.says("save-5"), "nobody's");
    }

    #[test]
    fn the_first_hole_in_a_row_of_ranks_is_named() {
        for (ranks, hole) in [
            (&[0, 1, 2][..], None),
            (&[0, 2], Some(1)),
            (&[1], Some(0)),
            (&[], None),
        ] {
            assert_eq!(first_hole(ranks), hole, "{ranks:?}");
        }
    }
}
