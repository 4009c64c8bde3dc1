//! Where checkpoints go: `s3://bucket/prefix`, an endpoint and a region.

use serde::{Deserialize, Serialize};

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
}
