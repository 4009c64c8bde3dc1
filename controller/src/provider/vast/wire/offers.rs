//! Searches and offers: what is asked, what a row says, and whether a row is what was asked for.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::{float, optional_float, per_hour, text, uint};
use crate::{
    provider::{First, Offer, OfferQuery, Rental, vast::search_type},
    spec::query,
};

/// Ports that a host has left for an instance.
const PORTS: &str = "direct_port_count";

/// Body of a search. Our own conditions come last, so that a query cannot loosen them.
pub(in crate::provider::vast) fn search(query: &OfferQuery) -> Value {
    let mut body = query::conditions(&query.filters);
    // `cuda_max_good` alone hides some GPU models, so CUDA is compared here (see `matches`).
    body.remove("cuda_max_good");
    if let Some(name) = &query.gpu_name {
        body.insert("gpu_name".to_owned(), json!({"eq": name}));
    }
    if let Some(count) = query.num_gpus {
        body.insert("num_gpus".to_owned(), json!({"eq": count}));
    }
    let disk = body.entry("disk_space").or_insert_with(|| json!({}));
    let asked_gb = optional_float(disk, "gte").unwrap_or(0.0);
    disk["gte"] = json!(asked_gb.max(query.disk_gb));
    // A router without a port left gives no direct way in, and its box is reached through the proxy alone.
    if !query.filters.iter().any(|filter| filter.field == PORTS) {
        body.insert(PORTS.to_owned(), json!({"gte": 1}));
    }
    let order = match query.first {
        First::Cheapest => json!([["dph_total", "asc"]]),
        First::Fastest => json!([["total_flops", "desc"]]),
        First::MostForADollar => json!([["flops_per_dphtotal", "desc"]]),
    };
    body.insert("order".to_owned(), order);
    body.insert("type".to_owned(), json!(search_type(query.rental)));
    // More than asked for: rows that fail the local check leave gaps.
    body.insert(
        "limit".to_owned(),
        json!(query.limit.saturating_mul(2).clamp(16, 64)),
    );
    body.insert("allocated_storage".to_owned(), json!(query.disk_gb));
    Value::Object(body)
}

/// One offer; `None` when it has no number.
pub(in crate::provider::vast) fn offer(row: &Value, query: &OfferQuery) -> Option<Offer> {
    let number = |key: &str| row.get(key).and_then(Value::as_u64);
    let id = number("ask_contract_id").or_else(|| number("id"))?;
    let interruptible = query.rental == Rental::Interruptible;
    let min_bid = optional_float(row, "min_bid");
    let gpu = if interruptible {
        min_bid?
    } else {
        optional_float(row, "dph_base")?
    };
    // The asked size is ours, not the server's default.
    let storage = optional_float(row, "storage_cost").map(|month| per_hour(month, query.disk_gb));
    let cores = optional_float(row, "cpu_cores_effective").unwrap_or(0.0);
    let share = match optional_float(row, "cpu_cores") {
        Some(all) if all > 0.0 => (cores / all).min(1.0),
        _ => optional_float(row, "gpu_frac").unwrap_or(1.0),
    };
    Some(Offer {
        id,
        machine_id: uint(row, "machine_id"),
        gpu_name: text(row, "gpu_name").to_owned(),
        num_gpus: uint(row, "num_gpus") as u32,
        vram_mib: uint(row, "gpu_ram"),
        ram_mb: (float(row, "cpu_ram") * share) as u64,
        cpu_cores: cores,
        disk_gb: float(row, "disk_space"),
        gpu_usd_per_hour: gpu,
        storage_usd_per_hour: storage.unwrap_or_else(|| float(row, "storage_total_cost")),
        min_bid_usd_per_hour: if interruptible { min_bid } else { None },
        inet_down_usd_per_gb: float(row, "inet_down_cost"),
        inet_up_usd_per_gb: float(row, "inet_up_cost"),
        reliability: optional_float(row, "reliability2")
            .or_else(|| optional_float(row, "reliability")),
        inet_down_mbps: float(row, "inet_down"),
        inet_up_mbps: float(row, "inet_up"),
        nvlink_gbps: float(row, "bw_nvlink"),
        cuda: float(row, "cuda_max_good"),
        compute_cap: uint(row, "compute_cap") as u32,
        verified: text(row, "verification") == "verified",
        datacenter: uint(row, "hosting_type") == 1,
        geolocation: text(row, "geolocation").to_owned(),
        max_duration_s: optional_float(row, "duration"),
        direct_ports: uint(row, "direct_port_count") as u32,
    })
}

