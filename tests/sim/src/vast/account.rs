//! The account: `users/current`, and `charges`, which is the bill cut to a range of time.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use crate::{
    market::{Millis, instance::Instance},
    vast::{
        call::{Answer, ApiError, Call, ok},
        filter::number,
        instances::PageToken,
    },
    world::World,
};

const DEFAULT_CHARGES: usize = 100;
const MOST_CHARGES: usize = 100;
const DAY_MS: Millis = 86_400_000;

/// `GET /api/v0/users/current`.
pub async fn current(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let user = world.act(|market, now| {
        let user = &market.accounts()[account];
        let credit = market.credit_usd(account, now);
        json!({
            "id": user.id, "email": format!("user{}@spotter-sim.invalid", user.id), "email_verified": true,
            "username": format!("user{}", user.id), "fullname": "", "credit": credit, "balance": 0.0,
            "ssh_key": user.ssh_keys.iter().map(|key| key.text.as_str()).collect::<Vec<_>>().join("\n"),
            "api_key": call.api_key, "key_id": 1, "sid": null,
            "balance_threshold": 0.0, "balance_threshold_enabled": false, "autobill_threshold": null, "autobill_amount": null,
            "billaddress_line1": null, "billaddress_line2": null, "billaddress_city": null, "billaddress_zip": null,
            "billaddress_country": null, "billaddress_taxinfo": null, "billed_expected": 0.0, "billed_verified": 0.0,
            "billing_creditonly": true, "can_pay": true, "got_signup_credit": 0, "has_billing": true, "has_payout": false,
            "last4": null, "paid_expected": 0.0, "paid_verified": 0.0, "paypal_email": null,
            "host_agreement_accepted": false, "total_spend": credit - user.deposit_usd,
        })
    });
    ok(user)
}

/// `GET /api/v0/charges/`: one row for each instance, and in tree form its intervals as items.
pub async fn charges(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let filters = call.json("select_filters")?.unwrap_or(Value::Null);
    let bound = |op: &str| {
        filters["day"]
            .get(op)
            .and_then(number)
            .filter(|bound| bound.is_finite())
    };
    let (Some(from), Some(to)) = (bound("gte"), bound("lte")) else {
        let text = "Error in query parameters: day needs both gte and lte";
        return Err(ApiError::new(400, "invalid_request", text));
    };
    let (from, to) = ((from * 1000.0) as Millis, (to * 1000.0) as Millis);
    let kinds = filters["type"]["in"].as_array();
    let wanted = kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind == "instance"));
    let tree = call
        .query
        .get("format")
        .is_some_and(|format| format == "tree");
    let latest_first = call
        .query
        .get("latest_first")
        .is_some_and(|flag| flag == "true");
    let limit = call
        .query
        .get("limit")
        .and_then(|text| text.parse::<usize>().ok());
    let limit = limit
        .filter(|limit| *limit > 0)
        .unwrap_or(DEFAULT_CHARGES)
        .min(MOST_CHARGES);
    let after = call
        .query
        .get("after_token")
        .filter(|token| !token.is_empty());
    let after = after.map(|token| PageToken::decode(token)).transpose()?;

    let mut rows: Vec<(u64, Value)> = world.act(|market, now| {
        let own = market
            .instances()
            .values()
            .filter(|instance| instance.account == account && wanted);
        own.filter_map(|i| Some((i.id, charge(i, from, to.min(now), tree)?)))
            .collect()
    });
    if latest_first {
        rows.reverse();
    }
    let total = rows.len();
    // Instances are numbered as they are made, so the number is the page's key.
    if let Some(last) = after.as_ref().and_then(PageToken::single) {
        rows.retain(|(id, _)| {
            if latest_first {
                (*id as f64) < last
            } else {
                *id as f64 > last
            }
        });
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next_token = last.map(|(id, _)| {
        PageToken {
            values: vec![(*id).into()],
        }
        .encode()
    });
    let results: Vec<Value> = rows.into_iter().map(|(_, row)| row).collect();
    ok(json!({
        "success": true, "count": results.len(), "total": total, "next_token": next_token, "results": results,
    }))
}

/// What an instance cost between two moments; `None` when it did not exist then.
pub fn charge(instance: &Instance, from: Millis, to: Millis, tree: bool) -> Option<Value> {
    let bill = &instance.bill;
    let mut items = Vec::new();
    let (mut amount, mut start, mut end) = (0.0, None, from);
    for interval in &bill.intervals {
        let millis = interval.millis_within(from, to);
        if millis == 0 {
            continue;
        }
        let since = interval.start_ms.max(from);
        let until = since + millis;
        start.get_or_insert(since);
        end = until;
        let parts = [
            ("gpu", interval.gpu_usd_per_hour, interval.gpu_usd(from, to)),
            (
                "disk",
                interval.storage_usd_per_hour,
                interval.storage_usd(from, to),
            ),
        ];
        for (kind, rate, usd) in parts {
            amount += usd;
            if rate > 0.0 {
                let hours = millis as f64 / 3_600_000.0;
                let text = format!("{hours:.3} hours at ${rate:.3}/hour");
                items.push(item(
                    kind,
                    (since, until),
                    &text,
                    usd,
                    json!({"state": interval.state}),
                ));
            }
        }
    }
    for traffic in bill
        .traffic
        .iter()
        .filter(|traffic| (from..=to).contains(&traffic.at_ms))
    {
        amount += traffic.usd;
        start.get_or_insert(traffic.at_ms);
        end = end.max(traffic.at_ms);
        let text = format!("{:.3} GB down, {:.3} GB up", traffic.down_gb, traffic.up_gb);
        items.push(item(
            "bandwidth",
            (traffic.at_ms, traffic.at_ms),
            &text,
            traffic.usd,
            json!({}),
        ));
    }
    let start = start?;
    let days = (end - start) / DAY_MS + 1;
    Some(json!({
        "start": start as f64 / 1000.0, "end": end as f64 / 1000.0, "type": "instance",
        "source": format!("instance-{}", instance.id),
        "description": format!("Instance {} Charges - {days} days", instance.id),
        "amount": amount, "metadata": {"template_id": null, "label": instance.order.label},
        "items": if tree { items } else { Vec::new() },
    }))
}

fn item(
    kind: &str,
    (start, end): (Millis, Millis),
    text: &str,
    usd: f64,
    metadata: Value,
) -> Value {
    json!({
        "start": start as f64 / 1000.0, "end": end as f64 / 1000.0, "type": kind, "source": null,
        "description": text, "amount": usd, "metadata": metadata, "items": [],
    })
}
