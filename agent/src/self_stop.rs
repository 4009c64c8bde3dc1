//! The box ends its own rental: the one thing the agent ever asks the provider for, with the instance's own key.
//!
//! The account key never comes here. The key lies in the container's environment and may be absent; then nothing here holds
//! when the laptop is off, and preflight says so.

use std::{ffi::OsStr, time::Duration};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{chain, config::Home, sessions::environment};

/// The provider's API while no controller has told of a run, where the box names no other.
pub const DEFAULT_URL: &str = "https://console.vast.ai";
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
const SHORTEST_WAIT: Duration = Duration::from_secs(2);
/// The provider limits requests, and a box that should stop costs money: not more rarely than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why the box could not ask for its own end.
#[derive(Debug, thiserror::Error)]
pub enum SelfStopError {
    /// The controller named no provider.
    #[error("nobody rents this box for the run: it is not ended")]
    NotRented,
    /// The container's environment lacks what is needed.
    #[error(
        "the container's environment holds no CONTAINER_ID and CONTAINER_API_KEY: this box cannot end itself"
    )]
    NoKey,
    /// No answer came.
    #[error("{url} gave no answer")]
    Link {
        /// What was asked.
        url: String,
        /// Why; never holds the key, which travels in a header.
        source: reqwest::Error,
    },
    /// The answer was a refusal.
    #[error("{url} refused: {status} {message}")]
    Refused {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// The provider's words, shortened.
        message: String,
    },
}

/// This box as the provider knows it.
pub struct OwnInstance {
    url: String,
    key: Zeroizing<String>,
    client: Client,
}

impl OwnInstance {
    /// Finds the instance's number and key. `provider_url` is the controller's word, used where the box has none of its own;
    /// empty: the box is the user's, and whatever key lies in its environment is not for us.
    pub fn find(home: &Home, provider_url: &str) -> Result<Self, SelfStopError> {
        if provider_url.is_empty() {
            return Err(SelfStopError::NotRented);
        }
        let env = environment::container_environment(home);
        let get = |name: &str| {
            env.get(OsStr::new(name))
                .and_then(|value| value.to_str())
                .filter(|value| !value.is_empty())
        };
        let id = get("CONTAINER_ID").filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()));
        let (Some(id), Some(key)) = (id, get("CONTAINER_API_KEY")) else {
            return Err(SelfStopError::NoKey);
        };
        let base = get("VAST_URL").unwrap_or(provider_url);
        let url = format!("{}/api/v0/instances/{id}/", base.trim_end_matches('/'));
        let client = http_client().map_err(|source| SelfStopError::Link {
            url: url.clone(),
            source,
        })?;
        Ok(Self {
            url,
            key: Zeroizing::new(key.to_owned()),
            client,
        })
    }

    /// Proves the key by reading the own instance: changes nothing.
    pub async fn read(&self) -> Result<(), SelfStopError> {
        self.ask(Method::GET, None).await
    }

    /// Asks once to be stopped. The disk stays and the GPU is free for others.
    pub async fn stop(&self) -> Result<(), SelfStopError> {
        self.ask(Method::PUT, Some(json!({ "state": "stopped" })))
            .await
    }

    /// Asks until the provider agrees, or until it is not wanted any more: false then. Being stopped ends this future, and
    /// everything else here, in mid-air.
    pub async fn stop_while(&self, still: impl Fn() -> bool) -> bool {
        let mut wait = SHORTEST_WAIT;
        while let Err(err) = self.stop().await {
            warn!(error = %chain(&err), wait_s = wait.as_secs(), "the box could not stop itself, will retry");
            time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            if !still() {
                return false;
            }
        }
        true
    }

    async fn ask(&self, method: Method, body: Option<Value>) -> Result<(), SelfStopError> {
        let mut request = self
            .client
            .request(method, &self.url)
            .bearer_auth(self.key.as_str());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let link = |source: reqwest::Error| SelfStopError::Link {
            url: self.url.clone(),
            source,
        };
        let answer = request.send().await.map_err(link)?;
        let status = answer.status();
        let text = answer.text().await.map_err(link)?;
        // The provider also says no with status 200 and `"success": false`.
        let refused =
            serde_json::from_str::<Value>(&text).is_ok_and(|said| said["success"] == false);
        if status.is_success() && !refused {
            return Ok(());
        }
        let message = text.chars().take(200).collect();
        Err(SelfStopError::Refused {
            url: self.url.clone(),
            status: status.as_u16(),
            message,
        })
    }
}

/// A client that trusts the roots we carry: a box may have none of its own.
fn http_client() -> reqwest::Result<Client> {
    let roots = spotter_bucket::roots::compiled_in()
        .iter()
        .map(|root| reqwest::Certificate::from_der(root))
        .collect::<reqwest::Result<Vec<_>>>()?;
    Client::builder()
        .tls_certs_only(roots)
        .no_proxy()
        .timeout(REQUEST_LIMIT)
        .build()
}
