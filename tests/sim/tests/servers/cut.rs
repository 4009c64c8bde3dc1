//! A bucket that counts its calls, and whose agent is killed at a chosen part: from then on no call returns.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use spotter_bucket::{
    Bucket, BucketError, CompletedPart, ListedObject, ListedPart, ListedUpload, ObjectInfo,
    S3Bucket,
};
use tokio::sync::Notify;

/// Passes everything on.
pub(crate) struct Cut {
    to: S3Bucket,
    /// Part, from 1, at which the agent dies after the server has it.
    at_part: u64,
    parts: AtomicU64,
    died: Notify,
}

impl Cut {
    pub(crate) fn new(to: S3Bucket, at_part: u64) -> Arc<Cut> {
        Arc::new(Cut {
            to,
            at_part,
            parts: AtomicU64::new(0),
            died: Notify::new(),
        })
    }

    /// Parts that were sent.
    pub(crate) fn parts(&self) -> u64 {
        self.parts.load(Ordering::SeqCst)
    }

    /// Waits for the death.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }
}

#[async_trait]
impl Bucket for Cut {
    async fn put(&self, key: &str, body: Bytes) -> Result<String, BucketError> {
        self.to.put(key, body).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        self.to.get(key, range).await
    }
    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, BucketError> {
        self.to.head(key).await
    }
    async fn delete(&self, key: &str) -> Result<(), BucketError> {
        self.to.delete(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, BucketError> {
        self.to.list(prefix).await
    }
    async fn create_upload(&self, key: &str) -> Result<String, BucketError> {
        self.to.create_upload(key).await
    }
    async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<String, BucketError> {
        let sent = self.parts.fetch_add(1, Ordering::SeqCst) + 1;
        let etag = self.to.upload_part(key, upload_id, number, body).await?;
        if sent >= self.at_part {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(etag)
    }
    async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<ListedPart>, BucketError> {
        self.to.list_parts(key, upload_id).await
    }
    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<String, BucketError> {
        self.to.complete_upload(key, upload_id, parts).await
    }
    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<(), BucketError> {
        self.to.abort_upload(key, upload_id).await
    }
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, BucketError> {
        self.to.list_uploads(prefix).await
    }
    fn clock_offset_s(&self) -> f64 {
        self.to.clock_offset_s()
    }
}
