//! What the names in a line mean: dictionaries, step lines and plain keys differ only in how they are written.

use super::Record;
use super::pairs::{Pair, Separator, pairs};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Step,
    Epoch,
    Loss,
    EvalLoss,
    LearningRate,
    GradNorm,
    StepTime,
    TokenRate,
    SampleRate,
    /// Only the summary at the end of a training has it.
    Summary,
}

/// Words before `loss` that leave it the training's loss; `aux loss` and `box loss` are parts of one.
const WHOLE_LOSS: [&str; 8] = [
    "train", "training", "lm", "total", "mean", "avg", "average", "step",
];

/// Words that make a loss an evaluation's.
const EVALUATION: [&str; 6] = ["val", "valid", "validation", "eval", "evaluation", "test"];

/// Reads one line; an empty record when it is none.
pub fn read(line: &[u8]) -> Record {
    let mut line_record = Record::default();
    let mut spaced = Record::default();
    let mut mean_of_many = false;
    for pair in pairs(line) {
        let Some(meaning) = meaning(&pair) else {
            continue;
        };
        if meaning == Meaning::Summary {
            return Record::default();
        }
        mean_of_many |= meaning == Meaning::Loss && is_one_of(pair.before, &["train"]);
        // `loss 3` may be prose: it counts only in a line that has a step as well. A step itself proves nothing alone.
        let doubtful = pair.separator == Separator::Space && meaning != Meaning::Step;
        set(
            if doubtful {
                &mut spaced
            } else {
                &mut line_record
            },
            meaning,
            &pair,
        );
    }
    if line_record.step.is_some() {
        let sure = line_record;
        line_record = spaced;
        line_record.update(&sure);
    }
    judge(line_record, mean_of_many)
}

/// The values after the rate in a progress bar: all are the trainer's own.
pub fn read_postfix(text: &[u8]) -> Record {
    let mut record = Record::default();
    for pair in pairs(text).filter(|pair| pair.separator == Separator::Sign) {
        if let Some(meaning) = meaning(&pair) {
            set(&mut record, meaning, &pair);
        }
    }
    record
}

/// Decides whether values make a record of training, of evaluation, or only look like one.
fn judge(record: Record, mean_of_many: bool) -> Record {
    let has_speed = record
        .step_time_s
        .or(record.tokens_per_s)
        .or(record.samples_per_s)
        .is_some();
    let has_state = record.learning_rate.or(record.grad_norm).is_some();
    if record.eval_loss.is_some() && (mean_of_many || record.loss.is_none()) {
        // `step 75: train loss 3.5, val loss 3.75`: both are means over many batches.
        return Record {
            eval_loss: record.eval_loss,
            ..Record::default()
        };
    }
    let is_training = record.loss.is_some() || (record.step.is_some() && (has_speed || has_state));
    if is_training {
        record
    } else {
        Record::default()
    }
}

fn meaning(pair: &Pair<'_>) -> Option<Meaning> {
    if pair.separator == Separator::Unit {
        return unit_meaning(pair.unit);
    }
    let is = |names: &[&str]| is_one_of(pair.name, names);
    let before = |names: &[&str]| is_one_of(pair.before, names);
    if is(&["loss"]) {
        return match pair.before {
            b"" => Some(Meaning::Loss),
            _ if before(&WHOLE_LOSS) => Some(Meaning::Loss),
            _ if before(&EVALUATION) => Some(Meaning::EvalLoss),
            _ => None,
        };
    }
    if is(&["time"]) {
        return (!before(&["total", "elapsed", "remaining", "train", "training"]))
            .then_some(Meaning::StepTime);
    }
    if is(&["rate"]) {
        return before(&["learning"]).then_some(Meaning::LearningRate);
    }
    const NAMES: [(&[&str], Meaning); 9] = [
        (
            &[
                "step",
                "iter",
                "iteration",
                "global_step",
                "train/global_step",
                "update",
            ],
            Meaning::Step,
        ),
        (&["epoch", "train/epoch"], Meaning::Epoch),
        (
            &[
                "train_loss",
                "train/loss",
                "total_loss",
                "lm_loss",
                "training_loss",
            ],
            Meaning::Loss,
        ),
        (
            &["lr", "learning_rate", "train/learning_rate"],
            Meaning::LearningRate,
        ),
        (
            &["grad_norm", "train/grad_norm", "gnorm", "norm"],
            Meaning::GradNorm,
        ),
        (
            &[
                "dt",
                "step_time",
                "iter_time",
                "time_per_step",
                "step_time_s",
            ],
            Meaning::StepTime,
        ),
        (
            &[
                "tok/s",
                "tok/sec",
                "tokens/s",
                "tokens/sec",
                "tokens_per_second",
                "tokens_per_sec",
                "tokens_per_s",
                "tps",
            ],
            Meaning::TokenRate,
        ),
        (
            &[
                "samples/s",
                "samples/sec",
                "samples_per_second",
                "samples_per_sec",
                "samples_per_s",
            ],
            Meaning::SampleRate,
        ),
        (&["train_runtime"], Meaning::Summary),
    ];
    let named = NAMES
        .iter()
        .find(|(names, _)| is(names))
        .map(|(_, meaning)| *meaning);
    named.or_else(|| is_evaluation_loss(pair.name).then_some(Meaning::EvalLoss))
}

