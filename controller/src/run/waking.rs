//! A box that was kept after the end of its run is started again for a person who wants to look at it.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    error::CommandError,
    provider::{Actual, Instance},
    run::{
        State,
        bringing_up::TRAIN,
        lifecycle::{LOOK_AGAIN, Lifecycle},
        next, restarts,
        site::SiteError,
        status::{Meaning, Seen, row},
    },
    store::{AttemptRecord, RunRecord},
};

/// A container that is on its host already is up within seconds; somebody waits at the keyboard.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Longest time for a look whether it trains again by itself.
const STANDS_DOWN: Duration = Duration::from_secs(60);

impl Lifecycle {
    /// Starts the box of an ended run if it is stopped, and answers when ssh can be expected there. The caller holds the lease.
    pub async fn wake(&self, run: &RunRecord, attempt: &AttemptRecord) -> Result<(), CommandError> {
        let name = &run.name;
        let refused = |why: &str| {
            CommandError::new(format!("the box of `{name}` was not started"))
                .because(why)
                .about(name)
        };
        let Some(id) = attempt.instance.filter(|_| attempt.may_cost()) else {
            return Err(refused("it has none any more"));
        };
        if matches!(
            attempt.state,
            State::Interrupted | State::Waiting | State::Lost
        ) {
            return Err(refused("the market took it back").hint(format!(
                "wait for it with `{}`, or go on with `{}`",
                next::resume(&self.store, run, "--here ")?,
                next::resume(&self.store, run, "--elsewhere ")?
            )));
        }
        let gone = || refused("the market does not know it any more");
        let found = self.find_box(id).await?.ok_or_else(gone)?;
        if is_up(attempt, &found) {
            return self.is_awake(run, attempt, &found).await;
        }
        self.say(run, &format!("Starting instance {id}."));
        self.provider.start(id).await?;
        let begun = Instant::now();
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let found = self.find_box(id).await?.ok_or_else(gone)?;
            if is_up(attempt, &found) {
                return self.is_awake(run, attempt, &found).await;
            }
            if begun.elapsed() >= PATIENCE {
                // An order that was not carried out in time must not be carried out when nobody waits for it any more.
                self.provider.stop(id).await?;
                let why = if found.scheduling {
                    "somebody else has its GPU".to_owned()
                } else {
                    format!("it did not come up in {} s", PATIENCE.as_secs())
                };
                return Err(refused(&why).hint(format!(
                    "try again later; its disk costs ${:.4}/h until `{}`",
                    attempt.storage_usd_per_hour,
                    next::destroy(&self.store, run)?
                )));
            }
        }
    }

    /// Stops the box of an ended run where it still runs. The caller holds the lease.
    pub async fn put_to_sleep(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<(), CommandError> {
        let stopped = self.stop_box(run, attempt).await;
        stopped.map_err(|halt| halt.into_error(&run.name))
    }

    async fn is_awake(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        found: &Instance,
    ) -> Result<(), CommandError> {
        let mut attempt = attempt.clone();
        attempt.ssh = found.ssh.clone();
        self.store.update_attempt(&attempt)?;
        self.gpu_charge_starts(&attempt, found)?;
        if run.outcome.is_some() && restarts::again(&run.spec, 0).is_some() {
            let stood_down = tokio::time::timeout(STANDS_DOWN, self.stand_down(run, &attempt));
            if stood_down.await.is_err() {
                tracing::debug!("whether the box trains again could not be asked in time");
            }
        }
        Ok(())
    }

    /// A box that was told to stop while nobody could reach it takes its restart for an interruption, and goes on with the training.
    async fn stand_down(&self, run: &RunRecord, attempt: &AttemptRecord) {
        let Some(id) = attempt.instance else { return };
        let place = self.place(attempt, id);
        loop {
            match self.sites.open(&place, &run.spec, &|_, _| {}).await {
                Ok(site) => {
                    let status = site.status().await.ok();
                    let trains = status
                        .and_then(|status| Some(status.session(TRAIN)?.is_running()))
                        .unwrap_or(false);
                    if trains {
                        self.say(
                            run,
                            "Its training had ended, so what the box started again is ended.",
                        );
                        if let Err(err) = site.end_session(TRAIN, Duration::ZERO).await {
                            tracing::warn!(%err, "the training was not ended");
                        }
                    }
                    return;
                }
                Err(SiteError::Unreachable(_) | SiteError::NoAnswer(_)) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(_) => return,
            }
        }
    }
}

fn is_up(attempt: &AttemptRecord, found: &Instance) -> bool {
    let meaning = row(attempt.state, Seen::of(found, attempt.rental)).meaning;
    meaning == Meaning::Kept && !found.ssh.is_empty() && found.actual == Actual::Running
}
