//! Searching offers: `POST bundles/`, `PUT search/asks/` and the old `GET bundles?q=`.

use std::{collections::BTreeSet, sync::Arc};

use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::{
    control::faults,
    market::{Market, Millis},
    vast::{
        call::{Answer, ApiError, Call, answer, ok},
        filter::{Filters, compare_rows, number, sort_keys},
        rows::{self, Pricing},
    },
    world::World,
};

/// The market never answers with more rows, whatever `limit` says.
const MOST_OFFERS: usize = 64;
/// Disk that prices are for when the query names none, GB.
const DEFAULT_ALLOCATED_GB: f64 = 8.0;

/// `POST /api/v0/bundles/`: filters and options in one object.
pub async fn flat(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    offers(&world, account, &call.body)
}

/// `PUT /api/v0/search/asks/`: the same object under `q`.
pub async fn nested(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    match call.body.get("q") {
        Some(Value::Object(query)) => offers(&world, account, query),
        _ => Err(ApiError::invalid("error 400/2101: q is missing")),
    }
}

/// `GET /api/v0/bundles?q=`: the same object in the query.
pub async fn by_query(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    match call.json("q")? {
        Some(Value::Object(query)) => offers(&world, account, &query),
        _ => Err(ApiError::invalid("error 400/2101: q is missing")),
    }
}

/// `GET /api/v0/gpu_names/unique/`: needs no key.
pub async fn gpu_names(State(world): State<Arc<World>>) -> axum::response::Response {
    let names: BTreeSet<&str> = world.act(|market, _| {
        market
            .machines()
            .iter()
            .map(|machine| machine.spec.gpu.name)
            .collect()
    });
    answer(200, &json!({"gpu_names": names}))
}

fn offers(world: &Arc<World>, account: usize, query: &Map<String, Value>) -> Answer {
    ok(json!({"offers": find(world, account, query)?}))
}

/// The offers that a query finds, in its order.
///
/// # Errors
/// A query that makes no sense.
pub(super) fn find(
    world: &Arc<World>,
    account: usize,
    query: &Map<String, Value>,
) -> Result<Vec<Map<String, Value>>, ApiError> {
    let mut query = Query::parse(query)?;
    if faults::take(&mut world.faults().filters_ignored) {
        query.filters = Filters::default();
    }
    query.ports_exhausted = world.faults().ports_exhausted;
    Ok(world.act(|market, now| query.run(market, account, now)))
}

struct Query {
    filters: Filters,
    ports_exhausted: bool,
    pricing: Pricing,
    allocated_gb: f64,
    limit: usize,
    order: Value,
}

impl Query {
    fn parse(query: &Map<String, Value>) -> Result<Self, ApiError> {
        let filters = Filters::parse(query)
            .map_err(|text| ApiError::invalid(format!("error 400/2102: {text}")))?;
        let pricing = match query.get("type").and_then(Value::as_str) {
            None | Some("on-demand" | "ondemand" | "ask" | "reserved") => Pricing::OnDemand,
            Some("bid" | "interruptible") => Pricing::Bid,
            Some(other) => {
                return Err(ApiError::invalid(format!(
                    "error 400/2103: unknown type {other}"
                )));
            }
        };
        let allocated_gb = query.get("allocated_storage").and_then(number);
        let limit = query
            .get("limit")
            .and_then(number)
            .filter(|limit| *limit >= 1.0);
        Ok(Self {
            filters,
            ports_exhausted: false,
            pricing,
            allocated_gb: allocated_gb
                .filter(|gb| *gb >= 0.0)
                .unwrap_or(DEFAULT_ALLOCATED_GB),
            limit: limit.map_or(MOST_OFFERS, |limit| (limit as usize).min(MOST_OFFERS)),
            order: query
                .get("order")
                .cloned()
                .unwrap_or(json!([["score", "desc"]])),
        })
    }

