//! What the names in front of numbers mean: a table, and a rule for the many kinds of loss. A new name is one line.

mod table;

use std::sync::LazyLock;

use crate::{scan::is_evaluation, unit::Unit};
use table::{MINOR, NAMES, NO_LOSS, OTHER_WORK, STRANGERS, WHOLE};

/// What a name stands for. Ranks order the candidates of one line: the lowest is taken, the first of equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Position in the training.
    Step(u8),
    /// Steps in all.
    Total,
    /// Epoch.
    Epoch,
    /// Training loss; 0 and 1 are the loss itself, higher ranks parts of it.
    Loss(u8),
    /// Loss of an evaluation.
    EvalLoss,
    /// Learning rate.
    LearningRate(u8),
    /// Norm of the gradient.
    GradNorm,
    /// A speed whose name holds its unit.
    Speed(Unit),
    /// A speed, if a unit follows the number.
    SpeedByUnit,
    /// Duration of a step.
    StepTime(u8),
    /// Duration of one part of a step, beside which `iter_time` is the loading of data.
    PartOfStep,
    /// Time that is left.
    Remaining,
    /// What a training is started with: beside it, `steps` and `lr` are settings too.
    Setting,
    /// Reward, return or score: a training by trial shows it instead of a loss.
    Reward,
    /// Only the engine below a trainer prints it.
    Engine,
    /// Only the summary at the end of a training has it.
    Summary,
}

/// A meaning, and whether the words before it say that it is of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// What it stands for.
    pub meaning: Meaning,
    /// Of an evaluation.
    pub evaluation: bool,
}

/// Longest name that is looked up, in bytes; the end of a longer one counts.
const MAX_NAME_BYTES: usize = 64;
const LONGEST: usize = 40;

