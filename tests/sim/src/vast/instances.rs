//! Reading instances: the paged v1 list, one by id, and the deprecated list.

use std::{cmp::Ordering, sync::Arc};

use axum::extract::{Path, State};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    control::faults,
    market::instance::Status,
    vast::{
        call::{Answer, ApiError, Call, Caller, ok},
        dressing,
        filter::{Filters, SortKey, compare_values, number},
        rows, volumes,
    },
    world::World,
};

/// Rows of one page at most; what a limit of 0 or less becomes.
const MOST_ROWS: usize = 25;
const ROWS_WITHOUT_LIMIT: usize = 5;

/// Columns that the list can be filtered by; the computed ones are refused, as the API does.
const SEARCH_KEYS: [&str; 16] = [
    "id",
    "machine_id",
    "host_id",
    "label",
    "actual_status",
    "intended_status",
    "cur_state",
    "next_state",
    "gpu_name",
    "verification",
    "image_uuid",
    "template_id",
    "template_hash_id",
    "is_bid",
    "start_date",
    "end_date",
];

/// `GET /api/v1/instances/`.
pub async fn list(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let dress = world.faults().clone();
    if faults::take(&mut world.faults().list_deprecated) {
        return switched_off(dress.deprecated_status);
    }
    let filters = filters(&call)?;
    let mut keys = order_by(&call)?;
    if !keys.iter().any(|(column, _)| column == "id") {
        keys.push(("id".to_owned(), false));
    }
    let limit = match call.query.get("limit").map(|text| text.parse::<i64>()) {
        None => MOST_ROWS,
        Some(Ok(limit)) if limit > 0 => (limit as usize).min(MOST_ROWS),
        Some(Ok(_)) => ROWS_WITHOUT_LIMIT,
        Some(Err(_)) => return Err(bad_query("limit is no number")),
    };
    let after = call
        .query
        .get("after_token")
        .filter(|token| !token.is_empty());
    let after = after.map(|token| PageToken::decode(token)).transpose()?;
    let columns = call.json("select_cols")?;

    let all: Vec<Map<String, Value>> = world.act(|market, now| {
        let own = market
            .instances()
            .values()
            .filter(|instance| instance.account == account && instance.is_shown(now));
        own.map(|instance| {
            let mut row = rows::instance(market, instance, now);
            row.insert("volume_info".to_owned(), volumes::info(instance));
            dressing::dress(&mut row, &dress, instance, now);
            row
        })
        .collect()
    });
    let total = all.len();
    let mut label_counts = Map::new();
    for label in all.iter().filter_map(|row| row["label"].as_str()) {
        let count = label_counts.get(label).and_then(Value::as_u64).unwrap_or(0);
        label_counts.insert(label.to_owned(), (count + 1).into());
    }
    let mut found: Vec<_> = all
        .into_iter()
        .filter(|row| filters.accept_row(row))
        .collect();
    let found_count = found.len();
    found.sort_by(|a, b| compare_keys(&values(a, &keys), &values(b, &keys), &keys));
    if let Some(PageToken { values: last }) = &after {
        found.retain(|row| compare_keys(&values(row, &keys), last, &keys).is_gt());
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next_token = found.last().filter(|_| more).map(|row| {
        PageToken {
            values: values(row, &keys),
        }
        .encode()
    });
    let instances: Vec<Value> = found
        .into_iter()
        .map(|row| select(row, columns.as_ref()))
        .collect();
    ok(json!({
        "success": true, "instances": instances, "instances_found": found_count, "total_instances": total,
        "label_counts": label_counts, "next_token": next_token,
    }))
}

/// `GET /api/v0/instances/{id}/`: null when it is gone.
pub async fn by_id(State(world): State<Arc<World>>, Path(id): Path<String>, call: Call) -> Answer {
    let id: u64 = id
        .parse()
        .map_err(|_| ApiError::new(400, "invalid_id", format!("{id} is no id")))?;
    if matches!(call.caller, Caller::Instance(own) if own != id) {
        return Err(ApiError::forbidden());
    }
    let dress = world.faults().clone();
    if faults::take(&mut world.faults().instances_null) {
        return ok(json!({"instances": null}));
    }
    let flaps = faults::take(&mut world.faults().status_flaps);
    let row = world.act(|market, now| {
        let known = market.instances().get(&id);
        let shown = known.filter(|instance| instance.is_shown(now));
        let own = shown.filter(|instance| match call.caller {
            Caller::Account(account) => instance.account == account,
            Caller::Instance(own) => own == id,
        });
        own.map(|instance| {
            let mut row = rows::instance(market, instance, now);
            dressing::dress(&mut row, &dress, instance, now);
            if dress.ports_only_in_list {
                row.remove("ports");
            }
            if flaps && instance.status.is_some() {
                row.insert("actual_status".to_owned(), json!(Status::Unknown.word()));
            }
            row
        })
    });
    ok(json!({"instances": row}))
}

/// `GET /api/v0/instances/`, which the provider has switched off.
pub async fn deprecated(State(world): State<Arc<World>>, call: Call) -> Answer {
    call.account()?;
    let status = world.faults().deprecated_status;
    switched_off(status)
}

/// Seen as an error, and as a success whose body is one.
fn switched_off(status: u16) -> Answer {
    Err(ApiError::new(
        if status == 0 { 410 } else { status },
        "deprecated_endpoint",
        "/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead.",
    ))
}

/// `GET /api/v0/instances/filters/`: what the list could be filtered by.
pub async fn filter_values(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let rows: Vec<Value> = world.act(|market, _| {
        let living = market
            .instances()
            .values()
            .filter(|i| i.account == account && i.destroyed_ms.is_none());
        living
            .map(|instance| {
                let spec = &market.machine_of(instance).spec;
                json!({
                    "actual_status": instance.status.map(|status| status.word()),
                    "verification": spec.verification, "gpu_name": spec.gpu.name,
                })
            })
            .collect()
    });
    ok(json!({"filters": rows}))
}

/// `GET /api/v0/instances/count/`.
pub async fn count(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let count = world.act(|market, _| {
        market
            .instances()
            .values()
            .filter(|i| i.account == account && i.destroyed_ms.is_none())
            .count()
    });
    ok(json!({"success": true, "count": count}))
}

fn bad_query(text: &str) -> ApiError {
    ApiError::new(
        400,
        "invalid_request",
        format!("Error in query parameters: {text}"),
    )
}

fn filters(call: &Call) -> Result<Filters, ApiError> {
    let query = match call.json("select_filters")? {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(query)) => query,
        Some(_) => return Err(bad_query("select_filters is no object")),
    };
    let filters = Filters::parse(&query).map_err(|text| bad_query(&text))?;
    if let Some(field) = filters.fields().find(|field| !SEARCH_KEYS.contains(field)) {
        return Err(bad_query(&format!("{field} is not a valid search key")));
    }
    Ok(filters)
}

