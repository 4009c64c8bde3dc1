//! Reads what lies in the checkpoint directory. All of it blocks on the disk.
//!
//! Decisions are left to others. What cannot be read because it has just been removed is not there.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::candidate::{Candidate, FileStat};
use super::names;

/// Most files that one candidate may have; a directory with more is no checkpoint but a data set.
const MAX_FILES: usize = 100_000;
/// Deepest level of directories inside a candidate.
const MAX_DEPTH: usize = 12;

/// Path of one of a checkpoint's files.
pub fn file_path(dir: &Path, path: &str, file: &str) -> PathBuf {
    let mut full = dir.to_owned();
    for part in [path, file] {
        if !part.is_empty() && part != "." {
            full.push(part);
        }
    }
    full
}

/// The kernel's description of a file, as a checkpoint remembers it.
pub fn stat_of(path: &str, metadata: &Metadata) -> FileStat {
    let nanoseconds =
        |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    FileStat {
        path: path.to_owned(),
        ino: metadata.ino(),
        size_bytes: metadata.size(),
        mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        mode: metadata.mode() & 0o7777,
    }
}

/// Every candidate in the directory. A directory that does not exist yet holds none.
///
/// Files of one step that lie side by side (`model_5.pt`, `optim_5_rank0.pt`) are one candidate, subdirectories are one each.
/// Links at the top are passed over: what they point at is a candidate itself, or belongs to somebody else.
pub fn scan(dir: &Path) -> io::Result<Vec<Candidate>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut candidates = Vec::new();
    let mut steps: BTreeMap<u64, Vec<(String, FileStat)>> = BTreeMap::new();
    for entry in entries {
        let Ok(entry) = entry else { continue };
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && !names::is_ignored(&name) {
            candidates.extend(directory_candidate(dir, &name)?);
        } else if kind.is_file() && names::is_candidate_file(&name) {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let stat = stat_of("", &metadata);
            match names::step_of(&name) {
                Some(step) => steps.entry(step).or_default().push((name, stat)),
                None => candidates.push(file_candidate(format!("file:{name}"), name, None, stat)),
            }
        }
    }
    for (step, mut files) in steps {
        let key = format!("step:{step}");
        if files.len() == 1 {
            let (name, stat) = files.remove(0);
            candidates.push(file_candidate(key, name, Some(step), stat));
            continue;
        }
        // Only metadata of a step, without weights, is no checkpoint.
        if !files
            .iter()
            .any(|(name, _)| names::is_checkpoint_file(name))
        {
            continue;
        }
        let mut files: Vec<FileStat> = files
            .into_iter()
            .map(|(name, stat)| FileStat { path: name, ..stat })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        candidates.push(Candidate {
            key,
            path: ".".into(),
            step: Some(step),
            directory: true,
            unfinished: None,
            files,
        });
    }
    Ok(candidates)
}

fn file_candidate(key: String, name: String, step: Option<u64>, stat: FileStat) -> Candidate {
    Candidate {
        key,
        path: name,
        step,
        directory: false,
        unfinished: None,
        files: vec![stat],
    }
}

fn directory_candidate(dir: &Path, name: &str) -> io::Result<Option<Candidate>> {
    let mut walk = Walk {
        files: Vec::new(),
        unfinished: None,
        looks_like_one: false,
        describes_only: true,
    };
    walk.descend(&dir.join(name), "", 0)?;
    let step = names::step_of(name);
    let is_one = walk.looks_like_one || (step.is_some() && !walk.describes_only);
    if walk.files.is_empty() || !is_one {
        return Ok(None);
    }
    walk.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(Candidate {
        key: format!("dir:{name}"),
        path: name.to_owned(),
        step,
        directory: true,
        unfinished: walk.unfinished,
        files: walk.files,
    }))
}

struct Walk {
    files: Vec<FileStat>,
    /// Name of a temporary file.
    unfinished: Option<String>,
    looks_like_one: bool,
    /// Nothing but descriptions so far: a writer begins with them.
    describes_only: bool,
}

impl Walk {
    fn descend(&mut self, full: &Path, relative: &str, depth: usize) -> io::Result<()> {
        let entries = match fs::read_dir(full) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(err),
        };
        for entry in entries {
            let Ok(entry) = entry else { continue };
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let Ok(kind) = entry.file_type() else {
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
                // Deeper than any trainer goes: refused aloud, because leaving files out would be a torn checkpoint.
                if depth >= MAX_DEPTH {
                    return Err(io::Error::other(format!(
                        "{} is deeper than {MAX_DEPTH} directories",
                        full.display()
                    )));
                }
                self.descend(&entry.path(), &path, depth + 1)?;
                continue;
            }
            // A linked file is part of the checkpoint, so its content goes along; a linked directory may lead anywhere.
            let Ok(metadata) = fs::metadata(entry.path()) else {
                continue;
            };
            if !metadata.is_file() {
                continue;
            }
            self.looks_like_one |= names::is_checkpoint_file(&name);
            self.describes_only &= names::is_description(&name);
            self.files.push(stat_of(&path, &metadata));
            if self.files.len() > MAX_FILES {
                return Err(io::Error::other(format!(
                    "{} holds more than {MAX_FILES} files",
                    full.display()
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(dir: &Path) -> Vec<(String, usize)> {
        let mut keys: Vec<_> = scan(dir)
            .unwrap()
            .into_iter()
            .map(|found| (found.key, found.files.len()))
            .collect();
        keys.sort();
        keys
    }

    #[test]
    fn a_directory_is_read_into_candidates_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in [
            "ckpt.pt",
            "model_000100.pt",
            "meta_000100.json",
            "metrics.jsonl",
            "latest",
            ".tmpAB12",
            "w.pt.tmp",
        ] {
            fs::write(root.join(name), b"x").unwrap();
        }
        fs::create_dir_all(root.join("checkpoint-5/inner")).unwrap();
        for name in [
            "checkpoint-5/model.safetensors",
            "checkpoint-5/.metadata",
            "checkpoint-5/inner/rng.pth",
            "checkpoint-5/a.tmp",
        ] {
            fs::write(root.join(name), b"x").unwrap();
        }
        fs::create_dir_all(root.join("plots")).unwrap();
        fs::write(root.join("plots/loss.png"), b"x").unwrap();
        std::os::unix::fs::symlink("checkpoint-5", root.join("newest-5")).unwrap();
        assert_eq!(
            keys(root),
            [
                ("dir:checkpoint-5".to_owned(), 3),
                ("file:ckpt.pt".to_owned(), 1),
                ("step:100".to_owned(), 2)
            ]
        );
        let found = scan(root).unwrap();
        assert!(
            found
                .iter()
                .find(|one| one.directory && one.path == "checkpoint-5")
                .unwrap()
                .unfinished
                .is_some()
        );
        assert_eq!(scan(&root.join("not-there")).unwrap(), []);
    }
}
