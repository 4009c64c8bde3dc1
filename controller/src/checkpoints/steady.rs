//! A bucket with patience: what passes is tried again for some seconds, since a person waits for the whole and not for one call.

use std::{
    future::Future,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use spotter_bucket::{
    Bucket, BucketError, CompletedPart, ErrorKind, ListedObject, ListedPart, ListedUpload,
    ObjectInfo,
};
use tokio::time::Instant;

use crate::fault;

/// Waits between two tries; after the last the failure is told.
const WAITS: [Duration; 5] = [
    Duration::from_millis(300),
    Duration::from_millis(800),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// After this long nothing is asked a third time: a server that hangs takes all the time that a request has, each time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bucket behind it, asked again.
pub struct Steady {
    bucket: Arc<dyn Bucket>,
    heard: Mutex<Heard>,
}

/// What has come from the server so far.
#[derive(Default)]
enum Heard {
    /// Nothing at all.
    #[default]
    Nothing,
    /// No answer, and what the link said of it last.
    Trouble(String),
    /// Answers, be they refusals.
    Answers,
}

impl Steady {
    /// With patience.
    pub fn new(bucket: Arc<dyn Bucket>) -> Self {
        let heard = Mutex::default();
        Self { bucket, heard }
    }

    /// Whether the server ever answered.
    pub fn has_answered(&self) -> bool {
        matches!(*self.heard(), Heard::Answers)
    }

    /// What the link said last, while the server never answered.
    pub fn trouble(&self) -> Option<String> {
        match &*self.heard() {
            Heard::Trouble(why) => Some(why.clone()),
            Heard::Nothing | Heard::Answers => None,
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        // One word: whatever a panic left there is as good as before.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear<T>(&self, answer: &Result<T, BucketError>) {
        let mut heard = self.heard();
        match answer {
            Err(err) if err.kind == ErrorKind::Transient && err.status == 0 => {
                if !matches!(*heard, Heard::Answers) {
                    *heard = Heard::Trouble(err.message.clone());
                }
            }
            _ => *heard = Heard::Answers,
        }
    }

    async fn ask<'a, T, F>(
        &'a self,
        operation: &str,
        call: impl Fn(&'a dyn Bucket) -> F,
    ) -> Result<T, BucketError>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        fault::point(&format!("bucket.{operation}.before"));
        let answer = self.ask_again(call).await;
        fault::point(&format!("bucket.{operation}.after"));
        answer
    }

    async fn ask_again<'a, T, F>(
        &'a self,
        call: impl Fn(&'a dyn Bucket) -> F,
    ) -> Result<T, BucketError>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        let began = Instant::now();
        for (asked, wait) in WAITS.into_iter().enumerate() {
            let answer = call(&*self.bucket).await;
            self.hear(&answer);
            match answer {
                Err(err)
                    if err.kind == ErrorKind::Transient
                        && (asked == 0 || began.elapsed() < PATIENCE) =>
                {
                    tracing::debug!(error = %err, "the bucket will be asked again");
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
        let answer = call(&*self.bucket).await;
        self.hear(&answer);
        answer
    }
}

#[async_trait]
impl Bucket for Steady {
    async fn put(&self, key: &str, body: Bytes) -> Result<String, BucketError> {
        self.ask("PutObject", |bucket| bucket.put(key, body.clone()))
            .await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        self.ask("GetObject", |bucket| bucket.get(key, range.clone()))
            .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, BucketError> {
        self.ask("HeadObject", |bucket| bucket.head(key)).await
    }

    async fn delete(&self, key: &str) -> Result<(), BucketError> {
        self.ask("DeleteObject", |bucket| bucket.delete(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, BucketError> {
        self.ask("ListObjectsV2", |bucket| bucket.list(prefix))
            .await
    }

    async fn create_upload(&self, key: &str) -> Result<String, BucketError> {
        self.ask("CreateMultipartUpload", |bucket| bucket.create_upload(key))
            .await
    }

    async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<String, BucketError> {
        self.ask("UploadPart", |bucket| {
            bucket.upload_part(key, upload_id, number, body.clone())
        })
        .await
    }

    async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<ListedPart>, BucketError> {
        self.ask("ListParts", |bucket| bucket.list_parts(key, upload_id))
            .await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<String, BucketError> {
        // Not again by itself: the first may have been heard.
        self.bucket.complete_upload(key, upload_id, parts).await
    }

    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<(), BucketError> {
        self.ask("AbortMultipartUpload", |bucket| {
            bucket.abort_upload(key, upload_id)
        })
        .await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, BucketError> {
        self.ask("ListMultipartUploads", |bucket| bucket.list_uploads(prefix))
            .await
    }

    fn clock_offset_s(&self) -> f64 {
        self.bucket.clock_offset_s()
    }
}

#[cfg(test)]
mod tests {
    use spotter_bucket::memory::MemoryBucket;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_asked_again_and_what_hangs_twice() {
        let check = async |latency: Duration, fails: u32, expected: bool, at_most_s: u64| {
            let bucket = Arc::new(MemoryBucket::new());
            bucket.fail_next("HeadObject", fails, ErrorKind::Transient);
            bucket.set_latency(latency);
            let (steady, began) = (Steady::new(bucket), Instant::now());
            let answer = steady.head("k").await;
            assert_eq!(answer.is_ok(), expected, "{latency:?} {fails}");
            let took = began.elapsed().as_secs();
            assert!(took <= at_most_s, "{latency:?} {fails}: {took} s");
            // It says that it is busy: that is an answer.
            assert!(steady.has_answered() && steady.trouble().is_none());
        };
        check(Duration::ZERO, 5, true, 16).await;
        check(Duration::ZERO, 6, false, 16).await;
        check(Duration::from_secs(30), 6, false, 62).await;
        check(Duration::from_secs(150), 1, true, 302).await;
        check(Duration::from_secs(150), 2, false, 302).await;
    }
}
