//! Method `calibrated`: the same structure as the playbook's, with factors fitted to published runs (pure).
//!
//! A GPU computes at `exp(sum of factor x feature)` times 300 TFLOP/s. The features are logarithms of the hardware's figures and
//! classes of what is trained; each factor has a value that physics or the literature expects and a width by which the data may move
//! it. The fit is in [`super::fit`], its result in `data/factors.json`.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::{
    job::{Job, Machine, Method, Precision},
    memory,
    stacks::Tuning,
    work,
};

/// A factor before any data: what is expected, and how far data may move it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Name in `factors.json`.
    pub name: &'static str,
    /// Expected value.
    pub mean: f64,
    /// Standard deviation around it.
    pub sd: f64,
}

const fn prior(name: &'static str, mean: f64, sd: f64) -> Prior {
    Prior { name, mean, sd }
}

/// Factors of speed.
pub const SPEED: [Prior; 18] = [
    // ln 0.42: a well-kept training reaches 42 % of an A100's peak.
    prior("level", -0.867_500_6, 0.3),
    // Carrying a speed over by the root of (peak ratio x bandwidth ratio) was the best plain rule. Power is part of it: cards with a
    // low limit do not sustain their peak.
    prior("peak", 0.5, 0.1),
    prior("bandwidth", 0.35, 0.1),
    prior("power", 0.15, 0.1),
    // 8-bit products double the peak and speed up trainings by a quarter to a half.
    prior("fp8", 0.25, 0.1),
    // Per e-fold below 3 B parameters: small matrices fill a GPU badly.
    prior("size", 0.08, 0.04),
    // From one GPU to a host of eight, and per doubling beyond.
    prior("gpus", -0.05, 0.05),
    prior("hosts", -0.03, 0.02),
    prior("adapters", -0.2, 0.2),
    prior("quantized", -0.35, 0.2),
    // Per e-fold below 8,192 tokens in a forward pass: launches and waits are not filled.
    prior("micro_tokens", 0.1, 0.05),
    prior("compile", 0.15, 0.1),
    prior("experts", -0.4, 0.1),
    // Volta and older.
    prior("old", -0.2, 0.2),
    prior("stored_scores", -0.2, 0.15),
    prior("split_layers", -0.05, 0.1),
    prior("tuned_stack", 0.1, 0.15),
    prior("plain_stack", -0.2, 0.15),
];

/// Factors of memory: corrections of the formulas, overall and by method.
pub const MEMORY: [Prior; 3] = [
    prior("level", 0.0, 0.15),
    prior("lora", 0.0, 0.1),
    prior("qlora", 0.0, 0.1),
];

/// FLOP/s at which the logarithm of speed is 0.
const UNIT_FLOPS_PER_S: f64 = 300e12;

/// Fitted factors and the ranges that go with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Factors of [`SPEED`], in its order.
    pub speed: Vec<f64>,
    /// Where speeds lie, relative to what is predicted.
    pub speed_range: Range,
    /// The same with adapters, where programs differ by more.
    pub speed_range_adapters: Range,
    /// Factors of [`MEMORY`], in its order.
    pub memory: Vec<f64>,
    /// Where peaks of memory lie, relative to what is predicted.
    pub memory_range: Range,
    /// The same with quantized weights, which programs keep in different ways.
    pub memory_range_quantized: Range,
    /// By how much more than a predicted peak must be there before it is said to fit, as a factor.
    pub memory_limit: f64,
    /// The same with quantized weights.
    pub memory_limit_quantized: f64,
    /// Where speeds lie that were carried over from another GPU.
    pub transfer_range: Range,
}

/// A central 80 % range around 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// One in ten lies below.
    pub low: f64,
    /// One in ten lies above.
    pub high: f64,
}

impl Range {
    /// Both ranges together.
    pub fn with(self, other: Self) -> Self {
        Self {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
        }
    }
}

/// A prediction with its 80 % range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Predicted {
    /// One in ten is expected below.
    pub low: f64,
    /// The prediction.
    pub base: f64,
    /// One in ten is expected above.
    pub high: f64,
}

impl Predicted {
    /// A prediction and its range.
    pub fn new(base: f64, range: Range) -> Self {
        Self {
            low: base * range.low,
            base,
            high: base * range.high,
        }
    }

    /// The same with another unit.
    pub fn times(self, factor: f64) -> Self {
        Self {
            low: self.low * factor,
            base: self.base * factor,
            high: self.high * factor,
        }
    }

    /// What takes the longer the lower this is: `amount` over each.
    pub fn divide(self, amount: f64) -> Self {
        Self {
            low: amount / self.high,
            base: amount / self.base,
            high: amount / self.low,
        }
    }

    /// Whether a value lies in the range.
    pub fn covers(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// What `data/factors.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shipped {
    /// Version of this format.
    pub format: u32,
    /// How it was made.
    pub made_by: String,
    /// Rows with a speed that were used.
    pub rows: usize,
    /// Sources that they came from.
    pub sources: usize,
    /// Names of the factors of speed, in order.
    pub speed_names: Vec<String>,
    /// Names of the factors of memory, in order.
    pub memory_names: Vec<String>,
    /// The factors.
    pub calibration: Calibration,
}

static SHIPPED: LazyLock<Shipped> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../data/factors.json"))
        .expect("the shipped factors are read by a test")
});

