//! What the answers of a bucket mean: what is wrong, and what would mend it (pure).

use spotter_bucket::{BucketError, ErrorKind};

use super::{
    policy::Need,
    probe::{Check, Findings, Outcome},
};
use crate::credentials::{ENVIRONMENT, SIGN_ON};

/// Beyond this many seconds most servers refuse a signature.
pub const CLOCK_LIMIT_S: f64 = 900.0;

/// What is wrong with a bucket, the first thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No answer came.
    Silent,
    /// Something answers that knows nothing of buckets: a web page, a console, a proxy.
    NotS3,
    /// `https://` is asked of a port that speaks plain HTTP.
    PlainHttp,
    /// `http://` is asked of a port that speaks TLS.
    NeedsTls,
    /// The server's certificate is not trusted here.
    Untrusted,
    /// There is no such bucket on that server.
    NoBucket,
    /// The server does not know the keys, or the secret is not that of the id.
    WrongKeys,
    /// The keys were temporary, and their time is over.
    Expired,
    /// The session token is not that of the keys, or is garbled.
    WrongToken,
    /// This machine's clock is too far off.
    Clock,
    /// The bucket is in another region than the one that requests are signed for.
    Region,
    /// The keys are good, and lack these rights.
    Missing(Vec<Need>),
    /// Nothing more can be stored: the server's disk is full.
    DiskFull,
    /// Nothing more may be stored: what the bucket or its owner may hold is used up.
    QuotaUsed,
    /// The server takes objects, and none in parts.
    NoParts,
    /// Anything else the server said.
    Other,
}

/// What is wrong; `None` when nothing is that spotter could not do without.
pub fn diagnose(findings: &Findings) -> Option<(Trouble, &BucketError)> {
    let failed: Vec<(Need, &BucketError)> = findings
        .checks
        .iter()
        .filter(|check| !check.is_optional())
        .filter_map(failure)
        .collect();
    let first = failed.first()?.1;
    // One cause that is behind all of it is told before rights, which nobody can judge until it is mended.
    if let Some((trouble, err)) = failed
        .iter()
        .find_map(|(_, err)| Some((behind_all(err)?, *err)))
    {
        return Some((trouble, err));
    }
    let missing: Vec<Need> = failed
        .iter()
        .filter(|(_, err)| err.kind == ErrorKind::Denied)
        .map(|(need, _)| *need)
        .collect();
    if missing.is_empty() {
        let begins = |err: &BucketError| err.operation == BEGIN && err.kind == ErrorKind::Refused;
        let unbegun = failed.iter().find(|(_, err)| begins(err));
        return match unbegun {
            Some((_, err)) => Some((Trouble::NoParts, *err)),
            None => Some((Trouble::Other, first)),
        };
    }
    let first_denied = failed
        .iter()
        .find(|(_, err)| err.kind == ErrorKind::Denied)
        .map_or(first, |(_, err)| *err);
    Some((Trouble::Missing(missing), first_denied))
}

fn failure(check: &Check) -> Option<(Need, &BucketError)> {
    match &check.result {
        Outcome::Fails(err) => Some((check.need, err)),
        Outcome::Works | Outcome::Untried(_) => None,
    }
}

/// Codes of servers for keys that have ended.
const EXPIRED: [&str; 3] = ["ExpiredToken", "TokenRefreshRequired", "RequestExpired"];
/// Codes of servers whose disk is full.
const DISK_FULL: [&str; 3] = ["StorageFull", "XMinioStorageFull", "InsufficientStorage"];
/// Codes for a bucket, or its owner, that may hold no more: Ceph's and MinIO's.
const QUOTA_USED: [&str; 2] = ["QuotaExceeded", "XMinioAdminBucketQuotaExceeded"];
/// Code of servers for a token that was never one of these keys.
const WRONG_TOKEN: &str = "InvalidToken";

/// What mends a wrong token.
pub const TOKEN_HINT: &str = "a session token belongs to its own key pair: copy all three anew from where they were made, or unset \
                          AWS_SESSION_TOKEN where the keys are lasting ones";

/// How keys are renewed that have ended, by where they came from.
pub fn renewal(source: Option<&str>) -> String {
    match source {
        Some(ENVIRONMENT) => {
            "export new ones (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN)"
                .to_owned()
        }
        Some(source) if source.ends_with(SIGN_ON) => {
            let profile = source.split('`').nth(1).unwrap_or("default");
            format!("log in anew with `aws sso login --profile {profile}`")
        }
        _ => "get new ones (`aws sso login`, or wherever they came from)".to_owned(),
    }
}

