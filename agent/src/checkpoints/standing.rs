//! How the backup stands: the state that everybody may read, the events it makes, and patience with a bucket that does not answer.
//!
//! Transient failures are retried for as long as the work is wanted; missing rights until new keys come. Start at [`Standing::ask`].

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use spotter_bucket::{BucketError, ErrorKind};
use tokio::sync::Notify;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::complete::Refused;
use super::upload::Area;
use crate::events::EventSink;
use crate::fault;

/// Shortest ceiling of a random wait between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest ceiling of a random wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Wait between two tries when the keys lack a right; new keys cut it short.
const DENIED_WAIT: Duration = Duration::from_secs(60);
/// Tries that fail before the status speaks of a problem: single failures are the bucket's daily life.
const QUIET_FAILURES: u32 = 3;

/// The backup's state, as Status reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupState {
    /// Committed checkpoints known to this agent.
    pub committed: u64,
    /// Finished checkpoints that wait for their upload or are being uploaded.
    pub pending: u64,
    /// Step of the newest commit.
    pub last_step: Option<u64>,
    /// When the newest commit was completed, microseconds since the epoch; 0: none.
    pub last_commit_us: u64,
    /// Bytes of the upload in progress that are done.
    pub uploading_done_bytes: u64,
    /// Bytes of the upload in progress in all; 0: none is.
    pub uploading_total_bytes: u64,
    /// The same of a collection of results: the two may go on side by side.
    pub results_done_bytes: u64,
    /// And in all; 0: none is collected.
    pub results_total_bytes: u64,
    /// Name of the newest commit; empty: none.
    pub last_commit: String,
    /// Why backup makes no progress; empty when it does.
    pub problem: String,
    /// Whether the backup is behind.
    pub alarm: bool,
    /// Bytes of checkpoint files on the box that are in no commit yet.
    pub unsaved_bytes: u64,
    /// Bytes that would go with the box's disk, whatever they are worth; see [`super::complete::Tracker::here_alone_bytes`].
    pub here_alone_bytes: u64,
    /// Checkpoints that cannot be saved as they are, each with the reason.
    pub unsaved: Vec<String>,
    /// The largest of those that are in no commit yet, each with its bytes.
    pub at_stake: Vec<(String, u64)>,
    /// The directory could not be looked at last time, or was not looked at so far: what is unsaved is not known.
    pub unseen: bool,
}

impl BackupState {
    /// Bytes that are done of what goes there now, and in all.
    pub(super) fn upload(&mut self, area: Area) -> (&mut u64, &mut u64) {
        match area {
            Area::Data => (
                &mut self.uploading_done_bytes,
                &mut self.uploading_total_bytes,
            ),
            Area::Results => (&mut self.results_done_bytes, &mut self.results_total_bytes),
        }
    }
}

/// A call that brought no answer we can use.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The work is not wanted any more, or not now.
    #[error("it was interrupted")]
    Stopped,
    /// The bucket said no, in a way that repeating does not change.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// How the bucket refuses our keys.
#[derive(Default)]
struct Denial {
    /// It was told, and nothing has ended it.
    told: bool,
    /// Calls that wait for other keys. An answer to any other call says nothing of what these ask for.
    waiting: u32,
}

/// One of the calls that wait for other keys.
struct Waits<'a>(&'a Standing);

