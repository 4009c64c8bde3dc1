//! One request to the server and its answer: signed anew for every try, bounded in time and size, repeated only when the link
//! broke or the clock was off.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::{
    sync::Semaphore,
    time::{self, Instant},
};
use tracing::{debug, trace};
use zeroize::Zeroizing;

use super::{
    CredentialSource, S3Options, address,
    clock::{self, ServerClock},
    failure::{Failure, answered, chain, local, redirected, unusable},
    payload, refusal, roots,
    sign::{self, Unsigned},
    xml,
};
use crate::{
    bucket::{BucketError, ErrorKind},
    credentials::{Credentials, NO_KEYS},
    grants::{NOT_GRANTED, Stock},
    target::Target,
};

/// What a server is told to lack that answers with all of an object where a part of it was asked for.
pub(super) const NO_RANGES: &str = "the server does not read ranges";
/// What is said of a name whose signature is refused while the keys are good.
const ODD_NAME: &str = "the server accepts these keys and not their signature for this name (it reads the name otherwise than S3 does): \
                        letters, digits, `-`, `_` and `.` go everywhere";
/// Payloads hashed at once: two keep a 20 Gbit/s link busy, and leave threads for others that block.
const HASHES_AT_ONCE: usize = 2;
/// Above this size a payload is hashed on a thread of its own: 1 MiB takes about a millisecond.
const HASH_ASIDE_BYTES: usize = 1 << 20;

/// A request, but for its signature.
pub(super) struct Request<'a> {
    /// Name of the operation.
    pub operation: &'static str,
    /// HTTP method.
    pub method: Method,
    /// Object, or prefix of a listing; what errors name.
    pub key: &'a str,
    /// Whether `key` is in the URL; a listing has its prefix in the query.
    pub on_object: bool,
    /// Query.
    pub query: Vec<(&'static str, &'a str)>,
    /// Headers, signed too.
    pub headers: Vec<(&'static str, String)>,
    /// Payload.
    pub body: Bytes,
    /// What the signature says of it.
    pub vouch: Vouch,
    /// Largest answer that is read, bytes.
    pub max_answer_bytes: u64,
    /// Where the answer goes, for the first try: memory that was used before, or nothing.
    pub buffer: Mutex<BytesMut>,
    /// Whether it may be repeated when the link broke after it may have been carried out.
    pub repeatable: bool,
}

/// What a signature says of a payload.
pub(super) enum Vouch {
    /// Its SHA-256.
    Sha256,
    /// This SHA-256, whatever the payload's own is.
    Claimed(String),
    /// Nothing but this CRC-32 in a header, base64.
    Crc32(String),
}

/// An answer that is a success.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The way to one bucket.
pub(super) struct Exchange {
    client: RwLock<reqwest::Client>,
    pub(super) bucket_url: String,
    pub(super) region: String,
    credentials: CredentialSource,
    /// Keys by which the server last took a request.
    accepted: Mutex<Option<Credentials>>,
    /// What was signed ahead, where there are no keys.
    pub(super) grants: Option<Arc<Stock>>,
    pub(super) options: S3Options,
    clock: Mutex<ServerClock>,
    hashing: Semaphore,
}

impl Exchange {
    pub(super) fn new(
        target: &Target,
        credentials: CredentialSource,
        options: S3Options,
    ) -> Result<Self, BucketError> {
        let bucket_url = address::bucket_url(target);
        let client = roots::client(&bucket_url, options.connect_timeout, None)
            .map_err(|err| unusable(target, &err))?;
        Ok(Self {
            client: RwLock::new(client),
            bucket_url,
            region: target.region.clone(),
            credentials,
            accepted: Mutex::default(),
            grants: None,
            options,
            clock: Mutex::new(ServerClock::default()),
            hashing: Semaphore::new(HASHES_AT_ONCE),
        })
    }