/// Whether an offer really is what was asked for: the server's filters are not always faithful. A figure that its row has not is the
/// server's to judge.
pub(in crate::provider::vast) fn matches(offer: &Offer, row: &Value, query: &OfferQuery) -> bool {
    let name = query
        .gpu_name
        .as_ref()
        .is_none_or(|name| name.eq_ignore_ascii_case(&offer.gpu_name));
    let count = query.num_gpus.is_none_or(|count| count == offer.num_gpus);
    let conditions = query::conditions(&query.filters);
    let filters = conditions.iter().all(|(field, ops)| {
        let Some(have) = figure(offer, row, field) else {
            return true;
        };
        let mut ops = ops.as_object().into_iter().flatten();
        ops.all(|(op, value)| match field.as_str() {
            // Sums of rounded prices: what was rounded on the way is not passed over.
            "dph_total" => about(&have, op, value),
            // The server goes by the whole machine; a box has the memory of its slice.
            "cpu_ram" if !matches!(op.as_str(), "gt" | "gte") => true,
            _ => holds(&have, op, value),
        })
    });
    let disk = row.get("disk_space").is_none_or(Value::is_null) || offer.disk_gb >= query.disk_gb;
    name && count && filters && disk
}

/// What an offer has of a field, in the market's unit; `None`: its row does not say, or that is left to the server.
fn figure(offer: &Offer, row: &Value, field: &str) -> Option<Value> {
    let there = |key: &str| row.get(key).is_some_and(|value| !value.is_null());
    Some(match field {
        "reliability" => json!(offer.reliability?),
        "duration" => json!(offer.max_duration_s?),
        "gpu_name" => json!(offer.gpu_name),
        "num_gpus" => json!(offer.num_gpus),
        "gpu_ram" if there("gpu_ram") => json!(offer.vram_mib),
        "cpu_ram" if there("cpu_ram") => json!(offer.ram_mb),
        "datacenter" if there("hosting_type") => json!(offer.datacenter),
        "verified" if there("verification") => json!(offer.verified),
        "dph_total" => json!(offer.running_usd_per_hour()),
        "bw_nvlink"
        | "compute_cap"
        | "cpu_cores"
        | "cpu_cores_effective"
        | "cuda_max_good"
        | "direct_port_count"
        | "inet_down"
        | "inet_down_cost"
        | "inet_up"
        | "inet_up_cost"
        | "machine_id"
        | "min_bid"
        | "storage_cost" => json!(optional_float(row, field)?),
        _ => return None,
    })
}

/// The same of a price that is a sum: a ten-thousandth of a dollar either way is none.
fn about(have: &Value, op: &str, want: &Value) -> bool {
    const ROUNDED_USD: f64 = 1e-4;
    let (Some(have), Some(want)) = (have.as_f64(), want.as_f64()) else {
        return true;
    };
    match op {
        "gt" | "gte" => have >= want - ROUNDED_USD,
        "lt" | "lte" => have <= want + ROUNDED_USD,
        _ => true,
    }
}