impl<'a> Waits<'a> {
    fn begin(standing: &'a Standing) -> Waits<'a> {
        standing.denial().waiting += 1;
        Waits(standing)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.denial().waiting -= 1;
    }
}

/// State, events and the moments at which keys change.
pub struct Standing {
    state: Mutex<BackupState>,
    events: Arc<dyn EventSink>,
    denial: Mutex<Denial>,
    credentials: Notify,
    /// What was told of checkpoints that cannot be saved, by their key.
    told_unsaved: Mutex<HashMap<String, String>>,
    /// What was told of results that were not uploaded.
    told_results: Mutex<Option<String>>,
    /// Checkpoints that the disk still takes, when they are too few.
    short_of_room: Mutex<Option<u64>>,
}

impl Standing {
    /// Nothing known yet.
    pub fn new(events: Arc<dyn EventSink>) -> Standing {
        Standing {
            state: Mutex::new(BackupState {
                unseen: true,
                ..BackupState::default()
            }),
            events,
            denial: Mutex::default(),
            credentials: Notify::new(),
            told_unsaved: Mutex::default(),
            told_results: Mutex::default(),
            short_of_room: Mutex::default(),
        }
    }

    /// The state, to read or to change; never held across a wait.
    pub fn state(&self) -> MutexGuard<'_, BackupState> {
        self.state
            .lock()
            .expect("nothing panics while it holds the state")
    }

    /// Records an event.
    pub fn event(&self, kind: &str, detail: Value) {
        self.events.event(kind, detail);
    }

    /// New keys are there: whoever waits for them tries again at once.
    pub fn credentials_changed(&self) {
        self.credentials.notify_waiters();
    }

    /// Tells of a checkpoint that cannot be saved: once for each reason, not once a look.
    pub fn tell_unsaved(&self, refused: &Refused, now: Duration) {
        let told = self
            .told_unsaved
            .lock()
            .expect("nothing panics while it holds this map")
            .insert(refused.key.clone(), refused.reason.clone());
        if told.as_ref() == Some(&refused.reason) {
            return;
        }
        let seconds = now.saturating_sub(refused.since).as_secs();
        tracing::warn!(
            path = refused.path,
            reason = refused.reason,
            "a checkpoint cannot be saved"
        );
        let detail = json!({
            "path": refused.path, "step": refused.step, "size_bytes": refused.size_bytes, "reason": refused.reason, "seconds": seconds,
        });
        self.event("checkpoint.unsaved", detail);
    }

    /// Tells why results were not uploaded: once for each reason, until they are (`None`).
    pub fn set_results(&self, problem: Option<String>) {
        let told = self.told_results.lock();
        let mut told = told.expect("nothing panics while it holds this text");
        if let Some(problem) = problem.as_ref().filter(|_| *told != problem) {
            tracing::warn!(problem, "results were not uploaded");
            self.event("results.failed", json!({ "problem": problem }));
        }
        *told = problem;
    }

    /// Sets or ends the alarm; one event per change.
    pub fn set_alarm(&self, reason: Option<String>) {
        let was = std::mem::replace(&mut self.state().alarm, reason.is_some());
        match reason {
            Some(reason) if !was => {
                let problem = self.state().problem.clone();
                tracing::warn!(reason, problem, "backup is behind");
                self.event(
                    "backup.alarm",
                    json!({ "reason": reason, "problem": problem }),
                );
            }
            None if was => self.event("backup.recovered", json!({})),
            _ => {}
        }
    }

    /// Tells that the disk will be too small, or that it will do again; one event per change of how many still fit.
    pub fn set_room(&self, short: Option<Value>) {
        let fit = short.as_ref().map(|short| short["fit"].as_u64());
        let was = std::mem::replace(
            &mut *self
                .short_of_room
                .lock()
                .expect("nothing panics while it holds this number"),
            fit.flatten(),
        );
        match short {
            Some(detail) if fit.flatten() != was => {
                tracing::warn!(%detail, "the disk will be too small for the checkpoints to come");
                self.event("disk.filling", detail);
            }
            None if was.is_some() => self.event("disk.enough", json!({})),
            _ => {}
        }
    }

