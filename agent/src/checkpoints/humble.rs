//! Threads that read, hash and send what is uploaded, when nobody else wants the processor or the disk: training does not feel them.
//!
//! Priorities belong to threads and are handed on to those that they start, so these threads do nothing else, and what must answer at
//! once is started before them. How much they ask for is said by [`set_rank`]; [`super::hurry`] decides it.
//!
//! An ordinary user's thread, and root's in most containers, does not come back from the idle class. Where that is so, threads that
//! send are never put into it: they have the lowest ordinary priority. Reading, hashing and signing, which is most of the work, is
//! done by threads of both kinds, each of which stays what it is.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;

use tokio::runtime::{self, Handle, Runtime};
use tracing::info;

use super::hurry::Rank;
use super::lease;

/// Of each kind at most: one reads and hashes, the others sign what is sent meanwhile. Not more than there are processors, and two at
/// least: each that wants to run takes its share of one, small as it is.
const THREADS: usize = 4;
/// Lowest of the ordinary priorities.
const NICEST: libc::c_int = 19;
/// `IOPRIO_WHO_PROCESS`, which means the calling thread with id 0.
const IO_WHO_THREAD: libc::c_int = 1;
/// `IOPRIO_CLASS_IDLE`, in its place of a priority.
const IO_IDLE: libc::c_int = 3 << 13;

/// Threads that send and receive: one writes to a socket while the other answers a timer or a look at the directory.
const IO_THREADS: usize = 2;
/// Threads of theirs that may block.
const BLOCKING_THREADS: usize = 4;

type Work = Box<dyn FnOnce() + Send>;

/// What a thread is to us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    /// Sends and receives, or blocks for those that do; changes its rank where it can.
    Sends,
    /// Works off a queue; keeps its rank.
    Works,
}

thread_local! {
    static KIND: Cell<Kind> = const { Cell::new(Kind::Other) };
}

/// Whether [`Rank::Nice`] is asked for.
static IN_A_HURRY: AtomicBool = AtomicBool::new(false);
/// Threads that send, by the kernel's number.
static SENDING: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());

/// What is asked for now.
pub fn rank() -> Rank {
    if IN_A_HURRY.load(Ordering::SeqCst) {
        Rank::Nice
    } else {
        Rank::Idle
    }
}

/// Asks for so much from now on, also for what is under way.
pub fn set_rank(rank: Rank) {
    let before = IN_A_HURRY.swap(rank == Rank::Nice, Ordering::SeqCst);
    if before != (rank == Rank::Nice) && may_return() {
        for thread in sending().iter() {
            let _gone = set_policy(*thread, rank);
        }
    }
}

fn sending() -> MutexGuard<'static, Vec<libc::pid_t>> {
    SENDING
        .lock()
        .expect("nothing panics while it holds the numbers")
}

/// Where the backup's tasks run, with the same priority: what is sent is copied and, perhaps, encrypted. `None` when there can be no
/// such threads.
pub fn runtime() -> Option<&'static Handle> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            lease::start();
            if !may_return() {
                info!(
                    "threads do not come back from the idle class here: those that send the backup keep the lowest ordinary priority"
                );
            }
            runtime::Builder::new_multi_thread()
                .worker_threads(IO_THREADS)
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_name("humble-io")
                .on_thread_start(begin_sending)
                .on_thread_stop(end_sending)
                .enable_all()
                .build()
                .ok()
        })
        .as_ref()
        .map(Runtime::handle)
}

fn begin_sending() {
    KIND.set(Kind::Sends);
    step_back();
    let own = thread_id();
    sending().push(own);
    if may_return() {
        // Somebody may ask for something else in between, and have done so before our number was there.
        loop {
            let asked = rank();
            let _refused = set_policy(0, asked);
            if asked == rank() {
                return;
            }
        }
    }
}

fn end_sending() {
    let own = thread_id();
    sending().retain(|thread| *thread != own);
}

/// Does a piece of work on one of the threads and waits for it; blocks.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let rank = rank();
    let is_done_here = match KIND.get() {
        Kind::Works => true,
        Kind::Sends => rank == Rank::Nice || may_return(),
        Kind::Other => false,
    };
    if is_done_here {
        return work();
    }
    let Some(queue) = queue(rank) else {
        return work();
    };
    let (tell, told) = mpsc::channel();
    let job: Work = Box::new(move || {
        // Whoever waits is still there: it has nothing else to do.
        let _waits = tell.send(work());
    });
    queue.send(job).expect("the threads never end");
    told.recv().expect("reading and hashing do not panic")
}

