//! Everything that will happen on one machine: who rents it, who bids for it, when its host is gone, what it asks.

use crate::{
    market::Millis,
    random_market::{
        Dice, HOUR_MS,
        params::{
            self, BID_MOST_OF_LIST, Character, FLOOR_SHARE, LIST_SPREAD, LIST_USD_PER_HOUR,
            LOADING_S, OUTAGE_FOR_GOOD, REPRICE_BY, REPRICE_EVERY_H, STAYS_SIGMA, STORAGE_SPREAD,
            STORAGE_USD_PER_GB_MONTH, TICK_USD_PER_HOUR,
        },
    },
};

/// A stretch of time in which nothing changes on a machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// From when; it lasts until the next one.
    pub from_ms: Millis,
    /// The host can be reached.
    pub up: bool,
    /// It went for good.
    pub gone: bool,
    /// An on-demand tenant has it, whom no bid beats.
    pub on_demand: bool,
    /// The highest bid of others, $/h; 0: there is none.
    pub top_bid_usd_per_hour: f64,
    /// Lowest bid that the host takes, $/h.
    pub floor_usd_per_hour: f64,
    /// On-demand price, $/h.
    pub list_usd_per_hour: f64,
}

impl Segment {
    /// The lowest bid that has the machine now, $/h; `None`: none does.
    pub fn price_to_beat(&self) -> Option<f64> {
        let above = self.top_bid_usd_per_hour + TICK_USD_PER_HOUR;
        let rivals = self.top_bid_usd_per_hour > 0.0;
        let price = match rivals {
            true => above.max(self.floor_usd_per_hour),
            false => self.floor_usd_per_hour,
        };
        (self.up && !self.on_demand).then_some(price)
    }

    /// Whether a tenant has the machine who bids so much; `None`: who rents on-demand, and was there before everybody else.
    pub fn holds(&self, bid_usd_per_hour: Option<f64>) -> bool {
        match bid_usd_per_hour {
            None => self.up,
            Some(bid) => {
                self.up
                    && !self.on_demand
                    && bid >= self.floor_usd_per_hour
                    && bid > self.top_bid_usd_per_hour
            }
        }
    }
}

/// One machine, from 0 to the market's horizon.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// Oldest first; the first one begins at 0, and neighbours differ.
    pub segments: Vec<Segment>,
    /// Storage price, $/GB/month.
    pub storage_usd_per_gb_month: f64,
    /// How long an image takes to come up on it, milliseconds.
    pub loading_ms: Millis,
}

/// What begins or ends at a moment.
#[derive(Debug, Clone, Copy)]
enum Turn {
    OnDemand(i32),
    Bid { usd_per_hour: f64, begins: bool },
    Outage(i32),
    Gone,
    Price { list: f64, floor: f64 },
}

/// Times in which everybody wants the product.
pub(super) fn squeezes(
    dice: &mut Dice,
    character: &Character,
    horizon_ms: Millis,
) -> Vec<(Millis, Millis)> {
    let mut found = Vec::new();
    let mut at_ms = 0;
    loop {
        at_ms += hours(dice.exponential(character.squeeze_every_h));
        if at_ms >= horizon_ms {
            return found;
        }
        let until_ms = at_ms + hours(dice.exponential(character.squeeze_lasts_h));
        found.push((at_ms, until_ms));
        at_ms = until_ms;
    }
}

impl Timeline {
    /// Draws a machine's future.
    pub(super) fn draw(
        dice: &mut Dice,
        character: &Character,
        squeezes: &[(Millis, Millis)],
        horizon_ms: Millis,
    ) -> Self {
        let list = LIST_USD_PER_HOUR * dice.log_between(LIST_SPREAD.0, LIST_SPREAD.1);
        let share = dice.log_between(FLOOR_SHARE.0, FLOOR_SHARE.1);
        let storage =
            STORAGE_USD_PER_GB_MONTH * dice.log_between(STORAGE_SPREAD.0, STORAGE_SPREAD.1);
        let loading_ms = (dice.log_between(LOADING_S.0, LOADING_S.1) * 1000.0) as Millis;
        let mut turns: Vec<(Millis, Turn)> = Vec::new();

        let price = |list: f64, floor: f64| Turn::Price {
            list: ticks(list),
            floor: ticks(floor),
        };
        turns.push((0, price(list, list * share)));
        let mut at_ms = hours(dice.exponential(REPRICE_EVERY_H));
        while at_ms < horizon_ms {
            let list = list * dice.log_between(1.0 - REPRICE_BY, 1.0 / (1.0 - REPRICE_BY));
            turns.push((at_ms, price(list, list * share)));
            at_ms += hours(dice.exponential(REPRICE_EVERY_H));
        }

        // Those who are there when it begins came earlier.
        let before = -4.0 * character.on_demand_stays_h.max(character.bid_stays_h);
        let demand = Demand {
            character,
            squeezes,
            horizon_ms,
        };
        for at_ms in demand.arrivals(dice, character.on_demand_every_h, before) {
            let stays_ms = hours(dice.log_normal(character.on_demand_stays_h, STAYS_SIGMA));
            turns.push((at_ms, Turn::OnDemand(1)));
            turns.push((at_ms + stays_ms, Turn::OnDemand(-1)));
        }
        for at_ms in demand.arrivals(dice, character.bid_every_h, before) {
            let over = dice.exponential(character.bid_over_floor);
            let usd_per_hour = ticks((list * share * (1.0 + over)).min(list * BID_MOST_OF_LIST));
            let stays_ms = hours(dice.log_normal(character.bid_stays_h, STAYS_SIGMA));
            let bid = |begins| Turn::Bid {
                usd_per_hour,
                begins,
            };
            turns.push((at_ms, bid(true)));
            turns.push((at_ms + stays_ms, bid(false)));
        }
        let mut at_ms = hours(dice.exponential(character.outage_every_h));
        while at_ms < horizon_ms {
            if dice.chance(OUTAGE_FOR_GOOD) {
                turns.push((at_ms, Turn::Gone));
                break;
            }
            let back_ms = at_ms + hours(dice.log_normal(character.outage_lasts_h, STAYS_SIGMA));
            turns.push((at_ms, Turn::Outage(1)));
            turns.push((back_ms, Turn::Outage(-1)));
            at_ms = back_ms + hours(dice.exponential(character.outage_every_h));
        }
        Self {
            segments: segments(turns, horizon_ms),
            storage_usd_per_gb_month: storage,
            loading_ms,
        }
    }

