//! `notify.webhook`: one POST per message to a URL that is itself a secret. It is never printed: of an error only its kind is told.

use std::time::Duration;

use tokio::time;
use zeroize::Zeroizing;

use crate::credentials::web;

/// Longest time for one try.
const LIMIT: Duration = Duration::from_secs(10);
/// Tries, and the pause between two.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// Where to send. Has no text of its own, so that no message can hold it.
pub struct Url(Zeroizing<String>);

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Url(..)")
    }
}

impl Url {
    /// Reads a URL (pure): `https`, or `http` to this machine.
    ///
    /// # Errors
    /// What is wrong, without the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "a webhook is a URL that begins with https://".to_owned();
        let url = reqwest::Url::parse(text.trim()).map_err(|_| wrong())?;
        let host = url.host_str().unwrap_or_default();
        let here = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        match url.scheme() {
            "https" if !host.is_empty() => {}
            "http" if here => {}
            "http" => {
                return Err(
                    "a webhook over http would show its URL to the network: use https".to_owned(),
                );
            }
            _ => return Err(wrong()),
        }
        Ok(Self(Zeroizing::new(text.trim().to_owned())))
    }
}

impl Url {
    /// The URL itself, for the memory of the box that tells by it.
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

/// Sends a message, again where that may help.
pub(super) async fn send(url: &Url, body: &[u8]) -> Result<(), String> {
    let client = web::client("")?;
    let mut left = TRIES;
    loop {
        left -= 1;
        let request = client
            .post(url.0.as_str())
            .timeout(LIMIT)
            .header("content-type", "application/json")
            .body(body.to_vec());
        let (why, again) = match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => {
                let status = answer.status().as_u16();
                let again = status == 429 || status >= 500;
                (format!("it answers with HTTP {status}"), again)
            }
            // The error's own text may hold the URL, or the host.
            Err(err) if err.is_timeout() => (format!("no answer in {} s", LIMIT.as_secs()), true),
            Err(err) if err.is_connect() => ("no connection".to_owned(), true),
            Err(_) => ("the connection broke".to_owned(), true),
        };
        if !again || left == 0 {
            return Err(why);
        }
        time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_https_or_on_this_machine_and_never_shown() {
        for (text, expected) in [
            ("https://hooks.example.com/services/T0/hush", true),
            ("http://127.0.0.1:9/hush", true),
            ("http://[::1]:9/hush", true),
            ("http://localhost/hush", true),
            ("http://hooks.example.com/hush", false),
            ("ftp://hooks.example.com/hush", false),
            ("hooks.example.com/hush", false),
            ("", false),
        ] {
            match Url::parse(text) {
                Ok(url) => assert!(expected && !format!("{url:?}").contains("hush"), "{text}"),
                Err(why) => assert!(!expected && !why.contains("hush"), "{text}: {why}"),
            }
        }
    }
}
