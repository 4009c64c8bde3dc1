//! The HTTP client, and whom it trusts: this machine's authorities, or those that came with the program and a file of the user's.
//!
//! A rented box may have no certificate at all, or somebody else's: with a file of the user's its own store is not asked.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use reqwest::{Certificate, Client, ClientBuilder, redirect};

use crate::roots::compiled_in;

/// End of the names that are this machine by definition (RFC 6761, 6.3).
const BELOW_THIS_MACHINE: &str = ".localhost";

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootsError {
    /// The TLS library or the certificates.
    #[error("no TLS client can be made")]
    Client(#[source] reqwest::Error),
    /// A file without any.
    #[error("there is no certificate in the file of certificates")]
    Empty,
    /// A file with something else.
    #[error("the file of certificates cannot be read")]
    Pem(#[source] reqwest::Error),
}

/// A client for a bucket's URL.
pub(super) fn client(
    url: &str,
    connect_timeout: Duration,
    pem: Option<&[u8]>,
) -> Result<Client, RootsError> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing a race against another thread leaves the same provider in place.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = || {
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("spotter/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout)
            // Below the idle time of the usual load balancers: a request never meets a connection that is being closed.
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_nodelay(true);
        if !is_loopback(url) {
            return builder;
        }
        // A proxy of the environment has no way to this machine's own loopback; and names below `localhost`, as a bucket has them
        // whose name stands in the host's, are this machine, though few resolvers say so.
        let here = [
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        ];
        let host = host_of(url);
        let builder = builder.no_proxy();
        if host.ends_with(BELOW_THIS_MACHINE) {
            builder.resolve_to_addrs(&host, &here)
        } else {
            builder
        }
    };
    if let Some(pem) = pem {
        let ours = Certificate::from_pem_bundle(pem).map_err(RootsError::Pem)?;
        if ours.is_empty() {
            return Err(RootsError::Empty);
        }
        return with_roots(builder(), ours);
    }
    // Without one system certificate no client can be made, not even for http: bare containers have none.
    builder()
        .build()
        .or_else(|_| with_roots(builder(), Vec::new()))
}

/// Trusts what came with the program, and these.
fn with_roots(builder: ClientBuilder, ours: Vec<Certificate>) -> Result<Client, RootsError> {
    let roots = compiled_in()
        .iter()
        .map(|root| Certificate::from_der(root))
        .collect::<Result<Vec<_>, _>>()
        .map_err(RootsError::Client)?;
    builder
        .tls_certs_only(roots.into_iter().chain(ours))
        .build()
        .map_err(RootsError::Client)
}

/// Whether a URL leads to this very machine.
pub(super) fn is_loopback(url: &str) -> bool {
    let host = host_of(url);
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    host == "localhost"
        || host.ends_with(BELOW_THIS_MACHINE)
        || address.is_ok_and(|address| address.is_loopback())
}

fn host_of(url: &str) -> String {
    reqwest::Url::parse(url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_certificates_must_hold_some() {
        let made = |pem: &[u8]| client("https://minio.lab", Duration::from_secs(1), Some(pem));
        assert!(matches!(made(b""), Err(RootsError::Empty)));
        assert!(matches!(made(b"hello"), Err(RootsError::Empty)));
        let broken = b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n";
        assert!(matches!(made(broken), Err(RootsError::Pem(_))));
    }

    #[test]
    fn only_this_machine_is_this_machine() {
        for url in [
            "http://127.0.0.1:9000/b",
            "http://localhost/b",
            "https://[::1]:1/b",
            "http://runs.localhost:9000",
        ] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://10.0.0.1/b",
            "http://localhost.evil.example/b",
            "http://evillocalhost/b",
            "nonsense",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
