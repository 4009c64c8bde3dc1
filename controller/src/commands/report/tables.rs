//! The tables of a report (pure).

use std::{collections::HashSet, time::Duration};

use serde_json::Value;

use super::{
    gather::Gathered,
    model::{self, Figures, Predictions, Range},
    spans::{self, Span},
};
use crate::{
    commands::plan::figures,
    ledger::{self, CostKind},
    run::{
        interruptions, marks,
        summary::is_deletion,
        windows::{WINDOW, words},
    },
    store::{EventRecord, Origin},
    ui::text,
};

/// Rows of a long table, the newest.
const ROWS: usize = 100;
/// Events, the newest.
const EVENTS: usize = 50;
/// Letters of an event's detail: some hold the last lines of a log.
const DETAIL: usize = 300;

/// A table with its heading.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Grid {
    /// What it shows.
    pub(super) title: &'static str,
    /// Names of the columns; one that ends in `>` is set to the right.
    pub(super) columns: &'static [&'static str],
    /// Its cells; others wrote some of them.
    pub(super) rows: Vec<Vec<String>>,
    /// Older rows that are not there.
    pub(super) left_out: usize,
}

impl Grid {
    fn new(
        title: &'static str,
        columns: &'static [&'static str],
        rows: Vec<Vec<String>>,
        most: usize,
    ) -> Self {
        let left_out = rows.len().saturating_sub(most);
        Self {
            title,
            columns,
            rows: rows.into_iter().skip(left_out).collect(),
            left_out,
        }
    }
}

/// Every table that has rows.
pub(super) fn grids(
    known: &Gathered,
    predicted: &Predictions,
    figures: &Figures,
    trained: &[Vec<Span>],
) -> Vec<Grid> {
    let mut grids = vec![
        held(predicted, figures),
        attempts(known, trained),
        interruptions(known),
        windows(known),
        checkpoints(known),
        events(known),
    ];
    grids.retain(|grid| !grid.rows.is_empty());
    grids
}

/// Tokens per second of all GPUs: the median of the windows, else of what the log prints.
pub(super) fn speed(known: &Gathered) -> Option<f64> {
    let windows = of_kind(known, WINDOW);
    let actual = |event: &EventRecord| {
        let detail = &event.detail;
        detail["actual_tokens_per_s"]
            .as_f64()
            .or_else(|| detail["tokens_per_s"].as_f64())
    };
    let told: Vec<f64> = windows.iter().filter_map(|event| actual(event)).collect();
    let printed = || -> Vec<f64> {
        let logs = known.shown.iter().map(|shown| &shown.log.speed);
        let curves = logs.filter_map(|speed| speed.get("tokens/s"));
        curves
            .flat_map(|curves| curves.by_record.points(usize::MAX))
            .map(|point| point.y)
            .collect()
    };
    median(told).or_else(|| median(printed()))
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

fn of_kind<'a>(known: &'a Gathered, kind: &str) -> Vec<&'a EventRecord> {
    let events = known.events.iter();
    events.filter(|event| event.kind == kind).collect()
}

fn held(predicted: &Predictions, figures: &Figures) -> Grid {
    let row =
        |what: &str, range: Option<Range>, actual: Option<f64>, show: &dyn Fn(f64) -> String| {
            let range = range?;
            let ends = match (range.low, range.high) {
                (Some(low), Some(high)) => format!("{} to {}", show(low), show(high)),
                _ => "-".to_owned(),
            };
            let share = actual.filter(|_| range.base > 0.0);
            Some(vec![
                what.to_owned(),
                show(range.base),
                ends,
                text::or_dash(actual.map(show)),
                text::or_dash(share.map(|actual| figures::percent(actual / range.base))),
            ])
        };
    let tokens = |speed: f64| format!("{} tokens/s", figures::count(speed));
    let rows = [
        row("Speed", predicted.speed, figures.tokens_per_s, &tokens),
        row(
            "Training",
            predicted.train_hours,
            Some(figures.trained_hours),
            &model::hours,
        ),
        row(
            "Time from start to end",
            predicted.wall_hours,
            Some(figures.wall_hours),
            &model::hours,
        ),
        row(
            "Cost",
            predicted.cost_usd,
            Some(figures.cost_usd),
            &text::usd,
        ),
    ];
    Grid::new(
        "Predicted and actual",
        &["What", "Predicted>", "Range>", "Actual>", "Of predicted>"],
        rows.into_iter().flatten().collect(),
        ROWS,
    )
}

