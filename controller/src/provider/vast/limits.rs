//! Vast.ai's rates: the documented minimal interval per route, and how long to wait after a refusal.

use std::{collections::HashMap, time::Duration};

use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

/// Minimal seconds between two calls of one operation, as documented (thresholds of the API reference, Aug 2026).
/// Searches are capped at ten a minute; a person's first ones must not wait, so they get a bucket of their own.
const INTERVALS: &[(&str, f64)] = &[
    ("create instance", 4.5),
    ("show instance", 2.0),
    ("list instances", 1.0),
    ("start instance", 1.0),
    ("stop instance", 1.0),
    ("destroy instance", 3.0),
    ("change bid", 5.5),
    ("attach ssh key", 1.0),
    ("list ssh keys", 1.0),
    ("create ssh key", 1.0),
    ("show charges", 1.0),
    ("search offers", 6.0),
];
/// Searches that may go out at once before the interval holds.
const SEARCH_BURST: u32 = 5;

/// Keeps this process to the documented rates.
#[derive(Debug, Default)]
pub(super) struct Limits {
    routes: Mutex<HashMap<&'static str, Route>>,
}

#[derive(Debug)]
struct Route {
    /// When the bucket is full again.
    full_at: Instant,
}

impl Limits {
    /// Waits until `operation` may be called.
    pub(super) async fn wait(&self, operation: &'static str) {
        let Some(interval) = interval(operation) else {
            return;
        };
        let burst = if operation == "search offers" {
            SEARCH_BURST
        } else {
            1
        };
        let start = {
            let mut routes = self.routes.lock().await;
            let now = Instant::now();
            let route = routes.entry(operation).or_insert(Route { full_at: now });
            let earliest = route.full_at.max(now) + interval;
            route.full_at = earliest;
            // A call may start when at most `burst` intervals are owed after it.
            earliest
                .checked_sub(interval * burst)
                .unwrap_or(now)
                .max(now)
        };
        tokio::time::sleep_until(start).await;
    }
}

fn interval(operation: &str) -> Option<Duration> {
    let (_, seconds) = INTERVALS.iter().find(|(name, _)| *name == operation)?;
    Some(Duration::from_secs_f64(*seconds))
}

/// How long a 429 asks to wait: its header, a body's `retry_after`, or the `threshold=` in its text.
pub(super) fn retry_after(headers: &HeaderMap, body: &Value, text: &str) -> Option<Duration> {
    let seconds = super::retry_after_header(headers)
        .or_else(|| body.get("retry_after").and_then(Value::as_f64))
        .or_else(|| {
            let (_, tail) = text.split_once("threshold=")?;
            let number: String = tail
                .chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            number.parse().ok()
        })?;
    (seconds.is_finite() && (0.0..=86_400.0).contains(&seconds))
        .then(|| Duration::from_secs_f64(seconds) + jitter(Duration::from_millis(300)))
}

/// Full jitter on a doubling from 0.3 s, capped at 15 s. `tries` counts from 1.
pub(super) fn backoff(tries: u32) -> Duration {
    let ceiling = Duration::from_millis(300) * 2u32.pow(tries.min(8));
    Duration::from_millis(100) + jitter(ceiling.min(Duration::from_secs(15)))
}

fn jitter(ceiling: Duration) -> Duration {
    ceiling.mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form_of_a_rate_refusal_is_understood() {
        let mut with_header = HeaderMap::new();
        with_header.insert("retry-after", "7".parse().unwrap());
        let none = HeaderMap::new();
        let cases: [(&HeaderMap, &str, Option<u64>); 6] = [
            (&with_header, "", Some(7)),
            (
                &none,
                "API requests too frequent: endpoint threshold=4",
                Some(4),
            ),
            (
                &none,
                r#"{"detail":"API requests too frequent endpoint threshold=2.0"}"#,
                Some(2),
            ),
            (
                &none,
                r#"{"success":false,"error":"rate_limit_exceeded","retry_after":9}"#,
                Some(9),
            ),
            (&none, "API requests too frequent", None),
            (&none, r#"{"retry_after":-1}"#, None),
        ];
        for (headers, text, expected) in cases {
            let body = serde_json::from_str(text).unwrap_or(Value::Null);
            let wait = retry_after(headers, &body, text).map(|wait| wait.as_secs());
            assert_eq!(wait, expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_one_route_keep_their_interval_and_searches_may_burst() {
        let limits = Limits::default();
        let start = Instant::now();
        for _ in 0..3 {
            limits.wait("show instance").await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(4));

        let start = Instant::now();
        for _ in 0..5 {
            limits.wait("search offers").await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        limits.wait("search offers").await;
        assert_eq!(start.elapsed(), Duration::from_secs(6));
    }
}
