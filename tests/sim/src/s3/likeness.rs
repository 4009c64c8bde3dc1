//! Other people's servers, as far as they take less than AWS does of what clients may ask: from what they document, and from what their
//! users met. Everything that is not here is as with AWS.

use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// Uploads of parts that R2 carries out at a time before it asks to slow down.
pub(super) const R2_PARTS_AT_ONCE: usize = 3;

/// Whose server it is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Like {
    /// AWS: all that S3 promises.
    #[default]
    Aws,
    /// Cloudflare R2: no checksums and no bodies in signed chunks, parts of one size, few of them at once.
    R2,
    /// Backblaze B2: refuses every header of a checksum by name, and conditions.
    B2,
    /// Google Cloud Storage by its XML interface with HMAC keys: deletes one object at a time, refuses checksums, and does not look at
    /// conditions.
    Gcs,
}

impl Like {
    /// Status and code with which it refuses a request of this operation, whoever signed it.
    pub(super) fn refuses(
        self,
        operation: &str,
        headers: &HeaderMap,
    ) -> Option<(u16, &'static str)> {
        let named = |start: &str| headers.keys().any(|name| name.as_str().starts_with(start));
        let sums = named("x-amz-checksum-") || named("x-amz-sdk-checksum-");
        let sha256 = headers.get("x-amz-content-sha256");
        let sha256 = sha256
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let chunked = sha256.starts_with("STREAMING-") || named("x-amz-trailer");
        let writes = matches!(operation, "PutObject" | "CompleteMultipartUpload");
        let conditions = writes && (named("if-none-match") || named("if-match"));
        match self {
            Self::Aws => None,
            Self::R2 => {
                (sums || chunked || sha256 == "UNSIGNED-PAYLOAD").then_some((501, "NotImplemented"))
            }
            Self::B2 if sums => Some((400, "InvalidArgument")),
            Self::B2 => (chunked || conditions).then_some((501, "NotImplemented")),
            Self::Gcs if operation == "DeleteObjects" => Some((400, "NotImplemented")),
            Self::Gcs if chunked => Some((403, "SignatureDoesNotMatch")),
            Self::Gcs => sums.then_some((400, "ExcessHeaderValues")),
        }
    }

    /// Whether a condition of a write is taken as if it were not there.
    pub(super) fn ignores_conditions(self) -> bool {
        self == Self::Gcs
    }

    /// Whether all parts but the last have to be of one size.
    pub(super) fn wants_equal_parts(self) -> bool {
        self == Self::R2
    }

    /// Parts that may be on their way at once.
    pub(super) fn parts_at_once(self) -> usize {
        match self {
            Self::R2 => R2_PARTS_AT_ONCE,
            Self::Aws | Self::B2 | Self::Gcs => usize::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refuses_what_it_does_not_take() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).try_into().unwrap(), (*value).try_into().unwrap()));
            pairs.collect::<HeaderMap>()
        };
        let sum = with(&[
            ("x-amz-checksum-crc32", "AAAAAA=="),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ]);
        let chunked = with(&[("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")]);
        let condition = with(&[("if-none-match", "*")]);
        let plain = with(&[
            ("x-amz-content-sha256", "0f"),
            ("x-amz-date", "20130524T000000Z"),
        ]);
        let check = |like: Like, operation, headers, expected: Option<(u16, &'static str)>| {
            let refused = like.refuses(operation, headers);
            assert_eq!(refused, expected, "{like:?} {operation}");
        };
        let lacks = Some((501, "NotImplemented"));
        check(Like::Aws, "PutObject", &sum, None);
        check(Like::R2, "UploadPart", &sum, lacks);
        check(Like::R2, "PutObject", &condition, None);
        let odd = Some((400, "InvalidArgument"));
        check(Like::B2, "UploadPart", &sum, odd);
        check(Like::B2, "PutObject", &condition, lacks);
        check(Like::B2, "GetObject", &condition, None);
        check(Like::B2, "PutObject", &chunked, lacks);
        let mixed = Some((400, "ExcessHeaderValues"));
        check(Like::Gcs, "PutObject", &sum, mixed);
        check(Like::Gcs, "PutObject", &condition, None);
        let unknown = Some((400, "NotImplemented"));
        check(Like::Gcs, "DeleteObjects", &plain, unknown);
        let unsigned = Some((403, "SignatureDoesNotMatch"));
        check(Like::Gcs, "PutObject", &chunked, unsigned);
        for like in [Like::Aws, Like::R2, Like::B2, Like::Gcs] {
            assert_eq!(like.refuses("UploadPart", &plain), None, "{like:?}");
        }
    }
}
