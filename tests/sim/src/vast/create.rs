//! `PUT /api/v0/asks/{offer}/`: an order becomes an instance.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    market::instance::Order,
    vast::{
        DropConnection,
        call::{Answer, ApiError, Call, answer},
    },
    world::World,
};

/// Disk when the order names none, GB.
const DEFAULT_DISK_GB: f64 = 10.0;

/// See the module's description.
pub async fn create(
    State(world): State<Arc<World>>,
    Path(offer): Path<String>,
    call: Call,
) -> Answer {
    let account = call.account()?;
    let offer: u64 = offer
        .parse()
        .map_err(|_| ApiError::invalid(format!("error 400/3460: {offer} is no id")))?;
    if call
        .body
        .get("template_hash_id")
        .is_some_and(|id| !id.is_null())
    {
        return Err(ApiError::invalid(
            "error 400/3461: Invalid args: there are no templates here",
        ));
    }
    let order = order(&call)?;
    if let Some(status) = world.faults().offer_gone() {
        world.act(|market, now| market.withdraw(now, offer));
        return Err(gone(status, offer));
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

fn order(call: &Call) -> Result<Order, ApiError> {
    let invalid = |text: &str| ApiError::invalid(format!("error 400/3467: Invalid args: {text}"));
    let price = match call.body.get("price") {
        None | Some(Value::Null) => None,
        Some(_) => Some(
            call.number("price")
                .ok_or_else(|| invalid("price is no number"))?,
        ),
    };
    let env = match call.body.get("env") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(env)) => pairs(env),
        Some(_) => return Err(invalid("env must be an object")),
    };
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
        image: call.text("image").unwrap_or_default(),
        label: call.text("label"),
        env,
        onstart: call.text("onstart"),
        disk_gb,
        bid_usd_per_hour: price,
        runtype: call.text("runtype").unwrap_or_else(|| "ssh".to_owned()),
        args,
        cancel_unavailable,
        start_stopped,
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
