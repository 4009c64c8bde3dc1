//! How uploads in parts begin, and how it is found out that one is gone.

use http::Method;

use super::{
    S3Bucket,
    calls::{garbled, on},
    exchange::Request,
    xml,
};
use crate::{
    bucket::{Bucket, BucketError, ErrorKind},
    verdict::Payload,
};

impl S3Bucket {
    /// Begins an upload whose parts are vouched for in this way.
    pub(super) async fn begin(&self, key: &str, payload: Payload) -> Result<String, BucketError> {
        const OPERATION: &str = "CreateMultipartUpload";
        let checksum = (payload == Payload::Checksum)
            .then(|| ("x-amz-checksum-algorithm", "CRC32".to_owned()));
        let request = Request {
            query: vec![("uploads", "")],
            headers: checksum.into_iter().collect(),
            ..on(OPERATION, Method::POST, key)
        };
        let answer = self.exchange.send(request).await?;
        let id = xml::upload_id(&answer.body)
            .map_err(|err| garbled(OPERATION, key, answer.status, &err))?;
        if payload == Payload::Checksum {
            self.sums.begun(&id);
        }
        Ok(id)
    }

    /// Some servers answer 500 to whatever is asked of an upload that is gone, however often: that it is gone, instead.
    pub(super) async fn or_gone(
        &self,
        key: &str,
        upload_id: &str,
        err: BucketError,
    ) -> BucketError {
        if err.status != 500 || !self.has_keys() {
            return err;
        }
        match self.list_parts(key, upload_id).await {
            Err(gone) if gone.kind == ErrorKind::NotFound => BucketError {
                operation: err.operation,
                ..gone
            },
            _ => err,
        }
    }
}
