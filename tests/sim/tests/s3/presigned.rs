//! A client without keys against our server: what was signed for it works, and nothing else does.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use spotter_bucket::{
    Batch, Bucket, CompletedPart, ErrorKind, Grant, Layout, Manifest, ManifestFile, S3Bucket,
    S3Options, Stock, Vault, manifest,
};
use spotter_sim::s3::AccessKey;

use crate::{ID, SECRET, Server, credentials};

const HOUR: Duration = Duration::from_secs(3600);
const PART: usize = 5 << 20;

fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros() as u64
}

fn layout() -> Layout {
    Layout::new("p", "run").unwrap()
}

/// A client that has this batch and nothing else.
fn box_with(server: &Server, batch: Batch, now_us: fn() -> u64) -> S3Bucket {
    let stock = Arc::new(Stock::new(&layout(), now_us));
    stock.add(batch);
    let target = server.client().target().clone();
    S3Bucket::granted(target, stock, S3Options::default()).unwrap()
}

#[tokio::test]
async fn a_box_without_keys_stores_and_reads_what_was_signed_for_it() {
    let server = Server::start().await;
    let owner = server.client();
    let id = owner.create_upload("p/run/data/lot/ü 2").await.unwrap();
    let signer = owner.presigner(HOUR).unwrap();
    owner
        .put("p/run/data/old/x", Bytes::from_static(b"old"))
        .await
        .unwrap();
    let grants = vec![
        signer.put("p/run/data/lot/1 a+b").unwrap(),
        signer.upload("p/run/data/lot/ü 2", &id, 2).unwrap(),
        signer.read("p/run/data/old/x").unwrap(),
    ];
    let bucket = box_with(&server, signer.batch(grants).unwrap(), now_us);

    let body = Bytes::from_static(b"0123456789");
    let small = "p/run/data/a/small.txt";
    assert_eq!(bucket.head(small).await.unwrap(), None);
    bucket.put(small, body.clone()).await.unwrap();
    assert_eq!(bucket.get(small, None).await.unwrap(), body);
    assert_eq!(bucket.get(small, Some(2..5)).await.unwrap(), "234");
    assert_eq!(bucket.head(small).await.unwrap().unwrap().size_bytes, 10);
    assert_eq!(bucket.stored_as(small), "p/run/data/lot/1 a+b");
    assert_eq!(owner.get("p/run/data/lot/1 a+b", None).await.unwrap(), body);
    assert_eq!(bucket.get("p/run/data/old/x", None).await.unwrap(), "old");

    let large = "p/run/data/a/large.bin";
    let upload = bucket.create_upload_of(large, 2).await.unwrap();
    let content = vec![7_u8; PART + 10];
    let mut parts = Vec::new();
    for (number, part) in [(1, &content[..PART]), (2, &content[PART..])] {
        let part = Bytes::copy_from_slice(part);
        let etag = bucket
            .upload_part(large, &upload, number, part)
            .await
            .unwrap();
        parts.push(CompletedPart { number, etag });
    }
    assert_eq!(bucket.list_parts(large, &upload).await.unwrap().len(), 2);
    bucket
        .complete_upload(large, &upload, &parts)
        .await
        .unwrap();
    assert_eq!(
        owner.get("p/run/data/lot/ü 2", None).await.unwrap(),
        content
    );

    // All that was signed for is used.
    let err = bucket
        .put("p/run/data/a/more", body.clone())
        .await
        .unwrap_err();
    assert_eq!((err.kind, err.status), (ErrorKind::Denied, 0));
    assert_eq!(
        bucket.create_upload(large).await.unwrap_err().kind,
        ErrorKind::Denied
    );
    bucket.delete(small).await.unwrap();
    assert!(
        owner.head("p/run/data/lot/1 a+b").await.unwrap().is_some(),
        "it cannot delete"
    );
    server.handle.stop().await;
}

