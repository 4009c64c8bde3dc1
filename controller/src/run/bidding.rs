//! What is bid for a box that was taken back (pure): what beats its rivals now, with headroom, within every limit. You pay what you bid.

use std::time::Duration;

/// How much more is bid for a box of which the market shows nothing: what it shows as the price to beat on one's own box.
const RAISE: f64 = 1.2;
/// So many of these bids come at once: a rival who bid a little more is beaten by them.
pub const QUICK_RAISES: usize = 2;
/// Between two of the others: whoever holds the box after those may be a tenant on demand, whom no bid moves.
const HIDDEN_PAUSE: Duration = Duration::from_secs(3600);
/// Between two bids that beat somebody: a box that a bid won is seen to come back within a minute.
const BID_PAUSE: Duration = Duration::from_secs(30);
/// The market counts in thousandths of a dollar.
const LEAST_USD: f64 = 0.001;
/// A budget that would be over sooner than this is no place for a higher bid.
pub const SHORTEST_HOURS: f64 = 1.0;

/// Who else wants a box, by what the market lists.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rivals {
    /// Nobody looked just now.
    Unseen,
    /// It is not listed: somebody has it on demand, or it is not to be had at all.
    Hidden,
    /// This has to be beaten, $/h.
    Beat(f64),
}

/// A bid, and what it has to keep to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bid {
    /// What is bid now, $/h.
    pub usd_per_hour: f64,
    /// Share by which a bid is above what it has to beat.
    pub headroom: f64,
    /// What may be bid at most, $/h; `None`: it stays as it is.
    pub ceiling_usd_per_hour: Option<f64>,
    /// What is left of the budget beside what is held back for its disk, dollars; `None`: there is none.
    pub left_usd: Option<f64>,
    /// Its disk, $/h.
    pub storage_usd_per_hour: f64,
}

impl Bid {
    fn most(&self) -> Option<f64> {
        let affordable = affordable(self.left_usd, self.storage_usd_per_hour);
        Some(self.ceiling_usd_per_hour?.min(affordable))
    }

    /// The bid that would have its box now; `None`: none may, or none is needed.
    pub fn to_beat(&self, beat_usd_per_hour: f64) -> Option<f64> {
        let most = self.most()?;
        if beat_usd_per_hour <= self.usd_per_hour || beat_usd_per_hour > most {
            return None;
        }
        // Rounding up keeps it above what is to be beaten; headroom is cut before a limit is passed.
        Some(ticks_up(beat_usd_per_hour * (1.0 + self.headroom)).min(most))
    }

    /// The bid for a box that is away. `bids`: how many there were in this wait; `since_bid`: since the newest of them.
    pub fn raised(
        &self,
        rivals: Rivals,
        waited: Duration,
        bids: usize,
        since_bid: Option<Duration>,
    ) -> Option<f64> {
        let paused = |pause| since_bid.is_none_or(|since| since >= pause);
        match rivals {
            Rivals::Unseen => None,
            Rivals::Beat(beat) => self.to_beat(beat).filter(|_| paused(BID_PAUSE)),
            Rivals::Hidden
                if (bids < QUICK_RAISES && paused(BID_PAUSE))
                    || (waited >= HIDDEN_PAUSE && paused(HIDDEN_PAUSE)) =>
            {
                let bid = ticks_up(self.usd_per_hour * RAISE).min(self.most()?);
                (bid >= self.usd_per_hour + LEAST_USD / 2.0).then_some(bid)
            }
            Rivals::Hidden => None,
        }
    }
}

/// What may be bid at most so that what is left of a budget lasts for [`SHORTEST_HOURS`], $/h.
pub fn affordable(left_usd: Option<f64>, storage_usd_per_hour: f64) -> f64 {
    left_usd.map_or(f64::INFINITY, |left_usd| {
        (left_usd / SHORTEST_HOURS - storage_usd_per_hour).max(0.0)
    })
}

/// To the market's smallest unit, upwards; what is no more than a product's last binary digit makes no unit.
pub fn ticks_up(usd_per_hour: f64) -> f64 {
    (usd_per_hour * 1000.0 - 1e-6).ceil() / 1000.0
}

/// To the market's smallest unit, downwards: where a limit binds.
pub fn ticks_down(usd_per_hour: f64) -> f64 {
    (usd_per_hour * 1000.0 + 1e-6).floor() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn bid() -> Bid {
        Bid {
            usd_per_hour: 0.20,
            headroom: 0.15,
            ceiling_usd_per_hour: Some(0.40),
            left_usd: None,
            storage_usd_per_hour: 0.01,
        }
    }

    #[test]
    fn what_the_market_shows_is_beaten_once_and_what_it_hides_is_approached_by_the_hour() {
        use Rivals::{Beat, Hidden, Unseen};
        let soon = Duration::from_secs(10);
        let check =
            |rivals, waited, since_bid: Option<Duration>, change: &dyn Fn(&mut Bid), expected| {
                let mut bid = bid();
                change(&mut bid);
                // The quick ones are over.
                assert_eq!(
                    bid.raised(rivals, waited, QUICK_RAISES, since_bid),
                    expected,
                    "{rivals:?} {bid:?}"
                );
            };
        let same = |_: &mut Bid| ();
        check(Unseen, HOUR, None, &same, None);
        check(Beat(0.30), soon, None, &same, Some(0.345));
        check(Beat(0.30), soon, Some(soon), &same, None);
        check(Beat(0.18), HOUR, None, &same, None);
        // Headroom is cut before a limit is passed, and what no limit allows is not bid.
        check(Beat(0.39), soon, None, &same, Some(0.40));
        check(Beat(0.41), HOUR, None, &same, None);
        check(
            Beat(0.30),
            soon,
            None,
            &|bid| bid.left_usd = Some(0.33),
            Some(0.32),
        );
        check(
            Beat(0.30),
            soon,
            None,
            &|bid| bid.left_usd = Some(0.2),
            None,
        );
        check(
            Beat(0.30),
            soon,
            None,
            &|bid| bid.ceiling_usd_per_hour = None,
            None,
        );
        // A rival who bid a little more gives way to the first two.
        let quick = |bids, since_bid| bid().raised(Hidden, soon, bids, since_bid);
        assert_eq!(quick(0, None), Some(0.24));
        assert_eq!(quick(1, Some(soon)), None);
        assert_eq!(quick(1, Some(HOUR)), Some(0.24));
        assert_eq!(quick(2, Some(soon)), None);
        // A tenant on demand stays, whatever is bid.
        check(Hidden, soon, None, &same, None);
        check(Hidden, HOUR, None, &same, Some(0.24));
        check(Hidden, 2 * HOUR, Some(soon), &same, None);
        check(Hidden, 2 * HOUR, Some(HOUR), &same, Some(0.24));
        check(
            Hidden,
            HOUR,
            None,
            &|bid| bid.usd_per_hour = 0.35,
            Some(0.40),
        );
        check(Hidden, HOUR, None, &|bid| bid.usd_per_hour = 0.40, None);
        check(
            Hidden,
            HOUR,
            None,
            &|bid| bid.ceiling_usd_per_hour = None,
            None,
        );
    }
}
