//! What the store knows of runs. Only reads: takes no lease and asks nobody.

use std::{collections::HashMap, sync::Arc};

use crate::{
    error::CommandError,
    lookout::facts::{Facts, Log, News, Reach, Recorded},
    run::{
        State, alarms, causes, foresight, next, restarts, silence,
        summary::{self, AttemptSummary, RunSummary, summarise},
        to_come, waiting, windows,
    },
    store::{AttemptRecord, EventRecord, ObservationRecord, RunRecord, Store},
    ui::text,
};

/// Runs that are over change when somebody does something to them: they are read again every so many rounds.
const OVER_ROUNDS: u64 = 15;

/// Events of a run that are held, besides those that count for its summary: more than fit on a screen. Older ones are on record.
const EVENTS: usize = 1000;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Runs that are shown: those that go on, and the newest of the others.
    pub runs: usize,
    /// Runs that go on and are read in one round; with more of them each has its turn.
    pub each_round: usize,
}

/// All runs, or one.
#[derive(Debug)]
pub struct Board {
    store: Arc<Store>,
    only: Option<String>,
    extent: Extent,
    known: Vec<ObservationRecord>,
    rounds: u64,
    /// Those that go on first, newest first.
    pub runs: Vec<Facts>,
    /// Where each is.
    places: HashMap<String, usize>,
}

impl Board {
    /// Reads the store; with `only`, that run and no other.
    pub fn open(
        store: Arc<Store>,
        only: Option<String>,
        extent: Extent,
    ) -> Result<Self, CommandError> {
        let known = store.observations()?;
        let mut board = Self {
            store,
            only,
            extent,
            known,
            rounds: 0,
            runs: Vec::new(),
            places: HashMap::new(),
        };
        board.refresh(&|_| false)?;
        Ok(board)
    }

    /// Reads the store again. `shown`: whether somebody looks at a run.
    pub fn refresh(&mut self, shown: &dyn Fn(&str) -> bool) -> Result<(), CommandError> {
        let mut records = match &self.only {
            Some(name) => vec![self.store.run(name)?],
            None => self.store.runs()?,
        };
        records.sort_by_key(|run| (run.outcome.is_some(), -run.created_us));
        records.truncate(self.extent.runs);
        let now_us = self.store.now_us();
        let going = records.iter().filter(|run| run.outcome.is_none()).count();
        let turns = going.div_ceil(self.extent.each_round).max(1) as u64;
        let before = std::mem::take(&mut self.runs).into_iter();
        let mut before: HashMap<String, Facts> = before
            .map(|facts| (facts.recorded.name.clone(), facts))
            .collect();
        self.places.clear();
        for (index, run) in records.iter().enumerate() {
            let known = before.remove(&run.name);
            let is_known = known.is_some();
            let mut facts = known.unwrap_or_default();
            // A run that has just ended is read whoever's turn it is.
            let rests = is_known && facts.recorded.is_over == run.outcome.is_some();
            let turns = match run.outcome {
                Some(_) => OVER_ROUNDS,
                None => turns,
            };
            let has_turn = (self.rounds + index as u64).is_multiple_of(turns);
            if !rests || has_turn || shown(&run.name) {
                self.read(run, &mut facts, now_us)?;
            }
            if !is_known {
                facts.log = Log::with(run.spec.progress.clone());
            }
            self.places.insert(run.name.clone(), index);
            self.runs.push(facts);
        }
        self.rounds += 1;
        Ok(())
    }

    fn read(&self, run: &RunRecord, facts: &mut Facts, now_us: i64) -> Result<(), CommandError> {
        // What came at the last look was told by now.
        forget_old(&mut facts.events);
        let after = facts.events.last().map_or(0, |event| event.id);
        facts.events.extend(self.store.events(&run.name, after)?);
        let recorded = record(&self.store, run, &facts.events, &self.known, now_us)?;
        let is_new_box = recorded.attempt != facts.recorded.attempt;
        facts.recorded = recorded;
        if is_new_box {
            facts.forget_box();
        }
        let (attempt, stored) = (facts.recorded.attempt, facts.recorded.last_event);
        let told = &mut facts.live.told;
        told.retain(|event| event.attempt == attempt && event.seq > stored);
        Ok(())
    }