#[tokio::test]
async fn a_signature_is_good_for_its_own_request_until_its_end_alone() {
    let server = Server::start().await;
    let body = Bytes::from_static(b"x");
    let owner = server.client();
    let signer = owner.presigner(HOUR).unwrap();
    let other = signer.put("p/run/data/lot/2").unwrap();
    let stolen = Grant {
        key: "p/run/data/lot/1".to_owned(),
        ..other
    };
    let bucket = box_with(&server, signer.batch(vec![stolen]).unwrap(), now_us);
    let err = bucket
        .put("p/run/data/a/x", body.clone())
        .await
        .unwrap_err();
    assert_eq!((err.kind, err.status), (ErrorKind::Denied, 403), "{err}");

    // Signed three hours ago for one, by a box whose clock has not moved since.
    let past = server.client_at(-3.0 * 3600.0).presigner(HOUR).unwrap();
    let grants = vec![past.put("p/run/data/lot/3").unwrap()];
    let then = || now_us() - 3 * 3600 * 1_000_000;
    let bucket = box_with(&server, past.batch(grants).unwrap(), then);
    let err = bucket
        .put("p/run/data/a/x", body.clone())
        .await
        .unwrap_err();
    assert_eq!((err.kind, err.status), (ErrorKind::Denied, 403), "{err}");
    let signature = err.to_string();
    assert!(!signature.contains("X-Amz-Signature="), "{signature}");
    assert!(owner.list("p/run/").await.unwrap().is_empty());
    server.handle.stop().await;
}

#[tokio::test]
async fn keys_that_end_sign_for_as_long_as_they_live_and_their_token_goes_along() {
    let server = Server::start().await;
    let mut key = AccessKey::new("ASIASESSION", SECRET);
    key.session_token = Some("to+ken/=".to_owned());
    server.board().set_key(key);
    let mut session = credentials("ASIASESSION", SECRET, Some("to+ken/="));
    session.expires_us = Some(now_us() + 2 * 3600 * 1_000_000);
    *server.keys.lock().unwrap() = Some(session);
    let owner = server.client();
    let signer = owner.presigner(7 * 24 * HOUR).unwrap();
    assert!(signer.expires_us() < now_us() + 2 * 3600 * 1_000_000);
    let grants = vec![signer.put("p/run/data/lot/1").unwrap()];
    let bucket = box_with(&server, signer.batch(grants).unwrap(), now_us);
    let body = Bytes::from_static(b"x");
    bucket.put("p/run/data/a/x", body.clone()).await.unwrap();
    assert_eq!(owner.get("p/run/data/lot/1", None).await.unwrap(), body);

    let mut ended = credentials(ID, SECRET, None);
    ended.expires_us = Some(now_us() + 1_000_000);
    *server.keys.lock().unwrap() = Some(ended);
    assert!(owner.presigner(HOUR).is_none(), "they end at once");
    server.handle.stop().await;
}

#[tokio::test]
async fn a_commit_that_waits_is_put_where_it_belongs_and_never_comes_back() {
    let server = Server::start().await;
    let (owner, layout) = (server.client(), layout());
    let place = layout.waiting_key(&ulid::Ulid::generate());
    let id = "000000000012-01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let mut manifest = Manifest {
        v: manifest::FORMAT,
        id: id.to_owned(),
        run: "run".to_owned(),
        attempt: 1,
        step: Some(12),
        rule: "generic".to_owned(),
        path: "x".to_owned(),
        directory: false,
        committed_us: 1,
        server_us: 1,
        prev: None,
        metric: None,
        files: vec![ManifestFile {
            path: String::new(),
            mode: 0o644,
            mtime_ns: 0,
            size_bytes: 1,
            blake3: "0".repeat(64),
            key: "p/run/data/lot/1".to_owned(),
            part_size_bytes: 0,
            parts: Vec::new(),
        }],
        encoding: None,
        self_blake3: String::new(),
    };
    let bytes = manifest.seal();
    owner.put(&place, bytes.clone()).await.unwrap();
    let damaged = layout.waiting_key(&ulid::Ulid::generate());
    owner.put(&damaged, bytes.slice(1..)).await.unwrap();

    let vault = Vault {
        bucket: &owner,
        layout: &layout,
        run: "run",
    };
    let now_s = (now_us() / 1_000_000) as i64;
    let adopted = vault.adopt(now_s).await.unwrap();
    assert_eq!(adopted.new, 1);
    assert_eq!(adopted.passed_over.len(), 1);
    assert!(adopted.passed_over[0].starts_with(&damaged));
    assert_eq!(vault.adopt(now_s).await.unwrap().new, 0, "it is there");
    assert!(
        owner.head(&place).await.unwrap().is_some(),
        "who put it may read it back"
    );
    let all = vault.read_all().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].1.as_ref().unwrap(), &manifest);

    // Deleted while its place was still filled.
    assert!(vault.bury(&all[0].0, "test", now_us()).await.unwrap());
    assert_eq!(vault.adopt(now_s + 120).await.unwrap().new, 0);
    assert!(vault.ids().await.unwrap().is_empty());
    assert_eq!(owner.head(&place).await.unwrap(), None);
    assert!(
        owner.head(&damaged).await.unwrap().is_some(),
        "for people to look at"
    );
    server.handle.stop().await;
}
