//! Results of RLlib, as Ray prints them: a name and its value on each line, in the order of the alphabet, deeper ones indented. The
//! position comes near the end.

use crate::{number, number::Printed, record::Record, unit::Unit};

/// A result goes on for so many bytes from one line that is known to the next: histograms of a thousand episodes may lie between.
const RESULT_BYTES: u64 = 32 << 10;

/// What a name of a result tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tells {
    /// That this is a result, and no more.
    Opens,
    /// The same, and that the program learns by reward.
    Reward,
    /// The loss as a whole.
    Loss,
    /// The learning rate.
    LearningRate,
    /// Steps of the environment per second.
    Frames,
    /// Seconds of this iteration.
    Seconds,
    /// The position: the result is complete.
    Step,
    /// Nothing that is wanted.
    Nothing,
}

/// Names that have an anchor of the gate; others are not seen.
#[rustfmt::skip] // One name is one line.
const NAMES: &[(&[u8], Tells)] = &[
    (b"agent_timesteps_total", Tells::Opens),
    (b"episode_reward_max", Tells::Reward),
    (b"episode_reward_mean", Tells::Reward),
    (b"episode_reward_min", Tells::Reward),
    (b"episode_return_max", Tells::Reward),
    (b"episode_return_mean", Tells::Reward),
    (b"episode_return_min", Tells::Reward),
    (b"episodes_this_iter", Tells::Opens),
    (b"total_loss", Tells::Loss),
    (b"policy_loss", Tells::Nothing),
    (b"vf_loss", Tells::Nothing),
    (b"vf_loss_unclipped", Tells::Nothing),
    (b"cur_lr", Tells::LearningRate),
    (b"num_env_steps_sampled_throughput_per_sec", Tells::Frames),
    (b"time_this_iter_s", Tells::Seconds),
    (b"iterations_since_restore", Tells::Nothing),
    (b"training_iteration", Tells::Step),
];

/// A result that is being read.
#[derive(Debug, Default)]
pub struct Results {
    record: Record,
    seconds: Option<Printed>,
    /// Where its last line was, in bytes from the start of the log; `None`: none is open.
    at: Option<u64>,
}

/// What a line was to the results.
#[derive(Debug, PartialEq)]
pub enum Row {
    /// None of theirs.
    Other,
    /// A part of one.
    Part,
    /// The position of one: it is complete.
    Complete(Box<Record>),
}

impl Results {
    /// Takes a line that begins at `place`, in bytes from the start of the log.
    pub fn take(&mut self, line: &[u8], place: u64) -> Row {
        self.at = self
            .at
            .filter(|at| place.saturating_sub(*at) < RESULT_BYTES);
        let Some((tells, value)) = row(line) else {
            return Row::Other;
        };
        if self.at.is_none() {
            if !matches!(tells, Tells::Opens | Tells::Reward) {
                return Row::Other;
            }
            (self.record, self.seconds) = (Record::default(), None);
        }
        self.at = Some(place);
        let record = &mut self.record;
        match tells {
            Tells::Opens | Tells::Nothing => {}
            Tells::Reward => record.rewarded = true,
            // Of several policies the first.
            Tells::Loss => record.loss = record.loss.or(Printed::measure(value)),
            Tells::LearningRate => {
                record.learning_rate = record.learning_rate.or(Printed::measure(value));
            }
            Tells::Frames => {
                if let Some(speed) = Printed::measure(value) {
                    record.add_speed(speed, Unit::Frames);
                }
            }
            Tells::Seconds => self.seconds = Printed::measure(value),
            Tells::Step => {
                self.at = None;
                let mut record = std::mem::take(record);
                record.step = Printed::count(value, b"");
                if let Some(seconds) = self.seconds.take() {
                    record.add_speed(seconds, Unit::SecondsPerIter);
                }
                return match record.step.is_some() && record.has_metrics() {
                    true => Row::Complete(Box::new(record)),
                    false => Row::Part,
                };
            }
        }
        Row::Part
    }
}

/// `  name: 1.5`, of a known name.
fn row(line: &[u8]) -> Option<(Tells, &[u8])> {
    let (name, value) = line
        .trim_ascii()
        .split_at_checked(line.trim_ascii().iter().position(|byte| *byte == b':')?)?;
    let value = value[1..].strip_prefix(b" ")?.trim_ascii();
    let whole = !value.is_empty() && number::length(value) == value.len();
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known.filter(|_| whole).map(|(_, tells)| (*tells, value))
}
