//! Which commits may go, and which data after them (pure).
//!
//! A commit goes first, and leaves a tombstone; its data goes after a grace, when no commit and no other tombstone refers to it. So
//! whoever reads a checkpoint when it is deleted still finds its data, and no commit ever refers to what is gone.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use crate::sorted::sort_by;
use crate::{layout::CommitId, manifest::Manifest, whole::row::Row};

/// Fewest commits that are ever kept: a restore of the newest must have one to fall back to.
pub const MIN_KEEP: usize = 2;

/// A commit in the bucket, as far as it could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// Its name.
    pub id: String,
    /// What it says; `None` when it is damaged.
    pub manifest: Option<Manifest>,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keep {
    /// How many newest commits of each row, see [`Row`]; 0: all, 1 counts as 2.
    pub last: u32,
    /// The first checkpoint of each so many steps is kept for good; 0: none.
    pub every_steps: u64,
    /// Those that are kept because nothing better came.
    pub best: Option<Best>,
}

/// Which checkpoints are the best, and how many of them are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Best {
    /// Name of the value that their commits hold.
    pub metric: String,
    /// How many.
    pub count: u32,
    /// More is better; otherwise less is.
    pub highest: bool,
}

impl Keep {
    /// How many newest commits are kept; `None`: all.
    pub fn newest(&self) -> Option<usize> {
        (self.last > 0).then(|| (self.last as usize).max(MIN_KEEP))
    }
}

/// Commits that may go, oldest first, from all commits, newest first. Pinned ones stay.
///
/// Each row is counted for itself: `best.pt` is not old because steps came after it, only newer commits of it make it so.
/// Damaged commits neither count among those kept nor go: they restore nothing, and people may want to look at them.
pub fn doomed<'a>(
    newest_first: &'a [Commit],
    keep: &Keep,
    pinned: &HashSet<String>,
) -> Vec<&'a Manifest> {
    let Some(newest) = keep.newest() else {
        return Vec::new();
    };
    let whole: Vec<&Manifest> = newest_first
        .iter()
        .filter_map(|commit| commit.manifest.as_ref())
        .collect();
    let rows: Vec<Row> = whole.iter().map(|manifest| Row::of(manifest)).collect();
    let milestones = milestones(&whole, &rows, keep.every_steps);
    let best: HashSet<&str> = keep
        .best
        .iter()
        .flat_map(|keep| best(&whole, keep))
        .collect();
    let newer = |at: usize| {
        let before = rows[..at].iter();
        before.filter(|row| row.is_same(&rows[at])).count()
    };
    (0..whole.len())
        .rev()
        .filter(|at| {
            let id = whole[*at].id.as_str();
            !pinned.contains(id)
                && !milestones.contains(id)
                && !best.contains(id)
                && newer(*at) >= newest
        })
        .map(|at| whole[at])
        .collect()
}

/// The best ones, best first, from all of them, newest first. Of one step that was trained twice the better one counts, of equals the
/// newer. Those whose log said nothing are none.
pub fn best<'a>(newest_first: &[&'a Manifest], keep: &Best) -> Vec<&'a str> {
    let value = |manifest: &Manifest| {
        let metric = manifest.metric.as_ref()?;
        (metric.name == keep.metric).then(|| metric.value())
    };
    let mut ranked: Vec<(f64, &Manifest)> = newest_first
        .iter()
        .filter_map(|manifest| Some((value(manifest)?, *manifest)))
        .collect();
    // The sort is stable: of equals the newer one stays first.
    sort_by(&mut ranked, |(one, _), (other, _)| match keep.highest {
        true => other.total_cmp(one),
        false => one.total_cmp(other),
    });
    let mut steps = HashSet::new();
    ranked
        .into_iter()
        .filter(|(_, manifest)| manifest.step.is_none_or(|step| steps.insert(step)))
        .map(|(_, manifest)| manifest.id.as_str())
        .take(keep.count as usize)
        .collect()
}

