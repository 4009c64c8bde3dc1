//! Bodies of S3's answers and of the one request that has one (pure).
//!
//! Everything here was written by somebody else's server: sizes are bounded before parsing, entities beyond the five of XML are
//! refused by the parser, and what does not parse is an error, never a guess.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use quick_xml::{Reader, escape::resolve_xml_entity, events::Event};

use super::clock;
use crate::bucket::{CompletedPart, ListedObject, ListedPart, ListedUpload};

/// Largest body that is parsed, bytes: a page of 1,000 keys of 1,024 bytes, each byte percent-encoded and wrapped in its elements.
pub const MAX_XML_BYTES: usize = 8 << 20;

/// Most elements of a page: 1,000 rows of some 20.
const MAX_ELEMENTS: usize = 50_000;
/// Deepest nesting; S3's own is 4.
const MAX_DEPTH: usize = 32;

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
    let Ok(error) = read("Error", body) else {
        return ErrorBody::default();
    };
    let word = |name| error.text(name).map(str::to_owned);
    ErrorBody {
        code: word("Code"),
        message: word("Message"),
        server_time: word("ServerTime"),
    }
}

/// Reads a page of ListObjectsV2; the next page by its continuation token.
pub fn objects(body: &[u8]) -> Result<Page<ListedObject, String>, XmlError> {
    let result = read("ListBucketResult", body)?;
    let encoding = result.text("EncodingType");
    let mut rows = Vec::new();
    for row in result.all("Contents") {
        rows.push(ListedObject {
            key: decoded(row.needed("Key")?, encoding)?,
            size_bytes: row.number("Size")?,
            etag: unquoted(row.text("ETag").unwrap_or_default()),
            modified_s: seconds(row.text("LastModified")),
        });
    }
    let token = result.text("NextContinuationToken").map(str::to_owned);
    let next = next_of(&result, token)?;
    Ok(Page { rows, next })
}

/// Reads a page of ListParts; the next page by its part-number marker.
pub fn parts(body: &[u8]) -> Result<Page<ListedPart, u32>, XmlError> {
    let result = read("ListPartsResult", body)?;
    let mut rows = Vec::new();
    for row in result.all("Part") {
        rows.push(ListedPart {
            number: part_number(row, "PartNumber")?,
            size_bytes: row.number("Size")?,
            etag: unquoted(row.needed("ETag")?),
        });
    }
    let marker = match result.text("NextPartNumberMarker") {
        Some(_) => Some(part_number(&result, "NextPartNumberMarker")?),
        None => None,
    };
    let next = next_of(&result, marker)?;
    Ok(Page { rows, next })
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
    let result = read("ListPartsResult", body)?;
    let mut parts = Vec::new();
    for row in result.all("Part") {
        if let Some(sum) = row.text("ChecksumCRC32") {
            parts.push((part_number(row, "PartNumber")?, sum.to_owned()));
        }
    }
    let crc32 = result.text("ChecksumAlgorithm") == Some("CRC32");
    Ok(ListedSums { crc32, parts })
}

/// Where the next page of uploads begins: key and upload id.
pub type UploadMarker = (String, String);

/// Reads a page of ListMultipartUploads.
pub fn uploads(body: &[u8]) -> Result<Page<ListedUpload, UploadMarker>, XmlError> {
    let result = read("ListMultipartUploadsResult", body)?;
    let encoding = result.text("EncodingType");
    let mut rows = Vec::new();
    for row in result.all("Upload") {
        rows.push(ListedUpload {
            key: decoded(row.needed("Key")?, encoding)?,
            upload_id: row.needed("UploadId")?.to_owned(),
            initiated_s: seconds(row.text("Initiated")),
        });
    }
    let marker = match result.text("NextKeyMarker") {
        Some(key) => {
            let id = result.text("NextUploadIdMarker").unwrap_or_default();
            Some((decoded(key, encoding)?, id.to_owned()))
        }
        None => None,
    };
    let next = next_of(&result, marker)?;
    Ok(Page { rows, next })
}

/// Reads the upload id of CreateMultipartUpload.
pub fn upload_id(body: &[u8]) -> Result<String, XmlError> {
    let result = read("InitiateMultipartUploadResult", body)?;
    let id = result.needed("UploadId")?;
    if id.is_empty() || id.len() > 2048 {
        return Err(XmlError::Shape(format!(
            "an upload id of {} bytes",
            id.len()
        )));
    }
    Ok(id.to_owned())
}

