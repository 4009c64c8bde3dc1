//! Which offer a run takes (pure): the one judge of `plan`, of the first order, of the next one when an offer is gone, and of where a run
//! goes on whose box was taken back. What cannot train the run comes last, and nobody rents it by himself.

use std::cmp::Ordering;

use crate::{
    estimate::{
        calibrated::Calibration,
        evaluate::Method,
        gpus::Gpus,
        job::{Job, Machine},
        outlook::{self, Demand, Outlook, Supply},
    },
    ledger::Rates,
    provider::{Offer, OfferId, Rental},
    run::{
        budget::{self, Shortage},
        known::Known,
        planned::Bar,
        pricing::{self, Order, TooDear},
    },
    spec::{
        IMAGE_GB, Model, RunSpec,
        needs::{self, Cuda},
    },
};

/// Setting up and debugging when nobody says, hours.
const USUAL_SETUP_HOURS: f64 = 0.5;
/// The same where a run goes on that has trained, downloads left out: an order, a container, the code and its set-up.
const AGAIN_HOURS: f64 = 0.2;

/// A run that wants a box.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its run file.
    pub spec: &'a RunSpec,
    /// How its time is estimated.
    pub method: Method,
    /// The estimator's factors.
    pub calibration: &'a Calibration,
    /// What earlier runs tell.
    pub known: &'a Known,
    /// What is left of its budget, dollars; `None`: it has none.
    pub left_usd: Option<f64>,
    /// Where it goes on; `None`: it begins.
    pub going_on: Option<GoingOn>,
}

/// A run that has trained and goes on on another box.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GoingOn {
    /// Tokens that are still to be trained; `None`: nothing tells, and all of them are taken.
    pub tokens_left: Option<f64>,
    /// A checkpoint is fetched from the bucket before it trains.
    pub restores: bool,
}

/// An offer and what is to be said of it.
#[derive(Debug, Clone)]
pub struct Judged<'o> {
    /// The offer.
    pub offer: &'o Offer,
    /// What would be ordered.
    pub order: Order,
    /// What it has; `None` when its GPU is not known.
    pub supply: Option<Supply<'static>>,
    /// What it would do; `None` without `model`, or for a GPU that is not known.
    pub outlook: Option<Outlook>,
    /// What the run needs and it has not: facts, which no estimate is in.
    pub lacks: Vec<String>,
    /// Why what is left of the budget does not do for it: that is a fact, too.
    pub shortage: Option<Shortage>,
    /// Why its machine is avoided while there are others.
    pub avoided: Option<String>,
}

/// Of an offer that a plan says nothing about.
const UNFORESEEN: &str = "nothing can be foreseen on its GPU";

impl Judged<'_> {
    /// Nothing forbids it. What cannot be judged is not forbidden.
    pub fn go(&self) -> bool {
        self.lacks.is_empty()
            && self.shortage.is_none()
            && self.outlook.as_ref().is_none_or(Outlook::go)
    }

    /// What forbids it.
    pub fn blockers(&self) -> Vec<String> {
        let estimated = self.outlook.iter().flat_map(|outlook| &outlook.blockers);
        let facts = self.lacks.iter().cloned();
        facts
            .chain(self.shortage.map(|shortage| shortage.to_string()))
            .chain(estimated.cloned())
            .collect()
    }

    /// Why it is not taken; `None`: nothing says so.
    pub fn obstacle(&self, bar: Bar) -> Option<String> {
        let mut estimated = self.outlook.iter().flat_map(|outlook| match bar {
            Bar::Go => outlook.blockers.iter(),
            Bar::Trains => outlook.obstacles.iter(),
            Bar::Facts => [].iter(),
        });
        let lacking = self.lacks.first().cloned();
        // What the plan was a go for was foreseen.
        let unforeseen =
            || (bar == Bar::Go && self.outlook.is_none()).then(|| UNFORESEEN.to_owned());
        lacking
            .or_else(|| self.shortage.map(|shortage| shortage.to_string()))
            .or_else(|| estimated.next().cloned())
            .or_else(unforeseen)
    }

    /// Dollars of what is to be trained, if it goes badly; 0: nobody knows.
    pub fn expected_usd(&self) -> f64 {
        let cost = self
            .outlook
            .as_ref()
            .and_then(|seen| seen.forecast.cost_usd);
        cost.map_or(0.0, |cost| cost.pessimistic)
    }

    /// Dollars of the base scenario; else dollars for a billion tokens; infinite where neither can be told.
    fn rank(&self) -> f64 {
        let Some(outlook) = &self.outlook else {
            return f64::INFINITY;
        };
        match outlook.forecast.cost_usd {
            Some(cost) => cost.base,
            None => self.order.running_usd_per_hour() / outlook.forecast.tokens_per_s.base * 1e9,
        }
    }
}