    /// Asks the bucket until it answers, or `stop` is cancelled. What is neither transient nor a matter of keys is returned.
    pub async fn ask<T, F>(
        &self,
        stop: &CancellationToken,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Unanswered>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        let began = Instant::now();
        let mut failures = 0_u32;
        let mut waits = None;
        loop {
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Unanswered::Stopped),
                answer = call() => answer,
            };
            let err = match answer {
                Ok(value) => {
                    drop(waits);
                    self.answered(failures);
                    return Ok(value);
                }
                Err(err) => err,
            };
            failures = failures.saturating_add(1);
            // Registered before the wait, so that keys which come while we write the event are not missed.
            let new_keys = self.credentials.notified();
            let wait = match err.kind {
                ErrorKind::NotFound | ErrorKind::Refused => {
                    drop(waits);
                    self.answered(failures);
                    return Err(err.into());
                }
                ErrorKind::Denied => {
                    waits.get_or_insert_with(|| Waits::begin(self));
                    self.denied(&err);
                    DENIED_WAIT
                }
                ErrorKind::Transient | ErrorKind::Skewed => {
                    if failures >= QUIET_FAILURES {
                        let seconds = began.elapsed().as_secs();
                        self.state().problem =
                            format!("{} (tried {failures} times in {seconds} s)", chain(&err));
                    }
                    jitter(failures)
                }
            };
            tracing::debug!(failures, error = %chain(&err), "bucket call failed, will retry");
            tokio::select! {
                () = stop.cancelled() => return Err(Unanswered::Stopped),
                () = time::sleep(fault::wait(wait)) => {}
                () = new_keys => {}
            }
        }
    }

    fn denial(&self) -> MutexGuard<'_, Denial> {
        self.denial
            .lock()
            .expect("nothing panics while it holds this record")
    }

    /// A call was answered, and waits no more. A refusal ends when none waits that it was for.
    fn answered(&self, failures: u32) {
        let was_denied = {
            let mut denial = self.denial();
            denial.waiting == 0 && std::mem::take(&mut denial.told)
        };
        if was_denied || failures >= QUIET_FAILURES {
            self.state().problem.clear();
        }
        if was_denied {
            self.event("credentials.accepted", json!({}));
        }
    }

    fn denied(&self, err: &BucketError) {
        let problem = match err.status {
            // Nobody asked the bucket.
            0 => chain(err),
            _ => format!("the bucket refuses our keys: {}", chain(err)),
        };
        let was = std::mem::replace(&mut self.denial().told, true);
        self.state().problem.clone_from(&problem);
        if !was {
            tracing::warn!(problem, "new bucket keys are wanted");
            self.event("credentials.wanted", json!({ "problem": problem }));
        }
    }
}

/// A random wait below a ceiling that doubles with every failure.
fn jitter(failures: u32) -> Duration {
    let ceiling = FIRST_WAIT
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_WAIT);
    ceiling.mul_f64(rand::random::<f64>())
}

