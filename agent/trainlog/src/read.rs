//! One line to a record: names and positions are found by [`Scanner`], here they are weighed against each other.

mod around;
mod positions;
mod result;
mod table;

use memchr::memmem;

use crate::{
    duration::duration,
    names::{Meaning, is_of_other_work, meaning},
    number::{Printed, Text},
    record::Record,
    scan::{Pair, Scanner, Separator},
    unit::{self, Unit},
};

pub use around::around;
use positions::{
    counted_thrice, first_behind_bracket, is_argument, is_expense, is_mean, is_place_of_code,
    leads_line, named_behind, of_minibatches, position_of_loss, speaks_of_files, step_and_rate,
};
pub use result::{Results, Row};
pub use table::{Columns, row};

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A record with a position.
    Step,
    /// A record without one, such as the dictionaries of the HF Trainer.
    Bare,
    /// The engine below the trainer speaks: DeepSpeed's timer and step lines.
    Engine,
    /// A record only where there is nothing better: a lone loss, the mean of an epoch, losses estimated beside an evaluation.
    Fallback,
    /// A position by itself; its metrics follow on lines of their own.
    Header,
    /// Metrics without a position that are no record alone.
    Part,
    /// The heading of an epoch.
    Epoch,
    /// An evaluation.
    Evaluation,
}

/// A line that was understood.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub record: Record,
}

/// Beginnings of lines that repeat a whole training at its end.
const RECAPS: &[&[u8]] = &[b"wandb:", b"wandb "];

/// Texts of lines that are means over an epoch, though they look like a step.
const EPOCH_MEANS: &[&[u8]] = &[b"| train | epoch", b"| train | {"];

/// Reads a line without a bar.
pub fn line(line: &[u8]) -> Option<Reading> {
    let start = line.trim_ascii_start();
    if RECAPS.iter().any(|recap| start.starts_with(recap)) {
        return None;
    }
    if let Some(record) = step_and_rate(line) {
        return Some(Reading {
            kind: Kind::Header,
            record,
        });
    }
    let special = named_behind(line)
        .or_else(|| counted_thrice(line))
        .or_else(|| of_minibatches(line));
    if let Some(record) = special {
        return Some(Reading {
            kind: Kind::Step,
            record,
        });
    }
    let mut found = Found::default();
    let mut scanner = Scanner::new(line);
    while let Some(pair) = scanner.next() {
        // `loss train: 1.9, val: n/a`: what follows the loss does not change it.
        found.evaluation |= scanner.evaluation() && found.loss_rank.is_none();
        found.take(line, &pair);
    }
    found.evaluation |= scanner.evaluation() && found.loss_rank.is_none();
    found.judge(line)
}

/// The candidates of a line.
#[derive(Debug, Default)]
struct Found {
    record: Record,
    step_rank: Option<u8>,
    /// The position was named `iter`, as detectron2 and mmdetection do.
    by_iter: bool,
    /// Marian: its `Time` is that of all updates since the last line.
    by_update: bool,
    /// Where the position ends.
    step_end: usize,
    /// Where the epoch ends.
    epoch_end: Option<usize>,
    loss_rank: Option<u8>,
    loss_by_sign: bool,
    /// By its name it is a mean.
    loss_is_mean: bool,
    rate_rank: Option<u8>,
    time: Option<(u8, Printed, Unit)>,
    /// `train_time` without a unit: that of a step where its parts are listed as well, as ESPnet does.
    train_time: Option<Printed>,
    part_of_step: bool,
    /// `0/360`, as DeepSpeed's timer counts.
    fraction: Option<Printed>,
    /// Other names with numbers.
    others: usize,
    evaluation: bool,
    summary: bool,
    engine: bool,
    /// A booster's metrics: `train-rmse`.
    boosting: bool,
    /// Settings of a training, such as its weight decay.
    setting: bool,
    /// The epoch is called simply that.
    epoch_by_name: bool,
    /// Where `Loss at step 100` ends: the next number is the loss.
    loss_awaited: Option<usize>,
}

