//! Public keys of the account, which reach instances that are made afterwards, and of single instances.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Vast, http::Repeat, wire};
use crate::provider::{InstanceId, ProviderError};

impl Vast {
    pub(super) async fn attach(
        &self,
        id: InstanceId,
        public_key: &str,
    ) -> Result<(), ProviderError> {
        let path = format!("/api/v0/instances/{id}/ssh/");
        let body = json!({"ssh_key": public_key.trim()});
        match self
            .http
            .write("attach ssh key", Method::POST, &path, body)
            .await
        {
            Err(ProviderError::Refused { message, .. })
                if message.contains("already associated") =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    pub(super) async fn register(&self, public_key: &str) -> Result<(), ProviderError> {
        let wanted = wire::key_material(public_key);
        let known = self.account_keys().await?;
        if known
            .iter()
            .any(|(_, key)| wire::key_material(key) == wanted)
        {
            return Ok(());
        }
        let body = json!({"ssh_key": public_key.trim()});
        match self
            .http
            .write("create ssh key", Method::POST, "/api/v0/ssh/", body)
            .await
        {
            // Team keys may not create account keys; attaching to the instance still works.
            Err(ProviderError::Refused { message, .. }) if message.contains("team_ssh_keys") => {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Numbers and texts of the account's keys.
    async fn account_keys(&self) -> Result<Vec<(u64, String)>, ProviderError> {
        const OPERATION: &str = "list ssh keys";
        let answer = self
            .http
            .call(OPERATION, Method::GET, "/api/v0/ssh/", None, Repeat::Safe)
            .await?;
        // 404 is how an account without keys answers.
        if answer.status == StatusCode::NOT_FOUND {
            return match self.http.refusal(OPERATION, &answer) {
                err @ ProviderError::Unauthorized { .. } => Err(err),
                _ => Ok(Vec::new()),
            };
        }
        let body = self.http.accept(OPERATION, answer)?;
        Ok(wire::ssh_keys(&body))
    }

    pub(super) async fn forget(
        &self,
        id: InstanceId,
        is_old: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync),
    ) -> Result<u32, ProviderError> {
        let mut gone = 0;
        let path = format!("/api/v0/instances/{id}/ssh/");
        let body = self.http.get("list keys of instance", &path).await?;
        for (key, _) in wire::ssh_keys(&body)
            .iter()
            .filter(|(_, text)| is_old(text))
        {
            let path = format!("/api/v0/instances/{id}/ssh/{key}/");
            self.remove("detach ssh key", &path).await?;
            gone += 1;
        }
        for (key, _) in self
            .account_keys()
            .await?
            .iter()
            .filter(|(_, text)| is_old(text))
        {
            let path = format!("/api/v0/ssh/{key}/");
            self.remove("delete ssh key", &path).await?;
            gone += 1;
        }
        Ok(gone)
    }

    /// One that is not there any more is removed.
    async fn remove(&self, operation: &'static str, path: &str) -> Result<(), ProviderError> {
        match self
            .http
            .write(operation, Method::DELETE, path, json!({}))
            .await
        {
            Err(ProviderError::Refused { status: 404, .. }) => Ok(()),
            other => other.map(drop),
        }
    }
}
