//! Which keys a box gets, and what is said of those that it does not get.

use super::*;

const EXPIRED: &str = "CreateMultipartUpload runs/a: it has expired (ExpiredToken)";
const WRONG: &str = "CreateMultipartUpload runs/a: no (SignatureDoesNotMatch)";
const UNKNOWN: &str = "CreateMultipartUpload runs/a: no (InvalidAccessKeyId)";
const DENIED: &str = "CreateMultipartUpload runs/a: this key may not do that (AccessDenied)";
const SILENT: &str = "no answer in 15 s";

#[test]
fn keys_replace_what_a_box_holds_where_they_are_better() {
    use Decision::{Hand, Keep};
    let refused = |why: &str| Trial::Refused(why.to_owned());
    let unclear = Trial::Unclear(SILENT.to_owned());
    let lacks_rights = Held::Refused(KeyFault::Denied);
    let ended = Held::Refused(KeyFault::Expired);
    let table = [
        // What works is what a box needs.
        (Held::Fine, Trial::Works, false, Hand),
        (Held::Nothing, Trial::Works, false, Hand),
        (ended, Trial::Works, false, Hand),
        (lacks_rights, Trial::Works, true, Hand),
        // What is refused never replaces what works.
        (Held::Fine, refused(EXPIRED), false, Keep),
        (Held::Fine, refused(WRONG), false, Keep),
        (Held::Fine, refused(UNKNOWN), false, Keep),
        (Held::Fine, refused(DENIED), false, Keep),
        // Nor what is no worse.
        (ended, refused(WRONG), false, Keep),
        (lacks_rights, refused(UNKNOWN), false, Keep),
        (lacks_rights, refused(DENIED), true, Keep),
        // Rights may come back; a box without any keys loses nothing.
        (ended, refused(DENIED), false, Hand),
        (lacks_rights, refused(DENIED), false, Hand),
        (Held::Nothing, refused(WRONG), false, Hand),
        // A laptop without a network says nothing of keys.
        (Held::Fine, unclear.clone(), false, Keep),
        (Held::Nothing, unclear.clone(), false, Hand),
        (ended, unclear.clone(), false, Hand),
        (ended, unclear, true, Keep),
    ];
    for (held, trial, given, expected) in table {
        let found = decide(held, &trial, given);
        assert_eq!(found, expected, "{held:?} {trial:?} {given}");
    }
}

#[test]
fn what_a_box_holds_is_read_from_what_it_says() {
    let minute_us = 60_000_000;
    let table = [
        ("", None, Held::Fine),
        (
            "PutObject k: broken pipe (tried 9 times in 80 s)",
            None,
            Held::Fine,
        ),
        (
            "ListObjectsV2 k: no bucket keys are known",
            None,
            Held::Nothing,
        ),
        (
            "the bucket refuses our keys: PutObject k: no (ExpiredToken)",
            None,
            Held::Refused(KeyFault::Expired),
        ),
        (
            "the bucket refuses our keys: HeadObject k: the server answered with status 403",
            None,
            Held::Refused(KeyFault::Denied),
        ),
        (
            "PutObject k: no (AccessDenied)",
            None,
            Held::Refused(KeyFault::Denied),
        ),
        ("", Some(10 * minute_us), Held::Fine),
        ("", Some(5 * minute_us), Held::Refused(KeyFault::Expired)),
    ];
    for (problem, keys_expire_us, expected) in table {
        let backup = BackupInfo {
            problem: Some(problem.to_owned()).filter(|problem| !problem.is_empty()),
            keys_expire_us,
            ..BackupInfo::default()
        };
        let now_us = 5 * minute_us as i64;
        assert_eq!(
            Held::of(&backup, now_us),
            expected,
            "{problem} {keys_expire_us:?}"
        );
    }
}

#[test]
fn keys_are_told_apart_by_all_of_their_parts() {
    let keys = |id: &str, secret: &str, token: Option<&str>| {
        stamp(&Credentials {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: token.map(str::to_owned),
            expires_us: None,
        })
    };
    assert_eq!(keys("a", "b", None), keys("a", "b", None));
    for other in [
        keys("ab", "", None),
        keys("a", "c", None),
        keys("a", "b", Some("t")),
    ] {
        assert_ne!(keys("a", "b", None), other);
    }
}

#[test]
fn what_is_said_of_keys_that_stay_here() {
    let kept = Kept {
        run: "story",
        bucket: "s3://bucket/runs",
        source: Some("the environment"),
        usd_per_hour: 0.423,
    };
    let ended = Held::Refused(KeyFault::Expired);
    let mut said: Vec<String> = [EXPIRED, WRONG, UNKNOWN, DENIED]
        .into_iter()
        .map(|why| kept.text(Held::Fine, &Trial::Refused(why.to_owned())))
        .collect();
    said.push(kept.text(ended, &Trial::Refused(WRONG.to_owned())));
    said.push(kept.text(Held::Fine, &Trial::Unclear(SILENT.to_owned())));
    insta::assert_snapshot!("kept", said.join("\n"));
}
