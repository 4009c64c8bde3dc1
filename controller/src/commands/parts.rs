//! The parts that only verbs with a box need: the lifecycle, and the way to one box.

use std::{rc::Rc, sync::Arc, time::Duration};

use futures::FutureExt;

use super::Deps;
use crate::{
    agent_client::AgentClient,
    bootstrap,
    config::Config,
    error::CommandError,
    logbook::Logbook,
    lookout::{
        links::{Logs, Looking},
        live::{Manner, Way},
    },
    provider::{InstanceId, Intended},
    run::{
        lifecycle::{Lifecycle, Report},
        reaching::{key_name, key_stamp},
        site::{Place, Site, SiteError, Sites},
        waiting::Looks,
    },
    spec::RunSpec,
    store::{Outcome, RunRecord},
    tunnel::{Patience, Tunnel},
};

/// A verb wants the box of a run that has none: what to type instead depends on why.
pub(super) fn no_box(run: &RunRecord) -> CommandError {
    let name = &run.name;
    let err = CommandError::new(format!("run `{name}` has no box")).about(name);
    match run.outcome {
        None => err
            .because("none is rented yet, or it is being replaced")
            .hint(format!("see where it stands with `spotter status {name}`")),
        Some(outcome) => {
            let err = err.because(format!("it has ended: {}", outcome.name()));
            let err = match &run.spec.results {
                Some(results) if outcome == Outcome::Done => {
                    err.hint(format!("its results are in {}", results.to.display()))
                }
                _ => err,
            };
            err.hint(format!(
                "read what is kept with `spotter status {name}` and `spotter logs {name}`"
            ))
        }
    }
}

async fn reach_box(
    sites: &dyn Sites,
    place: &Place,
    spec: &RunSpec,
    looks: bool,
) -> Result<Arc<dyn Site>, SiteError> {
    match looks {
        true => sites.look(place, spec).await,
        false => sites.open(place, spec, &|_, _| {}).await,
    }
}

/// How long one try to reach a box takes.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

impl Deps {
    /// Connects to the agent that is on the newest box of a run, whichever it is. `failed`: what that was for.
    pub(super) async fn agent_of(
        &self,
        run: &str,
        failed: impl Fn() -> CommandError,
    ) -> Result<(Tunnel, AgentClient), CommandError> {
        let target = self.ssh_target(run).await?;
        let tunnel = Tunnel::connect(target, Patience::known_box(CONNECT_LIMIT))
            .await
            .map_err(|err| failed().cause(err))?;
        let client = bootstrap::reach(&tunnel)
            .await
            .map_err(|err| failed().cause(err))?;
        Ok((tunnel, client))
    }

