//! The lines that a person reads on the screen: log, events, windows and attempts (pure).

use serde::Serialize;
use serde_json::Value;

use super::{
    keys::Pane,
    model::{Tone, clock},
};
use crate::{
    lookout::facts::{Facts, signed},
    run::windows,
    store::{EventRecord, Origin},
    ui::{sanitize, text},
};

/// Events that are shown.
const MAX_EVENTS: usize = 1000;

/// A line. Its number stays its own while others come and go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Its number; of lines below each other the lower has the larger one.
    pub id: u64,
    /// The text, on one line.
    pub text: String,
    /// How much it matters.
    pub tone: Tone,
}

/// The lines of a pane, oldest first, of which only those that contain `filter`, in any case.
pub fn lines(facts: &Facts, pane: Pane, filter: &str) -> Vec<Line> {
    let mut lines = match pane {
        Pane::Log => log(facts),
        Pane::Events => events(facts),
        Pane::Windows => told_windows(facts),
        Pane::Attempts => attempts(facts),
    };
    if !filter.is_empty() {
        let filter = filter.to_lowercase();
        lines.retain(|line| line.text.to_lowercase().contains(&filter));
    }
    lines
}

fn log(facts: &Facts) -> Vec<Line> {
    let lines = facts.log.tail.lines().into_iter();
    let lines = lines.map(|(id, text)| Line {
        id,
        text,
        tone: Tone::Plain,
    });
    lines.collect()
}

/// An event, on record or not.
struct Told<'a> {
    time_us: i64,
    attempt: u32,
    by: Origin,
    kind: &'a str,
    detail: &'a Value,
}

/// Every event in the order in which it happened: those on record arrive when a link is there.
fn told(facts: &Facts) -> Vec<Told<'_>> {
    let recorded = facts.events.iter().map(|event: &EventRecord| Told {
        time_us: event.time_us,
        attempt: event.attempt,
        by: event.origin,
        kind: &event.kind,
        detail: &event.detail,
    });
    let live = facts.live.told.iter().map(|event| Told {
        time_us: signed(event.time_us),
        attempt: event.attempt,
        by: Origin::Agent,
        kind: &event.kind,
        detail: &event.detail,
    });
    let mut all: Vec<_> = recorded.chain(live).collect();
    all.sort_by_key(|event| event.time_us);
    all
}

fn events(facts: &Facts) -> Vec<Line> {
    let all = told(facts);
    let left_out = all.len().saturating_sub(MAX_EVENTS);
    let numbered = all.iter().enumerate().skip(left_out);
    numbered
        .map(|(index, event)| {
            let by = match event.by {
                Origin::Agent => format!("box {}", event.attempt),
                Origin::Spotter => "spotter".to_owned(),
            };
            let (at, detail) = (clock(event.time_us), detail(event));
            let text = format!("{at} {by} {} {detail}", event.kind);
            Line {
                id: index as u64,
                text: sanitize::line(text.trim_end()).into_owned(),
                tone: tone(event.kind),
            }
        })
        .collect()
}

/// What an event says besides its kind, without lists and tables.
fn detail(event: &Told<'_>) -> String {
    if event.kind.starts_with("window") {
        let words = windows::words(event.detail);
        let mut line = windows::line(event.detail);
        if !words.is_empty() {
            line += &format!(" ! {words}");
        }
        return line;
    }
    if let Some(text) = event.detail["text"].as_str() {
        return text.to_owned();
    }
    let Some(map) = event.detail.as_object() else {
        return text::detail(event.detail);
    };
    let plain = map.iter().filter(|(_, value)| {
        let is_empty = value.as_str().is_some_and(str::is_empty);
        !(value.is_null() || value.is_array() || value.is_object() || is_empty)
    });
    text::detail(&Value::Object(
        plain
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    ))
}

/// What the name of an event says of its weight.
fn tone(kind: &str) -> Tone {
    let has = |words: &[&str]| words.iter().any(|word| kind.contains(word));
    if has(&["alarm", "contradicted", "lost", "crashed", "failed", "xid"]) {
        Tone::Bad
    } else if has(&[
        "interrupted",
        "unsaved",
        "ending",
        "self_stop",
        "self_destroy",
        "filling",
    ]) {
        Tone::Warn
    } else {
        Tone::Plain
    }
}

fn told_windows(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    let windows = told(facts)
        .into_iter()
        .filter(|event| event.kind == windows::WINDOW);
    for (index, event) in windows.enumerate() {
        let window = event.detail;
        let from = window["from_us"].as_i64().map_or_else(String::new, clock);
        let to = window["to_us"]
            .as_i64()
            .map_or_else(|| clock(event.time_us), clock);
        let contradictions = windows::words(window);
        let evidence = window["bottleneck"]["evidence"].as_str();
        let evidence = evidence.map_or_else(String::new, |evidence| format!(" ({evidence})"));
        let mut text = format!(
            "{}-{to} {}{evidence}",
            from.trim_end_matches('Z'),
            windows::line(window)
        );
        let mut tone = Tone::Plain;
        if !contradictions.is_empty() {
            text += &format!(" ! CONTRADICTED: {contradictions}");
            tone = Tone::Bad;
        }
        lines.push(Line {
            id: index as u64,
            text: sanitize::line(&text).into_owned(),
            tone,
        });
    }
    lines
}

fn attempts(facts: &Facts) -> Vec<Line> {
    let attempts = facts.recorded.attempts.iter().enumerate();
    attempts
        .map(|(index, text)| Line {
            id: index as u64,
            text: sanitize::line(text).into_owned(),
            tone: Tone::Plain,
        })
        .collect()
}
