//! Which step the name of a checkpoint speaks of (pure): box and laptop must agree about it.

/// Suffix of what a restore is still writing; never a checkpoint.
pub const PARTIAL_SUFFIX: &str = ".spotter-partial";

/// The step in a checkpoint's name: the number after `step` or `iter`, else after `ckpt`, `checkpoint` or `epoch`, else
/// the last one that is not a rank, a shard, a version, a size (`7b`) or a decimal.
pub fn step_of(name: &str) -> Option<u64> {
    let lower = name.to_ascii_lowercase();
    // The number of a format is no step.
    let lower = match lower.rsplit_once('.') {
        Some((stem, "h5" | "hdf5" | "bz2" | "lz4")) => stem,
        _ => &lower,
    };
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

/// Whether the number in a checkpoint's name counts epochs and not steps, as far as the name says so.
pub fn counts_epochs(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let words: Vec<&str> = lower
        .split(|one: char| !one.is_ascii_alphabetic())
        .collect();
    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(word));
    has(&["epoch", "ep"]) && !has(&["step", "steps", "iter", "iters", "iteration", "it"])
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
        check("best.h5", None);
        check("ckpt-12.weights.h5", Some(12));
        check("last.npz", None);
        check("000000000000.npz", Some(0));
        check("9999999999999.pt", None);
        check("", None);
    }

    #[test]
    fn a_number_after_an_epoch_is_no_step() {
        let check = |name: &str, expected| assert_eq!(counts_epochs(name), expected, "{name}");
        check("epoch_3.pt", true);
        check("model-Epoch=3-val_loss=2.31.ckpt", true);
        check("epoch=3-step=400.ckpt", false);
        check("checkpoint-500", false);
        check("sleep_3.pt", false);
        check("", false);
    }
}
