//! How much is signed for at a time (pure).

use std::time::Duration;

use spotter_bucket::{Manifest, grants::NOT_GRANTED};

use crate::agent_client::BackupInfo;

/// How long a box is to go on while nobody watches, as far as its grants go.
const ALONE: Duration = Duration::from_secs(24 * 3600);
/// Checkpoints that are signed for, at least and at most.
const CHECKPOINTS: (u32, u32) = (8, 144);
/// Most signatures at a time: two megabytes of them, in the memory of the box.
pub(super) const MOST_SIGNATURES: u32 = 60_000;
/// Most objects, and most uploads that are begun, at a time.
const MOST_FILES: u32 = 8_000;
pub(super) const MOST_UPLOADS: u32 = 256;
/// Size of a part where files are not huge, and the most parts of an upload; the agent's own.
const PART_BYTES: u64 = 8 << 20;
const MOST_PARTS: u32 = 9_000;

/// What a checkpoint takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Files that go in one request.
    pub files: u32,
    /// Files that go in parts.
    pub uploads: u32,
    /// Parts of the largest of them.
    pub parts: u32,
}

/// What is signed for at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Commits.
    pub commits: u32,
    /// Objects that go in one request.
    pub files: u32,
    /// Uploads.
    pub uploads: u32,
    /// Parts of each.
    pub parts: u32,
}

/// Before there was a checkpoint: some dozen of the usual ones, of up to 2.5 GiB a file.
const UNKNOWN: Plan = Plan {
    commits: 32,
    files: 160,
    uploads: 32,
    parts: 320,
};

impl Shape {
    /// What a checkpoint like this one takes, when its files grow a little.
    pub fn of(manifest: &Manifest) -> Self {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let in_parts = manifest.files.iter().filter(|file| !file.parts.is_empty());
        let parts = in_parts.clone().map(|file| file.parts.len()).max();
        let uploads = in_parts.count();
        Self {
            files: count(manifest.files.len() - uploads),
            uploads: count(uploads),
            parts: with_slack(count(parts.unwrap_or(0))),
        }
    }

    /// What is signed for where checkpoints come so often.
    pub fn plan(self, every: Duration) -> Plan {
        let wished = ALONE.as_secs() / every.as_secs().max(1);
        let wished = u32::try_from(wished).unwrap_or(u32::MAX);
        // GET, HEAD and PUT of each object, and four for an upload besides its parts.
        let each = (3 + 3 * self.files).saturating_add(self.uploads.saturating_mul(4 + self.parts));
        let room = (MOST_SIGNATURES / each)
            .min(MOST_FILES / self.files.max(1))
            .min(MOST_UPLOADS / self.uploads.max(1));
        let commits = wished.clamp(CHECKPOINTS.0, CHECKPOINTS.1).min(room).max(1);
        // One checkpoint alone may be more than this: whatever a box says of itself, this machine signs no more.
        let uploads = (MOST_SIGNATURES / (4 + self.parts)).min(MOST_UPLOADS);
        Plan {
            commits,
            files: commits.saturating_mul(self.files).min(MOST_SIGNATURES / 3),
            uploads: commits.saturating_mul(self.uploads).min(uploads),
            parts: self.parts,
        }
    }
}

pub(super) fn with_slack(parts: u32) -> u32 {
    match parts {
        0 => 0,
        parts => (parts + parts / 4 + 1).min(MOST_PARTS),
    }
}

/// Parts of the largest that waits, which may be one file, or many: it need not be like the last one.
pub(super) fn parts_waiting(backup: &BackupInfo) -> u32 {
    let largest = backup.at_stake.iter().map(|(_, bytes)| *bytes).max();
    let parts = largest.unwrap_or(0).div_ceil(PART_BYTES);
    u32::try_from(parts).unwrap_or(MOST_PARTS).min(MOST_PARTS)
}

