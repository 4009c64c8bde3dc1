//! The three listings, page by page, as S3 shows them.

use std::sync::Arc;

use s3s::{
    S3Result,
    dto::{
        ChecksumAlgorithm, CommonPrefix, EncodingType, ListMultipartUploadsInput,
        ListMultipartUploadsOutput, ListObjectsV2Input, ListObjectsV2Output, ListPartsInput,
        ListPartsOutput, MultipartUpload, Object, Part, Timestamp,
    },
    s3_error,
};

use super::{
    convert::{strong, timestamp_ms},
    listing,
    store::{Begun, Description, Part as StoredPart, Store},
};

/// A page of objects.
pub fn objects(store: &Store, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
    let query = listing::Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        after: input.start_after.clone(),
        token: input.continuation_token.clone(),
        max_rows: rows(input.max_keys),
    };
    let page = listing::page(store, &input.bucket, &query)?.ok_or_else(|| {
        s3_error!(
            InvalidArgument,
            "the continuation token is not one of this server"
        )
    })?;
    let encoding = input.encoding_type.as_ref();
    let object = |object: &Arc<Description>| Object {
        key: Some(shown(&object.key, encoding)),
        size: i64::try_from(object.size_bytes).ok(),
        e_tag: strong(&object.etag),
        last_modified: timestamp_ms(object.modified_ms),
        ..Default::default()
    };
    let folded = |prefix: &String| CommonPrefix {
        prefix: Some(shown(prefix, encoding)),
    };
    let output = ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(shown(&query.prefix, encoding)),
        max_keys: count(query.max_rows),
        key_count: count(page.objects.len() + page.common_prefixes.len()),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.clone(),
        contents: Some(page.objects.iter().map(object).collect()),
        common_prefixes: Some(page.common_prefixes.iter().map(folded).collect()),
        delimiter: query
            .delimiter
            .as_deref()
            .map(|delimiter| shown(delimiter, encoding)),
        start_after: query.after.as_deref().map(|after| shown(after, encoding)),
        encoding_type: input.encoding_type.clone(),
        ..Default::default()
    };
    Ok(output)
}

/// A page of the parts of an upload.
pub fn parts(store: &Store, input: ListPartsInput) -> S3Result<ListPartsOutput> {
    let after = input
        .part_number_marker
        .and_then(|marker| u32::try_from(marker).ok())
        .unwrap_or(0);
    let max_rows = rows(input.max_parts);
    let mut found = store.parts(&input.bucket, &input.key, &input.upload_id, after)?;
    let truncated = found.len() > max_rows;
    found.truncate(max_rows);
    let next = found
        .last()
        .and_then(|(number, _)| i32::try_from(*number).ok())
        .filter(|_| truncated);
    let part = |(number, part): (u32, StoredPart)| Part {
        part_number: i32::try_from(number).ok(),
        size: i64::try_from(part.size_bytes).ok(),
        e_tag: strong(&part.md5),
        checksum_crc32: part.crc32,
        last_modified: Some(Timestamp::from(part.modified)),
        ..Default::default()
    };
    let begun = store.begun(&input.bucket, &input.key, &input.upload_id)?;
    let crc32 = || ChecksumAlgorithm::from_static(ChecksumAlgorithm::CRC32);
    let output = ListPartsOutput {
        checksum_algorithm: begun.crc32.then(crc32),
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        part_number_marker: input.part_number_marker,
        max_parts: count(max_rows),
        is_truncated: Some(truncated),
        next_part_number_marker: next,
        parts: Some(found.into_iter().map(part).collect()),
        ..Default::default()
    };
    Ok(output)
}

/// A page of the open uploads.
pub fn uploads(
    store: &Store,
    input: ListMultipartUploadsInput,
) -> S3Result<ListMultipartUploadsOutput> {
    let prefix = input.prefix.clone().unwrap_or_default();
    let marker = input
        .key_marker
        .as_deref()
        .filter(|marker| !marker.is_empty());
    // Without an id the marker's whole key was shown already.
    let after_id = input
        .upload_id_marker
        .as_deref()
        .filter(|id| !id.is_empty());
    let is_after = |key: &str, id: &str| match (marker, after_id) {
        (None, _) => true,
        (Some(marker), None) => key > marker,
        (Some(marker), Some(after_id)) => (key, id) > (marker, after_id),
    };
    let mut found = store.uploads(&input.bucket)?;
    found.retain(|(id, begun)| begun.key.starts_with(&prefix) && is_after(&begun.key, id));
    let max_rows = rows(input.max_uploads);
    let truncated = found.len() > max_rows;
    found.truncate(max_rows);
    let encoding = input.encoding_type.as_ref();
    let last = found.last().filter(|_| truncated).cloned();
    let upload = |(id, begun): (String, Begun)| MultipartUpload {
        key: Some(shown(&begun.key, encoding)),
        upload_id: Some(id),
        initiated: timestamp_ms(begun.initiated_ms),
        ..Default::default()
    };
    let output = ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: Some(shown(&prefix, encoding)),
        key_marker: input
            .key_marker
            .as_deref()
            .map(|marker| shown(marker, encoding)),
        upload_id_marker: input.upload_id_marker.clone(),
        max_uploads: count(max_rows),
        is_truncated: Some(truncated),
        next_key_marker: last.as_ref().map(|(_, begun)| shown(&begun.key, encoding)),
        next_upload_id_marker: last.map(|(id, _)| id),
        encoding_type: input.encoding_type.clone(),
        uploads: Some(found.into_iter().map(upload).collect()),
        ..Default::default()
    };
    Ok(output)
}

/// A key or prefix as the listing shows it.
fn shown(text: &str, encoding: Option<&EncodingType>) -> String {
    if encoding.is_none_or(|encoding| encoding.as_str() != EncodingType::URL) {
        return text.to_owned();
    }
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'/');
    // S3 writes a blank as `+` here.
    percent_encoding::utf8_percent_encode(text, KEPT)
        .to_string()
        .replace("%20", "+")
}

/// How many rows a page has at most.
fn rows(asked: Option<i32>) -> usize {
    asked
        .and_then(|asked| usize::try_from(asked).ok())
        .unwrap_or(listing::MAX_ROWS)
        .min(listing::MAX_ROWS)
}

/// A number of rows as the library has it.
fn count(rows: usize) -> Option<i32> {
    i32::try_from(rows).ok()
}
