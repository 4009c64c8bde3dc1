//! Where a run goes on whose box was taken back (pure): it waits for that box, bids more for it, or moves to another one, whatever is
//! expected to cost least, delay included; and says so in one line.
//!
//! What each way costs is counted from now until somebody is likely to take the box again, because then one chooses anew. How long that
//! is, and how long a box stays away, comes from what this market did to boxes before ([`Past`]). Hours without training are worth
//! something, too: little while the result is not late for them, much where it is.
//!
//! What it comes to, in simulated markets that it was not made for (seeds 300 to 399 of `tests/sim/tests/weeks.rs`, which prints all of
//! this), as a share of the dollars of simpler rules where these are in time, median and worst tenth: 0.981 and 1.004 of the price to beat
//! and another box after each interruption; 0.891 and 0.935 of 15 % above it, 0.864 and 0.907 of 20 %; 0.626 and 0.717 of on-demand.
//! - A bid is paid from the first hour, wanted or not: headroom at the start costs more than the interruptions that it spares, and more
//!   is bid only where somebody did bid more. The worst tenth of 1.004 are bets: in 81 of 100 markets it is cheaper, in the others a wait
//!   or a bid that was likely to pay did not.
//! - Who bids the price to beat and waits for his own box, however long, is in time in 24 of 100 markets, and costs less in half of these:
//!   1.008 and 1.129. That is luck picked out afterwards: they are the markets in which boxes came back soon, which nobody knows
//!   while he waits; in the other 76 he is late.
//! - To leave a box that runs for one that is cheaper by more than the move costs, asked every half hour, was tried on the seeds for
//!   tuning: 0.969 instead of 0.986 of the price to beat elsewhere, and 1.012 as before of who waits (worst tenth 1.077 instead of 1.112).
//!   For that it would interrupt trainings that nobody interrupts, so it is not done.

use std::fmt;

use crate::{run::bidding::Bid, ui::text};

/// What is believed of a market before it was seen: an interruption in so many hours ...
const BELIEVED_HOURS: f64 = 20.0;
/// ... and a box that is back after so many. Each weighs like one that was seen.
const BELIEVED_AWAY_HOURS: f64 = 6.0;
/// An hour in which nothing is trained costs this share of an hour of training where nobody said when the result is wanted ...
const DELAY_SHARE: f64 = 0.5;
/// ... this one, where there is time for it ...
const EASY_SHARE: f64 = 0.05;
/// ... and this one where there is not.
const LATE_SHARE: f64 = 0.5;
/// Hours of training to come where nothing tells how many.
const UNKNOWN_HOURS: f64 = 8.0;
/// From a box that is back to its training: its container, and a checkpoint that lies on its disk.
const RETURN_HOURS: f64 = 0.05;
/// Who has a box for so long is expected to keep it for this times as long again.
const LINGER: f64 = 1.0;
/// A box whose rivals bid less than we do is back within a minute; later than this, who holds it is not known.
const COMES_HOURS: f64 = 0.1;
/// From the order of another box to its training, where none was brought up so far; without what it fetches of a checkpoint.
pub const MOVE_HOURS: f64 = 0.35;
/// No bucket gives more to one box for sure, Mb/s, whatever its line.
const BUCKET_MBPS: f64 = 1000.0;
/// A line of which nothing is known, Mb/s.
const UNKNOWN_MBPS: f64 = 200.0;

/// What this market did to interruptible boxes of ours so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Past {
    /// Hours for which their GPUs were ours.
    pub hours: f64,
    /// How often one was taken back.
    pub interruptions: u32,
    /// Hours for which they were waited for, those that did not come back included.
    pub away_hours: f64,
    /// How often one came back.
    pub returns: u32,
}

impl Past {
    /// Hours until somebody takes a box, on average.
    pub fn hours_between(&self) -> f64 {
        (BELIEVED_HOURS + self.hours) / (1.0 + f64::from(self.interruptions))
    }

    /// Hours until a box is back, on average.
    pub fn hours_away(&self) -> f64 {
        (BELIEVED_AWAY_HOURS + self.away_hours) / (1.0 + f64::from(self.returns))
    }
}

/// Another box that could be had.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elsewhere {
    /// What would be bid for it, headroom included, or paid on-demand, $/h.
    pub gpu_usd_per_hour: f64,
    /// Its disk, $/h.
    pub storage_usd_per_hour: f64,
    /// What has to come from the bucket before it trains.
    pub restore: Restore,
}

