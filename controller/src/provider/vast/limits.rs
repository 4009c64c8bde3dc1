//! Vast.ai's rates: the documented minimal interval per route, what refusals teach, and how long to wait after one.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::header::{HeaderMap, RETRY_AFTER};
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
    ("request logs", 1.5),
    ("attach ssh key", 1.0),
    ("list ssh keys", 1.0),
    ("create ssh key", 1.0),
    ("show user", 1.0),
    ("show charges", 1.0),
    ("search offers", 6.0),
];
/// Searches that may go out at once before the interval holds.
const SEARCH_BURST: u32 = 5;
/// Longest wait that a caller is made to sit through; one that is longer is an error at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait that is believed: the daily quota of searches is renewed at midnight.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Keeps this process to the documented rates, and to those that it is told.
#[derive(Debug, Default)]
pub(super) struct Limits {
    routes: Mutex<HashMap<&'static str, Route>>,
}

#[derive(Debug)]
struct Route {
    /// Minimal time between two calls: documented, or longer where a refusal said so.
    interval: Duration,
    /// When the bucket is full again.
    full_at: Instant,
    /// Nothing before this: a refusal said so.
    not_before: Instant,
}

impl Route {
    fn new(operation: &str, now: Instant) -> Self {
        let interval = INTERVALS.iter().find(|(name, _)| *name == operation);
        Self {
            interval: interval.map_or(Duration::ZERO, |(_, s)| Duration::from_secs_f64(*s)),
            full_at: now,
            not_before: now,
        }
    }
}

impl Limits {
    /// Waits until `operation` may be called. The error is how long that would be, where it is longer than [`PATIENCE`].
    pub(super) async fn wait(&self, operation: &'static str) -> Result<(), Duration> {
        let burst = if operation == "search offers" {
            SEARCH_BURST
        } else {
            1
        };
        let start = {
            let mut routes = self.routes.lock().await;
            let now = Instant::now();
            let route = routes
                .entry(operation)
                .or_insert_with(|| Route::new(operation, now));
            let closed = route.not_before.saturating_duration_since(now);
            if closed > PATIENCE {
                return Err(closed);
            }
            let earliest = route.full_at.max(now) + route.interval;
            route.full_at = earliest;
            // A call may start when at most `burst` intervals are owed after it.
            earliest
                .checked_sub(route.interval * burst)
                .unwrap_or(now)
                .max(now)
                .max(route.not_before)
        };
        tokio::time::sleep_until(start).await;
        Ok(())
    }

    /// Learns from a refusal, so that no call of this process goes out before it may. Answers how long that is.
    pub(super) async fn refused(
        &self,
        operation: &'static str,
        refusal: &Refusal,
        tries: u32,
    ) -> Duration {
        let mut routes = self.routes.lock().await;
        let now = Instant::now();
        let route = routes
            .entry(operation)
            .or_insert_with(|| Route::new(operation, now));
        if let Some(threshold) = refusal.threshold.filter(|threshold| *threshold < PATIENCE) {
            route.interval = route.interval.max(threshold);
        }
        let wait = match refusal.wait {
            Some(wait) => wait + jitter(Duration::from_millis(300)),
            None => backoff(tries).max(route.interval + jitter(Duration::from_millis(300))),
        };
        route.not_before = route.not_before.max(now + wait);
        wait
    }
}

/// What a 429 says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Refusal {
    /// How long to wait: by its header, a body's `retry_after`, or the `threshold=` in its text.
    pub(super) wait: Option<Duration>,
    /// The route's interval, where it is named.
    pub(super) threshold: Option<Duration>,
}

impl Refusal {
    /// Reads every form that was seen.
    pub(super) fn read(headers: &HeaderMap, body: &Value, text: &str) -> Self {
        let header =
            |name: &str| -> Option<f64> { headers.get(name)?.to_str().ok()?.trim().parse().ok() };
        let threshold = text.split_once("threshold=").and_then(|(_, tail)| {
            let number: String = tail
                .chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            duration(number.trim_end_matches('.').parse().ok()?)
        });
        // The quota of a day comes without `Retry-After`, and asking again only spends more of it.
        let quota = body.get("error").and_then(Value::as_str) == Some("search_quota_exceeded");
        let renewed = || {
            let now_s = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .ok()?
                .as_secs_f64();
            let reset_s = header("x-ratelimit-reset").filter(|reset| *reset > now_s);
            let midnight_s = ((now_s / 86_400.0).floor() + 1.0) * 86_400.0;
            duration(reset_s.unwrap_or(midnight_s) - now_s)
        };
        let wait = header(RETRY_AFTER.as_str())
            .or_else(|| body.get("retry_after").and_then(Value::as_f64))
            .and_then(duration)
            .or_else(|| quota.then(renewed).flatten())
            .or(threshold);
        Self { wait, threshold }
    }
}

