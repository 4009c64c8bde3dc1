//! What contradicts the estimate (pure): the thresholds of the playbook, each with its own debounce and its evidence in words.

use serde::{Deserialize, Serialize};

use super::Figures;

/// Below this share of the predicted speed it is contradicted...
const SLOW_SHARE: f64 = 0.7;
/// ...when it was so in this many windows in a row.
const SLOW_WINDOWS: u32 = 2;
/// GPUs below this are not worth their price while a job is active, percent.
const IDLE_PERCENT: f64 = 60.0;
/// GPUs below this do nothing at all, percent; neither does their memory.
pub const STILL_PERCENT: f64 = 5.0;
/// Memory above this is a risk, as a share.
pub const MEMORY_SHARE: f64 = 0.92;
/// Sustained: so in this share of the looks. One allocation that is given back is none.
const SUSTAINED_SHARE: f64 = 0.95;
/// A loss that moved by less than this has not moved, as a share of it.
const MOVED_SHARE: f64 = 0.005;
/// A first loss below this says nothing by not moving: some trainings print one that is 0 all the time, and of so small a number the
/// digits of a log do not show half a percent.
const NEAR_ZERO: f64 = 0.01;
/// Losses in a row that must be no numbers: one alone is a step that was left out.
const BROKEN_LOSSES: u32 = 3;
/// A training makes no step when its log has told of none for so many times the longest that it ever took between two.
const PAUSES: u64 = 3;
/// Without a step, and with words that say nothing of one, it may do what nobody here reads, for so many windows in a row.
const TALKING_WINDOWS: u32 = 6;
/// What comes to a disk so fast may be a checkpoint for which all wait, MB/s.
const SAVING_MB_PER_S: f64 = 10.0;
/// What comes over the network so fast may be what a training begins with, MB/s.
pub const FETCHING_MB_PER_S: f64 = 1.0;
/// Windows in a row without a first step after which that is worth a word.
const STEPLESS_WINDOWS: u32 = 2;

/// What was predicted, and by when a metric must have moved. Absent: nothing was predicted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Tokens per second of all GPUs.
    pub tokens_per_s: Option<f64>,
    /// Tokens of all GPUs between two steps.
    pub tokens_per_step: Option<f64>,
    /// GPUs of the box.
    pub gpus: u32,
    /// Seconds of training after which the loss must have moved.
    pub early_checkpoint_s: u64,
}

/// One thing that contradicts the estimate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contradiction {
    /// `throughput`, `gpu_idle`, `memory` or `metric`.
    pub trigger: String,
    /// What was seen and what was expected.
    pub evidence: String,
    /// Whether the training does not do what was predicted. Otherwise it is worth a word, but no training's end: it may be as it
    /// should be, like memory that an allocator has taken and not given back.
    #[serde(default)]
    pub grave: bool,
}

/// What is remembered from window to window. Kept in a file: a restart of the daemon forgets no debounce.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Judge {
    /// Windows so far.
    pub windows: u64,
    /// The training goes on from a checkpoint: nothing says that its loss has far to fall.
    pub resumed: bool,
    /// Slow windows in a row.
    slow: u32,
    /// Windows in a row in which steps were due and none was made.
    still: u32,
    /// Windows in a row without any step.
    stepless: u32,
    /// When the first window began, microseconds since the epoch.
    began_us: Option<u64>,
    /// When the log last told of another step.
    stepped_us: Option<u64>,
    /// The longest that this ever took, microseconds; 0: nobody knows.
    longest_pause_us: u64,
    /// Its steps were counted from none on; absent before it counted any.
    from_start: Option<bool>,
    /// The loss of the first window that had one.
    first_loss: Option<f64>,
    /// Whether the loss had not moved when that was first asked, and never since.
    stuck: Option<bool>,
    /// Losses in a row that are no numbers, up to the newest.
    losses_broken: u32,
    /// The end of the last window, and what it promised.
    pub promised: Option<(u64, f64)>,
}

impl Judge {
    /// Judges a window of an active job, and remembers it.
    pub fn close(&mut self, figures: &Figures, expected: &Expected) -> Vec<Contradiction> {
        self.windows += 1;
        let began_us = *self.began_us.get_or_insert(figures.from_us);
        self.promised = figures.eta_s.map(|eta_s| (figures.to_us, eta_s));
        let trained_s = figures.to_us.saturating_sub(began_us) / 1_000_000;
        let found = [
            self.throughput(figures, expected),
            self.gpu_idle(figures, expected),
            memory(figures),
            self.metric(figures, trained_s, expected.early_checkpoint_s),
        ];
        self.first_loss = self
            .first_loss
            .or(figures.loss.filter(|loss| loss.is_finite()));
        found.into_iter().flatten().collect()
    }

