//! A directory or a link of the checkpoint directory, read to its end: what cannot go along makes it a candidate that cannot be saved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use spotter_bucket::sorted::sort_by;
use spotter_bucket::whole::folder::stat_of;

use super::super::candidate::{Candidate, FileStat};
use super::super::names;
use super::there;

/// Most files that one candidate may have; a directory with more is no checkpoint but a data set.
const MAX_FILES: usize = 100_000;
/// Deepest level of directories inside a candidate.
pub(super) const MAX_DEPTH: usize = 12;

/// Most links of a checkpoint that are named.
const MOST_LINKS: usize = 20;
/// Most entries that are seen of what a link leads to, which may be a data set on a share: every scan looks there, and a restore waits for it.
const GLANCE_ENTRIES: usize = 200;
/// Deepest level of directories there.
const GLANCE_DEPTH: usize = 2;

/// A subdirectory; `None`: it is no checkpoint.
pub(super) fn directory_candidate(dir: &Path, name: &str) -> Option<Candidate> {
    let full = dir.join(name);
    let mut walk = Walk::new(&full);
    let halted = walk.descend(&full, "", 0).err();
    let step = names::step_of(name);
    let mut candidate = Candidate {
        key: format!("dir:{name}"),
        path: name.to_owned(),
        step,
        directory: true,
        unfinished: walk.unfinished,
        unreadable: None,
        files: walk.files,
    };
    let is_one = walk.looks_like_one || (step.is_some() && !walk.describes_only);
    let reason = match (halted, walk.left_out) {
        (None, Some(reason)) if is_one => reason,
        (None, _) => {
            sort_by(&mut candidate.files, |a, b| a.path.cmp(&b.path));
            return (is_one && !candidate.files.is_empty()).then_some(candidate);
        }
        // A data set that lies beside checkpoints, and does not look like one.
        (Some(Halt::Limit(_)), _) if !walk.looks_like_one && step.is_none() => return None,
        (Some(Halt::Limit(reason)), _) => reason,
        (Some(Halt::System(path, err)), _) => format!("{} cannot be read: {err}", path.display()),
    };
    let itself = match there(fs::metadata(&full)) {
        Ok(None) => return None,
        Ok(Some(metadata)) => Some(stat_of("", &metadata)),
        Err(_) => None,
    };
    // Of a time that nobody knows it is taken to be the newest.
    let written_ns = itself.as_ref().map_or(i64::MAX, |itself| {
        itself.mtime_ns.max(candidate.written_ns())
    });
    candidate.files = vec![FileStat {
        path: String::new(),
        ino: itself.as_ref().map_or(0, |itself| itself.ino),
        // What is hidden has a size, too.
        size_bytes: candidate.size_bytes().max(1),
        mtime_ns: written_ns,
        ctime_ns: itself.as_ref().map_or(written_ns, |itself| itself.ctime_ns),
        mode: itself.map_or(0, |itself| itself.mode),
    }];
    candidate.unreadable = Some(reason);
    Some(candidate)
}

/// What would be a checkpoint and cannot be one, for this reason; `None`: it would be none.
pub(super) fn refused(path: &Path, name: String, kind: &str, reason: String) -> Option<Candidate> {
    let metadata = fs::metadata(path).ok()?;
    let mut stat = stat_of("", &metadata);
    // A link that a training made is its word, however old what it leads to is.
    let linked = fs::symlink_metadata(path).ok()?;
    let linked_ns = stat_of("", &linked).mtime_ns;
    if metadata.is_dir() {
        let (walk, looked) = Walk::glance(path);
        let is_one = match looked {
            Ok(()) => walk.looks_like_one,
            // As much as that is a data set, unless it is called as checkpoints are.
            Err(Halt::Limit(_)) => walk.looks_like_one && names::step_of(&name).is_some(),
            Err(Halt::System(..)) => false,
        };
        if !is_one {
            return None;
        }
        let written = walk.files.iter().map(|file| file.mtime_ns);
        stat.mtime_ns = written.max().unwrap_or(stat.mtime_ns);
        stat.size_bytes = walk.files.iter().map(|file| file.size_bytes).sum();
    } else if !names::is_checkpoint_file(&name) {
        return None;
    }
    stat.mtime_ns = stat.mtime_ns.max(linked_ns);
    Some(Candidate {
        key: format!("{kind}:{name}"),
        step: names::step_of(&name),
        path: name,
        directory: metadata.is_dir(),
        unfinished: None,
        unreadable: Some(reason),
        files: vec![stat],
    })
}

/// Where a link leads that leads out of a directory; `None`: into it, to what it lies in itself, or nowhere.
pub(super) fn outside(dir: &Path, link: &Path) -> Option<PathBuf> {
    let target = fs::canonicalize(link).ok()?;
    let dir = fs::canonicalize(dir).ok()?;
    (!target.starts_with(&dir) && !dir.starts_with(&target)).then_some(target)
}

/// Links in a directory of the checkpoint directory that lead out of it to directories, sorted, as far as they are few: they do not go along,
/// and where nothing there looks like a part of a checkpoint that is no reason to save none of it.
pub(in super::super) fn left_out(dir: &Path, name: &str) -> Vec<String> {
    let mut links = Vec::new();
    note_links(dir, name, 0, &mut links);
    links.sort_unstable();
    links
}