impl Shipped {
    /// The factors that come with spotter.
    pub fn get() -> &'static Self {
        &SHIPPED
    }
}

/// Features of speed, in the order of [`SPEED`].
pub fn speed_features(job: &Job, machine: &Machine<'_>) -> [f64; 18] {
    let gpu = machine.gpu;
    let gpus = machine.gpus();
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    // Adapters are trained with Hugging Face's programs unless somebody says otherwise.
    let unnamed = match job.method {
        Method::Full => Tuning::Usual,
        Method::Lora | Method::Qlora => Tuning::Plain,
    };
    let tuning = job.stack.map_or(unnamed, |stack| stack.tuning);
    [
        1.0,
        (work::peak_flops(job, machine) / UNIT_FLOPS_PER_S).ln(),
        (gpu.memory_gb_per_s / 1500.0).ln(),
        (gpu.power_w / 400.0).ln(),
        flag(job.precision == Precision::Fp8 && gpu.fp8),
        (job.compute_params() / 3e9).ln().min(0.0),
        gpus.min(8.0).log2() / 3.0,
        (gpus / 8.0).log2().max(0.0),
        flag(job.method != Method::Full),
        flag(job.method == Method::Qlora),
        (job.micro_tokens() / 8192.0).ln().min(0.0),
        // Where nobody says, three in ten compile.
        job.compile.map_or(0.3, flag),
        flag(job.experts),
        flag(gpu.compute_cap < 7.5),
        flag(!job.flash_attention),
        flag(job.layout.tensor * job.layout.pipeline > 1),
        flag(tuning == Tuning::Tuned),
        flag(tuning == Tuning::Plain),
    ]
}

/// Features of memory, in the order of [`MEMORY`].
pub fn memory_features(job: &Job) -> [f64; 3] {
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    [
        1.0,
        flag(job.method == Method::Lora),
        flag(job.method == Method::Qlora),
    ]
}

/// What a measured speed is as the fit sees it: the logarithm of the rate of computation behind it.
pub fn speed_target(job: &Job, machine: &Machine<'_>, tokens_per_s_per_gpu: f64) -> f64 {
    let waiting = expected_waiting(job, machine);
    (tokens_per_s_per_gpu * work::flops_per_token(job) * waiting / UNIT_FLOPS_PER_S).ln()
}

/// What a measured peak is as the fit sees it: the logarithm of its ratio to the formulas.
pub fn memory_target(job: &Job, machine: &Machine<'_>, peak_gib: f64) -> f64 {
    (peak_gib / memory::peak(job, machine).peak_gib).ln()
}

/// Waiting is judged at the rate that the priors expect, so that it is the same in fit and prediction.
fn expected_waiting(job: &Job, machine: &Machine<'_>) -> f64 {
    let prior: Vec<f64> = SPEED.iter().map(|prior| prior.mean).collect();
    let rate = dot(&prior, &speed_features(job, machine)).exp() * UNIT_FLOPS_PER_S;
    work::waiting(job, machine, rate)
}

impl Calibration {
    /// Tokens per second and GPU.
    pub fn tokens_per_s_per_gpu(&self, job: &Job, machine: &Machine<'_>) -> Predicted {
        let range = match job.method {
            Method::Full => self.speed_range,
            Method::Lora | Method::Qlora => self.speed_range_adapters,
        };
        Predicted::new(self.speed_base(job, machine), range)
    }

    /// The same, carried over from what was measured with this code on another machine.
    pub fn carried_over(
        &self,
        job: &Job,
        machine: &Machine<'_>,
        measured: (&Job, &Machine<'_>, f64),
    ) -> Predicted {
        let (baseline, there, tokens_per_s_per_gpu) = measured;
        let ratio = self.speed_base(job, machine) / self.speed_base(baseline, there);
        Predicted::new(tokens_per_s_per_gpu * ratio, self.transfer_range)
    }

    /// Peak memory of one GPU, GiB.
    pub fn peak_gib(&self, job: &Job, machine: &Machine<'_>) -> Predicted {
        let correction = dot(&self.memory, &memory_features(job)).exp();
        let range = match job.method {
            Method::Full | Method::Lora => self.memory_range,
            Method::Qlora => self.memory_range_quantized,
        };
        Predicted::new(memory::peak(job, machine).peak_gib * correction, range)
    }

    /// By how much more than its predicted peak must be there before a job is said to fit, as a factor.
    pub fn fits_at(&self, job: &Job) -> f64 {
        match job.method {
            Method::Full | Method::Lora => self.memory_limit,
            Method::Qlora => self.memory_limit_quantized,
        }
    }

    fn speed_base(&self, job: &Job, machine: &Machine<'_>) -> f64 {
        let rate = dot(&self.speed, &speed_features(job, machine)).exp() * UNIT_FLOPS_PER_S;
        rate / expected_waiting(job, machine) / work::flops_per_token(job)
    }
}

/// Sum of products.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
