//! What would be paid for an offer: the bid, the all-in price, and why an offer is refused (pure).

use std::fmt;

use crate::{
    ledger::Rates,
    provider::{First, Offer, OfferQuery, Rental},
    run::bidding::{self, ticks_down, ticks_up},
    spec::Resources,
    ui::text,
};

/// Less than this is a sum's last binary digit, $/h.
const NOTHING_USD: f64 = 1e-9;
/// A price may move so much between search and create; more is a mistake.
const MOVES: f64 = 1.1;
/// And by so much, where that is more: what is shown is rounded, $/h.
const ROUNDED_USD: f64 = 0.001;

/// What would be ordered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Order {
    /// Bid for an interruptible box, $/h; `None`: on-demand.
    pub bid_usd_per_hour: Option<f64>,
    /// GPU price to be paid, $/h: the bid, or the list price.
    pub gpu_usd_per_hour: f64,
    /// Storage, $/h, running and stopped.
    pub storage_usd_per_hour: f64,
}

impl Order {
    /// All-in price while it runs, $/h, traffic excluded.
    pub fn running_usd_per_hour(&self) -> f64 {
        self.gpu_usd_per_hour + self.storage_usd_per_hour
    }
}

/// Why an offer is not taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TooDear {
    /// The price to beat is above `resources.bid.max`.
    Bid {
        /// Price to beat, $/h.
        floor_usd_per_hour: f64,
        /// `resources.bid.max`, $/h.
        max_usd_per_hour: f64,
    },
    /// All in, it costs more than `resources.max_price`.
    Price {
        /// All-in price, $/h.
        price_usd_per_hour: f64,
        /// `resources.max_price`, $/h.
        max_usd_per_hour: f64,
    },
}

impl fmt::Display for TooDear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bid {
                floor_usd_per_hour,
                max_usd_per_hour,
            } => write!(
                f,
                "the price to beat is {}, above `resources.bid.max` of {}",
                text::usd_per_hour(*floor_usd_per_hour),
                text::usd_per_hour(*max_usd_per_hour)
            ),
            Self::Price {
                price_usd_per_hour,
                max_usd_per_hour,
            } => write!(
                f,
                "all in it costs {}, above `resources.max_price` of {}, which `--max-price` sets too",
                text::usd_per_hour(*price_usd_per_hour),
                text::usd_per_hour(*max_usd_per_hour)
            ),
        }
    }
}

/// The search for what a run file allows, of at most `limit` offers.
pub fn query(resources: &Resources, limit: u32) -> OfferQuery {
    OfferQuery {
        gpu_name: resources.gpu_name.clone(),
        num_gpus: Some(resources.num_gpus),
        rental: resources.rental,
        disk_gb: resources.disk_gb,
        filters: resources.filters.clone(),
        hosts: resources.hosts.clone(),
        limit,
        first: First::Cheapest,
    }
}

/// What would be ordered for `offer`: the price to beat plus headroom, within both maxima.
pub fn order(offer: &Offer, resources: &Resources) -> Result<Order, TooDear> {
    let max_price = resources.max_price_usd_per_hour.unwrap_or(f64::INFINITY);
    let bid = match resources.rental {
        Rental::OnDemand => None,
        Rental::Interruptible => {
            let floor = offer.min_bid_usd_per_hour.unwrap_or(offer.gpu_usd_per_hour);
            let max = resources.bid_max_usd_per_hour.unwrap_or(f64::INFINITY);
            if floor > max {
                return Err(TooDear::Bid {
                    floor_usd_per_hour: floor,
                    max_usd_per_hour: max,
                });
            }
            // Headroom is cut before an offer is refused: the floor is what decides, not our wish for comfort. Rounding up keeps the bid above
            // the floor, and down below the limits.
            let most = max.min(max_price - offer.storage_usd_per_hour);
            let wished = ticks_up(floor * (1.0 + resources.bid_headroom));
            Some(wished.min(ticks_down(most)).max(floor))
        }
    };
    let gpu = bid.unwrap_or(offer.gpu_usd_per_hour);
    let order = Order {
        bid_usd_per_hour: bid,
        gpu_usd_per_hour: gpu,
        storage_usd_per_hour: offer.storage_usd_per_hour,
    };
    let price = order.running_usd_per_hour();
    if price > max_price + NOTHING_USD {
        return Err(TooDear::Price {
            price_usd_per_hour: price,
            max_usd_per_hour: max_price,
        });
    }
    Ok(order)
}

/// Why what was rented costs more than was ordered, or than the run file allows; `None`: it does not. What a person bid over the limits
/// is ordered.
pub fn overcharged(seen: Rates, ordered: Rates, resources: &Resources) -> Option<String> {
    let over = |seen: f64, ordered: f64| seen > (ordered * MOVES).max(ordered + ROUNDED_USD);
    let (gpu, disk) = (seen.gpu_usd_per_hour, seen.disk_usd_per_hour);
    if over(gpu, ordered.gpu_usd_per_hour) {
        let ordered = ordered.gpu_usd_per_hour;
        return Some(format!("it costs ${gpu:.3}/h instead of ${ordered:.3}/h"));
    }
    if over(disk, ordered.disk_usd_per_hour) {
        let ordered = ordered.disk_usd_per_hour;
        return Some(format!(
            "its disk costs ${disk:.4}/h instead of ${ordered:.4}/h"
        ));
    }
    let bid_max = resources
        .bid_max_usd_per_hour
        .filter(|_| resources.rental == Rental::Interruptible);
    let above = |seen: f64, max: Option<f64>, ordered: f64| {
        // The market rounds what it lists.
        max.filter(|max| seen > max.max(ordered) + ROUNDED_USD / 10.0)
    };
    if let Some(max) = above(gpu, bid_max, ordered.gpu_usd_per_hour) {
        return Some(format!(
            "it costs ${gpu:.3}/h, above `resources.bid.max` of ${max:.3}/h"
        ));
    }
    let max = above(
        seen.total(),
        resources.max_price_usd_per_hour,
        ordered.total(),
    )?;
    Some(format!(
        "all in it costs ${:.3}/h, above `resources.max_price` of ${max:.3}/h",
        seen.total()
    ))
}

