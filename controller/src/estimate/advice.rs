//! What to do about an outlook: risks, optimizations in their order, how to rent, what to watch in the first ten minutes (pure).

use serde::Serialize;

use super::{
    calibrated::Calibration,
    job::{Job, Method, Precision, Recompute, Sharding},
    outlook::{self, Demand, Outlook, Supply},
    playbook::{SETUP_TAX, Verdict},
    stacks::Tuning,
};
use crate::ui::text;

/// Below this a host is no good for a long run.
const RELIABLE: f64 = 0.95;
/// Up to so many hours an experiment may be taken back, and beyond so many a production should not.
const SHORT_HOURS: f64 = 2.0;
const LONG_HOURS: f64 = 4.0;
/// Slower than this, setting up is what is paid for, Mb/s.
const SLOW_MBPS: f64 = 100.0;
/// Share of a card's memory up to which a larger micro-batch is worth trying.
const ROOM: f64 = 0.6;
/// Moving from a cheap probe to the real hardware, hours of the latter.
const MIGRATION_HOURS: f64 = 0.25;
/// Stop when the speed is below this share of the prediction for two windows.
const SPEED_FLOOR: f64 = 0.7;
/// Stop when the GPU is busy for less than this share of the time.
const BUSY_FLOOR: f64 = 0.6;
/// Memory in use beyond this share will run out.
pub(super) const MEMORY_CEILING: f64 = 0.92;

/// How much work it takes to run well on an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// It runs as it is.
    Low,
    /// Memory or network want attention.
    Med,
    /// It needs another layout, or does not run at all.
    High,
}

impl Effort {
    /// Word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Med => "med",
            Self::High => "high",
        }
    }
}

/// How to rent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rental {
    /// `interruptible` or `on-demand`.
    pub advice: &'static str,
    /// Why.
    pub why: String,
}

/// Whether to debug on cheaper hardware first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    /// Setting up and debugging here, dollars.
    pub here_usd: f64,
    /// The same on the cheapest offer that fits, and moving afterwards, dollars.
    pub probe_usd: f64,
    /// It is cheaper to debug there first.
    pub probe_first: bool,
    /// That offer's price, $/h.
    pub probe_usd_per_hour: f64,
}

/// One of the things to watch in the first ten minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gate {
    /// What is watched.
    pub what: &'static str,
    /// When it is right.
    pub expect: String,
    /// When to stop.
    pub abort: String,
}

/// How much work it takes to run well on an offer.
pub fn effort(demand: &Demand<'_>, supply: &Supply<'_>, outlook: &Outlook) -> Effort {
    let sharded = demand.job.sharding(&supply.machine) == Sharding::Everything;
    match outlook.fit() {
        Verdict::DoesNotFit => Effort::High,
        _ if sharded && !supply.nvlink => Effort::High,
        Verdict::Tight => Effort::Med,
        Verdict::Fits if supply.machine.gpus() > 1.0 => Effort::Med,
        Verdict::Fits => Effort::Low,
    }
}

