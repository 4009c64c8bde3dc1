//! Which files belong to the code: what git would not ignore, and what `.spotterignore` does not exclude; never `.git`.

use std::{collections::BTreeSet, os::unix::ffi::OsStrExt, path::Path};

/// Most files of one copy: a directory with more is not code but data that belongs into a bucket.
const FILES_LIMIT: usize = 1_000_000;

/// The files could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// A directory or an ignore file could not be read.
    #[error("files of {root} cannot be listed: {why}")]
    Read {
        /// Directory.
        root: String,
        /// Why.
        why: String,
    },
    /// There are too many.
    #[error(
        "{root} has more than {FILES_LIMIT} files that are not ignored: exclude data by .spotterignore"
    )]
    TooMany {
        /// Directory.
        root: String,
    },
}

/// Paths of files and links, relative to `root`, as bytes.
///
/// # Errors
/// When something cannot be read: half a list would delete files on the box.
pub fn list_files(root: &Path) -> Result<BTreeSet<Vec<u8>>, ListError> {
    let name = || root.display().to_string();
    if !root.is_dir() {
        return Err(ListError::Read {
            root: name(),
            why: "it is not a directory".to_owned(),
        });
    }
    let mut walk = ignore::WalkBuilder::new(root);
    // Hidden files are code too (`.env` follows .gitignore); a tree outside of git has a .gitignore all the same.
    walk.hidden(false)
        .require_git(false)
        .follow_links(false)
        .add_custom_ignore_filename(".spotterignore");
    walk.filter_entry(|entry| {
        entry.file_name() != ".git" && entry.file_name() != ".spotter-partial"
    });
    let mut files = BTreeSet::new();
    for entry in walk.build() {
        let entry = entry.map_err(|err| ListError::Read {
            root: name(),
            why: err.to_string(),
        })?;
        // A bad line of an ignore file: what it meant to exclude might be a secret.
        if let Some(err) = entry.error() {
            return Err(ListError::Read {
                root: name(),
                why: err.to_string(),
            });
        }
        let copied = entry
            .file_type()
            .is_some_and(|kind| kind.is_file() || kind.is_symlink());
        if copied && let Ok(path) = entry.path().strip_prefix(root) {
            files.insert(path.as_os_str().as_bytes().to_vec());
        }
        if files.len() > FILES_LIMIT {
            return Err(ListError::TooMany { root: name() });
        }
    }
    Ok(files)
}

/// A relative path that stays inside its directory, without `.` and doubled slashes; `None` for any other.
pub(super) fn inside(path: &[u8]) -> Option<Vec<u8>> {
    if path.starts_with(b"/") || path.contains(&0) {
        return None;
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn ignore_files_are_honoured_with_their_exceptions() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(".gitignore", "*.tmp\n!keep.tmp\n/build\n.env\n");
        write(".spotterignore", "data/\n");
        write(".git/config", "secret");
        write("sub/.git/config", "secret");
        for path in [
            "train.py",
            ".hidden",
            "a.tmp",
            "keep.tmp",
            "build/out",
            "src/build/x",
            "data/big",
            "sub/y",
            ".env",
            "b c\nd",
        ] {
            write(path, "x");
        }
        std::os::unix::fs::symlink("train.py", dir.path().join("link")).unwrap();
        let files = list_files(dir.path()).unwrap();
        let files: Vec<&str> = files
            .iter()
            .map(|path| std::str::from_utf8(path).unwrap())
            .collect();
        assert_eq!(
            files,
            [
                ".gitignore",
                ".hidden",
                ".spotterignore",
                "b c\nd",
                "keep.tmp",
                "link",
                "src/build/x",
                "sub/y",
                "train.py"
            ]
        );
    }

    #[test]
    fn paths_stay_inside() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(
                inside(path.as_bytes()),
                expected.map(|path| path.as_bytes().to_vec()),
                "{path}"
            );
        };
        check("a/b", Some("a/b"));
        check("./a//b/.", Some("a/b"));
        check("/etc/passwd", None);
        check("a/../../b", None);
        check("..", None);
        check("", None);
        check(".", None);
        check("a\0b", None);
        check("..a", Some("..a"));
    }
}
