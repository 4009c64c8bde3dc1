//! The bucket in memory, with counted faults: what tests of backup and restore run against.
//!
//! Strict where the strictest real server is strict (part sizes, part tags, unknown uploads), and every misbehaviour of a real one
//! can be ordered: failures by count, a lost answer, latency, damage.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    bucket::{
        Bucket, BucketError, CompletedPart, ErrorKind, ListedObject, ListedPart, ListedUpload,
        ObjectInfo,
    },
    manifest::{self, Manifest, ManifestFile},
};

mod state;

use state::{
    Fault, Object, State, Upload, assemble, error, no_such_key, now_s, open_upload, ordered, tag,
};

/// Smallest part that is not the last, bytes, as S3 has it.
pub const MIN_PART_BYTES: usize = 5 << 20;

/// The sealed manifest of results as a box that nobody came for leaves it: of one file, whose bytes are at `key`.
pub fn collection(run: &str, id: &str, path: &str, bytes: &[u8], key: &str) -> Bytes {
    let file = ManifestFile {
        path: path.to_owned(),
        mode: 0o644,
        mtime_ns: 1,
        size_bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
        key: key.to_owned(),
        part_size_bytes: 0,
        parts: Vec::new(),
    };
    let mut manifest = Manifest {
        v: manifest::FORMAT,
        id: id.to_owned(),
        run: run.to_owned(),
        attempt: 1,
        step: None,
        rule: "results".to_owned(),
        path: "results".to_owned(),
        directory: true,
        committed_us: 1,
        server_us: 1,
        prev: None,
        metric: None,
        files: vec![file],
        encoding: None,
        self_blake3: String::new(),
    };
    manifest.seal()
}

/// Objects and uploads in memory. Clones of an `Arc` of it see the same bucket.
#[derive(Default)]
pub struct MemoryBucket {
    state: Mutex<State>,
}

impl MemoryBucket {
    /// An empty bucket without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next `n` calls of `operation` fail. Operations by their S3 names: `PutObject`, `GetObject`, `HeadObject`,
    /// `DeleteObject`, `ListObjectsV2`, `CreateMultipartUpload`, `UploadPart`, `ListParts`, `CompleteMultipartUpload`,
    /// `AbortMultipartUpload`, `ListMultipartUploads`; `*` is any.
    pub fn fail_next(&self, operation: &str, n: u32, kind: ErrorKind) {
        self.fail_after(operation, 0, n, kind);
    }

    /// Lets `n` calls of `operation` fail after `after` that succeed ("the third put fails": `after` 2, `n` 1).
    pub fn fail_after(&self, operation: &str, after: u32, n: u32, kind: ErrorKind) {
        self.lock().faults.push(Fault {
            operation: operation.to_owned(),
            after,
            left: n,
            kind,
        });
    }