fn note_links(dir: &Path, relative: &str, depth: usize, links: &mut Vec<String>) {
    // What cannot be read is told elsewhere.
    let Ok(entries) = fs::read_dir(dir.join(relative)) else {
        return;
    };
    for entry in entries.flatten() {
        let (Ok(kind), path) = (entry.file_type(), entry.path()) else {
            continue;
        };
        let child = format!("{relative}/{}", entry.file_name().to_string_lossy());
        if kind.is_dir() && depth < MAX_DEPTH {
            note_links(dir, &child, depth + 1, links);
        } else if kind.is_symlink()
            && links.len() < MOST_LINKS
            && path.is_dir()
            && outside(dir, &path).is_some()
        {
            links.push(child);
        }
    }
}

/// Whether a directory that a link in a checkpoint leads to may be a part of it: it holds weights or state, or cannot be read.
fn is_part(target: &Path) -> bool {
    let (walk, looked) = Walk::glance(target);
    walk.looks_like_one || matches!(looked, Err(Halt::System(..)))
}

/// Why a directory was not read to its end.
enum Halt {
    /// The system refused this path.
    System(PathBuf, io::Error),
    /// It is larger than a checkpoint can be; how.
    Limit(String),
}

struct Walk<'a> {
    /// Where it began.
    root: &'a Path,
    files: Vec<FileStat>,
    /// What belongs to it and cannot go along, and why.
    left_out: Option<String>,
    /// Name of a temporary file.
    unfinished: Option<String>,
    looks_like_one: bool,
    /// Nothing but descriptions so far: a writer begins with them.
    describes_only: bool,
    /// Entries that may still be seen; `None`: all of them.
    left: Option<usize>,
}

impl Walk<'_> {
    fn new(root: &Path) -> Walk<'_> {
        Walk {
            root,
            files: Vec::new(),
            left_out: None,
            unfinished: None,
            looks_like_one: false,
            describes_only: true,
            left: None,
        }
    }

    /// What can be seen of a directory without reading all of it.
    fn glance(root: &Path) -> (Walk<'_>, Result<(), Halt>) {
        let mut walk = Walk {
            left: Some(GLANCE_ENTRIES),
            ..Walk::new(root)
        };
        let looked = walk.descend(root, "", 0);
        (walk, looked)
    }

    /// Leaving files out would be a torn checkpoint: what cannot be read, and what is too much, ends it.
    fn descend(&mut self, full: &Path, relative: &str, depth: usize) -> Result<(), Halt> {
        let refused = |err| Halt::System(full.to_owned(), err);
        let Some(entries) = there(fs::read_dir(full)).map_err(refused)? else {
            return Ok(());
        };
        for entry in entries {
            let entry = entry.map_err(refused)?;
            match &mut self.left {
                None => {}
                Some(0) => {
                    return Err(Halt::Limit(format!(
                        "{} holds more than {GLANCE_ENTRIES} entries",
                        self.root.display()
                    )));
                }
                Some(left) => *left -= 1,
            }
            let Ok(name) = entry.file_name().into_string() else {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if !names::is_temporary(&name) {
                    self.left_out = Some(format!(
                        "the name of {name} in it is not UTF-8, as keys in a bucket are: give it another"
                    ));
                }
                continue;
            };
            let refused = |err| Halt::System(entry.path(), err);
            let Some(kind) = there(entry.file_type()).map_err(refused)? else {
                continue;
            };
            let path = if relative.is_empty() {
                name.clone()
            } else {
                format!("{relative}/{name}")
            };
            if names::is_temporary(&name) {
                self.unfinished = Some(path);
                continue;
            }
            if kind.is_dir() {
                if self.left.is_some() && depth >= GLANCE_DEPTH {
                    continue;
                }
                // Deeper than any trainer goes.
                if depth >= MAX_DEPTH {
                    return Err(Halt::Limit(format!(
                        "{} is deeper than {MAX_DEPTH} directories",
                        full.display()
                    )));
                }
                self.descend(&entry.path(), &path, depth + 1)?;
                continue;
            }
            // A linked file is part of the checkpoint, so its content goes along; a linked directory may lead anywhere.
            let Some(metadata) = there(fs::metadata(entry.path())).map_err(refused)? else {
                // Gone since it was listed, or a link to nothing: logs that were left elsewhere, and an editor's lock, are no part of it.
                if kind.is_symlink()
                    && names::is_checkpoint_file(&name)
                    && !name.starts_with('.')
                    && fs::symlink_metadata(entry.path()).is_ok()
                {
                    self.left_out = Some(format!("{path} in it is a link to nothing"));
                }
                continue;
            };
            // What lies in the checkpoint directory is saved by itself. A glance asks no links: they may lead in circles.
            let dir = self.root.parent().unwrap_or(self.root);
            if metadata.is_dir()
                && self.left.is_none()
                && !name.starts_with('.')
                && let Some(target) = outside(dir, &entry.path())
                && (names::is_checkpoint_file(&name) || is_part(&target))
            {
                self.left_out = Some(format!(
                    "{path} in it is a link to {}, a directory outside of the checkpoint directory, where nothing is saved: put a copy in its \
                     place, or remove it",
                    target.display()
                ));
            }
            if !metadata.is_file() {
                continue;
            }
            self.looks_like_one |= names::is_checkpoint_file(&name);
            self.describes_only &= names::is_description(&name);
            self.files.push(stat_of(&path, &metadata));
            if self.files.len() > MAX_FILES {
                return Err(Halt::Limit(format!(
                    "{} holds more than {MAX_FILES} files",
                    full.display()
                )));
            }
        }
        Ok(())
    }
}
