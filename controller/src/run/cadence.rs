//! How much training is lost when the box goes, by the trainer's own habit of saving: a backup is only as good as the checkpoint
//! that was written. [`at_risk`] judges (pure); [`Cadence`] remembers what was seen.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::store::{EventRecord, Store, StoreError};

/// More work than this is not to be lost at once.
pub const MOST_AT_RISK: Duration = Duration::from_secs(30 * 60);
/// Between two judgements.
const LOOK: Duration = Duration::from_secs(60);
/// Newest gaps between checkpoints that are looked at: a habit, not a single slow evaluation.
const HABIT: usize = 5;
/// Kind of the event.
pub const EVENT: &str = "checkpoint.rare";
/// Kind of the event that ends it.
pub const ENDED: &str = "checkpoint.often";

/// What a training did, by one clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Habit {
    /// When it began, and at which step.
    pub began: (Duration, u64),
    /// When each checkpoint was found finished.
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
    let (began, first_step) = habit.began;
    let (now, step) = habit.now;
    let all: Vec<Duration> = std::iter::once(&began)
        .chain(&habit.saves)
        .zip(&habit.saves)
        .map(|(from, to)| to.saturating_sub(*from))
        .collect();
    let mut gaps = all[all.len().saturating_sub(HABIT)..].to_vec();
    gaps.sort_unstable();
    let usual = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    let open = now.saturating_sub(*habit.saves.last().unwrap_or(&began));
    let work = usual.max(open);
    if work <= MOST_AT_RISK {
        return None;
    }
    // All that it took, evaluations and checkpoints included: that is what is lost.
    let trained = now.saturating_sub(began).as_secs_f64();
    let steps = step
        .and_then(|step| step.checked_sub(first_step))
        .filter(|steps| *steps > 0 && trained > 0.0)
        .map(|steps| round_down(steps as f64 / trained * MOST_AT_RISK.as_secs_f64()));
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

/// What was seen of an attempt's checkpoints.
#[derive(Debug, Default)]
pub struct Cadence {
    read: i64,
    saves: Vec<Duration>,
    path: String,
    looked: Option<Instant>,
    told: bool,
}

impl Cadence {
    /// Judges the training of an attempt, once a minute at most; answers what is to be told, once until it is over. `began_us` and `now_us` are by
    /// the box's clock, as its events are; `told_us` is by ours.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn look(
        &mut self,
        store: &Store,
        run: &str,
        attempt: u32,
        began: (u64, u64),
        now: (u64, Option<u64>),
        told_us: i64,
    ) -> Result<Option<String>, StoreError> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(None);
        }
        self.looked = Some(Instant::now());
        for event in store.events(run, self.read)? {
            self.read = self.read.max(event.id);
            self.take(&event, attempt);
        }
        let since = |us: u64| Duration::from_micros(us);
        let habit = Habit {
            began: (since(began.0), began.1),
            saves: self.saves.clone(),
            now: (since(now.0), now.1),
            path: self.path.clone(),
        };
        let risk = match (at_risk(&habit), self.told) {
            (Some(risk), false) => risk,
            (None, true) => {
                self.told = false;
                store.note(run, attempt, told_us, ENDED, &json!({}))?;
                return Ok(None);
            }
            _ => return Ok(None),
        };
        self.told = true;
        let detail = json!({
            "at_risk_s": risk.work.as_secs(), "every_steps": risk.steps, "setting": risk.setting, "text": risk.text(),
        });
        store.note(run, attempt, told_us, EVENT, &detail)?;
        Ok(Some(risk.text()))
    }

    fn take(&mut self, event: &EventRecord, attempt: u32) {
        if event.attempt != attempt {
            return;
        }
        match event.kind.as_str() {
            "checkpoint.found" => {
                let time_us = u64::try_from(event.time_us).unwrap_or_default();
                self.saves.push(Duration::from_micros(time_us));
                if let Some(path) = event.detail["path"].as_str() {
                    path.clone_into(&mut self.path);
                }
            }
            // Told by whoever watched before us.
            EVENT => self.told = true,
            ENDED => self.told = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, run::alarms, store::StoredEvent};

    const MINUTE: u64 = 60;

    fn habit(saves_min: &[u64], now_min: u64, step: Option<u64>, path: &str) -> Habit {
        let at = |minutes: &u64| Duration::from_secs(1_000_000 + minutes * MINUTE);
        Habit {
            began: (at(&0), 100),
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

    #[tokio::test]
    async fn a_habit_is_told_once_whoever_watches() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let minutes = |minutes: u64| minutes * MINUTE * 1_000_000;
        for (seq, at) in [(1, 40), (2, 80)] {
            let found = StoredEvent {
                seq,
                time_us: i64::try_from(minutes(at)).unwrap(),
                kind: "checkpoint.found".to_owned(),
                detail: json!({"path": format!("checkpoint-{at}")}),
            };
            store.append_events("r", 1, &[found]).unwrap();
        }
        let look = |cadence: &mut Cadence| {
            cadence
                .look(&store, "r", 1, (0, 0), (minutes(90), Some(900)), 0)
                .unwrap()
        };
        let mut first = Cadence::default();
        assert!(look(&mut first).unwrap().contains("`--save_steps 200`"));
        assert_eq!(look(&mut first), None);
        assert_eq!(look(&mut Cadence::default()), None, "it is on record");
        let event = store.newest_event("r", 1, EVENT).unwrap().unwrap();
        assert_eq!(event.detail["at_risk_s"], 2400);
        assert!(alarms::rare(&store, "r", 1).unwrap().is_some());
        // It saves more often now.
        for (seq, at) in [(3, 84), (4, 86), (5, 88)] {
            let found = StoredEvent {
                seq,
                time_us: i64::try_from(minutes(at)).unwrap(),
                kind: "checkpoint.found".to_owned(),
                detail: json!({"path": format!("checkpoint-{at}")}),
            };
            store.append_events("r", 1, &[found]).unwrap();
        }
        assert_eq!(look(&mut Cadence::default()), None);
        assert_eq!(alarms::rare(&store, "r", 1).unwrap(), None);
    }
}
