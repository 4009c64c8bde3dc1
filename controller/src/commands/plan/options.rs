//! The options of a plan: each offer with its price and its outlook, in the order in which they are recommended (pure).

use serde::Serialize;

use crate::{
    estimate::{
        advice::{self, Effort, Gate, Probe},
        calibrated::Calibration,
        evaluate::Method,
        gpus::Gpus,
        outlook::{Demand, Outlook, Supply},
    },
    provider::Rental,
    run::{
        budget::{self, Shortage},
        judge::{self, Asked, Judged},
    },
    spec::{Model, RunSpec},
    store::ObservationRecord,
    ui::text,
};

/// Of what a machine did, so much is among the risks; `avoided` has all of it.
const WHY_CHARS: usize = 100;

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
    /// Of each other product and count the best offer, by what the run would cost there; empty where that cannot be told.
    pub(in crate::commands) products: Vec<Candidate<'a>>,
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
    /// 0 to 1; absent when it is not known.
    pub(in crate::commands) reliability: Option<f64>,
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
    /// Hours until `limits.budget` is spent but for what is held back of it for the disk; absent without one.
    pub(in crate::commands) budget_hours: Option<f64>,
    /// Why its machine is avoided while there are others; absent when it is not.
    pub(in crate::commands) avoided: Option<String>,
    /// Nothing forbids it.
    pub(in crate::commands) go: bool,
    /// What the budget would have to hold back for its disk, where that leaves nothing to train with: one of its blockers.
    #[serde(skip)]
    pub(in crate::commands) shortage: Option<Shortage>,
    /// What of the run's needs it has not.
    pub(in crate::commands) lacks: Vec<String>,
    /// What forbids it: that, and what its outlook says.
    pub(in crate::commands) blockers: Vec<String>,
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
    /// The options for a run file, as the judge has them.
    pub(in crate::commands) fn of(asked: &Asked<'a>, offers: Vec<Judged<'a>>) -> Self {
        let (spec, known) = (asked.spec, asked.known);
        let resources = &spec.resources;
        let job = spec.model.as_ref().map(Model::job);
        let demand = spec
            .model
            .as_ref()
            .zip(job.as_ref())
            .map(|(model, job)| judge::demand(asked, model, job));
        let offers: Vec<Candidate<'a>> = offers
            .into_iter()
            .map(|judged| candidate(asked, judged, demand.as_ref()))
            .collect();
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
            method: asked.method,
            go: offers.iter().any(|offer| offer.go),
            offers,
            products: Vec::new(),
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
            plan.advise(demand, asked.calibration);
        }
        plan
    }

    /// The same with other products beside it, on which it may be cheaper, or cheaper to debug.
    #[must_use]
    pub(in crate::commands) fn beside(
        mut self,
        asked: &Asked<'a>,
        others: Vec<Judged<'a>>,
    ) -> Self {
        let job = asked.spec.model.as_ref().map(Model::job);
        let model = asked.spec.model.as_ref().zip(job.as_ref());
        let demand = model.map(|(model, job)| judge::demand(asked, model, job));
        self.products = others
            .into_iter()
            .map(|judged| candidate(asked, judged, demand.as_ref()))
            .collect();
        if let Some(demand) = &demand {
            self.advise(demand, asked.calibration);
        }
        self
    }

    /// What is asked for, in words.
    pub(in crate::commands) fn what(&self) -> String {
        format!("{} x {}", self.num_gpus, self.gpu.unwrap_or("any GPU"))
    }

    fn advise(&mut self, demand: &Demand<'_>, calibration: &Calibration) {
        let all = self.offers.iter().chain(&self.products);
        let cheapest = all
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

fn candidate<'a>(
    asked: &Asked<'a>,
    judged: Judged<'a>,
    demand: Option<&Demand<'_>>,
) -> Candidate<'a> {
    let (go, blockers) = (judged.go(), judged.blockers());
    let Judged {
        offer,
        order,
        supply,
        outlook,
        lacks,
        shortage,
        avoided,
    } = judged;
    let running = order.running_usd_per_hour();
    let seen = demand.zip(supply.as_ref()).zip(outlook.as_ref());
    let gpu = supply.map(|supply| supply.machine.gpu);
    let mut risks: Vec<String> = seen.map_or_else(Vec::new, |((demand, supply), outlook)| {
        advice::risks(demand, supply, outlook)
    });
    let held_usd = asked.spec.limits.purse().map_or(0.0, |purse| {
        budget::held_back_usd(purse, order.storage_usd_per_hour)
    });
    if let Some(why) = &avoided {
        let why = text::short(why, WHY_CHARS);
        risks.insert(0, format!("its machine is avoided: {why}"));
    }
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
        budget_hours: asked
            .spec
            .limits
            .budget_usd
            .filter(|_| running > 0.0)
            .map(|usd| (usd - held_usd).max(0.0) / running),
        avoided,
        go,
        shortage,
        lacks,
        blockers,
        effort: seen.map(|((demand, supply), outlook)| advice::effort(demand, supply, outlook)),
        risks,
        outlook,
        supply,
    }
}

/// What to type when the best option is no go.
pub(in crate::commands) fn remedies(spec: &RunSpec, best: &Candidate<'_>) -> Vec<String> {
    let cost = best
        .outlook
        .as_ref()
        .and_then(|seen| seen.forecast.cost_usd);
    let expected_usd = cost.map_or(0.0, |cost| cost.pessimistic);
    let short = best.shortage.iter();
    let mut remedies: Vec<String> = short.map(|short| short.remedy(expected_usd)).collect();
    if !best.lacks.is_empty() {
        remedies.push(
            "ask for GPUs and hosts that can do it, as with `resources.offers: cuda_vers>=12.8`, or loosen `needs` or change `image`"
                .to_owned(),
        );
    }
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
    if let (Some(cost), Some(purse)) = (cost, spec.limits.purse())
        && best.shortage.is_none()
    {
        // What is held back for its disk is not there to train with.
        let held_usd = budget::held_back_usd(purse, best.stopped_usd_per_hour);
        if cost.base > purse.budget_usd - held_usd {
            remedies.push(format!(
                "raise `limits.budget` to {:.0}, which also holds if it goes badly, or train on fewer tokens",
                (cost.pessimistic + held_usd).ceil()
            ));
        }
    }
    remedies
}
