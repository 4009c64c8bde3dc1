//! Files that are complete or absent: written aside, synced, then renamed; and hashes of what lies under a directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    mem,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::fault;
use spotter_bucket::sorted::sort_by;

mod meant;

use meant::{Leads, expand, leads, not_among};
pub use meant::{Meant, inside};

/// Most files that one listing may hold: an answer of that many rows stays under the 4 MiB of a message.
pub const HASHED_FILES_LIMIT: usize = 20_000;

/// Writes a file for its owner only so that a reader sees the old or the new bytes, also after power was lost.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path
        .parent()
        .ok_or_else(|| io::Error::other("a file needs a directory"))?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("a file needs a name"))?;
    let aside = dir.join(format!(".{}.tmp", name.to_string_lossy()));
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fault::point("file", "aside");
    fs::rename(&aside, path)?;
    fault::point("file", "renamed");
    sync_dir(dir)
}

/// Makes renames in a directory survive a loss of power.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a small file; `None` when it does not exist.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// A file with what proves a copy of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedFile {
    /// Relative to the working directory.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
    /// blake3, hex.
    pub blake3: String,
}

/// Why files could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The path leaves the working directory.
    #[error("path `{0}` is refused: it must be relative and stay in the working directory")]
    Escapes(String),
    /// No pattern.
    #[error("`{pattern}` is no pattern: {reason}")]
    Pattern {
        /// The part of it.
        pattern: String,
        /// Why.
        reason: &'static str,
    },
    /// More files than an answer can hold.
    #[error("more than {HASHED_FILES_LIMIT} files: name fewer directories")]
    TooMany,
    /// A file could not be read.
    #[error("{path} could not be read")]
    Read {
        /// The file or directory.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// What [`hash_files`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// Every regular file, sorted by path.
    pub files: Vec<HashedFile>,
    /// Paths and patterns of which there is nothing.
    pub missing: Vec<String>,
    /// Files and directories that the paths and patterns mean, sorted.
    pub meant: Vec<PathBuf>,
    /// Links among these that lead to what is not among these too, inside of the working directory or out of it, sorted: they are not followed.
    pub leading_out: Vec<PathBuf>,
    /// Links among these that lead to nothing, sorted.
    pub broken: Vec<PathBuf>,
}

