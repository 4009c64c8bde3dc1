//! The only place that knows the Vast.ai API: its routes, its words and its habits.
//!
//! [`wire`] turns its JSON into our types, [`limits`] keeps to its rates. Reads and idempotent writes are repeated here; a rent
//! never is, unless the answer proves that nothing was done.

mod limits;
mod wire;

use std::time::Duration;

use async_trait::async_trait;
use reqwest::{
    Method, StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde_json::{Value, json};
use zeroize::{Zeroize, ZeroizeOnDrop};

use self::limits::Limits;
use super::{
    Account, Charge, Instance, InstanceId, Offer, OfferQuery, Provider, ProviderError, RentRequest,
    Rental,
};

/// Where the API is unless `VAST_URL` says otherwise.
pub const DEFAULT_URL: &str = "https://console.vast.ai";

/// The client's own time-out is 120 s; a person waits for most of our calls.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// An answer of 64 offers is some 200 KB; anything near this is not an answer.
const BODY_LIMIT_BYTES: usize = 16 << 20;
/// Attempts at a request that may be repeated.
const TRIES: u32 = 6;
/// Rows of a page of instances; the server's maximum.
const PAGE: usize = 25;

/// An API key: never printed, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ApiKey(String);

impl ApiKey {
    /// Wraps a key; white space around it is not part of it.
    pub fn new(key: &str) -> Self {
        Self(key.trim().to_owned())
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Vast.ai by its REST API.
#[derive(Debug)]
pub struct Vast {
    base_url: String,
    key: Option<ApiKey>,
    http: std::sync::OnceLock<reqwest::Client>,
    limits: Limits,
}

/// What may be done when a request brought no usable answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// It changes nothing the second time.
    Safe,
    /// Only when it was certainly not carried out.
    OnlyIfRefused,
}

struct Answer {
    status: StatusCode,
    body: Value,
    text: String,
}

impl Vast {
    /// A client; nothing is connected before the first call.
    pub fn new(base_url: String, key: Option<ApiKey>) -> Self {
        let base_url = base_url.trim_end_matches('/').to_owned();
        Self {
            base_url,
            key,
            http: std::sync::OnceLock::new(),
            limits: Limits::default(),
        }
    }

    /// Sends one request, within the route's rate, and repeats it where that is safe.
    async fn call(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Option<Value>,
        repeat: Repeat,
    ) -> Result<Answer, ProviderError> {
        let Some(key) = &self.key else {
            return Err(ProviderError::NoKey {
                provider: self.name(),
            });
        };
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", key.0)).map_err(|_| {
                ProviderError::Unauthorized {
                    provider: "vast",
                    message: "the key holds characters that no key has".to_owned(),
                }
            })?;
        authorization.set_sensitive(true);

        let mut tries = 0;
        loop {
            tries += 1;
            self.limits.wait(operation).await;
            let result = self
                .send(operation, &method, path, body.as_ref(), &authorization)
                .await;
            let last = tries >= TRIES;
            match result {
                Ok((answer, headers)) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                    // A refusal by rate is the one failure after which even a rent was certainly not done.
                    let wait = limits::retry_after(&headers, &answer.body, &answer.text)
                        .unwrap_or_else(|| limits::backoff(tries));
                    if last || wait > Duration::from_secs(60) {
                        return Err(ProviderError::RateLimited {
                            provider: "vast",
                            retry_after: wait,
                        });
                    }
                    tracing::debug!(
                        operation,
                        tries,
                        wait_s = wait.as_secs_f64(),
                        "asked to slow down"
                    );
                    tokio::time::sleep(wait).await;
                }
                Ok((answer, _))
                    if matches!(answer.status.as_u16(), 502..=504)
                        && repeat == Repeat::Safe
                        && !last =>
                {
                    tokio::time::sleep(limits::backoff(tries)).await;
                }
                Ok((answer, _)) => return Ok(answer),
                Err(SendError { never_sent, .. })
                    if !last && (never_sent || repeat == Repeat::Safe) =>
                {
                    tokio::time::sleep(limits::backoff(tries)).await;
                }
                Err(SendError { message, .. }) => {
                    return Err(ProviderError::Unreachable { operation, message });
                }
            }
        }
    }

    async fn send(
        &self,
        operation: &'static str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        authorization: &HeaderValue,
    ) -> Result<(Answer, HeaderMap), SendError> {
        let url = format!("{}{path}", self.base_url);
        let mut request = self
            .http()
            .request(method.clone(), url)
            .timeout(REQUEST_TIMEOUT)
            .header(AUTHORIZATION, authorization.clone());
        if let Some(body) = body {
            request = request.json(body);
        }
        tracing::trace!(operation, %method, path, "request");
        let mut response = request.send().await.map_err(SendError::from)?;
        let status = response.status();
        let headers = response.headers().clone();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(SendError::from)? {
            if bytes.len() + chunk.len() > BODY_LIMIT_BYTES {
                return Err(SendError {
                    never_sent: false,
                    message: format!("the answer is larger than {BODY_LIMIT_BYTES} bytes"),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok((Answer { status, body, text }, headers))
    }

    fn http(&self) -> &reqwest::Client {
        self.http.get_or_init(|| {
            // A machine without CA certificates cannot build any client, not even for http://; ours are the fallback.
            reqwest::Client::builder().build().unwrap_or_else(|_| {
                let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS
                    .iter()
                    .filter_map(|der| reqwest::Certificate::from_der(der).ok());
                reqwest::Client::builder()
                    .tls_certs_only(roots)
                    .build()
                    .expect("a client with its own certificates needs nothing of the system")
            })
        })
    }

    /// An answer that says yes, or the error that it is. HTTP 200 with `success:false` is an error too.
    fn accept(&self, operation: &'static str, answer: Answer) -> Result<Value, ProviderError> {
        let said_no = answer.body.get("success") == Some(&Value::Bool(false));
        if answer.status.is_success() && !said_no && !answer.body.is_null() {
            return Ok(answer.body);
        }
        Err(self.refusal(operation, &answer))
    }

    /// For what ends an instance: one that does not exist has been ended.
    fn gone_or_done(&self, operation: &'static str, answer: Answer) -> Result<(), ProviderError> {
        if answer.status == StatusCode::NOT_FOUND {
            return match self.refusal(operation, &answer) {
                ProviderError::Refused { .. } => Ok(()),
                other => Err(other),
            };
        }
        self.accept(operation, answer).map(drop)
    }

    fn refusal(&self, operation: &'static str, answer: &Answer) -> ProviderError {
        let message = wire::message(&answer.body, &answer.text);
        let code = answer
            .body
            .get("error")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let leftover = answer.body.get("new_contract").and_then(Value::as_u64);
        let status = answer.status.as_u16();
        let unauthorized =
            code == "auth_error" || status == 401 || message.contains("Invalid user key");
        if unauthorized {
            return ProviderError::Unauthorized {
                provider: "vast",
                message,
            };
        }
        if code == "insufficient_credit" || message.to_lowercase().contains("lacks credit") {
            return ProviderError::NoCredit { message };
        }
        if answer.status.is_success() && answer.body.is_null() {
            let message = "the answer is not JSON".to_owned();
            return ProviderError::Unreachable { operation, message };
        }
        ProviderError::Refused {
            operation,
            status,
            message,
            leftover,
        }
    }

    async fn get(&self, operation: &'static str, path: &str) -> Result<Value, ProviderError> {
        let answer = self
            .call(operation, Method::GET, path, None, Repeat::Safe)
            .await?;
        self.accept(operation, answer)
    }

    async fn write(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Value,
    ) -> Result<Value, ProviderError> {
        let answer = self
            .call(operation, method, path, Some(body), Repeat::Safe)
            .await?;
        self.accept(operation, answer)
    }

    /// Rows of the v1 list that match `filters`, all pages.
    async fn list(&self, filters: &Value) -> Result<Vec<Value>, ProviderError> {
        const OPERATION: &str = "list instances";
        let filters = wire::query_value(filters);
        let order = wire::query_value(&json!([{"col": "id", "dir": "asc"}]));
        let mut rows = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!(
                "/api/v1/instances/?select_filters={filters}&order_by={order}&limit={PAGE}{after}"
            );
            let body = self.get(OPERATION, &path).await?;
            // An answer without a list must never look like an empty fleet: somebody would rent a second one.
            let Some(page) = body.get("instances").and_then(Value::as_array) else {
                return Err(ProviderError::Unreachable {
                    operation: OPERATION,
                    message: "the answer holds no list of instances".to_owned(),
                });
            };
            rows.extend(page.iter().cloned());
            match body.get("next_token").and_then(Value::as_str) {
                Some(token) if !token.is_empty() && !page.is_empty() => {
                    after = format!("&after_token={}", wire::query_text(token));
                }
                _ => return Ok(rows),
            }
        }
    }
}

struct SendError {
    /// The connection was never made, so nothing can have been done.
    never_sent: bool,
    message: String,
}

impl From<reqwest::Error> for SendError {
    fn from(err: reqwest::Error) -> Self {
        let never_sent = err.is_connect();
        // The URL may carry query values; the chain below it says what happened.
        let err = err.without_url();
        let mut message = err.to_string();
        let mut source = std::error::Error::source(&err);
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self {
            never_sent,
            message,
        }
    }
}

#[async_trait]
impl Provider for Vast {
    fn name(&self) -> &'static str {
        "vast"
    }

    fn base_url(&self) -> String {
        self.base_url.clone()
    }

    async fn account(&self) -> Result<Account, ProviderError> {
        let body = self.get("show user", "/api/v0/users/current/").await?;
        Ok(Account {
            id: wire::uint(&body, "id"),
            credit_usd: wire::float(&body, "credit"),
        })
    }

    async fn offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError> {
        let request = wire::search(query);
        let body = self
            .write("search offers", Method::POST, "/api/v0/bundles/", request)
            .await?;
        let Some(rows) = body.get("offers").and_then(Value::as_array) else {
            return Err(ProviderError::Unreachable {
                operation: "search offers",
                message: "the answer holds no list of offers".to_owned(),
            });
        };
        let mut offers: Vec<Offer> = rows
            .iter()
            .filter_map(|row| wire::offer(row, query))
            // The server does not always apply its filters faithfully.
            .filter(|offer| wire::matches(offer, query))
            .collect();
        offers.sort_by(|a, b| {
            a.running_usd_per_hour()
                .total_cmp(&b.running_usd_per_hour())
        });
        offers.truncate(query.limit as usize);
        Ok(offers)
    }

    async fn rent(&self, request: &RentRequest) -> Result<InstanceId, ProviderError> {
        const OPERATION: &str = "create instance";
        let path = format!("/api/v0/asks/{}/", request.offer);
        let body = Some(wire::create(request));
        let answer = self
            .call(OPERATION, Method::PUT, &path, body, Repeat::OnlyIfRefused)
            .await?;
        let contract = answer.body.get("new_contract").and_then(Value::as_u64);
        let said_no = answer.body.get("success") == Some(&Value::Bool(false));
        if answer.status.is_success()
            && !said_no
            && let Some(id) = contract
        {
            return Ok(id);
        }
        let message = wire::message(&answer.body, &answer.text);
        let code = answer
            .body
            .get("error")
            .and_then(Value::as_str)
            .unwrap_or_default();
        // The same condition comes as 400, 404 or 410: only the word is reliable.
        if code.contains("no_such_ask") || message.contains("no_such_ask") {
            return Err(ProviderError::OfferGone {
                offer: request.offer,
                leftover: contract,
            });
        }
        if let Some(bid_usd_per_hour) = request.bid_usd_per_hour {
            let about_bid = code == "invalid_price" || message.to_lowercase().contains("bid");
            if about_bid && !answer.status.is_server_error() {
                return Err(ProviderError::BidTooLow {
                    bid_usd_per_hour,
                    message,
                    leftover: contract,
                });
            }
        }
        if answer.status.is_success() && contract.is_none() && !said_no {
            let message = "the answer names no instance".to_owned();
            return Err(ProviderError::Unreachable {
                operation: OPERATION,
                message,
            });
        }
        Err(self.refusal(OPERATION, &answer))
    }

    async fn instances(&self) -> Result<Vec<Instance>, ProviderError> {
        let rows = self.list(&json!({})).await?;
        Ok(rows.iter().filter_map(wire::instance).collect())
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError> {
        const OPERATION: &str = "show instance";
        let path = format!("/api/v0/instances/{id}/?owner=me");
        let answer = self
            .call(OPERATION, Method::GET, &path, None, Repeat::Safe)
            .await?;
        if answer.status == StatusCode::NOT_FOUND {
            let refusal = self.refusal(OPERATION, &answer);
            return match refusal {
                ProviderError::Refused { .. } => Ok(None),
                other => Err(other),
            };
        }
        let body = self.accept(OPERATION, answer)?;
        let row = match body.get("instances") {
            Some(Value::Null) => return Ok(None),
            Some(Value::Array(rows)) if rows.is_empty() => return Ok(None),
            Some(Value::Array(rows)) => rows[0].clone(),
            Some(row @ Value::Object(_)) => row.clone(),
            _ => {
                let message = "the answer holds no instance".to_owned();
                return Err(ProviderError::Unreachable {
                    operation: OPERATION,
                    message,
                });
            }
        };
        let instance = wire::instance(&row).ok_or_else(|| ProviderError::Unreachable {
            operation: OPERATION,
            message: "the instance has no id".to_owned(),
        })?;
        // The port map is sometimes only in the list; the list is dear, so it is asked only then.
        let no_direct = instance.ssh.iter().all(|address| address.proxy);
        if instance.actual == super::Actual::Running && no_direct {
            let rows = self.list(&json!({"id": {"eq": id}})).await?;
            let listed = rows
                .iter()
                .filter_map(wire::instance)
                .find(|listed| listed.id == id);
            return Ok(Some(listed.unwrap_or(instance)));
        }
        Ok(Some(instance))
    }

    async fn start(&self, id: InstanceId) -> Result<bool, ProviderError> {
        const OPERATION: &str = "start instance";
        let path = format!("/api/v0/instances/{id}/");
        let body = Some(json!({"state": "running"}));
        let answer = self
            .call(OPERATION, Method::PUT, &path, body, Repeat::Safe)
            .await?;
        let message = wire::message(&answer.body, &answer.text);
        if answer.status.is_success() && message.contains("queued") {
            return Ok(false);
        }
        self.accept(OPERATION, answer).map(|_| true)
    }

    async fn stop(&self, id: InstanceId) -> Result<(), ProviderError> {
        const OPERATION: &str = "stop instance";
        let path = format!("/api/v0/instances/{id}/");
        let body = Some(json!({"state": "stopped"}));
        let answer = self
            .call(OPERATION, Method::PUT, &path, body, Repeat::Safe)
            .await?;
        self.gone_or_done(OPERATION, answer)
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), ProviderError> {
        const OPERATION: &str = "destroy instance";
        let path = format!("/api/v0/instances/{id}/");
        let answer = self
            .call(
                OPERATION,
                Method::DELETE,
                &path,
                Some(json!({})),
                Repeat::Safe,
            )
            .await?;
        self.gone_or_done(OPERATION, answer)
    }

    async fn change_bid(&self, id: InstanceId, usd_per_hour: f64) -> Result<(), ProviderError> {
        let path = format!("/api/v0/instances/bid_price/{id}/");
        let body = json!({"client_id": "me", "price": usd_per_hour});
        self.write("change bid", Method::PUT, &path, body)
            .await
            .map(drop)
    }

    async fn attach_key(&self, id: InstanceId, public_key: &str) -> Result<(), ProviderError> {
        let path = format!("/api/v0/instances/{id}/ssh/");
        let body = json!({"ssh_key": public_key.trim()});
        match self
            .write("attach ssh key", Method::POST, &path, body)
            .await
        {
            Err(ProviderError::Refused { message, .. })
                if message.contains("already associated") =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn register_key(&self, public_key: &str) -> Result<(), ProviderError> {
        let wanted = wire::key_material(public_key);
        let answer = self
            .call(
                "list ssh keys",
                Method::GET,
                "/api/v0/ssh/",
                None,
                Repeat::Safe,
            )
            .await?;
        // 404 is how an account without keys answers.
        if answer.status != StatusCode::NOT_FOUND {
            let body = self.accept("list ssh keys", answer)?;
            if wire::ssh_keys(&body)
                .iter()
                .any(|key| wire::key_material(key) == wanted)
            {
                return Ok(());
            }
        } else if let err @ ProviderError::Unauthorized { .. } =
            self.refusal("list ssh keys", &answer)
        {
            return Err(err);
        }
        let body = json!({"ssh_key": public_key.trim()});
        match self
            .write("create ssh key", Method::POST, "/api/v0/ssh/", body)
            .await
        {
            // Team keys may not create account keys; attaching to the instance still works.
            Err(ProviderError::Refused { message, .. }) if message.contains("team_ssh_keys") => {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn charges(
        &self,
        since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        let now_s = jiff::Timestamp::now().as_second() as f64;
        // Whole days: a charge that began before the bound would be left out otherwise.
        let from = (since_s / 86_400.0).floor() * 86_400.0;
        let to = (now_s / 86_400.0).floor() * 86_400.0 + 86_400.0;
        let filters = wire::query_value(
            &json!({"day": {"gte": from, "lte": to}, "type": {"in": ["instance"]}}),
        );
        let mut charges: Vec<Charge> = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!(
                "/api/v0/charges/?select_filters={filters}&latest_first=false&limit=100&format=tree{after}"
            );
            let body = self.get("show charges", &path).await?;
            let rows = body
                .get("results")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            for row in &rows {
                wire::add_charge(&mut charges, row, instances);
            }
            match body.get("next_token").and_then(Value::as_str) {
                Some(token) if !token.is_empty() && !rows.is_empty() => {
                    after = format!("&after_token={}", wire::query_text(token));
                }
                _ => return Ok(charges),
            }
        }
    }
}

/// Reads `Retry-After` in seconds, for [`limits`].
fn retry_after_header(headers: &HeaderMap) -> Option<f64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

/// Type of a search by the way of renting.
fn search_type(rental: Rental) -> &'static str {
    match rental {
        Rental::OnDemand => "on-demand",
        Rental::Interruptible => "bid",
    }
}
