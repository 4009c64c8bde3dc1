//! Keys that end, from a Security Token Service: AWS's own, or the one that MinIO and servers like it have at their endpoint.
//!
//! A session policy given with the request narrows what the keys may do; they may never do more than who asked.

use std::time::SystemTime;

use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4::SigningParams,
};
use serde::Deserialize;
use spotter_bucket::Credentials;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::web::{self, microseconds};

/// Version of the interface.
const VERSION: &str = "2011-06-15";
/// Region for signing where none is named: the one that the global endpoint belongs to.
const DEFAULT_REGION: &str = "us-east-1";

/// A token service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    url: String,
    region: String,
    /// Certificates that it is trusted by besides the usual ones, PEM.
    authorities: String,
}

/// A role that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleWish {
    /// Its ARN. Servers without roles do not look at it.
    pub role: String,
    /// Name of the session, for the logs of the account.
    pub session: String,
    /// What a foreign account may demand.
    pub external_id: Option<String>,
    /// How long the keys shall last, seconds; `None`: an hour.
    pub duration_s: Option<u32>,
    /// What the keys may do at most, as a policy document.
    pub policy: Option<String>,
}

/// Why no keys were given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StsError {
    /// The service said no.
    #[error("{action}: {message} ({code})")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// HTTP status.
        status: u16,
        /// Its code, such as `AccessDenied`.
        code: String,
        /// Its words.
        message: String,
    },
    /// No usable answer came.
    #[error("{action}: no usable answer from {url}: {why}")]
    Unusable {
        /// What was asked.
        action: &'static str,
        /// Who was asked.
        url: String,
        /// What came instead.
        why: String,
    },
}

impl StsError {
    /// The service knows us and does not let us, or does not do this at all: asking again changes nothing.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status < 500 && *status != 429)
    }
}

#[derive(Deserialize)]
struct Given {
    #[serde(
        rename = "AssumeRoleResult",
        alias = "GetFederationTokenResult",
        alias = "AssumeRoleWithWebIdentityResult"
    )]
    result: GivenResult,
}

#[derive(Deserialize)]
struct GivenResult {
    #[serde(rename = "Credentials")]
    keys: GivenKeys,
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "PascalCase")]
struct GivenKeys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

/// `<ErrorResponse><Error>` of the service, or `<Error>` of a server that took it for a request on objects.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Said {
    #[serde(rename = "Error")]
    error: Option<SaidError>,
    #[serde(rename = "Code")]
    code: Option<String>,
    #[serde(rename = "Message")]
    message: Option<String>,
}

#[derive(Deserialize)]
struct SaidError {
    #[serde(rename = "Code", default)]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

impl Service {
    /// The service at `endpoint`; `None`: that of AWS in `region`.
    pub fn new(endpoint: Option<&str>, region: Option<&str>) -> Self {
        let region = region.unwrap_or(DEFAULT_REGION).to_owned();
        let url = match endpoint {
            Some(endpoint) => format!("{}/", endpoint.trim_end_matches('/')),
            None => {
                let china = if region.starts_with("cn-") { ".cn" } else { "" };
                format!("https://sts.{region}.amazonaws.com{china}/")
            }
        };
        Self {
            url,
            region,
            authorities: String::new(),
        }
    }

    /// The same, trusted by these certificates (PEM) besides those that everybody trusts.
    pub fn trusting(self, authorities: String) -> Self {
        Self {
            authorities,
            ..self
        }
    }

    /// Keys of a role.
    pub async fn assume_role(
        &self,
        wish: &RoleWish,
        by: &Credentials,
    ) -> Result<Credentials, StsError> {
        self.ask("AssumeRole", &role_parameters(wish), Some(by))
            .await
    }

    /// Keys of a role for whom another service vouches with `token`.
    pub async fn assume_role_with_web_identity(
        &self,
        wish: &RoleWish,
        token: &str,
    ) -> Result<Credentials, StsError> {
        let mut parameters = role_parameters(wish);
        parameters.push(("WebIdentityToken", token.to_owned()));
        self.ask("AssumeRoleWithWebIdentity", &parameters, None)
            .await
    }

