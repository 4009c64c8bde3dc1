//! The user's webhook: one POST per message to a URL that is itself a secret. It is held in memory alone and never printed: of an error
//! only its kind is told.

use std::time::Duration;

use reqwest::Client;
use tokio::time;
use zeroize::Zeroizing;

use crate::{fault, self_stop::http_client};

/// Longest URL, bytes.
const LONGEST: usize = 4096;
/// Tries, and the pause between two.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// A message that was not taken.
#[derive(Debug)]
pub struct Untaken {
    /// Why, without the URL.
    pub why: String,
    /// It was read and refused: the same again changes nothing.
    pub is_final: bool,
}

impl Untaken {
    /// Nobody said anything against the message itself.
    pub fn passing(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            is_final: false,
        }
    }
}

/// Where to send. Has no text of its own, so that no message can hold it.
pub struct Url(Zeroizing<String>);

impl Url {
    /// Reads a URL (pure): `https`, or `http` to this machine.
    ///
    /// # Errors
    /// What is wrong, without the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "a webhook is a URL that begins with https://";
        if text.len() > LONGEST {
            return Err("the URL of the webhook is too long");
        }
        let url = reqwest::Url::parse(text).map_err(|_| WRONG)?;
        let host = url.host_str().unwrap_or_default();
        let here = host == "localhost" || host == "127.0.0.1" || host == "[::1]";
        match url.scheme() {
            "https" if !host.is_empty() => Ok(Self(Zeroizing::new(text.to_owned()))),
            "http" if here => Ok(Self(Zeroizing::new(text.to_owned()))),
            _ => Err(WRONG),
        }
    }

    /// Sends a JSON message, again where that may help.
    ///
    /// # Errors
    /// Why it was not taken, without the URL.
    pub async fn send(&self, body: Vec<u8>) -> Result<(), Untaken> {
        let client = http_client().map_err(|_| Untaken::passing("no client could be made"))?;
        let mut left = TRIES;
        loop {
            left -= 1;
            match self.send_once(&client, body.clone()).await {
                Err((why, again)) if !again || left == 0 => return Err(why),
                Err(_) => time::sleep(fault::wait(PAUSE)).await,
                Ok(()) => return Ok(()),
            }
        }
    }

    /// An error says whether another try may help.
    async fn send_once(&self, client: &Client, body: Vec<u8>) -> Result<(), (Untaken, bool)> {
        let request = client
            .post(self.0.as_str())
            .header("content-type", "application/json")
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status().as_u16();
                let again = status == 429 || status >= 500;
                let untaken = Untaken {
                    why: format!("it answers with HTTP {status}"),
                    is_final: is_refusal(status),
                };
                Err((untaken, again))
            }
            // The error's own text may hold the URL, or the host.
            Err(err) if err.is_timeout() => Err((Untaken::passing("no answer in time"), true)),
            Err(err) if err.is_connect() => Err((Untaken::passing("no connection"), true)),
            Err(_) => Err((Untaken::passing("the connection broke"), true)),
        }
    }
}

/// Whether a status is about the message and not about the moment (pure): 408 says that it came too slowly, 429 too soon.
fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) && status != 408 && status != 429
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_of_the_message_and_not_of_the_moment() {
        for (status, expected) in [
            (302, false),
            (400, true),
            (404, true),
            (408, false),
            (413, true),
            (429, false),
            (500, false),
            (503, false),
        ] {
            assert_eq!(is_refusal(status), expected, "{status}");
        }
    }

    #[test]
    fn a_webhook_is_https_or_on_this_machine_and_an_error_never_holds_it() {
        let long = format!("https://hooks.example.com/{}", "x".repeat(LONGEST));
        for (text, expected) in [
            ("https://hooks.example.com/services/T0/hush", true),
            ("http://127.0.0.1:9/hush", true),
            ("http://hooks.example.com/hush", false),
            ("hush", false),
            (long.as_str(), false),
        ] {
            match Url::parse(text) {
                Ok(_) => assert!(expected, "{text}"),
                Err(why) => assert!(!expected && !why.contains("hush"), "{text}: {why}"),
            }
        }
    }
}
