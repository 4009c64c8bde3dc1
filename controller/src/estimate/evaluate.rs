//! Judges the estimator on a table of runs: what it predicts for each row, what was observed, and how far apart they are (pure).
//!
//! A row is never predicted with figures of its own source: if the shipped factors were fitted to that source too, they are fitted
//! again without it.

use std::borrow::Cow;

use serde::Serialize;

use super::{
    calibrated::{Calibration, Predicted, Shipped},
    gpus::Gpus,
    hours,
    job::Machine,
    playbook::{self, Carry, Verdict},
    published::{Published, Refused},
    regression::quantile,
    study::{self, Study},
};

/// Cards that peaks of memory are judged against, GB.
pub const CARDS_GB: [f64; 8] = [8.0, 12.0, 16.0, 24.0, 40.0, 48.0, 80.0, 141.0];

/// How to estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Formulas with factors fitted to published runs
    Calibrated,
    /// Rules of thumb: 6 operations per parameter and token, MFU 0.30, 18 bytes per parameter
    Playbook,
}

impl Method {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calibrated => "calibrated",
            Self::Playbook => "playbook",
        }
    }
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// The method.
    pub method: Method,
    /// Each row of the table.
    pub rows: Vec<Row>,
    /// All rows together.
    pub summary: Summary,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name in the table.
    pub id: String,
    /// Where it was published.
    pub source: String,
    /// The GPU, by the market's name; absent when it is not known.
    pub gpu: Option<String>,
    /// Why nothing is predicted.
    pub not_predicted: Option<String>,
    /// Tokens per second of all GPUs; absent when their number is not stated.
    pub tokens_per_s: Option<Compared>,
    /// Tokens per second and GPU.
    pub tokens_per_s_per_gpu: Option<Compared>,
    /// Hours from start to end; absent when tokens or the number of GPUs are not stated.
    pub hours: Option<Compared>,
    /// Hours times GPUs; absent when the tokens are not stated.
    pub gpu_hours: Option<Compared>,
    /// Peak memory of one GPU, GiB.
    pub peak_vram_gib: Option<Compared>,
    /// Signed error of the tokens per second, or of the hours where only those are stated.
    pub error: Option<f64>,
    /// That observation lies in the range.
    pub in_range: Option<bool>,
    /// A figure that memory depends on is marked `?`; the row is left out of the verdicts.
    pub doubtful_memory: bool,
    /// Would it fit these cards? Only where a peak was stated.
    pub verdicts: Vec<CardVerdict>,
}

/// A prediction beside what was observed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Compared {
    /// One in ten is expected below.
    pub low: f64,
    /// The prediction.
    pub predicted: f64,
    /// One in ten is expected above.
    pub high: f64,
    /// What was observed.
    pub actual: Option<f64>,
    /// (predicted - actual) / actual.
    pub error: Option<f64>,
    /// The observation lies in the range.
    pub in_range: Option<bool>,
}

/// A verdict on one card.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CardVerdict {
    /// The card's memory, GB.
    pub card_gb: f64,
    /// What is predicted.
    pub verdict: Verdict,
    /// The stated peak is within the card's memory.
    pub fits: bool,
}

/// All rows together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Rows of the table.
    pub rows: usize,
    /// Rows for which nothing was predicted.
    pub not_predicted: usize,
    /// The errors of the rows: of tokens per second, or of hours where only those are stated.
    pub error: Option<Spread>,
    /// Errors of tokens per second.
    pub tokens_per_s: Option<Spread>,
    /// Errors of hours.
    pub hours: Option<Spread>,
    /// Errors of the peak of memory.
    pub peak_vram: Option<Spread>,
    /// Errors of a speed carried over from the same code on another GPU.
    pub transfer: Option<Spread>,
    /// The verdicts on cards.
    pub verdicts: Option<Verdicts>,
}

/// Absolute errors of some rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Rows, or pairs of rows.
    pub rows: usize,
    /// Half are below.
    pub median: f64,
    /// Nine in ten are below.
    pub p90: f64,
    /// Share of the observations that lie in their range, which claims 0.8.
    pub coverage: f64,
}

/// Counted verdicts: rows with a stated peak, times cards, without rows that are marked `?`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Verdicts {
    /// Pairs of a row and a card.
    pub pairs: usize,
    /// Said to fit.
    pub fits: usize,
    /// Said to be tight.
    pub tight: usize,
    /// Said not to fit.
    pub does_not_fit: usize,
    /// Said to fit, and did not.
    pub false_fits: usize,
    /// Said not to fit, and did.
    pub false_does_not_fit: usize,
    /// Of those that did not fit, the share that was said to fit.
    pub false_fits_share: f64,
    /// Of those that fitted, the share that was said not to.
    pub false_does_not_fit_share: f64,
    /// Of those that fitted, the share that was not said to: not to fit, or to be tight.
    pub not_said_to_fit_share: f64,
}

