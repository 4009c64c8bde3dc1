//! What would be paid for an offer: the bid, the all-in price, and why an offer is refused (pure).

use std::fmt;

use crate::{
    provider::{Offer, OfferQuery, Rental},
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
        limit,
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
