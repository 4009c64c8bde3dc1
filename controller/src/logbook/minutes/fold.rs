//! Many readings become one (pure), without knowing their values: a name says by its unit how it is folded.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{LEAST_USE, MOST_USE, Minute, short};

/// How values of the same name become one.
enum Rule {
    Mean,
    Largest,
    Least,
    Union,
    Last,
}

/// By the name alone, so that a new value needs no line here as long as it is named as the others are.
fn rule(key: &str) -> Rule {
    const MEANS: [&str; 4] = ["_percent", "_mw", "_mhz", "_per_s"];
    match key {
        LEAST_USE => Rule::Least,
        // Of memory and heat the peak counts: that is what ends things.
        MOST_USE | "memory_used_bytes" | "temperature_c" | "memory_temperature_c" => Rule::Largest,
        "throttle_reasons" => Rule::Union,
        _ if MEANS.iter().any(|unit| key.ends_with(unit)) => Rule::Mean,
        _ => Rule::Last,
    }
}

/// Values as they add up.
#[derive(Debug, Default)]
struct Fold(BTreeMap<String, (f64, f64, Value)>);

impl Fold {
    fn add(&mut self, values: &Map<String, Value>, seconds: f64) {
        for (key, value) in values {
            let (sum, weight, kept) =
                self.0
                    .entry(key.clone())
                    .or_insert((0.0, 0.0, value.clone()));
            if let Some(number) = value.as_f64() {
                *sum += number * seconds;
                *weight += seconds;
            }
            let before = kept.as_f64();
            let replaces = match rule(key) {
                Rule::Largest => value.as_f64() > before,
                Rule::Least => value.as_f64() < before,
                Rule::Union => {
                    let all = kept.as_u64().unwrap_or(0) | value.as_u64().unwrap_or(0);
                    *kept = Value::from(all);
                    false
                }
                Rule::Mean | Rule::Last => true,
            };
            if replaces {
                *kept = value.clone();
            }
        }
    }

    fn take(self) -> Map<String, Value> {
        let folded = self.0.into_iter().map(|(key, (sum, weight, kept))| {
            let is_mean = matches!(rule(&key), Rule::Mean) && weight > 0.0;
            let value = match is_mean {
                true if kept.is_f64() => short(Value::from(sum / weight)),
                true => Value::from((sum / weight).round() as u64),
                false => kept,
            };
            (key, value)
        });
        folded.collect()
    }
}

/// Gathers readings until their span is over (pure).
#[derive(Debug)]
pub(super) struct Folder {
    span_us: u64,
    first_us: u64,
    newest_us: u64,
    seconds: u64,
    gpus: BTreeMap<u64, Fold>,
    host: Option<Fold>,
}

impl Folder {
    /// Makes one minute of all within `span_s` seconds.
    pub(super) fn new(span_s: u32) -> Self {
        Self {
            span_us: u64::from(span_s.max(1)) * 1_000_000,
            first_us: 0,
            newest_us: 0,
            seconds: 0,
            gpus: BTreeMap::new(),
            host: None,
        }
    }

    /// Adds a reading. One of the next span gives back what was gathered of the last.
    pub(super) fn add(&mut self, reading: &Minute) -> Option<Minute> {
        let span = |us: u64| us / self.span_us;
        let is_new = self.seconds > 0 && span(reading.time_us) != span(self.newest_us);
        let done = if is_new { self.take() } else { None };
        if self.seconds == 0 {
            let before_us = u64::from(reading.span_s) * 1_000_000;
            self.first_us = reading.time_us.saturating_sub(before_us);
        }
        self.newest_us = reading.time_us;
        self.seconds += u64::from(reading.span_s.max(1));
        let weight = f64::from(reading.span_s.max(1));
        for gpu in &reading.gpus {
            let index = gpu.get("index").and_then(Value::as_u64).unwrap_or(0);
            self.gpus.entry(index).or_default().add(gpu, weight);
        }
        if let Some(host) = &reading.host {
            self.host
                .get_or_insert_with(Fold::default)
                .add(host, weight);
        }
        done
    }

    /// From now on, longer spans.
    pub(super) fn lengthen(&mut self, span_s: u32) {
        self.span_us = u64::from(span_s.max(1)) * 1_000_000;
    }

    /// What was gathered; `None` when that is nothing.
    pub(super) fn take(&mut self) -> Option<Minute> {
        if self.seconds == 0 {
            return None;
        }
        // More than one reading a second does not make it longer.
        let lasted_s = self
            .newest_us
            .saturating_sub(self.first_us)
            .div_ceil(1_000_000);
        let seconds = self.seconds.min(lasted_s).max(1);
        self.seconds = 0;
        Some(Minute {
            time_us: self.newest_us,
            span_s: u32::try_from(seconds).unwrap_or(u32::MAX),
            gpus: std::mem::take(&mut self.gpus)
                .into_values()
                .map(Fold::take)
                .collect(),
            host: self.host.take().map(Fold::take),
        })
    }
}
