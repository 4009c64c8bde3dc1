//! A training that crashed: what it left is saved, why it ended is found out and told, and nothing is started again.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    agent_client::SessionInfo,
    run::{
        State,
        boxes::has_bucket,
        bringing_up::{TRAIN, ended_text, last_lines},
        diagnosis::{self, Diagnosis},
        finishing::LAST_BACKUP,
        halt::Halt,
        lifecycle::Lifecycle,
        not_saved::unsaved,
        site::{Site, SiteError},
    },
    store::{AttemptRecord, Outcome, RunRecord},
};

/// How long the agent may take to find out what ended a session: it reads the end of the log, and older ones do not tell at all.
const DIAGNOSIS_LIMIT: Duration = Duration::from_secs(10);
const DIAGNOSIS_LOOK: Duration = Duration::from_millis(500);

impl Lifecycle {
    /// The training crashed: what it left is saved, then the cause is told. Nothing is started again.
    pub(crate) async fn crashed(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
        ended: &SessionInfo,
    ) -> Result<(), Halt> {
        let how = ended_text(ended);
        let tail = site.log_tail(TRAIN, 2_000).await.unwrap_or_default();
        self.say(
            run,
            &format!("The training {how}. Its last lines:\n{}", last_lines(&tail)),
        );
        let mut unsaved_bytes = None;
        if has_bucket(run) {
            self.hand_over_last(run, attempt.number, site).await?;
            let saving = site.backup_now(LAST_BACKUP, true);
            match self.shown(run, site, "checkpoint", saving).await {
                Ok(backup) => unsaved_bytes = Some(backup.unsaved_bytes),
                Err(SiteError::Unreachable(why)) => return Err(Halt::Again(why)),
                Err(err) => self.say(
                    run,
                    &format!("Its last checkpoints may not be saved: {err}."),
                ),
            }
        }
        self.take_record(run, attempt, site).await?;
        let found = self.diagnosed(run, attempt, site).await?;
        self.record_crash(run, attempt, ended, &tail, unsaved_bytes, found)
    }

    /// The run ends with a crash.
    pub(crate) fn record_crash(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        ended: &SessionInfo,
        tail: &[u8],
        unsaved_bytes: Option<u64>,
        found: Option<Diagnosis>,
    ) -> Result<(), Halt> {
        let how = ended_text(ended);
        let lines = last_lines(tail);
        let detail =
            serde_json::json!({"how": how, "last_lines": lines, "unsaved_bytes": unsaved_bytes});
        self.note(run, attempt.number, "crashed", detail)?;
        attempt.exit_code = ended.exit_code;
        attempt.reason = Some(match found {
            Some(found) => format!("the training {how}: {}", found.meaning),
            None => format!("the training {how}"),
        });
        self.move_to(attempt, State::Failed)?;
        Ok(self.end(run, Outcome::Crashed, attempt.reason.as_deref())?)
    }

    /// What the agent found out about the end of a session that it has just seen; it takes a moment to read the log.
    pub(crate) async fn diagnosed(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
    ) -> Result<Option<Diagnosis>, Halt> {
        let until = Instant::now() + DIAGNOSIS_LIMIT;
        loop {
            // Told by whoever asks how the run ended, once.
            if let Some(found) = diagnosis::of(&self.store, attempt)? {
                return Ok(Some(found));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            tokio::time::sleep(DIAGNOSIS_LOOK).await;
            self.copy_events(run, attempt, site)
                .await
                .map_err(|err| unsaved(run, err))?;
        }
    }
}
