//! Access keys of the bucket and what each may do.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    s3_error,
};
use serde::Deserialize;

use super::faults::Switchboard;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rights {
    /// Everything.
    #[default]
    All,
    /// Nothing that changes anything.
    ReadOnly,
    /// Everything but deleting objects; aborting uploads is allowed, as with AWS.
    NoDelete,
}

/// An access key.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// Access key id.
    pub access_key: String,
    /// Secret.
    pub secret_key: String,
    /// Token that every request has to carry, as temporary keys have it.
    #[serde(default)]
    pub session_token: Option<String>,
    /// When it ends; never, when absent.
    #[serde(default, rename = "expires_in_s", deserialize_with = "in_seconds")]
    pub expires: Option<SystemTime>,
    /// What it may do.
    #[serde(default)]
    pub rights: Rights,
    /// What the keys of objects have to begin with.
    #[serde(default)]
    pub prefix: Option<String>,
}

impl AccessKey {
    /// A key that may do everything and does not end.
    pub fn new(access_key: &str, secret_key: &str) -> Self {
        Self {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            session_token: None,
            expires: None,
            rights: Rights::All,
            prefix: None,
        }
    }
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({}, {:?})", self.access_key, self.rights)
    }
}

/// A time so many seconds from now; negative ones are over.
fn in_seconds<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SystemTime>, D::Error> {
    let seconds = Option::<i64>::deserialize(deserializer)?;
    Ok(seconds.and_then(|seconds| {
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            SystemTime::now().checked_sub(by)
        } else {
            SystemTime::now().checked_add(by)
        }
    }))
}

/// Decides by the keys of the switchboard.
#[derive(Clone)]
pub struct Gate(pub Arc<Switchboard>);

#[async_trait::async_trait]
impl S3Auth for Gate {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.key(access_key) {
            Some(key) => Ok(SecretKey::from(key.secret_key)),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "the access key id does not exist"
            )),
        }
    }
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let signed_by = context
            .credentials()
            .ok_or_else(|| s3_error!(AccessDenied, "nothing here is public"))?;
        let key = self
            .0
            .key(&signed_by.access_key)
            .ok_or_else(|| s3_error!(InvalidAccessKeyId))?;
        if key.expires.is_some_and(|end| end <= SystemTime::now()) {
            return Err(s3_error!(ExpiredToken, "the provided token has expired"));
        }
        let header = context
            .headers()
            .get("x-amz-security-token")
            .and_then(|value| value.to_str().ok());
        let in_query = query(context.uri().query(), "X-Amz-Security-Token");
        if key.session_token.as_deref() != header.or(in_query.as_deref()) {
            return Err(s3_error!(
                InvalidToken,
                "the provided token is not that of this key"
            ));
        }
        let operation = context.s3_op().name();
        let allowed = match key.rights {
            Rights::All => true,
            Rights::ReadOnly => ["Get", "Head", "List"]
                .iter()
                .any(|verb| operation.starts_with(verb)),
            Rights::NoDelete => !operation.starts_with("Delete"),
        };
        if !allowed {
            return Err(s3_error!(AccessDenied, "this key may not {operation}"));
        }
        let Some(prefix) = &key.prefix else {
            return Ok(());
        };
        let within = match context.s3_path().get_object_key() {
            Some(object) => object.starts_with(prefix.as_str()),
            None if matches!(operation, "HeadBucket" | "GetBucketLocation") => true,
            None => query(context.uri().query(), "prefix")
                .is_some_and(|asked| asked.starts_with(prefix.as_str())),
        };
        if within {
            Ok(())
        } else {
            Err(s3_error!(AccessDenied, "this key is only for {prefix}"))
        }
    }
}

/// Value of a query parameter, decoded.
fn query(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = query?
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    let plain = value.replace('+', " ");
    Some(
        percent_encoding::percent_decode_str(&plain)
            .decode_utf8_lossy()
            .into_owned(),
    )
}
