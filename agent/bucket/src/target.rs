//! Where checkpoints go: `s3://bucket/prefix`, an endpoint and a region.

use serde::{Deserialize, Serialize};

use crate::{
    layout,
    profile::{self, Style},
};

/// Region for signing when none is named: what S3-compatible servers accept, and where AWS redirects from.
pub const DEFAULT_REGION: &str = "us-east-1";

/// A bucket and a prefix on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Bucket name.
    pub bucket: String,
    /// Prefix without leading or trailing slash; may be empty.
    pub prefix: String,
    /// Endpoint URL of an S3-compatible server, such as `http://127.0.0.1:9000`; `None`: AWS.
    pub endpoint: Option<String>,
    /// Region for signing.
    pub region: String,
    /// Where the bucket's name stands in URLs.
    #[serde(default)]
    pub style: Style,
}

/// Why a text names no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not an `s3://` URL.
    #[error("{0:?} is not a bucket: it must look like s3://bucket/prefix")]
    Scheme(String),
    /// A bucket name that S3 would refuse.
    #[error(
        "bucket name {0:?} is not usable: 3 to 63 lower-case letters, digits, `.` and `-`, beginning and ending with a letter or digit"
    )]
    Bucket(String),
    /// A prefix that cannot be part of a key.
    #[error("prefix {prefix:?} is not usable")]
    Prefix {
        /// The prefix.
        prefix: String,
        /// What is wrong with it.
        #[source]
        source: layout::NameError,
    },
    /// An endpoint that is no plain http or https URL.
    #[error("endpoint {url:?} is not usable: {reason}")]
    Endpoint {
        /// The URL, without any password in it.
        url: String,
        /// What is wrong with it, and how it should look.
        reason: String,
    },
    /// A region that cannot be part of a host name.
    #[error("region {0:?} is not usable: letters, digits and `-` only")]
    Region(String),
}

impl Target {
    /// Reads `s3://bucket/prefix` with an endpoint (`None` or empty: AWS) and a region (`None` or empty: the one that the endpoint's
    /// name tells, else [`DEFAULT_REGION`]).
    pub fn parse(
        url: &str,
        endpoint: Option<&str>,
        region: Option<&str>,
    ) -> Result<Self, TargetError> {
        let rest = url
            .strip_prefix("s3://")
            .ok_or_else(|| TargetError::Scheme(url.chars().take(200).collect()))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        check_bucket(bucket)?;
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty() {
            layout::check_path(prefix).map_err(|source| TargetError::Prefix {
                prefix: prefix.chars().take(200).collect(),
                source,
            })?;
        }
        let endpoint = endpoint
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(check_endpoint)
            .transpose()?;
        let known = profile::of(endpoint.as_deref());
        let region = region
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .unwrap_or(&known.region);
        if region.len() > 64
            || !region
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err(TargetError::Region(region.chars().take(200).collect()));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint,
            region: region.to_owned(),
            style: Style::Auto,
        })
    }

    /// The same, addressed in this style.
    pub fn with_style(self, style: Style) -> Self {
        Self { style, ..self }
    }

    /// As it was written: `s3://bucket/prefix`.
    pub fn url(&self) -> String {
        if self.prefix.is_empty() {
            format!("s3://{}", self.bucket)
        } else {
            format!("s3://{}/{}", self.bucket, self.prefix)
        }
    }
}

fn check_bucket(bucket: &str) -> Result<(), TargetError> {
    let ends = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let bytes = bucket.as_bytes();
    let inside = bytes.iter().all(|byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-')
    });
    if !(3..=63).contains(&bytes.len())
        || !ends(bytes.first())
        || !ends(bytes.last())
        || !inside
        || bucket.contains("..")
    {
        return Err(TargetError::Bucket(bucket.chars().take(200).collect()));
    }
    Ok(())
}

