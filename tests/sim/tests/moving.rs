//! The market in which prices move, over HTTP: spotter's client sees them move, and outbids.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use spotter::{
    provider::{
        Offer, OfferQuery, Provider, ProviderError, RentRequest, Rental,
        vast::{ApiKey, Vast},
    },
    spec::query,
};
use support::Sim;

const SEED: u64 = 7;
/// Something changes on some machine within seconds.
const SPEED: f64 = 2000.0;
const LIMIT: Duration = Duration::from_secs(60);

/// A client of its own each time, so that no test waits for a route's interval.
fn client(sim: &Sim) -> Vast {
    Vast::new(sim.url.clone(), Some(ApiKey::new("a")))
}

async fn offers(sim: &Sim, rental: Rental) -> Vec<Offer> {
    let query = OfferQuery {
        gpu_name: Some("RTX 4090".to_owned()),
        num_gpus: Some(1),
        rental,
        disk_gb: 20.0,
        filters: query::parse("").unwrap(),
        hosts: Vec::new(),
        limit: 64,
        first: Default::default(),
    };
    client(sim).offers(&query).await.unwrap()
}

/// Price to beat by machine.
fn prices(offers: &[Offer]) -> BTreeMap<u64, Option<String>> {
    let price = |offer: &Offer| offer.min_bid_usd_per_hour.map(|usd| format!("{usd:.3}"));
    offers
        .iter()
        .map(|offer| (offer.machine_id, price(offer)))
        .collect()
}

#[tokio::test]
async fn prices_move_while_one_looks() {
    let sim = Sim::open_moving(SEED, SPEED).await;
    let before = prices(&offers(&sim, Rental::Interruptible).await);
    assert!(!before.is_empty());
    let deadline = Instant::now() + LIMIT;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = prices(&offers(&sim, Rental::Interruptible).await);
        if now != before {
            break;
        }
        assert!(Instant::now() < deadline, "{now:?}");
    }
    sim.close().await;
}

#[tokio::test]
async fn a_machine_that_we_hold_by_bid_stays_listed_at_a_price_above_ours() {
    let sim = Sim::open_moving(SEED, SPEED).await;
    let deadline = Instant::now() + LIMIT;
    // Others may be faster: then it is tried again.
    loop {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let found = offers(&sim, Rental::Interruptible).await;
        let Some(offer) = found.first() else { continue };
        let bid = offer.min_bid_usd_per_hour.unwrap() * 1.5;
        let order = RentRequest {
            offer: offer.id,
            label: "ours".to_owned(),
            image: "i:1".to_owned(),
            disk_gb: 20.0,
            onstart: "true".to_owned(),
            env: Vec::new(),
            bid_usd_per_hour: Some(bid),
            container: Default::default(),
        };
        let id = match client(&sim).rent(&order).await {
            Ok(id) => id,
            Err(ProviderError::OfferGone { .. } | ProviderError::BidTooLow { .. }) => continue,
            Err(err) => panic!("{err}"),
        };
        let by_bid = offers(&sim, Rental::Interruptible).await;
        let on_demand = offers(&sim, Rental::OnDemand).await;
        let seen = client(&sim).instance(id).await.unwrap().unwrap();
        if !seen.contract_running {
            client(&sim).destroy(id).await.unwrap();
            continue;
        }
        let of_machine = |offers: &[Offer]| {
            let same = |row: &&Offer| row.machine_id == offer.machine_id;
            offers.iter().find(same).cloned()
        };
        let listed = of_machine(&by_bid).expect("whoever bids more has it");
        assert!(listed.min_bid_usd_per_hour > Some(bid), "{listed:?}");
        assert_ne!(listed.id, offer.id, "a number is rented once");
        let listed = of_machine(&on_demand).expect("on-demand it is taken from any bidder");
        // It is: our box is interrupted within moments.
        let taken = client(&sim)
            .rent(&RentRequest {
                offer: listed.id,
                label: "ours/2".to_owned(),
                bid_usd_per_hour: None,
                container: Default::default(),
                ..order.clone()
            })
            .await;
        if taken.is_ok() {
            let seen = client(&sim).instance(id).await.unwrap().unwrap();
            assert!(!seen.contract_running, "{seen:?}");
            break;
        }
        client(&sim).destroy(id).await.unwrap();
    }
    sim.close().await;
}
