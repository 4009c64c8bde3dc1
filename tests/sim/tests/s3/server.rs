//! What the server must check although our own client never gets it wrong: asked with signed requests made by hand.

use std::time::SystemTime;

use bytes::Bytes;
use reqwest::{Method, Response};
use spotter_bucket::{
    Bucket, CompletedPart,
    s3::sign::{Unsigned, payload_sha256, signed_headers},
};

use crate::{BUCKET, ID, SECRET, Server, credentials};

/// Sends a signed request with these headers; `claimed` is the payload that is signed, `sent` the one that is sent.
async fn ask(
    server: &Server,
    (method, path): (Method, &str),
    headers: &[(&'static str, &str)],
    claimed: &[u8],
    sent: Bytes,
) -> (u16, String, Option<String>) {
    let url = format!("{}/{BUCKET}/{path}", server.handle.url());
    let headers: Vec<(&'static str, String)> = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    let sha256 = payload_sha256(claimed);
    let unsigned = Unsigned {
        method: method.as_str(),
        url: &url,
        headers: &headers,
        payload_sha256: &sha256,
    };
    let signed = signed_headers(
        &unsigned,
        &credentials(ID, SECRET, None),
        "us-east-1",
        SystemTime::now(),
    )
    .unwrap();
    let mut request = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .request(method, &url)
        .body(sent);
    for header in signed {
        request = request.header(header.name, header.value);
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    read(request.send().await.unwrap()).await
}

async fn read(response: Response) -> (u16, String, Option<String>) {
    let status = response.status().as_u16();
    let etag = response
        .headers()
        .get("etag")
        .map(|value| value.to_str().unwrap().to_owned());
    (status, response.text().await.unwrap(), etag)
}

#[tokio::test]
async fn a_body_that_is_not_as_signed_or_announced_is_refused() {
    let server = Server::start().await;
    let bucket = server.client();
    let sent = Bytes::from_static(b"hello");
    let put = || (Method::PUT, "k");
    let (status, text, _) = ask(&server, put(), &[], b"other", sent.clone()).await;
    assert!(
        status == 400 && text.contains("XAmzContentSHA256Mismatch"),
        "{status} {text}"
    );
    for (name, right, wrong) in [
        (
            "content-md5",
            "XUFAKrxLKna5cZ2REBfFkg==",
            "AAAAAAAAAAAAAAAAAAAAAA==",
        ),
        ("x-amz-checksum-crc32", "NhCmhg==", "AAAAAA=="),
        ("x-amz-checksum-crc32c", "mnG7TA==", "AAAAAA=="),
        (
            "x-amz-checksum-sha1",
            "qvTGHdzF6KLavt4PO0gs2a6pQ00=",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ),
        (
            "x-amz-checksum-sha256",
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ),
    ] {
        let (status, text, _) = ask(&server, put(), &[(name, wrong)], b"hello", sent.clone()).await;
        assert!(
            status == 400 && text.contains("BadDigest"),
            "{name}: {status} {text}"
        );
        assert_eq!(bucket.head("k").await.unwrap(), None, "{name}");
        let (status, text, etag) =
            ask(&server, put(), &[(name, right)], b"hello", sent.clone()).await;
        assert_eq!(
            (status, etag.as_deref()),
            (200, Some("\"5d41402abc4b2a76b9719d911017c592\"")),
            "{name}: {text}"
        );
        bucket.delete("k").await.unwrap();
    }
}

#[tokio::test]
async fn conditions_of_writes_and_reads_hold() {
    let server = Server::start().await;
    let body = Bytes::from_static(b"hello");
    let tag = "\"5d41402abc4b2a76b9719d911017c592\"";
    let check =
        async |method: Method, path: &str, headers: &[(&'static str, &str)], expected: u16| {
            let body = if method == Method::PUT {
                body.clone()
            } else {
                Bytes::new()
            };
            let (status, text, _) = ask(
                &server,
                (method.clone(), path),
                headers,
                &body,
                body.clone(),
            )
            .await;
            assert_eq!(status, expected, "{method} {path} {headers:?}: {text}");
        };
    check(Method::PUT, "k", &[("if-match", tag)], 404).await;
    check(Method::PUT, "k", &[("if-none-match", "*")], 200).await;
    check(Method::PUT, "k", &[("if-none-match", "*")], 412).await;
    check(Method::PUT, "k", &[("if-match", "\"stale\"")], 412).await;
    check(Method::PUT, "k", &[("if-match", tag)], 200).await;
    check(Method::GET, "k", &[("if-match", tag)], 200).await;
    check(Method::GET, "k", &[("if-match", "\"stale\"")], 412).await;
    check(Method::GET, "k", &[("if-none-match", tag)], 304).await;
    check(Method::DELETE, "k", &[("if-match", "\"stale\"")], 412).await;
    check(Method::DELETE, "k", &[("if-match", tag)], 204).await;

    let bucket = server.client();
    let id = bucket.create_upload("k").await.unwrap();
    let etag = bucket.upload_part("k", &id, 1, body.clone()).await.unwrap();
    bucket.put("k", body.clone()).await.unwrap();
    let complete = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"{etag}\"</ETag></Part></CompleteMultipartUpload>"
    );
    let path = format!("k?uploadId={id}");
    let ask = |headers: &'static [(&'static str, &str)]| {
        let sent = Bytes::from(complete.clone());
        ask(
            &server,
            (Method::POST, &path),
            headers,
            complete.as_bytes(),
            sent,
        )
    };
    assert_eq!(ask(&[("if-none-match", "*")]).await.0, 412);
    bucket.delete("k").await.unwrap();
    let (status, text, _) = ask(&[("if-none-match", "*")]).await;
    // md5 over the md5s of the parts, and their number.
    assert!(
        status == 200 && text.contains("62109206880d38a4010a98e11243924a-1"),
        "{text}"
    );
    assert_eq!(ask(&[]).await.0, 200, "asked again, it answers the same");
}

/// Other servers are lax here, so it is no part of the contract; AWS is not.
#[tokio::test]
async fn what_only_strict_servers_refuse_is_refused() {
    let server = Server::start().await;
    let bucket = server.client();
    let part = |number, etag: &str| CompletedPart {
        number,
        etag: etag.to_owned(),
    };
    let id = bucket.create_upload("k").await.unwrap();
    let mut tags = Vec::new();
    for number in 1..=2 {
        let body = Bytes::from(vec![number as u8; 100]);
        tags.push(bucket.upload_part("k", &id, number, body).await.unwrap());
    }
    for (what, parts, code) in [
        (
            "parts out of order",
            [part(2, &tags[1]), part(1, &tags[0])],
            "InvalidPartOrder",
        ),
        (
            "a small part that is not the last",
            [part(1, &tags[0]), part(2, &tags[1])],
            "EntityTooSmall",
        ),
    ] {
        let err = bucket.complete_upload("k", &id, &parts).await.unwrap_err();
        assert_eq!(err.code.as_deref(), Some(code), "{what}: {err}");
        assert_eq!(bucket.head("k").await.unwrap(), None, "{what}");
        assert_eq!(
            bucket.list_parts("k", &id).await.unwrap().len(),
            2,
            "{what}"
        );
    }
    let again = bucket
        .upload_part("k", &id, 1, Bytes::from_static(b"other"))
        .await
        .unwrap();
    assert_ne!(again, tags[0], "another part replaces it");
    bucket.abort_upload("k", &id).await.unwrap();
    for key in ["k", "k/below"] {
        bucket.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    assert_eq!(bucket.list("k").await.unwrap().len(), 2, "no folders");
}

#[tokio::test]
async fn strangers_and_forged_requests_are_refused() {
    let server = Server::start().await;
    server
        .client()
        .put("k", Bytes::from_static(b"x"))
        .await
        .unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/{BUCKET}/k", server.handle.url());
    assert_eq!(
        client.get(&url).send().await.unwrap().status().as_u16(),
        403,
        "nothing is public"
    );
    let forged = client.get(&url).header("x-amz-date", "20200101T000000Z");
    let (status, text, _) = read(forged.send().await.unwrap()).await;
    assert!(status == 403 && text.contains("<ServerTime>"), "{text}");
    assert_eq!(
        client
            .put(&url)
            .body("x")
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        403
    );
}

#[tokio::test]
async fn listings_come_in_pages_and_several_objects_go_at_once() {
    let server = Server::start().await;
    let bucket = server.client();
    let keys: Vec<String> = (0..1203).map(|at| format!("many/{at:05}")).collect();
    for chunk in keys.chunks(100) {
        futures::future::try_join_all(chunk.iter().map(|key| bucket.put(key, Bytes::new())))
            .await
            .unwrap();
    }
    server
        .board()
        .apply(serde_json::json!({"reset_counts": true}))
        .unwrap();
    let listed: Vec<String> = bucket
        .list("many/")
        .await
        .unwrap()
        .into_iter()
        .map(|object| object.key)
        .collect();
    assert_eq!(
        (listed == keys, server.board().count("ListObjectsV2")),
        (true, 2)
    );

    let uploads: Vec<String> = (0..3).map(|at| format!("open/{at}")).collect();
    for key in &uploads {
        bucket.create_upload(key).await.unwrap();
    }
    let mut marker = String::new();
    for key in &uploads {
        let path = format!("?uploads&prefix=open%2F&max-uploads=1{marker}");
        let (status, text, _) = ask(&server, (Method::GET, &path), &[], b"", Bytes::new()).await;
        assert!(
            status == 200 && text.contains(&format!("<Key>{key}</Key>")),
            "{text}"
        );
        marker = format!("&key-marker={}", key.replace('/', "%2F"));
    }
    let objects: String = keys[..1000]
        .iter()
        .map(|key| format!("<Object><Key>{key}</Key></Object>"))
        .collect();
    let body = format!("<Delete>{objects}<Quiet>true</Quiet></Delete>");
    let (status, text, _) = ask(
        &server,
        (Method::POST, "?delete"),
        &[],
        body.as_bytes(),
        Bytes::from(body.clone()),
    )
    .await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(bucket.list("many/").await.unwrap().len(), 203);
}
