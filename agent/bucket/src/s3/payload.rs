//! CRC-32 of payloads as S3 writes it, and which multipart uploads were begun with it.
//!
//! An upload keeps to what it was begun with: its parts come with a checksum, each, or none does. After a restart ListParts tells.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard},
};

use super::xml::ListedSums;

/// What stands in place of the hash of a payload that is not signed.
pub(super) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// The header that holds the checksum.
pub(super) const CRC32_HEADER: &str = "x-amz-checksum-crc32";

/// CRC-32 of a payload, in base64 as S3 wants it.
pub(super) fn crc32(body: &[u8]) -> String {
    base64(crc32fast::hash(body))
}

/// The four bytes, the high one first, in base64.
pub(super) fn base64(crc: u32) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 32 bits and 4 more make six letters of 6 bits.
    let bits = u64::from(crc) << 4;
    let mut text: String = (0..6)
        .rev()
        .map(|at| char::from(LETTERS[(bits >> (6 * at)) as usize & 63]))
        .collect();
    text.push_str("==");
    text
}

/// Checksums of parts, by upload and number, of uploads that were begun with them.
#[derive(Default)]
pub(super) struct Sums(Mutex<HashMap<String, BTreeMap<u32, String>>>);

impl Sums {
    /// An upload was begun with checksums.
    pub(super) fn begun(&self, upload_id: &str) {
        self.lock().entry(upload_id.to_owned()).or_default();
    }

    /// What the server says of an upload. What was sent from here is known better.
    pub(super) fn listed(&self, upload_id: &str, listed: ListedSums) {
        if listed.crc32 {
            let mut uploads = self.lock();
            let known = uploads.entry(upload_id.to_owned()).or_default();
            for (number, sum) in listed.parts {
                known.entry(number).or_insert(sum);
            }
        }
    }

    /// Whether the parts of an upload come with checksums.
    pub(super) fn wanted(&self, upload_id: &str) -> bool {
        self.lock().contains_key(upload_id)
    }

    /// The server has a part.
    pub(super) fn sent(&self, upload_id: &str, number: u32, sum: String) {
        if let Some(parts) = self.lock().get_mut(upload_id) {
            parts.insert(number, sum);
        }
    }

    /// Checksums of an upload's parts; empty when it has none.
    pub(super) fn of(&self, upload_id: &str) -> BTreeMap<u32, String> {
        self.lock().get(upload_id).cloned().unwrap_or_default()
    }

    /// An upload is over.
    pub(super) fn forget(&self, upload_id: &str) {
        self.lock().remove(upload_id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<u32, String>>> {
        // Whole entries only: whatever a panic left there is as good as before.
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_written_as_s3_writes_them() {
        // The first was compared with what `aws` sends; the others have every extreme of the letters.
        for (body, text) in [(&b"hello"[..], "NhCmhg=="), (b"", "AAAAAA==")] {
            assert_eq!(crc32(body), text);
        }
        for (crc, text) in [
            (u32::MAX, "/////w=="),
            (1, "AAAAAQ=="),
            (0xfbef_befb, "+++++w=="),
        ] {
            assert_eq!(base64(crc), text);
        }
    }

    #[test]
    fn an_upload_keeps_to_what_it_was_begun_with() {
        let sums = Sums::default();
        assert!(!sums.wanted("plain"));
        sums.sent("plain", 1, "x".into());
        assert!(sums.of("plain").is_empty());
        sums.begun("one");
        sums.sent("one", 1, "ours".into());
        let listed = |crc32| ListedSums {
            crc32,
            parts: vec![(1, "theirs".into()), (2, "older".into())],
        };
        sums.listed("one", listed(true));
        let of = |id: &str| sums.of(id).into_values().collect::<Vec<_>>();
        assert_eq!(of("one"), ["ours", "older"]);
        sums.listed("plain", listed(false));
        assert!(!sums.wanted("plain"));
        sums.listed("of a former life", listed(true));
        assert!(sums.wanted("of a former life"));
        sums.forget("one");
        assert!(!sums.wanted("one") && of("one").is_empty());
    }
}
