//! What every [`Bucket`] promises, as one suite that runs against memory and against real servers alike.
//!
//! Each promise is a function of its own; [`bucket_contract`] runs them all below a prefix and leaves nothing there.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    bucket::{Bucket, CompletedPart, ErrorKind},
    prove::prove,
};

/// Smallest part that is not the last, bytes.
const PART_BYTES: usize = 5 << 20;

/// Runs every promise against `bucket`, below `prefix` (without a trailing slash). Panics with the promise that was broken.
pub async fn bucket_contract(bucket: Arc<dyn Bucket>, prefix: &str) {
    let bucket = bucket.as_ref();
    let below = |name: &str| format!("{prefix}/{name}");
    what_is_put_can_be_read_measured_and_deleted(bucket, &below("whole")).await;
    a_range_ends_before_its_end_and_at_the_objects_end(bucket, &below("range")).await;
    what_is_missing_is_named_as_such(bucket, &below("missing")).await;
    keys_with_strange_characters_are_kept_apart(bucket, &below("strange")).await;
    a_listing_is_in_key_order_and_ends_with_the_prefix(bucket, &below("list")).await;
    an_upload_is_invisible_until_it_is_complete(bucket, &below("upload")).await;
    an_aborted_upload_leaves_nothing(bucket, &below("abort")).await;
    a_complete_that_does_not_fit_is_refused_and_can_be_mended(bucket, &below("mend")).await;
    calls_may_be_repeated(bucket, &below("repeat")).await;
    prove(bucket, prefix)
        .await
        .expect("a bucket that keeps its promises can be proved");

    let left = bucket.list(&format!("{prefix}/")).await.unwrap();
    assert!(left.is_empty(), "the suite leaves nothing behind: {left:?}");
    let open = bucket.list_uploads(&format!("{prefix}/")).await.unwrap();
    assert!(
        open.is_empty(),
        "the suite leaves no upload behind: {open:?}"
    );
}

async fn what_is_put_can_be_read_measured_and_deleted(bucket: &dyn Bucket, prefix: &str) {
    for (name, size) in [("empty", 0), ("one", 1), ("some", 100_000)] {
        let key = format!("{prefix}/{name}");
        let body = content(size, 1);
        let etag = bucket.put(&key, body.clone()).await.unwrap();
        assert!(
            !etag.is_empty() && !etag.contains('"'),
            "a tag without quotes: {etag}"
        );
        assert_eq!(bucket.get(&key, None).await.unwrap(), body, "{name}");
        let info = bucket.head(&key).await.unwrap().expect("it was just put");
        assert_eq!(
            (info.size_bytes, info.etag),
            (size as u64, etag.clone()),
            "{name}"
        );
        let again = bucket.put(&key, content(size + 1, 2)).await.unwrap();
        assert_ne!(again, etag, "another content has another tag");
        assert_eq!(
            bucket.get(&key, None).await.unwrap(),
            content(size + 1, 2),
            "the newer content is read"
        );
        bucket.delete(&key).await.unwrap();
        assert_eq!(bucket.head(&key).await.unwrap(), None);
    }
}

async fn a_range_ends_before_its_end_and_at_the_objects_end(bucket: &dyn Bucket, prefix: &str) {
    let key = format!("{prefix}/object");
    let body = content(1000, 3);
    bucket.put(&key, body.clone()).await.unwrap();
    for range in [0..1, 0..1000, 10..20, 999..1000, 0..0, 5..5] {
        let expected = body.slice(range.start as usize..range.end as usize);
        assert_eq!(
            bucket.get(&key, Some(range.clone())).await.unwrap(),
            expected,
            "{range:?}"
        );
    }
    assert_eq!(
        bucket.get(&key, Some(990..2000)).await.unwrap(),
        body.slice(990..),
        "cut at the object's end"
    );
    let beyond = bucket.get(&key, Some(1000..1001)).await.unwrap_err();
    assert_eq!((beyond.kind, beyond.status), (ErrorKind::Refused, 416));
    bucket.delete(&key).await.unwrap();
}

