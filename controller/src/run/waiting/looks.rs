//! What is seen of boxes that are waited for, look by look, and what to do about one that is stopped (pure but for the lock).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Looks further apart than this say nothing about what happened between them.
const LOOKS_APART_US: i64 = 60_000_000;

/// What was seen of boxes that are waited for, by run.
#[derive(Debug, Default)]
pub struct Looks(Mutex<HashMap<String, Look>>);

/// What the newest look at a box saw, and what was ordered since it was taken back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    at_us: i64,
    /// It was meant to run: in the market's queue, or on its way.
    queued: bool,
    /// It was started, once.
    pub(super) started: bool,
    /// Somebody took it out of the queue.
    held: bool,
    /// When the way on was chosen by price, last.
    chose_us: i64,
}

/// How a box that is waited for is meant to be, by the market.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meant {
    /// Stopped, whoever did it.
    Stopped,
    /// To run when its GPU is free.
    Queued,
    /// To run, and it does or is about to.
    Running,
}

/// What to do about one that is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nudge {
    /// Nothing.
    Leave,
    /// Start it: out of the market's queue it might never come back by itself.
    Start,
    /// It was in the queue a moment ago and is not: somebody meant that.
    Hold,
}

impl Looks {
    /// Whether the way on is to be chosen now; true once in `every_us`.
    pub(crate) fn choice_is_due(&self, run: &str, now_us: i64, every_us: i64) -> bool {
        self.of(run, |look| {
            let due = now_us.saturating_sub(look.chose_us) >= every_us;
            if due {
                look.chose_us = now_us;
            }
            due
        })
    }

    pub(super) fn of<T>(&self, run: &str, use_it: impl FnOnce(&mut Look) -> T) -> T {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        use_it(looks.entry(run.to_owned()).or_default())
    }
}

impl Look {
    /// Takes in one look; a box is started once for each time that it was taken back. `held`: the record says that somebody stopped
    /// it in this wait, which also holds for whoever begins to watch only now.
    pub(super) fn take(&mut self, meant: Meant, held: bool, now_us: i64) -> Nudge {
        let before = match now_us.saturating_sub(self.at_us) {
            0..=LOOKS_APART_US => *self,
            _ => Look {
                held,
                ..Look::default()
            },
        };
        *self = Look {
            at_us: now_us,
            ..before
        };
        match meant {
            // Whatever stops it now is a new matter.
            Meant::Running => {
                *self = Look {
                    at_us: now_us,
                    ..Look::default()
                };
                Nudge::Leave
            }
            Meant::Queued => {
                (self.queued, self.held) = (true, false);
                Nudge::Leave
            }
            Meant::Stopped if before.queued || before.held => {
                (self.queued, self.held) = (false, true);
                Nudge::Hold
            }
            Meant::Stopped if before.started => Nudge::Leave,
            Meant::Stopped => Nudge::Start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_started_once_for_each_time_that_it_is_taken_back_and_left_to_whoever_stops_it() {
        use Meant::{Queued, Running, Stopped};
        use Nudge::{Hold, Leave, Start};
        // Looks as (seconds since the one before, what was seen, what is done).
        let check = |looks: &[(i64, Meant, Nudge)]| {
            let (mut look, mut now_us) = (Look::default(), 1_000_000_000_000);
            for (number, (passed_s, meant, expected)) in looks.iter().enumerate() {
                now_us += passed_s * 1_000_000;
                let nudge = look.take(*meant, false, now_us);
                assert_eq!(nudge, *expected, "{number} of {looks:?}");
                look.started |= nudge == Start;
            }
        };
        check(&[(3, Stopped, Start), (3, Stopped, Leave), (3, Queued, Leave)]);
        // Whoever watches only now is told by the record that it was stopped by hand.
        let now_us = 1_000_000_000_000;
        assert_eq!(Look::default().take(Stopped, true, now_us), Hold);
        assert_eq!(Look::default().take(Queued, true, now_us), Leave);
        check(&[
            (3, Stopped, Start),
            (3, Queued, Leave),
            (3, Stopped, Hold),
            (3, Stopped, Hold),
            // Put back by the one who stopped it, who may do so again.
            (3, Queued, Leave),
            (3, Stopped, Hold),
        ]);
        // Given back, and taken again.
        check(&[
            (3, Stopped, Start),
            (3, Queued, Leave),
            (3, Running, Leave),
            (3, Stopped, Start),
            (3, Stopped, Leave),
        ]);
        // What happened while nobody looked is not known.
        check(&[
            (3, Stopped, Start),
            (3, Queued, Leave),
            (3600, Stopped, Start),
        ]);
    }
}
