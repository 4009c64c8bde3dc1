//! Hashes of the parts of a file, from which the file's own follows (pure): what goes in parts is hashed once, not twice.
//!
//! blake3 is a tree. A part whose size is a power of two is one of its subtrees when it is hashed as what lies at its place, and
//! the values of the subtrees make the hash of the whole. Such a value says as much of the part's bytes as a hash of them alone.

use blake3::{
    CHUNK_LEN, Hasher,
    hazmat::{self, ChainingValue, HasherExt, Mode},
};

/// Stands before the digits of a part that was hashed as a subtree; one that was hashed alone has its digits only.
const SUBTREE: &str = "tree-";
/// Digits of a hash.
const DIGITS: usize = 64;

/// Hashes a range of bytes.
pub struct RangeHasher {
    hasher: Hasher,
    subtree: bool,
}

impl RangeHasher {
    /// For bytes that are hashed alone.
    pub fn alone() -> Self {
        Self {
            hasher: Hasher::new(),
            subtree: false,
        }
    }

    /// For the part that begins at byte `at` of a file of two parts or more, see [`are_subtrees`].
    pub fn part(at: u64) -> Self {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(at);
        Self {
            hasher,
            subtree: true,
        }
    }

    /// For bytes at `at` that are to be compared with what was written down of them.
    pub fn like(written: &str, at: u64) -> Self {
        match is_subtree(written) {
            true => Self::part(at),
            false => Self::alone(),
        }
    }

    /// Goes on with these bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The hash as it is written down. A part is never empty.
    pub fn finish(&self) -> String {
        match self.subtree {
            true => format!("{SUBTREE}{}", hex::encode(self.hasher.finalize_non_root())),
            false => self.hasher.finalize().to_hex().to_string(),
        }
    }
}

/// Whether a part that was written down was hashed as a subtree.
pub fn is_subtree(written: &str) -> bool {
    written.starts_with(SUBTREE)
}

/// Whether this is a hash as one is written down.
pub fn is_hash(written: &str) -> bool {
    let digits = written.strip_prefix(SUBTREE).unwrap_or(written);
    digits.len() == DIGITS
        && digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether parts of this size may be subtrees.
pub fn are_subtrees(part_size_bytes: u64) -> bool {
    part_size_bytes.is_power_of_two() && part_size_bytes >= CHUNK_LEN as u64
}

/// blake3 of a file, hex, by its parts in order; `None` when these are not two or more subtrees.
pub fn whole<'a>(parts: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut values: Vec<ChainingValue> = Vec::new();
    for part in parts {
        let mut value = ChainingValue::default();
        hex::decode_to_slice(part.strip_prefix(SUBTREE)?, &mut value).ok()?;
        values.push(value);
    }
    if values.len() < 2 {
        return None;
    }
    let (left, right) = halves(&values);
    let root = hazmat::merge_subtrees_root(&merged(left), &merged(right), Mode::Hash);
    Some(root.to_hex().to_string())
}

fn merged(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [one] => *one,
        _ => {
            let (left, right) = halves(values);
            hazmat::merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

/// The left one is as large as a power of two can be that leaves something for the right one.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn hash(mut hasher: RangeHasher, bytes: &[u8]) -> String {
        // In pieces that fit nothing.
        bytes.chunks(333).for_each(|piece| hasher.update(piece));
        hasher.finish()
    }

    fn parts(bytes: &[u8], part: usize) -> Vec<String> {
        let parts = bytes.chunks(part).enumerate();
        parts
            .map(|(number, bytes)| hash(RangeHasher::part((number * part) as u64), bytes))
            .collect()
    }

    #[test]
    fn the_parts_of_a_file_make_its_hash() {
        for part in [1024, 4096, 65_536] {
            for (whole_parts, more) in [
                (1, 1),
                (1, 1023),
                (2, 0),
                (2, 1),
                (3, 0),
                (4, 1),
                (6, 7),
                (12, 1024),
                (33, 1),
            ] {
                let bytes = noise(whole_parts * part + more);
                let found = parts(&bytes, part);
                assert!(found.iter().all(|one| is_hash(one) && is_subtree(one)));
                assert_eq!(
                    whole(found.iter().map(String::as_str)),
                    Some(hash(RangeHasher::alone(), &bytes)),
                    "{whole_parts} parts of {part} and {more}"
                );
            }
        }
    }

    #[test]
    fn every_byte_and_the_place_of_a_part_count() {
        let bytes = noise(4 * 1024);
        let found = parts(&bytes, 1024);
        for (number, written) in found.iter().enumerate() {
            let at = number * 1024;
            let mut part = bytes[at..at + 1024].to_vec();
            assert_eq!(hash(RangeHasher::like(written, at as u64), &part), *written);
            assert_ne!(
                hash(RangeHasher::like(written, (at + 1024) as u64), &part),
                *written
            );
            part[1000] ^= 1;
            assert_ne!(hash(RangeHasher::like(written, at as u64), &part), *written);
        }
        let alone = hash(RangeHasher::alone(), &bytes);
        assert_eq!(hash(RangeHasher::like(&alone, 1024), &bytes), alone);
        let mut swapped = found.clone();
        swapped.swap(1, 2);
        assert_ne!(whole(swapped.iter().map(String::as_str)), Some(alone));
    }

    #[test]
    fn only_subtrees_make_a_whole() {
        let alone = hash(RangeHasher::alone(), b"a");
        let part = hash(RangeHasher::part(0), b"a");
        assert_eq!(whole([]), None);
        assert_eq!(whole([part.as_str()]), None);
        assert_eq!(whole([part.as_str(), alone.as_str()]), None);
        assert!(whole([part.as_str(), part.as_str()]).is_some());
        for wrong in [
            "",
            "tree-",
            &alone[1..],
            &part[..68],
            &alone.to_uppercase(),
            &format!("tree-{part}"),
        ] {
            assert!(!is_hash(wrong), "{wrong}");
        }
        for (size, may) in [
            (0, false),
            (512, false),
            (1024, true),
            (9 << 20, false),
            (8 << 20, true),
        ] {
            assert_eq!(are_subtrees(size), may, "{size}");
        }
    }
}
