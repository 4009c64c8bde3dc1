//! The file beside a checkpoint from which its trainer learns which one is the newest (pure).
//!
//! It lies outside of the checkpoint and changes with every step, so it is no part of any; a restore writes it anew, for without it
//! the trainer begins from scratch.

use super::names;

/// Name and content of the file, by the rule and the path in the manifest; `None`: the trainer needs none.
pub fn of(rule: &str, path: &str) -> Option<(&'static str, String)> {
    let is = |wanted: &str| rule.split('+').any(|one| one == wanted);
    if is("megatron") {
        return Some((
            "latest_checkpointed_iteration.txt",
            names::step_of(path)?.to_string(),
        ));
    }
    // Inside of a Trainer's checkpoint `latest` is a part of it.
    if is("deepspeed") && !is("hf-trainer") {
        return Some(("latest", path.to_owned()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trainers_that_look_for_a_pointer_get_one() {
        let check = |rule: &str, path: &str, expected: Option<(&'static str, &str)>| {
            let expected = expected.map(|(name, text)| (name, text.to_owned()));
            assert_eq!(of(rule, path), expected, "{rule} {path}");
        };
        check(
            "megatron+dcp",
            "iter_0000200",
            Some(("latest_checkpointed_iteration.txt", "200")),
        );
        check(
            "deepspeed+torch-zip",
            "global_step20",
            Some(("latest", "global_step20")),
        );
        check("hf-trainer+deepspeed", "checkpoint-20", None);
        check("torch-zip", "step_20.pt", None);
    }
}