/// An error with its causes, in one line.
pub fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {err}");
        cause = err.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::events::RecordedEvents;

    fn failure(kind: ErrorKind) -> BucketError {
        BucketError {
            operation: "PutObject",
            key: "k".into(),
            kind,
            status: 503,
            code: None,
            message: "no".into(),
        }
    }

    fn kinds(events: &RecordedEvents) -> Vec<String> {
        let told = events.0.lock().unwrap();
        told.iter().map(|(kind, _)| kind.clone()).collect()
    }

    /// Asks a bucket that fails `times` times in a way before it answers.
    async fn outlast(standing: &Standing, kind: ErrorKind, times: u32) -> Result<u32, Unanswered> {
        let calls = AtomicU32::new(0);
        let call = || async {
            let number = calls.fetch_add(1, Ordering::Relaxed);
            if number < times {
                Err(failure(kind))
            } else {
                Ok(number)
            }
        };
        standing.ask(&CancellationToken::new(), call).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_outlasted_and_named_meanwhile() {
        let standing = Standing::new(Arc::new(RecordedEvents::default()));
        assert_eq!(
            outlast(&standing, ErrorKind::Transient, 500).await.unwrap(),
            500
        );
        assert_eq!(standing.state().problem, "");
        let waits = async {
            tokio::time::timeout(
                Duration::from_secs(90),
                outlast(&standing, ErrorKind::Transient, 999),
            )
            .await
        };
        assert!(waits.await.is_err());
        assert!(
            standing.state().problem.contains("PutObject k: no"),
            "{}",
            standing.state().problem
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_returned_at_once() {
        let standing = Standing::new(Arc::new(RecordedEvents::default()));
        assert!(matches!(
            outlast(&standing, ErrorKind::Refused, 1).await,
            Err(Unanswered::Bucket(_))
        ));
        assert!(matches!(
            outlast(&standing, ErrorKind::NotFound, 1).await,
            Err(Unanswered::Bucket(_))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn missing_rights_are_asked_for_once_and_new_keys_end_the_wait() {
        let events = Arc::new(RecordedEvents::default());
        let standing = Standing::new(events.clone());
        let began = Instant::now();
        assert_eq!(outlast(&standing, ErrorKind::Denied, 3).await.unwrap(), 3);
        assert_eq!(began.elapsed().as_secs(), 180);
        assert_eq!(
            kinds(&events),
            ["credentials.wanted", "credentials.accepted"]
        );

        let began = Instant::now();
        let bring_keys = async {
            time::sleep(Duration::from_secs(5)).await;
            standing.credentials_changed();
        };
        let (answer, ()) = tokio::join!(outlast(&standing, ErrorKind::Denied, 1), bring_keys);
        assert_eq!((answer.unwrap(), began.elapsed().as_secs()), (1, 5));
        assert_eq!(standing.state().problem, "");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_another_call_ends_no_refusal() {
        let events = Arc::new(RecordedEvents::default());
        let standing = Standing::new(events.clone());
        let others = async {
            time::sleep(Duration::from_secs(30)).await;
            assert!(outlast(&standing, ErrorKind::Denied, 0).await.is_ok());
            assert!(outlast(&standing, ErrorKind::NotFound, 1).await.is_err());
            assert_eq!(kinds(&events), ["credentials.wanted"]);
            assert!(standing.state().problem.contains("refuses our keys"));
        };
        let (answer, ()) = tokio::join!(outlast(&standing, ErrorKind::Denied, 1), others);
        assert_eq!(answer.unwrap(), 1);
        let once = ["credentials.wanted", "credentials.accepted"];
        assert_eq!(kinds(&events), once);
        assert_eq!(standing.state().problem, "");

        // Nobody asks any more for what was refused: the next answer ends it.
        let given_up = outlast(&standing, ErrorKind::Denied, 9);
        let given_up = time::timeout(Duration::from_secs(5), given_up).await;
        assert!(given_up.is_err());
        assert!(outlast(&standing, ErrorKind::Denied, 0).await.is_ok());
        assert_eq!(kinds(&events), [once, once].concat());
        assert_eq!(standing.state().problem, "");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_not_wanted_any_more_stops_waiting() {
        let standing = Standing::new(Arc::new(RecordedEvents::default()));
        let stop = CancellationToken::new();
        let asks = standing.ask(&stop, || async {
            Err::<(), _>(failure(ErrorKind::Transient))
        });
        let stops = async {
            time::sleep(Duration::from_secs(40)).await;
            stop.cancel();
        };
        let (answer, ()) = tokio::join!(asks, stops);
        assert!(matches!(answer, Err(Unanswered::Stopped)));
    }

    #[test]
    fn an_alarm_is_told_once_per_change() {
        let events = Arc::new(RecordedEvents::default());
        let standing = Standing::new(events.clone());
        for reason in [None, Some("late"), Some("later"), None, None, Some("again")] {
            standing.set_alarm(reason.map(str::to_owned));
        }
        assert_eq!(
            kinds(&events),
            ["backup.alarm", "backup.recovered", "backup.alarm"]
        );
    }
}
