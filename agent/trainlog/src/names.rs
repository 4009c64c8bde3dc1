//! What the names in front of numbers mean: a table, and a rule for the many kinds of loss. A new name is one line.

use std::sync::LazyLock;

use crate::{scan::is_evaluation, unit::Unit};

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

/// Names in lower case; `/`, `.`, `-` and spaces are `_` here. A leading `train_` or `trainer_` may be left out.
const NAMES: &[(&str, Meaning)] = &[
    ("step", Meaning::Step(2)),
    ("steps", Meaning::Step(2)),
    ("iter", Meaning::Step(2)),
    ("iters", Meaning::Step(2)),
    ("iter_train", Meaning::Step(2)),
    ("iteration", Meaning::Step(2)),
    ("iterations", Meaning::Step(3)),
    ("it", Meaning::Step(3)),
    ("itr", Meaning::Step(2)),
    ("global_step", Meaning::Step(2)),
    ("globalstep", Meaning::Step(2)),
    ("global_iter", Meaning::Step(2)),
    ("current_step", Meaning::Step(2)),
    ("training_step", Meaning::Step(2)),
    ("optimizer_step", Meaning::Step(2)),
    ("micro_step", Meaning::Step(2)),
    ("num_updates", Meaning::Step(2)),
    ("_step", Meaning::Step(3)),
    ("total_timesteps", Meaning::Step(1)),
    ("time_total_timesteps", Meaning::Step(1)),
    ("num_timesteps", Meaning::Step(2)),
    ("timesteps", Meaning::Step(2)),
    ("timestep", Meaning::Step(2)),
    ("batch", Meaning::Step(4)),
    ("batch_idx", Meaning::Step(4)),
    ("minibatch", Meaning::Step(4)),
    ("update", Meaning::Step(4)),
    ("updates", Meaning::Step(4)),
    ("episode", Meaning::Step(5)),
    ("episodes", Meaning::Step(5)),
    ("round", Meaning::Step(5)),
    ("total_steps", Meaning::Total),
    ("max_steps", Meaning::Total),
    ("total_iters", Meaning::Total),
    ("max_iters", Meaning::Total),
    ("total_iterations", Meaning::Total),
    ("epoch", Meaning::Epoch),
    ("epochs", Meaning::Epoch),
    ("epch", Meaning::Epoch),
    ("epoch_train", Meaning::Epoch),
    ("current_epoch", Meaning::Epoch),
    ("cur_epoch", Meaning::Epoch),
    ("global_epoch", Meaning::Epoch),
    ("time_epoch", Meaning::Epoch),
    ("lr", Meaning::LearningRate(0)),
    ("learning_rate", Meaning::LearningRate(0)),
    ("learningrate", Meaning::LearningRate(0)),
    ("current_lr", Meaning::LearningRate(0)),
    ("lr_0", Meaning::LearningRate(0)),
    ("lr0", Meaning::LearningRate(1)),
    ("lr_pg0", Meaning::LearningRate(0)),
    ("base_lr", Meaning::LearningRate(2)),
    ("grad_norm", Meaning::GradNorm),
    ("gradnorm", Meaning::GradNorm),
    ("gradient_norm", Meaning::GradNorm),
    ("total_grad_norm", Meaning::GradNorm),
    ("optim_total_grad_norm", Meaning::GradNorm),
    ("actor_grad_norm", Meaning::GradNorm),
    ("global_grad_norm", Meaning::GradNorm),
    ("gnorm", Meaning::GradNorm),
    ("grdn", Meaning::GradNorm),
    ("l2_norm", Meaning::GradNorm),
    ("norm", Meaning::GradNorm),
    ("eta", Meaning::Remaining),
    ("remaining", Meaning::Remaining),
    ("remaining_time", Meaning::Remaining),
    ("time_remaining", Meaning::Remaining),
    ("time_left", Meaning::Remaining),
    ("estimated_time_remaining", Meaning::Remaining),
    ("tok_s", Meaning::Speed(Unit::Tokens)),
    ("tok_sec", Meaning::Speed(Unit::Tokens)),
    ("toks_s", Meaning::Speed(Unit::Tokens)),
    ("token_s", Meaning::Speed(Unit::Tokens)),
    ("tokens_s", Meaning::Speed(Unit::Tokens)),
    ("tokens_sec", Meaning::Speed(Unit::Tokens)),
    ("tokens_second", Meaning::Speed(Unit::Tokens)),
    ("tokens_per_s", Meaning::Speed(Unit::Tokens)),
    ("tokens_per_sec", Meaning::Speed(Unit::Tokens)),
    ("tokens_per_second", Meaning::Speed(Unit::Tokens)),
    ("throughput_tokens_per_sec", Meaning::Speed(Unit::Tokens)),
    (
        "throughput_total_tokens_per_second",
        Meaning::Speed(Unit::Tokens),
    ),
    ("tps", Meaning::Speed(Unit::Tokens)),
    ("tgs", Meaning::Speed(Unit::TokensPerGpu)),
    ("tokens_s_gpu", Meaning::Speed(Unit::TokensPerGpu)),
    ("tokens_sec_gpu", Meaning::Speed(Unit::TokensPerGpu)),
    ("tokens_gpu_s", Meaning::Speed(Unit::TokensPerGpu)),
    ("tokens_gpu_sec", Meaning::Speed(Unit::TokensPerGpu)),
    ("tokens_gpu_second", Meaning::Speed(Unit::TokensPerGpu)),
    (
        "tokens_per_gpu_per_second",
        Meaning::Speed(Unit::TokensPerGpu),
    ),
    (
        "tokens_per_gpu_per_second_tgs",
        Meaning::Speed(Unit::TokensPerGpu),
    ),
    (
        "tokens_per_second_per_gpu",
        Meaning::Speed(Unit::TokensPerGpu),
    ),
    ("tokens_per_sec_per_gpu", Meaning::Speed(Unit::TokensPerGpu)),
    ("perf_throughput", Meaning::Speed(Unit::TokensPerGpu)),
    ("tokens_s_device", Meaning::Speed(Unit::TokensPerDevice)),
    (
        "throughput_device_tokens_per_second",
        Meaning::Speed(Unit::TokensPerDevice),
    ),
    ("wps", Meaning::Speed(Unit::Words)),
    ("words_s", Meaning::Speed(Unit::Words)),
    ("samples_s", Meaning::Speed(Unit::Samples)),
    ("samples_sec", Meaning::Speed(Unit::Samples)),
    ("samples_per_s", Meaning::Speed(Unit::Samples)),
    ("samples_per_sec", Meaning::Speed(Unit::Samples)),
    ("samples_per_second", Meaning::Speed(Unit::Samples)),
    ("throughput_samples_per_sec", Meaning::Speed(Unit::Samples)),
    ("runningavgsamplespersec", Meaning::Speed(Unit::Samples)),
    ("examples_s", Meaning::Speed(Unit::Samples)),
    ("examples_sec", Meaning::Speed(Unit::Samples)),
    ("img_s", Meaning::Speed(Unit::Images)),
    ("img_sec", Meaning::Speed(Unit::Images)),
    ("imgs_s", Meaning::Speed(Unit::Images)),
    ("images_s", Meaning::Speed(Unit::Images)),
    ("images_sec", Meaning::Speed(Unit::Images)),
    ("images_per_sec", Meaning::Speed(Unit::Images)),
    ("it_s", Meaning::Speed(Unit::Iterations)),
    ("its_s", Meaning::Speed(Unit::Iterations)),
    ("iter_s", Meaning::Speed(Unit::Iterations)),
    ("steps_s", Meaning::Speed(Unit::Steps)),
    ("steps_sec", Meaning::Speed(Unit::Steps)),
    ("steps_per_s", Meaning::Speed(Unit::Steps)),
    ("steps_per_sec", Meaning::Speed(Unit::Steps)),
    ("steps_per_second", Meaning::Speed(Unit::Steps)),
    ("sps", Meaning::Speed(Unit::Steps)),
    ("fps", Meaning::Speed(Unit::Frames)),
    ("time_fps", Meaning::Speed(Unit::Frames)),
    ("s_it", Meaning::Speed(Unit::SecondsPerIt)),
    ("sec_it", Meaning::Speed(Unit::SecondsPerIt)),
    ("s_iter", Meaning::Speed(Unit::SecondsPerIter)),
    ("s_step", Meaning::Speed(Unit::SecondsPerStep)),
    ("sec_step", Meaning::Speed(Unit::SecondsPerStep)),
    ("ms_step", Meaning::Speed(Unit::MillisPerStep)),
    ("step_time_ms", Meaning::Speed(Unit::MillisPerStep)),
    ("step_ms", Meaning::Speed(Unit::MillisPerStep)),
    ("dt_ms", Meaning::Speed(Unit::MillisPerStep)),
    ("ms_per_step", Meaning::Speed(Unit::MillisPerStep)),
    ("speed", Meaning::SpeedByUnit),
    ("throughput", Meaning::SpeedByUnit),
    ("time", Meaning::StepTime(1)),
    ("dt", Meaning::StepTime(0)),
    ("seconds", Meaning::StepTime(2)),
    ("took", Meaning::StepTime(2)),
    ("step_time", Meaning::StepTime(0)),
    ("step_time_s", Meaning::StepTime(0)),
    ("iter_time", Meaning::StepTime(1)),
    ("iteration_time", Meaning::StepTime(0)),
    ("batch_time", Meaning::StepTime(0)),
    ("step_avg", Meaning::StepTime(0)),
    ("step_timing_in_s", Meaning::StepTime(0)),
    ("time_per_step", Meaning::StepTime(0)),
    ("time_per_iter", Meaning::StepTime(0)),
    ("time_per_iteration", Meaning::StepTime(0)),
    ("elapsed_time_per_iteration", Meaning::StepTime(0)),
    ("perf_time_per_step", Meaning::StepTime(0)),
    ("timing_s_step", Meaning::StepTime(1)),
    ("sec_per_step", Meaning::StepTime(0)),
    ("seconds_per_step", Meaning::StepTime(0)),
    ("updt_s", Meaning::StepTime(0)),
    ("train_time", Meaning::StepTime(3)),
    ("forward_time", Meaning::PartOfStep),
    ("reward", Meaning::Reward),
    ("rewards", Meaning::Reward),
    ("mean_reward", Meaning::Reward),
    ("reward_mean", Meaning::Reward),
    ("avg_reward", Meaning::Reward),
    ("average_reward", Meaning::Reward),
    ("total_reward", Meaning::Reward),
    ("episode_reward", Meaning::Reward),
    ("ep_rew_mean", Meaning::Reward),
    ("rollout_ep_rew_mean", Meaning::Reward),
    ("critic_rewards_mean", Meaning::Reward),
    ("return", Meaning::Reward),
    ("mean_return", Meaning::Reward),
    ("episode_return", Meaning::Reward),
    ("episodic_return", Meaning::Reward),
    ("score", Meaning::Reward),
    ("average_score", Meaning::Reward),
    ("skipped", Meaning::Engine),
    ("currsamplespersec", Meaning::Engine),
    ("train_runtime", Meaning::Summary),
    ("train_num_updates", Meaning::Summary),
    ("train_train_wall", Meaning::Summary),
];

