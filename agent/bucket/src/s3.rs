//! The real bucket: our own thin client for the dozen calls of S3 that we need.
//!
//! Reading order: [`sign`] (signatures), `address` (URLs), [`clock`] (the server's time), [`xml`] (bodies), `refusal` (what a
//! no means), `roots` (whom TLS trusts), `exchange` (one request and its tries), `failure` (why one failed), `calls` (what calls share), `payload` (checksums in place of signed bodies);
//! here, what each call asks and what it makes of the answer. [`probe`] finds out what a server honours, [`presign`]
//! signs ahead what others may do.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, header};

use crate::{
    bucket::{
        Bucket, BucketError, CompletedPart, ErrorKind, ListedObject, ListedPart, ListedUpload,
        ObjectInfo,
    },
    grants::{NOT_GRANTED, Stock},
    target::Target,
    verdict::Payload,
};

mod address;
mod calls;
pub mod clock;
mod exchange;
mod failure;
mod options;
mod payload;
pub mod presign;
pub mod probe;
mod refusal;
mod roots;
pub mod sign;
mod uploads;
pub mod xml;

pub use options::{CredentialSource, HashBy, S3Options};

use calls::{
    content_range, etag, garbled, goes_in_circles, gone, is_missing, listing, on, refused,
    required_etag, too_many_pages,
};
use exchange::{Exchange, Request, Vouch};
use failure::{answered, local};
use payload::Sums;

/// Largest object that is read whole, bytes; larger ones are read by ranges.
pub const MAX_WHOLE_GET_BYTES: u64 = 1 << 30;
/// Smaller objects are signed whatever the server checks: nothing would be saved.
const CHECKSUM_FROM_BYTES: usize = 1 << 20;
/// Most pages of one listing: ten million objects.
const MAX_PAGES: usize = 10_000;

/// A bucket on an S3 server. Cheap calls share connections; make one and keep it.
pub struct S3Bucket {
    exchange: Exchange,
    target: Target,
    /// Whether large payloads go with a checksum instead of a signature.
    checksums: AtomicBool,
    sums: Sums,
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Bucket({})", self.target.url())
    }
}

impl S3Bucket {
    /// A client for the bucket of `target`; nothing is sent yet. Fails only when no TLS client can be made.
    pub fn new(
        target: Target,
        credentials: CredentialSource,
        options: S3Options,
    ) -> Result<Self, BucketError> {
        let exchange = Exchange::new(&target, credentials, options)?;
        Ok(Self {
            exchange,
            target,
            checksums: AtomicBool::new(false),
            sums: Sums::default(),
        })
    }

    /// A client without keys: it can do what `stock` allows.
    pub fn granted(
        target: Target,
        stock: Arc<Stock>,
        options: S3Options,
    ) -> Result<Self, BucketError> {
        let mut bucket = Self::new(target, Arc::new(|| None), options)?;
        bucket.exchange.grants = Some(stock);
        Ok(bucket)
    }

    /// What this client may do where it has no keys.
    pub fn stock(&self) -> Option<&Stock> {
        self.exchange.grants.as_deref()
    }

    /// How large payloads go from now on: as [`probe`](Self::probe) found. Uploads that were begun stay as they are.
    pub fn set_payload(&self, payload: Payload) {
        self.checksums
            .store(payload == Payload::Checksum, Ordering::Relaxed);
    }

    /// How large payloads go.
    pub fn payload(&self) -> Payload {
        if self.checksums.load(Ordering::Relaxed) {
            Payload::Checksum
        } else {
            Payload::Signed
        }
    }

    /// Whether nobody on the way to the server can read or change what is sent: it is encrypted, or stays in this machine.
    pub fn is_private(&self) -> bool {
        self.exchange.is_private()
    }

    /// Trusts the certificates of this PEM text besides those that everybody trusts. Fails when there is none in it.
    pub fn trust(&self, pem: &[u8]) -> Result<(), BucketError> {
        self.exchange.trust(&self.target, pem)
    }

