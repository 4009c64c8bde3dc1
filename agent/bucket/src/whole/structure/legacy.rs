//! Whether a file of pickles is whole: what PyTorch wrote before 1.6 and still does when asked, and plain pickles.
//!
//! PyTorch's has no end record, but the pickles in front say which storages follow and how long each is.

use std::collections::HashMap;
use std::io;

use super::super::pickle::{self, Node, Pickle, PickleError};
use super::{MAX_INDEX_BYTES, ReadAt, Structure, head};

/// What PyTorch's file begins with: its magic number as a pickle.
const MAGIC: &[u8; 15] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
/// Bytes read at first: enough for the pickles of all but the largest models.
const FIRST_READ_BYTES: u64 = 1 << 20;

pub(super) fn check<R: ReadAt + ?Sized>(file: &R, size: u64) -> io::Result<Structure> {
    let mut bytes = head(file, FIRST_READ_BYTES)?;
    let mut judged = judge(&bytes, size);
    if judged.is_none() && (bytes.len() as u64) < size.min(MAX_INDEX_BYTES) {
        bytes = head(file, MAX_INDEX_BYTES)?;
        judged = judge(&bytes, size);
    }
    Ok(judged.unwrap_or(Structure::Unknown))
}

/// Judges a file by its first bytes; `None` when more of them are needed.
fn judge(bytes: &[u8], size: u64) -> Option<Structure> {
    let is_all = bytes.len() as u64 == size;
    let ended = || {
        is_all.then(|| {
            Structure::Broken(
                "it ends in the middle of a pickle: its writer did not finish".to_owned(),
            )
        })
    };
    let is_torch = bytes.starts_with(MAGIC) || MAGIC.starts_with(bytes);
    if !is_torch && bytes.first() != Some(&pickle::PROTOCOL) {
        return Some(Structure::Unknown);
    }
    if !is_torch {
        return match pickle::load(bytes) {
            Ok(plain) if plain.length as u64 == size => Some(Structure::Whole("pickle")),
            Ok(_) | Err(PickleError::Unknown) => Some(Structure::Unknown),
            // Noise begins like a pickle once in 256 times, and soon names a length beyond its end.
            Err(PickleError::Truncated) if !pickle::begins(bytes) => Some(Structure::Unknown),
            Err(PickleError::Truncated) => ended(),
        };
    }
    // Magic number, protocol, system, the object itself, the keys of its storages in the order in which they follow.
    let mut pickles = Vec::new();
    let mut at = 0;
    for _ in 0..5 {
        match pickle::load(&bytes[at..]) {
            Ok(next) => {
                at += next.length;
                pickles.push(next);
            }
            Err(PickleError::Truncated) => return ended(),
            Err(PickleError::Unknown) => return Some(Structure::Unknown),
        }
    }
    let Some(storages) = storage_bytes(&pickles[3], &pickles[4]) else {
        return Some(Structure::Unknown);
    };
    let expected = at as u64 + storages;
    Some(match expected.cmp(&size) {
        std::cmp::Ordering::Equal => Structure::Whole("torch-legacy"),
        std::cmp::Ordering::Greater => Structure::Broken(format!(
            "its tensors end at {expected} of {size} bytes: its writer did not finish"
        )),
        std::cmp::Ordering::Less => Structure::Unknown,
    })
}

/// Bytes of all storages, each with its length in front.
fn storage_bytes(object: &Pickle, keys: &Pickle) -> Option<u64> {
    let Node::Sequence(keys_in_order) = keys.node(keys.root) else {
        return None;
    };
    let mut sizes = HashMap::new();
    for node in &object.nodes {
        if let Node::Persistent(description) = node {
            let (key, bytes) = size_of_storage(object, *description)?;
            sizes.insert(key, bytes);
        }
    }
    let mut total: u64 = 0;
    for key in keys_in_order {
        let bytes = sizes.get(keys.text(*key)?)?;
        total = total.checked_add(8)?.checked_add(*bytes)?;
    }
    Some(total)
}

/// Reads a description such as `('storage', torch.FloatStorage, '94012', 'cpu', 40, None)`.
fn size_of_storage(object: &Pickle, description: pickle::Id) -> Option<(&str, u64)> {
    let Node::Sequence(fields) = object.node(description) else {
        return None;
    };
    let [kind, class, key, _place, count, ..] = fields.as_slice() else {
        return None;
    };
    if object.text(*kind) != Some("storage") {
        return None;
    }
    let Node::Global(class) = object.node(*class) else {
        return None;
    };
    let item_bytes = match class.rsplit('.').next()?.strip_suffix("Storage")? {
        "Byte" | "Char" | "Bool" | "Untyped" | "QInt8" | "QUInt8" => 1,
        "Short" | "Half" | "BFloat16" => 2,
        "Int" | "Float" | "QInt32" => 4,
        "Long" | "Double" | "ComplexFloat" => 8,
        "ComplexDouble" => 16,
        _ => return None,
    };
    let bytes = object.number(*count)?.checked_mul(item_bytes)?;
    Some((object.text(*key)?, bytes))
}
