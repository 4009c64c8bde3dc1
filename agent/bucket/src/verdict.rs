//! What a server was found to honour, and what follows from it (pure). Found out by [`crate::s3::probe`].

use serde::{Deserialize, Serialize};

/// How a payload is vouched for on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// Its SHA-256 is signed. Every server takes that.
    #[default]
    Signed,
    /// The CRC-32 of every part is signed instead, in a header that the server was seen to check: a tenth of the work.
    Checksum,
}

/// What a server did with something wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Honour {
    /// It was refused.
    Honoured,
    /// It was taken as if nothing were wrong.
    Ignored,
    /// The server says that it does not do this at all.
    Lacking,
}

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// What the server calls itself.
    pub server: String,
    /// A body that is not the one whose SHA-256 was signed.
    pub sha256: Honour,
    /// A body with a wrong CRC-32, unsigned.
    pub crc32: Honour,
    /// Whether a right CRC-32 is taken, and parts with theirs become an object, in the very calls that an upload makes.
    pub crc32_uploads: bool,
    /// `If-None-Match: *` on an object that exists.
    pub conditions: Honour,
    /// A part named with another one's tag.
    pub part_tags: Honour,
    /// Whether an upload outlives a completion that was refused.
    pub refusal_keeps_upload: bool,
    /// Whether the parts of an upload can be listed.
    pub lists_parts: bool,
    /// Whether unfinished uploads can be listed.
    pub lists_uploads: bool,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How large payloads go from now on.
    pub payload: Payload,
    /// What people should know.
    pub warnings: Vec<&'static str>,
}

impl Findings {
    /// What follows, when the line to the server is `private`: encrypted, or within this machine. On an open line a CRC is no
    /// protection: whoever changes the body can make it fit.
    pub fn verdict(&self, private: bool) -> Verdict {
        let payload = if private && self.crc32 == Honour::Honoured && self.crc32_uploads {
            Payload::Checksum
        } else {
            Payload::Signed
        };
        let mut warnings = Vec::new();
        if payload == Payload::Signed && self.sha256 != Honour::Honoured {
            warnings.push(
                "the server stores bodies that do not match their signed hash: what is damaged on the way is only noticed when it \
                 is read back, as `checkpoints verify` does",
            );
        }
        if !self.lists_parts {
            warnings
                .push("the server cannot list parts: an upload that is interrupted begins anew");
        }
        if !self.lists_uploads {
            warnings.push(
                "the server cannot list unfinished uploads: set a lifecycle rule that ends them, for what lost boxes leave behind",
            );
        }
        Verdict { payload, warnings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_stands_in_for_the_signature_only_where_it_is_checked_and_cannot_be_forged() {
        let strict = Findings {
            server: String::new(),
            sha256: Honour::Honoured,
            crc32: Honour::Honoured,
            crc32_uploads: true,
            conditions: Honour::Honoured,
            part_tags: Honour::Honoured,
            refusal_keeps_upload: true,
            lists_parts: true,
            lists_uploads: true,
        };
        let check =
            |change: fn(&mut Findings), private: bool, payload: Payload, warnings: usize| {
                let mut findings = strict.clone();
                change(&mut findings);
                let verdict = findings.verdict(private);
                assert_eq!(
                    (verdict.payload, verdict.warnings.len()),
                    (payload, warnings),
                    "{findings:?} {private}"
                );
            };
        check(|_| {}, true, Payload::Checksum, 0);
        check(|_| {}, false, Payload::Signed, 0);
        check(
            |found| found.crc32 = Honour::Ignored,
            true,
            Payload::Signed,
            0,
        );
        check(
            |found| found.crc32 = Honour::Lacking,
            true,
            Payload::Signed,
            0,
        );
        check(
            |found| found.crc32_uploads = false,
            true,
            Payload::Signed,
            0,
        );
        // Nothing is believed of conditions.
        check(
            |found| found.conditions = Honour::Ignored,
            true,
            Payload::Checksum,
            0,
        );
        check(
            |found| found.sha256 = Honour::Ignored,
            true,
            Payload::Checksum,
            0,
        );
        check(
            |found| found.sha256 = Honour::Ignored,
            false,
            Payload::Signed,
            1,
        );
        check(
            |found| {
                found.sha256 = Honour::Ignored;
                found.crc32 = Honour::Ignored;
                found.lists_parts = false;
                found.lists_uploads = false;
            },
            true,
            Payload::Signed,
            3,
        );
    }
}