/// Where the threads of a rank take their work from; `None` when none could be started.
fn queue(rank: Rank) -> Option<&'static Sender<Work>> {
    static QUEUES: [OnceLock<Option<Sender<Work>>>; 2] = [const { OnceLock::new() }; 2];
    QUEUES[usize::from(rank == Rank::Nice)]
        .get_or_init(|| {
            lease::start();
            let (queue, take) = mpsc::channel();
            let take = Arc::new(Mutex::new(take));
            let start = |_: &usize| {
                let take = Arc::clone(&take);
                let named = thread::Builder::new().name("humble".to_owned());
                named.spawn(move || serve(rank, &take)).is_ok()
            };
            let processors = thread::available_parallelism().map_or(1, usize::from);
            let wanted = 0..processors.clamp(2, THREADS);
            wanted.filter(start).count().gt(&0).then_some(queue)
        })
        .as_ref()
}

fn serve(rank: Rank, take: &Mutex<Receiver<Work>>) {
    KIND.set(Kind::Works);
    step_back();
    let _refused = set_policy(0, rank);
    loop {
        let work = {
            let take = take
                .lock()
                .expect("nothing panics while it holds the queue");
            take.recv()
        };
        match work {
            Ok(work) => work(),
            Err(mpsc::RecvError) => return,
        }
    }
}

/// Lowers the priorities of the calling thread. What the system refuses is done without.
fn step_back() {
    // SAFETY: takes numbers and touches no memory of ours; with id 0 it is about the calling thread.
    let _refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) };
    // SAFETY: as above.
    let _refused = unsafe { libc::syscall(libc::SYS_ioprio_set, IO_WHO_THREAD, 0, IO_IDLE) };
}

/// Whether a thread that was put into the idle class can be brought back. The kernel demands that the limit `RLIMIT_NICE` allows the
/// thread's nice value, or the right to raise any; few containers have either.
fn may_return() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(try_to_return)
}

/// Tries it with a thread that sleeps: one that has to run in the idle class could wait for a processor for long.
fn try_to_return() -> bool {
    let (tell_id, told_id) = mpsc::channel();
    let (_ends_when_dropped, wait) = mpsc::channel::<()>();
    let named = thread::Builder::new().name("humble-trial".to_owned());
    let started = named.spawn(move || {
        step_back();
        let _waits = tell_id.send(thread_id());
        let _ended = wait.recv();
    });
    let Some(trial) = started.ok().and_then(|_| told_id.recv().ok()) else {
        return false;
    };
    set_policy(trial, Rank::Idle) && set_policy(trial, Rank::Nice)
}

fn thread_id() -> libc::pid_t {
    // SAFETY: takes nothing and touches no memory of ours.
    unsafe { libc::gettid() }
}

