//! A server whose certificate only its owner's authority vouches for, as many a MinIO in a cellar has.

use std::process::Command;

use bytes::Bytes;
use spotter_bucket::{Bucket, S3Options};

use crate::{fleet, others::Certified};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_an_authority_of_its_own_is_reached_with_it_and_not_without() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certified = Certified::new();
    let Some(server) = fleet::with_certificate(&certified) else {
        return;
    };
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let bucket = server.client_with(S3Options {
        tries: 1,
        ..S3Options::default()
    });
    let body = Bytes::from_static(b"hello");
    let err = bucket.put("k", body.clone()).await.unwrap_err();
    assert!(err.message.contains("UnknownIssuer"), "{err}");
    bucket.trust(certified.authority.as_bytes()).unwrap();
    bucket.put("k", body.clone()).await.unwrap();
    assert_eq!(bucket.get("k", None).await.unwrap(), body);
    let another = Certified::new().authority;
    bucket.trust(another.as_bytes()).unwrap();
    let err = bucket.get("k", None).await.unwrap_err();
    assert!(err.message.contains("certificate"), "another one's: {err}");
}

/// A rented box may hold no certificate at all.
#[test]
fn so_it_is_where_there_is_not_one_certificate() {
    let empty = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", empty.path())
        .args([
            "--exact",
            "trust::a_server_with_an_authority_of_its_own_is_reached_with_it_and_not_without",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}
