//! The documented rates of the API (pure): a route that one key calls too often is refused.
//!
//! Off unless the switch `rate_limits` is on: the programs of a test share one key, and their waits would be real seconds.

use std::collections::{HashMap, VecDeque};

use crate::market::Millis;

/// Method, route and the least seconds between two calls, as documented.
const THRESHOLDS: &[(&str, &str, f64)] = &[
    ("PUT", "/api/v0/asks/{offer}", 4.5),
    ("PUT", "/api/v0/launch_instance", 5.0),
    ("GET", "/api/v1/instances", 1.0),
    ("GET", "/api/v0/instances/{id}", 2.0),
    // Start, stop and label are one route.
    ("PUT", "/api/v0/instances/{id}", 1.0),
    ("DELETE", "/api/v0/instances/{id}", 3.0),
    ("PUT", "/api/v0/instances/bid_price/{id}", 5.5),
    ("PUT", "/api/v0/instances/reboot/{id}", 1.0),
    ("PUT", "/api/v0/instances/recycle/{id}", 1.0),
    ("PUT", "/api/v0/instances/prepay/{id}", 2.0),
    ("GET", "/api/v0/instances/balance/{id}", 3.0),
    ("PUT", "/api/v0/instances/command/{id}", 1.5),
    ("GET", "/api/v0/instances/{id}/ssh", 1.0),
    ("POST", "/api/v0/instances/{id}/ssh", 1.0),
    ("DELETE", "/api/v0/instances/{id}/ssh/{key}", 2.0),
    ("GET", "/api/v0/auth/apikeys", 1.0),
    ("POST", "/api/v0/auth/apikeys", 2.0),
    ("GET", "/api/v0/secrets", 5.0),
    ("POST", "/api/v0/secrets", 3.0),
    ("PUT", "/api/v0/secrets", 3.0),
    ("DELETE", "/api/v0/secrets", 3.0),
    ("GET", "/api/v0/template", 3.0),
    ("GET", "/api/v0/volumes", 5.5),
    ("PUT", "/api/v0/volumes", 5.5),
    ("DELETE", "/api/v0/volumes", 5.5),
    ("POST", "/api/v0/volumes/search", 5.5),
    ("GET", "/api/v0/charges", 1.0),
    ("GET", "/api/v0/users/cloud_integrations", 2.9),
    ("GET", "/api/v0/machines/{id}/reports", 1.2),
    ("PUT", "/api/v0/commands/copy_direct", 3.5),
];
/// Searches have no threshold but a number in a period.
const SEARCHES: [(&str, &str); 3] = [
    ("POST", "/api/v0/bundles"),
    ("GET", "/api/v0/bundles"),
    ("PUT", "/api/v0/search/asks"),
];
const SEARCHES_PER_MINUTE: usize = 10;
const MINUTE_MS: Millis = 60_000;
/// A create that comes too early closes its route for this long.
const CREATE: &str = "/api/v0/asks/{offer}";
const CREATE_PENALTY_MS: Millis = 12_000;
/// Keys and routes that are remembered before those of more than a minute ago are forgotten.
const REMEMBERED: usize = 1000;

/// Who called which route when.
#[derive(Debug, Default)]
pub struct Limits {
    routes: HashMap<(String, &'static str, &'static str), Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    /// Of those that were served, oldest first; no more than the rate looks at.
    served: VecDeque<Millis>,
    closed_until: Millis,
}

/// A call that came too early.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TooOften {
    /// Least seconds between two calls in the long run.
    pub threshold_s: f64,
    /// Until the route is open again, seconds, rounded up.
    pub wait_s: u64,
}

struct Rate {
    method: &'static str,
    route: &'static str,
    calls: usize,
    period_ms: Millis,
}

impl Rate {
    fn of(method: &str, route: &str) -> Option<Rate> {
        let route = route.trim_end_matches('/');
        let threshold = THRESHOLDS
            .iter()
            .find(|(m, r, _)| (*m, *r) == (method, route))
            .map(|(method, route, seconds)| Rate {
                method,
                route,
                calls: 1,
                period_ms: (seconds * 1000.0) as Millis,
            });
        let search = || {
            let (method, route) = SEARCHES.iter().find(|known| **known == (method, route))?;
            Some(Rate {
                method,
                route,
                calls: SEARCHES_PER_MINUTE,
                period_ms: MINUTE_MS,
            })
        };
        threshold.or_else(search)
    }
}

