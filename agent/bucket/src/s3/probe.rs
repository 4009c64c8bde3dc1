//! Finds out what a server honours, by asking for things that it should refuse. About twenty small requests; nothing is left behind.
//!
//! What is found is judged elsewhere ([`Findings::verdict`]); a server that does not answer is not judged at all.

use bytes::Bytes;
use http::{Method, header};
use rand::Rng;
use ulid::Ulid;

use super::{
    S3Bucket,
    exchange::{Answer, Request, Vouch},
    on, payload, refusal, sign,
};
use crate::{
    bucket::{Bucket, BucketError, CompletedPart, ErrorKind},
    verdict::{Findings, Honour, Payload},
};

/// Size of what is written, bytes.
const PROBE_BYTES: usize = 4096;
/// Longest name of a server that is kept, characters.
const MAX_SERVER_CHARS: usize = 60;
/// A tag that no part has.
const WRONG_TAG: &str = "0123456789abcdef0123456789abcdef";

impl S3Bucket {
    /// Asks the server, below `prefix`. Fails when a call that must work does not, or an answer says nothing either way.
    pub async fn probe(&self, prefix: &str) -> Result<Findings, BucketError> {
        let name = format!(".spotter-probe-{}", Ulid::generate());
        let key = match prefix.trim_matches('/') {
            "" => name,
            prefix => format!("{prefix}/{name}"),
        };
        let mut body = vec![0; PROBE_BYTES];
        rand::rng().fill_bytes(&mut body);
        let found = self.findings(&key, &Bytes::from(body)).await;
        let deleted = self.delete(&key).await;
        let found = found?;
        deleted?;
        Ok(found)
    }

    async fn findings(&self, key: &str, body: &Bytes) -> Result<Findings, BucketError> {
        let answer = self.offer(key, body, Vouch::Sha256, None).await?;
        let server = answer.headers.get(header::SERVER);
        let server = server
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let server = refusal::cleaned(server, &[]);
        let another = Bytes::from_static(b"another body");
        let conditions = honour(
            self.offer(key, body, Vouch::Sha256, Some(("if-none-match", "*")))
                .await,
        )?;
        let claimed = Vouch::Claimed(sign::payload_sha256(&another));
        let sha256 = honour(self.offer(key, body, claimed, None).await)?;
        let wrong = Vouch::Crc32(payload::crc32(&another));
        let crc32 = honour(self.offer(key, body, wrong, None).await)?;
        let crc32_uploads = crc32 == Honour::Honoured && self.crc32_uploads(key, body).await?;
        let plain = self.plain_upload(key, body).await?;
        Ok(Findings {
            server: server.chars().take(MAX_SERVER_CHARS).collect(),
            sha256,
            crc32,
            crc32_uploads,
            conditions,
            ..plain
        })
    }