type Name = (&'static [u8], Meaning);

/// The table by length of the name: one comparison or two for each look-up.
static BY_LENGTH: LazyLock<Vec<Vec<Name>>> = LazyLock::new(|| {
    let mut table = vec![Vec::new(); LONGEST + 1];
    for (name, meaning) in NAMES {
        table[name.len()].push((name.as_bytes(), *meaning));
    }
    table
});

/// What a name stands for; `None` for one that says nothing about the training.
pub fn meaning(name: &[u8]) -> Option<Named> {
    // `Current learning rate is: 0.1`
    let name = name.strip_suffix(b" is").unwrap_or(name);
    let name = &name[name.len().saturating_sub(MAX_NAME_BYTES)..];
    let mut buffer = [0; MAX_NAME_BYTES];
    let mut length = 0;
    for byte in name {
        let byte = match byte {
            b' ' => b' ',
            b'/' | b'.' | b'-' | b'@' | b'(' | b'\'' => b'_',
            b')' => continue,
            other => other.to_ascii_lowercase(),
        };
        buffer[length] = byte;
        length += 1;
    }
    let name = &mut buffer[..length];
    if name.windows(4).any(|part| part == b"loss") {
        return loss(name);
    }
    let mut start = 0;
    loop {
        // Words before the name are its qualifiers; within it, spaces are joined.
        let (before, rest) = name.split_at_mut(start);
        let mut joined = [0; MAX_NAME_BYTES];
        let joined = &mut joined[..rest.len()];
        for (to, from) in joined.iter_mut().zip(rest.iter()) {
            *to = if *from == b' ' { b'_' } else { *from };
        }
        if let Some(meaning) = look_up(joined) {
            return qualified(meaning, before);
        }
        start += rest.iter().position(|byte| *byte == b' ')? + 1;
    }
}

fn look_up(name: &[u8]) -> Option<Meaning> {
    let exact = |name: &[u8]| {
        let same_length = BY_LENGTH.get(name.len())?;
        let first = name.first();
        let found = same_length
            .iter()
            .find(|(known, _)| known.first() == first && *known == name)?;
        Some(found.1)
    };
    exact(name)
        .or_else(|| {
            let bare = name
                .strip_prefix(b"train_")
                .or_else(|| name.strip_prefix(b"trainer_"))
                .or_else(|| name.strip_prefix(b"training_"))?;
            exact(bare)
        })
        .or_else(|| learning_rate(name))
        .or_else(|| speed(name, exact))
}

/// `timing/target_tokens_per_second`, `interval_samples_per_second`: words before a speed leave it the training's own.
fn speed(name: &[u8], exact: impl Fn(&[u8]) -> Option<Meaning>) -> Option<Meaning> {
    const OTHERS: [&[u8]; 5] = [b"device", b"gpu", b"max", b"min", b"peak"];
    if !name.ends_with(b"_per_second") && !name.ends_with(b"_per_sec") {
        return None;
    }
    let mut rest = name;
    while let Some(at) = memchr::memchr(b'_', rest) {
        let word = &rest[..at];
        if is_evaluation(word) || OTHERS.contains(&word) || is_of_other_work(word) {
            return None;
        }
        rest = &rest[at + 1..];
        if let Some(Meaning::Speed(unit)) = exact(rest) {
            return Some(Meaning::Speed(unit));
        }
    }
    None
}

/// Whether a name says that its speed is not the training's: `data loading`, `Avg generation`.
pub fn is_of_other_work(name: &[u8]) -> bool {
    name.split(|byte| !byte.is_ascii_alphanumeric())
        .any(|word| {
            OTHER_WORK
                .iter()
                .any(|known| word.eq_ignore_ascii_case(known))
        })
}

/// `lr-AdamW/group0`, `actor/lr`, `optim0_lr0`; not `lr_scheduler` and its kin.
fn learning_rate(name: &[u8]) -> Option<Meaning> {
    if !name.windows(2).any(|part| part == b"lr") {
        return None;
    }
    let parts = || name.split(|byte| *byte == b'_');
    let found = parts().any(|part| part == b"lr" || part == b"lr0");
    let other = parts().any(|part| {
        matches!(
            part,
            b"scheduler"
                | b"schedule"
                | b"decay"
                | b"mult"
                | b"multiplier"
                | b"ratio"
                | b"scale"
                | b"warmup"
                | b"min"
                | b"max"
                | b"final"
                | b"policy"
                | b"type"
                | b"end"
                | b"start"
                | b"init"
                | b"initial"
        )
    });
    (found && !other).then_some(Meaning::LearningRate(1))
}

fn qualified(meaning: Meaning, before: &[u8]) -> Option<Named> {
    let mut words = before
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let speed = matches!(
        meaning,
        Meaning::Speed(_) | Meaning::SpeedByUnit | Meaning::Remaining
    );
    // `Train step of epoch 3`, `data epoch: [3]`.
    let fits = |word: &[u8]| meaning == Meaning::Epoch && matches!(word, b"of" | b"data");
    let is_stranger = |word: &[u8]| STRANGERS.contains(&word) && !fits(word);
    if !speed && words.clone().any(is_stranger) {
        // `validation loss at iteration 100` keeps its word of evaluation, whatever else is there.
        return None;
    }
    // `Avg generation throughput: 512.5 tokens/s`
    if matches!(meaning, Meaning::Speed(_) | Meaning::SpeedByUnit) && is_of_other_work(before) {
        return None;
    }
    // `Epoch time: 5668.2` is not that of a step.
    if matches!(meaning, Meaning::StepTime(_)) && words.clone().any(|word| word == b"epoch") {
        return None;
    }
    Some(Named {
        meaning,
        evaluation: words.any(is_evaluation),
    })
}

/// A loss is told by its words: `train/loss`, `lm loss`, `eval_wikitext_loss`, `box_loss`, `loss_scale`.
fn loss(name: &[u8]) -> Option<Named> {
    let parts = || {
        name.split(|byte| matches!(byte, b'_' | b' '))
            .filter(|part| !part.is_empty())
    };
    // `loss`, `crossentropyloss`, `loss2`, `LossPi`.
    let is_loss = |part: &[u8]| {
        let numbered = part.strip_prefix(b"loss");
        part.ends_with(b"loss")
            || numbered.is_some_and(|rest| {
                rest.iter().all(u8::is_ascii_digit) || matches!(rest, b"pi" | b"q" | b"v")
            })
    };
    if !parts().any(is_loss) {
        return None;
    }
    if parts().any(|part| NO_LOSS.contains(&part)) {
        return None;
    }
    let of_evaluation = |part: &[u8]| {
        is_evaluation(part)
            || part
                .strip_suffix(b"loss")
                .is_some_and(|part| part.len() > 2 && is_evaluation(part))
    };
    let evaluation = parts().any(of_evaluation);
    let meaning = if evaluation {
        Meaning::EvalLoss
    } else if name == b"loss" {
        Meaning::Loss(0)
    } else if parts().all(|part| WHOLE.contains(&part)) {
        // A mean over the epoch says less about now than that of the step.
        let of_epoch = parts().any(|part| part == b"epoch");
        Meaning::Loss(if of_epoch { 2 } else { 1 })
    } else if parts().any(|part| MINOR.contains(&part)) {
        Meaning::Loss(7)
    } else {
        Meaning::Loss(5)
    };
    Some(Named {
        meaning,
        evaluation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<Meaning>) {
        let got = meaning(name.as_bytes()).map(|named| named.meaning);
        assert_eq!(got, expected, "{name}");
    }

    #[test]
    fn the_table_is_written_as_it_is_looked_up() {
        for (name, expected) in NAMES {
            assert!(name.len() <= LONGEST, "{name}");
            assert_eq!(look_up(name.as_bytes()), Some(*expected), "{name}");
        }
    }

    #[test]
    fn losses_are_told_by_their_words() {
        for (name, expected) in [
            ("loss", Some(Meaning::Loss(0))),
            ("Train Loss", Some(Meaning::Loss(1))),
            ("lm loss", Some(Meaning::Loss(1))),
            ("loss/train/total", Some(Meaning::Loss(1))),
            ("Train loss/train/total", Some(Meaning::Loss(1))),
            ("reduced_train_loss", Some(Meaning::Loss(1))),
            ("train/CrossEntropyLoss", Some(Meaning::Loss(5))),
            ("train_loss_epoch", Some(Meaning::Loss(2))),
            ("actor/pg_loss", Some(Meaning::Loss(5))),
            ("Value function loss", Some(Meaning::Loss(7))),
            ("eval_wikitext_loss", Some(Meaning::EvalLoss)),
            ("val/loss", Some(Meaning::EvalLoss)),
            ("valloss", Some(Meaning::EvalLoss)),
            ("Best loss", None),
            ("loss scale", None),
            ("loss_weight", None),
            ("loss2", Some(Meaning::Loss(5))),
            ("LossPi", Some(Meaning::Loss(5))),
            ("lossless", None),
            ("glossary", None),
        ] {
            check(name, expected);
        }
    }

    #[test]
    fn words_before_a_name_change_it() {
        for (name, expected) in [
            ("completed step", Some(Meaning::Step(2))),
            ("number of skipped iterations", None),
            ("Total optimization steps", None),
            ("total time", None),
            ("Epoch time", None),
            ("iter time", Some(Meaning::StepTime(1))),
            ("elapsed time per iteration", Some(Meaning::StepTime(0))),
            ("Iter(train)", Some(Meaning::Step(2))),
            ("lr-DecoupledAdamW/group0", Some(Meaning::LearningRate(1))),
            ("lr_scheduler", None),
            (
                "timing/target_tokens_per_second",
                Some(Meaning::Speed(Unit::Tokens)),
            ),
            ("eval/steps_per_second", None),
            ("rollout_tokens_per_second", None),
            ("data_samples_per_second", None),
            ("dataloader_samples_per_second", None),
            ("read_samples_per_second", None),
            ("tokenize_tokens_per_second", None),
            ("perf/peak_tokens_per_second", None),
            ("Avg generation throughput", None),
            ("throughput", Some(Meaning::SpeedByUnit)),
            ("Tokenizing step", None),
            ("train/global_step", Some(Meaning::Step(2))),
            ("something", None),
            ("", None),
        ] {
            check(name, expected);
        }
        let named = meaning(b"Validation step").unwrap();
        assert!(named.evaluation);
    }
}
