//! Brings home what a box prints, does and measures: each byte and each event once, however often the link broke.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    agent_client::AgentEvent,
    error::chain,
    logbook::minutes::SampleCopy,
    run::{
        believable_step,
        bringing_up::TRAIN,
        lifecycle::Lifecycle,
        site::{SAMPLES_AT_ONCE, Site, SiteError},
    },
    store::{AttemptRecord, RunRecord, StoreError, StoredEvent},
};

/// Between two copies of what a box measured: so much of it goes with a box that is taken back.
const SAMPLES: Duration = Duration::from_secs(15);
/// Longest time that one may take: nothing that recovers or ends a run waits longer for a curve.
const SAMPLES_LIMIT: Duration = Duration::from_secs(2);
/// After this the rest of a log waits for the next look: the market, the money and a wish to stop are looked at between two.
const LOG_LIMIT: Duration = Duration::from_secs(4);
/// The limit of the last copy of samples, which is several.
const LAST_SAMPLES_LIMIT: Duration = Duration::from_secs(5);
/// What a box measured before its attempt was written down is of somebody else, clocks that differ aside.
const BEFORE_US: i64 = 600_000_000;

/// How far the copy of a box's samples is.
#[derive(Default)]
pub(super) struct Samples {
    copy: Option<SampleCopy>,
    due: Option<Instant>,
}

impl Samples {
    /// Nobody looks at this box any more: what came of a minute that is not over is written down as it is.
    pub(super) fn settle(&mut self) {
        if let Some(Err(err)) = self.copy.take().as_mut().map(SampleCopy::settle) {
            tracing::debug!(%err, "the last samples were not written down");
        }
    }
}

impl Lifecycle {
    /// Copies what the box measured since the last look, when that is due. Best effort: a curve holds nothing up.
    pub(super) async fn follow_samples(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
        samples: &mut Samples,
    ) {
        if samples.due.is_some_and(|due| due > Instant::now()) {
            return;
        }
        let copied = timeout(
            SAMPLES_LIMIT,
            self.copy_samples(run, attempt, site, &mut samples.copy),
        );
        let more = match copied.await {
            Ok(Ok(came)) => came >= SAMPLES_AT_ONCE,
            Ok(Err(err)) => {
                tracing::debug!(%err, "samples wait for the next look");
                // It is opened again where its file ends.
                samples.copy = None;
                false
            }
            Err(_) => {
                tracing::debug!("samples wait for the next look: no answer in time");
                false
            }
        };
        samples.due = (!more).then(|| Instant::now() + SAMPLES);
    }

    /// Copies the rest of what a box measured, before it goes. Best effort, and within [`LAST_SAMPLES_LIMIT`].
    pub(crate) async fn copy_last_samples(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
    ) {
        let until = Instant::now() + LAST_SAMPLES_LIMIT;
        let mut copy = None;
        loop {
            let copying = self.copy_samples(run, attempt, site, &mut copy);
            match timeout_at(until, copying).await {
                Ok(Ok(came)) if came >= SAMPLES_AT_ONCE => {}
                Ok(Ok(_)) => break,
                Ok(Err(err)) => {
                    tracing::debug!(%err, "the last samples were not copied");
                    break;
                }
                Err(_) => {
                    tracing::debug!("not all of the last samples were copied in time");
                    break;
                }
            }
        }
        if let Some(Err(err)) = copy.as_mut().map(SampleCopy::settle) {
            tracing::debug!(%err, "the last samples were not written down");
        }
    }

    /// Copies the next samples; answers how many came.
    async fn copy_samples(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
        copy: &mut Option<SampleCopy>,
    ) -> Result<usize, SiteError> {
        let local =
            |err: std::io::Error| SiteError::Local(format!("samples were not copied: {err}"));
        let open = match copy {
            Some(open) => open,
            none => none.insert(
                self.logbook
                    .open_samples(&run.name, attempt.number)
                    .map_err(local)?,
            ),
        };
        let begin = u64::try_from(attempt.created_us - BEFORE_US).unwrap_or(0);
        let samples = site.samples(open.last_us().max(begin)).await?;
        open.add(&samples).map_err(local)?;
        Ok(samples.len())
    }

    /// Copies what a session printed since the last look, to its end.
    pub(crate) async fn copy_log(
        &self,
        run: &RunRecord,
        attempt: u32,
        site: &dyn Site,
        session: &str,
    ) -> Result<(), SiteError> {
        self.copy_log_until(run, attempt, site, session, None).await
    }

    /// The same by whoever has more to look at: what a night or a training that prints faster than the link left over is copied at the
    /// next looks.
    pub(crate) async fn copy_log_in_passing(
        &self,
        run: &RunRecord,
        attempt: u32,
        site: &dyn Site,
        session: &str,
    ) -> Result<(), SiteError> {
        let until = Instant::now() + LOG_LIMIT;
        self.copy_log_until(run, attempt, site, session, Some(until))
            .await
    }

    async fn copy_log_until(
        &self,
        run: &RunRecord,
        attempt: u32,
        site: &dyn Site,
        session: &str,
        until: Option<Instant>,
    ) -> Result<(), SiteError> {
        let local = |err: std::io::Error| SiteError::Local(format!("a log was not copied: {err}"));
        let mut copy = self
            .logbook
            .open(&run.name, attempt, session)
            .map_err(local)?;
        loop {
            let pieces = site.log(session, copy.position()).await?;
            let bytes: usize = pieces.iter().map(|piece| piece.data.len()).sum();
            for piece in &pieces {
                copy.append(piece).map_err(local)?;
            }
            if bytes == 0 || until.is_some_and(|until| until <= Instant::now()) {
                return Ok(());
            }
        }
    }

