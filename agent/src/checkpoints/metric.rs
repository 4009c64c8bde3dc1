//! Which value of the training's log belongs to a checkpoint (pure).
//!
//! A trainer evaluates at a step and then saves it, and names the file after the step; some name it after nothing at all.

use std::collections::VecDeque;

/// Values that are remembered: hours of a trainer that prints one a second, and more checkpoints than ever wait at once.
const REMEMBERED: usize = 8192;
/// A value is read from the log a moment after it was printed, perhaps after the checkpoint that it was printed before.
const SLACK_US: u64 = 2_000_000;

/// A value as it was read.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Measured {
    /// Newest step that the log had named then.
    step: Option<u64>,
    /// When it was read, microseconds since the epoch.
    time_us: u64,
    /// May be no finite number.
    value: f64,
}

/// When a checkpoint was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// By its name.
    pub step: Option<u64>,
    /// Its newest file, microseconds since the epoch.
    pub written_us: u64,
}

/// The newest values of one log.
#[derive(Debug, Default)]
pub struct Measurements(VecDeque<Measured>);

impl Measurements {
    /// Keeps a value that was read just now.
    pub fn note(&mut self, step: Option<u64>, time_us: u64, value: f64) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(Measured {
            step,
            time_us,
            value,
        });
    }

    /// The value of a checkpoint: that of its step, else the newest since the checkpoint before it. `None`: nothing was measured for it,
    /// or what was measured is no finite number.
    pub fn of(&self, checkpoint: Made, before: Option<Made>) -> Option<f64> {
        let in_time = |measured: &&Measured| {
            measured.time_us <= checkpoint.written_us.saturating_add(SLACK_US)
                && before.is_none_or(|before| measured.time_us > before.written_us)
        };
        let newest = |belongs: &dyn Fn(&&Measured) -> bool| self.0.iter().rev().find(belongs);
        let found = match checkpoint.step {
            // Where the log speaks of no such step, the name counts something else: epochs, perhaps.
            Some(step)
                if self
                    .0
                    .iter()
                    .any(|measured| measured.step.is_none_or(|there| there <= step)) =>
            {
                let after = before
                    .and_then(|before| before.step)
                    .filter(|before| *before < step);
                newest(&|measured| measured.step == Some(step)).or_else(|| {
                    newest(&|measured| {
                        let there = measured.step.unwrap_or(0);
                        there < step && after.is_none_or(|after| there > after)
                    })
                })
            }
            _ => newest(&in_time),
        };
        found
            .map(|measured| measured.value)
            .filter(|value| value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn made(step: Option<u64>, written_s: u64) -> Made {
        Made {
            step,
            written_us: written_s * SECOND,
        }
    }

    /// Values as (step, second, value).
    fn measurements(values: &[(Option<u64>, u64, f64)]) -> Measurements {
        let mut all = Measurements::default();
        for (step, second, value) in values {
            all.note(*step, second * SECOND, *value);
        }
        all
    }

    #[test]
    fn a_value_belongs_to_the_step_it_was_measured_at_or_to_the_next_checkpoint() {
        let every_500 = measurements(&[
            (Some(500), 50, 3.0),
            (Some(1000), 100, 2.0),
            (Some(1490), 149, 1.5),
            (Some(2000), 200, f64::NAN),
        ]);
        for (step, before, expected) in [
            (500, None, Some(3.0)),
            // The first one: whatever was measured until then.
            (600, None, Some(3.0)),
            (600, Some(500), None),
            (900, Some(800), None),
            (1000, Some(500), Some(2.0)),
            // Evaluated a little before it was saved, by a bar that is not drawn at each step.
            (1500, Some(1000), Some(1.5)),
            // One that broke down is not as good as what came before it.
            (2000, Some(1500), None),
            (2500, Some(2000), None),
        ] {
            // However late it is uploaded.
            let checkpoint = made(Some(step), step / 10);
            let before = before.map(|step| made(Some(step), step / 10));
            assert_eq!(
                every_500.of(checkpoint, before),
                expected,
                "{step} {before:?}"
            );
        }
    }

    #[test]
    fn a_checkpoint_without_a_step_of_the_log_has_what_was_printed_last_before_it() {
        let values = measurements(&[
            (Some(500), 50, 3.0),
            (Some(1000), 100, 2.0),
            (Some(1500), 150, 1.0),
        ]);
        for (step, written_s, before_s, expected) in [
            (None, 101, None, Some(2.0)),
            (None, 101, Some(51), Some(2.0)),
            (None, 147, Some(101), None),
            // The log is read a moment after it was written.
            (None, 149, None, Some(1.0)),
            (None, 49, None, Some(3.0)),
            (None, 40, None, None),
            // Named after its epoch.
            (Some(2), 101, Some(51), Some(2.0)),
        ] {
            let before = before_s.map(|second| made(None, second));
            let found = values.of(made(step, written_s), before);
            assert_eq!(found, expected, "{step:?} at {written_s}");
        }
        assert_eq!(Measurements::default().of(made(Some(5), 5), None), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut all = Measurements::default();
        for step in 0..REMEMBERED as u64 + 10 {
            all.note(Some(step), step * SECOND, 1.0);
        }
        assert_eq!(all.0.len(), REMEMBERED);
        assert_eq!(all.of(made(Some(9), 5), None), None);
    }
}
