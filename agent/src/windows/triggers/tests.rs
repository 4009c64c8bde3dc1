//! What contradicts and what does not, window by window.

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
        losses_broken: 3,
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
}

#[test]
fn only_a_training_from_its_first_step_on_that_never_learned_is_ended_for_its_loss() {
    /// The triggers that the last of some windows has, and whether it is grave.
    fn last(judge: Judge, losses: &[f64], steps: (u64, u64)) -> Vec<(String, bool)> {
        let mut judge = judge;
        let mut found = Vec::new();
        for (number, loss) in losses.iter().enumerate() {
            let figures = Figures {
                from_us: number as u64 * WINDOW_US,
                to_us: (number as u64 + 1) * WINDOW_US,
                loss: Some(*loss),
                step: Some(steps.0 + steps.1 * (number as u64 + 1)),
                steps: Some(steps.1),
                ..well()
            };
            found = judge.close(&figures, &expected());
        }
        let mut found: Vec<_> = found
            .into_iter()
            .map(|one| (one.trigger, one.grave))
            .collect();
        found.sort();
        found
    }
    let metric = |grave| vec![("metric".to_owned(), grave)];
    let resumed = Judge {
        resumed: true,
        ..Judge::default()
    };
    let (anew, late) = ((1, 60), (40_000, 60));
    for (name, judge, losses, steps, expected) in [
        (
            "frozen",
            Judge::default(),
            vec![10.8, 10.8, 10.8],
            anew,
            metric(true),
        ),
        (
            "frozen still",
            Judge::default(),
            vec![10.8; 5],
            anew,
            metric(true),
        ),
        (
            "learns",
            Judge::default(),
            vec![10.8, 9.0, 8.0],
            anew,
            vec![],
        ),
        // Whoever knows that it goes on from a checkpoint, and whoever only sees its steps.
        (
            "on a plateau",
            resumed,
            vec![2.310, 2.308, 2.305],
            anew,
            metric(false),
        ),
        (
            "on a plateau by its steps",
            Judge::default(),
            vec![2.310, 2.308, 2.305],
            late,
            metric(false),
        ),
        (
            "printed as 0",
            Judge::default(),
            vec![0.0, 0.0, 0.0],
            anew,
            metric(false),
        ),
        (
            "small",
            Judge::default(),
            vec![0.0021, 0.0021, 0.0021],
            anew,
            metric(false),
        ),
        (
            "learned, and is back",
            Judge::default(),
            vec![10.8, 9.0, 7.0, 10.8],
            anew,
            metric(false),
        ),
    ] {
        assert_eq!(last(judge, &losses, steps), expected, "{name}");
    }
}

#[test]
fn losses_that_are_no_numbers_count_in_a_row_however_seldom_they_are_printed() {
    let none = well();
    let lost = |losses_broken| Figures {
        loss_broken: true,
        losses_broken,
        ..well()
    };
    let sound = |losses_broken| Figures {
        loss: Some(2.0),
        losses_broken,
        ..well()
    };
    let found: &[&str] = &["metric"];
    let expected = Expected {
        early_checkpoint_s: 0,
        ..expected()
    };
    check(&[lost(3)], &expected, &[found]);
    // One a window, or one in two; it stands until a number is printed.
    check(
        &[
            lost(1),
            lost(1),
            none.clone(),
            lost(1),
            none.clone(),
            sound(0),
            none,
        ],
        &expected,
        &[&[], &[], &[], found, found, &[], &[]],
    );
    // One that is left out now and then is no end of it, and the end of a window is no beginning.
    check(
        &[lost(2), sound(0), lost(2), sound(2), lost(1), sound(3)],
        &expected,
        &[&[], &[], &[], &[], found, &[]],
    );
}