    async fn offer(
        &self,
        key: &str,
        body: &Bytes,
        vouch: Vouch,
        condition: Option<(&'static str, &str)>,
    ) -> Result<Answer, BucketError> {
        let headers = condition.map(|(name, value)| (name, value.to_owned()));
        let request = Request {
            headers: headers.into_iter().collect(),
            body: body.clone(),
            vouch,
            ..on("PutObject", Method::PUT, key)
        };
        self.exchange.send(request).await
    }

    /// Whether the calls of an upload with checksums work as they will be made, and a damaged part is refused.
    async fn crc32_uploads(&self, key: &str, body: &Bytes) -> Result<bool, BucketError> {
        let right = Vouch::Crc32(payload::crc32(body));
        if settled(self.offer(key, body, right, None).await)?.is_none()
            || self.get(key, None).await? != body
        {
            return Ok(false);
        }
        let Some(id) = settled(self.begin(key, Payload::Checksum).await)? else {
            return Ok(false);
        };
        let worked = self.crc32_parts(key, &id, body).await;
        if !matches!(worked, Ok(true)) {
            self.abort_upload(key, &id).await?;
        }
        worked
    }

    async fn crc32_parts(&self, key: &str, id: &str, body: &Bytes) -> Result<bool, BucketError> {
        let damaged = Request {
            query: vec![("partNumber", "1"), ("uploadId", id)],
            body: body.clone(),
            vouch: Vouch::Crc32(payload::crc32(b"another body")),
            ..on("UploadPart", Method::PUT, key)
        };
        if honour(self.exchange.send(damaged).await)? != Honour::Honoured {
            return Ok(false);
        }
        let Some(etag) = settled(self.upload_part(key, id, 1, body.clone()).await)? else {
            return Ok(false);
        };
        // After a restart only the server knows the checksums.
        self.sums.forget(id);
        if settled(self.list_parts(key, id).await)?.is_none()
            || self.sums.of(id).get(&1) != Some(&payload::crc32(body))
        {
            return Ok(false);
        }
        let parts = [CompletedPart { number: 1, etag }];
        if settled(self.complete_upload(key, id, &parts).await)?.is_none() {
            return Ok(false);
        }
        Ok(self.get(key, None).await? == body)
    }

    /// What is found with an upload without checksums; what it cannot tell is filled in by the caller.
    async fn plain_upload(&self, key: &str, body: &Bytes) -> Result<Findings, BucketError> {
        let id = self.begin(key, Payload::Signed).await?;
        let found = self.plain_parts(key, &id, body).await;
        self.abort_upload(key, &id).await?;
        found
    }

    async fn plain_parts(
        &self,
        key: &str,
        id: &str,
        body: &Bytes,
    ) -> Result<Findings, BucketError> {
        let etag = self.upload_part(key, id, 1, body.clone()).await?;
        let parts = settled(self.list_parts(key, id).await)?;
        let uploads = settled(self.list_uploads(key).await)?;
        let parts = parts.is_some_and(|parts| parts.iter().any(|part| part.etag == etag));
        let uploads = uploads.is_some_and(|all| all.iter().any(|one| one.upload_id == id));
        let wrong = [CompletedPart {
            number: 1,
            etag: WRONG_TAG.to_owned(),
        }];
        let part_tags = honour(self.complete_upload(key, id, &wrong).await)?;
        let still = settled(self.list_parts(key, id).await)?;
        Ok(Findings {
            server: String::new(),
            sha256: Honour::Ignored,
            crc32: Honour::Ignored,
            crc32_uploads: false,
            conditions: Honour::Ignored,
            part_tags,
            refusal_keeps_upload: still.is_some(),
            lists_parts: parts,
            lists_uploads: uploads,
        })
    }
}

/// What a server did with something that it should refuse.
fn honour<T>(sent: Result<T, BucketError>) -> Result<Honour, BucketError> {
    match sent {
        Ok(_) => Ok(Honour::Ignored),
        Err(err) if lacks(&err) => Ok(Honour::Lacking),
        Err(err) if refuses(&err) => Ok(Honour::Honoured),
        Err(err) => Err(err),
    }
}

/// What a server answered, or `None` when it refused for good.
fn settled<T>(sent: Result<T, BucketError>) -> Result<Option<T>, BucketError> {
    match sent {
        Ok(answer) => Ok(Some(answer)),
        // A body of another shape is an answer that we cannot use.
        Err(err) if lacks(&err) || refuses(&err) || err.kind == ErrorKind::Refused => Ok(None),
        Err(err) => Err(err),
    }
}

fn lacks(err: &BucketError) -> bool {
    matches!(err.status, 405 | 501) || err.code.as_deref() == Some("NotImplemented")
}

fn refuses(err: &BucketError) -> bool {
    (400..500).contains(&err.status) && !matches!(err.status, 408 | 425 | 429)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_answer_counts() {
        let check = |status: u16, kind: ErrorKind, expected: Option<Honour>| {
            let err = BucketError {
                operation: "PutObject",
                key: "k".into(),
                kind,
                status,
                code: None,
                message: String::new(),
            };
            assert_eq!(honour::<()>(Err(err)).ok(), expected, "{status}");
        };
        check(400, ErrorKind::Transient, Some(Honour::Honoured));
        check(403, ErrorKind::Denied, Some(Honour::Honoured));
        check(412, ErrorKind::Refused, Some(Honour::Honoured));
        check(501, ErrorKind::Refused, Some(Honour::Lacking));
        check(0, ErrorKind::Transient, None);
        check(429, ErrorKind::Transient, None);
        check(500, ErrorKind::Transient, None);
        check(503, ErrorKind::Transient, None);
        assert_eq!(honour(Ok(())).unwrap(), Honour::Ignored);
    }
}
