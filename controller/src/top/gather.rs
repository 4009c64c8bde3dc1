//! What this machine knows of runs by itself: the store, and the copies of their logs. Only reads: takes no lease and asks nobody.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
    time::UNIX_EPOCH,
};

use crate::{
    agent_client::LogPosition,
    error::CommandError,
    logbook::Logbook,
    run::{
        State, alarms,
        bringing_up::{SETUP, SMOKE, TRAIN},
        foresight, next, restarts,
        summary::{AttemptSummary, RunSummary, summarise},
        to_come, waiting, windows,
    },
    store::{AttemptRecord, EventRecord, ObservationRecord, RunRecord, Store},
    top::facts::{Facts, Log, Recorded},
    ui::text,
};

/// Runs that are shown: those that go on, and the newest of the others.
const MAX_RUNS: usize = 100;
/// Runs that are over change when somebody does something to them: they are read again every so many rounds.
const OVER_ROUNDS: u64 = 15;
/// How much of the copies of a run's logs is read: a second of work, and most runs are smaller.
const COPIES_BYTES: u64 = 16 << 20;

/// All runs, or one.
#[derive(Debug)]
pub struct Board {
    store: Arc<Store>,
    only: Option<String>,
    known: Vec<ObservationRecord>,
    rounds: u64,
    /// Those that go on first, newest first.
    pub runs: Vec<Facts>,
}

impl Board {
    /// Reads the store; with `only`, that run and no other.
    pub fn open(store: Arc<Store>, only: Option<String>) -> Result<Self, CommandError> {
        let known = store.observations()?;
        let mut board = Self {
            store,
            only,
            known,
            rounds: 0,
            runs: Vec::new(),
        };
        board.refresh(None)?;
        Ok(board)
    }

    /// Reads the store again. `shown`: the run that somebody looks at.
    pub fn refresh(&mut self, shown: Option<&str>) -> Result<(), CommandError> {
        let mut records = match &self.only {
            Some(name) => vec![self.store.run(name)?],
            None => self.store.runs()?,
        };
        records.sort_by_key(|run| (run.outcome.is_some(), -run.created_us));
        records.truncate(MAX_RUNS);
        let now_us = self.store.now_us();
        let mut before = std::mem::take(&mut self.runs);
        for run in records {
            let at = before
                .iter()
                .position(|facts| facts.recorded.name == run.name);
            let mut facts = at.map_or_else(Facts::default, |at| before.swap_remove(at));
            let is_known = at.is_some();
            let rests = is_known && facts.recorded.is_over && run.outcome.is_some();
            let is_shown = shown == Some(run.name.as_str());
            if !rests || is_shown || self.rounds.is_multiple_of(OVER_ROUNDS) {
                self.read(&run, &mut facts, now_us)?;
            }
            if !is_known {
                facts.log = Log::with(run.spec.progress.clone());
            }
            self.runs.push(facts);
        }
        self.rounds += 1;
        Ok(())
    }

    fn read(&self, run: &RunRecord, facts: &mut Facts, now_us: i64) -> Result<(), CommandError> {
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

    /// A run by its name.
    pub fn find(&mut self, run: &str) -> Option<&mut Facts> {
        self.runs
            .iter_mut()
            .find(|facts| facts.recorded.name == run)
    }
}

/// What the store says of a run; `events`: all of its.
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
        last_event: latest.map_or(0, |latest| latest.last_event),
        started_us: latest.map_or(0, |latest| latest.started_us),
        gpus: gpus(run, latest),
        watched,
        step: summary.step,
        saved: alarms::newest_saved(store, name, newest_first)?,
        committed: summary.checkpoints_committed,
        save_every_s: backup.map(|dirs| i64::try_from(dirs.every.as_secs()).unwrap_or(i64::MAX)),
        usd_per_hour: summary.usd_per_hour,
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
        alerts.extend(unsaved.into_iter().map(|one| format!("not saved: {one}")));
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
            alerts.push(format!("the backup is behind: {alarm}"));
        }
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
    if !summary.watched {
        alerts.push(format!(
            "nobody watches: an interruption is not recovered until `spotter up {name}`"
        ));
    }
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
        text::usd(attempt.ledger.total_usd()),
    )
}

/// Reads the copies of a run's logs on this machine. Answers them, and where the training's log of the newest attempt goes on on its
/// box, if there is a copy of it.
pub fn copies(
    home: &Path,
    run: &str,
    attempt: u32,
    progress: Option<String>,
) -> (Log, Option<LogPosition>) {
    let mut log = Log::with(progress);
    match read_copies(home, run, attempt, &mut log) {
        Ok(position) => (log, position),
        Err(err) => {
            log.problem = Some(format!("the copy of its log cannot be read: {err}"));
            (log, None)
        }
    }
}

