//! From a plan to a rented box. The intent, with its unique label, is stored before the request leaves; before any retry the
//! label is looked up, so that a lost answer never rents twice.

use std::time::Duration;

use crate::{
    error::CommandError,
    estimate::{calibrated::Shipped, evaluate::Method},
    ledger::CostKind,
    provider::{Instance, InstanceId, Offer, ProviderError, RentRequest, Rental, hosts::is_host},
    run::{
        State, claims, container, deadline,
        halt::Halt,
        judge::{self, Asked, Judged, Verdicts},
        known::Known,
        lifecycle::{LOOK_AGAIN, Lifecycle},
        machines,
        market_eye::{Eye, UNKNOWN},
        pricing::{self, Order},
        status::{Action, Meaning},
    },
    spec::{Resources, RunSpec},
    store::{AttemptRecord, Measured, RunRecord, StoreError},
};

/// Offers tried before a rent gives up; a marketplace's offers are often gone when one reaches for them.
const OFFERS_TRIED: u32 = 12;
/// A create whose answer was lost shows up in the list within seconds; after this long it was never done.
const LABEL_APPEARS: Duration = Duration::from_secs(12);
/// Between two looks at a market that has nothing to take.
const MARKET_PAUSE: Duration = Duration::from_secs(60);
/// A start that was just asked for is not yet in what the provider says.
const START_SHOWS: Duration = Duration::from_secs(20);
/// Offers looked at; many of the cheapest may be taken, too dear or known to be bad.
pub const OFFERS_LISTED: u32 = 64;
/// Event of the run as a whole that keeps what was planned when it was begun.
pub const PLANNED: &str = "planned";
/// Words of the host's daemon after which an image never arrives (observed in the provider's own tooling).
const HOPELESS: [&str; 6] = [
    "error response from daemon",
    "failed to pull image",
    "no space left on device",
    "manifest unknown",
    "unauthorized",
    BROKEN_OFF,
];
/// The one of them that a second try may mend: the image is pulled anew when the box is recycled, and while it loads no GPU is charged.
const BROKEN_OFF: &str = "unexpected eof";
/// A pull that was begun again is not yet in what the provider says.
const RECYCLE_SHOWS: Duration = Duration::from_secs(60);

/// Offers that were ordered and did not become a box, and what was said of the last one.
#[derive(Debug, Default)]
struct Refused {
    offers: Vec<u64>,
    last: Option<String>,
}

/// What an offer is chosen for.
#[derive(Debug, Clone, Copy)]
enum Aim {
    /// To be judged by whoever asks, who is told of it himself.
    Look,
    /// To be rented. `dared`: its user goes by himself, not by estimates.
    Rent { dared: bool },
}

impl Aim {
    fn dared(self) -> bool {
        matches!(self, Self::Look | Self::Rent { dared: true })
    }
}

