//! The fault switches of the API. Each is a number of times, or a state that lasts until it is changed.

use serde::{Deserialize, Serialize};

use crate::market::{Loading, instance::Order};

/// Bodies that a 429 was seen with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooManyBody {
    /// `API requests too frequent`, plain text.
    #[default]
    Text,
    /// The same with the threshold, plain text.
    TextThreshold,
    /// JSON with `detail`.
    Detail,
    /// JSON with `success`, `error` and `msg`.
    Json,
    /// JSON with a field `retry_after`.
    RetryAfter,
    /// JSON of the daily search quota, which a client should not retry.
    SearchQuota,
}

/// What a broken server answers with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBody {
    /// A gateway's page.
    #[default]
    Html,
    /// A line of plain text.
    Text,
    /// JSON with `success`, `error` and `msg`.
    Json,
    /// What a key of a two-factor login hears when its time is over.
    SessionExpired,
    /// What a key hears that is none.
    InvalidKey,
}

/// What stands where ports are not published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoPorts {
    /// `{}`.
    #[default]
    Empty,
    /// `null`.
    Null,
    /// No such key.
    Absent,
    /// A map in which ssh's entry is null.
    NullEntry,
}

/// By which of its two addresses a box can be reached. The other one is published and refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SshRoute {
    /// By both.
    #[default]
    Both,
    /// Only by the provider's proxy.
    Proxy,
    /// Only directly.
    Direct,
}

/// What the API tells of a box's load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Telemetry {
    /// Nothing: null, and -1 for the disk.
    #[default]
    Unknown,
    /// Zeros, whatever the box does.
    Zero,
    /// Figures of long ago.
    Stale,
}

/// What goes wrong. All off by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Creates that are carried out, and then the connection is dropped instead of an answer.
    pub lose_create_answer: u32,
    /// The documented rates of each route are enforced, for each key by itself.
    pub rate_limits: bool,
    /// Requests that are answered 429, whatever the rate.
    pub too_many_requests: u32,
    /// Every 429 has this body.
    pub too_many_body: TooManyBody,
    /// And this `Retry-After`, seconds.
    pub retry_after_s: Option<u64>,
    /// Requests that are answered with [`Faults::server_error_status`], undone.
    pub server_error: u32,
    /// 401, 404, or 500 to 599; 0 means 502.
    pub server_error_status: u16,
    /// With this body.
    pub server_error_body: ErrorBody,
    /// Requests that are answered HTTP 200 with `success: false`, undone.
    pub says_no: u32,
    /// Requests whose connection is dropped before anything is done.
    pub drop_request: u32,
    /// Only requests of which `METHOD /path` contains this count for the five kinds above.
    pub only: Option<String>,
    /// Creates that find their offer gone.
    pub offers_gone: u32,
    /// 404, 410 or 400; 0 means 404.
    pub offers_gone_status: u16,
    /// Creates whose machine asks more than their bid by then: they are refused, and a stopped instance is made all the same, also
    /// for an order that asks not to be left with one.
    pub bids_too_low: u32,
    /// Creates whose bid is ignored: the instance is on-demand.
    pub wrong_rental: u32,
    /// Creates whose disk is half as large as ordered.
    pub wrong_disk: u32,
    /// Creates whose bid is doubled.
    pub wrong_price: u32,
    /// Creates that come up stopped, until somebody starts them.
    pub starts_stopped: u32,
    /// A raised bid starts no instance that was stopped, until its tenant starts it.
    pub no_auto_resume: bool,
    /// Containers that end by themselves as soon as they are up.
    pub container_ends: u32,
    /// Image pulls end with this text of the host's daemon, and the instance stays `loading` for ever.
    pub pull_failure: Option<String>,
    /// A destroyed instance is shown this long after it was destroyed, seconds. Its bill has ended.
    pub destroy_delay_s: f64,
    /// Reads of one instance that say `null` though it exists.
    pub instances_null: u32,
    /// Lists of instances that answer like a route that was switched off: no list in them.
    pub list_deprecated: u32,
    /// Status of a route that was switched off: 410 or 200; 0 means 410.
    pub deprecated_status: u16,
    /// Searches whose filters are ignored.
    pub filters_ignored: u32,
    /// Ports of a running container are published this long after it started, seconds.
    pub ports_delay_s: f64,
    /// What stands there meanwhile.
    pub no_ports: NoPorts,
    /// Ports are in the list only, not in the read of one instance.
    pub ports_only_in_list: bool,
    /// White space around `public_ipaddr`.
    pub padded_address: bool,
    /// How a box can be reached.
    pub ssh_route: SshRoute,
    /// No router has a port left: offers and instances have no direct way to them, only the provider's proxy.
    pub ports_exhausted: bool,
    /// Reads of one instance in which its host was not heard of lately, though all is well with it.
    pub status_flaps: u32,
    /// What the API tells of a box's load.
    pub telemetry: Telemetry,
    /// Results of `logs` and `execute` are there this long after they were asked for, seconds.
    pub result_delay_s: f64,
    /// Every answer takes this much longer, milliseconds.
    pub latency_ms: u64,
    /// How long image pulls take.
    pub loading: Loading,
    /// Keys are let in only this long after a box started, seconds.
    pub key_delay_s: f64,
}

/// What becomes of one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It is served.
    Served,
    /// 429.
    TooMany(TooManyBody, Option<u64>),
    /// 5xx.
    ServerError(u16, ErrorBody),
    /// 200 that says no.
    SaysNo,
    /// No answer, nothing done.
    Dropped,
}

