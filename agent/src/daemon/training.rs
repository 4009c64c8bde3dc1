//! Reads the training session's log as it grows and keeps the newest values that the trainer printed.

use std::sync::Arc;

use spotter_trainlog::{
    MetricReader,
    live::{Latest, Recogniser},
};
use tracing::warn;

use super::{core::Core, run_file::RunFile};
use crate::tasks::spawn_blocking;
use crate::{
    chain,
    logs::{LogFile, Position},
    now_us,
    sessions::SessionState,
};

/// The session that trains, as the controller names it.
pub const TRAINING_SESSION: &str = "train";
/// How much of an older log is read again after a restart of the daemon.
pub(super) const CATCH_UP_BYTES: u64 = 256 << 10;

/// Follows one training session after the other until the daemon stops.
pub async fn follow(core: Arc<Core>) {
    let mut ear = core.logs.ear();
    let mut following: Option<Following> = None;
    loop {
        match next(&core, following.take()).await {
            Ok(found) => following = found,
            Err(problem) => warn!(problem, "the training log is not read, will retry"),
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = ear.listen() => {}
        }
    }
}

struct Following {
    log: Arc<LogFile>,
    position: Position,
    recogniser: Recogniser,
    /// Reads the value that says which checkpoints are the best, where one does.
    metric: Option<MetricReader>,
}

/// Reads all that there is. Blocking reads run beside the runtime's own threads.
async fn next(core: &Arc<Core>, following: Option<Following>) -> Result<Option<Following>, String> {
    let core = core.clone();
    spawn_blocking(move || read_on(&core, following))
        .await
        .map_err(|err| err.to_string())?
}

fn read_on(core: &Core, following: Option<Following>) -> Result<Option<Following>, String> {
    let Ok(session) = core.sessions.get(TRAINING_SESSION) else {
        return Ok(None);
    };
    let dir = core
        .sessions
        .dir(TRAINING_SESSION)
        .map_err(|err| chain(&err))?;
    let log = core.logs.of_session(&dir).map_err(|err| chain(&err))?;
    let mut following = match following.filter(|following| Arc::ptr_eq(&following.log, &log)) {
        Some(following) => following,
        None => {
            let mut position = log.tail(CATCH_UP_BYTES).map_err(|err| chain(&err))?;
            // What was printed before a restart of the box says nothing of this life, unless it was rotated away.
            let before = session.spec.log_offset;
            if session.log_bytes >= before {
                position.offset = position.offset.max(before);
            }
            let run = core.run();
            Following {
                log,
                position,
                recogniser: Recogniser::with(run.as_ref().and_then(RunFile::expression)),
                metric: run.and_then(|run| run.metric()).map(MetricReader::new),
            }
        }
    };
    loop {
        let chunk = following
            .log
            .read(following.position)
            .map_err(|err| chain(&err))?;
        following.position = chunk.next();
        if let Some(record) = following.feed(core, &chunk.data) {
            core.set_training(record);
        }
        let is_over = session.state != SessionState::Running || core.stop.is_cancelled();
        if chunk.is_empty() || (is_over && chunk.data.is_empty()) {
            return Ok(Some(following));
        }
    }
}

impl Following {
    /// Reads what was printed; the newest values, if it held any.
    fn feed(&mut self, core: &Core, bytes: &[u8]) -> Option<Latest> {
        let now_us = now_us();
        let (Some(metric), Some(running)) = (&mut self.metric, core.backup()) else {
            return self.recogniser.feed(bytes, now_us);
        };
        // Line by line: a value belongs to the step that was printed before it.
        let mut newest = None;
        for line in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            newest = self.recogniser.feed(line, now_us).or(newest);
            if let Some(value) = metric.feed(line) {
                let step = self.recogniser.latest().and_then(|latest| latest.step);
                running.backup.measured(step, now_us, value);
            }
        }
        newest
    }
}
