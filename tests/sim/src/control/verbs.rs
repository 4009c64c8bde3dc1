//! The control interface as a command line: each verb is one request.

use serde_json::{Value, json};

/// What to do to a running simulator; each verb prints JSON.
#[derive(Debug, Clone, PartialEq, clap::Subcommand)]
pub enum Verb {
    /// Machines, offers, instances, accounts
    State,
    /// What instances cost, to the exact number
    Bill {
        /// Only this instance
        id: Option<u64>,
    },
    /// API requests of late
    Requests,
    /// Home directory of a box on this machine
    Home {
        /// Instance
        id: u64,
    },
    /// Somebody takes the GPUs of an interruptible instance
    Outbid {
        /// Instance
        id: u64,
        /// The rival leaves at this moment (seconds since 1970)
        #[arg(long)]
        until_s: Option<f64>,
        /// The rival leaves after this many seconds
        #[arg(long, conflicts_with = "until_s")]
        for_s: Option<f64>,
        /// The rival's bid in $/h; by default a quarter more than the instance's
        #[arg(long)]
        bid: Option<f64>,
        /// The rival rents on-demand, which no bid beats
        #[arg(long, conflicts_with = "bid")]
        on_demand: bool,
    },
    /// The rivals on an instance's GPUs leave
    TenantLeaves {
        /// Instance
        id: u64,
    },
    /// The host of an instance loses power
    HostLoss {
        /// Instance
        id: u64,
        /// The API does not notice: it goes on calling its instances running, and charging for them
        #[arg(long)]
        unnoticed: bool,
    },
    /// A lost host is back
    HostBack {
        /// Instance
        id: u64,
    },
    /// The container of an instance ends by itself; the contract runs on
    ContainerEnds {
        /// Instance
        id: u64,
    },
    /// The contracts on the machine of an instance end: all stop, none starts again, 48 h later they are deleted
    ContractEnds {
        /// Instance
        id: u64,
        /// Not now but in this many seconds, which the API shows from now on
        #[arg(long, default_value_t = 0.0)]
        in_s: f64,
    },
    /// The provider writes the keys of a box anew: what was added on the box is gone
    RewriteKeys {
        /// Instance
        id: u64,
    },
    /// Change what happens to the traffic between here and a box
    Link {
        /// Instance
        id: u64,
        /// heal, drop, reset, refuse, delay=MILLISECONDS or rate=BYTES_PER_SECOND
        #[arg(value_parser = link_fault)]
        fault: Value,
    },
    /// Count traffic of an instance
    Traffic {
        /// Instance
        id: u64,
        /// Downloaded, GB
        #[arg(long, default_value_t = 0.0)]
        down_gb: f64,
        /// Uploaded, GB
        #[arg(long, default_value_t = 0.0)]
        up_gb: f64,
    },
    /// Put dollars on an account, or take them off
    Credit {
        /// Dollars
        #[arg(allow_hyphen_values = true)]
        usd: f64,
        /// Index of the account
        #[arg(long, default_value_t = 0)]
        account: usize,
    },
    /// Show or change the fault switches of the API
    Faults {
        /// JSON object with the switches to change
        #[arg(value_parser = object)]
        change: Option<Value>,
        /// Turn all off first
        #[arg(long)]
        clear: bool,
    },
    /// Show or change the switches of the bucket
    S3 {
        /// JSON object with the switches to change
        #[arg(value_parser = object)]
        change: Option<Value>,
    },
    /// Destroy every box and end the simulator
    Quit,
}

/// One request to the control interface.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlRequest {
    /// `GET`, `POST` or `DELETE`.
    pub method: http::Method,
    /// Path below the simulator's URL.
    pub path: String,
    /// Body of a POST.
    pub body: Value,
}

