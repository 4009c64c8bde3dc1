//! All that the checklist goes by: what was read of a run, or of a run file before there is a run (pure).

use std::time::Duration;

use serde_json::Value;

use super::line::Told;
use crate::{
    agent_client::{DriverInfo, SampleInfo},
    provider::hosts::is_host,
    run::{State, ended_alone::TrainingEnd, marks::Doubt, readiness::Promised},
    spec::{RunSpec, needs::Need},
    store::{AttemptRecord, Outcome},
    ui::text,
};

/// What was read.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The run file, with every default.
    pub(super) spec: RunSpec,
    /// Its path, where there is no run of it yet.
    pub(super) file: Option<String>,
    /// The time, microseconds since the epoch, as all times here.
    pub(super) now_us: i64,
    /// How the run ended; `None` while it goes on.
    pub(super) outcome: Option<Outcome>,
    /// Why.
    pub(super) reason: Option<String>,
    /// Process that watches it.
    pub(super) watched: bool,
    /// What carries it on: a command.
    pub(super) onward: String,
    /// What ends its box: a command.
    pub(super) destroy: String,
    /// A file of the working directory that lists what the code needs.
    pub(super) listing: Option<String>,
    /// What was planned, as its event has it.
    pub(super) plan: Option<Planned>,
    /// Every attempt, oldest first.
    pub(super) attempts: Vec<AttemptRecord>,
    /// What the market said of the newest box.
    pub(super) promised: Promised,
    /// Sessions of the newest attempt.
    pub(super) setup: Option<Session>,
    pub(super) smoke: Option<Session>,
    pub(super) train: Option<Session>,
    /// How its training ended, by its box, while the record still calls it running.
    pub(super) ended_alone: Option<TrainingEnd>,
    /// Newest step that was read, and the newest loss, which may be of an earlier line.
    pub(super) step: Option<u64>,
    pub(super) loss: Option<f64>,
    /// Nothing of the training was read in its log, and why that is told.
    pub(super) unread: Option<String>,
    /// What ended the newest training or smoke, and what to do about it.
    pub(super) failure: Option<(String, String)>,
    /// Its checkpoints.
    pub(super) saves: Saves,
    /// The newest window, as its event has it.
    pub(super) window: Option<Value>,
    /// What contradicts the estimate now, and what may be typed.
    pub(super) contradiction: Option<(String, String)>,
    /// Its box gives no word, for people.
    pub(super) silent: Option<String>,
    /// Its disk will be full, for people.
    pub(super) disk_fills: Option<String>,
    /// The newest reading of its box: its own word, else the newest minute that was copied.
    pub(super) reading: Option<SampleInfo>,
    /// Why its GPUs cannot be read, in the box's words.
    pub(super) gpu_problem: Option<String>,
    /// Its driver, in the box's words.
    pub(super) driver: Option<DriverInfo>,
    /// Mean use of the GPUs that is kept of the newest attempt that was observed, percent.
    pub(super) observed_use_percent: Option<f64>,
    /// Mean use of the GPUs while the attempt of [`Self::reading`] trained, as far as it was copied, percent; and the most memory that one
    /// of them had in use then, bytes.
    pub(super) mean_use_percent: Option<f64>,
    /// It is that of a training too short for it: a reading is a mean over half a minute and more.
    pub(super) is_brief: bool,
    pub(super) memory_bytes: Option<u64>,
    /// What the newest box received, GB.
    pub(super) received_gb: Option<f64>,
    /// The copy of the log of the newest attempt of which there is one.
    pub(super) log: Option<Copied>,
    /// What lies where results go.
    pub(super) results: Option<Brought>,
    /// What of an ended training is not saved, or why its box is kept, for people.
    pub(super) not_saved: Option<String>,
    /// Money.
    pub(super) money: Money,
}

/// What was planned.
#[derive(Debug, Clone, Default)]
pub(super) struct Planned {
    /// Its limits and its forecast allow so much that it needs a plan.
    pub(super) needed: bool,
    /// `--no-plan` was given.
    pub(super) refused: bool,
    /// The plan in one line.
    pub(super) line: String,
    pub(super) at_us: i64,
}

/// A session of a box.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Session {
    pub(super) began_us: i64,
    /// When it ended; `None`: it runs.
    pub(super) ended_us: Option<i64>,
    /// Exit code, where it ended with one.
    pub(super) exit_code: Option<i64>,
    /// How it ended, a word.
    pub(super) state: String,
    /// Bytes of its log when it ended.
    pub(super) log_bytes: u64,
    /// A tmux window shows it.
    pub(super) tmux: bool,
}

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Runs,
    EndedWell,
    EndedBadly,
}

impl Session {
    pub(super) fn how(&self) -> How {
        match (self.ended_us, self.exit_code) {
            (None, _) => How::Runs,
            (Some(_), Some(0)) => How::EndedWell,
            _ => How::EndedBadly,
        }
    }

    /// `exited with code 1`, as a clause.
    pub(super) fn end(&self) -> String {
        match self.exit_code {
            Some(code) => format!("ended with code {code}"),
            None => format!("ended: {}", self.state),
        }
    }
}

