//! A token service at the bucket's own endpoint, as MinIO has one: `AssumeRole` and `GetFederationToken` give keys that end and may
//! do no more than both the policy of the request and the keys that asked for them.
//!
//! Of a policy it understands what narrows: the prefix of the objects, and whether they may be changed and deleted.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use s3s::{Body, S3Request, S3Response, S3Result, route::S3Route, s3_error};
use serde_json::Value;
use ulid::Ulid;

use super::{
    faults::Switchboard,
    keys::{AccessKey, Rights},
};

/// Largest request body; a policy has at most two kilobytes.
const MAX_BODY_BYTES: usize = 16 << 10;
/// Life of keys when the request names none, as at AWS.
const DEFAULT_LIFE_S: u64 = 3600;
/// Longest life that is given, as MinIO has it.
const MAX_LIFE_S: u64 = 7 * 24 * 3600;

/// Answers requests on the root that hold a form.
pub(super) struct TokenService(pub Arc<Switchboard>);

#[async_trait::async_trait]
impl S3Route for TokenService {
    fn is_match(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        _: &mut http::Extensions,
    ) -> bool {
        let form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
            kind.as_bytes()
                .starts_with(b"application/x-www-form-urlencoded")
        });
        method == Method::POST && uri.path() == "/" && form
    }

    async fn call(&self, mut request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let asked_by = request
            .credentials
            .as_ref()
            .and_then(|signed| self.0.key(&signed.access_key))
            .ok_or_else(|| s3_error!(AccessDenied, "nobody signed this"))?;
        let body = request
            .input
            .store_all_limited(MAX_BODY_BYTES)
            .await
            .map_err(|_| s3_error!(InvalidRequest, "the form cannot be read"))?;
        let form = form(&body);
        let action = form.get("Action").map(String::as_str).unwrap_or_default();
        if !matches!(action, "AssumeRole" | "GetFederationToken") {
            return Err(s3_error!(
                NotImplemented,
                "this service knows no {action:?}"
            ));
        }
        if asked_by.session_token.is_some() {
            return Err(s3_error!(
                AccessDenied,
                "keys that end cannot ask for others"
            ));
        }
        let given = give(
            &asked_by,
            &form,
            self.0.longest_session(),
            SystemTime::now(),
        )
        .map_err(|why| s3_error!(MalformedPolicy, "{why}"))?;
        let text = answer(action, &given);
        self.0.set_key(given);
        let mut response = S3Response::new(Body::from(text));
        response
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
        Ok(response)
    }
}

/// Keys for a request (pure but for their random parts).
fn give(
    by: &AccessKey,
    form: &BTreeMap<String, String>,
    longest: Option<Duration>,
    now: SystemTime,
) -> Result<AccessKey, String> {
    let wished = form
        .get("DurationSeconds")
        .map(|text| {
            text.parse()
                .map_err(|_| format!("{text:?} is no number of seconds"))
        })
        .transpose()?
        .unwrap_or(DEFAULT_LIFE_S);
    let life = Duration::from_secs(wished.min(MAX_LIFE_S)).min(longest.unwrap_or(Duration::MAX));
    let (prefix, rights) = match form.get("Policy") {
        Some(text) => narrowed(text)?,
        None => (None, Rights::All),
    };
    Ok(AccessKey {
        access_key: format!("ASIA{}", Ulid::generate()),
        secret_key: format!("{}{}", Ulid::generate(), Ulid::generate()),
        session_token: Some(format!("{}//{}==", Ulid::generate(), Ulid::generate())),
        expires: Some(now + life),
        rights: if by.rights == Rights::All {
            rights
        } else {
            by.rights
        },
        prefix: prefix.or_else(|| by.prefix.clone()),
    })
}

