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
    provider::{Offer, OfferId, Rental},
    run::{
        known::Known,
        pricing::{self, Order, TooDear},
    },
    spec::{
        Model, RunSpec,
        needs::{self, Cuda},
    },
};

/// Setting up and debugging when nobody says, hours.
const USUAL_SETUP_HOURS: f64 = 0.5;

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
    /// Why its machine is avoided while there are others.
    pub avoided: Option<String>,
}

impl Judged<'_> {
    /// Nothing forbids it. What cannot be judged is not forbidden.
    pub fn go(&self) -> bool {
        self.lacks.is_empty() && self.outlook.as_ref().is_none_or(Outlook::go)
    }

    /// What forbids it.
    pub fn blockers(&self) -> Vec<String> {
        let estimated = self.outlook.iter().flat_map(|outlook| &outlook.blockers);
        self.lacks.iter().chain(estimated).cloned().collect()
    }

    /// Why the run would not train there at all; `None`: nothing says so. `dared`: its user goes by himself, not by estimates.
    pub fn obstacle(&self, dared: bool) -> Option<&str> {
        let estimated = self.outlook.iter().flat_map(|outlook| &outlook.obstacles);
        let estimated = estimated.filter(|_| !dared);
        self.lacks
            .iter()
            .chain(estimated)
            .next()
            .map(String::as_str)
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
}

impl<'o> Verdicts<'o> {
    /// The offer that is taken. A machine with a past is better than none; one that would not train the run is not.
    pub fn best(&self, dared: bool) -> Option<&Judged<'o>> {
        self.offers
            .iter()
            .find(|judged| judged.obstacle(dared).is_none())
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
        .map(|(model, job)| demand(asked.spec, model, job, asked.known));
    for offer in offers {
        match pricing::order(offer, &asked.spec.resources) {
            Ok(order) => {
                let order = pricing::within_budget(order, offer, asked.left_usd);
                verdicts
                    .offers
                    .push(judged(asked, demand.as_ref(), offer, order));
            }
            Err(why) => verdicts.too_dear.push((offer.id, why)),
        }
    }
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

/// One offer with the order that is meant for it.
pub fn judge_one<'o>(asked: &Asked<'_>, offer: &'o Offer, order: Order) -> Judged<'o> {
    let job = asked.spec.model.as_ref().map(Model::job);
    let demand = asked
        .spec
        .model
        .as_ref()
        .zip(job.as_ref())
        .map(|(model, job)| demand(asked.spec, model, job, asked.known));
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
    let supply = supply(offer, order.running_usd_per_hour()).filter(|_| !is_host);
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
        avoided: asked.known.avoided.get(&offer.machine_id).cloned(),
    }
}

/// What a run asks for, by its file and by what earlier runs tell.
pub fn demand<'a>(
    spec: &'a RunSpec,
    model: &'a Model,
    job: &'a Job,
    known: &'a Known,
) -> Demand<'a> {
    let checkpoints = spec.checkpoints.as_ref();
    Demand {
        job,
        tokens: model.tokens,
        download_gb: model.download_gb,
        disk_gb: spec.resources.disk_gb,
        keep_last: checkpoints.map_or(1, |kept| {
            let best = kept.keep_best.as_ref().map_or(0, |best| best.count);
            kept.keep_last.saturating_add(best)
        }),
        backup_every_hours: checkpoints
            .map_or(f64::INFINITY, |kept| kept.every.as_secs_f64() / 3600.0),
        backed_up: checkpoints.is_some_and(|kept| kept.to.is_some()),
        setup_hours: model
            .setup_hours
            .or(known.setup_hours)
            .unwrap_or(USUAL_SETUP_HOURS),
        setup_measured: model.setup_hours.is_none() && known.setup_hours.is_some(),
        budget_usd: spec.limits.budget_usd,
        interruptible: spec.resources.rental == Rental::Interruptible,
        past: &known.past,
    }
}