/// All offers, judged.
#[derive(Debug, Clone, Default)]
pub struct Verdicts<'o> {
    /// What would be taken first, then second, and so on.
    pub offers: Vec<Judged<'o>>,
    /// Offers that match and cost more than the run file allows, as the market had them.
    pub too_dear: Vec<(OfferId, TooDear)>,
    /// Why the budget does for none of them, whatever their prices come to: the least shortage. `None`: it does, or there are none.
    pub shortage: Option<Shortage>,
}

impl<'o> Verdicts<'o> {
    /// The offer that is taken. A machine with a past is better than none; one below the bar is not.
    pub fn best(&self, bar: Bar) -> Option<&Judged<'o>> {
        self.offers
            .iter()
            .find(|judged| judged.obstacle(bar).is_none())
    }

    /// One per machine, the best of each.
    #[must_use]
    pub fn one_per_machine(mut self) -> Self {
        let mut machines = std::collections::BTreeSet::new();
        self.offers
            .retain(|judged| machines.insert(judged.offer.machine_id));
        self
    }
}

/// Judges offers: what can go before what cannot, then what is not avoided, then by cost, or by price for each token where the cost is not
/// known, or by price an hour where nothing else is. Boxes of the user's own stay in his order.
pub fn judge<'o>(asked: &Asked<'_>, offers: impl IntoIterator<Item = &'o Offer>) -> Verdicts<'o> {
    let mut verdicts = Verdicts::default();
    let job = asked.spec.model.as_ref().map(Model::job);
    let demand = asked
        .spec
        .model
        .as_ref()
        .zip(job.as_ref())
        .map(|(model, job)| demand(asked, model, job));
    let mut shortages = Vec::new();
    for offer in offers {
        match pricing::order(offer, &asked.spec.resources) {
            Ok(order) => {
                let held = held_back_usd(asked, order.storage_usd_per_hour);
                let left_usd = asked.left_usd.map(|left_usd| left_usd - held);
                let order = pricing::within_budget(order, offer, left_usd);
                let judged = judged(asked, demand.as_ref(), offer, order);
                // What its GPU costs may fall; what its disk costs does not.
                shortages.push(shortage(asked, 0.0, judged.order.storage_usd_per_hour));
                verdicts.offers.push(judged);
            }
            Err(why) => {
                // Its price may fall; what its disk costs does not.
                shortages.push(shortage(asked, 0.0, offer.storage_usd_per_hour));
                verdicts.too_dear.push((offer.id, why));
            }
        }
    }
    verdicts.shortage = least(shortages);
    if !asked.spec.resources.hosts.is_empty() {
        return verdicts;
    }
    let by_rank = demand.is_some();
    verdicts.offers.sort_by(|a, b| {
        let place = |judged: &Judged<'_>| (!judged.go(), judged.avoided.is_some());
        let price = |judged: &Judged<'_>| judged.order.running_usd_per_hour();
        let by_cost = match by_rank {
            true => a.rank().total_cmp(&b.rank()),
            false => Ordering::Equal,
        };
        place(a)
            .cmp(&place(b))
            .then(by_cost)
            .then(price(a).total_cmp(&price(b)))
    });
    verdicts
}

/// The least of them, where there is nothing but shortages.
fn least(shortages: Vec<Option<Shortage>>) -> Option<Shortage> {
    let all: Option<Vec<Shortage>> = shortages.into_iter().collect();
    let by_held = |one: &Shortage, other: &Shortage| one.held_usd.total_cmp(&other.held_usd);
    all?.into_iter().min_by(by_held)
}

/// Why what is left of the budget does not do for a box at these prices.
fn shortage(asked: &Asked<'_>, gpu_usd_per_hour: f64, disk_usd_per_hour: f64) -> Option<Shortage> {
    let (purse, left_usd) = asked.spec.limits.purse().zip(asked.left_usd)?;
    let rates = Rates {
        gpu_usd_per_hour,
        disk_usd_per_hour,
    };
    budget::shortage(purse, purse.budget_usd - left_usd, rates)
}

fn held_back_usd(asked: &Asked<'_>, disk_usd_per_hour: f64) -> f64 {
    let purse = asked.spec.limits.purse();
    purse.map_or(0.0, |purse| budget::held_back_usd(purse, disk_usd_per_hour))
}