    /// What of a run is on record after a place, as far as it was read: also what is held no more.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn recorded(&self, facts: &Facts, after_id: i64) -> Result<Vec<EventRecord>, CommandError> {
        let newest = facts.events.last().map_or(0, |event| event.id);
        let mut events = self.store.events(&facts.recorded.name, after_id)?;
        events.retain(|event| event.id <= newest);
        Ok(events)
    }

    /// A run by its name.
    pub fn find(&self, run: &str) -> Option<&Facts> {
        self.runs.get(*self.places.get(run)?)
    }

    /// Takes news of an attempt, which came at `now_us`; those of one that is of the past are dropped.
    pub fn learn(&mut self, run: &str, attempt: u32, news: News, now_us: i64) {
        let place = self.places.get(run);
        let facts = place.and_then(|place| self.runs.get_mut(*place));
        if let Some(facts) = facts
            && facts.recorded.attempt == attempt
            // The last words of a link that was just ended are of the past.
            && (facts.recorded.box_runs || !matches!(news, News::Reach(_)))
        {
            facts.learn(news, now_us);
        }
    }

    /// No box of that run is looked at any more.
    pub fn left(&mut self, run: &str) {
        let place = self.places.get(run);
        if let Some(facts) = place.and_then(|place| self.runs.get_mut(*place)) {
            facts.reach = Reach::Record;
        }
    }
}

/// Drops the oldest of too many events that no summary needs.
fn forget_old(events: &mut Vec<EventRecord>) {
    let others = |event: &&EventRecord| !summary::counts(&event.kind);
    let mut surplus = events.iter().filter(others).count().saturating_sub(EVENTS);
    // The last one says how far the record was read.
    let newest = events.last().map_or(0, |event| event.id);
    events.retain(|event| {
        let goes = surplus > 0 && others(&event) && event.id < newest;
        surplus -= usize::from(goes);
        !goes
    });
}

/// What the store says of a run; `events`: all of its that a summary needs.
fn record(
    store: &Store,
    run: &RunRecord,
    events: &[EventRecord],
    known: &[ObservationRecord],
    now_us: i64,
) -> Result<Recorded, CommandError> {
    let name = &run.name;
    let attempts = store.attempts(name)?;
    let latest = attempts.last();
    let watched = store.lease(name)?.is_some();
    let (intervals, charges) = (store.intervals(name)?, store.charges(name)?);
    let summary = summarise(
        run, &attempts, &intervals, &charges, events, watched, now_us,
    );
    let newest_first = attempts.iter().rev().map(|attempt| attempt.number);
    let spec = &run.spec;
    let backup = spec.checkpoints.as_ref().filter(|dirs| dirs.to.is_some());
    let state = match summary.outcome {
        Some(outcome) => outcome.name(),
        None => summary.state.map_or("planned", State::name),
    };
    let newest_event = events.iter().map(|event| event.time_us).max();
    let newest_state = latest.map(|attempt| attempt.state_us.max(attempt.gone_us));
    let runs = |state: State| {
        matches!(
            state,
            State::Preparing | State::Syncing | State::Smoke | State::Running | State::Finishing
        )
    };
    Ok(Recorded {
        name: name.clone(),
        created_us: run.created_us,
        state: state.to_owned(),
        is_over: run.outcome.is_some(),
        trains: run.outcome.is_none() && summary.state == Some(State::Running),
        box_runs: latest.is_some_and(|latest| {
            run.outcome.is_none() && runs(latest.state) && !latest.ssh.is_empty()
        }),
        attempt: latest.map_or(0, |latest| latest.number),
        newest: latest.cloned(),
        training_end: summary.training_end.clone(),
        last_event: latest.map_or(0, |latest| latest.last_event),
        started_us: latest.map_or(0, |latest| latest.started_us),
        gpus: gpus(run, latest),
        watched,
        step: summary.step,
        saved: alarms::newest_saved(store, name, newest_first)?,
        committed: summary.checkpoints_committed,
        kept: summary.checkpoints_kept,
        save_every_s: backup.map(|dirs| i64::try_from(dirs.every.as_secs()).unwrap_or(i64::MAX)),
        usd_per_hour: summary.usd_per_hour,
        at_most_usd_per_hour: summary.at_most_usd_per_hour,
        cost_usd: summary.cost_usd,
        budget_usd: spec.limits.budget_usd,
        to_come: to_come::of_run(store, run, known, summary.usd_per_hour)?,
        window: match latest {
            Some(latest) => windows::newest(store, latest)?,
            None => None,
        },
        alerts: alerts(store, run, latest, &summary)?,
        attempts: summary.attempts.iter().map(attempt_line).collect(),
        newest_us: newest_event.max(newest_state).unwrap_or(run.created_us),
    })
}

/// `2 x RTX 4090`, as it is rented, else as it is asked for.
fn gpus(run: &RunRecord, latest: Option<&AttemptRecord>) -> String {
    let rented = latest.map(|latest| latest.gpu.as_str());
    let name = rented
        .filter(|gpu| !gpu.is_empty())
        .or(run.spec.resources.gpu_name.as_deref())
        .unwrap_or("any GPU");
    let count = latest.map_or(run.spec.resources.num_gpus, |latest| {
        latest.num_gpus(&run.spec)
    });
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    format!("{count} x {name}")
}

