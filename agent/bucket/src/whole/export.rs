//! What a training leaves for others rather than for itself (pure): the final model, the best one. A training goes on from one of these only
//! where nothing else is there.

use super::{
    beside::is_state,
    names::{is_checkpoint_file, is_description},
};

/// Words in the names of what nobody trains on.
const WORDS: [&str; 8] = [
    "best", "final", "export", "exported", "ema", "swa", "merged", "averaged",
];
/// Names of weights without anything else, as transformers calls them.
const WEIGHTS: [&str; 2] = ["pytorch_model", "adapter_model"];
/// Formats of weights alone.
const ENDINGS: [&str; 3] = [".safetensors", ".gguf", ".onnx"];

/// Whether a checkpoint of this name and these files is an export: it has no step, no state beside its weights, and a name or a format
/// that says so. A single file's path is empty, or that of the checkpoint.
pub fn is_export<'a>(path: &str, step: Option<u64>, files: impl Iterator<Item = &'a str>) -> bool {
    if step.is_some() {
        return false;
    }
    let name_of = |file: &'a str| file.rsplit('/').next().unwrap_or_default();
    let mut names: Vec<&str> = files.map(name_of).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        names.push(path);
    }
    let is_resumable = |name: &&str| {
        let args = name.starts_with("training_args");
        (is_state(name) && !args) || name.ends_with(".distcp") || *name == "trainer_state.json"
    };
    if names.iter().any(is_resumable) {
        return false;
    }
    let lower = path.to_ascii_lowercase();
    let mut words = lower.split(|one: char| !one.is_ascii_alphanumeric());
    let is_weights = |name: &&str| {
        let lower = name.to_ascii_lowercase();
        let stem = lower.split(['.', '-']).next().unwrap_or_default();
        ENDINGS.iter().any(|ending| lower.ends_with(ending)) || WEIGHTS.contains(&stem)
    };
    let mut weights = names.iter().filter(|name| {
        let aside = is_description(name) || is_state(name);
        !aside && is_checkpoint_file(name)
    });
    words.any(|word| WORDS.contains(&word))
        || (weights.clone().next().is_some() && weights.all(is_weights))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_neither_a_step_nor_state_is_an_export() {
        let check = |path: &str, files: &[&str], expected: bool| {
            let step = crate::names::step_of(path);
            let found = is_export(path, step, files.iter().copied());
            assert_eq!(found, expected, "{path} {files:?}");
        };
        for name in [
            "best.pt",
            "model_best.pth.tar",
            "final.pt",
            "model.safetensors",
            "m.gguf",
            "ema-model.pt",
        ] {
            check(name, &[""], true);
        }
        for name in [
            "ckpt.pt",
            "last.ckpt",
            "model.pt",
            "latest.npz",
            "best-300.pt",
            "step_5.safetensors",
        ] {
            check(name, &[""], false);
        }
        check("final", &["model.pt"], true);
        check("final", &["model.pt", "optimizer.pt"], false);
        check("last", &["model.pt"], false);
        check("out", &["config.json", "model.safetensors"], true);
        let export = ["model-1-of-1.safetensors", "training_args.bin"];
        check("model-files", &export, true);
        let state = ["model.safetensors", "optimizer.bin", "random_states_0.pkl"];
        check("model-files", &state, false);
        check(
            "ckpt_rank-files",
            &["ckpt_rank0.pt", "ckpt_rank1.pt"],
            false,
        );
    }
}
