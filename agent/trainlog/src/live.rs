//! The newest values of a log that grows, as numbers.

use crate::{
    Progress, Reader,
    reader::{Seen, SeenKind},
    record::Record,
};

/// What was read from a training log so far. Absent: not printed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latest {
    /// When the newest of these values was seen, microseconds since the epoch.
    pub time_us: u64,
    /// Step, iteration or global step; of the whole training, as far as the log tells how long its epochs are.
    pub step: Option<u64>,
    /// Steps in all; absent where positions begin anew with each epoch and nobody says how many there are.
    pub total_steps: Option<u64>,
    /// Epoch, may be fractional.
    pub epoch: Option<f64>,
    /// Training loss; not a number when the log says so.
    pub loss: Option<f64>,
    /// Evaluation loss.
    pub eval_loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: Option<f64>,
    /// Tokens per second.
    pub tokens_per_s: Option<f64>,
    /// Tokens per second of one GPU, where the log says that it is of one.
    pub tokens_per_s_per_gpu: Option<f64>,
    /// Samples per second.
    pub samples_per_s: Option<f64>,
    /// Seconds per step.
    pub step_time_s: Option<f64>,
    /// Norm of the gradient.
    pub grad_norm: Option<f64>,
    /// When those of these values that are measured were printed last: a value stays here until the next one comes.
    pub printed: Printed,
}

/// When a value was printed last, microseconds since the epoch; 0: it was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Printed {
    /// Training loss.
    pub loss_us: u64,
    /// Tokens per second.
    pub tokens_per_s_us: u64,
    /// Tokens per second of one GPU.
    pub per_gpu_us: u64,
    /// Anything new: a record, a bar that moved, an epoch, an evaluation. A line that repeats what was there is nothing new.
    pub moved_us: u64,
    /// Seconds per step.
    pub step_time_us: u64,
}

impl Latest {
    /// Takes every value that `newer` has.
    fn update(&mut self, newer: &Record, epochs: &mut Epochs, now_us: u64) {
        let stamp = |mine: &mut u64, is_there: bool| {
            if is_there {
                *mine = now_us;
            }
        };
        stamp(&mut self.printed.loss_us, newer.loss.is_some());
        stamp(
            &mut self.printed.tokens_per_s_us,
            newer.tokens_per_s.is_some(),
        );
        stamp(
            &mut self.printed.per_gpu_us,
            newer.tokens_per_s_per_gpu.is_some(),
        );
        stamp(&mut self.printed.step_time_us, newer.step_time_s.is_some());
        fn take<T: Copy>(mine: &mut Option<T>, newer: Option<T>) {
            *mine = newer.or(*mine);
        }
        let (step, total) = epochs.place(newer);
        take(&mut self.step, step);
        if newer.total_steps.is_some() || epochs.is_within() {
            self.total_steps = total.or(self.total_steps.filter(|_| step.is_none()));
        }
        take(&mut self.epoch, newer.epoch.map(|epoch| epoch.value));
        take(&mut self.loss, newer.loss.map(|loss| loss.value));
        take(&mut self.eval_loss, newer.eval_loss.map(|loss| loss.value));
        take(
            &mut self.learning_rate,
            newer.learning_rate.map(|rate| rate.value),
        );
        take(&mut self.grad_norm, newer.grad_norm.map(|norm| norm.value));
        take(&mut self.tokens_per_s, newer.tokens_per_s);
        take(&mut self.tokens_per_s_per_gpu, newer.tokens_per_s_per_gpu);
        take(&mut self.samples_per_s, newer.samples_per_s);
        take(&mut self.step_time_s, newer.step_time_s);
    }

    fn is_empty(&self) -> bool {
        *self
            == Self {
                time_us: self.time_us,
                printed: self.printed,
                ..Self::default()
            }
    }
}

/// Where a position stands in the whole training, as far as the log has shown. Many trainers count anew with each epoch.
#[derive(Debug, Default)]
struct Epochs {
    /// The last position, its total and its epoch.
    last: Option<(u64, Option<u64>, Option<u64>)>,
    /// Positions are those of an epoch: `None` while it may be either.
    within: Option<bool>,
    /// The first epoch is called 0.
    from_zero: bool,
}

impl Epochs {
    fn is_within(&self) -> bool {
        self.within == Some(true)
    }

