//! A whole report of a run that was interrupted once, all of whose texts want to be markup; and which files it overwrites.

use std::collections::BTreeMap;

use quick_xml::{Reader, events::Event};
use serde_json::{Value, json};

use super::{
    gather::{Gathered, LogCurves, Measured, Shown},
    *,
};
use crate::{
    ledger::{CostKind, Interval},
    run::{
        busy::Busy,
        prediction::Prediction,
        summary::{attempt_for_tests, summarise},
    },
    spec::RunSpec,
    store::{AttemptRecord, EventRecord, Origin, Outcome, RunRecord},
};

const HOSTILE: &str = "</td></title></style><script>alert('x')</script>\" onload=\"a|b`@all";
const MINUTE_US: i64 = 60_000_000;

fn event(id: i64, attempt: u32, minute: i64, kind: &str, detail: Value) -> EventRecord {
    EventRecord {
        id,
        attempt,
        origin: Origin::Spotter,
        seq: id as u64,
        time_us: minute * MINUTE_US,
        kind: kind.to_owned(),
        detail,
    }
}

fn shown(attempt: u32, minutes: std::ops::Range<u64>, log: &str) -> Shown {
    let mut measured = Measured::new(100, Busy::default());
    for minute in minutes {
        let used = 50 + minute % 10;
        let gpu = json!({"utilisation_percent": used, "power_mw": 300_000, "memory_used_bytes": 20_u64 << 30,
                         "memory_total_bytes": 24_u64 << 30});
        let line = json!({"time_us": minute * MINUTE_US as u64 + 1, "span_s": 60, "gpus": [gpu]});
        measured.add(&serde_json::from_value(line).unwrap());
    }
    let mut curves = LogCurves::new(100);
    let mut reader = spotter_trainlog::Reader::default();
    reader.feed(log.as_bytes(), &mut |seen| curves.add(seen, 100));
    reader.end(&mut |seen| curves.add(seen, 100));
    Shown {
        attempt,
        log: curves,
        measured,
    }
}

fn log(steps: std::ops::RangeInclusive<u64>, word: &str) -> String {
    steps
        .map(|step| {
            format!(
                "{word}\nstep {step}/40 | loss {}.5 | lr 1.00e-03 | 100.0 ms/step | 1,000 tok/s\n",
                50 - step
            )
        })
        .collect()
}

fn known(word: &str) -> Gathered {
    let mut spec = RunSpec::from_flags_for_tests();
    spec.limits.budget_usd = Some(1.0);
    let run = RunRecord {
        name: format!("tiny{word}"),
        spec,
        created_us: 0,
        stop_requested: false,
        outcome: Some(Outcome::Done),
        reason: (!word.is_empty()).then(|| word.to_owned()),
    };
    let attempt = |number: u32, from: i64, to: i64, first: Option<u64>, last: u64| AttemptRecord {
        gpu: format!("RTX 4090{word}:1"),
        created_us: from * MINUTE_US,
        state_us: to * MINUTE_US,
        started_us: (from + 2) * MINUTE_US,
        gone_us: to * MINUTE_US,
        resumed_step: first,
        last_step: Some(last),
        reason: (number == 1).then(|| format!("outbid{word}")),
        ..attempt_for_tests(number)
    };
    let attempts = vec![
        attempt(1, 1, 30, None, 25),
        attempt(2, 35, 60, Some(20), 40),
    ];
    let window = json!({
        "started_us": 3 * MINUTE_US, "step": 12, "gpu_utilisation_percent": 55.0, "memory_peak_gib": 20.0,
        "memory_total_gib": 24.0, "actual_tokens_per_s": 1000.0, "of_predicted": 0.8, "predicted_tokens_per_s": 1250.0,
        "loss": 38.5, "bottleneck": {"class": format!("input{word}"), "evidence": word},
        "contradictions": [{"trigger": "throughput", "evidence": format!("slow{word}"), "grave": true}],
    });
    let events = vec![
        event(1, 1, 3, "running", json!({"resumed_step": null})),
        event(
            2,
            1,
            10,
            "checkpoint.committed",
            json!({"step": 20, "size_bytes": 5 << 20, "seconds": 1.5, "path": format!("step-20{word}")}),
        ),
        event(3, 1, 13, "window", window.clone()),
        event(4, 1, 13, "window.contradicted", window),
        event(
            5,
            1,
            29,
            "interrupted",
            json!({"reason": format!("outbid{word}"), "step": 25}),
        ),
        event(6, 2, 40, "running", json!({"resumed_step": 20})),
        event(
            7,
            2,
            59,
            "session.ended",
            json!({"session": "train", "exit_code": 0}),
        ),
        event(8, 0, 60, "ended", json!({"outcome": "done"})),
        event(9, 0, 60, &format!("odd{word}"), json!({"last_lines": word})),
    ];
    let interval = |attempt, from: i64, to: i64| Interval {
        attempt,
        kind: CostKind::Gpu,
        from_us: from * MINUTE_US,
        to_us: Some(to * MINUTE_US),
        usd_per_hour: 0.6,
    };
    let intervals = vec![interval(1, 1, 30), interval(2, 35, 60)];
    let now_us = 90 * MINUTE_US;
    let summary = summarise(&run, &attempts, &intervals, &[], &events, false, now_us);
    let scenarios = json!({"optimistic": 0.5, "base": 0.8, "pessimistic": 1.5});
    let plan = json!({"forecast": {
        "tokens_per_s": {"low": 900.0, "base": 1250.0, "high": 1600.0},
        "train_hours": scenarios, "wall_hours": scenarios, "cost_usd": scenarios,
    }});
    let shown = vec![
        shown(1, 2..30, &log(1..=25, word)),
        shown(2, 36..60, &log(21..=40, word)),
    ];
    Gathered {
        run,
        attempts,
        events,
        intervals,
        summary,
        plan: Some(plan),
        prediction: Prediction::default(),
        now_us,
        shown,
        unread: vec![format!("a copy could not be read: {word}")],
    }
}

