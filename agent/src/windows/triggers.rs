//! What contradicts the estimate (pure): the thresholds of the playbook, each with its own debounce and its evidence in words.

use serde::{Deserialize, Serialize};

use super::Figures;

/// Below this share of the predicted speed it is contradicted...
const SLOW_SHARE: f64 = 0.7;
/// ...when it was so in this many windows in a row.
const SLOW_WINDOWS: u32 = 2;
/// GPUs below this are not worth their price while a job is active, percent.
const IDLE_PERCENT: f64 = 60.0;
/// GPUs below this do nothing at all, percent.
const STILL_PERCENT: f64 = 5.0;
/// Memory above this is a risk, as a share.
pub const MEMORY_SHARE: f64 = 0.92;
/// Sustained: so in this share of the looks. One allocation that is given back is none.
const SUSTAINED_SHARE: f64 = 0.95;
/// A loss that moved by less than this has not moved, as a share of it.
const MOVED_SHARE: f64 = 0.005;

/// What was predicted, and by when a metric must have moved. Absent: nothing was predicted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Tokens per second of all GPUs.
    pub tokens_per_s: Option<f64>,
    /// Tokens of all GPUs between two steps.
    pub tokens_per_step: Option<f64>,
    /// GPUs of the box.
    pub gpus: u32,
    /// Seconds of training after which the loss must have moved.
    pub early_checkpoint_s: u64,
}

/// One thing that contradicts the estimate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contradiction {
    /// `throughput`, `gpu_idle`, `memory` or `metric`.
    pub trigger: String,
    /// What was seen and what was expected.
    pub evidence: String,
    /// Whether the training does not do what was predicted. Otherwise it is worth a word, but no training's end: it may be as it
    /// should be, like memory that an allocator has taken and not given back.
    #[serde(default)]
    pub grave: bool,
}

/// What is remembered from window to window. Kept in a file: a restart of the daemon forgets no debounce.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    /// Windows so far.
    pub windows: u64,
    /// Slow windows in a row.
    slow: u32,
    /// When the first window began, microseconds since the epoch.
    began_us: Option<u64>,
    /// The loss of the first window that had one.
    first_loss: Option<f64>,
    /// The end of the last window, and what it promised.
    pub promised: Option<(u64, f64)>,
}

impl Judge {
    /// Judges a window of an active job, and remembers it.
    pub fn close(&mut self, figures: &Figures, expected: &Expected) -> Vec<Contradiction> {
        self.windows += 1;
        let began_us = *self.began_us.get_or_insert(figures.from_us);
        self.promised = figures.eta_s.map(|eta_s| (figures.to_us, eta_s));
        let trained_s = figures.to_us.saturating_sub(began_us) / 1_000_000;
        let found = [
            self.throughput(figures, expected),
            gpu_idle(figures, expected),
            memory(figures),
            self.metric(figures, trained_s, expected.early_checkpoint_s),
        ];
        self.first_loss = self
            .first_loss
            .or(figures.loss.filter(|loss| loss.is_finite()));
        found.into_iter().flatten().collect()
    }

    fn throughput(&mut self, figures: &Figures, expected: &Expected) -> Option<Contradiction> {
        let predicted = expected.tokens_per_s?;
        let Some(speed) = speed(figures, expected) else {
            // Nothing was printed: that is neither slow nor quick.
            return None;
        };
        let actual = speed.tokens_per_s;
        if actual >= SLOW_SHARE * predicted {
            self.slow = 0;
            return None;
        }
        self.slow += 1;
        // If it was of one GPU, all of them may well be as quick as predicted: worth a word, and no reason to end a training.
        let gpus = expected.gpus.max(1);
        let if_of_one = actual * f64::from(gpus);
        let unclear = speed.unclear && if_of_one >= SLOW_SHARE * predicted;
        let more = match unclear {
            true => format!(
                "; its log does not say whether that is all {gpus} GPUs or one, which would be {if_of_one:.0}: `model.batch_tokens` tells"
            ),
            false => String::new(),
        };
        (self.slow >= SLOW_WINDOWS).then(|| {
            contradiction(
                "throughput",
                !unclear,
                format!(
                    "{actual:.0} tokens/s are {:.0} % of the predicted {predicted:.0}, for {} windows in a row{more}",
                    actual / predicted * 100.0,
                    self.slow
                ),
            )
        })
    }