    /// Keys that may do what both `policy` and the user whose long-lived keys ask for them allow.
    pub async fn federation_token(
        &self,
        name: &str,
        policy: &str,
        duration_s: u32,
        by: &Credentials,
    ) -> Result<Credentials, StsError> {
        let parameters = [
            ("Name", name.to_owned()),
            ("Policy", policy.to_owned()),
            ("DurationSeconds", duration_s.to_string()),
        ];
        self.ask("GetFederationToken", &parameters, Some(by)).await
    }

    async fn ask(
        &self,
        action: &'static str,
        parameters: &[(&str, String)],
        by: Option<&Credentials>,
    ) -> Result<Credentials, StsError> {
        let unusable = |why: String| StsError::Unusable {
            action,
            url: self.url.clone(),
            why,
        };
        let body = form(action, parameters);
        let client = web::client(&self.authorities).map_err(unusable)?;
        let mut request = client
            .post(&self.url)
            .header("content-type", CONTENT_TYPE)
            .body(body.to_vec());
        if let Some(by) = by {
            for (name, value) in self
                .signed(&body, by, SystemTime::now())
                .map_err(unusable)?
            {
                request = request.header(name, value);
            }
        }
        let answer = web::send(request).await.map_err(unusable)?;
        if answer.status != 200 {
            return Err(refusal(action, answer.status, &answer.body));
        }
        given(&answer.body).map_err(|why| unusable(why.to_owned()))
    }

    /// Headers that make a request one of `by`.
    fn signed(
        &self,
        body: &[u8],
        by: &Credentials,
        time: SystemTime,
    ) -> Result<Vec<(&'static str, reqwest::header::HeaderValue)>, String> {
        let identity = aws_credential_types::Credentials::new(
            by.access_key_id.as_str(),
            by.secret_access_key.as_str(),
            by.session_token.clone(),
            None,
            "spotter",
        )
        .into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("sts")
            .time(time)
            .settings(SigningSettings::default())
            .build()
            .map_err(|err| err.to_string())?
            .into();
        let headers = [("content-type", CONTENT_TYPE)];
        let signable = SignableRequest::new(
            "POST",
            &self.url,
            headers.into_iter(),
            SignableBody::Bytes(body),
        )
        .map_err(|err| err.to_string())?;
        let (instructions, _) = sign(signable, &params)
            .map_err(|err| err.to_string())?
            .into_parts();
        let (headers, _) = instructions.into_parts();
        let mut signed = Vec::new();
        for header in headers {
            let mut value = reqwest::header::HeaderValue::from_str(header.value())
                .map_err(|_| "the keys hold characters that HTTP does not allow".to_owned())?;
            value.set_sensitive(true);
            signed.push((header.name(), value));
        }
        Ok(signed)
    }
}

const CONTENT_TYPE: &str = "application/x-www-form-urlencoded";

fn role_parameters(wish: &RoleWish) -> Vec<(&'static str, String)> {
    let mut parameters = vec![
        ("RoleArn", wish.role.clone()),
        ("RoleSessionName", wish.session.clone()),
    ];
    parameters.extend(wish.external_id.clone().map(|id| ("ExternalId", id)));
    parameters.extend(
        wish.duration_s
            .map(|seconds| ("DurationSeconds", seconds.to_string())),
    );
    parameters.extend(wish.policy.clone().map(|policy| ("Policy", policy)));
    parameters
}

/// The request's body.
fn form(action: &str, parameters: &[(&str, String)]) -> Zeroizing<Vec<u8>> {
    let mut body = format!("Action={action}&Version={VERSION}");
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        let value =
            percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
        body.push_str(&format!("&{name}={value}"));
    }
    Zeroizing::new(body.into_bytes())
}