/// What a policy leaves: the prefix of objects and what may be done with them.
fn narrowed(policy: &str) -> Result<(Option<String>, Rights), String> {
    let policy: Value = serde_json::from_str(policy).map_err(|err| err.to_string())?;
    let statements = policy["Statement"]
        .as_array()
        .ok_or("it has no statements")?;
    let texts = |value: &Value| -> Vec<String> {
        match value {
            Value::String(text) => vec![text.clone()],
            Value::Array(texts) => texts
                .iter()
                .filter_map(|text| Some(text.as_str()?.to_owned()))
                .collect(),
            _ => Vec::new(),
        }
    };
    let allows = |action: &str| {
        statements
            .iter()
            .any(|statement| texts(&statement["Action"]).iter().any(|a| a == action))
    };
    let prefix = statements
        .iter()
        .flat_map(|statement| texts(&statement["Resource"]))
        .find_map(|resource| {
            let path = resource.split(":::").nth(1)?;
            let (_, below) = path.split_once('/')?;
            Some(below.trim_end_matches('*').to_owned())
        });
    let rights = match (allows("s3:PutObject"), allows("s3:DeleteObject")) {
        (true, true) => Rights::All,
        (true, false) => Rights::NoDelete,
        (false, _) => Rights::ReadOnly,
    };
    Ok((prefix.filter(|prefix| !prefix.is_empty()), rights))
}

/// A form's fields, decoded.
fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(body);
    let plain = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text)
            .decode_utf8_lossy()
            .into_owned()
    };
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (plain(name), plain(value)))
        .collect()
}

fn answer(action: &str, given: &AccessKey) -> String {
    let mut ends = Vec::new();
    let expires = s3s::dto::Timestamp::from(given.expires.unwrap_or(SystemTime::UNIX_EPOCH));
    // Writing to memory; a time that cannot be written would be seen by every client.
    let _ = expires.format(s3s::dto::TimestampFormat::DateTime, &mut ends);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
         <AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken>\
         <Expiration>{}</Expiration></Credentials></{action}Result></{action}Response>",
        given.access_key,
        given.secret_key,
        given.session_token.as_deref().unwrap_or_default(),
        String::from_utf8_lossy(&ends),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_do_what_both_the_policy_and_who_asked_may() {
        let policy = |action: &str| {
            format!(
                r#"{{"Statement": [{{"Action": ["s3:PutObject", "{action}"], "Resource": ["arn:aws:s3:::runs/a/b/*"]}}]}}"#
            )
        };
        let now = SystemTime::UNIX_EPOCH;
        let check = |by: &AccessKey, policy: Option<String>, prefix: Option<&str>, rights| {
            let form = policy
                .into_iter()
                .map(|policy| ("Policy".to_owned(), policy))
                .collect();
            let given = give(by, &form, None, now).unwrap();
            assert_eq!((given.prefix.as_deref(), given.rights), (prefix, rights));
            assert_eq!(given.expires, Some(now + Duration::from_secs(3600)));
        };
        let all = AccessKey::new("AK", "SK");
        let read_only = AccessKey {
            rights: Rights::ReadOnly,
            ..all.clone()
        };
        check(&all, None, None, Rights::All);
        check(
            &all,
            Some(policy("s3:DeleteObject")),
            Some("a/b/"),
            Rights::All,
        );
        check(
            &all,
            Some(policy("s3:GetObject")),
            Some("a/b/"),
            Rights::NoDelete,
        );
        check(
            &read_only,
            Some(policy("s3:DeleteObject")),
            Some("a/b/"),
            Rights::ReadOnly,
        );
        let bad = BTreeMap::from([("Policy".to_owned(), "{".to_owned())]);
        assert!(give(&all, &bad, None, now).is_err());
    }

    #[test]
    fn a_life_is_cut_to_what_is_given_at_most() {
        let form = BTreeMap::from([("DurationSeconds".to_owned(), "900".to_owned())]);
        let now = SystemTime::UNIX_EPOCH;
        let life = |longest| {
            let given = give(&AccessKey::new("AK", "SK"), &form, longest, now).unwrap();
            given
                .expires
                .unwrap()
                .duration_since(now)
                .unwrap()
                .as_secs()
        };
        assert_eq!(life(None), 900);
        assert_eq!(life(Some(Duration::from_secs(20))), 20);
    }
}
