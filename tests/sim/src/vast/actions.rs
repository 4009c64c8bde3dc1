//! Acting on instances: start, stop, reboot, recycle, label, bid, prepay, destroy.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::{
    market::{InstanceId, Refused, Started, instance::Restart, machine::HOURS_PER_MONTH},
    vast::call::{Answer, ApiError, Call, Caller, ok, success},
    world::World,
};

const MAX_LABEL_CHARS: usize = 1024;

/// `PUT /api/v0/instances/{id}/`: `state` or `label`.
pub async fn change(State(world): State<Arc<World>>, Path(id): Path<String>, call: Call) -> Answer {
    let id = call.instance(&world, &id)?;
    if let Some(state) = call.text("state") {
        return set_state(&world, id, &state);
    }
    let Some(label) = call.text("label") else {
        return Err(ApiError::invalid("error 400/2301: neither state nor label"));
    };
    if matches!(call.caller, Caller::Instance(_)) {
        return Err(ApiError::forbidden());
    }
    if label.chars().count() > MAX_LABEL_CHARS {
        let text = format!("label must have at most {MAX_LABEL_CHARS} characters");
        return Err(ApiError::new(400, "label_too_long", text));
    }
    world.act(|market, now| market.label(now, id, label))?;
    success()
}

/// `PUT /api/v0/instances/`: `state` of many.
pub async fn change_many(State(world): State<Arc<World>>, call: Call) -> Answer {
    let state = call
        .text("state")
        .ok_or_else(|| ApiError::invalid("error 400/2302: state is missing"))?;
    for id in ids(&call, "ids")? {
        let id = call.instance(&world, &id)?;
        set_state(&world, id, &state)?;
    }
    success()
}

fn set_state(world: &Arc<World>, id: InstanceId, state: &str) -> Answer {
    match state {
        "running" => match world.act(|market, now| market.start(now, id))? {
            Started::Running => success(),
            // Success on the wire, and no success in the body.
            Started::Queued => ok(json!({
                "success": false,
                "msg": "Required resources are currently unavailable, state change queued.",
            })),
        },
        "stopped" => {
            world.act(|market, now| market.stop(now, id))?;
            success()
        }
        other => Err(ApiError::invalid(format!(
            "error 400/2303: no state {other}"
        ))),
    }
}

/// `DELETE /api/v0/instances/{id}/`.
pub async fn destroy(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Answer {
    let id = call.instance(&world, &id)?;
    world.act(|market, now| market.destroy(now, id))?;
    ok(json!({"success": true, "msg": format!("Instance {id} is being destroyed.")}))
}

/// `DELETE /api/v0/instances/`: many.
pub async fn destroy_many(State(world): State<Arc<World>>, call: Call) -> Answer {
    for id in ids(&call, "instance_ids")? {
        let id = call.instance(&world, &id)?;
        world.act(|market, now| market.destroy(now, id))?;
    }
    success()
}

/// `PUT /api/v0/instances/bid_price/{id}/`: null takes a winning price.
pub async fn bid(State(world): State<Arc<World>>, Path(id): Path<String>, call: Call) -> Answer {
    call.account()?;
    let id = call.instance(&world, &id)?;
    let bid = match call.body.get("price") {
        None | Some(Value::Null) => None,
        Some(_) => {
            let price = call.number("price").filter(|price| price.is_finite());
            Some(price.ok_or_else(|| ApiError::invalid("Please set a bid price >= 0.001."))?)
        }
    };
    let stays = world.faults().no_auto_resume;
    world.act(|market, now| {
        market.change_bid(now, id, bid)?;
        if stays {
            market.stay_stopped(id);
        }
        Ok::<_, Refused>(())
    })?;
    success()
}

/// `PUT /api/v0/instances/reboot/{id}/`: the same disk, the same GPUs.
pub async fn reboot(State(world): State<Arc<World>>, Path(id): Path<String>, call: Call) -> Answer {
    restart(&world, &id, &call, Restart::Reboot)
}

/// `PUT /api/v0/instances/recycle/{id}/`: a new disk, the same GPUs.
pub async fn recycle(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Answer {
    restart(&world, &id, &call, Restart::Recycle)
}

fn restart(world: &Arc<World>, id: &str, call: &Call, restart: Restart) -> Answer {
    call.account()?;
    let id = call.instance(world, id)?;
    world.act(|market, now| market.restart(now, id, restart))?;
    success()
}

/// `PUT /api/v0/instances/update_template/{id}/`: another image, set-up or environment, on a new disk.
pub async fn update(State(world): State<Arc<World>>, Path(id): Path<String>, call: Call) -> Answer {
    let account = call.account()?;
    let id = call.instance(&world, &id)?;
    let template = match call.text("template_hash_id") {
        Some(hash) => {
            let found = world.extras().template(account, &hash);
            Some(found.ok_or_else(|| ApiError::invalid(format!("no template {hash}")))?)
        }
        None => None,
    };
    let say = |key: &str| {
        let own = call.text(key);
        own.or_else(|| template.as_ref()?.text(key))
    };
    world.act(|market, now| {
        market.reorder(now, id, say("image"), say("onstart"))?;
        // One that is down takes it up at its next start.
        match market.restart(now, id, Restart::Recycle) {
            Err(Refused::Impossible(_)) => Ok(()),
            other => other,
        }
    })?;
    ok(json!({"success": true, "updated_instance": id}))
}

/// `PUT /api/v0/instances/prepay/{id}/`: takes a term for an on-demand instance out of the credit. Its rates stay as they are.
pub async fn prepay(State(world): State<Arc<World>>, Path(id): Path<String>, call: Call) -> Answer {
    let account = call.account()?;
    let id = call.instance(&world, &id)?;
    let amount = call.number("amount").filter(|amount| *amount > 0.0);
    let amount = amount.ok_or_else(|| ApiError::invalid("error 400/2305: amount is missing"))?;
    let months = world.act(|market, now| {
        let instance = market.living(id)?;
        let rate = instance.gpu_usd_per_hour() + instance.storage_usd_per_hour;
        let is_bid = instance.order.bid_usd_per_hour.is_some();
        if is_bid {
            let text = format!("Instance {id} is interruptible.");
            return Err(ApiError::invalid(text));
        }
        if market.credit_usd(account, now) < amount {
            return Err(ApiError::new(
                411,
                "insufficient_credit",
                "Insufficient credit",
            ));
        }
        market.deposit(now, account, -amount);
        Ok(amount / (rate * HOURS_PER_MONTH))
    })?;
    ok(json!({"success": true, "timescale": months, "discount_rate": 0.0}))
}

/// `GET /api/v0/instances/balance/{id}/`: nothing was prepaid at a discount.
pub async fn deposit(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Answer {
    call.instance(&world, &id)?;
    ok(json!({
        "success": true, "refundable_deposit": 0.0, "total_discount": 0.0, "discount_months": 0.0,
    }))
}

fn ids(call: &Call, key: &str) -> Result<Vec<String>, ApiError> {
    let ids = call.body.get(key).and_then(Value::as_array);
    let ids = ids.ok_or_else(|| ApiError::invalid(format!("error 400/2304: {key} is missing")))?;
    Ok(ids
        .iter()
        .map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned))
        .collect())
}
