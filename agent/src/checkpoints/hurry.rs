//! How much of the processor an upload may ask for (pure): nothing that the training wants, for as long as the backup keeps up.

use std::time::Duration;

/// What is asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// What nobody else wants: a training on every core does not feel it, and an upload beside it is several times slower.
    Idle,
    /// A small share in any case.
    Nice,
}

/// Share of the time between two checkpoints after which one that still waits is in a hurry: so much is left to make up for it.
const WAITS_AT_EASE: f64 = 0.5;

/// What the judgement rests on. Times are since any fixed moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Now.
    pub now: Duration,
    /// How often at least a finished checkpoint must reach the bucket; zero: nobody said.
    pub every: Duration,
    /// What usually lies between two checkpoints of this session; `None`: there were no two.
    pub interval: Option<Duration>,
    /// How many finished checkpoints are not committed.
    pub waiting: usize,
    /// When the oldest of them was found finished.
    pub waiting_since: Option<Duration>,
    /// What is left to send of the upload under way, and how fast it has been.
    pub left_bytes: u64,
    /// Bytes per second; `None`: nothing was measured.
    pub bytes_per_s: Option<f64>,
    /// The session has ended, or the box goes away: there is no training to be gentle to, or no time.
    pub is_ending: bool,
}

/// The rank to take after `before`. One that was raised stays until everything is saved: it would only have to be raised again.
pub fn rank(facts: &Facts, before: Rank) -> Rank {
    if facts.is_ending || facts.waiting > 1 {
        return Rank::Nice;
    }
    let Some(since) = facts.waiting_since else {
        return Rank::Idle;
    };
    if before == Rank::Nice {
        return Rank::Nice;
    }
    let every = Some(facts.every).filter(|every| !every.is_zero());
    let Some(allowed) = every.into_iter().chain(facts.interval).min() else {
        return Rank::Idle;
    };
    let (waited, allowed) = (
        facts.now.saturating_sub(since).as_secs_f64(),
        allowed.as_secs_f64(),
    );
    let to_come = facts
        .bytes_per_s
        .map_or(0.0, |rate| facts.left_bytes as f64 / rate.max(1.0));
    if waited > allowed * WAITS_AT_EASE || waited + to_come > allowed {
        Rank::Nice
    } else {
        Rank::Idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_in_a_hurry_only_while_it_cannot_keep_up() {
        let seconds = Duration::from_secs;
        let at_ease = Facts {
            now: seconds(1_000),
            every: seconds(600),
            interval: None,
            waiting: 1,
            waiting_since: Some(seconds(990)),
            left_bytes: 100 << 20,
            bytes_per_s: Some((10 << 20) as f64),
            is_ending: false,
        };
        let check = |change: &dyn Fn(&mut Facts), before: Rank, expected: Rank| {
            let mut facts = at_ease.clone();
            change(&mut facts);
            assert_eq!(rank(&facts, before), expected, "{facts:?} after {before:?}");
        };
        use Rank::{Idle, Nice};
        check(&|_| {}, Idle, Idle);
        check(&|facts| facts.is_ending = true, Idle, Nice);
        check(&|facts| facts.waiting = 2, Idle, Nice);
        // Half of the interval, and the end of it at the rate that was measured.
        check(
            &|facts| facts.waiting_since = Some(seconds(700)),
            Idle,
            Idle,
        );
        check(
            &|facts| facts.waiting_since = Some(seconds(699)),
            Idle,
            Nice,
        );
        check(&|facts| facts.left_bytes = 5_900 << 20, Idle, Idle);
        check(&|facts| facts.left_bytes = 5_901 << 20, Idle, Nice);
        check(&|facts| facts.bytes_per_s = Some(0.0), Idle, Nice);
        check(
            &|facts| (facts.bytes_per_s, facts.left_bytes) = (None, u64::MAX),
            Idle,
            Idle,
        );
        // The trainer's own interval counts where it is the shorter one.
        check(&|facts| facts.interval = Some(seconds(15)), Idle, Nice);
        check(&|facts| facts.interval = Some(seconds(9_000)), Idle, Idle);
        // Without a deadline nothing is late, but two are one too many.
        let no_deadline = |facts: &mut Facts| {
            (facts.every, facts.waiting_since) = (Duration::ZERO, Some(seconds(0)));
        };
        check(&no_deadline, Idle, Idle);
        // What was raised stays so until all is saved.
        check(&|_| {}, Nice, Nice);
        check(
            &|facts| (facts.waiting, facts.waiting_since) = (0, None),
            Nice,
            Idle,
        );
    }
}
