//! What differs between two checkpoints, by path, size and hash (pure).

use std::collections::BTreeMap;

use serde::Serialize;
use spotter_bucket::{Manifest, ManifestFile};

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// Other content.
    Changed,
    /// The same content.
    Same,
}

/// One file of either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDiff {
    /// Relative to the checkpoint; the checkpoint's own name when it is a single file.
    pub path: String,
    /// What became of it.
    pub change: Change,
    /// Size in the first.
    pub before_bytes: Option<u64>,
    /// Size in the second.
    pub after_bytes: Option<u64>,
}

/// Every file of both, sorted by path.
pub fn diff(before: &Manifest, after: &Manifest) -> Vec<FileDiff> {
    let mut files: BTreeMap<&str, (Option<&ManifestFile>, Option<&ManifestFile>)> = BTreeMap::new();
    for file in &before.files {
        files.entry(&file.path).or_default().0 = Some(file);
    }
    for file in &after.files {
        files.entry(&file.path).or_default().1 = Some(file);
    }
    let one = |(path, (before_file, after_file)): (&str, (Option<&ManifestFile>, Option<_>))| {
        let after_file: Option<&ManifestFile> = after_file;
        let change = match (before_file, after_file) {
            (Some(before), Some(after)) if before.blake3 == after.blake3 => Change::Same,
            (Some(_), Some(_)) => Change::Changed,
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
        };
        FileDiff {
            path: match (path, after_file) {
                ("", Some(_)) => after.path.clone(),
                ("", None) => before.path.clone(),
                _ => path.to_owned(),
            },
            change,
            before_bytes: before_file.map(|file| file.size_bytes),
            after_bytes: after_file.map(|file| file.size_bytes),
        }
    };
    files.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &[(&str, &str)]) -> Manifest {
        let file = |(path, content): &(&str, &str)| ManifestFile {
            path: (*path).into(),
            mode: 0o644,
            mtime_ns: 0,
            size_bytes: content.len() as u64,
            blake3: blake3::hash(content.as_bytes()).to_hex().to_string(),
            key: String::new(),
            part_size_bytes: 0,
            parts: Vec::new(),
        };
        Manifest {
            v: 1,
            id: String::new(),
            run: String::new(),
            attempt: 1,
            step: None,
            rule: String::new(),
            path: "model.pt".into(),
            directory: true,
            committed_us: 0,
            server_us: 0,
            prev: None,
            metric: None,
            files: files.iter().map(file).collect(),
            encoding: None,
            self_blake3: String::new(),
        }
    }

    #[test]
    fn files_are_told_apart_by_their_content() {
        let before = manifest(&[("a", "same"), ("b", "old"), ("c", "gone")]);
        let after = manifest(&[("a", "same"), ("b", "newer"), ("d", "more")]);
        let found: Vec<(String, Change)> = diff(&before, &after)
            .into_iter()
            .map(|file| (file.path, file.change))
            .collect();
        let expected = [
            ("a", Change::Same),
            ("b", Change::Changed),
            ("c", Change::Removed),
            ("d", Change::Added),
        ];
        assert_eq!(
            found,
            expected.map(|(path, change)| (path.to_owned(), change))
        );
        let single = diff(&manifest(&[("", "1")]), &manifest(&[("", "22")]));
        assert_eq!(single[0].path, "model.pt");
        assert_eq!(
            (single[0].before_bytes, single[0].after_bytes),
            (Some(1), Some(2))
        );
        // A file became a directory: each has the name that it had.
        let file = Manifest {
            path: "ckpt.pt".into(),
            ..manifest(&[("", "1")])
        };
        let names: Vec<String> = diff(&file, &manifest(&[("a", "1")]))
            .into_iter()
            .map(|one| one.path)
            .collect();
        assert_eq!(names, ["ckpt.pt", "a"]);
    }
}