    fn run(&self, market: &Market, account: usize, now: Millis) -> Vec<Map<String, Value>> {
        let mut found = Vec::new();
        for (index, machine) in market.machines().iter().enumerate() {
            let free_disk_gb = market.free_disk_gb(index);
            if free_disk_gb < self.allocated_gb {
                continue;
            }
            let rented_here = market.instances().values().any(|instance| {
                instance.machine == index
                    && instance.account == account
                    && instance.destroyed_ms.is_none()
            });
            for listing in &machine.listings {
                let mut row = rows::offer(
                    machine,
                    listing,
                    free_disk_gb,
                    self.pricing,
                    self.allocated_gb,
                    rented_here,
                    now,
                );
                if self.ports_exhausted {
                    row.insert("direct_port_count".to_owned(), json!(0));
                }
                if self.filters.accept_offer(&row) {
                    found.push(row);
                }
            }
        }
        let keys = sort_keys(&self.order);
        found.sort_by(|a, b| compare_rows(a, b, &keys));
        found.truncate(self.limit);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::{Account, Delays, catalogue, instance::Order};

    fn market() -> Market {
        let account = Account {
            id: 1,
            api_keys: vec![],
            deposit_usd: 5.0,
            ssh_keys: vec![],
        };
        Market::new(
            3,
            Delays::scaled(1.0),
            catalogue::machines(3, 0),
            vec![account],
            0,
        )
    }

    fn search(market: &Market, query: Value) -> Vec<Map<String, Value>> {
        Query::parse(query.as_object().unwrap())
            .unwrap()
            .run(market, 0, 0)
    }

    #[test]
    fn what_the_official_client_sends_finds_what_it_asks_for() {
        let rows = search(
            &market(),
            json!({"verified": {"eq": true}, "external": {"eq": false}, "rentable": {"eq": true},
                "gpu_name": {"eq": "RTX 4090"}, "num_gpus": {"eq": "1"}, "order": [["dph_total", "asc"]],
                "type": "on-demand", "allocated_storage": 5.0}),
        );
        assert_eq!(rows.len(), 4, "four verified machines have them");
        assert!(
            rows.windows(2)
                .all(|w| w[0]["dph_total"].as_f64() <= w[1]["dph_total"].as_f64())
        );
        assert!(
            rows.iter()
                .all(|row| row["gpu_name"] == "RTX 4090" && row["num_gpus"] == 1)
        );
    }

    #[test]
    fn a_limit_may_be_a_string_and_the_cap_holds_whatever_it_says() {
        assert_eq!(search(&market(), json!({"limit": "3"})).len(), 3);
        assert!(search(&market(), json!({"limit": 1000})).len() <= MOST_OFFERS);
        assert_eq!(
            search(&market(), json!({"limit": null})).len(),
            search(&market(), json!({})).len()
        );
    }

    #[test]
    fn prices_follow_the_disk_and_the_kind_of_rental() {
        let total = |query: Value| search(&market(), query)[0]["dph_total"].as_f64().unwrap();
        let one = json!({"gpu_name": {"eq": "H100 SXM"}, "num_gpus": {"eq": 8}, "order": [["machine_id", "asc"]], "allocated_storage": 0});
        let mut bid = one.clone();
        bid["type"] = "bid".into();
        let mut disk = one.clone();
        disk["allocated_storage"] = "720".into();
        assert!((total(disk) - total(one.clone()) - 0.2).abs() < 1e-12);
        assert!(total(bid) < total(one));
    }

    #[test]
    fn a_rented_offer_is_gone_and_its_machine_is_marked() {
        let mut market = market();
        let best = search(&market, json!({"order": [["dph_total", "asc"]]}))[0].clone();
        let id = best["id"].as_u64().unwrap();
        let order = Order {
            image: "i".into(),
            disk_gb: 100.0,
            ..Order::default()
        };
        market.rent(0, 0, id, order).unwrap();
        let rows = search(&market, json!({}));
        assert!(rows.iter().all(|row| row["id"] != best["id"]));
        let machine: Vec<_> = rows
            .iter()
            .filter(|r| r["machine_id"] == best["machine_id"])
            .collect();
        assert!(machine.iter().all(|row| row["rented"] == true));
        assert!(search(&market, json!({"rented": {"eq": "true"}})).len() == machine.len());
    }

    #[test]
    fn more_disk_than_a_machine_has_left_finds_nothing() {
        assert!(search(&market(), json!({"allocated_storage": 1e6})).is_empty());
    }
}
