//! nanochat: flat files of one step, the model's and its description by rank 0, the optimizer's by every rank.
//!
//! Nothing is written last, so the group must be as large as the one before (`shape.rs`); here only what is missing by the names.

use std::io;

use super::{Opinion, View, first_hole};
use crate::sorted::sort_by;

pub(super) fn judge(view: &View<'_>) -> io::Result<Opinion> {
    if !view.candidate.is_flat() {
        return Ok(Opinion::None);
    }
    let stems = |prefix: &'static str, ending: &'static str| {
        view.names("")
            .filter_map(move |name| name.strip_prefix(prefix)?.strip_suffix(ending))
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let rank = |stem: &str| stem.split_once("_rank")?.1.parse::<u64>().ok();
    let mut ranks: Vec<u64> = stems("optim_", ".pt").filter_map(rank).collect();
    if ranks.is_empty() {
        return Ok(Opinion::None);
    }
    for (what, is_there) in [
        ("model_N.pt", stems("model_", ".pt").any(digits)),
        ("meta_N.json", stems("meta_", ".json").any(digits)),
    ] {
        if !is_there {
            return Ok(Opinion::Missing(format!(
                "{what} of this step is not there"
            )));
        }
    }
    sort_by(&mut ranks, u64::cmp);
    Ok(first_hole(&ranks).map_or(Opinion::None, |hole| {
        Opinion::Missing(format!("the optimizer's file of rank {hole} is not there"))
    }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;

    #[test]
    fn model_description_and_a_row_of_ranks_belong_together() {
        let check = |names: &[&str], expected: &str| {
            let mut files = Memory::default();
            for name in names {
                files.0.insert((*name).to_owned(), (1, b"x".to_vec()));
            }
            let found = files.says(".");
            assert!(found.contains(expected), "{names:?}: {found:?}");
        };
        let (model, meta) = ("model_000100.pt", "meta_000100.json");
        let (first, second) = ("optim_000100_rank0.pt", "optim_000100_rank1.pt");
        check(&[model, meta, first, second], "nobody's");
        check(&[model, meta], "nobody's");
        check(&[first], "model_N.pt");
        check(&[model, first], "meta_N.json");
        check(&[model, meta, second], "rank 0");
        check(&["a_100.pt", "b_100.pt"], "nobody's");
    }
}