#[test]
fn a_training_that_makes_no_step_though_several_were_due_has_no_speed_at_all() {
    const MINUTE_US: u64 = 60_000_000;
    let at = |window: u64, figures: Figures| Figures {
        from_us: window * WINDOW_US,
        to_us: (window + 1) * WINDOW_US,
        tokens_per_s: None,
        log_kb_per_s: Some(0.0),
        ..figures
    };
    // Its log told of steps in the first window, with this pause at most between two; how it went on, and what each window showed.
    let stands = |pause_us: u64, change: &dyn Fn(u64, &mut Figures), expected: &Expected| {
        let mut judge = Judge::default();
        let trains = Figures {
            stepped_us: Some((pause_us, WINDOW_US)),
            longest_pause_us: pause_us,
            moved: true,
            ..well()
        };
        judge.close(&at(0, trains), expected);
        (1..=7)
            .map(|window| {
                let mut figures = at(
                    window,
                    Figures {
                        steps: Some(0),
                        ..well()
                    },
                );
                change(window, &mut figures);
                match &judge.close(&figures, expected)[..] {
                    [] => '-',
                    [one] if one.trigger != "throughput" => '?',
                    [one] if one.grave => 'G',
                    [_] => 'l',
                    _ => '?',
                }
            })
            .collect::<String>()
    };
    let unpredicted = Expected {
        tokens_per_s: None,
        ..expected()
    };
    let same: &dyn Fn(u64, &mut Figures) = &|_, _| {};
    assert_eq!(stands(10_000_000, same, &expected()), "-GGGGGG");
    assert_eq!(stands(10_000_000, same, &unpredicted), "-GGGGGG");
    // Prints a step in ten minutes: three must be due before the first window counts.
    assert_eq!(stands(10 * MINUTE_US, same, &expected()), "---GGGG");
    // Who knows how often it prints? It told of one step only.
    assert_eq!(stands(0, same, &expected()), "-------");
    // Whoever it was, its GPUs wait for something: as long again as its only step took, three times.
    let waits: &dyn Fn(u64, &mut Figures) = &|_, figures| figures.memory_busy_percent = Some(1.0);
    assert_eq!(stands(0, waits, &expected()), "---GGGG");
    assert_eq!(stands(0, waits, &unpredicted), "---GGGG");
    let works: &dyn Fn(u64, &mut Figures) = &|_, figures| figures.memory_busy_percent = Some(30.0);
    assert_eq!(stands(0, works, &expected()), "-------");
    let evaluates: &dyn Fn(u64, &mut Figures) = &|window, figures| figures.moved = window == 2;
    assert_eq!(stands(10_000_000, evaluates, &expected()), "---GGGG");
    let saves: &dyn Fn(u64, &mut Figures) =
        &|window, figures| figures.disk_growth_mb_per_s = Some(if window < 4 { 90.0 } else { 0.0 });
    assert_eq!(stands(10_000_000, saves, &expected()), "----GGG");
    // An evaluation without a word, and then a collective that hangs: the GPUs are busy all the time with both.
    let computes: &dyn Fn(u64, &mut Figures) =
        &|window, figures| figures.memory_busy_percent = Some(if window < 4 { 5.0 } else { 4.9 });
    assert_eq!(stands(10_000_000, computes, &expected()), "----GGG");
    let is_over: &dyn Fn(u64, &mut Figures) = &|_, figures| figures.steps_left = Some(1);
    assert_eq!(stands(10_000_000, is_over, &expected()), "-------");
    let talks: &dyn Fn(u64, &mut Figures) = &|_, figures| figures.log_kb_per_s = Some(0.2);
    assert_eq!(stands(10_000_000, talks, &expected()), "-llllGG");
    // It was only slow to come back, and that is the longest pause from now on.
    let comes_back: &dyn Fn(u64, &mut Figures) = &|window, figures| {
        if window == 3 {
            let from_us = figures.from_us;
            figures.steps = Some(60);
            figures.stepped_us = Some((from_us + MINUTE_US, from_us + WINDOW_US));
        }
    };
    assert_eq!(stands(10_000_000, comes_back, &expected()), "-G-----");
}

#[test]
fn a_training_that_does_nothing_before_its_first_step_is_worth_a_word() {
    let loads = |percent| Figures {
        gpu_utilisation_percent: Some(percent),
        step: None,
        steps: None,
        tokens_per_s: None,
        ..well()
    };
    let fetches = Figures {
        network_mb_per_s: Some(80.0),
        ..loads(0.0)
    };
    let told: &[&str] = &["gpu_idle"];
    let (still, busy) = (loads(0.0), loads(70.0));
    check(
        &[still.clone(), still.clone(), busy.clone(), fetches, well()],
        &expected(),
        &[&[], told, &[], &[], &[]],
    );
    check(
        &[well(), still.clone(), still.clone()],
        &expected(),
        &[&[], &[], told],
    );
    let mut judge = Judge::default();
    judge.close(&still, &expected());
    assert!(
        !judge.close(&still, &expected())[0].grave,
        "nobody is ended for it"
    );
}