/// Predicts every run of a table and compares.
pub fn evaluate(runs: &[Published], method: Method) -> Evaluation {
    let study = study_for(runs);
    let calibration = |run: &Published| -> Cow<'_, Calibration> {
        match &study {
            Some(study) => Cow::Owned(study.without(&run.source_key()).clone()),
            None => Cow::Borrowed(&Shipped::get().calibration),
        }
    };
    let rows: Vec<Row> = runs
        .iter()
        .map(|run| row(run, method, &calibration(run)))
        .collect();
    let all: Vec<&Published> = runs.iter().collect();
    let carried: Vec<Compared> = study::transfer_pairs(&all)
        .into_iter()
        .filter_map(|(baseline, target)| carried(baseline, target, method, &calibration(target)))
        .collect();
    let summary = summary(&rows, &carried);
    Evaluation {
        method,
        rows,
        summary,
    }
}

impl Evaluation {
    /// The same with rows that could not be read, each in its place with the reason.
    pub fn with_refused(mut self, refused: Vec<Refused>) -> Self {
        for refused in refused {
            let mut row = Row::empty(refused.id, refused.source);
            row.gpu = Gpus::shipped()
                .find(&refused.gpu_name, None)
                .map(|gpu| gpu.name.clone());
            row.not_predicted = Some(refused.why.to_string());
            let index = refused.index.min(self.rows.len());
            self.rows.insert(index, row);
            self.summary.rows += 1;
            self.summary.not_predicted += 1;
        }
        self
    }
}

impl Row {
    /// A row of which nothing is predicted.
    fn empty(id: String, source: String) -> Self {
        Self {
            id,
            source,
            gpu: None,
            not_predicted: None,
            tokens_per_s: None,
            tokens_per_s_per_gpu: None,
            hours: None,
            gpu_hours: None,
            peak_vram_gib: None,
            error: None,
            in_range: None,
            doubtful_memory: false,
            verdicts: Vec::new(),
        }
    }
}

/// The fits without each source, where a source of the table took part in the shipped fit.
fn study_for(runs: &[Published]) -> Option<Study> {
    let known: Vec<String> = Published::shipped()
        .iter()
        .map(Published::source_key)
        .collect();
    let common = runs.iter().any(|run| known.contains(&run.source_key()));
    common.then(|| Study::of(Published::shipped()))
}

fn row(run: &Published, method: Method, calibration: &Calibration) -> Row {
    let mut row = Row {
        gpu: run.gpu.map(|gpu| gpu.name.clone()),
        doubtful_memory: run.doubtful_memory,
        ..Row::empty(run.id.clone(), run.source.clone())
    };
    let Some(machine) = run.machine() else {
        row.not_predicted = Some(format!(
            "the GPU `{}` is not known; there are figures of NVIDIA's alone",
            run.gpu_name
        ));
        return row;
    };
    let observed = &run.observed;
    let gpus = run.num_gpus.map(f64::from);
    let per_gpu = match method {
        Method::Calibrated => calibration.tokens_per_s_per_gpu(&run.job, &machine),
        Method::Playbook => playbook::cold_tokens_per_s_per_gpu(&run.job, &machine),
    };
    let stated = observed.tokens_per_s_per_gpu;
    row.tokens_per_s_per_gpu = Some(Compared::of(per_gpu, stated));
    row.tokens_per_s =
        gpus.map(|gpus| Compared::of(per_gpu.times(gpus), stated.map(|speed| speed * gpus)));
    if let Some(tokens) = observed.tokens {
        let gpu_hours = per_gpu
            .divide(tokens / 3600.0)
            .times(hours::beside_training(&machine));
        row.gpu_hours = Some(Compared::of(gpu_hours, observed.gpu_hours));
        row.hours = gpus.map(|gpus| Compared::of(gpu_hours.times(1.0 / gpus), observed.wall_hours));
    }
    let main = row
        .tokens_per_s_per_gpu
        .filter(|compared| compared.actual.is_some())
        .or(row.gpu_hours);
    row.error = main.and_then(|compared| compared.error);
    row.in_range = main.and_then(|compared| compared.in_range);

    let peak = peak(run, &machine, method, calibration);
    row.peak_vram_gib = Some(Compared::of(peak, observed.peak_gib));
    if let Some(actual) = observed.peak_gib {
        row.verdicts = CARDS_GB
            .map(|card_gb| CardVerdict {
                card_gb,
                verdict: verdict(peak, card_gb, method, calibration.fits_at(&run.job)),
                fits: actual <= card_gb,
            })
            .into();
    }
    row
}

fn peak(
    run: &Published,
    machine: &Machine<'_>,
    method: Method,
    calibration: &Calibration,
) -> Predicted {
    match method {
        Method::Calibrated => calibration.peak_gib(&run.job, machine),
        Method::Playbook => {
            let base = playbook::vram_bytes(&run.job, machine) / super::memory::GIB;
            Predicted {
                low: base,
                base,
                high: playbook::VRAM_HEADROOM * base,
            }
        }
    }
}