/// Whether a condition holds; one that cannot be judged here is the server's.
fn holds(have: &Value, op: &str, want: &Value) -> bool {
    let equal = |want: &Value| match (have.as_f64(), want.as_f64()) {
        (Some(have), Some(want)) => have == want,
        _ => have == want,
    };
    let order = match (have.as_f64(), want.as_f64()) {
        (Some(have), Some(want)) => have.partial_cmp(&want),
        _ => None,
    };
    let listed = || want.as_array().is_some_and(|list| list.iter().any(equal));
    match op {
        _ if want.is_null() => true,
        "eq" => equal(want),
        "neq" => !equal(want),
        "gt" => order.is_none_or(Ordering::is_gt),
        "gte" => order.is_none_or(Ordering::is_ge),
        "lt" => order.is_none_or(Ordering::is_lt),
        "lte" => order.is_none_or(Ordering::is_le),
        "in" => listed(),
        "notin" => !listed(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Filter;

    fn query() -> OfferQuery {
        OfferQuery {
            gpu_name: Some("RTX 4090".to_owned()),
            num_gpus: Some(1),
            rental: Rental::Interruptible,
            disk_gb: 40.0,
            filters: vec![Filter {
                field: "reliability".to_owned(),
                op: "gt".to_owned(),
                value: json!(0.95),
            }],
            hosts: Vec::new(),
            limit: 10,
            first: Default::default(),
        }
    }

    fn row() -> Value {
        json!({"ask_contract_id": 7, "id": 7, "machine_id": 3, "gpu_name": "RTX 4090", "num_gpus": 1,
            "gpu_ram": 24564, "cpu_ram": 100_000, "cpu_cores": 64, "cpu_cores_effective": 16.0,
            "disk_space": 812.4, "dph_base": 0.34, "min_bid": 0.17, "storage_cost": 0.15,
            "reliability": 0.99, "verification": "verified", "hosting_type": 0, "unheard_of": [1]})
    }

    #[test]
    fn an_interruptible_offer_is_priced_at_its_minimal_bid_and_our_disk_size() {
        let offer = offer(&row(), &query()).unwrap();
        assert_eq!(offer.gpu_usd_per_hour, 0.17);
        assert!((offer.storage_usd_per_hour - 0.15 * 40.0 / 720.0).abs() < 1e-12);
        assert_eq!(offer.ram_mb, 25_000);
        assert!(matches(&offer, &row(), &query()));
    }

    #[test]
    fn an_offer_survives_every_missing_or_null_field_but_its_number_and_price() {
        let full = row();
        for key in full.as_object().unwrap().keys() {
            for replacement in [None, Some(Value::Null)] {
                let mut row = full.clone();
                let map = row.as_object_mut().unwrap();
                match replacement {
                    Some(null) => map.insert(key.clone(), null),
                    None => map.remove(key),
                };
                let parsed = offer(&row, &query());
                assert!(parsed.is_some() || key == "min_bid", "{key}");
                if let Some(parsed) = parsed {
                    let asked = OfferQuery {
                        gpu_name: None,
                        num_gpus: None,
                        ..query()
                    };
                    assert!(matches(&parsed, &row, &asked), "{key}: {parsed:?}");
                }
            }
        }
    }

    #[test]
    fn what_the_server_lets_through_is_checked_again() {
        let mut unreliable = row();
        unreliable["reliability"] = json!(0.5);
        assert!(!matches(
            &offer(&unreliable, &query()).unwrap(),
            &unreliable,
            &query()
        ));
        let mut small = row();
        small["disk_space"] = json!(39.0);
        assert!(!matches(
            &offer(&small, &query()).unwrap(),
            &small,
            &query()
        ));
    }

    /// An offer of a fourth of its machine, against conditions as they are typed.
    #[test]
    fn what_the_server_judges_by_the_whole_machine_is_held_against_the_slice() {
        for (text, expected) in [
            ("cpu_ram>=25", true),
            ("cpu_ram>=26", false),
            ("cpu_ram<=200", true),
            ("cpu_cores_effective>=16", true),
            ("cpu_cores_effective>16", false),
            // $0.17 and 40 GB of disk at $0.15 for a GB and month.
            ("dph<=0.178", false),
            ("dph<=0.1784", true),
            ("dph>=0.17834", true),
            ("min_bid<0.17", false),
            ("storage_cost<=0.15", true),
            ("storage_cost<0.15", false),
            // Its row does not say.
            ("inet_down_cost<=0.001", true),
            ("inet_down>=500", true),
            ("duration>=3", true),
            ("verified=false", false),
            ("verified=any", true),
        ] {
            let asked = OfferQuery {
                filters: query::parse(text).unwrap(),
                ..query()
            };
            let found = offer(&row(), &asked).unwrap();
            assert_eq!(matches(&found, &row(), &asked), expected, "{text}");
        }
        let mut machine = row();
        machine["verification"] = json!("unverified");
        let found = offer(&machine, &query()).unwrap();
        assert!(!matches(&found, &machine, &query()), "the default");
    }

    #[test]
    fn what_a_row_does_not_say_is_not_known() {
        for key in ["reliability", "duration"] {
            let mut machine = row();
            machine[key] = Value::Null;
            let found = offer(&machine, &query()).unwrap();
            let told = (found.reliability, found.max_duration_s);
            let expected = match key {
                "reliability" => (None, None),
                _ => (Some(0.99), None),
            };
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn a_search_says_what_the_query_says_and_keeps_the_defaults_it_does_not_touch() {
        let mut query = query();
        query.filters.push(Filter {
            field: "verified".into(),
            op: "eq".into(),
            value: json!("any"),
        });
        let body = search(&query);
        assert_eq!(body["gpu_name"], json!({"eq": "RTX 4090"}));
        assert_eq!(body["type"], "bid");
        assert_eq!(body["allocated_storage"], 40.0);
        assert_eq!(body["disk_space"], json!({"gte": 40.0}));
        assert_eq!(body["rentable"], json!({"eq": true}));
        assert!(body.get("verified").is_none());
    }
}
