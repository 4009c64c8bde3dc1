//! What one offer would do for one run: does it fit, how long does it take, what does it cost (pure).

mod fit;

use serde::Serialize;

use super::{
    baseline::{self, Carried, Past},
    calibrated::{Calibration, Predicted, Range},
    evaluate::Method,
    hours,
    job::{Job, Machine},
    playbook::{self, SCENARIOS, Scenarios, Verdict},
};
use crate::ui::text;

/// What a run asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand<'a> {
    /// What is trained.
    pub job: &'a Job,
    /// Tokens to train on; `None`: no time can be told.
    pub tokens: Option<f64>,
    /// The image with its Python packages, GB, as it is downloaded.
    pub image_gb: f64,
    /// Data and weights that the box downloads, GB.
    pub download_gb: f64,
    /// Disk that is rented, GB.
    pub disk_gb: f64,
    /// Checkpoints that stay on the disk.
    pub keep_last: u32,
    /// Within this time a checkpoint must be in the bucket, hours.
    pub backup_every_hours: f64,
    /// Checkpoints go to a bucket.
    pub backed_up: bool,
    /// Setting up and debugging, hours.
    pub setup_hours: f64,
    /// These hours were measured, downloads and all.
    pub setup_measured: bool,
    /// Dollars for all of it.
    pub budget_usd: Option<f64>,
    /// Rented with a bid.
    pub interruptible: bool,
    /// What the same code has shown before.
    pub past: &'a [Past],
}

/// What an offer has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Supply<'a> {
    /// GPU and how many.
    pub machine: Machine<'a>,
    /// Memory of one GPU, GiB.
    pub vram_gib: f64,
    /// Memory of the host, GB.
    pub ram_gb: f64,
    /// All in while it runs, $/h.
    pub usd_per_hour: f64,
    /// Of the budget, held back for its disk, dollars: it is not there to train with.
    pub held_usd: f64,
    /// Download, Mb/s.
    pub down_mbps: f64,
    /// Upload, Mb/s.
    pub up_mbps: f64,
    /// Price of a download, $/GB.
    pub down_usd_per_gb: f64,
    /// Price of an upload, $/GB.
    pub up_usd_per_gb: f64,
    /// Longest rental, hours; `None`: it is not known.
    pub max_hours: Option<f64>,
    /// Reliability, 0 to 1; `None`: it is not known.
    pub reliability: Option<f64>,
    /// The market verified the host.
    pub verified: bool,
    /// NVLink was measured.
    pub nvlink: bool,
}

/// One check: what is needed, what there is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What is checked.
    pub what: &'static str,
    /// What is needed.
    pub needs: f64,
    /// Up to this it is safe.
    pub safe_up_to: f64,
    /// Up to this it may go well.
    pub risky_up_to: f64,
    /// What there is.
    pub has: f64,
    /// Unit of all four.
    pub unit: &'static str,
    /// How it comes out.
    pub verdict: Verdict,
    /// What it is made of, for people.
    pub detail: String,
}

/// What one method says of time and money.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Forecast {
    /// The method.
    pub method: Method,
    /// The earlier speed that it goes by; `None`: a cold estimate.
    pub baseline: Option<Carried>,
    /// Tokens per second of all GPUs.
    pub tokens_per_s: Predicted,
    /// Hours of training alone; absent when the tokens are not stated.
    pub train_hours: Option<Scenarios>,
    /// Hours from renting to the end.
    pub wall_hours: Option<Scenarios>,
    /// Dollars, traffic included.
    pub cost_usd: Option<Scenarios>,
    /// Share of setup and debugging in the wall time of the base scenario.
    pub setup_tax: Option<f64>,
}

/// What one offer would do for a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outlook {
    /// Memory of the GPU, memory of the host, disk, network.
    pub checks: Vec<Check>,
    /// Peak memory of one GPU, GiB.
    pub peak_vram_gib: Predicted,
    /// The method that was asked for.
    pub forecast: Forecast,
    /// The other method.
    pub other: Forecast,
    /// What of that means that it would not train there at all; the rest is about money and time.
    #[serde(skip)]
    pub obstacles: Vec<String>,
    /// What forbids it.
    pub blockers: Vec<String>,
}

