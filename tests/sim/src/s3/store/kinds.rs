//! What the store is told and tells: objects, uploads, parts, conditions, and why it did not do something.

use std::{collections::BTreeMap, io, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

/// Smallest part that is not the last, bytes.
pub const MIN_PART_BYTES: u64 = 5 << 20;

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Full key.
    pub key: String,
    /// Size of the content, bytes.
    pub size_bytes: u64,
    /// Entity tag without quotes.
    pub etag: String,
    /// When it was stored, milliseconds since the epoch.
    pub modified_ms: u64,
    /// `Content-Type`, as it was given.
    pub content_type: Option<String>,
    /// `x-amz-meta-*`, as it was given.
    pub metadata: BTreeMap<String, String>,
}

/// An upload that was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// Bucket.
    pub bucket: String,
    /// Full key.
    pub key: String,
    /// When, milliseconds since the epoch.
    pub initiated_ms: u64,
    /// `Content-Type` of the object to be.
    pub content_type: Option<String>,
    /// `x-amz-meta-*` of the object to be.
    pub metadata: BTreeMap<String, String>,
    /// Whether its parts come with their CRC-32, each.
    #[serde(default)]
    pub crc32: bool,
}

/// A part that was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Size, bytes.
    pub size_bytes: u64,
    /// md5 of the content, hex: its entity tag.
    pub md5: String,
    /// CRC-32 of the content, base64, when the upload has them.
    pub crc32: Option<String>,
    /// When it came.
    pub modified: SystemTime,
    pub(super) file: PathBuf,
}

/// A part as a completion names it.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Its number, from 1.
    pub number: u32,
    /// Its tag, without quotes.
    pub etag: String,
    /// Its CRC-32, base64.
    pub crc32: Option<String>,
}

/// What has to be so before an object is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Precondition {
    /// No object of that key.
    pub absent: bool,
    /// The object of that key has this tag.
    pub etag: Option<String>,
}

/// Why the store did not do it, in S3's codes.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// No such object.
    #[error("no such object")]
    NoSuchKey,
    /// No such upload, or none any more.
    #[error("no such upload")]
    NoSuchUpload,
    /// A part that was never sent, or has another tag or checksum.
    #[error("part {0} is not there or has another tag or checksum")]
    InvalidPart(u32),
    /// A part with a checksum where there are none, or without one where there are.
    #[error("the upload was begun {}: part {number} does not fit", if *.crc32 { "with crc32" } else { "without a checksum" })]
    OtherChecksum {
        /// Number of the part.
        number: u32,
        /// Whether the upload has checksums.
        crc32: bool,
    },
    /// Parts that are not in ascending order.
    #[error("parts must be named in ascending order")]
    InvalidPartOrder,
    /// A part that is too small and not the last.
    #[error("part {0} has fewer than {MIN_PART_BYTES} bytes and is not the last")]
    EntityTooSmall(u32),
    /// What had to be so is not so.
    #[error("a condition of the request does not hold")]
    PreconditionFailed,
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}
