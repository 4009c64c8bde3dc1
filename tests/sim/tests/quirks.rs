//! spotter's client of the market against everything that the market is known to do to automation: one test for each habit, named
//! after it. What it answers is in `answers`, what it asks in `prices`, what becomes of what was rented in `boxes`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

#[path = "quirks/answers.rs"]
mod answers;
#[path = "quirks/boxes.rs"]
mod boxes;
#[path = "quirks/prices.rs"]
mod prices;
mod support;

use spotter::{
    provider::{
        Offer, OfferQuery, Provider, RentRequest, Rental,
        vast::{ApiKey, Vast},
    },
    spec::query,
};
use support::Sim;

fn client(sim: &Sim) -> Vast {
    client_with(sim, "a")
}

fn client_with(sim: &Sim, key: &str) -> Vast {
    Vast::new(sim.url.clone(), Some(ApiKey::new(key)))
}

fn asked(text: &str, rental: Rental) -> OfferQuery {
    OfferQuery {
        gpu_name: None,
        num_gpus: Some(1),
        rental,
        disk_gb: 40.0,
        filters: query::parse(text).unwrap(),
        hosts: Vec::new(),
        limit: 64,
        first: Default::default(),
    }
}

fn order(offer: u64, label: &str, bid: Option<f64>) -> RentRequest {
    RentRequest {
        offer,
        label: label.to_owned(),
        image: "i:1".to_owned(),
        disk_gb: 40.0,
        onstart: "true".to_owned(),
        env: Vec::new(),
        bid_usd_per_hour: bid,
        container: Default::default(),
    }
}

async fn cheapest(vast: &Vast) -> Offer {
    let query = asked("gpu_name=RTX_4090", Rental::OnDemand);
    vast.offers(&query).await.unwrap().remove(0)
}

fn sent(sim: &Sim, line: &str) -> usize {
    let seen = sim.world.seen();
    let is = |method: &str, path: &str| format!("{method} {path}").starts_with(line);
    seen.iter()
        .filter(|seen| is(&seen.method, &seen.path))
        .count()
}
