//! URLs of a bucket and its objects (pure): path style for endpoints of one's own, virtual hosts for AWS.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{layout::MAX_KEY_BYTES, target::Target};

/// What S3 leaves as it is when it encodes a URI.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// URL of the bucket without a trailing slash.
pub fn bucket_url(target: &Target) -> String {
    let Target {
        bucket,
        endpoint,
        region,
        ..
    } = target;
    if let Some(endpoint) = endpoint {
        return format!("{}/{bucket}", endpoint.trim_end_matches('/'));
    }
    let domain = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    if bucket.contains('.') {
        // A name with dots does not match the wildcard certificate.
        format!("https://s3.{region}.{domain}/{bucket}")
    } else {
        format!("https://{bucket}.s3.{region}.{domain}")
    }
}

/// Full URL of an object (`None`: of the bucket itself) with a query.
pub fn url(bucket_url: &str, key: Option<&str>, query: &[(&str, &str)]) -> String {
    let mut url = format!("{bucket_url}/");
    url.extend(utf8_percent_encode(key.unwrap_or_default(), ENCODED_PATH));
    for (at, (name, value)) in query.iter().enumerate() {
        url.push(if at == 0 { '?' } else { '&' });
        url.push_str(name);
        // `?uploads` is signed and understood as `?uploads=`; not every server takes the short form.
        url.push('=');
        url.extend(utf8_percent_encode(value, ENCODED));
    }
    url
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