    fn throughput(&mut self, figures: &Figures, expected: &Expected) -> Option<Contradiction> {
        let still_s = self.still_s(figures);
        self.still = still_s.map_or(0, |_| self.still + 1);
        let Some(speed) = speed(figures, expected) else {
            // Nothing was printed: that is neither slow nor quick, unless something was due.
            return self.no_steps(figures, still_s?);
        };
        let Some(predicted) = expected.tokens_per_s else {
            self.slow = 0;
            return None;
        };
        let actual = speed.tokens_per_s;
        if actual >= SLOW_SHARE * predicted {
            self.slow = 0;
            return None;
        }
        self.slow += 1;
        // If it was of one GPU, all of them may well be as quick as predicted: worth a word, and no reason to end a training.
        let gpus = expected.gpus.max(1);
        let if_of_one = actual * f64::from(gpus);
        let unclear = speed.unclear && if_of_one >= SLOW_SHARE * predicted;
        let more = match unclear {
            true => format!(
                "; its log does not say whether that is all {gpus} GPUs or one, which would be {if_of_one:.0}: `model.batch_tokens` tells"
            ),
            false => String::new(),
        };
        (self.slow >= SLOW_WINDOWS).then(|| {
            contradiction(
                "throughput",
                !unclear,
                format!(
                    "{actual:.0} tokens/s are {:.0} % of the predicted {predicted:.0}, for {} windows in a row{more}",
                    actual / predicted * 100.0,
                    self.slow
                ),
            )
        })
    }

    /// For how long its log has told of no step, seconds, where by its own pace several were due and nothing else is seen to go on.
    fn still_s(&mut self, figures: &Figures) -> Option<u64> {
        figures.step?;
        let before_us = *self.stepped_us.get_or_insert(figures.from_us);
        if let Some((first_us, last_us)) = figures.stepped_us {
            let pause_us = first_us.saturating_sub(before_us);
            self.longest_pause_us = (self.longest_pause_us)
                .max(pause_us)
                .max(figures.longest_pause_us);
            self.stepped_us = Some(last_us);
            return None;
        }
        let still_us = figures.to_us.saturating_sub(before_us);
        let is_due = still_us
            >= self
                .usual_pause_us(figures, before_us)
                .saturating_mul(PAUSES);
        // How often it prints nobody knows of whom one step was read: that it computes nothing must have been seen.
        let due = is_due && (self.longest_pause_us > 0 || figures.memory_busy_percent.is_some());
        let saves = figures
            .disk_growth_mb_per_s
            .is_some_and(|rate| rate >= SAVING_MB_PER_S);
        // After its last step a training evaluates, merges or sends away what it made; many count from 0.
        let is_over = figures.steps_left.is_some_and(|left| left <= 1);
        // A kernel that waits for another GPU for ever fills the time of its own, and reads next to nothing; an evaluation reads the model.
        let computes = figures
            .memory_busy_percent
            .is_some_and(|busy| busy >= STILL_PERCENT);
        let idle = !figures.moved && !saves && !computes;
        let still = due && figures.steps == Some(0) && idle && !is_over;
        still.then_some(still_us / 1_000_000)
    }

    /// How long it takes from step to step, microseconds: the longest that it took, and of one whose only step was read as long as that one
    /// took with all that went before it, at least a window.
    fn usual_pause_us(&self, figures: &Figures, stepped_us: u64) -> u64 {
        if self.longest_pause_us > 0 {
            return self.longest_pause_us;
        }
        let until_first_us = stepped_us.saturating_sub(self.began_us.unwrap_or(stepped_us));
        until_first_us.max(figures.to_us.saturating_sub(figures.from_us))
    }

    /// A window in which no step was made though several were due: its speed is none.
    fn no_steps(&self, figures: &Figures, still_s: u64) -> Option<Contradiction> {
        let windows = self.slow + self.still;
        let silent = figures.log_kb_per_s.is_none_or(|rate| rate <= 0.0);
        let grave = silent || windows >= TALKING_WINDOWS;
        (windows >= SLOW_WINDOWS).then(|| {
            let (step, pause_s) = (figures.step.unwrap_or(0), self.longest_pause_us / 1_000_000);
            let before = match pause_s {
                0 => "the only one that was read, and the GPUs compute nothing".to_owned(),
                pause_s => format!("where the longest pause before was {pause_s} s"),
            };
            let evidence = format!(
                "no step after {step} in {} min, {before}: 0 tokens/s for {windows} windows in a row",
                still_s / 60
            );
            contradiction("throughput", grave, evidence)
        })
    }

    fn gpu_idle(&mut self, figures: &Figures, expected: &Expected) -> Option<Contradiction> {
        let used = figures.gpu_utilisation_percent;
        if figures.step.is_some() {
            self.stepless = 0;
            return gpu_idle(figures, used?, expected);
        }
        // Before the first step it loads and compiles, however long that takes. What does neither for so long may hang: worth a word.
        self.stepless += 1;
        let used = used?;
        let fetches = figures
            .network_mb_per_s
            .is_some_and(|rate| rate >= FETCHING_MB_PER_S);
        let hangs =
            self.stepless >= STEPLESS_WINDOWS && used < STILL_PERCENT && !fetches && !figures.moved;
        hangs.then(|| {
            let evidence = format!(
                "the GPUs were busy {used:.0} % of the time, and no step was read in {} windows in a row: it may hang before its first",
                self.stepless
            );
            contradiction("gpu_idle", false, evidence)
        })
    }