fn read_copies(
    home: &Path,
    run: &str,
    attempt: u32,
    log: &mut Log,
) -> io::Result<Option<LogPosition>> {
    let book = Logbook::new(home);
    let mut left = COPIES_BYTES;
    let mut found = Vec::new();
    let mut position = None;
    for number in (1..=attempt).rev() {
        let path = book.path(run, number, TRAIN);
        if left == 0 || !path.exists() {
            continue;
        }
        let bytes = match number == attempt {
            false => end_of(&path, left)?,
            true => {
                // Whoever watches the run appends to the copy meanwhile.
                let at = || Ok::<_, io::Error>(book.open(run, number, TRAIN)?.position());
                let (mut before, mut bytes) = (at()?, end_of(&path, left)?);
                while at()? != before {
                    (before, bytes) = (at()?, end_of(&path, left)?);
                }
                position = Some(before);
                bytes
            }
        };
        left = left.saturating_sub(bytes.len() as u64);
        log.newest_us = log.newest_us.max(changed_us(&path)?);
        found.push((number, TRAIN, bytes));
    }
    // Before the training there are others to look at.
    if position.is_none() && attempt > 0 {
        for session in [SMOKE, SETUP] {
            let path = book.path(run, attempt, session);
            if path.exists() {
                log.newest_us = log.newest_us.max(changed_us(&path)?);
                found.insert(0, (attempt, session, end_of(&path, 1 << 20)?));
                break;
            }
        }
    }
    for (number, session, bytes) in found.into_iter().rev() {
        log.begin(number, session);
        log.feed(&bytes);
    }
    for number in (1..=attempt).rev() {
        let measured = &mut log.measured;
        book.each_minute(run, number, &mut |minute| measured.add(minute.sample()))?;
        if measured.sample.is_some() {
            break;
        }
    }
    Ok(position)
}

/// The end of a file, from a line's start.
fn end_of(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(limit);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    if skipped > 0 {
        let line = bytes.iter().position(|byte| *byte == b'\n');
        bytes.drain(..line.map_or(0, |end| end + 1));
    }
    Ok(bytes)
}

fn changed_us(path: &Path) -> io::Result<i64> {
    let changed = fs::metadata(path)?.modified()?;
    let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_of_all_attempts_are_one_curve_and_the_newest_is_the_tail() {
        let home = tempfile::tempdir().unwrap();
        let book = Logbook::new(home.path());
        let write = |attempt: u32, session: &str, text: &str| {
            book.open("r", attempt, session).unwrap();
            fs::write(book.path("r", attempt, session), text).unwrap();
        };
        let step = |step: u64| format!("step {step}/40 | loss {step}.5 | 100.0 ms/step\n");
        write(1, TRAIN, &(step(1) + &step(2) + &step(3)));
        write(2, SETUP, "pip\n");
        let (log, position) = copies(home.path(), "r", 2, None);
        assert_eq!((log.problem, position), (None, None));
        assert_eq!(log.of, Some((2, SETUP.to_owned())));
        assert_eq!(log.tail.lines(), [(0, "pip".to_owned())]);
        assert_eq!(log.curve.loss().len(), 3);
        write(2, TRAIN, &step(3));
        let (log, position) = copies(home.path(), "r", 2, None);
        assert_eq!(log.of, Some((2, TRAIN.to_owned())));
        let offset = step(3).len() as u64;
        assert_eq!(
            position.unwrap(),
            LogPosition {
                generation: 0,
                offset
            }
        );
        assert!(log.newest_us > 0);
        // What the box measured, by minutes.
        let mut measured = book.open_samples("r", 1).unwrap();
        let mut sample = crate::top::examples::sample(90, vec![crate::top::examples::gpu(0, 70)]);
        measured.add(&[sample.clone()]).unwrap();
        sample.time_us += 60_000_000;
        measured.add(&[sample]).unwrap();
        measured.settle().unwrap();
        let (log, _) = copies(home.path(), "r", 2, None);
        assert_eq!(log.measured.used[&0].len(), 2);
        let newest = log.measured.sample.unwrap();
        assert_eq!(newest.gpus[0].utilisation_percent, Some(70));
        let (log, position) = copies(home.path(), "other", 1, None);
        assert!(log.of.is_none() && position.is_none() && log.problem.is_none());
    }

    #[test]
    fn the_end_of_a_long_log_begins_with_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "first\nsecond\nthird\n").unwrap();
        assert_eq!(end_of(&path, 10).unwrap(), b"third\n");
        assert_eq!(end_of(&path, 100).unwrap(), b"first\nsecond\nthird\n");
    }
}
