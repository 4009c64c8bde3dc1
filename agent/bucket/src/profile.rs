//! Servers that we know by their host: how they are addressed, which region signs, how hard they may be pushed (pure).
//!
//! A guess to begin with. What a server really checks is found out by the probe ([`crate::s3::probe`]), and only that is relied on.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::target::DEFAULT_REGION;

/// Where the bucket's name stands in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// As the server is known to want it; path style for servers that nobody knows.
    #[default]
    Auto,
    /// `https://host/bucket/key`.
    Path,
    /// `https://bucket.host/key`.
    Virtual,
}

impl std::str::FromStr for Style {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "path" => Ok(Self::Path),
            "virtual" => Ok(Self::Virtual),
            _ => Err(()),
        }
    }
}

impl Style {
    /// The word for it; empty for [`Style::Auto`].
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "",
            Self::Path => "path",
            Self::Virtual => "virtual",
        }
    }
}

/// What is known of a server before it was asked anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Whose it is, for people.
    pub name: &'static str,
    /// Path or virtual-host style.
    pub style: Style,
    /// Region for signing when none is named.
    pub region: String,
    /// Parts in flight at first; more follow as long as the server takes them gladly.
    pub parallel: u8,
}

/// Where a server's region comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Region {
    /// It has one name for all.
    Named(&'static str),
    /// It is the label of the host before the suffix, as in `s3.eu-west-1.amazonaws.com`.
    InHost,
}

/// Parts in flight at first: four fill a gigabit at 200 ms.
const PARALLEL: u8 = 4;

/// Ends of hosts, the longer before the shorter.
const KNOWN: [(&str, &str, Style, Region, u8); 14] = [
    (
        "amazonaws.com",
        "AWS",
        Style::Virtual,
        Region::InHost,
        PARALLEL,
    ),
    (
        "amazonaws.com.cn",
        "AWS",
        Style::Virtual,
        Region::InHost,
        PARALLEL,
    ),
    // It slows down who sends more than two or three parts at once.
    (
        "r2.cloudflarestorage.com",
        "Cloudflare R2",
        Style::Path,
        Region::Named("auto"),
        2,
    ),
    (
        "backblazeb2.com",
        "Backblaze B2",
        Style::Path,
        Region::InHost,
        PARALLEL,
    ),
    // By its XML interface, with HMAC keys.
    (
        "storage.googleapis.com",
        "Google Cloud Storage",
        Style::Path,
        Region::Named("auto"),
        PARALLEL,
    ),
    (
        "play.min.io",
        "MinIO",
        Style::Path,
        Region::Named(DEFAULT_REGION),
        PARALLEL,
    ),
    (
        "wasabisys.com",
        "Wasabi",
        Style::Path,
        Region::InHost,
        PARALLEL,
    ),
    (
        "digitaloceanspaces.com",
        "DigitalOcean Spaces",
        Style::Path,
        Region::InHost,
        PARALLEL,
    ),
    (
        "your-objectstorage.com",
        "Hetzner",
        Style::Path,
        Region::InHost,
        PARALLEL,
    ),
    (
        "scw.cloud",
        "Scaleway",
        Style::Path,
        Region::InHost,
        PARALLEL,
    ),
    (
        "linodeobjects.com",
        "Linode",
        Style::Path,
        Region::InHost,
        PARALLEL,
    ),
    // New buckets there are only found by their own host.
    (
        "storage.dev",
        "Tigris",
        Style::Virtual,
        Region::Named("auto"),
        PARALLEL,
    ),
    (
        "storage.tigris.dev",
        "Tigris",
        Style::Virtual,
        Region::Named("auto"),
        PARALLEL,
    ),
    (
        "cwobject.com",
        "CoreWeave",
        Style::Virtual,
        Region::Named(DEFAULT_REGION),
        PARALLEL,
    ),
];

/// Whose line is measured by what flows to and from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// A service that many use at once: whoever is slow there has a slow line of his own.
    Service,
    /// Somebody's own server, which may be the slower end.
    Own,
    /// A server in this very machine or in its private network: nothing is told of the line to the world.
    Near,
}

/// Ends of names that only a private network knows.
const PRIVATE: [&str; 6] = [
    ".localhost",
    ".local",
    ".lan",
    ".lab",
    ".internal",
    ".home.arpa",
];

/// Whose the server at an endpoint is; `None`: AWS itself.
pub fn whose(endpoint: Option<&str>) -> Whose {
    let Some(endpoint) = endpoint else {
        return Whose::Service;
    };
    let host = host_of(endpoint);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_near = match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        Ok(IpAddr::V6(v6)) => {
            v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()
        }
        Err(_) => !bare.contains('.') || PRIVATE.iter().any(|end| bare.ends_with(end)),
    };
    match is_near {
        true => Whose::Near,
        false if is_known(&host) => Whose::Service,
        false => Whose::Own,
    }
}

/// What is known of the server at an endpoint; `None`: AWS itself.
pub fn of(endpoint: Option<&str>) -> Profile {
    of_host(&endpoint.map_or_else(|| "s3.amazonaws.com".to_owned(), host_of))
}

