//! Each switch of the server, and what a client sees of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use spotter_bucket::{Bucket, CompletedPart, ErrorKind, S3Options, prove};
use spotter_sim::s3::{AccessKey, Fault, Order, Rights};

use crate::{ID, SECRET, Server, credentials};

const BODY: Bytes = Bytes::from_static(b"the content of an object");

#[tokio::test]
async fn every_refusal_reaches_the_caller_with_its_kind() {
    let server = Server::start().await;
    let bucket = server.client();
    for (fault, kind, status, code) in [
        (Fault::SlowDown, ErrorKind::Transient, 503, "SlowDown"),
        (
            Fault::InternalError,
            ErrorKind::Transient,
            500,
            "InternalError",
        ),
        (Fault::NoSpace, ErrorKind::Transient, 507, "StorageFull"),
        (Fault::Denied, ErrorKind::Denied, 403, "AccessDenied"),
        (Fault::ExpiredToken, ErrorKind::Denied, 400, "ExpiredToken"),
        (
            Fault::Status {
                status: 409,
                code: "OperationAborted".into(),
            },
            ErrorKind::Transient,
            409,
            "OperationAborted",
        ),
        (
            Fault::Status {
                status: 418,
                code: "Teapot".into(),
            },
            ErrorKind::Refused,
            418,
            "Teapot",
        ),
    ] {
        server.board().apply(json!({"reset_counts": true})).unwrap();
        server.board().inject(Order::next("PutObject", 1, fault));
        let err = bucket.put("p/k", BODY).await.unwrap_err();
        assert_eq!(
            (err.kind, err.status, err.code.as_deref()),
            (kind, status, Some(code)),
            "{err}"
        );
        assert_eq!((err.operation, err.key.as_str()), ("PutObject", "p/k"));
        assert_eq!(
            server.board().count("PutObject"),
            1,
            "what the server answered is not repeated"
        );
        assert_eq!(
            bucket.head("p/k").await.unwrap(),
            None,
            "nothing was stored"
        );
    }
    bucket.put("p/k", BODY).await.expect("each came only once");
}

#[tokio::test]
async fn a_link_that_breaks_is_tried_again_a_handful_of_times() {
    let server = Server::start().await;
    let bucket = server.client();
    for fault in [
        Fault::ResetBeforeBody,
        Fault::ResetAfterBody,
        Fault::LoseAnswer,
        Fault::CutAnswer,
    ] {
        server.board().apply(json!({"reset_counts": true})).unwrap();
        server.board().inject(Order::next("*", 2, fault.clone()));
        bucket
            .put("p/k", BODY)
            .await
            .unwrap_or_else(|err| panic!("{fault:?}: {err}"));
        server.board().heal();
        assert_eq!(bucket.get("p/k", None).await.unwrap(), BODY, "{fault:?}");
    }
    server.board().apply(json!({"reset_counts": true})).unwrap();
    server.board().inject(Order {
        count: None,
        ..Order::next("GetObject", 1, Fault::ResetAfterBody)
    });
    let err = bucket.get("p/k", None).await.unwrap_err();
    assert_eq!((err.kind, err.status), (ErrorKind::Transient, 0), "{err}");
    assert_eq!(server.board().count("GetObject"), 4, "bounded");
}

#[tokio::test]
async fn a_cut_answer_is_never_taken_for_a_whole_one() {
    let server = Server::start().await;
    let bucket = server.client();
    let body: Bytes = vec![7; 3_000_000].into();
    bucket.put("p/k", body.clone()).await.unwrap();
    server.board().inject(Order {
        count: None,
        ..Order::next("GetObject", 1, Fault::CutAnswer)
    });
    assert_eq!(
        bucket.get("p/k", None).await.unwrap_err().kind,
        ErrorKind::Transient
    );
    assert_eq!(
        bucket
            .get("p/k", Some(5..2_000_000))
            .await
            .unwrap_err()
            .kind,
        ErrorKind::Transient
    );
    server.board().heal();
    assert_eq!(bucket.get("p/k", None).await.unwrap(), body);
}

#[tokio::test]
async fn a_lost_answer_to_complete_is_an_error_and_the_object_is_there() {
    let server = Server::start().await;
    let bucket = server.client();
    let id = bucket.create_upload("p/k").await.unwrap();
    let etag = bucket.upload_part("p/k", &id, 1, BODY).await.unwrap();
    let parts = [CompletedPart { number: 1, etag }];
    server
        .board()
        .inject(Order::next("CompleteMultipartUpload", 1, Fault::LoseAnswer));
    let err = bucket
        .complete_upload("p/k", &id, &parts)
        .await
        .unwrap_err();
    assert_eq!((err.kind, err.status), (ErrorKind::Transient, 0), "{err}");
    assert_eq!(
        server.board().count("CompleteMultipartUpload"),
        1,
        "the caller looks before it asks again"
    );
    let info = bucket
        .head("p/k")
        .await
        .unwrap()
        .expect("it was carried out");
    assert_eq!(info.size_bytes, BODY.len() as u64);
    let again = bucket
        .complete_upload("p/k", &id, &parts)
        .await
        .expect("AWS remembers what it completed");
    assert_eq!(again, info.etag);
}

