//! Ends a run whose box ended itself with nobody there, as soon as any verb looks at it: whoever asks is told the end, not the last sight.

use std::time::Duration;

use crate::{
    commands::{Deps, market_word::MarketWord, watching::ConsoleReport},
    error::CommandError,
    provider::hosts::is_host,
    run::{endings::Disk, has_bucket, lease::Lease, own_end::Reach},
    store::{AttemptRecord, RunRecord},
    ui::Ui,
};

/// Longest time that a look spends on it: the end of a log, the events and the bill of a box that is gone.
const LOOK: Duration = Duration::from_secs(20);

impl Deps {
    /// For whoever only looks, by the market's `word` on the newest box; true: the run has ended, and its record is to be read again.
    pub(super) async fn take_end(
        &self,
        ui: &Ui,
        run: &RunRecord,
        word: Option<MarketWord>,
    ) -> bool {
        if word.and_then(|word| word.disk()) != Some(Disk::Lost) {
            return false;
        }
        let taken = self.take_end_with(ui, run, Disk::Lost, Reach::Look);
        match tokio::time::timeout(LOOK, taken).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(err)) => {
                tracing::debug!(%err, run = run.name, "the end of a run was not taken in");
                false
            }
            Err(_) => false,
        }
    }

    /// For whoever goes on with the run: the market is asked first. Answers the run as it is on record then.
    pub(super) async fn end_if_over(
        &self,
        ui: &Ui,
        run: RunRecord,
    ) -> Result<RunRecord, CommandError> {
        let latest = self.store()?.latest_attempt(&run.name)?;
        let Some(latest) = latest.filter(|latest| may_have_ended(&run, latest)) else {
            return Ok(run);
        };
        let word = match self.market_word(&latest).await {
            Ok(word) => word,
            Err(why) => {
                tracing::debug!(why, "the market does not say whether the box is there");
                None
            }
        };
        let Some(disk) = word.and_then(|word| word.disk()) else {
            return Ok(run);
        };
        self.take_end_with(ui, &run, disk, Reach::Act).await?;
        Ok(self.store()?.run(&run.name)?)
    }

    async fn take_end_with(
        &self,
        ui: &Ui,
        run: &RunRecord,
        disk: Disk,
        reach: Reach,
    ) -> Result<bool, CommandError> {
        let store = self.store()?;
        let latest = store.latest_attempt(&run.name)?;
        if !latest.is_some_and(|latest| may_have_ended(run, &latest)) {
            return Ok(false);
        }
        // Whoever watches sees to it, and tells of it.
        let Some(lease) = Lease::take(&store, &run.name)? else {
            return Ok(false);
        };
        let lifecycle = self.lifecycle(ConsoleReport::new(ui))?;
        // As it is now that nobody else acts.
        let run = store.run(&run.name)?;
        tokio::select! {
            ended = lifecycle.take_end(&run, disk, reach) => ended,
            () = lease.lost() => Ok(false),
        }
    }
}

/// Whether a box of it may have ended itself, by the record: one that was rented, trained and has a bucket for its last word.
fn may_have_ended(run: &RunRecord, latest: &AttemptRecord) -> bool {
    run.outcome.is_none()
        && latest.started_us > 0
        && latest.instance.is_some_and(|id| !is_host(id))
        && has_bucket(run)
}
