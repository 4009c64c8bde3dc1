//! Our types to those of the library and back (pure).

use s3s::{
    S3Result,
    dto::{ETag, ETagCondition, Metadata, Timestamp},
    s3_error,
};

use super::store::{Description, Precondition};

/// Most parts of an upload.
const MAX_PARTS: i32 = 10_000;

/// Metadata as the store has it.
pub fn kept(metadata: Option<Metadata>) -> std::collections::BTreeMap<String, String> {
    metadata.into_iter().flatten().collect()
}

/// A tag as the library has it.
pub fn strong(etag: &str) -> Option<ETag> {
    Some(ETag::Strong(etag.to_owned()))
}

/// A time as the library has it, from milliseconds since the epoch.
pub fn timestamp_ms(ms: u64) -> Option<Timestamp> {
    Some(Timestamp::from(
        std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(ms),
    ))
}

/// Conditions of a request that writes.
pub fn condition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Precondition> {
    let absent = match if_none_match {
        None => false,
        Some(ETagCondition::Any) => true,
        Some(ETagCondition::ETag(_)) => {
            return Err(s3_error!(NotImplemented, "If-None-Match takes only * here"));
        }
    };
    let etag = if_match
        .and_then(ETagCondition::as_etag)
        .map(|etag| etag.value().to_owned());
    Ok(Precondition { absent, etag })
}

/// Conditions of a request that reads.
pub fn readable(
    description: &Description,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let is = |condition: &ETagCondition| {
        condition
            .as_etag()
            .is_none_or(|etag| etag.value() == description.etag)
    };
    if if_match.is_some_and(|condition| !is(condition)) {
        return Err(s3_error!(PreconditionFailed, "the object has another tag"));
    }
    if if_none_match.is_some_and(is) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

/// A part number, if it is one.
pub fn part_number(number: i32) -> S3Result<u32> {
    match u32::try_from(number) {
        Ok(number @ 1..) if number <= MAX_PARTS.unsigned_abs() => Ok(number),
        _ => Err(s3_error!(
            InvalidArgument,
            "parts are numbered 1 to {MAX_PARTS}"
        )),
    }
}
