//! Read leases: proof that nobody can write to a file, and a tripwire that goes off before the first byte changes.
//!
//! The kernel grants one only when nobody has the file open for writing or mapped so, in whatever namespace. Held, it makes the next
//! writer's `open` wait until we have let go: a thread of its own does that within a millisecond, so that training never feels it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::gettid;

/// Not in `libc` for every target; the same number on all that Linux runs on and we build for.
const F_SETOWN_EX: libc::c_int = 15;
/// The signal goes to one thread.
const F_OWNER_TID: libc::c_int = 0;

/// As `fcntl` wants it.
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    id: libc::pid_t,
}

/// Why there is no lease.
#[derive(Debug)]
pub enum NoLease {
    /// Somebody has the file open for writing.
    Writer,
    /// The file system, or our rights, do not allow leases here.
    Unavailable(io::Error),
}

/// A lease on an open file, until it is dropped or broken.
#[derive(Debug)]
pub struct Lease {
    file: Arc<File>,
    broken: Arc<AtomicBool>,
}

/// Takes a lease on a file that is open for reading only.
pub fn take(file: &Arc<File>) -> Result<Lease, NoLease> {
    let watchman = watchman().ok_or_else(|| {
        NoLease::Unavailable(io::Error::other(
            "the thread that watches leases could not be started",
        ))
    })?;
    let broken = Arc::new(AtomicBool::new(false));
    let fd = file.as_raw_fd();
    let mut held = watchman.held();
    watchman.own(fd).map_err(NoLease::Unavailable)?;
    // With the table locked: a writer that comes at once waits for it, not for the break time of the kernel.
    set_lease(fd, libc::F_RDLCK).map_err(|err| match err.raw_os_error() {
        Some(libc::EAGAIN) => NoLease::Writer,
        _ => NoLease::Unavailable(err),
    })?;
    held.insert(fd, Arc::clone(&broken));
    Ok(Lease {
        file: Arc::clone(file),
        broken,
    })
}

impl Lease {
    /// Whether a writer came: bytes that were read before this says so are those of before.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(watchman) = watchman() {
            let fd = self.file.as_raw_fd();
            let mut held = watchman.held();
            // Gone from the table before the number of the file can belong to another.
            if held.remove(&fd).is_some() {
                release(fd);
            }
        }
    }
}

/// The thread that lets go, and what it may have to let go of.
struct Watchman {
    thread: libc::pid_t,
    held: Mutex<HashMap<RawFd, Arc<AtomicBool>>>,
}

/// The one of this process; `None` when no thread can be started.
fn watchman() -> Option<&'static Watchman> {
    static WATCHMAN: OnceLock<Option<Watchman>> = OnceLock::new();
    WATCHMAN
        .get_or_init(|| {
            let (tell, told) = mpsc::channel();
            let watch = move || {
                let mut signals = SigSet::empty();
                signals.add(Signal::SIGIO);
                // The signal is sent to this thread alone. Blocked, it waits here; its default would end the process.
                if signals.thread_block().is_err() || tell.send(gettid().as_raw()).is_err() {
                    return;
                }
                drop(tell);
                while signals.wait().is_ok() {
                    if let Some(watchman) = watchman() {
                        watchman.let_go();
                    }
                }
            };
            thread::Builder::new()
                .name("lease".to_owned())
                .spawn(watch)
                .ok()?;
            Some(Watchman {
                thread: told.recv().ok()?,
                held: Mutex::default(),
            })
        })
        .as_ref()
}

impl Watchman {
    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<RawFd, Arc<AtomicBool>>> {
        self.held
            .lock()
            .expect("nothing panics while it holds the leases")
    }

    /// Lets go of every lease that somebody waits for. Signals that came together are one signal, so all are looked at.
    fn let_go(&self) {
        let mut held = self.held();
        held.retain(|&fd, broken| {
            if is_kept(fd) {
                return true;
            }
            // First the flag: no byte changes before the lease is gone.
            broken.store(true, Ordering::SeqCst);
            release(fd);
            false
        });
    }

    /// Has the signals about a file sent to the thread.
    fn own(&self, fd: RawFd) -> io::Result<()> {
        let owner = Owner {
            kind: F_OWNER_TID,
            id: self.thread,
        };
        // SAFETY: the command reads one `f_owner_ex`, which `Owner` is laid out as and which outlives the call.
        checked(unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const owner) })
    }
}

fn set_lease(fd: RawFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: the command takes a number and touches no memory of ours.
    checked(unsafe { libc::fcntl(fd, libc::F_SETLEASE, kind) })
}

/// Whether a lease is still ours without anybody waiting: once somebody does, the kernel names what it is to become.
fn is_kept(fd: RawFd) -> bool {
    // SAFETY: the command takes nothing and touches no memory of ours.
    unsafe { libc::fcntl(fd, libc::F_GETLEASE) == libc::F_RDLCK }
}

/// Gives a lease back. One that is gone already is no matter.
fn release(fd: RawFd) {
    let _gone = set_lease(fd, libc::F_UNLCK);
}

fn checked(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::*;

    fn open(path: &std::path::Path) -> Arc<File> {
        Arc::new(File::open(path).unwrap())
    }

    #[test]
    fn whoever_opens_the_file_to_write_trips_the_wire_before_it_can_change_a_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ckpt.pt");
        let ways: [fn(&std::path::Path); 4] = [
            |path| fs::write(path, b"new").unwrap(),
            |path| {
                OpenOptions::new()
                    .append(true)
                    .open(path)
                    .unwrap()
                    .write_all(b"more")
                    .unwrap();
            },
            |path| {
                OpenOptions::new().write(true).open(path).unwrap();
            },
            |path| nix::unistd::truncate(path, 1).unwrap(),
        ];
        for (number, way) in ways.into_iter().enumerate() {
            fs::write(&path, b"old bytes").unwrap();
            let file = open(&path);
            let lease = take(&file).unwrap();
            assert!(!lease.is_broken());
            let began = Instant::now();
            way(&path);
            assert!(lease.is_broken(), "way {number}");
            // The kernel would let the writer wait for 45 s.
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "way {number}: {:?}",
                began.elapsed()
            );
        }
    }

    #[test]
    fn reading_renaming_and_removing_do_not_trip_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ckpt.pt");
        fs::write(&path, b"old bytes").unwrap();
        let file = open(&path);
        let lease = take(&file).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old bytes");
        fs::rename(&path, dir.path().join("other.pt")).unwrap();
        fs::write(&path, b"another file of that name").unwrap();
        fs::remove_file(dir.path().join("other.pt")).unwrap();
        assert!(!lease.is_broken());
    }

    #[test]
    fn there_is_no_lease_on_a_file_that_somebody_writes_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ckpt.pt");
        let writer = File::create(&path).unwrap();
        assert!(matches!(take(&open(&path)), Err(NoLease::Writer)));
        drop(writer);
        let file = open(&path);
        drop(take(&file).unwrap());
        // Given back: the next writer finds nothing to wait for.
        fs::write(&path, b"new").unwrap();
        assert!(take(&open(&path)).is_ok());
    }

    #[test]
    fn many_writers_at_once_are_all_let_through() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..64)
            .map(|number| dir.path().join(format!("{number}.pt")))
            .collect();
        let leases: Vec<Lease> = paths
            .iter()
            .map(|path| {
                fs::write(path, b"old").unwrap();
                take(&open(path)).unwrap()
            })
            .collect();
        thread::scope(|scope| {
            for path in &paths {
                scope.spawn(move || fs::write(path, b"new").unwrap());
            }
        });
        assert!(leases.iter().all(Lease::is_broken));
    }
}
