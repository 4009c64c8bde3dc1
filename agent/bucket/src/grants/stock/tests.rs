//! A box without keys, and what it may do with what it was given.

use super::super::SIGNATURE_BYTES;
use super::*;

const HOUR_US: u64 = 3_600_000_000;

fn now_us() -> u64 {
    HOUR_US
}

fn stock() -> Stock {
    Stock::new(&Layout::new("p", "run").unwrap(), now_us)
}

/// A grant whose n-th signature is made of the number n.
fn grant(key: &str, upload_id: &str, signatures: u8) -> Grant {
    Grant {
        key: format!("p/run/{key}"),
        upload_id: upload_id.to_owned(),
        signatures: (0..signatures)
            .flat_map(|number| [number; SIGNATURE_BYTES])
            .collect(),
    }
}

fn batch(hours: u64, grants: Vec<Grant>) -> Batch {
    Batch {
        query: "X-Amz-Date=now".to_owned(),
        expires_us: now_us() + hours * HOUR_US,
        grants,
    }
}

fn key(relative: &str) -> String {
    format!("p/run/{relative}")
}

#[track_caller]
fn check(
    stock: &Stock,
    method: &Method,
    relative: &str,
    query: &[(&'static str, &str)],
    expected: Result<(&str, u8), ErrorKind>,
) {
    let found = stock.sign(method, &key(relative), query);
    let found = found.map(|granted| (granted.key, granted.query));
    let expected = expected.map(|(place, number)| {
        let signature = hex::encode([number; SIGNATURE_BYTES]);
        let query = format!("X-Amz-Date=now&X-Amz-Signature={signature}");
        (key(place), query)
    });
    assert_eq!(found, expected, "{method} {relative} {query:?}");
}

#[test]
fn an_object_keeps_the_place_it_took_and_another_gets_the_next() {
    let stock = stock();
    stock.add(batch(
        1,
        vec![grant("data/lot/1", "", 3), grant("data/lot/2", "", 3)],
    ));
    check(
        &stock,
        &Method::GET,
        "data/a/x",
        &[],
        Err(ErrorKind::NotFound),
    );
    check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));
    check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));
    check(&stock, &Method::GET, "data/a/x", &[], Ok(("data/lot/1", 0)));
    check(
        &stock,
        &Method::HEAD,
        "data/lot/1",
        &[],
        Ok(("data/lot/1", 1)),
    );
    assert_eq!(stock.stored_as(&key("data/a/x")), key("data/lot/1"));
    assert_eq!(stock.stored_as(&key("data/a/y")), key("data/a/y"));
    check(&stock, &Method::PUT, "data/a/y", &[], Ok(("data/lot/2", 2)));
    check(
        &stock,
        &Method::PUT,
        "data/a/z",
        &[],
        Err(ErrorKind::Denied),
    );
    stock.add(batch(1, vec![grant("data/lot/3", "", 3)]));
    check(&stock, &Method::PUT, "data/a/z", &[], Ok(("data/lot/3", 2)));
}

#[test]
fn what_the_bucket_refuses_is_used_up_as_soon_as_something_else_is_signed() {
    let stock = stock();
    let first = vec![
        grant("data/lot/1", "", 3),
        grant("data/lot/2", "", 3),
        grant("data/lot/u", "id", 6),
        grant("commits/waiting-1.json", "", 3),
    ];
    stock.add(batch(1, first));
    check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));
    assert_eq!(stock.begin(&key("data/a/big"), 2).unwrap(), "id");
    assert_eq!(stock.left().0, 1);
    let sent = "X-Amz-Date=now&X-Amz-Signature=00";
    // A read that is refused may only mean that there is nothing.
    stock.answered(sent, true, Some("AccessDenied"));
    assert_eq!(stock.left().0, 1);
    stock.answered(sent, true, Some("InvalidAccessKeyId"));
    assert_eq!(stock.left().0, 0);
    // It was a moment's mood.
    stock.answered(sent, false, None);
    assert_eq!(stock.left().0, 1);
    stock.answered(sent, false, Some("AccessDenied"));
    assert_eq!(stock.left().0, 0);
    // Until there is something else it is tried again as it is.
    check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));

    let mut second = batch(
        2,
        vec![
            grant("data/lot/3", "", 3),
            grant("data/lot/u", "id", 7),
            grant("commits/waiting-2.json", "", 3),
        ],
    );
    second.query = "X-Amz-Date=later".to_owned();
    stock.add(second);
    assert_eq!(stock.left().0, 1);
    let put = stock.sign(&Method::PUT, &key("data/a/x"), &[]).unwrap();
    assert_eq!(put.key, key("data/lot/3"));
    assert!(put.query.starts_with("X-Amz-Date=later&"), "{}", put.query);
    // An upload that was begun goes on with the same id, and with more parts.
    let part = [("partNumber", "3"), ("uploadId", "id")];
    let sent = stock.sign(&Method::PUT, &key("data/a/big"), &part).unwrap();
    assert!(
        sent.query.starts_with("X-Amz-Date=later&"),
        "{}",
        sent.query
    );
    assert_eq!(sent.key, key("data/lot/u"));
}