/// Whether a predicted peak fits a card, for which `fits_at` times as much must be there. Makers' GB are GiB.
pub fn verdict(peak: Predicted, card_gb: f64, method: Method, fits_at: f64) -> Verdict {
    match method {
        Method::Playbook => playbook::vram_verdict(peak.high, card_gb),
        Method::Calibrated if peak.base * fits_at <= card_gb => Verdict::Fits,
        Method::Calibrated if peak.base <= card_gb => Verdict::Tight,
        Method::Calibrated => Verdict::DoesNotFit,
    }
}

fn carried(
    baseline: &Published,
    target: &Published,
    method: Method,
    calibration: &Calibration,
) -> Option<Compared> {
    let (from, to) = (baseline.machine()?, target.machine()?);
    let measured = baseline.observed.speed()?;
    let predicted = match method {
        Method::Calibrated => {
            calibration.carried_over(&target.job, &to, (&baseline.job, &from, measured))
        }
        Method::Playbook => {
            let carry = if from.gpu.compute_cap.floor() == to.gpu.compute_cap.floor() {
                Carry::SameArchitecture
            } else {
                Carry::OtherArchitecture
            };
            let base = playbook::carried_over(&target.job, &to, (&from, measured), carry);
            let [high, _, low] = playbook::SCENARIOS;
            Predicted {
                low: base * low,
                base,
                high: base * high,
            }
        }
    };
    Some(Compared::of(predicted, target.observed.speed()))
}

impl Compared {
    fn of(predicted: Predicted, actual: Option<f64>) -> Self {
        Self {
            low: predicted.low,
            predicted: predicted.base,
            high: predicted.high,
            actual,
            error: actual.map(|actual| predicted.base / actual - 1.0),
            in_range: actual.map(|actual| predicted.covers(actual)),
        }
    }
}

fn summary(rows: &[Row], carried: &[Compared]) -> Summary {
    let errors = |pick: fn(&Row) -> Option<Compared>| {
        let found = rows.iter().filter_map(|row| {
            let compared = pick(row)?;
            Some((compared.error?, compared.in_range?))
        });
        spread(found.collect())
    };
    Summary {
        rows: rows.len(),
        not_predicted: rows
            .iter()
            .filter(|row| row.not_predicted.is_some())
            .count(),
        error: spread(
            rows.iter()
                .filter_map(|row| row.error.zip(row.in_range))
                .collect(),
        ),
        tokens_per_s: errors(|row| row.tokens_per_s_per_gpu),
        hours: errors(|row| row.gpu_hours),
        peak_vram: errors(|row| row.peak_vram_gib),
        transfer: spread(
            carried
                .iter()
                .filter_map(|compared| compared.error.zip(compared.in_range))
                .collect(),
        ),
        verdicts: verdicts(rows),
    }
}

fn spread(errors: Vec<(f64, bool)>) -> Option<Spread> {
    let sizes: Vec<f64> = errors.iter().map(|(error, _)| error.abs()).collect();
    Some(Spread {
        rows: errors.len(),
        median: quantile(&sizes, 0.5)?,
        p90: quantile(&sizes, 0.9)?,
        coverage: errors.iter().filter(|(_, inside)| *inside).count() as f64 / errors.len() as f64,
    })
}

fn verdicts(rows: &[Row]) -> Option<Verdicts> {
    let pairs: Vec<CardVerdict> = rows
        .iter()
        .filter(|row| !row.doubtful_memory)
        .flat_map(|row| row.verdicts.iter().copied())
        .collect();
    let count = |which: fn(&CardVerdict) -> bool| pairs.iter().filter(|pair| which(pair)).count();
    let share = |part: usize, whole: usize| {
        if whole == 0 {
            0.0
        } else {
            part as f64 / whole as f64
        }
    };
    let fitted = count(|pair| pair.fits);
    let false_fits = count(|pair| pair.verdict == Verdict::Fits && !pair.fits);
    let false_does_not_fit = count(|pair| pair.verdict == Verdict::DoesNotFit && pair.fits);
    (!pairs.is_empty()).then(|| Verdicts {
        pairs: pairs.len(),
        fits: count(|pair| pair.verdict == Verdict::Fits),
        tight: count(|pair| pair.verdict == Verdict::Tight),
        does_not_fit: count(|pair| pair.verdict == Verdict::DoesNotFit),
        false_fits,
        false_does_not_fit,
        false_fits_share: share(false_fits, pairs.len() - fitted),
        false_does_not_fit_share: share(false_does_not_fit, fitted),
        not_said_to_fit_share: share(
            count(|pair| pair.verdict != Verdict::Fits && pair.fits),
            fitted,
        ),
    })
}

#[cfg(test)]
mod tests;
