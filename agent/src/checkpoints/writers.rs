//! Whether anybody has a file open for writing: by a lease, or by reading `/proc` where leases cannot be had.
//!
//! A lease sees everybody. `/proc` shows the processes of the same user (all of them, as root): on a rented box that is the training.
//! Both see a file that was closed but is still mapped writable and shared, as some loaders leave it.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lease::{self, NoLease};

/// Longest list of mappings read of one process: ten times that of a large PyTorch program.
const MAX_MAPS_BYTES: u64 = 16 << 20;

/// The first of the files that somebody holds open for writing. An error when there is no `/proc` to ask where it is needed.
pub fn written_to(paths: &[PathBuf], leases: bool) -> io::Result<Option<&Path>> {
    if leases {
        match by_leases(paths)? {
            Some(Answer::Nobody) => return Ok(None),
            Some(Answer::Somebody(at)) => return Ok(Some(&paths[at])),
            None => {}
        }
    }
    if !any_writer(paths)? {
        return Ok(None);
    }
    // Which one it is, for people; it may be closed by now, and then it was the first.
    for path in paths {
        if any_writer(std::slice::from_ref(path))? {
            return Ok(Some(path));
        }
    }
    Ok(paths.first().map(PathBuf::as_path))
}

enum Answer {
    Nobody,
    Somebody(usize),
}

/// Asks by leases that are given back at once; `None` when there are none to be had here.
fn by_leases(paths: &[PathBuf]) -> io::Result<Option<Answer>> {
    for (at, path) in paths.iter().enumerate() {
        let file = match fs::File::open(path) {
            Ok(file) => Arc::new(file),
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => return Err(err),
        };
        match lease::take(&file) {
            Ok(given_back) => drop(given_back),
            Err(NoLease::Writer) => return Ok(Some(Answer::Somebody(at))),
            Err(NoLease::Unavailable(_)) => return Ok(None),
        }
    }
    Ok(Some(Answer::Nobody))
}

/// Whether any process holds one of the files open for writing, by `/proc`.
fn any_writer(paths: &[PathBuf]) -> io::Result<bool> {
    let mut wanted = Wanted {
        files: HashSet::new(),
        mapped: HashSet::new(),
    };
    for path in paths {
        let Ok(metadata) = fs::metadata(path) else {
            continue;
        };
        wanted.files.insert((metadata.dev(), metadata.ino()));
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            wanted.mapped.insert((metadata.ino(), name.to_owned()));
        }
    }
    for process in fs::read_dir("/proc")? {
        let Ok(process) = process else { continue };
        let is_process = process
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        // A process that ends while we look, or belongs to somebody else, cannot be asked.
        if is_process
            && (wanted.is_open_in(&process.path()) || wanted.is_mapped_in(&process.path()))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Wanted {
    /// Device and inode.
    files: HashSet<(u64, u64)>,
    /// Inode and name: the device in a list of mappings differs from that of `stat` on overlay file systems.
    mapped: HashSet<(u64, String)>,
}

impl Wanted {
    fn is_open_in(&self, process: &Path) -> bool {
        let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
            return false;
        };
        descriptors.flatten().any(|descriptor| {
            let is_ours = fs::metadata(descriptor.path()).is_ok_and(|metadata| {
                metadata.is_file() && self.files.contains(&(metadata.dev(), metadata.ino()))
            });
            is_ours && is_writable(&process.join("fdinfo").join(descriptor.file_name()))
        })
    }

    fn is_mapped_in(&self, process: &Path) -> bool {
        let mut text = Vec::new();
        let Ok(maps) = fs::File::open(process.join("maps")) else {
            return false;
        };
        if maps.take(MAX_MAPS_BYTES).read_to_end(&mut text).is_err() {
            return false;
        }
        String::from_utf8_lossy(&text)
            .lines()
            .any(|line| self.is_shared_writable(line))
    }

    /// Judges a line such as `7f00-7f10 rw-s 00000000 08:01 131 /checkpoints/model.bin`.
    fn is_shared_writable(&self, line: &str) -> bool {
        let mut fields = line.split_ascii_whitespace();
        let permissions = fields.nth(1).unwrap_or_default().as_bytes();
        if permissions.get(1) != Some(&b'w') || permissions.get(3) != Some(&b's') {
            return false;
        }
        let ino = fields.nth(2).and_then(|ino| ino.parse().ok()).unwrap_or(0);
        let name = line.rsplit('/').next().unwrap_or_default();
        self.mapped.contains(&(ino, name.to_owned()))
    }
}

/// Reads the open flags: the lowest two bits are zero for reading only.
fn is_writable(fdinfo: &Path) -> bool {
    let Ok(text) = fs::read_to_string(fdinfo) else {
        return false;
    };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & 0o3 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shared_writable_mapping_of_the_file_counts() {
        let wanted = Wanted {
            files: HashSet::new(),
            mapped: HashSet::from([(131, "model.bin".to_owned())]),
        };
        let check = |line: &str, expected: bool| {
            assert_eq!(wanted.is_shared_writable(line), expected, "{line}")
        };
        check(
            "7f00-7f10 rw-s 00000000 08:01 131 /checkpoints/model.bin",
            true,
        );
        check(
            "7f00-7f10 r--s 00000000 08:01 131 /checkpoints/model.bin",
            false,
        );
        check(
            "7f00-7f10 rw-p 00000000 08:01 131 /checkpoints/model.bin",
            false,
        );
        check(
            "7f00-7f10 rw-s 00000000 08:01 132 /checkpoints/model.bin",
            false,
        );
        check("7f00-7f10 rw-s 00000000 00:00 0", false);
        check("", false);
    }
}
