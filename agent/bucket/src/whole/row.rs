//! Which checkpoints stand in one row, each the successor of the one before (pure): only such count against each other when old ones go.
//!
//! `step_2.pt` follows `step_1.pt`, and a `ckpt.pt` the `ckpt.pt` that it overwrote. `best.pt` follows neither, nor does a final model.

use std::collections::BTreeSet;

use super::{
    beside::split_rank,
    candidate::{Candidate, FLAT_RULE},
    rules::shape::kind,
};
use crate::manifest::Manifest;

/// What all checkpoints of one row have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    name: String,
    /// Kinds of files that lie side by side, where those of several programs do; none: the name says it all.
    kinds: BTreeSet<String>,
}

impl Row {
    /// The row of a commit.
    pub fn of(manifest: &Manifest) -> Row {
        let files = manifest.files.iter().map(|file| file.path.as_str());
        let folder = manifest.directory && !manifest.rule.starts_with(FLAT_RULE);
        Row::new(&manifest.path, manifest.step, folder, files)
    }

    /// The row in which a commit of a candidate would stand.
    pub fn of_candidate(candidate: &Candidate) -> Row {
        let files = candidate.files.iter().map(|file| file.path.as_str());
        let folder = candidate.directory && !candidate.is_flat();
        Row::new(&candidate.path_in_manifest(), candidate.step, folder, files)
    }

    fn new<'a>(
        path: &'a str,
        step: Option<u64>,
        folder: bool,
        files: impl Iterator<Item = &'a str>,
    ) -> Row {
        // A single file's path is that of the checkpoint.
        let name_of = |file: &'a str| if file.is_empty() { path } else { file };
        match step {
            None => Row {
                name: format!("one:{}", without_figures(path)),
                kinds: BTreeSet::new(),
            },
            Some(_) if folder => {
                // One rank's share succeeds no other's.
                let rank = split_rank(path).map_or("", |(_, rank)| rank);
                Row {
                    name: format!("dir:{}:{rank}", kind(path)),
                    kinds: BTreeSet::new(),
                }
            }
            Some(_) => Row {
                name: "step:".to_owned(),
                kinds: files.map(|file| kind(name_of(file))).collect(),
            },
        }
    }

    /// Whether both are in one row.
    pub fn is_same(&self, other: &Row) -> bool {
        let alike = || !self.kinds.is_disjoint(&other.kinds);
        self.name == other.name && (self.name != "step:" || alike())
    }
}

/// A name with `#` for what was measured: `best-0.1234.pt` follows `best-0.2345.pt`. A version is no figure, and has seldom two digits behind
/// its point: `llama-3.1` follows no `llama-3.0`.
fn without_figures(name: &str) -> String {
    let mut without = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('.') {
        let is_digit = |one: char| one.is_ascii_digit();
        let before = rest[..at].trim_end_matches(is_digit);
        let after = rest[at + 1..].trim_start_matches(is_digit);
        let decimals = rest.len() - at - 1 - after.len();
        let mut words = before.rsplit(|one: char| !one.is_ascii_alphabetic());
        let word = words.find(|word| !word.is_empty()).unwrap_or_default();
        let is_version = ["v", "version"]
            .iter()
            .any(|one| word.eq_ignore_ascii_case(one));
        if before.len() < at && decimals >= 2 && !is_version {
            without.push_str(before);
            without.push('#');
            rest = after;
        } else {
            without.push_str(&rest[..=at]);
            rest = &rest[at + 1..];
        }
    }
    without + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_succeeds_another_stands_in_its_row() {
        let row = |path: &str, folder: bool, files: &[&str]| {
            Row::new(
                path,
                crate::names::step_of(path),
                folder,
                files.iter().copied(),
            )
        };
        let file = |path: &str| row(path, false, &[""]);
        let check = |one: Row, other: Row, expected: bool| {
            assert_eq!(one.is_same(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.is_same(&one), expected, "{other:?} {one:?}");
        };
        check(file("step_1.pt"), file("step_20.pt"), true);
        check(file("step_1.pt"), file("eval_20.pt"), false);
        check(file("ckpt.pt"), file("ckpt.pt"), true);
        check(file("best.pt"), file("ckpt.pt"), false);
        check(file("best.pt"), file("step_20.pt"), false);
        // Versions are no steps.
        check(file("model_v1.pt"), file("model_v2.pt"), false);
        // What was measured makes no row of its own, a version does.
        for (one, other, expected) in [
            ("best-0.1234.pt", "best-0.2345.pt", true),
            ("model_0.912.pth", "model_0.97.pth", true),
            ("loss=0.12_acc=0.93.pt", "loss=0.11_acc=0.95.pt", true),
            ("best-0.1234.pt", "last-0.1234.pt", false),
            ("best-0.1234.pt", "best.pt", false),
            ("model_v1.25.pt", "model_v1.26.pt", false),
            ("version-1.25", "version-1.26", false),
            ("llama-3.1.pt", "llama-3.2.pt", false),
        ] {
            check(row(one, false, &[""]), row(other, false, &[""]), expected);
        }
        for (name, expected) in [
            ("best-0.1234.pt", "best-#.pt"),
            ("0.50", "#"),
            ("a.b.", "a.b."),
            ("gr\u{f6}\u{df}e-1.25.pt", "gr\u{f6}\u{df}e-#.pt"),
        ] {
            assert_eq!(without_figures(name), expected);
        }
        let folder = |path: &str| row(path, true, &["model.safetensors"]);
        check(folder("checkpoint-1"), folder("checkpoint-20"), true);
        check(folder("checkpoint-1"), folder("best-20"), false);
        check(folder("final"), folder("checkpoint-1"), false);
        check(folder("step1_rank0"), folder("step2_rank0"), true);
        check(folder("step1_rank0"), folder("step1_rank1"), false);
        check(folder("final"), folder("final"), true);
        let flat = |step: u64, names: &[&str]| row(&format!("step-{step}"), false, names);
        let both = flat(1, &["model_1.pt", "optim_1_rank0.pt"]);
        check(both.clone(), flat(2, &["model_2.pt"]), true);
        check(both.clone(), file("model_2.pt"), true);
        check(both, flat(2, &["eval_2.npz", "plot_2.npz"]), false);
    }
}
