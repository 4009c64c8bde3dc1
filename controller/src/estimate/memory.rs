//! What a training takes of a GPU's memory at its peak (pure).
//!
//! - States: 18 bytes per trained parameter with AdamW in mixed precision: 2 for the 16-bit weight, 4 each for the fp32 weight,
//!   the gradient and two moments. 8 where everything is kept in 16 bits (Rajbhandari et al. 2020, section 3.1).
//! - Frozen weights: 2 bytes each, or 4.5 bits with their scales where they are quantized, the embeddings excepted (Dettmers et al.
//!   2023, section 3).
//! - Activations: 34 bytes per layer, token and unit of width, attention without a stored matrix of scores (Korthikanti et al. 2022,
//!   section 4.1), 40 with adapters, which keep their own inputs; 2 where a layer is recomputed, and one whole layer while it is.
//! - Logits: 8 bytes per token and entry of the vocabulary, for the 16-bit product and its fp32 copy, of which gradients reuse one.
//! - 5 % are lost between blocks, and 0.7 GB go to CUDA's context and work space.

use super::job::{Job, Layout, Machine, Method, Optimizer, Precision, Recompute, Sharding};

/// Bytes of one GiB: tools report memory, and makers name cards, in these.
pub const GIB: f64 = 1_073_741_824.0;

/// Bytes of activations per layer, token and unit of width.
const ACTIVATIONS_FULL: f64 = 34.0;
const ACTIVATIONS_ADAPTERS: f64 = 40.0;
/// Bytes of activations that remain of a layer that is recomputed: its input.
const ACTIVATIONS_RECOMPUTED: f64 = 2.0;
/// Bytes of logits per token and entry of the vocabulary.
const LOGITS: f64 = 8.0;
/// Logits of one sequence that nobody holds, bytes: the loss over longer ones is computed in pieces.
const LOGITS_AT_MOST: f64 = 40e9;
/// Lost between blocks.
const FRAGMENTS: f64 = 1.05;
/// CUDA's context and work space, bytes.
const CONTEXT: f64 = 0.7e9;

/// Peak memory of one GPU, by what takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// Weights, gradients and optimizer states, GiB.
    pub states_gib: f64,
    /// What the forward pass keeps for the backward pass, GiB.
    pub activations_gib: f64,
    /// Logits and layers that are gathered for use, GiB.
    pub temporary_gib: f64,
    /// All of it with what is lost between blocks, GiB.
    pub peak_gib: f64,
}

/// Bytes per trained parameter: weight, gradient, optimizer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct States {
    weight: f64,
    gradient: f64,
    optimizer: f64,
}

/// Peak memory of one GPU of a machine.
pub fn peak(job: &Job, machine: &Machine<'_>) -> Memory {
    let gpus = machine.gpus();
    let sharding = job.sharding(machine);
    let split = split(job, sharding, machine);
    let layer_gib = 2.0 * 2.0 * job.params / job.layers() / split / GIB;
    let gathered_gib = if sharding == Sharding::Everything {
        layer_gib
    } else {
        0.0
    };
    let states_gib = match job.method {
        Method::Full => full_states(job, sharding, split, gpus),
        Method::Lora | Method::Qlora => adapter_states(job, sharding, split, gpus),
    } / GIB;

    let longest = job.longest_tokens.unwrap_or_else(|| job.seq_len());
    let tokens = job.micro_batch() * longest / f64::from(job.layout.context);
    let activations_gib = activations(job, tokens, split / in_flight(job, gpus)) / GIB;
    let logits = LOGITS * job.vocab * tokens / f64::from(job.layout.tensor);
    let logits_gib = if job.chunked_loss || logits / job.micro_batch() > LOGITS_AT_MOST {
        0.0
    } else {
        logits / GIB
    };
    let temporary_gib = gathered_gib + logits_gib;
    Memory {
        states_gib,
        activations_gib,
        temporary_gib,
        peak_gib: (states_gib + activations_gib + temporary_gib) * FRAGMENTS + CONTEXT / GIB,
    }
}

/// GPUs that share the weights. Who trains a large model on a cluster splits it; unstated, until the 16-bit weights and the gradients
/// that come with them take three fifths of a card.
fn split(job: &Job, sharding: Sharding, machine: &Machine<'_>) -> f64 {
    let stated = f64::from(job.layout.tensor * job.layout.pipeline);
    if stated > 1.0 || sharding != Sharding::Optimizer {
        return stated;
    }
    let bytes = match job.method {
        Method::Full => 6.0 * job.params,
        Method::Lora | Method::Qlora => frozen_bytes(job),
    };
    let needed = f64::max(1.0, bytes / (0.6 * machine.gpu.vram_gb * GIB));
    needed.log2().ceil().exp2().min(machine.gpus())
}