/// A checkpoint that another box has to fetch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Restore {
    /// Its size, GB; 0: there is none, or nobody knows.
    pub gb: f64,
    /// How fast the box fetches it, Mb/s.
    pub mbps: f64,
    /// That was measured on its machine; else its host says so.
    pub measured: bool,
}

impl Restore {
    /// Of a checkpoint of some size, over the line that the host of an offer promises, or the one that was measured of its machine before.
    pub fn new(bytes: u64, promised_mbps: f64, measured_mbps: Option<f64>) -> Self {
        let promised = match promised_mbps > 0.0 {
            true => promised_mbps.min(BUCKET_MBPS),
            false => UNKNOWN_MBPS,
        };
        let measured_mbps = measured_mbps.filter(|mbps| *mbps > 0.0);
        Self {
            gb: bytes as f64 / 1e9,
            mbps: measured_mbps.unwrap_or(promised),
            measured: measured_mbps.is_some(),
        }
    }

    /// Hours that it takes.
    pub fn hours(&self) -> f64 {
        match self.gb > 0.0 {
            true => self.gb * 8000.0 / self.mbps / 3600.0,
            false => 0.0,
        }
    }
}

impl fmt::Display for Restore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = if self.measured {
            "measured"
        } else {
            "promised"
        };
        write!(
            f,
            "{:.1} h of that for a checkpoint of {:.1} GB at {line} {:.0} Mb/s",
            self.hours(),
            self.gb,
            self.mbps
        )
    }
}

/// A run without its box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crossroads {
    /// What is bid for its own box, $/h.
    pub bid_usd_per_hour: f64,
    /// Its disk, $/h.
    pub storage_usd_per_hour: f64,
    /// What has to be bid for it now, $/h; `None`: the market does not offer it, at no price.
    pub beat_usd_per_hour: Option<f64>,
    /// Hours since the box was taken, or since the bid for it was raised.
    pub waited_hours: f64,
    /// Share by which a bid is above that.
    pub headroom: f64,
    /// What may be bid at most, $/h; `None`: what is bid stays as it is.
    pub ceiling_usd_per_hour: Option<f64>,
    /// The best other box; `None`: there is none that the run file allows.
    pub elsewhere: Option<Elsewhere>,
    /// Hours of training to come; `None`: nothing tells.
    pub hours_left: Option<f64>,
    /// From the order of another box to its training, hours, without what it fetches of a checkpoint.
    pub move_hours: f64,
    /// Training that is on the box's disk and not in the bucket, hours: it is done again elsewhere.
    pub at_risk_hours: f64,
    /// Hours for which nothing need be trained until the result is late; `None`: nobody said when it is wanted.
    pub slack_hours: Option<f64>,
    /// What is left of the budget beside what is held back for its disk, dollars; `None`: there is none.
    pub left_usd: Option<f64>,
    /// What the market did so far.
    pub past: Past,
}

/// Where it goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// On its own box, when that is back for what is bid now.
    Wait,
    /// On its own box, for this bid, $/h.
    Bid(f64),
    /// On another box.
    Move,
}

impl Way {
    /// Its name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Bid(_) => "bid",
            Self::Move => "move",
        }
    }
}

/// One way, and what it is expected to cost until the next choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Priced {
    /// The way.
    pub way: Way,
    /// What an hour of training costs there, all in, $/h.
    pub usd_per_hour: f64,
    /// Hours until it is as far as it was, those that are done again included.
    pub delay_hours: f64,
    /// What that delay is worth, dollars: nobody is paid for it.
    pub delay_usd: f64,
    /// Dollars in all, the delay's worth included.
    pub usd: f64,
    /// The part of the delay that a checkpoint takes, where one is fetched.
    pub restore: Option<Restore>,
}

/// What was chosen, and between what.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// All ways that were open, the chosen one first.
    pub ways: Vec<Priced>,
    /// Training that the prices are for, hours.
    pub hours: f64,
    /// Delay that this interruption may take without making the result late, hours; `None`: nobody said when it is wanted.
    pub easy_hours: Option<f64>,
}

impl Choice {
    /// What was chosen.
    pub fn way(&self) -> Way {
        self.ways[0].way
    }
}

