//! Disks of boxes in memory: how much lies in one directory of each, and copies between them.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::provider::InstanceId;

/// What a disk moves when no story says otherwise: 100 MB/s.
const KIB_PER_S: u64 = 100_000;

#[derive(Debug)]
pub(super) struct Disks {
    kib: BTreeMap<InstanceId, u64>,
    /// By whom they go to: how much is to come, and since when.
    under_way: BTreeMap<InstanceId, (u64, Instant)>,
    pub(super) kib_per_s: u64,
    pub(super) asked: Vec<(InstanceId, InstanceId)>,
    pub(super) cancelled: u32,
}

impl Default for Disks {
    fn default() -> Self {
        Self {
            kib: BTreeMap::new(),
            under_way: BTreeMap::new(),
            kib_per_s: KIB_PER_S,
            asked: Vec::new(),
            cancelled: 0,
        }
    }
}

impl Disks {
    pub(super) fn fill(&mut self, id: InstanceId, kib: u64) {
        self.kib.insert(id, kib);
    }

    /// What `du -s` says; nothing: the directory is not there.
    pub(super) fn size_kib(&self, id: InstanceId) -> Option<u64> {
        let coming = self.under_way.get(&id).map(|(kib, since)| {
            let brought = self.kib_per_s * since.elapsed().as_secs();
            brought.min(*kib)
        });
        coming.max(self.kib.get(&id).copied())
    }

    pub(super) fn copy(&mut self, from: InstanceId, to: InstanceId) {
        self.asked.push((from, to));
        let kib = self.size_kib(from).unwrap_or(0);
        self.under_way.insert(to, (kib, Instant::now()));
    }

    /// What came over stays.
    pub(super) fn cancel(&mut self, to: InstanceId) {
        self.cancelled += 1;
        if let Some(kib) = self.size_kib(to) {
            self.kib.insert(to, kib);
        }
        self.under_way.remove(&to);
    }
}