/// The first checkpoint of each so many steps in each row. Once it is the first it stays so, since it is never deleted.
fn milestones<'a>(whole: &[&'a Manifest], rows: &[Row], every_steps: u64) -> HashSet<&'a str> {
    if every_steps == 0 {
        return HashSet::new();
    }
    let mut by_step: Vec<(u64, &str, &Row)> = whole
        .iter()
        .zip(rows)
        .filter_map(|(manifest, row)| Some((manifest.step?, manifest.id.as_str(), row)))
        .collect();
    sort_by(&mut by_step, |one, other| {
        (one.0, one.1).cmp(&(other.0, other.1))
    });
    let is_first = |at: &usize| {
        let (step, _, row) = by_step[*at];
        let same = |(before, _, other): &&(u64, &str, &Row)| {
            before / every_steps == step / every_steps && row.is_same(other)
        };
        !by_step[..*at].iter().rev().any(|one| same(&one))
    };
    let firsts = (0..by_step.len()).filter(is_first);
    firsts.map(|at| by_step[at].1).collect()
}

/// Keys of a deleted checkpoint that nothing refers to any more, sorted. Only data under `data_prefix` is ever named, and none that
/// lies with a commit that exists: what a damaged one refers to cannot be read.
pub fn purgeable<'a>(
    deleted: &'a Manifest,
    commits: &[Commit],
    other_tombstones: &[&Manifest],
    data_prefix: &str,
) -> Vec<&'a str> {
    let mut spoken_for = keys(other_tombstones.iter().copied());
    spoken_for.extend(keys(
        commits.iter().filter_map(|commit| commit.manifest.as_ref()),
    ));
    let alive: HashSet<&str> = commits.iter().map(|commit| commit.id.as_str()).collect();
    let lies_with = |key: &str| {
        let (id, _) = key.strip_prefix(data_prefix)?.split_once('/')?;
        id.parse::<CommitId>().ok()?;
        Some(alive.contains(id))
    };
    keys([deleted])
        .into_iter()
        .filter(|key| !spoken_for.contains(key) && lies_with(key) == Some(false))
        .collect()
}