/// Chooses. Waiting is always possible: it costs its disk only.
pub fn choose(at: &Crossroads) -> Choice {
    let between = at.past.hours_between();
    let left = at.hours_left.unwrap_or(UNKNOWN_HOURS).max(0.0);
    // Hours that are trained, on average, until it is done or taken again.
    let hours = between * (1.0 - (-left / between).exp());
    // The time that there is, is for all the interruptions that are to come.
    let easy_hours = at
        .slack_hours
        .map(|slack| slack.max(0.0) / (1.0 + left / between));
    let own = |gpu: f64| gpu + at.storage_usd_per_hour;
    let dearest = at.elsewhere.map_or(own(at.bid_usd_per_hour), |other| {
        other.gpu_usd_per_hour + other.storage_usd_per_hour
    });
    let priced = |way: Way, usd_per_hour: f64, delay_hours: f64, paid_usd: f64| {
        let delay_usd = dearest * delay_shares(delay_hours, easy_hours);
        Priced {
            way,
            usd_per_hour,
            delay_hours,
            delay_usd,
            usd: paid_usd + delay_usd + hours * usd_per_hour,
            restore: None,
        }
    };

    // Its rivals bid less by now: the market brings it back by itself.
    let beaten = at
        .beat_usd_per_hour
        .is_some_and(|beat| beat <= at.bid_usd_per_hour);
    let comes = beaten && at.waited_hours < COMES_HOURS;
    let away = match comes {
        true => 0.0,
        // Some stay for minutes and some for days: who has stayed long is likely to stay longer.
        false => at.past.hours_away().max(LINGER * at.waited_hours),
    };
    let price = own(at.bid_usd_per_hour);
    let paid_usd = away * at.storage_usd_per_hour + RETURN_HOURS * price;
    let mut ways = vec![priced(Way::Wait, price, away + RETURN_HOURS, paid_usd)];
    if let Some(bid) = allowed_bid(at) {
        let price = own(bid);
        ways.push(priced(
            Way::Bid(bid),
            price,
            RETURN_HOURS,
            RETURN_HOURS * price,
        ));
    }
    if let Some(other) = at.elsewhere {
        let price = other.gpu_usd_per_hour + other.storage_usd_per_hour;
        let move_hours = at.move_hours + other.restore.hours();
        let delay_hours = move_hours + at.at_risk_hours;
        // The old box keeps its disk until the new one trains.
        let paid_usd = delay_hours * price + move_hours * at.storage_usd_per_hour;
        ways.push(Priced {
            restore: Some(other.restore).filter(|restore| restore.gb > 0.0),
            ..priced(Way::Move, price, delay_hours, paid_usd)
        });
    }
    ways.sort_by(|one, other| one.usd.total_cmp(&other.usd));
    Choice {
        ways,
        hours,
        easy_hours,
    }
}

/// What a delay is worth, in hours of training. `easy_hours` of it make nothing late.
fn delay_shares(hours: f64, easy_hours: Option<f64>) -> f64 {
    match easy_hours {
        None => DELAY_SHARE * hours,
        Some(easy) => EASY_SHARE * hours.min(easy) + LATE_SHARE * (hours - easy).max(0.0),
    }
}

/// The bid that would have its box now, within every limit; `None`: none does, or none is needed.
fn allowed_bid(at: &Crossroads) -> Option<f64> {
    let bid = Bid {
        usd_per_hour: at.bid_usd_per_hour,
        headroom: at.headroom,
        ceiling_usd_per_hour: at.ceiling_usd_per_hour,
        left_usd: at.left_usd,
        storage_usd_per_hour: at.storage_usd_per_hour,
    };
    bid.to_beat(at.beat_usd_per_hour?)
}

impl fmt::Display for Priced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (usd, price) = (text::usd(self.usd), text::usd_per_hour(self.usd_per_hour));
        let what = match self.way {
            Way::Wait => "waiting for its box".to_owned(),
            Way::Bid(bid) => format!("bidding {} for its box", text::usd_per_hour(bid)),
            Way::Move => "another box".to_owned(),
        };
        let (delay, worth) = (self.delay_hours, text::usd(self.delay_usd));
        match self.restore {
            None => write!(
                f,
                "{what} {usd} ({price} after {delay:.1} h, which count as {worth})"
            ),
            Some(restore) => write!(
                f,
                "{what} {usd} ({price} after {delay:.1} h, which count as {worth}; {restore})"
            ),
        }
    }
}

/// The whole choice in one line, the chosen way first.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chosen = match self.way() {
            Way::Wait => "waits for its box",
            Way::Bid(_) => "bids more for its box",
            Way::Move => "goes on with another box",
        };
        write!(
            f,
            "{chosen}: the next {:.1} h of training, delay included, cost with ",
            self.hours
        )?;
        for (index, way) in self.ways.iter().enumerate() {
            let before = match index {
                0 => "",
                1 => "; with ",
                _ => ", with ",
            };
            write!(f, "{before}{way}")?;
        }
        match self.easy_hours {
            Some(hours) => write!(f, "; {hours:.1} h of delay now would not make it late"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