/// Checkpoints of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Saves {
    /// Finished ones that its boxes told of.
    pub(super) found: u64,
    /// Steps between two of them, median.
    pub(super) every_steps: Option<u64>,
    /// Newest of them: its step, and when.
    pub(super) newest_found: Option<(Option<u64>, i64)>,
    /// Commits, ever; and those of them that nothing has deleted.
    pub(super) committed: u64,
    pub(super) kept: u64,
    /// Newest commit: its step, and when.
    pub(super) newest: Option<(Option<u64>, i64)>,
    /// The newest in the bucket, where it was found damaged.
    pub(super) damaged: Option<Doubt>,
    /// What is wrong with the backup, for people; of a training that is over, as long as something is in no bucket for it.
    pub(super) alarm: Option<String>,
    /// What is finished on a box that does not train any more and in no bucket, for people, and whether that box is there.
    pub(super) waits: Option<(String, bool)>,
    /// More training than it should be lies between two, for people.
    pub(super) rare: Option<String>,
    /// What is in no bucket, each with the reason.
    pub(super) unsaved: Vec<String>,
}

/// A copy of a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Copied {
    pub(super) path: String,
    /// Bytes of the log that are copied, by the count of its box.
    pub(super) bytes: u64,
    pub(super) at_us: i64,
}

/// What lies in a directory of results.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Brought {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// When they were brought home; 0: nobody knows.
    pub(super) at_us: i64,
}

/// Money of a run, dollars.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Money {
    pub(super) cost_usd: f64,
    pub(super) usd_per_hour: f64,
    /// By our own figure alone, and by the provider's bills once all are there.
    pub(super) ledger_usd: f64,
    pub(super) charged_usd: Option<f64>,
    /// Of what the run cost, traffic that nobody billed so far, about.
    pub(super) unbilled_traffic_usd: f64,
    /// Bills less our own figure, without traffic, which we reckon by other counters.
    pub(super) apart_usd: f64,
    /// A bill that cannot be true, for people.
    pub(super) doubtful: Option<String>,
}

impl Facts {
    /// Of this run file: nothing else is known yet.
    pub(super) fn new(spec: RunSpec, now_us: i64) -> Self {
        Self {
            spec,
            file: None,
            now_us,
            outcome: None,
            reason: None,
            watched: false,
            onward: String::new(),
            destroy: String::new(),
            listing: None,
            plan: None,
            attempts: Vec::new(),
            promised: Promised::default(),
            setup: None,
            smoke: None,
            train: None,
            ended_alone: None,
            step: None,
            loss: None,
            unread: None,
            failure: None,
            saves: Saves::default(),
            window: None,
            contradiction: None,
            silent: None,
            disk_fills: None,
            reading: None,
            gpu_problem: None,
            driver: None,
            observed_use_percent: None,
            mean_use_percent: None,
            is_brief: false,
            memory_bytes: None,
            received_gb: None,
            log: None,
            results: None,
            not_saved: None,
            money: Money::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(super) fn newest(&self) -> Option<&AttemptRecord> {
        self.attempts.last()
    }

    pub(super) fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// A training was started, on the newest box or on one before.
    pub(super) fn has_trained(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.started_us > 0)
    }

    /// The training of the newest attempt was started, in this life of its box.
    pub(super) fn trains_here(&self) -> bool {
        self.newest()
            .is_some_and(|attempt| attempt.started_us > 0 && !attempt.awaits_training())
    }

    /// It runs now, as far as is known.
    pub(super) fn runs_now(&self) -> bool {
        !self.is_over()
            && self.ended_alone.is_none()
            && self
                .newest()
                .is_some_and(|attempt| attempt.state == State::Running)
    }

    pub(super) fn is_on_hosts(&self) -> bool {
        !self.spec.resources.hosts.is_empty()
            || self
                .newest()
                .and_then(|attempt| attempt.instance)
                .is_some_and(is_host)
    }

    /// The file that says what is to be done.
    pub(super) fn run_file(&self) -> String {
        match &self.file {
            Some(file) => format!("`{file}`"),
            None => "the run file".to_owned(),
        }
    }

    /// FlashAttention is asked for, by a name of it.
    pub(super) fn wants_flash(&self) -> bool {
        use crate::spec::model::Attention;

        let needs = [Need::FlashAttn2, Need::FlashAttn3];
        let attention = self.spec.model.as_ref().map(|model| model.attention);
        self.spec.needs.iter().any(|need| needs.contains(need))
            || matches!(attention, Some(Attention::Flash2 | Attention::Flash3))
            || self.setup_names("flash-attn")
            || self.setup_names("flash_attn")
    }

    /// `setup` has this word in it.
    pub(super) fn setup_names(&self, word: &str) -> bool {
        let setup = self.spec.setup.as_ref();
        setup.is_some_and(|setup| setup.contains(word))
    }

    /// What is still to come, by where the run stands.
    pub(super) fn to_come(&self) -> Told {
        let Some(newest) = self.newest() else {
            let what = match self.file {
                Some(_) => "nothing is rented yet",
                None => "the run has no box yet",
            };
            return Told::not_yet(what, &self.onward);
        };
        let state = newest.state;
        match self.outcome {
            Some(outcome) => Told::not_yet(
                format!("the run ended before it: {}", outcome.name()),
                &self.onward,
            ),
            None => Told::not_yet(
                format!("attempt {} is {state}", newest.number),
                &self.onward,
            )
            .at(newest.state_us),
        }
    }

    /// How long ago something was, for people.
    pub(super) fn ago(&self, at_us: i64) -> String {
        let us = u64::try_from(self.now_us.saturating_sub(at_us)).unwrap_or(0);
        format!("{} ago", text::duration(Duration::from_micros(us)))
    }
}

/// `step 400`, or what stands for it where a checkpoint's name has no step.
pub(super) fn of_step(step: Option<u64>) -> String {
    step.map_or_else(
        || "no step in its name".to_owned(),
        |step| format!("step {step}"),
    )
}
