//! Read leases: proof that nobody can write to a file, and a tripwire that goes off before the first byte changes.
//!
//! The kernel grants one only when nobody has the file open for writing or mapped so, in whatever namespace. Held, it makes the next
//! writer's `open` wait until we have let go: a thread of its own does that within a millisecond, so that training never feels it.
//! That thread waits for nobody: whoever takes leases has the lowest priority, and on a full processor a lock would be held for long.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
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

/// Files have leases whose number is below this; the others are looked at before and after each read instead.
const FILES: usize = 4096;
/// There is no lease on the file of that number.
const FREE: u8 = 0;
/// There is one, or will be at once.
const HELD: u8 = 1;
/// A writer came, or might have come while it was being taken; nobody but its owner touches the file's lease any more.
const BROKEN: u8 = 2;
/// The same, and the watchman is giving it back just now: until he has, its number must not be used for another.
const BREAKING: u8 = 3;

/// By number of the open file. It is not [`FREE`] from before the kernel grants a lease until after it is given back, so that there is
/// none that the watchman does not see.
static STATES: [AtomicU8; FILES] = [const { AtomicU8::new(FREE) }; FILES];

/// Tries to take a lease while the watchman is busy with others.
const TRIES: u32 = 8;

/// A lease on an open file, until it is dropped or broken.
#[derive(Debug)]
pub struct Lease {
    file: Arc<File>,
    state: &'static AtomicU8,
}

/// Starts the thread that lets go. A thread has the priority of whoever starts it, and this one must not wait for its turn.
pub fn start() {
    let _told_by_take = watchman();
}

/// Takes a lease on a file that is open for reading only.
pub fn take(file: &Arc<File>) -> Result<Lease, NoLease> {
    let unavailable = |why: &str| NoLease::Unavailable(io::Error::other(why));
    let watchman = watchman()
        .ok_or_else(|| unavailable("the thread that watches leases could not be started"))?;
    let fd = file.as_raw_fd();
    let state = usize::try_from(fd).ok().and_then(|fd| STATES.get(fd));
    let state = state.ok_or_else(|| unavailable("too many files are open"))?;
    let free = state.compare_exchange(FREE, HELD, Ordering::SeqCst, Ordering::SeqCst);
    free.map_err(|_| unavailable("this open file has one"))?;
    // From here on it is given back, whatever happens.
    let lease = Lease {
        file: Arc::clone(file),
        state,
    };
    own(fd, watchman).map_err(NoLease::Unavailable)?;
    for _ in 0..TRIES {
        set_lease(fd, libc::F_RDLCK).map_err(|err| match err.raw_os_error() {
            Some(libc::EAGAIN) => NoLease::Writer,
            _ => NoLease::Unavailable(err),
        })?;
        if !lease.is_broken() {
            return Ok(lease);
        }
        // A writer came at once; or the watchman, called for another file, looked at this one before there was a lease.
        lease.retire();
        release(fd);
        state.store(HELD, Ordering::SeqCst);
    }
    Err(NoLease::Writer)
}

impl Lease {
    /// Whether a writer came: bytes that were read before this says so are those of before.
    pub fn is_broken(&self) -> bool {
        self.state.load(Ordering::SeqCst) != HELD
    }

    /// From here on the watchman leaves it alone.
    fn retire(&self) {
        while let Err(state) =
            self.state
                .compare_exchange(HELD, BROKEN, Ordering::SeqCst, Ordering::SeqCst)
        {
            if state != BREAKING {
                return;
            }
            // Two calls of the kernel, by a thread that goes before us.
            thread::yield_now();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.retire();
        release(self.file.as_raw_fd());
        // Before the number of the file can belong to another.
        self.state.store(FREE, Ordering::SeqCst);
    }
}

/// The thread of this process that lets go; `None` when it cannot be started.
fn watchman() -> Option<libc::pid_t> {
    static WATCHMAN: OnceLock<Option<libc::pid_t>> = OnceLock::new();
    *WATCHMAN.get_or_init(|| {
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
                let_go();
            }
        };
        let named = thread::Builder::new().name("lease".to_owned());
        named.spawn(watch).ok()?;
        told.recv().ok()
    })
}

