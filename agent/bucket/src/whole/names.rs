//! What a name in the checkpoint directory says: temporary or not, a checkpoint or not, of which step (pure).
//!
//! The forms are those that trainers really write; anything unknown is left to the box's settle time.

pub use crate::names::{PARTIAL_SUFFIX, step_of};

/// Suffix of what a restore moved out of the way; never a checkpoint.
pub const REPLACED_SUFFIX: &str = ".spotter-replaced";

/// Endings under which trainers keep weights and state. One of these makes a file a checkpoint even without a number.
const CHECKPOINT_ENDINGS: [&str; 20] = [
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".safetensors",
    ".npz",
    ".npy",
    ".pkl",
    ".pickle",
    ".h5",
    ".hdf5",
    ".keras",
    ".msgpack",
    ".distcp",
    ".gguf",
    ".onnx",
    ".zip",
    ".tar",
    ".orbax",
    ".ocdbt",
];

/// Endings of what trainers write beside checkpoints and go on appending to: a number in such a name is not a step.
const NEVER_ENDINGS: [&str; 6] = [".log", ".lock", ".out", ".err", ".jsonl", ".csv"];

/// Whether a name is that of an unfinished file, which its writer renames or removes.
pub fn is_temporary(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.starts_with(".tmp")
        || lower.starts_with("tmp-")
        || lower.starts_with("tmp_")
        || lower.ends_with(".tmp")
        || lower.ends_with("_tmp")
        || lower.ends_with(".part")
        || lower.ends_with(".partial")
        || lower.ends_with(".incomplete")
        || lower.ends_with('~')
        || lower.contains(".orbax-checkpoint-tmp")
        || lower.ends_with(PARTIAL_SUFFIX)
        || lower.ends_with(REPLACED_SUFFIX)
        || has_random_tmp_suffix(&lower)
}

/// `model.pt.tmp.12345` and `model.pt.tmpXk3`: a writer that made its temporary name unique.
fn has_random_tmp_suffix(lower: &str) -> bool {
    let Some(at) = lower.rfind(".tmp") else {
        return false;
    };
    let rest = &lower[at + 4..];
    rest.len() <= 16
        && rest
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// Whether an entry of the checkpoint directory is passed over by its name alone.
pub fn is_ignored(name: &str) -> bool {
    // A file system's own `lost+found` is root's alone, and nobody's checkpoint.
    name.starts_with('.')
        || is_temporary(name)
        || name.starts_with("events.out.tfevents")
        || name == "lost+found"
}

/// Whether a file only describes a model, as those that a writer begins a directory with: no checkpoint consists of such.
pub fn is_description(name: &str) -> bool {
    const ENDINGS: [&str; 7] = [".json", ".txt", ".yaml", ".yml", ".md", ".jinja", ".py"];
    let lower = name.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| lower.ends_with(ending))
}

/// Whether the ending of a file says that it holds weights or state.
pub fn is_checkpoint_file(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    CHECKPOINT_ENDINGS
        .iter()
        .any(|ending| lower.ends_with(ending))
}

/// Whether a file at the top of the checkpoint directory is a checkpoint, or belongs to one.
pub fn is_candidate_file(name: &str) -> bool {
    if is_ignored(name) {
        return false;
    }
    is_checkpoint_file(name) || (step_of(name).is_some() && !is_never(name))
}

/// Whether a file is called as logs are, and other things that are no part of any checkpoint.
pub fn is_never(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    NEVER_ENDINGS.iter().any(|ending| lower.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_names_are_told_from_finished_ones() {
        for name in [
            ".tmpA1b2C3",
            "model.pt.tmp",
            "x.part",
            "step_5.orbax-checkpoint-tmp-17",
            "tmp-checkpoint-50",
            "a.spotter-partial",
            "last.npz.tmp.4711",
            "w.bin.incomplete",
            "ckpt.pt.tmpXk3",
            "old.spotter-replaced",
        ] {
            assert!(is_temporary(name), "{name}");
        }
        for name in [
            "ckpt.pt",
            "template.pt",
            "my.tmpl/weights",
            "checkpoint-5",
            "departed.bin",
        ] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn only_what_belongs_to_a_checkpoint_is_a_candidate() {
        for name in [
            "ckpt.pt",
            "last.npz",
            "meta_000100.json",
            "step-7",
            "MODEL.SAFETENSORS",
        ] {
            assert!(is_candidate_file(name), "{name}");
        }
        for name in [
            "latest",
            "metrics.jsonl",
            "train_3.log",
            "config.json",
            ".hidden.pt",
            "events.out.tfevents.1700000000.box",
            "notes.txt",
        ] {
            assert!(!is_candidate_file(name), "{name}");
        }
    }
}
