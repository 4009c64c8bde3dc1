//! What this laptop knows from earlier runs that bears on which offer a run takes.

use std::collections::BTreeMap;

use crate::{
    estimate::baseline::Past,
    run::{machines, past},
    spec::RunSpec,
    store::{ObservationRecord, Store, StoreError},
};

/// What is known.
#[derive(Debug, Default)]
pub struct Known {
    /// Speeds of the same code.
    pub past: Vec<Past>,
    /// All that was seen of it, the newest last.
    pub history: Vec<ObservationRecord>,
    /// Paid hours before it trained; `None`: never seen.
    pub setup_hours: Option<f64>,
    /// Machines that are avoided, and why.
    pub avoided: BTreeMap<u64, String>,
}

impl Known {
    /// Looks it up.
    ///
    /// # Errors
    /// The store's.
    pub fn read(store: &Store, spec: &RunSpec, now_us: i64) -> Result<Self, StoreError> {
        let all = store.observations()?;
        Ok(Self {
            past: past::of(spec, &all),
            setup_hours: past::setup_hours(spec, &all),
            history: past::related(spec, &all).into_iter().cloned().collect(),
            avoided: avoided(store, now_us)?,
        })
    }

    /// The observation of that number.
    pub fn find(&self, id: i64) -> Option<&ObservationRecord> {
        self.history.iter().find(|record| record.id == id)
    }
}

/// Machines that are avoided now, and why.
///
/// # Errors
/// The store's.
pub fn avoided(store: &Store, now_us: i64) -> Result<BTreeMap<u64, String>, StoreError> {
    let bad = machines::all(store, now_us)?;
    let avoided = bad.into_iter().filter(|machine| machine.avoided);
    Ok(avoided
        .map(|machine| (machine.machine_id, machine.reason))
        .collect())
}
