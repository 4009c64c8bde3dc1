//! Method `playbook`: the rules of thumb that people work out by hand before renting, with nothing fitted (pure).
//!
//! Cold speed is peak x MFU over 6 operations per parameter and token; a speed measured elsewhere is carried over by the lesser of the
//! ratios of peak and bandwidth; memory is 18 bytes per trained parameter with a fifth of headroom. Where the rules count trained
//! parameters for speed, all are counted here: a frozen weight is multiplied too, and with adapters the rule would be off a
//! hundredfold. The peak is the dense tensor peak, not the market's `total_flops`, which is an fp32 figure.

use serde::Serialize;

use super::{
    calibrated::Predicted,
    job::{Job, Machine, Method},
    memory::{self, GIB},
    work,
};

/// Share of the peak that a training reaches: untuned, normal and well tuned.
pub const MFU: [f64; 3] = [0.20, 0.30, 0.40];
/// Bytes per trained parameter: AdamW in mixed precision.
pub const BYTES_PER_TRAINED_PARAM: f64 = 18.0;
/// Headroom for activations that were forgotten and for fragments.
pub const VRAM_HEADROOM: f64 = 1.2;
/// Up to this share of a card's memory a launch is safe.
pub const VRAM_SAFE: f64 = 0.8;
/// Up to this share it is risky, and beyond it no launch.
pub const VRAM_RISKY: f64 = 0.9;
/// Headroom of the host's memory.
pub const RAM_HEADROOM: f64 = 1.3;
/// Bytes per trained parameter whose Adam moments live on the host.
pub const OFFLOADED_BYTES_PER_PARAM: f64 = 8.0;
/// Headroom of the disk.
pub const DISK_HEADROOM: f64 = 1.3;
/// Speeds of the optimistic, the base and the pessimistic scenario, relative to what is predicted.
pub const SCENARIOS: [f64; 3] = [1.2, 1.0, 0.6];
/// Share of setup and debugging in the wall time beyond which hardware is too dear for now.
pub const SETUP_TAX: f64 = 0.25;

/// How much of a carried-over speed survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carry {
    /// Same architecture, stable stack: 0.9.
    SameArchitecture,
    /// Another architecture or runtime: 0.7.
    OtherArchitecture,
    /// First attempt on several GPUs, or a new stack: 0.5.
    FirstAttempt,
}

/// Three scenarios of one quantity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scenarios {
    /// Fast: the speed times 1.2.
    pub optimistic: f64,
    /// As predicted.
    pub base: f64,
    /// Slow: the speed times 0.6.
    pub pessimistic: f64,
}

/// Verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Verdict {
    /// It fits with room to spare.
    #[serde(rename = "fits")]
    Fits,
    /// It may fit or not.
    #[serde(rename = "tight")]
    Tight,
    /// It does not fit.
    #[serde(rename = "does not fit")]
    DoesNotFit,
}

impl Verdict {
    /// Word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Tight => "tight",
            Self::DoesNotFit => "does not fit",
        }
    }
}

/// GPU-hours for so many tokens at a share of the peak.
pub fn gpu_hours(params: f64, tokens: f64, peak_flops_per_s: f64, mfu: f64) -> f64 {
    6.0 * params * tokens / (peak_flops_per_s * mfu) / 3600.0
}

/// Tokens per second and GPU without any measurement: MFU 0.30, and 0.20 to 0.40 as its range.
pub fn cold_tokens_per_s_per_gpu(job: &Job, machine: &Machine<'_>) -> Predicted {
    let at = |mfu: f64| work::peak_flops(job, machine) * mfu / (6.0 * job.compute_params());
    Predicted {
        low: at(MFU[0]),
        base: at(MFU[1]),
        high: at(MFU[2]),
    }
}

