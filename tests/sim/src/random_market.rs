//! A market that moves by itself (pure): other people's rentals, competing bids and host outages, for weeks, from a seed alone.
//!
//! [`params`] says what is known of such markets and what is assumed; [`timeline`] draws each machine's future from them; [`tenancy`]
//! is what one account rents there and is billed. Nothing here waits or looks at a clock: weeks take milliseconds, and whoever asks
//! twice gets the same answer. What others do does not depend on what the account does, so that two ways of bidding can be held
//! against each other in the very same market.

pub mod params;
pub mod tenancy;
pub mod timeline;

use crate::market::Millis;
use params::Character;
use timeline::Timeline;

/// One hour in the market's time.
pub const HOUR_MS: Millis = 3_600_000;

/// A product's machines and everything that will happen on them.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomMarket {
    /// What kind of a market this is.
    pub character: Character,
    /// One for each machine.
    pub machines: Vec<Timeline>,
    /// Until when it is known what happens, milliseconds from its beginning at 0.
    pub horizon_ms: Millis,
}

/// An offer as a search for interruptible or on-demand boxes shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offered {
    /// Index of the machine.
    pub machine: usize,
    /// Price to beat now, $/h.
    pub min_bid_usd_per_hour: f64,
    /// On-demand price, $/h.
    pub list_usd_per_hour: f64,
    /// Storage, $/GB/month.
    pub storage_usd_per_gb_month: f64,
}

impl RandomMarket {
    /// The market of a seed for `days` days.
    pub fn new(seed: u64, days: u32) -> Self {
        let horizon_ms = Millis::from(days) * 24 * HOUR_MS;
        let mut dice = Dice::new(seed, 0);
        let character = Character::draw(&mut dice);
        let squeezes = timeline::squeezes(&mut dice, &character, horizon_ms);
        let machines = (0..character.machines)
            .map(|machine| {
                let mut dice = Dice::new(seed, 1 + machine as u64);
                Timeline::draw(&mut dice, &character, &squeezes, horizon_ms)
            })
            .collect();
        Self {
            character,
            machines,
            horizon_ms,
        }
    }

    /// Everything that can be rented now, cheapest bid first: whoever bids the price shown has the box. On-demand tenants are driven
    /// away by nobody, so their machines are not on the list.
    pub fn offers(&self, now: Millis) -> Vec<Offered> {
        let mut found: Vec<Offered> = self
            .machines
            .iter()
            .enumerate()
            .filter_map(|(machine, timeline)| {
                let segment = timeline.at(now);
                Some(Offered {
                    machine,
                    min_bid_usd_per_hour: segment.price_to_beat()?,
                    list_usd_per_hour: segment.list_usd_per_hour,
                    storage_usd_per_gb_month: timeline.storage_usd_per_gb_month,
                })
            })
            .collect();
        found.sort_by(|one, other| {
            one.min_bid_usd_per_hour
                .total_cmp(&other.min_bid_usd_per_hour)
        });
        found
    }
}

/// Chance from a seed: the same numbers on every machine and in every version.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Numbers of a seed for a purpose: two purposes have nothing to do with each other.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut dice = Self(
            seed.wrapping_mul(0xd134_2543_de82_ef95) ^ purpose.wrapping_mul(0x2545_f491_4f6c_dd1d),
        );
        // Neighbouring seeds are far apart after a few turns.
        for _ in 0..4 {
            dice.next();
        }
        dice
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// From 0 to 1, without 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Evenly between two numbers.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.fraction()
    }

    /// Evenly between the logarithms of two numbers: half as much is as likely as twice as much.
    pub fn log_between(&mut self, low: f64, high: f64) -> f64 {
        (self.between(low.ln(), high.ln())).exp()
    }

    /// With this chance.
    pub fn chance(&mut self, share: f64) -> bool {
        self.fraction() < share
    }

    /// A wait for something that comes once in `mean` on average, whenever one begins to wait.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.fraction()).ln() * mean
    }

    /// Log-normal: half are below `median`, and one `sigma` up or down is a factor of e^sigma.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let (radius, angle) = (
            (-2.0 * (1.0 - self.fraction()).ln()).sqrt(),
            std::f64::consts::TAU * self.fraction(),
        );
        median * (sigma * radius * angle.cos()).exp()
    }
}

#[cfg(test)]
mod tests;
