//! A candidate on a disk, asked by rules and formats. All of it blocks on the disk.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    candidate::{Candidate, FileStat},
    rules::{
        self, Disk, Opinion, View,
        shape::Shape,
        user::{self, CompleteWhen},
    },
    structure::{self, ReadAt, Structure},
};

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

/// The checkpoint directory, or the one in which a checkpoint lies.
pub struct Folder<'a>(pub &'a Path);

impl Folder<'_> {
    /// Names come from a listing or from rules; one that leads elsewhere is not there.
    fn there<T>(
        &self,
        path: &str,
        ask: impl FnOnce(PathBuf) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        if path.split('/').any(|part| part == "..") {
            return Ok(None);
        }
        match ask(self.0.join(path)) {
            Ok(found) => Ok(Some(found)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }
}

impl Disk for Folder<'_> {
    fn open(&self, path: &str) -> io::Result<Option<Box<dyn ReadAt>>> {
        let file = self.there(path, File::open)?;
        Ok(file.map(|file| Box::new(file) as Box<dyn ReadAt>))
    }

    fn stat(&self, path: &str) -> io::Result<Option<FileStat>> {
        let metadata = self.there(path, fs::metadata)?;
        Ok(metadata.map(|metadata| stat_of(path, &metadata)))
    }
}

/// What the frameworks' rules say of a candidate below `dir`, or the user's own instead of them; and the names of the rules that agree.
///
/// # Errors
/// When a file that a rule asks for cannot be read.
pub fn opinion(
    dir: &Path,
    candidate: &Candidate,
    finished: &[Shape],
    when: Option<&CompleteWhen>,
) -> io::Result<(Opinion, Vec<&'static str>)> {
    let view = View {
        candidate,
        disk: &Folder(dir),
        finished,
    };
    match when {
        None => rules::judge(&view),
        Some(CompleteWhen::Marker(pattern)) => Ok((user::marker(&view, pattern)?, vec!["marker"])),
        Some(CompleteWhen::Quiet(_)) => Ok((Opinion::None, vec!["quiet"])),
        Some(CompleteWhen::Command(_)) => Ok((Opinion::None, Vec::new())),
    }
}

/// What the formats of a candidate's files say, when none of them is torn.
pub struct Formats {
    /// Names of the formats that were recognised.
    pub rules: Vec<&'static str>,
    /// Whether they prove everything that matters.
    pub proven: bool,
}

/// Judges every file by its own format; the inner error names one that is torn. `paths` are those of the candidate's files, in their order.
///
/// # Errors
/// When a file cannot be read.
pub fn formats(candidate: &Candidate, paths: &[PathBuf]) -> io::Result<Result<Formats, String>> {
    let mut rules = BTreeSet::new();
    let mut unproven = false;
    for (file, path) in candidate.files.iter().zip(paths) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        match structure::check(name, &File::open(path)?)? {
            Structure::Broken(reason) => return Ok(Err(format!("{name}: {reason}"))),
            Structure::Whole(rule) => {
                rules.insert(rule);
            }
            Structure::Unknown => unproven |= !candidate.directory || file.size_bytes > SMALL_BYTES,
        }
    }
    Ok(Ok(Formats {
        proven: !unproven && !rules.is_empty(),
        rules: rules.into_iter().collect(),
    }))
}

