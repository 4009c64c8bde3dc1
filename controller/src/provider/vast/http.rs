//! One exchange with the API: the key, the route's rate, what may be repeated, and what an answer says.
//!
//! Reads and idempotent writes are repeated; an order never is, unless the answer proves that nothing was done.

use std::time::Duration;

use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION},
};
use serde_json::Value;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    limits::{self, Limits, Refusal},
    redirect, wire,
};
use crate::provider::ProviderError;

/// Provider's name in errors.
pub(super) const NAME: &str = "vast";
/// The client's own time-out is 120 s; a person waits for most of our calls.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// An answer of 64 offers is some 200 KB; anything near this is not an answer.
const BODY_LIMIT_BYTES: usize = 16 << 20;
/// Attempts at a request that may be repeated.
const TRIES: u32 = 6;
/// Between two looks whether a result is there, and how long it is looked for: 5 to 20 s were seen.
const RESULT_LOOK: Duration = Duration::from_millis(700);
const RESULT_LIMIT: Duration = Duration::from_secs(45);

/// How the API says that an instance does not exist, beside HTTP 404, by its documentation.
const GONE: [&str; 3] = ["no_such_instance", "not_found", "invalid_id"];

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

/// What may be done when a request brought no usable answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing the second time.
    Safe,
    /// Only when it was certainly not carried out.
    OnlyIfRefused,
}

/// What came back.
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// Its JSON; null where it is none.
    pub(super) body: Value,
    /// The same as text.
    pub(super) text: String,
}

impl Answer {
    /// The same without a secret of ours that it repeats.
    pub(super) fn without(mut self, secret: Option<&str>) -> Self {
        if let Some(secret) = secret.filter(|secret| !secret.is_empty())
            && self.text.contains(secret)
        {
            self.text = self.text.replace(secret, "…");
            self.body = serde_json::from_str(&self.text).unwrap_or(Value::Null);
        }
        self
    }
}

/// The connection to the API. Nothing is connected before the first call.
#[derive(Debug)]
pub(super) struct Http {
    base_url: String,
    key: Option<ApiKey>,
    client: std::sync::OnceLock<reqwest::Client>,
    limits: Limits,
}

impl Http {
    pub(super) fn new(base_url: String, key: Option<ApiKey>) -> Self {
        Self {
            base_url: base_url.trim_end_matches('/').to_owned(),
            key,
            client: std::sync::OnceLock::new(),
            limits: Limits::default(),
        }
    }

    /// The same, with what it searches counted together with every other process of `home`.
    pub(super) fn sharing(self, home: &std::path::Path) -> Self {
        Self {
            limits: Limits::sharing(home),
            ..self
        }
    }