/// What a refusal says of a key pair, before any question of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    /// Its time is over.
    Expired,
    /// Its session token is another's.
    WrongToken,
    /// The secret is not that of the key id.
    WrongSecret,
    /// The server has no such key id.
    UnknownId,
    /// The server knows them, and they may not do what is asked.
    Denied,
}

impl KeyFault {
    /// Read from a refusal that is told as text, where the server's code stands in brackets; of rights it says nothing.
    pub fn of(refusal: &str) -> Option<KeyFault> {
        let says = |codes: &[&str]| {
            codes
                .iter()
                .any(|code| refusal.contains(&format!("({code})")))
        };
        if says(&EXPIRED) {
            Some(KeyFault::Expired)
        } else if says(&[WRONG_TOKEN]) {
            Some(KeyFault::WrongToken)
        } else if says(&["SignatureDoesNotMatch"]) {
            Some(KeyFault::WrongSecret)
        } else if says(&["InvalidAccessKeyId"]) {
            Some(KeyFault::UnknownId)
        } else {
            None
        }
    }

    /// The same where it is known that the keys were refused: what is no fault of the pair is one of its rights.
    pub fn of_refusal(refusal: &str) -> KeyFault {
        KeyFault::of(refusal).unwrap_or(KeyFault::Denied)
    }

    /// The same where it is not known: a right that is lacking is told by its code.
    pub fn of_answer(answer: &str) -> Option<KeyFault> {
        let denied = answer.contains("(AccessDenied)");
        KeyFault::of(answer).or(denied.then_some(KeyFault::Denied))
    }

    /// Whether nobody but who makes keys can mend it. Rights may be given back.
    pub fn is_final(self) -> bool {
        self != KeyFault::Denied
    }

    /// What is wrong, for people. `bucket` as the run file names it; `source`: where the keys came from.
    pub fn told(self, bucket: &str, source: Option<&str>) -> String {
        let from = source.map_or_else(String::new, |source| format!(" from {source}"));
        match self {
            KeyFault::Expired => format!("the keys{from} for its bucket {bucket} have expired"),
            KeyFault::WrongToken => {
                format!("its bucket {bucket} does not accept the session token{from}")
            }
            KeyFault::WrongSecret => {
                format!("the secret key{from} for its bucket {bucket} is wrong")
            }
            KeyFault::UnknownId => {
                format!("its bucket {bucket} does not know the key id{from}")
            }
            KeyFault::Denied => {
                format!("the keys{from} may not do in its bucket {bucket} what a run needs")
            }
        }
    }

    /// What would mend it. `source`: where the keys came from; `again`: what to do then.
    pub fn hint(self, source: Option<&str>, again: &str) -> String {
        let renewal = renewal(source);
        let mend = match self {
            KeyFault::Expired => renewal.as_str(),
            KeyFault::WrongToken => TOKEN_HINT,
            KeyFault::WrongSecret => {
                "it is not the secret of its key id: copy both from where they were made"
            }
            KeyFault::UnknownId => {
                "it was deleted, or belongs to another server than the one that `checkpoints.server` or AWS_ENDPOINT_URL_S3 names: \
                 mend either"
            }
            KeyFault::Denied => "grant them what they lack",
        };
        format!("{mend}, then {again}")
    }
}

/// Name of the call that lists.
const LIST: &str = "ListObjectsV2";
/// Name of the call that begins an upload in parts.
const BEGIN: &str = "CreateMultipartUpload";

/// Why no answer came, by the words of the connection: TLS on one side alone is told from a server that is not there.
fn unconnected(message: &str) -> Trouble {
    if message.contains("invalid peer certificate") {
        Trouble::Untrusted
    } else if message.contains("InvalidContentType") || message.contains("corrupt message") {
        Trouble::PlainHttp
    } else if message.contains("invalid HTTP version") {
        Trouble::NeedsTls
    } else {
        Trouble::Silent
    }
}

/// Whether the cause that is behind all is one with which nothing else can be tried.
pub fn ends_all(trouble: &Trouble) -> Option<&'static str> {
    match trouble {
        Trouble::Silent => Some("the server does not answer"),
        Trouble::NotS3 => Some("what answers is no S3 server"),
        Trouble::PlainHttp | Trouble::NeedsTls | Trouble::Untrusted => {
            Some("no connection could be made")
        }
        _ => None,
    }
}

