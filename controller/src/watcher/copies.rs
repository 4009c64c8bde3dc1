//! Brings home what a box prints and does: each byte and each event once, however often the link broke.

use crate::{
    agent_client::AgentEvent,
    error::chain,
    run::{
        bringing_up::TRAIN,
        lifecycle::Lifecycle,
        site::{Site, SiteError},
    },
    store::{AttemptRecord, RunRecord, StoreError, StoredEvent},
};

impl Lifecycle {
    /// Copies what a session printed since the last look, to its end.
    pub(crate) async fn copy_log(
        &self,
        run: &RunRecord,
        attempt: u32,
        site: &dyn Site,
        session: &str,
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
            if bytes == 0 {
                return Ok(());
            }
        }
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
        for object in &left.too_large {
            self.say(
                run,
                &format!("Not brought home: {object} is too large for the end of a log."),
            );
        }
        Ok(())
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