    /// Drops all faults that were ordered, latency too.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.lose_complete = 0;
        state.latency = Duration::ZERO;
        state.read_only = false;
    }

    /// The next `n` completes do their work and then lose the answer.
    pub fn lose_complete_answer(&self, n: u32) {
        self.lock().lose_complete = n;
    }

    /// Every call takes this long.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// What [`Bucket::clock_offset_s`] says.
    pub fn set_clock_offset_s(&self, offset_s: f64) {
        self.lock().offset_s = offset_s;
    }

    /// Denies everything that writes, as a key without that permission.
    pub fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// Flips a bit in the middle of an object, keeping size and tag: damage that only a hash finds. False when it is not there or empty.
    pub fn corrupt(&self, key: &str) -> bool {
        let mut state = self.lock();
        let Some(object) = state
            .objects
            .get_mut(key)
            .filter(|object| !object.body.is_empty())
        else {
            return false;
        };
        let mut body = object.body.to_vec();
        let middle = body.len() / 2;
        body[middle] ^= 1;
        object.body = body.into();
        true
    }

    /// Replaces or adds an object, past all faults.
    pub fn insert(&self, key: &str, body: impl Into<Bytes>) {
        let body = body.into();
        let etag = tag(&body);
        self.lock()
            .objects
            .insert(key.to_owned(), Object::new(body, etag));
    }

    /// Makes everything that is there so much older.
    pub fn grow_old(&self, by: Duration) {
        let by_s = by.as_secs() as i64;
        let mut state = self.lock();
        for object in state.objects.values_mut() {
            object.modified_s -= by_s;
        }
        for upload in state.uploads.values_mut() {
            upload.initiated_s -= by_s;
        }
    }

    /// Removes an object, past all faults; whether it was there.
    pub fn remove(&self, key: &str) -> bool {
        self.lock().objects.remove(key).is_some()
    }

    /// An object's bytes, past all faults.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.lock()
            .objects
            .get(key)
            .map(|object| object.body.clone())
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Keys of uploads that were begun and neither completed nor aborted.
    pub fn open_uploads(&self) -> Vec<String> {
        self.lock()
            .uploads
            .values()
            .map(|upload| upload.key.clone())
            .collect()
    }

    /// How often an operation was asked, failures included.
    pub fn count(&self, operation: &str) -> u64 {
        self.lock().counts.get(operation).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked while holding it has failed already; the others may go on.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts a call, waits the latency and gives the fault that is due, if one is.
    async fn call(&self, operation: &'static str, key: &str) -> Result<(), BucketError> {
        let latency = self.lock().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut state = self.lock();
        *state.counts.entry(operation).or_default() += 1;
        let writes = !matches!(
            operation,
            "GetObject" | "HeadObject" | "ListObjectsV2" | "ListParts" | "ListMultipartUploads"
        );
        if writes && state.read_only {
            return Err(error(
                operation,
                key,
                ErrorKind::Denied,
                403,
                "AccessDenied",
                "this key may only read",
            ));
        }
        let mut due = None;
        for fault in state
            .faults
            .iter_mut()
            .filter(|fault| fault.operation == operation || fault.operation == "*")
        {
            if fault.after > 0 {
                fault.after -= 1;
            } else if due.is_none() {
                fault.left -= 1;
                due = Some(fault.kind);
            }
        }
        state.faults.retain(|fault| fault.left > 0);
        match due {
            None => Ok(()),
            Some(kind) => Err(ordered(operation, key, kind)),
        }
    }
}

#[async_trait]
impl Bucket for MemoryBucket {
    async fn put(&self, key: &str, body: Bytes) -> Result<String, BucketError> {
        self.call("PutObject", key).await?;
        let etag = tag(&body);
        self.lock()
            .objects
            .insert(key.to_owned(), Object::new(body, etag.clone()));
        Ok(etag)
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        self.call("GetObject", key).await?;
        let state = self.lock();
        let Some(object) = state.objects.get(key) else {
            return Err(no_such_key("GetObject", key));
        };
        let Some(range) = range else {
            return Ok(object.body.clone());
        };
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let size = object.body.len() as u64;
        if range.start >= size {
            let text = format!("the object has {size} bytes, none from {}", range.start);
            return Err(error(
                "GetObject",
                key,
                ErrorKind::Refused,
                416,
                "InvalidRange",
                &text,
            ));
        }
        Ok(object
            .body
            .slice(range.start as usize..range.end.min(size) as usize))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, BucketError> {
        self.call("HeadObject", key).await?;
        let state = self.lock();
        let info = |object: &Object| ObjectInfo {
            size_bytes: object.body.len() as u64,
            etag: object.etag.clone(),
        };
        Ok(state.objects.get(key).map(info))
    }

    async fn delete(&self, key: &str) -> Result<(), BucketError> {
        self.call("DeleteObject", key).await?;
        self.lock().objects.remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, BucketError> {
        self.call("ListObjectsV2", prefix).await?;
        let state = self.lock();
        let below = state
            .objects
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix));
        Ok(below
            .map(|(key, object)| ListedObject {
                key: key.clone(),
                size_bytes: object.body.len() as u64,
                etag: object.etag.clone(),
                modified_s: object.modified_s,
            })
            .collect())
    }

    async fn create_upload(&self, key: &str) -> Result<String, BucketError> {
        self.call("CreateMultipartUpload", key).await?;
        let mut state = self.lock();
        state.next_upload += 1;
        let id = format!("upload-{}", state.next_upload);
        state.uploads.insert(
            id.clone(),
            Upload {
                key: key.to_owned(),
                parts: BTreeMap::new(),
                initiated_s: now_s(),
            },
        );
        Ok(id)
    }

    async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<String, BucketError> {
        self.call("UploadPart", key).await?;
        if !(1..=10_000).contains(&number) {
            return Err(error(
                "UploadPart",
                key,
                ErrorKind::Refused,
                400,
                "InvalidArgument",
                "parts are numbered 1 to 10000",
            ));
        }
        let etag = tag(&body);
        let mut state = self.lock();
        let upload = open_upload(&mut state, "UploadPart", key, upload_id)?;
        upload.parts.insert(number, Object::new(body, etag.clone()));
        Ok(etag)
    }

