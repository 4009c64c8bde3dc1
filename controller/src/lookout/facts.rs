//! All that is known of one run at a moment: the record, its log, and what its box tells (pure).

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;
use spotter_trainlog::{Progress, Reader};

use crate::{
    agent_client::{AgentEvent, AgentStatus, GpuInfo, SampleInfo, SessionInfo},
    lookout::{curve::Curve, tail::Tail},
    run::{bringing_up::TRAIN, ended_alone::TrainingEnd, to_come::ToCome},
    store::{AttemptRecord, EventRecord},
};

/// How much of the GPUs' use is kept, seconds.
pub const HISTORY_S: i64 = 600;
/// How much of what was copied of their use is kept, seconds.
const MEASURED_S: i64 = 3600;
/// Observations of the step that are kept: ten minutes of one every two seconds.
const MAX_STEPS: usize = 300;
/// Events of a box that are kept here until they are on record.
const MAX_TOLD: usize = 1000;

/// A run.
#[derive(Debug, Default)]
pub struct Facts {
    /// What the store says.
    pub recorded: Recorded,
    /// Every event on record, in the order of the store.
    pub events: Vec<EventRecord>,
    /// What its logs say.
    pub log: Log,
    /// Whether its box answers.
    pub reach: Reach,
    /// What its box says; of the newest attempt.
    pub live: Live,
}

/// What the store says of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recorded {
    /// Its name.
    pub name: String,
    /// When it was written down, microseconds since the epoch, as all times here.
    pub created_us: i64,
    /// How it ended, else where its newest attempt stands.
    pub state: String,
    /// It has ended.
    pub is_over: bool,
    /// Its newest attempt trains, by the record.
    pub trains: bool,
    /// Its box runs, so that an agent may answer.
    pub box_runs: bool,
    /// Number of the newest attempt; 0: none.
    pub attempt: u32,
    /// The same attempt.
    pub newest: Option<AttemptRecord>,
    /// How its training ended while nobody watches, as far as that is on record.
    pub training_end: Option<TrainingEnd>,
    /// Last event of that attempt's agent that is on record.
    pub last_event: u64,
    /// When that attempt's training started; 0: it did not.
    pub started_us: i64,
    /// What it runs on.
    pub gpus: String,
    /// Somebody acts for it.
    pub watched: bool,
    /// Newest step that was seen.
    pub step: Option<u64>,
    /// Newest checkpoint in the bucket: its step, and when.
    pub saved: Option<(Option<u64>, i64)>,
    /// Checkpoints that ever reached the bucket, over all attempts.
    pub committed: u64,
    /// Those of them that are there now.
    pub kept: u64,
    /// Backup interval; `None`: no backup.
    pub save_every_s: Option<i64>,
    /// What it costs now.
    pub usd_per_hour: f64,
    /// What its newest box may cost though nothing is known to be charged, $/h.
    pub at_most_usd_per_hour: Option<f64>,
    /// What it cost.
    pub cost_usd: f64,
    /// What it may cost.
    pub budget_usd: Option<f64>,
    /// What is to come.
    pub to_come: Option<ToCome>,
    /// The newest window of its newest training.
    pub window: Option<Value>,
    /// What is wrong by the record, a sentence each.
    pub alerts: Vec<String>,
    /// Every attempt, oldest first, a line each.
    pub attempts: Vec<String>,
    /// When the newest of all this happened.
    pub newest_us: i64,
}

/// Whether a box answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Reach {
    /// Nobody asks: no box runs.
    #[default]
    Record,
    /// It is being reached.
    Connecting,
    /// It answers.
    Live,
    /// It does not answer.
    Lost {
        /// Since when.
        since_us: i64,
        /// What the last try said.
        why: String,
    },
    /// Its training is over. A box that somebody looks at does not stop itself, so nobody does.
    LetGo,
}

/// What a link brings.
#[derive(Debug)]
pub enum News {
    /// How the link is.
    Reach(Reach),
    /// What was copied of all logs, and of the newest measurements, to this machine.
    Copies(Box<Log>),
    /// A session's log from somewhere on, without what was read of it before.
    LogBegins {
        /// The attempt that prints it.
        attempt: u32,
        /// Name of the session.
        session: String,
    },
    /// More of that log.
    LogBytes(Vec<u8>),
    /// A poll.
    Status(Box<AgentStatus>),
    /// A reading.
    Sample(Box<SampleInfo>),
    /// Something happened on the box.
    Event(AgentEvent),
}

