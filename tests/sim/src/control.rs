//! The control interface under `/sim/`: what a test or a demo does to the market, its boxes and its bucket, in JSON.
//!
//! [`verbs`] is the same as a command line. Nothing here needs a key: the simulator listens on this machine only.

pub mod faults;
pub mod verbs;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    boxes::LinkFault,
    market::{
        InstanceId, Market, Millis, Refused, contracts::Intruder, instance::Instance,
        term::LONGEST_S,
    },
    vast::{call::answer, rows},
    world::World,
};

/// Turns the switches of the bucket: an object with switches to change, answered by all of them.
pub type BucketFaults = Arc<dyn Fn(Value) -> anyhow::Result<Value> + Send + Sync>;

/// What the control interface reaches.
#[derive(Clone)]
pub struct Control {
    /// Market and boxes.
    pub world: Arc<World>,
    /// Switches of the bucket, when there is one.
    pub bucket: Option<BucketFaults>,
    /// Ends the simulator.
    pub quit: CancellationToken,
}

/// Why the control interface would not.
#[derive(Debug)]
struct Complaint(String);

impl IntoResponse for Complaint {
    fn into_response(self) -> Response {
        answer(400, &json!({"error": self.0}))
    }
}

impl<E: std::fmt::Display> From<E> for Complaint {
    fn from(err: E) -> Self {
        Self(format!("{err:#}"))
    }
}

type Reply = Result<Response, Complaint>;

fn reply(body: &Value) -> Reply {
    Ok(answer(200, body))
}

/// The routes.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/sim/state", get(state))
        .route("/sim/bill", get(bills))
        .route("/sim/bill/{id}", get(bill))
        .route("/sim/requests", get(requests))
        .route("/sim/home/{id}", get(home))
        .route("/sim/outbid", post(outbid))
        .route("/sim/tenant-leaves", post(tenant_leaves))
        .route("/sim/host-loss", post(host_loss))
        .route("/sim/host-back", post(host_back))
        .route("/sim/container-ends", post(container_ends))
        .route("/sim/contract-ends", post(contract_ends))
        .route("/sim/rewrite-keys", post(rewrite_keys))
        .route("/sim/link", post(link))
        .route("/sim/traffic", post(traffic))
        .route("/sim/credit", post(credit))
        .route(
            "/sim/faults",
            get(faults).post(change_faults).delete(clear_faults),
        )
        .route("/sim/s3", post(bucket))
        .route("/sim/quit", post(quit))
        .with_state(control)
}

/// Reads a body; an empty one is an empty object.
fn read<T: DeserializeOwned>(body: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(if body.trim().is_empty() { "{}" } else { body })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    id: InstanceId,
}

fn bill_of(instance: &Instance, now: Millis) -> Value {
    let bill = &instance.bill;
    json!({
        "id": instance.id, "label": instance.order.label,
        "gpu_usd": bill.gpu_usd(now), "storage_usd": bill.storage_usd(now), "traffic_usd": bill.traffic_usd(),
        "total_usd": bill.total_usd(now), "gpu_seconds": bill.gpu_millis(now) as f64 / 1000.0,
        "created_ms": instance.created_ms, "destroyed_ms": instance.destroyed_ms,
        "intervals": bill.intervals, "traffic": bill.traffic,
    })
}

async fn state(State(control): State<Control>) -> Reply {
    reply(&control.world.act(|market, now| {
        let instances: Vec<Value> = market
            .instances()
            .values()
            .map(|instance| {
                let mut row = rows::instance(market, instance, now);
                row.insert("account".to_owned(), instance.account.into());
                row.insert("gpus".to_owned(), json!(instance.gpus));
                row.insert("container".to_owned(), json!(instance.container));
                row.insert("wants_to_run".to_owned(), instance.wants_to_run.into());
                row.insert("instance_api_key".to_owned(), json!(instance.api_key));
                row.insert(
                    "address".to_owned(),
                    json!(instance.address.map(|address| address.to_string())),
                );
                row.insert("destroyed_ms".to_owned(), json!(instance.destroyed_ms));
                row.insert("total_usd".to_owned(), instance.bill.total_usd(now).into());
                Value::Object(row)
            })
            .collect();
        let accounts: Vec<Value> = (0..market.accounts().len())
            .map(|account| json!({
                "id": market.accounts()[account].id, "credit_usd": market.credit_usd(account, now),
            }))
            .collect();
        json!({
            "now_ms": now, "tier": control.world.boxes().tier(), "accounts": accounts,
            "machines": market.machines(), "instances": instances,
        })
    }))
}

async fn bills(State(control): State<Control>) -> Reply {
    reply(&control.world.act(|market, now| {
        let bills: Vec<Value> = market
            .instances()
            .values()
            .map(|i| bill_of(i, now))
            .collect();
        let total: f64 = market
            .instances()
            .values()
            .map(|i| i.bill.total_usd(now))
            .sum();
        json!({"now_ms": now, "total_usd": total, "instances": bills})
    }))
}

async fn bill(State(control): State<Control>, Path(id): Path<InstanceId>) -> Reply {
    let bill = control
        .world
        .act(|market, now| market.instances().get(&id).map(|i| bill_of(i, now)));
    reply(&bill.ok_or(Refused::NoSuchInstance(id))?)
}

async fn requests(State(control): State<Control>) -> Reply {
    reply(&json!(control.world.seen()))
}

