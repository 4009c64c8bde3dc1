//! What is known from earlier runs, where this laptop has a record at all.

use crate::{commands::Deps, error::CommandError, run::known, spec::RunSpec};

pub(in crate::commands) use crate::run::known::Known;

/// Looks it up for a run file; without one only which machines are avoided. Nothing is known where there is no store.
pub(in crate::commands) fn of(deps: &Deps, spec: Option<&RunSpec>) -> Result<Known, CommandError> {
    let Some(store) = deps.existing_store()? else {
        return Ok(Known::default());
    };
    let now_us = deps.clock.now_us();
    Ok(match spec {
        Some(spec) => Known::read(&store, spec, now_us)?,
        None => Known {
            avoided: known::avoided(&store, now_us)?,
            ..Known::default()
        },
    })
}