impl Facts {
    /// Takes news; `now_us` is when they came.
    pub fn learn(&mut self, news: News, now_us: i64) {
        match news {
            News::Reach(Reach::Lost { why, since_us }) => {
                // It is lost since it was first.
                let since_us = match &self.reach {
                    Reach::Lost { since_us, .. } => *since_us,
                    _ => since_us,
                };
                self.reach = Reach::Lost { since_us, why };
            }
            News::Reach(reach) => self.reach = reach,
            News::Copies(log) => self.log = *log,
            News::LogBegins { attempt, session } => self.log.begin(attempt, &session),
            News::LogBytes(bytes) => {
                self.log.newest_us = now_us;
                self.log.feed(&bytes);
            }
            News::Status(status) => self.live.status(*status, now_us),
            News::Sample(sample) => self.live.sample(*sample, now_us),
            // A link that was made anew tells again.
            News::Event(event)
                if self
                    .live
                    .told
                    .back()
                    .is_some_and(|last| last.attempt == event.attempt && last.seq >= event.seq) => {
            }
            News::Event(event) => {
                self.live.told.push_back(event);
                if self.live.told.len() > MAX_TOLD {
                    self.live.told.pop_front();
                }
            }
        }
    }

    /// Another box: what the one before said is of the past.
    pub fn forget_box(&mut self) {
        self.live = Live::default();
        self.reach = Reach::Record;
    }
}

/// What logs say: the last lines of the newest, and the curve of all.
#[derive(Debug, Default)]
pub struct Log {
    /// Attempt and session of the lines.
    pub of: Option<(u32, String)>,
    /// The lines.
    pub tail: Tail,
    /// The curve.
    pub curve: Curve,
    /// When something came last; 0: never.
    pub newest_us: i64,
    /// What was copied of the newest box's measurements.
    pub measured: Measured,
    /// Why a copy on this machine could not be read.
    pub problem: Option<String>,
    reader: Reader,
    /// The user's own expression, for the next reader.
    progress: Option<String>,
}

impl Log {
    /// Reads by the expression of the run file, if it has one.
    pub fn with(progress: Option<String>) -> Self {
        Self {
            progress,
            ..Self::default()
        }
    }

    /// The expression of the run file, if it has one.
    pub fn progress(&self) -> Option<&str> {
        self.progress.as_deref()
    }

    /// Another log begins.
    pub fn begin(&mut self, attempt: u32, session: &str) {
        self.end();
        // An expression was checked with its run file.
        let progress = self.progress.as_deref();
        self.reader = Reader::with(progress.and_then(|text| Progress::new(text).ok()));
        if session == TRAIN {
            self.curve.begin(attempt);
        }
        self.tail = Tail::default();
        self.of = Some((attempt, session.to_owned()));
    }

    /// Reads on.
    pub fn feed(&mut self, bytes: &[u8]) {
        let trains = self.trains();
        let curve = &mut self.curve;
        self.reader.feed(bytes, &mut |seen| {
            if trains {
                curve.see(seen);
            }
        });
        self.tail.feed(bytes);
    }

    /// What waits for a next line is read: there may be none.
    pub fn end(&mut self) {
        let trains = self.trains();
        let curve = &mut self.curve;
        self.reader.end(&mut |seen| {
            if trains {
                curve.see(seen);
            }
        });
        self.tail.end();
    }

    /// A smoke's steps are no training.
    fn trains(&self) -> bool {
        self.of
            .as_ref()
            .is_some_and(|(_, session)| session == TRAIN)
    }
}

/// Use of each GPU in percent, each with when it was read.
pub type Used = BTreeMap<u32, VecDeque<(i64, f64)>>;

/// The end of what was copied of a box's measurements, by minutes.
#[derive(Debug, Default)]
pub struct Measured {
    /// The newest minute.
    pub sample: Option<SampleInfo>,
    /// Use of each GPU in the last hour of it.
    pub used: Used,
}

impl Measured {
    /// Takes the next minute.
    pub fn add(&mut self, minute: SampleInfo) {
        keep(&mut self.used, &minute, MEASURED_S);
        self.sample = Some(minute);
    }
}

/// GPUs of one box at most.
const MOST_GPUS: usize = 64;
/// Readings of one GPU that are held at most, whatever times they bear.
const MOST_READINGS: usize = 3_600;

/// Adds what a reading says of the use of each GPU, and lets go of what is older than so many seconds.
fn keep(all: &mut Used, sample: &SampleInfo, seconds: i64) {
    let time_us = signed(sample.time_us);
    for gpu in &sample.gpus {
        // What a box says is bounded, whatever it says.
        if all.len() >= MOST_GPUS && !all.contains_key(&gpu.index) {
            continue;
        }
        let used = all.entry(gpu.index).or_default();
        // A link that was made anew tells again.
        if used.back().is_some_and(|(at, _)| *at >= time_us) {
            continue;
        }
        if let Some(percent) = gpu.utilisation_percent {
            used.push_back((time_us, f64::from(percent)));
        }
        while used.len() > MOST_READINGS
            || used
                .front()
                .is_some_and(|(at, _)| time_us - at > seconds * 1_000_000)
        {
            used.pop_front();
        }
    }
}

/// What a box tells.
#[derive(Debug, Default)]
pub struct Live {
    /// The newest poll.
    pub status: Option<AgentStatus>,
    /// When it came, by our clock.
    pub status_us: i64,
    /// The newest reading.
    pub sample: Option<SampleInfo>,
    /// When it came.
    pub sample_us: i64,
    /// Use of each GPU in percent, with when it was read by the box's clock.
    pub used: Used,
    /// Steps with when they were printed, by the box's clock.
    pub steps: VecDeque<(i64, u64)>,
    /// Events that may not be on record yet.
    pub told: VecDeque<AgentEvent>,
}

