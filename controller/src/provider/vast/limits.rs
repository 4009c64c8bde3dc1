//! Vast.ai's rates: the documented minimal interval per route, what refusals teach, and how long to wait after one.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

use super::shared::Shared;

/// Minimal seconds between two calls of one route, as documented (thresholds of the API reference, Aug 2026).
const INTERVALS: &[(&str, f64)] = &[
    ("create instance", 4.5),
    ("show instance", 2.0),
    ("list instances", 1.0),
    (CHANGE, 1.0),
    ("destroy instance", 3.0),
    ("change bid", 5.5),
    ("reboot instance", 1.0),
    ("recycle instance", 1.0),
    ("prepay instance", 2.0),
    ("request logs", 1.5),
    ("execute", 1.5),
    (COPY, 3.5),
    (INSTANCE_KEYS, 1.0),
    ("detach ssh key", 2.0),
    (ACCOUNT_KEYS, 1.0),
    ("delete ssh key", 1.0),
    ("search templates", 3.0),
    (VOLUMES, 5.5),
    ("search volumes", 5.5),
    ("show user", 1.0),
    ("show charges", 1.0),
];
/// Start, stop and label are one request with three bodies, and so one route.
const CHANGE: &str = "change instance";
/// What is read and what is written under one path is taken for one route.
const INSTANCE_KEYS: &str = "keys of instance";
const ACCOUNT_KEYS: &str = "keys of account";
const VOLUMES: &str = "volumes";
const COPY: &str = "copy between instances";
/// Searches are capped at ten a minute. Five in half of one never exceed that, and a person's first ones need not wait.
const SEARCHES: (&str, usize, Duration) = ("search offers", 5, Duration::from_secs(30));
/// What all processes of a home may search together: the documented cap itself.
const SHARED_SEARCHES: (usize, Duration) = (10, Duration::from_secs(60));
/// After a refused create its route is closed for longer than its interval.
const PENALTY: (&str, Duration) = ("create instance", Duration::from_secs(12));
/// Longest wait that a caller is made to sit through; one that is longer is an error at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait that is believed: the daily quota of searches is renewed at midnight.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The route of an operation: those of one route share its rate.
fn route(operation: &'static str) -> &'static str {
    match operation {
        "start instance" | "stop instance" | "label instance" => CHANGE,
        "attach ssh key" | "list keys of instance" => INSTANCE_KEYS,
        "create ssh key" | "list ssh keys" => ACCOUNT_KEYS,
        "copy" | "cancel copy" => COPY,
        "list volumes" | "create volume" | "delete volume" => VOLUMES,
        other => other,
    }
}

/// Keeps this process to the documented rates, and to those that it is told.
#[derive(Debug, Default)]
pub(super) struct Limits {
    routes: Mutex<HashMap<&'static str, Route>>,
    /// Searches of all processes of a home.
    shared: Option<Shared>,
}

#[derive(Debug)]
struct Route {
    /// So many calls may go out in a period: as documented, or fewer where a refusal said so.
    calls: usize,
    period: Duration,
    /// The last calls, oldest first: when they were answered, or sent while they are not.
    recent: VecDeque<Instant>,
    /// Nothing before this: a refusal said so.
    not_before: Instant,
}

impl Route {
    fn new(name: &str, now: Instant) -> Self {
        let interval = INTERVALS.iter().find(|(known, _)| *known == name);
        let (calls, period) = match interval {
            Some((_, seconds)) => (1, Duration::from_secs_f64(*seconds)),
            None if name == SEARCHES.0 => (SEARCHES.1, SEARCHES.2),
            None => (1, Duration::ZERO),
        };
        Self {
            calls,
            period,
            recent: VecDeque::new(),
            not_before: now,
        }
    }

    /// When the next call may go out.
    fn free_at(&self) -> Instant {
        let full = self.recent.len() >= self.calls;
        let oldest = self.recent.front().filter(|_| full);
        oldest.map_or(self.not_before, |oldest| {
            self.not_before.max(*oldest + self.period)
        })
    }

    /// What one call costs of the period in the long run.
    fn interval(&self) -> Duration {
        self.period / self.calls as u32
    }
}

impl Limits {
    /// The same, and searches are counted together with those of every other process of `home`.
    pub(super) fn sharing(home: &Path) -> Self {
        let (calls, period) = SHARED_SEARCHES;
        Self {
            shared: Some(Shared::new(home, calls, period)),
            ..Self::default()
        }
    }

    /// Waits until `operation` may be called, and counts that call. The error is how long that would be, where a refusal closed its
    /// route for longer than [`PATIENCE`].
    pub(super) async fn wait(&self, operation: &'static str) -> Result<Sent, Duration> {
        let name = route(operation);
        if let Some(shared) = self.shared.as_ref().filter(|_| name == SEARCHES.0) {
            shared.wait().await;
        }
        loop {
            let free_at = {
                let mut routes = self.routes.lock().await;
                let now = Instant::now();
                let route = routes.entry(name).or_insert_with(|| Route::new(name, now));
                let closed = route.not_before.saturating_duration_since(now);
                if closed > PATIENCE {
                    return Err(closed);
                }
                let free_at = route.free_at();
                if free_at <= now {
                    route.recent.push_back(now);
                    while route.recent.len() > route.calls {
                        route.recent.pop_front();
                    }
                    return Ok(Sent {
                        route: name,
                        at: now,
                    });
                }
                free_at
            };
            // Who waits for the same moment has to look again: one of them takes it.
            tokio::time::sleep_until(free_at).await;
        }
    }

    /// The call was answered, or given up: intervals count from here. The server saw it at some moment since it was sent, and one
    /// that was long on its way must not bring the next too close to it.
    pub(super) async fn answered(&self, sent: Sent) {
        let mut routes = self.routes.lock().await;
        let Some(route) = routes.get_mut(sent.route) else {
            return;
        };
        // Where the call is not among the last ones any more, later ones hold the route.
        if let Some(call) = route.recent.iter().position(|at| *at == sent.at) {
            route.recent.remove(call);
            route.recent.push_back(Instant::now());
        }
    }

    /// Learns from a refusal, so that no call of this process goes out before it may. Answers how long that is.
    pub(super) async fn refused(
        &self,
        operation: &'static str,
        refusal: &Refusal,
        tries: u32,
    ) -> Duration {
        let name = route(operation);
        let mut routes = self.routes.lock().await;
        let now = Instant::now();
        let route = routes.entry(name).or_insert_with(|| Route::new(name, now));
        if let Some(threshold) = refusal.threshold.filter(|threshold| *threshold < PATIENCE) {
            route.period = threshold.max(route.interval());
            route.calls = 1;
            while route.recent.len() > 1 {
                route.recent.pop_front();
            }
        }
        let least = match name == PENALTY.0 {
            true => PENALTY.1,
            false => route.interval(),
        };
        let wait = match refusal.wait {
            Some(wait) => wait,
            None => backoff(tries)
                .max(least)
                .max(refusal.threshold.unwrap_or_default()),
        };
        let wait = wait + jitter(Duration::from_millis(300));
        route.not_before = route.not_before.max(now + wait);
        wait
    }
}

/// A call that went out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sent {
    route: &'static str,
    at: Instant,
}