#[tokio::test]
async fn a_torn_object_is_told_by_its_size_only() {
    let server = Server::start().await;
    let bucket = server.client();
    server
        .board()
        .inject(Order::next("PutObject", 1, Fault::Torn));
    let etag = bucket
        .put("p/k", BODY)
        .await
        .expect("the server says that all is well");
    let info = bucket.head("p/k").await.unwrap().unwrap();
    assert_eq!((info.etag, info.size_bytes), (etag, BODY.len() as u64 / 2));
    assert_eq!(
        bucket.get("p/k", None).await.unwrap(),
        BODY.slice(..BODY.len() / 2)
    );
}

#[tokio::test]
async fn damage_in_the_store_is_seen_by_nobody_who_does_not_hash() {
    let server = Server::start().await;
    let bucket = server.client();
    bucket.put("p/k", BODY).await.unwrap();
    let before = bucket.head("p/k").await.unwrap();
    server
        .board()
        .apply(json!({"corrupt": {"bucket": "runs", "key": "p/k"}}))
        .unwrap();
    assert_eq!(bucket.head("p/k").await.unwrap(), before);
    let read = bucket.get("p/k", None).await.unwrap();
    assert!(read != BODY && read.len() == BODY.len());
}

#[tokio::test]
async fn a_server_that_stalls_runs_into_the_time_limit_once() {
    let server = Server::start().await;
    let bucket = server.client_with(S3Options {
        base_timeout: Duration::from_millis(300),
        ..S3Options::default()
    });
    server
        .board()
        .inject(Order::next("HeadObject", 1, Fault::StallMs(60_000)));
    let err = bucket.head("p/k").await.unwrap_err();
    assert_eq!((err.kind, err.status), (ErrorKind::Transient, 0));
    assert!(err.message.contains("no answer in"), "{err}");
    assert_eq!(
        server.board().count("HeadObject"),
        1,
        "not four times as long"
    );
    server
        .board()
        .inject(Order::next("HeadObject", 1, Fault::StallMs(20)));
    assert_eq!(
        server.client().head("p/k").await.unwrap(),
        None,
        "a short stall is only waited out"
    );
}