impl Verb {
    /// The requests of this verb, in order; the answer of the last is the verb's.
    pub fn requests(&self) -> Vec<ControlRequest> {
        let get = |path: String| {
            vec![ControlRequest {
                method: http::Method::GET,
                path,
                body: Value::Null,
            }]
        };
        let post = |path: &str, body: Value| {
            vec![ControlRequest {
                method: http::Method::POST,
                path: path.to_owned(),
                body,
            }]
        };
        match self {
            Self::State => get("/sim/state".into()),
            Self::Bill { id: None } => get("/sim/bill".into()),
            Self::Bill { id: Some(id) } => get(format!("/sim/bill/{id}")),
            Self::Requests => get("/sim/requests".into()),
            Self::Home { id } => get(format!("/sim/home/{id}")),
            Self::Outbid {
                id,
                until_s,
                for_s,
                bid,
                on_demand,
            } => post(
                "/sim/outbid",
                json!({"id": id, "until_s": until_s, "for_s": for_s, "bid": bid, "on_demand": on_demand}),
            ),
            Self::TenantLeaves { id } => post("/sim/tenant-leaves", json!({"id": id})),
            Self::HostLoss { id, unnoticed } => {
                post("/sim/host-loss", json!({"id": id, "unnoticed": unnoticed}))
            }
            Self::HostBack { id } => post("/sim/host-back", json!({"id": id})),
            Self::ContainerEnds { id } => post("/sim/container-ends", json!({"id": id})),
            Self::ContractEnds { id, in_s } => {
                post("/sim/contract-ends", json!({"id": id, "in_s": in_s}))
            }
            Self::RewriteKeys { id } => post("/sim/rewrite-keys", json!({"id": id})),
            Self::Link { id, fault } => post("/sim/link", json!({"id": id, "fault": fault})),
            Self::Traffic { id, down_gb, up_gb } => post(
                "/sim/traffic",
                json!({"id": id, "down_gb": down_gb, "up_gb": up_gb}),
            ),
            Self::Credit { usd, account } => {
                post("/sim/credit", json!({"usd": usd, "account": account}))
            }
            Self::Faults { change, clear } => {
                let clear = clear.then(|| ControlRequest {
                    method: http::Method::DELETE,
                    path: "/sim/faults".into(),
                    body: Value::Null,
                });
                let then = match change {
                    Some(change) => post("/sim/faults", change.clone()),
                    None => get("/sim/faults".into()),
                };
                clear.into_iter().chain(then).collect()
            }
            Self::S3 { change } => post("/sim/s3", change.clone().unwrap_or_else(|| json!({}))),
            Self::Quit => post("/sim/quit", json!({})),
        }
    }

    /// Does it to the simulator at `url`.
    ///
    /// # Errors
    /// When nobody answers there, or the simulator would not, with its reason.
    pub async fn run(&self, url: &str) -> anyhow::Result<Value> {
        // Plain HTTP on this machine; the client wants a TLS provider all the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut last = Value::Null;
        for request in self.requests() {
            let target = format!("{}{}", url.trim_end_matches('/'), request.path);
            let mut call = client.request(request.method, &target);
            if !request.body.is_null() {
                call = call.json(&request.body);
            }
            let response = call.send().await?;
            let status = response.status();
            let text = response.text().await?;
            last = serde_json::from_str(&text).unwrap_or(Value::String(text));
            if !status.is_success() {
                let reason = last.get("error").and_then(Value::as_str);
                anyhow::bail!("{target}: {}", reason.unwrap_or(status.as_str()));
            }
        }
        Ok(last)
    }
}

fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(other) => Err(format!("a JSON object is wanted, not {other}")),
        Err(err) => Err(err.to_string()),
    }
}

fn link_fault(text: &str) -> Result<Value, String> {
    match text.split_once('=') {
        None if ["heal", "drop", "reset", "refuse"].contains(&text) => Ok(json!(text)),
        Some((name @ ("delay" | "rate"), number)) => {
            let number: u64 = number
                .parse()
                .map_err(|_| format!("{number} is no whole number"))?;
            Ok(json!({name: number}))
        }
        _ => Err(
            "one of heal, drop, reset, refuse, delay=MILLISECONDS, rate=BYTES_PER_SECOND"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::LinkFault;

    #[test]
    fn link_faults_are_words_that_the_boxes_understand() {
        let cases = [
            ("heal", LinkFault::Heal),
            ("drop", LinkFault::Drop),
            ("delay=80", LinkFault::Delay(80)),
            ("rate=1000", LinkFault::Rate(1000)),
        ];
        for (text, expected) in cases {
            let fault: LinkFault = serde_json::from_value(link_fault(text).unwrap()).unwrap();
            assert_eq!(fault, expected, "{text}");
        }
        assert!(link_fault("delay").is_err() && link_fault("rate=fast").is_err());
    }
}
