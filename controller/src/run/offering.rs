//! Which offer is ordered: the market is searched, the judge puts what it has in order, and where nothing is left the reason is told.

use std::time::Duration;

use crate::{
    error::CommandError,
    estimate::{calibrated::Shipped, evaluate::Method, gpus},
    provider::{Offer, ProviderError},
    run::{
        alarms,
        halt::Halt,
        judge::{self, Asked, GoingOn, Judged, Verdicts},
        known::Known,
        lifecycle::Lifecycle,
        planned::{self, Bar},
        pricing::Order,
        recovery::GiveUp,
        renting::PLANNED,
        searching, to_come, windows,
    },
    spec::{Resources, RunSpec},
    store::{AttemptRecord, RunRecord, StoreError},
};

/// Between two looks at a market that has nothing to take.
pub(crate) const MARKET_PAUSE: Duration = Duration::from_secs(60);
/// Offers looked at; many of the cheapest may be taken, too dear or known to be bad.
pub const OFFERS_LISTED: u32 = 64;

/// So often more than one search is made for one order.
const BROAD_LOOKS: usize = 3;

/// Offers that were ordered and did not become a box, and what was said of the last one.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    pub(crate) offers: Vec<u64>,
    pub(crate) last: Option<String>,
}

/// What an offer is chosen for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// To be judged by whoever asks, who is told of it himself.
    Look,
    /// To be rented, where it is up to this.
    Rent(Bar),
}

impl Aim {
    fn bar(self) -> Bar {
        match self {
            Self::Look => Bar::Facts,
            Self::Rent(bar) => bar,
        }
    }
}

impl Refused {
    pub(crate) fn by_market(&mut self, offer: u64, err: &ProviderError) {
        self.offers.push(offer);
        self.last = Some(format!("the last order: {err}"));
    }
}