    /// Trusts these certificates, PEM, besides those that everybody does.
    pub(super) fn trust(&self, target: &Target, pem: &[u8]) -> Result<(), BucketError> {
        let client = roots::client(&self.bucket_url, self.options.connect_timeout, Some(pem))
            .map_err(|err| unusable(target, &err))?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    /// Whether nobody on the way can read or change what is sent.
    pub(super) fn is_private(&self) -> bool {
        self.bucket_url.starts_with("https://") || roots::is_loopback(&self.bucket_url)
    }

    pub(super) fn clock_offset_s(&self) -> f64 {
        self.clock().offset_s()
    }

    /// The same for what is signed ahead.
    pub(super) fn ahead_s(&self) -> f64 {
        self.clock().ahead_s()
    }

    /// Sends a request until an answer came: at most `options.tries` times, plus once more when the clock had to be corrected.
    pub(super) async fn send(&self, mut request: Request<'_>) -> Result<Answer, BucketError> {
        if request.on_object {
            address::check_key(request.key)
                .map_err(|reason| local(&request, ErrorKind::Refused, reason))?;
        }
        let payload_sha256 = match &request.vouch {
            // What was signed ahead says nothing of a payload.
            _ if self.grants.is_some() => String::new(),
            Vouch::Sha256 => self.hash(request.body.clone(), sign::payload_sha256).await,
            Vouch::Claimed(sha256) => sha256.clone(),
            Vouch::Crc32(crc32) => {
                request.headers.push((payload::CRC32_HEADER, crc32.clone()));
                payload::UNSIGNED.to_owned()
            }
        };
        let mut corrected = false;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.attempt(&request, &payload_sha256).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Untried(error) | Failure::TimedOut(error)) => return Err(error),
                Err(Failure::Answered {
                    error,
                    signed_with_s,
                    server_time,
                }) => {
                    if error.kind != ErrorKind::Skewed || corrected {
                        return Err(error);
                    }
                    corrected = true;
                    tries -= 1;
                    self.clock()
                        .refused(signed_with_s, server_time, (self.options.clock)());
                    debug!(
                        operation = request.operation,
                        offset_s = self.clock().signing_offset_s(),
                        "clock corrected"
                    );
                }
                Err(Failure::Link { error, unsent }) => {
                    if tries >= self.options.tries || !(request.repeatable || unsent) {
                        return Err(error);
                    }
                    debug!(operation = request.operation, tries, %error, "link broke, will repeat");
                    time::sleep(pause(tries)).await;
                }
            }
        }
    }

    /// Hashes a payload, a large one on a thread that may block.
    pub(super) async fn hash(&self, body: Bytes, hash: fn(&[u8]) -> String) -> String {
        if body.len() < HASH_ASIDE_BYTES {
            return hash(&body);
        }
        let _turn = self.hashing.acquire().await;
        let by = self.options.hash_by.clone();
        let work = Box::new(move || hash(&body));
        let hashing = tokio::task::spawn_blocking(move || by(work));
        hashing
            .await
            .expect("hashing neither panics nor is cancelled")
    }

    async fn attempt(
        &self,
        request: &Request<'_>,
        payload_sha256: &str,
    ) -> Result<Answer, Failure> {
        let signed_with_s = self.clock().signing_offset_s();
        let mut keys = None;
        let (url, headers, secrets) = match &self.grants {
            Some(stock) => self.granted(stock, request)?,
            None => {
                let credentials = self.keys(request)?;
                let url = address::url(
                    &self.bucket_url,
                    request.on_object.then_some(request.key),
                    &request.query,
                );
                let (headers, signature) =
                    self.headers(request, &url, payload_sha256, &credentials, signed_with_s)?;
                let token = credentials.session_token.clone().unwrap_or_default();
                let secret = credentials.secret_access_key.clone();
                keys = Some(credentials);
                (url, headers, Zeroizing::new([token, secret, signature]))
            }
        };
        let secrets = [
            secrets[0].as_str(),
            secrets[1].as_str(),
            secrets[2].as_str(),
        ];
        let timed_out =
            |message: &str| Failure::TimedOut(local(request, ErrorKind::Transient, message));
        let broke = |err: reqwest::Error| {
            let unsent = err.is_connect() || err.is_builder();
            let text = refusal::cleaned(&chain(&err.without_url()), &secrets);
            Failure::Link {
                error: local(request, ErrorKind::Transient, &text),
                unsent,
            }
        };

        let began = Instant::now();
        let client = self
            .client
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut http = client
            .request(request.method.clone(), &url)
            .headers(headers);
        if matches!(request.method, Method::PUT | Method::POST) {
            // An empty body would go without a length, which S3 refuses.
            http = http
                .header(header::CONTENT_LENGTH, request.body.len())
                .body(request.body.clone());
        }
        let limit = self.options.time_for(request.body.len() as u64);
        let response = match time::timeout(limit, http.send()).await {
            Ok(sent) => sent.map_err(broke)?,
            Err(_) => return Err(timed_out(&format!("no answer in {} s", limit.as_secs()))),
        };

        let status = response.status();
        let headers = response.headers().clone();
        if let Some(date) = headers
            .get(header::DATE)
            .and_then(|value| value.to_str().ok())
        {
            self.clock().saw_date(date, (self.options.clock)());
        }
        let max_bytes = if status.is_success() {
            request.max_answer_bytes
        } else {
            xml::MAX_XML_BYTES as u64
        };
        // Against HEAD the length is that of the object, and no body follows.
        let expected = if request.method == Method::HEAD {
            0
        } else {
            response.content_length().unwrap_or(0)
        };
        let ranged = request.headers.iter().any(|(name, _)| *name == "range");
        let unranged =
            ranged && status == StatusCode::OK && !headers.contains_key(header::CONTENT_RANGE);
        let too_large = |what: &str| {
            let text = match unranged {
                true => NO_RANGES.to_owned(),
                false => {
                    format!("{what} is larger than the {max_bytes} bytes that were to be read")
                }
            };
            Failure::Untried(local(request, ErrorKind::Refused, &text))
        };
        if expected > max_bytes {
            return Err(too_large(&format!("answer of {expected} bytes")));
        }
        let limit = self.options.time_for(expected);
        let buffer = mem::take(
            &mut *request
                .buffer
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let body = match time::timeout(limit, read(response, max_bytes, buffer)).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => return Err(too_large("answer")),
            Ok(Err(err)) => return Err(broke(err)),
            Err(_) => {
                let text = format!("answer did not end in {} s", limit.as_secs());
                return Err(timed_out(&text));
            }
        };
        trace!(operation = request.operation, status = status.as_u16(), took = ?began.elapsed(), "answered");
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        if status.is_success() {
            if let Some(stock) = &self.grants {
                stock.answered(secrets[0], reads, None);
            }
            self.accepted_by(keys);
            return Ok(Answer {
                status,
                headers,
                body,
            });
        }
        let mut said = xml::error_body(&body);
        if status.is_redirection()
            && said.message.is_none()
            && let Some(whereto) = redirected(&headers)
        {
            said.message = Some(whereto);
            // HEAD has no body that could say it.
            said.code
                .get_or_insert_with(|| "PermanentRedirect".to_owned());
        }
        let server_time = said.server_time.as_deref().and_then(clock::parse_iso_time);
        let mut error = answered(request, status.as_u16(), &said, &secrets);
        if error.code.as_deref() == Some("SignatureDoesNotMatch")
            && request.on_object
            && !address::is_plain(request.key)
            && keys.is_some()
            && *self.accepted() == keys
        {
            // No other keys would help: the file is at fault, and what else there is to save goes on.
            let kind = ErrorKind::Refused;
            error = BucketError {
                status: error.status,
                ..local(request, kind, ODD_NAME)
            };
        }
        if let Some(stock) = &self.grants
            && error.kind == ErrorKind::Denied
        {
            let code = error.code.as_deref().unwrap_or_default();
            stock.answered(secrets[0], reads, Some(code));
        }
        Err(Failure::Answered {
            error,
            signed_with_s,
            server_time,
        })
    }

    fn accepted(&self) -> std::sync::MutexGuard<'_, Option<Credentials>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepted_by(&self, keys: Option<Credentials>) {
        let mut accepted = self.accepted();
        if *accepted != keys {
            *accepted = keys;
        }
    }

    pub(super) fn keys_now(&self) -> Option<Credentials> {
        (self.credentials)()
    }

    fn keys(&self, request: &Request<'_>) -> Result<Credentials, Failure> {
        self.keys_now()
            .ok_or_else(|| Failure::Untried(local(request, ErrorKind::Denied, NO_KEYS)))
    }

    /// Address, headers and secrets of a request that was signed ahead.
    fn granted(
        &self,
        stock: &Stock,
        request: &Request<'_>,
    ) -> Result<(String, HeaderMap, Zeroizing<[String; 3]>), Failure> {
        let granted = stock
            .sign(&request.method, request.key, &request.query)
            .map_err(|kind| Failure::Untried(local(request, kind, NOT_GRANTED)))?;
        let url = address::url(&self.bucket_url, Some(&granted.key), &request.query);
        let and = if request.query.is_empty() { '?' } else { '&' };
        let url = format!("{url}{and}{}", granted.query);
        let headers = self.plain_headers(request)?;
        let value = |name: &str| {
            let pairs = granted.query.split('&');
            let found = pairs
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name);
            found.map_or_else(String::new, |(_, value)| value.to_owned())
        };
        // A server may repeat one of them without the rest.
        let (signature, token) = (value("X-Amz-Signature"), value("X-Amz-Security-Token"));
        let secrets = Zeroizing::new([granted.query.clone(), signature, token]);
        Ok((url, headers, secrets))
    }

    fn plain_headers(&self, request: &Request<'_>) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let value = HeaderValue::from_str(value).map_err(|_| {
                let text = "a header has a value that HTTP does not allow";
                Failure::Untried(local(request, ErrorKind::Refused, text))
            })?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(headers)
    }

    /// All headers of a try, and its signature alone (so that it can be kept out of messages).
    fn headers(
        &self,
        request: &Request<'_>,
        url: &str,
        payload_sha256: &str,
        credentials: &Credentials,
        signed_with_s: f64,
    ) -> Result<(HeaderMap, String), Failure> {
        let unusable = |text: &str| Failure::Untried(local(request, ErrorKind::Refused, text));
        let time = clock::shifted((self.options.clock)(), signed_with_s);
        let unsigned = Unsigned {
            method: request.method.as_str(),
            url,
            headers: &request.headers,
            payload_sha256,
        };
        let signed = sign::signed_headers(&unsigned, credentials, &self.region, time)
            .map_err(|err| unusable(&err.to_string()))?;
        let mut headers = self.plain_headers(request)?;
        let mut signature = String::new();
        for added in signed {
            let mut value = HeaderValue::from_str(&added.value).map_err(|_| {
                unusable("the bucket keys hold characters that HTTP does not allow")
            })?;
            if added.name == "authorization" {
                signature = added
                    .value
                    .rsplit('=')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
            }
            value.set_sensitive(added.sensitive || added.name == "authorization");
            headers.insert(HeaderName::from_static(added.name), value);
        }
        Ok((headers, signature))
    }

    fn clock(&self) -> std::sync::MutexGuard<'_, ServerClock> {
        // Plain numbers: whatever a panic left there is as good as before.
        self.clock
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Reads a body up to a limit; `None` when there is more.
async fn read(
    mut response: reqwest::Response,
    max_bytes: u64,
    mut body: BytesMut,
) -> Result<Option<Bytes>, reqwest::Error> {
    // At once: growing it would copy what came again and again.
    let said_bytes = response.content_length().unwrap_or(0).min(max_bytes);
    body.reserve(said_bytes as usize);
    while let Some(chunk) = response.chunk().await? {
        if body.len() as u64 + chunk.len() as u64 > max_bytes {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

/// Before the next try: anything up to 0.2 s, doubling, at most 5 s, so that many clients do not return together.
fn pause(tries: u32) -> Duration {
    let most_ms = 200_u64
        .saturating_mul(1 << tries.min(10).saturating_sub(1))
        .min(5_000);
    Duration::from_millis(rand::random_range(0..=most_ms))
}
