//! Reads what a report is made of: the record, the copies of logs and of measurements. Nobody is asked.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde_json::Value;
use spotter_trainlog::{Progress, Reader, Seen, SeenKind};

use super::curve::Curve;
use crate::{
    commands::{Deps, plan::gate, watching},
    error::CommandError,
    ledger::Interval,
    logbook::{
        Logbook,
        minutes::{LEAST_USE, MOST_USE, Minute},
    },
    run::{
        bringing_up::TRAIN,
        busy::Busy,
        prediction::{Prediction, prediction},
        summary::RunSummary,
        trained::Times,
    },
    store::{AttemptRecord, EventRecord, RunRecord},
};

/// Points of one curve over all attempts.
const POINTS: usize = 2000;
/// Points of one attempt, however many there are.
const LEAST_POINTS: usize = 60;
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Units of speed that are told apart in one log; no trainer prints more.
const UNITS: usize = 4;
/// Seconds between two lines of a copy that belong together.
const LATE_S: f64 = 5.0;

/// All that a report is made of.
pub(super) struct Gathered {
    pub(super) run: RunRecord,
    pub(super) attempts: Vec<AttemptRecord>,
    /// In the order in which they happened.
    pub(super) events: Vec<EventRecord>,
    pub(super) intervals: Vec<Interval>,
    pub(super) summary: RunSummary,
    /// What was planned, as its event has it.
    pub(super) plan: Option<Value>,
    /// What is predicted for the newest attempt where nothing is known of earlier runs.
    pub(super) prediction: Prediction,
    pub(super) now_us: i64,
    /// What log and measurements of each attempt show, in their order.
    pub(super) shown: Vec<Shown>,
    /// What could not be read, for people.
    pub(super) unread: Vec<String>,
}

/// What log and measurements of one attempt show.
pub(super) struct Shown {
    pub(super) attempt: u32,
    pub(super) log: LogCurves,
    pub(super) measured: Measured,
}

/// Values against the steps of a training; and against the number of the record, for a log whose steps begin anew again and again.
#[derive(Debug, Clone)]
pub(super) struct OverSteps {
    pub(super) by_step: Curve,
    pub(super) by_record: Curve,
}

impl OverSteps {
    fn new(points: usize) -> Self {
        Self {
            by_step: Curve::new(points),
            by_record: Curve::new(points),
        }
    }

    fn add(&mut self, step: Option<f64>, record: u64, value: f64) {
        if let Some(step) = step {
            self.by_step.add(step, value);
        }
        self.by_record.add(record as f64, value);
    }
}

/// What a log shows.
#[derive(Debug, Clone)]
pub(super) struct LogCurves {
    pub(super) loss: OverSteps,
    pub(super) eval_loss: OverSteps,
    /// By the unit in which it is printed.
    pub(super) speed: BTreeMap<&'static str, OverSteps>,
    /// The last loss that was printed, and the step that it is of, where one was.
    pub(super) last_loss: Option<(f64, Option<f64>)>,
    pub(super) total_steps: Option<f64>,
    /// How often a step was smaller than the one before.
    pub(super) began_anew: u64,
    records: u64,
    step: Option<f64>,
}

impl LogCurves {
    /// Nothing so far; at most so many points.
    pub(super) fn new(points: usize) -> Self {
        Self {
            loss: OverSteps::new(points),
            eval_loss: OverSteps::new(points),
            speed: BTreeMap::new(),
            last_loss: None,
            total_steps: None,
            began_anew: 0,
            records: 0,
            step: None,
        }
    }

    /// Adds what a line says.
    pub(super) fn add(&mut self, seen: &Seen, points: usize) {
        if seen.repeated {
            return;
        }
        let record = &seen.record;
        self.records += 1;
        if seen.kind != SeenKind::Evaluation {
            if let Some(step) = record.step.map(|step| step.value) {
                if self.step.is_some_and(|before| step < before) {
                    self.began_anew += 1;
                    let all = self
                        .speed
                        .values_mut()
                        .chain([&mut self.loss, &mut self.eval_loss]);
                    all.for_each(|curve| curve.by_step.gap());
                }
                // A trainer that prints no step beside its loss prints one in its bar.
                self.step = Some(step);
            }
            self.total_steps = record
                .total_steps
                .map(|total| total.value)
                .or(self.total_steps);
            if let Some(loss) = record.loss.map(|loss| loss.value) {
                self.loss.add(self.step, self.records, loss);
                self.last_loss = Some((loss, self.step));
            }
            if let Some(speed) = record.throughput {
                let unit = speed.unit.as_str();
                if self.speed.len() < UNITS || self.speed.contains_key(unit) {
                    self.speed
                        .entry(unit)
                        .or_insert_with(|| OverSteps::new(points))
                        .add(self.step, self.records, speed.value.value);
                }
            }
        }
        if let Some(loss) = record.eval_loss.map(|loss| loss.value) {
            self.eval_loss.add(self.step, self.records, loss);
        }
    }
}

