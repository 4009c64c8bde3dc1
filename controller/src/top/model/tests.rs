//! What is said of runs that are made up.

use super::*;
use crate::top::examples::{self, NOW_US};

#[test]
fn numbers_and_spans_are_short() {
    for (number, expected) in [
        (0.0, "0"),
        (0.01234, "0.012"),
        (0.00001, "1e-5"),
        (2.1309, "2.13"),
        (99.96, "100.0"),
        (1234.4, "1234"),
        (18_312.0, "18.3k"),
        (999_600.0, "1.00M"),
        (-7.5, "-7.50"),
        (3.2e9, "3.20G"),
    ] {
        assert_eq!(short(number), expected, "{number}");
    }
    for (seconds, expected) in [
        (-4.0, "0s"),
        (119.9, "119s"),
        (185.0, "3m"),
        (7860.0, "2h11m"),
        (90_000.0, "1d1h"),
        (f64::INFINITY, "115740d17h"),
    ] {
        assert_eq!(span(seconds), expected, "{seconds}");
    }
    for (number, expected) in [
        (0, "0"),
        (999, "999"),
        (1000, "1,000"),
        (1_234_567, "1,234,567"),
    ] {
        assert_eq!(grouped(number), expected);
    }
}

#[test]
fn what_is_left_is_told_by_the_steps_that_are_seen_then_by_the_last_window() {
    let mut facts = examples::live(1);
    let parts = |facts: &Facts| view(facts, NOW_US).progress.parts;
    // 8,446 steps of 0.9 s.
    assert_eq!(
        parts(&facts),
        [
            "step 1,234 of 9,680",
            "2h06m left (1h54m to 2h19m)",
            "until 10:06:41Z"
        ]
    );
    // What is seen says more than what is printed: 100 steps in 50 s.
    facts.live.steps = [(NOW_US - 50_000_000, 1134), (NOW_US, 1234)].into();
    assert_eq!(parts(&facts)[1], "1h10m left (1h03m to 1h17m)");
    // Two hours by a window that was closed five minutes ago.
    facts.forget_box();
    facts.log = crate::lookout::facts::Log::default();
    assert_eq!(
        parts(&facts)[..2],
        ["step 1,230", "1h55m left (1h43m to 2h07m)"]
    );
    facts.recorded.trains = false;
    assert_eq!(parts(&facts), ["step 1,230"]);
}

#[test]
fn a_box_that_is_being_asked_has_not_said_that_there_is_no_step() {
    let mut facts = examples::live(1);
    facts.forget_box();
    facts.log = crate::lookout::facts::Log::default();
    facts.recorded.step = None;
    let said = |facts: &Facts| view(facts, NOW_US).progress.parts[0].clone();
    assert_eq!(said(&facts), "no step yet");
    facts.reach = crate::lookout::facts::Reach::Connecting;
    assert_eq!(said(&facts), "asking its box");
}

#[test]
fn a_training_that_prints_nothing_is_told() {
    let mut facts = examples::live(1);
    let status = facts.live.status.as_mut().unwrap();
    status.training.as_mut().unwrap().time_us -= 300_000_000;
    let bar = view(&facts, NOW_US).progress;
    assert_eq!(
        (bar.parts[0].as_str(), bar.tone),
        ("! no progress printed for 5m", Tone::Warn)
    );
}

#[test]
fn the_age_of_a_checkpoint_stands_against_the_limit() {
    let check = |change: &dyn Fn(&mut Facts), expected: &[&str], tone: Tone| {
        let mut facts = examples::live(1);
        change(&mut facts);
        let bar = view(&facts, NOW_US).saved;
        assert_eq!(bar.parts[..expected.len()], *expected, "{bar:?}");
        assert_eq!(bar.tone, tone);
        assert!(bar.fraction.is_none_or(|fraction| fraction <= 1.0));
    };
    let backup = |facts: &mut Facts, change: &dyn Fn(&mut crate::agent_client::BackupInfo)| {
        change(facts.live.status.as_mut().unwrap().backup.as_mut().unwrap());
    };
    check(
        &|_| {},
        &[
            "step 1,200, 3m ago",
            "limit 10m",
            "1 waiting",
            "3 in the bucket, 12 ever",
        ],
        Tone::Plain,
    );
    let late = |facts: &mut Facts| {
        facts.recorded.saved = None;
        backup(facts, &|backup| {
            backup.last_commit_us = Some(u64::try_from(NOW_US - 660_000_000).unwrap());
        });
    };
    check(
        &late,
        &["! over the limit", "step 1,200, 11m ago"],
        Tone::Warn,
    );
    check(
        &|facts| backup(facts, &|backup| backup.alarm = true),
        &["! BEHIND"],
        Tone::Bad,
    );
    let none = |facts: &mut Facts| {
        facts.recorded.saved = None;
        facts.forget_box();
    };
    check(
        &none,
        &["! over the limit", "nothing yet, training for 2h00m"],
        Tone::Warn,
    );
    let off = |facts: &mut Facts| facts.recorded.save_every_s = None;
    check(&off, &["no backup is asked for"], Tone::Dim);
}

