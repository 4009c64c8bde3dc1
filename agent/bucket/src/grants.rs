//! Grants: requests that somebody who has keys signed ahead, so that a box without keys can make them.
//!
//! [`Stock`] holds what a box was given, in memory alone. An object that is to be stored gets the next free place, since nobody
//! knew its name when the place was signed for: manifests tell where it went, and commits wait at places of their own until
//! somebody with keys puts them where they belong ([`crate::Vault::adopt`]).

mod stock;

use http::Method;

pub use stock::{Granted, Stock};

/// What is said of a request that nobody signed.
pub const NOT_GRANTED: &str =
    "nothing is signed for it any more: whoever watches the run brings more";
/// Bytes of one signature.
pub const SIGNATURE_BYTES: usize = 32;

/// What may be done with one object.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Full key.
    pub key: String,
    /// Of a multipart upload that was begun for it; empty: none was.
    pub upload_id: String,
    /// Signatures, one after the other. Of an object that is there: GET, HEAD. Of one that may be put: GET, HEAD, PUT. Of an upload:
    /// GET, HEAD, Complete, ListParts, and UploadPart of each part from the first on.
    pub signatures: Vec<u8>,
}

/// Where the signature of a part stands among those of an upload, less its number.
const PARTS_FROM: usize = 3;

impl Grant {
    fn signature(&self, method: &Method, query: &[(&'static str, &str)]) -> Option<&[u8]> {
        let part = query.iter().find(|(name, _)| *name == "partNumber");
        let at = match (method.as_str(), part, query.is_empty()) {
            ("GET", None, true) => 0,
            ("HEAD", None, true) => 1,
            ("PUT", None, true) if self.upload_id.is_empty() => 2,
            // Of a longer list of parts only the first page can be asked for.
            (_, _, true) => return None,
            _ if !query.contains(&("uploadId", &self.upload_id)) => return None,
            ("POST", None, _) => 2,
            ("GET", None, _) if query.len() == 1 => 3,
            ("PUT", Some((_, number)), _) => PARTS_FROM + number.parse::<usize>().ok()?,
            _ => return None,
        };
        self.signatures.chunks_exact(SIGNATURE_BYTES).nth(at)
    }

    /// Most parts that its upload may have.
    fn parts(&self) -> usize {
        (self.signatures.len() / SIGNATURE_BYTES).saturating_sub(PARTS_FROM + 1)
    }

    fn is_there(&self) -> bool {
        self.signatures.len() == 2 * SIGNATURE_BYTES
    }
}

/// Grants that were signed together.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// What the query of every request has besides its own and the signature, encoded.
    pub query: String,
    /// When they end, microseconds since the epoch.
    pub expires_us: u64,
    /// The grants.
    pub grants: Vec<Grant>,
}