/// What a box measured, by the seconds since the epoch.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// Percent, of all GPUs.
    pub(super) use_percent: Curve,
    /// GiB of the fullest GPU.
    pub(super) memory_gib: Curve,
    /// GiB that a GPU has.
    pub(super) memory_total_gib: Option<f64>,
    /// W, of all GPUs.
    pub(super) power_w: Curve,
    /// How busy its GPUs were while it trained.
    pub(super) busy: Busy,
    /// Watt hours.
    pub(super) energy_wh: f64,
    /// Newest reading, seconds since the epoch.
    pub(super) newest_s: f64,
    /// Seconds of the copy that are missing between its first and its last.
    pub(super) missing_s: f64,
}

impl Measured {
    /// Nothing so far; at most so many points. `busy`: over which time.
    pub(super) fn new(points: usize, busy: Busy) -> Self {
        Self {
            use_percent: Curve::new(points),
            memory_gib: Curve::new(points),
            memory_total_gib: None,
            power_w: Curve::new(points),
            busy,
            energy_wh: 0.0,
            newest_s: 0.0,
            missing_s: 0.0,
        }
    }

    /// Adds a minute, oldest first.
    pub(super) fn add(&mut self, minute: &Minute) {
        const GIB: f64 = (1_u64 << 30) as f64;
        self.busy.add(minute);
        let end_s = minute.time_us as f64 / 1e6;
        let span_s = f64::from(minute.span_s.max(1));
        let gap_s = end_s - span_s - self.newest_s;
        if self.newest_s > 0.0 && gap_s > LATE_S {
            self.missing_s += gap_s;
            for curve in [
                &mut self.use_percent,
                &mut self.memory_gib,
                &mut self.power_w,
            ] {
                curve.gap();
            }
        }
        self.newest_s = end_s;
        let at_s = end_s - span_s / 2.0;
        let all = |key: &str| -> Vec<f64> {
            let number = |gpu| Minute::number(gpu, key);
            minute.gpus.iter().filter_map(number).collect()
        };
        let used = all("utilisation_percent");
        if !used.is_empty() {
            let mean = used.iter().sum::<f64>() / used.len() as f64;
            let least = all(LEAST_USE).into_iter().fold(mean, f64::min);
            let most = all(MOST_USE).into_iter().fold(mean, f64::max);
            self.use_percent.add_range(at_s, (least, mean, most));
        }
        if let Some(memory) = all("memory_used_bytes").into_iter().reduce(f64::max) {
            self.memory_gib.add(at_s, memory / GIB);
        }
        if let Some(total) = all("memory_total_bytes").into_iter().reduce(f64::max) {
            self.memory_total_gib = Some(total / GIB);
        }
        let power = all("power_mw");
        if !power.is_empty() {
            let watts = power.iter().sum::<f64>() / 1000.0;
            self.power_w.add(at_s, watts);
            self.energy_wh += watts * span_s / 3600.0;
        }
    }
}

