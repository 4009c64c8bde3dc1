//! Which files without a step, side by side at the top of a checkpoint directory, are one checkpoint (pure).
//!
//! `trainer.save_model()` writes shards, their index and descriptions there, `accelerator.save_state()` weights with the state of everything
//! else, and some trainers a file of each rank. One of them alone is no checkpoint. Start at [`sort_out`].

use std::collections::BTreeMap;
use std::iter;

use super::{export::is_export, names::is_checkpoint_file};

/// What keys of such a checkpoint begin with; its name follows.
pub const KEY: &str = "flat:";
/// What its name in a manifest ends with, where it is that of a directory.
pub const SUFFIX: &str = "-files";

/// State that says nothing without the weights it belongs to; ranks and the like follow after `_`.
const STATES: [&str; 9] = [
    "training_args",
    "optimizer",
    "scheduler",
    "lr_scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "sampler",
    "dl_state_dict",
];

/// Such state of a few kilobytes, often one of each rank: by itself it is worth nothing.
const SMALL_STATES: [&str; 3] = ["training_args", "rng_state", "random_states"];

/// What transformers writes beside weights.
const DESCRIPTIONS: [&str; 17] = [
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "trainer_state.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
];

/// Weights to which state and descriptions belong, whatever else lies there.
const WEIGHTS: [&str; 3] = ["model", "adapter_model", "pytorch_model"];

/// Files of a directory, sorted out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sorted<'a> {
    /// Checkpoints of several files by name.
    pub together: BTreeMap<String, Vec<&'a str>>,
    /// Checkpoints of one file each.
    pub alone: Vec<&'a str>,
}

/// `model-00001-of-00004.safetensors`: prefix, number, count and ending.
pub fn shard(name: &str) -> Option<(&str, u64, u64, &str)> {
    let (stem, ending) = name.rsplit_once('.')?;
    let (before, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = before.rsplit_once('-')?;
    Some((prefix, number.parse().ok()?, count.parse().ok()?, ending))
}

/// A name without the number of its rank, and that number, where it has one: `ckpt_rank.pt` and `3` of `ckpt_rank3.pt`.
pub fn split_rank(name: &str) -> Option<(String, &str)> {
    let at = name.to_ascii_lowercase().rfind("rank")? + "rank".len();
    let rest = &name[at..];
    let number = rest.trim_start_matches(['_', '-']);
    let at = at + (rest.len() - number.len());
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    let (rank, after) = number.split_at(digits);
    (digits > 0).then(|| (format!("{}{after}", &name[..at]), rank))
}

/// Whether a file holds state that is nothing without weights.
pub fn is_state(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default();
    let stem = stem.trim_end_matches(|one: char| one.is_ascii_digit() || one == '_');
    is_checkpoint_file(name) && STATES.contains(&stem)
}

/// Whether a number in the name of a file with state counts ranks or pieces, and not steps: `rng_state_0.pth`, and `optimizer_1.bin` where
/// `optimizer.bin` is there, too.
pub fn is_piece_of_state(name: &str, is_there: impl Fn(&str) -> bool) -> bool {
    let (stem, ending) = name.split_once('.').unwrap_or((name, ""));
    let of_all = stem.trim_end_matches(|one: char| one.is_ascii_digit() || one == '_');
    is_state(name) && (is_small(name) || is_there(&format!("{of_all}.{ending}")))
}

fn is_small(name: &str) -> bool {
    SMALL_STATES.iter().any(|one| name.starts_with(one))
}

/// Whether a file describes weights: one that lies beside them, or the index of their shards.
pub fn is_description(name: &str) -> bool {
    DESCRIPTIONS.contains(&name) || name.ends_with(".index.json")
}

/// Sorts the names of files without a step.
pub fn sort_out<'a>(names: &[&'a str]) -> Sorted<'a> {
    let mut together: BTreeMap<String, Vec<&'a str>> = BTreeMap::new();
    let mut ranks: BTreeMap<String, Vec<&'a str>> = BTreeMap::new();
    let (mut states, mut alone) = (Vec::new(), Vec::new());
    for name in names
        .iter()
        .copied()
        .filter(|name| is_checkpoint_file(name))
    {
        if is_state(name) {
            states.push(name);
        } else if let Some((prefix, ..)) = shard(name) {
            together.entry(prefix.to_owned()).or_default().push(name);
        } else if let Some((of_all, _)) = split_rank(name) {
            ranks.entry(of_all).or_default().push(name);
        } else {
            alone.push(name);
        }
    }
    for (of_all, names) in ranks {
        match names.len() {
            1 => alone.extend(names),
            _ => together
                .entry(stem(&of_all).to_owned())
                .or_default()
                .extend(names),
        }
    }
    let main = WEIGHTS
        .into_iter()
        .find(|main| together.contains_key(*main) || alone.iter().any(|name| stem(name) == *main))
        .map(str::to_owned)
        .or_else(|| {
            // What is left for others, as `best.pt` is, claims no state where there is something else.
            let is_own = |name: &&str| !is_export(name, None, iter::empty());
            let own: Vec<&str> = alone.iter().copied().filter(is_own).collect();
            match (together.len(), &alone[..], &own[..]) {
                (1, _, []) => together.keys().next().cloned(),
                (0, [only], _) | (0, _, [only]) => Some(stem(only).to_owned()),
                _ => None,
            }
        });
    let described = names.iter().copied().filter(|name| is_description(name));
    match main {
        Some(main) => {
            if !states.is_empty() && !together.contains_key(&main) {
                let at = alone.iter().position(|name| stem(name) == main);
                let weights = at.map(|at| alone.remove(at));
                together.insert(main.clone(), weights.into_iter().collect());
            }
            if let Some(group) = together.get_mut(&main) {
                group.append(&mut states);
            }
            for name in described {
                let of = name.split('.').next().unwrap_or_default();
                let of = match name.ends_with(".index.json") {
                    true => of,
                    false => &main,
                };
                if let Some(group) = together.get_mut(of) {
                    group.push(name);
                }
            }
        }
        None => {
            // Whose it is nobody knows, and it may be all there is of it.
            alone.extend(states.into_iter().filter(|name| !is_small(name)));
            for name in described {
                let of = name.split('.').next().unwrap_or_default();
                if let Some(group) = together
                    .get_mut(of)
                    .filter(|_| name.ends_with(".index.json"))
                {
                    group.push(name);
                }
            }
        }
    }
    for group in together.values_mut() {
        group.sort_unstable();
    }
    alone.sort_unstable();
    Sorted { together, alone }
}

