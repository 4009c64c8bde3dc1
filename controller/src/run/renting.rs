//! From a plan to a rented box. The intent, with its unique label, is stored before the request leaves; before any retry the
//! label is looked up, so that a lost answer never rents twice.

use std::time::Duration;

use crate::{
    error::CommandError,
    ledger::CostKind,
    provider::{InstanceId, ProviderError, RentRequest, hosts::is_host},
    run::{
        State, claims, container,
        halt::Halt,
        lifecycle::{LOOK_AGAIN, Lifecycle},
        machines,
        offering::{Aim, MARKET_PAUSE, Refused, see_market},
        readiness,
    },
    store::{AttemptRecord, Measured, RunRecord, StoreError},
};

/// Offers tried before a rent gives up; a marketplace's offers are often gone when one reaches for them.
const OFFERS_TRIED: u32 = 12;
/// A create whose answer was lost shows up in the list within seconds; after this long it was never done.
const LABEL_APPEARS: Duration = Duration::from_secs(12);
/// Event of the run as a whole that keeps what was planned when it was begun.
pub const PLANNED: &str = "planned";

impl Lifecycle {
    /// Planned or renting: ends with a rented instance in the record.
    pub(crate) async fn rent(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
    ) -> Result<(), Halt> {
        if attempt.state == State::Renting
            && let Some(id) = self.look_for_lost_answer(run, attempt).await?
        {
            return self.adopt(attempt, id).await;
        }
        let mut refused = Refused::default();
        for _ in 0..OFFERS_TRIED {
            self.still_ours(run, attempt)?;
            let aim = Aim::Rent(self.bar(run, attempt)?);
            let Some((offer, order)) = self.choose(run, attempt, &refused, aim).await? else {
                return Ok(());
            };
            attempt.machine_id = Some(offer.machine_id);
            attempt.gpu = format!("{}:{}", offer.gpu_name, offer.num_gpus);
            attempt.gpu_usd_per_hour = order.gpu_usd_per_hour;
            attempt.storage_usd_per_hour = order.storage_usd_per_hour;
            self.move_to(attempt, State::Renting)?;
            let promised = Measured {
                advertised_down_mbps: Some(offer.inet_down_mbps).filter(|mbps| *mbps > 0.0),
                advertised_up_mbps: Some(offer.inet_up_mbps).filter(|mbps| *mbps > 0.0),
                ..Measured::default()
            };
            self.store
                .record_measured(&run.name, attempt.number, &promised)?;
            // A box of the user's own was promised by nobody.
            if !is_host(offer.id) {
                readiness::keep(&self.store, &attempt.label, &offer)?;
            }

            let request = RentRequest {
                offer: offer.id,
                label: attempt.label.clone(),
                image: run.spec.image.clone(),
                disk_gb: run.spec.resources.disk_gb,
                onstart: self
                    .sites
                    .onstart(&run.spec, &self.provider.base_url())
                    .map_err(|err| {
                        CommandError::new(format!("run `{}` was not rented", run.name)).cause(err)
                    })?,
                env: Vec::new(),
                bid_usd_per_hour: order.bid_usd_per_hour,
                container: container::container(&run.spec, self.shell.as_ref())
                    .await
                    .map_err(Halt::Pause)?,
            };
            let price = order.running_usd_per_hour();
            let what = match is_host(offer.id) {
                true => format!("Taking host {}, for which nobody bills.", offer.geolocation),
                false => format!(
                    "Renting offer {} ({}) at ${price:.3}/h.",
                    offer.id, attempt.gpu
                ),
            };
            self.say(run, &what);
            crate::fault::point("provider.rent.before");
            let answer = self.provider.rent(&request).await;
            crate::fault::point("provider.rent.after");
            match answer {
                Ok(id) => {
                    self.adopt(attempt, id).await?;
                    return self.keep_plan(run, attempt, (&offer, order));
                }
                Err(err @ ProviderError::OfferGone { .. }) => {
                    self.say(
                        run,
                        &format!("Offer {} is gone; trying the next one.", offer.id),
                    );
                    self.discard(run, attempt, err.leftover()).await?;
                    refused.by_market(offer.id, &err);
                }
                Err(
                    ref err @ ProviderError::BidTooLow {
                        bid_usd_per_hour: bid,
                        ref message,
                        ..
                    },
                ) => {
                    let (id, listed) = (offer.id, offer.min_bid_usd_per_hour);
                    let listed = listed.unwrap_or(offer.gpu_usd_per_hour);
                    self.say(
                        run,
                        &format!(
                            "The bid of ${bid:.3}/h for offer {id} is below the floor, which was ${listed:.3}/h when it was listed \
                             ({message}); trying the next one."
                        ),
                    );
                    self.discard(run, attempt, err.leftover()).await?;
                    refused.by_market(id, err);
                }
                Err(err) if err.is_ambiguous() => {
                    self.say(
                        run,
                        &format!(
                            "The answer to the order was lost ({err}); looking for the instance."
                        ),
                    );
                    if let Some(id) = self.look_for_lost_answer(run, attempt).await? {
                        self.adopt(attempt, id).await?;
                        return self.keep_plan(run, attempt, (&offer, order));
                    }
                    refused.by_market(offer.id, &err);
                }
                Err(err) => {
                    self.discard(run, attempt, err.leftover()).await?;
                    return Err(self.not_rented(run, err));
                }
            }
        }
        if attempt.number > 1 {
            self.say(
                run,
                &format!("{OFFERS_TRIED} orders in a row failed. Looking again in a minute."),
            );
            tokio::time::sleep(MARKET_PAUSE).await;
            return Ok(());
        }
        let text = format!(
            "run `{}` was not rented: {OFFERS_TRIED} orders in a row failed",
            run.name
        );
        let err = CommandError::new(text)
            .because(refused.last.expect("each of these orders failed"))
            .hint(see_market(&run.spec.resources))
            .hint("or widen `resources` in the run file");
        Err(Halt::Fatal(err))
    }

