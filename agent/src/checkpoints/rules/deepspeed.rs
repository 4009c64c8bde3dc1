//! DeepSpeed: a directory per step with the files of every rank, and `latest` beside it, which names the newest.
//!
//! Rank 0 writes `latest` before the last barrier: the other ranks may still be writing. How many there are stands in the model's
//! state.

use std::io;

use super::super::names;
use super::super::pickle;
use super::super::structure::zip;
use super::{Opinion, Silence, View, first_hole, join};

const LATEST: &str = "latest";

pub(super) fn judge(view: &View<'_>) -> io::Result<Opinion> {
    let mut found = Opinion::None;
    for folder in view.folders() {
        let is_deepspeeds = |name: &str| {
            name.ends_with("_optim_states.pt")
                || (name.ends_with("_model_states.pt") && name.contains("mp_rank_"))
        };
        if !view.names(folder).any(is_deepspeeds) {
            continue;
        }
        if let Some(missing) = missing_in(view, folder)? {
            return Ok(Opinion::Missing(missing));
        }
        found = Opinion::Done {
            rule: "deepspeed",
            silence: Silence::Directory,
        };
    }
    Ok(found)
}

fn missing_in(view: &View<'_>, folder: &str) -> io::Result<Option<String>> {
    let tag = view.name_of(folder);
    let latest = view.read_beside(folder, LATEST)?.unwrap_or_default();
    let latest = String::from_utf8_lossy(&latest).trim().to_owned();
    // When it names a later one, its writer has come past this one long ago.
    let is_past = match (names::step_of(&latest), names::step_of(tag)) {
        (Some(newest), Some(step)) => newest > step,
        _ => false,
    };
    if latest != tag && !is_past {
        return Ok(Some(format!("`latest` does not name {tag} yet")));
    }
    let models = ranks(view.names(folder), "mp_rank_", "_model_states.pt");
    if let Some(hole) = first_hole(&models) {
        return Ok(Some(format!(
            "mp_rank_{hole:02}_model_states.pt is not there"
        )));
    }
    if models.is_empty() {
        return Ok(Some("no model states are there".to_owned()));
    }
    let first = join(folder, "mp_rank_00_model_states.pt");
    let world = world(view, &first)?;
    for model in models {
        let ending = format!("_mp_rank_{model:02}_optim_states.pt");
        let zero = ranks(view.names(folder), "zero_pp_rank_", &ending);
        if let Some(hole) = first_hole(&zero) {
            return Ok(Some(format!(
                "the optimizer states of rank {hole} are not there"
            )));
        }
        // Without ZeRO there are none at all: rank 0 writes its own before `latest`.
        if !zero.is_empty()
            && let Some(world) = world
            && (zero.len() as u64) < world
        {
            return Ok(Some(format!(
                "the optimizer states of {} of {world} ranks are there",
                zero.len()
            )));
        }
    }
    Ok(None)
}

/// Numbers between two texts in names, in order: `bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt` has rank 3.
fn ranks<'a>(names: impl Iterator<Item = &'a str>, before: &str, after: &str) -> Vec<u64> {
    let number = |name: &str| {
        let stem = name.strip_suffix(after)?;
        stem.rsplit_once(before)?.1.parse().ok()
    };
    let mut ranks: Vec<u64> = names.filter_map(number).collect();
    ranks.sort_unstable();
    ranks.dedup();
    ranks
}

/// How many ranks share the optimizer's state, by the state of the model.
fn world(view: &View<'_>, path: &str) -> io::Result<Option<u64>> {
    let Some(file) = view.open(path)? else {
        return Ok(None);
    };
    let Some(bytes) = zip::stored_entry(&*file, "/data.pkl")? else {
        return Ok(None);
    };
    let world = pickle::load(&bytes).ok().and_then(|state| {
        let world = state.get(state.root, "dp_world_size")?;
        state.number(world)
    });
    Ok(world)
}

#[cfg(test)]
mod tests {
    use super::super::super::samples;
    use super::super::tests::Memory;

    fn model_state() -> Vec<u8> {
        let pickle = b"\x80\x02}X\x0d\x00\x00\x00dp_world_sizeK\x02s.";
        samples::zip(&[("archive/data.pkl", pickle)], false)
    }

    fn whole() -> Memory {
        Memory::of(&[
            (
                "global_step20/mp_rank_00_model_states.pt",
                1,
                &model_state(),
            ),
            (
                "global_step20/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
                1,
                b"0",
            ),
            (
                "global_step20/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
                1,
                b"1",
            ),
            ("latest", 2, b"global_step20\n"),
        ])
    }

    #[test]
    fn every_rank_must_have_written_whatever_latest_says() {
        let check = |files: Memory, expected: &str| {
            let found = files.says("global_step20");
            assert!(found.contains(expected), "{found:?}, expected {expected:?}");
        };
        check(whole(), "deepspeed Directory");
        check(
            whole().without("latest"),
            "`latest` does not name global_step20 yet",
        );
        check(
            whole().without("global_step20/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"),
            "of 1 of 2 ranks",
        );
        check(
            whole().without("global_step20/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
            "of rank 0 are not there",
        );
        check(
            whole().without("global_step20/mp_rank_00_model_states.pt"),
            "no model states",
        );
        let mut past = whole();
        past.0
            .insert("latest".into(), (9, b"global_step30".to_vec()));
        check(past, "deepspeed Directory");
        let mut before = whole();
        before
            .0
            .insert("latest".into(), (0, b"global_step10".to_vec()));
        check(before, "`latest` does not name");
    }

    #[test]
    fn inside_a_trainers_checkpoint_latest_lies_beside_the_ranks_too() {
        let mut files = Memory::default();
        for (path, content) in whole().0 {
            files.0.insert(format!("run-20/{path}"), content);
        }
        assert_eq!(files.says("run-20"), "deepspeed Directory");
        assert!(
            files
                .without("run-20/latest")
                .says("run-20")
                .contains("`latest`")
        );
    }
}
