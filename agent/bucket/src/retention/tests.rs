//! Which commits go, and which data.

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
        let mut commits: Vec<Commit> = (1..=8).rev().map(|number| commit(number, &[])).collect();
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
fn what_is_marked_goes_when_it_is_old_and_no_copy_of_it_could_be_missed() {
    let marked = [commit(1, &[1]).manifest.unwrap()];
    let stored_anew = |number: usize| {
        let mut commit = commit(number, &[1]);
        commit.manifest.as_mut().unwrap().step = Some(1);
        commit
    };
    let mut retrained = stored_anew(9);
    retrained.manifest.as_mut().unwrap().files[0].blake3 = "other".to_owned();
    let newer: Vec<Commit> = (2..=4).rev().map(|number| commit(number, &[])).collect();
    let with = |one: Commit| [vec![one], newer.clone()].concat();
    let best = Some(Best {
        metric: "val_loss".to_owned(),
        count: 2,
        highest: false,
    });
    let every = Keep {
        every_steps: 100,
        ..last(2)
    };
    let best = Keep { best, ..last(2) };
    for (keep, commits, gone, expected) in [
        (last(2), &newer, None, true),
        (last(2), &newer[..1].to_vec(), None, false),
        (last(4), &newer, None, false),
        (last(0), &newer, None, false),
        (every.clone(), &newer, None, false),
        (every.clone(), &with(stored_anew(9)), None, true),
        (every, &with(retrained.clone()), None, false),
        (best.clone(), &newer, None, false),
        (best.clone(), &with(stored_anew(9)), None, true),
        // One that goes too is none.
        (
            best.clone(),
            &with(stored_anew(9)),
            Some(stored_anew(9)),
            false,
        ),
        (best, &with(retrained), None, false),
    ] {
        let going: Vec<&Manifest> = gone
            .iter()
            .filter_map(|one| one.manifest.as_ref())
            .collect();
        let found = overtaken(&marked, commits, &keep, &going);
        assert_eq!(found.len(), usize::from(expected), "{keep:?} {commits:?}");
    }
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
fn the_best_are_counted_for_each_row() {
    // Newest first: what each is called, and what the log said.
    let named = [
        ("step_6.pt", Some(6), 9.0),
        ("eval_6.pt", Some(6), 9.0),
        ("best.pt", None, 9.0),
        ("step_5.pt", Some(5), 9.0),
        ("eval_5.pt", Some(5), 9.0),
        ("best.pt", None, 9.0),
        ("step_4.pt", Some(4), 1.0),
        ("eval_4.pt", Some(4), 2.0),
        ("best.pt", None, 1.0),
        ("step_3.pt", Some(3), 2.0),
        ("eval_3.pt", Some(3), 1.0),
        ("best.pt", None, 2.0),
    ];
    let commits: Vec<Commit> = (named.iter().zip((1..=named.len()).rev()))
        .map(|((path, step, value), number)| {
            let mut commit = commit(number, &[1]);
            let manifest = commit.manifest.as_mut().unwrap();
            (manifest.path, manifest.step) = ((*path).to_owned(), *step);
            manifest.directory = false;
            manifest.files[0].path = String::new();
            manifest.metric = Metric::new("val_loss", *value);
            commit
        })
        .collect();
    let check = |count: u32, expected: &[&str]| {
        let best = Best {
            metric: "val_loss".to_owned(),
            count,
            highest: false,
        };
        let keep = Keep {
            best: Some(best),
            ..last(2)
        };
        let gone = doomed(&commits, &keep, &HashSet::new());
        let gone: Vec<String> = (gone.iter())
            .map(|manifest| {
                format!(
                    "{} {}",
                    manifest.path,
                    manifest.metric.as_ref().unwrap().value()
                )
            })
            .collect();
        assert_eq!(gone, expected, "the best {count}");
    };
    check(1, &["best.pt 2", "step_3.pt 2", "eval_4.pt 2"]);
    check(2, &[]);
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
