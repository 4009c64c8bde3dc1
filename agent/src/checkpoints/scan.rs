//! Reads what lies in the checkpoint directory. All of it blocks on the disk.
//!
//! Decisions are left to others. What cannot be read because it has just been removed is not there; what cannot be read for another
//! reason is told with it: a subdirectory as a candidate that cannot be saved, the directory itself as an error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::candidate::{Candidate, FileStat};
use super::names;
use spotter_bucket::sorted::sort_by;
use spotter_bucket::whole::beside;
pub use spotter_bucket::whole::folder::{file_path, stat_of};

mod walk;

pub(super) use walk::left_out;
use walk::{directory_candidate, outside, refused};

/// Every candidate in the directory. A directory that does not exist yet holds none.
///
/// Files of one step that lie side by side (`model_5.pt`, `optim_5_rank0.pt`) are one candidate, so are those without a step that belong
/// together (see [`beside`]), and subdirectories are one each. A link to what lies in the directory is passed over: that is a candidate
/// itself. One that leads out of it cannot be saved, and is told.
pub fn scan(dir: &Path) -> io::Result<Vec<Candidate>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut candidates = Vec::new();
    let mut steps: BTreeMap<u64, Vec<(String, FileStat)>> = BTreeMap::new();
    let mut loose: BTreeMap<String, FileStat> = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let Some(kind) = there(entry.file_type())? else {
            continue;
        };
        let Ok(name) = entry.file_name().into_string() else {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !names::is_ignored(&name) {
                let reason = "its name is not UTF-8, as keys in a bucket are: give it another";
                candidates.extend(refused(&entry.path(), name, "file", reason.to_owned()));
            }
            continue;
        };
        if names::is_ignored(&name) {
            continue;
        }
        if kind.is_dir() {
            candidates.extend(directory_candidate(dir, &name));
        } else if kind.is_symlink() {
            if let Some(target) = outside(dir, &entry.path()) {
                let reason = format!(
                    "it is a link to {}, outside of the checkpoint directory, where nothing is saved: put a copy in its place, or remove it",
                    target.display()
                );
                candidates.extend(refused(&entry.path(), name, "link", reason));
            }
        } else if kind.is_file()
            && (names::is_candidate_file(&name) || beside::is_description(&name))
        {
            let Some(metadata) = there(entry.metadata())? else {
                continue;
            };
            let stat = stat_of("", &metadata);
            match names::step_of(&name) {
                Some(step) => steps.entry(step).or_default().push((name, stat)),
                None => drop(loose.insert(name, stat)),
            }
        }
    }
    for (step, mut files) in steps {
        // `rng_state_0.pth` is of a rank, not of a step; `optimizer_100.pt` is of one.
        let is_there = |other: &str| loose.contains_key(other);
        if files
            .iter()
            .all(|(name, _)| beside::is_piece_of_state(name, is_there))
        {
            loose.extend(files);
            continue;
        }
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
        candidates.push(flat_candidate(key, Some(step), files));
    }
    let without_step: Vec<String> = loose.keys().cloned().collect();
    let without_step: Vec<&str> = without_step.iter().map(String::as_str).collect();
    let sorted = beside::sort_out(&without_step);
    for (name, files) in sorted.together {
        let files = files
            .into_iter()
            .filter_map(|file| loose.remove_entry(file));
        let key = format!("{}{name}", beside::KEY);
        candidates.push(flat_candidate(key, None, files.collect()));
    }
    for name in sorted.alone {
        if let Some((name, stat)) = loose.remove_entry(name) {
            candidates.push(file_candidate(format!("file:{name}"), name, None, stat));
        }
    }
    Ok(candidates)
}