/// Names of elements with how many there are, and all text; fails where it is not well-formed.
fn parsed(page: &str) -> (BTreeMap<String, usize>, String) {
    let body = page.strip_prefix("<!doctype html>\n").unwrap();
    let mut reader = Reader::from_str(body);
    reader.config_mut().check_end_names = true;
    let (mut names, mut text) = (BTreeMap::new(), String::new());
    let mut depth = 0;
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                depth += 1;
                for attribute in start.attributes() {
                    attribute.unwrap();
                }
                let name = String::from_utf8_lossy(start.name().as_ref().as_bytes()).into_owned();
                *names.entry(name).or_default() += 1;
            }
            Event::End(_) => depth -= 1,
            Event::Text(words) => text.push_str(&words),
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0, "something was left open");
    (names, text)
}

#[test]
fn nothing_that_others_wrote_becomes_markup() {
    let plain = html::page(&model::report(&known("")), "made");
    let hostile = html::page(&model::report(&known(HOSTILE)), "made");
    let (expected, _) = parsed(&plain);
    let (found, _) = parsed(&hostile);
    // One paragraph more, for the reason; whatever the texts are, the elements are the same.
    let mut expected = expected;
    *expected.get_mut("p").unwrap() += 1;
    assert_eq!(found, expected);
    assert!(!found.contains_key("script"));
    assert!(
        hostile.contains("tiny&lt;/td&gt;&lt;/title&gt;&lt;/style&gt;&lt;script&gt;alert"),
        "the name is there as a text"
    );
    for outside in ["http:", "https:", "url(", "@import", "src=", "href=", " on"] {
        let clean = plain.replace("one below", "");
        let at = clean.find(outside).map(|at| &clean[at..at + 60]);
        assert!(outside == " on" || at.is_none(), "{at:?}");
    }

    let markdown = markdown::page(&model::report(&known(HOSTILE)), "made");
    // Outside of code spans there is nothing of it; each span has its own fence.
    for line in markdown.lines().filter(|line| line.contains("<script>")) {
        let before = line.split("<script>").next().unwrap();
        assert!(before.contains('`'), "{line}");
    }
}