impl Found {
    fn take(&mut self, line: &[u8], pair: &Pair<'_>) {
        if is_place_of_code(line, pair) {
            return;
        }
        self.setting |= is_argument(line, pair);
        if pair.name.is_empty() {
            return self.take_nameless(line, pair);
        }
        if self.take_special(line, pair) {
            return;
        }
        if let Some((position, evaluation)) = position_of_loss(pair) {
            self.evaluation |= evaluation;
            self.loss_awaited = Some(pair.end);
            match position {
                Meaning::Step(rank) => self.take_step(line, pair, rank),
                _ => self.record.epoch = self.record.epoch.or_else(|| epoch(pair.value)),
            }
            return;
        }
        let Some(named) = meaning(pair.name) else {
            if self.take_by_unit(line, pair) {
                return;
            }
            // `Computation: 34814 steps/s`: the unit says enough.
            if let (Some(unit), Some(value)) = (unit::speed(pair.unit), speed_value(pair))
                && !is_of_other_work(pair.name)
            {
                self.record.add_speed(value, unit);
            }
            self.others += usize::from(pair.separator == Separator::Sign);
            return;
        };
        if named.evaluation && named.meaning != Meaning::EvalLoss {
            // `Validation step: 5`, `Iter(val) [17/17]`; the speed of an evaluation is nobody's.
            self.evaluation |= matches!(named.meaning, Meaning::Step(_) | Meaning::Epoch);
            return;
        }
        // `time: 12:30:05` is a clock, unless it is the time that is left; `time: 2026-01-02` and `time: 2026/01/02` are dates.
        let goes_on = |sign: u8| {
            line.get(pair.end) == Some(&sign)
                && line.get(pair.end + 1).is_some_and(u8::is_ascii_digit)
        };
        let is_clock = goes_on(b':');
        let is_date = goes_on(b'-') || pair.of.is_some();
        let record = &mut self.record;
        match named.meaning {
            Meaning::Step(rank) => self.take_step(line, pair, rank),
            Meaning::Total => {
                let total = Printed::count(pair.value, b"");
                record.total_steps = record.total_steps.or(total);
            }
            // `ep:250` counts episodes, `[ep 3` epochs, `tp 2 ep 8` parts of a model.
            // `Epoch num 4| train loss 0.5`; `epoch_num : 500` is how many there will be.
            Meaning::Epoch
                if pair.separator == Separator::Sign
                    && pair.name.to_ascii_lowercase().ends_with(b"num") => {}
            Meaning::Epoch
                if pair.name.eq_ignore_ascii_case(b"ep")
                    && (pair.name == b"ep" && pair.separator == Separator::Sign
                        || !leads_line(line, pair)) => {}
            Meaning::Epoch => {
                // `current_epoch: 0, epoch: 1`
                let by_name = pair.name.eq_ignore_ascii_case(b"epoch")
                    && pair.separator == Separator::Sign
                    && !self.epoch_by_name;
                if record.epoch.is_none() || by_name {
                    record.epoch = epoch(pair.value);
                    record.total_epochs = pair.of.and_then(epoch);
                }
                self.epoch_by_name |= by_name;
                self.epoch_end.get_or_insert(pair.end);
            }
            Meaning::Remaining => {
                let text = duration(&line[pair.at..]).unwrap_or(pair.value);
                record.remaining.get_or_insert(Text::new(text));
            }
            _ if is_clock => {}
            Meaning::StepTime(_) if is_date => {}
            Meaning::Loss(_) if is_expense(line, pair) => {}
            Meaning::Loss(6)
                if pair.name.len() > 1
                    || pair.separator != Separator::Sign
                    || memchr::memchr(b'.', pair.value).is_none() => {}
            Meaning::Loss(rank) => {
                // `Average Loss 1.14 | Current Loss 1.15`: the step's own says more than a mean.
                let own = |old| old == rank && self.loss_is_mean && !is_mean(pair.name);
                if self.loss_rank.is_none_or(|old| rank < old || own(old)) {
                    record.loss = Printed::measure(pair.value);
                    record.loss_rank = rank;
                    self.loss_rank = Some(rank);
                    // nnU-Net: `train_loss -0.5`, DreamerV3: `train/opt/loss 4.1`; no prose has such a word.
                    self.loss_by_sign = pair.separator == Separator::Sign
                        || pair.name.iter().any(|byte| matches!(byte, b'_' | b'/'));
                    self.loss_is_mean = is_mean(pair.name);
                }
            }
            Meaning::EvalLoss => {
                record.eval_loss = record.eval_loss.or(Printed::measure(pair.value));
            }
            Meaning::LearningRate(rank) => {
                if self.rate_rank.is_none_or(|old| rank < old) {
                    record.learning_rate = Printed::measure(pair.value);
                    self.rate_rank = Some(rank);
                }
            }
            Meaning::GradNorm => {
                record.grad_norm = record.grad_norm.or(Printed::measure(pair.value));
            }
            Meaning::Speed(by_name) => {
                let unit = unit::speed(pair.unit).unwrap_or(by_name);
                if let Some(value) = speed_value(pair) {
                    // torchtitan divides by its GPUs, and calls that simply `tps`.
                    if pair.name == b"tps" {
                        record.tokens_per_s_per_gpu.get_or_insert(value.value);
                    }
                    record.add_speed(value, unit);
                }
            }
            Meaning::SpeedByUnit => {
                if let (Some(unit), Some(value)) = (unit::speed(pair.unit), speed_value(pair)) {
                    record.add_speed(value, unit);
                }
            }
            Meaning::StepTime(rank) => self.take_time(pair, rank),
            Meaning::PartOfStep => self.part_of_step = true,
            Meaning::Setting => self.setting = true,
            Meaning::Reward => record.rewarded = true,
            Meaning::Engine => self.engine = true,
            Meaning::Summary => self.summary = true,
        }
    }

