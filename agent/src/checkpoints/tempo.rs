//! How fast we may send: so many parts at once as the server takes gladly, and so many bytes a second as the user allows.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{self, Instant};

use super::rates::Rates;

/// Most parts in flight; memory usually allows fewer.
pub const MOST: usize = 16;
/// After the number was halved it is left alone for so long: one hiccup fails many requests.
const HOLD: Duration = Duration::from_secs(1);
/// Longest sleep before looking whether the limit was lifted.
const SLICE: Duration = Duration::from_secs(1);

/// Additive increase, multiplicative decrease (pure). Times are since any fixed moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Concurrency {
    limit: f64,
    halved_at: Option<Duration>,
}

impl Concurrency {
    /// So many parts in flight at first.
    pub fn new(first: u8) -> Concurrency {
        Concurrency {
            limit: f64::from(first).clamp(1.0, MOST as f64),
            halved_at: None,
        }
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A request succeeded: one more in flight after as many successes as are in flight.
    pub fn succeeded(&mut self) {
        self.limit = (self.limit + 1.0 / self.limit).min(MOST as f64);
    }

    /// The server, or the way to it, has too much to do.
    pub fn failed(&mut self, now: Duration) {
        if self.halved_at.is_none_or(|at| now >= at + HOLD) {
            self.limit = (self.limit / 2.0).max(1.0);
            self.halved_at = Some(now);
        }
    }
}

/// The state that all uploads of a run share.
#[derive(Debug)]
pub struct Tempo {
    began: Instant,
    rates: Rates,
    clock: fn() -> u64,
    concurrency: Mutex<Concurrency>,
    budget: Mutex<Budget>,
}

#[derive(Debug)]
struct Budget {
    /// The box goes away: no rate counts any more.
    lifted: bool,
    /// When the bytes that were taken so far will have been sent at that rate.
    free_at: Instant,
}

impl Tempo {
    /// With the rates of a day by a clock (microseconds since the epoch), and so many parts in flight at first.
    pub fn new(rates: Rates, first: u8, clock: fn() -> u64) -> Tempo {
        let began = Instant::now();
        Tempo {
            began,
            rates,
            clock,
            concurrency: Mutex::new(Concurrency::new(first)),
            budget: Mutex::new(Budget {
                lifted: false,
                free_at: began,
            }),
        }
    }

    /// Bytes per second that may be sent now; `None`: as many as go.
    fn rate(&self) -> Option<u64> {
        let lifted = self.budget().lifted;
        self.rates.at((self.clock)()).filter(|_| !lifted)
    }

    /// How many requests may be in flight, at most so many.
    pub fn parallel(&self, most: usize) -> usize {
        self.concurrency().limit().clamp(1, most.max(1))
    }

    /// Takes note of how a request with data ended.
    pub fn answered(&self, gladly: bool) {
        let now = self.began.elapsed();
        let mut concurrency = self.concurrency();
        if gladly {
            concurrency.succeeded();
        } else {
            concurrency.failed(now);
        }
    }

    /// Waits until so many bytes may be sent.
    pub async fn take(&self, bytes: u64) {
        let Some(begins) = self.reserve(bytes) else {
            return;
        };
        loop {
            let now = Instant::now();
            if now >= begins || self.rate().is_none() {
                return;
            }
            time::sleep_until(begins.min(now + SLICE)).await;
        }
    }

    fn reserve(&self, bytes: u64) -> Option<Instant> {
        let rate = self.rate()?;
        let now = Instant::now();
        let mut budget = self.budget();
        let begins = budget.free_at.max(now);
        budget.free_at = begins + Duration::from_secs_f64(bytes as f64 / rate as f64);
        Some(begins)
    }

    /// The box goes away: from now on as fast as it goes.
    pub fn lift(&self) {
        self.budget().lifted = true;
    }

    fn concurrency(&self) -> MutexGuard<'_, Concurrency> {
        self.concurrency
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::checkpoints::rates::Window;

    #[test]
    fn one_more_for_each_round_of_successes_and_half_after_a_failure() {
        let at = Duration::from_millis;
        let mut concurrency = Concurrency::new(4);
        let successes = |concurrency: &mut Concurrency, count: usize| {
            for _ in 0..count {
                concurrency.succeeded();
            }
            concurrency.limit()
        };
        assert_eq!(concurrency.limit(), 4);
        assert_eq!(successes(&mut concurrency, 5), 5);
        assert_eq!(successes(&mut concurrency, 6), 6);
        assert_eq!(successes(&mut concurrency, 1_000), MOST);
        concurrency.failed(at(0));
        concurrency.failed(at(900));
        assert_eq!(concurrency.limit(), 8, "one hiccup is one failure");
        for second in 1..9 {
            concurrency.failed(at(second * 1_000));
        }
        assert_eq!(concurrency.limit(), 1);
        assert_eq!(successes(&mut concurrency, 2), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_bytes_are_sent_than_are_allowed_until_the_box_goes_away() {
        let rates = Rates {
            max_bytes_per_s: Some(1_000_000),
            windows: Vec::new(),
        };
        let tempo = Tempo::new(rates, 4, || 0);
        let began = Instant::now();
        for _ in 0..5 {
            tempo.take(2_000_000).await;
        }
        assert_eq!(began.elapsed().as_secs(), 8, "the fifth begins after four");
        let lifted = async {
            time::sleep(Duration::from_secs(3)).await;
            tempo.lift();
        };
        tempo.take(100_000_000).await;
        tokio::join!(tempo.take(1), lifted);
        assert!(began.elapsed().as_secs() <= 14, "{:?}", began.elapsed());
        let unlimited = Tempo::new(Rates::default(), 4, || 0);
        let began = Instant::now();
        unlimited.take(u64::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_without_a_limit_lets_what_waits_go_at_once() {
        // Midnight when it begins; the window opens an hour later.
        fn clock() -> u64 {
            HOUR_US.fetch_add(1_000_000, Ordering::Relaxed)
        }
        static HOUR_US: AtomicU64 = AtomicU64::new(3_590_000_000);
        let rates = Rates {
            max_bytes_per_s: Some(1),
            windows: vec![Window {
                from_min: 60,
                to_min: 120,
                max_bytes_per_s: None,
            }],
        };
        let tempo = Tempo::new(rates, 4, clock);
        let began = Instant::now();
        tempo.take(1_000_000).await;
        tempo.take(1).await;
        assert!(began.elapsed().as_secs() <= 12, "{:?}", began.elapsed());
    }
}
