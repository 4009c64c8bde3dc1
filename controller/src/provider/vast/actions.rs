//! What is done to an instance beside renting, starting, stopping and ending it: its label, a restart of its container, money in
//! advance, what its container printed and what lies on its disk.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Vast, http::Repeat, wire};
use crate::provider::{DiskLook, InstanceId, Prepaid, ProviderError};

/// Longest label that is taken after a create, characters.
const MAX_LABEL_CHARS: usize = 1024;
/// Longest command that hosts run, characters.
const MAX_COMMAND_CHARS: usize = 512;

/// How a container is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    /// On its disk.
    Reboot,
    /// Anew, from a freshly pulled image.
    Recycle,
}

impl Vast {
    pub(super) async fn label(&self, id: InstanceId, label: &str) -> Result<(), ProviderError> {
        const OPERATION: &str = "label instance";
        if label.chars().count() > MAX_LABEL_CHARS {
            return Err(ProviderError::Refused {
                operation: OPERATION,
                status: 400,
                message: format!("a label has at most {MAX_LABEL_CHARS} characters"),
                leftover: None,
            });
        }
        let path = format!("/api/v0/instances/{id}/");
        let body = json!({ "label": label });
        let written = self.http.write(OPERATION, Method::PUT, &path, body);
        written.await.map(drop)
    }

    pub(super) async fn restart(
        &self,
        id: InstanceId,
        restart: Restart,
    ) -> Result<(), ProviderError> {
        let (operation, word) = match restart {
            Restart::Reboot => ("reboot instance", "reboot"),
            Restart::Recycle => ("recycle instance", "recycle"),
        };
        let path = format!("/api/v0/instances/{word}/{id}/");
        let written = self.http.write(operation, Method::PUT, &path, json!({}));
        written.await.map(drop)
    }

    /// Sent once, whatever comes back, unless the answer proves that nothing was done: money is not sent twice.
    pub(super) async fn pay_ahead(
        &self,
        id: InstanceId,
        usd: f64,
    ) -> Result<Prepaid, ProviderError> {
        const OPERATION: &str = "prepay instance";
        let path = format!("/api/v0/instances/prepay/{id}/");
        let body = Some(json!({ "amount": usd }));
        let answer = self
            .http
            .call(OPERATION, Method::PUT, &path, body, Repeat::OnlyIfRefused)
            .await?;
        // A status of this route's own.
        if answer.status.as_u16() == 411 {
            let message = wire::message(&answer.body, &answer.text);
            return Err(ProviderError::NoCredit { message });
        }
        let body = self.http.accept(OPERATION, answer)?;
        Ok(wire::prepaid(&body))
    }

    /// Asks for a log, and fetches it from where it is put.
    pub(super) async fn logs(&self, id: InstanceId, tail: u32) -> Result<String, ProviderError> {
        const OPERATION: &str = "request logs";
        let path = format!("/api/v0/instances/request_logs/{id}/");
        // The number is a text, as the official client sends it.
        let body = json!({"tail": tail.to_string()});
        let body = self.http.write(OPERATION, Method::PUT, &path, body).await?;
        match body.get("result_url").and_then(Value::as_str) {
            Some(url) => self.http.result(OPERATION, url).await,
            None => Ok(wire::message(&body, "")),
        }
    }

    /// The official client always fails after it has fetched the result; the route itself works, on stopped instances too.
    pub(super) async fn execute(
        &self,
        id: InstanceId,
        look: DiskLook,
        path: &str,
    ) -> Result<String, ProviderError> {
        const OPERATION: &str = "execute";
        let refused = |message: String| ProviderError::Refused {
            operation: OPERATION,
            status: 400,
            message,
            leftover: None,
        };
        // It is split into words by the host, and nobody says how it would read a quote.
        let plain = path.starts_with('/')
            && path
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-+=@:,".contains(c));
        if !plain {
            return Err(refused(format!("`{path}` cannot be named in a command")));
        }
        let command = match look {
            DiskLook::List => format!("ls -la {path}"),
            DiskLook::Size => format!("du -s {path}"),
        };
        if command.len() > MAX_COMMAND_CHARS {
            let limit = MAX_COMMAND_CHARS;
            return Err(refused(format!(
                "the command has more than {limit} characters"
            )));
        }
        let route = format!("/api/v0/instances/command/{id}/");
        let body = json!({ "command": command });
        let body = self
            .http
            .write(OPERATION, Method::PUT, &route, body)
            .await?;
        let Some(url) = body.get("result_url").and_then(Value::as_str) else {
            let message = format!("no result: {}", wire::message(&body, ""));
            return Err(ProviderError::Unreachable {
                operation: OPERATION,
                message,
            });
        };
        let printed = self.http.result(OPERATION, url).await?;
        // Where the host keeps the disk is nobody's business.
        Ok(match body.get("writeable_path").and_then(Value::as_str) {
            Some(place) if !place.is_empty() => printed.replace(place, ""),
            _ => printed,
        })
    }
}