    fn take_time(&mut self, pair: &Pair<'_>, rank: u8) {
        let written = if pair.note.is_empty() {
            pair.unit
        } else {
            pair.note
        };
        let Some(unit) = unit::step_time(written) else {
            return;
        };
        let Some(value) = Printed::measure(pair.value) else {
            return;
        };
        if rank == 3 {
            self.train_time = Some(value).filter(|_| written.is_empty());
            return;
        }
        if rank == 1 && pair.name.eq_ignore_ascii_case(b"time") {
            self.record.plain_time = Some(value.value);
        }
        if self.time.is_none_or(|old| rank < old.0) {
            self.time = Some((rank, value, unit));
        }
    }

    /// Decides whether the values make a record of training, of evaluation, or only look like one.
    fn judge(mut self, line: &[u8]) -> Option<Reading> {
        // Newer trainers tell the time so far with each record: a summary has the mean loss, and no learning rate.
        let is_record = self.loss_rank == Some(0) && self.record.learning_rate.is_some();
        if self.summary && !is_record || (self.setting && self.record.loss.is_none()) {
            return None;
        }
        if self.engine {
            self.record.step = self.record.step.or(self.fraction);
            return self.record.step.map(|_| self.reading(Kind::Engine));
        }
        if self.evaluation {
            return self
                .record
                .eval_loss
                .or(self.record.loss)
                .map(|eval_loss| Reading {
                    kind: Kind::Evaluation,
                    record: Record {
                        eval_loss: Some(eval_loss),
                        ..Record::default()
                    },
                });
        }
        self.settle_time();
        if self.record.loss.is_none() && self.record.step.is_some() {
            self.record.loss = first_behind_bracket(line);
        }
        let record = &self.record;
        let has_step = record.step.is_some();
        let Some(_) = record.loss else {
            return self.without_loss(line);
        };
        let has_state = record.learning_rate.or(record.grad_norm).is_some();
        let estimated = record.eval_loss.is_some() && !has_state && record.throughput.is_none();
        let is_mean = record.epoch.is_some()
            && memchr::memchr(b'|', line).is_some()
            && (EPOCH_MEANS
                .iter()
                .any(|sign| memmem::find(line, sign).is_some())
                // Its older form: `| epoch 001 | loss 10.2 | ... | num_updates 1200`.
                || self.step_rank == Some(2)
                    && line.starts_with(b"| epoch ")
                    && self
                        .epoch_end
                        .is_some_and(|end| line[end..].starts_with(b" | loss ")));
        if is_mean {
            return Some(self.reading(Kind::Fallback));
        }
        if has_step {
            let kind = if estimated {
                Kind::Fallback
            } else {
                Kind::Step
            };
            return Some(self.reading(kind));
        }
        // `loss 3` may be prose: without a position it counts only with a sign, or behind an epoch.
        if !self.loss_by_sign && record.epoch.is_none() {
            return None;
        }
        let company = usize::from(has_state)
            + usize::from(record.epoch.is_some())
            + usize::from(record.throughput.is_some())
            + self.others;
        // `Epoch 3 - Average Train Loss: 0.38` below the losses of its batches.
        let of_epoch = self.loss_is_mean && company == usize::from(record.epoch.is_some());
        if company > 0 && !of_epoch {
            return Some(self.reading(Kind::Bare));
        }
        // Alone, only the loss itself counts, not a part of it.
        let whole = self.loss_rank.is_some_and(|rank| rank < 5);
        Some(self.reading(if whole { Kind::Fallback } else { Kind::Part }))
    }