/// Hashes the named files and everything under the named directories; see [`expand`] for what a name may be. A symbolic link inside a
/// directory is the file that it leads to, where that lies in the working directory.
pub fn hash_files(workdir: &Path, paths: &[String]) -> Result<Hashed, HashError> {
    let mut files = Vec::new();
    let hash = &mut |relative: &Path, _: &fs::Metadata| push_hash(workdir, relative, &mut files);
    let taken = every_file(workdir, paths, hash)?;
    sort_by(&mut files, |a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    Ok(Hashed {
        files,
        missing: taken.missing,
        meant: taken.there,
        leading_out: taken.links,
        broken: taken.broken,
    })
}

/// Gives every file that the named files, directories and patterns mean, some of them perhaps twice, with what it leads to where it is a
/// link. Of the links in the answer only those are left that lead to what is not among these files: one rule, whoever takes them.
pub fn every_file(workdir: &Path, paths: &[String], each: Each<'_>) -> Result<Meant, HashError> {
    let mut meant = expand(workdir, paths)?;
    let mut links = mem::take(&mut meant.links);
    let mut broken = mem::take(&mut meant.broken);
    for relative in &meant.there {
        let read = |source| HashError::Read {
            path: relative.display().to_string(),
            source,
        };
        let metadata = fs::metadata(workdir.join(relative)).map_err(read)?;
        if metadata.is_dir() {
            walk(workdir, relative, each, (&mut links, &mut broken))?;
        } else {
            each(relative, &metadata)?;
        }
    }
    meant.links = not_among(workdir, &meant.there, links);
    broken.sort_unstable();
    broken.dedup();
    meant.broken = broken;
    Ok(meant)
}

/// Takes a file.
pub type Each<'a> = &'a mut dyn FnMut(&Path, &fs::Metadata) -> Result<(), HashError>;

fn walk(
    workdir: &Path,
    relative: &Path,
    each: Each<'_>,
    (links, broken): (&mut Vec<PathBuf>, &mut Vec<PathBuf>),
) -> Result<(), HashError> {
    let read = |source| HashError::Read {
        path: relative.display().to_string(),
        source,
    };
    for entry in fs::read_dir(workdir.join(relative)).map_err(read)? {
        let entry = entry.map_err(read)?;
        let kind = entry.file_type().map_err(read)?;
        let child = relative.join(entry.file_name());
        if kind.is_dir() {
            walk(workdir, &child, each, (links, broken))?;
        } else if kind.is_file() {
            each(&child, &entry.metadata().map_err(read)?)?;
        } else if kind.is_symlink() {
            match leads(workdir, &child) {
                Leads::ToFile => {
                    let metadata = fs::metadata(workdir.join(&child)).map_err(read)?;
                    each(&child, &metadata)?;
                }
                Leads::Elsewhere => links.push(child),
                Leads::Nowhere => broken.push(child),
            }
        }
    }
    Ok(())
}

fn push_hash(
    workdir: &Path,
    relative: &Path,
    files: &mut Vec<HashedFile>,
) -> Result<(), HashError> {
    if files.len() >= HASHED_FILES_LIMIT {
        return Err(HashError::TooMany);
    }
    let path = relative.to_string_lossy().into_owned();
    let (size_bytes, blake3) =
        hash_file(&workdir.join(relative)).map_err(|source| HashError::Read {
            path: path.clone(),
            source,
        })?;
    files.push(HashedFile {
        path,
        size_bytes,
        blake3,
    });
    Ok(())
}

/// Size in bytes and blake3 in hex of what one read of the file saw.
pub fn hash_file(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((size, hasher.finalize().to_hex().to_string()));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_walked_sorted_and_missing_paths_reported() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("out/deep")).unwrap();
        fs::write(dir.path().join("out/b"), b"bb").unwrap();
        fs::write(dir.path().join("out/deep/a"), b"").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out/link")).unwrap();
        std::os::unix::fs::symlink("../out/b", dir.path().join("out/newest")).unwrap();
        std::os::unix::fs::symlink("deep", dir.path().join("out/shallow")).unwrap();

        let hashed =
            hash_files(dir.path(), &["./out".into(), "out/b".into(), "none".into()]).unwrap();

        let paths: Vec<_> = hashed
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.size_bytes))
            .collect();
        assert_eq!(paths, [("out/b", 2), ("out/deep/a", 0), ("out/newest", 2)]);
        assert_eq!(hashed.leading_out, [Path::new("out/link")]);
        let found = hash_files(dir.path(), &["out/[ln]*".into(), "out/sh*".into()]).unwrap();
        assert_eq!(found.meant, [Path::new("out/newest")]);
        let elsewhere = ["out/link", "out/shallow"].map(PathBuf::from);
        assert_eq!(found.leading_out, elsewhere);
        assert_eq!(found.missing, ["out/sh*"]);
        assert_eq!(
            hashed.files[0].blake3,
            blake3::hash(b"bb").to_hex().to_string()
        );
        assert_eq!(hashed.missing, ["none"]);
    }

    #[test]
    fn a_link_to_what_is_not_fetched_with_it_is_named_and_any_other_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["out/run-1/a", "out/run-1/deep/b", "runs/7/step-900/model"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        fs::create_dir(dir.path().join("out/links")).unwrap();
        for (target, link) in [
            ("../runs/7/step-900", "out/best"),
            ("run-1", "out/latest"),
            ("nothing", "out/gone"),
            ("../run-1/deep", "out/links/deep"),
            ("..", "out/links/up"),
            ("../../runs/7/step-900/model", "out/links/model"),
        ] {
            std::os::unix::fs::symlink(target, dir.path().join(link)).unwrap();
        }
        for (paths, expected) in [
            (&["out"][..], &["out/best"][..]),
            (&["out", "runs/7"], &[]),
            (&["out", "out/best"], &[]),
            (&["."], &[]),
            // Every file for itself, among them that in the best one by another name.
            (&["out/**"], &["out/links/up"]),
            (&["out/*"], &["out/best", "out/links/up"]),
            (
                &["out/l*"],
                &["out/latest", "out/links/deep", "out/links/up"],
            ),
            (&["out/run-1", "out/l*t"], &[]),
            (&["out/b*", "runs/*/step-900"], &[]),
            (&["out/b*", "runs/*/step-900/*"], &[]),
        ] {
            let wanted: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            let found = hash_files(dir.path(), &wanted).unwrap();
            let broken: &[&Path] = match paths[0] {
                "out" | "." | "out/*" | "out/**" => &[Path::new("out/gone")],
                _ => &[],
            };
            assert_eq!(found.broken, broken, "{paths:?}");
            let found = found.leading_out;
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(found, expected, "{paths:?}");
        }
    }

    #[test]
    fn paths_that_leave_the_working_directory_are_refused() {
        for path in ["/etc/passwd", "../x", "a/../../x"] {
            let err = hash_files(Path::new("/tmp"), &[path.to_owned()]).unwrap_err();
            assert!(matches!(err, HashError::Escapes(_)), "{path}: {err}");
        }
    }

    #[test]
    fn a_durable_write_replaces_the_old_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_durably(&path, b"one").unwrap();
        write_durably(&path, b"two").unwrap();
        assert_eq!(read_if_there(&path).unwrap().unwrap(), b"two");
        assert_eq!(read_if_there(&dir.path().join("absent")).unwrap(), None);
    }
}
