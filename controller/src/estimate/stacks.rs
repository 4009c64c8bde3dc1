//! Programs that train, and what each is known to do unless told otherwise (pure).
//!
//! These are conventions of the programs, from their documents and default configurations, not figures fitted to runs.

use super::job::{Recompute, Sharding};

/// A program that trains.
#[derive(Debug, PartialEq, Eq)]
pub struct Stack {
    /// Its name.
    pub name: &'static str,
    /// What it is called in descriptions of runs, in small letters.
    words: &'static [&'static str],
    /// How much work went into its speed.
    pub tuning: Tuning,
    /// Keeps weights and states in 16 bits only.
    pub pure_16_bit: bool,
    /// What it recomputes by default.
    pub recompute: Option<Recompute>,
    /// Computes the loss in pieces by default.
    pub chunked_loss: bool,
    /// What it shards by default.
    pub sharding: Option<Sharding>,
}

/// How much work went into the speed of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuning {
    /// Written for speed.
    Tuned,
    /// Neither.
    Usual,
    /// Written for convenience.
    Plain,
}

const fn stack(name: &'static str, words: &'static [&'static str], tuning: Tuning) -> Stack {
    Stack {
        name,
        words,
        tuning,
        pure_16_bit: false,
        recompute: None,
        chunked_loss: false,
        sharding: None,
    }
}

/// The first that matches is taken, so forks stand before what they were made from.
static STACKS: [Stack; 15] = [
    Stack {
        sharding: Some(Sharding::Optimizer),
        ..stack("megatron", &["megatron", "nemo"], Tuning::Tuned)
    },
    Stack {
        recompute: Some(Recompute::Nothing),
        ..stack("nanochat", &["nanochat"], Tuning::Tuned)
    },
    stack("llm.c", &["llm.c"], Tuning::Tuned),
    stack("nanogpt", &["nanogpt"], Tuning::Tuned),
    stack(
        "llm-foundry",
        &["llm-foundry", "llm foundry"],
        Tuning::Tuned,
    ),
    stack("torchtitan", &["torchtitan"], Tuning::Tuned),
    stack(
        "flash-attention",
        &["dao-ailab/flash-attention"],
        Tuning::Tuned,
    ),
    Stack {
        pure_16_bit: true,
        recompute: Some(Recompute::Full),
        chunked_loss: true,
        ..stack("torchtune", &["torchtune"], Tuning::Usual)
    },
    Stack {
        pure_16_bit: true,
        recompute: Some(Recompute::Full),
        chunked_loss: true,
        ..stack("unsloth", &["unsloth"], Tuning::Usual)
    },
    Stack {
        pure_16_bit: true,
        recompute: Some(Recompute::Nothing),
        ..stack("litgpt", &["litgpt", "lit-gpt"], Tuning::Usual)
    },
    Stack {
        recompute: Some(Recompute::Full),
        ..stack(
            "llama-factory",
            &["llama-factory", "llamafactory"],
            Tuning::Plain,
        )
    },
    Stack {
        recompute: Some(Recompute::Full),
        ..stack("axolotl", &["axolotl"], Tuning::Plain)
    },
    stack("deepspeed", &["deepspeed"], Tuning::Plain),
    stack("trl", &["/trl", "trl ", "sfttrainer"], Tuning::Plain),
    stack(
        "transformers",
        &[
            "transformers",
            "huggingface",
            "hugging face",
            "/peft",
            "peft ",
            "hf trainer",
            "ms-swift",
            "xtuner",
            "lmflow",
            "fastchat",
            "alpaca-lora",
            "llama-recipes",
            "llama-cookbook",
        ],
        Tuning::Plain,
    ),
];

impl Stack {
    /// The stack that a description names.
    pub fn in_text(text: &str) -> Option<&'static Self> {
        let text = text.to_lowercase();
        STACKS
            .iter()
            .find(|stack| stack.words.iter().any(|word| text.contains(word)))
    }

    /// The stack of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        STACKS.iter().find(|stack| stack.name == name)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        STACKS.iter().map(|stack| stack.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_found_by_its_words_and_by_its_name() {
        let name = |text: &str| Stack::in_text(text).map(|stack| stack.name);
        assert_eq!(name("deepspeedai/Megatron-DeepSpeed"), Some("megatron"));
        assert_eq!(name("a run with DeepSpeed ZeRO-3"), Some("deepspeed"));
        assert_eq!(name("batch 2, FlashAttention 2"), None);
        assert_eq!(name("huggingface/peft: results"), Some("transformers"));
        for name in Stack::names() {
            assert_eq!(Stack::named(name).map(|stack| stack.name), Some(name));
        }
    }
}
