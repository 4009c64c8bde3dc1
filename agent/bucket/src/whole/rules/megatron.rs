//! Megatron-LM: `iter_NNNNNNN` with the files of every rank, and a tracker beside it that is written after a barrier.

use std::io;

use super::{Opinion, Silence, View};

/// The tracker's name.
pub(super) const TRACKER: &str = "latest_checkpointed_iteration.txt";

pub(super) fn judge(view: &View<'_>) -> io::Result<Opinion> {
    let number = view.name().strip_prefix("iter_");
    let Some(step) = number.and_then(|number| number.parse::<u64>().ok()) else {
        return Ok(Opinion::None);
    };
    let is_megatrons = |path: &str| {
        let name = super::split(path).1;
        matches!(
            name,
            "model_optim_rng.pt" | "distrib_optim.pt" | "common.pt"
        ) || name.ends_with(".distcp")
    };
    if !view
        .candidate
        .files
        .iter()
        .any(|file| is_megatrons(&file.path))
    {
        return Ok(Opinion::None);
    }
    // It is opened for writing before it has any content: an empty one says nothing yet.
    let tracker = view.read_beside("", TRACKER)?.unwrap_or_default();
    let newest = String::from_utf8_lossy(&tracker).trim().parse::<u64>();
    if newest.is_ok_and(|newest| newest >= step) {
        // Newer versions write tokenizer files after the tracker.
        return Ok(Opinion::Done {
            rule: "megatron",
            silence: Silence::Unordered,
        });
    }
    Ok(Opinion::Missing(format!(
        "{TRACKER} does not say iteration {step} yet"
    )))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;

    #[test]
    fn the_tracker_must_have_come_as_far() {
        let check = |tracker: Option<&str>, expected: &str| {
            let mut files = Memory::of(&[("iter_0000200/mp_rank_00/model_optim_rng.pt", 1, b"m")]);
            if let Some(text) = tracker {
                files.0.insert(super::TRACKER.into(), (2, text.into()));
            }
            let found = files.says("iter_0000200");
            assert!(found.contains(expected), "{tracker:?}: {found:?}");
        };
        check(Some("200"), "megatron Unordered");
        check(Some("300\n"), "megatron Unordered");
        check(Some("100"), "does not say iteration 200 yet");
        check(Some(""), "does not say");
        check(None, "does not say");
        let other = Memory::of(&[("iter_0000200/weights.bin", 1, b"m")]);
        assert_eq!(other.says("iter_0000200"), "nobody's");
    }
}