/// Reads all of it.
pub(super) fn gather(deps: &Deps, run: RunRecord) -> Result<Gathered, CommandError> {
    let store = deps.store()?;
    let name = run.name.as_str();
    let attempts = store.attempts(name)?;
    let mut events = store.events(name, 0)?;
    events.sort_by_key(|event| (event.time_us, event.id));
    let plan = store.newest_event(name, 0, gate::PLANNED)?;
    // Of what is known by now, the run itself is part.
    let predicted = attempts
        .last()
        .map(|attempt| prediction(&run.spec, &attempt.gpu, &[]));
    let now_us = deps.clock.now_us();
    let book = Logbook::new(deps.config.home());
    let mut unread = Vec::new();
    let points = (POINTS / attempts.len().max(1)).max(LEAST_POINTS);
    let mut shown = Vec::new();
    for attempt in &attempts {
        let number = attempt.number;
        let times = Times::so_far(attempt, &events, now_us);
        let mut measured = Measured::new(points, Busy::of(times.trained));
        if let Err(err) = book.each_minute(name, number, &mut |minute| measured.add(&minute)) {
            unread.push(format!(
                "what the box of attempt {number} measured could not be read: {err}"
            ));
        }
        let path = book.path(name, number, TRAIN);
        let log = match log_curves(&path, run.spec.progress.as_deref(), points) {
            Ok(log) => log,
            Err(err) => {
                unread.push(format!(
                    "the log of attempt {number} could not be read: {err}"
                ));
                LogCurves::new(points)
            }
        };
        shown.push(Shown {
            attempt: number,
            log,
            measured,
        });
    }
    Ok(Gathered {
        intervals: store.intervals(name)?,
        summary: watching::summary(&store, &run)?,
        plan: plan.map(|event| event.detail),
        prediction: predicted.unwrap_or_default(),
        now_us,
        run,
        attempts,
        events,
        shown,
        unread,
    })
}

/// Reads the copy of a log as it is, in pieces: it may be larger than memory. No copy is an empty one.
fn log_curves(path: &Path, progress: Option<&str>, points: usize) -> io::Result<LogCurves> {
    let mut curves = LogCurves::new(points);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(curves),
        Err(err) => return Err(err),
    };
    let mut reader = Reader::with(progress.and_then(|text| Progress::new(text).ok()));
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => reader.feed(&chunk[..length], &mut |seen| curves.add(seen, points)),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    reader.end(&mut |seen| curves.add(seen, points));
    Ok(curves)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_log_becomes_curves_over_its_steps_and_a_restart_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(log_curves(&path, None, 10).unwrap().loss.by_step.count(), 0);
        let line = |(number, step): (usize, &u64)| {
            format!("step {step}/9 | loss {number}.5 | lr 1.00e-03 | 100.0 ms/step | 1,000 tok/s\n")
        };
        let lines: String = [1, 2, 3, 2, 3].iter().enumerate().map(line).collect();
        // One that holds no loss.
        let lines = lines + "step 4/9 | lr 1.00e-03 | 100.0 ms/step | 1,000 tok/s\n";
        std::fs::write(&path, lines).unwrap();
        let log = log_curves(&path, None, 10).unwrap();
        let points = log.loss.by_step.points(10);
        let steps: Vec<f64> = points.iter().map(|point| point.x).collect();
        assert_eq!(steps, [1.0, 2.0, 3.0, 2.0, 3.0]);
        assert!(points[3].after_gap);
        assert_eq!((log.began_anew, log.total_steps), (1, Some(9.0)));
        assert_eq!(log.last_loss, Some((4.5, Some(3.0))));
        let speed = &log.speed["tokens/s"];
        assert_eq!(speed.by_record.points(10)[4].y, 1000.0);
    }

    #[test]
    fn minutes_become_curves_with_their_gaps_energy_and_mean_use() {
        let mut measured = Measured::new(10, Busy::default());
        for minute in [1_u64, 2, 10] {
            let gpu = |used: u64| {
                json!({"utilisation_percent": used, LEAST_USE: used - 10, MOST_USE: used, "power_mw": 150_000,
                       "memory_used_bytes": used << 30, "memory_total_bytes": 80_u64 << 30})
            };
            let minute =
                json!({"time_us": minute * 60_000_000, "span_s": 60, "gpus": [gpu(40), gpu(60)]});
            measured.add(&serde_json::from_value(minute).unwrap());
        }
        let used = measured.use_percent.points(10);
        let one = |at: usize| (used[at].x, used[at].least, used[at].y, used[at].most);
        assert_eq!(one(0), (30.0, 30.0, 50.0, 60.0));
        assert!(used[2].after_gap && !used[1].after_gap);
        assert_eq!(measured.missing_s, 420.0);
        assert_eq!(measured.memory_gib.points(10)[0].y, 60.0);
        assert_eq!(measured.memory_total_gib, Some(80.0));
        assert_eq!(measured.power_w.points(10)[0].y, 300.0);
        assert!((measured.energy_wh - 15.0).abs() < 1e-9);
        assert_eq!(measured.busy.sums(), (9000.0, 180.0));
    }
}
