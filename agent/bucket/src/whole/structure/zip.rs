//! Whether a zip file is whole, and what one of its entries holds.

use std::io;

use super::{MAX_INDEX_BYTES, ReadAt, Structure, u16_at, u32_at, u64_at};

/// An end record and the longest comment that may follow it.
const MAX_EOCD_BYTES: u64 = 22 + 65_535;

/// What a zip file begins with.
pub(super) const LOCAL_HEADER: &[u8; 4] = b"PK\x03\x04";
const CENTRAL_HEADER: &[u8; 4] = b"PK\x01\x02";
const END_RECORD: &[u8; 4] = b"PK\x05\x06";
const END_RECORD_64: &[u8; 4] = b"PK\x06\x06";
const END_LOCATOR_64: &[u8; 4] = b"PK\x06\x07";

/// A zip is whole when its end record is there and every entry that the central directory names begins and ends inside the file.
pub(super) fn check<R: ReadAt + ?Sized>(
    file: &R,
    size: u64,
    rule: &'static str,
) -> io::Result<Structure> {
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

struct Entry<'a> {
    name: &'a [u8],
    /// 0: as it is, without compression.
    method: u16,
    offset: u64,
    stored_bytes: u64,
}

/// Reads the first entry of a central directory; `None` when it is damaged.
fn split_entry(directory: &[u8]) -> Option<(Entry<'_>, &[u8])> {
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
            name: &directory[46..name_end],
            method: u16_at(fixed, 10),
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

fn entry_lies_before<R: ReadAt + ?Sized>(
    file: &R,
    entry: &Entry<'_>,
    limit: u64,
) -> io::Result<bool> {
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

/// Bytes of the first entry whose name ends so, when it is stored as it is and no longer than an index may be.
pub fn stored_entry<R: ReadAt + ?Sized>(file: &R, ending: &str) -> io::Result<Option<Vec<u8>>> {
    let size = file.size()?;
    let Some(end) = end_record(file, size)? else {
        return Ok(None);
    };
    if end.directory_bytes > MAX_INDEX_BYTES
        || end.directory_offset.checked_add(end.directory_bytes) != Some(end.directory_end)
    {
        return Ok(None);
    }
    let mut directory = vec![0; end.directory_bytes as usize];
    file.read_at(&mut directory, end.directory_offset)?;
    let mut rest = directory.as_slice();
    while let Some((entry, after)) = split_entry(rest) {
        rest = after;
        if !entry.name.ends_with(ending.as_bytes()) {
            continue;
        }
        if entry.method != 0
            || entry.stored_bytes > MAX_INDEX_BYTES
            || !entry_lies_before(file, &entry, end.directory_offset)?
        {
            return Ok(None);
        }
        let mut header = [0; 30];
        file.read_at(&mut header, entry.offset)?;
        let lengths = u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        let mut bytes = vec![0; entry.stored_bytes as usize];
        file.read_at(&mut bytes, entry.offset + 30 + lengths)?;
        return Ok(Some(bytes));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::super::samples;
    use super::*;

    #[test]
    fn an_entry_is_found_by_the_end_of_its_name() {
        let file = samples::zip(
            &[
                ("archive/data.pkl", b"pickle"),
                ("archive/data/0", &[7; 300]),
            ],
            true,
        );
        assert_eq!(
            stored_entry(&file, "/data.pkl").unwrap().unwrap(),
            b"pickle"
        );
        assert_eq!(stored_entry(&file, "/data/0").unwrap().unwrap(), [7; 300]);
        assert_eq!(stored_entry(&file, "/version").unwrap(), None);
        assert_eq!(stored_entry(&file[..50], "/data.pkl").unwrap(), None);
    }
}