    fn metric(
        &self,
        figures: &Figures,
        trained_s: u64,
        early_checkpoint_s: u64,
    ) -> Option<Contradiction> {
        if figures.loss_broken {
            let evidence = "every loss of this window is not a number".to_owned();
            return Some(contradiction("metric", true, evidence));
        }
        let (first, now) = (self.first_loss?, figures.loss?);
        let moved = (now - first).abs() > MOVED_SHARE * first.abs();
        (!moved && early_checkpoint_s > 0 && trained_s >= early_checkpoint_s).then(|| {
            let minutes = trained_s / 60;
            contradiction(
                "metric",
                true,
                format!("the loss was {first:.4} at first and is {now:.4} after {minutes} min"),
            )
        })
    }
}

/// A speed of all GPUs.
struct Speed {
    tokens_per_s: f64,
    /// The log did not say whether it is of all GPUs or of one: taken for all.
    unclear: bool,
}

/// The speed that is held against the prediction, by what is known: steps of a known size first, then what is printed for one
/// GPU, then what is printed.
fn speed(figures: &Figures, expected: &Expected) -> Option<Speed> {
    let gpus = f64::from(expected.gpus.max(1));
    let by_steps = expected
        .tokens_per_step
        .zip(figures.step_time_s.filter(|seconds| *seconds > 0.0))
        .map(|(tokens, seconds)| tokens / seconds);
    let by_each = figures.tokens_per_s_per_gpu.map(|each| each * gpus);
    let known = by_steps.or(by_each).map(|tokens_per_s| Speed {
        tokens_per_s,
        unclear: false,
    });
    known.or(figures.tokens_per_s.map(|tokens_per_s| Speed {
        tokens_per_s,
        unclear: gpus > 1.0,
    }))
}

/// Tokens per second of all GPUs, as far as they are known.
pub fn actual_tokens_per_s(figures: &Figures, expected: &Expected) -> Option<f64> {
    speed(figures, expected).map(|speed| speed.tokens_per_s)
}

fn gpu_idle(figures: &Figures, expected: &Expected) -> Option<Contradiction> {
    let used = figures.gpu_utilisation_percent?;
    // Before the first step it loads and compiles, however long that takes: nothing says yet that it is active.
    figures.step?;
    if used >= IDLE_PERCENT {
        return None;
    }
    let as_predicted = expected
        .tokens_per_s
        .zip(actual_tokens_per_s(figures, expected))
        .is_some_and(|(predicted, actual)| actual >= SLOW_SHARE * predicted);
    // A training that goes on may be made so. One that prints seldom is told from one that stands by what its GPUs do.
    let stands = used < STILL_PERCENT && figures.steps == Some(0) && !as_predicted;
    let more = if stands { " and made no step" } else { "" };
    let evidence = format!(
        "the GPUs were busy {used:.0} % of the time, below {IDLE_PERCENT:.0} %, while the training was active{more}"
    );
    Some(contradiction("gpu_idle", stands, evidence))
}

fn memory(figures: &Figures) -> Option<Contradiction> {
    let share = figures.memory_high_share?;
    let (peak, total) = (figures.memory_peak_gib?, figures.memory_total_gib?);
    (share >= SUSTAINED_SHARE).then(|| {
        contradiction(
            "memory",
            false,
            format!(
                "a GPU's memory was above {:.0} % all the time (peak {peak:.1} of {total:.1} GiB): it may run out",
                MEMORY_SHARE * 100.0
            ),
        )
    })
}