/// What a 429 says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Refusal {
    /// How long to wait: by its header, a body's `retry_after`, or the quota of a day.
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
        // Seconds, or a date.
        let dated = || {
            let date = headers.get(RETRY_AFTER)?.to_str().ok()?;
            let date = jiff::fmt::rfc2822::parse(date.trim()).ok()?;
            let now = jiff::Timestamp::now();
            Some(date.timestamp().duration_since(now).as_secs_f64().max(0.0))
        };
        let wait = header(RETRY_AFTER.as_str())
            .or_else(dated)
            .or_else(|| body.get("retry_after").and_then(Value::as_f64))
            .and_then(duration)
            .or_else(|| quota.then(renewed).flatten());
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
                None,
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
                None,
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
            (&none, "threshold=1e999", None, Some(1)),
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
    fn a_date_to_come_back_at_is_waited_for_and_one_that_is_past_is_now() {
        let read = |date: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", date.parse().unwrap());
            Refusal::read(&headers, &Value::Null, "").wait
        };
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(40);
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        let soon = printer.timestamp_to_rfc9110_string(&soon).unwrap();
        let wait = read(&soon).unwrap().as_secs_f64();
        assert!(wait > 5.0 && wait <= 40.0, "{soon}: {wait}");
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(read(past), Some(Duration::ZERO));
        assert_eq!(read("next week"), None);
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
        let mut sent_s = Vec::new();
        for _ in 0..21 {
            limits.wait("search offers").await.unwrap();
            sent_s.push(start.elapsed().as_secs());
        }
        assert_eq!(sent_s[..6], [0, 0, 0, 0, 0, 30]);
        for first in sent_s.windows(11) {
            assert!(first[10] - first[0] >= 60, "ten in a minute: {sent_s:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn starting_and_stopping_share_the_rate_of_their_route() {
        let limits = Limits::default();
        let start = Instant::now();
        limits.wait("stop instance").await.unwrap();
        limits.wait("start instance").await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        // Whoever waits at the same time goes one after the other.
        let (one, other) =
            tokio::join!(limits.wait("stop instance"), limits.wait("start instance"));
        assert_ne!(one.unwrap(), other.unwrap());
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        limits.wait("destroy instance").await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_call_keeps_its_distance_from_an_answer_that_came_late() {
        let limits = Limits::default();
        let start = Instant::now();
        let sent = limits.wait("show instance").await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        limits.answered(sent).await;
        limits.wait("show instance").await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_millis(2700));
        // One whose answer is still to come does not hold the route for longer than its interval.
        limits.wait("show instance").await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_millis(4700));
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
        // Without any figure the wait begins at the route's own interval, and at the penalty of one that has one.
        let unknown = limits.refused("change bid", &Refusal::default(), 1).await;
        assert!(unknown >= Duration::from_millis(5500));
        let named = Refusal {
            wait: None,
            threshold: Some(Duration::from_millis(4500)),
        };
        let penalty = limits.refused("create instance", &named, 1).await;
        assert!(penalty >= Duration::from_secs(12));
    }
}
