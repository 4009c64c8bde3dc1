//! What a name in the checkpoint directory says: temporary or not, a checkpoint or not, of which step (pure).
//!
//! The forms are those that trainers really write; anything unknown is left to the settle time in `complete.rs`.

/// Suffix of what a restore is still writing; never a checkpoint.
pub const PARTIAL_SUFFIX: &str = ".spotter-partial";

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
    name.starts_with('.') || is_temporary(name) || name.starts_with("events.out.tfevents")
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
    let lower = name.to_ascii_lowercase();
    is_checkpoint_file(name)
        || (step_of(name).is_some() && !NEVER_ENDINGS.iter().any(|ending| lower.ends_with(ending)))
}

/// The step in a checkpoint's name: the number after `step` or `iter`, else after `ckpt`, `checkpoint` or `epoch`, else
/// the last one that is not a rank, a shard, a version, a size (`7b`) or a decimal.
pub fn step_of(name: &str) -> Option<u64> {
    let lower = name.to_ascii_lowercase();
    let bytes = lower.as_bytes();
    let mut best: Option<(u8, u64)> = None;
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let start = at;
        while at < bytes.len() && bytes[at].is_ascii_digit() {
            at += 1;
        }
        // A step has at most twelve digits in the name of a commit.
        let digits = lower[start..at].trim_start_matches('0');
        if digits.len() > 12 {
            continue;
        }
        let Some(weight) = weight_of_number(&lower[..start], &lower[at..]) else {
            continue;
        };
        let value = if digits.is_empty() {
            0
        } else {
            digits.parse().ok()?
        };
        if best.is_none_or(|(heaviest, _)| weight >= heaviest) {
            best = Some((weight, value));
        }
    }
    best.map(|(_, value)| value)
}

/// How much a number looks like the step, from what stands before and after it; `None`: it is something else.
fn weight_of_number(before: &str, after: &str) -> Option<u8> {
    let next = after.bytes().next();
    if next.is_some_and(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    if after.starts_with("-of-")
        || after.starts_with("_of_")
        || before.ends_with("-of-")
        || before.ends_with("_of_")
    {
        return None;
    }
    // The halves of a decimal, as in `val_loss=2.31`.
    if next == Some(b'.') && after.as_bytes().get(1).is_some_and(u8::is_ascii_digit) {
        return None;
    }
    if before.ends_with('.')
        && before
            .as_bytes()
            .iter()
            .rev()
            .nth(1)
            .is_some_and(u8::is_ascii_digit)
    {
        return None;
    }
    let word = before.trim_end_matches(['-', '_', '=', '.', ' ']);
    let letters_from = word
        .bytes()
        .rposition(|byte| !byte.is_ascii_alphabetic())
        .map_or(0, |at| at + 1);
    match &word[letters_from..] {
        "rank" | "v" | "version" | "shard" | "worker" | "seed" | "lr" | "loss" | "part"
        | "fold" => None,
        "step" | "steps" | "iter" | "iters" | "iteration" | "it" => Some(3),
        "ckpt" | "checkpoint" | "epoch" | "ep" => Some(2),
        _ => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_the_number_that_trainers_mean() {
        let check =
            |name: &str, expected: Option<u64>| assert_eq!(step_of(name), expected, "{name}");
        check("checkpoint-500", Some(500));
        check("step_000123.pt", Some(123));
        check("iter_0001000", Some(1000));
        check("global_step20", Some(20));
        check("epoch=3-step=400.ckpt", Some(400));
        check("epoch=3-val_loss=2.31.ckpt", Some(3));
        check("optim_000100_rank0.pt", Some(100));
        check("model_000100.pt", Some(100));
        check("model-00001-of-00002.safetensors", None);
        check("llama-7b.pt", None);
        check("llama-7b-00300.pt", Some(300));
        check("resnet_v2.pth", None);
        check("ckpt.pt", None);
        check("last.npz", None);
        check("000000000000.npz", Some(0));
        check("9999999999999.pt", None);
        check("", None);
    }

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
