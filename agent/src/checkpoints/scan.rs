//! Reads what lies in the checkpoint directory. All of it blocks on the disk.
//!
//! Decisions are left to others. What cannot be read because it has just been removed is not there; what cannot be read for another
//! reason is told with it: a subdirectory as a candidate that cannot be saved, the directory itself as an error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::candidate::{Candidate, FileStat};
use super::names;
use spotter_bucket::sorted::sort_by;
pub use spotter_bucket::whole::folder::{file_path, stat_of};

/// Most files that one candidate may have; a directory with more is no checkpoint but a data set.
const MAX_FILES: usize = 100_000;
/// Deepest level of directories inside a candidate.
const MAX_DEPTH: usize = 12;

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
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Some(kind) = there(entry.file_type())? else {
            continue;
        };
        if kind.is_dir() && !names::is_ignored(&name) {
            candidates.extend(directory_candidate(dir, &name));
        } else if kind.is_file() && names::is_candidate_file(&name) {
            let Some(metadata) = there(entry.metadata())? else {
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
        // Only metadata of a step, without weights, is no checkpoint; a file of any kind is one, with `FILE.ok` beside it too.
        let is_of_another = |name: &str| {
            let mut others = files.iter().map(|(other, _)| other.as_str());
            others.any(|other| {
                name.strip_prefix(other)
                    .is_some_and(|rest| rest.starts_with('.'))
            })
        };
        let own = files.iter().filter(|(name, _)| !is_of_another(name));
        if own.count() > 1
            && !files
                .iter()
                .any(|(name, _)| names::is_checkpoint_file(name))
        {
            continue;
        }
        let mut files: Vec<FileStat> = files
            .into_iter()
            .map(|(name, stat)| FileStat { path: name, ..stat })
            .collect();
        sort_by(&mut files, |a, b| a.path.cmp(&b.path));
        candidates.push(Candidate {
            key,
            path: ".".into(),
            step: Some(step),
            directory: true,
            unfinished: None,
            unreadable: None,
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
        unreadable: None,
        files: vec![stat],
    }
}

/// What was asked for, unless it has just been removed.
fn there<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

fn directory_candidate(dir: &Path, name: &str) -> Option<Candidate> {
    let mut walk = Walk {
        files: Vec::new(),
        unfinished: None,
        looks_like_one: false,
        describes_only: true,
    };
    let full = dir.join(name);
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
    let reason = match halted {
        None => {
            let is_one = walk.looks_like_one || (step.is_some() && !walk.describes_only);
            sort_by(&mut candidate.files, |a, b| a.path.cmp(&b.path));
            return (is_one && !candidate.files.is_empty()).then_some(candidate);
        }
        // A data set that lies beside checkpoints, and does not look like one.
        Some(Halt::Limit(_)) if !walk.looks_like_one && step.is_none() => return None,
        Some(Halt::Limit(reason)) => reason,
        Some(Halt::System(path, err)) => format!("{} cannot be read: {err}", path.display()),
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

/// Why a directory was not read to its end.
enum Halt {
    /// The system refused this path.
    System(PathBuf, io::Error),
    /// It is larger than a checkpoint can be; how.
    Limit(String),
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
    /// Leaving files out would be a torn checkpoint: what cannot be read, and what is too much, ends it.
    fn descend(&mut self, full: &Path, relative: &str, depth: usize) -> Result<(), Halt> {
        let refused = |err| Halt::System(full.to_owned(), err);
        let Some(entries) = there(fs::read_dir(full)).map_err(refused)? else {
            return Ok(());
        };
        for entry in entries {
            let entry = entry.map_err(refused)?;
            let Ok(name) = entry.file_name().into_string() else {
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
                continue;
            };
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

    #[test]
    fn a_file_of_whatever_kind_is_one_with_its_marker_and_two_of_a_kind_that_nobody_knows_are_none()
    {
        for (names, expected) in [
            (&["blob_30.dat"][..], 1),
            (&["blob_30.dat", "blob_30.dat.ok"], 2),
            (&["blob_30.dat", "picture_30.png"], 0),
            (&["blob_30.bin", "picture_30.png"], 2),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for name in names {
                fs::write(dir.path().join(name), b"x").unwrap();
            }
            let found = scan(dir.path()).unwrap();
            let files: usize = found.iter().map(|one| one.files.len()).sum();
            assert_eq!(files, expected, "{names:?}");
        }
    }

    /// Deeper than a scan goes, with a file at the end.
    fn deep(root: &Path, name: &str, file: &str) {
        let mut path = root.join(name);
        for _ in 0..=MAX_DEPTH {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(file), b"x").unwrap();
        fs::write(root.join(name).join(file), b"x").unwrap();
    }

    #[test]
    fn a_subdirectory_that_cannot_be_read_to_its_end_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::write(root.join("ckpt.pt"), b"x").unwrap();
        deep(root, "checkpoint-7", "model.pt");
        // Root may read everything but a name that the system cannot follow.
        fs::create_dir(root.join("checkpoint-8")).unwrap();
        std::os::unix::fs::symlink("loop.pt", root.join("checkpoint-8/loop.pt")).unwrap();
        deep(root, "data", "lines.txt");
        fs::create_dir(root.join("lost+found")).unwrap();
        let mut found = scan(root).unwrap();
        sort_by(&mut found, |a, b| a.key.cmp(&b.key));
        let told: Vec<_> = found
            .iter()
            .map(|one| (one.key.as_str(), one.unreadable.clone().unwrap_or_default()))
            .collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[0].0, "dir:checkpoint-7");
        assert!(
            told[0].1.contains("is deeper than 12 directories"),
            "{told:?}"
        );
        assert_eq!(told[1].0, "dir:checkpoint-8");
        assert!(told[1].1.contains("loop.pt cannot be read"), "{told:?}");
        assert_eq!(told[2], ("file:ckpt.pt", String::new()));
        assert!(found.iter().all(|one| one.size_bytes() > 0), "{found:?}");
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        std::os::unix::fs::symlink("checkpoints", &path).unwrap();
        assert!(scan(&path).is_err());
    }
}