/// One offer with the order that is meant for it.
pub fn judge_one<'o>(asked: &Asked<'_>, offer: &'o Offer, order: Order) -> Judged<'o> {
    let job = asked.spec.model.as_ref().map(Model::job);
    let demand = asked
        .spec
        .model
        .as_ref()
        .zip(job.as_ref())
        .map(|(model, job)| demand(asked, model, job));
    judged(asked, demand.as_ref(), offer, order)
}

fn judged<'o>(
    asked: &Asked<'_>,
    demand: Option<&Demand<'_>>,
    offer: &'o Offer,
    order: Order,
) -> Judged<'o> {
    // What a box of the user's own has is not known before somebody looks.
    let is_host = !asked.spec.resources.hosts.is_empty();
    let held_usd = held_back_usd(asked, order.storage_usd_per_hour);
    let supply = supply(offer, order.running_usd_per_hour(), held_usd).filter(|_| !is_host);
    let compute_cap = match offer.compute_cap {
        0 => supply.map(|supply| supply.machine.gpu.compute_cap),
        hundreds => Some(f64::from(hundreds) / 100.0),
    };
    let outlook = demand
        .zip(supply.as_ref())
        .map(|(demand, supply)| outlook::outlook(demand, supply, asked.method, asked.calibration));
    Judged {
        offer,
        order,
        supply,
        outlook,
        lacks: needs::lacking(asked.spec, compute_cap, Cuda::of_market(offer.cuda)),
        shortage: shortage(asked, order.gpu_usd_per_hour, order.storage_usd_per_hour),
        avoided: asked.known.avoided.get(&offer.machine_id).cloned(),
    }
}

/// What a run asks for, by its file and by what earlier runs tell: of one that goes on, what is left.
pub fn demand<'a>(asked: &Asked<'a>, model: &'a Model, job: &'a Job) -> Demand<'a> {
    let (spec, known) = (asked.spec, asked.known);
    let checkpoints = spec.checkpoints.as_ref();
    let going_on = asked.going_on;
    let restore_gb = match going_on {
        Some(GoingOn { restores: true, .. }) => outlook::checkpoint_gb(job),
        _ => 0.0,
    };
    // What was to be debugged is.
    let usual_setup_hours = match going_on {
        Some(_) => AGAIN_HOURS,
        None => model
            .setup_hours
            .or(known.setup_hours)
            .unwrap_or(USUAL_SETUP_HOURS),
    };
    Demand {
        job,
        tokens: going_on
            .and_then(|going_on| going_on.tokens_left)
            .or(model.tokens),
        image_gb: spec.image_gb.unwrap_or(IMAGE_GB),
        download_gb: model.download_gb + restore_gb,
        disk_gb: spec.resources.disk_gb,
        keep_last: checkpoints.map_or(1, |kept| {
            let best = kept.keep_best.as_ref().map_or(0, |best| best.count);
            kept.keep_last.saturating_add(best)
        }),
        backup_every_hours: checkpoints
            .map_or(f64::INFINITY, |kept| kept.every.as_secs_f64() / 3600.0),
        backed_up: checkpoints.is_some_and(|kept| kept.to.is_some()),
        setup_hours: usual_setup_hours,
        // Each host downloads again, as fast as it can.
        setup_measured: going_on.is_none()
            && model.setup_hours.is_none()
            && known.setup_hours.is_some(),
        budget_usd: match going_on {
            Some(_) => asked.left_usd,
            None => spec.limits.budget_usd,
        },
        interruptible: spec.resources.rental == Rental::Interruptible,
        past: &known.past,
    }
}

/// What an offer has; `None` when its GPU is not known.
fn supply(offer: &Offer, usd_per_hour: f64, held_usd: f64) -> Option<Supply<'static>> {
    let vram_gib = offer.vram_mib as f64 / 1024.0;
    Some(Supply {
        machine: Machine {
            gpu: Gpus::shipped().find(&offer.gpu_name, Some(vram_gib))?,
            num_gpus: Some(offer.num_gpus),
        },
        vram_gib,
        ram_gb: offer.ram_mb as f64 / 1000.0,
        usd_per_hour,
        held_usd,
        down_mbps: offer.inet_down_mbps,
        up_mbps: offer.inet_up_mbps,
        down_usd_per_gb: offer.inet_down_usd_per_gb,
        up_usd_per_gb: offer.inet_up_usd_per_gb,
        max_hours: offer.max_duration_s.map(|seconds| seconds / 3600.0),
        reliability: offer.reliability,
        verified: offer.verified,
        nvlink: offer.nvlink_gbps > 0.0,
    })
}

#[cfg(test)]
mod tests;
