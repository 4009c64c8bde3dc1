//! What is trained and on what: the facts that an estimate needs, in our types (pure).

use serde::{Deserialize, Serialize};

use super::{gpus::Gpu, stacks::Stack};

/// What is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Parameters, all of them.
    pub params: f64,
    /// Parameters that one token meets: fewer than all in a mixture of experts, or where look-up tables hold many.
    pub active_params: f64,
    /// Most parameters are experts of which a token meets a few.
    pub experts: bool,
    /// Parameters that are trained; `None`: all, or what adapters usually have.
    pub trainable_params: Option<f64>,
    /// What of the model is trained.
    pub method: Method,
    /// Number format of the matrix products.
    pub precision: Precision,
    /// Tokens of a sequence.
    pub seq_len: Option<f64>,
    /// Mean tokens of a sample, where samples are neither packed nor padded.
    pub mean_tokens: Option<f64>,
    /// Tokens of the longest sample, where that is not the sequence length.
    pub longest_tokens: Option<f64>,
    /// Sequences per GPU in one forward pass.
    pub micro_batch: Option<f64>,
    /// Tokens of all GPUs between two optimizer steps.
    pub batch_tokens: Option<f64>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Weights, gradients and optimizer states all in 16 bits, without an fp32 copy.
    pub pure_16_bit: Option<bool>,
    /// Gradients are used up during the backward pass.
    pub fused_backward: bool,
    /// Which activations are computed again in the backward pass.
    pub recompute: Option<Recompute>,
    /// The loss is computed in pieces, so that the logits of a whole batch never exist.
    pub chunked_loss: bool,
    /// Optimizer states, or more, live in the host's memory.
    pub offload: bool,
    /// `torch.compile` or kernels written by hand.
    pub compile: Option<bool>,
    /// Attention without a stored matrix of scores.
    pub flash_attention: bool,
    /// How the model is spread over GPUs.
    pub layout: Layout,
    /// The program that trains it.
    pub stack: Option<&'static Stack>,
    /// Size of the vocabulary.
    pub vocab: f64,
    /// Layers and width, where known.
    pub shape: Option<Shape>,
}

/// What of the model is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Every weight.
    Full,
    /// Adapters beside frozen 16-bit weights.
    Lora,
    /// Adapters beside frozen 4-bit weights.
    Qlora,
}

/// Number format of the matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 16 bits with the range of fp32.
    Bf16,
    /// IEEE half precision.
    Fp16,
    /// Single precision on the vector units.
    Fp32,
    /// Single precision in the tensor cores, at half their 16-bit rate.
    Tf32,
    /// 8-bit products, 16 bits elsewhere.
    Fp8,
}

/// The optimizer, as far as memory is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Two fp32 states per parameter.
    Adam,
    /// Two 8-bit states.
    Adam8bit,
    /// Two 8-bit states that may leave for the host's memory.
    PagedAdam8bit,
    /// One state for matrices, two for the rest.
    Muon,
    /// One state: momentum, Lion.
    Momentum,
    /// Next to none: plain SGD, Adafactor.
    Stateless,
}

/// Which activations are computed again in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// None: all are stored.
    Nothing,
    /// The cheap ones.
    Selective,
    /// Everything but the inputs of the layers.
    Full,
}

/// How a model is spread over GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// What data-parallel GPUs keep one copy of; `None`: not stated.
    pub sharding: Option<Sharding>,
    /// GPUs that share each matrix.
    pub tensor: u32,
    /// GPUs that share the layers.
    pub pipeline: u32,
    /// GPUs that share each sequence.
    pub context: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            sharding: None,
            tensor: 1,
            pipeline: 1,
            context: 1,
        }
    }
}

/// What data-parallel GPUs keep only one copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharding {
    /// Nothing: each has all (DDP).
    Nothing,
    /// Optimizer states and fp32 weights (ZeRO-1, distributed optimizer).
    Optimizer,
    /// Everything (FSDP, ZeRO-3).
    Everything,
}

/// Layers and width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Layers.
    pub layers: f64,
    /// Width of the residual stream.
    pub hidden: f64,
}

/// Where it is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine<'a> {
    /// The GPU.
    pub gpu: &'a Gpu,
    /// How many; `None`: not stated, a cluster.
    pub num_gpus: Option<u32>,
}

/// GPUs of a cluster of which the number is not stated.
const UNSTATED_GPUS: f64 = 64.0;

