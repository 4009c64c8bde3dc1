//! The shapes that calls share: requests on an object and on a listing, what answers say in their headers, and errors of ours about them.

use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};

use super::{
    MAX_PAGES,
    exchange::{Answer, Request, Vouch},
    xml,
};
use crate::bucket::{BucketError, ErrorKind};

/// A request on an object without query, headers or body.
pub(super) fn on<'a>(operation: &'static str, method: Method, key: &'a str) -> Request<'a> {
    Request {
        operation,
        method,
        key,
        on_object: true,
        query: Vec::new(),
        headers: Vec::new(),
        body: Bytes::new(),
        vouch: Vouch::Sha256,
        max_answer_bytes: xml::MAX_XML_BYTES as u64,
        buffer: Mutex::default(),
        repeatable: true,
    }
}

/// A listing: on the bucket, with the prefix for errors only.
pub(super) fn listing<'a>(
    operation: &'static str,
    prefix: &'a str,
    query: Vec<(&'static str, &'a str)>,
) -> Request<'a> {
    Request {
        on_object: false,
        query,
        ..on(operation, Method::GET, prefix)
    }
}

/// The error for an answer whose body is not what it should be.
pub(super) fn garbled(
    operation: &'static str,
    key: &str,
    status: StatusCode,
    err: &xml::XmlError,
) -> BucketError {
    refused(operation, key, status, err.to_string())
}

pub(super) fn refused(
    operation: &'static str,
    key: &str,
    status: StatusCode,
    message: String,
) -> BucketError {
    BucketError {
        operation,
        key: key.to_owned(),
        kind: ErrorKind::Refused,
        status: status.as_u16(),
        code: None,
        message,
    }
}

pub(super) fn etag(headers: &HeaderMap) -> Option<String> {
    headers
        .get(header::ETAG)
        .and_then(|value| value.to_str().ok())
        .map(xml::unquoted)
}

pub(super) fn required_etag(
    operation: &'static str,
    key: &str,
    answer: &Answer,
) -> Result<String, BucketError> {
    etag(&answer.headers)
        .filter(|etag| !etag.is_empty())
        .ok_or_else(|| {
            refused(
                operation,
                key,
                answer.status,
                "the answer has no entity tag".to_owned(),
            )
        })
}

/// First byte and total size of a `Content-Range` such as `bytes 0-9/100`.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, _total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// What is not there has been deleted; a bucket that is not there is another matter.
pub(super) fn gone(sent: Result<Answer, BucketError>) -> Result<(), BucketError> {
    match sent {
        Ok(_) => Ok(()),
        Err(err) if is_missing(&err) => Ok(()),
        Err(err) => Err(err),
    }
}

pub(super) fn is_missing(err: &BucketError) -> bool {
    err.kind == ErrorKind::NotFound && err.code.as_deref() != Some("NoSuchBucket")
}

pub(super) fn goes_in_circles(
    operation: &'static str,
    key: &str,
    status: StatusCode,
) -> BucketError {
    refused(
        operation,
        key,
        status,
        "the listing goes in circles".to_owned(),
    )
}

pub(super) fn too_many_pages(operation: &'static str, key: &str) -> BucketError {
    refused(
        operation,
        key,
        StatusCode::OK,
        format!("the listing has more than {MAX_PAGES} pages"),
    )
}
