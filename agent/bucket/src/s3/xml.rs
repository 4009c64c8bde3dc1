//! Bodies of S3's answers and of the one request that has one (pure).
//!
//! Everything here was written by somebody else's server: sizes are bounded before parsing, entities beyond the five of XML are
//! refused by the parser, and what does not parse is an error, never a guess.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use quick_xml::de::from_str;
use serde::Deserialize;

use super::clock;
use crate::bucket::{CompletedPart, ListedObject, ListedPart, ListedUpload};

/// Largest body that is parsed, bytes: a page of 1,000 keys of 1,024 bytes, each byte percent-encoded and wrapped in its elements.
pub const MAX_XML_BYTES: usize = 8 << 20;

/// A body that is not what S3 would answer.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// Larger than any answer.
    #[error("answer of {0} bytes is larger than the {MAX_XML_BYTES} that are read")]
    TooLarge(usize),
    /// Not text.
    #[error("answer is not UTF-8")]
    Encoding,
    /// Not XML of the shape asked for.
    #[error("answer is not what S3 would say: {0}")]
    Shape(String),
}

/// An error body, as far as it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// Code such as `NoSuchKey`.
    pub code: Option<String>,
    /// Words for people.
    pub message: Option<String>,
    /// The server's time, in refusals for skew.
    pub server_time: Option<String>,
}

/// One page of a listing and where the next begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<T, M> {
    /// Rows.
    pub rows: Vec<T>,
    /// What to ask next; `None` at the end.
    pub next: Option<M>,
}

/// Reads an error body. Never fails: proxies answer with HTML or nothing, and the status has to do then.
pub fn error_body(body: &[u8]) -> ErrorBody {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Error {
        code: Option<String>,
        message: Option<String>,
        server_time: Option<String>,
    }
    match parse::<Error>("Error", body) {
        Ok(Error {
            code,
            message,
            server_time,
        }) => ErrorBody {
            code,
            message,
            server_time,
        },
        Err(_) => ErrorBody::default(),
    }
}

/// Reads a page of ListObjectsV2; the next page by its continuation token.
pub fn objects(body: &[u8]) -> Result<Page<ListedObject, String>, XmlError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct ListBucketResult {
        #[serde(default)]
        is_truncated: bool,
        next_continuation_token: Option<String>,
        encoding_type: Option<String>,
        #[serde(default)]
        contents: Vec<Contents>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Contents {
        key: String,
        size: u64,
        #[serde(rename = "ETag", default)]
        etag: String,
        last_modified: Option<String>,
    }
    let result: ListBucketResult = parse("ListBucketResult", body)?;
    let mut rows = Vec::with_capacity(result.contents.len());
    for Contents {
        key,
        size,
        etag,
        last_modified,
    } in result.contents
    {
        rows.push(ListedObject {
            key: decoded(key, result.encoding_type.as_deref())?,
            size_bytes: size,
            etag: unquoted(&etag),
            modified_s: seconds(last_modified.as_deref()),
        });
    }
    let next = next_of(result.is_truncated, result.next_continuation_token)?;
    Ok(Page { rows, next })
}

/// Reads a page of ListParts; the next page by its part-number marker.
pub fn parts(body: &[u8]) -> Result<Page<ListedPart, u32>, XmlError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct ListPartsResult {
        #[serde(default)]
        is_truncated: bool,
        next_part_number_marker: Option<u32>,
        #[serde(default, rename = "Part")]
        parts: Vec<Part>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Part {
        part_number: u32,
        size: u64,
        #[serde(rename = "ETag")]
        etag: String,
    }
    let result: ListPartsResult = parse("ListPartsResult", body)?;
    let row = |part: Part| ListedPart {
        number: part.part_number,
        size_bytes: part.size,
        etag: unquoted(&part.etag),
    };
    let next = next_of(result.is_truncated, result.next_part_number_marker)?;
    Ok(Page {
        rows: result.parts.into_iter().map(row).collect(),
        next,
    })
}

/// Checksums in an answer of ListParts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListedSums {
    /// Whether the upload was begun with CRC-32.
    pub crc32: bool,
    /// By part number, base64.
    pub parts: Vec<(u32, String)>,
}

/// Reads the checksums of an answer of ListParts.
pub fn sums(body: &[u8]) -> Result<ListedSums, XmlError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct ListPartsResult {
        checksum_algorithm: Option<String>,
        #[serde(default, rename = "Part")]
        parts: Vec<Part>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Part {
        part_number: u32,
        #[serde(rename = "ChecksumCRC32")]
        crc32: Option<String>,
    }
    let result: ListPartsResult = parse("ListPartsResult", body)?;
    let crc32 = result.checksum_algorithm.as_deref() == Some("CRC32");
    let sum = |part: Part| Some((part.part_number, part.crc32?));
    Ok(ListedSums {
        crc32,
        parts: result.parts.into_iter().filter_map(sum).collect(),
    })
}

/// Where the next page of uploads begins: key and upload id.
pub type UploadMarker = (String, String);

