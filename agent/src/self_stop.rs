//! The box ends its own rental, by stopping or by destroying it: the one thing the agent ever asks the provider for, with the
//! instance's own key.
//!
//! The account key never comes here. The key lies in the container's environment and may be absent; then nothing here holds
//! when the laptop is off, and preflight says so.

use std::{ffi::OsStr, fs, io, time::Duration};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{chain, config::Home, fault, files, sessions::environment};

/// The provider's API while no controller has told of a run, where the box names no other.
pub const DEFAULT_URL: &str = "https://console.vast.ai";
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
const SHORTEST_WAIT: Duration = Duration::from_secs(2);
/// The provider limits requests, and a box that should stop costs money: not more rarely than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Times that an answer to the wish to be destroyed is waited for; then the box stops, which can be taken back.
const DESTROY_TRIES: u32 = 5;

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

impl SelfStopError {
    /// Whether the question may have been heard, though its answer was lost.
    fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Link { source, .. } if !source.is_connect() && !source.is_builder())
    }

    /// Whether so speaks a provider who does not know the instance, or its key, any more.
    fn says_gone(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 401 | 403 | 404 | 410,
                ..
            }
        )
    }

    /// Whether asking again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Link { .. } => true,
            Self::Refused { status, .. } => matches!(*status, 408 | 429 | 500..),
            Self::NotRented | Self::NoKey => false,
        }
    }
}

/// This box as the provider knows it.
pub struct OwnInstance {
    id: String,
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
            id: id.to_owned(),
            url,
            key: Zeroizing::new(key.to_owned()),
            client,
        })
    }

    /// Proves the key by reading the own instance: changes nothing.
    pub async fn read(&self) -> Result<(), SelfStopError> {
        self.ask(Method::GET, None).await
    }

    /// Notes whether it answered to its key, for later daemons too: what was never proved is not relied upon for an end without return.
    pub fn note_proof(&self, home: &Home, proved: bool) -> io::Result<()> {
        let file = home.key_proved();
        match (proved, fs::remove_file(&file)) {
            (true, _) => files::write_durably(&file, self.id.as_bytes()),
            (false, Err(err)) if err.kind() != io::ErrorKind::NotFound => Err(err),
            (false, _) => Ok(()),
        }
    }

    /// Whether this very instance answered to its key.
    pub fn is_proved(&self, home: &Home) -> bool {
        let noted = files::read_if_there(&home.key_proved());
        noted.is_ok_and(|id| id.is_some_and(|id| id == self.id.as_bytes()))
    }

    /// Asks to be destroyed, with its disk; again where that may help, unless it is not wanted any more: false then. A wish that may have
    /// been heard is not taken back before there is an answer. Being destroyed ends this future, and everything else here, in mid-air.
    ///
    /// # Errors
    /// When the provider refuses, or gives no clear answer several times.
    pub async fn destroy_while(&self, still: impl Fn() -> bool) -> Result<bool, SelfStopError> {
        let mut wait = SHORTEST_WAIT;
        let mut tries = 0;
        let mut lost = false;
        loop {
            tries += 1;
            match self.ask(Method::DELETE, Some(json!({}))).await {
                // An answer that was lost was a yes: nobody is known there any more who may ask.
                Err(err) if lost && err.says_gone() => return Ok(true),
                Err(err) if tries < DESTROY_TRIES && err.may_pass() => {
                    warn!(error = %chain(&err), wait_s = wait.as_secs(), "the box could not destroy itself, will retry");
                    lost |= err.may_have_arrived();
                    time::sleep(fault::wait(wait)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                    if !lost && !still() {
                        return Ok(false);
                    }
                }
                asked => return asked.map(|()| true),
            }
        }
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

/// A client that trusts the roots we carry: a box may have none of its own. It goes nowhere but where it was sent: what leads elsewhere
/// would take a question that must not be asked twice, or tell a URL that is a secret.
pub(crate) fn http_client() -> reqwest::Result<Client> {
    let roots = spotter_bucket::roots::compiled_in()
        .iter()
        .map(|root| reqwest::Certificate::from_der(root))
        .collect::<reqwest::Result<Vec<_>>>()?;
    Client::builder()
        .tls_certs_only(roots)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .timeout(REQUEST_LIMIT)
        .build()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// What a box hears that is not to be ended any more, of a provider who gives these answers, one each time; an empty one: none. And
    /// how often it asked.
    async fn asked(answers: &'static [&str]) -> (Result<bool, SelfStopError>, usize) {
        let _installed_already = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = OwnInstance {
            id: "4711".to_owned(),
            url: format!("http://{}/", listener.local_addr().unwrap()),
            key: Zeroizing::new("key".to_owned()),
            client: http_client().unwrap(),
        };
        listener.set_nonblocking(true).unwrap();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let provider = thread::spawn(move || {
            let mut asked = 0;
            while ended.try_recv().is_err() {
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let mut heard = Vec::new();
                while !heard.ends_with(b"{}") {
                    let mut bytes = [0; 1024];
                    let count = stream.read(&mut bytes).unwrap();
                    assert!(count > 0, "half a question");
                    heard.extend_from_slice(&bytes[..count]);
                }
                if let Some(status) = answers.get(asked).filter(|status| !status.is_empty()) {
                    let head = "content-length: 0\r\nconnection: close";
                    write!(stream, "HTTP/1.1 {status}\r\n{head}\r\n\r\n").unwrap();
                }
                asked += 1;
            }
            asked
        });
        let answer = own.destroy_while(|| false).await;
        end.send(()).unwrap();
        let times = tokio::task::spawn_blocking(|| provider.join().unwrap());
        (answer, times.await.unwrap())
    }

    #[tokio::test]
    async fn an_end_that_may_have_been_heard_is_not_taken_back_before_there_is_an_answer() {
        let (gone, done, refused, busy) = tokio::join!(
            asked(&["", "404 Not Found"]),
            asked(&["", "200 OK"]),
            asked(&["", "400 Bad Request"]),
            asked(&["503 Busy", "200 OK"]),
        );
        assert_eq!((gone.0.unwrap(), gone.1), (true, 2));
        assert_eq!((done.0.unwrap(), done.1), (true, 2));
        assert_eq!((refused.0.is_err(), refused.1), (true, 2));
        // What was not done for sure is.
        assert_eq!((busy.0.unwrap(), busy.1), (false, 1));
    }
}