fn attempts(known: &Gathered, trained: &[Vec<Span>]) -> Grid {
    let rows = known.summary.attempts.iter().zip(trained).enumerate();
    let rows = rows.map(|(index, (attempt, trained))| {
        let step = |step: Option<u64>| text::or_dash(step);
        let shown = known.shown.get(index);
        let used = shown.and_then(|shown| shown.measured.busy.percent());
        let found = attempt.diagnosis.as_ref();
        let reason = attempt.reason.clone().unwrap_or_default();
        let is_newest = index + 1 == known.summary.attempts.len();
        let alone = known.summary.training_end.as_ref().filter(|_| is_newest);
        let end = match (found, alone) {
            (Some(found), _) => format!("{}: {}", found.class, found.meaning),
            (None, Some(alone)) => format!("the training {}", alone.text),
            (None, None) => reason,
        };
        let state = match alone {
            Some(alone) => alone.standing(),
            None => attempt.state.name().to_owned(),
        };
        vec![
            attempt.number.to_string(),
            state,
            attempt.gpu.clone(),
            text::or_dash(attempt.instance),
            format!("{} to {}", step(attempt.from_step), step(attempt.to_step)),
            model::hours(spans::seconds(trained) / 3600.0),
            text::or_dash(used.map(|percent| format!("{percent:.0} %"))),
            attempt.checkpoints_committed.to_string(),
            text::usd(attempt.counted.total_usd()),
            end,
        ]
    });
    Grid::new(
        "Attempts",
        &[
            "Try>",
            "State",
            "GPU",
            "Instance>",
            "Steps>",
            "Trained>",
            "GPU use>",
            "Checkpoints>",
            "Cost>",
            "Why it ended",
        ],
        rows.collect(),
        ROWS,
    )
}

fn interruptions(known: &Gathered) -> Grid {
    let rows = known.summary.interruptions.iter().map(|found| {
        let next = match (found.resumed_by, found.resumed_step) {
            (Some(attempt), step) => format!("try {attempt}, step {}", step.unwrap_or(0)),
            (None, _) => "it did not".to_owned(),
        };
        vec![
            text::time(found.time_us),
            found.attempt.to_string(),
            text::or_dash(found.step),
            text::or_dash(found.saved_step),
            found.steps_lost.map_or_else(
                || "-".to_owned(),
                |lost| interruptions::figure(lost, std::slice::from_ref(found)),
            ),
            next,
            found.reason.clone(),
        ]
    });
    Grid::new(
        "Interruptions",
        &[
            "Time",
            "Try>",
            "At step>",
            "Saved step>",
            "Steps lost>",
            "Went on with",
            "Why",
        ],
        rows.collect(),
        ROWS,
    )
}

fn windows(known: &Gathered) -> Grid {
    let rows = of_kind(known, WINDOW).into_iter().map(|event| {
        let window = &event.detail;
        let number = |key: &str| window[key].as_f64();
        let show =
            |value: Option<f64>, show: &dyn Fn(f64) -> String| text::or_dash(value.map(show));
        let percent = |value: f64| format!("{value:.0} %");
        let memory = match (number("memory_peak_gib"), number("memory_total_gib")) {
            (Some(peak), Some(total)) => format!("{peak:.1} of {total:.1} GiB"),
            _ => "-".to_owned(),
        };
        let speed = number("actual_tokens_per_s").or_else(|| number("tokens_per_s"));
        let bottleneck = window["bottleneck"]["class"].as_str().unwrap_or("-");
        let share = |share: f64| percent(share * 100.0);
        vec![
            text::time(event.time_us),
            event.attempt.to_string(),
            text::or_dash(window["step"].as_u64()),
            show(number("gpu_utilisation_percent"), &percent),
            memory,
            show(speed, &figures::count),
            show(number("of_predicted"), &share),
            show(number("loss"), &model::loss),
            bottleneck.to_owned(),
            words(window),
        ]
    });
    Grid::new(
        "Windows",
        &[
            "Closed",
            "Try>",
            "Step>",
            "GPU use>",
            "Memory>",
            "Tokens/s>",
            "Of predicted>",
            "Loss>",
            "Held up by",
            "Contradicts",
        ],
        rows.collect(),
        ROWS,
    )
}

