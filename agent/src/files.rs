//! Files that are complete or absent: written aside, synced, then renamed; and hashes of what lies under a directory.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use crate::fault;
use spotter_bucket::sorted::sort_by;

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
    /// Links among these that lead out of the working directory, sorted: they are not followed.
    pub leading_out: Vec<PathBuf>,
}

/// What paths and patterns mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Meant {
    /// Files and directories, sorted. A link that a pattern found is that file.
    pub there: Vec<PathBuf>,
    /// Paths and patterns of which there is nothing.
    pub missing: Vec<String>,
    /// Links that patterns found and that lead out of the working directory, sorted.
    pub leading_out: Vec<PathBuf>,
}

/// Hashes the named files and everything under the named directories; see [`expand`] for what a name may be. A symbolic link inside a
/// directory is the file that it leads to, where that lies in the working directory.
pub fn hash_files(workdir: &Path, paths: &[String]) -> Result<Hashed, HashError> {
    let Meant {
        there: meant,
        missing,
        leading_out,
    } = expand(workdir, paths)?;
    let mut hashed = Hashed {
        missing,
        leading_out,
        ..Hashed::default()
    };
    for relative in &meant {
        let read = |source| HashError::Read {
            path: relative.display().to_string(),
            source,
        };
        if fs::metadata(workdir.join(relative)).map_err(read)?.is_dir() {
            hash_dir(workdir, relative, &mut hashed)?;
        } else {
            push_hash(workdir, relative, &mut hashed.files)?;
        }
    }
    hashed.meant = meant;
    sort_by(&mut hashed.files, |a, b| a.path.cmp(&b.path));
    hashed.files.dedup_by(|a, b| a.path == b.path);
    hashed.leading_out.sort_unstable();
    hashed.leading_out.dedup();
    Ok(hashed)
}

/// Files and directories that paths and patterns mean, sorted, and those of which there is nothing. In a pattern `*` and `?` stand for
/// characters of one name, `[ab]` for one of several, `**` for any number of directories; a path that exists is no pattern.
pub fn expand(workdir: &Path, paths: &[String]) -> Result<Meant, HashError> {
    let (mut meant, mut leading_out) = (BTreeSet::new(), BTreeSet::new());
    let mut missing = Vec::new();
    for path in paths {
        let relative = inside(path).ok_or_else(|| HashError::Escapes(path.clone()))?;
        match fs::metadata(workdir.join(&relative)) {
            Ok(_) => {
                meant.insert(relative);
                continue;
            }
            Err(err) if is_absent(&err) => {}
            Err(source) => {
                return Err(HashError::Read {
                    path: path.clone(),
                    source,
                });
            }
        }
        let before = meant.len();
        if path.contains(['*', '?', '[']) {
            let names: Vec<String> = relative
                .iter()
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            let mut found = Found {
                meant: &mut meant,
                leading_out: &mut leading_out,
            };
            descend(workdir, Path::new(""), &names, &mut found)?;
        }
        // What another pattern has found already is found all the same.
        if meant.len() == before && !meant.iter().any(|one| matches(path, one)) {
            missing.push(path.clone());
        }
    }
    Ok(Meant {
        there: meant.into_iter().collect(),
        missing,
        leading_out: leading_out.into_iter().collect(),
    })
}

/// What patterns found so far.
struct Found<'a> {
    meant: &'a mut BTreeSet<PathBuf>,
    leading_out: &'a mut BTreeSet<PathBuf>,
}

/// Where a link leads that nobody named.
enum Leads {
    /// To a file in the working directory.
    ToFile,
    /// Out of it.
    Out,
    /// To a directory in it, whose files have names of their own, or to nothing.
    ToNoFile,
}

fn leads(workdir: &Path, link: &Path) -> Leads {
    let (Ok(home), Ok(target)) = (
        fs::canonicalize(workdir),
        fs::canonicalize(workdir.join(link)),
    ) else {
        return Leads::ToNoFile;
    };
    match target.starts_with(&home) {
        false => Leads::Out,
        true if target.is_file() => Leads::ToFile,
        true => Leads::ToNoFile,
    }
}

/// Nothing is there: no such name, or a file where a directory would have to be.
fn is_absent(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn matches(pattern: &str, path: &Path) -> bool {
    let options = glob::MatchOptions {
        require_literal_separator: true,
        ..glob::MatchOptions::default()
    };
    let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
    glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path_with(path, options))
}

