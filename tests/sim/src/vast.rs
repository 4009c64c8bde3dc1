//! The HTTP API of Vast.ai as its official client and documentation know it.
//!
//! [`router`] names every route. Routes answer with and without a trailing slash. Faults, latency and the record of requests
//! surround them all in one place here, so that handlers know nothing of them.

pub mod account;
pub mod actions;
pub mod call;
pub mod copies;
pub mod create;
mod dressing;
pub mod extras;
pub mod filter;
pub mod instances;
pub mod keys;
pub mod limits;
pub mod results;
pub mod rows;
pub mod search;
pub mod templates;
pub mod volumes;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{MatchedPath, Request, State},
    http::header,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use serde_json::{Value, json};

use crate::{
    control::faults::{ErrorBody, Fate, TooManyBody},
    vast::{
        call::{ApiError, answer, shown_key},
        limits::TooOften,
    },
    world::{SeenRequest, World},
};

/// Largest request body; the largest real one is an order with 32 KiB of environment.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Marks an answer that must never arrive: the server drops the connection instead.
#[derive(Debug, Clone, Copy)]
pub struct DropConnection;

/// The whole API.
pub fn router(world: Arc<World>) -> Router {
    let mut router = Router::new();
    let routes = [
        market_routes(),
        instance_routes(),
        account_routes(),
        copy_routes(),
    ];
    for (path, methods) in routes.into_iter().flatten() {
        router = router
            .route(&format!("{path}/"), methods.clone())
            .route(path, methods);
    }
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(from_fn_with_state(world.clone(), surround))
        .with_state(world)
}

type Routes = Vec<(&'static str, MethodRouter<Arc<World>>)>;

fn market_routes() -> Routes {
    vec![
        ("/api/v0/bundles", post(search::flat).get(search::by_query)),
        ("/api/v0/search/asks", put(search::nested)),
        ("/api/v0/gpu_names/unique", get(search::gpu_names)),
        ("/api/v0/asks/{offer}", put(create::create)),
        ("/api/v0/asks/bulk", post(create::create_many)),
        ("/api/v0/launch_instance", put(create::launch)),
        ("/api/v0/machines/{id}/reports", get(extras::reports)),
        ("/api/v0/volumes/search", post(volumes::search)),
        (
            "/api/v0/volumes",
            get(volumes::list)
                .put(volumes::create)
                .delete(volumes::delete),
        ),
    ]
}

fn instance_routes() -> Routes {
    vec![
        ("/api/v1/instances", get(instances::list)),
        (
            "/api/v0/instances",
            get(instances::deprecated)
                .put(actions::change_many)
                .delete(actions::destroy_many),
        ),
        ("/api/v0/instances/filters", get(instances::filter_values)),
        ("/api/v0/instances/count", get(instances::count)),
        (
            "/api/v0/instances/{id}",
            get(instances::by_id)
                .put(actions::change)
                .delete(actions::destroy),
        ),
        ("/api/v0/instances/bid_price/{id}", put(actions::bid)),
        ("/api/v0/instances/reboot/{id}", put(actions::reboot)),
        ("/api/v0/instances/recycle/{id}", put(actions::recycle)),
        ("/api/v0/instances/prepay/{id}", put(actions::prepay)),
        ("/api/v0/instances/balance/{id}", get(actions::deposit)),
        (
            "/api/v0/instances/update_template/{id}",
            put(actions::update),
        ),
        ("/api/v0/instances/request_logs/{id}", put(results::logs)),
        ("/api/v0/instances/command/{id}", put(results::execute)),
        ("/results/{name}", get(results::fetch)),
        (
            "/api/v0/instances/take_snapshot/{id}",
            post(copies::snapshot),
        ),
        (
            "/api/v0/instances/{id}/ssh",
            get(keys::of_instance).post(keys::attach),
        ),
        ("/api/v0/instances/{id}/ssh/{key}", delete(keys::detach)),
    ]
}

fn account_routes() -> Routes {
    vec![
        ("/api/v0/ssh", get(keys::list).post(keys::create)),
        ("/api/v0/ssh/{key}", delete(keys::delete)),
        ("/api/v0/users/current", get(account::current)),
        (
            "/api/v0/users/cloud_integrations",
            get(extras::cloud_integrations),
        ),
        ("/api/v0/charges", get(account::charges)),
        (
            "/api/v0/secrets",
            get(extras::secrets)
                .post(extras::add_secret)
                .put(extras::change_secret)
                .delete(extras::remove_secret),
        ),
        (
            "/api/v0/auth/apikeys",
            get(extras::api_keys).post(extras::add_api_key),
        ),
        (
            "/api/v0/template",
            get(templates::list)
                .post(templates::create)
                .delete(templates::delete),
        ),
        (
            "/api/v0/commands/schedule_job",
            get(extras::jobs).post(extras::add_job),
        ),
    ]
}

fn copy_routes() -> Routes {
    vec![
        (
            "/api/v0/commands/copy_direct",
            put(copies::copy).delete(copies::cancel),
        ),
        ("/api/v0/commands/rsync", put(copies::rsync)),
        ("/api/v0/commands/rclone", post(copies::cloud)),
    ]
}

async fn no_route() -> ApiError {
    ApiError::new(404, "not_found", "no such route")
}

/// Latency, faults and the record of requests.
async fn surround(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, MAX_BODY_BYTES).await else {
        let text = format!("the body has more than {MAX_BODY_BYTES} bytes");
        return ApiError::new(413, "invalid_request", text).into_response();
    };
    let mut seen = SeenRequest {
        at_ms: 0,
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        body_text: String::from_utf8_lossy(&bytes).into_owned(),
        user_agent: parts
            .headers
            .get(header::USER_AGENT)
            .and_then(|name| name.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        with_key: parts.headers.contains_key(header::AUTHORIZATION),
        status: 0,
    };
    let (latency_ms, fate) = {
        let mut faults = world.faults();
        (faults.latency_ms, faults.fate(&seen.method, &seen.path))
    };
    if latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(latency_ms)).await;
    }
    let response = match fate {
        Fate::Served => match admit(&world, &parts) {
            None => {
                next.run(Request::from_parts(parts, Body::from(bytes)))
                    .await
            }
            Some(refused) => refused,
        },
        Fate::TooMany(body, retry_after_s) => too_many(body, retry_after_s, None),
        Fate::ServerError(status, body) => server_error(status, body),
        Fate::SaysNo => answer(
            200,
            &json!({"success": false, "msg": "Something went wrong. Please try again."}),
        ),
        Fate::Dropped => {
            let mut response = Response::default();
            response.extensions_mut().insert(DropConnection);
            response
        }
    };
    let dropped = response.extensions().get::<DropConnection>().is_some();
    seen.status = if dropped {
        0
    } else {
        response.status().as_u16()
    };
    world.saw(seen);
    response
}

