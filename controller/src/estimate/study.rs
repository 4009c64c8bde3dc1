//! Fits the factors to published runs, and learns from leaving each source out how wide the ranges must be (pure).
//!
//! A prediction for a source that took no part in the fit is what users get: their code is in no table either. So every source is
//! left out in turn; what the rest says about it is its error. The 10 % and 90 % quantiles of these errors, in which a source of n
//! rows weighs the root of n, are the range (split conformal prediction: Lei et al. 2018; across groups: Dunn et al. 2023). Speeds with
//! adapters and memory with quantized weights scatter by more than the rest, and have ranges of their own (Mondrian conformal
//! prediction: Vovk et al. 2005, 4.5).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    calibrated::{self, Calibration, MEMORY, Range, SPEED},
    job::Method,
    published::Published,
    regression::{self, Observation, Scatter},
};

/// Scatter of speeds, of sources and of rows within them, as logarithms.
const SPEED_SCATTER: Scatter = Scatter {
    row_sd: 0.12,
    source_sd: 0.3,
};
/// Scatter of memory peaks.
const MEMORY_SCATTER: Scatter = Scatter {
    row_sd: 0.15,
    source_sd: 0.2,
};

/// What is said to fit does so for this share of the errors. More would be safer for those who launch and would turn away more of
/// what fits; beyond it lies "tight", which leaves the choice to whoever pays.
const FITS_SHARE: f64 = 0.85;

/// Fits with and without each source.
#[derive(Debug, Clone, PartialEq)]
pub struct Study {
    whole: Calibration,
    without: BTreeMap<String, Calibration>,
}

/// Errors of what was predicted from other sources: logarithms of observed over predicted, by source.
type Errors = BTreeMap<String, Vec<f64>>;

impl Study {
    /// Fits the runs.
    pub fn of(runs: &[Published]) -> Self {
        let sources: BTreeSet<String> = runs.iter().map(Published::source_key).collect();
        let mut fitted = BTreeMap::new();
        let (mut speed, mut speed_adapters) = (Errors::new(), Errors::new());
        let (mut memory, mut memory_quantized) = (Errors::new(), Errors::new());
        let mut transfer = Errors::new();
        for source in &sources {
            let others: Vec<&Published> = runs
                .iter()
                .filter(|run| run.source_key() != *source)
                .collect();
            let own: Vec<&Published> = runs
                .iter()
                .filter(|run| run.source_key() == *source)
                .collect();
            let calibration = factors(&others);
            let adapters: Vec<&Published> = own
                .iter()
                .copied()
                .filter(|run| run.job.method != Method::Full)
                .collect();
            let quantized: Vec<&Published> = own
                .iter()
                .copied()
                .filter(|run| run.job.method == Method::Qlora)
                .collect();
            speed.insert(source.clone(), speed_errors(&calibration, &own));
            speed_adapters.insert(source.clone(), speed_errors(&calibration, &adapters));
            memory.insert(source.clone(), memory_errors(&calibration, &own));
            memory_quantized.insert(source.clone(), memory_errors(&calibration, &quantized));
            transfer.insert(source.clone(), transfer_errors(&calibration, &own));
            fitted.insert(source.clone(), calibration);
        }
        let with_ranges = |mut calibration: Calibration, left_out: Option<&str>| {
            calibration.speed_range = range(&speed, left_out);
            // Of some there are few runs: their ranges are never narrower than those of all.
            calibration.speed_range_adapters =
                range(&speed_adapters, left_out).with(calibration.speed_range);
            calibration.memory_range = range(&memory, left_out);
            calibration.memory_range_quantized =
                range(&memory_quantized, left_out).with(calibration.memory_range);
            calibration.memory_limit = at_share(&memory, left_out, FITS_SHARE).max(1.0);
            calibration.memory_limit_quantized =
                at_share(&memory_quantized, left_out, FITS_SHARE).max(calibration.memory_limit);
            calibration.transfer_range = range(&transfer, left_out);
            calibration
        };
        let all: Vec<&Published> = runs.iter().collect();
        let whole = with_ranges(factors(&all), None);
        let without = fitted
            .into_iter()
            .map(|(source, calibration)| {
                let calibration = with_ranges(calibration, Some(&source));
                (source, calibration)
            })
            .collect();
        Self { whole, without }
    }

    /// The fit of all runs.
    pub fn whole(&self) -> &Calibration {
        &self.whole
    }

    /// The fit that knows nothing of a source.
    pub fn without(&self, source: &str) -> &Calibration {
        self.without.get(source).unwrap_or(&self.whole)
    }