/// Reads a page of ListMultipartUploads.
pub fn uploads(body: &[u8]) -> Result<Page<ListedUpload, UploadMarker>, XmlError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct ListMultipartUploadsResult {
        #[serde(default)]
        is_truncated: bool,
        next_key_marker: Option<String>,
        next_upload_id_marker: Option<String>,
        encoding_type: Option<String>,
        #[serde(default, rename = "Upload")]
        uploads: Vec<Upload>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Upload {
        key: String,
        upload_id: String,
        initiated: Option<String>,
    }
    let result: ListMultipartUploadsResult = parse("ListMultipartUploadsResult", body)?;
    let encoding = result.encoding_type.as_deref();
    let mut rows = Vec::with_capacity(result.uploads.len());
    for Upload {
        key,
        upload_id,
        initiated,
    } in result.uploads
    {
        rows.push(ListedUpload {
            key: decoded(key, encoding)?,
            upload_id,
            initiated_s: seconds(initiated.as_deref()),
        });
    }
    let key_marker = result
        .next_key_marker
        .map(|marker| decoded(marker, encoding))
        .transpose()?;
    let marker = key_marker.map(|key| (key, result.next_upload_id_marker.unwrap_or_default()));
    Ok(Page {
        rows,
        next: next_of(result.is_truncated, marker)?,
    })
}

/// Reads the upload id of CreateMultipartUpload.
pub fn upload_id(body: &[u8]) -> Result<String, XmlError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct InitiateMultipartUploadResult {
        upload_id: String,
    }
    // Some servers leave the `Result` out.
    let result = parse("InitiateMultipartUploadResult", body)
        .or_else(|err| parse("InitiateMultipartUpload", body).map_err(|_| err));
    let result: InitiateMultipartUploadResult = result?;
    if result.upload_id.is_empty() || result.upload_id.len() > 2048 {
        return Err(XmlError::Shape(format!(
            "an upload id of {} bytes",
            result.upload_id.len()
        )));
    }
    Ok(result.upload_id)
}

/// Reads the answer to CompleteMultipartUpload, which may be an error although the status was 200.
pub fn completed(body: &[u8]) -> Result<Result<String, ErrorBody>, XmlError> {
    #[derive(Deserialize)]
    struct CompleteMultipartUploadResult {
        #[serde(rename = "ETag")]
        etag: String,
    }
    match parse::<CompleteMultipartUploadResult>("CompleteMultipartUploadResult", body) {
        Ok(result) => Ok(Ok(unquoted(&result.etag))),
        Err(err) => match error_body(body) {
            ErrorBody { code: None, .. } => Err(err),
            error => Ok(Err(error)),
        },
    }
}

/// Writes the body of CompleteMultipartUpload, with the checksums of parts that have one.
pub fn complete_request(parts: &[CompletedPart], sums: &BTreeMap<u32, String>) -> String {
    let mut text = String::from(
        r#"<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"#,
    );
    for part in parts {
        let etag = quick_xml::escape::escape(part.etag.as_str());
        text.push_str(&format!(
            "<Part><PartNumber>{}</PartNumber><ETag>&quot;{etag}&quot;</ETag>",
            part.number
        ));
        if let Some(sum) = sums.get(&part.number) {
            let sum = quick_xml::escape::escape(sum.as_str());
            text.push_str(&format!("<ChecksumCRC32>{sum}</ChecksumCRC32>"));
        }
        text.push_str("</Part>");
    }
    text.push_str("</CompleteMultipartUpload>");
    text
}

/// Seconds since the epoch of a time such as `2026-01-02T03:04:05.000Z`; 0 when there is none.
fn seconds(time: Option<&str>) -> i64 {
    let time = time.and_then(clock::parse_iso_time);
    let since_epoch = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since_epoch.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

/// Strips the quotes of an entity tag.
pub fn unquoted(etag: &str) -> String {
    etag.trim().trim_matches('"').to_owned()
}

fn parse<T: for<'de> Deserialize<'de>>(root: &str, body: &[u8]) -> Result<T, XmlError> {
    if body.len() > MAX_XML_BYTES {
        return Err(XmlError::TooLarge(body.len()));
    }
    let text = std::str::from_utf8(body).map_err(|_| XmlError::Encoding)?;
    // S3 sends blanks while it works on a Complete, so that the connection stays open.
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    // The deserialiser takes any root element; a listing without rows would look like any other answer.
    match root_of(text) {
        Some(found) if found == root => {
            from_str(text).map_err(|err| XmlError::Shape(bounded(&err.to_string())))
        }
        found => Err(XmlError::Shape(format!(
            "{} instead of {root}",
            bounded(found.unwrap_or("no XML"))
        ))),
    }
}

/// Name of the first element, past the declaration and comments. A document type is no part of any S3 answer.
fn root_of(mut text: &str) -> Option<&str> {
    loop {
        text = text.trim_start();
        if let Some(rest) = text.strip_prefix("<?") {
            text = &rest[rest.find("?>")? + 2..];
        } else if let Some(rest) = text.strip_prefix("<!--") {
            text = &rest[rest.find("-->")? + 3..];
        } else {
            let name = text.strip_prefix('<')?;
            let name = &name[..name.find(|c: char| c.is_whitespace() || matches!(c, '>' | '/'))?];
            return (!name.is_empty()).then(|| name.rsplit(':').next().unwrap_or(name));
        }
    }
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The key, decoded when the server says that it encoded it. In this encoding a blank may be `+`.
fn decoded(key: String, encoding: Option<&str>) -> Result<String, XmlError> {
    if encoding != Some("url") {
        return Ok(key);
    }
    let blanks = key.replace('+', " ");
    let text = percent_decode_str(&blanks)
        .decode_utf8()
        .map_err(|_| XmlError::Encoding)?;
    Ok(text.into_owned())
}

fn next_of<M>(truncated: bool, marker: Option<M>) -> Result<Option<M>, XmlError> {
    match (truncated, marker) {
        (false, _) => Ok(None),
        (true, Some(marker)) => Ok(Some(marker)),
        (true, None) => Err(XmlError::Shape(
            "a page that is not the last, without where the next begins".to_owned(),
        )),
    }
}

#[cfg(test)]
#[path = "xml_tests.rs"]
mod tests;
