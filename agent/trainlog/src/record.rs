//! What one line, or one drawing of a bar, says about the training.

use crate::{
    number::{Printed, Text},
    unit::Unit,
};

/// A speed as printed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// The number.
    pub value: Printed,
    /// What it counts.
    pub unit: Unit,
}

/// One training record. Absent: not printed there.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Record {
    /// Step, iteration, update: the position in the training, or in the epoch.
    pub step: Option<Printed>,
    /// Where the position ends.
    pub total_steps: Option<Printed>,
    /// Epoch, may be fractional.
    pub epoch: Option<Printed>,
    /// How many epochs there are, or the number of the last one.
    pub total_epochs: Option<Printed>,
    /// By its form the position is that in the epoch: `Epoch 3:  50%|...| 5/10`, `Train: 3 [ 5/10]`.
    pub(crate) within_epoch: bool,
    /// Training loss; not a number when the log says so.
    pub loss: Option<Printed>,
    /// How much of the whole the loss is, the most first: see `Meaning::Loss`.
    pub(crate) loss_rank: u8,
    /// Evaluation loss.
    pub eval_loss: Option<Printed>,
    /// Learning rate, the first of several.
    pub learning_rate: Option<Printed>,
    /// Norm of the gradient.
    pub grad_norm: Option<Printed>,
    /// The speed that says most: tokens before samples, samples before steps, else what is printed first.
    pub throughput: Option<Throughput>,
    /// Tokens per second, if printed.
    pub tokens_per_s: Option<f64>,
    /// Tokens per second of one GPU, if printed as such.
    pub tokens_per_s_per_gpu: Option<f64>,
    /// Samples per second, if printed.
    pub samples_per_s: Option<f64>,
    /// Seconds per step, if printed or if steps per second are.
    pub step_time_s: Option<f64>,
    /// The time that is left.
    pub remaining: Option<Text>,
    /// It shows the time that is left and no speed: an older speed, such as the mean of the last epoch, is not today's.
    pub speed_unknown: bool,
    /// A reward, return or score was printed.
    pub rewarded: bool,
    /// A duration that is only called `time`: that of a step, or of all so far.
    pub(crate) plain_time: Option<f64>,
}

impl Record {
    /// Takes back the speed that was made of a time of all steps so far.
    pub(crate) fn forget_time(&mut self) {
        if self.throughput.is_some_and(|speed| speed.unit.rank() == 2) {
            self.throughput = None;
            self.speed_unknown = true;
        }
        self.step_time_s = None;
    }

    /// Adds what a later line under the same position says: what is missing, and a loss that says more.
    pub(crate) fn complete(&mut self, later: &Self) {
        fn fill<T: Copy>(mine: &mut Option<T>, later: Option<T>) {
            *mine = mine.or(later);
        }
        if self.loss.is_none() || (later.loss.is_some() && later.loss_rank < self.loss_rank) {
            self.loss = later.loss;
            self.loss_rank = later.loss_rank;
        }
        fill(&mut self.step, later.step);
        fill(&mut self.total_steps, later.total_steps);
        fill(&mut self.epoch, later.epoch);
        fill(&mut self.total_epochs, later.total_epochs);
        self.within_epoch |= later.within_epoch;
        fill(&mut self.eval_loss, later.eval_loss);
        fill(&mut self.learning_rate, later.learning_rate);
        fill(&mut self.grad_norm, later.grad_norm);
        fill(&mut self.remaining, later.remaining);
        fill(&mut self.tokens_per_s, later.tokens_per_s);
        fill(&mut self.tokens_per_s_per_gpu, later.tokens_per_s_per_gpu);
        fill(&mut self.samples_per_s, later.samples_per_s);
        fill(&mut self.step_time_s, later.step_time_s);
        if let Some(speed) = later.throughput {
            self.add_speed(speed.value, speed.unit);
        }
        self.rewarded |= later.rewarded;
    }

    /// Adds a speed; tokens outdo samples, samples outdo steps, and the first of equals stays.
    pub(crate) fn add_speed(&mut self, value: Printed, unit: Unit) {
        if let Some(seconds) = unit.step_time_s(value.value) {
            self.step_time_s.get_or_insert(seconds);
        }
        match unit {
            Unit::Tokens => self.tokens_per_s = self.tokens_per_s.or(Some(value.value)),
            Unit::TokensPerGpu | Unit::TokensPerDevice => {
                self.tokens_per_s_per_gpu.get_or_insert(value.value);
            }
            Unit::Samples | Unit::Images => {
                self.samples_per_s = self.samples_per_s.or(Some(value.value));
            }
            _ => {}
        }
        let better = self
            .throughput
            .is_none_or(|old| unit.rank() < old.unit.rank());
        if better {
            self.throughput = Some(Throughput { value, unit });
        }
    }

    /// Whether it has a value that only a training shows, beside its position.
    pub(crate) fn has_metrics(&self) -> bool {
        self.loss.is_some()
            || self.learning_rate.is_some()
            || self.throughput.is_some()
            || self.grad_norm.is_some()
            || self.rewarded
    }

    /// Whether the training broke down: its loss is not a number, or the loss is masked and the gradient is not one.
    pub fn is_broken(&self) -> Option<bool> {
        let loss = self.loss?;
        let masked = loss.value == 0.0 && self.grad_norm.is_some_and(|norm| norm.value.is_nan());
        Some(!loss.value.is_finite() || masked)
    }
}
