//! Hugging Face's Trainer: `checkpoint-N` whose last file is `trainer_state.json`.
//!
//! Deleting one takes its files away in any order, so that a half-deleted one may still hold that file: every file that the Trainer
//! always writes is asked for, and the set must not be smaller than that of the checkpoint before (`shape.rs`).

use std::io;

use super::{Opinion, Silence, View};

const STATE: &str = "trainer_state.json";
/// Any of these at the top tells a Trainer's directory from that of another program with the same name.
const SIGNS: [&str; 8] = [
    STATE,
    "training_args.bin",
    "config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "generation_config.json",
];
/// Written before `trainer_state.json`, so that a newer one belongs to a later save into the same directory.
const BEFORE: [&str; 5] = [
    "model.safetensors",
    "pytorch_model.bin",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
];

pub(super) fn judge(view: &View<'_>) -> io::Result<Opinion> {
    let number = view.name().strip_prefix("checkpoint-");
    let Some(step) = number.and_then(|number| number.parse::<u64>().ok()) else {
        return Ok(Opinion::None);
    };
    let is_trainers = SIGNS.iter().any(|name| view.has(name))
        || view.names("").any(|name| name.starts_with("rng_state"));
    if !is_trainers {
        return Ok(Opinion::None);
    }
    let missing = |what: &str| Ok(Opinion::Missing(what.to_owned()));
    let Some(state) = view.file(STATE) else {
        return missing("trainer_state.json is not there");
    };
    let text = view.read(STATE)?.unwrap_or_default();
    if step_in(&text) != Some(step) {
        return Ok(Opinion::Missing(format!(
            "trainer_state.json does not say that it is of step {step}"
        )));
    }
    if !view.candidate.files.iter().any(|file| is_model(&file.path)) {
        return missing("no model is there");
    }
    let later = BEFORE
        .iter()
        .filter_map(|name| view.file(name))
        .find(|file| file.mtime_ns > state.mtime_ns);
    if let Some(later) = later {
        return Ok(Opinion::Missing(format!(
            "{} is newer than trainer_state.json, which is written last",
            later.path
        )));
    }
    let ranks = view
        .names("")
        .filter(|name| name.starts_with("rng_state_"))
        .count();
    let has_state = ranks > 0 || view.has("rng_state.pth");
    if !view.has("training_args.bin") && !has_state {
        return missing("neither training_args.bin nor rng_state.pth is there");
    }
    // Other ranks' random states are in no order with the rest, and how many there are nobody says.
    let silence = if ranks > 0 {
        Silence::Unordered
    } else {
        Silence::File
    };
    Ok(Opinion::Done {
        rule: "hf-trainer",
        silence,
    })
}

/// `global_step` of a trainer's state. Python writes NaN for a loss that is none, which JSON does not know.
fn step_in(text: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct State {
        global_step: u64,
    }
    if let Ok(state) = serde_json::from_slice::<State>(text) {
        return Some(state.global_step);
    }
    let text = std::str::from_utf8(text).ok()?.trim_end();
    // Whole at least by its last bracket.
    text.strip_suffix('}')?;
    let after = text.split_once("\"global_step\":")?.1.trim_start();
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    after[..digits].parse().ok()
}

fn is_model(path: &str) -> bool {
    let name = super::split(path).1;
    name.starts_with("model")
        || name.starts_with("pytorch_model")
        || name.starts_with("adapter_model")
        || name.ends_with(".distcp")
        || name.ends_with("_model_states.pt")
        || (name.ends_with(".safetensors") && !path.contains('/'))
        || name == "tf_model.h5"
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;

    fn whole() -> Memory {
        Memory::of(&[
            ("checkpoint-500/config.json", 1, b"{}"),
            ("checkpoint-500/model.safetensors", 2, b"m"),
            ("checkpoint-500/training_args.bin", 3, b"a"),
            ("checkpoint-500/optimizer.pt", 4, b"o"),
            ("checkpoint-500/rng_state.pth", 5, b"r"),
            (
                "checkpoint-500/trainer_state.json",
                6,
                b"{\"global_step\": 500, \"log\": [NaN]}",
            ),
        ])
    }

    #[test]
    fn a_trainers_directory_is_whole_with_its_state_and_its_model() {
        assert_eq!(whole().says("checkpoint-500"), "hf-trainer File");
        let several = || {
            let mut several = whole().without("checkpoint-500/rng_state.pth");
            for rank in 0..2 {
                several.0.insert(
                    format!("checkpoint-500/rng_state_{rank}.pth"),
                    (9, b"r".to_vec()),
                );
            }
            several
        };
        assert_eq!(several().says("checkpoint-500"), "hf-trainer Unordered");
        assert_eq!(
            several()
                .without("checkpoint-500/training_args.bin")
                .says("checkpoint-500"),
            "hf-trainer Unordered"
        );
    }

    #[test]
    fn what_is_half_written_or_half_deleted_is_named() {
        let check = |files: Memory, expected: &str| {
            let found = files.says("checkpoint-500");
            assert!(found.contains(expected), "{found:?}, expected {expected:?}");
        };
        check(
            whole().without("checkpoint-500/trainer_state.json"),
            "trainer_state.json is not there",
        );
        check(
            whole().without("checkpoint-500/model.safetensors"),
            "no model",
        );
        check(
            whole()
                .without("checkpoint-500/training_args.bin")
                .without("checkpoint-500/rng_state.pth"),
            "neither training_args.bin",
        );
        let mut other_step = whole();
        other_step.0.insert(
            "checkpoint-500/trainer_state.json".into(),
            (6, b"{\"global_step\": 400}".to_vec()),
        );
        check(other_step, "does not say that it is of step 500");
        let mut saved_again = whole();
        saved_again.0.insert(
            "checkpoint-500/model.safetensors".into(),
            (7, b"n".to_vec()),
        );
        check(saved_again, "model.safetensors is newer");
    }

    #[test]
    fn directories_of_other_programs_with_that_name_are_not_the_trainers() {
        let files = Memory::of(&[
            ("checkpoint-5/model.safetensors", 1, b"m"),
            ("checkpoint-5/optimizer.bin", 2, b"o"),
            ("checkpoint-5/random_states_0.pkl", 3, b"r"),
        ]);
        assert_eq!(files.says("checkpoint-5"), "nobody's");
    }
}