    /// Number of sources.
    pub fn sources(&self) -> usize {
        self.without.len()
    }
}

/// Pairs of runs of one source that differ in the GPU alone: baseline first, then what is to be predicted.
pub fn transfer_pairs<'a>(runs: &[&'a Published]) -> Vec<(&'a Published, &'a Published)> {
    let mut pairs = Vec::new();
    for baseline in runs {
        for target in runs {
            let (Some(here), Some(there)) = (baseline.gpu, target.gpu) else {
                continue;
            };
            let same = baseline.source_key() == target.source_key()
                && baseline.model == target.model
                && baseline.job.method == target.job.method
                && baseline.job.precision == target.job.precision
                && baseline.job.seq_len == target.job.seq_len
                && baseline.num_gpus == target.num_gpus;
            let measured = baseline.observed.speed().is_some() && target.observed.speed().is_some();
            if same && measured && here != there {
                pairs.push((*baseline, *target));
            }
        }
    }
    pairs
}

fn factors(runs: &[&Published]) -> Calibration {
    let unknown = Range {
        low: 1.0,
        high: 1.0,
    };
    let numbers: BTreeMap<String, usize> = runs
        .iter()
        .map(|run| run.source_key())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .enumerate()
        .map(|(number, source)| (source, number))
        .collect();
    let (mut speed, mut memory) = (Vec::new(), Vec::new());
    for run in runs {
        let Some(machine) = run.machine() else {
            continue;
        };
        let source = numbers[&run.source_key()];
        if let Some(observed) = run.observed.speed() {
            speed.push(Observation {
                source,
                features: calibrated::speed_features(&run.job, &machine).into(),
                target: calibrated::speed_target(&run.job, &machine, observed),
            });
        }
        if let Some(observed) = run.observed.peak_gib {
            memory.push(Observation {
                source,
                features: calibrated::memory_features(&run.job).into(),
                target: calibrated::memory_target(&run.job, &machine, observed),
            });
        }
    }
    Calibration {
        speed: regression::fit(&speed, &SPEED, SPEED_SCATTER),
        speed_range: unknown,
        speed_range_adapters: unknown,
        memory: regression::fit(&memory, &MEMORY, MEMORY_SCATTER),
        memory_range: unknown,
        memory_range_quantized: unknown,
        memory_limit: 1.0,
        memory_limit_quantized: 1.0,
        transfer_range: unknown,
    }
}

fn speed_errors(calibration: &Calibration, runs: &[&Published]) -> Vec<f64> {
    let error = |run: &&Published| {
        let predicted = calibration.tokens_per_s_per_gpu(&run.job, &run.machine()?);
        Some((run.observed.speed()? / predicted.base).ln())
    };
    runs.iter().filter_map(error).collect()
}

fn memory_errors(calibration: &Calibration, runs: &[&Published]) -> Vec<f64> {
    let error = |run: &&Published| {
        let predicted = calibration.peak_gib(&run.job, &run.machine()?);
        Some((run.observed.peak_gib? / predicted.base).ln())
    };
    runs.iter().filter_map(error).collect()
}

fn transfer_errors(calibration: &Calibration, runs: &[&Published]) -> Vec<f64> {
    let error = |(baseline, target): (&Published, &Published)| {
        let measured = (
            &baseline.job,
            &baseline.machine()?,
            baseline.observed.speed()?,
        );
        let predicted = calibration.carried_over(&target.job, &target.machine()?, measured);
        Some((target.observed.speed()? / predicted.base).ln())
    };
    transfer_pairs(runs).into_iter().filter_map(error).collect()
}

/// The central 80 % of the errors of all sources but one. A range holds its prediction, however lopsided the errors are.
fn range(errors: &Errors, left_out: Option<&str>) -> Range {
    Range {
        low: at_share(errors, left_out, 0.1).min(1.0),
        high: at_share(errors, left_out, 0.9).max(1.0),
    }
}

/// The error below which a share of the errors of all sources but one lies, each source weighing the root of its rows.
fn at_share(errors: &Errors, left_out: Option<&str>, share: f64) -> f64 {
    let mut weighted = Vec::new();
    for (source, errors) in errors {
        if Some(source.as_str()) == left_out {
            continue;
        }
        let weight = 1.0 / (errors.len() as f64).sqrt();
        weighted.extend(errors.iter().map(|error| (*error, weight)));
    }
    regression::weighted_quantile(&weighted, share).map_or(1.0, f64::exp)
}