    /// Position and total in the whole training. No total where only that of an epoch is known.
    fn place(&mut self, record: &Record) -> (Option<u64>, Option<u64>) {
        let Some(step) = record.step.and_then(|step| step.whole()) else {
            return (None, None);
        };
        let total = record.total_steps.and_then(|total| total.whole());
        // Beside a bar for each epoch, the steps of other lines are counted in another way.
        let is_beside = self.is_within() && total.is_none();
        if is_beside && self.last.is_some_and(|last| last.1.is_some()) {
            return (None, None);
        }
        // Half an epoch is counted by trainers that count the steps of all.
        let counted = record
            .epoch
            .filter(|epoch| epoch.value.fract() == 0.0 && !epoch.text.as_str().contains('.'));
        let epoch = counted.and_then(|epoch| epoch.whole());
        let epochs = record.total_epochs.and_then(|total| total.whole());
        self.from_zero |= epoch == Some(0);
        if let Some((last, last_total, last_epoch)) = self.last {
            let next_epoch = epoch > last_epoch && last_epoch.is_some();
            // A counter that went back was finished, or its epoch is another one. A restart from a checkpoint is neither.
            let finished = last_total.is_some_and(|total| last * 20 >= total * 19 && total > 1);
            if step < last && last_total == total && (next_epoch || finished) {
                self.within = Some(true);
            } else if next_epoch && step > last && !record.within_epoch {
                self.within = Some(false);
            }
        }
        self.last = Some((step, total, epoch.or(self.last.and_then(|last| last.2))));
        let within = self.within.or(record.within_epoch.then_some(true));
        match (within, total, epoch) {
            (Some(true), Some(length), Some(epoch)) => {
                let before = if self.from_zero {
                    epoch
                } else {
                    epoch.saturating_sub(1)
                };
                let done = before.saturating_mul(length).saturating_add(step);
                let left = epochs.map(|epochs| {
                    let later = epochs.saturating_sub(epoch).saturating_mul(length);
                    later.saturating_add(length.saturating_sub(step))
                });
                (Some(done), left.map(|left| done.saturating_add(left)))
            }
            (Some(true), ..) => (Some(step), None),
            // It may be either, and there are several: better no total than that of one.
            (None, _, Some(_)) if epochs.is_some_and(|epochs| epochs > 1) => (Some(step), None),
            _ => (Some(step), total),
        }
    }
}

/// Follows one log. Values that different lines print (a bar the step, a dictionary the loss) are kept together.
#[derive(Debug, Default)]
pub struct Recogniser {
    reader: Reader,
    latest: Latest,
    epochs: Epochs,
    /// What the reader counted at the last look, and the bar that waited then.
    moves: u64,
    waited: Option<(f64, Option<f64>)>,
}

impl Recogniser {
    /// A recogniser that takes the lines of this expression as records, and no others.
    pub fn with(progress: Option<Progress>) -> Self {
        Self {
            reader: Reader::with(progress),
            ..Self::default()
        }
    }

    /// Reads bytes as they came from the log, in pieces of any size. Returns the newest values when these bytes held any.
    pub fn feed(&mut self, bytes: &[u8], now_us: u64) -> Option<Latest> {
        // What waits was told when it came.
        if bytes.is_empty() {
            return None;
        }
        let mut found = false;
        let (latest, epochs) = (&mut self.latest, &mut self.epochs);
        self.reader.feed(bytes, &mut |seen| {
            found |= see(latest, epochs, seen, now_us)
        });
        // With minutes per step, the redraw of a bar is minutes away: it is read while it waits.
        if let Some(record) = self.reader.waiting() {
            self.latest.update(&record, &mut self.epochs, now_us);
            let place = |printed: crate::Printed| printed.value;
            let waited = record
                .step
                .map(|step| (place(step), record.total_steps.map(place)));
            if self.waited != waited {
                self.waited = waited;
                self.latest.printed.moved_us = now_us;
            }
            found = true;
        }
        self.stamp(found, now_us)
    }

    /// Reads the last line when the log has ended without a line end. Returns the newest values when it held any.
    pub fn end(&mut self, now_us: u64) -> Option<Latest> {
        let mut found = false;
        let (latest, epochs) = (&mut self.latest, &mut self.epochs);
        self.reader
            .end(&mut |seen| found |= see(latest, epochs, seen, now_us));
        self.stamp(found, now_us)
    }

    /// The newest values, if there were any.
    pub fn latest(&self) -> Option<Latest> {
        (!self.latest.is_empty()).then_some(self.latest)
    }

    /// The reader behind: summary and diagnosis.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    fn stamp(&mut self, found: bool, now_us: u64) -> Option<Latest> {
        let moved = self.moves != self.reader.moves();
        if moved {
            self.moves = self.reader.moves();
            self.latest.printed.moved_us = now_us;
        }
        if (found || moved) && !self.latest.is_empty() {
            self.latest.time_us = now_us;
            return Some(self.latest);
        }
        None
    }
}

/// Takes what was seen; tells whether it had any value.
fn see(latest: &mut Latest, epochs: &mut Epochs, seen: &Seen, now_us: u64) -> bool {
    let mut record = seen.record;
    if seen.kind == SeenKind::Evaluation {
        record = Record {
            eval_loss: record.eval_loss,
            ..Record::default()
        };
    }
    latest.update(&record, epochs, now_us);
    record != Record::default()
}

#[cfg(test)]
mod tests;
