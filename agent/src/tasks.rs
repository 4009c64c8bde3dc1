//! Tasks and blocking work whose machinery is in the program once, not once for each: a runtime's own takes some kilobytes for every
//! kind of future it is given, and the agent has 5 MB to fit in.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::{self, JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

/// What a tracker holds.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Job = Box<dyn FnOnce() + Send>;

/// Starts a task that `tracker` waits for.
pub fn spawn(
    tracker: &TaskTracker,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let task: Task = Box::pin(task);
    tracker.spawn(task)
}

/// Does `work` to its end as a task that `tracker` waits for, even if nobody waits for what is returned.
pub fn spawn_to_the_end<T: Send + 'static>(
    tracker: &TaskTracker,
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> + Send {
    let slot = Slot::default();
    let filled = slot.clone();
    let doing = spawn(tracker, async move { filled.fill(work.await) });
    async move { doing.await.map(|()| slot.take()) }
}

/// Does work that blocks beside the runtime's own threads; it is done even if nobody waits for what is returned.
pub fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> + Send {
    let slot = Slot::default();
    let filled = slot.clone();
    let job: Job = Box::new(move || filled.fill(work()));
    let doing = task::spawn_blocking(job);
    async move { doing.await.map(|()| slot.take()) }
}

/// Where a task leaves its result.
struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Slot<T> {
    fn fill(&self, result: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }

    fn take(&self) -> T {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.take()
            .expect("a task that ended well has filled its slot")
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_though_nobody_waits_for_it_and_its_result_is_handed_over() {
        let tracker = TaskTracker::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        drop(spawn_to_the_end(&tracker, async { tell.send(3) }));
        assert_eq!(told.await, Ok(3));
        assert_eq!(
            spawn_to_the_end(&tracker, async { "done" }).await.unwrap(),
            "done"
        );
        assert_eq!(spawn_blocking(|| 7).await.unwrap(), 7);
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn a_panic_is_the_waiters_to_hear_of() {
        let tracker = TaskTracker::new();
        let told = spawn_to_the_end(&tracker, async { panic!("as asked") }).await;
        assert!(told.is_err_and(|err: JoinError| err.is_panic()));
        let told = spawn_blocking(|| panic!("as asked")).await;
        assert!(told.is_err_and(|err: JoinError| err.is_panic()));
    }
}
