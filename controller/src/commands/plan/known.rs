//! What this laptop knows from earlier runs that bears on a plan.

use std::collections::BTreeMap;

use crate::{
    commands::Deps,
    error::CommandError,
    estimate::baseline::Past,
    run::{machines, past},
    spec::RunSpec,
    store::ObservationRecord,
};

/// What is known.
#[derive(Debug, Default)]
pub(in crate::commands) struct Known {
    /// Speeds of the same code.
    pub(in crate::commands) past: Vec<Past>,
    /// All that was seen of it, the newest last.
    pub(in crate::commands) history: Vec<ObservationRecord>,
    /// Paid hours before it trained; `None`: never seen.
    pub(in crate::commands) setup_hours: Option<f64>,
    /// Machines that are avoided, and why.
    pub(in crate::commands) avoided: BTreeMap<u64, String>,
}

impl Known {
    /// Looks it up. Nothing is known where there is no store.
    pub(in crate::commands) fn of(deps: &Deps, spec: &RunSpec) -> Result<Self, CommandError> {
        let Some(store) = deps.existing_store()? else {
            return Ok(Self::default());
        };
        let all = store.observations()?;
        let bad = machines::all(&store, deps.clock.now_us())?;
        Ok(Self {
            past: past::of(spec, &all),
            setup_hours: past::setup_hours(spec, &all),
            history: past::related(spec, &all).into_iter().cloned().collect(),
            avoided: bad
                .into_iter()
                .filter(|machine| machine.avoided)
                .map(|machine| (machine.machine_id, machine.reason))
                .collect(),
        })
    }

    /// The observation of that number.
    pub(super) fn find(&self, id: i64) -> Option<&ObservationRecord> {
        self.history.iter().find(|record| record.id == id)
    }
}
