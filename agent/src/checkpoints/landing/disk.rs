//! What a restore does with names and directories: puts in place, makes room, and makes durable.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spotter_bucket::Manifest;

use super::super::names::{PARTIAL_SUFFIX, REPLACED_SUFFIX};
use super::Landing;
use crate::fault;

pub(super) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        let mut aside = to.as_os_str().to_owned();
        aside.push(REPLACED_SUFFIX);
        let aside = PathBuf::from(aside);
        remove(&aside)?;
        fault::point("landing.replace", "cleared");
        fs::rename(to, &aside)?;
        fault::point("landing.replace", "aside");
    }
    fault::point("landing.rename", "before");
    fs::rename(from, to)?;
    fault::point("landing.rename", "after");
    Ok(())
}

/// Removes a file, a link or a directory with all it holds; fine when there is none. Links are removed, not followed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(err) => Err(err),
    };
    removed.or_else(|err| {
        if err.kind() == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(err)
        }
    })
}

/// Puts a directory on the disk with the time of the newest file below it: trainers that keep the newest few go by that.
pub(super) fn finish_directory(dir: &Path, relative: &str, manifest: &Manifest) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let name = entry.file_name();
            let below = format!("{relative}{}/", name.to_string_lossy());
            finish_directory(&entry.path(), &below, manifest)?;
        }
    }
    let below = manifest
        .files
        .iter()
        .filter(|file| file.path.starts_with(relative));
    let handle = File::open(dir)?;
    if let Some(newest_ns) = below.map(|file| file.mtime_ns).max() {
        handle.set_modified(time_of(newest_ns))?;
    }
    handle.sync_all()
}

/// What restores of other checkpoints left takes space that this one may need.
pub(super) fn remove_other_partials(dir: &Path, ours: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_partial = entry
            .file_name()
            .to_string_lossy()
            .ends_with(PARTIAL_SUFFIX);
        if is_partial && path != ours {
            Landing::remove_remainder(&path);
        }
    }
}

pub(super) fn time_of(mtime_ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(mtime_ns.unsigned_abs());
    if mtime_ns >= 0 {
        UNIX_EPOCH + distance
    } else {
        UNIX_EPOCH - distance
    }
}
