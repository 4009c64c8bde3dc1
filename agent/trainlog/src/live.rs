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
    /// Step, iteration or global step.
    pub step: Option<u64>,
    /// Steps in all.
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
    /// Seconds per step.
    pub step_time_us: u64,
}

impl Latest {
    /// Takes every value that `newer` has.
    fn update(&mut self, newer: &Record, now_us: u64) {
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
        stamp(&mut self.printed.step_time_us, newer.step_time_s.is_some());
        fn take<T: Copy>(mine: &mut Option<T>, newer: Option<T>) {
            *mine = newer.or(*mine);
        }
        take(&mut self.step, newer.step.and_then(|step| step.whole()));
        take(
            &mut self.total_steps,
            newer.total_steps.and_then(|total| total.whole()),
        );
        take(&mut self.epoch, newer.epoch.map(|epoch| epoch.value));
        take(&mut self.loss, newer.loss.map(|loss| loss.value));
        take(&mut self.eval_loss, newer.eval_loss.map(|loss| loss.value));
        take(
            &mut self.learning_rate,
            newer.learning_rate.map(|rate| rate.value),
        );
        take(&mut self.grad_norm, newer.grad_norm.map(|norm| norm.value));
        take(&mut self.tokens_per_s, newer.tokens_per_s);
        take(&mut self.samples_per_s, newer.samples_per_s);
        take(&mut self.step_time_s, newer.step_time_s);
    }

    fn is_empty(&self) -> bool {
        *self
            == Self {
                time_us: self.time_us,
                ..Self::default()
            }
    }
}

/// Follows one log. Values that different lines print (a bar the step, a dictionary the loss) are kept together.
#[derive(Debug, Default)]
pub struct Recogniser {
    reader: Reader,
    latest: Latest,
}

impl Recogniser {
    /// A recogniser that takes the lines of this expression as records, and no others.
    pub fn with(progress: Option<Progress>) -> Self {
        Self {
            reader: Reader::with(progress),
            latest: Latest::default(),
        }
    }

    /// Reads bytes as they came from the log, in pieces of any size. Returns the newest values when these bytes held any.
    pub fn feed(&mut self, bytes: &[u8], now_us: u64) -> Option<Latest> {
        // What waits was told when it came.
        if bytes.is_empty() {
            return None;
        }
        let mut found = false;
        let latest = &mut self.latest;
        self.reader
            .feed(bytes, &mut |seen| found |= see(latest, seen, now_us));
        // With minutes per step, the redraw of a bar is minutes away: it is read while it waits.
        if let Some(record) = self.reader.waiting() {
            self.latest.update(&record, now_us);
            found = true;
        }
        self.stamp(found, now_us)
    }

    /// Reads the last line when the log has ended without a line end. Returns the newest values when it held any.
    pub fn end(&mut self, now_us: u64) -> Option<Latest> {
        let mut found = false;
        let latest = &mut self.latest;
        self.reader
            .end(&mut |seen| found |= see(latest, seen, now_us));
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
        if found && !self.latest.is_empty() {
            self.latest.time_us = now_us;
            return Some(self.latest);
        }
        None
    }
}

/// Takes what was seen; tells whether it had any value.
fn see(latest: &mut Latest, seen: &Seen, now_us: u64) -> bool {
    let mut record = seen.record;
    if seen.kind == SeenKind::Evaluation {
        record = Record {
            eval_loss: record.eval_loss,
            ..Record::default()
        };
    }
    latest.update(&record, now_us);
    record != Record::default()
}

#[cfg(test)]
mod tests;
