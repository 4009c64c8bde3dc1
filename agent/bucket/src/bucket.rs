//! `Bucket`: what we ask of object storage, twelve calls, and how they fail.
//!
//! Keys are full object keys (prefix included), `/`-separated, never with a leading slash. Every call may be repeated:
//! data keys are unique per attempt and a commit's bytes are determined by its name.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

/// What a HEAD says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Entity tag, quotes stripped.
    pub etag: String,
}

/// One row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Full key.
    pub key: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Entity tag, quotes stripped.
    pub etag: String,
    /// When it was stored, by the server's clock, seconds since the epoch; 0 when the server did not say.
    pub modified_s: i64,
}

/// A part that the server has, by ListParts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPart {
    /// Part number, from 1.
    pub number: u32,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Entity tag, quotes stripped.
    pub etag: String,
}

/// An upload that was begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUpload {
    /// Full key.
    pub key: String,
    /// Upload id.
    pub upload_id: String,
    /// When it began, by the server's clock, seconds since the epoch; 0 when the server did not say.
    pub initiated_s: i64,
}

/// A part as Complete wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedPart {
    /// Part number, from 1.
    pub number: u32,
    /// Entity tag that UploadPart returned, quotes stripped.
    pub etag: String,
}

/// Object storage. Implementations: [`crate::s3::S3Bucket`] and, for tests, [`crate::memory::MemoryBucket`].
///
/// Every method makes its own bounded retries only for a link that broke before an answer came; what to do about
/// anything else is the caller's choice, by [`BucketError::kind`].
#[async_trait]
pub trait Bucket: Send + Sync {
    /// Stores an object in one request (at most 5 GiB). Returns its entity tag.
    async fn put(&self, key: &str, body: Bytes) -> Result<String, BucketError>;
    /// Reads an object, or `range` of its bytes (`start..end`, end exclusive).
    async fn get(
        &self,
        key: &str,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<Bytes, BucketError>;
    /// Reads `range` of an object, where possible into memory that was used before: who reads gigabytes in large pieces would have the
    /// kernel make as much new memory. `buffer` is empty; an answer that nobody else holds gives its own back by `Bytes::try_into_mut`.
    async fn get_into(
        &self,
        key: &str,
        range: std::ops::Range<u64>,
        buffer: BytesMut,
    ) -> Result<Bytes, BucketError> {
        drop(buffer);
        self.get(key, Some(range)).await
    }
    /// Size and tag, or `None` when there is no such object.
    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, BucketError>;
    /// Deletes an object; deleting what is not there succeeds.
    async fn delete(&self, key: &str) -> Result<(), BucketError>;
    /// All objects whose key begins with `prefix`, in key order, pages followed.
    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, BucketError>;
    /// Begins a multipart upload and returns its id.
    async fn create_upload(&self, key: &str) -> Result<String, BucketError>;
    /// The same for an upload of at most so many parts.
    async fn create_upload_of(&self, key: &str, _parts: usize) -> Result<String, BucketError> {
        self.create_upload(key).await
    }
    /// Uploads one part (5 MiB to 5 GiB unless it is the last). Returns its entity tag.
    async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<String, BucketError>;
    /// Parts that the server has of an upload, by number, pages followed.
    async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<ListedPart>, BucketError>;
    /// Makes the object of an upload visible and returns a tag, which on some servers is not the one that HEAD tells. An ambiguous answer is an error: HEAD the key and compare.
    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<String, BucketError>;
    /// Drops an upload and its parts; dropping what is not there succeeds.
    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<(), BucketError>;
    /// Unfinished uploads whose key begins with `prefix`.
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, BucketError>;
    /// Where an object that was stored as `key` really lies: elsewhere only where places are given out ([`crate::grants`]).
    fn stored_as(&self, key: &str) -> String {
        key.to_owned()
    }
    /// Whether there are keys at all, rather than [grants](crate::grants) to store and read: nothing can be deleted or listed with these.
    fn has_keys(&self) -> bool {
        true
    }
    /// Seconds that the server's clock is ahead of ours, as learned from its answers; 0 before the first.
    fn clock_offset_s(&self) -> f64;
}

/// What a caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Worth repeating as it is: 5xx, 408, 429, SlowDown, reset, time-out.
    Transient,
    /// The keys are wrong, expired or lack a permission: new ones are needed.
    Denied,
    /// No such object, upload or bucket.
    NotFound,
    /// Our clock and the server's differ too much (already corrected once).
    Skewed,
    /// Anything else the server refused: repeating it will not help.
    Refused,
}

/// A call that failed, with operation, key and the server's own words.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {key}: {message}{}", code.as_deref().map(|c| format!(" ({c})")).unwrap_or_default())]
pub struct BucketError {
    /// Name of the operation, such as `UploadPart`.
    pub operation: &'static str,
    /// Full key or prefix.
    pub key: String,
    /// What can be done.
    pub kind: ErrorKind,
    /// HTTP status, 0 when no answer came.
    pub status: u16,
    /// The server's error code, such as `NoSuchUpload`.
    pub code: Option<String>,
    /// The server's message, or the transport's error chain; never contains a key or signature.
    pub message: String,
}

impl BucketError {
    /// Whether it is neither the keys nor the moment: of a call that names what is there, that the server does not have this call.
    pub fn is_lacking(&self) -> bool {
        matches!(self.kind, ErrorKind::Refused | ErrorKind::NotFound)
    }
}