/// Lets go of every lease that somebody waits for. Signals that came together are one signal, so all are looked at.
fn let_go() {
    for (fd, state) in (0..).zip(&STATES) {
        if state.load(Ordering::SeqCst) != HELD || is_kept(fd) {
            continue;
        }
        // First the flag: no byte changes before the lease is gone. One that was given back meanwhile is not ours any more.
        let marked = state.compare_exchange(HELD, BREAKING, Ordering::SeqCst, Ordering::SeqCst);
        if marked.is_ok() {
            release(fd);
            state.store(BROKEN, Ordering::SeqCst);
        }
    }
}

/// Has the signals about a file sent to the thread.
fn own(fd: RawFd, thread: libc::pid_t) -> io::Result<()> {
    let owner = Owner {
        kind: F_OWNER_TID,
        id: thread,
    };
    // SAFETY: the command reads one `f_owner_ex`, which `Owner` is laid out as and which outlives the call.
    checked(unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const owner) })
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
    use crate::checkpoints::humble;

    fn open(path: &std::path::Path) -> Arc<File> {
        Arc::new(File::open(path).unwrap())
    }

    /// Priority of a thread of ours; 0: the calling one.
    fn nice(thread: libc::pid_t) -> libc::c_int {
        // SAFETY: takes numbers and touches no memory of ours.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, thread as libc::id_t) }
    }

    #[test]
    fn whoever_takes_the_first_lease_the_thread_that_lets_go_has_our_priority_and_not_the_lowest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ckpt.pt");
        fs::write(&path, b"old bytes").unwrap();
        let file = open(&path);
        let runtime = humble::runtime().unwrap();
        let taken = runtime.spawn_blocking(move || (nice(0), take(&file).map(drop)));
        let (humble, lease) = runtime.block_on(taken).unwrap();
        lease.unwrap();
        assert_eq!(humble, 19);
        assert_eq!(nice(watchman().unwrap()), nice(0));
        assert!(nice(0) < 19, "tests of priorities need one to lower");
    }

    #[test]
    fn while_leases_are_taken_and_given_back_without_end_every_writer_gets_through_and_none_unseen()
    {
        const ROUNDS: usize = 200;
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..4)
            .map(|number| dir.path().join(format!("{number}.pt")))
            .collect();
        let runtime = humble::runtime().unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let readers: Vec<_> = paths
            .iter()
            .map(|path| {
                fs::write(path, b"old").unwrap();
                let (path, stop) = (path.clone(), stop.clone());
                runtime.spawn_blocking(move || {
                    let mut wrong = 0;
                    while !stop.load(Ordering::SeqCst) {
                        let file = open(&path);
                        if let Ok(lease) = take(&file) {
                            let before = file.metadata().unwrap().len();
                            thread::yield_now();
                            let after = file.metadata().unwrap().len();
                            // What changed while the lease was whole would be a torn checkpoint.
                            wrong += usize::from(before != after && !lease.is_broken());
                        }
                    }
                    wrong
                })
            })
            .collect();
        let longest = thread::scope(|scope| {
            let write = |path: &std::path::PathBuf| {
                let mut longest = Duration::ZERO;
                for _ in 0..ROUNDS {
                    let began = Instant::now();
                    let mut file = OpenOptions::new().append(true).open(path).unwrap();
                    longest = longest.max(began.elapsed());
                    file.write_all(b"x").unwrap();
                }
                longest
            };
            let writers: Vec<_> = paths
                .iter()
                .map(|path| scope.spawn(move || write(path)))
                .collect();
            let waits = writers.into_iter().map(|writer| writer.join().unwrap());
            waits.max().unwrap()
        });
        stop.store(true, Ordering::SeqCst);
        for reader in readers {
            assert_eq!(runtime.block_on(reader).unwrap(), 0);
        }
        // A lease that the watchman did not see is broken by the kernel after 45 s.
        assert!(longest < Duration::from_secs(20), "{longest:?}");
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