impl Machine<'_> {
    /// GPUs, for what grows slowly with them.
    pub fn gpus(&self) -> f64 {
        self.num_gpus.map_or(UNSTATED_GPUS, f64::from)
    }
}

impl Job {
    /// A job of which only the size is known; everything else is as is usual.
    pub fn new(params: f64) -> Self {
        Self {
            params,
            active_params: params,
            experts: false,
            trainable_params: None,
            method: Method::Full,
            precision: Precision::Bf16,
            seq_len: None,
            mean_tokens: None,
            longest_tokens: None,
            micro_batch: None,
            batch_tokens: None,
            optimizer: Optimizer::Adam,
            pure_16_bit: None,
            fused_backward: false,
            recompute: None,
            chunked_loss: false,
            offload: false,
            compile: None,
            flash_attention: true,
            layout: Layout::default(),
            stack: None,
            vocab: 50_304.0,
            shape: None,
        }
    }

    /// Fills in what its training stack is known to do unless told otherwise.
    pub fn with_conventions(mut self) -> Self {
        if let Some(stack) = self.stack {
            self.pure_16_bit = self.pure_16_bit.or(stack.pure_16_bit.then_some(true));
            self.recompute = self.recompute.or(stack.recompute);
            self.chunked_loss |= stack.chunked_loss;
            self.layout.sharding = self.layout.sharding.or(stack.sharding);
        }
        self
    }

    /// Tokens of a sequence. Unstated, texts of pretraining fill 2,048, and samples of instructions are shorter.
    pub fn seq_len(&self) -> f64 {
        self.seq_len.unwrap_or(match self.method {
            Method::Full => 2048.0,
            Method::Lora | Method::Qlora => 1024.0,
        })
    }

    /// Trained parameters. Adapters of the usual rank hold about half a percent of the model.
    pub fn trainable_params(&self) -> f64 {
        self.trainable_params.unwrap_or(match self.method {
            Method::Full => self.params,
            Method::Lora | Method::Qlora => 0.005 * self.params,
        })
    }

    /// Sequences per GPU in one forward pass. Unstated, it is what people choose: about 16,384 tokens for small models, fewer for
    /// large ones.
    pub fn micro_batch(&self) -> f64 {
        self.micro_batch.unwrap_or_else(|| {
            let tokens = if self.params < 1e9 {
                16_384.0
            } else if self.params < 5e9 {
                8_192.0
            } else {
                4_096.0
            };
            f64::max(1.0, (tokens / self.seq_len()).round())
        })
    }

    /// Tokens that one GPU works on in one forward pass.
    pub fn micro_tokens(&self) -> f64 {
        self.micro_batch() * self.mean_tokens.unwrap_or_else(|| self.seq_len())
    }

    /// What the GPUs keep one copy of. Unstated, one GPU and small models copy everything; larger ones are sharded whole on one
    /// host, and by the optimizer's states on a cluster.
    pub fn sharding(&self, machine: &Machine<'_>) -> Sharding {
        let split = self.layout.tensor * self.layout.pipeline > 1;
        let large = match self.method {
            Method::Full => self.params > 2e9,
            Method::Lora | Method::Qlora => self.params > 20e9,
        };
        match (machine.num_gpus, self.layout.sharding) {
            (Some(1), _) => Sharding::Nothing,
            (_, Some(sharding)) => sharding,
            (_, None) if !large => Sharding::Nothing,
            (Some(gpus), None) if gpus <= machine.gpu.domain() && !split => Sharding::Everything,
            (_, None) => Sharding::Optimizer,
        }
    }

    /// Layers times width. Where the shape is not known it follows the sizes that GPT-2 and GPT-3 were trained in, from which later
    /// dense models hardly depart: 9,216 at 124 M parameters, growing with the power 2/3.
    pub fn layers_times_hidden(&self) -> f64 {
        match self.shape {
            Some(shape) => shape.layers * shape.hidden,
            None => 9_216.0 * (self.compute_params() / 124e6).powf(2.0 / 3.0),
        }
    }

    /// Width of the residual stream: 768 at 124 M parameters, growing with the power 0.4.
    pub fn hidden(&self) -> f64 {
        match self.shape {
            Some(shape) => shape.hidden,
            None => 768.0 * (self.compute_params() / 124e6).powf(0.4),
        }
    }

    /// Layers.
    pub fn layers(&self) -> f64 {
        self.layers_times_hidden() / self.hidden()
    }

    /// Parameters that a token is multiplied with.
    pub fn compute_params(&self) -> f64 {
        self.active_params.min(self.params)
    }
}
