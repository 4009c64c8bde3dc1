//! Which disk was full: where the file lies that could not be written, or the fullest of those that a training writes to.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use spotter_trainlog::failure::refused_path;

use crate::telemetry::host;

/// A mount that hangs must not hold up what happened to sessions.
const LIMIT: Duration = Duration::from_secs(2);

/// A disk and what is free on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// It holds the working directory, whose disk is measured all the time.
    pub is_workdirs: bool,
}

/// The disk that the line `evidence` is about; of a line that names no file the fullest one that holds one of `written`. Relative paths are in
/// `workdir`. `None`: nothing is known, or a mount hangs.
pub fn find(evidence: &str, workdir: &Path, written: &[PathBuf]) -> Option<Full> {
    let meant = match refused_path(evidence) {
        Some(path) => vec![workdir.join(path)],
        None => written.to_vec(),
    };
    let (tell, told) = mpsc::channel();
    let workdir = workdir.to_owned();
    // On its own: what hangs in the kernel is left behind.
    thread::spawn(move || {
        let found = meant.iter().filter_map(|path| full(path, &workdir));
        tell.send(found.min_by_key(|found| found.free_bytes)).ok();
    });
    told.recv_timeout(LIMIT).ok().flatten()
}

fn full(path: &Path, workdir: &Path) -> Option<Full> {
    let free_bytes = host::disk(path)?.free_bytes;
    // The topmost directory above it on the same device.
    let on = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    let mut above = path.ancestors().filter_map(|path| Some((path, on(path)?)));
    let (mut mount, device) = above.next()?;
    for (path, other) in above {
        if other != device {
            break;
        }
        mount = path;
    }
    Some(Full {
        mount: mount.to_owned(),
        free_bytes,
        is_workdirs: on(workdir) == Some(device),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_that_of_the_file_and_not_of_the_working_directory() {
        let shm = Path::new("/dev/shm");
        let here = tempfile::tempdir().unwrap();
        let mount = |evidence: &str, written: &[PathBuf]| {
            find(evidence, here.path(), written).map(|found| found.mount)
        };
        let named = "OSError: [Errno 28] No space left on device: '/dev/shm/not/there/x.pt'";
        // Where memory is no mount of its own, the file is on the disk that holds it.
        let expected = full(shm, here.path()).unwrap().mount;
        assert_eq!(
            mount(named, &[here.path().to_owned()]),
            Some(expected.clone())
        );
        let unnamed = "unexpected pos 64 vs 0";
        assert_eq!(mount(unnamed, &[shm.join("a")]), Some(expected));
        assert_eq!(mount(unnamed, &[]), None);
        let relative = "tee: ./log: No space left on device";
        assert_eq!(
            mount(relative, &[]),
            full(here.path(), here.path()).map(|found| found.mount)
        );
        assert!(full(here.path(), here.path()).unwrap().is_workdirs);
        assert!(!full(Path::new("/proc"), here.path()).is_some_and(|found| found.is_workdirs));
    }
}
