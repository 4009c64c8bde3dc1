//! One simulator in one directory: the lock that keeps a second one out, the names that all it makes carry, and the sweep that
//! finds everything by those names, after a kill too.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, umount2},
    unistd::geteuid,
};

use super::{isolated, network, processes::Selection};

/// A simulator's hold on its directory.
#[derive(Debug)]
pub(super) struct Instance {
    dir: PathBuf,
    tag: String,
    /// Held for life; no other simulator may sweep what we use.
    _lock: Flock<File>,
}

impl Instance {
    /// Makes the directory if need be and locks it.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Instance> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir
            .canonicalize()
            .with_context(|| format!("cannot resolve {}", dir.display()))?;
        // The path goes into sshd_config, mount options and shell arguments, none of which can quote all of these.
        let text = dir
            .to_str()
            .context("the directory for boxes is not valid UTF-8")?;
        if let Some(odd) = text
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !"/._-+=@".contains(*c))
        {
            bail!(
                "boxes cannot live in {text}: its path holds {odd:?}; choose one of letters, digits and /._-+=@"
            );
        }
        let path = dir.join("boxes.lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("another simulator uses {text}"))?;
        let tag = blake3::hash(text.as_bytes()).to_hex()[..10].to_owned();
        Ok(Instance {
            dir,
            tag,
            _lock: lock,
        })
    }

    /// Where the boxes are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ten hex digits that are this directory's alone; part of every name we give to something outside of it.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// Directory of a box.
    pub(super) fn box_dir(&self, id: u64) -> PathBuf {
        self.dir.join(format!("b{id}"))
    }

    /// Mark of a box's processes.
    pub(super) fn mark(&self, id: u64) -> String {
        format!("{}.{id}", self.tag)
    }

    /// Removes everything that carries our names. Nothing of ours may be in use.
    pub(super) fn sweep(&self) -> anyhow::Result<()> {
        Selection {
            mark: format!("{}.", self.tag),
            root: self.dir.clone(),
        }
        .kill_all()?;
        if geteuid().is_root() {
            for mount in mounts_under(&self.dir)? {
                umount2(&mount, MntFlags::MNT_DETACH)
                    .with_context(|| format!("cannot unmount {}", mount.display()))?;
            }
            network::sweep(&self.tag)?;
            isolated::sweep_cgroups(&self.tag)?;
        }
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix('b'));
            if number.is_some_and(|number| number.parse::<u64>().is_ok()) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Removes a directory and all in it, also where a job took away its own right to write (a read-only cache, say).
pub(super) fn remove_tree(path: &Path) -> anyhow::Result<()> {
    if fs::remove_dir_all(path).is_ok() || !path.exists() {
        return Ok(());
    }
    let mut open = vec![path.to_path_buf()];
    while let Some(dir) = open.pop() {
        let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Mount points under `dir`, deepest first.
fn mounts_under(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read the table of mounts")?;
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(dir) && mount != dir)
        .collect();
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.components().count()));
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_serves_one_simulator_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::open(dir.path()).unwrap();
        let second = Instance::open(dir.path()).unwrap_err();
        assert!(
            second.to_string().contains("another simulator uses"),
            "{second:#}"
        );
        drop(first);
        Instance::open(dir.path()).unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_quoted_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let err = Instance::open(&dir.path().join("a b")).unwrap_err();
        assert!(err.to_string().contains("' '"), "{err:#}");
    }

    #[test]
    fn a_sweep_removes_boxes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b17/home", "bucket", "bx"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::set_permissions(
            dir.path().join("b17/home"),
            fs::Permissions::from_mode(0o500),
        )
        .unwrap();
        Instance::open(dir.path()).unwrap().sweep().unwrap();
        assert!(!dir.path().join("b17").exists());
        assert!(dir.path().join("bucket").exists() && dir.path().join("bx").exists());
    }
}