#[test]
fn money_is_told_now_so_far_and_to_come() {
    let mut facts = examples::live(1);
    let money = view(&facts, NOW_US).money;
    assert_eq!(
        money.parts,
        [
            "$0.696/h now",
            "$1.53 so far",
            "$1.47 to come",
            "($1.32 to $1.62)",
            "budget $20.00"
        ]
    );
    facts.recorded.budget_usd = Some(1.6);
    assert_eq!(
        view(&facts, NOW_US).money.parts[0],
        "! budget nearly used up"
    );
    facts.recorded.usd_per_hour = 0.0;
    facts.recorded.at_most_usd_per_hour = Some(0.7);
    let told = view(&facts, NOW_US).money.parts;
    assert!(told.contains(&"up to $0.700/h now".to_owned()), "{told:?}");
    let mut over = examples::over();
    over.recorded.usd_per_hour = 0.01;
    assert_eq!(view(&over, NOW_US).money.parts[0], "! still paid for");
}

#[test]
fn where_it_comes_from_and_how_old_it_is_is_always_said() {
    let check = |reach: Reach, old_s: i64, expected: &str| {
        let mut facts = examples::live(1);
        facts.reach = reach;
        let found = view(&facts, NOW_US + old_s * 1_000_000).freshness.text;
        assert!(found.starts_with(expected), "{found}");
    };
    let lost = Reach::Lost {
        since_us: NOW_US,
        why: "no route".to_owned(),
    };
    check(Reach::Live, 1, "live");
    check(Reach::Live, 30, "! the box is silent: this is 30s old");
    check(lost, 60, "! no link for 60s: this is 60s old (no route)");
    check(Reach::Connecting, 10, "connecting again: this is 10s old");
    check(Reach::Record, 7200, "from the record: 2h00m old");
    check(Reach::LetGo, 120, "the training has ended");
}

#[test]
fn a_box_without_readings_says_why() {
    let mut facts = examples::live(0);
    let note = |facts: &Facts| view(facts, NOW_US).gpu_note.unwrap().text;
    assert!(
        note(&facts).starts_with("in the window until"),
        "{}",
        note(&facts)
    );
    facts.live.status.as_mut().unwrap().gpu_problem = Some("no driver".to_owned());
    assert_eq!(note(&facts), "! no GPU readings: no driver");
    facts.forget_box();
    facts
        .log
        .measured
        .add(examples::sample(7200, vec![examples::gpu(0, 70)]));
    assert_eq!(
        note(&facts),
        "the last hour that is on record, until 2h00m ago, by minutes"
    );
    let row = &view(&facts, NOW_US).gpus[0];
    assert_eq!((row.used_percent, row.span_s), (Some(70.0), 3600.0));
    facts.log = crate::lookout::facts::Log::default();
    facts.recorded.window = None;
    assert_eq!(note(&facts), "no readings of its GPUs are on record");
}

#[test]
fn a_filter_keeps_the_lines_that_have_its_text_and_their_numbers() {
    let facts = examples::live(1);
    let all = lines(&facts, super::super::keys::Pane::Events, "");
    assert_eq!(all.len(), 5);
    assert!(all.is_sorted_by_key(|line| line.id));
    let found = lines(&facts, super::super::keys::Pane::Events, "CHECKPOINT");
    assert_eq!(found.iter().map(|line| line.id).collect::<Vec<_>>(), [3, 4]);
    assert!(
        found[0]
            .text
            .contains("checkpoint.committed bytes=1500000000 seconds=14.2 step=1200")
    );
}
