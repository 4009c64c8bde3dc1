//! What an answer that is no success means for the caller (pure).

use super::xml::ErrorBody;
use crate::bucket::ErrorKind;

/// Longest text of a server that goes into an error, characters.
const MAX_MESSAGE_CHARS: usize = 300;

/// What can be done about an answer with this status and code.
pub fn kind(status: u16, code: Option<&str>) -> ErrorKind {
    match (status, code) {
        (_, Some("RequestTimeTooSkewed")) => ErrorKind::Skewed,
        // Tokens that ran out come with 400 from AWS and with 403 from others.
        (
            _,
            Some(
                "AccessDenied"
                | "AccountProblem"
                | "AllAccessDisabled"
                | "ExpiredToken"
                | "InvalidAccessKeyId"
                | "InvalidSecurity"
                | "InvalidToken"
                | "NotSignedUp"
                | "RequestExpired"
                | "SignatureDoesNotMatch"
                | "TokenRefreshRequired",
            ),
        ) => ErrorKind::Denied,
        // A body that arrived cut or changed will arrive whole the next time; `RequestTimeout` comes with 400.
        (
            _,
            Some(
                "BadDigest"
                | "Busy"
                | "ConditionalRequestConflict"
                | "IncompleteBody"
                | "InternalError"
                | "OperationAborted"
                | "RequestTimeout"
                | "ServiceUnavailable"
                | "SlowDown"
                | "Throttling"
                | "ThrottlingException"
                | "TooManyRequests"
                | "XAmzContentSHA256Mismatch",
            ),
        ) => ErrorKind::Transient,
        // 501 is a feature that the server lacks.
        (501, _) | (_, Some("NotImplemented")) => ErrorKind::Refused,
        (0 | 408 | 425 | 429 | 500..=599, _) => ErrorKind::Transient,
        (401 | 403, _) => ErrorKind::Denied,
        (404, _) => ErrorKind::NotFound,
        _ => ErrorKind::Refused,
    }
}

/// The server's words for people: one line, bounded, without anything that could steer a terminal, and without `secrets`.
pub fn message(status: u16, body: &ErrorBody, secrets: &[&str]) -> String {
    let words = body
        .message
        .as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty());
    match words {
        Some(words) => cleaned(words, secrets),
        None => format!("the server answered with status {status}"),
    }
}

/// `text` as one bounded line without control characters and without `secrets`.
pub fn cleaned(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "…");
    }
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_MESSAGE_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_kind() {
        fn check(status: u16, code: &str, expected: ErrorKind) {
            let code = Some(code).filter(|code| !code.is_empty());
            assert_eq!(kind(status, code), expected, "{status} {code:?}");
        }
        check(0, "", ErrorKind::Transient);
        check(500, "InternalError", ErrorKind::Transient);
        check(503, "SlowDown", ErrorKind::Transient);
        check(502, "", ErrorKind::Transient);
        check(429, "", ErrorKind::Transient);
        check(408, "", ErrorKind::Transient);
        check(400, "RequestTimeout", ErrorKind::Transient);
        check(400, "BadDigest", ErrorKind::Transient);
        check(400, "XAmzContentSHA256Mismatch", ErrorKind::Transient);
        check(409, "OperationAborted", ErrorKind::Transient);
        check(507, "", ErrorKind::Transient);
        check(501, "NotImplemented", ErrorKind::Refused);
        check(400, "ExpiredToken", ErrorKind::Denied);
        check(403, "ExpiredToken", ErrorKind::Denied);
        check(403, "SignatureDoesNotMatch", ErrorKind::Denied);
        check(403, "", ErrorKind::Denied);
        check(401, "", ErrorKind::Denied);
        check(403, "RequestTimeTooSkewed", ErrorKind::Skewed);
        check(400, "RequestTimeTooSkewed", ErrorKind::Skewed);
        check(404, "NoSuchKey", ErrorKind::NotFound);
        check(404, "NoSuchBucket", ErrorKind::NotFound);
        check(404, "", ErrorKind::NotFound);
        check(400, "EntityTooSmall", ErrorKind::Refused);
        check(400, "InvalidPart", ErrorKind::Refused);
        check(412, "PreconditionFailed", ErrorKind::Refused);
        check(416, "InvalidRange", ErrorKind::Refused);
        check(301, "PermanentRedirect", ErrorKind::Refused);
        check(405, "MethodNotAllowed", ErrorKind::Refused);
    }

    #[test]
    fn a_servers_words_are_cut_cleaned_and_never_echo_a_secret() {
        let body = |text: &str| ErrorBody {
            message: Some(text.to_owned()),
            ..ErrorBody::default()
        };
        assert_eq!(
            message(503, &ErrorBody::default(), &[]),
            "the server answered with status 503"
        );
        assert_eq!(message(400, &body("a\x1b[2Jb\nc"), &[]), "a [2Jb c");
        assert_eq!(
            message(400, &body("token TOKEN is old"), &["TOKEN", ""]),
            "token … is old"
        );
        assert_eq!(
            message(400, &body(&"x".repeat(9000)), &[]).len(),
            MAX_MESSAGE_CHARS
        );
    }
}