impl Faults {
    /// Changes the switches named in `change`, an object with any of the fields.
    ///
    /// # Errors
    /// When a name or a value is none.
    pub fn change(&mut self, change: serde_json::Value) -> Result<(), serde_json::Error> {
        let mut all = serde_json::to_value(&*self)?;
        match (all.as_object_mut(), change) {
            (Some(all), serde_json::Value::Object(change)) => all.extend(change),
            (_, other) => {
                let text = format!("faults are an object, not {other}");
                return Err(serde::de::Error::custom(text));
            }
        }
        let changed: Self = serde_json::from_value(all)?;
        changed.check().map_err(serde::de::Error::custom)?;
        *self = changed;
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let (gone, broken) = (self.offers_gone_status, self.server_error_status);
        if ![0, 400, 404, 410].contains(&gone) {
            return Err(format!(
                "offers_gone_status is one of 400, 404, 410, not {gone}"
            ));
        }
        if ![0, 401, 404].contains(&broken) && !(500..=599).contains(&broken) {
            return Err(format!(
                "server_error_status is 401, 404 or 500 to 599, not {broken}"
            ));
        }
        if ![0, 200, 410].contains(&self.deprecated_status) {
            let found = self.deprecated_status;
            return Err(format!("deprecated_status is 200 or 410, not {found}"));
        }
        for (name, seconds) in [
            ("destroy_delay_s", self.destroy_delay_s),
            ("key_delay_s", self.key_delay_s),
            ("ports_delay_s", self.ports_delay_s),
            ("result_delay_s", self.result_delay_s),
        ] {
            if !(0.0..=1e9).contains(&seconds) {
                return Err(format!("{name} is a number of seconds, at least 0"));
            }
        }
        if matches!(self.loading, Loading::Seconds(seconds) if !(0.0..=1e9).contains(&seconds)) {
            return Err("loading takes a number of seconds, at least 0".to_owned());
        }
        Ok(())
    }

    /// Decides about the next request and counts it.
    pub fn fate(&mut self, method: &str, path: &str) -> Fate {
        let line = format!("{method} {path}");
        if self
            .only
            .as_ref()
            .is_some_and(|only| !line.contains(only.as_str()))
        {
            return Fate::Served;
        }
        if take(&mut self.drop_request) {
            return Fate::Dropped;
        }
        if take(&mut self.too_many_requests) {
            return Fate::TooMany(self.too_many_body, self.retry_after_s);
        }
        if take(&mut self.server_error) {
            let status = if self.server_error_status == 0 {
                502
            } else {
                self.server_error_status
            };
            return Fate::ServerError(status, self.server_error_body);
        }
        if take(&mut self.says_no) {
            return Fate::SaysNo;
        }
        Fate::Served
    }

    /// Whether the next create finds its offer gone, and with which status.
    pub fn offer_gone(&mut self) -> Option<u16> {
        let status = if self.offers_gone_status == 0 {
            404
        } else {
            self.offers_gone_status
        };
        take(&mut self.offers_gone).then_some(status)
    }

    /// Changes what was ordered, where a fault says so.
    pub fn spoil(&mut self, order: &mut Order) {
        if take(&mut self.wrong_rental) {
            order.bid_usd_per_hour = None;
        }
        if take(&mut self.wrong_disk) {
            order.disk_gb /= 2.0;
        }
        if take(&mut self.wrong_price) {
            order.bid_usd_per_hour = order.bid_usd_per_hour.map(|bid| bid * 2.0);
        }
        if take(&mut self.starts_stopped) {
            order.start_stopped = true;
        }
    }

    /// Whether the answer of this create is lost.
    pub fn lose_create(&mut self) -> bool {
        take(&mut self.lose_create_answer)
    }
}

/// Counts a fault down; whether there was one left.
pub fn take(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_leaves_the_other_switches_and_refuses_unknown_ones() {
        let mut faults = Faults {
            latency_ms: 7,
            ..Faults::default()
        };
        faults
            .change(json!({"too_many_requests": 1, "loading": {"seconds": 2.5}}))
            .unwrap();
        assert_eq!(
            (faults.latency_ms, faults.loading),
            (7, Loading::Seconds(2.5))
        );
        assert!(faults.change(json!({"latncy_ms": 1})).is_err());
        assert!(faults.change(json!([1])).is_err());
        assert!(faults.change(json!({"server_error_status": 99})).is_err());
        assert!(faults.change(json!({"deprecated_status": 404})).is_err());
        assert!(faults.change(json!({"ports_delay_s": -1})).is_err());
        assert!(faults.change(json!({"loading": {"seconds": -1}})).is_err());
        faults
            .change(json!({"loading": "forever", "too_many_body": "search_quota", "no_ports": "null_entry"}))
            .unwrap();
        assert_eq!(faults.loading, Loading::Forever);
    }

    #[test]
    fn counted_faults_hit_the_requests_they_name_and_run_out() {
        let mut faults = Faults::default();
        faults
            .change(
                json!({"server_error": 2, "server_error_status": 503, "only": "PUT /api/v0/asks/"}),
            )
            .unwrap();
        assert_eq!(faults.fate("GET", "/api/v0/users/current"), Fate::Served);
        assert_eq!(
            faults.fate("PUT", "/api/v0/asks/1/"),
            Fate::ServerError(503, ErrorBody::Html)
        );
        assert_eq!(
            faults.fate("PUT", "/api/v0/asks/1/"),
            Fate::ServerError(503, ErrorBody::Html)
        );
        assert_eq!(faults.fate("PUT", "/api/v0/asks/1/"), Fate::Served);
    }
}
