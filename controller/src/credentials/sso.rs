//! Keys of a role by AWS's single sign-on: the login that `aws sso login` left in its cache is exchanged for keys that end.
//!
//! The login itself is not renewed: that needs a browser, and AWS's tool does it.

use std::{fs, path::PathBuf};

use reqwest::header::HeaderValue;
use serde::Deserialize;
use spotter_bucket::Credentials;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::web::{self, microseconds, now_us};

/// A login and what it is used for.
pub(super) struct Login {
    /// `~/.aws/sso/cache`.
    pub cache: PathBuf,
    /// Name of the session; of old profiles without one, the start URL.
    pub name: String,
    /// Where the portal is; `None`: the region's own.
    pub endpoint: Option<String>,
    /// Profile, for what to type.
    pub profile: String,
    pub region: String,
    pub account: String,
    pub role: String,
}

/// Why a login gave no keys.
#[derive(Debug, thiserror::Error)]
pub enum SsoError {
    /// There is no login.
    #[error("nobody is logged in (no {}): log in with `aws sso login --profile {profile}`", file.display())]
    NoLogin {
        /// The cache's file.
        file: PathBuf,
        /// Profile.
        profile: String,
    },
    /// The cache's file is not as it should be.
    #[error("{} cannot be read: {why}", file.display())]
    Cache {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The login is over.
    #[error("the login is over: log in again with `aws sso login --profile {profile}`")]
    Over {
        /// Profile.
        profile: String,
    },
    /// The portal said no.
    #[error("the portal refused role {role} of account {account}: {why}")]
    Refused {
        /// Role.
        role: String,
        /// Account.
        account: String,
        /// Its words.
        why: String,
    },
    /// The portal gave no usable answer.
    #[error("the portal gave no usable answer: {0}")]
    Unusable(String),
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase")]
struct Cached {
    access_token: String,
    expires_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Portal {
    role_credentials: RoleKeys,
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase")]
struct RoleKeys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    /// Milliseconds since the epoch.
    expiration: u64,
}

#[derive(Deserialize)]
struct Complaint {
    message: Option<String>,
}

impl Login {
    pub(super) async fn keys(&self) -> Result<Credentials, SsoError> {
        let token = self.token(now_us())?;
        let base = self.endpoint.clone().unwrap_or_else(|| {
            let china = if self.region.starts_with("cn-") {
                ".cn"
            } else {
                ""
            };
            format!("https://portal.sso.{}.amazonaws.com{china}", self.region)
        });
        let client = web::client("").map_err(SsoError::Unusable)?;
        let mut bearer = HeaderValue::from_str(&token.access_token).map_err(|_| {
            SsoError::Unusable("the login holds characters that HTTP does not allow".to_owned())
        })?;
        bearer.set_sensitive(true);
        let request = client
            .get(format!(
                "{}/federation/credentials",
                base.trim_end_matches('/')
            ))
            .query(&[("role_name", &self.role), ("account_id", &self.account)])
            .header("x-amz-sso_bearer_token", bearer);
        let answer = web::send(request).await.map_err(SsoError::Unusable)?;
        match answer.status {
            200 => {}
            401 => {
                return Err(SsoError::Over {
                    profile: self.profile.clone(),
                });
            }
            status => {
                let said: Option<Complaint> = serde_json::from_slice(&answer.body).ok();
                let words = said.and_then(|said| said.message);
                return Err(SsoError::Refused {
                    role: self.role.clone(),
                    account: self.account.clone(),
                    why: words.map_or_else(|| format!("HTTP {status}"), |words| web::line(&words)),
                });
            }
        }
        let portal: Portal = serde_json::from_slice(&answer.body)
            .map_err(|_| SsoError::Unusable("it holds no keys of a role".to_owned()))?;
        let keys = portal.role_credentials;
        Ok(Credentials {
            access_key_id: keys.access_key_id.clone(),
            secret_access_key: keys.secret_access_key.clone(),
            session_token: Some(keys.session_token.clone()),
            expires_us: Some(keys.expiration.saturating_mul(1000)),
        })
    }

    /// What AWS's tool keeps of the login, unless it is over.
    fn token(&self, now_us: u64) -> Result<Cached, SsoError> {
        let name = ring::digest::digest(
            &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
            self.name.as_bytes(),
        );
        let file = self.cache.join(format!("{}.json", hex::encode(name)));
        let text = match fs::read_to_string(&file) {
            Ok(text) => Zeroizing::new(text),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                return Err(SsoError::NoLogin {
                    file,
                    profile: self.profile.clone(),
                });
            }
            Err(err) => {
                return Err(SsoError::Cache {
                    file,
                    why: err.to_string(),
                });
            }
        };
        let cached: Cached = serde_json::from_str(&text).map_err(|_| SsoError::Cache {
            file: file.clone(),
            why: "it holds no login".to_owned(),
        })?;
        let ends_us = microseconds(&cached.expires_at).ok_or_else(|| SsoError::Cache {
            file,
            why: "it does not say when the login ends".to_owned(),
        })?;
        if ends_us <= now_us {
            return Err(SsoError::Over {
                profile: self.profile.clone(),
            });
        }
        Ok(cached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only for what wipes itself.
    const fn is_wiped<T: ZeroizeOnDrop>() {}

    const _: () = {
        is_wiped::<Cached>();
        is_wiped::<RoleKeys>();
    };
}