async fn home(State(control): State<Control>, Path(id): Path<InstanceId>) -> Reply {
    reply(&json!({"home": control.world.boxes().home(id).await?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outbid {
    id: InstanceId,
    /// Epoch seconds; by default the rival stays until it is told to leave.
    until_s: Option<f64>,
    /// The same from now.
    for_s: Option<f64>,
    bid: Option<f64>,
    #[serde(default)]
    on_demand: bool,
}

async fn outbid(State(control): State<Control>, body: String) -> Reply {
    let order: Outbid = read(&body)?;
    let rival = control.world.act(|market, now| {
        let until_s = order.until_s.map(|until| (until * 1000.0) as Millis - now);
        let for_s = order.for_s.map(|seconds| (seconds * 1000.0) as Millis);
        let intruder = Intruder {
            on_demand: order.on_demand,
            bid_usd_per_hour: order.bid,
            // A moment that has passed is now: the market's time does not run backwards.
            stays_ms: until_s.or(for_s).map(|stays| stays.max(0)),
        };
        market.outbid(now, order.id, intruder)
    })?;
    reply(&json!({"rival": rival}))
}

/// Does something to one instance and answers with what it gave.
fn one<T: serde::Serialize>(
    control: &Control,
    body: &str,
    name: &str,
    what: impl FnOnce(&mut Market, Millis, InstanceId) -> Result<T, Refused>,
) -> Reply {
    let One { id } = read(body)?;
    let gave = control.world.act(|market, now| what(market, now, id))?;
    reply(&json!({name: gave}))
}

async fn tenant_leaves(State(control): State<Control>, body: String) -> Reply {
    one(&control, &body, "left", Market::tenant_leaves)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostLoss {
    id: InstanceId,
    #[serde(default)]
    unnoticed: bool,
}

async fn host_loss(State(control): State<Control>, body: String) -> Reply {
    let HostLoss { id, unnoticed } = read(&body)?;
    let lost = control.world.act(|market, now| match unnoticed {
        true => market.lose_host_unnoticed(now, id),
        false => market.lose_host(now, id),
    })?;
    reply(&json!({"lost": lost}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContractEnds {
    id: InstanceId,
    #[serde(default)]
    in_s: f64,
}

async fn contract_ends(State(control): State<Control>, body: String) -> Reply {
    let ContractEnds { id, in_s } = read(&body)?;
    if !(0.0..=LONGEST_S).contains(&in_s) {
        return Err(Complaint(format!(
            "in_s is 0 to {LONGEST_S} seconds, not {in_s}"
        )));
    }
    let end_ms = control
        .world
        .act(|market, now| market.end_term(now, id, (in_s * 1000.0) as Millis))?;
    reply(&json!({"end_date": end_ms as f64 / 1000.0}))
}

async fn host_back(State(control): State<Control>, body: String) -> Reply {
    one(&control, &body, "back", Market::host_back)
}

async fn container_ends(State(control): State<Control>, body: String) -> Reply {
    one(&control, &body, "ended", Market::end_container)
}

async fn rewrite_keys(State(control): State<Control>, body: String) -> Reply {
    one(&control, &body, "rewritten", Market::rewrite_keys)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    id: InstanceId,
    fault: LinkFault,
}

async fn link(State(control): State<Control>, body: String) -> Reply {
    let Link { id, fault } = read(&body)?;
    control.world.boxes().link(id, fault.clone()).await?;
    reply(&json!({"id": id, "fault": fault}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrafficOrder {
    id: InstanceId,
    #[serde(default)]
    down_gb: f64,
    #[serde(default)]
    up_gb: f64,
}

async fn traffic(State(control): State<Control>, body: String) -> Reply {
    let order: TrafficOrder = read(&body)?;
    control
        .world
        .act(|market, now| market.add_traffic(now, order.id, order.down_gb, order.up_gb))?;
    reply(&json!({"id": order.id}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credit {
    #[serde(default)]
    account: usize,
    usd: f64,
}

async fn credit(State(control): State<Control>, body: String) -> Reply {
    let Credit { account, usd } = read(&body)?;
    let credit = control.world.act(|market, now| {
        (account < market.accounts().len()).then(|| {
            market.deposit(now, account, usd);
            market.credit_usd(account, now)
        })
    });
    reply(&json!({"credit_usd": credit.ok_or(format!("there is no account {account}"))?}))
}

async fn faults(State(control): State<Control>) -> Reply {
    reply(&json!(control.world.faults().clone()))
}

async fn change_faults(State(control): State<Control>, body: String) -> Reply {
    let change = read(&body)?;
    let changed = {
        let mut faults = control.world.faults();
        faults.change(change)?;
        faults.clone()
    };
    turn(&control, &changed);
    reply(&json!(changed))
}

async fn clear_faults(State(control): State<Control>) -> Reply {
    *control.world.faults() = faults::Faults::default();
    turn(&control, &faults::Faults::default());
    reply(&json!(faults::Faults::default()))
}

/// Tells the market of the switches that are its own.
fn turn(control: &Control, faults: &faults::Faults) {
    control.world.act(|market, _| {
        market.set_loading(faults.loading);
        market.set_pull_failure(faults.pull_failure.clone());
        market.set_destroy_delay((faults.destroy_delay_s * 1000.0) as Millis);
    });
}

async fn bucket(State(control): State<Control>, body: String) -> Reply {
    let turn = control.bucket.ok_or("this simulator has no bucket")?;
    reply(&turn(read(&body)?)?)
}

async fn quit(State(control): State<Control>) -> Reply {
    control.quit.cancel();
    reply(&json!({"quitting": true}))
}
