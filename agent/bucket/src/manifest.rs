//! What a checkpoint is: the manifest, put last, whose existence is the checkpoint's existence.
//!
//! Its own type with a format version; nothing of the gRPC contract appears here. See [`Manifest::seal`] and
//! [`Manifest::open`], the only ways in and out of bytes.

use serde::{Deserialize, Serialize};

/// Version of the format that this code writes.
pub const FORMAT: u32 = 1;

/// One committed checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version, see [`FORMAT`].
    pub v: u32,
    /// Name of the commit: `<step, 12 digits>-<ulid>`.
    pub id: String,
    /// Run it belongs to.
    pub run: String,
    /// Attempt that wrote it, from 1.
    pub attempt: u32,
    /// Step, when the name of the checkpoint has a number.
    pub step: Option<u64>,
    /// Rule by which it was found complete, such as `generic` or `torch-zip`.
    pub rule: String,
    /// Path of the file or directory, relative to the checkpoint directory.
    pub path: String,
    /// Whether `path` is a directory.
    pub directory: bool,
    /// When it was committed, by the writer's clock, microseconds since the epoch.
    pub committed_us: u64,
    /// The same by the bucket's clock.
    pub server_us: u64,
    /// Id of the commit before this one, as far as the writer knew.
    pub prev: Option<String>,
    /// Every file, sorted by path.
    pub files: Vec<ManifestFile>,
    /// Reserved: how data is encoded; `None` means as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// blake3 over the canonical JSON of everything above with this field empty, hex.
    pub self_blake3: String,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Relative to the checkpoint's path (empty when that is the file itself); never absolute, never with `..`.
    pub path: String,
    /// Unix permission bits.
    pub mode: u32,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// blake3 of the content, hex.
    pub blake3: String,
    /// Full key of the object that holds it; an older commit's when the file did not change.
    pub key: String,
    /// Part size of the upload in bytes; 0 when it went in one request.
    pub part_size_bytes: u64,
    /// blake3 of each part, hex; empty when it went in one request.
    pub parts: Vec<String>,
}
