//! The options of a plan: each offer with its price and its outlook, in the order in which they are recommended (pure).

use serde::Serialize;

use super::known::Known;
use crate::{
    estimate::{
        advice::{self, Effort, Gate, Probe},
        calibrated::Calibration,
        evaluate::Method,
        gpus::Gpus,
        job::Machine,
        outlook::{self, Demand, Outlook, Supply},
    },
    provider::{Offer, Rental},
    run::pricing::Order,
    spec::{Model, RunSpec},
    store::ObservationRecord,
};

/// Setting up and debugging when nobody says, hours.
const USUAL_SETUP_HOURS: f64 = 0.5;

/// The plan, as JSON.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Plan<'a> {
    pub(in crate::commands) run: &'a str,
    pub(in crate::commands) gpu: Option<&'a str>,
    pub(in crate::commands) num_gpus: u32,
    pub(in crate::commands) disk_gb: f64,
    pub(in crate::commands) rental: Rental,
    pub(in crate::commands) max_price_usd_per_hour: Option<f64>,
    pub(in crate::commands) budget_usd: Option<f64>,
    pub(in crate::commands) checkpoints_to: Option<&'a str>,
    /// What is trained, as the run file says it.
    pub(in crate::commands) model: Option<&'a Model>,
    /// Method of the figures.
    pub(in crate::commands) method: Method,
    /// Some option can be rented, and nothing forbids it.
    pub(in crate::commands) go: bool,
    /// What would be taken first, then second, and so on.
    pub(in crate::commands) offers: Vec<Candidate<'a>>,
    /// Offers that match but cost too much.
    pub(in crate::commands) too_dear: usize,
    /// Setting up and debugging, hours.
    pub(in crate::commands) setup_hours: Option<f64>,
    /// These hours are what earlier runs of the same code paid.
    pub(in crate::commands) setup_measured: bool,
    /// What earlier runs of the same code were seen to do, the newest last.
    pub(in crate::commands) history: &'a [ObservationRecord],
    /// What to do before more money, simplest first, for the first option.
    pub(in crate::commands) optimizations: Vec<String>,
    /// How to rent, for the first option.
    pub(in crate::commands) rental_advice: Option<advice::Rental>,
    /// Whether to debug on the cheapest option first.
    pub(in crate::commands) probe: Option<Probe>,
    /// What to watch in the first ten minutes, for the first option.
    pub(in crate::commands) gates: Vec<Gate>,
}

/// One option.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Candidate<'a> {
    pub(in crate::commands) offer: u64,
    pub(in crate::commands) machine_id: u64,
    pub(in crate::commands) gpu: &'a str,
    pub(in crate::commands) num_gpus: u32,
    pub(in crate::commands) geolocation: &'a str,
    pub(in crate::commands) reliability: f64,
    /// Memory of one GPU, GiB.
    pub(in crate::commands) vram_gib: f64,
    /// Memory of the host, GB.
    pub(in crate::commands) ram_gb: f64,
    /// Dense 16-bit peak of all GPUs, TFLOP/s; absent for a GPU that is not known.
    pub(in crate::commands) tensor_tflops: Option<f64>,
    /// Memory bandwidth of one GPU, GB/s.
    pub(in crate::commands) memory_gb_per_s: Option<f64>,
    /// Bid that would be placed, $/h; absent for on-demand.
    pub(in crate::commands) bid_usd_per_hour: Option<f64>,
    /// All in while it runs, $/h.
    pub(in crate::commands) running_usd_per_hour: f64,
    /// While it is stopped, $/h.
    pub(in crate::commands) stopped_usd_per_hour: f64,
    /// Hours until `limits.budget` is spent; absent without one.
    pub(in crate::commands) budget_hours: Option<f64>,
    /// Why its machine is avoided while there are others; absent when it is not.
    pub(in crate::commands) avoided: Option<&'a str>,
    /// Nothing forbids it.
    pub(in crate::commands) go: bool,
    /// What it would do; absent without `model`, or for a GPU that is not known.
    pub(in crate::commands) outlook: Option<Outlook>,
    /// How much work it takes.
    pub(in crate::commands) effort: Option<Effort>,
    /// What may go wrong, worst first.
    pub(in crate::commands) risks: Vec<String>,
    #[serde(skip)]
    supply: Option<Supply<'a>>,
}

