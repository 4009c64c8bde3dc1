//! What each operation does: the `s3s` library has parsed and authenticated the request, the store does the work.

use std::{collections::BTreeMap, sync::Arc};

use s3s::{
    S3, S3Error, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket, ChecksumAlgorithm,
        CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyObjectInput,
        CopyObjectOutput, CopyObjectResult, CopyPartResult, CreateBucketInput, CreateBucketOutput,
        CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput,
        DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
        GetBucketLocationInput, GetBucketLocationOutput, GetObjectInput, GetObjectOutput,
        HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput,
        ListBucketsOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput,
        ListObjectsV2Input, ListObjectsV2Output, ListPartsInput, ListPartsOutput, PutObjectInput,
        PutObjectOutput, Range, StreamingBlob, UploadPartCopyInput, UploadPartCopyOutput,
        UploadPartInput, UploadPartOutput,
    },
    s3_error,
};

use super::{
    convert::{condition, kept, part_number, readable, strong, timestamp_ms},
    faults::{Injected, Switchboard},
    listing, pages,
    receive::{Expected, Received, disk, receive},
    store::{Begun, Description, Precondition, Store, StoreError, Wanted, now_ms},
};

mod stretch;

/// The operations over a store.
pub struct Operations {
    /// Where everything is.
    pub store: Arc<Store>,
    /// Says whose server it is like.
    pub board: Arc<Switchboard>,
}

impl From<StoreError> for S3Error {
    fn from(err: StoreError) -> Self {
        let text = err.to_string();
        match err {
            StoreError::NoSuchBucket => s3_error!(NoSuchBucket, "{text}"),
            StoreError::NoSuchKey => s3_error!(NoSuchKey, "{text}"),
            StoreError::NoSuchUpload => s3_error!(NoSuchUpload, "{text}"),
            StoreError::InvalidPart(_) => s3_error!(InvalidPart, "{text}"),
            StoreError::InvalidPartOrder => s3_error!(InvalidPartOrder, "{text}"),
            StoreError::OtherChecksum { .. } => s3_error!(InvalidRequest, "{text}"),
            StoreError::EntityTooSmall(_) => s3_error!(EntityTooSmall, "{text}"),
            StoreError::PreconditionFailed => s3_error!(PreconditionFailed, "{text}"),
            StoreError::Io(err) => disk(err),
        }
    }
}