    /// How it stands at a moment; after the horizon as at its end.
    pub fn at(&self, now: Millis) -> &Segment {
        let after = self
            .segments
            .partition_point(|segment| segment.from_ms <= now);
        &self.segments[after.saturating_sub(1)]
    }

    /// When something changes next on it; `None`: nothing does until the horizon.
    pub fn next_change(&self, now: Millis) -> Option<Millis> {
        let after = self
            .segments
            .partition_point(|segment| segment.from_ms <= now);
        self.segments.get(after).map(|segment| segment.from_ms)
    }
}

/// Who comes when.
struct Demand<'a> {
    character: &'a Character,
    squeezes: &'a [(Millis, Millis)],
    horizon_ms: Millis,
}

impl Demand<'_> {
    /// Moments at which somebody comes, on average every `every_h`, more of them by day and in a squeeze; from `from_h` on.
    fn arrivals(&self, dice: &mut Dice, every_h: f64, from_h: f64) -> Vec<Millis> {
        // Drawn as dense as it ever gets, and thinned to what the hour is like.
        let most = (1.0 + self.character.day_swing) * self.character.squeeze_times;
        let mut found = Vec::new();
        let mut at_ms = hours(from_h);
        loop {
            at_ms += hours(dice.exponential(every_h / most)).max(1);
            if at_ms >= self.horizon_ms {
                return found;
            }
            if dice.chance(self.intensity(at_ms) / most) {
                found.push(at_ms);
            }
        }
    }

    /// Demand at a moment, 1 on average outside of squeezes.
    fn intensity(&self, at_ms: Millis) -> f64 {
        let hour_of_day = at_ms as f64 / HOUR_MS as f64 / 24.0 * std::f64::consts::TAU;
        let day = 1.0 + self.character.day_swing * hour_of_day.sin();
        let squeezed = self
            .squeezes
            .iter()
            .any(|(from_ms, until_ms)| (*from_ms..*until_ms).contains(&at_ms));
        match squeezed {
            true => day * self.character.squeeze_times,
            false => day,
        }
    }
}

/// Puts turns in order and tells what holds between them.
fn segments(mut turns: Vec<(Millis, Turn)>, horizon_ms: Millis) -> Vec<Segment> {
    turns.sort_by_key(|(at_ms, _)| *at_ms);
    let mut found: Vec<Segment> = Vec::new();
    let (mut tenants, mut outages, mut gone) = (0, 0, false);
    let mut bids: Vec<f64> = Vec::new();
    let (mut list, mut floor) = (0.0, 0.0);
    let mut turns = turns.into_iter().peekable();
    while let Some((at_ms, turn)) = turns.next() {
        if at_ms >= horizon_ms {
            break;
        }
        match turn {
            Turn::OnDemand(change) => tenants += change,
            Turn::Outage(change) => outages += change,
            Turn::Gone => gone = true,
            Turn::Price {
                list: new_list,
                floor: new_floor,
            } => (list, floor) = (new_list, new_floor),
            Turn::Bid {
                usd_per_hour,
                begins: true,
            } => bids.push(usd_per_hour),
            Turn::Bid { usd_per_hour, .. } => {
                if let Some(index) = bids.iter().position(|bid| *bid == usd_per_hour) {
                    bids.swap_remove(index);
                }
            }
        }
        let same_moment = turns
            .peek()
            .is_some_and(|(next_ms, _)| (*next_ms).max(0) == at_ms.max(0));
        if same_moment {
            continue;
        }
        let segment = Segment {
            from_ms: at_ms.max(0),
            up: outages == 0 && !gone,
            gone,
            on_demand: tenants > 0,
            top_bid_usd_per_hour: bids.iter().copied().fold(0.0, f64::max),
            floor_usd_per_hour: floor,
            list_usd_per_hour: list,
        };
        let unchanged = found.last().is_some_and(|last| {
            Segment {
                from_ms: segment.from_ms,
                ..*last
            } == segment
        });
        if !unchanged {
            found.push(segment);
        }
    }
    found
}

/// To the market's smallest unit.
fn ticks(usd_per_hour: f64) -> f64 {
    (usd_per_hour / params::TICK_USD_PER_HOUR).round() * params::TICK_USD_PER_HOUR
}

fn hours(hours: f64) -> Millis {
    (hours * HOUR_MS as f64) as Millis
}