    pub(super) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Sends one request, within the route's rate, and repeats it where that is safe.
    pub(super) async fn call(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Option<Value>,
        repeat: Repeat,
    ) -> Result<Answer, ProviderError> {
        let Some(key) = &self.key else {
            return Err(ProviderError::NoKey { provider: NAME });
        };
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", key.0)).map_err(|_| {
                ProviderError::Unauthorized {
                    provider: NAME,
                    message: "the key holds characters that no key has".to_owned(),
                }
            })?;
        authorization.set_sensitive(true);

        let mut tries = 0;
        loop {
            tries += 1;
            let rate_limited = |retry_after| ProviderError::RateLimited {
                provider: NAME,
                retry_after,
            };
            let sent = self.limits.wait(operation).await.map_err(rate_limited)?;
            let result = self
                .send(operation, &method, path, body.as_ref(), &authorization)
                .await;
            self.limits.answered(sent).await;
            let last = tries >= TRIES;
            match result {
                Ok((answer, headers)) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                    // A refusal by rate is the one failure after which even an order was certainly not carried out.
                    let refusal = Refusal::read(&headers, &answer.body, &answer.text);
                    let wait = self.limits.refused(operation, &refusal, tries).await;
                    if last || wait > limits::PATIENCE {
                        return Err(rate_limited(wait));
                    }
                    let wait_s = wait.as_secs_f64();
                    tracing::debug!(operation, tries, wait_s, "asked to slow down");
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
        let stay = |message: String| SendError {
            never_sent: false,
            message,
        };
        let url = format!("{}{path}", self.base_url);
        let mut url: Url = url
            .parse()
            .map_err(|err| stay(format!("`{}` is no address: {err}", self.base_url)))?;
        tracing::trace!(operation, %method, path, "request");
        for _ in 0..=redirect::MOST {
            let mut request = self
                .client()
                .request(method.clone(), url.clone())
                .timeout(REQUEST_TIMEOUT)
                .header(AUTHORIZATION, authorization.clone());
            if let Some(body) = body {
                request = request.json(body);
            }
            let (answer, headers) = receive(request).await?;
            let location = headers.get(LOCATION).and_then(|to| to.to_str().ok());
            match redirect::next(&url, method, answer.status, location) {
                None => return Ok((answer, headers)),
                Some(to) => {
                    url = to.map_err(|why| stay(format!("the answer is not followed: {why}")))?;
                }
            }
        }
        Err(stay(format!(
            "more than {} answers pointed elsewhere",
            redirect::MOST
        )))
    }

    fn client(&self) -> &reqwest::Client {
        self.client.get_or_init(|| {
            // A machine without CA certificates cannot build any client, not even for http://; ours are the fallback.
            // Where a key may go is decided here, answer by answer.
            let builder = || reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
            builder().build().unwrap_or_else(|_| {
                let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS
                    .iter()
                    .filter_map(|der| reqwest::Certificate::from_der(der).ok());
                builder()
                    .tls_certs_only(roots)
                    .build()
                    .expect("a client with its own certificates needs nothing of the system")
            })
        })
    }

    /// An answer that says yes, or the error that it is. HTTP 200 with `success:false` is an error too.
    pub(super) fn accept(
        &self,
        operation: &'static str,
        answer: Answer,
    ) -> Result<Value, ProviderError> {
        let said_no = answer.body.get("success") == Some(&Value::Bool(false));
        if answer.status.is_success() && !said_no && !answer.body.is_null() {
            return Ok(answer.body);
        }
        Err(self.refusal(operation, &answer))
    }

    /// For what ends an instance: one that does not exist has been ended.
    pub(super) fn gone_or_done(
        &self,
        operation: &'static str,
        answer: Answer,
    ) -> Result<(), ProviderError> {
        match self.says_gone(operation, &answer)? {
            true => Ok(()),
            false => self.accept(operation, answer).map(drop),
        }
    }

    /// Whether the API itself says that there is no such instance. A gateway's page, or a key that is over, says 404 as well, and
    /// nothing about the instance: that is an error, since a box that is called gone is paid for and watched by nobody.
    pub(super) fn says_gone(
        &self,
        operation: &'static str,
        answer: &Answer,
    ) -> Result<bool, ProviderError> {
        if answer.status != StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let code = answer.body.get("error").and_then(Value::as_str);
        if code.is_some_and(|code| GONE.contains(&code)) {
            return Ok(true);
        }
        Err(match self.refusal(operation, answer) {
            ProviderError::Refused { message, .. } => ProviderError::Unreachable {
                operation,
                message: format!("HTTP 404 that names no instance: {message}"),
            },
            other => other,
        })
    }

    pub(super) fn refusal(&self, operation: &'static str, answer: &Answer) -> ProviderError {
        let message = wire::message(&answer.body, &answer.text);
        let code = answer
            .body
            .get("error")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let leftover = answer.body.get("new_contract").and_then(Value::as_u64);
        let status = answer.status.as_u16();
        // A session of two-factor login that is over answers 404, too.
        let unauthorized = code == "auth_error"
            || status == 401
            || message.contains("Invalid user key")
            || message.contains("Session expired");
        if unauthorized {
            return ProviderError::Unauthorized {
                provider: NAME,
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

    pub(super) async fn get(
        &self,
        operation: &'static str,
        path: &str,
    ) -> Result<Value, ProviderError> {
        let answer = self
            .call(operation, Method::GET, path, None, Repeat::Safe)
            .await?;
        self.accept(operation, answer)
    }

    pub(super) async fn write(
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

    /// What an address holds, once it is there. It is asked without the key, and anything but 200 means "not yet".
    pub(super) async fn result(
        &self,
        operation: &'static str,
        url: &str,
    ) -> Result<String, ProviderError> {
        let unreachable = |message: String| ProviderError::Unreachable { operation, message };
        let mut url: Url = url
            .parse()
            .map_err(|err| unreachable(format!("the address of the result is none: {err}")))?;
        let started = tokio::time::Instant::now();
        while started.elapsed() < RESULT_LIMIT {
            // In the clear only where the API itself is.
            if url.scheme() != "https" && !self.base_url.starts_with("http://") {
                return Err(unreachable(
                    "the address of the result is not https".to_owned(),
                ));
            }
            let request = self.client().get(url.clone()).timeout(REQUEST_TIMEOUT);
            match receive(request).await {
                Ok((answer, _)) if answer.status == StatusCode::OK => return Ok(answer.text),
                Ok((answer, headers)) => {
                    let location = headers.get(LOCATION).and_then(|to| to.to_str().ok());
                    let elsewhere = location.filter(|_| answer.status.is_redirection());
                    if let Some(to) = elsewhere.and_then(|to| url.join(to).ok()) {
                        url = to;
                    }
                }
                Err(err) => tracing::debug!(why = err.message, "a result is not there yet"),
            }
            tokio::time::sleep(RESULT_LOOK).await;
        }
        let seconds = RESULT_LIMIT.as_secs();
        Err(unreachable(format!("no result in {seconds} s")))
    }
}

/// Sends a request and reads its answer, within the limit of its size.
async fn receive(request: reqwest::RequestBuilder) -> Result<(Answer, HeaderMap), SendError> {
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
