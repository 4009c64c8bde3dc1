//! The only place that knows the Vast.ai API: its routes, its words and its habits.
//!
//! [`wire`] turns its JSON into our types, [`http`] makes one exchange, [`limits`] keeps to its rates. Reads and idempotent writes
//! are repeated there; a rent never is, unless the answer proves that nothing was done. Here is what a run's life needs;
//! [`actions`] act on a box otherwise, [`keys`], [`copies`], [`templates`], [`volumes`] and [`bills`] are what their names say.
//!
//! Of what an order may say, a box that is reached by ssh as root has no use for `args`, `user` and the keys of Jupyter.

mod actions;
mod bills;
mod copies;
mod http;
mod keys;
mod limits;
mod redirect;
mod shared;
mod templates;
mod volumes;
mod wire;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};

pub use self::http::ApiKey;
use self::{
    actions::Restart,
    http::{Http, NAME, Repeat},
};
use super::{
    Account, Charge, DiskLook, DiskPath, Instance, InstanceId, Offer, OfferQuery, Prepaid,
    Provider, ProviderError, RentRequest, Rental,
    volumes::{Volume, VolumeId, VolumeOffer, VolumeQuery},
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

    /// The same, which keeps to the rate of searches together with every other process of `home`.
    #[must_use]
    pub fn sharing(self, home: &std::path::Path) -> Self {
        Self {
            http: self.http.sharing(home),
        }
    }

    /// Rows of the v1 list that match `filters`, all pages.
    async fn list(&self, filters: &Value) -> Result<Vec<Value>, ProviderError> {
        let filters = wire::query_value(filters);
        let order = wire::query_value(&json!([{"col": "id", "dir": "asc"}]));
        let path =
            format!("/api/v1/instances/?select_filters={filters}&order_by={order}&limit={PAGE}");
        self.pages("list instances", &path, "instances").await
    }

    /// Rows of all pages of a list. An answer without a list is an error, on whichever page: it must never look like an empty fleet,
    /// of which somebody would rent a second one, or like a small bill.
    async fn pages(
        &self,
        operation: &'static str,
        path: &str,
        key: &str,
    ) -> Result<Vec<Value>, ProviderError> {
        let unreachable = |message: String| ProviderError::Unreachable { operation, message };
        let mut rows = Vec::new();
        let mut after = String::new();
        for _ in 0..MOST_PAGES {
            let body = self.http.get(operation, &format!("{path}{after}")).await?;
            let Some(page) = body.get(key).and_then(Value::as_array) else {
                return Err(unreachable(format!("the answer holds no list of {key}")));
            };
            rows.extend(page.iter().cloned());
            match body.get("next_token").and_then(Value::as_str) {
                Some(token) if !token.is_empty() && !page.is_empty() => {
                    after = format!("&after_token={}", wire::query_text(token));
                }
                _ => return Ok(rows),
            }
        }
        Err(unreachable(format!(
            "the list of {key} has more than {MOST_PAGES} pages"
        )))
    }

    /// Searches. There are two routes for it: where the usual one was switched off, the other one is asked.
    async fn search(&self, request: Value) -> Result<Value, ProviderError> {
        const OPERATION: &str = "search offers";
        let usual = self
            .http
            .write(OPERATION, Method::POST, "/api/v0/bundles/", request.clone())
            .await;
        match usual {
            Err(ProviderError::Refused {
                status: 404 | 405 | 410,
                message,
                ..
            }) => {
                tracing::debug!(message, "the usual route of searches is off");
                let body = json!({"select_cols": ["*"], "q": request});
                self.http
                    .write(OPERATION, Method::PUT, "/api/v0/search/asks/", body)
                    .await
            }
            other => other,
        }
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
        let body = self.search(wire::search(query)).await?;
        let Some(rows) = body.get("offers").and_then(Value::as_array) else {
            return Err(ProviderError::Unreachable {
                operation: "search offers",
                message: "the answer holds no list of offers".to_owned(),
            });
        };
        let mut offers: Vec<Offer> = rows
            .iter()
            .filter_map(|row| Some((wire::offer(row, query)?, row)))
            // The server does not always apply its filters faithfully.
            .filter(|(offer, row)| wire::matches(offer, row, query))
            .map(|(offer, _)| offer)
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
        let template = match &request.container.template {
            Some(hash) => Some(self.template(hash).await?),
            None => None,
        };
        let body = Some(wire::create(request, template.as_ref()));
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
        let login = request.container.login.as_ref();
        let answer = answer.without(login.map(|login| login.password.as_str()));
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
            let about_bid = code == "invalid_price" || wire::names_bid(&message);
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
        let mut instances = Vec::with_capacity(rows.len());
        for row in &rows {
            // One that is left out is paid for and known to nobody.
            let instance = wire::instance(row, now_s()).ok_or(ProviderError::Unreachable {
                operation: "list instances",
                message: "a row of the list has no id".to_owned(),
            })?;
            instances.push(instance);
        }
        Ok(instances)
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

    async fn set_label(&self, id: InstanceId, label: &str) -> Result<(), ProviderError> {
        self.label(id, label).await
    }

    async fn reboot(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.restart(id, Restart::Reboot).await
    }

    async fn recycle(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.restart(id, Restart::Recycle).await
    }

    async fn prepay(&self, id: InstanceId, usd: f64) -> Result<Prepaid, ProviderError> {
        self.pay_ahead(id, usd).await
    }

    async fn look_at_disk(
        &self,
        id: InstanceId,
        look: DiskLook,
        path: &str,
    ) -> Result<String, ProviderError> {
        self.execute(id, look, path).await
    }

    async fn copy(&self, from: DiskPath<'_>, to: DiskPath<'_>) -> Result<(), ProviderError> {
        self.copy_direct(from, to).await
    }

    async fn cancel_copy(&self, to: InstanceId) -> Result<(), ProviderError> {
        self.cancel_copies(to).await
    }

    async fn volumes(&self) -> Result<Vec<Volume>, ProviderError> {
        self.list_volumes().await
    }

    async fn volume_offers(&self, query: &VolumeQuery) -> Result<Vec<VolumeOffer>, ProviderError> {
        self.room_for_volumes(query).await
    }

    async fn rent_volume(
        &self,
        offer: u64,
        size_gb: f64,
        name: &str,
    ) -> Result<VolumeId, ProviderError> {
        self.order_volume(offer, size_gb, name).await
    }

    async fn end_volume(&self, id: VolumeId) -> Result<(), ProviderError> {
        self.delete_volume(id).await
    }

    async fn attach_key(&self, id: InstanceId, public_key: &str) -> Result<(), ProviderError> {
        self.attach(id, public_key).await
    }

    async fn register_key(&self, public_key: &str) -> Result<(), ProviderError> {
        self.register(public_key).await
    }

    async fn forget_keys(
        &self,
        id: InstanceId,
        is_old: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync),
    ) -> Result<u32, ProviderError> {
        self.forget(id, is_old).await
    }

    async fn container_log(&self, id: InstanceId, tail: u32) -> Result<String, ProviderError> {
        self.logs(id, tail).await
    }

    async fn charges(
        &self,
        since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        self.bills(since_s, instances).await
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
        wire::add_charge(&mut charges, row, instances).expect("a row of the simulator is whole");
    }
    charges
}