impl Live {
    fn status(&mut self, status: AgentStatus, now_us: i64) {
        if let Some(training) = &status.training
            && let Some(step) = training.step
        {
            self.step(signed(training.time_us), step);
        }
        if self.sample.is_none() {
            self.sample.clone_from(&status.sample);
        }
        (self.status, self.status_us) = (Some(status), now_us);
    }

    fn step(&mut self, time_us: i64, step: u64) {
        let last = self.steps.back().map(|(_, last)| *last);
        // A counter that fell back is another training, or another epoch.
        if last.is_some_and(|last| step < last) {
            self.steps.clear();
        }
        if last != Some(step) {
            self.steps.push_back((time_us, step));
        }
        if self.steps.len() > MAX_STEPS {
            self.steps.pop_front();
        }
    }

    fn sample(&mut self, sample: SampleInfo, now_us: i64) {
        keep(&mut self.used, &sample, HISTORY_S);
        (self.sample, self.sample_us) = (Some(sample), now_us);
    }

    /// A session of the box.
    pub fn session(&self, name: &str) -> Option<&SessionInfo> {
        self.status.as_ref()?.session(name)
    }

    /// Our time as the box's clock has it.
    pub fn box_us(&self, now_us: i64) -> i64 {
        let status = self.status.as_ref();
        status.map_or(now_us, |status| {
            signed(status.now_us) + now_us - self.status_us
        })
    }

    /// Steps per second, as they were printed over the last minutes.
    pub fn steps_per_s(&self) -> Option<f64> {
        let (first, last) = (self.steps.front()?, self.steps.back()?);
        let seconds = (last.0 - first.0) as f64 / 1e6;
        // A moment of two steps says little.
        (seconds >= 5.0 && last.1 > first.1).then(|| (last.1 - first.1) as f64 / seconds)
    }
}

/// What is wrong with a GPU, a few words each.
pub fn troubles(gpu: &GpuInfo) -> Vec<String> {
    /// Hardware slowdown, heat (both kinds), power brake: clocks are lowered for something that is wrong.
    const SLOWED: u64 = 0x8 | 0x20 | 0x40 | 0x80;
    let mut words = Vec::new();
    if gpu.error != 0 {
        words.push(format!("NVML error {}", gpu.error));
    }
    if gpu.last_xid != 0 {
        words.push(format!("Xid {}", gpu.last_xid));
    }
    if gpu.ecc_uncorrected.unwrap_or(0) > 0 {
        words.push("uncorrected ECC errors".to_owned());
    }
    if gpu.throttle_reasons.unwrap_or(0) & SLOWED != 0 {
        words.push("slowed by heat or power supply".to_owned());
    }
    words
}

/// Times of a box that are out of all bounds are the last that there is.
pub fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_lost_since_it_was_first() {
        let mut facts = Facts::default();
        let lost = |since_us, why: &str| {
            let why = why.to_owned();
            News::Reach(Reach::Lost { since_us, why })
        };
        facts.learn(lost(5, "a"), 5);
        facts.learn(lost(9, "b"), 9);
        let why = "b".to_owned();
        assert_eq!(facts.reach, Reach::Lost { since_us: 5, why });
        facts.learn(News::Reach(Reach::Live), 10);
        facts.learn(lost(11, "c"), 11);
        assert!(matches!(facts.reach, Reach::Lost { since_us: 11, .. }));
    }

    #[test]
    fn a_speed_is_what_was_printed_over_some_seconds() {
        let mut live = Live::default();
        for (time_us, step, expected) in [
            (0, 10, None),
            (1_000_000, 12, None),
            (10_000_000, 30, Some(2.0)),
            // A counter that fell back says nothing of the speed before.
            (11_000_000, 3, None),
        ] {
            live.step(time_us, step);
            assert_eq!(live.steps_per_s(), expected, "{time_us}");
        }
    }

    #[test]
    fn the_use_of_a_gpu_is_kept_for_minutes() {
        let mut live = Live::default();
        for second in 0..2 * HISTORY_S {
            let gpu = GpuInfo {
                utilisation_percent: Some(50),
                ..GpuInfo::default()
            };
            let sample = SampleInfo {
                time_us: u64::try_from(second).unwrap() * 1_000_000,
                gpus: vec![gpu],
                host: None,
                span_s: 0,
                processes: Vec::new(),
            };
            live.sample(sample, second);
        }
        assert_eq!(live.used[&0].len(), usize::try_from(HISTORY_S).unwrap() + 1);
    }

    #[test]
    fn only_what_is_wrong_is_told_of_a_gpu() {
        assert!(troubles(&GpuInfo::default()).is_empty());
        let gpu = GpuInfo {
            last_xid: 79,
            // A power cap is how most cards run.
            throttle_reasons: Some(0x4),
            ..GpuInfo::default()
        };
        assert_eq!(troubles(&gpu), ["Xid 79"]);
    }
}
