//! Volumes: disks of one machine that outlive instances. They are listed, rented, mounted by an order and given back when nothing mounts
//! them; what they cost is not billed here, and boxes have nothing at their path.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::{
    market::{
        Market,
        instance::{Instance, Order, VolumeMount},
    },
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
    usd_per_gb_month: f64,
}

/// Instances that exist, with the volume that each mounts.
fn mounted(world: &Arc<World>) -> Vec<(u64, u64)> {
    world.act(|market, _| {
        let living = market.instances().values();
        living
            .filter(|instance| instance.destroyed_ms.is_none())
            .filter_map(|instance| Some((instance.id, instance.order.volume.as_ref()?.volume)))
            .collect()
    })
}

fn by(mounted: &[(u64, u64)], volume: u64) -> impl Iterator<Item = u64> {
    let these = mounted.iter().filter(move |(_, mounts)| *mounts == volume);
    these.map(|(instance, _)| *instance)
}

/// What the list of instances says of the volume of one.
pub fn info(instance: &Instance) -> Value {
    let mounts = instance.order.volume.iter();
    mounts
        .map(|mount| json!({"id": mount.volume, "mount_path": mount.path}))
        .collect()
}

/// Reads what an order says of a volume: one of the account's own, on the machine of the offer.
///
/// # Errors
/// 400 where there is no such volume, or it lies elsewhere.
pub fn mount(
    world: &Arc<World>,
    account: usize,
    offer: u64,
    call: &Call,
    order: &mut Order,
) -> Result<(), ApiError> {
    let Some(Value::Object(info)) = call.body.get("volume_info") else {
        return Ok(());
    };
    let invalid = |text: &str| ApiError::invalid(format!("error 400/3468: Invalid args: {text}"));
    let named = info.get("volume_id").and_then(number).unwrap_or_default() as u64;
    let path = info.get("mount_path").and_then(Value::as_str);
    let path = path.filter(|path| path.starts_with('/'));
    let path = path.ok_or_else(|| invalid("mount_path is no path"))?;
    let machine = world.act(|market, _| market.machine_of_offer(offer));
    let id = match info.get("create_new") == Some(&Value::Bool(true)) {
        false => named,
        true => {
            let size_gb = info.get("size").and_then(number).unwrap_or(DEFAULT_GB);
            let name = info.get("name").and_then(Value::as_str).map(str::to_owned);
            make(world, account, named, size_gb, name)?
        }
    };
    let extras = world.extras();
    let mut own = extras.volumes.iter().filter(|(owner, _)| *owner == account);
    let (_, volume) = own
        .find(|(_, volume)| volume.id == id)
        .ok_or_else(|| invalid("no such volume"))?;
    if machine.is_some_and(|machine| machine != volume.machine_id) {
        return Err(invalid("the volume is on another machine"));
    }
    order.volume = Some(VolumeMount {
        volume: id,
        path: path.to_owned(),
    });
    Ok(())
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
    let mounted = mounted(&world);
    let extras = world.extras();
    let own = extras.volumes.iter().filter(|(owner, _)| *owner == account);
    let rows: Vec<Value> = own
        .map(|(_, volume)| {
            let by: Vec<u64> = by(&mounted, volume.id).collect();
            let status = if by.is_empty() { "created" } else { "in-use" };
            json!({
                "id": volume.id, "status": status, "machine_id": volume.machine_id, "label": volume.name,
                "disk_space": volume.size_gb, "start_date": volume.created_ms as f64 / 1000.0, "instances": by,
                "storage_cost": volume.usd_per_gb_month,
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
    let id = make(&world, account, offer, size_gb, call.text("name"))?;
    ok(json!({"success": true, "volume_name": format!("V.{id}")}))
}

/// Rents a volume.
fn make(
    world: &Arc<World>,
    account: usize,
    offer: u64,
    size_gb: f64,
    name: Option<String>,
) -> Result<u64, ApiError> {
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
        name,
        machine_id: row["machine_id"].as_u64().unwrap_or_default(),
        size_gb,
        created_ms: world.now_ms(),
        usd_per_gb_month: row["storage_cost"].as_f64().unwrap_or_default(),
    };
    let id = volume.id;
    extras.volumes.push((account, volume));
    Ok(id)
}

/// `DELETE /api/v0/volumes/`: the number in the query, or in the body.
pub async fn delete(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let in_query = call.query.get("id").and_then(|id| id.parse::<f64>().ok());
    let id = in_query.or_else(|| call.body.get("id").and_then(number));
    if by(&mounted(&world), id.unwrap_or_default() as u64)
        .next()
        .is_some()
    {
        return Err(ApiError::invalid(
            "error 400/2803: the volume is in use by an instance",
        ));
    }
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