/// The keys in an answer (pure); the error repeats nothing of it.
fn given(body: &[u8]) -> Result<Credentials, &'static str> {
    let text = std::str::from_utf8(body).map_err(|_| "it is no text")?;
    let given: Given = quick_xml::de::from_str(text).map_err(|_| "it holds no keys")?;
    let keys = given.result.keys;
    Ok(Credentials {
        access_key_id: keys.access_key_id.clone(),
        secret_access_key: keys.secret_access_key.clone(),
        session_token: Some(keys.session_token.clone()),
        expires_us: Some(
            microseconds(&keys.expiration).ok_or("it does not say when the keys end")?,
        ),
    })
}

/// What a refusal says (pure).
fn refusal(action: &'static str, status: u16, body: &[u8]) -> StsError {
    let text = String::from_utf8_lossy(body);
    let said: Said = quick_xml::de::from_str(&text).unwrap_or_default();
    let (code, message) = match said.error {
        Some(error) => (error.code, error.message),
        None => (
            said.code.unwrap_or_default(),
            said.message.unwrap_or_default(),
        ),
    };
    let or = |words: String, other: String| match web::line(&words) {
        words if words.is_empty() => other,
        words => words,
    };
    StsError::Refused {
        action,
        status,
        code: or(code, format!("HTTP {status}")),
        message: or(message, "no reason was given".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only for what wipes itself.
    const fn is_wiped<T: ZeroizeOnDrop>() {}

    const _: () = {
        is_wiped::<GivenKeys>();
        is_wiped::<Credentials>();
    };

    #[test]
    fn keys_are_read_from_every_kind_of_answer() {
        for action in [
            "AssumeRole",
            "GetFederationToken",
            "AssumeRoleWithWebIdentity",
        ] {
            let answer = format!(
                "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
                 <PackedPolicySize>6</PackedPolicySize><Credentials><AccessKeyId>ID</AccessKeyId>\
                 <SecretAccessKey>hush</SecretAccessKey><SessionToken>tok/en==</SessionToken>\
                 <Expiration>2027-01-15T08:00:00Z</Expiration></Credentials></{action}Result>\
                 <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
            );
            let keys = given(answer.as_bytes()).unwrap();
            assert_eq!(keys.session_token.as_deref(), Some("tok/en=="));
            assert_eq!(keys.expires_us, Some(1_800_000_000_000_000));
        }
        assert!(given(b"<html>hush</html>").is_err());
        assert!(given(b"").is_err());
    }

    #[test]
    fn a_refusal_is_read_whoever_refuses() {
        let check = |status: u16, body: &str, code: &str, message: &str, refusal_for_good: bool| {
            let err = refusal("AssumeRole", status, body.as_bytes());
            assert_eq!(err.is_refusal(), refusal_for_good, "{err}");
            assert_eq!(err.to_string(), format!("AssumeRole: {message} ({code})"));
        };
        check(
            403,
            "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not\nyou</Message></Error>\
             <RequestId>1</RequestId></ErrorResponse>",
            "AccessDenied",
            "not you",
            true,
        );
        check(
            405,
            "<?xml version=\"1.0\"?><Error><Code>MethodNotAllowed</Code><Message>no</Message></Error>",
            "MethodNotAllowed",
            "no",
            true,
        );
        check(501, "gone", "HTTP 501", "no reason was given", false);
        check(429, "", "HTTP 429", "no reason was given", false);
    }

    #[test]
    fn requests_go_to_the_region_and_say_only_what_is_asked() {
        let url = |endpoint, region| Service::new(endpoint, region).url;
        assert_eq!(url(None, None), "https://sts.us-east-1.amazonaws.com/");
        assert_eq!(
            url(None, Some("cn-north-1")),
            "https://sts.cn-north-1.amazonaws.com.cn/"
        );
        assert_eq!(url(Some("http://minio:9000/"), None), "http://minio:9000/");
        let wish = RoleWish {
            role: "arn:aws:iam::1:role/a b".into(),
            session: "s".into(),
            external_id: None,
            duration_s: Some(900),
            policy: None,
        };
        let body = form("AssumeRole", &role_parameters(&wish));
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fa%20b&RoleSessionName=s&DurationSeconds=900"
        );
    }
}