fn contradiction(trigger: &str, grave: bool, evidence: String) -> Contradiction {
    Contradiction {
        trigger: trigger.to_owned(),
        evidence,
        grave,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_US: u64 = 600_000_000;

    fn well() -> Figures {
        Figures {
            samples: 600,
            gpu_utilisation_percent: Some(95.0),
            memory_high_share: Some(0.0),
            memory_peak_gib: Some(20.0),
            memory_total_gib: Some(24.0),
            tokens_per_s: Some(1_000.0),
            step: Some(100),
            steps: Some(60),
            ..Figures::default()
        }
    }

    #[test]
    fn only_what_was_not_predicted_is_grave() {
        let idle = |percent, steps, tokens_per_s| Figures {
            gpu_utilisation_percent: Some(percent),
            steps: Some(steps),
            tokens_per_s,
            ..well()
        };
        let full = Figures {
            memory_high_share: Some(1.0),
            ..well()
        };
        let broken = Figures {
            loss_broken: true,
            ..well()
        };
        for (figures, trigger, grave) in [
            (full, "memory", false),
            (broken, "metric", true),
            // It goes on as predicted, or at a pace that nobody predicted, or prints a step an hour.
            (idle(30.0, 60, Some(1_000.0)), "gpu_idle", false),
            (idle(2.0, 60, None), "gpu_idle", false),
            (idle(55.0, 0, None), "gpu_idle", false),
            (idle(2.0, 0, None), "gpu_idle", true),
        ] {
            let found = Judge::default().close(&figures, &expected());
            let got: Vec<_> = found
                .iter()
                .map(|one| (one.trigger.as_str(), one.grave))
                .collect();
            assert_eq!(got, [(trigger, grave)], "{figures:?}");
        }
        let loads = Figures {
            step: None,
            steps: None,
            tokens_per_s: None,
            ..idle(0.0, 0, None)
        };
        assert_eq!(Judge::default().close(&loads, &expected()), []);
        let slow = idle(95.0, 60, Some(600.0));
        let mut judge = Judge::default();
        judge.close(&slow, &expected());
        assert!(judge.close(&slow, &expected())[0].grave);
    }

    fn expected() -> Expected {
        Expected {
            tokens_per_s: Some(1_000.0),
            tokens_per_step: None,
            gpus: 1,
            early_checkpoint_s: 1_800,
        }
    }

    /// The triggers of each of some windows in a row.
    fn check(windows: &[Figures], expected: &Expected, wanted: &[&[&str]]) {
        let mut judge = Judge::default();
        for (number, (figures, wanted)) in windows.iter().zip(wanted).enumerate() {
            let figures = Figures {
                from_us: number as u64 * WINDOW_US,
                to_us: (number as u64 + 1) * WINDOW_US,
                ..figures.clone()
            };
            let found = judge.close(&figures, expected);
            let triggers: Vec<&str> = found.iter().map(|one| one.trigger.as_str()).collect();
            assert_eq!(triggers, *wanted, "window {number}: {found:?}");
        }
        assert_eq!(windows.len(), wanted.len());
    }

    #[test]
    fn a_speed_below_seventy_percent_counts_in_the_second_window_in_a_row() {
        let speed = |tokens_per_s| Figures {
            tokens_per_s,
            ..well()
        };
        let (slow, just) = (speed(Some(699.0)), speed(Some(700.0)));
        check(
            &[slow.clone(), slow.clone()],
            &expected(),
            &[&[], &["throughput"]],
        );
        check(
            &[slow.clone(), just, slow.clone(), slow.clone(), slow.clone()],
            &expected(),
            &[&[], &[], &[], &["throughput"], &["throughput"]],
        );
        // A window without a word is no evidence, neither way.
        check(
            &[slow.clone(), speed(None), slow.clone()],
            &expected(),
            &[&[], &[], &["throughput"]],
        );
        let nothing_predicted = Expected {
            tokens_per_s: None,
            ..expected()
        };
        check(&[slow.clone(), slow], &nothing_predicted, &[&[], &[]]);
    }

    #[test]
    fn the_speed_is_that_of_all_gpus_by_what_is_known_and_never_by_what_would_fit() {
        let eight = Expected {
            tokens_per_s: Some(8_000.0),
            gpus: 8,
            ..expected()
        };
        let counted = Expected {
            tokens_per_step: Some(2_000.0),
            ..eight
        };
        // Printed for all, printed for one, seconds per step; the speed, whether it is a contradiction, and a grave one.
        for (all, each, step_time_s, expected, speed, found) in [
            (Some(7_000.0), None, None, eight, Some(7_000.0), None),
            (Some(2_000.0), None, None, eight, Some(2_000.0), Some(false)),
            (Some(1_000.0), None, None, eight, Some(1_000.0), Some(false)),
            // Slow, whichever was meant.
            (Some(250.0), None, None, eight, Some(250.0), Some(true)),
            (Some(250.0), Some(1_000.0), None, eight, Some(8_000.0), None),
            (None, Some(300.0), None, eight, Some(2_400.0), Some(true)),
            (
                Some(2_000.0),
                None,
                Some(1.0),
                counted,
                Some(2_000.0),
                Some(true),
            ),
            (
                Some(1_000.0),
                None,
                Some(0.25),
                counted,
                Some(8_000.0),
                None,
            ),
            (None, Some(300.0), Some(0.25), counted, Some(8_000.0), None),
            (
                Some(600.0),
                None,
                None,
                super::tests::expected(),
                Some(600.0),
                Some(true),
            ),
            (None, None, Some(10.0), eight, None, None),
        ] {
            let figures = Figures {
                tokens_per_s: all,
                tokens_per_s_per_gpu: each,
                step_time_s,
                ..well()
            };
            assert_eq!(actual_tokens_per_s(&figures, &expected), speed);
            let mut judge = Judge::default();
            assert_eq!(judge.close(&figures, &expected), []);
            let got = judge.close(&figures, &expected);
            let grave = got.first().map(|one| one.grave);
            assert_eq!(grave, found, "{all:?} {each:?} {step_time_s:?}: {got:?}");
        }
    }

    #[test]
    fn what_a_log_prints_for_one_gpu_is_counted_for_all_of_its_box() {
        use crate::windows::{Reading, Tally};
        use spotter_trainlog::live::Recogniser;

        for line in [
            "completed step: 7, seconds: 2.0, TFLOP/s/device: 90.5, Tokens/s/device: 1000.0, total_weights: 8, loss: 2.5",
            "step: 7  loss: 2.5  memory: 9.0GiB(20.0%)  tps: 1,000  tflops: 9.1  mfu: 20.0%",
            "Step 7 | loss:2.5 lr:1e-05 tokens_per_second_per_gpu:1000.0 ",
            "step:7 - actor/pg_loss:0.5 - perf/throughput:1000.0",
        ] {
            let mut recogniser = Recogniser::default();
            let latest = recogniser.feed(format!("{line}\n").as_bytes(), 5).unwrap();
            let mut tally = Tally::default();
            let reading = Reading {
                time_us: 5,
                training: Some(latest),
                ..Reading::default()
            };
            tally.add(&reading, MEMORY_SHARE);
            let eight = Expected {
                gpus: 8,
                ..expected()
            };
            let speed = actual_tokens_per_s(&tally.figures(None), &eight);
            assert_eq!(speed, Some(8_000.0), "{line}");
        }
    }

    #[test]
    fn idle_gpus_count_at_once_and_full_memory_when_it_stays_so() {
        let idle = |percent| Figures {
            gpu_utilisation_percent: percent,
            ..well()
        };
        check(
            &[idle(Some(59.9)), idle(Some(60.0)), idle(None)],
            &expected(),
            &[&["gpu_idle"], &[], &[]],
        );
        let full = |share| Figures {
            memory_high_share: share,
            ..well()
        };
        check(
            &[full(Some(1.0)), full(Some(0.5)), full(None)],
            &expected(),
            &[&["memory"], &[], &[]],
        );
    }

    #[test]
    fn a_loss_that_has_not_moved_by_the_early_checkpoint_counts_from_then_on() {
        let loss = |loss| Figures {
            loss: Some(loss),
            ..well()
        };
        check(
            &[
                loss(10.82),
                loss(10.82),
                loss(10.83),
                loss(10.81),
                loss(10.0),
            ],
            &expected(),
            &[&[], &[], &["metric"], &["metric"], &[]],
        );
        check(
            &[loss(10.8), loss(9.0), loss(8.0)],
            &expected(),
            &[&[], &[], &[]],
        );
        let broken = Figures {
            loss_broken: true,
            ..well()
        };
        check(&[broken], &expected(), &[&["metric"]]);
    }
}
