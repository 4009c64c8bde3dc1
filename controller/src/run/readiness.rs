//! A box that has just answered, held against what was rented and what the run needs (pure), before anything expensive happens on it.
//! Whether its GPUs answer at all, and whether its disk has room, its agent has judged by then.

use serde::{Deserialize, Serialize};

use crate::{
    agent_client::{AgentStatus, GpuInfo, SampleInfo},
    estimate::gpus::Gpus,
    provider::Offer,
    spec::{
        RunSpec,
        needs::{self, Cuda},
    },
    store::{Store, StoreError},
};

/// Share of what was offered that counts as all of it: makers and markets round, drivers and kernels keep a part to themselves.
const AS_OFFERED: f64 = 0.9;
/// A product that computes at less than this share of the ordered one's rate is another one.
const AS_FAST: f64 = 0.85;
/// Share of memory or cores below which a slice is told: markets reckon them from the host's, and containers get a little less.
const SLICE: f64 = 0.8;

/// What the market said of a box when it was ordered; 0 or empty: it did not say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Promised {
    /// Product name with spaces, such as `RTX 4090`.
    pub gpu_name: String,
    /// GPUs.
    pub num_gpus: u32,
    /// Memory of one GPU, MiB.
    pub vram_mib: u64,
    /// System memory of this slice, MB.
    pub ram_mb: u64,
    /// CPU cores of this slice.
    pub cpu_cores: f64,
    /// NVLink bandwidth, GB/s.
    pub nvlink_gbps: f64,
    /// Highest CUDA version of the driver.
    pub cuda: f64,
    /// CUDA compute capability x 100 (890 = 8.9).
    pub compute_cap: u32,
}

impl From<&Offer> for Promised {
    fn from(offer: &Offer) -> Self {
        Self {
            gpu_name: offer.gpu_name.clone(),
            num_gpus: offer.num_gpus,
            vram_mib: offer.vram_mib,
            ram_mb: offer.ram_mb,
            cpu_cores: offer.cpu_cores,
            nvlink_gbps: offer.nvlink_gbps,
            cuda: offer.cuda,
            compute_cap: offer.compute_cap,
        }
    }
}

/// Keeps what was promised of the box with a label.
///
/// # Errors
/// The store's.
pub fn keep(store: &Store, label: &str, offer: &Offer) -> Result<(), StoreError> {
    let promised = serde_json::json!(Promised::from(offer));
    store.set_meta(&key(label), &promised.to_string())
}

/// What was promised of the box with a label; nothing where it is not known.
///
/// # Errors
/// The store's.
pub fn promised(store: &Store, label: &str) -> Result<Promised, StoreError> {
    let kept = store.meta(&key(label))?;
    Ok(kept
        .and_then(|kept| serde_json::from_str(&kept).ok())
        .unwrap_or_default())
}

fn key(label: &str) -> String {
    format!("promised/{label}")
}

/// What follows from something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it was promised and is needed, or nobody promised anything.
    Fine,
    /// Not as promised, and the run can live with it: how it differs, for people.
    Differs(String),
    /// The run cannot be trained on it, or it is something else than what is paid for: why, for people.
    Refuse(String),
}

/// One thing that was found on a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub what: &'static str,
    /// What was found, for people.
    pub found: String,
    /// What follows.
    pub verdict: Verdict,
}

impl Line {
    /// As it is shown.
    pub fn text(&self) -> String {
        let Self { what, found, .. } = self;
        match &self.verdict {
            Verdict::Fine => format!("{what:<9} {found}"),
            Verdict::Differs(how) => format!("{what:<9} {found}; careful: {how}"),
            Verdict::Refuse(why) => format!("{what:<9} {found}; refused: {why}"),
        }
    }

    /// Why its box is given up for it, for people; `None`: it is not.
    pub fn refusal(self) -> Option<String> {
        match self.verdict {
            Verdict::Refuse(why) => Some(format!("{}: {}: {why}", self.what, self.found)),
            Verdict::Fine | Verdict::Differs(_) => None,
        }
    }
}

