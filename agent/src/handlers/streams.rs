//! The calls that answer with a stream. Each has a task that ends with the caller or the daemon, and a short queue between:
//! a caller who does not read makes the task wait, not the memory grow.

use std::{future::Future, sync::Arc};

use spotter_proto::v1;
use tokio::sync::{broadcast::error::RecvError, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Answers, refusal::to_status};
use crate::tasks;
use crate::{
    convert,
    daemon::{backup::RunningBackup, core::Core},
    logs::{LogFile, Position},
    sessions::{SessionError, SessionState},
};

/// Messages on their way to a caller: 16 log chunks are 1 MiB.
const QUEUE: usize = 16;
/// Journal entries that are read at once.
const EVENT_BATCH: usize = 256;
/// Samples that are read at once: 100 KB with 8 GPUs.
const SAMPLE_BATCH: usize = 64;

/// Why a stream's task ends early.
enum Over {
    /// The caller is gone.
    Left,
    /// The caller shall know.
    Told(Status),
}

impl From<Status> for Over {
    fn from(status: Status) -> Self {
        Self::Told(status)
    }
}

type Queue<T> = mpsc::Sender<Result<T, Status>>;

/// Journal events from `from` on.
pub fn events(core: &Arc<Core>, from: u64, follow: bool) -> Answers<v1::Event> {
    let of = core.clone();
    spawn(core, move |queue| async move {
        let mut newest = of.journal.subscribe();
        let mut next = from;
        loop {
            newest.mark_unchanged();
            let batch = of
                .blocking(move |core| core.journal.read(next, EVENT_BATCH))
                .await;
            let batch = batch.map_err(broken)?.map_err(to_status)?;
            for entry in batch {
                next = entry.seq + 1;
                send(&queue, convert::event(entry)).await?;
            }
            if next <= of.journal.last() {
                continue;
            }
            if !follow {
                return Ok(());
            }
            if newest.changed().await.is_err() {
                return Err(ending().into());
            }
        }
    })
}

/// Samples taken after `after_us`, and not after `until_us` unless they are followed.
pub fn samples(
    core: &Arc<Core>,
    after_us: u64,
    until_us: u64,
    follow: bool,
) -> Answers<v1::Sample> {
    let of = core.clone();
    spawn(core, move |queue| async move {
        // Subscribed before the history is read: what comes meanwhile is in both, and told apart by its time.
        let mut new = of.telemetry.subscribe();
        let mut after_us = after_us;
        loop {
            let mut held = of.telemetry.between(after_us, until_us);
            loop {
                // A week is read in pieces: the disk blocks, and the caller may be slow.
                let piece = of.blocking(move |_| {
                    let samples: Vec<_> = held.by_ref().take(SAMPLE_BATCH).collect();
                    (samples, held)
                });
                let (samples, rest) = piece.await.map_err(broken)?;
                held = rest;
                if samples.is_empty() {
                    break;
                }
                for sample in samples {
                    after_us = sample.time_us;
                    send(&queue, convert::sample(sample)).await?;
                }
            }
            if !follow {
                return Ok(());
            }
            loop {
                match new.recv().await {
                    Ok(sample) if sample.time_us > after_us => {
                        after_us = sample.time_us;
                        send(&queue, convert::sample(sample)).await?;
                    }
                    Ok(_) => {}
                    // A slow caller: the history has what the channel dropped.
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Err(ending().into()),
                }
            }
        }
    })
}

/// Bytes of a session's log from `from` on.
pub fn logs(
    core: &Arc<Core>,
    name: String,
    log: Arc<LogFile>,
    from: Position,
    follow: bool,
) -> Answers<v1::LogChunk> {
    let of = core.clone();
    spawn(core, move |queue| async move {
        let mut ear = of.logs.ear();
        let mut position = from;
        loop {
            // Asked before the read: what an ended session wrote is then all in the file.
            let ended = has_ended(&of, &name, &log).await?;
            let reader = log.clone();
            let chunk = of
                .blocking(move |_| reader.read(position))
                .await
                .map_err(broken)?
                .map_err(to_status)?;
            position = chunk.next();
            if !chunk.is_empty() {
                send(&queue, convert::log_chunk(chunk, false)).await?;
                continue;
            }
            if ended {
                return send(&queue, convert::log_chunk(chunk, true)).await;
            }
            if !follow {
                return Ok(());
            }
            ear.listen().await;
        }
    })
}