fn checkpoints(known: &Gathered) -> Grid {
    let deleted: HashSet<&str> = known
        .events
        .iter()
        .filter(|event| is_deletion(event))
        .filter_map(|event| event.detail["id"].as_str())
        .collect();
    let damaged = marks::marked(&known.events);
    let rows = of_kind(known, "checkpoint.committed")
        .into_iter()
        .map(|event| {
            let detail = &event.detail;
            let seconds = detail["seconds"].as_f64();
            let is_in = |ids: &dyn Fn(&str) -> bool| detail["id"].as_str().is_some_and(ids);
            let is_deleted = is_in(&|id| deleted.contains(id));
            let is_damaged = is_in(&|id| damaged.contains(id));
            vec![
                text::time(event.time_us),
                event.attempt.to_string(),
                text::or_dash(detail["step"].as_u64()),
                text::or_dash(detail["size_bytes"].as_u64().map(text::bytes)),
                text::or_dash(seconds.map(|seconds| format!("{seconds:.1} s"))),
                match (is_deleted, is_damaged) {
                    (true, _) => "deleted",
                    (false, true) => "in the bucket, damaged",
                    (false, false) => "in the bucket",
                }
                .to_owned(),
                detail["path"].as_str().unwrap_or_default().to_owned(),
            ]
        });
    Grid::new(
        "Checkpoints ever committed",
        &[
            "Committed",
            "Try>",
            "Step>",
            "Size>",
            "Sent in>",
            "Now",
            "Path",
        ],
        rows.collect(),
        ROWS,
    )
}

fn events(known: &Gathered) -> Grid {
    let rows = known.events.iter().map(|event| {
        let by = match event.origin {
            Origin::Agent => "box",
            Origin::Spotter => "spotter",
        };
        vec![
            text::time(event.time_us),
            event.attempt.to_string(),
            by.to_owned(),
            event.kind.clone(),
            detail(&event.detail),
        ]
    });
    Grid::new(
        "Events",
        &["Time", "Try>", "By", "What", "Detail"],
        rows.collect(),
        EVENTS,
    )
}

/// An object as `key=value` words, cut where it is long.
fn detail(detail: &Value) -> String {
    let words = detail.as_object().map(|map| {
        let words = map.iter().filter(|(_, value)| !value.is_null());
        let words = words.map(|(key, value)| match value.as_str() {
            Some(text) => format!("{key}={text}"),
            None => format!("{key}={value}"),
        });
        words.collect::<Vec<_>>().join(" ")
    });
    let all = words.unwrap_or_else(|| detail.to_string());
    match all.char_indices().nth(DETAIL) {
        Some((cut, _)) => format!("{}...", &all[..cut]),
        None => all,
    }
}

/// How what was spent divides, a line.
pub(super) fn money(known: &Gathered) -> String {
    let mut cost = ledger::Cost::default();
    for attempt in &known.summary.attempts {
        cost += attempt.counted;
    }
    let paid: f64 = known
        .intervals
        .iter()
        .filter(|interval| interval.kind == CostKind::Gpu)
        .map(|interval| {
            let to_us = interval.to_us.unwrap_or(known.now_us);
            (to_us - interval.from_us).max(0) as f64 / 1e6
        })
        .fold(0.0, |all, one| all + one);
    format!(
        "{} for GPUs ({} of them paid), {} for disks, {} for traffic{}",
        text::usd(cost.gpu_usd),
        text::duration(Duration::from_secs_f64(paid)),
        text::usd(cost.disk_usd),
        text::usd(cost.bandwidth_usd),
        match known.summary.unbilled_traffic_usd >= 0.00005 {
            true => format!(
                " ({} of them by the counters of the boxes, not billed yet)",
                text::usd(known.summary.unbilled_traffic_usd)
            ),
            false => String::new(),
        }
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn details_are_words_and_no_novels() {
        assert_eq!(detail(&json!({"a": "x y", "b": 3, "c": null})), "a=x y b=3");
        assert_eq!(detail(&json!([1])), "[1]");
        let long = detail(&json!({"a": "\u{e9}".repeat(1000)}));
        assert_eq!(long.chars().count(), DETAIL + 3);
    }

    #[test]
    fn of_a_long_table_the_newest_rows_are_there() {
        let rows = (0..120).map(|row| vec![row.to_string()]).collect();
        let grid = Grid::new("t", &["n"], rows, ROWS);
        assert_eq!((grid.rows.len(), grid.left_out), (100, 20));
        assert_eq!(grid.rows[0], ["20"]);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }
}
