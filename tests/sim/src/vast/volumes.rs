//! Volumes: disks of one machine that outlive instances. They are listed, rented and given back; what they cost is not billed here.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::{
    market::Market,
    vast::{
        call::{Answer, ApiError, Call, ok, success},
        filter::{Filters, compare_rows, number, sort_keys},
    },
    world::World,
};

/// Numbers of volume offers lie this far above those of the machines.
const OFFER_BASE: u64 = 36_900_000;
/// Size when the order names none, GB.
const DEFAULT_GB: f64 = 15.0;

/// A rented volume.
#[derive(Debug, Clone)]
pub struct Volume {
    id: u64,
    name: Option<String>,
    machine_id: u64,
    size_gb: f64,
    created_ms: i64,
}

fn offer_rows(market: &Market) -> Vec<Map<String, Value>> {
    let machines = market.machines().iter().enumerate();
    machines
        .filter(|(_, machine)| !machine.offline)
        .filter_map(|(index, machine)| {
            let spec = &machine.spec;
            let row = json!({
                "id": OFFER_BASE + spec.id, "machine_id": spec.id, "host_id": spec.host_id,
                "disk_space": market.free_disk_gb(index), "disk_bw": spec.disk_bw_mbps,
                "storage_cost": spec.storage_usd_per_gb_month, "inet_up": spec.inet_up_mbps,
                "inet_down": spec.inet_down_mbps, "reliability": spec.reliability,
                "geolocation": spec.geolocation, "verification": spec.verification,
                "vericode": u8::from(spec.verification == "verified"),
                "hosting_type": u8::from(spec.datacenter), "external": null, "score": spec.reliability,
                "cpu_arch": "amd64", "gpu_arch": "nvidia", "cuda_max_good": spec.cuda_max_good,
                "driver_version": spec.driver_version, "pci_gen": spec.pci_gen, "pcie_bw": spec.pcie_bw_gbps,
                "duration": 90.0 * 86_400.0, "total_flops": spec.gpu.tflops, "static_ip": spec.static_ip,
            });
            row.as_object().cloned()
        })
        .collect()
}

/// `POST /api/v0/volumes/search/`.
pub async fn search(State(world): State<Arc<World>>, call: Call) -> Answer {
    call.account()?;
    let filters = Filters::parse(&call.body).map_err(ApiError::invalid)?;
    let mut rows = world.act(|market, _| offer_rows(market));
    rows.retain(|row| filters.accept_offer(row));
    let keys = sort_keys(call.body.get("order").unwrap_or(&Value::Null));
    rows.sort_by(|a, b| compare_rows(a, b, &keys));
    ok(json!({"offers": rows}))
}

/// `GET /api/v0/volumes`.
pub async fn list(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let extras = world.extras();
    let own = extras.volumes.iter().filter(|(owner, _)| *owner == account);
    let rows: Vec<Value> = own
        .map(|(_, volume)| {
            json!({
                "id": volume.id, "status": "created", "machine_id": volume.machine_id, "label": volume.name,
                "disk_space": volume.size_gb, "start_date": volume.created_ms as f64 / 1000.0, "instances": [],
            })
        })
        .collect();
    ok(json!({"volumes": rows}))
}

/// `PUT /api/v0/volumes/`.
pub async fn create(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let offer = call.number("id").unwrap_or_default() as u64;
    let size_gb = call.number("size").unwrap_or(DEFAULT_GB);
    let rows = world.act(|market, _| offer_rows(market));
    let row = rows.iter().find(|row| row["id"] == offer);
    let row =
        row.ok_or_else(|| ApiError::new(404, "no_such_ask", format!("no_such_ask {offer}")))?;
    if row["disk_space"].as_f64().is_none_or(|free| free < size_gb) {
        return Err(ApiError::invalid(
            "error 400/2801: there is not so much disk",
        ));
    }
    let mut extras = world.extras();
    let volume = Volume {
        id: extras.number(),
        name: call.text("name"),
        machine_id: row["machine_id"].as_u64().unwrap_or_default(),
        size_gb,
        created_ms: world.now_ms(),
    };
    let name = format!("V.{}", volume.id);
    extras.volumes.push((account, volume));
    ok(json!({"success": true, "volume_name": name}))
}

/// `DELETE /api/v0/volumes/`: the number in the query, or in the body.
pub async fn delete(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let in_query = call.query.get("id").and_then(|id| id.parse::<f64>().ok());
    let id = in_query.or_else(|| call.body.get("id").and_then(number));
    let mut extras = world.extras();
    let before = extras.volumes.len();
    extras
        .volumes
        .retain(|(owner, volume)| *owner != account || Some(volume.id as f64) != id);
    if extras.volumes.len() == before {
        return Err(ApiError::new(404, "not_found", "no such volume"));
    }
    success()
}
