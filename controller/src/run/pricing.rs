//! What would be paid for an offer: the bid, the all-in price, and why an offer is refused (pure).

use std::fmt;

use crate::{
    provider::{First, Offer, OfferQuery, Rental},
    run::choosing,
    spec::Resources,
};

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
                "the price to beat is ${floor_usd_per_hour:.3}/h, above `resources.bid.max` of ${max_usd_per_hour:.3}/h"
            ),
            Self::Price {
                price_usd_per_hour,
                max_usd_per_hour,
            } => write!(
                f,
                "all in it costs ${price_usd_per_hour:.3}/h, above `resources.max_price` of ${max_usd_per_hour:.3}/h"
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
            // Headroom is cut before an offer is refused: the floor is what decides, not our wish for comfort.
            let room = (max_price - offer.storage_usd_per_hour).max(floor);
            // The market counts in thousandths of a dollar; rounding up keeps the bid above the floor.
            let bid = (floor * (1.0 + resources.bid_headroom)).min(max).min(room);
            Some(((bid * 1000.0).ceil() / 1000.0).min(max))
        }
    };
    let gpu = bid.unwrap_or(offer.gpu_usd_per_hour);
    let order = Order {
        bid_usd_per_hour: bid,
        gpu_usd_per_hour: gpu,
        storage_usd_per_hour: offer.storage_usd_per_hour,
    };
    let price = order.running_usd_per_hour();
    // A thousandth of tolerance for the rounding above.
    if price > max_price + 0.001 {
        return Err(TooDear::Price {
            price_usd_per_hour: price,
            max_usd_per_hour: max_price,
        });
    }
    Ok(order)
}

/// The same with no more headroom than leaves an hour's worth of what is left of the budget; `None`: there is none. What has to be beaten is
/// bid all the same: the run is finished in order when its money is over.
pub fn within_budget(order: Order, offer: &Offer, left_usd: Option<f64>) -> Order {
    let Some(bid) = order.bid_usd_per_hour else {
        return order;
    };
    let floor = offer.min_bid_usd_per_hour.unwrap_or(offer.gpu_usd_per_hour);
    let most = choosing::affordable(left_usd, order.storage_usd_per_hour).max(floor);
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
        // An hour of it is left, and less than an hour of what has to be beaten.
        check(0.5, None, Some(0.25), 0.24);
        check(0.5, None, Some(0.05), 0.2);
    }
}
