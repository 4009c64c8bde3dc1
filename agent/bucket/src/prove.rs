//! Proves that a bucket can be used before anything depends on it: write, read back, size, delete, and an upload in parts.

use bytes::Bytes;
use rand::Rng;
use ulid::Ulid;

use crate::bucket::{Bucket, BucketError, ErrorKind};

/// Size of the object that is written, bytes.
const PROBE_BYTES: usize = 4096;

/// What the proof showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    /// Seconds that the server's clock is ahead of ours.
    pub clock_offset_s: f64,
}

/// Writes a random object under `prefix`, reads it back, asks its size and deletes it; then begins an upload in two parts, lists
/// them and aborts. Fails with the first call that failed; what was begun is cleaned up as far as the keys allow.
pub async fn prove(bucket: &dyn Bucket, prefix: &str) -> Result<Proof, BucketError> {
    let name = format!(".spotter-probe-{}", Ulid::generate());
    let key = match prefix.trim_matches('/') {
        "" => name,
        prefix => format!("{prefix}/{name}"),
    };
    let mut content = vec![0; PROBE_BYTES];
    rand::rng().fill_bytes(&mut content);
    let content = Bytes::from(content);

    bucket.put(&key, content.clone()).await?;
    let read = read_back(bucket, &key, &content).await;
    let deleted = bucket.delete(&key).await;
    read?;
    deleted?;
    if bucket.head(&key).await?.is_some() {
        return Err(wrong(
            "HeadObject",
            &key,
            "the object is still there after it was deleted",
        ));
    }

    let upload_id = bucket.create_upload(&key).await?;
    let uploaded = two_parts(bucket, &key, &upload_id, &content).await;
    let aborted = bucket.abort_upload(&key, &upload_id).await;
    uploaded?;
    aborted?;
    Ok(Proof {
        clock_offset_s: bucket.clock_offset_s(),
    })
}

async fn read_back(bucket: &dyn Bucket, key: &str, content: &Bytes) -> Result<(), BucketError> {
    if bucket.get(key, None).await? != content {
        return Err(wrong(
            "GetObject",
            key,
            "the object reads back other than it was written",
        ));
    }
    let middle = 1000..2000;
    if bucket.get(key, Some(1000..2000)).await? != content[middle] {
        return Err(wrong(
            "GetObject",
            key,
            "a range of the object reads back wrong",
        ));
    }
    match bucket.head(key).await? {
        Some(info) if info.size_bytes == content.len() as u64 => Ok(()),
        Some(info) => {
            let text = format!(
                "the object has {} bytes where {} were written",
                info.size_bytes,
                content.len()
            );
            Err(wrong("HeadObject", key, &text))
        }
        None => Err(wrong(
            "HeadObject",
            key,
            "the object that was just written is not there",
        )),
    }
}

async fn two_parts(
    bucket: &dyn Bucket,
    key: &str,
    upload_id: &str,
    content: &Bytes,
) -> Result<(), BucketError> {
    let mut sent = Vec::new();
    for number in 1..=2 {
        let etag = bucket
            .upload_part(key, upload_id, number, content.clone())
            .await?;
        sent.push((number, content.len() as u64, etag));
    }
    let listed = match bucket.list_parts(key, upload_id).await {
        Ok(listed) => listed,
        // An upload that is interrupted begins anew there.
        Err(err) if err.is_lacking() => return Ok(()),
        Err(err) => return Err(err),
    };
    let listed: Vec<_> = listed
        .into_iter()
        .map(|part| (part.number, part.size_bytes, part.etag))
        .collect();
    if listed != sent {
        return Err(wrong(
            "ListParts",
            key,
            "the parts that were just sent are not listed as sent",
        ));
    }
    Ok(())
}

fn wrong(operation: &'static str, key: &str, message: &str) -> BucketError {
    BucketError {
        operation,
        key: key.to_owned(),
        kind: ErrorKind::Refused,
        status: 0,
        code: None,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBucket;

    #[tokio::test]
    async fn a_good_bucket_is_proved_and_left_as_it_was() {
        let bucket = MemoryBucket::new();
        bucket.set_clock_offset_s(12.5);
        assert_eq!(
            prove(&bucket, "/runs/").await.unwrap(),
            Proof {
                clock_offset_s: 12.5
            }
        );
        assert_eq!(
            prove(&bucket, "").await.unwrap(),
            Proof {
                clock_offset_s: 12.5
            }
        );
        assert!(bucket.keys().is_empty() && bucket.open_uploads().is_empty());
    }

    #[tokio::test]
    async fn a_server_that_cannot_list_parts_is_good_enough() {
        for kind in [ErrorKind::Refused, ErrorKind::NotFound] {
            let bucket = MemoryBucket::new();
            bucket.fail_next("ListParts", 1, kind);
            prove(&bucket, "runs").await.unwrap();
            assert!(bucket.keys().is_empty() && bucket.open_uploads().is_empty());
        }
    }

    #[tokio::test]
    async fn whatever_fails_is_named_and_cleaned_up_after() {
        for (operation, kind) in [
            ("PutObject", ErrorKind::Denied),
            ("GetObject", ErrorKind::Denied),
            ("HeadObject", ErrorKind::Transient),
            ("CreateMultipartUpload", ErrorKind::Refused),
            ("UploadPart", ErrorKind::Denied),
            ("ListParts", ErrorKind::Denied),
            ("ListParts", ErrorKind::Transient),
        ] {
            let bucket = MemoryBucket::new();
            bucket.fail_next(operation, 1, kind);
            let err = prove(&bucket, "runs").await.unwrap_err();
            assert_eq!((err.operation, err.kind), (operation, kind));
            assert!(
                bucket.keys().is_empty() && bucket.open_uploads().is_empty(),
                "{operation}"
            );
        }
        for operation in ["DeleteObject", "AbortMultipartUpload"] {
            let bucket = MemoryBucket::new();
            bucket.fail_next(operation, 1, ErrorKind::Denied);
            assert_eq!(
                prove(&bucket, "runs").await.unwrap_err().operation,
                operation
            );
        }
    }
}
