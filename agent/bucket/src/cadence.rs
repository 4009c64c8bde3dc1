//! How much training is lost when the box goes, by the trainer's own habit of saving (pure): a backup is only as good as the checkpoint
//! that was written. The box remembers what it saw and tells; [`at_risk`] judges.

use std::time::Duration;

use crate::sorted::sort_by;

/// More work than this is not to be lost at once.
pub const MOST_AT_RISK: Duration = Duration::from_secs(30 * 60);
/// Newest gaps between checkpoints that are looked at: a habit, not a single slow evaluation.
const HABIT: usize = 5;
/// Newest checkpoints that a habit is judged by: older ones need not be remembered.
pub const REMEMBERED: usize = HABIT + 1;
/// Kind of the event.
pub const EVENT: &str = "checkpoint.rare";
/// Kind of the event that ends it.
pub const ENDED: &str = "checkpoint.often";

/// What a training did, by one clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Habit {
    /// When it began.
    pub began: Duration,
    /// When its first step was seen, and which it was; `None`: none was.
    pub first: Option<(Duration, u64)>,
    /// When checkpoints were written, oldest first; all, or the [`REMEMBERED`] newest.
    pub saves: Vec<Duration>,
    /// Now, and the newest step.
    pub now: (Duration, Option<u64>),
    /// What the newest checkpoint is called; empty before the first.
    pub path: String,
}

/// Work that is at risk, and what to set so that less is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtRisk {
    /// So much training would be lost.
    pub work: Duration,
    /// Steps between two checkpoints that would lose less; `None`: nothing says how long a step takes.
    pub steps: Option<u64>,
    /// The same as the trainer's own setting.
    pub setting: String,
}

/// Judges a habit; `None`: not too much is at risk, or not yet.
pub fn at_risk(habit: &Habit) -> Option<AtRisk> {
    let began = habit.began;
    let (now, step) = habit.now;
    let all: Vec<Duration> = std::iter::once(&began)
        .chain(&habit.saves)
        .zip(&habit.saves)
        .map(|(from, to)| to.saturating_sub(*from))
        .collect();
    let mut gaps = all[all.len().saturating_sub(HABIT)..].to_vec();
    sort_by(&mut gaps, |one, other| one.cmp(other));
    let usual = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    let open = now.saturating_sub(*habit.saves.last().unwrap_or(&began));
    let work = usual.max(open);
    if work <= MOST_AT_RISK {
        return None;
    }
    // All that it took, evaluations and checkpoints included: that is what is lost.
    let steps = habit.first.zip(step).and_then(|((at, first), step)| {
        let trained = now.saturating_sub(at).as_secs_f64();
        let steps = step.checked_sub(first).filter(|steps| *steps > 0)?;
        let fit = steps as f64 / trained * MOST_AT_RISK.as_secs_f64();
        (trained > 0.0).then(|| round_down(fit))
    });
    Some(AtRisk {
        work,
        steps,
        setting: setting(&habit.path, steps),
    })
}

/// The largest of 1, 2, 5, 10, 20, 50 and so on that is not above `steps`: people set round numbers.
fn round_down(steps: f64) -> u64 {
    let mut best = 1;
    let mut power: u64 = 1;
    while power as f64 <= steps && power < 1_000_000_000 {
        for factor in [1, 2, 5] {
            if (power * factor) as f64 <= steps {
                best = power * factor;
            }
        }
        power *= 10;
    }
    best
}

