//! The only place that knows the Vast.ai API: its routes, its words and its habits.
//!
//! [`wire`] turns its JSON into our types, [`http`] makes one exchange, [`limits`] keeps to its rates. Reads and idempotent writes
//! are repeated there; a rent never is, unless the answer proves that nothing was done.

mod http;
mod limits;
mod wire;

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

pub use self::http::ApiKey;
use self::http::{Http, NAME, Repeat};
use super::{
    Account, Charge, Instance, InstanceId, Offer, OfferQuery, Provider, ProviderError, RentRequest,
    Rental,
};

/// Where the API is unless `VAST_URL` says otherwise.
pub const DEFAULT_URL: &str = "https://console.vast.ai";

/// Rows of a page of instances; the server's maximum.
const PAGE: usize = 25;
/// Pages of one list that are followed at most: an account with more boxes than this is a server that turns in circles.
const MOST_PAGES: usize = 400;

/// Vast.ai by its REST API.
#[derive(Debug)]
pub struct Vast {
    http: Http,
}

impl Vast {
    /// A client; nothing is connected before the first call.
    pub fn new(base_url: String, key: Option<ApiKey>) -> Self {
        Self {
            http: Http::new(base_url, key),
        }
    }

    /// Rows of the v1 list that match `filters`, all pages.
    async fn list(&self, filters: &Value) -> Result<Vec<Value>, ProviderError> {
        const OPERATION: &str = "list instances";
        let filters = wire::query_value(filters);
        let order = wire::query_value(&json!([{"col": "id", "dir": "asc"}]));
        let mut rows = Vec::new();
        let mut after = String::new();
        for _ in 0..MOST_PAGES {
            let path = format!(
                "/api/v1/instances/?select_filters={filters}&order_by={order}&limit={PAGE}{after}"
            );
            let body = self.http.get(OPERATION, &path).await?;
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
        Err(ProviderError::Unreachable {
            operation: OPERATION,
            message: format!("the list of instances has more than {MOST_PAGES} pages"),
        })
    }
}

#[async_trait]
impl Provider for Vast {
    fn name(&self) -> &'static str {
        NAME
    }

    fn base_url(&self) -> String {
        self.http.base_url().to_owned()
    }

    async fn account(&self) -> Result<Account, ProviderError> {
        let body = self.http.get("show user", "/api/v0/users/current/").await?;
        // A balance that is not told must not look like an empty account.
        if body.get("credit").is_none_or(Value::is_null) {
            return Err(ProviderError::Unreachable {
                operation: "show user",
                message: "the answer names no credit".to_owned(),
            });
        }
        Ok(Account {
            id: wire::uint(&body, "id"),
            credit_usd: wire::float(&body, "credit"),
        })
    }

    async fn offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError> {
        let request = wire::search(query);
        let body = self
            .http
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
            .http
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
        Err(self.http.refusal(OPERATION, &answer))
    }