/// Reads the answer to CompleteMultipartUpload, which may be an error although the status was 200.
pub fn completed(body: &[u8]) -> Result<Result<String, ErrorBody>, XmlError> {
    let result = read("CompleteMultipartUploadResult", body);
    match result.and_then(|result| Ok(unquoted(result.needed("ETag")?))) {
        Ok(etag) => Ok(Ok(etag)),
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

/// An element of an answer: its text, and what is in it.
#[derive(Debug, Default)]
struct Element {
    name: String,
    text: String,
    inside: Vec<Element>,
}

impl Element {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.inside.iter().filter(move |inner| inner.name == name)
    }

    fn text<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next().map(|inner| inner.text.as_str())
    }

    fn needed<'a>(&'a self, name: &'a str) -> Result<&'a str, XmlError> {
        self.text(name)
            .ok_or_else(|| XmlError::Shape(format!("{} without {name}", bounded(&self.name))))
    }

    fn number(&self, name: &str) -> Result<u64, XmlError> {
        let text = self.needed(name)?.trim();
        text.parse()
            .map_err(|_| XmlError::Shape(format!("{name} is {}", bounded(text))))
    }
}

fn part_number(row: &Element, name: &str) -> Result<u32, XmlError> {
    let number = row.number(name)?;
    u32::try_from(number).map_err(|_| XmlError::Shape(format!("{name} is {number}")))
}

/// Reads an answer whose outermost element has this name, whatever its namespace. Some servers leave its `Result` out, or have
/// another word there.
fn read(root: &str, body: &[u8]) -> Result<Element, XmlError> {
    if body.len() > MAX_XML_BYTES {
        return Err(XmlError::TooLarge(body.len()));
    }
    let text = std::str::from_utf8(body).map_err(|_| XmlError::Encoding)?;
    // S3 sends blanks while it works on a Complete, so that the connection stays open.
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    let found = tree(text).map_err(|why| XmlError::Shape(bounded(&why)))?;
    let stem = |name: &str| -> String {
        let endings = ["Result", "Response", "Output"];
        let bare = endings.iter().find_map(|end| name.strip_suffix(end));
        bare.unwrap_or(name).to_owned()
    };
    if stem(&found.name) == stem(root) {
        return Ok(found);
    }
    let name = bounded(&found.name);
    Err(XmlError::Shape(format!("{name} instead of {root}")))
}

/// Puts the outermost element together, without recursion: it is as deep as its server wanted.
fn tree(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut elements = 0;
    let cut_short = || "XML that ends too early".to_owned();
    loop {
        let event = reader.read_event().map_err(|err| err.to_string())?;
        let closed = match event {
            Event::Start(ref tag) | Event::Empty(ref tag) => {
                elements += 1;
                if elements > MAX_ELEMENTS || open.len() > MAX_DEPTH {
                    return Err(format!(
                        "more than {MAX_ELEMENTS} elements, or {MAX_DEPTH} deep"
                    ));
                }
                let element = Element {
                    name: tag.local_name().as_ref().to_owned(),
                    ..Element::default()
                };
                if matches!(event, Event::Empty(_)) {
                    Some(element)
                } else {
                    open.push(element);
                    None
                }
            }
            Event::End(_) => Some(open.pop().ok_or_else(cut_short)?),
            Event::Text(text) => {
                add(&mut open, &text.xml10_content());
                None
            }
            Event::CData(text) => {
                add(&mut open, &text.xml10_content());
                None
            }
            Event::GeneralRef(entity) => {
                let one = entity.resolve_char_ref().map_err(|err| err.to_string())?;
                match one {
                    Some(one) => add(&mut open, one.encode_utf8(&mut [0; 4])),
                    None => {
                        let known = resolve_xml_entity(&entity.xml10_content());
                        add(&mut open, known.ok_or("an unknown entity")?);
                    }
                }
                None
            }
            Event::DocType(_) => return Err("a document type".to_owned()),
            Event::Eof => return Err(cut_short()),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => None,
        };
        if let Some(closed) = closed {
            match open.last_mut() {
                Some(around) => around.inside.push(closed),
                None => return Ok(closed),
            }
        }
    }
}

/// Text outside of any element is a blank, or part of no answer.
fn add(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The key, decoded when the server says that it encoded it. In this encoding a blank may be `+`.
fn decoded(key: &str, encoding: Option<&str>) -> Result<String, XmlError> {
    if encoding != Some("url") {
        return Ok(key.to_owned());
    }
    let blanks = key.replace('+', " ");
    let text = percent_decode_str(&blanks)
        .decode_utf8()
        .map_err(|_| XmlError::Encoding)?;
    Ok(text.into_owned())
}

fn next_of<M>(result: &Element, marker: Option<M>) -> Result<Option<M>, XmlError> {
    let truncated = match result.text("IsTruncated").map(str::trim) {
        None | Some("false" | "0") => false,
        Some("true" | "1") => true,
        // Half a listing that is taken as whole would hide checkpoints.
        Some(other) => {
            return Err(XmlError::Shape(format!(
                "IsTruncated is {}",
                bounded(other)
            )));
        }
    };
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