#[test]
fn what_the_bucket_refuses_gives_way_to_what_else_was_signed_before() {
    let stock = stock();
    let of = |query: &str, file: &str, commit: &str| {
        let mut signed = batch(2, vec![grant(file, "", 3), grant(commit, "", 3)]);
        signed.query = format!("X-Amz-Date={query}");
        signed
    };
    stock.add(of("first", "data/lot/1", "commits/waiting-1.json"));
    stock.add(of("second", "data/lot/2", "commits/waiting-2.json"));
    let put = |relative: &str| {
        let put = stock.sign(&Method::PUT, &key(relative), &[]).unwrap();
        (put.key, put.query)
    };
    let (place, sent) = put("data/a/x");
    assert_eq!(place, key("data/lot/1"));
    stock.answered(&sent, false, Some("AccessDenied"));
    let (place, again) = put("data/a/x");
    assert_eq!(place, key("data/lot/2"));
    assert_eq!(put("commits/x.json").0, key("commits/waiting-2.json"));
    // Nothing else is left: it is tried again as it is.
    stock.answered(&again, false, Some("AccessDenied"));
    assert_eq!(put("data/a/x").0, key("data/lot/2"));
}

#[test]
fn an_upload_that_is_signed_anew_outlives_its_first_grant() {
    let stock = stock();
    stock.add(batch(1, vec![grant("data/lot/u", "id", 6)]));
    assert_eq!(stock.begin(&key("data/a/big"), 2).unwrap(), "id");
    let part = [("partNumber", "2"), ("uploadId", "id")];
    let mut renewed = batch(9, vec![grant("data/lot/u", "id", 6)]);
    renewed.query = "X-Amz-Date=later".to_owned();
    stock.add(renewed.clone());
    let sent = stock.sign(&Method::PUT, &key("data/a/big"), &part).unwrap();
    assert!(
        sent.query.starts_with("X-Amz-Date=later&"),
        "{}",
        sent.query
    );
    // One that was signed for fewer parts than it has is kept as it is; and none is there twice.
    renewed.grants[0].signatures.truncate(5 * SIGNATURE_BYTES);
    stock.add(renewed);
    assert!(stock.sign(&Method::PUT, &key("data/a/big"), &part).is_ok());
    assert_eq!(stock.begin(&key("data/a/more"), 1), Err(ErrorKind::Denied));
}

#[test]
fn places_are_for_their_own_part_of_the_run_and_others_for_one_name() {
    let stock = stock();
    stock.add(batch(
        1,
        vec![
            grant("commits/waiting-1.json", "", 3),
            grant("endings/3.json", "", 3),
            grant("data/lot/1", "", 3),
        ],
    ));
    for relative in [
        "results/a",
        "logs/1/train.0.0.log",
        "endings/2.json",
        "pins/a.json",
    ] {
        check(&stock, &Method::PUT, relative, &[], Err(ErrorKind::Denied));
    }
    let commit = "commits/000000000001-x.json";
    check(
        &stock,
        &Method::PUT,
        "endings/3.json",
        &[],
        Ok(("endings/3.json", 2)),
    );
    check(
        &stock,
        &Method::PUT,
        commit,
        &[],
        Ok(("commits/waiting-1.json", 2)),
    );
    check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));
}