impl Limits {
    /// Counts a call of a route by its template.
    ///
    /// # Errors
    /// When this key has called it too often. That call does not count, but for a create's penalty.
    pub fn admit(
        &mut self,
        now: Millis,
        key: &str,
        method: &str,
        route: &str,
    ) -> Result<(), TooOften> {
        let Some(rate) = Rate::of(method, route) else {
            return Ok(());
        };
        if self.routes.len() >= REMEMBERED {
            self.routes.retain(|_, calls| {
                let last = calls.served.back().copied().unwrap_or_default();
                now < (last + MINUTE_MS).max(calls.closed_until)
            });
        }
        let of = (key.to_owned(), rate.method, rate.route);
        let calls = self.routes.entry(of).or_default();
        let free_at = match calls.served.front() {
            Some(oldest) if calls.served.len() >= rate.calls => *oldest + rate.period_ms,
            _ => now,
        };
        let free_at = free_at.max(calls.closed_until);
        if now >= free_at {
            calls.served.push_back(now);
            if calls.served.len() > rate.calls {
                calls.served.pop_front();
            }
            return Ok(());
        }
        let free_at = if rate.route == CREATE {
            calls.closed_until = now + CREATE_PENALTY_MS;
            calls.closed_until
        } else {
            free_at
        };
        Err(TooOften {
            threshold_s: rate.period_ms as f64 / 1000.0 / rate.calls as f64,
            wait_s: ((free_at - now) as u64).div_ceil(1000),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_time_on_each_route_and_method() {
        let mut limits = Limits::default();
        let mut check = |now, key, method, route, expected: Option<(f64, u64)>| {
            let refused = limits.admit(now, key, method, route).err();
            let found = refused.map(|refused| (refused.threshold_s, refused.wait_s));
            assert_eq!(found, expected, "{now} {key} {method} {route}");
        };
        let one = "/api/v0/instances/{id}";
        check(0, "a", "GET", one, None);
        check(1, "a", "GET", "/api/v0/instances/{id}/", Some((2.0, 2)));
        check(1, "b", "GET", one, None);
        check(1, "a", "PUT", one, None);
        check(1, "a", "DELETE", one, None);
        check(1, "a", "GET", "/api/v1/instances", None);
        // What was refused does not count.
        check(1999, "a", "GET", one, Some((2.0, 1)));
        check(2000, "a", "GET", one, None);
        check(1000, "a", "PUT", one, Some((1.0, 1)));
        check(1001, "a", "PUT", one, None);
        // Where nothing is documented, nothing is refused.
        for _ in 0..3 {
            check(0, "a", "GET", "/api/v0/users/current", None);
        }
    }

    #[test]
    fn a_create_that_comes_too_early_closes_its_route_for_longer() {
        let mut limits = Limits::default();
        let mut check = |now, expected: Option<u64>| {
            let refused = limits.admit(now, "a", "PUT", "/api/v0/asks/{offer}/").err();
            assert_eq!(refused.map(|refused| refused.wait_s), expected, "{now}");
        };
        check(0, None);
        check(4500, None);
        check(8000, Some(12));
        check(9000, Some(12));
        check(20_999, Some(12));
        check(32_999, None);
    }

    #[test]
    fn ten_searches_go_through_in_any_minute() {
        let mut limits = Limits::default();
        let mut search = |now| limits.admit(now, "a", "POST", "/api/v0/bundles/");
        for now in 0..10 {
            assert_eq!(search(now * 1000), Ok(()));
        }
        let refused = search(59_999).unwrap_err();
        assert_eq!((refused.threshold_s, refused.wait_s), (6.0, 1));
        assert_eq!(search(60_000), Ok(()));
        assert!(search(60_999).is_err());
        assert_eq!(search(61_000), Ok(()));
    }

    #[test]
    fn what_is_remembered_of_many_keys_is_bounded() {
        let mut limits = Limits::default();
        for key in 0..5000 {
            let admitted = limits.admit(key * 100, &key.to_string(), "GET", "/api/v1/instances");
            assert_eq!(admitted, Ok(()));
        }
        assert!(limits.routes.len() <= REMEMBERED);
    }
}