    async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<ListedPart>, BucketError> {
        self.call("ListParts", key).await?;
        let mut state = self.lock();
        let upload = open_upload(&mut state, "ListParts", key, upload_id)?;
        let part = |(number, part): (&u32, &Object)| ListedPart {
            number: *number,
            size_bytes: part.body.len() as u64,
            etag: part.etag.clone(),
        };
        Ok(upload.parts.iter().map(part).collect())
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<String, BucketError> {
        const OPERATION: &str = "CompleteMultipartUpload";
        self.call(OPERATION, key).await?;
        let mut state = self.lock();
        let etag = match state.finished.get(upload_id) {
            Some((of_key, etag)) if of_key == key => etag.clone(),
            _ => {
                let upload = open_upload(&mut state, OPERATION, key, upload_id)?;
                let body = assemble(upload, key, parts)?;
                let etag = format!("{}-{}", tag(&body), parts.len());
                state.uploads.remove(upload_id);
                state
                    .finished
                    .insert(upload_id.to_owned(), (key.to_owned(), etag.clone()));
                state
                    .objects
                    .insert(key.to_owned(), Object::new(body, etag.clone()));
                etag
            }
        };
        if state.lose_complete > 0 {
            state.lose_complete -= 1;
            return Err(BucketError {
                operation: OPERATION,
                key: key.to_owned(),
                kind: ErrorKind::Transient,
                status: 0,
                code: None,
                message: "connection closed before the answer came".to_owned(),
            });
        }
        Ok(etag)
    }

    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<(), BucketError> {
        self.call("AbortMultipartUpload", key).await?;
        let mut state = self.lock();
        if state
            .uploads
            .get(upload_id)
            .is_some_and(|upload| upload.key == key)
        {
            state.uploads.remove(upload_id);
        }
        Ok(())
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, BucketError> {
        self.call("ListMultipartUploads", prefix).await?;
        let state = self.lock();
        let below = state
            .uploads
            .iter()
            .filter(|(_, upload)| upload.key.starts_with(prefix));
        let row = |(id, upload): (&String, &Upload)| ListedUpload {
            key: upload.key.clone(),
            upload_id: id.clone(),
            initiated_s: upload.initiated_s,
        };
        Ok(below.map(row).collect())
    }

    fn clock_offset_s(&self) -> f64 {
        self.lock().offset_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ordered_failures_come_as_often_as_ordered_and_in_their_place() {
        let bucket = MemoryBucket::new();
        bucket.fail_after("PutObject", 2, 1, ErrorKind::Transient);
        let mut failed = Vec::new();
        for at in 1..=4 {
            if bucket.put("k", Bytes::from_static(b"x")).await.is_err() {
                failed.push(at);
            }
        }
        assert_eq!(failed, [3]);
        assert_eq!(bucket.count("PutObject"), 4);
        bucket.fail_next("*", 2, ErrorKind::Denied);
        assert_eq!(
            bucket.get("k", None).await.unwrap_err().kind,
            ErrorKind::Denied
        );
        assert_eq!(bucket.head("k").await.unwrap_err().kind, ErrorKind::Denied);
        assert!(bucket.head("k").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_object() {
        let bucket = MemoryBucket::new();
        let id = bucket.create_upload("k").await.unwrap();
        let etag = bucket
            .upload_part("k", &id, 1, Bytes::from_static(b"x"))
            .await
            .unwrap();
        bucket.lose_complete_answer(1);
        let parts = [CompletedPart { number: 1, etag }];
        let err = bucket.complete_upload("k", &id, &parts).await.unwrap_err();
        assert_eq!((err.kind, err.status), (ErrorKind::Transient, 0));
        assert_eq!(bucket.object("k").unwrap(), &b"x"[..]);
    }

    #[tokio::test]
    async fn damage_keeps_size_and_tag() {
        let bucket = MemoryBucket::new();
        bucket.put("k", Bytes::from_static(b"hello")).await.unwrap();
        let before = bucket.head("k").await.unwrap();
        assert!(bucket.corrupt("k") && !bucket.corrupt("other"));
        assert_eq!(bucket.head("k").await.unwrap(), before);
        assert_ne!(bucket.get("k", None).await.unwrap(), &b"hello"[..]);
    }

    #[tokio::test(start_paused = true)]
    async fn latency_is_waited_on_the_clock_of_the_test() {
        let bucket = MemoryBucket::new();
        bucket.set_latency(Duration::from_secs(60));
        let begun = tokio::time::Instant::now();
        bucket.put("k", Bytes::new()).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
    }
}
