//! What a bucket in memory holds, and the rules of S3 by which it refuses.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};

use super::MIN_PART_BYTES;
use crate::bucket::{BucketError, CompletedPart, ErrorKind};

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Object>,
    pub(super) uploads: BTreeMap<String, Upload>,
    /// Finished uploads by id: S3 answers a repeated Complete with success.
    pub(super) finished: HashMap<String, (String, String)>,
    pub(super) next_upload: u64,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) faults: Vec<Fault>,
    pub(super) lose_complete: u32,
    pub(super) latency: Duration,
    pub(super) offset_s: f64,
    pub(super) read_only: bool,
}

#[derive(Clone)]
pub(super) struct Object {
    pub(super) body: Bytes,
    pub(super) etag: String,
    /// Seconds since the epoch.
    pub(super) modified_s: i64,
}

impl Object {
    pub(super) fn new(body: Bytes, etag: String) -> Self {
        Self {
            body,
            etag,
            modified_s: now_s(),
        }
    }
}

/// Seconds since the epoch.
pub(super) fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

pub(super) struct Upload {
    pub(super) key: String,
    /// Seconds since the epoch.
    pub(super) initiated_s: i64,
    pub(super) parts: BTreeMap<u32, Object>,
}

pub(super) struct Fault {
    pub(super) operation: String,
    /// Calls that still succeed before it fires.
    pub(super) after: u32,
    pub(super) left: u32,
    pub(super) kind: ErrorKind,
}

/// The upload, if it is open and of this key.
pub(super) fn open_upload<'a>(
    state: &'a mut State,
    operation: &'static str,
    key: &str,
    upload_id: &str,
) -> Result<&'a mut Upload, BucketError> {
    state
        .uploads
        .get_mut(upload_id)
        .filter(|upload| upload.key == key)
        .ok_or_else(|| {
            error(
                operation,
                key,
                ErrorKind::NotFound,
                404,
                "NoSuchUpload",
                "no such upload",
            )
        })
}

/// Puts the named parts together as S3 would, with its refusals.
pub(super) fn assemble(
    upload: &Upload,
    key: &str,
    parts: &[CompletedPart],
) -> Result<Bytes, BucketError> {
    let refuse = |code, text: &str| {
        Err(error(
            "CompleteMultipartUpload",
            key,
            ErrorKind::Refused,
            400,
            code,
            text,
        ))
    };
    if parts.is_empty() {
        return refuse("MalformedXML", "no parts were named");
    }
    if !parts.windows(2).all(|pair| pair[0].number < pair[1].number) {
        return refuse("InvalidPartOrder", "parts must be named in ascending order");
    }
    let mut body = BytesMut::new();
    for (at, wanted) in parts.iter().enumerate() {
        let Some(part) = upload
            .parts
            .get(&wanted.number)
            .filter(|part| part.etag == wanted.etag)
        else {
            return refuse(
                "InvalidPart",
                &format!("part {} is not there or has another tag", wanted.number),
            );
        };
        if at + 1 < parts.len() && part.body.len() < MIN_PART_BYTES {
            return refuse(
                "EntityTooSmall",
                &format!("part {} has only {} bytes", wanted.number, part.body.len()),
            );
        }
        body.extend_from_slice(&part.body);
    }
    Ok(body.freeze())
}

pub(super) fn tag(body: &[u8]) -> String {
    blake3::hash(body).to_hex()[..32].to_owned()
}

pub(super) fn no_such_key(operation: &'static str, key: &str) -> BucketError {
    error(
        operation,
        key,
        ErrorKind::NotFound,
        404,
        "NoSuchKey",
        "no such object",
    )
}

/// The failure of a given kind, as a server would word it.
pub(super) fn ordered(operation: &'static str, key: &str, kind: ErrorKind) -> BucketError {
    let (status, code) = match kind {
        ErrorKind::Transient => (503, "SlowDown"),
        ErrorKind::Denied => (403, "AccessDenied"),
        ErrorKind::NotFound => (404, "NoSuchKey"),
        ErrorKind::Skewed => (403, "RequestTimeTooSkewed"),
        ErrorKind::Refused => (400, "InvalidRequest"),
    };
    error(operation, key, kind, status, code, "ordered by the test")
}

pub(super) fn error(
    operation: &'static str,
    key: &str,
    kind: ErrorKind,
    status: u16,
    code: &str,
    message: &str,
) -> BucketError {
    BucketError {
        operation,
        key: key.to_owned(),
        kind,
        status,
        code: Some(code.to_owned()),
        message: message.to_owned(),
    }
}