/// Holds a box against what was promised and what the run needs (pure). What a box does not tell has no line.
pub fn hold(promised: &Promised, spec: &RunSpec, box_says: &AgentStatus) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |what, found: Option<(String, Verdict)>| {
        if let Some((found, verdict)) = found {
            lines.push(Line {
                what,
                found,
                verdict,
            });
        }
    };
    let sample = box_says.sample.as_ref();
    let gpus: Vec<&GpuInfo> = sample.map_or(Vec::new(), answering);
    add("GPUs", product(promised, &gpus));
    add("VRAM", vram(promised, &gpus));
    add("driver", driver(promised, spec, box_says));
    add("compute", compute(promised, spec, box_says));
    add("NVLink", nvlink(promised, spec, &gpus));
    add("errors", errors(&gpus));
    if let Some(host) = sample.and_then(|sample| sample.host.as_ref()) {
        let ram = host.memory_limit_bytes.map(|bytes| {
            let (gb, offered) = (bytes as f64 / 1e9, promised.ram_mb as f64 / 1e3);
            (format!("{gb:.1} GB"), slice(gb, offered, "GB"))
        });
        add("RAM", ram);
        let cores = host.cpu_limit_cores.map(|cores| {
            let cores = f64::from(cores);
            let found = format!("{cores:.1} cores");
            (found, slice(cores, promised.cpu_cores, "cores"))
        });
        add("CPU", cores);
        let disk = host.disk_free_bytes.zip(host.disk_total_bytes);
        let disk = disk.map(|(free, total)| {
            let gb = |bytes: u64| bytes as f64 / 1e9;
            let found = format!("{:.1} GB free of {:.1} GB", gb(free), gb(total));
            (found, Verdict::Fine)
        });
        add("disk", disk);
    }
    lines
}

/// GPUs that can be read.
fn answering(sample: &SampleInfo) -> Vec<&GpuInfo> {
    let gpus = sample.gpus.iter();
    gpus.filter(|gpu| gpu.error == 0 && !gpu.name.is_empty())
        .collect()
}

/// Less of something than was offered, which is told.
fn slice(has: f64, offered: f64, unit: &str) -> Verdict {
    match offered > 0.0 && has < offered * SLICE {
        true => Verdict::Differs(format!("{offered:.1} {unit} were offered")),
        false => Verdict::Fine,
    }
}

fn product(promised: &Promised, gpus: &[&GpuInfo]) -> Option<(String, Verdict)> {
    let first = gpus.first()?;
    let found = format!("{} x {}", gpus.len(), first.name);
    if let Some(other) = gpus.iter().find(|gpu| gpu.name != first.name) {
        let how = format!("they are not alike: one is a {}", other.name);
        return Some((found, Verdict::Differs(how)));
    }
    if promised.gpu_name.is_empty() {
        return Some((found, Verdict::Fine));
    }
    let gib = |mib: u64| Some(mib as f64 / 1024.0).filter(|gib| *gib > 0.0);
    let size = first.memory_total_bytes.map(|bytes| bytes >> 20);
    let table = Gpus::shipped();
    let ordered = table.find(&promised.gpu_name, gib(promised.vram_mib));
    let has = table.find(&first.name, size.and_then(gib));
    let ordered_name = &promised.gpu_name;
    let verdict = match (ordered, has) {
        // A name that nobody knows says nothing; memory and compute capability do.
        (None, _) | (_, None) => Verdict::Fine,
        (Some(ordered), Some(has)) if ordered.name == has.name => Verdict::Fine,
        (Some(ordered), Some(has))
            if has.tensor_tflops < ordered.tensor_tflops * AS_FAST
                || has.compute_cap < ordered.compute_cap =>
        {
            Verdict::Refuse(format!("a {ordered_name} was rented"))
        }
        _ => Verdict::Differs(format!("a {ordered_name} was rented")),
    };
    Some((found, verdict))
}

fn vram(promised: &Promised, gpus: &[&GpuInfo]) -> Option<(String, Verdict)> {
    let least = gpus.iter().filter_map(|gpu| gpu.memory_total_bytes).min()?;
    let (gib, offered) = (
        least as f64 / (1_u64 << 30) as f64,
        promised.vram_mib as f64 / 1024.0,
    );
    let verdict = match gib < offered * AS_OFFERED {
        true => Verdict::Refuse(format!("{offered:.1} GiB were offered")),
        false => Verdict::Fine,
    };
    Some((format!("{gib:.1} GiB each"), verdict))
}

fn driver(
    promised: &Promised,
    spec: &RunSpec,
    box_says: &AgentStatus,
) -> Option<(String, Verdict)> {
    let driver = box_says.gpu_driver.as_ref()?;
    let (major, minor) = (driver.cuda / 1000, driver.cuda % 1000 / 10);
    let cuda = Cuda::of_market(f64::from(major) + f64::from(minor) / 10.0);
    let found = match (cuda, driver.version.as_str()) {
        (None, "") => return None,
        (None, version) => version.to_owned(),
        (Some(cuda), "") => format!("CUDA {cuda}"),
        (Some(cuda), version) => format!("{version}, CUDA {cuda}"),
    };
    let offered = Cuda::of_market(promised.cuda);
    // The container runs: what the tag of its image says is no proof any more, only what the run asks for by name.
    let asked = RunSpec {
        image: String::new(),
        ..spec.clone()
    };
    let lacking = needs::lacking(&asked, None, cuda);
    let verdict = match (lacking.first(), cuda, offered) {
        (Some(lacking), ..) => Verdict::Refuse(lacking.clone()),
        (None, Some(cuda), Some(offered)) if cuda < offered => {
            Verdict::Differs(format!("CUDA {offered} was offered"))
        }
        _ => Verdict::Fine,
    };
    Some((found, verdict))
}