    async fn instances(&self) -> Result<Vec<Instance>, ProviderError> {
        let rows = self.list(&json!({})).await?;
        Ok(rows
            .iter()
            .filter_map(|row| wire::instance(row, now_s()))
            .collect())
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError> {
        const OPERATION: &str = "show instance";
        let path = format!("/api/v0/instances/{id}/?owner=me");
        let answer = self
            .http
            .call(OPERATION, Method::GET, &path, None, Repeat::Safe)
            .await?;
        if self.http.says_gone(OPERATION, &answer)? {
            return Ok(None);
        }
        let body = self.http.accept(OPERATION, answer)?;
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
        let instance = wire::instance(&row, now_s()).ok_or_else(|| ProviderError::Unreachable {
            operation: OPERATION,
            message: "the instance has no id".to_owned(),
        })?;
        // The port map is sometimes only in the list; the list is dear, so it is asked only then.
        let no_direct = instance.ssh.iter().all(|address| address.proxy);
        if instance.actual == super::Actual::Running && no_direct {
            let rows = self.list(&json!({"id": {"eq": id}})).await?;
            let listed = rows
                .iter()
                .filter_map(|row| wire::instance(row, now_s()))
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
            .http
            .call(OPERATION, Method::PUT, &path, body, Repeat::Safe)
            .await?;
        let message = wire::message(&answer.body, &answer.text);
        if answer.status.is_success() && message.contains("queued") {
            return Ok(false);
        }
        self.http.accept(OPERATION, answer).map(|_| true)
    }

    async fn stop(&self, id: InstanceId) -> Result<(), ProviderError> {
        const OPERATION: &str = "stop instance";
        let path = format!("/api/v0/instances/{id}/");
        let body = Some(json!({"state": "stopped"}));
        let answer = self
            .http
            .call(OPERATION, Method::PUT, &path, body, Repeat::Safe)
            .await?;
        self.http.gone_or_done(OPERATION, answer)
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), ProviderError> {
        const OPERATION: &str = "destroy instance";
        let path = format!("/api/v0/instances/{id}/");
        let answer = self
            .http
            .call(
                OPERATION,
                Method::DELETE,
                &path,
                Some(json!({})),
                Repeat::Safe,
            )
            .await?;
        self.http.gone_or_done(OPERATION, answer)
    }

    async fn change_bid(&self, id: InstanceId, usd_per_hour: f64) -> Result<(), ProviderError> {
        let path = format!("/api/v0/instances/bid_price/{id}/");
        let body = json!({"client_id": "me", "price": usd_per_hour});
        self.http
            .write("change bid", Method::PUT, &path, body)
            .await
            .map(drop)
    }

    async fn attach_key(&self, id: InstanceId, public_key: &str) -> Result<(), ProviderError> {
        let path = format!("/api/v0/instances/{id}/ssh/");
        let body = json!({"ssh_key": public_key.trim()});
        match self
            .http
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
            .http
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
            let body = self.http.accept("list ssh keys", answer)?;
            if wire::ssh_keys(&body)
                .iter()
                .any(|key| wire::key_material(key) == wanted)
            {
                return Ok(());
            }
        } else if let err @ ProviderError::Unauthorized { .. } =
            self.http.refusal("list ssh keys", &answer)
        {
            return Err(err);
        }
        let body = json!({"ssh_key": public_key.trim()});
        match self
            .http
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

    async fn container_log(&self, id: InstanceId, tail: u32) -> Result<String, ProviderError> {
        const OPERATION: &str = "request logs";
        let path = format!("/api/v0/instances/request_logs/{id}/");
        // The number is a text, as the official client sends it.
        let body = json!({"tail": tail.to_string()});
        let body = self.http.write(OPERATION, Method::PUT, &path, body).await?;
        match body.get("result_url").and_then(Value::as_str) {
            Some(url) => self.http.result(OPERATION, url).await,
            None => Ok(wire::message(&body, "")),
        }
    }

    async fn charges(
        &self,
        since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        // Whole days: a charge that began before the bound would be left out otherwise.
        let from = (since_s / 86_400.0).floor() * 86_400.0;
        let to = (now_s() / 86_400.0).floor() * 86_400.0 + 86_400.0;
        let filters = wire::query_value(
            &json!({"day": {"gte": from, "lte": to}, "type": {"in": ["instance"]}}),
        );
        let mut charges: Vec<Charge> = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!(
                "/api/v0/charges/?select_filters={filters}&latest_first=false&limit=100&format=tree{after}"
            );
            let body = self.http.get("show charges", &path).await?;
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

/// Seconds since the epoch.
fn now_s() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1000.0
}

/// Type of a search by the way of renting.
fn search_type(rental: Rental) -> &'static str {
    match rental {
        Rental::OnDemand => "on-demand",
        Rental::Interruptible => "bid",
    }
}

/// An instance of the API's list as it is at `now_s`, for tests that hold other parts against this one.
#[cfg(any(test, feature = "fakes"))]
pub fn read_instance(row: &Value, now_s: f64) -> Option<Instance> {
    wire::instance(row, now_s)
}

/// Rows of the API's charges summed for some instances, for tests that hold other parts against this one.
#[cfg(any(test, feature = "fakes"))]
pub fn read_charges(rows: &[Value], instances: &[InstanceId]) -> Vec<Charge> {
    let mut charges = Vec::new();
    for row in rows {
        wire::add_charge(&mut charges, row, instances);
    }
    charges
}
