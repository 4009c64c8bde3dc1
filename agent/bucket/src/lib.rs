//! Checkpoints in S3-compatible buckets, shared by agent and controller; depends on neither.
//!
//! Reading order: [`bucket`] is the small interface to object storage and its errors, [`s3`] the real one,
//! [`memory`] the one for tests, [`contract`] what both promise, [`mod@prove`] whether a given one keeps it; [`whole`] says when files
//! are a checkpoint, [`cadence`] whether they come often enough, [`manifest`] what a committed one is, [`hashes`] how its files are
//! hashed, [`layout`] where its objects lie,
//! [`names`] which step a name speaks of, [`retention`] which of them may go, [`vault`] lists, pins and deletes them, [`download`] brings
//! their files down or proves them; [`target`] parses `s3://bucket/prefix`, [`profile`] is what is known of servers by their host,
//! [`verdict`] what follows from what one was seen to do, [`credentials`] holds keys that never reach a log, [`grants`] is what a box
//! without keys may do, [`ending`] is what a box that stops itself leaves, [`roots`] whom a program trusts that runs on a box without
//! certificates, [`short`] what is left of a text that is too long.

pub mod bucket;
pub mod cadence;
#[cfg(any(test, feature = "fakes"))]
#[allow(clippy::unwrap_used, reason = "a suite of assertions panics by design")]
pub mod contract;
pub mod credentials;
pub mod download;
pub mod ending;
pub mod grants;
pub mod hashes;
pub mod layout;
pub mod manifest;
#[cfg(any(test, feature = "fakes"))]
pub mod memory;
pub mod names;
pub mod profile;
pub mod prove;
pub mod retention;
pub mod roots;
pub mod s3;
pub mod short;
pub mod sorted;
pub mod target;
pub mod vault;
pub mod verdict;
pub mod whole;

pub use bucket::{
    Bucket, BucketError, CompletedPart, ErrorKind, ListedObject, ListedPart, ListedUpload,
    ObjectInfo,
};
pub use credentials::Credentials;
pub use ending::{Cause, EndedBy, Ending};
pub use grants::{Batch, Grant, Stock};
pub use layout::{CommitId, Layout};
pub use manifest::{Manifest, ManifestError, ManifestFile, Unread};
pub use profile::Style;
pub use prove::{Proof, prove};
pub use retention::{Best, Commit, Keep};
pub use s3::{CredentialSource, S3Bucket, S3Options};
pub use target::{Target, TargetError};
pub use vault::{Adopted, Vault};
pub use verdict::{Findings, Payload, Verdict};
