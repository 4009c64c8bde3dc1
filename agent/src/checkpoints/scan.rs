//! Reads the checkpoint directory: what lies in it, who writes to it, whether it is whole. All of it blocks on the disk.
//!
//! Decisions are left to `complete.rs`. What cannot be read because it has just been removed is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::complete::{Candidate, FileStat, Finding};
use super::names;
use super::structure::{self, Structure};
use super::writers;

/// Most files that one candidate may have; a directory with more is no checkpoint but a data set.
const MAX_FILES: usize = 100_000;
/// Deepest level of directories inside a candidate.
const MAX_DEPTH: usize = 12;
/// Files without a provable format up to this size do not make a directory wait longer: tokenizers, notes, markers.
const SMALL_BYTES: u64 = 1 << 20;

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
            unfinished: false,
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
        unfinished: false,
        files: vec![stat],
    }
}

fn directory_candidate(dir: &Path, name: &str) -> io::Result<Option<Candidate>> {
    let mut walk = Walk {
        files: Vec::new(),
        unfinished: false,
        looks_like_one: false,
    };
    walk.descend(&dir.join(name), "", 0)?;
    let step = names::step_of(name);
    if walk.files.is_empty() || (step.is_none() && !walk.looks_like_one) {
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
    unfinished: bool,
    looks_like_one: bool,
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
            if names::is_temporary(&name) {
                self.unfinished = true;
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

/// Looks at a quiet candidate: does anybody write to it, is it whole, and did it stay as it was meanwhile?
pub fn look(dir: &Path, candidate: &Candidate) -> io::Result<Finding> {
    if !is_unchanged(dir, candidate) {
        return Ok(Finding::Busy);
    }
    let paths: Vec<PathBuf> = candidate
        .files
        .iter()
        .map(|file| file_path(dir, &candidate.path, &file.path))
        .collect();
    if writers::any_writer(&paths)? {
        return Ok(Finding::Busy);
    }
    let finding = match judge_structure(candidate, &paths) {
        Ok(finding) => finding,
        // It was truncated or removed under our hands.
        Err(err)
            if matches!(
                err.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Finding::Busy
        }
        Err(err) => return Err(err),
    };
    if !is_unchanged(dir, candidate) {
        return Ok(Finding::Busy);
    }
    Ok(finding)
}

fn is_unchanged(dir: &Path, candidate: &Candidate) -> bool {
    candidate.files.iter().all(|file| {
        fs::metadata(file_path(dir, &candidate.path, &file.path))
            .is_ok_and(|metadata| stat_of(&file.path, &metadata) == *file)
    })
}

fn judge_structure(candidate: &Candidate, paths: &[PathBuf]) -> io::Result<Finding> {
    let mut rules = BTreeSet::new();
    let mut unproven = false;
    for (file, path) in candidate.files.iter().zip(paths) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        match structure::check(name, &File::open(path)?)? {
            Structure::Broken(reason) => return Ok(Finding::Broken(format!("{name}: {reason}"))),
            Structure::Whole(rule) => {
                rules.insert(rule);
            }
            Structure::Unknown => unproven |= !candidate.directory || file.size_bytes > SMALL_BYTES,
        }
        if name.ends_with(".safetensors.index.json")
            && let Some(missing) = missing_shard(candidate, &file.path, path)?
        {
            return Ok(Finding::Broken(format!(
                "{name}: shard {missing} is not there"
            )));
        }
    }
    if unproven || rules.is_empty() {
        return Ok(Finding::Unproven);
    }
    Ok(Finding::Proven(
        rules.into_iter().collect::<Vec<_>>().join("+"),
    ))
}

/// The first shard that an index of safetensors shards names and that is not among the files.
fn missing_shard(candidate: &Candidate, index: &str, path: &Path) -> io::Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Ok(parsed) = serde_json::from_slice::<Index>(&fs::read(path)?) else {
        return Ok(None);
    };
    let folder = index
        .rsplit_once('/')
        .map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let missing = |shard: &String| {
        let wanted = format!("{folder}{shard}");
        candidate
            .files
            .binary_search_by(|file| file.path.as_str().cmp(&wanted))
            .is_err()
    };
    Ok(parsed.weight_map.into_values().find(missing))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
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
        );
        assert_eq!(scan(&root.join("not-there")).unwrap(), []);
    }

    #[test]
    fn a_file_that_somebody_may_write_to_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ckpt.pt");
        fs::write(&path, samples::zip(&[("a", b"data")], false)).unwrap();
        let candidate = scan(dir.path()).unwrap().remove(0);
        assert_eq!(
            look(dir.path(), &candidate).unwrap(),
            Finding::Proven("torch-zip".into())
        );
        let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(look(dir.path(), &candidate).unwrap(), Finding::Busy);
        drop(writer);
        let reader = File::open(&path).unwrap();
        assert_eq!(
            look(dir.path(), &candidate).unwrap(),
            Finding::Proven("torch-zip".into())
        );
        drop(reader);
        fs::write(&path, b"PK\x03\x04 torn").unwrap();
        assert_eq!(
            look(dir.path(), &candidate).unwrap(),
            Finding::Busy,
            "it changed since the listing"
        );
        let candidate = scan(dir.path()).unwrap().remove(0);
        assert!(matches!(
            look(dir.path(), &candidate).unwrap(),
            Finding::Broken(_)
        ));
    }

    #[test]
    fn a_directory_is_whole_when_its_files_and_their_shards_are() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("checkpoint-9");
        fs::create_dir(&inner).unwrap();
        let index = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
        fs::write(inner.join("model.safetensors.index.json"), index).unwrap();
        fs::write(
            inner.join("model-00001-of-00002.safetensors"),
            samples::safetensors(&[1; 9]),
        )
        .unwrap();
        fs::write(inner.join("vocab.txt"), b"a b c").unwrap();
        let finding = |dir: &Path| look(dir, &scan(dir).unwrap()[0]).unwrap();
        assert!(
            matches!(finding(dir.path()), Finding::Broken(reason) if reason.contains("model-00002-of-00002"))
        );
        fs::write(
            inner.join("model-00002-of-00002.safetensors"),
            samples::safetensors(&[2; 9]),
        )
        .unwrap();
        assert_eq!(
            finding(dir.path()),
            Finding::Proven("json+safetensors".into())
        );
        fs::write(
            inner.join("__0_0.distcp"),
            vec![0; SMALL_BYTES as usize + 1],
        )
        .unwrap();
        assert_eq!(finding(dir.path()), Finding::Unproven);
    }
}