/// Micro-batches of which a stage of a pipeline keeps the activations: the first one starts as many as there are stages before the
/// first comes back (Narayanan et al. 2021, section 2.2), unless there are fewer between two optimizer steps.
fn in_flight(job: &Job, gpus: f64) -> f64 {
    let Layout {
        tensor,
        pipeline,
        context,
        ..
    } = job.layout;
    let replicas = f64::max(1.0, gpus / f64::from(tensor * pipeline * context));
    let stages = f64::from(pipeline);
    job.batch_tokens.map_or(stages, |batch| {
        let micro_batches = batch / (replicas * job.micro_batch() * job.seq_len());
        micro_batches.round().clamp(1.0, stages)
    })
}

/// Bytes of the weights that adapters leave as they are.
fn frozen_bytes(job: &Job) -> f64 {
    if job.method != Method::Qlora {
        return 2.0 * job.params;
    }
    let embeddings = f64::min(2.0 * job.vocab * job.hidden(), job.params);
    4.5 / 8.0 * (job.params - embeddings) + 2.0 * embeddings
}

fn states(job: &Job) -> States {
    let eight_bit = matches!(
        job.optimizer,
        Optimizer::Adam8bit | Optimizer::PagedAdam8bit
    );
    let moments = match job.optimizer {
        Optimizer::Adam => 8.0,
        Optimizer::Adam8bit => 2.0,
        Optimizer::PagedAdam8bit => 0.0,
        Optimizer::Muon => 5.0,
        Optimizer::Momentum => 4.0,
        Optimizer::Stateless => 0.1,
    };
    // 8-bit optimizers are taken where memory is short, and there nobody keeps a copy in fp32.
    let pure = job.pure_16_bit.unwrap_or(eight_bit);
    let mut states = match job.precision {
        Precision::Fp32 | Precision::Tf32 => States {
            weight: 4.0,
            gradient: 4.0,
            optimizer: moments,
        },
        _ if pure && eight_bit => States {
            weight: 2.0,
            gradient: 2.0,
            optimizer: moments,
        },
        _ if pure => States {
            weight: 2.0,
            gradient: 2.0,
            optimizer: moments / 2.0,
        },
        _ => States {
            weight: 6.0,
            gradient: 4.0,
            optimizer: moments,
        },
    };
    if job.fused_backward {
        states.gradient = 0.0;
    }
    if job.offload {
        // What passes through while one layer works; the rest waits in the host's memory.
        states = States {
            weight: 0.5,
            gradient: 0.0,
            optimizer: 0.0,
        };
    }
    states
}

fn full_states(job: &Job, sharding: Sharding, split: f64, gpus: f64) -> f64 {
    let States {
        weight,
        gradient,
        optimizer,
    } = states(job);
    match sharding {
        Sharding::Everything => (weight + gradient + optimizer) * job.params / gpus,
        Sharding::Optimizer => {
            let fp32_copy = (weight - 2.0).clamp(0.0, 4.0);
            let here = (weight - fp32_copy + gradient) / split;
            (here + (optimizer + fp32_copy) / gpus) * job.params
        }
        Sharding::Nothing => (weight + gradient + optimizer) * job.params / split,
    }
}

fn adapter_states(job: &Job, sharding: Sharding, split: f64, gpus: f64) -> f64 {
    let frozen = match sharding {
        // What passes through while one layer works, as with the states; the optimizer alone would be no relief.
        Sharding::Everything if job.offload => 0.5 * job.params,
        _ => frozen_bytes(job),
    };
    let all = frozen + 16.0 * job.trainable_params();
    match sharding {
        Sharding::Everything => all / gpus,
        Sharding::Nothing | Sharding::Optimizer => all / split,
    }
}