impl Lifecycle {
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
    pub(crate) async fn choose(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        refused: &Refused,
        aim: Aim,
    ) -> Result<Option<(Offer, Order)>, Halt> {
        let resources = &run.spec.resources;
        let provider = self.provider.as_ref();
        // Ten searches a minute are allowed: whoever is refused again and again goes by the hour.
        let broadly = refused.offers.len() < BROAD_LOOKS;
        let found = searching::for_run(provider, &run.spec, OFFERS_LISTED, broadly)
            .await
            .map_err(|err| self.not_rented(run, err))?;
        // Its volume lies on one machine and nowhere else: three bring-ups that failed in a row end such a run.
        let bad_machines = match run.spec.container.volume {
            Some(_) => Vec::new(),
            None => self.machines_that_failed(run, attempt)?,
        };
        let spent_usd = self.spent_usd(&run.name)?;
        let left_usd = run.spec.limits.budget_usd.map(|budget| budget - spent_usd);
        let known = Known::read(&self.store, &run.spec, self.clock.now_us())?;
        let open = found.iter().filter(|offer| {
            !refused.offers.contains(&offer.id) && !bad_machines.contains(&offer.machine_id)
        });
        let going_on = self.going_on(run)?;
        let verdicts = judge::judge(&asked(&run.spec, &known, left_usd, going_on), open);
        let bar = aim.bar();
        if let Some(best) = verdicts.best(bar) {
            if let Aim::Rent(bar) = aim {
                self.tell_choice(run, best, &verdicts, bar);
            }
            return Ok(Some((best.offer.clone(), best.order)));
        }
        // What is left of the budget does not grow by waiting: a run that was carried on so far ends here.
        if attempt.number > 1
            && let Some(shortage) = verdicts.shortage
        {
            return Err(Halt::GiveUp(GiveUp::HeldBack(shortage)));
        }
        let (wanted, disk_gb) = (wanted(resources), resources.disk_gb);
        let unfit = verdicts
            .offers
            .first()
            .and_then(|first| Some((first.offer.id, first.obstacle(bar)?)));
        let why = match (&unfit, verdicts.too_dear.first()) {
            (Some((id, obstacle)), _) => {
                let count = verdicts.offers.len();
                let what = match bar {
                    Bar::Go => "is a go by its plan",
                    Bar::Trains | Bar::Facts => "would train it",
                };
                format!("none of the {count} offers {what}; offer {id}: {obstacle}")
            }
            (None, Some((id, reason))) => {
                format!("the cheapest offer, {id}, is too dear: {reason}")
            }
            (None, None) if !resources.hosts.is_empty() => {
                "every host that is free failed before".to_owned()
            }
            (None, None) if found.is_empty() => {
                format!("the market has no {wanted} with {disk_gb} GB of disk that matches")
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
        let meant = resources.gpu_name.as_deref().and_then(gpus::meant);
        let err = meant
            .filter(|_| found.is_empty())
            .into_iter()
            .fold(err, CommandError::hint);
        let short = verdicts
            .offers
            .first()
            .and_then(|first| Some(first.shortage?.remedy(first.expected_usd())));
        let err = short.into_iter().fold(err, CommandError::hint);
        Err(Halt::Fatal(match (resources.hosts.is_empty(), unfit) {
            (true, Some(_)) if bar == Bar::Go => err
                .hint("the offer of its plan went meanwhile; see the others, for nothing, with `spotter plan`")
                .hint("or start it all the same: the same command with `--no-plan`"),
            (true, Some(_)) => err
                .hint("see what each offer lacks, for nothing, with `spotter plan`")
                .hint(see_market(resources)),
            (true, None) => err.hint(see_market(resources)),
            (false, _) => err,
        }))
    }

    /// What is left of a run that has trained; `None`: it begins.
    pub(crate) fn going_on(&self, run: &RunRecord) -> Result<Option<GoingOn>, StoreError> {
        let attempts = self.store.attempts(&run.name)?;
        let Some(newest) = attempts.iter().rfind(|attempt| attempt.started_us > 0) else {
            return Ok(None);
        };
        let newest_first = attempts.iter().rev().map(|attempt| attempt.number);
        let saved = alarms::newest_saved(&self.store, &run.name, newest_first)?;
        let window = windows::newest(&self.store, newest)?;
        let tokens_left = saved.and_then(|(step, _)| {
            let model = run.spec.model.as_ref()?;
            to_come::tokens_left(model, step, window.as_ref())
        });
        Ok(Some(GoingOn {
            tokens_left,
            restores: saved.is_some(),
        }))
    }

    /// Why it is not the cheapest, where it is not, and what speaks against it.
    fn tell_choice(&self, run: &RunRecord, best: &Judged<'_>, verdicts: &Verdicts<'_>, bar: Bar) {
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
        let unfit: Vec<(&Judged<'_>, String)> = verdicts
            .offers
            .iter()
            .filter(|other| price(other) < price(best))
            .filter_map(|other| Some((other, other.obstacle(bar)?)))
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

    /// How much has to hold of a box for an attempt: what was planned has to hold of the first one, whichever it is.
    pub(crate) fn bar(&self, run: &RunRecord, attempt: &AttemptRecord) -> Result<Bar, StoreError> {
        let planned = self.store.newest_event(&run.name, 0, PLANNED)?;
        let planned = planned.filter(|_| attempt.number == 1);
        match Bar::of_plan(planned.as_ref().map(|event| &event.detail)) {
            Some(bar) => Ok(bar),
            None => Ok(Bar::dared(self.dares(run)?)),
        }
    }

    /// Keeps the plan of the offer that was taken, where that is not the one that was judged before.
    pub(crate) fn keep_plan(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        (offer, order): (&Offer, Order),
    ) -> Result<(), Halt> {
        let planned = self.store.newest_event(&run.name, 0, PLANNED)?;
        let Some(planned) = planned.filter(|_| attempt.number == 1) else {
            return Ok(());
        };
        let known = Known::read(&self.store, &run.spec, self.clock.now_us())?;
        let asked = asked(&run.spec, &known, run.spec.limits.budget_usd, None);
        let judged = judge::judge_one(&asked, offer, order);
        match planned::taken(&planned.detail, &run.spec, &judged) {
            Some(taken) => Ok(self.note(run, 0, PLANNED, taken)?),
            None => Ok(()),
        }
    }

    /// Whether the run was begun though an estimate spoke against its offer: then estimates do not hold it up later.
    pub(crate) fn dares(&self, run: &RunRecord) -> Result<bool, StoreError> {
        let planned = self.store.newest_event(&run.name, 0, PLANNED)?;
        Ok(planned
            .is_some_and(|event| event.detail["no_plan"] == true || event.detail["dares"] == true))
    }
}

/// What the judge is asked of a run that is under way.
pub(crate) fn asked<'a>(
    spec: &'a RunSpec,
    known: &'a Known,
    left_usd: Option<f64>,
    going_on: Option<GoingOn>,
) -> Asked<'a> {
    Asked {
        spec,
        method: Method::Calibrated,
        calibration: &Shipped::get().calibration,
        known,
        left_usd,
        going_on,
    }
}

/// What is rented, as `--gpus` takes it.
pub(super) fn wanted(resources: &Resources) -> String {
    let name = resources.gpu_name.as_deref().unwrap_or("any");
    format!("{name}:{}", resources.num_gpus)
}

pub(crate) fn see_market(resources: &Resources) -> String {
    let (wanted, disk_gb) = (wanted(resources), resources.disk_gb);
    format!("see the market with `spotter offers --gpus \"{wanted}\" --disk {disk_gb}GB`")
}
