//! Limits of the client, and what it is handed: keys, a clock, a place to hash.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::credentials::Credentials;

/// Where the keys come from: asked before every request, since they may change at any time; `None`: there are none now.
pub type CredentialSource = Arc<dyn Fn() -> Option<Credentials> + Send + Sync>;

/// Limits of the client.
#[derive(Clone)]
pub struct S3Options {
    /// The local clock.
    pub clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// What every request and every answer may take, however small.
    pub base_timeout: Duration,
    /// Slowest link that is waited for, bytes per second: what a body may take on top.
    pub floor_bytes_per_s: u64,
    /// How often a request is tried in all when the link breaks.
    pub tries: u32,
    /// Does the hashing of large payloads and waits for it, on a thread that may block: perhaps with less priority than ours.
    pub hash_by: HashBy,
}

/// Does a piece of work somewhere and waits for it.
pub type HashBy = Arc<dyn Fn(Box<dyn FnOnce() -> String + Send>) -> String + Send + Sync>;

impl Default for S3Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemTime::now),
            connect_timeout: Duration::from_secs(10),
            base_timeout: Duration::from_secs(30),
            floor_bytes_per_s: 64 << 10,
            tries: 4,
            hash_by: Arc::new(|work| work()),
        }
    }
}

impl S3Options {
    /// How long sending or receiving this many bytes may take.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        self.base_timeout + Duration::from_secs(bytes / self.floor_bytes_per_s.max(1))
    }
}