/// What may go wrong on an offer, worst first.
pub fn risks(demand: &Demand<'_>, supply: &Supply<'_>, outlook: &Outlook) -> Vec<String> {
    let mut risks = Vec::new();
    let hours = outlook.forecast.wall_hours;
    let long = hours.is_none_or(|hours| hours.base > LONG_HOURS);
    for check in &outlook.checks {
        match (check.verdict, check.what) {
            (Verdict::Tight, "GPU memory") => risks.push(format!(
                "out of memory: {:.1} of {:.1} {} are predicted, which may be off",
                check.needs, check.has, check.unit
            )),
            (Verdict::Tight, "network") if outlook::uploads_fall_behind(demand, supply) => risks.push(format!(
                "backups fall behind: a checkpoint takes {:.0} min to upload, more than `checkpoints.every`",
                outlook::upload_hours(demand.job, supply) * 60.0
            )),
            (Verdict::Tight, "network") => {
                risks.push(format!("slow network: {:.0} min of downloads before the first step", check.needs));
            }
            (Verdict::Tight, what) => risks.push(format!(
                "{what}: {:.0} {} of {:.0} with headroom",
                check.needs, check.unit, check.has
            )),
            _ => {}
        }
    }
    if let (Some(hours), Some(max_hours)) = (hours, supply.max_hours)
        && hours.pessimistic > max_hours
    {
        risks.push(format!(
            "the host rents for {max_hours:.1} h, and this may take {:.1} h",
            hours.pessimistic
        ));
    }
    if let Some(reliability) = supply.reliability.filter(|share| *share < RELIABLE) {
        risks.push(format!(
            "the host's reliability is {:.1}%",
            reliability * 100.0
        ));
    }
    if !supply.verified {
        risks.push("the market has not verified the host".to_owned());
    }
    if supply.down_mbps.min(supply.up_mbps) < SLOW_MBPS {
        let slow = supply.down_mbps.min(supply.up_mbps);
        risks.push(format!(
            "bandwidth of {slow:.0} Mb/s: measure it before a long setup"
        ));
    }
    if demand.interruptible && long {
        risks.push(
            "an interruptible box may be taken back at any time, and this takes long".to_owned(),
        );
    }
    if !demand.backed_up {
        risks.push("nothing is backed up: what the box holds is lost when the box is".to_owned());
    }
    if demand.job.offload {
        risks.push(
            "offloading fills the host's memory without a word until it is killed".to_owned(),
        );
    }
    if let Some(stack) = demand.job.stack
        && supply.machine.gpus() <= 1.0
        && heavyweight(stack.name)
    {
        risks.push(format!(
            "`{}` on one GPU: a heavyweight stack to set up, for nothing",
            stack.name
        ));
    }
    if supply.machine.gpus() > 1.0
        && !supply.nvlink
        && demand.job.sharding(&supply.machine) == Sharding::Everything
    {
        risks.push("sharding over PCIe: the GPUs will wait for each other".to_owned());
    }
    if demand.job.precision == Precision::Bf16 && !supply.machine.gpu.bf16 {
        risks.push("this GPU has no bf16: train in fp16".to_owned());
    }
    if let (Some(cost), Some(budget)) = (outlook.forecast.cost_usd, demand.budget_usd)
        && cost.pessimistic > budget - supply.held_usd
    {
        risks.push(format!(
            "{} of the budget of {} end first if it goes badly: {}",
            text::usd((budget - supply.held_usd).max(0.0)),
            text::usd(budget),
            text::usd(cost.pessimistic)
        ));
    }
    if let Some(tax) = outlook.forecast.setup_tax.filter(|tax| *tax > SETUP_TAX) {
        risks.push(format!(
            "{:.0} % of what is paid is setup and debugging",
            tax * 100.0
        ));
    }
    risks
}

fn heavyweight(stack: &str) -> bool {
    matches!(stack, "deepspeed" | "megatron")
}

