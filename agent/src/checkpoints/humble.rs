//! Threads that read and hash what is uploaded, when nobody else wants the processor or the disk: training does not feel them.
//!
//! Priorities belong to threads, are handed on to those that they start, and cannot be raised again by an ordinary user: so these
//! threads do nothing else, and what must answer at once is started before them.

use std::cell::Cell;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use tokio::runtime::{self, Handle, Runtime};

use super::lease;

/// One reads and hashes, the others sign what is sent meanwhile.
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

thread_local! {
    static IS_HUMBLE: Cell<bool> = const { Cell::new(false) };
}

/// Where the backup's tasks run, with the same priority: what is sent is copied and, perhaps, encrypted. `None` when there can be no
/// such threads.
pub fn runtime() -> Option<&'static Handle> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            lease::start();
            runtime::Builder::new_multi_thread()
                .worker_threads(IO_THREADS)
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_name("humble-io")
                .on_thread_start(step_back)
                .enable_all()
                .build()
                .ok()
        })
        .as_ref()
        .map(Runtime::handle)
}

/// Does a piece of work on one of the threads and waits for it; blocks.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if IS_HUMBLE.get() {
        return work();
    }
    let Some(queue) = queue() else {
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

/// Where the threads take their work from; `None` when none could be started.
fn queue() -> Option<&'static Sender<Work>> {
    static QUEUE: OnceLock<Option<Sender<Work>>> = OnceLock::new();
    QUEUE
        .get_or_init(|| {
            lease::start();
            let (queue, take) = mpsc::channel();
            let take = Arc::new(Mutex::new(take));
            let start = |_: &usize| {
                let take = Arc::clone(&take);
                let named = thread::Builder::new().name("humble".to_owned());
                named.spawn(move || serve(&take)).is_ok()
            };
            (0..THREADS).filter(start).count().gt(&0).then_some(queue)
        })
        .as_ref()
}

fn serve(take: &Mutex<Receiver<Work>>) {
    step_back();
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
    IS_HUMBLE.set(true);
    // SAFETY: takes numbers and touches no memory of ours; with id 0 it is about the calling thread.
    let _refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) };
    // SAFETY: as above.
    let _refused = unsafe { libc::syscall(libc::SYS_ioprio_set, IO_WHO_THREAD, 0, IO_IDLE) };
}

#[cfg(test)]
mod tests {
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
        let before = nice();
        let (own, name) = run(|| (nice(), thread::current().name().map(str::to_owned)));
        assert_eq!((own, name.as_deref()), (19, Some("humble")));
        assert_eq!(nice(), before);
    }

    #[tokio::test]
    async fn tasks_and_what_they_block_on_have_it_too() {
        let task = runtime().unwrap().spawn(async {
            let blocking = tokio::task::spawn_blocking(|| run(|| (nice(), IS_HUMBLE.get())));
            (nice(), blocking.await.unwrap())
        });
        assert_eq!(task.await.unwrap(), (19, (19, true)));
    }

    #[test]
    fn many_may_wait_at_once() {
        let doubled: Vec<u32> = thread::scope(|scope| {
            let threads: Vec<_> = (0..40_u32)
                .map(|number| scope.spawn(move || run(move || number * 2)))
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(
            doubled,
            (0..40).map(|number| number * 2).collect::<Vec<_>>()
        );
    }
}