#[test]
fn an_upload_takes_one_that_was_begun_for_enough_parts() {
    let stock = stock();
    stock.add(batch(
        1,
        vec![
            grant("data/lot/1", "one", 4 + 2),
            grant("data/lot/2", "two", 4 + 5),
        ],
    ));
    assert_eq!(stock.begin(&key("data/a/x"), 6), Err(ErrorKind::Denied));
    assert_eq!(stock.begin(&key("data/a/x"), 3), Ok("two".to_owned()));
    let part = |number| [("partNumber", number), ("uploadId", "two")];
    let of = [("uploadId", "two")];
    let place = "data/lot/2";
    check(&stock, &Method::PUT, "data/a/x", &part("1"), Ok((place, 4)));
    check(&stock, &Method::PUT, "data/a/x", &part("5"), Ok((place, 8)));
    check(
        &stock,
        &Method::PUT,
        "data/a/x",
        &part("6"),
        Err(ErrorKind::NotFound),
    );
    check(&stock, &Method::POST, "data/a/x", &of, Ok((place, 2)));
    check(&stock, &Method::GET, "data/a/x", &of, Ok((place, 3)));
    check(&stock, &Method::GET, "data/a/x", &[], Ok((place, 0)));
    let other = [("uploadId", "one")];
    check(
        &stock,
        &Method::POST,
        "data/a/x",
        &other,
        Err(ErrorKind::NotFound),
    );
    let page = [("part-number-marker", "1000"), ("uploadId", "two")];
    check(
        &stock,
        &Method::GET,
        "data/a/x",
        &page,
        Err(ErrorKind::NotFound),
    );
}

#[test]
fn what_is_there_is_listed_and_read_until_its_signatures_end() {
    let stock = stock();
    let commit = "commits/000000000001-x.json";
    stock.add(batch(
        1,
        vec![grant(commit, "", 2), grant("data/lot/9", "", 2)],
    ));
    let listed = stock.list(&key("commits/"));
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, key(commit));
    check(&stock, &Method::GET, commit, &[], Ok((commit, 0)));
    check(
        &stock,
        &Method::HEAD,
        "data/lot/9",
        &[],
        Ok(("data/lot/9", 1)),
    );
    // Somebody looked again: a mark came, and a commit is gone, whose reader may go on.
    let again = |grants: Vec<Grant>| Batch {
        query: "X-Amz-Date=later".to_owned(),
        ..batch(1, grants)
    };
    let mark = "damaged/000000000001-x.json";
    stock.add(again(vec![grant(mark, "", 2)]));
    stock.add(again(vec![
        grant("data/lot/9", "", 2),
        grant("data/lot/10", "", 3),
    ]));
    let listed = stock.list(&key(""));
    let listed: Vec<&str> = listed.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(listed, [key(mark), key("data/lot/9")]);
    check(&stock, &Method::GET, commit, &[], Ok((commit, 0)));

    let stock = self::stock();
    stock.add(batch(0, vec![grant(commit, "", 2)]));
    check(&stock, &Method::GET, commit, &[], Err(ErrorKind::Denied));
}

#[test]
fn what_ends_soon_is_no_place_any_more() {
    let stock = stock();
    let mut soon = batch(0, vec![grant("data/lot/1", "", 3)]);
    soon.expires_us += MARGIN_US;
    stock.add(soon);
    stock.add(batch(1, vec![grant("data/lot/2", "", 3)]));
    check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/2", 2)));
    check(
        &stock,
        &Method::PUT,
        "data/a/y",
        &[],
        Err(ErrorKind::Denied),
    );
}

#[test]
fn what_is_left_is_counted_in_checkpoints_like_the_last_and_told_once_when_low() {
    let stock = stock();
    assert_eq!(
        (stock.left(), stock.low(0)),
        ((0, 0), None),
        "nothing came yet"
    );
    let mut grants: Vec<Grant> = (0..5)
        .map(|number| grant(&format!("data/lot/{number}"), "", 3))
        .collect();
    for number in 0..3 {
        grants.push(grant(&format!("commits/waiting-{number}.json"), "", 3));
        grants.push(grant(&format!("data/lot/u{number}"), "id", 5));
    }
    stock.add(batch(2, grants));
    let end = now_us() + 2 * HOUR_US;
    assert_eq!((stock.left(), stock.low(HOUR_US)), ((3, end), None));
    let commit = |name: &str| {
        for file in ["x", "y"] {
            stock
                .sign(&Method::PUT, &key(&format!("data/{name}/{file}")), &[])
                .unwrap();
        }
        stock.begin(&key(&format!("data/{name}/z")), 1).unwrap();
        stock
            .sign(&Method::PUT, &key(&format!("commits/{name}.json")), &[])
            .unwrap();
    };
    commit("a");
    assert_eq!(
        (stock.left(), stock.low(HOUR_US)),
        ((1, end), None),
        "three files and two of each"
    );
    assert_eq!(
        stock.low(3 * HOUR_US),
        Some((1, end)),
        "it ends within three hours"
    );
    assert_eq!(stock.low(HOUR_US), None);
    commit("b");
    assert_eq!(stock.low(HOUR_US), Some((0, end)));
    assert_eq!(stock.low(HOUR_US), None, "told");
}