    pub(crate) fn not_rented(&self, run: &RunRecord, err: ProviderError) -> Halt {
        let text = format!("run `{}` was not rented", run.name);
        let named = |inner: CommandError| {
            let causes = inner.causes().iter().map(String::as_str);
            let made = std::iter::once(inner.message())
                .chain(causes)
                .fold(CommandError::new(text.clone()), CommandError::because);
            inner.hints().iter().fold(made, CommandError::hint)
        };
        match Halt::from(err) {
            Halt::Fatal(inner) => Halt::Fatal(named(inner)),
            Halt::Pause(inner) => Halt::Pause(named(inner)),
            Halt::Wait(inner) => Halt::Wait(named(inner)),
            other => other,
        }
    }

    /// Remembers a machine whose box did not come up. What its training or set-up did is not the machine's fault.
    pub(crate) fn remember_machine(
        &self,
        attempt: &AttemptRecord,
        why: &str,
    ) -> Result<(), CommandError> {
        if let Some(machine) = attempt.machine_id
            && matches!(attempt.state, State::Loading | State::Preparing)
        {
            machines::remember(&self.store, machine, self.clock.now_us(), why)?;
        }
        Ok(())
    }

    /// Machines on which this run already failed to come up. One that somebody outbid us for did nothing wrong.
    pub(crate) fn machines_that_failed(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<Vec<u64>, Halt> {
        let attempts = self.store.attempts(&run.name)?;
        let taken = self.taken_back(&run.name)?;
        Ok(attempts
            .iter()
            .filter(|old| old.number != attempt.number && old.started_us == 0)
            .filter(|old| !taken.contains(&old.number))
            .filter_map(|old| old.machine_id)
            .collect())
    }

    /// After a crash or a lost answer: is there an instance with our label? Looks for as long as one may still appear.
    async fn look_for_lost_answer(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<Option<InstanceId>, Halt> {
        let found = self
            .look_for_label(&attempt.label, &|text| self.say(run, text))
            .await?;
        if let Some(id) = found {
            self.say(run, &format!("Found instance {id} by its label."));
        }
        Ok(found)
    }

    /// The instance with a label, looked for as long as one may still appear. Without an answer of the provider nothing is
    /// concluded: it is asked again, for ever.
    pub(crate) async fn look_for_label(
        &self,
        label: &str,
        say: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Option<InstanceId>, ProviderError> {
        let started = tokio::time::Instant::now();
        loop {
            match self.labelled(label).await {
                Ok(ids) if !ids.is_empty() => return Ok(ids.first().copied()),
                Ok(_) if started.elapsed() >= LABEL_APPEARS => return Ok(None),
                Ok(_) => {}
                Err(err @ (ProviderError::Unauthorized { .. } | ProviderError::NoKey { .. })) => {
                    return Err(err);
                }
                Err(err) => say(&format!(
                    "The provider does not answer ({err}); asking again."
                )),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Writes an instance into the record: from here on it is ours and known.
    async fn adopt(&self, attempt: &mut AttemptRecord, id: InstanceId) -> Result<(), Halt> {
        if let Err(halt) = self.take_in(attempt, id) {
            self.drop_unclaimed(attempt, id).await?;
            return Err(halt);
        }
        // A create that was carried out twice made a twin, which is paid for as well.
        self.tend().await;
        Ok(())
    }

    fn take_in(&self, attempt: &mut AttemptRecord, id: InstanceId) -> Result<(), Halt> {
        let (run, number) = (attempt.run.clone(), attempt.number);
        // Another spotter may have acted while the order was on its way; then the account is its to keep as well.
        self.store.fence(&run)?;
        if self.on_record(attempt)?.state != State::Renting {
            return Err(Halt::Superseded);
        }
        attempt.instance = Some(id);
        let price = attempt.storage_usd_per_hour;
        self.store
            .open_interval(&run, number, CostKind::Disk, self.clock.now_us(), price)?;
        Ok(self.move_to(attempt, State::Loading)?)
    }

    /// Destroys a box that the record gives to nobody, so that it is not paid for. One that is on record, or that may still be
    /// found by its label, belongs to whoever acts now: it may train by the time we look.
    async fn drop_unclaimed(&self, attempt: &AttemptRecord, id: InstanceId) -> Result<(), Halt> {
        let on_record = self.on_record(attempt)?;
        if claims::is_claimed(&on_record, id) {
            return Ok(());
        }
        self.destroy_patiently(id).await?;
        if on_record.state == State::Gone {
            let (run, number) = (&attempt.run, attempt.number);
            self.store
                .close_interval(run, number, CostKind::Disk, self.clock.now_us())?;
        }
        Ok(())
    }

    /// The attempt as the store has it now.
    pub(crate) fn on_record(&self, attempt: &AttemptRecord) -> Result<AttemptRecord, StoreError> {
        self.store
            .attempts(&attempt.run)?
            .into_iter()
            .find(|found| found.number == attempt.number)
            .ok_or_else(|| StoreError::NoSuchAttempt {
                run: attempt.run.clone(),
                number: attempt.number,
            })
    }

    /// An instance that an error left behind bills storage until it is destroyed; that bill is the attempt's, too.
    async fn discard(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        leftover: Option<InstanceId>,
    ) -> Result<(), Halt> {
        let Some(id) = leftover else { return Ok(()) };
        self.destroy_patiently(id).await?;
        let detail = serde_json::json!({"instance": id});
        self.note(run, attempt.number, "leftover_destroyed", detail)?;
        self.say(
            run,
            &format!("Instance {id}, which was made all the same, is destroyed."),
        );
        Ok(())
    }

    /// Destroys a box that no record holds, for as long as it takes: nobody else would.
    async fn destroy_patiently(&self, id: InstanceId) -> Result<(), Halt> {
        crate::fault::point("provider.discard.before");
        while let Err(err) = self.provider.destroy(id).await {
            if !err.may_pass() {
                return Err(err.into());
            }
            tracing::warn!(%err, instance = id, "a box that nobody claims is still there, trying again");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        crate::fault::point("provider.discard.after");
        Ok(())
    }

    /// The record still stands as we know it, and nobody asked for the end.
    pub(crate) fn still_ours(&self, run: &RunRecord, attempt: &AttemptRecord) -> Result<(), Halt> {
        let now = self.store.run(&run.name)?;
        let has_ended = now.outcome.is_some() && run.outcome.is_none();
        if has_ended || (now.stop_requested && !run.stop_requested) {
            return Err(Halt::Superseded);
        }
        let latest = self.store.latest_attempt(&run.name)?;
        match latest {
            Some(latest) if latest.number == attempt.number && latest.state == attempt.state => {
                Ok(())
            }
            _ => Err(Halt::Superseded),
        }
    }

    /// What is left of the time to come up for this box.
    pub(crate) fn bring_up_left(&self, run: &RunRecord, attempt: &AttemptRecord) -> Duration {
        // From the first second the box is paid for: that is when its disk began to cost, or when it was started again.
        let intervals = self.store.intervals(&run.name).unwrap_or_default();
        let paid_since_us = intervals
            .iter()
            .filter(|interval| interval.attempt == attempt.number)
            .map(|interval| interval.from_us)
            .min()
            .unwrap_or(attempt.created_us)
            .max(attempt.reopened_us);
        let used_us = self.clock.now_us().saturating_sub(paid_since_us).max(0) as u64;
        run.spec
            .bring_up()
            .saturating_sub(Duration::from_micros(used_us))
    }

    pub(crate) fn bring_up_text(&self, run: &RunRecord) -> String {
        let limits = match run.spec.smoke {
            Some(_) => "`limits.bring_up` and `smoke.timeout`",
            None => "`limits.bring_up`",
        };
        format!("within {limits} of {} s", run.spec.bring_up().as_secs())
    }
}