/// `val_loss`, `eval_loss`, `eval_wikitext_loss`, `val/loss`.
fn is_evaluation_loss(name: &[u8]) -> bool {
    let Some((last, head)) = name
        .split_last_chunk::<4>()
        .map(|(head, last)| (last, head))
    else {
        return false;
    };
    let first = head
        .split(|byte| matches!(byte, b'_' | b'/' | b'.' | b'-'))
        .next()
        .unwrap_or_default();
    last.eq_ignore_ascii_case(b"loss")
        && head
            .last()
            .is_some_and(|byte| !byte.is_ascii_alphanumeric())
        && is_one_of(first, &EVALUATION)
}

fn unit_meaning(unit: &[u8]) -> Option<Meaning> {
    let is = |names: &[&str]| is_one_of(unit, names);
    if is(&["tok/s", "tok/sec", "tokens/s", "tokens/sec"]) {
        Some(Meaning::TokenRate)
    } else if is(&["samples/s", "samples/sec"]) {
        Some(Meaning::SampleRate)
    } else if is(&["ms/step", "s/step", "ms/iter", "s/iter", "ms/it", "s/it"]) {
        Some(Meaning::StepTime)
    } else {
        None
    }
}

fn set(record: &mut Record, meaning: Meaning, pair: &Pair<'_>) {
    match meaning {
        Meaning::Step => {
            record.step = whole(scaled(pair.value, pair.unit));
            record.total_steps = pair.of.and_then(whole).or(record.total_steps);
        }
        Meaning::Epoch => record.epoch = Some(pair.value),
        Meaning::Loss => record.loss = Some(pair.value),
        Meaning::EvalLoss => record.eval_loss = Some(pair.value),
        Meaning::LearningRate => record.learning_rate = Some(pair.value),
        Meaning::GradNorm => record.grad_norm = Some(pair.value),
        Meaning::StepTime => record.step_time_s = seconds(pair).or(record.step_time_s),
        Meaning::TokenRate => record.tokens_per_s = Some(scaled(pair.value, pair.unit)),
        Meaning::SampleRate => record.samples_per_s = Some(pair.value),
        Meaning::Summary => {}
    }
}

/// A duration by its unit. Without one, only a name that says seconds is believed.
fn seconds(pair: &Pair<'_>) -> Option<f64> {
    let unit = pair
        .unit
        .split(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    match unit {
        b"s" => Some(pair.value),
        b"ms" => Some(pair.value / 1e3),
        b"us" => Some(pair.value / 1e6),
        b"" => is_one_of(pair.name, &["step_time", "step_time_s", "time_per_step"])
            .then_some(pair.value),
        _ => None,
    }
}

/// `15K` is 15,000.
fn scaled(value: f64, unit: &[u8]) -> f64 {
    match unit {
        b"k" | b"K" => value * 1e3,
        b"M" => value * 1e6,
        _ => value,
    }
}

/// A count; what is negative or no number is none.
fn whole(value: f64) -> Option<u64> {
    (value >= 0.0 && value < u64::MAX as f64).then_some(value as u64)
}

fn is_one_of(word: &[u8], known: &[&str]) -> bool {
    known
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluation_losses_are_told_by_their_first_and_last_word() {
        for (name, expected) in [
            ("eval_loss", true),
            ("eval_wikitext_loss", true),
            ("val/loss", true),
            ("Val_Loss", true),
            ("validation.loss", true),
            ("loss", false),
            ("evalloss", false),
            ("train_loss", false),
            ("value_loss", false),
            ("eval_accuracy", false),
        ] {
            assert_eq!(is_evaluation_loss(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn a_count_is_neither_negative_nor_nan_nor_endless() {
        assert_eq!(
            [
                whole(5.0),
                whole(-1.0),
                whole(f64::NAN),
                whole(f64::INFINITY)
            ],
            [Some(5), None, None, None]
        );
    }

    #[test]
    fn durations_need_a_unit_or_a_name_that_says_it() {
        for (line, expected) in [
            ("step 1: loss 1, time 250ms", Some(0.25)),
            ("step 1: loss 1, time 2", None),
            ("step=1 loss=1 step_time=2", Some(2.0)),
            ("step=1 loss=1 total time: 9s", None),
            ("step 1 | loss 1 | 40 ms/step", Some(0.04)),
        ] {
            assert_eq!(read(line.as_bytes()).step_time_s, expected, "{line}");
        }
    }
}
