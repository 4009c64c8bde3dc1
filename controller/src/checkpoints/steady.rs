//! A bucket with patience: what passes is tried again for some seconds, since a person waits for the whole and not for one call.

use std::{future::Future, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use spotter_bucket::{
    Bucket, BucketError, CompletedPart, ErrorKind, ListedObject, ListedPart, ListedUpload,
    ObjectInfo,
};

use crate::fault;

/// Waits between two tries; after the last the failure is told.
const WAITS: [Duration; 5] = [
    Duration::from_millis(300),
    Duration::from_millis(800),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// The bucket behind it, asked again.
pub struct Steady(Arc<dyn Bucket>);

impl Steady {
    /// With patience.
    pub fn new(bucket: Arc<dyn Bucket>) -> Self {
        Self(bucket)
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
        for wait in WAITS {
            match call(&*self.0).await {
                Err(err) if err.kind == ErrorKind::Transient => {
                    tracing::debug!(error = %err, "the bucket will be asked again");
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
        call(&*self.0).await
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
        self.0.complete_upload(key, upload_id, parts).await
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
        self.0.clock_offset_s()
    }
}