/// The same with no more headroom than leaves an hour's worth of what is left of the budget; `None`: there is none. What has to be beaten is
/// bid all the same: the run is finished in order when its money is over.
pub fn within_budget(order: Order, offer: &Offer, left_usd: Option<f64>) -> Order {
    let Some(bid) = order.bid_usd_per_hour else {
        return order;
    };
    let floor = offer.min_bid_usd_per_hour.unwrap_or(offer.gpu_usd_per_hour);
    let most = bidding::affordable(left_usd, order.storage_usd_per_hour).max(floor);
    let bid = bid.min(most);
    Order {
        bid_usd_per_hour: Some(bid),
        gpu_usd_per_hour: bid,
        ..order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{provider::memory, spec::RunSpec};

    #[test]
    fn a_bid_is_the_price_to_beat_and_headroom_within_maximum_and_budget() {
        let mut resources = RunSpec::from_flags_for_tests().resources;
        resources.rental = Rental::Interruptible;
        let offer = Offer {
            gpu_usd_per_hour: 0.2,
            storage_usd_per_hour: 0.01,
            min_bid_usd_per_hour: Some(0.2),
            ..memory::offer(1)
        };
        let mut check = |headroom, max, left_usd, expected: f64| {
            resources.bid_headroom = headroom;
            resources.bid_max_usd_per_hour = max;
            let order = within_budget(order(&offer, &resources).unwrap(), &offer, left_usd);
            let bid = order.bid_usd_per_hour.unwrap();
            assert!((bid - expected).abs() < 1e-9, "{bid} instead of {expected}");
            assert_eq!(order.gpu_usd_per_hour, bid);
        };
        check(0.0, None, None, 0.2);
        check(0.15, None, None, 0.23);
        check(0.5, Some(0.25), None, 0.25);
        check(0.5, Some(0.25), Some(100.0), 0.25);
        // Where a limit binds it is rounded down.
        check(0.5, Some(0.2505), None, 0.25);
        check(0.5, Some(0.2004), None, 0.2);
        // An hour of it is left, and less than an hour of what has to be beaten.
        check(0.5, None, Some(0.25), 0.24);
        check(0.5, None, Some(0.05), 0.2);
    }

    #[test]
    fn no_order_is_dearer_all_in_than_its_limit_by_any_rounding() {
        let mut resources = RunSpec::from_flags_for_tests().resources;
        resources.rental = Rental::Interruptible;
        resources.bid_headroom = 0.5;
        let offer = Offer {
            storage_usd_per_hour: 0.0137,
            min_bid_usd_per_hour: Some(0.2003),
            ..memory::offer(1)
        };
        for (max_price, expected) in [
            (0.2145, Some(0.2003)),
            (0.2500, Some(0.236)),
            (0.2139, None),
        ] {
            resources.max_price_usd_per_hour = Some(max_price);
            let bid = order(&offer, &resources).ok();
            let bid = bid.and_then(|order| order.bid_usd_per_hour);
            assert_eq!(bid, expected, "{max_price}");
        }
    }

    #[test]
    fn what_was_rented_is_held_against_the_order_and_against_every_limit() {
        let rates = |gpu_usd_per_hour, disk_usd_per_hour| Rates {
            gpu_usd_per_hour,
            disk_usd_per_hour,
        };
        let mut resources = RunSpec::from_flags_for_tests().resources;
        resources.rental = Rental::Interruptible;
        let mut check = |(gpu, disk), bid_max, max_price, expected: Option<&str>| {
            resources.bid_max_usd_per_hour = bid_max;
            resources.max_price_usd_per_hour = max_price;
            let found = overcharged(rates(gpu, disk), rates(0.30, 0.02), &resources);
            match (&found, expected) {
                (None, None) => {}
                (Some(found), Some(words)) => assert!(found.contains(words), "{found}"),
                _ => panic!("{found:?} instead of {expected:?}"),
            }
        };
        check((0.30, 0.02), None, None, None);
        check((0.32, 0.021), None, None, None);
        check((0.34, 0.02), None, None, Some("it costs $0.340/h instead"));
        let disk = Some("its disk costs $0.0400/h instead of $0.0200/h");
        check((0.30, 0.04), None, None, disk);
        check((0.31, 0.02), Some(0.305), None, Some("`resources.bid.max`"));
        check(
            (0.31, 0.02),
            None,
            Some(0.325),
            Some("`resources.max_price`"),
        );
        check(
            (0.30, 0.0215),
            None,
            Some(0.32),
            Some("`resources.max_price`"),
        );
        // Somebody bid more than the run file allows, by hand.
        check((0.30, 0.02), Some(0.25), Some(0.30), None);
    }
}