#[test]
fn a_report_says_what_a_run_did_and_what_was_predicted() {
    let report = model::report(&known(""));
    let figures = &report.figures;
    assert_eq!((figures.attempts, figures.interruptions), (2, 1));
    assert_eq!((figures.steps_lost, figures.step), (5, Some(40)));
    assert_eq!(figures.total_steps, Some(40));
    assert_eq!(
        (figures.last_loss, figures.last_loss_step),
        (Some(10.5), Some(40))
    );
    assert_eq!(figures.tokens_per_s, Some(1000.0));
    assert!((figures.trained_hours - 45.0 / 60.0).abs() < 1e-9);
    assert!((figures.wall_hours - 59.0 / 60.0).abs() < 1e-9);
    assert!((figures.cost_usd - 0.54).abs() < 1e-9);
    let titles: Vec<&str> = report.charts.iter().map(|chart| chart.title).collect();
    assert_eq!(
        titles,
        [
            "Loss",
            "Speed",
            "GPU use",
            "GPU memory, of the fullest",
            "Power of all GPUs",
            "Cost, by our own ledger"
        ]
    );
    assert_eq!(report.charts[0].series.len(), 2, "a curve for each attempt");
    assert_eq!(
        report.charts[2].shades,
        [(0.0, 120.0), (1680.0, 2340.0), (3480.0, 3540.0)]
    );
    insta::assert_snapshot!("markdown", markdown::page(&report, "made by a test"));
}

#[test]
fn the_time_in_which_a_box_gave_no_word_before_it_was_judged_lost_is_told_from_its_training() {
    let mut known = known("");
    let lost = known.events.iter_mut().find(|event| event.id == 5).unwrap();
    lost.kind = "lost".to_owned();
    lost.detail["heard_us"] = json!(19 * MINUTE_US);
    let report = model::report(&known);
    // From minute 3 to 19, and from 40 to 59.
    assert!((report.figures.trained_hours - 35.0 / 60.0).abs() < 1e-9);
    assert!((report.figures.silent_hours - 10.0 / 60.0).abs() < 1e-9);
    let trained = report.headline.iter().find(|item| item.0 == "Trained");
    assert_eq!(
        trained.unwrap().2,
        "59.3% of the time, and 10 min more without a word from its box"
    );
}

#[test]
fn a_training_that_ended_with_nobody_there_is_not_told_as_running() {
    let mut known = known("");
    known.run.outcome = None;
    known.events.retain(|event| event.id != 8);
    let newest = known.attempts.last_mut().unwrap();
    (newest.state, newest.gone_us) = (crate::run::State::Running, 0);
    let summary = |known: &Gathered| {
        let (run, attempts, events) = (&known.run, &known.attempts, &known.events);
        summarise(
            run,
            attempts,
            &known.intervals,
            &[],
            events,
            false,
            known.now_us,
        )
    };
    known.summary = summary(&known);
    let report = model::report(&known);
    assert_eq!(report.state, "finished, still billing");
    assert!((report.figures.trained_hours - 45.0 / 60.0).abs() < 1e-9);
    let reason = report.reason.unwrap();
    assert!(
        reason.starts_with("the training has ended with exit code 0"),
        "{reason}"
    );
    // Nobody has told of its end.
    known.events.retain(|event| event.id != 7);
    known.summary = summary(&known);
    let report = model::report(&known);
    assert_eq!(report.state, "running");
    assert!((report.figures.trained_hours - 76.0 / 60.0).abs() < 1e-9);
}

#[test]
fn a_run_of_which_nothing_is_known_has_a_report_all_the_same() {
    let mut known = known("");
    known.attempts.clear();
    known.events.clear();
    known.intervals.clear();
    known.shown.clear();
    known.plan = None;
    known.run.outcome = None;
    known.summary = summarise(&known.run, &[], &[], &[], &[], false, known.now_us);
    let report = model::report(&known);
    let page = html::page(&report, "made");
    parsed(&page);
    assert!(report.charts.is_empty());
    assert_eq!(report.state, "planned");
    assert!(page.contains("nobody watches this run"), "{page}");
    assert!(!markdown::page(&report, "made").contains("NaN"));
}

#[test]
fn an_older_report_is_overwritten_and_a_file_of_others_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.html");
    let report = model::report(&known(""));
    assert!(refuse_others(&path).is_ok(), "nothing is there");
    for page in [
        html::page(&report, "m"),
        markdown::page(&report, "m"),
        String::new(),
    ] {
        write(&path, page.as_bytes()).unwrap();
        assert!(refuse_others(&path).is_ok());
    }
    fs::write(&path, "<html>my notes</html>").unwrap();
    let err = refuse_others(&path).unwrap_err();
    assert!(err.hints()[0].contains("--force"), "{err:?}");
    assert!(refuse_others(dir.path()).is_err(), "a directory");
    let device = std::path::Path::new("/dev/null");
    assert!(refuse_others(device).is_ok(), "nothing in it could be lost");
    // A link stays one, and what it leads to is written.
    let link = dir.path().join("link.html");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    write(&link, b"new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}