fn stem(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_is_one_and_small_state_alone_is_none() {
        let check = |names: &[&str], together: &[(&str, &[&str])], alone: &[&str]| {
            let expected = Sorted {
                together: (together.iter())
                    .map(|(name, files)| ((*name).to_owned(), files.to_vec()))
                    .collect(),
                alone: alone.to_vec(),
            };
            assert_eq!(sort_out(names), expected, "{names:?}");
        };
        let export = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "training_args.bin",
        ];
        check(&export, &[("model", &export)], &[]);
        let small = ["config.json", "model.safetensors", "training_args.bin"];
        check(&small, &[("model", &small)], &[]);
        check(&small[..2], &[], &["model.safetensors"]);
        check(
            &["training_args.bin", "config.json", "rng_state_0.pth"],
            &[],
            &[],
        );
        let accelerate = [
            "model.safetensors",
            "optimizer.bin",
            "random_states_0.pkl",
            "scheduler.bin",
        ];
        check(&accelerate, &[("model", &accelerate)], &[]);
        check(&["best.pt", "ckpt.pt"], &[], &["best.pt", "ckpt.pt"]);
        check(
            &["ckpt.pt", "optimizer.pt"],
            &[("ckpt", &["ckpt.pt", "optimizer.pt"])],
            &[],
        );
        // Nothing that may be the only one of its kind is left out.
        check(
            &["d.pt", "g.pt", "optimizer.pt", "scheduler.pt"],
            &[],
            &["d.pt", "g.pt", "optimizer.pt", "scheduler.pt"],
        );
        check(
            &["d.pt", "g.pt", "rng_state.pth", "training_args.bin"],
            &[],
            &["d.pt", "g.pt"],
        );
        check(&["optimizer.pt"], &[], &["optimizer.pt"]);
        let several = [
            "ema_rank0.pt",
            "ema_rank1.pt",
            "net_rank0.pt",
            "net_rank1.pt",
            "optimizer.pt",
        ];
        check(
            &several,
            &[("ema_rank", &several[..2]), ("net_rank", &several[2..4])],
            &several[4..],
        );
        // What is left for others takes no state away from what a training goes on from.
        let four = ["ckpt.pt", "optimizer.pt", "scaler.pt", "scheduler.pt"];
        check(&four, &[("ckpt", &four)], &[]);
        let with_best = [&["best.pt"][..], &four].concat();
        check(&with_best, &[("ckpt", &four)], &["best.pt"]);
        let of_ranks = ["best.pt", "ckpt_rank0.pt", "ckpt_rank1.pt", "optimizer.pt"];
        check(&of_ranks, &[("ckpt_rank", &of_ranks[1..])], &["best.pt"]);
        let best = ["best.pt", "optimizer.pt"];
        check(&best, &[("best", &best)], &[]);
        let ranks = ["ckpt_rank0.pt", "ckpt_rank1.pt"];
        check(&ranks, &[("ckpt_rank", &ranks)], &[]);
        check(&ranks[..1], &[], &ranks[..1]);
        let two = [
            "a-1-of-2.safetensors",
            "a-2-of-2.safetensors",
            "a.safetensors.index.json",
            "b-1-of-1.gguf",
        ];
        check(&two, &[("a", &two[..3]), ("b", &two[3..])], &[]);
        for (name, beside, expected) in [
            ("rng_state_0.pth", "", true),
            ("random_states_100.pkl", "", true),
            ("optimizer_100.pt", "", false),
            ("optimizer_1.bin", "optimizer.bin", true),
            ("optimizer_1.bin", "optimizer.pt", false),
            ("model_1.bin", "model.bin", false),
        ] {
            let found = is_piece_of_state(name, |other| other == beside);
            assert_eq!(found, expected, "{name} beside {beside}");
        }
        let split = split_rank("step100_rank_12.pt");
        assert_eq!(split, Some(("step100_rank_.pt".to_owned(), "12")));
        assert_eq!(split_rank("ranking.pt"), None);
    }
}
