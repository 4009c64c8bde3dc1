//! What lies on this machine to be pushed: every file of it, and whether it is a whole checkpoint. Blocks on the disk.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use spotter_bucket::{
    manifest::MAX_FILES,
    whole::{
        candidate::Candidate,
        folder::{self, stat_of},
        names,
        rules::user::CompleteWhen,
    },
};

use super::{PushError, read};

/// A file as it was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub path: PathBuf,
    /// Relative to the checkpoint; empty when it is the checkpoint.
    pub relative: String,
    pub size_bytes: u64,
    pub mode: u32,
    pub mtime_ns: i64,
}

/// Holds it against the very rules by which a box takes a checkpoint for finished.
pub(super) fn prove(
    from: &Path,
    directory: bool,
    found: &[Found],
    when: Option<&CompleteWhen>,
) -> Result<(), PushError> {
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let file = |file: &Found| {
        let metadata = fs::metadata(&file.path).map_err(read(&file.path))?;
        Ok(stat_of(&file.relative, &metadata))
    };
    let temporary = (found.iter().map(|file| &file.relative))
        .find(|path| names::is_temporary(path.rsplit('/').next().unwrap_or_default()));
    let candidate = Candidate {
        key: name.to_string(),
        path: name.to_string(),
        step: names::step_of(&name),
        directory,
        unfinished: temporary.cloned(),
        unreadable: None,
        files: found.iter().map(file).collect::<Result<_, PushError>>()?,
    };
    let dir = from.parent().unwrap_or(Path::new("/"));
    match folder::flaw(dir, &candidate, when).map_err(read(from))? {
        None => Ok(()),
        Some(reason) => Err(PushError::NotWhole {
            path: from.to_owned(),
            reason,
        }),
    }
}

/// Whether it is a directory, and every file of it, sorted.
pub(super) fn list(from: &Path) -> Result<(bool, Vec<Found>), PushError> {
    let unfit = |reason| PushError::Unfit {
        path: from.to_owned(),
        reason,
    };
    let name = from.file_name().and_then(|name| name.to_str());
    match name {
        None => return Err(unfit("it has no name")),
        Some(name) if name.starts_with('.') => return Err(unfit("its name begins with a dot")),
        Some(_) => {}
    }
    let metadata = fs::metadata(from).map_err(read(from))?;
    let mut found = Vec::new();
    if metadata.is_dir() {
        walk(from, "", &mut found)?;
        if found.is_empty() {
            return Err(unfit("it holds no file"));
        }
        found.sort_by(|a, b| a.relative.cmp(&b.relative));
        return Ok((true, found));
    }
    found.push(stat(from, String::new(), &metadata)?);
    Ok((false, found))
}

fn walk(dir: &Path, relative: &str, found: &mut Vec<Found>) -> Result<(), PushError> {
    for entry in fs::read_dir(dir).map_err(read(dir))? {
        let entry = entry.map_err(read(dir))?;
        let path = entry.path();
        let unfit = |reason| PushError::Unfit {
            path: path.clone(),
            reason,
        };
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| unfit("its name is not UTF-8"))?;
        let child = match relative {
            "" => name.to_owned(),
            _ => format!("{relative}/{name}"),
        };
        let kind = entry.file_type().map_err(read(&path))?;
        if kind.is_dir() {
            walk(&path, &child, found)?;
        } else if kind.is_file() {
            let metadata = entry.metadata().map_err(read(&path))?;
            found.push(stat(&path, child, &metadata)?);
        } else {
            return Err(unfit("it is a link or no regular file"));
        }
        if found.len() > MAX_FILES {
            return Err(unfit("it holds more than 100,000 files"));
        }
    }
    Ok(())
}

fn stat(path: &Path, relative: String, metadata: &fs::Metadata) -> Result<Found, PushError> {
    if !metadata.is_file() {
        return Err(PushError::Unfit {
            path: path.to_owned(),
            reason: "it is no regular file",
        });
    }
    Ok(Found {
        path: path.to_owned(),
        relative,
        size_bytes: metadata.len(),
        mode: metadata.permissions().mode() & 0o7777,
        mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
    })
}

/// Whether it is what it was when it was found.
pub(super) fn is_the_same(file: &Found) -> io::Result<bool> {
    let now = fs::metadata(&file.path)?;
    let mtime_ns = now.mtime() * 1_000_000_000 + now.mtime_nsec();
    Ok(now.len() == file.size_bytes && mtime_ns == file.mtime_ns)
}