impl<'a> Plan<'a> {
    /// The options for a run file, best first: what can go before what cannot, then by cost, or by price for each token where the
    /// cost is not known.
    pub(in crate::commands) fn of(
        spec: &'a RunSpec,
        method: Method,
        orders: &[(&'a Offer, Order)],
        calibration: &Calibration,
        known: &'a Known,
    ) -> Self {
        let resources = &spec.resources;
        let job = spec.model.as_ref().map(Model::job);
        let demand = spec
            .model
            .as_ref()
            .zip(job.as_ref())
            .map(|(model, job)| demand(spec, model, job, known));
        let mut offers: Vec<Candidate<'a>> = orders
            .iter()
            .map(|(offer, order)| {
                let mut found = candidate(spec, offer, order, demand.as_ref(), method, calibration);
                if let Some(why) = known.avoided.get(&offer.machine_id) {
                    found.avoided = Some(why);
                    found
                        .risks
                        .insert(0, format!("its machine is avoided: {why}"));
                }
                found
            })
            .collect();
        let by_rank = demand.is_some();
        offers.sort_by(|a, b| {
            let key = |option: &Candidate<'_>| {
                let rank = if by_rank { option.rank() } else { 0.0 };
                (!option.go, option.avoided.is_some(), rank)
            };
            key(a)
                .partial_cmp(&key(b))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        let mut plan = Self {
            run: &spec.name,
            gpu: resources.gpu_name.as_deref(),
            num_gpus: resources.num_gpus,
            disk_gb: resources.disk_gb,
            rental: resources.rental,
            max_price_usd_per_hour: resources.max_price_usd_per_hour,
            budget_usd: spec.limits.budget_usd,
            checkpoints_to: spec
                .checkpoints
                .as_ref()
                .and_then(|kept| kept.to.as_deref()),
            model: spec.model.as_ref(),
            method,
            go: offers.iter().any(|offer| offer.go),
            offers,
            too_dear: 0,
            setup_hours: demand.as_ref().map(|demand| demand.setup_hours),
            setup_measured: demand.as_ref().is_some_and(|demand| demand.setup_measured),
            history: &known.history,
            optimizations: Vec::new(),
            rental_advice: None,
            probe: None,
            gates: Vec::new(),
        };
        if let Some(demand) = &demand {
            plan.advise(demand, calibration);
        }
        plan
    }

    /// What is asked for, in words.
    pub(in crate::commands) fn what(&self) -> String {
        format!("{} x {}", self.num_gpus, self.gpu.unwrap_or("any GPU"))
    }

    fn advise(&mut self, demand: &Demand<'_>, calibration: &Calibration) {
        let cheapest = self
            .offers
            .iter()
            .filter(|offer| offer.go)
            .map(|offer| offer.running_usd_per_hour)
            .min_by(f64::total_cmp);
        let Some(best) = self.offers.first() else {
            return;
        };
        let Some((supply, outlook)) = best.supply.as_ref().zip(best.outlook.as_ref()) else {
            return;
        };
        self.optimizations = advice::optimizations(demand, supply, outlook, calibration);
        self.rental_advice = Some(advice::rental(demand, outlook));
        self.probe =
            cheapest.map(|cheapest| advice::probe(demand, best.running_usd_per_hour, cheapest));
        if outlook.runs() {
            self.gates = advice::gates(supply, outlook);
        }
    }
}

impl Candidate<'_> {
    /// Dollars of the base scenario; else dollars for a billion tokens; else dollars an hour.
    fn rank(&self) -> f64 {
        let Some(outlook) = &self.outlook else {
            return f64::INFINITY;
        };
        match outlook.forecast.cost_usd {
            Some(cost) => cost.base,
            None => self.running_usd_per_hour / outlook.forecast.tokens_per_s.base * 1e9,
        }
    }
}

fn demand<'a>(
    spec: &'a RunSpec,
    model: &'a Model,
    job: &'a crate::estimate::job::Job,
    known: &'a Known,
) -> Demand<'a> {
    let checkpoints = spec.checkpoints.as_ref();
    Demand {
        job,
        tokens: model.tokens,
        compute_cap: (model.attention.compute_cap(), model.attention.name()),
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

fn candidate<'a>(
    spec: &RunSpec,
    offer: &'a Offer,
    order: &Order,
    demand: Option<&Demand<'_>>,
    method: Method,
    calibration: &Calibration,
) -> Candidate<'a> {
    let running = order.running_usd_per_hour();
    let supply = supply(offer, running);
    let outlook = demand
        .zip(supply.as_ref())
        .map(|(demand, supply)| outlook::outlook(demand, supply, method, calibration));
    let judged = demand.zip(supply.as_ref()).zip(outlook.as_ref());
    let gpu = supply.map(|supply| supply.machine.gpu);
    Candidate {
        offer: offer.id,
        machine_id: offer.machine_id,
        gpu: &offer.gpu_name,
        num_gpus: offer.num_gpus,
        geolocation: &offer.geolocation,
        reliability: offer.reliability,
        vram_gib: offer.vram_mib as f64 / 1024.0,
        ram_gb: offer.ram_mb as f64 / 1000.0,
        tensor_tflops: gpu.map(|gpu| gpu.tensor_tflops * f64::from(offer.num_gpus)),
        memory_gb_per_s: gpu.map(|gpu| gpu.memory_gb_per_s),
        bid_usd_per_hour: order.bid_usd_per_hour,
        running_usd_per_hour: running,
        stopped_usd_per_hour: order.storage_usd_per_hour,
        budget_hours: spec
            .limits
            .budget_usd
            .filter(|_| running > 0.0)
            .map(|usd| usd / running),
        avoided: None,
        // What cannot be judged is not forbidden.
        go: outlook.as_ref().is_none_or(Outlook::go),
        effort: judged.map(|((demand, supply), outlook)| advice::effort(demand, supply, outlook)),
        risks: judged.map_or_else(Vec::new, |((demand, supply), outlook)| {
            advice::risks(demand, supply, outlook)
        }),
        outlook,
        supply,
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

/// What to type when the best option is no go.
pub(in crate::commands) fn remedies(spec: &RunSpec, best: &Candidate<'_>) -> Vec<String> {
    let mut remedies = Vec::new();
    let Some(outlook) = &best.outlook else {
        return remedies;
    };
    for check in outlook
        .checks
        .iter()
        .filter(|check| check.needs > check.risky_up_to)
    {
        match check.what {
            "GPU memory" => {
                let needed = check.needs * check.has / check.safe_up_to;
                let card = Gpus::shipped()
                    .iter()
                    .map(|gpu| gpu.vram_gb)
                    .filter(|vram| *vram >= needed)
                    .min_by(f64::total_cmp);
                remedies.push(match card {
                    Some(card) => format!(
                        "it would fit a card of {card:.0} GB: see `spotter offers 'gpu_ram>={card:.0}'`, or train less of it with `model.method: lora`"
                    ),
                    None => format!(
                        "no card has {needed:.0} GB: spread it over several GPUs with `model.sharding: fsdp`, or train less of it with `model.method`"
                    ),
                });
            }
            "host memory" => remedies.push(format!(
                "ask for a host with more memory: `resources.offers: cpu_ram>={:.0}`",
                (check.needs / 0.8).ceil()
            )),
            "disk" => remedies.push(format!(
                "rent more disk: `resources.disk: {:.0}GB`",
                (check.needs / 10.0).ceil() * 10.0
            )),
            _ => remedies
                .push("ask for a faster network: `resources.offers: inet_down>500`".to_owned()),
        }
    }
    if let (Some(cost), Some(budget)) = (outlook.forecast.cost_usd, spec.limits.budget_usd)
        && cost.base > budget
    {
        remedies.push(format!(
            "raise `limits.budget` to {:.0}, which also holds if it goes badly, or train on fewer tokens",
            cost.pessimistic.ceil()
        ));
    }
    remedies
}