async fn what_is_missing_is_named_as_such(bucket: &dyn Bucket, prefix: &str) {
    let key = format!("{prefix}/nothing");
    assert_eq!(bucket.head(&key).await.unwrap(), None);
    assert_eq!(
        bucket.get(&key, None).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    assert_eq!(
        bucket.get(&key, Some(0..1)).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    bucket
        .delete(&key)
        .await
        .expect("deleting what is not there succeeds");
    assert!(bucket.list(&key).await.unwrap().is_empty());
    assert!(bucket.list_uploads(&key).await.unwrap().is_empty());
    let id = bucket.create_upload(&key).await.unwrap();
    bucket.abort_upload(&key, &id).await.unwrap();
    bucket
        .abort_upload(&key, &id)
        .await
        .expect("dropping what is not there succeeds");
    let part = bucket
        .upload_part(&key, &id, 1, Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert_eq!(part.kind, ErrorKind::NotFound, "{part}");
    assert_eq!(
        bucket.list_parts(&key, &id).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    let parts = [CompletedPart {
        number: 1,
        etag: "0123456789abcdef0123456789abcdef".to_owned(),
    }];
    assert_eq!(
        bucket
            .complete_upload(&key, &id, &parts)
            .await
            .unwrap_err()
            .kind,
        ErrorKind::NotFound
    );
}

async fn keys_with_strange_characters_are_kept_apart(bucket: &dyn Bucket, prefix: &str) {
    let names = [
        "a b",
        "a+b",
        "a%20b",
        "ä/ö €",
        "x=1&y=2",
        "q?u#e",
        "it's (1)*!",
        "<&>\"",
        "back\\slash",
        "~tilde",
        "a:b,c;d@e$f",
    ];
    let keys: Vec<String> = names
        .iter()
        .map(|name| format!("{prefix}/{name}"))
        .collect();
    for (at, key) in keys.iter().enumerate() {
        bucket
            .put(key, content(10, at as u8))
            .await
            .unwrap_or_else(|err| panic!("{key}: {err}"));
    }
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(
            bucket.get(key, None).await.unwrap(),
            content(10, at as u8),
            "{key}"
        );
        assert!(bucket.head(key).await.unwrap().is_some(), "{key}");
    }
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(listed(bucket, &format!("{prefix}/")).await, sorted);
    assert_eq!(
        listed(bucket, &format!("{prefix}/a b")).await,
        [format!("{prefix}/a b")]
    );
    for key in &keys {
        let id = bucket.create_upload(key).await.unwrap();
        let open = bucket.list_uploads(key).await.unwrap();
        assert!(
            open.iter()
                .any(|upload| upload.key == *key && upload.upload_id == id),
            "{key}: {open:?}"
        );
        bucket.abort_upload(key, &id).await.unwrap();
        bucket.delete(key).await.unwrap();
    }
}

async fn a_listing_is_in_key_order_and_ends_with_the_prefix(bucket: &dyn Bucket, prefix: &str) {
    let names = ["b", "a/2", "a/10", "a.b", "a0", "A", "a/1/x"];
    for name in names {
        bucket
            .put(&format!("{prefix}/{name}"), content(name.len(), 0))
            .await
            .unwrap();
    }
    let full = |names: &[&str]| {
        names
            .iter()
            .map(|name| format!("{prefix}/{name}"))
            .collect::<Vec<_>>()
    };
    let all = full(&["A", "a.b", "a/1/x", "a/10", "a/2", "a0", "b"]);
    assert_eq!(listed(bucket, &format!("{prefix}/")).await, all);
    assert_eq!(
        listed(bucket, &format!("{prefix}/a/")).await,
        full(&["a/1/x", "a/10", "a/2"])
    );
    assert_eq!(
        listed(bucket, &format!("{prefix}/a/1")).await,
        full(&["a/1/x", "a/10"])
    );
    for object in bucket.list(&format!("{prefix}/")).await.unwrap() {
        let info = bucket
            .head(&object.key)
            .await
            .unwrap()
            .expect("it was just listed");
        assert_eq!(
            (object.size_bytes, object.etag),
            (info.size_bytes, info.etag),
            "{}",
            object.key
        );
        bucket.delete(&object.key).await.unwrap();
    }
}

async fn an_upload_is_invisible_until_it_is_complete(bucket: &dyn Bucket, prefix: &str) {
    let key = format!("{prefix}/object");
    // Of one size but for the last, as some servers want them.
    let bodies = [
        content(PART_BYTES, 1),
        content(PART_BYTES, 2),
        content(3, 3),
    ];
    let id = bucket.create_upload(&key).await.unwrap();
    // Out of order and one of them twice, as a resumed upload would.
    let mut parts = Vec::new();
    bucket
        .upload_part(&key, &id, 2, bodies[1].clone())
        .await
        .unwrap();
    for number in [3, 1, 2] {
        let etag = bucket
            .upload_part(&key, &id, number, bodies[number as usize - 1].clone())
            .await
            .unwrap();
        parts.push(CompletedPart { number, etag });
    }
    parts.sort_by_key(|part| part.number);
    assert_eq!(
        bucket.head(&key).await.unwrap(),
        None,
        "invisible before Complete"
    );
    assert!(bucket.list(&key).await.unwrap().is_empty());
    let open = bucket.list_uploads(prefix).await.unwrap();
    assert_eq!(
        open.iter()
            .map(|upload| (upload.key.as_str(), upload.upload_id.as_str()))
            .collect::<Vec<_>>(),
        [(key.as_str(), id.as_str())]
    );
    let by_server = bucket.list_parts(&key, &id).await.unwrap();
    for (listed, (part, body)) in by_server.iter().zip(parts.iter().zip(&bodies)) {
        assert_eq!(
            (listed.number, &listed.etag, listed.size_bytes),
            (part.number, &part.etag, body.len() as u64)
        );
    }
    assert_eq!(by_server.len(), 3);

    bucket.complete_upload(&key, &id, &parts).await.unwrap();
    let whole = Bytes::from(bodies.concat());
    let info = bucket
        .head(&key)
        .await
        .unwrap()
        .expect("visible after Complete");
    assert_eq!(info.size_bytes, whole.len() as u64);
    assert_eq!(bucket.get(&key, None).await.unwrap(), whole);
    let middle = PART_BYTES as u64 - 2..PART_BYTES as u64 + 2;
    let expected = whole.slice(middle.start as usize..middle.end as usize);
    assert_eq!(
        bucket.get(&key, Some(middle)).await.unwrap(),
        expected,
        "across a seam"
    );
    assert!(
        bucket.list_uploads(prefix).await.unwrap().is_empty(),
        "no longer open"
    );
    bucket.delete(&key).await.unwrap();
}

async fn an_aborted_upload_leaves_nothing(bucket: &dyn Bucket, prefix: &str) {
    let key = format!("{prefix}/object");
    bucket.put(&key, content(5, 1)).await.unwrap();
    let id = bucket.create_upload(&key).await.unwrap();
    let other = bucket.create_upload(&key).await.unwrap();
    assert_ne!(id, other);
    bucket
        .upload_part(&key, &id, 1, content(10, 2))
        .await
        .unwrap();
    bucket.abort_upload(&key, &id).await.unwrap();
    let open: Vec<String> = bucket
        .list_uploads(prefix)
        .await
        .unwrap()
        .into_iter()
        .map(|upload| upload.upload_id)
        .collect();
    assert!(
        open == [other.as_str()],
        "the other upload of the same key goes on: {open:?}"
    );
    assert_eq!(
        bucket.get(&key, None).await.unwrap(),
        content(5, 1),
        "the object of before is untouched"
    );
    bucket.abort_upload(&key, &other).await.unwrap();
    bucket.delete(&key).await.unwrap();
}

async fn a_complete_that_does_not_fit_is_refused_and_can_be_mended(
    bucket: &dyn Bucket,
    prefix: &str,
) {
    let key = format!("{prefix}/object");
    let part = |number, etag: &str| CompletedPart {
        number,
        etag: etag.to_owned(),
    };
    let bodies = [content(PART_BYTES, 1), content(9, 2)];
    let mut id = bucket.create_upload(&key).await.unwrap();
    let mut tags = send(bucket, &key, &id, &bodies).await;
    for what in ["a wrong tag", "a part that was never sent"] {
        let bad = match what {
            "a wrong tag" => [part(1, &tags[1]), part(2, &tags[1])],
            _ => [part(1, &tags[0]), part(3, &tags[1])],
        };
        let err = bucket
            .complete_upload(&key, &id, &bad)
            .await
            .expect_err(what);
        assert_eq!(err.kind, ErrorKind::Refused, "{what}: {err}");
        assert_eq!(bucket.head(&key).await.unwrap(), None, "{what}");
        // Some servers drop an upload that they refused to complete: then it says that it is gone, and is begun anew.
        match bucket.list_parts(&key, &id).await {
            Ok(there) => assert_eq!(there.len(), 2, "{what}"),
            Err(err) => {
                assert_eq!(err.kind, ErrorKind::NotFound, "{what}: {err}");
                id = bucket.create_upload(&key).await.unwrap();
                tags = send(bucket, &key, &id, &bodies).await;
            }
        }
    }
    assert_eq!(
        send(bucket, &key, &id, &bodies).await,
        tags,
        "parts may be sent again"
    );
    bucket
        .complete_upload(&key, &id, &[part(1, &tags[0]), part(2, &tags[1])])
        .await
        .expect("mended");
    assert_eq!(
        bucket.get(&key, None).await.unwrap(),
        Bytes::from(bodies.concat())
    );
    bucket.delete(&key).await.unwrap();
}

/// Sends parts, numbered from 1, and returns their tags.
async fn send(bucket: &dyn Bucket, key: &str, id: &str, bodies: &[Bytes]) -> Vec<String> {
    let mut tags = Vec::new();
    for (number, body) in (1..).zip(bodies) {
        let tag = bucket
            .upload_part(key, id, number, body.clone())
            .await
            .unwrap();
        tags.push(tag);
    }
    tags
}

async fn calls_may_be_repeated(bucket: &dyn Bucket, prefix: &str) {
    let key = format!("{prefix}/object");
    let first = bucket.put(&key, content(50, 1)).await.unwrap();
    assert_eq!(
        bucket.put(&key, content(50, 1)).await.unwrap(),
        first,
        "the same content has the same tag"
    );
    let id = bucket.create_upload(&key).await.unwrap();
    let tag = bucket
        .upload_part(&key, &id, 1, content(60, 1))
        .await
        .unwrap();
    assert_eq!(
        bucket
            .upload_part(&key, &id, 1, content(60, 1))
            .await
            .unwrap(),
        tag
    );
    let parts = [CompletedPart {
        number: 1,
        etag: tag,
    }];
    let etag = bucket.complete_upload(&key, &id, &parts).await.unwrap();
    let object = bucket.head(&key).await.unwrap();
    assert!(object.is_some());
    match bucket.complete_upload(&key, &id, &parts).await {
        // AWS remembers; others have forgotten the upload, and the caller looks at the object.
        Ok(again) => assert_eq!(again, etag),
        Err(err) => assert_eq!(err.kind, ErrorKind::NotFound, "{err}"),
    }
    assert_eq!(bucket.head(&key).await.unwrap(), object, "as it was");
    bucket.delete(&key).await.unwrap();
    bucket.delete(&key).await.unwrap();
}

async fn listed(bucket: &dyn Bucket, prefix: &str) -> Vec<String> {
    bucket
        .list(prefix)
        .await
        .unwrap()
        .into_iter()
        .map(|object| object.key)
        .collect()
}

/// Bytes that differ by seed and place.
fn content(size: usize, seed: u8) -> Bytes {
    (0..size)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBucket;

    #[tokio::test]
    async fn the_bucket_in_memory_keeps_every_promise() {
        bucket_contract(Arc::new(MemoryBucket::new()), "pre/fix").await;
    }
}