    fn metric(
        &mut self,
        figures: &Figures,
        trained_s: u64,
        early_checkpoint_s: u64,
    ) -> Option<Contradiction> {
        if let Some((step, steps)) = figures.step.zip(figures.steps) {
            // The first step that was seen is no further from none than those that followed.
            self.from_start
                .get_or_insert(step.saturating_sub(steps) <= steps);
        }
        let printed = figures.loss.is_some() || figures.loss_broken;
        self.losses_broken = match figures.loss_broken || !printed {
            true => self.losses_broken.saturating_add(figures.losses_broken),
            false => figures.losses_broken,
        };
        if self.losses_broken >= BROKEN_LOSSES && (figures.loss_broken || !printed) {
            let evidence = format!(
                "the last {} losses that it printed are not numbers",
                self.losses_broken
            );
            return Some(contradiction("metric", true, evidence));
        }
        let (first, now) = (self.first_loss?, figures.loss?);
        if early_checkpoint_s == 0 || trained_s < early_checkpoint_s {
            return None;
        }
        let moved = (now - first).abs() > MOVED_SHARE * first.abs();
        let stuck = self.stuck.get_or_insert(true);
        *stuck &= !moved;
        if moved {
            return None;
        }
        // One that has learned and stands where it began, or goes on from what it has learned, may be on a plateau.
        let grave =
            *stuck && !self.resumed && self.from_start != Some(false) && first.abs() >= NEAR_ZERO;
        let evidence = format!(
            "the loss was {first:.4} at first and is {now:.4} after {} min",
            trained_s / 60
        );
        Some(contradiction("metric", grave, evidence))
    }
}

/// A speed of all GPUs.
struct Speed {
    tokens_per_s: f64,
    /// The log did not say whether it is of all GPUs or of one: taken for all.
    unclear: bool,
}

/// The speed that is held against the prediction, by what is known: steps of a known size first, then what is printed for one
/// GPU, then what is printed.
fn speed(figures: &Figures, expected: &Expected) -> Option<Speed> {
    let gpus = f64::from(expected.gpus.max(1));
    let by_steps = expected
        .tokens_per_step
        .zip(figures.step_time_s.filter(|seconds| *seconds > 0.0))
        .map(|(tokens, seconds)| tokens / seconds);
    let by_each = figures.tokens_per_s_per_gpu.map(|each| each * gpus);
    let known = by_steps.or(by_each).map(|tokens_per_s| Speed {
        tokens_per_s,
        unclear: false,
    });
    known.or(figures.tokens_per_s.map(|tokens_per_s| Speed {
        tokens_per_s,
        unclear: gpus > 1.0,
    }))
}

/// Tokens per second of all GPUs, as far as they are known.
pub fn actual_tokens_per_s(figures: &Figures, expected: &Expected) -> Option<f64> {
    speed(figures, expected).map(|speed| speed.tokens_per_s)
}

fn gpu_idle(figures: &Figures, used: f64, expected: &Expected) -> Option<Contradiction> {
    if used >= IDLE_PERCENT {
        return None;
    }
    let as_predicted = expected
        .tokens_per_s
        .zip(actual_tokens_per_s(figures, expected))
        .is_some_and(|(predicted, actual)| actual >= SLOW_SHARE * predicted);
    // A training that goes on may be made so. One that prints seldom is told from one that stands by what its GPUs do.
    let stands = used < STILL_PERCENT && figures.steps == Some(0) && !as_predicted;
    let more = if stands { " and made no step" } else { "" };
    let evidence = format!(
        "the GPUs were busy {used:.0} % of the time, below {IDLE_PERCENT:.0} %, while the training was active{more}"
    );
    Some(contradiction("gpu_idle", stands, evidence))
}

fn memory(figures: &Figures) -> Option<Contradiction> {
    let share = figures.memory_high_share?;
    let (peak, total) = (figures.memory_peak_gib?, figures.memory_total_gib?);
    (share >= SUSTAINED_SHARE).then(|| {
        contradiction(
            "memory",
            false,
            format!(
                "a GPU's memory was above {:.0} % all the time (peak {peak:.1} of {total:.1} GiB): it may run out",
                MEMORY_SHARE * 100.0
            ),
        )
    })
}

fn contradiction(trigger: &str, grave: bool, evidence: String) -> Contradiction {
    Contradiction {
        trigger: trigger.to_owned(),
        evidence,
        grave,
    }
}

#[cfg(test)]
mod tests;
