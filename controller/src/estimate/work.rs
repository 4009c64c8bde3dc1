//! How much a token costs: floating-point operations, and what is waited for beside them (pure).
//!
//! - Products with weights: 6 operations per parameter and token, 2 forward and 4 backward (Kaplan et al. 2020, section 2.1). Frozen
//!   weights need no gradient of their own, so adapters cost 4. Recomputing everything adds another forward pass, 2.
//! - Attention: 12 x layers x width x sequence length (Chowdhery et al. 2022, appendix B). Kernels that skip the masked half do so at
//!   about half the efficiency of a plain product, which leaves the formula as it is.
//! - Gradients: a ring moves 2 (n - 1) / n times their bytes per optimizer step. Sharding everything moves the 16-bit weights three
//!   times per forward and backward pass (Rajbhandari et al. 2020, section 7). Half of it hides behind the computation, which the
//!   root of the sum of squares stands for.
//! - Optimizer states on the host: each step moves gradients and weights over PCIe and updates on the CPU, about 1.2 ns for each
//!   parameter of a GPU's share.

use super::job::{Job, Machine, Method, Precision, Recompute, Sharding};

/// Seconds that the host takes for each parameter of a GPU's share when it keeps the optimizer.
const OFFLOAD_S_PER_PARAM: f64 = 1.2e-9;
/// Tokens between optimizer steps where nobody says: 32 sequences of 2,048.
const USUAL_BATCH_TOKENS: f64 = 65_536.0;

/// Share of the forward pass that is computed twice. Unstated, large models do so more often than not.
pub fn recomputed(job: &Job) -> f64 {
    match (job.recompute, job.method) {
        (Some(Recompute::Nothing), _) => 0.0,
        (Some(Recompute::Selective), _) => 0.3,
        (Some(Recompute::Full), _) => 1.0,
        (None, _) if job.params <= 2e9 => 0.0,
        (None, Method::Full) => 0.4,
        (None, Method::Lora | Method::Qlora) => 0.3,
    }
}

/// Floating-point operations per token.
pub fn flops_per_token(job: &Job) -> f64 {
    let again = recomputed(job);
    let per_param = match job.method {
        Method::Full => 6.0,
        Method::Lora | Method::Qlora => 4.0,
    } + 2.0 * again;
    let attention = 12.0 * job.layers_times_hidden() * job.seq_len() * (1.0 + again / 3.0);
    per_param * job.compute_params() + attention
}

/// Dense peak of one GPU for a job, FLOP/s. 8-bit products are counted at the 16-bit peak; their gain is a factor of its own.
pub fn peak_flops(job: &Job, machine: &Machine<'_>) -> f64 {
    let gpu = machine.gpu;
    let tflops = match job.precision {
        Precision::Fp32 => gpu.fp32_tflops,
        Precision::Tf32 if gpu.compute_cap >= 8.0 => gpu.tensor_tflops / 2.0,
        Precision::Tf32 => gpu.fp32_tflops,
        Precision::Bf16 if !gpu.bf16 => gpu.fp32_tflops,
        Precision::Bf16 | Precision::Fp16 | Precision::Fp8 => gpu.tensor_tflops,
    };
    tflops * 1e12
}

/// Time of a step over its time of computation, when the GPU computes at `flops_per_s`; at least 1.
pub fn waiting(job: &Job, machine: &Machine<'_>, flops_per_s: f64) -> f64 {
    let gpus = machine.gpus();
    let micro = job.micro_tokens();
    let step = f64::max(job.batch_tokens.unwrap_or(USUAL_BATCH_TOKENS) / gpus, micro);
    let compute_s = flops_per_token(job) * step / flops_per_s;

    let split = f64::from(job.layout.tensor * job.layout.pipeline);
    let bandwidth = if machine
        .num_gpus
        .is_some_and(|gpus| gpus <= machine.gpu.domain())
    {
        machine.gpu.link_bytes_per_s()
    } else {
        machine.gpu.network_bytes_per_s()
    };
    let bytes = match machine.num_gpus {
        // A cluster of unknown size was laid out by people who hid their traffic.
        None | Some(1) => 0.0,
        Some(_) => match job.sharding(machine) {
            Sharding::Everything => {
                3.0 * 2.0 * job.compute_params() * (gpus - 1.0) / gpus * (step / micro)
            }
            // Experts are spread out and synchronized among few; what all share is about what a token meets.
            Sharding::Nothing | Sharding::Optimizer => {
                2.0 * 2.0 * job.trainable_params().min(job.compute_params())
            }
        },
    };
    let network_s = bytes / split / bandwidth;
    let host_s = if job.offload {
        OFFLOAD_S_PER_PARAM * job.trainable_params() / gpus
    } else {
        0.0
    };
    (compute_s.hypot(network_s) + host_s) / compute_s
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

    #[test]
    fn six_operations_per_parameter_and_token_and_few_for_short_attention() {
        let job = Job {
            seq_len: Some(1024.0),
            ..Job::new(1e9)
        };
        let flops = flops_per_token(&job);
        assert!((6.0e9..7.0e9).contains(&flops), "{flops:e}");
        let adapters = Job {
            method: Method::Lora,
            ..job.clone()
        };
        assert!((4.0e9..5.0e9).contains(&flops_per_token(&adapters)));
        let again = Job {
            recompute: Some(Recompute::Full),
            ..job
        };
        assert!((flops_per_token(&again) / flops - 4.0 / 3.0).abs() < 0.01);
    }

    #[test]
    fn long_sequences_cost_more_in_attention_than_in_weights() {
        let job = Job {
            seq_len: Some(131_072.0),
            ..Job::new(8e9)
        };
        assert!(flops_per_token(&job) > 2.0 * 6.0 * 8e9);
    }

    #[test]
    fn cards_without_bf16_or_tensor_cores_are_slow_at_it() {
        let bf16 = Job::new(1e9);
        let fp16 = Job {
            precision: Precision::Fp16,
            ..Job::new(1e9)
        };
        assert_eq!(peak_flops(&bf16, &machine("V100", 1)), 15.7e12);
        assert_eq!(peak_flops(&fp16, &machine("V100", 1)), 125e12);
    }

    #[test]
    fn traffic_over_pcie_is_waited_for_and_over_nvlink_is_not() {
        let job = Job {
            micro_batch: Some(1.0),
            ..Job::new(7e9)
        };
        assert!(waiting(&job, &machine("RTX 4090", 8), 80e12) > 2.0);
        assert!(waiting(&job, &machine("H100 SXM", 8), 400e12) < 1.1);
        assert_eq!(waiting(&job, &machine("RTX 4090", 1), 80e12), 1.0);
    }
}
