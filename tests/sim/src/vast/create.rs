//! `PUT /api/v0/asks/{offer}/` and its kin: an order becomes an instance.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    control::faults,
    market::instance::Order,
    vast::{
        DropConnection,
        call::{Answer, ApiError, Call, answer, ok},
        search,
        templates::Template,
        volumes,
    },
    world::World,
};

/// Disk when the order names none, GB.
const DEFAULT_DISK_GB: f64 = 10.0;

/// What a machine asks by the time an order comes that a fault makes too low, over its bid.
const RISEN_OVER_BID: f64 = 1.25;

/// `PUT /api/v0/asks/{offer}/`.
pub async fn create(
    State(world): State<Arc<World>>,
    Path(offer): Path<String>,
    call: Call,
) -> Answer {
    let account = call.account()?;
    let offer: u64 = offer
        .parse()
        .map_err(|_| ApiError::invalid(format!("error 400/3460: {offer} is no id")))?;
    let mut order = order(&world, account, &call)?;
    volumes::mount(&world, account, offer, &call, &mut order)?;
    world.faults().spoil(&mut order);
    rent(&world, account, offer, order)
}

/// `POST /api/v0/asks/bulk/`: one order for each of several offers.
pub async fn create_many(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let ids = call.body.get("ids").and_then(Value::as_array);
    let ids = ids.ok_or_else(|| ApiError::invalid("error 400/3462: ids is missing"))?;
    let order = order(&world, account, &call)?;
    let mut made = Vec::new();
    for offer in ids.iter().filter_map(Value::as_u64) {
        let rented = world.act(|market, now| market.rent(now, account, offer, order.clone()));
        made.push(
            rented
                .map_err(|refused| ApiError::from(refused).with("ask_id", offer))?
                .id,
        );
    }
    ok(json!({"success": true, "new_contracts": made}))
}

/// `PUT /api/v0/launch_instance/`: rents the first offer that a query finds and that is still there.
pub async fn launch(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let Some(Value::Object(query)) = call.body.get("q") else {
        return Err(ApiError::invalid("error 400/3463: q is missing"));
    };
    let order = order(&world, account, &call)?;
    let found = search::find(&world, account, query)?;
    let offer = found.first().and_then(|row| row["id"].as_u64());
    let offer = offer.ok_or_else(|| {
        ApiError::new(404, "no_such_ask", "error 404/3603: no_such_ask No offers.")
    })?;
    rent(&world, account, offer, order)
}

fn rent(world: &Arc<World>, account: usize, offer: u64, mut order: Order) -> Answer {
    if let Some(status) = world.faults().offer_gone() {
        world.act(|market, now| market.withdraw(now, offer));
        return Err(gone(status, offer));
    }
    if let Some(bid) = order.bid_usd_per_hour
        && faults::take(&mut world.faults().bids_too_low)
    {
        order.cancel_unavailable = false;
        world.act(|market, now| market.raise_floor(now, offer, bid * RISEN_OVER_BID));
    }
    let rented = world
        .act(|market, now| market.rent(now, account, offer, order))
        .map_err(|refused| ApiError::from(refused).with("ask_id", offer))?;
    if world.faults().lose_create() {
        let mut lost = Response::default();
        lost.extensions_mut().insert(DropConnection);
        return Ok(lost);
    }
    if !rented.competitive {
        // A stopped instance exists all the same, bills its disk, and has to be destroyed.
        return Ok(ApiError::new(
            400,
            "invalid_price",
            "The bid is below the current price of this machine.",
        )
        .with("ask_id", offer)
        .with("new_contract", rented.id)
        .into_response());
    }
    let body =
        json!({"success": true, "new_contract": rented.id, "instance_api_key": rented.api_key});
    Ok(answer(200, &body))
}

/// The answers that were seen for an offer that somebody else was quicker to take.
fn gone(status: u16, offer: u64) -> ApiError {
    match status {
        410 => ApiError::new(
            410,
            "no_such_ask",
            format!("error 410/3907: no_such_ask Instance type {offer} is no longer available."),
        ),
        400 => ApiError::new(
            400,
            "no_such_ask",
            format!("error 400/3907: no_such_ask Instance type {offer} is no longer available."),
        ),
        other => ApiError::new(
            other,
            "invalid_args",
            format!("error 404/3603: no_such_ask Instance type by id {offer} is not available."),
        ),
    }
}

fn order(world: &Arc<World>, account: usize, call: &Call) -> Result<Order, ApiError> {
    let template = match call.text("template_hash_id") {
        Some(hash) => Some(world.extras().template(account, &hash).ok_or_else(|| {
            ApiError::invalid(format!("error 400/3461: Invalid args: no template {hash}"))
        })?),
        None => None,
    };
    // What the request says wins; null is not said.
    let say = |key: &str| {
        let own = call.text(key);
        own.or_else(|| template.as_ref()?.text(key))
    };
    let invalid = |text: &str| ApiError::invalid(format!("error 400/3467: Invalid args: {text}"));
    let price = match call.body.get("price") {
        None | Some(Value::Null) => None,
        Some(_) => Some(
            call.number("price")
                .ok_or_else(|| invalid("price is no number"))?,
        ),
    };
    let mut env = template.as_ref().map_or_else(Vec::new, Template::env);
    match call.body.get("env") {
        None | Some(Value::Null) => {}
        Some(Value::Object(own)) => {
            env.retain(|(name, _)| !own.contains_key(name));
            env.extend(pairs(own));
        }
        Some(_) => return Err(invalid("env must be an object")),
    }
    let args = match (call.body.get("args"), call.text("args_str")) {
        (Some(Value::Array(args)), _) => args
            .iter()
            .map(|arg| arg.as_str().map_or_else(|| arg.to_string(), str::to_owned))
            .collect(),
        (_, Some(args)) => vec![args],
        _ => Vec::new(),
    };
    let disk_gb = match call.body.get("disk") {
        None | Some(Value::Null) => DEFAULT_DISK_GB,
        Some(_) => call
            .number("disk")
            .ok_or_else(|| invalid("disk is no number"))?,
    };
    let start_stopped = match call.text("target_state").as_deref() {
        None | Some("running") => false,
        Some("stopped") => true,
        Some(_) => return Err(invalid("target_state is running or stopped")),
    };
    // Documented defaults: an on-demand order that cannot start is refused, a bid waits.
    let cancel_unavailable = call
        .flag("cancel_unavail")
        .unwrap_or(price.is_none() && !start_stopped);
    Ok(Order {
        image: say("image").unwrap_or_default(),
        label: call.text("label"),
        env,
        onstart: say("onstart"),
        disk_gb,
        bid_usd_per_hour: price,
        runtype: say("runtype").unwrap_or_else(|| "ssh".to_owned()),
        args,
        cancel_unavailable,
        start_stopped,
        volume: None,
    })
}

fn pairs(env: &Map<String, Value>) -> Vec<(String, String)> {
    env.iter()
        .map(|(name, value)| {
            (
                name.clone(),
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            )
        })
        .collect()
}