/// Puts a thread of ours, 0 for the calling one, into the class of a rank; whether the kernel allowed it.
fn set_policy(thread: libc::pid_t, rank: Rank) -> bool {
    let policy = match rank {
        Rank::Idle => libc::SCHED_IDLE,
        Rank::Nice => libc::SCHED_OTHER,
    };
    // Neither class has priorities of its own.
    let none: libc::c_int = 0;
    // SAFETY: reads one number, the size of `sched_param` on Linux; musl's own function for it always refuses.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            thread,
            policy,
            &raw const none,
        )
    };
    answer == 0
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn nice() -> libc::c_int {
        // SAFETY: takes numbers and touches no memory of ours.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    /// Class of the calling thread's priority at the disk.
    fn io_class() -> libc::c_long {
        // SAFETY: takes numbers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_ioprio_get, IO_WHO_THREAD, 0) >> 13 }
    }

    /// Class of a thread at the processor; 0: the calling one.
    fn policy(thread: libc::pid_t) -> libc::c_int {
        // SAFETY: takes a number and touches no memory of ours.
        let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, thread) };
        libc::c_int::try_from(policy).unwrap()
    }

    /// Ranks are the process's: tests that change them take turns.
    fn alone() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(|dead| dead.into_inner())
    }

    #[test]
    fn the_disk_is_theirs_only_when_nobody_else_wants_it() {
        let idle = libc::c_long::from(IO_IDLE >> 13);
        let before = io_class();
        assert_ne!(before, idle);
        assert_eq!(run(io_class), idle);
        let runtime = runtime().unwrap();
        let task = runtime.spawn(async { io_class() });
        assert_eq!(runtime.block_on(task).unwrap(), idle);
        assert_eq!(io_class(), before);
    }

    #[test]
    fn the_work_is_done_at_the_lowest_priority_and_ours_stays() {
        let before = (nice(), policy(0));
        let (own, name) = run(|| (nice(), thread::current().name().map(str::to_owned)));
        assert_eq!((own, name.as_deref()), (19, Some("humble")));
        assert_eq!((nice(), policy(0)), before);
    }

    #[test]
    fn the_rank_decides_in_which_class_the_work_is_done() {
        let _turn = alone();
        set_rank(Rank::Idle);
        assert_eq!(run(|| policy(0)), libc::SCHED_IDLE);
        set_rank(Rank::Nice);
        assert_eq!(run(|| (policy(0), nice())), (libc::SCHED_OTHER, 19));
        set_rank(Rank::Idle);
        assert_eq!(run(|| policy(0)), libc::SCHED_IDLE);
    }

    #[test]
    fn threads_that_send_follow_the_rank_where_the_kernel_lets_them_come_back() {
        let _turn = alone();
        set_rank(Rank::Idle);
        let runtime = runtime().unwrap();
        let blocking = runtime.spawn_blocking(|| (thread_id(), run(|| policy(0))));
        let (blocking, of_work) = runtime.block_on(blocking).unwrap();
        let task = runtime.spawn(async { thread_id() });
        let task = runtime.block_on(task).unwrap();
        assert_eq!(of_work, libc::SCHED_IDLE);
        let at_ease = if may_return() {
            libc::SCHED_IDLE
        } else {
            libc::SCHED_OTHER
        };
        for (rank, expected) in [
            (Rank::Idle, at_ease),
            (Rank::Nice, libc::SCHED_OTHER),
            (Rank::Idle, at_ease),
        ] {
            set_rank(rank);
            for thread in [task, blocking] {
                assert_eq!(policy(thread), expected, "{rank:?}");
            }
        }
    }

    #[test]
    fn an_ordinary_users_thread_comes_back_only_where_the_limit_allows_its_nice_value() {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: writes one `rlimit`, which outlives the call.
        assert_eq!(
            unsafe { libc::getrlimit(libc::RLIMIT_NICE, &raw mut limit) },
            0
        );
        // 20 less the nice value of 19.
        let allowed = limit.rlim_cur >= 1;
        let trial = thread::spawn(|| {
            // Of this thread alone: the C library's function is about all of them.
            // SAFETY: takes numbers and touches no memory of ours.
            let left = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) } == 0;
            // SAFETY: takes nothing and touches no memory of ours.
            let is_ordinary = unsafe { libc::syscall(libc::SYS_geteuid) } != 0;
            assert!(is_ordinary || !left);
            is_ordinary.then(try_to_return)
        });
        if let Some(came_back) = trial.join().unwrap() {
            assert_eq!(came_back, allowed);
        }
    }

    #[tokio::test]
    async fn tasks_and_what_they_block_on_have_it_too() {
        let task = runtime().unwrap().spawn(async {
            let blocking = tokio::task::spawn_blocking(|| run(|| (nice(), io_class())));
            (nice(), blocking.await.unwrap())
        });
        let idle = libc::c_long::from(IO_IDLE >> 13);
        assert_eq!(task.await.unwrap(), (19, (19, idle)));
    }

    #[test]
    fn many_may_wait_at_once_while_the_rank_changes() {
        let _turn = alone();
        let doubled: Vec<u32> = thread::scope(|scope| {
            let threads: Vec<_> = (0..40_u32)
                .map(|number| {
                    scope.spawn(move || {
                        if number % 10 == 0 {
                            set_rank(if number % 20 == 0 {
                                Rank::Nice
                            } else {
                                Rank::Idle
                            });
                        }
                        run(move || number * 2)
                    })
                })
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        set_rank(Rank::Idle);
        assert_eq!(
            doubled,
            (0..40).map(|number| number * 2).collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_trial_leaves_no_thread_behind() {
        let named = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            tasks
                .filter(|task| {
                    std::fs::read(task.path().join("comm"))
                        .is_ok_and(|name| name == b"humble-trial\n")
                })
                .count()
        };
        try_to_return();
        let deadline = Instant::now() + Duration::from_secs(40);
        while named() > 0 {
            assert!(Instant::now() < deadline, "the thread of the trial stays");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