    /// All that a box kept since somebody watched it: what happened, what it printed and what it measured. The caller holds the run's
    /// lease, and carries nothing on: of the attempt as it is on record nothing is changed but its step.
    pub async fn bring_home(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), SiteError> {
        self.bring_events(run, attempt.clone(), site).await?;
        let training = site.status().await?.training;
        if let step @ Some(_) = believable_step(training.and_then(|training| training.step)) {
            self.store
                .record_step(&run.name, attempt.number, step)
                .map_err(|err| SiteError::Local(chain(&err)))?;
        }
        self.copy_log(run, attempt.number, site, TRAIN).await?;
        let mut samples = Samples::default();
        while self
            .copy_samples(run, attempt, site, &mut samples.copy)
            .await?
            >= SAMPLES_AT_ONCE
        {}
        samples.settle();
        Ok(())
    }

    /// The same from what a box that is gone left in its bucket.
    pub async fn bring_left(&self, run: &RunRecord, attempt: u32) -> Result<(), SiteError> {
        self.collect_left(run, attempt).await
    }

    /// What the box left in the bucket when it went: appended to what was copied before.
    pub(crate) async fn collect_left(
        &self,
        run: &RunRecord,
        attempt: u32,
    ) -> Result<(), SiteError> {
        let local = |err: std::io::Error| SiteError::Local(format!("a log was not copied: {err}"));
        let left = self.sites.left_log(&run.spec, attempt, TRAIN).await?;
        if !left.pieces.is_empty() {
            let mut copy = self
                .logbook
                .open(&run.name, attempt, TRAIN)
                .map_err(local)?;
            for piece in &left.pieces {
                copy.append(piece).map_err(local)?;
            }
        }
        self.take_left_events(run, attempt).await?;
        self.take_left_samples(run, attempt).await;
        for object in &left.too_large {
            self.say(
                run,
                &format!("Not brought home: {object} is too large for the end of a log."),
            );
        }
        Ok(())
    }

    /// What a box that is gone measured since somebody last copied it. Best effort: a curve holds nothing up.
    async fn take_left_samples(&self, run: &RunRecord, attempt: u32) {
        let left = match self.sites.left_samples(&run.spec, attempt).await {
            Ok(left) if !left.is_empty() => left,
            Ok(_) => return,
            Err(err) => {
                tracing::debug!(%err, "what a box left of its samples was not read");
                return;
            }
        };
        let copied = self.logbook.open_samples(&run.name, attempt);
        let copied = copied.and_then(|mut copy| {
            copy.add(&left)?;
            copy.settle()
        });
        if let Err(err) = copied {
            tracing::debug!(%err, "what a box left of its samples was not written down");
        }
    }

    /// What happened on a box that is gone, as it left it; what it could not leave is told as a gap.
    async fn take_left_events(&self, run: &RunRecord, attempt: u32) -> Result<(), SiteError> {
        let local = |err: StoreError| SiteError::Local(chain(&err));
        let left = self.sites.left_events(&run.spec, attempt).await?;
        let Some(first) = left.first().map(|event| event.seq) else {
            return Ok(());
        };
        let attempts = self.store.attempts(&run.name).map_err(local)?;
        let known = attempts.iter().find(|known| known.number == attempt);
        let next = known.map_or(0, |known| known.last_event) + 1;
        if first > next {
            let detail = serde_json::json!({"from": next, "to": first - 1});
            let now_us = self.clock.now_us();
            self.store
                .note(&run.name, attempt, now_us, "events_gap", &detail)
                .map_err(local)?;
        }
        let stored: Vec<StoredEvent> = left.into_iter().map(stored).collect();
        self.store
            .append_events(&run.name, attempt, &stored)
            .map(drop)
            .map_err(local)
    }

    /// The same for whoever only looks: the attempt as it is on record is not changed but for the events.
    pub async fn bring_events(
        &self,
        run: &RunRecord,
        mut attempt: AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), SiteError> {
        self.copy_events(run, &mut attempt, site).await
    }

    /// Copies all new events of the agent into the store and lets the agent drop them.
    pub(crate) async fn copy_events(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), SiteError> {
        loop {
            let events = site.events(attempt.last_event + 1).await?;
            if events.is_empty() {
                return Ok(());
            }
            let stored: Vec<StoredEvent> = events.into_iter().map(stored).collect();
            let last = self
                .store
                .append_events(&run.name, attempt.number, &stored)
                .map_err(|err| SiteError::Local(crate::error::chain(&err)))?;
            // An answer that brings nothing new would be asked for for ever.
            if last <= attempt.last_event {
                return Ok(());
            }
            attempt.last_event = last;
            match site.acknowledge(last).await {
                Ok(()) => {}
                Err(err @ SiteError::Unreachable(_)) => return Err(err),
                // It only keeps them for longer; a full disk cannot even note what it may forget.
                Err(err) => {
                    tracing::debug!(%err, "the agent did not take that its events are here")
                }
            }
        }
    }
}

fn stored(event: AgentEvent) -> StoredEvent {
    StoredEvent {
        seq: event.seq,
        time_us: event.time_us as i64,
        detail: event.detail,
        kind: event.kind,
    }
}
