//! DeepSpeed: a directory per step with the files of every rank, and `latest` beside it, which names the newest.
//!
//! Rank 0 writes `latest` before the last barrier: the other ranks may still be writing. How many there are stands in the model's
//! state, of which with ZeRO-3 every rank has a part of its own: `zero_pp_rank_1_mp_rank_00_model_states.pt`.

use std::io;

use super::super::names;
use super::super::pickle;
use super::super::structure::zip;
use super::{Opinion, Silence, View, first_hole, join};
use crate::sorted::sort_by;

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
    let world = world(view, folder)?;
    for model in models {
        let of = |what: &str| {
            let ending = format!("_mp_rank_{model:02}_{what}_states.pt");
            ranks(view.names(folder), "zero_pp_rank_", &ending)
        };
        let (parts, zero) = (of("model"), of("optim"));
        // Without ZeRO there are none at all: rank 0 writes its own before `latest`. Parts of the model are ZeRO-3's alone.
        let all = match world {
            _ if zero.is_empty() && parts.is_empty() => 0,
            Some(world) => world,
            None => parts.len().max(zero.len()) as u64,
        };
        for (what, there) in [("model", &parts), ("optimizer", &zero)] {
            if what == "model" && there.is_empty() {
                continue;
            }
            if let Some(hole) = first_hole(there) {
                return Ok(Some(format!(
                    "the {what} states of rank {hole} are not there"
                )));
            }
            if (there.len() as u64) < all {
                return Ok(Some(format!(
                    "the {what} states of {} of {all} ranks are there",
                    there.len()
                )));
            }
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
    sort_by(&mut ranks, u64::cmp);
    ranks.dedup();
    ranks
}

/// How many ranks share the optimizer's state, by the state of the model: whichever rank's is there.
fn world(view: &View<'_>, folder: &str) -> io::Result<Option<u64>> {
    // Not that of an expert, which says nothing of it.
    let is_a_ranks = |name: &&str| {
        name.ends_with("_model_states.pt")
            && (name.starts_with("mp_rank_") || name.contains("zero_pp_rank_"))
    };
    let Some(name) = view.names(folder).find(is_a_ranks) else {
        return Ok(None);
    };
    let Some(file) = view.open(&join(folder, name))? else {
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
    fn with_zero_3_every_rank_must_have_written_its_part_of_the_model_too() {
        let path = |name: &str| format!("global_step20/{name}");
        let model = |rank: u64| path(&format!("zero_pp_rank_{rank}_mp_rank_00_model_states.pt"));
        let optimizer = |rank: u64| {
            path(&format!(
                "bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
            ))
        };
        let whole = || {
            let mut files = Memory::of(&[("latest", 2, b"global_step20")]);
            for rank in 0..2 {
                files.0.insert(model(rank), (1, model_state()));
                files.0.insert(optimizer(rank), (1, b"o".to_vec()));
            }
            files
        };
        let check = |files: Memory, expected: &str| {
            let found = files.says("global_step20");
            assert!(found.contains(expected), "{found:?}, expected {expected:?}");
        };
        check(whole(), "deepspeed Directory");
        for rank in 0..2 {
            check(whole().without(&model(rank)), "the model states of");
            check(whole().without(&optimizer(rank)), "the optimizer states of");
        }
        let first = || whole().without(&model(1)).without(&optimizer(1));
        check(first(), "the model states of 1 of 2 ranks");
        check(first().without(&optimizer(0)), "the model states of 1 of 2");
        check(
            whole().without(&optimizer(0)).without(&optimizer(1)),
            "the optimizer states of 0 of 2 ranks",
        );
        // Whoever's part does not say how many there are, the others do not have fewer.
        let mut torn = whole();
        torn.0.insert(model(0), (1, b"torn".to_vec()));
        check(
            torn.without(&optimizer(1)),
            "the optimizer states of 1 of 2",
        );
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