/// Adds what lies below `at` under these names. Links that nobody named are taken for the files they lead to, and never followed out.
fn descend(
    workdir: &Path,
    at: &Path,
    names: &[String],
    found: &mut Found<'_>,
) -> Result<(), HashError> {
    let Some((name, rest)) = names.split_first() else {
        return Ok(());
    };
    if found.meant.len() > HASHED_FILES_LIMIT {
        return Err(HashError::TooMany);
    }
    if !name.contains(['*', '?', '[']) {
        // A link that was named is followed, as it is outside of patterns.
        let child = at.join(name);
        if !rest.is_empty() {
            return descend(workdir, &child, rest, found);
        }
        if fs::metadata(workdir.join(&child)).is_ok() {
            found.meant.insert(child);
        }
        return Ok(());
    }
    if name == "**" {
        // No directory at all, too.
        descend(workdir, at, rest, found)?;
    }
    let bad = |err: glob::PatternError| HashError::Pattern {
        pattern: name.clone(),
        reason: err.msg,
    };
    let pattern = match name.as_str() {
        "**" => None,
        name => Some(glob::Pattern::new(name).map_err(bad)?),
    };
    let entries = match fs::read_dir(workdir.join(at)) {
        Ok(entries) => entries,
        // Gone since it was listed, or no directory: nothing lies below it.
        Err(err) if is_absent(&err) => return Ok(()),
        Err(source) => {
            return Err(HashError::Read {
                path: at.display().to_string(),
                source,
            });
        }
    };
    for entry in entries.flatten() {
        let child = at.join(entry.file_name());
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let fits = match &pattern {
            Some(pattern) => pattern.matches(&entry.file_name().to_string_lossy()),
            // At its end it means everything below.
            None => rest.is_empty() || kind.is_dir(),
        };
        if fits && kind.is_symlink() && rest.is_empty() {
            match leads(workdir, &child) {
                Leads::ToFile => drop(found.meant.insert(child)),
                Leads::Out => drop(found.leading_out.insert(child)),
                Leads::ToNoFile => {}
            }
            continue;
        }
        if !fits || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        match &pattern {
            None if kind.is_dir() => descend(workdir, &child, names, found)?,
            Some(_) if !rest.is_empty() => descend(workdir, &child, rest, found)?,
            _ => {
                found.meant.insert(child);
            }
        }
    }
    Ok(())
}

/// The path with `.` removed, or `None` when it is absolute or climbs out by `..`.
pub fn inside(path: &str) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

fn hash_dir(workdir: &Path, relative: &Path, hashed: &mut Hashed) -> Result<(), HashError> {
    let read = |source| HashError::Read {
        path: relative.display().to_string(),
        source,
    };
    for entry in fs::read_dir(workdir.join(relative)).map_err(read)? {
        let entry = entry.map_err(read)?;
        let kind = entry.file_type().map_err(read)?;
        let child = relative.join(entry.file_name());
        if kind.is_dir() {
            hash_dir(workdir, &child, hashed)?;
        } else if kind.is_file() {
            push_hash(workdir, &child, &mut hashed.files)?;
        } else if kind.is_symlink() {
            match leads(workdir, &child) {
                Leads::ToFile => push_hash(workdir, &child, &mut hashed.files)?,
                Leads::Out => hashed.leading_out.push(child),
                Leads::ToNoFile => {}
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
        assert_eq!(found.leading_out, [Path::new("out/link")]);
        assert_eq!(found.missing, ["out/sh*"]);
        assert_eq!(
            hashed.files[0].blake3,
            blake3::hash(b"bb").to_hex().to_string()
        );
        assert_eq!(hashed.missing, ["none"]);
    }

    #[test]
    fn patterns_mean_what_a_shell_would_make_of_them() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "a.pt",
            "b.pt",
            "c.txt",
            "[x].log",
            "out/final.pt",
            "out/deep/best.pt",
            "out/deep/.metadata",
            "ckpt-1/model",
            "ckpt-2/model",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "content").unwrap();
        }
        std::os::unix::fs::symlink("/etc", dir.path().join("out/etc")).unwrap();
        let check = |patterns: &[&str], meant: &[&str], missing: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|one| (*one).to_owned()).collect();
            let found = expand(dir.path(), &patterns).unwrap();
            let (found, none) = (found.there, found.missing);
            let found: Vec<&str> = found.iter().map(|path| path.to_str().unwrap()).collect();
            let none: Vec<&str> = none.iter().map(String::as_str).collect();
            assert_eq!((&found[..], &none[..]), (meant, missing), "{patterns:?}");
        };
        check(&["*.pt"], &["a.pt", "b.pt"], &[]);
        check(&["./?.pt", "a.pt"], &["a.pt", "b.pt"], &[]);
        check(&["a.pt", "*.pt", "[ab].pt"], &["a.pt", "b.pt"], &[]);
        check(&["[x].log"], &["[x].log"], &[]);
        check(
            &["**/*.pt"],
            &["a.pt", "b.pt", "out/deep/best.pt", "out/final.pt"],
            &[],
        );
        check(
            &["out/**"],
            &["out/deep/.metadata", "out/deep/best.pt", "out/final.pt"],
            &[],
        );
        check(&["ckpt-*"], &["ckpt-1", "ckpt-2"], &[]);
        check(
            &["ckpt-*/model", "none"],
            &["ckpt-1/model", "ckpt-2/model"],
            &["none"],
        );
        check(
            &["*.bin", "out/*/x", "a.pt/*"],
            &[],
            &["*.bin", "out/*/x", "a.pt/*"],
        );
        check(
            &["out/*/passwd", "out/e*"],
            &[],
            &["out/*/passwd", "out/e*"],
        );
        for pattern in ["/etc/*", "../*", "a/../../*"] {
            assert!(
                expand(dir.path(), &[pattern.to_owned()]).is_err(),
                "{pattern}"
            );
        }
        let bad = expand(dir.path(), &["[".to_owned()]);
        assert!(matches!(bad, Err(HashError::Pattern { .. })), "{bad:?}");
        let hashed = hash_files(dir.path(), &["ckpt-*".to_owned()]).unwrap();
        assert_eq!(hashed.files.len(), 2);
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