/// A speed per GPU measured on one machine, carried over to another.
pub fn carried_over(
    job: &Job,
    machine: &Machine<'_>,
    (there, tokens_per_s_per_gpu): (&Machine<'_>, f64),
    carry: Carry,
) -> f64 {
    let flops = work::peak_flops(job, machine) / work::peak_flops(job, there);
    let bandwidth = machine.gpu.memory_gb_per_s / there.gpu.memory_gb_per_s;
    let efficiency = match carry {
        Carry::SameArchitecture => 0.9,
        Carry::OtherArchitecture => 0.7,
        Carry::FirstAttempt => 0.5,
    };
    tokens_per_s_per_gpu * flops.min(bandwidth) * efficiency
}

/// Memory of one GPU that a training is expected to take, bytes, without headroom.
pub fn vram_bytes(job: &Job, machine: &Machine<'_>) -> f64 {
    let trained = job.trainable_params();
    let bytes_per_frozen = if job.method == Method::Qlora {
        0.5
    } else {
        2.0
    };
    let frozen = bytes_per_frozen * (job.params - trained).max(0.0);
    let per_param = if job.offload {
        BYTES_PER_TRAINED_PARAM - OFFLOADED_BYTES_PER_PARAM
    } else {
        BYTES_PER_TRAINED_PARAM
    };
    let formulas = memory::peak(job, machine);
    // The rules leave activations, sharding and temporary memory to be added; these are the formulas' own.
    let shards = match job.method {
        Method::Full => 18.0 * job.params / GIB / memory::peak(&full_adam(job), machine).states_gib,
        Method::Lora | Method::Qlora => 1.0,
    };
    (per_param * trained + frozen) / shards
        + (formulas.activations_gib + formulas.temporary_gib) * GIB
}

/// `required_vram_gb` of the rules: bytes with headroom, in GB.
pub fn required_vram_gb(bytes: f64) -> f64 {
    VRAM_HEADROOM * bytes / 1e9
}

/// Whether what is required fits a card.
pub fn vram_verdict(required_gb: f64, card_gb: f64) -> Verdict {
    band(required_gb, card_gb, VRAM_SAFE, VRAM_RISKY)
}

/// Memory of the host that is required, GB.
pub fn required_ram_gb(offloaded_bytes: f64, loader_bytes: f64, system_bytes: f64) -> f64 {
    RAM_HEADROOM * (offloaded_bytes + loader_bytes + system_bytes) / 1e9
}

/// Disk that is required, GB: `checkpoints_gb` is at least the largest checkpoint twice.
pub fn required_disk_gb(model_gb: f64, data_gb: f64, checkpoints_gb: f64, other_gb: f64) -> f64 {
    DISK_HEADROOM * (model_gb + data_gb + checkpoints_gb + other_gb)
}

/// Up to `safe` of what there is it fits, up to `risky` it is tight.
pub fn band(required: f64, available: f64, safe: f64, risky: f64) -> Verdict {
    if required <= safe * available {
        Verdict::Fits
    } else if required <= risky * available {
        Verdict::Tight
    } else {
        Verdict::DoesNotFit
    }
}

/// Three scenarios of the hours that a training takes at a speed.
pub fn train_hours(tokens: f64, tokens_per_s: f64) -> Scenarios {
    let [optimistic, base, pessimistic] =
        SCENARIOS.map(|share| tokens / (tokens_per_s * share) / 3600.0);
    Scenarios {
        optimistic,
        base,
        pessimistic,
    }
}

impl Scenarios {
    /// The same with something done to each.
    pub fn map(self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            optimistic: change(self.optimistic),
            base: change(self.base),
            pessimistic: change(self.pessimistic),
        }
    }
}

/// The same job as the rule of 18 bytes sees it, to learn over how many GPUs its states are spread.
fn full_adam(job: &Job) -> Job {
    Job {
        optimizer: super::job::Optimizer::Adam,
        pure_16_bit: None,
        fused_backward: false,
        offload: false,
        precision: super::job::Precision::Bf16,
        ..job.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::gpus::Gpus;

    fn machine(name: &str, num_gpus: u32) -> Machine<'static> {
        Machine {
            gpu: Gpus::shipped().find(name, None).expect("it is shipped"),
            num_gpus: Some(num_gpus),
        }
    }

    /// A guide that is followed by hand plans 268 and 621 GPU-hours for these two trainings.
    #[test]
    fn the_two_trainings_of_the_setup_guide_come_out_within_two_percent() {
        for (params, expected) in [(956e6, 268.0), (2.21e9, 621.0)] {
            for gpus in [4, 8] {
                let machine = machine("H100 SXM", gpus);
                let job = Job::new(params);
                let speed = cold_tokens_per_s_per_gpu(&job, &machine).base;
                let hours = 49.8e9 / speed / 3600.0;
                assert!(
                    (hours / expected - 1.0).abs() < 0.02,
                    "{hours} for {expected}"
                );
                let direct = gpu_hours(params, 49.8e9, 989e12, 0.30);
                assert!((hours / direct - 1.0).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_carried_speed_is_bound_by_the_lesser_ratio() {
        let (from, to) = (machine("RTX 4090", 1), machine("A100 SXM4", 1));
        let job = Job::new(1e9);
        // Peak 312 over 165.2 is less than bandwidth 2039 over 1008.
        let carried = carried_over(&job, &to, (&from, 1000.0), Carry::OtherArchitecture);
        assert!((carried - 1000.0 * 312.0 / 165.2 * 0.7).abs() < 1e-6);
    }

    #[test]
    fn memory_is_banded_at_eight_and_nine_tenths() {
        assert_eq!(vram_verdict(19.2, 24.0), Verdict::Fits);
        assert_eq!(vram_verdict(21.0, 24.0), Verdict::Tight);
        assert_eq!(vram_verdict(21.7, 24.0), Verdict::DoesNotFit);
    }

    #[test]
    fn eighteen_bytes_per_parameter_and_a_fifth_of_headroom() {
        let machine = machine("H100 SXM", 1);
        let job = Job {
            micro_batch: Some(1.0),
            seq_len: Some(16.0),
            ..Job::new(1e9)
        };
        let required = required_vram_gb(vram_bytes(&job, &machine));
        assert!((21.6..22.5).contains(&required), "{required}");
        let lora = Job {
            method: Method::Lora,
            ..job
        };
        assert!(required_vram_gb(vram_bytes(&lora, &machine)) < 3.5);
    }

    #[test]
    fn scenarios_are_faster_as_predicted_and_slower() {
        let hours = train_hours(3.6e9, 1e6);
        assert!((hours.base - 1.0).abs() < 1e-9);
        assert!((hours.optimistic - 1.0 / 1.2).abs() < 1e-9);
        assert!((hours.pessimistic - 1.0 / 0.6).abs() < 1e-9);
    }

    #[test]
    fn ram_and_disk_have_three_tenths_of_headroom() {
        assert!((required_ram_gb(8e9, 1e9, 1e9) - 13.0).abs() < 1e-9);
        assert!((required_disk_gb(10.0, 20.0, 30.0, 10.0) - 91.0).abs() < 1e-9);
    }
}
