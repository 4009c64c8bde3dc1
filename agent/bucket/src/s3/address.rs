//! URLs of a bucket and its objects (pure): in path style or with the bucket in the host's name.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    layout::MAX_KEY_BYTES,
    profile::{self, Style},
    target::Target,
};

/// What S3 leaves as it is when it encodes a URI.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Whether a key stands in a URL as it is, letter by letter: then no server can read it in two ways.
pub fn is_plain(key: &str) -> bool {
    utf8_percent_encode(key, ENCODED_PATH).all(|piece| piece == key) || key.is_empty()
}

/// URL of the bucket without a trailing slash.
pub fn bucket_url(target: &Target) -> String {
    let Target { bucket, region, .. } = target;
    let domain = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    let endpoint = match &target.endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://s3.{region}.{domain}"),
    };
    match endpoint.split_once("://") {
        Some((scheme, rest)) if is_virtual(target, scheme, rest) => {
            format!("{scheme}://{bucket}.{rest}")
        }
        _ => format!("{endpoint}/{bucket}"),
    }
}

/// Whether the bucket's name goes into the host's: as the user says, else as the server is known to want it where that can work.
fn is_virtual(target: &Target, scheme: &str, rest: &str) -> bool {
    match target.style {
        Style::Path => false,
        Style::Virtual => true,
        Style::Auto => {
            let wanted = profile::of(target.endpoint.as_deref()).style == Style::Virtual;
            // A name with dots does not match a wildcard certificate, and an address has no names below it.
            let certified = scheme == "http" || !target.bucket.contains('.');
            let named = rest.contains(|c: char| c.is_ascii_alphabetic()) && !rest.starts_with('[');
            wanted && certified && named
        }
    }
}

/// Full URL of an object (`None`: of the bucket itself) with a query.
pub fn url(bucket_url: &str, key: Option<&str>, query: &[(&str, &str)]) -> String {
    let mut url = format!("{bucket_url}/");
    url.extend(utf8_percent_encode(key.unwrap_or_default(), ENCODED_PATH));
    if !query.is_empty() {
        url.push('?');
        url.push_str(&self::query(query));
    }
    url
}

/// A query, encoded.
pub fn query(query: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in query {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        // `?uploads` is signed and understood as `?uploads=`; not every server takes the short form.
        text.push('=');
        text.extend(utf8_percent_encode(value, ENCODED));
    }
    text
}

/// Why a key cannot be sent. Components `.` and `..` would be folded away on the road, and another object addressed.
pub fn check_key(key: &str) -> Result<(), &'static str> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err("a key has 1 to 1024 bytes");
    }
    if key.starts_with('/') {
        return Err("a key does not begin with a slash");
    }
    if key
        .split('/')
        .any(|component| matches!(component, "." | ".."))
    {
        return Err("a key has no component `.` or `..`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_is_one_that_nothing_is_encoded_of() {
        for (key, expected) in [
            ("", true),
            (
                "p/run/data/000000000007-01ARZ3NDEKTSV4RRFFQ69G5FAV/a-b_c~1.bin",
                true,
            ),
            ("p/a b", false),
            ("p/a+b", false),
            ("p/100%", false),
            ("ä/a", false),
        ] {
            assert_eq!(is_plain(key), expected, "{key}");
        }
    }

    #[test]
    fn aws_is_addressed_by_virtual_host_and_others_by_path() {
        fn check(url: &str, endpoint: Option<&str>, region: &str, expected: &str) {
            let target = Target::parse(url, endpoint, Some(region)).unwrap();
            assert_eq!(bucket_url(&target), expected);
        }
        check(
            "s3://runs/p",
            None,
            "us-east-1",
            "https://runs.s3.us-east-1.amazonaws.com",
        );
        check(
            "s3://my.runs",
            None,
            "eu-west-1",
            "https://s3.eu-west-1.amazonaws.com/my.runs",
        );
        check(
            "s3://runs",
            None,
            "cn-north-1",
            "https://runs.s3.cn-north-1.amazonaws.com.cn",
        );
        check(
            "s3://runs",
            Some("http://127.0.0.1:9000/"),
            "us-east-1",
            "http://127.0.0.1:9000/runs",
        );
        check(
            "s3://runs",
            Some("https://host/s3"),
            "auto",
            "https://host/s3/runs",
        );
        check(
            "s3://runs",
            Some("https://s3.eu-west-1.amazonaws.com"),
            "eu-west-1",
            "https://runs.s3.eu-west-1.amazonaws.com",
        );
        check(
            "s3://runs",
            Some("https://t3.storage.dev"),
            "auto",
            "https://runs.t3.storage.dev",
        );
        check(
            "s3://my.runs",
            Some("https://t3.storage.dev"),
            "auto",
            "https://t3.storage.dev/my.runs",
        );
    }

    #[test]
    fn the_user_decides_over_what_is_known() {
        fn check(endpoint: Option<&str>, style: Style, expected: &str) {
            let target = Target::parse("s3://runs", endpoint, None).unwrap();
            assert_eq!(bucket_url(&target.with_style(style)), expected);
        }
        check(None, Style::Path, "https://s3.us-east-1.amazonaws.com/runs");
        check(
            Some("https://minio.lab:9000"),
            Style::Virtual,
            "https://runs.minio.lab:9000",
        );
        check(
            Some("http://localhost:9000/s3"),
            Style::Virtual,
            "http://runs.localhost:9000/s3",
        );
    }

    #[test]
    fn keys_and_queries_are_encoded_once_and_survive_the_url_parser() {
        let text = url(
            "http://h:1/b",
            Some("a b/ö+%&=?#'(x)~"),
            &[("uploads", ""), ("prefix", "p/ +&")],
        );
        assert_eq!(
            text,
            "http://h:1/b/a%20b/%C3%B6%2B%25%26%3D%3F%23%27%28x%29~?uploads=&prefix=p%2F%20%2B%26"
        );
        assert_eq!(reqwest::Url::parse(&text).unwrap().as_str(), text);
        assert_eq!(
            url("http://h/b", None, &[("list-type", "2")]),
            "http://h/b/?list-type=2"
        );
    }

    #[test]
    fn keys_that_the_road_would_change_are_refused() {
        for key in ["a", "a/b", "a//b", "..a", " "] {
            assert!(check_key(key).is_ok(), "{key}");
        }
        for key in ["", "/a", ".", "..", "a/../b", "a/.", &"k".repeat(1025)] {
            assert!(check_key(key).is_err(), "{key}");
        }
    }
}
