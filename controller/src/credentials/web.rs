//! One small request over HTTPS, for the services that give keys. Answers are bounded, and wiped when they are dropped.

use std::time::Duration;

use zeroize::Zeroizing;

/// Longest time for a request.
const LIMIT: Duration = Duration::from_secs(20);
/// Largest answer that is read; real ones have a few kilobytes.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// An answer, whatever its status.
pub(super) struct Answer {
    pub status: u16,
    pub body: Zeroizing<Vec<u8>>,
}

/// A client that follows no redirect: keys go where they were meant to go. `authorities` (PEM, perhaps none) are trusted besides
/// those that everybody trusts.
pub(crate) fn client(authorities: &str) -> Result<reqwest::Client, String> {
    let builder = || {
        reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(LIMIT)
            .user_agent(concat!("spotter/", env!("CARGO_PKG_VERSION")))
    };
    let failed = |err: reqwest::Error| crate::error::chain(&err);
    let usual = || {
        webpki_root_certs::TLS_SERVER_ROOT_CERTS
            .iter()
            .filter_map(|root| reqwest::Certificate::from_der(root).ok())
    };
    if !authorities.is_empty() {
        let ours = reqwest::Certificate::from_pem_bundle(authorities.as_bytes()).map_err(failed)?;
        let roots: Vec<_> = usual().chain(ours).collect();
        return builder().tls_certs_only(roots).build().map_err(failed);
    }
    builder().build().or_else(|_| {
        // A machine without any system certificate still has the usual ones.
        let roots: Vec<_> = usual().collect();
        builder().tls_certs_only(roots).build().map_err(failed)
    })
}

/// Sends it and reads the whole answer.
pub(super) async fn send(request: reqwest::RequestBuilder) -> Result<Answer, String> {
    // A URL may hold a token: it is never part of an error.
    let failed = |err: reqwest::Error| crate::error::chain(&err.without_url());
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let mut body = Zeroizing::new(Vec::with_capacity(8 << 10));
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(format!(
                "the answer is larger than {MAX_ANSWER_BYTES} bytes"
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body })
}

/// A time such as `2026-01-02T03:04:05Z`, microseconds since the epoch. Old files write `UTC` for `Z`.
pub(super) fn microseconds(text: &str) -> Option<u64> {
    let text = text.trim().replace("UTC", "Z");
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_microsecond()).ok()
}

/// Now, microseconds since the epoch.
pub(super) fn now_us() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default()
}

/// Somebody else's words as one bounded line.
pub(super) fn line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect()
}
