//! Signs requests ahead, for a box that has no keys: Signature Version 4 in the query, which says nothing of the payload.
//!
//! All requests of one [`Presigner`] are signed at the same moment for the same time, so that they differ in their signatures only.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sigv4::{
    http_request::{
        PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4::SigningParams,
};

use super::{S3Bucket, address, sign::SignError};
use crate::{
    credentials::Credentials,
    grants::{Batch, Grant},
};

/// Longest life of a signature in a query, by the definition of Signature Version 4.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// What signatures are given less than the keys have left.
const BEFORE_THE_KEYS: Duration = Duration::from_secs(30);
const SIGNATURE: &str = "X-Amz-Signature";

/// Signs for one bucket.
pub struct Presigner {
    bucket_url: String,
    region: String,
    credentials: Credentials,
    time: SystemTime,
    life: Duration,
}

impl S3Bucket {
    /// What signs ahead with the keys of this client, by the server's clock, for at most `life` and as long as the keys live; `None`:
    /// there are no keys, or they are about to end.
    pub fn presigner(&self, life: Duration) -> Option<Presigner> {
        let credentials = self.exchange.keys_now()?;
        let now = (self.exchange.options.clock)();
        let life = match credentials.expires_us {
            None => life,
            Some(expires_us) => (UNIX_EPOCH + Duration::from_micros(expires_us))
                .duration_since(now)
                .ok()?
                .checked_sub(BEFORE_THE_KEYS)?
                .min(life),
        };
        Some(Presigner {
            bucket_url: self.exchange.bucket_url.clone(),
            region: self.exchange.region.clone(),
            credentials,
            time: super::clock::shifted(now, self.exchange.ahead_s()),
            life: life.min(LONGEST),
        })
    }
}

impl Presigner {
    /// When these signatures end, microseconds since the epoch.
    pub fn expires_us(&self) -> u64 {
        let end = (self.time + self.life).duration_since(UNIX_EPOCH);
        end.map_or(0, |end| end.as_micros() as u64)
    }

    /// A batch of grants.
    ///
    /// # Errors
    /// When a request cannot be signed.
    pub fn batch(&self, grants: Vec<Grant>) -> Result<Batch, SignError> {
        let (query, _) = self.signed("GET", "any", &[])?;
        Ok(Batch {
            query,
            expires_us: self.expires_us(),
            grants,
        })
    }

    /// What allows to read an object that is there.
    ///
    /// # Errors
    /// When a request cannot be signed.
    pub fn read(&self, key: &str) -> Result<Grant, SignError> {
        self.grant(key, "", &[("GET", &[]), ("HEAD", &[])])
    }

    /// What allows to put an object in one request, and to read it.
    ///
    /// # Errors
    /// When a request cannot be signed.
    pub fn put(&self, key: &str) -> Result<Grant, SignError> {
        self.grant(key, "", &[("GET", &[]), ("HEAD", &[]), ("PUT", &[])])
    }

    /// What allows to carry out an upload that was begun for an object, in at most so many parts, and to read it.
    ///
    /// # Errors
    /// When a request cannot be signed.
    pub fn upload(&self, key: &str, upload_id: &str, parts: u32) -> Result<Grant, SignError> {
        let of = [("uploadId", upload_id)];
        let mut grant = self.grant(
            key,
            upload_id,
            &[("GET", &[]), ("HEAD", &[]), ("POST", &of), ("GET", &of)],
        )?;
        for number in 1..=parts {
            let number = number.to_string();
            let query = [("partNumber", number.as_str()), ("uploadId", upload_id)];
            grant.signatures.extend(self.signed("PUT", key, &query)?.1);
        }
        Ok(grant)
    }

    fn grant(
        &self,
        key: &str,
        upload_id: &str,
        requests: &[(&str, &[(&str, &str)])],
    ) -> Result<Grant, SignError> {
        let mut signatures = Vec::new();
        for (method, query) in requests {
            signatures.extend(self.signed(method, key, query)?.1);
        }
        Ok(Grant {
            key: key.to_owned(),
            upload_id: upload_id.to_owned(),
            signatures,
        })
    }

    /// What signing adds to a query, and the signature.
    fn signed(
        &self,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
    ) -> Result<(String, Vec<u8>), SignError> {
        let failed = |err: &dyn std::fmt::Display| SignError::new(err);
        let identity = aws_credential_types::Credentials::new(
            self.credentials.access_key_id.as_str(),
            self.credentials.secret_access_key.as_str(),
            self.credentials.session_token.clone(),
            None,
            "spotter",
        )
        .into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(self.life);
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(self.time)
            .settings(settings)
            .build()
            .map_err(|err| failed(&err))?
            .into();
        let url = address::url(&self.bucket_url, Some(key), query);
        let headers = std::iter::empty();
        let body = SignableBody::UnsignedPayload;
        let signable =
            SignableRequest::new(method, url, headers, body).map_err(|err| failed(&err))?;
        let (instructions, _) = sign(signable, &params)
            .map_err(|err| failed(&err))?
            .into_parts();
        let mut added = Vec::new();
        let mut signature = Vec::new();
        for (name, value) in instructions.params() {
            if *name == SIGNATURE {
                signature = hex::decode(value.as_bytes()).map_err(|err| failed(&err))?;
            } else {
                added.push((*name, value.as_ref()));
            }
        }
        Ok((address::query(&added), signature))
    }
}