fn duration(seconds: f64) -> Option<Duration> {
    let believed = seconds.is_finite() && (0.0..=LONGEST.as_secs_f64()).contains(&seconds);
    believed.then(|| Duration::from_secs_f64(seconds))
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
        let cases: [(&HeaderMap, &str, Option<u64>, Option<u64>); 8] = [
            (&with_header, "", Some(7), None),
            (
                &none,
                "API requests too frequent: endpoint threshold=4",
                Some(4),
                Some(4),
            ),
            (
                &with_header,
                "API requests too frequent: endpoint threshold=4.",
                Some(7),
                Some(4),
            ),
            (
                &none,
                r#"{"detail":"API requests too frequent endpoint threshold=2.0"}"#,
                Some(2),
                Some(2),
            ),
            (
                &none,
                r#"{"success":false,"error":"rate_limit_exceeded","retry_after":9}"#,
                Some(9),
                None,
            ),
            (&none, "API requests too frequent", None, None),
            (&none, r#"{"retry_after":-1}"#, None, None),
            (&none, "threshold=1e999", Some(1), Some(1)),
        ];
        for (headers, text, wait, threshold) in cases {
            let body = serde_json::from_str(text).unwrap_or(Value::Null);
            let found = Refusal::read(headers, &body, text);
            let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
            assert_eq!(
                (seconds(found.wait), seconds(found.threshold)),
                (wait, threshold),
                "{text}"
            );
        }
    }

    #[test]
    fn a_spent_quota_of_searches_is_waited_for_until_midnight_and_not_asked_again() {
        let text = r#"{"success":false,"error":"search_quota_exceeded","msg":"Daily search quota exceeded."}"#;
        let body = serde_json::from_str(text).unwrap();
        let wait = Refusal::read(&HeaderMap::new(), &body, text).wait.unwrap();
        assert!(wait <= LONGEST);
        let soon = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
            + 500;
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-reset", soon.into());
        let wait = Refusal::read(&headers, &body, text).wait.unwrap();
        assert!((400..=500).contains(&wait.as_secs()), "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_one_route_keep_their_interval_and_searches_may_burst() {
        let limits = Limits::default();
        let start = Instant::now();
        for _ in 0..3 {
            limits.wait("show instance").await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::from_secs(4));

        let start = Instant::now();
        for _ in 0..5 {
            limits.wait("search offers").await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        limits.wait("search offers").await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(6));
        // In the long run ten a minute.
        for _ in 0..20 {
            limits.wait("search offers").await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::from_secs(126));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_holds_every_later_call_of_its_route_and_its_threshold_is_kept() {
        let limits = Limits::default();
        let refusal = Refusal {
            wait: Some(Duration::from_secs(12)),
            threshold: Some(Duration::from_secs(5)),
        };
        let start = Instant::now();
        limits.wait("show instance").await.unwrap();
        let wait = limits.refused("show instance", &refusal, 1).await;
        assert!(wait >= Duration::from_secs(12) && wait < Duration::from_secs(13));
        limits.wait("show instance").await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(12));
        let start = Instant::now();
        for _ in 0..3 {
            limits.wait("show instance").await.unwrap();
        }
        assert!(
            start.elapsed() >= Duration::from_secs(10),
            "{:?}",
            start.elapsed()
        );

        // Other routes are not held; a wait of hours is an error at once.
        let start = Instant::now();
        limits.wait("stop instance").await.unwrap();
        let hours = Refusal {
            wait: Some(Duration::from_secs(7200)),
            threshold: None,
        };
        limits.refused("search offers", &hours, 1).await;
        let closed = limits.wait("search offers").await.unwrap_err();
        assert!(closed >= Duration::from_secs(7200));
        assert_eq!(start.elapsed(), Duration::ZERO);
        // Without any figure the wait begins at the route's own interval.
        let unknown = limits.refused("change bid", &Refusal::default(), 1).await;
        assert!(unknown >= Duration::from_millis(5500));
    }
}