/// Logs, caches and temporary files on the disk, GB.
const OTHER_GB: f64 = 10.0;
/// Memory of the host for the system and for the loaders of one GPU, GB.
const SYSTEM_GB: f64 = 4.0;
const LOADERS_GB: f64 = 2.0;
/// Bytes per offloaded parameter: two moments, and the fp32 weight that they update.
const OFFLOADED_BYTES: f64 = playbook::OFFLOADED_BYTES_PER_PARAM + 4.0;
/// Downloads before the first step: up to so many hours they are safe, and up to so many risky.
const DOWNLOAD_HOURS: [f64; 2] = [0.25, 1.0];
/// Hours between two checkpoints, for the price of their uploads.
const CHECKPOINT_HOURS: f64 = 1.0;
/// What a GPU was seen to take it takes again, but for its allocator's whims.
const AS_TAKEN: Range = Range {
    low: 0.95,
    high: 1.05,
};
/// Two methods differ by much when one says more than this many times what the other says.
const MUCH: f64 = 1.5;

/// What an offer would do for a run.
pub fn outlook(
    demand: &Demand<'_>,
    supply: &Supply<'_>,
    method: Method,
    calibration: &Calibration,
) -> Outlook {
    let by_formula = calibration.peak_gib(demand.job, &supply.machine);
    let taken = baseline::taken(demand.past, demand.job, &supply.machine);
    let checks = vec![
        fit::gpu_memory(demand, supply, method, calibration, taken),
        host_memory(demand, supply),
        disk(demand),
        network(demand, supply),
    ];
    let other = match method {
        Method::Calibrated => Method::Playbook,
        Method::Playbook => Method::Calibrated,
    };
    let forecast_by = |method| forecast(demand, supply, method, calibration);
    let forecast = forecast_by(method);
    let obstacles = obstacles(&checks);
    let mut blockers = obstacles.clone();
    blockers.extend(money_and_time(demand, supply, &forecast));
    Outlook {
        checks,
        peak_vram_gib: match taken.filter(|taken| fit::says_all(taken, supply)) {
            Some(taken) => Predicted::new(taken.gib, AS_TAKEN),
            None => by_formula,
        },
        forecast,
        other: forecast_by(other),
        obstacles,
        blockers,
    }
}

impl Outlook {
    /// The memory of the GPU is enough, or may be.
    pub fn runs(&self) -> bool {
        self.checks[0].verdict != Verdict::DoesNotFit
    }

    /// Nothing forbids it.
    pub fn go(&self) -> bool {
        self.blockers.is_empty()
    }

    /// The worst verdict of the checks.
    pub fn fit(&self) -> Verdict {
        self.checks
            .iter()
            .map(|check| check.verdict)
            .max()
            .unwrap_or(Verdict::Fits)
    }

    /// The methods differ so much that both are shown.
    pub fn methods_differ(&self) -> bool {
        let ratio = self.forecast.tokens_per_s.base / self.other.tokens_per_s.base;
        !(1.0 / MUCH..=MUCH).contains(&ratio)
    }
}

/// Size of one checkpoint, GB: weights, and the optimizer's states of what is trained.
pub fn checkpoint_gb(job: &Job) -> f64 {
    let per_param = if job.pure_16_bit == Some(true) {
        6.0
    } else {
        12.0
    };
    per_param * job.trainable_params() / 1e9
}

/// Hours that the first downloads take.
pub fn download_hours(demand: &Demand<'_>, supply: &Supply<'_>) -> f64 {
    (demand.image_gb + demand.download_gb) * 8000.0 / supply.down_mbps.max(0.1) / 3600.0
}