/// Every key that manifests refer to.
pub fn keys<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> BTreeSet<&'a str> {
    manifests
        .into_iter()
        .flat_map(|manifest| manifest.files.iter().map(|file| file.key.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;
    use crate::manifest::{self, ManifestFile, Metric};

    fn id(number: usize) -> String {
        CommitId {
            step: number as u64,
            ulid: Ulid::from_parts(number as u64, 0),
        }
        .to_string()
    }

    /// Keys are the commit that made them.
    fn commit(number: usize, keys: &[usize]) -> Commit {
        let file = |key: &usize| ManifestFile {
            path: format!("file{key}"),
            mode: 0o644,
            mtime_ns: 0,
            size_bytes: 1,
            blake3: String::new(),
            key: format!("run/data/{}/x", id(*key)),
            part_size_bytes: 0,
            parts: Vec::new(),
        };
        let manifest = Manifest {
            v: manifest::FORMAT,
            id: id(number),
            run: "run".into(),
            attempt: 1,
            step: Some(number as u64),
            rule: "generic".into(),
            path: "a".into(),
            directory: true,
            committed_us: 0,
            server_us: 0,
            prev: None,
            metric: None,
            files: keys.iter().map(file).collect(),
            encoding: None,
            self_blake3: String::new(),
        };
        Commit {
            id: id(number),
            manifest: Some(manifest),
        }
    }

    fn check(commits: &[Commit], keep: Keep, pinned: &[usize], expected: &[u64]) {
        let pinned = pinned.iter().map(|number| id(*number)).collect();
        let found: Vec<u64> = doomed(commits, &keep, &pinned)
            .iter()
            .map(|manifest| manifest.step.unwrap())
            .collect();
        assert_eq!(found, expected);
    }

    fn last(last: u32) -> Keep {
        Keep {
            last,
            ..Keep::default()
        }
    }

    #[test]
    fn the_newest_the_pinned_and_the_first_of_each_so_many_steps_stay() {
        let commits: Vec<Commit> = (1..=9).rev().map(|number| commit(number, &[])).collect();
        check(&commits, last(0), &[], &[]);
        check(&commits, last(9), &[], &[]);
        check(&commits, last(7), &[], &[1, 2]);
        check(&commits, last(1), &[], &[1, 2, 3, 4, 5, 6, 7]);
        check(&commits, last(7), &[1], &[2]);
        let keep = Keep {
            last: 2,
            every_steps: 3,
            best: None,
        };
        // 1 is the first below 3; then come 3 and 6; 8 and 9 are the newest.
        check(&commits, keep, &[5], &[2, 4, 7]);
    }

    #[test]
    fn only_newer_ones_of_the_same_row_make_a_checkpoint_old() {
        let mut commits: Vec<Commit> = (1..=9).rev().map(|number| commit(number, &[1])).collect();
        let mut call = |number: usize, path: &str, step: Option<u64>| {
            let manifest = commits[9 - number].manifest.as_mut().unwrap();
            (manifest.path, manifest.step) = (path.to_owned(), step);
            if !path.starts_with("checkpoint") {
                manifest.directory = false;
                manifest.files[0].path = String::new();
            }
        };
        call(1, "base.pt", None);
        call(2, "best.pt", None);
        call(3, "best.pt", None);
        call(4, "ema_3.pt", Some(3));
        for number in [5, 6, 8, 9] {
            call(number, &format!("checkpoint-{number}"), Some(number as u64));
        }
        call(7, "best.pt", None);
        let doomed_of = |keep: &Keep| -> Vec<String> {
            let doomed = doomed(&commits, keep, &HashSet::new());
            doomed.iter().map(|gone| gone.id.clone()).collect()
        };
        assert_eq!(doomed_of(&last(2)), [id(2), id(5), id(6)]);
        assert_eq!(doomed_of(&last(3)), [id(5)]);
        // 4 is the first of its own kind and would stay were there more of it.
        let keep = Keep {
            every_steps: 100,
            ..last(2)
        };
        assert_eq!(doomed_of(&keep), [id(2), id(6)]);
    }

    #[test]
    fn a_step_that_was_trained_twice_is_one_milestone() {
        let mut commits: Vec<Commit> = (1..=6).rev().map(|number| commit(number, &[])).collect();
        for commit in &mut commits {
            commit.manifest.as_mut().unwrap().step = Some(10);
        }
        let keep = Keep {
            last: 2,
            every_steps: 10,
            best: None,
        };
        assert_eq!(doomed(&commits, &keep, &HashSet::new()).len(), 3);
    }

    #[test]
    fn the_best_stay_whatever_their_age_and_what_was_never_measured_does_not() {
        // Steps 1 to 8, oldest first: what the log said of each.
        let check = |values: [Option<f64>; 8], count: u32, highest: bool, expected: &[u64]| {
            let mut commits: Vec<Commit> =
                (1..=8).rev().map(|number| commit(number, &[])).collect();
            for (commit, value) in commits.iter_mut().rev().zip(values) {
                commit.manifest.as_mut().unwrap().metric =
                    value.and_then(|value| Metric::new("val_loss", value));
            }
            let best = |metric: &str| {
                Some(Best {
                    metric: metric.to_owned(),
                    count,
                    highest,
                })
            };
            let keep = |best| Keep { best, ..last(2) };
            check(&commits, keep(best("val_loss")), &[], expected);
            check(&commits, keep(best("accuracy")), &[], &[1, 2, 3, 4, 5, 6]);
            let all = Keep {
                best: best("val_loss"),
                ..last(0)
            };
            check(&commits, all, &[], &[]);
        };
        let none = None;
        let falling = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0].map(Some);
        // The best are the newest here, which stay in any case.
        check(falling, 2, false, &[1, 2, 3, 4, 5, 6]);
        check(falling, 3, false, &[1, 2, 3, 4, 5]);
        check(falling, 2, true, &[3, 4, 5, 6]);
        check(falling, 0, true, &[1, 2, 3, 4, 5, 6]);
        let once_better = [
            none,
            Some(0.5),
            none,
            Some(0.25),
            none,
            Some(0.5),
            none,
            none,
        ];
        check(once_better, 1, false, &[1, 2, 3, 5, 6]);
        // 2 and 6 are equal: the newer stays.
        check(once_better, 2, false, &[1, 2, 3, 5]);
        check(once_better, 9, false, &[1, 3, 5]);
        check([none; 8], 3, false, &[1, 2, 3, 4, 5, 6]);
        check([Some(f64::NAN); 8], 3, false, &[1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn of_a_step_that_was_trained_twice_the_better_one_is_among_the_best() {
        let mut commits: Vec<Commit> = (1..=5).rev().map(|number| commit(number, &[])).collect();
        for (commit, (step, value)) in
            commits
                .iter_mut()
                .zip([(50, 9.0), (40, 9.0), (30, 2.0), (30, 1.0), (20, 3.0)])
        {
            let manifest = commit.manifest.as_mut().unwrap();
            manifest.step = Some(step);
            manifest.metric = Metric::new("val_loss", value);
        }
        let keep = Keep {
            best: Some(Best {
                metric: "val_loss".to_owned(),
                count: 2,
                highest: false,
            }),
            ..last(2)
        };
        let gone: Vec<String> = doomed(&commits, &keep, &HashSet::new())
            .iter()
            .map(|manifest| manifest.id.clone())
            .collect();
        // The third newest is step 30 with the worse value.
        assert_eq!(gone, [id(3)]);
    }

    #[test]
    fn a_damaged_commit_is_neither_counted_nor_deleted_and_its_data_stays() {
        let mut commits: Vec<Commit> = (1..=4).rev().map(|number| commit(number, &[])).collect();
        commits[0].manifest = None;
        check(&commits, last(2), &[], &[1]);
        let deleted = commit(1, &[1, 4]).manifest.unwrap();
        assert_eq!(
            purgeable(&deleted, &commits[..3], &[], "run/data/"),
            [format!("run/data/{}/x", id(1))]
        );
    }

    #[test]
    fn a_key_outside_the_runs_own_data_is_never_deleted() {
        let mut deleted = commit(1, &[1]).manifest.unwrap();
        for key in [
            "other-run/data/000000000001-01ARZ3NDEKTSV4RRFFQ69G5FAV/x",
            "run/data/x",
            "run/commits/x.json",
        ] {
            deleted.files[0].key = key.into();
            assert!(
                purgeable(&deleted, &[], &[], "run/data/").is_empty(),
                "{key}"
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_commit_or_a_younger_tombstone_refers_to_is_ever_deleted(
            references in proptest::collection::vec(proptest::collection::vec(0..12_usize, 0..5), 0..9),
            damaged in proptest::collection::vec(any::<bool>(), 9),
            keep_last in 0..5_u32,
        ) {
            let mut commits: Vec<Commit> = references.iter().enumerate().map(|(number, keys)| commit(100 - number, keys)).collect();
            for (commit, damaged) in commits.iter_mut().zip(&damaged) {
                if *damaged {
                    commit.manifest = None;
                }
            }
            let whole = commits.iter().filter(|commit| commit.manifest.is_some()).count();
            let plan: Vec<Manifest> = doomed(&commits, &last(keep_last), &HashSet::new()).into_iter().cloned().collect();
            prop_assert_eq!(plan.len(), last(keep_last).newest().map_or(0, |keep| whole.saturating_sub(keep)));
            let mut remaining = commits.clone();
            remaining.retain(|commit| !plan.iter().any(|gone| gone.id == commit.id));
            // One tombstone after the other, as a crash may leave it.
            let mut tombstones = plan.clone();
            let mut deleted = BTreeSet::new();
            while !tombstones.is_empty() {
                let due = tombstones.remove(0);
                let others: Vec<&Manifest> = tombstones.iter().collect();
                deleted.extend(purgeable(&due, &remaining, &others, "run/data/").into_iter().map(str::to_owned));
                let spoken_for = keys(remaining.iter().filter_map(|commit| commit.manifest.as_ref()).chain(&tombstones));
                prop_assert!(spoken_for.iter().all(|key| !deleted.contains(*key)));
            }
            // And nothing of theirs is left behind.
            let stay = keys(remaining.iter().filter_map(|commit| commit.manifest.as_ref()));
            for gone in &plan {
                for key in keys([gone]) {
                    prop_assert!(stay.contains(key) || deleted.contains(key));
                }
            }
        }
    }
}