/// The refusal of a call that its key makes too often, where rates are enforced.
fn admit(world: &World, parts: &axum::http::request::Parts) -> Option<Response> {
    let (enforced, body, retry_after_s) = {
        let faults = world.faults();
        (
            faults.rate_limits,
            faults.too_many_body,
            faults.retry_after_s,
        )
    };
    let route = parts.extensions.get::<MatchedPath>()?;
    let key = shown_key(&parts.headers, &parts.uri)?;
    if !enforced {
        return None;
    }
    let admitted =
        world
            .limits()
            .admit(world.now_ms(), &key, parts.method.as_str(), route.as_str());
    admitted
        .err()
        .map(|refused| too_many(body, retry_after_s, Some(refused)))
}

/// A 429 in one of its forms. What it says of threshold and wait is what was seen, or that of the route which was called too often.
fn too_many(body: TooManyBody, retry_after_s: Option<u64>, refused: Option<TooOften>) -> Response {
    let text = |text: String| (axum::http::StatusCode::TOO_MANY_REQUESTS, text).into_response();
    let said = |seen: f64| {
        let threshold_s = refused.map_or(seen, |refused| refused.threshold_s);
        format!("endpoint threshold={threshold_s:?}")
    };
    let wait_s = retry_after_s
        .or(refused.map(|refused| refused.wait_s))
        .unwrap_or(2);
    let mut response = match body {
        TooManyBody::Text => text("API requests too frequent".to_owned()),
        TooManyBody::TextThreshold => text(format!("API requests too frequent: {}", said(4.5))),
        TooManyBody::Detail => answer(
            429,
            &json!({"detail": format!("API requests too frequent {}", said(2.0))}),
        ),
        TooManyBody::Json => answer(
            429,
            &json!({"success": false, "error": "rate_limit_exceeded", "msg": format!("API requests too frequent {}", said(3.0))}),
        ),
        TooManyBody::RetryAfter => answer(
            429,
            &json!({"success": false, "error": "rate_limit_exceeded", "msg": "API requests too frequent", "retry_after": wait_s}),
        ),
        TooManyBody::SearchQuota => answer(
            429,
            &json!({"success": false, "error": "search_quota_exceeded", "msg": "Daily search quota exceeded."}),
        ),
    };
    if body == TooManyBody::SearchQuota {
        // The quota is renewed at midnight UTC.
        let now_s = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let midnight_s = (now_s / 86_400 + 1) * 86_400;
        response
            .headers_mut()
            .insert("x-ratelimit-reset", midnight_s.into());
    }
    if let Some(seconds) = retry_after_s.filter(|_| body != TooManyBody::RetryAfter) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// What is said when what is behind a gateway is away.
fn server_error(status: u16, body: ErrorBody) -> Response {
    let code = axum::http::StatusCode::from_u16(status).expect("the switch takes no other");
    match body {
        ErrorBody::Html => {
            let page =
                format!("<html><head><title>{code}</title></head><body>{code}</body></html>");
            (code, [(header::CONTENT_TYPE, "text/html")], page).into_response()
        }
        ErrorBody::Text => (code, "Internal error").into_response(),
        ErrorBody::Json => answer(
            status,
            &json!({"success": false, "error": "server_error", "msg": "Internal error"}),
        ),
        ErrorBody::SessionExpired => answer(
            status,
            &json!({"success": false, "msg": "Session expired. Please log in again."}),
        ),
        ErrorBody::InvalidKey => answer(
            status,
            &json!({"success": false, "error": "auth_error", "msg": "Invalid user key"}),
        ),
    }
}