    fn without_loss(self, line: &[u8]) -> Option<Reading> {
        let record = &self.record;
        // The mean time of a step stands beside the loss of an evaluation too.
        let speed = record.throughput.map(|speed| speed.unit);
        if record.eval_loss.is_some()
            && record.learning_rate.is_none()
            && speed.is_none_or(|unit| unit.step_time_s(1.0).is_some())
        {
            return Some(self.reading(Kind::Evaluation));
        }
        if record.step.is_some() {
            let weak = self.step_rank.is_some_and(|rank| rank > 5);
            if (record.has_metrics() && !weak) || self.boosting {
                return Some(self.reading(Kind::Step));
            }
            let tail = line.get(self.step_end..).unwrap_or_default().trim_ascii();
            // `──── Step 10,034 ────`, `current step: 17407th step`, `| epoch  10 |  2080/ 2586 batches |`
            let is_rule = |byte: &u8| !byte.is_ascii() || matches!(byte, b'-' | b'=' | b'*');
            let alone = tail.len() <= 2
                || tail == b"step"
                || tail == b"batches |"
                || tail.iter().all(is_rule)
                || tail.starts_with(b",epoch=")
                || tail.starts_with(b", epoch=");
            let heads = alone && !weak && !speaks_of_files(line);
            return heads.then(|| self.reading(Kind::Header));
        }
        // rl_games: `fps step: 12111 fps total: 10111 epoch: 2/1000`; and `Epoch 4 Train, reg: 0.1, mae: 9.0`.
        let of_epochs = record.epoch.is_some()
            && (record.total_epochs.is_some() && record.throughput.is_some()
                || self.others > 1 && self.follows_epoch(line, b"train"));
        if of_epochs {
            return Some(self.reading(Kind::Fallback));
        }
        if record.has_metrics() || record.remaining.is_some() {
            return Some(self.reading(Kind::Part));
        }
        // `Saving state: epoch 2` begins none.
        let of_files = self
            .epoch_end
            .is_some_and(|end| speaks_of_files(&line[..end]));
        let is_heading = record.epoch.is_some() && line.len() < 160 && !of_files;
        is_heading.then(|| self.reading(Kind::Epoch))
    }

    /// Whether this word, in any case, stands right behind the epoch.
    fn follows_epoch(&self, line: &[u8], word: &[u8]) -> bool {
        let rest = self.epoch_end.and_then(|end| line.get(end..));
        let next = rest.and_then(|rest| {
            rest.trim_ascii_start()
                .split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')
                .next()
        });
        next.is_some_and(|next| next.eq_ignore_ascii_case(word))
    }

    /// The duration of a step is a speed as well, where it is that of a step.
    fn settle_time(&mut self) {
        // Beside the parts of a step, `iter_time` is the loading of data.
        if let (true, Some(value)) = (self.part_of_step, self.train_time) {
            return self.record.add_speed(value, Unit::SecondsPerStep);
        }
        let Some((rank, value, unit)) = self.time.filter(|_| !self.by_update) else {
            return;
        };
        // Without a step, `time` is that of the epoch.
        let of_epoch = self.record.step.is_none() && self.record.epoch.is_some() && rank > 0;
        if of_epoch {
            return;
        }
        let unit = match unit {
            Unit::SecondsPerStep if self.by_iter && rank == 1 => Unit::SecondsPerIter,
            unit => unit,
        };
        self.record.add_speed(value, unit);
    }

    fn reading(&self, kind: Kind) -> Reading {
        Reading {
            kind,
            record: self.record,
        }
    }
}

/// An epoch as printed.
fn epoch(text: &[u8]) -> Option<Printed> {
    Printed::measure(text).filter(|epoch| epoch.value >= 0.0 && epoch.value.is_finite())
}

/// A speed with `K` or `M` behind it keeps its letter.
fn speed_value(pair: &Pair<'_>) -> Option<Printed> {
    match pair.unit {
        [scale @ (b'k' | b'K' | b'M')] | [scale @ (b'k' | b'K' | b'M'), b' ', ..] => {
            Printed::position(pair.value, &[*scale])
        }
        _ => Printed::measure(pair.value),
    }
}