fn activations(job: &Job, tokens: f64, split: f64) -> f64 {
    let per_unit = match job.method {
        Method::Full => ACTIVATIONS_FULL,
        Method::Lora | Method::Qlora => ACTIVATIONS_ADAPTERS,
    };
    // Share of the layers' activations that is kept whole. Unstated: all where models are small, a third elsewhere.
    let kept = match (job.recompute, job.method) {
        (Some(Recompute::Nothing), _) => 1.0,
        (Some(Recompute::Selective), _) => 0.5,
        (Some(Recompute::Full), _) => 0.0,
        (None, Method::Full) if job.params <= 2e9 => 1.0,
        (None, _) => 0.35,
    };
    // Scores of heads of 64, in 16 bits twice over, where they are stored.
    let scores = if job.flash_attention {
        0.0
    } else {
        5.0 * job.seq_len() / 64.0
    };
    let one_layer = (per_unit + scores) * job.hidden() * tokens / f64::from(job.layout.tensor);
    let layers = (kept * (per_unit + scores) + (1.0 - kept) * ACTIVATIONS_RECOMPUTED)
        * job.layers_times_hidden();
    layers * tokens / split + (1.0 - kept) * one_layer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::gpus::Gpus;

    fn peak_of(job: &Job, gpus: u32) -> Memory {
        let gpu = Gpus::shipped()
            .find("H100 SXM", None)
            .expect("it is shipped");
        peak(
            job,
            &Machine {
                gpu,
                num_gpus: Some(gpus),
            },
        )
    }

    #[test]
    fn states_take_eighteen_bytes_per_trained_parameter() {
        let memory = peak_of(&Job::new(1e9), 1);
        assert!((memory.states_gib - 18e9 / GIB).abs() < 1e-9, "{memory:?}");
        let pure = Job {
            pure_16_bit: Some(true),
            ..Job::new(1e9)
        };
        assert!((peak_of(&pure, 1).states_gib - 8e9 / GIB).abs() < 1e-9);
    }

    #[test]
    fn adapters_take_the_frozen_weights_and_little_more() {
        let lora = Job {
            method: Method::Lora,
            ..Job::new(7e9)
        };
        let qlora = Job {
            method: Method::Qlora,
            ..lora.clone()
        };
        assert!((13.0..15.0).contains(&peak_of(&lora, 1).states_gib));
        assert!((3.7..5.0).contains(&peak_of(&qlora, 1).states_gib));
    }

    #[test]
    fn sharding_divides_states_and_not_activations() {
        let job = Job {
            micro_batch: Some(1.0),
            ..Job::new(7e9)
        };
        let (two, eight) = (peak_of(&job, 2), peak_of(&job, 8));
        assert!((two.states_gib / eight.states_gib - 4.0).abs() < 1e-9);
        assert_eq!(two.activations_gib, eight.activations_gib);
    }

    #[test]
    fn a_large_model_on_a_cluster_is_split_though_nobody_says_so() {
        let memory = peak_of(&Job::new(175e9), 512);
        assert!(memory.states_gib < 40.0, "{memory:?}");
    }

    #[test]
    fn adapters_are_not_split_where_their_frozen_weights_fit_a_card() {
        let job = Job {
            method: Method::Lora,
            layout: Layout {
                sharding: Some(Sharding::Optimizer),
                ..Layout::default()
            },
            ..Job::new(7e9)
        };
        assert!(peak_of(&job, 8).states_gib > 13.0, "{:?}", peak_of(&job, 8));
        let large = Job {
            params: 70e9,
            active_params: 70e9,
            ..job
        };
        assert!(peak_of(&large, 8).states_gib < 50.0);
    }

    #[test]
    fn frozen_weights_may_wait_in_the_hosts_memory() {
        let job = Job {
            method: Method::Lora,
            offload: true,
            layout: Layout {
                sharding: Some(Sharding::Everything),
                ..Layout::default()
            },
            ..Job::new(70e9)
        };
        assert!(peak_of(&job, 2).states_gib < 20.0);
    }

    #[test]
    fn a_stage_of_a_pipeline_keeps_what_is_under_way() {
        let job = Job {
            layout: Layout {
                pipeline: 4,
                ..Layout::default()
            },
            micro_batch: Some(1.0),
            seq_len: Some(2048.0),
            ..Job::new(1e9)
        };
        let one = Job {
            batch_tokens: Some(2.0 * 2048.0),
            ..job.clone()
        };
        let ratio = peak_of(&job, 8).activations_gib / peak_of(&one, 8).activations_gib;
        assert!((ratio - 4.0).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn recomputing_trades_activations_for_time() {
        let job = Job {
            micro_batch: Some(8.0),
            ..Job::new(1e9)
        };
        let again = Job {
            recompute: Some(Recompute::Full),
            ..job.clone()
        };
        assert!(peak_of(&job, 1).activations_gib > 5.0 * peak_of(&again, 1).activations_gib);
    }
}
