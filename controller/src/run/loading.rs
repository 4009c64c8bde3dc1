//! What was ordered becomes a box that can be reached, or is found out not to: it is looked at until it runs, and held against the order.

use std::time::Duration;

use crate::{
    ledger::Rates,
    provider::{Instance, ProviderError, Rental},
    run::{
        State, deadline,
        halt::Halt,
        lifecycle::{LOOK_AGAIN, Lifecycle},
        market_eye::{Eye, UNKNOWN},
        pricing,
        pulling::{self, BROKEN_OFF},
        status::{Action, Meaning},
    },
    store::{AttemptRecord, RunRecord},
};

/// A start that was just asked for is not yet in what the provider says.
const START_SHOWS: Duration = Duration::from_secs(20);
/// A pull that was begun again is not yet in what the provider says.
const RECYCLE_SHOWS: Duration = Duration::from_secs(60);

impl Lifecycle {
    /// Loading: ends when the provider says that the box runs and where ssh answers.
    pub(crate) async fn load(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
    ) -> Result<(), Halt> {
        let id = attempt
            .instance
            .ok_or_else(|| Halt::BadBox("no instance was recorded".to_owned()))?;
        self.say(
            run,
            &format!("Instance {id} is being prepared by its host."),
        );
        let mut missing = 0;
        let mut eye = Eye::default();
        let mut started: Option<tokio::time::Instant> = None;
        let mut checked = attempt.reopened_us > 0;
        let began = tokio::time::Instant::now();
        let mut up: Option<tokio::time::Instant> = None;
        let mut recycled: Option<tokio::time::Instant> = None;
        loop {
            self.still_ours(run, attempt)?;
            if self.bring_up_left(run, attempt).is_zero() {
                return Err(Halt::BadBox(format!(
                    "it was not running {}",
                    self.bring_up_text(run)
                )));
            }
            match self.provider.instance(id).await {
                Ok(Some(instance)) => {
                    missing = 0;
                    if !checked {
                        self.check_rented(run, attempt, &instance)?;
                        checked = true;
                        self.keep_label(attempt, &instance).await;
                    }
                    let (row, overdue) = eye.look(State::Loading, attempt.rental, &instance);
                    let said = instance.status_msg.to_lowercase();
                    match row.action {
                        Action::GoOn if !instance.ssh.is_empty() => {
                            attempt.ssh = instance.ssh.clone();
                            attempt.machine_id = Some(instance.machine_id);
                            self.gpu_charge_starts(attempt, &instance)?;
                            self.move_to(attempt, State::Preparing)?;
                            return Ok(());
                        }
                        // A fresh instance sometimes comes up stopped; one start mends it.
                        Action::Recover | Action::Respect if started.is_none() => {
                            started = Some(tokio::time::Instant::now());
                            let at_once = self.provider.start(id).await?;
                            if !at_once && attempt.rental == Rental::Interruptible {
                                return Err(outbid(row.text));
                            }
                        }
                        Action::Recover | Action::Respect
                            if started.is_some_and(|at| at.elapsed() < START_SHOWS) => {}
                        Action::Recover => return Err(outbid(row.text)),
                        Action::Respect => return Err(Halt::StoppedByHand(row.text.to_owned())),
                        // A container that runs and cannot be reached by anybody.
                        Action::GoOn => {
                            let up = *up.get_or_insert_with(tokio::time::Instant::now);
                            if up.elapsed() >= deadline::PORTS {
                                let seconds = deadline::PORTS.as_secs();
                                return Err(Halt::BadBox(format!(
                                    "it runs, but its ports were not published within {seconds} s"
                                )));
                            }
                        }
                        // A download that broke off; the words stay for a moment after it is begun again.
                        _ if said.contains(BROKEN_OFF)
                            && attempt.awaits_training()
                            && recycled.is_none() =>
                        {
                            recycled = Some(tokio::time::Instant::now());
                            self.say(
                                run,
                                &format!(
                                    "Its image did not arrive whole ({}): fetching it again.",
                                    instance.status_msg
                                ),
                            );
                            if let Err(err) = self.provider.recycle(id).await {
                                tracing::debug!(%err, "it could not be recycled");
                                return Err(Halt::BadBox(instance.status_msg));
                            }
                        }
                        _ if said.contains(BROKEN_OFF)
                            && recycled.is_some_and(|at| at.elapsed() < RECYCLE_SHOWS) => {}
                        _ if pulling::fault(&said).is_some() => {
                            return Err(Halt::BadBox(instance.status_msg));
                        }
                        Action::WaitThenGiveUp
                            if row.meaning == Meaning::Starting
                                && attempt.reopened_us == 0
                                && began.elapsed() >= image_limit(run, &instance) =>
                        {
                            let minutes = image_limit(run, &instance).as_secs() / 60;
                            let mbps = instance.inet_down_mbps;
                            return Err(Halt::BadBox(format!(
                                "its image had not arrived within {minutes} min, though its host promises {mbps:.0} Mb/s"
                            )));
                        }
                        // Its GPU went to somebody who pays more.
                        Action::WaitThenGiveUp
                            if overdue
                                && instance.scheduling
                                && attempt.rental == Rental::Interruptible =>
                        {
                            return Err(outbid(row.text));
                        }
                        // Before anything ran, a host that is silent is as bad as one that is slow.
                        Action::WaitThenGiveUp | Action::WaitThenRecover | Action::AskHeartbeat
                            if overdue =>
                        {
                            return Err(Halt::BadBox(row.text.to_owned()));
                        }
                        _ => {}
                    }
                }
                Ok(None) => {
                    missing += 1;
                    // A list that lags behind a create is seen; three looks apart it is a fact.
                    if missing >= 3 && attempt.started_us > 0 {
                        return Err(Halt::Lost(UNKNOWN.to_owned()));
                    }
                    if missing >= 3 {
                        return Err(Halt::BadBox(UNKNOWN.to_owned()));
                    }
                }
                Err(err @ (ProviderError::Unauthorized { .. } | ProviderError::NoKey { .. })) => {
                    return Err(err.into());
                }
                Err(err) => tracing::warn!(%err, "the provider does not answer, asking again"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The label is how anybody finds out whose box this is: one that got lost, such as to a template's own, is written again.
    async fn keep_label(&self, attempt: &AttemptRecord, instance: &Instance) {
        if instance.label.as_deref() == Some(attempt.label.as_str()) {
            return;
        }
        let written = self.provider.set_label(instance.id, &attempt.label).await;
        match written {
            Ok(()) => tracing::info!(instance = instance.id, "a box got its label back"),
            // It is on record, and that is what spotter goes by as long as there is one.
            Err(err) => tracing::warn!(%err, instance = instance.id, "a box has no label of ours"),
        }
    }

    /// What was really rented: a bid may come back as on-demand, a disk smaller than ordered.
    fn check_rented(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        instance: &Instance,
    ) -> Result<(), Halt> {
        let wanted_bid = attempt.rental == Rental::Interruptible;
        if let Some(is_bid) = instance.is_bid
            && is_bid != wanted_bid
        {
            let got = if is_bid { "interruptible" } else { "on-demand" };
            return Err(Halt::BadBox(format!(
                "it was rented {got}, which is not what was ordered"
            )));
        }
        let resources = &run.spec.resources;
        let ordered_gpus = attempt.num_gpus(&run.spec);
        if instance.num_gpus > 0 && instance.num_gpus != ordered_gpus {
            return Err(Halt::BadBox(format!(
                "it has {} GPUs instead of {ordered_gpus}",
                instance.num_gpus
            )));
        }
        let ordered = attempt.gpu.rsplit_once(':').map_or("", |(name, _)| name);
        let got = instance.gpu_name.as_str();
        if !got.is_empty() && !ordered.is_empty() && !got.eq_ignore_ascii_case(ordered) {
            return Err(Halt::BadBox(format!(
                "it is a {got} instead of a {ordered}"
            )));
        }
        let disk_gb = resources.disk_gb;
        if instance.disk_gb > 0.0 && instance.disk_gb + 0.5 < disk_gb {
            return Err(Halt::BadBox(format!(
                "its disk has {:.0} GB instead of {disk_gb:.0} GB",
                instance.disk_gb
            )));
        }
        // Somebody may have bid since, which is on record.
        let seen = Rates {
            gpu_usd_per_hour: instance.gpu_usd_per_hour,
            disk_usd_per_hour: instance.storage_usd_per_hour,
        };
        let ordered = Rates {
            gpu_usd_per_hour: self.on_record(attempt)?.gpu_usd_per_hour,
            disk_usd_per_hour: attempt.storage_usd_per_hour,
        };
        if let Some(why) = pricing::overcharged(seen, ordered, resources) {
            return Err(Halt::BadBox(why));
        }
        Ok(())
    }
}

fn image_limit(run: &RunRecord, instance: &Instance) -> Duration {
    deadline::image(
        run.spec.image_gb,
        instance.inet_down_mbps,
        run.spec.bring_up(),
    )
}

fn outbid(why: &str) -> Halt {
    Halt::interrupted(format!("{why} before its training started"))
}