fn host_memory(demand: &Demand<'_>, supply: &Supply<'_>) -> Check {
    let offloaded = if demand.job.offload {
        OFFLOADED_BYTES * demand.job.trainable_params()
    } else {
        0.0
    };
    let loaders = LOADERS_GB * supply.machine.gpus() * 1e9;
    let needs = playbook::required_ram_gb(offloaded, loaders, SYSTEM_GB * 1e9);
    banded(
        "host memory",
        needs,
        supply.ram_gb,
        "GB",
        format!(
            "optimizer {:.1}, loaders {:.1}, system {SYSTEM_GB:.1} GB, and 30 % more",
            offloaded / 1e9,
            loaders / 1e9
        ),
    )
}

fn disk(demand: &Demand<'_>) -> Check {
    let job = demand.job;
    let model_gb = 2.0 * job.params / 1e9;
    let kept = f64::from(demand.keep_last.saturating_add(1)).max(2.0);
    let checkpoints = kept * checkpoint_gb(job);
    let needs = playbook::required_disk_gb(model_gb, demand.download_gb, checkpoints, OTHER_GB);
    let has = demand.disk_gb;
    Check {
        what: "disk",
        needs,
        safe_up_to: has,
        risky_up_to: has * playbook::DISK_HEADROOM,
        has,
        unit: "GB",
        // What is left out at first is the headroom.
        verdict: playbook::band(needs, has, 1.0, playbook::DISK_HEADROOM),
        detail: format!(
            "weights {model_gb:.1}, downloads {:.1}, {kept:.0} checkpoints {checkpoints:.1}, other {OTHER_GB:.1} GB, and 30 % more",
            demand.download_gb
        ),
    }
}

fn network(demand: &Demand<'_>, supply: &Supply<'_>) -> Check {
    let needs = download_hours(demand, supply);
    let [safe, risky] = DOWNLOAD_HOURS;
    let upload = upload_hours(demand.job, supply);
    let verdict = match playbook::band(needs, 1.0, safe, risky) {
        Verdict::Fits if uploads_fall_behind(demand, supply) => Verdict::Tight,
        verdict => verdict,
    };
    Check {
        what: "network",
        needs: needs * 60.0,
        safe_up_to: safe * 60.0,
        risky_up_to: risky * 60.0,
        has: supply.down_mbps,
        unit: "min",
        verdict,
        detail: format!(
            "{:.0} GB at {:.0} Mb/s; a checkpoint of {:.1} GB takes {:.1} min to upload",
            demand.image_gb + demand.download_gb,
            supply.down_mbps,
            checkpoint_gb(demand.job),
            upload * 60.0,
        ),
    }
}

/// Hours that one checkpoint takes to upload.
pub fn upload_hours(job: &Job, supply: &Supply<'_>) -> f64 {
    checkpoint_gb(job) * 8000.0 / supply.up_mbps.max(0.1) / 3600.0
}

/// A checkpoint takes longer to upload than it may be late.
pub fn uploads_fall_behind(demand: &Demand<'_>, supply: &Supply<'_>) -> bool {
    demand.backed_up && upload_hours(demand.job, supply) > demand.backup_every_hours
}

fn banded(what: &'static str, needs: f64, has: f64, unit: &'static str, detail: String) -> Check {
    Check {
        what,
        needs,
        safe_up_to: playbook::VRAM_SAFE * has,
        risky_up_to: playbook::VRAM_RISKY * has,
        has,
        unit,
        verdict: playbook::band(needs, has, playbook::VRAM_SAFE, playbook::VRAM_RISKY),
        detail,
    }
}