/// What to sign for now; `None`: the box has enough. `last`: the newest checkpoint, if there is one; `life_us`: how long what is signed
/// now lives.
pub fn wanted(
    last: Option<&Manifest>,
    every: Duration,
    backup: &BackupInfo,
    now_us: u64,
    life_us: u64,
) -> Option<Plan> {
    let waits = backup
        .problem
        .as_ref()
        .is_some_and(|problem| problem.contains(NOT_GRANTED));
    let mut plan = last.map_or(UNKNOWN, |last| Shape::of(last).plan(every));
    let left = backup.checkpoints_left.unwrap_or(0);
    let ends_soon = backup.keys_expire_us.unwrap_or(0) < now_us + life_us / 2;
    if !waits && !ends_soon && left >= plan.commits.div_ceil(2) {
        return None;
    }
    if waits {
        plan.parts = plan.parts.max(with_slack(parts_waiting(backup)));
        plan.files = plan.files.max(MOST_FILES / 4);
        plan.uploads =
            (MOST_SIGNATURES / 2 / plan.parts.max(1)).clamp(1, UNKNOWN.uploads.max(plan.uploads));
    }
    Some(plan)
}

#[cfg(test)]
mod tests {
    use spotter_bucket::{ManifestFile, manifest};

    use super::*;

    const EVERY: Duration = Duration::from_secs(600);

    fn checkpoint(small: usize, parts: &[usize]) -> Manifest {
        let file = |parts: usize| ManifestFile {
            path: String::new(),
            mode: 0o644,
            mtime_ns: 0,
            size_bytes: parts as u64 * PART_BYTES,
            blake3: String::new(),
            key: String::new(),
            part_size_bytes: if parts == 0 { 0 } else { PART_BYTES },
            parts: vec![String::new(); parts],
        };
        let sizes = std::iter::repeat_n(&0, small).chain(parts);
        Manifest {
            v: manifest::FORMAT,
            id: String::new(),
            run: String::new(),
            attempt: 1,
            step: None,
            rule: String::new(),
            path: String::new(),
            directory: true,
            committed_us: 0,
            server_us: 0,
            prev: None,
            metric: None,
            files: sizes.map(|parts| file(*parts)).collect(),
            encoding: None,
            self_blake3: String::new(),
        }
    }

    #[test]
    fn a_box_is_signed_for_a_day_alone_as_far_as_its_memory_goes() {
        let check = |small, parts: &[usize], every_s, expected: (u32, u32, u32, u32)| {
            let shape = Shape::of(&checkpoint(small, parts));
            let plan = shape.plan(Duration::from_secs(every_s));
            let found = (plan.commits, plan.files, plan.uploads, plan.parts);
            assert_eq!(found, expected, "{small} {parts:?} {every_s}");
        };
        check(1, &[], 600, (144, 144, 0, 0));
        check(1, &[], 7200, (12, 12, 0, 0));
        check(1, &[], 48 * 3600, (8, 8, 0, 0));
        check(2, &[100], 3600, (24, 48, 24, 126));
        // Two models of 70 GB: what fits, and never nothing.
        check(0, &[8_900, 8_900], 600, (3, 0, 6, 9_000));
        check(20_000, &[], 600, (1, 20_000, 0, 0));
    }

    #[test]
    fn more_is_signed_for_when_half_is_used_or_ends_or_something_waits() {
        let day_us = ALONE.as_micros() as u64;
        let now_us = 10 * day_us;
        let check = |left, ends_us: u64, problem: Option<&str>, expected: Option<(u32, u32)>| {
            let backup = BackupInfo {
                checkpoints_left: Some(left),
                keys_expire_us: Some(ends_us),
                problem: problem.map(str::to_owned),
                at_stake: vec![("a".to_owned(), 1_000 * PART_BYTES)],
                ..BackupInfo::default()
            };
            let last = checkpoint(1, &[4]);
            let found = wanted(Some(&last), EVERY, &backup, now_us, 7 * day_us);
            let found = found.map(|plan| (plan.commits, plan.parts));
            assert_eq!(found, expected, "{left} {ends_us} {problem:?}");
        };
        let fresh = now_us + 6 * day_us;
        check(72, fresh, None, None);
        check(71, fresh, None, Some((144, 6)));
        check(144, now_us + 3 * day_us, None, Some((144, 6)));
        check(144, fresh, Some("the server is away"), None);
        check(144, fresh, Some(NOT_GRANTED), Some((144, 1_251)));
        let first = wanted(None, EVERY, &BackupInfo::default(), now_us, day_us);
        assert_eq!(first, Some(UNKNOWN));
    }
}
