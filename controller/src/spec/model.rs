//! `model`: what is trained, as far as a forecast needs to know. The training itself never reads it.

use serde::{Deserialize, Serialize};

use crate::estimate::{
    job::{Job, Layout, Method, Optimizer, Precision, Recompute, Shape, Sharding},
    notes,
    stacks::Stack,
};

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Name, such as `Llama 3.1 8B`; its family tells the vocabulary.
    pub name: Option<String>,
    /// Parameters, all of them.
    pub params: f64,
    /// Parameters that one token meets, in a mixture of experts.
    pub active_params: Option<f64>,
    /// Parameters that are trained; `None`: all, or what adapters usually have.
    pub trainable_params: Option<f64>,
    /// What of it is trained.
    pub method: Method,
    /// Number format.
    pub precision: Precision,
    /// Tokens to train on, all epochs together; `None`: no time can be told.
    pub tokens: Option<f64>,
    /// Tokens of a sequence.
    pub seq_len: Option<u32>,
    /// Sequences per GPU in one forward pass.
    pub micro_batch: Option<u32>,
    /// Tokens of all GPUs between two optimizer steps.
    pub batch_tokens: Option<f64>,
    /// Layers and width.
    pub layers: Option<u32>,
    /// Width of the residual stream.
    pub hidden: Option<u32>,
    /// Size of the vocabulary.
    pub vocab: Option<u32>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Optimizer states live in the host's memory.
    pub offload: bool,
    /// What is computed again in the backward pass.
    pub recompute: Option<Recompute>,
    /// `torch.compile`.
    pub compile: Option<bool>,
    /// What the GPUs keep one copy of.
    pub sharding: Option<Sharding>,
    /// How attention is computed.
    pub attention: Attention,
    /// The program that trains.
    pub stack: Option<String>,
    /// Data and weights that the box downloads, GB.
    pub download_gb: f64,
    /// Setting up and debugging on the box, hours; `None`: as is usual.
    pub setup_hours: Option<f64>,
}

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attention {
    /// PyTorch's own, which runs everywhere.
    Sdpa,
    /// FlashAttention 2: compute capability 8.0 and newer.
    Flash2,
    /// FlashAttention 3: Hopper, 9.0.
    Flash3,
    /// With a stored matrix of scores.
    Stored,
}

impl Model {
    /// The same for the estimator.
    pub fn job(&self) -> Job {
        let shape = self.layers.zip(self.hidden).map(|(layers, hidden)| Shape {
            layers: f64::from(layers),
            hidden: f64::from(hidden),
        });
        let usual = Job::new(self.params);
        let family = self.name.as_deref().map(str::to_lowercase);
        Job {
            active_params: self.active_params.unwrap_or(self.params),
            experts: self
                .active_params
                .is_some_and(|active| active < self.params),
            trainable_params: self.trainable_params,
            method: self.method,
            precision: self.precision,
            seq_len: self.seq_len.map(f64::from),
            micro_batch: self.micro_batch.map(f64::from),
            batch_tokens: self.batch_tokens,
            optimizer: self.optimizer,
            recompute: self.recompute,
            offload: self.offload,
            compile: self.compile,
            flash_attention: self.attention != Attention::Stored,
            layout: Layout {
                sharding: self.sharding,
                ..Layout::default()
            },
            stack: self.stack.as_deref().and_then(Stack::named),
            vocab: self
                .vocab
                .map(f64::from)
                .or_else(|| notes::vocabulary(&family?))
                .unwrap_or(usual.vocab),
            shape,
            ..usual
        }
        .with_conventions()
    }
}