/// What is wrong, the gravest first.
fn alerts(
    store: &Store,
    run: &RunRecord,
    latest: Option<&AttemptRecord>,
    summary: &RunSummary,
) -> Result<Vec<String>, CommandError> {
    let name = &run.name;
    let mut alerts = Vec::new();
    if let Some(reason) = &summary.reason {
        alerts.push(reason.clone());
    }
    let Some(latest) = latest else {
        return Ok(alerts);
    };
    if let Some(found) = summary
        .attempts
        .last()
        .and_then(|last| last.diagnosis.as_ref())
    {
        alerts.push(format!(
            "{}: {}; {}",
            found.class, found.meaning, found.advice
        ));
    }
    if let Some(left_over) = next::left_over(store, run)? {
        alerts.push(left_over);
    }
    if latest.may_cost() {
        let unsaved = alarms::unsaved(store, name, latest.number)?;
        let told = causes::once_each(&unsaved, 1);
        alerts.extend(told.into_iter().map(|one| format!("not saved: {one}")));
    }
    if run.outcome.is_some() {
        return Ok(alerts);
    }
    if latest.state == State::Running {
        if let Some(why) = windows::contradiction(store, latest)? {
            let window = windows::newest(store, latest)?;
            let answer = windows::answer(name, &run.spec.validate, window.as_ref());
            alerts.push(format!("contradicts its estimate: {why}; {answer}"));
        }
        if let Some(alarm) = alarms::backup(store, name, latest.number)? {
            let mend = alarms::mend_keys(name, &alarm);
            let mend = mend.map_or_else(String::new, |mend| format!("; {mend}"));
            alerts.push(format!("the backup is behind: {alarm}{mend}"));
        }
        alerts.extend(silence::warning(store, run, latest)?);
        if let Some(why) = restarts::why_not(store, latest)? {
            alerts.push(format!(
                "its box was restarted and did not start the training again: {why}; go on with `spotter up {name}`"
            ));
        }
    }
    if let Some(waiting) = waiting::of(store, run, latest)? {
        alerts.push(format!("waits: {}", waiting.text()));
    }
    alerts.extend(alarms::disk(store, name, latest.number)?);
    alerts.extend(alarms::rare(store, name, latest.number)?);
    alerts.extend(foresight::warnings(store, name, latest.number)?);
    Ok(alerts)
}

fn attempt_line(attempt: &AttemptSummary) -> String {
    let from = attempt.from_step.map_or_else(String::new, |from| {
        let to = attempt.to_step.unwrap_or(from);
        format!(", steps {from} to {to}")
    });
    let redone = match attempt.steps_redone {
        0 => String::new(),
        steps => format!(", {steps} redone"),
    };
    let billed = attempt.charged.map_or_else(String::new, |charged| {
        format!(" ({} billed)", text::usd(charged.total_usd()))
    });
    let reason = attempt.reason.as_ref();
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    format!(
        "attempt {} {}, {}{from}{redone}, {} checkpoints, {}{billed}{reason}",
        attempt.number,
        attempt.state,
        attempt.gpu,
        attempt.checkpoints_committed,
        text::usd(attempt.counted.total_usd()),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{run::prepaying, store::Origin};

    #[test]
    fn of_too_many_events_those_stay_that_a_summary_needs_and_the_newest() {
        let event = |id: i64| EventRecord {
            id,
            attempt: 1,
            origin: Origin::Agent,
            seq: id.unsigned_abs(),
            time_us: id,
            kind: match id {
                1 => prepaying::ASKED.to_owned(),
                2 => prepaying::FAILED.to_owned(),
                3 => summary::DELETED.to_owned(),
                id if id % 10 == 0 => "checkpoint.committed".to_owned(),
                _ => "window".to_owned(),
            },
            detail: json!({}),
        };
        let mut events: Vec<EventRecord> = (1..=2000).map(event).collect();
        let few = events[..1100].to_vec();
        forget_old(&mut events);
        let kept = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
        assert_eq!(
            (kept("window"), kept("checkpoint.committed")),
            (EVENTS, 200)
        );
        // What was paid in advance is in the sum, and what was deleted in no bucket, however long ago that was.
        let oldest: Vec<&str> = events[..3]
            .iter()
            .map(|event| event.kind.as_str())
            .collect();
        assert_eq!(
            oldest,
            [prepaying::ASKED, prepaying::FAILED, summary::DELETED]
        );
        assert!(events.is_sorted_by_key(|event| event.id));
        assert_eq!(events.last().map(|event| event.id), Some(2000));
        let mut same = few.clone();
        forget_old(&mut same);
        assert_eq!(same, few);
    }
}
