//! Everything as one tar stream, where rsync is missing: no comparison and no continuation within a file,
//! but it needs only `tar` on the box.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Progress, SyncError, finish, path_of, record::joined};
use crate::tunnel::{Lane, Tunnel, shell_word};

/// Between the archive and ssh.
const PIPE_BYTES: usize = 256 << 10;

pub(super) async fn push(
    tunnel: &Tunnel,
    from: &Path,
    to: &str,
    files: &BTreeSet<Vec<u8>>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), SyncError> {
    let mut remote = tunnel
        .start(
            Lane::Bulk,
            &format!("umask 022; exec tar -xf - -C {}", shell_word(to)),
        )
        .await?;
    let (writer, mut reader) = tokio::io::duplex(PIPE_BYTES);
    let (root, files) = (from.to_owned(), files.clone());
    let all = files.len() as u64;
    let mut into = tokio_util::io::SyncIoBridge::new(writer);
    let packing = tokio::task::spawn_blocking(move || -> io::Result<()> {
        let mut archive = tar::Builder::new(&mut into);
        archive.follow_symlinks(false);
        for file in &files {
            let path = path_of(file);
            archive.append_path_with_name(root.join(&path), &path)?;
        }
        archive.finish()?;
        drop(archive);
        into.flush()
    });
    let mut bytes = 0;
    let mut buffer = vec![0; PIPE_BYTES];
    loop {
        let read = reader
            .read(&mut buffer)
            .await
            .map_err(|err| SyncError::local("the archive could not be read", err))?;
        if read == 0 {
            break;
        }
        // tar that ends early says why by itself.
        if remote.stdin.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        bytes += read as u64;
        progress(Progress {
            bytes,
            files: (0, all),
            ..Progress::default()
        });
    }
    drop(reader);
    let packed = packing
        .await
        .map_err(|err| SyncError::local("the archive could not be made", io::Error::other(err)))?;
    finish(remote, "tar").await?;
    packed.map_err(|err| SyncError::local("the archive could not be made", err))
}

pub(super) async fn fetch(
    tunnel: &Tunnel,
    lane: Lane,
    from: &str,
    paths: &BTreeSet<Vec<u8>>,
    follow: bool,
    to: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), SyncError> {
    // What it met before it would leave out, and only say so.
    let follow = match follow {
        true => {
            "-h $(case \"$(tar --help </dev/null 2>&1)\" in (*--hard-dereference*) echo --hard-dereference;; esac) "
        }
        false => "",
    };
    // The list of names ends by itself (`head -c`), so that nothing has to be closed before the answer is read.
    let list = joined(paths.iter());
    let script = format!(
        "cd {} && head -c {} | tar {follow}--null -T - -cf -",
        shell_word(from),
        list.len()
    );
    let mut remote = tunnel.start(lane, &script).await?;
    remote
        .stdin
        .write_all(&list)
        .await
        .map_err(|err| SyncError::local("ssh took no list of files", err))?;
    remote
        .stdin
        .flush()
        .await
        .map_err(|err| SyncError::local("ssh took no list of files", err))?;
    let (mut writer, reader) = tokio::io::duplex(PIPE_BYTES);
    let target = to.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || {
        unpack(tokio_util::io::SyncIoBridge::new(reader), &target)
    });
    let mut bytes = 0;
    let mut buffer = vec![0; PIPE_BYTES];
    loop {
        let read = remote
            .stdout
            .read(&mut buffer)
            .await
            .map_err(|err| SyncError::local("ssh could not be read", err))?;
        if read == 0 || writer.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        bytes += read as u64;
        progress(Progress {
            bytes,
            ..Progress::default()
        });
    }
    drop(writer);
    let unpacked = unpacking.await.map_err(|err| {
        SyncError::local("the archive could not be unpacked", io::Error::other(err))
    })?;
    finish(remote, "tar").await?;
    unpacked.map_err(|err| {
        SyncError::local(format!("files cannot be written to {}", to.display()), err)
    })
}

/// Unpacks regular files and directories only, each inside `target`: the archive comes from somebody else's computer.
fn unpack(from: impl Read, target: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(path) = super::list::inside(&entry.path_bytes()).map(|path| path_of(&path)) else {
            continue;
        };
        match entry.header().entry_type() {
            tar::EntryType::Directory => directory(target, &path)?,
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                directory(target, path.parent().unwrap_or(Path::new("")))?;
                let name = path.file_name().unwrap_or_default();
                let aside = path
                    .with_file_name([b".spotter-", name.as_bytes()].concat().as_slice().to_os());
                let (aside, path) = (target.join(aside), target.join(path));
                let _ = fs::remove_file(&aside);
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(&aside)?;
                io::copy(&mut entry, &mut file)?;
                fs::rename(&aside, &path)?;
            }
            // Links and devices have no place among results.
            _ => {}
        }
    }
    Ok(())
}

/// Makes the directories of `path` below `target`; a link in place of one of them is not followed.
fn directory(target: &Path, path: &Path) -> io::Result<()> {
    let mut at = target.to_owned();
    for part in path.components() {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                let message = format!("{} is in the way of a directory", at.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            Err(_) => fs::create_dir(&at)?,
        }
    }
    Ok(())
}

trait ToOs {
    fn to_os(&self) -> &std::ffi::OsStr;
}

impl ToOs for [u8] {
    fn to_os(&self) -> &std::ffi::OsStr {
        std::ffi::OsStr::from_bytes(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, data) in entries {
            let mut header = tar::Header::new_gnu();
            // Written raw: the library refuses to make such names itself.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            if *kind == tar::EntryType::Symlink {
                header.set_link_name("/tmp").unwrap();
            }
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_from_a_box_stays_inside_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        let hostile = archive(&[
            ("good/file", tar::EntryType::Regular, b"good"),
            ("../evil", tar::EntryType::Regular, b"evil"),
            ("/abs", tar::EntryType::Regular, b"evil"),
            ("way", tar::EntryType::Symlink, b""),
        ]);
        unpack(hostile.as_slice(), &target).unwrap();
        assert_eq!(fs::read(target.join("good/file")).unwrap(), b"good");
        assert!(!dir.path().join("evil").exists());
        assert!(!target.join("way").exists());
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_not_followed_out() {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir(&target).unwrap();
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, target.join("way")).unwrap();
        let hostile = archive(&[("way/file", tar::EntryType::Regular, b"evil")]);
        assert!(unpack(hostile.as_slice(), &target).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