/// What an offer has; `None` when its GPU is not known.
fn supply(offer: &Offer, usd_per_hour: f64) -> Option<Supply<'static>> {
    let vram_gib = offer.vram_mib as f64 / 1024.0;
    Some(Supply {
        machine: Machine {
            gpu: Gpus::shipped().find(&offer.gpu_name, Some(vram_gib))?,
            num_gpus: Some(offer.num_gpus),
        },
        vram_gib,
        ram_gb: offer.ram_mb as f64 / 1000.0,
        usd_per_hour,
        down_mbps: offer.inet_down_mbps,
        up_mbps: offer.inet_up_mbps,
        down_usd_per_gb: offer.inet_down_usd_per_gb,
        up_usd_per_gb: offer.inet_up_usd_per_gb,
        max_hours: offer.max_duration_s / 3600.0,
        reliability: offer.reliability,
        verified: offer.verified,
        nvlink: offer.nvlink_gbps > 0.0,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{estimate::calibrated::Shipped, provider::memory};

    const TRAINED: &str = "model: {params: 124M, seq_len: 1024, micro_batch: 8, tokens: 1B}\n";

    /// What is taken of three machines at $0.41/h, $0.42/h and $0.43/h, as `change` has them: their numbers in the judge's order, and
    /// what stands in the way of the last.
    fn check(
        more: &str,
        change: impl Fn(&mut [Offer; 3], &mut Known),
        expected: (&[u64], Option<u64>),
        obstacle: Option<&str>,
    ) {
        let text = format!(
            "name: a\nrun: train\nresources: {{accelerators: RTX 4090, disk: 200GB}}\n{more}"
        );
        let spec = crate::spec::parse(&text, "run.yaml", Path::new("/")).unwrap();
        let mut offers = [1_u64, 2, 3].map(|machine| Offer {
            gpu_usd_per_hour: 0.39 + 0.01 * machine as f64,
            ..memory::offer(machine)
        });
        let mut known = Known::default();
        change(&mut offers, &mut known);
        let asked = Asked {
            spec: &spec,
            method: Method::Calibrated,
            calibration: &Shipped::get().calibration,
            known: &known,
            left_usd: None,
        };
        let verdicts = judge(&asked, &offers);
        let ids: Vec<u64> = verdicts.offers.iter().map(|found| found.offer.id).collect();
        let best = verdicts.best(false).map(|found| found.offer.id);
        assert_eq!((ids.as_slice(), best), expected, "{more}");
        let last = verdicts.offers.last().and_then(|last| last.obstacle(false));
        match obstacle {
            None => assert_eq!(last, None, "{more}"),
            Some(words) => assert!(last.is_some_and(|why| why.contains(words)), "{last:?}"),
        }
    }

    #[test]
    fn the_cheapest_is_taken_of_those_that_would_train_it() {
        check("", |_, _| (), (&[1, 2, 3], Some(1)), None);
        check(TRAINED, |_, _| (), (&[1, 2, 3], Some(1)), None);
        check(
            "",
            |offers, _| offers.reverse(),
            (&[1, 2, 3], Some(1)),
            None,
        );
        // Its memory is too small for the system and the loaders; without `model` nobody can tell.
        let little = |offers: &mut [Offer; 3], _: &mut Known| offers[0].ram_mb = 8_000;
        check(TRAINED, little, (&[2, 3, 1], Some(2)), Some("host memory"));
        check("", little, (&[1, 2, 3], Some(1)), None);
        let slow = |offers: &mut [Offer; 3], _: &mut Known| offers[0].inet_down_mbps = 2.0;
        check(
            TRAINED,
            slow,
            (&[2, 3, 1], Some(2)),
            Some("downloads would take"),
        );
        // Traffic makes a cheap hour dear.
        let traffic =
            |offers: &mut [Offer; 3], _: &mut Known| offers[0].inet_down_usd_per_gb = 0.05;
        check(TRAINED, traffic, (&[2, 3, 1], Some(2)), None);
        let bad = |_: &mut [Offer; 3], known: &mut Known| {
            known.avoided.insert(1, "ssh did not let us in".to_owned());
        };
        check("", bad, (&[2, 3, 1], Some(2)), None);
    }

    #[test]
    fn what_lacks_a_need_is_never_taken_with_or_without_a_model() {
        let old = |offers: &mut [Offer; 3], _: &mut Known| {
            offers[0].cuda = 12.2;
            offers[1].compute_cap = 750;
        };
        for model in ["", TRAINED] {
            check(
                &format!("needs: [\"cuda>=12.4\"]\n{model}"),
                old,
                (&[2, 3, 1], Some(2)),
                Some("CUDA 12.4 is needed"),
            );
            check(
                &format!("needs: [flash-attn2]\n{model}"),
                old,
                (&[1, 3, 2], Some(1)),
                Some("FlashAttention 2 needs"),
            );
            check(
                &format!("image: \"train:cu124\"\n{model}"),
                old,
                (&[2, 3, 1], Some(2)),
                Some("built for CUDA 12.4"),
            );
            check(
                &format!("needs: [flash-attn3]\n{model}"),
                old,
                (&[1, 2, 3], None),
                Some("FlashAttention 3 needs compute capability 9.0"),
            );
        }
        check(
            "model: {params: 124M, attention: flash3}\n",
            |_, _| (),
            (&[1, 2, 3], None),
            Some("FlashAttention 3"),
        );
    }

    #[test]
    fn whoever_dares_goes_by_himself_where_an_estimate_says_no_and_not_where_a_fact_does() {
        let text = "name: a\nrun: train\nneeds: [fp8]\nresources: {accelerators: RTX 4090}\nmodel: {params: 70B}\n";
        let spec = crate::spec::parse(text, "run.yaml", Path::new("/")).unwrap();
        let known = Known::default();
        let asked = Asked {
            spec: &spec,
            method: Method::Calibrated,
            calibration: &Shipped::get().calibration,
            known: &known,
            left_usd: None,
        };
        let order = |offer: &Offer| pricing::order(offer, &spec.resources).unwrap();
        let here = memory::offer(1);
        let found = judge_one(&asked, &here, order(&here));
        assert!(found.obstacle(false).unwrap().contains("GPU memory"));
        assert_eq!(found.obstacle(true), None);
        let old = Offer {
            compute_cap: 860,
            ..here.clone()
        };
        let found = judge_one(&asked, &old, order(&old));
        assert!(found.obstacle(true).unwrap().contains("fp8 needs"));
        assert_eq!(found.blockers()[0], found.lacks[0]);
    }
}