/// Words before a name that make it something else: `number of skipped iterations`, `total time`, `best loss`.
const STRANGERS: &[&[u8]] = &[
    b"number",
    b"num",
    b"total",
    b"max",
    b"maximum",
    b"min",
    b"minimum",
    b"best",
    b"final",
    b"warmup",
    b"save",
    b"every",
    b"per",
    b"each",
    b"logging",
    b"optimization",
    b"gradient",
    b"accumulation",
    b"skipped",
    b"consumed",
    b"data",
    b"elapsed",
    b"load",
    b"loading",
    b"compute",
    b"wall",
    b"since",
    b"start",
    b"end",
    b"until",
    b"target",
    b"initial",
    b"num_train",
    b"param",
    b"params",
    b"weight",
    b"effective",
    b"of",
    b"ppo",
    b"inner",
    b"sampling",
    b"generation",
    b"checkpoint",
    b"resume",
    b"resuming",
    b"resumed",
    b"from",
    b"saved",
    b"saving",
    b"training_time",
    b"std",
    b"scale",
    b"learning_starts",
    b"model",
    b"backward",
    b"forward",
    b"communication",
];

/// Words beside `loss` that leave it the training's own.
const WHOLE: &[&[u8]] = &[
    b"train",
    b"training",
    b"total",
    b"lm",
    b"mean",
    b"avg",
    b"average",
    b"avr",
    b"step",
    b"epoch",
    b"batch",
    b"iter",
    b"running",
    b"smooth",
    b"smoothed",
    b"ema",
    b"global",
    b"local",
    b"reduced",
    b"main",
    b"model",
    b"overall",
    b"sum",
    b"combined",
    b"current",
    b"cur",
    b"info",
    b"debug",
    b"the",
    b"and",
    b"per",
    b"moving",
    b"g0",
    b"loss",
    b"trainloss",
    b"totalloss",
    b"objective",
    b"optim",
    b"metrics",
    b"logs",
    b"log",
    b"minibatch",
    b"accumulated",
];

