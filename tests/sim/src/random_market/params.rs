//! What moves the random market: each number with its source.
//!
//! "Reference" is `vast-api.md`, the project's notes on the provider, by section. It says how prices and interruptions work, and some
//! times; how often people come and how long they stay it does not say, and nobody publishes it. These numbers are assumed: each
//! seed draws its own from a wide range, so that what holds in most seeds does not hang on one guess.

use crate::{market::Millis, random_market::Dice};

/// Two ends of what a seed may draw, evenly on a logarithmic scale.
pub type Range = (f64, f64);

// Prices.

/// On-demand price of a box, $/h. Reference 2.5: the sample offer of an RTX 4090.
pub const LIST_USD_PER_HOUR: f64 = 0.34;
/// Factor by which hosts of one product differ in it. Assumed.
pub const LIST_SPREAD: Range = (0.8, 1.35);
/// Lowest bid as a share of the on-demand price. Reference 2.5: the sample's `min_bid` is half its `dph_base`; around it, assumed.
pub const FLOOR_SHARE: Range = (0.42, 0.65);
/// Hosts set their prices anew after so many hours on average, by up to this factor either way. Assumed.
pub const REPRICE_EVERY_H: f64 = 60.0;
/// See [`REPRICE_EVERY_H`].
pub const REPRICE_BY: f64 = 0.12;
/// Storage, $/GB/month of 720 h. Reference 2.5: the sample offer; the spread is assumed.
pub const STORAGE_USD_PER_GB_MONTH: f64 = 0.15;
/// See [`STORAGE_USD_PER_GB_MONTH`].
pub const STORAGE_SPREAD: Range = (0.7, 1.6);
/// Prices are counted in this, $/h. Reference 5.4: the lowest bid.
pub const TICK_USD_PER_HOUR: f64 = 0.001;

// How the provider does it.

/// From a box being within reach of its bid again to its return to the contract, seconds. Reference 5.2: measured after an on-demand
/// tenant left.
pub const RESUME_S: (f64, f64) = (40.0, 60.0);
/// From an interruption until its tenant can see it, milliseconds. Reference 5.2: `intended_status` turns within about 1.4 s.
pub const SEEN_AFTER_MS: Millis = 1_400;
/// A container comes up on a new box after this many seconds, GPU not charged. Reference 5.2: "seconds (cached image) to hours (slow
/// host)"; each machine draws its own.
pub const LOADING_S: Range = (30.0, 2_400.0);
/// A container that is on its host already comes up after so many seconds. Reference 5.2: a restart goes through `loading?`; assumed.
pub const RESTART_S: (f64, f64) = (10.0, 60.0);

// What others do. Reference 5.4: on-demand goes before the highest bid, and that before lower ones; each pays his own bid.

/// Machines of the product. Assumed.
pub const MACHINES: (f64, f64) = (5.0, 16.0);
/// An on-demand tenant comes to a machine every so many hours. Assumed.
pub const ON_DEMAND_EVERY_H: Range = (8.0, 90.0);
/// And stays for this long: median, hours. Assumed.
pub const ON_DEMAND_STAYS_H: Range = (0.7, 8.0);
/// A bid for a machine comes every so many hours. Assumed.
pub const BID_EVERY_H: Range = (4.0, 60.0);
/// And stays for this long: median, hours. Assumed.
pub const BID_STAYS_H: Range = (1.0, 10.0);
/// Bids lie above the floor by this share on average. Reference 5.4: the provider's own "winning price" is about 1.18 of the floor.
pub const BID_OVER_FLOOR: Range = (0.08, 0.40);
/// No bid is above the on-demand price, for which the box would be sure. Assumed.
pub const BID_MOST_OF_LIST: f64 = 1.0;
/// Stays differ by this sigma of their logarithm: some leave after minutes, some after a week. Assumed.
pub const STAYS_SIGMA: f64 = 1.1;
/// More come by day than by night, by up to this share either way. Assumed.
pub const DAY_SWING: Range = (0.1, 0.7);
/// Now and then everybody wants the product: every so many hours, for so many hours on average, with so many times the demand.
/// Assumed.
pub const SQUEEZE_EVERY_H: Range = (60.0, 400.0);
/// See [`SQUEEZE_EVERY_H`].
pub const SQUEEZE_LASTS_H: Range = (4.0, 30.0);
/// See [`SQUEEZE_EVERY_H`].
pub const SQUEEZE_TIMES: (f64, f64) = (2.0, 5.0);

// Hosts. Reference 5.2: one that loses its network is `unknown`, then `offline`, and may come back.

/// A host is lost every so many hours. Assumed; a reliability of 0.98 to 0.998 (reference 2.5: 0.9953) with the length below.
pub const OUTAGE_EVERY_H: Range = (120.0, 1_500.0);
/// For so many hours in the median. Assumed.
pub const OUTAGE_LASTS_H: Range = (0.2, 3.0);
/// This share of them for good, and every disk with them. Assumed.
pub const OUTAGE_FOR_GOOD: f64 = 0.08;

/// What one seed drew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Character {
    /// [`MACHINES`].
    pub machines: usize,
    /// [`ON_DEMAND_EVERY_H`].
    pub on_demand_every_h: f64,
    /// [`ON_DEMAND_STAYS_H`].
    pub on_demand_stays_h: f64,
    /// [`BID_EVERY_H`].
    pub bid_every_h: f64,
    /// [`BID_STAYS_H`].
    pub bid_stays_h: f64,
    /// [`BID_OVER_FLOOR`].
    pub bid_over_floor: f64,
    /// [`DAY_SWING`].
    pub day_swing: f64,
    /// [`SQUEEZE_EVERY_H`].
    pub squeeze_every_h: f64,
    /// [`SQUEEZE_LASTS_H`].
    pub squeeze_lasts_h: f64,
    /// [`SQUEEZE_TIMES`].
    pub squeeze_times: f64,
    /// [`OUTAGE_EVERY_H`].
    pub outage_every_h: f64,
    /// [`OUTAGE_LASTS_H`].
    pub outage_lasts_h: f64,
}

impl Character {
    /// What a market's own dice say.
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let mut log = |range: Range| dice.log_between(range.0, range.1);
        Self {
            machines: log(MACHINES).round() as usize,
            on_demand_every_h: log(ON_DEMAND_EVERY_H),
            on_demand_stays_h: log(ON_DEMAND_STAYS_H),
            bid_every_h: log(BID_EVERY_H),
            bid_stays_h: log(BID_STAYS_H),
            bid_over_floor: log(BID_OVER_FLOOR),
            day_swing: log(DAY_SWING),
            squeeze_every_h: log(SQUEEZE_EVERY_H),
            squeeze_lasts_h: log(SQUEEZE_LASTS_H),
            squeeze_times: log(SQUEEZE_TIMES),
            outage_every_h: log(OUTAGE_EVERY_H),
            outage_lasts_h: log(OUTAGE_LASTS_H),
        }
    }
}