fn order_by(call: &Call) -> Result<Vec<SortKey>, ApiError> {
    let order = call.json("order_by")?.unwrap_or(json!([]));
    let Value::Array(order) = order else {
        return Err(bad_query("order_by is no list"));
    };
    order
        .iter()
        .map(|key| {
            let column = key.get("col").and_then(Value::as_str);
            let descending = key.get("dir").and_then(Value::as_str) == Some("desc");
            column
                .map(|column| (column.to_owned(), descending))
                .ok_or_else(|| bad_query("order_by needs col"))
        })
        .collect()
}

/// The columns asked for; one that does not exist is null.
fn select(row: Map<String, Value>, columns: Option<&Value>) -> Value {
    let Some(Value::Array(columns)) = columns else {
        return Value::Object(row);
    };
    if columns.iter().any(|column| column == "*") {
        return Value::Object(row);
    }
    let names = columns.iter().filter_map(Value::as_str);
    names
        .map(|name| {
            (
                name.to_owned(),
                row.get(name).cloned().unwrap_or(Value::Null),
            )
        })
        .collect()
}

fn values(row: &Map<String, Value>, keys: &[SortKey]) -> Vec<Value> {
    keys.iter()
        .map(|(column, _)| row.get(column).cloned().unwrap_or(Value::Null))
        .collect()
}

fn compare_keys(a: &[Value], b: &[Value], keys: &[SortKey]) -> Ordering {
    a.iter()
        .zip(b)
        .zip(keys)
        .map(|((a, b), (_, descending))| compare_values(a, b, *descending))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Where a page ended: the values of the sort columns of its last row, so that rows may come and go between pages.
#[derive(Debug, Serialize, Deserialize)]
pub struct PageToken {
    /// In the order of the sort columns.
    pub values: Vec<Value>,
}

impl PageToken {
    /// Opaque text.
    pub fn encode(&self) -> String {
        BASE64.encode(json!(self).to_string())
    }

    /// # Errors
    /// 400 as the API words it.
    pub fn decode(token: &str) -> Result<Self, ApiError> {
        let read = BASE64
            .decode(token)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        read.ok_or_else(|| ApiError::new(400, "invalid_token", "Invalid pagination token"))
    }

    /// The only value, where there is one sort column and it is a number.
    pub fn single(&self) -> Option<f64> {
        self.values.first().and_then(number)
    }
}
