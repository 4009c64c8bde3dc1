//! Which commits and which data may go (pure). The newest N stay; data goes only when no commit that stays refers to it.
//!
//! The caller runs this only after a newer commit was read back, and deletes a commit before its data, so that no commit
//! ever refers to what is gone.

use std::collections::BTreeSet;

use spotter_bucket::Manifest;

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

/// A commit that goes, with the data that goes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doomed {
    /// Its name.
    pub id: String,
    /// Keys that no commit which stays refers to.
    pub data_keys: Vec<String>,
}

/// How many newest commits a setting keeps; `None`: all.
pub fn kept(keep_last: u32) -> Option<usize> {
    (keep_last > 0).then(|| (keep_last as usize).max(MIN_KEEP))
}

/// Commits that may go, oldest first, from all commits, newest first. Only data under `data_prefix` is ever named.
///
/// Damaged commits neither count among those kept nor go: they restore nothing, and people may want to look at them.
pub fn doomed(newest_first: &[Commit], keep_last: u32, data_prefix: &str) -> Vec<Doomed> {
    let Some(keep) = kept(keep_last) else {
        return Vec::new();
    };
    let whole: Vec<&Manifest> = newest_first
        .iter()
        .filter_map(|commit| commit.manifest.as_ref())
        .collect();
    let (stay, go) = whole.split_at(keep.min(whole.len()));
    let mut spoken_for = keys(stay);
    let mut doomed = Vec::new();
    for manifest in go.iter().rev() {
        let data_keys: Vec<String> = keys(&[*manifest])
            .into_iter()
            .filter(|key| key.starts_with(data_prefix) && !spoken_for.contains(key))
            .map(str::to_owned)
            .collect();
        doomed.push(Doomed {
            id: manifest.id.clone(),
            data_keys,
        });
    }
    // A key that two doomed commits share goes with the later of them: until then one of the two still refers to it.
    for at in (0..doomed.len()).rev() {
        let mut own = std::mem::take(&mut doomed[at].data_keys);
        own.retain(|key| !spoken_for.contains(key.as_str()));
        spoken_for.extend(keys(&[go[go.len() - 1 - at]]));
        doomed[at].data_keys = own;
    }
    doomed
}

/// Every key that manifests refer to.
pub fn keys<'a>(manifests: &[&'a Manifest]) -> BTreeSet<&'a str> {
    manifests
        .iter()
        .flat_map(|manifest| manifest.files.iter().map(|file| file.key.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use spotter_bucket::{ManifestFile, manifest};

    use super::*;

    fn commit(id: usize, keys: &[usize]) -> Commit {
        let file = |key: &usize| ManifestFile {
            path: format!("file{key}"),
            mode: 0o644,
            mtime_ns: 0,
            size_bytes: 1,
            blake3: String::new(),
            key: format!("run/data/{key}"),
            part_size_bytes: 0,
            parts: Vec::new(),
        };
        let id = format!("{id:012}");
        let manifest = Manifest {
            v: manifest::FORMAT,
            id: id.clone(),
            run: "run".into(),
            attempt: 1,
            step: None,
            rule: "generic".into(),
            path: "a".into(),
            directory: true,
            committed_us: 0,
            server_us: 0,
            prev: None,
            files: keys.iter().map(file).collect(),
            encoding: None,
            self_blake3: String::new(),
        };
        Commit {
            id,
            manifest: Some(manifest),
        }
    }

    fn check(commits: &[Commit], keep_last: u32, expected: &[(&str, &[&str])]) {
        let found = doomed(commits, keep_last, "run/data/");
        let found: Vec<(&str, Vec<&str>)> = found
            .iter()
            .map(|one| {
                (
                    one.id.as_str(),
                    one.data_keys.iter().map(String::as_str).collect(),
                )
            })
            .collect();
        let expected: Vec<(&str, Vec<&str>)> = expected
            .iter()
            .map(|(id, keys)| (*id, keys.to_vec()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_newest_stay_and_shared_data_stays_with_them() {
        let commits = [
            commit(4, &[4, 1]),
            commit(3, &[3]),
            commit(2, &[2]),
            commit(1, &[1]),
        ];
        check(&commits, 0, &[]);
        check(&commits, 5, &[]);
        check(&commits, 3, &[("000000000001", &[])]);
        check(
            &commits,
            1,
            &[("000000000001", &[]), ("000000000002", &["run/data/2"])],
        );
    }

    #[test]
    fn data_that_two_doomed_commits_share_goes_with_the_last_of_them() {
        let commits = [
            commit(4, &[4]),
            commit(3, &[3]),
            commit(2, &[9, 2]),
            commit(1, &[9]),
        ];
        check(
            &commits,
            2,
            &[
                ("000000000001", &[]),
                ("000000000002", &["run/data/2", "run/data/9"]),
            ],
        );
    }

    #[test]
    fn a_damaged_commit_is_neither_counted_nor_deleted() {
        let mut commits = vec![
            commit(4, &[4]),
            commit(3, &[3]),
            commit(2, &[2]),
            commit(1, &[1]),
        ];
        commits[0].manifest = None;
        check(&commits, 2, &[("000000000001", &["run/data/1"])]);
    }

    #[test]
    fn a_key_outside_the_runs_own_data_is_never_deleted() {
        let mut commits = vec![commit(3, &[3]), commit(2, &[2]), commit(1, &[1])];
        commits[2].manifest.as_mut().unwrap().files[0].key = "other-run/data/1".into();
        check(&commits, 2, &[("000000000001", &[])]);
    }

    proptest! {
        #[test]
        fn nothing_that_a_remaining_commit_refers_to_is_ever_deleted(
            references in proptest::collection::vec(proptest::collection::vec(0..12_usize, 0..5), 0..9),
            damaged in proptest::collection::vec(any::<bool>(), 9),
            keep_last in 0..5_u32,
        ) {
            let mut commits: Vec<Commit> = references.iter().enumerate().map(|(id, keys)| commit(100 - id, keys)).collect();
            for (commit, damaged) in commits.iter_mut().zip(&damaged) {
                if *damaged {
                    commit.manifest = None;
                }
            }
            let whole = commits.iter().filter(|commit| commit.manifest.is_some()).count();
            let plan = doomed(&commits, keep_last, "run/data/");
            prop_assert_eq!(plan.len(), kept(keep_last).map_or(0, |keep| whole.saturating_sub(keep)));
            // Step by step, as a crash may leave it.
            let mut remaining = commits.clone();
            let mut deleted = BTreeSet::new();
            for step in &plan {
                remaining.retain(|commit| commit.id != step.id);
                deleted.extend(step.data_keys.iter().map(String::as_str));
                let manifests: Vec<&Manifest> = remaining.iter().filter_map(|commit| commit.manifest.as_ref()).collect();
                prop_assert!(keys(&manifests).is_disjoint(&deleted));
            }
            // And nothing of theirs is left behind.
            let manifests: Vec<&Manifest> = remaining.iter().filter_map(|commit| commit.manifest.as_ref()).collect();
            let stay = keys(&manifests);
            for step in &plan {
                let gone = commits.iter().find(|commit| commit.id == step.id).and_then(|commit| commit.manifest.as_ref()).unwrap();
                for key in keys(&[gone]) {
                    prop_assert!(stay.contains(key) || deleted.contains(key));
                }
            }
        }
    }
}
