//! Bucket keys on a box are wiped before the box is destroyed: whoever gets its disk next may read what lay there.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use crate::{
    error::CommandError,
    provider::{Instance, InstanceId},
    run::{
        State,
        boxes::has_bucket,
        halt::Halt,
        label,
        lifecycle::Lifecycle,
        site::{Place, Site, SiteError},
    },
    spec::RunSpec,
    store::{AttemptRecord, RunRecord, StoreError},
};

/// Longest time for it: the box is paid for meanwhile. One that does not answer is destroyed all the same.
const WIPE_LIMIT: Duration = Duration::from_secs(10);
/// The agent of a box has wiped its keys.
const WIPED: &str = "box_wiped";
/// A box went with keys that the user let it keep on its disk.
const NOT_WIPED: &str = "box_not_wiped";

impl Lifecycle {
    /// Lets a box that is about to be destroyed wipe its bucket keys, where it may hold any and answers soon.
    ///
    /// # Errors
    /// Only the provider's and the store's: who cannot ask what the box does cannot destroy it either, and takes both steps again.
    pub(crate) async fn wipe_before_destroy(
        &self,
        attempt: &AttemptRecord,
        id: InstanceId,
        site: Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        let run = self.store.run(&attempt.run)?;
        if !may_hold_keys(&run, attempt) || self.is_wiped(attempt)? {
            return Ok(());
        }
        let wiped = match self.provider.instance(id).await? {
            Some(found) if found.contract_running => {
                self.try_wipe(&self.place(attempt, id), &run.spec, site)
                    .await
            }
            Some(_) => Err("it is stopped".to_owned()),
            None => Err("the provider does not know it".to_owned()),
        };
        match wiped {
            Ok(()) => self.note(&run, attempt.number, WIPED, json!({ "instance": id }))?,
            Err(why) if persists(&run) => {
                self.say(
                    &run,
                    &format!(
                        "Instance {id} goes with the bucket keys on its disk, which could not be wiped: {why}. \
                         Keys without an end of their own are better replaced."
                    ),
                );
                let detail = json!({"instance": id, "reason": why});
                self.note(&run, attempt.number, NOT_WIPED, detail)?;
            }
            Err(why) => tracing::debug!(instance = id, why, "the agent did not wipe its memory"),
        }
        Ok(())
    }

    /// The same for a box that no attempt claims: one of a run of this store may have been given keys all the same.
    pub(crate) async fn wipe_unclaimed(&self, found: &Instance) -> Result<(), CommandError> {
        let label = found.label.as_deref().and_then(label::parse);
        let Some(label) = label.filter(|label| label.store == self.store.id()) else {
            // It knows another spotter's ssh key, and would not let us in.
            return Ok(());
        };
        let run = match self.store.run(label.run) {
            Ok(run) => run,
            Err(StoreError::NoSuchRun { .. }) => return Ok(()),
            Err(err) => return Err(err.into()),
        };
        if !has_bucket(&run) || !found.contract_running {
            return Ok(());
        }
        let place = Place {
            provider: self.provider.name(),
            instance: found.id,
            // The host name of the run belongs to the box that works for it.
            run: format!("gc-{}", found.id),
            addresses: found.ssh.clone(),
        };
        let wiped = self.try_wipe(&place, &run.spec, None).await;
        self.sites.forget(&place);
        let (kind, why) = match wiped {
            Ok(()) => (WIPED, None),
            Err(why) => (NOT_WIPED, Some(why)),
        };
        let detail = json!({"instance": found.id, "reason": why});
        self.note(&run, 0, kind, detail)
    }

    async fn try_wipe(
        &self,
        place: &Place,
        spec: &RunSpec,
        site: Option<Arc<dyn Site>>,
    ) -> Result<(), String> {
        let wiped = tokio::time::timeout(WIPE_LIMIT, async {
            let site = match site {
                Some(site) => site,
                None => self.sites.open(place, spec, &|_, _| {}).await?,
            };
            // A session that runs would start its agent again; whoever destroys the box has given it up.
            let status = site.status().await?;
            for session in status.sessions.iter().filter(|found| found.is_running()) {
                site.end_session(&session.name, Duration::ZERO).await?;
            }
            site.wipe().await
        });
        match wiped.await {
            Ok(wiped) => wiped.map_err(|err: SiteError| err.to_string()),
            Err(_) => Err(format!(
                "its agent had not done so in {} s",
                WIPE_LIMIT.as_secs()
            )),
        }
    }

    /// Whether that was done since the attempt last moved: another try to destroy need not do it again.
    fn is_wiped(&self, attempt: &AttemptRecord) -> Result<bool, StoreError> {
        let wiped = self
            .store
            .newest_event(&attempt.run, attempt.number, WIPED)?;
        Ok(wiped.is_some_and(|wiped| wiped.time_us >= attempt.state_us))
    }
}

/// Whether the run's boxes keep their bucket keys on the disk.
fn persists(run: &RunRecord) -> bool {
    has_bucket(run)
        && run
            .spec
            .checkpoints
            .as_ref()
            .is_some_and(|checkpoints| checkpoints.keys.persist)
}

/// Whether a box may have been given bucket keys (pure): not before its checks were passed.
fn may_hold_keys(run: &RunRecord, attempt: &AttemptRecord) -> bool {
    let too_early = matches!(
        attempt.state,
        State::Planned | State::Renting | State::Loading | State::Preparing
    );
    has_bucket(run) && (!too_early || attempt.started_us > 0 || attempt.reopened_us > 0)
}
