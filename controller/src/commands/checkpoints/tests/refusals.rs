//! What a bucket that says no is told as, and what may help.

use std::sync::Arc;

use spotter_bucket::{BucketError, ErrorKind, Target, memory::MemoryBucket};

use super::desk::Desk;
use crate::{checkpoints::Shelf, commands::checkpoints::hint_of, credentials::ENVIRONMENT};

#[test]
fn a_bucket_that_says_no_is_told_with_the_reason_and_what_may_help() {
    let mut desk = Desk::new();
    desk.push(1);
    let check = |words: &[&str], expected: &[&str]| {
        let (code, _, err) = desk.say(words);
        assert_eq!(code, 1, "{err}");
        for text in expected {
            assert!(err.contains(text), "{text} in {err}");
        }
    };
    desk.bucket.fail_next("*", 100, ErrorKind::Denied);
    let keys = "hint: the keys that were found here need that right under s3://bucket/team/run";
    check(
        &["ls", "run"],
        &["error: the checkpoints of `run` were not listed", keys],
    );
    check(&["verify", "run"], &["were not verified", keys]);
    check(&["prune", "run"], &["were not pruned", keys]);
    desk.bucket.heal();
    desk.bucket.set_read_only(true);
    check(&["pin", "run", "1"], &["was not pinned", keys]);
    // Keys that may only read are enough to bring one here.
    assert_eq!(desk.say(&["pull", "run", "--to", &desk.to()]).0, 0);
}

#[test]
fn what_may_help_goes_by_what_the_server_said_and_by_where_the_keys_came_from() {
    let target = Target::parse("s3://bucket/team", Some("http://minio:9000"), None).unwrap();
    let mut shelf = Shelf::new(Arc::new(MemoryBucket::new()), &target, "run").unwrap();
    let mut check = |from: Option<&str>, status, code: &str, kind, expected: &str| {
        shelf.keys_from = from.map(str::to_owned);
        let err = BucketError {
            operation: "ListObjectsV2",
            key: "team/run/commits/".to_owned(),
            kind,
            status,
            code: Some(code.to_owned()),
            message: "no".to_owned(),
        };
        let hint = hint_of(&shelf, &err).unwrap();
        assert!(hint.starts_with(expected), "{hint}");
    };
    let (denied, environment) = (ErrorKind::Denied, Some(ENVIRONMENT));
    for code in ["InvalidAccessKeyId", "SignatureDoesNotMatch"] {
        check(
            environment,
            403,
            code,
            denied,
            "http://minio:9000 does not accept the keys from the environment: they belong to another server, were deleted, or the secret is \
             not that of the id; see `spotter doctor bucket s3://bucket/team`",
        );
    }
    check(
        environment,
        400,
        "ExpiredToken",
        denied,
        "the keys from the environment have ended: export new ones (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN), then \
         try again",
    );
    check(
        Some("profile `lab`, single sign-on"),
        400,
        "ExpiredToken",
        denied,
        "the keys from profile `lab`, single sign-on have ended: log in anew with `aws sso login --profile lab`, then try again",
    );
    check(
        environment,
        403,
        "AccessDenied",
        denied,
        "the keys from the environment need that right under s3://bucket/team/run: export others,",
    );
    check(
        None,
        403,
        "AccessDenied",
        denied,
        "the keys that were found here need that right under s3://bucket/team/run: choose others with AWS_PROFILE",
    );
    let full = "the disk of http://minio:9000 is full: make room there: ";
    check(None, 507, "XMinioStorageFull", ErrorKind::Transient, full);
    let used =
        "what `bucket`, or its owner, may hold is used up: raise the quota, or make room there: ";
    check(None, 403, "QuotaExceeded", denied, used);
}