/// What is worth doing before more money, simplest first; only what applies.
pub fn optimizations(
    demand: &Demand<'_>,
    supply: &Supply<'_>,
    outlook: &Outlook,
    calibration: &Calibration,
) -> Vec<String> {
    let job = demand.job;
    let machine = &supply.machine;
    let mut menu = Vec::new();
    let faster = |changed: &Job| {
        let speed = |job: &Job| calibration.tokens_per_s_per_gpu(job, machine).base;
        speed(changed) / speed(job) - 1.0
    };
    if matches!(job.precision, Precision::Fp32 | Precision::Tf32)
        || (job.precision == Precision::Bf16 && !machine.gpu.bf16)
    {
        let precision = if machine.gpu.bf16 {
            Precision::Bf16
        } else {
            Precision::Fp16
        };
        let gain = faster(&Job {
            precision,
            ..job.clone()
        });
        let name = if machine.gpu.bf16 { "bf16" } else { "fp16" };
        menu.push(format!(
            "train in {name} with autocast: about {:+.0} % speed",
            gain * 100.0
        ));
    }
    let gpu_memory = &outlook.checks[0];
    if gpu_memory.verdict == Verdict::Fits
        && outlook.peak_vram_gib.base < ROOM * supply.vram_gib
        && let Some((larger, peak)) = larger_micro_batch(job, supply, calibration)
    {
        menu.push(format!(
            "raise the micro-batch from {:.0} to {larger:.0}: {peak:.1} of {:.0} GiB",
            job.micro_batch(),
            supply.vram_gib
        ));
    }
    if gpu_memory.verdict != Verdict::Fits && job.micro_batch() > 1.0 {
        let least = Job {
            micro_batch: Some(1.0),
            ..job.clone()
        };
        menu.push(format!(
            "lower the micro-batch from {:.0} to 1 and accumulate gradients: {:.1} instead of {:.1} GiB",
            job.micro_batch(),
            calibration.peak_gib(&least, machine).base,
            outlook.peak_vram_gib.base
        ));
    }
    // What makes it faster is of no use to what does not run.
    let runs = outlook.runs();
    let tuned = job.stack.is_some_and(|stack| stack.tuning == Tuning::Tuned);
    if runs && !tuned {
        menu.push("give the loader workers and pinned memory (`num_workers`, `pin_memory`), so that the GPU never waits".to_owned());
        menu.push("log and save less often than every step".to_owned());
    }
    if runs && job.stack.is_none() {
        menu.push("evaluate under `torch.no_grad()`".to_owned());
    }
    if runs && job.compile != Some(true) {
        let gain = faster(&Job {
            compile: Some(true),
            ..job.clone()
        });
        menu.push(format!(
            "`torch.compile`, once it runs: about {:+.0} % speed",
            gain * 100.0
        ));
    }
    if gpu_memory.verdict != Verdict::Fits && job.recompute != Some(Recompute::Full) {
        let again = Job {
            recompute: Some(Recompute::Full),
            ..job.clone()
        };
        let peak = calibration.peak_gib(&again, machine).base;
        menu.push(format!(
            "recompute activations: {peak:.1} instead of {:.1} GiB, {:+.0} % speed",
            outlook.peak_vram_gib.base,
            faster(&again) * 100.0
        ));
    }
    if gpu_memory.verdict != Verdict::Fits && job.method == Method::Full {
        let eight_bit = Job {
            optimizer: super::job::Optimizer::Adam8bit,
            ..job.clone()
        };
        let lora = Job {
            method: Method::Lora,
            trainable_params: None,
            ..job.clone()
        };
        menu.push(format!(
            "train less: an 8-bit optimizer in bf16 takes {:.1} GiB, LoRA {:.1} GiB",
            calibration.peak_gib(&eight_bit, machine).base,
            calibration.peak_gib(&lora, machine).base
        ));
    }
    if job.recompute == Some(Recompute::Full) && gpu_memory.verdict == Verdict::Fits {
        let stored = Job {
            recompute: Some(Recompute::Nothing),
            ..job.clone()
        };
        let peak = calibration.peak_gib(&stored, machine);
        if peak.base * calibration.fits_at(&stored) <= supply.vram_gib {
            menu.push(format!(
                "store activations instead of recomputing them: {:.1} GiB fit, {:+.0} % speed",
                peak.base,
                faster(&stored) * 100.0
            ));
        }
    }
    if let Some(stack) = job
        .stack
        .filter(|stack| machine.gpus() <= 1.0 && heavyweight(stack.name))
    {
        menu.push(format!("leave `{}` away on one GPU", stack.name));
    }
    menu
}

