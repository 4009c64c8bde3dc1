//! Takes a body in: to a scratch file, with its md5, and every checksum that the client sent with it compared.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{Stream, StreamExt as _};
use http::HeaderMap;
use md5::{Digest as _, Md5};
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders, checksum::ChecksumHasher, s3_error};
use tempfile::TempPath;
use tokio::io::{AsyncWriteExt as _, BufWriter};

use super::{faults::Injected, store::Store};

/// A body that was taken in.
pub struct Received {
    /// The file that holds it, gone when it is not stored.
    pub scratch: TempPath,
    /// Size, bytes.
    pub size_bytes: u64,
    /// md5, hex.
    pub md5: String,
    /// CRC-32, base64, when the client sent one or it was wanted.
    pub crc32: Option<String>,
}

/// What a body has to be.
#[derive(Default)]
pub struct Expected {
    /// `Content-Length`, after any encoding was taken off.
    pub length: Option<i64>,
    /// `Content-MD5`, base64.
    pub md5: Option<String>,
    /// Checksums of the headers by algorithm, base64, and those that a trailer will bring.
    pub checksums: BTreeMap<&'static str, Option<String>>,
    /// Where the trailer appears.
    pub trailers: Option<TrailingHeaders>,
    /// Whether the CRC-32 is wanted although nobody sent one.
    pub crc32: bool,
}

/// Algorithms and how their header ends.
const ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];

impl Expected {
    /// What a request says of its body.
    pub fn new(
        headers: &HeaderMap,
        trailers: Option<TrailingHeaders>,
        length: Option<i64>,
        md5: Option<String>,
    ) -> Self {
        let announced = headers
            .get("x-amz-trailer")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let mut checksums = BTreeMap::new();
        for algorithm in ALGORITHMS {
            let name = format!("x-amz-checksum-{algorithm}");
            if let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) {
                checksums.insert(algorithm, Some(value.to_owned()));
            } else if announced
                .split(',')
                .any(|trailer| trailer.trim().eq_ignore_ascii_case(&name))
            {
                checksums.insert(algorithm, None);
            }
        }
        Self {
            length,
            md5,
            checksums,
            trailers,
            crc32: false,
        }
    }

    fn hasher(&self) -> ChecksumHasher {
        use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
        ChecksumHasher {
            crc32: (self.crc32 || self.checksums.contains_key("crc32")).then(Crc32::new),
            crc32c: self.checksums.contains_key("crc32c").then(Crc32c::new),
            crc64nvme: self
                .checksums
                .contains_key("crc64nvme")
                .then(Crc64Nvme::new),
            sha1: self.checksums.contains_key("sha1").then(Sha1::new),
            sha256: self.checksums.contains_key("sha256").then(Sha256::new),
        }
    }

    /// Compares, and answers the CRC-32 where one was sent.
    fn check(
        mut self,
        size_bytes: u64,
        md5: &[u8],
        hasher: ChecksumHasher,
    ) -> S3Result<Option<String>> {
        if let Some(length) = self
            .length
            .filter(|length| u64::try_from(*length) != Ok(size_bytes))
        {
            return Err(s3_error!(
                IncompleteBody,
                "{size_bytes} bytes came where {length} were announced"
            ));
        }
        if self
            .md5
            .as_deref()
            .is_some_and(|expected| expected != BASE64_STANDARD.encode(md5))
        {
            return Err(s3_error!(
                BadDigest,
                "the Content-MD5 does not match the body"
            ));
        }
        if let Some(trailers) = self.trailers.as_ref().and_then(TrailingHeaders::take) {
            for (algorithm, value) in self
                .checksums
                .iter_mut()
                .filter(|(_, value)| value.is_none())
            {
                let trailer = trailers.get(format!("x-amz-checksum-{algorithm}"));
                *value = trailer
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned);
            }
        }
        let found = hasher.finalize();
        let crc32 = found.checksum_crc32.clone();
        let found = [
            found.checksum_crc32,
            found.checksum_crc32c,
            found.checksum_crc64nvme,
            found.checksum_sha1,
            found.checksum_sha256,
        ];
        for (algorithm, found) in ALGORITHMS.iter().zip(found) {
            match self.checksums.get(algorithm) {
                None => {}
                Some(None) => {
                    return Err(bad_request(
                        "MalformedTrailerError",
                        "an announced checksum did not come",
                    ));
                }
                Some(expected) if *expected != found => {
                    return Err(s3_error!(
                        BadDigest,
                        "the {algorithm} does not match the body"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(crc32)
    }
}

/// Writes a body to a scratch file; nothing is left of it when it is not as expected.
pub async fn receive<S, E>(
    store: &Store,
    mut body: S,
    expected: Expected,
    injected: Option<Injected>,
) -> S3Result<Received>
where
    S: Stream<Item = Result<bytes::Bytes, E>> + Unpin,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (file, scratch) = store.scratch().map_err(disk)?;
    let mut file = BufWriter::with_capacity(1 << 20, tokio::fs::File::from_std(file));
    let (mut md5, mut hasher, mut size_bytes) = (Md5::new(), expected.hasher(), 0);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|err| broken(err.into()))?;
        md5.update(&chunk);
        hasher.update(&chunk);
        size_bytes += chunk.len() as u64;
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    let md5 = md5.finalize();
    let crc32 = expected.check(size_bytes, &md5, hasher)?;
    let md5 = hex::encode(md5);
    match injected {
        Some(Injected::NoSpace) => Err(disk(std::io::ErrorKind::StorageFull.into())),
        // The client is told that all is well, tag included, and half of it is missing.
        Some(Injected::Torn) => {
            let size_bytes = size_bytes / 2;
            file.get_ref().set_len(size_bytes).await.map_err(disk)?;
            Ok(Received {
                scratch,
                size_bytes,
                md5,
                crc32,
            })
        }
        None => Ok(Received {
            scratch,
            size_bytes,
            md5,
            crc32,
        }),
    }
}

/// The error for a body that did not arrive as it was signed or announced.
fn broken(err: Box<dyn std::error::Error + Send + Sync>) -> S3Error {
    let text = format!("{err} {err:?}");
    if text.contains("Sha256Mismatch") {
        return bad_request(
            "XAmzContentSHA256Mismatch",
            "the body does not match x-amz-content-sha256",
        );
    }
    if text.contains("SignatureMismatch") {
        return s3_error!(
            SignatureDoesNotMatch,
            "a chunk of the body does not match its signature"
        );
    }
    s3_error!(IncompleteBody, "the body broke off: {err}")
}

/// An error of a code that the library does not know.
fn bad_request(code: &'static str, message: &'static str) -> S3Error {
    let mut err = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    err.set_status_code(http::StatusCode::BAD_REQUEST);
    err
}

/// The error for a disk that did not do it; a full one is named as such.
pub fn disk(err: std::io::Error) -> S3Error {
    match err.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            let mut full = S3Error::with_message(
                S3ErrorCode::Custom("StorageFull".into()),
                "the server's disk is full",
            );
            full.set_status_code(http::StatusCode::INSUFFICIENT_STORAGE);
            full
        }
        _ => S3Error::internal_error(err),
    }
}