/// Why a candidate below `dir` is no whole checkpoint though nobody writes to it any more; `None`: nothing speaks against it. A user's
/// command is not asked: it belongs to the box.
///
/// # Errors
/// When a file cannot be read.
pub fn flaw(
    dir: &Path,
    candidate: &Candidate,
    when: Option<&CompleteWhen>,
) -> io::Result<Option<String>> {
    if let Some(reason) = &candidate.unreadable {
        return Ok(Some(reason.clone()));
    }
    if let Some(name) = &candidate.unfinished {
        return Ok(Some(format!("{name}: a temporary file is in it")));
    }
    // On a box it may be a marker that nobody has named.
    if candidate.size_bytes() == 0 {
        return Ok(Some(format!(
            "{}: 0 bytes are no checkpoint",
            candidate.path
        )));
    }
    // A copy's times tell in which order it was copied, and not what its writer put last.
    let mut copy = candidate.clone();
    for file in &mut copy.files {
        file.mtime_ns = 0;
    }
    if let (Opinion::Missing(what), _) = opinion(dir, &copy, &[], when)? {
        return Ok(Some(what));
    }
    let paths: Vec<PathBuf> = (candidate.files.iter())
        .map(|file| file_path(dir, &candidate.path, &file.path))
        .collect();
    Ok(formats(candidate, &paths)?.err())
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    fn candidate(dir: &Path, path: &str, names: &[&str]) -> Candidate {
        let stat = |name: &&str| {
            let metadata = fs::metadata(file_path(dir, path, name)).unwrap();
            stat_of(name, &metadata)
        };
        Candidate {
            key: path.to_owned(),
            path: path.to_owned(),
            step: crate::names::step_of(path),
            directory: names != [""],
            unfinished: None,
            unreadable: None,
            files: names.iter().map(stat).collect(),
        }
    }

    #[test]
    fn what_is_torn_empty_or_half_there_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let zip = samples::zip(&[("a", b"data")], false);
        fs::create_dir(dir.join("checkpoint-5")).unwrap();
        for (name, bytes) in [
            ("whole.pt", &zip[..]),
            ("torn.pt", &zip[..zip.len() - 9]),
            ("empty.pt", b""),
            ("empty.bin2", b""),
            ("other.xyz", b"anything"),
            ("checkpoint-5/config.json", b"{}"),
            (
                "checkpoint-5/model.safetensors",
                &samples::safetensors(&[1; 9]),
            ),
        ] {
            fs::write(dir.join(name), bytes).unwrap();
        }
        let check = |path: &str, names: &[&str], when: Option<&str>, expected: &str| {
            let when = when.map(|when| when.parse().unwrap());
            let found = flaw(dir, &candidate(dir, path, names), when.as_ref()).unwrap();
            match expected {
                "" => assert_eq!(found, None, "{path}"),
                _ => assert!(
                    found.as_ref().is_some_and(|found| found.contains(expected)),
                    "{path}: {found:?}"
                ),
            }
        };
        check("whole.pt", &[""], None, "");
        check("other.xyz", &[""], None, "");
        check("torn.pt", &[""], None, "torn.pt: ");
        check(
            "empty.pt",
            &[""],
            None,
            "empty.pt: 0 bytes are no checkpoint",
        );
        check("empty.bin2", &[""], None, "0 bytes are no checkpoint");
        // Downloaded in another order than it was written.
        fs::create_dir(dir.join("checkpoint-7")).unwrap();
        let of_seven = [
            "model.safetensors",
            "trainer_state.json",
            "training_args.bin",
        ];
        for name in [
            "trainer_state.json",
            "training_args.bin",
            "model.safetensors",
        ] {
            let bytes = match name {
                "trainer_state.json" => br#"{"global_step": 7}"#.to_vec(),
                "model.safetensors" => samples::safetensors(&[1; 9]),
                _ => zip.clone(),
            };
            std::thread::sleep(std::time::Duration::from_millis(12));
            fs::write(dir.join("checkpoint-7").join(name), bytes).unwrap();
        }
        check("checkpoint-7", &of_seven, None, "");
        // A Trainer's state is what it writes last.
        let both = &["config.json", "model.safetensors"];
        check("checkpoint-5", both, None, "trainer_state.json");
        check("checkpoint-5", both, Some("quiet 5ms"), "");
        check(
            "checkpoint-5",
            both,
            Some("marker DONE"),
            "DONE is not there",
        );
        check(
            "whole.pt",
            &[""],
            Some("marker {name}.ok"),
            "whole.pt.ok is not there",
        );
    }
}