/// Words beside `loss` that make it no loss: `loss scale`, `best loss`.
const NO_LOSS: &[&[u8]] = &[
    b"scale",
    b"scaler",
    b"weight",
    b"weights",
    b"coef",
    b"coeff",
    b"factor",
    b"ratio",
    b"type",
    b"fn",
    b"func",
    b"mask",
    b"best",
    b"min",
    b"max",
    b"minimum",
    b"maximum",
    b"lowest",
    b"final",
    b"std",
    b"var",
    b"threshold",
    b"lambda",
    b"prev",
    b"previous",
    b"target",
    b"initial",
    b"delta",
    b"packet",
    b"beta",
    b"alpha",
    b"gamma",
    b"scaling",
    b"diff",
    b"improvement",
    b"spike",
    b"stop",
];

/// Parts of a loss that say least about the training: taken only when there is nothing else.
const MINOR: &[&[u8]] = &[
    b"aux",
    b"entropy",
    b"kl",
    b"value",
    b"vf",
    b"critic",
    b"z",
    b"balance",
    b"balancing",
    b"reg",
    b"regularization",
    b"lb",
    b"router",
    b"moe",
    b"mtp",
    b"raw",
    b"unscaled",
];

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
    if !speed && words.clone().any(|word| STRANGERS.contains(&word)) {
        // `validation loss at iteration 100` keeps its word of evaluation, whatever else is there.
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
    // `loss`, `crossentropyloss`, `loss2`.
    let is_loss = |part: &[u8]| {
        let numbered = part.strip_prefix(b"loss");
        part.ends_with(b"loss") || numbered.is_some_and(|rest| rest.iter().all(u8::is_ascii_digit))
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
            ("iter time", Some(Meaning::StepTime(1))),
            ("elapsed time per iteration", Some(Meaning::StepTime(0))),
            ("Iter(train)", Some(Meaning::Step(2))),
            ("lr-DecoupledAdamW/group0", Some(Meaning::LearningRate(1))),
            ("lr_scheduler", None),
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
