//! The newest checkpoint on this disk that a training may go on from when there is no bucket to ask. Blocks on the disk.
//!
//! Whoever was to finish it is dead, so silence proves nothing: it was committed as it is now, or its own format or its framework's
//! rule says that it is whole.

use std::{io, path::PathBuf};

use super::{
    Backup,
    complete::Finding,
    look,
    rules::{Silence, user::CompleteWhen},
    scan::{file_path, scan},
};
use spotter_bucket::sorted::sort_by;

/// A checkpoint that lies here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Absolute path for the trainer; the checkpoint directory itself for files that lie side by side.
    pub path: PathBuf,
    /// Number in its name.
    pub step: Option<u64>,
}

impl Backup {
    /// The newest one. `committed`: only what was committed counts; a host that lost power may have lost what was written last.
    pub fn newest_local(&self, committed: bool) -> io::Result<Option<Local>> {
        let dir = &self.options.dir;
        let mut found = scan(dir)?;
        // What was left for others only where nothing else is there.
        sort_by(&mut found, |a, b| {
            let order = b.age_order().cmp(&a.age_order());
            a.is_export().cmp(&b.is_export()).then(order)
        });
        let context = look::Context {
            dir: dir.clone(),
            when: self.options.complete_when.clone(),
            ranks: self.pace().ranks,
            ..look::Context::default()
        };
        // A user's command may take its time; one who says how long is quiet enough means a trainer that lives.
        let asks = !committed
            && matches!(
                self.options.complete_when,
                None | Some(CompleteWhen::Marker(_))
            );
        let is_whole = |candidate: &_| {
            asks && matches!(
                look::look(&context, candidate),
                Ok(Finding::Whole { silence, doubt: None, .. }) if silence < Silence::Unordered
            )
        };
        let holds = |candidate: &_| {
            let ledger = self.ledger.lock();
            ledger
                .expect("nothing panics while it holds the ledger")
                .holds(candidate)
        };
        let newest = found
            .iter()
            .find(|candidate| holds(candidate) || is_whole(candidate));
        Ok(newest.map(|newest| Local {
            path: file_path(dir, &newest.path, ""),
            step: newest.step,
        }))
    }

    /// Whether anything of this run was ever committed from this disk, or restored to it.
    pub fn has_saved(&self) -> bool {
        let ledger = self.ledger.lock();
        let ledger = ledger.expect("nothing panics while it holds the ledger");
        ledger.saved().next().is_some()
    }
}
