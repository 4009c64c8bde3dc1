//! What operations share: conditions of writes, stretches of objects as streams, and sources of copies.

use std::{io::SeekFrom, sync::Arc};

use s3s::{
    S3Result,
    dto::{CopySource, ETagCondition, Range, StreamingBlob},
    s3_error,
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::{
    super::{
        convert::condition,
        receive::{Expected, Received, receive},
        store::{Description, Precondition},
    },
    Operations,
};

/// How much of a file is read at once, bytes.
const READ_BYTES: usize = 256 << 10;

impl Operations {
    /// The condition of a write, unless this server does not look at it.
    pub(super) fn condition(
        &self,
        if_match: Option<&ETagCondition>,
        if_none_match: Option<&ETagCondition>,
    ) -> S3Result<Precondition> {
        match self.board.like().ignores_conditions() {
            true => Ok(Precondition::default()),
            false => condition(if_match, if_none_match),
        }
    }

    /// Reads a stretch of an object as a stream.
    pub(super) fn stretch(
        &self,
        bucket: &str,
        key: &str,
        range: Option<&Range>,
    ) -> S3Result<Stretch> {
        let (description, file) = self.store.read(bucket, key)?;
        let size = description.size_bytes;
        let range = match range {
            Some(range) => range.check(size)?,
            None => 0..size,
        };
        let length = range.end - range.start;
        let start = range.start;
        let file = tokio::fs::File::from_std(file);
        let stream = async_stream(file, start, length);
        Ok(Stretch {
            description,
            range,
            body: StreamingBlob::wrap(stream),
        })
    }

    /// Takes the source of a copy in, as if a client had sent it.
    pub(super) async fn copied(
        &self,
        source: &CopySource,
        range: Option<&Range>,
        crc32: bool,
    ) -> S3Result<(Arc<Description>, Received)> {
        let CopySource::Bucket { bucket, key, .. } = source else {
            return Err(s3_error!(
                NotImplemented,
                "only objects of buckets can be copied"
            ));
        };
        let stretch = self.stretch(bucket, key, range)?;
        let expected = Expected {
            crc32,
            ..Expected::default()
        };
        let received = receive(&self.store, stretch.body, expected, None).await?;
        Ok((stretch.description, received))
    }
}

pub(super) struct Stretch {
    pub(super) description: Arc<Description>,
    pub(super) range: std::ops::Range<u64>,
    pub(super) body: StreamingBlob,
}

fn async_stream(
    mut file: tokio::fs::File,
    start: u64,
    length: u64,
) -> impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + Sync + 'static {
    let opened = async move {
        file.seek(SeekFrom::Start(start)).await?;
        Ok::<_, std::io::Error>(ReaderStream::with_capacity(file.take(length), READ_BYTES))
    };
    futures::TryFutureExt::try_flatten_stream(opened)
}