#[async_trait::async_trait]
impl S3 for Operations {
    async fn list_buckets(
        &self,
        _: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let bucket = |name| Bucket {
            name: Some(name),
            ..Bucket::default()
        };
        let buckets = Some(self.store.buckets().into_iter().map(bucket).collect());
        Ok(S3Response::new(ListBucketsOutput {
            buckets,
            ..Default::default()
        }))
    }

    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        if !self.store.create_bucket(&req.input.bucket).map_err(disk)? {
            return Err(s3_error!(BucketAlreadyOwnedByYou, "you have it already"));
        }
        let location = Some(format!("/{}", req.input.bucket));
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.store.scan(&req.input.bucket, "", |_| false)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.store.scan(&req.input.bucket, "", |_| false)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let injected = req.extensions.get::<Injected>().copied();
        let input = req.input;
        let condition = self.condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        self.store.scan(&input.bucket, "", |_| false)?;
        let expected = Expected::new(
            &req.headers,
            req.trailing_headers,
            input.content_length,
            input.content_md5,
        );
        let body = input.body.unwrap_or_else(empty);
        let received = receive(&self.store, body, expected, injected).await?;
        let etag = received.md5.clone();
        let description = Description {
            key: input.key,
            size_bytes: received.size_bytes,
            etag: etag.clone(),
            modified_ms: now_ms(),
            content_type: input.content_type,
            metadata: kept(input.metadata),
        };
        self.store
            .put(&input.bucket, description, received.scratch, &condition)?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: strong(&etag),
            ..Default::default()
        }))
    }

    async fn copy_object(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = req.input;
        let (source, received) = self.copied(&input.copy_source, None, false).await?;
        let replaces = input
            .metadata_directive
            .as_ref()
            .is_some_and(|directive| directive.as_str() == "REPLACE");
        let description = Description {
            key: input.key,
            size_bytes: received.size_bytes,
            etag: received.md5.clone(),
            modified_ms: now_ms(),
            content_type: if replaces {
                input.content_type
            } else {
                source.content_type.clone()
            },
            metadata: if replaces {
                kept(input.metadata)
            } else {
                source.metadata.clone()
            },
        };
        let result = CopyObjectResult {
            e_tag: strong(&description.etag),
            last_modified: timestamp_ms(description.modified_ms),
            ..Default::default()
        };
        self.store.put(
            &input.bucket,
            description,
            received.scratch,
            &Precondition::default(),
        )?;
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            ..Default::default()
        }))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let stretch = self.stretch(&input.bucket, &input.key, input.range.as_ref())?;
        let description = stretch.description;
        readable(
            &description,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        let range = stretch.range;
        let content_range = || {
            format!(
                "bytes {}-{}/{}",
                range.start,
                range.end.saturating_sub(1),
                description.size_bytes
            )
        };
        let output = GetObjectOutput {
            body: Some(stretch.body),
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(range.end - range.start).ok(),
            content_range: input.range.is_some().then(content_range),
            content_type: description.content_type.clone(),
            e_tag: strong(&description.etag),
            last_modified: timestamp_ms(description.modified_ms),
            metadata: Some(description.metadata.clone().into_iter().collect()),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let description = self.store.describe(&input.bucket, &input.key)?;
        readable(
            &description,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(description.size_bytes).ok(),
            content_type: description.content_type.clone(),
            e_tag: strong(&description.etag),
            last_modified: timestamp_ms(description.modified_ms),
            metadata: Some(description.metadata.clone().into_iter().collect()),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let condition = condition(req.input.if_match.as_ref(), None)?;
        self.store
            .delete(&req.input.bucket, &req.input.key, &condition)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let (bucket, delete) = (req.input.bucket, req.input.delete);
        if delete.objects.len() > listing::MAX_ROWS {
            return Err(s3_error!(
                MalformedXML,
                "at most {} objects can be deleted at once",
                listing::MAX_ROWS
            ));
        }
        let mut deleted = Vec::new();
        for object in delete.objects {
            self.store
                .delete(&bucket, &object.key, &Precondition::default())?;
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..Default::default()
            });
        }
        let deleted = if delete.quiet == Some(true) {
            None
        } else {
            Some(deleted)
        };
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted,
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        Ok(S3Response::new(pages::objects(&self.store, req.input)?))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let begun = Begun {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            initiated_ms: now_ms(),
            content_type: input.content_type,
            metadata: kept(input.metadata),
            crc32: input
                .checksum_algorithm
                .as_ref()
                .is_some_and(|algorithm| algorithm.as_str() == ChecksumAlgorithm::CRC32),
        };
        let output = CreateMultipartUploadOutput {
            checksum_algorithm: input.checksum_algorithm,
            upload_id: Some(self.store.begin(begun)?),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let injected = req.extensions.get::<Injected>().copied();
        let input = req.input;
        let number = part_number(input.part_number)?;
        // Before the body: a client should not send gigabytes to an upload that is gone.
        let begun = self
            .store
            .begun(&input.bucket, &input.key, &input.upload_id)?;
        let expected = Expected::new(
            &req.headers,
            req.trailing_headers,
            input.content_length,
            input.content_md5,
        );
        let body = input.body.unwrap_or_else(empty);
        let Received {
            scratch,
            size_bytes,
            md5,
            crc32,
        } = receive(&self.store, body, expected, injected).await?;
        // One that came where none is kept was compared with the body, and that is all.
        let crc32 = crc32.filter(|_| begun.crc32);
        let upload = (
            input.bucket.as_str(),
            input.key.as_str(),
            input.upload_id.as_str(),
        );
        self.store.put_part(
            upload,
            number,
            (size_bytes, md5.clone(), crc32.clone()),
            scratch,
        )?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: strong(&md5),
            checksum_crc32: crc32,
            ..Default::default()
        }))
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = req.input;
        let number = part_number(input.part_number)?;
        let range = input
            .copy_source_range
            .as_deref()
            .map(Range::parse)
            .transpose();
        let range =
            range.map_err(|_| s3_error!(InvalidArgument, "the range to copy is not one"))?;
        let begun = self
            .store
            .begun(&input.bucket, &input.key, &input.upload_id)?;
        let (
            _,
            Received {
                scratch,
                size_bytes,
                md5,
                crc32,
            },
        ) = self
            .copied(&input.copy_source, range.as_ref(), begun.crc32)
            .await?;
        let upload = (
            input.bucket.as_str(),
            input.key.as_str(),
            input.upload_id.as_str(),
        );
        self.store.put_part(
            upload,
            number,
            (size_bytes, md5.clone(), crc32.clone()),
            scratch,
        )?;
        let result = CopyPartResult {
            e_tag: strong(&md5),
            checksum_crc32: crc32,
            last_modified: timestamp_ms(now_ms()),
            ..Default::default()
        };
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(result),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let condition = self.condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let mut wanted = Vec::new();
        for part in input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .unwrap_or_default()
        {
            let number = part_number(part.part_number.unwrap_or_default())?;
            let tag = part.e_tag.as_ref().map(|etag| etag.value().to_owned());
            wanted.push(Wanted {
                number,
                etag: tag.ok_or_else(|| {
                    s3_error!(InvalidPart, "part {number} is named without its tag")
                })?,
                crc32: part.checksum_crc32,
            });
        }
        if wanted.is_empty() {
            return Err(s3_error!(MalformedXML, "no parts were named"));
        }
        if self.board.like().wants_equal_parts() {
            let (bucket, key, id) = (&input.bucket, &input.key, &input.upload_id);
            let sizes: BTreeMap<u32, u64> = (self.store.parts(bucket, key, id, 0)?.into_iter())
                .map(|(number, part)| (number, part.size_bytes))
                .collect();
            let mut named = wanted.iter().filter_map(|part| sizes.get(&part.number));
            let last = named.next_back();
            let first = named.next();
            if named.any(|size| Some(size) != first) || (first.is_some() && last > first) {
                return Err(s3_error!(
                    InvalidPart,
                    "all parts but the last must be of one size"
                ));
            }
        }
        let store = self.store.clone();
        let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id);
        let completing = tokio::task::spawn_blocking(move || {
            store.complete((&bucket, &key, &id), &wanted, &condition)
        });
        let description = completing.await.map_err(S3Error::internal_error)??;
        let output = CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: strong(&description.etag),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.store
            .abort(&req.input.bucket, &req.input.key, &req.input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        Ok(S3Response::new(pages::parts(&self.store, req.input)?))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        Ok(S3Response::new(pages::uploads(&self.store, req.input)?))
    }
}

fn empty() -> StreamingBlob {
    StreamingBlob::from(s3s::Body::empty())
}