    /// Which bucket this is.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

#[async_trait]
impl Bucket for S3Bucket {
    async fn put(&self, key: &str, body: Bytes) -> Result<String, BucketError> {
        let checksum = body.len() >= CHECKSUM_FROM_BYTES && self.payload() == Payload::Checksum;
        let vouch = if checksum {
            Vouch::Crc32(self.exchange.hash(body.clone(), payload::crc32).await)
        } else {
            Vouch::Sha256
        };
        let request = Request {
            body,
            vouch,
            ..on("PutObject", Method::PUT, key)
        };
        let answer = self.exchange.send(request).await?;
        required_etag("PutObject", key, &answer)
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, BucketError> {
        if let Some(range) = range {
            return self.get_into(key, range, BytesMut::new()).await;
        }
        let request = Request {
            max_answer_bytes: MAX_WHOLE_GET_BYTES,
            ..on("GetObject", Method::GET, key)
        };
        Ok(self.exchange.send(request).await?.body)
    }

    async fn get_into(
        &self,
        key: &str,
        range: Range<u64>,
        buffer: BytesMut,
    ) -> Result<Bytes, BucketError> {
        const OPERATION: &str = "GetObject";
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut request = Request {
            max_answer_bytes: range.end - range.start,
            buffer: Mutex::new(buffer),
            ..on(OPERATION, Method::GET, key)
        };
        request
            .headers
            .push(("range", format!("bytes={}-{}", range.start, range.end - 1)));
        let answer = self.exchange.send(request).await?;
        let wrong = |what: &str| Err(refused(OPERATION, key, answer.status, what.to_owned()));
        match (answer.status, content_range(&answer.headers)) {
            // Some servers answer 200 and mean 206: what counts is the range that they name.
            (_, Some((first, last))) => {
                let length = last.checked_sub(first).map(|more| more + 1);
                if first != range.start || length != Some(answer.body.len() as u64) {
                    return wrong("the answer holds another range than the one asked for");
                }
                Ok(answer.body)
            }
            // The whole object, which can only be right when it is as long as asked for and begins where asked.
            (StatusCode::OK, None) if range.start == 0 => Ok(answer.body),
            _ => wrong(exchange::NO_RANGES),
        }
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, BucketError> {
        const OPERATION: &str = "HeadObject";
        match self.exchange.send(on(OPERATION, Method::HEAD, key)).await {
            Ok(answer) => {
                let length = answer
                    .headers
                    .get(header::CONTENT_LENGTH)
                    .and_then(|value| value.to_str().ok());
                let size_bytes = length.and_then(|text| text.parse().ok()).ok_or_else(|| {
                    refused(
                        OPERATION,
                        key,
                        answer.status,
                        "the answer does not say the size".to_owned(),
                    )
                })?;
                Ok(Some(ObjectInfo {
                    size_bytes,
                    etag: etag(&answer.headers).unwrap_or_default(),
                }))
            }
            Err(err) if err.kind == ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    async fn delete(&self, key: &str) -> Result<(), BucketError> {
        if !self.has_keys() {
            // Whoever has keys cleans up.
            return Ok(());
        }
        gone(
            self.exchange
                .send(on("DeleteObject", Method::DELETE, key))
                .await,
        )
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, BucketError> {
        const OPERATION: &str = "ListObjectsV2";
        if let Some(stock) = self.stock() {
            return Ok(stock.list(prefix));
        }
        let mut objects = BTreeMap::new();
        let mut token: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = vec![
                ("encoding-type", "url"),
                ("list-type", "2"),
                ("prefix", prefix),
            ];
            if let Some(token) = &token {
                query.insert(0, ("continuation-token", token.as_str()));
            }
            let answer = self
                .exchange
                .send(listing(OPERATION, prefix, query))
                .await?;
            let page = xml::objects(&answer.body)
                .map_err(|err| garbled(OPERATION, prefix, answer.status, &err))?;
            if let Some(stray) = page
                .rows
                .iter()
                .find(|object| !object.key.starts_with(prefix))
            {
                let text = format!("the listing holds {:?}, which was not asked for", stray.key);
                return Err(refused(OPERATION, prefix, answer.status, text));
            }
            objects.extend(
                page.rows
                    .into_iter()
                    .map(|object| (object.key.clone(), object)),
            );
            match page.next {
                None => return Ok(objects.into_values().collect()),
                next if next == token => {
                    return Err(goes_in_circles(OPERATION, prefix, answer.status));
                }
                next => token = next,
            }
        }
        Err(too_many_pages(OPERATION, prefix))
    }

    async fn create_upload(&self, key: &str) -> Result<String, BucketError> {
        self.create_upload_of(key, 1).await
    }

    async fn create_upload_of(&self, key: &str, parts: usize) -> Result<String, BucketError> {
        let Some(stock) = self.stock() else {
            return self.begin(key, self.payload()).await;
        };
        stock.begin(key, parts).map_err(|kind| BucketError {
            operation: "CreateMultipartUpload",
            key: key.to_owned(),
            kind,
            status: 0,
            code: None,
            message: format!("{NOT_GRANTED}; {parts} parts are to go"),
        })
    }

    async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        body: Bytes,
    ) -> Result<String, BucketError> {
        const OPERATION: &str = "UploadPart";
        let digits = number.to_string();
        let query = vec![("partNumber", digits.as_str()), ("uploadId", upload_id)];
        let mut sum = None;
        if self.sums.wanted(upload_id) {
            sum = Some(self.exchange.hash(body.clone(), payload::crc32).await);
        }
        let request = Request {
            query,
            body,
            vouch: sum.clone().map_or(Vouch::Sha256, Vouch::Crc32),
            ..on(OPERATION, Method::PUT, key)
        };
        let answer = match self.exchange.send(request).await {
            Ok(answer) => answer,
            Err(err) => return Err(self.or_gone(key, upload_id, err).await),
        };
        let etag = required_etag(OPERATION, key, &answer)?;
        if let Some(sum) = sum {
            self.sums.sent(upload_id, number, sum);
        }
        Ok(etag)
    }

    async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<ListedPart>, BucketError> {
        const OPERATION: &str = "ListParts";
        let mut parts = BTreeMap::new();
        let mut marker = String::new();
        for _ in 0..MAX_PAGES {
            let mut query = vec![("uploadId", upload_id)];
            if !marker.is_empty() {
                query.insert(0, ("part-number-marker", marker.as_str()));
            }
            let request = Request {
                query,
                ..on(OPERATION, Method::GET, key)
            };
            let answer = self.exchange.send(request).await?;
            let page = xml::parts(&answer.body)
                .map_err(|err| garbled(OPERATION, key, answer.status, &err))?;
            parts.extend(page.rows.into_iter().map(|part| (part.number, part)));
            let sums = xml::sums(&answer.body)
                .map_err(|err| garbled(OPERATION, key, answer.status, &err))?;
            self.sums.listed(upload_id, sums);
            match page.next.map(|next| next.to_string()) {
                None => return Ok(parts.into_values().collect()),
                Some(next) if next == marker => {
                    return Err(goes_in_circles(OPERATION, key, answer.status));
                }
                Some(next) => marker = next,
            }
        }
        Err(too_many_pages(OPERATION, key))
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<String, BucketError> {
        const OPERATION: &str = "CompleteMultipartUpload";
        let request = || Request {
            query: vec![("uploadId", upload_id)],
            headers: vec![("content-type", "application/xml".to_owned())],
            body: Bytes::from(xml::complete_request(parts, &self.sums.of(upload_id))),
            // It may have been carried out although its answer was lost; the caller looks before it asks again.
            repeatable: false,
            ..on(OPERATION, Method::POST, key)
        };
        let answer = match self.exchange.send(request()).await {
            Ok(answer) => answer,
            Err(err) => return Err(self.or_gone(key, upload_id, err).await),
        };
        match xml::completed(&answer.body) {
            Ok(Ok(etag)) => {
                self.sums.forget(upload_id);
                Ok(etag)
            }
            Ok(Err(said)) => Err(answered(&request(), answer.status.as_u16(), &said, &[])),
            // A cut answer: the object may be there.
            Err(err) => Err(local(&request(), ErrorKind::Transient, &err.to_string())),
        }
    }

    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<(), BucketError> {
        self.sums.forget(upload_id);
        if !self.has_keys() {
            return Ok(());
        }
        let query = vec![("uploadId", upload_id)];
        gone(
            self.exchange
                .send(Request {
                    query,
                    ..on("AbortMultipartUpload", Method::DELETE, key)
                })
                .await,
        )
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, BucketError> {
        const OPERATION: &str = "ListMultipartUploads";
        let mut uploads: Vec<ListedUpload> = Vec::new();
        if !self.has_keys() {
            return Ok(uploads);
        }
        let mut marker: Option<xml::UploadMarker> = None;
        for _ in 0..MAX_PAGES {
            let mut query = vec![
                ("encoding-type", "url"),
                ("prefix", prefix),
                ("uploads", ""),
            ];
            if let Some((key, upload_id)) = &marker {
                query.push(("key-marker", key.as_str()));
                query.push(("upload-id-marker", upload_id.as_str()));
            }
            let answer = match self.exchange.send(listing(OPERATION, prefix, query)).await {
                Ok(answer) => answer,
                // Where nothing was ever begun some servers know of no uploads at all.
                Err(err) if is_missing(&err) => return Ok(uploads),
                Err(err) => return Err(err),
            };
            let page = xml::uploads(&answer.body)
                .map_err(|err| garbled(OPERATION, prefix, answer.status, &err))?;
            uploads.extend(
                page.rows
                    .into_iter()
                    .filter(|upload| upload.key.starts_with(prefix)),
            );
            match page.next {
                None => return Ok(uploads),
                next if next == marker => {
                    return Err(goes_in_circles(OPERATION, prefix, answer.status));
                }
                next => marker = next,
            }
        }
        Err(too_many_pages(OPERATION, prefix))
    }

    fn stored_as(&self, key: &str) -> String {
        self.stock()
            .map_or_else(|| key.to_owned(), |stock| stock.stored_as(key))
    }

    fn has_keys(&self) -> bool {
        self.exchange.grants.is_none()
    }

    fn clock_offset_s(&self) -> f64 {
        self.exchange.clock_offset_s()
    }
}