#[tokio::test]
async fn a_slow_server_is_waited_for_while_it_is_faster_than_the_floor() {
    let server = Server::start().await;
    let bucket = server.client_with(S3Options {
        base_timeout: Duration::from_secs(5),
        ..S3Options::default()
    });
    server.board().inject(Order {
        count: None,
        ..Order::next("*", 1, Fault::BytesPerS(200_000))
    });
    let body: Bytes = vec![1; 100_000].into();
    let began = Instant::now();
    bucket.put("p/k", body.clone()).await.unwrap();
    assert!(
        began.elapsed() >= Duration::from_millis(450),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(bucket.get("p/k", None).await.unwrap(), body);
    let answer = server.board().apply(json!({"heal": true})).unwrap();
    assert_eq!(answer["bytes_in"], 100_000);
    assert!(answer["bytes_out"].as_u64().unwrap() >= 100_000, "{answer}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_corrected_and_learned() {
    let server = Server::start().await;
    for offset_s in [-7200.0, 7200.0] {
        let bucket = server.client_at(offset_s);
        assert_eq!(
            bucket.clock_offset_s(),
            0.0,
            "nothing is known before the first answer"
        );
        server.board().apply(json!({"reset_counts": true})).unwrap();
        bucket
            .put("p/k", BODY)
            .await
            .unwrap_or_else(|err| panic!("{offset_s}: {err}"));
        bucket.put("p/k", BODY).await.unwrap();
        assert_eq!(
            server.board().count("PutObject"),
            3,
            "one refusal, then never again"
        );
        assert!(
            (bucket.clock_offset_s() + offset_s).abs() < 5.0,
            "{offset_s}: {}",
            bucket.clock_offset_s()
        );
    }
    // The server's clock is the wrong one: that is of no consequence to the client, which follows it.
    server
        .board()
        .apply(json!({"clock_offset_s": 36_000}))
        .unwrap();
    let bucket = server.client();
    bucket.put("p/k", BODY).await.unwrap();
    assert!((bucket.clock_offset_s() - 36_000.0).abs() < 5.0);
}

#[tokio::test]
async fn a_date_header_that_lies_costs_one_request() {
    let server = Server::start().await;
    server
        .board()
        .apply(json!({"date_offset_s": 7200}))
        .unwrap();
    let bucket = server.client();
    for _ in 0..4 {
        bucket
            .put("p/k", BODY)
            .await
            .expect("the refusal is believed over the header");
    }
    assert_eq!(server.board().count("PutObject"), 5);
}

#[tokio::test]
async fn keys_may_change_end_and_be_narrowed_while_a_client_runs() {
    let server = Server::start().await;
    let bucket = server.client();
    bucket.put("p/k", BODY).await.unwrap();
    let board = server.board();
    let denied = |err: spotter_bucket::BucketError, code: &str| {
        assert_eq!(
            (err.kind, err.code.as_deref()),
            (ErrorKind::Denied, Some(code)),
            "{err}"
        );
        assert!(!format!("{err:?}").contains(SECRET));
    };

    board.set_key(AccessKey {
        rights: Rights::ReadOnly,
        ..AccessKey::new(ID, SECRET)
    });
    assert_eq!(bucket.get("p/k", None).await.unwrap(), BODY);
    denied(bucket.put("p/k", BODY).await.unwrap_err(), "AccessDenied");
    denied(
        bucket.create_upload("p/k").await.unwrap_err(),
        "AccessDenied",
    );
    denied(prove(&bucket, "p").await.unwrap_err(), "AccessDenied");

    board.set_key(AccessKey {
        rights: Rights::NoDelete,
        ..AccessKey::new(ID, SECRET)
    });
    bucket.put("p/k", BODY).await.unwrap();
    denied(bucket.delete("p/k").await.unwrap_err(), "AccessDenied");

    board.set_key(AccessKey {
        prefix: Some("p/".into()),
        ..AccessKey::new(ID, SECRET)
    });
    bucket.put("p/k", BODY).await.unwrap();
    assert_eq!(bucket.list("p/").await.unwrap().len(), 1);
    denied(bucket.put("q/k", BODY).await.unwrap_err(), "AccessDenied");
    denied(bucket.list("").await.unwrap_err(), "AccessDenied");

    *server.keys.lock().unwrap() = None;
    let err = bucket.head("p/k").await.unwrap_err();
    assert_eq!(
        (err.kind, err.status),
        (ErrorKind::Denied, 0),
        "without keys nothing is sent"
    );

    let key = json!({"access_key": "TMP", "secret_key": "tmp", "session_token": "tok/en+=", "expires_in_s": 3600});
    board.apply(json!({"key": key})).unwrap();
    *server.keys.lock().unwrap() = Some(credentials("TMP", "tmp", Some("tok/en+=")));
    prove(&bucket, "p")
        .await
        .expect("the new keys are used at once");
    *server.keys.lock().unwrap() = Some(credentials("TMP", "tmp", Some("another")));
    denied(bucket.put("p/k", BODY).await.unwrap_err(), "InvalidToken");
    *server.keys.lock().unwrap() = Some(credentials("TMP", "tmp", None));
    denied(bucket.put("p/k", BODY).await.unwrap_err(), "InvalidToken");
    let key = json!({"access_key": "TMP", "secret_key": "tmp", "session_token": "tok/en+=", "expires_in_s": -1});
    board.apply(json!({"key": key})).unwrap();
    *server.keys.lock().unwrap() = Some(credentials("TMP", "tmp", Some("tok/en+=")));
    denied(bucket.put("p/k", BODY).await.unwrap_err(), "ExpiredToken");
    board.apply(json!({"drop_key": "TMP"})).unwrap();
    denied(
        bucket.put("p/k", BODY).await.unwrap_err(),
        "InvalidAccessKeyId",
    );
    *server.keys.lock().unwrap() = Some(credentials(ID, "wrong", None));
    denied(
        bucket.put("p/k", BODY).await.unwrap_err(),
        "SignatureDoesNotMatch",
    );
}

#[tokio::test]
async fn an_upload_goes_on_where_list_parts_says_even_after_a_restart_of_both_sides() {
    let server = Server::start().await;
    let part = |number: u8| Bytes::from(vec![number; (5 << 20) + usize::from(number)]);
    let id = {
        let bucket = server.client();
        let id = bucket.create_upload("p/k").await.unwrap();
        for number in [1, 3] {
            bucket
                .upload_part("p/k", &id, number.into(), part(number))
                .await
                .unwrap();
        }
        id
    };
    let Server { handle, dir, keys } = server;
    handle.stop().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = spotter_sim::s3::S3Config {
        buckets: vec![],
        keys: vec![AccessKey::new(ID, SECRET)],
    };
    let handle = spotter_sim::s3::serve(dir.path().join("s3"), listener, config).unwrap();
    let server = Server { handle, dir, keys };

    let bucket = server.client();
    let open = bucket.list_uploads("p/").await.unwrap();
    assert_eq!((open.len(), open[0].upload_id.as_str()), (1, id.as_str()));
    assert!(
        open[0].initiated_s > 1_700_000_000,
        "the server says when it began"
    );
    let have = bucket.list_parts("p/k", &id).await.unwrap();
    assert_eq!(
        have.iter().map(|part| part.number).collect::<Vec<_>>(),
        [1, 3]
    );
    bucket.upload_part("p/k", &id, 2, part(2)).await.unwrap();
    let all = bucket.list_parts("p/k", &id).await.unwrap();
    let named = |part: &spotter_bucket::ListedPart| CompletedPart {
        number: part.number,
        etag: part.etag.clone(),
    };
    let parts: Vec<CompletedPart> = all.iter().map(named).collect();
    bucket.complete_upload("p/k", &id, &parts).await.unwrap();
    assert_eq!(
        bucket.get("p/k", None).await.unwrap(),
        [part(1), part(2), part(3)].concat()
    );
}
