//! Bucket keys on a box are wiped before the box is destroyed: whoever gets its disk next may read what lay there.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use crate::{
    error::CommandError,
    provider::{Instance, InstanceId},
    run::{
        State,
        boxes::has_bucket,
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
    /// Lets a box that is about to be destroyed wipe its bucket keys, where it may hold any and answers soon. Nothing that fails
    /// here keeps a box that is paid for: it is told, and the box goes.
    pub(crate) async fn wipe_before_destroy(
        &self,
        attempt: &AttemptRecord,
        id: InstanceId,
        site: Option<Arc<dyn Site>>,
    ) {
        let Ok(run) = self.store.run(&attempt.run) else {
            return;
        };
        if !may_hold_keys(&run, attempt) || self.is_wiped(attempt).unwrap_or(false) {
            return;
        }
        let mut place = self.place(attempt, id);
        let newest = self.store.latest_attempt(&run.name);
        if !newest.is_ok_and(|newest| newest.is_some_and(|newest| newest.number == attempt.number))
        {
            // The host name of the run belongs to the box that works for it.
            place.run = format!("gc-{id}");
        }
        let wiped = match self.provider.instance(id).await {
            Ok(Some(found)) if found.contract_running => {
                self.try_wipe(&place, &run.spec, site).await
            }
            Ok(Some(_)) => Err("it is stopped".to_owned()),
            Ok(None) => Err("the provider does not know it".to_owned()),
            Err(err) => Err(err.to_string()),
        };
        self.tell_wiped(&run, attempt.number, id, wiped);
    }

    /// A box that destroyed itself has overwritten the keys on its disk before.
    pub(crate) fn wiped_itself(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<(), CommandError> {
        match (persists(run), attempt.instance) {
            (true, Some(id)) => self.note(run, attempt.number, WIPED, json!({ "instance": id })),
            _ => Ok(()),
        }
    }

    /// Records what became of the keys of a box.
    fn tell_wiped(&self, run: &RunRecord, number: u32, id: InstanceId, wiped: Result<(), String>) {
        let noted = match wiped {
            Ok(()) => self.note(run, number, WIPED, json!({ "instance": id })),
            Err(why) if persists(run) => {
                self.say(
                    run,
                    &format!(
                        "Instance {id} goes with the bucket keys on its disk, which could not be wiped: {why}. \
                         Keys without an end of their own are better replaced."
                    ),
                );
                let detail = json!({"instance": id, "reason": why});
                self.note(run, number, NOT_WIPED, detail)
            }
            Err(why) => {
                tracing::debug!(instance = id, why, "the agent did not wipe its memory");
                return;
            }
        };
        if let Err(err) = noted {
            tracing::warn!(%err, instance = id, "what became of its bucket keys was not recorded");
        }
    }

    /// The same for a box that no attempt claims: one of a run of this store may have been given keys all the same.
    pub(crate) async fn wipe_unclaimed(&self, found: &Instance) {
        let label = found.label.as_deref().and_then(label::parse);
        let Some(label) = label.filter(|label| label.store == self.store.id()) else {
            // It knows another spotter's ssh key, and would not let us in.
            return;
        };
        let Ok(run) = self.store.run(label.run) else {
            return;
        };
        if !has_bucket(&run) {
            return;
        }
        if !found.contract_running {
            return self.tell_wiped(&run, 0, found.id, Err("it is stopped".to_owned()));
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
        self.tell_wiped(&run, 0, found.id, wiped);
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