    /// What runs are looked at with, at `most` boxes at the same time.
    pub(super) fn looking(&self, manner: Manner, logs: Logs, most: usize) -> Looking<'_> {
        let dial = move |run: String| {
            let way = async move {
                let failed =
                    || CommandError::new(format!("the box of `{run}` could not be reached"));
                let (tunnel, client) = self.agent_of(&run, failed).await?;
                let tunnel = Some(tunnel);
                Ok(Way { client, tunnel })
            };
            way.boxed_local()
        };
        Looking {
            home: self.config.home().to_owned(),
            clock: self.clock.clone(),
            dial: Rc::new(dial),
            manner,
            logs,
            most,
        }
    }

    /// The way to boxes.
    pub fn sites(&self) -> Result<Arc<dyn Sites>, CommandError> {
        if let Some(sites) = self.sites.get() {
            return Ok(sites.clone());
        }
        let made = (self.make_sites)(&self.config)?;
        Ok(self.sites.get_or_init(|| made).clone())
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
            looks: Looks::default(),
        })
    }

    /// A variable of the caller's shell.
    pub fn shell_variable(&self, name: &str) -> Option<String> {
        Config::shell_variable(name)
    }

    /// The newest box of a run, with its agent.
    pub async fn open_site(&self, run: &str) -> Result<Arc<dyn Site>, CommandError> {
        self.box_of(run, false).await
    }

    /// The same for whoever only looks: the agent that is there, whichever it is, to which nobody is there by it.
    pub(super) async fn look_at(&self, run: &str) -> Result<Arc<dyn Site>, CommandError> {
        self.box_of(run, true).await
    }

    async fn box_of(&self, run: &str, looks: bool) -> Result<Arc<dyn Site>, CommandError> {
        let record = self.load_run(Some(run))?;
        let attempt = self.store()?.latest_attempt(run)?;
        let number = attempt.as_ref().map_or(0, |attempt| attempt.number);
        let place = attempt.and_then(|attempt| {
            let instance = attempt.instance.filter(|_| attempt.may_cost())?;
            Some(Place {
                provider: self.provider().ok()?.name(),
                instance,
                run: run.to_owned(),
                addresses: attempt.ssh,
            })
        });
        let place = place.ok_or_else(|| no_box(&record))?;
        let sites = self.sites()?;
        self.not_stopped(&record, place.instance).await?;
        self.same_key(run, place.instance).await?;
        let mut opened = reach_box(sites.as_ref(), &place, &record.spec, looks).await;
        if let Err(SiteError::Unreachable(_) | SiteError::NoAnswer(_)) = &opened
            && let Some(place) = self.moved(place).await
        {
            opened = reach_box(sites.as_ref(), &place, &record.spec, looks).await;
            // The next verb goes there at once; where nobody answers, what the market says may be older than what is on record.
            if opened.is_ok() {
                let (instance, addresses) = (place.instance, &place.addresses);
                self.store()?
                    .record_addresses(run, number, instance, addresses)?;
            }
        }
        opened.map_err(|err| {
            CommandError::new(format!("the box of `{run}` could not be reached"))
                .cause(err)
                .about(run)
        })
    }

    /// Where a box is by the provider, if that is not where it was: ports change when a container is started again.
    async fn moved(&self, place: Place) -> Option<Place> {
        let found = self.provider().ok()?.instance(place.instance).await;
        let addresses = found.ok()??.ssh;
        let is_new = !addresses.is_empty() && addresses != place.addresses;
        is_new.then_some(Place { addresses, ..place })
    }

    /// Refuses the stopped box of an ended run: ssh would only find nobody at its address.
    pub(super) async fn not_stopped(
        &self,
        run: &RunRecord,
        instance: InstanceId,
    ) -> Result<(), CommandError> {
        if run.outcome.is_none() {
            return Ok(());
        }
        let boxes = self.market_boxes().await;
        let Some(found) = boxes.as_ref().ok().and_then(|boxes| boxes.get(&instance)) else {
            return Ok(());
        };
        if found.intended != Intended::Stopped {
            return Ok(());
        }
        let name = &run.name;
        Err(CommandError::new(format!("the box of `{name}` is stopped"))
            .because(format!(
                "it was kept after the run's end, and its disk costs ${:.4}/h",
                found.storage_usd_per_hour
            ))
            .about(name)
            .hint(format!(
                "start it and look with `spotter ssh --start {name}`"
            ))
            .hint(format!("or let it go with `spotter destroy {name}`")))
    }

    /// Refuses a box that knows another key than this home has now: ssh would only say that permission is denied.
    pub(super) async fn same_key(&self, run: &str, instance: u64) -> Result<(), CommandError> {
        let known = self.store()?.meta(&key_name(instance))?;
        let Some(known) = known else { return Ok(()) };
        let key = self
            .sites()?
            .public_key()
            .await
            .map_err(|err| CommandError::from_error(&err))?;
        if known == key_stamp(&key) {
            return Ok(());
        }
        Err(CommandError::new(format!(
            "the box of `{run}` cannot be reached: the ssh key in {} was replaced since it was rented",
            self.config.home().join("ssh").display()
        ))
        .about(run)
        .hint(format!("let the new key in with `spotter up {run}`, or put the old one back")))
    }
}
