//! Servers that lack something: without what can be done without, the client goes on; of the rest it says what is lacking.

use std::sync::Arc;

use bytes::Bytes;
use spotter_bucket::{Bucket, CompletedPart, ErrorKind, S3Bucket, S3Options, Target, prove};
use spotter_sim::s3::{Fault, Order};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{BUCKET, ID, SECRET, Server, credentials};

/// An object of a server that knows one and never reads a part of it.
const OBJECT: &str = "0123456789";

#[tokio::test]
async fn a_server_that_cannot_list_parts_is_proved_and_warned_of() {
    for status in [501, 400, 404, 405] {
        let server = Server::start().await;
        let bucket = server.client();
        let code = if status == 501 {
            "NotImplemented"
        } else {
            "No"
        };
        let fault = Fault::Status {
            status,
            code: code.to_owned(),
        };
        let order = Order {
            count: None,
            ..Order::next("ListParts", 1, fault)
        };
        server.board().inject(order);
        prove(&bucket, "p").await.unwrap();
        let found = bucket.probe("p").await.unwrap();
        assert!(!found.lists_parts && !found.crc32_uploads, "{found:?}");
        let warnings = found.verdict(true).warnings;
        assert!(
            warnings
                .iter()
                .any(|text| text.contains("cannot list parts")),
            "{warnings:?}"
        );
        assert_eq!(bucket.list("").await.unwrap(), [], "{status}");
        assert_eq!(bucket.list_uploads("").await.unwrap(), [], "{status}");
    }
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_named_as_such() {
    for head in [
        format!("Content-Length: {}\r\nConnection: close", OBJECT.len()),
        // The length is known when it is over.
        "Connection: close".to_owned(),
    ] {
        let bucket = answered_with(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{OBJECT}")).await;
        for range in [0..4, 3..9] {
            let err = bucket.get("p/k", Some(range)).await.unwrap_err();
            assert_eq!(
                (err.kind, err.message.as_str()),
                (ErrorKind::Refused, "the server does not read ranges"),
                "{head}"
            );
        }
        let all = Some(0..OBJECT.len() as u64);
        let read = bucket.get("p/k", all).await.unwrap();
        assert_eq!(read, Bytes::from_static(OBJECT.as_bytes()));
    }
}

#[tokio::test]
async fn a_name_that_a_server_signs_otherwise_is_no_fault_of_the_keys() {
    let server = Server::start().await;
    let bucket = server.client();
    let odd = "p/100%.bin";
    let body = Bytes::from_static(OBJECT.as_bytes());
    let refuse = |path: &str| {
        let fault = Fault::Status {
            status: 403,
            code: "SignatureDoesNotMatch".to_owned(),
        };
        let order = Order::next("PutObject", 1, fault);
        server.board().inject(Order {
            path: Some(path.to_owned()),
            ..order
        });
    };
    let kind = async |key: &str| {
        let err = bucket.put(key, body.clone()).await.unwrap_err();
        (err.kind, err.code.is_some())
    };
    refuse("100");
    assert_eq!(
        kind(odd).await,
        (ErrorKind::Denied, true),
        "nothing is known of the keys"
    );
    bucket.put("p/plain.bin", body.clone()).await.unwrap();
    refuse("100");
    assert_eq!(
        kind(odd).await,
        (ErrorKind::Refused, false),
        "the keys are good"
    );
    refuse("plain");
    assert_eq!(kind("p/plain.bin").await, (ErrorKind::Denied, true));
    *server.keys.lock().unwrap() = Some(credentials(ID, "another", None));
    refuse("100");
    assert_eq!(
        kind(odd).await,
        (ErrorKind::Denied, true),
        "of these nothing is known"
    );
}

#[tokio::test]
async fn an_upload_that_is_gone_is_told_from_a_server_in_trouble() {
    let server = Server::start().await;
    let bucket = server.client();
    let body = Bytes::from_static(OBJECT.as_bytes());
    let id = bucket.create_upload("p/k").await.unwrap();
    let etag = bucket.upload_part("p/k", &id, 1, body.clone()).await;
    let parts = [CompletedPart {
        number: 1,
        etag: etag.unwrap(),
    }];
    for expected in [ErrorKind::Transient, ErrorKind::NotFound] {
        for operation in ["UploadPart", "CompleteMultipartUpload"] {
            let order = Order::next(operation, 1, Fault::InternalError);
            server.board().inject(order);
        }
        let sent = bucket.upload_part("p/k", &id, 1, body.clone()).await;
        let err = sent.unwrap_err();
        assert_eq!((err.operation, err.kind), ("UploadPart", expected));
        let done = bucket.complete_upload("p/k", &id, &parts).await;
        let err = done.unwrap_err();
        assert_eq!(
            (err.operation, err.kind),
            ("CompleteMultipartUpload", expected)
        );
        bucket.abort_upload("p/k", &id).await.unwrap();
    }
}

/// A bucket of a server that gives the same answer to everything, and closes the connection.
async fn answered_with(answer: String) -> S3Bucket {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => asked.push(byte),
                    Err(_) => break,
                }
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let target = Target::parse(&format!("s3://{BUCKET}/p"), Some(&url), None).unwrap();
    let keys = credentials(ID, SECRET, None);
    let options = S3Options::default();
    S3Bucket::new(target, Arc::new(move || Some(keys.clone())), options).unwrap()
}
