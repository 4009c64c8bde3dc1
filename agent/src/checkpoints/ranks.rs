//! Whether shares of other ranks are still to come, where names say a rank and nothing is there to compare with (pure).
//!
//! `step_5_rank0.pt` is a whole file, and one fourth of a checkpoint of four ranks. How many there are the training was told as it started
//! (`SPOTTER_NUM_GPUS`). Where only one rank writes, its next step says so, or that nothing came for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use spotter_bucket::whole::beside;

use super::candidate::Candidate;
use super::rules::shape::{Doubt, Shape};

/// How long the other ranks are waited for after one. What comes later makes a new commit with all of them; and where one rank writes all there
/// is, so much longer its checkpoint is on the box alone.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the names of shares say of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Others {
    /// No name says a rank, or there are as many shares as ranks.
    None,
    /// Nothing but silence says that none comes.
    MayCome,
    /// There are fewer than ranks.
    Lacking(Doubt),
}

/// Whether shares that lack are waited for, by the time since the newest one was written. One that was written in the future may be any age.
pub fn are_awaited(written_ns: i64, now_ns: i64) -> bool {
    let age_ns = u64::try_from(now_ns.saturating_sub(written_ns));
    age_ns.is_ok_and(|ns| Duration::from_nanos(ns) < PATIENCE)
}

/// What is to be expected of a candidate with a step, which is the first of its kind; `there` is everything that lies in the directory, and
/// `ranks` how many a training has that runs, where that is known. `awaited`: there is time for others to come.
pub fn others(candidate: &Candidate, there: &[Shape], ranks: Option<u32>, awaited: bool) -> Others {
    let Some((found, example)) = shares(candidate) else {
        return Others::None;
    };
    let Some(ranks) = ranks else {
        return Others::MayCome;
    };
    if found >= ranks as usize {
        return Others::None;
    }
    if !awaited {
        return Others::MayCome;
    }
    let superseded = Shape::of(candidate)
        .is_some_and(|own| there.iter().any(|other| other.is_successor_of(&own)));
    let reason = format!(
        "of shares like {example} it has {found}, and the training runs on {ranks} GPUs: the others are waited for, 2 min at most or until the next step is there; \
         where one rank writes all there is, `complete_when` in the run file says when it is complete"
    );
    Others::Lacking(Doubt { reason, superseded })
}

/// How many ranks have a share in it, of the kind that fewest have, and one of that kind; `None`: no name says a rank.
fn shares(candidate: &Candidate) -> Option<(usize, &str)> {
    candidate.step?;
    if candidate.directory && !candidate.is_flat() {
        beside::split_rank(&candidate.path)?;
        return Some((1, candidate.path.as_str()));
    }
    let mut kinds: BTreeMap<String, (BTreeSet<&str>, &str)> = BTreeMap::new();
    for file in &candidate.files {
        let name: &str = match file.path.as_str() {
            "" => &candidate.path,
            path => path,
        };
        if let Some((of_all, rank)) = beside::split_rank(name) {
            let kind = kinds.entry(of_all).or_insert((BTreeSet::new(), name));
            kind.0.insert(rank);
        }
    }
    let counted = kinds.into_values().map(|(ranks, name)| (ranks.len(), name));
    counted.min()
}

#[cfg(test)]
mod tests {
    use super::super::candidate::FileStat;
    use super::*;

    fn candidate(step: u64, path: &str, names: &[&str]) -> Candidate {
        let files = names.iter().map(|name| FileStat {
            path: (*name).to_owned(),
            ino: 1,
            size_bytes: 1,
            mtime_ns: i64::try_from(step).unwrap(),
            ctime_ns: 1,
            mode: 0o644,
        });
        let is_folder = path != "." && names != [""];
        Candidate {
            key: match is_folder {
                true => format!("dir:{path}"),
                false => format!("step:{step}"),
            },
            path: path.to_owned(),
            step: Some(step),
            directory: names != [""],
            unfinished: None,
            unreadable: None,
            files: files.collect(),
        }
    }

    #[test]
    fn a_share_waits_for_as_many_as_there_are_ranks() {
        const LATER: &[&str] = &["step_6_rank0.pt"];
        for (path, names, ranks, later, ended, expected) in [
            // One file, or one directory.
            (
                "step_5_rank0.pt",
                &[""][..],
                Some(2),
                &[][..],
                false,
                "1, and the training runs on 2",
            ),
            (
                "step_5_rank0.pt",
                &[""],
                Some(2),
                LATER,
                false,
                "superseded: true",
            ),
            (
                "step_5_rank0.pt",
                &[""],
                Some(2),
                &["eval_6.pt"],
                false,
                "superseded: false",
            ),
            ("step_5_rank0.pt", &[""], Some(2), &[], true, "MayCome"),
            ("step_5_rank0.pt", &[""], Some(1), &[], false, "None"),
            ("step_5_rank0.pt", &[""], None, &[], false, "MayCome"),
            (
                "step5_rank0",
                &["model.pt"],
                Some(4),
                &[],
                false,
                "like step5_rank0 it has 1",
            ),
            ("step5_rank0", &["model.pt"], Some(1), &[], false, "None"),
            // Side by side.
            (
                ".",
                &["m_5.pt", "o_5_rank0.pt", "o_5_rank1.pt"],
                Some(2),
                &[],
                false,
                "None",
            ),
            (
                ".",
                &["m_5.pt", "o_5_rank0.pt", "o_5_rank1.pt"],
                Some(3),
                &[],
                false,
                "like o_5_rank0.pt it has 2",
            ),
            // The kind of which there are fewest.
            (
                ".",
                &["m_5_rank0.pt", "o_5_rank0.pt", "o_5_rank1.pt"],
                Some(2),
                &[],
                false,
                "like m_5_rank0.pt it has 1",
            ),
            // Nobody's share.
            ("step_5.pt", &[""], Some(8), &[], false, "None"),
            ("step_5", &["shard_rank0.pt"], Some(8), &[], false, "None"),
            (".", &["m_5.pt", "o_5.pt"], Some(8), &[], false, "None"),
        ] {
            let there: Vec<Shape> = (later.iter())
                .filter_map(|path| Shape::of(&candidate(6, path, &[""])))
                .collect();
            let found = others(&candidate(5, path, names), &there, ranks, !ended);
            let found = format!("{found:?}");
            assert!(
                found.contains(expected),
                "{path} {names:?} {ranks:?}: {found}"
            );
        }
    }

    #[test]
    fn shares_that_do_not_come_within_two_minutes_are_not_waited_for() {
        const NOW_NS: i64 = 1_900_000_000_000_000_000;
        for (age_s, expected) in [(-3600, false), (0, true), (119, true), (120, false)] {
            let written_ns = NOW_NS - age_s * 1_000_000_000;
            assert_eq!(are_awaited(written_ns, NOW_NS), expected, "{age_s} s");
        }
        assert!(!are_awaited(i64::MIN, NOW_NS));
    }

    #[test]
    fn names_without_a_step_say_nothing_of_how_many_there_are() {
        let mut nameless = candidate(5, "ckpt_rank0.pt", &[""]);
        nameless.step = None;
        assert_eq!(others(&nameless, &[], Some(4), true), Others::None);
    }
}
