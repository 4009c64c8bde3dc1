//! A look at more of the market than one search names: page by page by price, and what is fastest and what is most for a dollar besides.

use std::collections::BTreeSet;

use crate::{
    provider::{First, Offer, OfferQuery, Provider, ProviderError},
    run::volumes,
    spec::{RunSpec, query},
};

/// Offers that a search names at most, whatever is asked for.
pub(crate) const PAGE: u32 = 64;
/// A page with fewer than this is the last one: rows that were dropped on the way leave gaps.
const LAST_PAGE: usize = 32;
/// Pages by price at most: ten searches a minute are allowed, and somebody waits.
const PAGES: u32 = 3;

/// How much of the market is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breadth {
    /// What costs least, until there are so many machines.
    Cheapest(usize),
    /// What costs least, page by page, what is fastest, and what is most for a dollar.
    All,
    /// A page of what costs least, and one of what is most for a dollar.
    Best,
}

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen {
    /// Offers, cheapest first, each once.
    pub(crate) offers: Vec<Offer>,
    /// There are more.
    pub(crate) cut: bool,
}

impl Seen {
    /// Takes in what a search named; false: it was all known.
    fn take(&mut self, page: Vec<Offer>) -> bool {
        let known: BTreeSet<u64> = self.offers.iter().map(|offer| offer.id).collect();
        let before = self.offers.len();
        self.offers
            .extend(page.into_iter().filter(|offer| !known.contains(&offer.id)));
        self.offers.len() > before
    }

    fn machines(&self) -> usize {
        let machines = self.offers.iter().map(|offer| offer.machine_id);
        machines.collect::<BTreeSet<u64>>().len()
    }
}

/// What a run is chosen from, `limit` offers of each search. Where it may take any GPU, and what it costs in all can be told, the cheapest by
/// the hour are not enough: what is most for a dollar is looked at, too.
///
/// # Errors
/// The provider's; or there is no such volume.
pub(crate) async fn for_run(
    provider: &dyn Provider,
    spec: &RunSpec,
    limit: u32,
    broadly: bool,
) -> Result<Vec<Offer>, ProviderError> {
    let query = volumes::query(provider, spec, limit).await?;
    let tokens = spec.model.as_ref().and_then(|model| model.tokens);
    let resources = &spec.resources;
    let is_open = resources.gpu_name.is_none() && resources.hosts.is_empty();
    match broadly && is_open && tokens.is_some() {
        true => Ok(look(provider, &query, Breadth::Best).await?.offers),
        false => provider.offers(&query).await,
    }
}

/// Looks at the market. `query` names a page: its limit and its order are set here.
///
/// # Errors
/// The provider's.
pub(crate) async fn look(
    provider: &dyn Provider,
    query: &OfferQuery,
    breadth: Breadth,
) -> Result<Seen, ProviderError> {
    let page = |first: First, floor_usd_per_hour: Option<f64>| {
        let mut query = OfferQuery {
            limit: PAGE,
            first,
            ..query.clone()
        };
        query
            .filters
            .extend(floor_usd_per_hour.map(query::price_at_least));
        async move { provider.offers(&query).await }
    };
    let mut seen = Seen::default();
    let mut floor = None;
    for _ in 0..PAGES {
        let found = page(First::Cheapest, floor).await?;
        let (count, dearest) = (found.len(), found.last().map(Offer::running_usd_per_hour));
        let is_new = seen.take(found);
        seen.cut = count >= LAST_PAGE;
        let enough = match breadth {
            Breadth::Cheapest(machines) => seen.machines() >= machines,
            Breadth::All => false,
            Breadth::Best => true,
        };
        // Where a page is all of one price, the next is the same.
        if !seen.cut || !is_new || enough {
            break;
        }
        floor = dearest;
    }
    let besides: &[First] = match breadth {
        Breadth::Cheapest(_) => &[],
        Breadth::All => &[First::Fastest, First::MostForADollar],
        Breadth::Best => &[First::MostForADollar],
    };
    if seen.cut {
        for first in besides {
            seen.take(page(*first, None).await?);
        }
    }
    seen.offers.sort_by(|one, other| {
        let price = Offer::running_usd_per_hour;
        price(one).total_cmp(&price(other))
    });
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        provider::{Rental, memory::MemoryMarket},
        spec::DEFAULT_DISK_GB,
    };

    #[tokio::test]
    async fn a_small_market_is_seen_whole_and_of_a_large_one_it_is_told_that_there_is_more() {
        let query = OfferQuery {
            gpu_name: None,
            num_gpus: None,
            rental: Rental::OnDemand,
            disk_gb: DEFAULT_DISK_GB,
            filters: Vec::new(),
            hosts: Vec::new(),
            limit: 1,
            first: First::Fastest,
        };
        for (machines, breadth, offers, cut) in [
            (10, Breadth::All, 10, false),
            (10, Breadth::Cheapest(20), 10, false),
            (100, Breadth::All, 64, true),
            (100, Breadth::Best, 64, true),
            (100, Breadth::Cheapest(20), 64, true),
        ] {
            let market = MemoryMarket::new(machines);
            let seen = look(&market, &query, breadth).await.unwrap();
            assert_eq!(
                (seen.offers.len(), seen.cut),
                (offers, cut),
                "{machines} {breadth:?}"
            );
            let price = Offer::running_usd_per_hour;
            assert!(
                seen.offers
                    .is_sorted_by(|one, other| price(one) <= price(other))
            );
        }
    }

    #[test]
    fn a_floor_never_passes_over_an_offer_at_the_price_of_the_last_one() {
        let floor = query::price_at_least(0.123_456_789);
        assert_eq!((floor.op.as_str(), floor.value), ("gte", json!(0.12345)));
    }
}
