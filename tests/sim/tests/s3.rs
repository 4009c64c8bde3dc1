//! Our client and our server against each other, over real sockets: the contract, every fault, and the client that everybody has.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

#[path = "s3/clients.rs"]
mod clients;
#[path = "s3/faults.rs"]
mod faults;
#[path = "s3/lacking.rs"]
mod lacking;
#[path = "s3/presigned.rs"]
mod presigned;
#[path = "s3/server.rs"]
mod server;
#[path = "../../skip.rs"]
mod skip;

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use spotter_bucket::{Credentials, S3Bucket, S3Options, Target, contract::bucket_contract};
use spotter_sim::s3::{self, AccessKey, S3Config, S3Handle, Switchboard};
use tempfile::TempDir;
use tokio::net::TcpListener;

pub(crate) const BUCKET: &str = "runs";
pub(crate) const ID: &str = "SIMACCESS";
pub(crate) const SECRET: &str = "sim-secret-key";

/// A server with one bucket and one key, and the keys that clients use.
pub(crate) struct Server {
    pub handle: S3Handle,
    pub dir: TempDir,
    pub keys: Arc<Mutex<Option<Credentials>>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        // Another test of this process may have done it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = S3Config {
            buckets: vec![BUCKET.into()],
            keys: vec![AccessKey::new(ID, SECRET)],
        };
        let handle = s3::serve(dir.path().join("s3"), listener, config).unwrap();
        Self {
            handle,
            dir,
            keys: Arc::new(Mutex::new(Some(credentials(ID, SECRET, None)))),
        }
    }

    pub(crate) fn board(&self) -> Arc<Switchboard> {
        self.handle.faults()
    }

    pub(crate) fn client(&self) -> S3Bucket {
        self.client_with(S3Options::default())
    }

    pub(crate) fn client_with(&self, options: S3Options) -> S3Bucket {
        let target =
            Target::parse(&format!("s3://{BUCKET}/p"), Some(&self.handle.url()), None).unwrap();
        let keys = self.keys.clone();
        S3Bucket::new(
            target,
            Arc::new(move || keys.lock().unwrap().clone()),
            options,
        )
        .unwrap()
    }

    /// A client whose clock is off.
    pub(crate) fn client_at(&self, offset_s: f64) -> S3Bucket {
        let clock =
            Arc::new(move || spotter_bucket::s3::clock::shifted(SystemTime::now(), offset_s));
        self.client_with(S3Options {
            clock,
            ..S3Options::default()
        })
    }
}

pub(crate) fn credentials(id: &str, secret: &str, token: Option<&str>) -> Credentials {
    Credentials {
        access_key_id: id.into(),
        secret_access_key: secret.into(),
        session_token: token.map(str::to_owned),
        expires_us: None,
    }
}

#[tokio::test]
async fn our_client_and_our_server_keep_every_promise_of_a_bucket() {
    let server = Server::start().await;
    bucket_contract(Arc::new(server.client()), "p/contract").await;
    server.handle.stop().await;
}

/// Bare containers have no certificates at all, and then no client can be made by default, not even for http.
#[test]
fn a_client_is_made_where_there_is_not_one_certificate() {
    let empty = tempfile::tempdir().unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", empty.path())
        .args([
            "--exact",
            "our_client_and_our_server_keep_every_promise_of_a_bucket",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}"
    );
}