impl Refused {
    fn by_market(&mut self, offer: u64, err: &ProviderError) {
        self.offers.push(offer);
        self.last = Some(format!("the last order: {err}"));
    }
}

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
            let aim = Aim::Rent {
                dared: self.dares(run)?,
            };
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
                Ok(id) => return self.adopt(attempt, id).await,
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
                        return self.adopt(attempt, id).await;
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

    fn not_rented(&self, run: &RunRecord, err: ProviderError) -> Halt {
        let text = format!("run `{}` was not rented", run.name);
        let named = |inner: CommandError| {
            let made = CommandError::new(text.clone()).because(inner.message());
            inner.hints().iter().fold(made, CommandError::hint)
        };
        match Halt::from(err) {
            Halt::Fatal(inner) => Halt::Fatal(named(inner)),
            Halt::Pause(inner) => Halt::Pause(named(inner)),
            Halt::Wait(inner) => Halt::Wait(named(inner)),
            other => other,
        }
    }

    /// The offer that would be taken now; the error says why there is none. Spends and records nothing.
    pub async fn find_offer(&self, run: &RunRecord) -> Result<(Offer, Order), CommandError> {
        let draft = self.draft(run, 1);
        match self
            .choose(run, &draft, &Refused::default(), Aim::Look)
            .await
        {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(CommandError::bug(
                "a look at the market waits for a run that does not exist yet",
            )),
            Err(halt) => match halt {
                Halt::Fatal(err) | Halt::Pause(err) | Halt::Wait(err) => Err(err),
                _ => Err(CommandError::bug(
                    "a look at the market ended a run that does not exist yet",
                )),
            },
        }
    }

    /// The offer that the judge puts first. `None`: nothing now, but the run goes on and looks again.
    async fn choose(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        refused: &Refused,
        aim: Aim,
    ) -> Result<Option<(Offer, Order)>, Halt> {
        let resources = &run.spec.resources;
        let query = pricing::query(resources, OFFERS_LISTED);
        let found = self
            .provider
            .offers(&query)
            .await
            .map_err(|err| self.not_rented(run, err))?;
        let bad_machines = self.machines_that_failed(run, attempt)?;
        let spent_usd = self.spent_usd(&run.name)?;
        let left_usd = run.spec.limits.budget_usd.map(|budget| budget - spent_usd);
        let known = Known::read(&self.store, &run.spec, self.clock.now_us())?;
        let open = found.iter().filter(|offer| {
            !refused.offers.contains(&offer.id) && !bad_machines.contains(&offer.machine_id)
        });
        let verdicts = judge::judge(&asked(&run.spec, &known, left_usd), open);
        let dared = aim.dared();
        if let Some(best) = verdicts.best(dared) {
            if let Aim::Rent { dared } = aim {
                self.tell_choice(run, best, &verdicts, dared);
            }
            return Ok(Some((best.offer.clone(), best.order)));
        }
        let (gpus, disk_gb) = (gpus(resources), resources.disk_gb);
        let unfit = verdicts
            .offers
            .first()
            .and_then(|first| Some((first.offer.id, first.obstacle(dared)?)));
        let why = match (unfit, verdicts.too_dear.first()) {
            (Some((id, obstacle)), _) => format!(
                "none of the {} offers would train it; offer {id}: {obstacle}",
                verdicts.offers.len()
            ),
            (None, Some((id, reason))) => {
                format!("the cheapest offer, {id}, is too dear: {reason}")
            }
            (None, None) if !resources.hosts.is_empty() => {
                "every host that is free failed before".to_owned()
            }
            (None, None) if found.is_empty() => {
                format!("the market has no {gpus} with {disk_gb} GB of disk that matches")
            }
            (None, None) => format!("all {} offers that match failed or were gone", found.len()),
        };
        // A run that has trained waits for the market; one that was just typed tells its user. Hosts that failed are no market.
        if attempt.number > 1 && resources.hosts.is_empty() {
            self.say(
                run,
                &format!("No box to go on with: {why}. Looking again in a minute."),
            );
            tokio::time::sleep(MARKET_PAUSE).await;
            return Ok(None);
        }
        let text = format!("run `{}` was not rented: no offer to take", run.name);
        let why = match &refused.last {
            Some(last) => format!("{why}; {last}"),
            None => why,
        };
        let err = CommandError::new(text).because(why);
        Err(Halt::Fatal(match (resources.hosts.is_empty(), unfit) {
            (true, Some(_)) => err
                .hint("see what each offer lacks, for nothing, with `spotter plan`")
                .hint(see_market(resources)),
            (true, None) => err.hint(see_market(resources)),
            (false, _) => err,
        }))
    }

    /// Why it is not the cheapest, where it is not, and what speaks against it.
    fn tell_choice(
        &self,
        run: &RunRecord,
        best: &Judged<'_>,
        verdicts: &Verdicts<'_>,
        dared: bool,
    ) {
        if let Some(why) = &best.avoided {
            let machine = best.offer.machine_id;
            self.say(
                run,
                &format!(
                    "Only machine {machine} is left, of which something bad is known lately: {why}."
                ),
            );
        }
        let price = |judged: &Judged<'_>| judged.order.running_usd_per_hour();
        let unfit: Vec<(&Judged<'_>, &str)> = verdicts
            .offers
            .iter()
            .filter(|other| price(other) < price(best))
            .filter_map(|other| Some((other, other.obstacle(dared)?)))
            .collect();
        if let Some((other, why)) = unfit.first() {
            let id = other.offer.id;
            let cheaper = match unfit.len() {
                1 => format!("offer {id}, which is cheaper"),
                count => format!("{count} cheaper offers, such as {id}"),
            };
            self.say(run, &format!("Passing over {cheaper}: {why}."));
        }
    }

    /// Whether the run was begun though an estimate spoke against its offer: then estimates do not hold it up later.
    pub(crate) fn dares(&self, run: &RunRecord) -> Result<bool, StoreError> {
        let planned = self.store.newest_event(&run.name, 0, PLANNED)?;
        Ok(planned
            .is_some_and(|event| event.detail["no_plan"] == true || event.detail["dares"] == true))
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
    fn on_record(&self, attempt: &AttemptRecord) -> Result<AttemptRecord, StoreError> {
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
                    let (row, overdue) = eye.look(State::Loading, &instance);
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
                        _ if HOPELESS.iter().any(|word| said.contains(word)) => {
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
        if instance.is_bid != wanted_bid {
            let got = if instance.is_bid {
                "interruptible"
            } else {
                "on-demand"
            };
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
        // A tenth over what was ordered is a price change between search and create; more is a mistake. Somebody may have bid
        // since, which is on record.
        let ordered = self.on_record(attempt)?.gpu_usd_per_hour;
        if instance.gpu_usd_per_hour > ordered * 1.1 + 0.001 {
            return Err(Halt::BadBox(format!(
                "it costs ${:.3}/h instead of ${ordered:.3}/h",
                instance.gpu_usd_per_hour
            )));
        }
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

fn image_limit(run: &RunRecord, instance: &Instance) -> Duration {
    deadline::image(
        run.spec.image_gb,
        instance.inet_down_mbps,
        run.spec.bring_up(),
    )
}

/// What the judge is asked of a run that is under way.
pub(crate) fn asked<'a>(spec: &'a RunSpec, known: &'a Known, left_usd: Option<f64>) -> Asked<'a> {
    Asked {
        spec,
        method: Method::Calibrated,
        calibration: &Shipped::get().calibration,
        known,
        left_usd,
    }
}

/// What is rented, as `--gpus` takes it.
fn gpus(resources: &Resources) -> String {
    let name = resources.gpu_name.as_deref().unwrap_or("any");
    format!("{name}:{}", resources.num_gpus)
}

fn see_market(resources: &Resources) -> String {
    let (gpus, disk_gb) = (gpus(resources), resources.disk_gb);
    format!("see the market with `spotter offers --gpus \"{gpus}\" --disk {disk_gb}GB`")
}

fn outbid(why: &str) -> Halt {
    Halt::Interrupted(format!("{why} before its training started"))
}