/// The setting of the trainer that writes checkpoints of this name.
fn setting(path: &str, steps: Option<u64>) -> String {
    let Some(steps) = steps else {
        return "let it save at least every 30 min".to_owned();
    };
    let name = path.trim_end_matches('/');
    let last = name.rsplit('/').next().unwrap_or_default();
    let numbered = |prefix: &str| {
        last.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if numbered("checkpoint-") {
        format!("`--save_steps {steps}`")
    } else if last == "ckpt.pt" {
        format!("`--eval_interval={steps}`, with `always_save_checkpoint`")
    } else if numbered("model_") || numbered("meta_") || numbered("optim_") {
        format!("`--save-every={steps}`")
    } else if numbered("iter_") {
        format!("`--save-interval {steps}`")
    } else if last.ends_with(".ckpt") {
        format!("`ModelCheckpoint(every_n_train_steps={steps})`")
    } else if numbered("step-") && !last.contains('.') {
        format!("`--checkpoint.interval {steps}`")
    } else {
        format!("save every {steps} steps")
    }
}

impl AtRisk {
    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{} min of training are at risk, since so much lies between two checkpoints; to lose at most 30 min: {}",
            self.work.as_secs() / 60,
            self.setting
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;

    fn habit(saves_min: &[u64], now_min: u64, step: Option<u64>, path: &str) -> Habit {
        let at = |minutes: &u64| Duration::from_secs(1_000_000 + minutes * MINUTE);
        Habit {
            began: at(&0),
            first: Some((at(&0), 100)),
            saves: saves_min.iter().map(at).collect(),
            now: (at(&now_min), step),
            path: path.to_owned(),
        }
    }

    #[test]
    fn work_at_risk_is_what_lies_between_two_checkpoints() {
        let check = |saves: &[u64], now, expected: Option<u64>| {
            let found = at_risk(&habit(saves, now, None, ""));
            assert_eq!(
                found.map(|risk| risk.work.as_secs() / MINUTE),
                expected,
                "{saves:?} {now}"
            );
        };
        check(&[], 30, None);
        check(&[], 31, Some(31));
        check(&[10, 20, 30], 40, None);
        check(&[10, 20, 30], 61, Some(31));
        check(&[50], 51, Some(50));
        // One slow gap is no habit.
        check(&[10, 20, 70, 80], 85, None);
        check(&[40, 80, 120], 121, Some(40));
        // What it did long ago does not count.
        check(&[60, 120, 125, 130, 135, 140, 145], 150, None);
    }

    #[test]
    fn the_setting_is_the_trainers_own_and_round() {
        let check = |path: &str, step: u64, expected: &str| {
            let risk = at_risk(&habit(&[60], 60, Some(step), path)).unwrap();
            assert_eq!(risk.setting, expected, "{path} {step}");
        };
        // 1200 steps in 60 min are 600 in 30.
        check("checkpoint-1300", 1300, "`--save_steps 500`");
        check("out/checkpoint-1300/", 1300, "`--save_steps 500`");
        check(
            "ckpt.pt",
            1300,
            "`--eval_interval=500`, with `always_save_checkpoint`",
        );
        check("model_001300.pt", 2300, "`--save-every=1000`");
        check("iter_0001300", 1300, "`--save-interval 500`");
        check(
            "epoch=3-step=1300.ckpt",
            1300,
            "`ModelCheckpoint(every_n_train_steps=500)`",
        );
        check("step-1300", 1300, "`--checkpoint.interval 500`");
        check("step-1300.pt", 1300, "save every 500 steps");
        check("weights.bin", 103, "save every 1 steps");
        check("checkpoint-100", 100, "let it save at least every 30 min");
        // What came before the first step, such as compiling, took no step.
        let late = Habit {
            first: Some((Duration::from_secs(1_000_000 + 50 * MINUTE), 100)),
            ..habit(&[60], 60, Some(1300), "weights.bin")
        };
        assert_eq!(at_risk(&late).unwrap().steps, Some(2000));
        let unknown = at_risk(&habit(&[60], 60, None, "checkpoint-9")).unwrap();
        assert_eq!(unknown.setting, "let it save at least every 30 min");
        assert_eq!(
            at_risk(&habit(&[60], 60, Some(1300), "checkpoint-1300"))
                .unwrap()
                .text(),
            "60 min of training are at risk, since so much lies between two checkpoints; to lose at most 30 min: `--save_steps 500`"
        );
    }

    #[test]
    fn round_numbers_never_exceed() {
        for (steps, expected) in [
            (0.2, 1),
            (1.0, 1),
            (3.9, 2),
            (9.9, 5),
            (10.0, 10),
            (99.0, 50),
            (577.0, 500),
            (1999.0, 1000),
        ] {
            assert_eq!(round_down(steps), expected, "{steps}");
        }
    }
}
