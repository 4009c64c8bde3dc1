//! How busy the GPUs of a training were (pure): over the time in which it trained. What comes before its first work, such as loading and
//! compiling, and what a box idles after its end, says nothing of it.

use super::trained::Span;
use crate::logbook::minutes::Minute;

/// A GPU that is used less than this does nothing, percent.
pub const NOTHING_PERCENT: f64 = 1.0;

/// A mean, minute by minute, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Busy {
    /// When it trained, from and to, microseconds since the epoch; `None`: nobody knows, and all counts.
    trained: Option<Vec<Span>>,
    /// A GPU has worked.
    began: bool,
    /// Percent times seconds, and the seconds.
    sum: (f64, f64),
    /// Seconds before the first work.
    idle_s: f64,
    /// Most memory that one GPU had in use meanwhile, bytes.
    memory_bytes: Option<u64>,
}

impl Busy {
    /// Of a training that went on in these times.
    pub fn of(trained: Vec<Span>) -> Self {
        Self {
            trained: Some(trained),
            ..Self::default()
        }
    }

    /// Adds a minute.
    pub fn add(&mut self, minute: &Minute) {
        let seconds = self.trained_s(minute);
        if seconds <= 0.0 {
            return;
        }
        let of = |key: &str| -> Vec<f64> {
            let number = |gpu| Minute::number(gpu, key);
            minute.gpus.iter().filter_map(number).collect()
        };
        let most = of("memory_used_bytes").into_iter().reduce(f64::max);
        self.memory_bytes = self.memory_bytes.max(most.map(|bytes| bytes as u64));
        let used = of("utilisation_percent");
        if used.is_empty() {
            return;
        }
        let percent = used.iter().sum::<f64>() / used.len() as f64;
        self.began |= percent >= NOTHING_PERCENT;
        match self.began {
            true => self.sum = (self.sum.0 + percent * seconds, self.sum.1 + seconds),
            false => self.idle_s += seconds,
        }
    }

    /// Seconds of a minute in which it trained.
    fn trained_s(&self, minute: &Minute) -> f64 {
        let span_s = minute.span_s.max(1);
        let Some(trained) = &self.trained else {
            return f64::from(span_s);
        };
        let to_us = minute.time_us.cast_signed();
        let from_us = to_us.saturating_sub(i64::from(span_s) * 1_000_000);
        let shared = trained.iter().map(|(began_us, ended_us)| {
            let us = to_us.min(*ended_us).saturating_sub(from_us.max(*began_us));
            us.max(0) as f64 / 1e6
        });
        shared.sum()
    }

    /// Mean use of all GPUs, percent; `None`: none was read while it trained.
    pub fn percent(&self) -> Option<f64> {
        let (sum, seconds) = self.sum;
        match self.began {
            true => Some(sum / seconds),
            false => (self.idle_s > 0.0).then_some(0.0),
        }
    }

    /// Percent times seconds, and the seconds: of several, the mean is that of their sums.
    pub fn sums(&self) -> (f64, f64) {
        match self.began {
            true => self.sum,
            false => (0.0, self.idle_s),
        }
    }

    /// Most memory that one GPU had in use while it trained, bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.memory_bytes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Minutes of two GPUs, each by its number and its use in percent.
    fn minutes(used: &[(u64, u64)]) -> Vec<Minute> {
        let minute = |(number, percent): &(u64, u64)| {
            let gpu = json!({"utilisation_percent": percent, "memory_used_bytes": percent << 30});
            let minute = json!({"time_us": number * 60_000_000, "span_s": 60, "gpus": [gpu, gpu]});
            serde_json::from_value(minute).unwrap()
        };
        used.iter().map(minute).collect()
    }

    #[test]
    fn the_mean_is_over_the_time_in_which_it_trained() {
        let check = |trained: Option<&[(i64, i64)]>, used: &[(u64, u64)], expected: Option<f64>| {
            let s = |(from, to): &(i64, i64)| (from * 1_000_000, to * 1_000_000);
            let mut busy = match trained {
                Some(spans) => Busy::of(spans.iter().map(s).collect()),
                None => Busy::default(),
            };
            minutes(used).iter().for_each(|minute| busy.add(minute));
            let found = busy.percent();
            let close = match (found, expected) {
                (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
                (found, expected) => found == expected,
            };
            assert!(close, "{trained:?} {used:?}: {found:?}");
            let (sum, seconds) = busy.sums();
            assert_eq!(found, (seconds > 0.0).then(|| sum / seconds));
        };
        let alone = [(1, 0), (2, 90), (3, 80), (4, 0), (5, 0), (6, 0)];
        // What it idles after its end, and before its first work.
        check(Some(&[(0, 180)]), &alone, Some(85.0));
        // Half a minute of it.
        check(
            Some(&[(60, 150)]),
            &alone,
            Some((90.0 * 60.0 + 80.0 * 30.0) / 90.0),
        );
        // A pause in it counts.
        check(Some(&[(60, 240)]), &alone, Some(170.0 / 3.0));
        check(Some(&[(60, 120), (300, 360)]), &alone, Some(45.0));
        check(Some(&[(180, 360)]), &alone, Some(0.0));
        check(Some(&[(400, 500)]), &alone, None);
        check(Some(&[]), &alone, None);
        check(None, &alone, Some(170.0 / 5.0));
        check(None, &[], None);
    }

    #[test]
    fn memory_that_was_in_use_while_it_trained_is_remembered() {
        let mut busy = Busy::of(vec![(0, 120_000_000)]);
        for minute in minutes(&[(1, 10), (2, 20), (3, 99)]) {
            busy.add(&minute);
        }
        assert_eq!(busy.memory_bytes(), Some(20 << 30));
    }
}