/// The largest power of two that still fits, and its peak, GiB.
fn larger_micro_batch(
    job: &Job,
    supply: &Supply<'_>,
    calibration: &Calibration,
) -> Option<(f64, f64)> {
    let peak = |micro_batch: f64| {
        let larger = Job {
            micro_batch: Some(micro_batch),
            ..job.clone()
        };
        calibration.peak_gib(&larger, &supply.machine).base
    };
    let fits = |micro_batch: &f64| peak(*micro_batch) * calibration.fits_at(job) <= supply.vram_gib;
    // Beyond this many tokens nothing is gained.
    let enough = |micro_batch: &f64| micro_batch * job.seq_len() <= 131_072.0;
    std::iter::successors(Some(job.micro_batch() * 2.0), |size| Some(size * 2.0))
        .take(20)
        .take_while(|size| enough(size) && fits(size))
        .last()
        .map(|size| (size, peak(size)))
}

/// How to rent, by how long it takes and whether checkpoints outlive the box.
pub fn rental(demand: &Demand<'_>, outlook: &Outlook) -> Rental {
    let advice = |advice, why: String| Rental { advice, why };
    if !demand.backed_up {
        let why = "without `checkpoints.to` an interruption loses everything".to_owned();
        return advice("on-demand", why);
    }
    match outlook.forecast.wall_hours.map(|hours| hours.base) {
        None => advice("on-demand", "how long it takes is not known".to_owned()),
        Some(hours) if hours < SHORT_HOURS => advice(
            "interruptible",
            format!("{hours:.1} h are short, and checkpoints are backed up"),
        ),
        Some(hours) if hours > LONG_HOURS => advice(
            "on-demand",
            format!(
                "{hours:.1} h are long; interruptible is cheaper if it may take days longer: checkpoints are backed up"
            ),
        ),
        Some(hours) => advice(
            "interruptible",
            format!(
                "{hours:.1} h lie between experiment and production, and checkpoints are backed up"
            ),
        ),
    }
}

/// The rule of the cheap probe, in dollars: debug where an hour costs less, if moving does not eat it up.
pub fn probe(demand: &Demand<'_>, usd_per_hour: f64, cheapest_usd_per_hour: f64) -> Probe {
    let here_usd = usd_per_hour * demand.setup_hours;
    let probe_usd = cheapest_usd_per_hour * demand.setup_hours + MIGRATION_HOURS * usd_per_hour;
    Probe {
        here_usd,
        probe_usd,
        probe_first: here_usd > probe_usd,
        probe_usd_per_hour: cheapest_usd_per_hour,
    }
}

/// What to watch in the first ten minutes, and when to stop.
pub fn gates(supply: &Supply<'_>, outlook: &Outlook) -> Vec<Gate> {
    let speed = outlook.forecast.tokens_per_s.base;
    vec![
        Gate {
            what: "speed",
            expect: format!("{speed:.0} tokens/s"),
            abort: format!(
                "below {:.0} in two windows ({:.0} %)",
                speed * SPEED_FLOOR,
                SPEED_FLOOR * 100.0
            ),
        },
        Gate {
            what: "GPU busy",
            expect: "above 90 %".to_owned(),
            abort: format!("below {:.0} % while it trains", BUSY_FLOOR * 100.0),
        },
        Gate {
            what: "GPU memory",
            expect: format!("{:.1} GiB", outlook.peak_vram_gib.base),
            abort: format!(
                "above {:.1} GiB for long ({:.0} %)",
                supply.vram_gib * MEMORY_CEILING,
                MEMORY_CEILING * 100.0
            ),
        },
        Gate {
            what: "progress",
            expect: "steps rise and the loss moves".to_owned(),
            abort: "no movement by the first checkpoint".to_owned(),
        },
        Gate {
            what: "network",
            expect: format!("{:.0} Mb/s down", supply.down_mbps),
            abort: format!(
                "below {:.0} Mb/s to where the data is",
                (supply.down_mbps / 5.0).min(SLOW_MBPS)
            ),
        },
    ]
}

#[cfg(test)]
mod tests;
