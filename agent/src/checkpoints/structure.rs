//! Whether a file is whole by its own format: zip (torch, npz, keras), safetensors, JSON.
//!
//! Everything read here is hostile: each read is bounded and checked against the file's size, nothing is trusted to be
//! where it says. An unknown format is neither whole nor broken; then only silence speaks for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What the format of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Structure {
    /// Whole, by the named rule.
    Whole(&'static str),
    /// No format that we know.
    Unknown,
    /// Torn, and why.
    Broken(String),
}

/// Bytes that can be read at any place: a file, or memory in tests.
pub trait ReadAt {
    /// Fills `buffer` from `offset` on; an error when there are not enough bytes.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let wanted = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Longest header, central directory or JSON text that is read to judge a file. A model of 100,000 tensors has a tenth of this.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// An end record and the longest comment that may follow it.
const MAX_EOCD_BYTES: u64 = 22 + 65_535;

const LOCAL_HEADER: &[u8; 4] = b"PK\x03\x04";
const CENTRAL_HEADER: &[u8; 4] = b"PK\x01\x02";
const END_RECORD: &[u8; 4] = b"PK\x05\x06";
const END_RECORD_64: &[u8; 4] = b"PK\x06\x06";
const END_LOCATOR_64: &[u8; 4] = b"PK\x06\x07";

/// Judges a file by its name's ending and its bytes.
pub fn check<R: ReadAt + ?Sized>(name: &str, file: &R) -> io::Result<Structure> {
    let lower = name.to_ascii_lowercase();
    let size = file.size()?;
    if lower.ends_with(".safetensors") {
        return safetensors(file, size);
    }
    if lower.ends_with(".json") {
        return json(file, size);
    }
    let always_zip = [".npz", ".zip", ".keras"]
        .iter()
        .any(|ending| lower.ends_with(ending));
    let usually_zip = [".pt", ".pth", ".ckpt", ".bin"]
        .iter()
        .any(|ending| lower.ends_with(ending));
    if !always_zip && !usually_zip {
        return Ok(Structure::Unknown);
    }
    if size < 4 {
        return Ok(Structure::Broken(format!("{size} bytes are no checkpoint")));
    }
    let mut magic = [0; 4];
    file.read_at(&mut magic, 0)?;
    if &magic == LOCAL_HEADER {
        let rule = if lower.ends_with(".npz") {
            "npz"
        } else {
            "torch-zip"
        };
        return zip(file, size, rule);
    }
    if always_zip {
        return Ok(Structure::Broken(
            "it does not begin like a zip file".to_owned(),
        ));
    }
    Ok(Structure::Unknown)
}

/// A zip is whole when its end record is there and every entry that the central directory names begins and ends inside the file.
fn zip<R: ReadAt + ?Sized>(file: &R, size: u64, rule: &'static str) -> io::Result<Structure> {
    let Some(end) = end_record(file, size)? else {
        return Ok(Structure::Broken(
            "no zip end record: its writer did not finish".to_owned(),
        ));
    };
    if end.directory_offset.checked_add(end.directory_bytes) != Some(end.directory_end) {
        return Ok(Structure::Broken(
            "the zip directory does not lie where its end record says".to_owned(),
        ));
    }
    if end.directory_bytes > MAX_INDEX_BYTES {
        return Ok(Structure::Unknown);
    }
    let mut directory = vec![0; end.directory_bytes as usize];
    file.read_at(&mut directory, end.directory_offset)?;

    let mut rest = directory.as_slice();
    let mut entries = 0_u64;
    while !rest.is_empty() {
        let Some((entry, after)) = split_entry(rest) else {
            return Ok(Structure::Broken(format!(
                "entry {entries} of the zip directory is damaged"
            )));
        };
        if !entry_lies_before(file, &entry, end.directory_offset)? {
            return Ok(Structure::Broken(format!(
                "entry {entries} of the zip lies outside the file"
            )));
        }
        entries += 1;
        rest = after;
    }
    if entries != end.entries {
        return Ok(Structure::Broken(format!(
            "{entries} zip entries where the end record says {}",
            end.entries
        )));
    }
    Ok(Structure::Whole(rule))
}

struct EndRecord {
    entries: u64,
    directory_offset: u64,
    directory_bytes: u64,
    /// Where the directory must end for the records to be those of this file, not of a zip stored in it.
    directory_end: u64,
}

fn end_record<R: ReadAt + ?Sized>(file: &R, size: u64) -> io::Result<Option<EndRecord>> {
    let tail_bytes = size.min(MAX_EOCD_BYTES);
    let mut tail = vec![0; tail_bytes as usize];
    file.read_at(&mut tail, size - tail_bytes)?;
    let Some(at) = (0..tail.len().saturating_sub(21)).rev().find(|&at| {
        tail[at..].starts_with(END_RECORD)
            && at + 22 + u16_at(&tail, at + 20) as usize == tail.len()
    }) else {
        return Ok(None);
    };
    let position = size - tail_bytes + at as u64;
    let plain = EndRecord {
        entries: u64::from(u16_at(&tail, at + 10)),
        directory_bytes: u64::from(u32_at(&tail, at + 12)),
        directory_offset: u64::from(u32_at(&tail, at + 16)),
        directory_end: position,
    };
    // The record of large zips stands before the plain one, found through a locator of 20 bytes.
    let mut locator = [0; 20];
    if position >= 20 {
        file.read_at(&mut locator, position - 20)?;
    }
    if !locator.starts_with(END_LOCATOR_64) {
        return Ok(Some(plain));
    }
    let position_64 = u64_at(&locator, 8);
    if position_64.checked_add(56).is_none_or(|end| end > position) {
        return Ok(None);
    }
    let mut record = [0; 56];
    file.read_at(&mut record, position_64)?;
    if !record.starts_with(END_RECORD_64) {
        return Ok(None);
    }
    Ok(Some(EndRecord {
        entries: u64_at(&record, 32),
        directory_bytes: u64_at(&record, 40),
        directory_offset: u64_at(&record, 48),
        directory_end: position_64,
    }))
}

struct Entry {
    offset: u64,
    stored_bytes: u64,
}

/// Reads the first entry of a central directory; `None` when it is damaged.
fn split_entry(directory: &[u8]) -> Option<(Entry, &[u8])> {
    let fixed = directory.get(..46)?;
    if !fixed.starts_with(CENTRAL_HEADER) {
        return None;
    }
    let name_end = 46 + u16_at(fixed, 28) as usize;
    let extra_end = name_end + u16_at(fixed, 30) as usize;
    let comment_end = extra_end + u16_at(fixed, 32) as usize;
    let extra = directory.get(name_end..extra_end)?;
    let rest = directory.get(comment_end..)?;
    let (stored, full, offset) = (u32_at(fixed, 20), u32_at(fixed, 24), u32_at(fixed, 42));
    // The 64-bit values stand in a fixed order, each only when the 32-bit field is full.
    let mut wide = wide_values(extra);
    if full == u32::MAX {
        wide.next()?;
    }
    let stored_bytes = if stored == u32::MAX {
        wide.next()?
    } else {
        u64::from(stored)
    };
    let offset = if offset == u32::MAX {
        wide.next()?
    } else {
        u64::from(offset)
    };
    Some((
        Entry {
            offset,
            stored_bytes,
        },
        rest,
    ))
}

fn wide_values(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut values: &[u8] = &[];
    while let Some(header) = extra.get(..4) {
        let end = 4 + u16_at(header, 2) as usize;
        let Some(body) = extra.get(4..end) else { break };
        if u16_at(header, 0) == 1 {
            values = body;
            break;
        }
        extra = &extra[end..];
    }
    values.chunks_exact(8).map(|bytes| u64_at(bytes, 0))
}

fn entry_lies_before<R: ReadAt + ?Sized>(file: &R, entry: &Entry, limit: u64) -> io::Result<bool> {
    if entry.offset.checked_add(30).is_none_or(|end| end > limit) {
        return Ok(false);
    }
    let mut header = [0; 30];
    file.read_at(&mut header, entry.offset)?;
    let lengths = u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
    let end = entry
        .offset
        .checked_add(30 + lengths)
        .and_then(|end| end.checked_add(entry.stored_bytes));
    Ok(header.starts_with(LOCAL_HEADER) && end.is_some_and(|end| end <= limit))
}

/// A safetensors file is whole when the last tensor ends where the file does.
fn safetensors<R: ReadAt + ?Sized>(file: &R, size: u64) -> io::Result<Structure> {
    if size < 8 {
        return Ok(Structure::Broken(format!(
            "{size} bytes are no safetensors file"
        )));
    }
    let mut length = [0; 8];
    file.read_at(&mut length, 0)?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes.checked_add(8).is_none_or(|end| end > size) {
        return Ok(Structure::Broken(
            "the safetensors header is longer than the file".to_owned(),
        ));
    }
    if header_bytes > MAX_INDEX_BYTES {
        return Ok(Structure::Unknown);
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_at(&mut header, 8)?;
    let Ok(tensors) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&header)
    else {
        return Ok(Structure::Broken(
            "the safetensors header is not JSON".to_owned(),
        ));
    };
    let mut data_end = 0;
    for (name, tensor) in tensors.iter().filter(|(name, _)| *name != "__metadata__") {
        let offset = |index| tensor.get("data_offsets")?.get(index)?.as_u64();
        match (offset(0), offset(1)) {
            (Some(start), Some(end)) if start <= end => data_end = data_end.max(end),
            _ => {
                return Ok(Structure::Broken(format!(
                    "tensor {name:.60} has no place in the safetensors file"
                )));
            }
        }
    }
    if data_end.checked_add(8 + header_bytes) != Some(size) {
        return Ok(Structure::Broken(format!(
            "its tensors end at {data_end} + {} of {size} bytes",
            8 + header_bytes
        )));
    }
    Ok(Structure::Whole("safetensors"))
}

fn json<R: ReadAt + ?Sized>(file: &R, size: u64) -> io::Result<Structure> {
    if size > MAX_INDEX_BYTES {
        return Ok(Structure::Unknown);
    }
    let mut text = vec![0; size as usize];
    file.read_at(&mut text, 0)?;
    Ok(
        match serde_json::from_slice::<serde::de::IgnoredAny>(&text) {
            Ok(_) => Structure::Whole("json"),
            // Python writes NaN and Infinity, which are no JSON: then silence must do.
            Err(err) if err.is_eof() => {
                Structure::Broken("the JSON text ends in the middle".to_owned())
            }
            Err(_) => Structure::Unknown,
        },
    )
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::*;

    fn judged(name: &str, bytes: &[u8]) -> Structure {
        check(name, bytes).expect("memory never fails to be read inside its bounds")
    }

    fn torch() -> Vec<u8> {
        samples::zip(
            &[
                ("archive/data.pkl", b"\x80\x02}q\0."),
                ("archive/data/0", &[7; 300]),
                ("archive/version", b"3\n"),
            ],
            false,
        )
    }

    fn whole_files() -> Vec<(&'static str, &'static str, Vec<u8>)> {
        vec![
            ("model.pt", "torch-zip", torch()),
            (
                "big.ckpt",
                "torch-zip",
                samples::zip(&[("a", b"one"), ("b", &[9; 99])], true),
            ),
            (
                "last.npz",
                "npz",
                samples::zip(&[("w.npy", &[1; 64])], false),
            ),
            (
                "w.safetensors",
                "safetensors",
                samples::safetensors(&[3; 120]),
            ),
            (
                "empty.safetensors",
                "safetensors",
                samples::safetensors(&[]),
            ),
            (
                "trainer_state.json",
                "json",
                br#"{"global_step": 5, "log": [1.5, {"a": null}]}"#.to_vec(),
            ),
        ]
    }

    #[test]
    fn whole_files_are_recognised_by_their_own_rule() {
        for (name, rule, bytes) in whole_files() {
            assert_eq!(judged(name, &bytes), Structure::Whole(rule), "{name}");
        }
    }

    #[test]
    fn no_prefix_of_a_whole_file_is_whole() {
        for (name, _, bytes) in whole_files() {
            for length in 0..bytes.len() {
                let judged = judged(name, &bytes[..length]);
                // A number cut after its dot is a syntax error like any other; then silence must do.
                let may_be_unknown = name.ends_with(".json") && judged == Structure::Unknown;
                assert!(
                    matches!(judged, Structure::Broken(_)) || may_be_unknown,
                    "{name} cut at {length}"
                );
            }
        }
    }

    #[test]
    fn a_whole_zip_inside_a_torn_one_proves_nothing() {
        let outer = samples::zip(&[("inner.zip", &torch())], false);
        let cut = 30 + "inner.zip".len() + torch().len();
        assert!(matches!(
            judged("outer.pt", &outer[..cut]),
            Structure::Broken(_)
        ));
    }

    #[test]
    fn bytes_behind_the_end_are_noticed() {
        for (name, _, mut bytes) in whole_files() {
            bytes.extend_from_slice(&[0; 5]);
            assert!(
                !matches!(judged(name, &bytes), Structure::Whole(_)),
                "{name}"
            );
        }
    }

    #[test]
    fn formats_without_a_proof_are_left_to_silence() {
        assert_eq!(
            judged("old.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."),
            Structure::Unknown
        );
        assert_eq!(judged("__0_0.distcp", &[0; 50]), Structure::Unknown);
        assert_eq!(judged("nan.json", br#"{"loss": NaN}"#), Structure::Unknown);
        assert_eq!(judged("weights.h5", b""), Structure::Unknown);
    }

    #[test]
    fn a_header_that_claims_the_impossible_is_broken() {
        let mut bytes = samples::safetensors(&[1; 10]);
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(
            judged("a.safetensors", &bytes),
            Structure::Broken(_)
        ));
        let odd = br#"{"w":{"data_offsets":[9,3]}}"#;
        let mut reversed = (odd.len() as u64).to_le_bytes().to_vec();
        reversed.extend_from_slice(odd);
        assert!(matches!(
            judged("a.safetensors", &reversed),
            Structure::Broken(_)
        ));
    }

    proptest! {
        #[test]
        fn nothing_in_a_file_makes_the_check_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..4_usize) {
            let name = ["a.pt", "a.npz", "a.safetensors", "a.json"][kind];
            let _ = check(name, bytes.as_slice());
        }

        #[test]
        fn a_damaged_zip_never_makes_the_check_panic(place in 0..600_usize, value in any::<u8>(), wide in any::<bool>()) {
            let mut bytes = samples::zip(&[("a", &[1; 100]), ("b", &[2; 50])], wide);
            let place = place % bytes.len();
            bytes[place] = value;
            let _ = check("a.pt", bytes.as_slice());
        }
    }
}