fn forecast(
    demand: &Demand<'_>,
    supply: &Supply<'_>,
    method: Method,
    calibration: &Calibration,
) -> Forecast {
    let machine = &supply.machine;
    let past = baseline::closest(demand.past, demand.job, machine);
    let carried = past.map(|past| match method {
        Method::Calibrated => past.carried_over(demand.job, machine, calibration),
        Method::Playbook => past.carried_over_by_hand(demand.job, machine),
    });
    let cold = || match method {
        Method::Calibrated => calibration.tokens_per_s_per_gpu(demand.job, machine),
        Method::Playbook => {
            let base = playbook::cold_tokens_per_s_per_gpu(demand.job, machine).base;
            let [high, _, low] = SCENARIOS;
            Predicted {
                low: base * low,
                base,
                high: base * high,
            }
        }
    };
    let per_gpu = carried.map_or_else(cold, |(speed, _)| speed);
    let tokens_per_s = per_gpu.times(machine.gpus());
    let train_hours = demand.tokens.map(|tokens| {
        let hours = |speed: f64| tokens / speed / 3600.0;
        Scenarios {
            optimistic: hours(tokens_per_s.high),
            base: hours(tokens_per_s.base),
            pessimistic: hours(tokens_per_s.low),
        }
    });
    let before = match demand.setup_measured {
        true => demand.setup_hours,
        false => demand.setup_hours + download_hours(demand, supply),
    };
    let beside = hours::beside_training(machine);
    let wall_hours = train_hours.map(|hours| hours.map(|hours| before + hours * beside));
    let cost_usd = wall_hours.zip(train_hours).map(|(wall, train)| Scenarios {
        optimistic: cost(demand, supply, wall.optimistic, train.optimistic),
        base: cost(demand, supply, wall.base, train.base),
        pessimistic: cost(demand, supply, wall.pessimistic, train.pessimistic),
    });
    Forecast {
        method,
        baseline: carried.map(|(_, carried)| carried),
        tokens_per_s,
        train_hours,
        wall_hours,
        cost_usd,
        setup_tax: wall_hours.map(|hours| before / hours.base),
    }
}

/// Dollars: the box by the hour, what it downloads, and a checkpoint an hour.
fn cost(demand: &Demand<'_>, supply: &Supply<'_>, wall_hours: f64, train_hours: f64) -> f64 {
    let uploads = if demand.backed_up {
        (train_hours / CHECKPOINT_HOURS).ceil() * checkpoint_gb(demand.job)
    } else {
        0.0
    };
    let downloads = demand.image_gb + demand.download_gb;
    wall_hours * supply.usd_per_hour
        + downloads * supply.down_usd_per_gb
        + uploads * supply.up_usd_per_gb
}

/// Checks that fail: it would not train there, whatever it may cost.
fn obstacles(checks: &[Check]) -> Vec<String> {
    checks
        .iter()
        .filter(|check| check.verdict == Verdict::DoesNotFit)
        .map(|check| match check.what {
            "network" => format!(
                "downloads would take {:.0} min before the first step",
                check.needs
            ),
            what => format!(
                "{what}: {:.0} {} needed, {:.0} there",
                check.needs, check.unit, check.has
            ),
        })
        .collect()
}

/// What forbids it though it would train there.
fn money_and_time(demand: &Demand<'_>, supply: &Supply<'_>, forecast: &Forecast) -> Vec<String> {
    let mut blockers = Vec::new();
    if let (Some(cost), Some(budget)) = (forecast.cost_usd, demand.budget_usd)
        && cost.base > budget - supply.held_usd
    {
        let held = match supply.held_usd > 0.0 {
            true => format!(
                ", of which {} are held back for its disk (`limits.storage_days`)",
                text::usd(supply.held_usd)
            ),
            false => String::new(),
        };
        blockers.push(format!(
            "it would cost {}, and the budget is {}{held}",
            text::usd(cost.base),
            text::usd(budget)
        ));
    }
    if let (Some(hours), Some(max_hours)) = (forecast.wall_hours, supply.max_hours)
        && hours.base > max_hours
        && !demand.backed_up
    {
        blockers.push(format!(
            "it would take {:.1} h, the host rents for {max_hours:.1} h, and nothing is backed up",
            hours.base
        ));
    }
    blockers
}

#[cfg(test)]
pub(super) mod tests;