/// An endpoint without trailing slashes. Whatever it may hold of a password is refused, and not repeated in the error.
fn check_endpoint(text: &str) -> Result<String, TargetError> {
    let refuse = |shown: &str, reason: &str| {
        Err(TargetError::Endpoint {
            url: shown.chars().take(200).collect(),
            reason: reason.to_owned(),
        })
    };
    let harmless = if text.contains('@') { "" } else { text };
    if !text.contains("://") {
        return match harmless {
            "" => refuse(
                "",
                "it must begin with http:// or https://, and keys do not belong into it",
            ),
            text => refuse(
                text,
                &format!(
                    "it must begin with http:// or https://, as in {}",
                    likely(text)
                ),
            ),
        };
    }
    let Ok(url) = reqwest::Url::parse(text) else {
        return refuse(harmless, "it is not a URL");
    };
    let shown = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    if !matches!(url.scheme(), "http" | "https") {
        return refuse(&shown, "it must begin with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(&shown, "keys do not belong into it");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse(&shown, "it must end after the path");
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// What an endpoint without a scheme is meant to be: what has no name has no certificate either.
fn likely(text: &str) -> String {
    let rest = text.trim_start_matches("http").trim_start_matches("s:");
    let rest = rest.trim_start_matches([':', '/']);
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let unnamed = name == "localhost" || !name.contains(|c: char| c.is_ascii_alphabetic());
    match port {
        "80" => format!("http://{rest}"),
        "443" => format!("https://{rest}"),
        _ if unnamed => format!("http://{rest}"),
        _ => format!("https://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_scheme_is_told_what_it_would_be() {
        let check = |endpoint: &str, expected: &str| {
            let err = Target::parse("s3://runs", Some(endpoint), None).unwrap_err();
            assert_eq!(err.to_string(), expected, "{endpoint}");
        };
        for (endpoint, meant) in [
            ("minio.lab:9000", "https://minio.lab:9000"),
            ("minio.lab:80/s3", "http://minio.lab:80/s3"),
            ("127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("10.0.0.7", "http://10.0.0.7"),
            ("10.0.0.7:443", "https://10.0.0.7:443"),
            ("localhost:9000", "http://localhost:9000"),
            ("//host", "https://host"),
            ("https:host", "https://host"),
            ("http:/host", "https://host"),
        ] {
            check(
                endpoint,
                &format!(
                    "endpoint {endpoint:?} is not usable: it must begin with http:// or https://, as in {meant}"
                ),
            );
        }
        check(
            "id:secret@host",
            "endpoint \"\" is not usable: it must begin with http:// or https://, and keys do not belong into it",
        );
        check(
            "s3://runs",
            "endpoint \"s3://runs\" is not usable: it must begin with http:// or https://",
        );
        check(
            "https://",
            "endpoint \"https://\" is not usable: it is not a URL",
        );
    }

    #[test]
    fn a_url_becomes_bucket_and_prefix() {
        fn check(url: &str, bucket: &str, prefix: &str) {
            let target = Target::parse(url, None, None).unwrap();
            assert_eq!(
                (target.bucket.as_str(), target.prefix.as_str()),
                (bucket, prefix),
                "{url}"
            );
            assert_eq!(
                (target.endpoint, target.region.as_str()),
                (None, "us-east-1")
            );
        }
        check("s3://runs", "runs", "");
        check("s3://runs/", "runs", "");
        check("s3://my.runs-1/team/a/", "my.runs-1", "team/a");
        check("s3://runs/a b/ö", "runs", "a b/ö");
    }

    #[test]
    fn endpoint_and_region_are_taken_over_without_a_trailing_slash() {
        let target = Target::parse(
            "s3://runs/p",
            Some("http://127.0.0.1:9000/"),
            Some("eu-central-1"),
        )
        .unwrap();
        assert_eq!(target.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(target.region, "eu-central-1");
        assert_eq!(target.url(), "s3://runs/p");
        let known = Target::parse(
            "s3://runs",
            Some("https://s3.us-west-004.backblazeb2.com"),
            None,
        );
        assert_eq!(known.unwrap().region, "us-west-004");
        assert_eq!(
            Target::parse("s3://runs", Some(""), Some(" "))
                .unwrap()
                .endpoint,
            None
        );
    }

    #[test]
    fn what_is_no_target_is_refused() {
        fn check(url: &str, endpoint: Option<&str>, region: Option<&str>) {
            assert!(
                Target::parse(url, endpoint, region).is_err(),
                "{url} {endpoint:?} {region:?}"
            );
        }
        for url in [
            "",
            "runs",
            "gs://runs",
            "s3://",
            "s3:///p",
            "s3://Runs",
            "s3://ab",
            "s3://a..b",
            "s3://-abc",
            "s3://a_b",
            "s3://runs/a/../b",
            "s3://runs/a//b",
        ] {
            check(url, None, None);
        }
        check("s3://runs", Some("127.0.0.1:9000"), None);
        check("s3://runs", Some("ftp://host"), None);
        check("s3://runs", Some("http://host/?a=b"), None);
        check("s3://runs", None, Some("eu/west"));
        check("s3://runs", None, Some("eu-west-1\r\nx: y"));
    }

    #[test]
    fn a_password_in_an_endpoint_is_refused_and_not_repeated() {
        let err = Target::parse("s3://runs", Some("http://user:hunter2@host"), None).unwrap_err();
        assert!(!err.to_string().contains("hunter2"), "{err}");
    }
}
