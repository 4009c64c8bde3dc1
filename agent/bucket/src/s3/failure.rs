//! Why a try gave no success, and the errors that are made of it.

use std::time::SystemTime;

use http::HeaderMap;

use super::{exchange::Request, refusal, xml::ErrorBody};
use crate::{
    bucket::{BucketError, ErrorKind},
    target::Target,
};

/// Why a try gave no success.
pub(super) enum Failure {
    /// No whole answer came. `unsent`: the server never saw the request.
    Link { error: BucketError, unsent: bool },
    /// The time for the request was used up; the caller knows whether it is worth as much again.
    TimedOut(BucketError),
    /// The server answered, and it was no.
    Answered {
        error: BucketError,
        signed_with_s: f64,
        server_time: Option<SystemTime>,
    },
    /// It was never tried.
    Untried(BucketError),
}

/// The error for an answer that says no, whatever its status.
pub(super) fn answered(
    request: &Request<'_>,
    status: u16,
    said: &ErrorBody,
    secrets: &[&str],
) -> BucketError {
    let code = said
        .code
        .as_deref()
        .map(|code| refusal::cleaned(code, secrets));
    BucketError {
        operation: request.operation,
        key: request.key.to_owned(),
        kind: refusal::kind(status, code.as_deref()),
        status,
        message: refusal::message(status, said, secrets),
        code,
    }
}

/// An error that no server gave.
pub(super) fn local(request: &Request<'_>, kind: ErrorKind, message: &str) -> BucketError {
    BucketError {
        operation: request.operation,
        key: request.key.to_owned(),
        kind,
        status: 0,
        code: None,
        message: message.to_owned(),
    }
}

/// AWS answers requests for another region's bucket with a redirect that names the region.
pub(super) fn redirected(headers: &HeaderMap) -> Option<String> {
    let region = headers.get("x-amz-bucket-region")?.to_str().ok()?;
    Some(format!("the bucket is in region {region}"))
}

/// The error for a client that cannot be made.
pub(super) fn unusable(target: &Target, err: &dyn std::error::Error) -> BucketError {
    BucketError {
        operation: "Connect",
        key: target.url(),
        kind: ErrorKind::Refused,
        status: 0,
        code: None,
        message: chain(err),
    }
}

/// An error and all its causes in one line.
pub(super) fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