fn compute(
    promised: &Promised,
    spec: &RunSpec,
    box_says: &AgentStatus,
) -> Option<(String, Verdict)> {
    let cards = &box_says.gpu_driver.as_ref()?.gpus;
    let told = cards.iter().map(|card| card.compute_capability);
    // A workstation may have another card for its screen: those that the run asks for are the most capable.
    let mut told: Vec<u32> = told.filter(|tenths| *tenths > 0).collect();
    told.sort_unstable_by(|one, other| other.cmp(one));
    let asked_for = spec.resources.num_gpus.max(1) as usize;
    let least = *told.iter().take(asked_for).next_back()?;
    let has = f64::from(least) / 10.0;
    let (offered, split) = (promised.compute_cap / 10, cards.iter().any(|card| card.mig));
    let lacking = needs::lacking(spec, Some(has), None);
    let verdict = match lacking.first() {
        Some(lacking) => Verdict::Refuse(lacking.clone()),
        None if least < offered => {
            Verdict::Refuse(format!("{:.1} was offered", f64::from(offered) / 10.0))
        }
        None if offered > 0 && least > offered => {
            Verdict::Differs(format!("{:.1} was offered", f64::from(offered) / 10.0))
        }
        None if split => Verdict::Differs("a GPU is split by MIG".to_owned()),
        None => Verdict::Fine,
    };
    Some((format!("capability {has:.1}"), verdict))
}

fn nvlink(promised: &Promised, spec: &RunSpec, gpus: &[&GpuInfo]) -> Option<(String, Verdict)> {
    if gpus.len() < 2 {
        return None;
    }
    let least = gpus.iter().filter_map(|gpu| gpu.nvlinks_up).min()?;
    let asked = |field: &str| field.contains("nvlink");
    let is_needed = spec
        .resources
        .filters
        .iter()
        .any(|filter| asked(&filter.field));
    let offered = format!("{:.0} GB/s were offered", promised.nvlink_gbps);
    let verdict = match (least, promised.nvlink_gbps > 0.0) {
        (0, true) if is_needed => {
            Verdict::Refuse(format!("{offered}, and `resources.offers` asks for it"))
        }
        (0, true) => Verdict::Differs(offered),
        _ => Verdict::Fine,
    };
    Some((format!("{least} links up on each"), verdict))
}

fn errors(gpus: &[&GpuInfo]) -> Option<(String, Verdict)> {
    let sum = |count: fn(&GpuInfo) -> Option<u64>| {
        let told: Vec<u64> = gpus.iter().filter_map(|gpu| count(gpu)).collect();
        (!told.is_empty()).then(|| told.iter().sum::<u64>())
    };
    let uncorrected = sum(|gpu| gpu.ecc_uncorrected);
    let failed = sum(|gpu| gpu.remap_failed.map(u64::from));
    let pending = sum(|gpu| gpu.remap_pending.or(gpu.retirement_pending).map(u64::from));
    let found = match uncorrected {
        None if failed.or(pending).is_none() => return None,
        None => "ECC errors cannot be read".to_owned(),
        Some(0) => "no uncorrected ECC errors".to_owned(),
        Some(count) => format!("{count} uncorrected ECC errors since its driver was loaded"),
    };
    let is_more = |count: Option<u64>| count.is_some_and(|count| count > 0);
    let verdict = if is_more(failed) {
        Verdict::Refuse("a row of GPU memory is broken and could not be replaced".to_owned())
    } else if is_more(pending) && is_more(uncorrected) {
        // Nothing of ours has run on it yet, and only its host can reset it.
        Verdict::Refuse(
            "its memory has failed lately, and the broken part of it is in use until a reset"
                .to_owned(),
        )
    } else if is_more(pending) {
        Verdict::Differs("a part of GPU memory waits for a reset to be replaced".to_owned())
    } else if is_more(uncorrected) {
        Verdict::Differs("its memory has failed lately".to_owned())
    } else {
        Verdict::Fine
    };
    Some((found, verdict))
}

#[cfg(test)]
mod tests;
