//! The log of one command, written by its shim: every byte as it was printed, through rotation and a full disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Everything that the command printed, as it printed it.
pub struct ShimLog {
    path: PathBuf,
    file: File,
    /// Bytes that reached the file.
    pub written_bytes: u64,
    /// Bytes that the disk refused.
    pub dropped_bytes: u64,
    /// Bytes that were dropped and of which the log does not tell yet.
    untold_bytes: u64,
}

impl ShimLog {
    /// Opens the log, behind what an earlier life left in it.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let file = open_log(&path)?;
        Ok(Self {
            path,
            file,
            written_bytes: 0,
            dropped_bytes: 0,
            untold_bytes: 0,
        })
    }

    /// Never fails and never waits for space: the job is worth more than its log.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.untold_bytes > 0 {
            let note = format!(
                "\r\n[spotter: {} bytes of output were lost here: the disk was full]\r\n",
                self.untold_bytes
            );
            if self.append(note.as_bytes()) == note.len() {
                self.untold_bytes = 0;
            }
        }
        let lost = (bytes.len() - self.append(bytes)) as u64;
        self.dropped_bytes += lost;
        self.untold_bytes += lost;
    }

    fn append(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(written) if written > 0 => done += written,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.written_bytes += done as u64;
        done
    }

    /// After a rotation by rename, goes on in a new file of the old name.
    pub fn follow_name(&mut self) {
        let (Ok(ours), named) = (self.file.metadata(), fs::metadata(&self.path)) else {
            return;
        };
        let same = named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
        if !same && let Ok(file) = open_log(&self.path) {
            self.file = file;
        }
    }

    /// Puts the last lines on disk.
    pub fn finish(&mut self) {
        // The end record must not be on disk before the last lines are. A full disk changes nothing about the end.
        let _best_effort = self.file.sync_data();
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_log_goes_on_under_its_old_name_and_lost_bytes_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = ShimLog::open(dir.path().join("log")).unwrap();
        log.write(b"one");
        fs::rename(dir.path().join("log"), dir.path().join("log.1")).unwrap();
        log.write(b"two");
        log.follow_name();
        log.write(b"three");
        assert_eq!(fs::read(dir.path().join("log.1")).unwrap(), b"onetwo");
        assert_eq!(fs::read(dir.path().join("log")).unwrap(), b"three");
        assert_eq!((log.written_bytes, log.dropped_bytes), (11, 0));

        // A device that is always full.
        log.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        log.write(b"lost");
        log.file = open_log(&log.path).unwrap();
        log.write(b"four");
        let text = fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(
            text,
            "three\r\n[spotter: 4 bytes of output were lost here: the disk was full]\r\nfour"
        );
        assert_eq!(log.dropped_bytes, 4);
    }
}
