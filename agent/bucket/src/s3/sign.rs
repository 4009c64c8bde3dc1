//! Signing a request with AWS Signature Version 4 in its headers (pure: the time is an argument).
//!
//! The whole payload's SHA-256 is signed, the one mode that every server takes; never chunked, never a trailer.

use std::time::SystemTime;

use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4::SigningParams,
};

use crate::credentials::Credentials;

/// What of a request is signed. `url` is encoded already, exactly as it will be sent.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Full URL with query.
    pub url: &'a str,
    /// Headers to be sent and signed, besides those that signing adds.
    pub headers: &'a [(&'static str, String)],
    /// SHA-256 of the payload, lower-case hex.
    pub payload_sha256: &'a str,
}

/// SHA-256 of nothing, hex: the payload of a GET.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A header that signing adds.
pub struct SignedHeader {
    /// Lower-case name.
    pub name: &'static str,
    /// Value.
    pub value: String,
    /// Whether it holds a session token or a signature.
    pub sensitive: bool,
}

/// Why a request could not be signed; never says with what.
#[derive(Debug, thiserror::Error)]
#[error("request cannot be signed: {0}")]
pub struct SignError(String);

impl SignError {
    pub(super) fn new(why: &dyn std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// Headers that make `request` one of `credentials`, valid around `time`: date, payload hash, token and authorization.
pub fn signed_headers(
    request: &Unsigned<'_>,
    credentials: &Credentials,
    region: &str,
    time: SystemTime,
) -> Result<Vec<SignedHeader>, SignError> {
    let identity = aws_credential_types::Credentials::new(
        credentials.access_key_id.as_str(),
        credentials.secret_access_key.as_str(),
        credentials.session_token.clone(),
        None,
        "spotter",
    )
    .into();
    let mut settings = SigningSettings::default();
    // S3 signs the path as it is sent; every other service would encode and normalise it a second time.
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(time)
        .settings(settings)
        .build()
        .map_err(|err| SignError(err.to_string()))?
        .into();
    let headers = request
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    let body = SignableBody::Precomputed(request.payload_sha256.to_owned());
    let signable = SignableRequest::new(request.method, request.url, headers, body)
        .map_err(|err| SignError(err.to_string()))?;
    let (instructions, _) = sign(signable, &params)
        .map_err(|err| SignError(err.to_string()))?
        .into_parts();
    let (headers, _) = instructions.into_parts();
    Ok(headers
        .into_iter()
        .map(|header| SignedHeader {
            name: header.name(),
            value: header.value().to_owned(),
            sensitive: header.sensitive(),
        })
        .collect())
}

/// SHA-256 of a payload, lower-case hex.
pub fn payload_sha256(body: &[u8]) -> String {
    if body.is_empty() {
        return EMPTY_SHA256.to_owned();
    }
    hex::encode(ring::digest::digest(&ring::digest::SHA256, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example requests of the S3 documentation of Signature Version 4, with the keys and the day it uses.
    fn check(
        method: &str,
        path: &str,
        headers: &[(&'static str, String)],
        body: &[u8],
        signature: &str,
    ) {
        let credentials = Credentials {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            expires_us: None,
        };
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_369_353_600);
        let sha256 = payload_sha256(body);
        let url = format!("https://examplebucket.s3.amazonaws.com{path}");
        let request = Unsigned {
            method,
            url: &url,
            headers,
            payload_sha256: &sha256,
        };
        let signed = signed_headers(&request, &credentials, "us-east-1", time).unwrap();
        let value = |name: &str| {
            signed
                .iter()
                .find(|header| header.name == name)
                .map(|header| header.value.as_str())
        };
        assert_eq!(value("x-amz-date"), Some("20130524T000000Z"));
        assert_eq!(value("x-amz-content-sha256"), Some(sha256.as_str()));
        let authorization = value("authorization").unwrap();
        assert!(
            authorization.ends_with(&format!("Signature={signature}")),
            "{path}: {authorization}"
        );
    }

    #[test]
    fn the_documented_examples_are_signed_as_documented() {
        check(
            "GET",
            "/test.txt",
            &[("range", "bytes=0-9".to_owned())],
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        );
        check(
            "PUT",
            "/test%24file.text",
            &[
                ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned()),
            ],
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        );
        check(
            "GET",
            "/?lifecycle",
            &[],
            b"",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        );
        check(
            "GET",
            "/?max-keys=2&prefix=J",
            &[],
            b"",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        );
    }

    #[test]
    fn a_session_token_is_sent_and_marked_sensitive() {
        let credentials = Credentials {
            access_key_id: "AK".to_owned(),
            secret_access_key: "SK".to_owned(),
            session_token: Some("TOKEN".to_owned()),
            expires_us: None,
        };
        let request = Unsigned {
            method: "GET",
            url: "http://127.0.0.1:9000/b/k",
            headers: &[],
            payload_sha256: EMPTY_SHA256,
        };
        let signed =
            signed_headers(&request, &credentials, "us-east-1", SystemTime::UNIX_EPOCH).unwrap();
        let token = signed
            .iter()
            .find(|header| header.name == "x-amz-security-token")
            .unwrap();
        assert!(token.sensitive && token.value == "TOKEN");
        let authorization = signed
            .iter()
            .find(|header| header.name == "authorization")
            .unwrap();
        assert!(
            authorization.value.contains("x-amz-security-token"),
            "the token is signed too"
        );
    }

    #[test]
    fn the_hash_of_nothing_is_the_constant() {
        assert_eq!(
            hex::encode(ring::digest::digest(&ring::digest::SHA256, b"")),
            EMPTY_SHA256
        );
    }
}
