//! Hands variables to a shim through a FIFO: they are secrets, so they never touch a disk or a command line.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{libc, sys::stat::Mode, unistd::mkfifo};
use zeroize::Zeroizing;

/// Longest environment, bytes: the kernel takes about 2 MiB for arguments and environment together.
pub const LIMIT_BYTES: usize = 1 << 20;
const POLL: Duration = Duration::from_millis(10);
const LENGTH_BYTES: usize = 8;

/// Makes the FIFO, for its owner only. One left by a crash is replaced.
pub fn create(path: &Path) -> io::Result<()> {
    remove(path)?;
    Ok(mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

/// Removes the FIFO if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// Waits for a reader and gives it all bytes. Blocks; fails when nobody reads within `patience`.
pub fn send(path: &Path, bytes: &[u8], patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let mut pipe = loop {
        // Without O_NONBLOCK a writer would wait for ever for a shim that never came.
        match OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
        {
            Ok(pipe) => break pipe,
            Err(err) if err.raw_os_error() == Some(libc::ENXIO) => {
                pause(deadline, "nobody read the environment")?
            }
            Err(err) => return Err(err),
        }
    };
    let length = (bytes.len() as u64).to_le_bytes();
    for mut rest in [&length[..], bytes] {
        while !rest.is_empty() {
            match pipe.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    pause(deadline, "the environment was not read to its end")?
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }
    Ok(())
}

/// Reads what [`send`] gave. Blocks; fails when the writer does not come or leaves early.
pub fn receive(path: &Path, patience: Duration) -> io::Result<Zeroizing<Vec<u8>>> {
    let deadline = Instant::now() + patience;
    let mut pipe = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut length = [0; LENGTH_BYTES];
    fill(&mut pipe, &mut length, deadline)?;
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > LIMIT_BYTES {
        return Err(io::Error::other(format!(
            "the environment has {length} bytes, the limit is {LIMIT_BYTES}"
        )));
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    fill(&mut pipe, &mut bytes, deadline)?;
    Ok(bytes)
}

fn fill(pipe: &mut File, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        match pipe.read(buffer) {
            // No writer yet, or it is gone: the same to a reader, so only the deadline tells.
            Ok(0) => pause(deadline, "nobody sent the environment")?,
            Ok(read) => buffer = &mut buffer[read..],
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                pause(deadline, "the environment did not come to its end")?
            }
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

fn pause(deadline: Instant, problem: &str) -> io::Result<()> {
    if Instant::now() >= deadline {
        return Err(io::Error::new(ErrorKind::TimedOut, problem.to_owned()));
    }
    thread::sleep(POLL);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_whole_even_beyond_the_pipes_buffer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env.fifo");
        create(&path).unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let received = thread::scope(|scope| {
            let reader = scope.spawn(|| receive(&path, Duration::from_secs(20)));
            send(&path, &sent, Duration::from_secs(20)).unwrap();
            reader.join().unwrap().unwrap()
        });
        assert_eq!(*received, sent);
    }

    #[test]
    fn a_side_that_never_comes_is_an_error_and_not_a_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env.fifo");
        create(&path).unwrap();
        let err = send(&path, b"x", Duration::from_millis(50)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::TimedOut);
        let err = receive(&path, Duration::from_millis(50)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::TimedOut);
    }
}