/// What an error says of the keys, the bucket or the server as a whole.
pub fn behind_all(err: &BucketError) -> Option<Trouble> {
    match err.code.as_deref() {
        Some("NoSuchBucket") => return Some(Trouble::NoBucket),
        Some(
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidSecurity" | "NotSignedUp",
        ) => return Some(Trouble::WrongKeys),
        Some(code) if EXPIRED.contains(&code) => return Some(Trouble::Expired),
        Some(WRONG_TOKEN) => return Some(Trouble::WrongToken),
        Some(code) if DISK_FULL.contains(&code) => return Some(Trouble::DiskFull),
        Some(code) if QUOTA_USED.contains(&code) => return Some(Trouble::QuotaUsed),
        Some(
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException",
        ) => return Some(Trouble::Region),
        _ => {}
    }
    match err.kind {
        // Insufficient Storage.
        _ if err.status == 507 => Some(Trouble::DiskFull),
        // Backblaze says it in words alone, with the code of a right that is lacking.
        ErrorKind::Denied if err.message.to_ascii_lowercase().contains("storage cap") => {
            Some(Trouble::QuotaUsed)
        }
        ErrorKind::Skewed => Some(Trouble::Clock),
        ErrorKind::Transient if err.status == 0 => Some(unconnected(&err.message)),
        // A listing is answered in XML by every server for buckets, also where it is refused; 401 and 403 may be a guard's before it.
        ErrorKind::NotFound | ErrorKind::Refused
            if err.operation == LIST && err.code.is_none() && err.status != 0 =>
        {
            Some(Trouble::NotS3)
        }
        // A server that says no more than 404 of a bucket that should take an object.
        ErrorKind::NotFound if matches!(err.operation, LIST | "PutObject" | BEGIN) => {
            Some(Trouble::NoBucket)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_keys_is_read_from_a_refusal() {
        for (text, expected) in [
            (
                "PutObject runs/a: it has expired (ExpiredToken)",
                Some(KeyFault::Expired),
            ),
            (
                "no: the token is another's (InvalidToken)",
                Some(KeyFault::WrongToken),
            ),
            (
                "PutObject runs/a: no (SignatureDoesNotMatch)",
                Some(KeyFault::WrongSecret),
            ),
            (
                "PutObject runs/a: no (InvalidAccessKeyId)",
                Some(KeyFault::UnknownId),
            ),
            ("PutObject runs/ExpiredToken: no (AccessDenied)", None),
            ("PutObject runs/a: the bucket is away (SlowDown)", None),
        ] {
            assert_eq!(KeyFault::of(text), expected, "{text}");
            let refused = KeyFault::of_refusal(text);
            assert_eq!(refused, expected.unwrap_or(KeyFault::Denied), "{text}");
            let denied = text.ends_with("(AccessDenied)").then_some(KeyFault::Denied);
            assert_eq!(KeyFault::of_answer(text), expected.or(denied), "{text}");
        }
    }

    #[test]
    fn a_fault_of_the_keys_is_told_with_where_they_came_from() {
        let told = |source| KeyFault::WrongSecret.told("s3://b/r", source);
        assert_eq!(
            told(None),
            "the secret key for its bucket s3://b/r is wrong"
        );
        assert_eq!(
            told(Some("the environment")),
            "the secret key from the environment for its bucket s3://b/r is wrong"
        );
    }

    #[test]
    fn keys_that_have_ended_are_renewed_where_they_came_from() {
        let hint = |source| KeyFault::Expired.hint(source, "`spotter up r`");
        assert_eq!(
            hint(Some(ENVIRONMENT)),
            "export new ones (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN), then `spotter up r`"
        );
        assert_eq!(
            hint(Some("profile `lab`, single sign-on")),
            "log in anew with `aws sso login --profile lab`, then `spotter up r`"
        );
        assert_eq!(
            hint(None),
            "get new ones (`aws sso login`, or wherever they came from), then `spotter up r`"
        );
    }

    fn error(operation: &'static str, kind: ErrorKind, status: u16, code: &str) -> BucketError {
        BucketError {
            operation,
            key: "k".into(),
            kind,
            status,
            code: Some(code.to_owned()).filter(|code| !code.is_empty()),
            message: "no".into(),
        }
    }

    fn findings(failed: Vec<(Need, BucketError)>) -> Findings {
        let checks = failed.into_iter().map(|(need, err)| Check {
            need,
            result: Outcome::Fails(err),
        });
        Findings {
            checks: checks.collect(),
            clock_offset_s: None,
            left_behind: None,
        }
    }

    #[test]
    fn one_cause_behind_all_of_it_is_told_before_rights() {
        let check = |kind: ErrorKind, status: u16, code: &str, expected: Trouble| {
            let denied = error("GetObject", ErrorKind::Denied, 403, "AccessDenied");
            let found = findings(vec![
                (Need::Read, denied),
                (Need::Write, error("PutObject", kind, status, code)),
            ]);
            assert_eq!(diagnose(&found).unwrap().0, expected, "{status} {code}");
        };
        check(ErrorKind::NotFound, 404, "NoSuchBucket", Trouble::NoBucket);
        check(ErrorKind::NotFound, 404, "", Trouble::NoBucket);
        check(
            ErrorKind::Denied,
            403,
            "InvalidAccessKeyId",
            Trouble::WrongKeys,
        );
        check(
            ErrorKind::Denied,
            403,
            "SignatureDoesNotMatch",
            Trouble::WrongKeys,
        );
        check(ErrorKind::Denied, 400, "ExpiredToken", Trouble::Expired);
        check(
            ErrorKind::Skewed,
            403,
            "RequestTimeTooSkewed",
            Trouble::Clock,
        );
        check(ErrorKind::Transient, 0, "", Trouble::Silent);
        check(
            ErrorKind::Refused,
            301,
            "PermanentRedirect",
            Trouble::Region,
        );
        check(ErrorKind::Denied, 400, "InvalidToken", Trouble::WrongToken);
        let full = [(507, "StorageFull"), (507, ""), (500, "XMinioStorageFull")];
        for (status, code) in full {
            check(ErrorKind::Transient, status, code, Trouble::DiskFull);
        }
        check(ErrorKind::Denied, 403, "QuotaExceeded", Trouble::QuotaUsed);
        check(
            ErrorKind::Refused,
            400,
            "AuthorizationHeaderMalformed",
            Trouble::Region,
        );
    }

    #[test]
    fn a_server_that_takes_nothing_in_parts_is_told_from_any_other_no() {
        let check = |operation: &'static str, status: u16, expected: Trouble| {
            let refused = error(operation, ErrorKind::Refused, status, "");
            let range = error("GetObject", ErrorKind::Refused, 0, "");
            let found = findings(vec![(Need::Read, range), (Need::Write, refused)]);
            assert_eq!(diagnose(&found).unwrap().0, expected, "{operation}");
        };
        check("CreateMultipartUpload", 405, Trouble::NoParts);
        check("CreateMultipartUpload", 501, Trouble::NoParts);
        check("PutObject", 400, Trouble::Other);
    }

    #[test]
    fn what_is_no_s3_server_is_told_from_one_that_does_not_answer() {
        let check = |kind: ErrorKind, status: u16, message: &str, expected: Trouble| {
            let mut failed = error(LIST, kind, status, "");
            failed.message = message.to_owned();
            let found = findings(vec![(Need::List, failed)]);
            assert_eq!(diagnose(&found).unwrap().0, expected, "{status} {message}");
        };
        let (garbled, refused) = (
            "answer is not what S3 would say: <html>",
            ErrorKind::Refused,
        );
        check(refused, 200, garbled, Trouble::NotS3);
        check(ErrorKind::NotFound, 404, "status 404", Trouble::NotS3);
        check(refused, 301, "status 301", Trouble::NotS3);
        check(refused, 405, "status 405", Trouble::NotS3);
        let link = |message: &str, expected: Trouble| {
            check(ErrorKind::Transient, 0, message, expected);
        };
        link(
            "tcp connect error: Connection refused (os error 111)",
            Trouble::Silent,
        );
        link(
            "received corrupt message of type InvalidContentType",
            Trouble::PlainHttp,
        );
        link("invalid HTTP version parsed", Trouble::NeedsTls);
        link(
            "invalid peer certificate: UnknownIssuer",
            Trouble::Untrusted,
        );
        // The link went down while somebody's own server was asked to write.
        let gone = error("PutObject", ErrorKind::NotFound, 404, "");
        let found = findings(vec![(Need::Write, gone)]);
        assert_eq!(diagnose(&found).unwrap().0, Trouble::NoBucket);
    }

    #[test]
    fn rights_that_are_missing_are_all_named_but_for_those_that_nothing_depends_on() {
        let denied = |operation| error(operation, ErrorKind::Denied, 403, "AccessDenied");
        let check = |failed: Vec<(Need, BucketError)>, expected: Option<Trouble>| {
            let found = findings(failed);
            assert_eq!(diagnose(&found).map(|(trouble, _)| trouble), expected);
        };
        check(Vec::new(), None);
        check(
            vec![(Need::ListUploads, denied("ListMultipartUploads"))],
            None,
        );
        check(
            vec![
                (Need::List, denied("ListObjectsV2")),
                (Need::Delete, denied("DeleteObject")),
            ],
            Some(Trouble::Missing(vec![Need::List, Need::Delete])),
        );
        check(
            vec![(Need::Read, error("GetObject", ErrorKind::Refused, 0, ""))],
            Some(Trouble::Other),
        );
    }
}
