//! The parts that only verbs with a box need: the lifecycle, and the way to one box.

use std::sync::Arc;

use super::Deps;
use crate::{
    config::Config,
    error::CommandError,
    logbook::Logbook,
    run::{
        lifecycle::{Lifecycle, Report},
        site::{Place, Site, Sites},
    },
};

impl Deps {
    /// The way to boxes.
    pub fn sites(&self) -> Result<Arc<dyn Sites>, CommandError> {
        (self.make_sites)(&self.config)
    }

    /// What carries runs on, telling `report`.
    pub fn lifecycle(&self, report: Arc<dyn Report>) -> Result<Lifecycle, CommandError> {
        Ok(Lifecycle {
            store: self.store()?,
            provider: self.provider()?,
            sites: self.sites()?,
            clock: self.clock.clone(),
            logbook: Logbook::new(self.config.home()),
            report,
            shell: Arc::new(Config::shell_variable),
        })
    }

    /// A variable of the caller's shell.
    pub fn shell_variable(&self, name: &str) -> Option<String> {
        Config::shell_variable(name)
    }

    /// The newest box of a run, with its agent.
    pub async fn open_site(&self, run: &str) -> Result<Arc<dyn Site>, CommandError> {
        let record = self.load_run(Some(run))?;
        let attempt = self.store()?.latest_attempt(run)?;
        let place = attempt.and_then(|attempt| {
            let instance = attempt.instance.filter(|_| attempt.may_cost())?;
            Some(Place {
                provider: self.provider().ok()?.name(),
                instance,
                run: run.to_owned(),
                addresses: attempt.ssh,
            })
        });
        let place = place.ok_or_else(|| CommandError::usage(format!("run `{run}` has no box")))?;
        let sites = self.sites()?;
        sites
            .open(&place, &record.spec, &|_, _| {})
            .await
            .map_err(|err| {
                CommandError::new(format!("the box of `{run}` could not be reached"))
                    .cause(err)
                    .about(run)
            })
    }
}