fn flat_candidate(key: String, step: Option<u64>, files: Vec<(String, FileStat)>) -> Candidate {
    let mut files: Vec<FileStat> = files
        .into_iter()
        .map(|(name, stat)| FileStat { path: name, ..stat })
        .collect();
    sort_by(&mut files, |a, b| a.path.cmp(&b.path));
    Candidate {
        key,
        path: ".".into(),
        step,
        directory: true,
        unfinished: None,
        unreadable: None,
        files,
    }
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
    fn what_cannot_go_along_is_named_rather_than_left_out() {
        use std::ffi::OsStr;
        use std::os::unix::{ffi::OsStrExt, fs::symlink};

        let home = tempfile::tempdir().unwrap();
        let (root, other) = (
            home.path().join("checkpoints"),
            home.path().join("elsewhere"),
        );
        for name in ["a-1/in", "b-2", "c-3", "d-4", "plots-5"] {
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(name).join("model.pt"), b"x").unwrap();
        }
        fs::create_dir_all(other.join("data")).unwrap();
        fs::write(other.join("w.pt"), b"x").unwrap();
        fs::write(other.join("data/notes.txt"), b"x").unwrap();
        // Inside of a checkpoint.
        symlink(root.join("a-1/in"), root.join("a-1/newest")).unwrap();
        symlink(&other, root.join("b-2/optimizer")).unwrap();
        symlink(other.join("gone"), root.join("c-3/optimizer.pt")).unwrap();
        symlink(other.join("gone"), root.join("a-1/debug.log")).unwrap();
        let latin = OsStr::from_bytes(b"gr\xf6\xdfe.pt");
        fs::write(root.join("d-4").join(latin), b"x").unwrap();
        // And at the top.
        let old = fs::File::options()
            .write(true)
            .open(other.join("w.pt"))
            .unwrap();
        old.set_modified(std::time::UNIX_EPOCH).unwrap();
        symlink(other.join("w.pt"), root.join("best.pt")).unwrap();
        symlink(&other, root.join("other-6")).unwrap();
        symlink(other.join("data"), root.join("data")).unwrap();
        symlink(root.join("a-1/model.pt"), root.join("latest.pt")).unwrap();
        symlink(other.join("gone"), root.join("gone.pt")).unwrap();
        fs::write(root.join(latin), b"x").unwrap();
        let found = scan(&root).unwrap();
        let check = |key: &str, expected: Option<&str>| {
            let one = found.iter().find(|one| one.key == key);
            let one = one.unwrap_or_else(|| panic!("{key} is not there"));
            let reason = one.unreadable.as_deref();
            assert_eq!(reason.is_some(), expected.is_some(), "{key}: {reason:?}");
            let told = |part| reason.is_some_and(|reason| reason.contains(part));
            assert!(expected.is_none_or(told), "{key}: {reason:?}");
        };
        check("dir:a-1", None);
        check("dir:plots-5", None);
        check("dir:b-2", Some("optimizer in it is a link to "));
        check("dir:c-3", Some("optimizer.pt in it is a link to nothing"));
        check("dir:d-4", Some("not UTF-8"));
        check("link:best.pt", Some("outside of the checkpoint directory"));
        let best = found.iter().find(|one| one.key == "link:best.pt").unwrap();
        assert!(best.written_ns() > 1_000_000_000, "when it was linked");
        check("link:other-6", Some("outside of the checkpoint directory"));
        assert!(
            found
                .iter()
                .any(|one| one.key.starts_with("file:gr") && one.unreadable.is_some())
        );
        assert_eq!(found.len(), 8, "{found:?}");
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

    #[test]
    fn a_link_in_a_checkpoint_spoils_it_only_where_a_part_of_it_may_be_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let repository = home.path().join("repository");
        let root = repository.join("checkpoints");
        for name in [
            "repository/checkpoints/base/model.pt",
            "repository/src/train.py",
            "parts/d/optimizer.pt",
        ] {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        let gone = home.path().join("gone");
        let parts = home.path().join("parts");
        for (step, (link, target, expected)) in [
            // Saved itself, and no part of any checkpoint.
            ("base", root.join("base"), false),
            ("code", repository.join("src"), false),
            ("code", repository.clone(), false),
            (".parts", parts.clone(), false),
            ("optimizer", parts, true),
            ("code.zip", repository.join("src"), true),
            // And what leads nowhere.
            (".#model.pt", gone.clone(), false),
            ("train.log", gone.clone(), false),
            ("latest-run", gone.clone(), false),
            ("optimizer.pt", gone, true),
        ]
        .into_iter()
        .enumerate()
        {
            let own = root.join(format!("step_{step}"));
            fs::create_dir(&own).unwrap();
            fs::write(own.join("model.pt"), b"x").unwrap();
            std::os::unix::fs::symlink(&target, own.join(link)).unwrap();
            let found = scan(&root).unwrap();
            let one = found.iter().find(|one| one.step == Some(step as u64));
            let reason = &one.unwrap().unreadable;
            assert_eq!(
                reason.is_some(),
                expected,
                "{link} to {target:?}: {reason:?}"
            );
            let is_outside =
                target.is_dir() && !target.starts_with(&root) && !root.starts_with(&target);
            let named = is_outside.then(|| format!("step_{step}/{link}"));
            assert_eq!(
                left_out(&root, &format!("step_{step}")),
                Vec::from_iter(named)
            );
        }
    }

    #[test]
    fn what_a_link_leads_to_is_only_glanced_at() {
        let most = 200;
        for (link, files, depth, expected) in [
            ("run", most, 0, true),
            ("run", 1, 2, true),
            ("run", 1, 3, false),
            // A data set, and what is called as checkpoints are.
            ("run", most + 1, 0, false),
            ("run-6", most + 1, 0, true),
        ] {
            let home = tempfile::tempdir().unwrap();
            let (root, other) = (home.path().join("checkpoints"), home.path().join("other"));
            let inner = other.join(["", "a", "a/a", "a/a/a"][depth]);
            fs::create_dir_all(&root).unwrap();
            fs::create_dir_all(&inner).unwrap();
            for number in 0..files {
                fs::write(inner.join(format!("{number}.npz")), b"x").unwrap();
            }
            std::os::unix::fs::symlink(&other, root.join(link)).unwrap();
            let found = !scan(&root).unwrap().is_empty();
            assert_eq!(found, expected, "{link}: {files} files, {depth} deep");
        }
    }

    #[test]
    fn state_of_a_step_is_one_of_its_own_where_its_weights_lie_elsewhere() {
        for (names, expected) in [
            (
                &["step_100/model.pt", "optimizer_100.pt"][..],
                &[("dir:step_100", 1), ("step:100", 1)][..],
            ),
            (&["model_100.pt", "optimizer_100.pt"], &[("step:100", 2)]),
            (&["ckpt.pt", "rng_state_0.pth"], &[("flat:ckpt", 2)]),
            (&["rng_state_0.pth", "training_args.bin"], &[]),
            (
                &["model.bin", "optimizer.bin", "optimizer_1.bin"],
                &[("flat:model", 3)],
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for name in names {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, b"x").unwrap();
            }
            let expected: Vec<(String, usize)> = (expected.iter())
                .map(|(key, files)| ((*key).to_owned(), *files))
                .collect();
            assert_eq!(keys(dir.path()), expected, "{names:?}");
        }
    }

    /// Deeper than a scan goes, with a file at the end.
    fn deep(root: &Path, name: &str, file: &str) {
        let mut path = root.join(name);
        for _ in 0..=walk::MAX_DEPTH {
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