/// Whether nothing more will be written to this log: its session has ended, or gave its name to another.
async fn has_ended(core: &Arc<Core>, name: &str, log: &Arc<LogFile>) -> Result<bool, Status> {
    let (name, log) = (name.to_owned(), log.clone());
    let looked = core.blocking(move |core| match core.sessions.get(&name) {
        Ok(session) => {
            let dir = core.sessions.dir(&name)?;
            let current = core
                .logs
                .of_session(&dir)
                .map_err(|source| SessionError::Io { name, source })?;
            Ok(session.state != SessionState::Running || !Arc::ptr_eq(&current, &log))
        }
        Err(SessionError::Missing(_)) => Ok(true),
        Err(err) => Err(err),
    });
    looked.await.map_err(broken)?.map_err(to_status)
}

/// Restores a checkpoint and tells how far it is.
pub fn restore(
    core: &Arc<Core>,
    running: RunningBackup,
    id: Option<String>,
) -> Answers<v1::RestoreProgress> {
    spawn(core, move |queue| async move {
        let (told, mut heard) = watch::channel((0, 0));
        let mut progress = move |done, all| _ = told.send_replace((done, all));
        // Given up with the stream: the next call goes on with what is on the disk.
        let restoring = running.backup.restore(id.as_deref(), &mut progress);
        tokio::pin!(restoring);
        let outcome = loop {
            tokio::select! {
                outcome = &mut restoring => break outcome,
                Ok(()) = heard.changed() => {
                    // Only the newest figure matters: a slow caller sees fewer of them.
                    let (done_bytes, total_bytes) = *heard.borrow_and_update();
                    let message = v1::RestoreProgress { done_bytes, total_bytes, ..v1::RestoreProgress::default() };
                    if let Err(mpsc::error::TrySendError::Closed(_)) = queue.try_send(Ok(message)) {
                        return Err(Over::Left);
                    }
                }
            }
        };
        let restored = outcome.map_err(to_status)?;
        let (done_bytes, total_bytes) = *heard.borrow();
        let mut last = v1::RestoreProgress {
            done_bytes,
            total_bytes,
            done: true,
            ..v1::RestoreProgress::default()
        };
        if let Some(restored) = restored {
            last.path = restored.path.display().to_string();
            last.skipped = restored.skipped;
            last.restored = Some(convert::checkpoint(restored.checkpoint));
        }
        send(&queue, last).await
    })
}

/// Runs a stream's task until it is done, its caller is gone, or the daemon ends.
fn spawn<T, F>(core: &Arc<Core>, work: impl FnOnce(Queue<T>) -> F) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Over>> + Send + 'static,
{
    let (queue, answers) = mpsc::channel(QUEUE);
    let work = work(queue.clone());
    let stop = core.stop.clone();
    tasks::spawn(&core.tasks, async move {
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = queue.closed() => Err(Over::Left),
            () = stop.cancelled() => Err(ending().into()),
        };
        if let Err(Over::Told(status)) = outcome {
            // A caller who left in this instant hears nothing, which is as it should be.
            let _nobody_listens = queue.try_send(Err(status));
        }
    });
    Box::pin(ReceiverStream::new(answers))
}

async fn send<T>(queue: &Queue<T>, message: T) -> Result<(), Over> {
    queue.send(Ok(message)).await.map_err(|_| Over::Left)
}

/// The daemon ends and another will take its place: to the caller that is a broken link.
fn ending() -> Status {
    Status::unavailable("the daemon is ending")
}

fn broken(err: tokio::task::JoinError) -> Status {
    to_status(super::Refusal::Broken(err.to_string()))
}