/// The host of an endpoint, in small letters.
fn host_of(endpoint: &str) -> String {
    let rest = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.to_ascii_lowercase()
}

fn is_known(host: &str) -> bool {
    let mut ends = KNOWN.iter().map(|(suffix, ..)| *suffix);
    ends.any(|suffix| {
        let before = host.strip_suffix(suffix);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

fn of_host(host: &str) -> Profile {
    for (suffix, name, style, region, parallel) in KNOWN {
        let Some(before) = host.strip_suffix(suffix) else {
            continue;
        };
        if !(before.is_empty() || before.ends_with('.')) {
            continue;
        }
        let label = before
            .trim_end_matches('.')
            .rsplit('.')
            .next()
            .unwrap_or_default();
        let region = match region {
            Region::Named(region) => region,
            // `s3.amazonaws.com` and `s3.wasabisys.com` are the first region of each.
            Region::InHost if matches!(label, "" | "s3" | "s3-accelerate") => DEFAULT_REGION,
            Region::InHost => label,
        };
        return Profile {
            name,
            style,
            region: region.to_owned(),
            parallel,
        };
    }
    Profile {
        name: "S3-compatible server",
        style: Style::Path,
        region: DEFAULT_REGION.to_owned(),
        parallel: PARALLEL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_proves_whose_line_is_slow() {
        assert_eq!(whose(None), Whose::Service);
        for (endpoint, expected) in [
            ("https://s3.eu-west-1.amazonaws.com/", Whose::Service),
            ("https://0123abcd.r2.cloudflarestorage.com", Whose::Service),
            ("https://minio.example.org:9000", Whose::Own),
            ("http://203.0.113.7:9000", Whose::Own),
            ("https://evilamazonaws.com", Whose::Own),
            ("http://127.0.0.1:9000", Whose::Near),
            ("http://[::1]:9000", Whose::Near),
            ("http://10.1.2.3:9000", Whose::Near),
            ("http://192.168.0.4", Whose::Near),
            ("http://localhost:9000", Whose::Near),
            ("http://runs.localhost:9000", Whose::Near),
            ("http://minio:9000", Whose::Near),
            ("https://minio.lab", Whose::Near),
        ] {
            assert_eq!(whose(Some(endpoint)), expected, "{endpoint}");
        }
    }

    #[test]
    fn servers_are_known_by_the_end_of_their_host() {
        fn check(endpoint: Option<&str>, name: &str, style: Style, region: &str, parallel: u8) {
            let profile = of(endpoint);
            assert_eq!(
                (
                    profile.name,
                    profile.style,
                    profile.region.as_str(),
                    profile.parallel
                ),
                (name, style, region, parallel),
                "{endpoint:?}"
            );
        }
        let other = "S3-compatible server";
        check(None, "AWS", Style::Virtual, "us-east-1", 4);
        check(
            Some("https://s3.amazonaws.com"),
            "AWS",
            Style::Virtual,
            "us-east-1",
            4,
        );
        check(
            Some("https://s3.eu-west-1.amazonaws.com/"),
            "AWS",
            Style::Virtual,
            "eu-west-1",
            4,
        );
        check(
            Some("https://s3.dualstack.eu-west-1.amazonaws.com"),
            "AWS",
            Style::Virtual,
            "eu-west-1",
            4,
        );
        check(
            Some("https://s3.cn-north-1.amazonaws.com.cn"),
            "AWS",
            Style::Virtual,
            "cn-north-1",
            4,
        );
        check(
            Some("https://0123abcd.eu.r2.cloudflarestorage.com"),
            "Cloudflare R2",
            Style::Path,
            "auto",
            2,
        );
        check(
            Some("https://S3.us-west-004.backblazeb2.com"),
            "Backblaze B2",
            Style::Path,
            "us-west-004",
            4,
        );
        check(
            Some("https://storage.googleapis.com"),
            "Google Cloud Storage",
            Style::Path,
            "auto",
            4,
        );
        check(
            Some("https://s3.wasabisys.com"),
            "Wasabi",
            Style::Path,
            "us-east-1",
            4,
        );
        check(
            Some("https://nyc3.digitaloceanspaces.com"),
            "DigitalOcean Spaces",
            Style::Path,
            "nyc3",
            4,
        );
        check(
            Some("https://t3.storage.dev"),
            "Tigris",
            Style::Virtual,
            "auto",
            4,
        );
        check(
            Some("https://play.min.io:9000/"),
            "MinIO",
            Style::Path,
            "us-east-1",
            4,
        );
        check(
            Some("http://127.0.0.1:9000"),
            other,
            Style::Path,
            "us-east-1",
            4,
        );
        check(
            Some("http://[::1]:9000/s3"),
            other,
            Style::Path,
            "us-east-1",
            4,
        );
        check(
            Some("https://minio.lab"),
            other,
            Style::Path,
            "us-east-1",
            4,
        );
        check(
            Some("https://notamazonaws.com"),
            other,
            Style::Path,
            "us-east-1",
            4,
        );
        check(
            Some("https://amazonaws.com.evil.example"),
            other,
            Style::Path,
            "us-east-1",
            4,
        );
    }
}
