//! Which checkpoints may leave the box though they never reached the bucket (pure): those that were skipped because newer ones went first.
//!
//! An outage leaves more on the disk than is kept. What is not worth its upload any more is worth no place either, and a full disk
//! ends a training. What is in a commit is [`super::delete`]'s by its commit, and stays as long as that.

use std::time::Duration;

use spotter_bucket::Manifest;
use spotter_bucket::whole::beside;

use super::candidate::{Candidate, FLAT_RULE, FileStat};
use super::rules::shape::Shape;

/// What the judgement rests on. Such a checkpoint was found whole, and is in no commit as far as this agent knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// When it was last written, after the epoch by the box's clock.
    pub written: Duration,
    /// When the first session began that this agent saw; `None`: it saw none.
    pub began: Option<Duration>,
    /// Whole commits in the bucket that were written later and overtake it, see [`overtakes`].
    pub newer: usize,
    /// How many newest commits stay; `None`: all.
    pub kept: Option<usize>,
    /// It is called and measures as what a commit says: that one's retention decides, and it may be pinned.
    pub looks_committed: bool,
    /// A temporary file is in it: somebody is, or was, in the middle of something.
    pub unfinished: bool,
}

/// Whether it may be deleted: as many newer ones are in the bucket as ever stay, so that neither a restore nor its fallback wants it.
///
/// What was there before the training was put there by somebody, perhaps to begin from, and stays.
pub fn may_go(facts: &Facts) -> bool {
    let superseded = facts.kept.is_some_and(|kept| facts.newer >= kept);
    let ours = facts.began.is_some_and(|began| facts.written >= began);
    superseded && ours && !facts.looks_committed && !facts.unfinished
}

/// Whether a commit is a later step of the same thing, and has every kind of file that a candidate has. One without a step is overtaken
/// by none: a final model is not what the steps before and after it are.
pub fn overtakes(newer: &Manifest, candidate: &Candidate) -> bool {
    let later = matches!((newer.step, candidate.step), (Some(newer), Some(step)) if newer > step);
    let shapes = (Shape::of(&committed(newer)), Shape::of(candidate));
    later && matches!(shapes, (Some(newer), Some(own)) if newer.replaces(&own))
}

/// What lay on the disk of whoever made a commit, as far as its shape goes.
fn committed(manifest: &Manifest) -> Candidate {
    let is_flat = manifest.rule.starts_with(FLAT_RULE);
    let key = match manifest.step {
        Some(step) if is_flat || !manifest.directory => format!("step:{step}"),
        None if is_flat => format!(
            "{}{}",
            beside::KEY,
            manifest.path.trim_end_matches(beside::SUFFIX)
        ),
        _ if manifest.directory => format!("dir:{}", manifest.path),
        _ => format!("file:{}", manifest.path),
    };
    let file = |path: &str, size_bytes, mtime_ns, mode| FileStat {
        path: path.to_owned(),
        ino: 0,
        size_bytes,
        mtime_ns,
        ctime_ns: mtime_ns,
        mode,
    };
    let files = manifest.files.iter();
    Candidate {
        key,
        path: match is_flat {
            true => ".".to_owned(),
            false => manifest.path.clone(),
        },
        step: manifest.step,
        directory: manifest.directory,
        unfinished: None,
        unreadable: None,
        files: files
            .map(|one| file(&one.path, one.size_bytes, one.mtime_ns, one.mode))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use spotter_bucket::{ManifestFile, manifest};

    use super::*;

    #[test]
    fn what_was_skipped_goes_when_nobody_can_want_it_any_more() {
        let check = |written, began: Option<u64>, newer, kept, looks_committed, expected| {
            for unfinished in [false, true] {
                let facts = Facts {
                    written: Duration::from_secs(written),
                    began: began.map(Duration::from_secs),
                    newer,
                    kept,
                    looks_committed,
                    unfinished,
                };
                assert_eq!(may_go(&facts), expected && !unfinished, "{facts:?}");
            }
        };
        check(200, Some(100), 2, Some(2), false, true);
        check(100, Some(100), 9, Some(3), false, true);
        // A restore of the newest, or its fallback, may want it.
        check(200, Some(100), 1, Some(2), false, false);
        check(200, Some(100), 0, Some(2), false, false);
        // All are kept.
        check(200, Some(100), 99, None, false, false);
        // Put there before the training, or nobody knows when that began.
        check(99, Some(100), 9, Some(2), false, false);
        check(200, None, 9, Some(2), false, false);
        // Its notes are lost, and its commit stays: pinned, or one of the best.
        check(200, Some(100), 9, Some(2), true, false);
    }

    fn commit(path: &str, step: Option<u64>, rule: &str, names: &[&str]) -> Manifest {
        let file = |name: &&str| ManifestFile {
            path: (*name).to_owned(),
            mode: 0o644,
            mtime_ns: 9,
            size_bytes: 3,
            blake3: String::new(),
            key: String::new(),
            part_size_bytes: 0,
            parts: Vec::new(),
        };
        Manifest {
            v: manifest::FORMAT,
            id: String::new(),
            run: "run".to_owned(),
            attempt: 1,
            step,
            rule: rule.to_owned(),
            path: path.to_owned(),
            directory: names != [""],
            committed_us: 0,
            server_us: 0,
            prev: None,
            metric: None,
            files: names.iter().map(file).collect(),
            encoding: None,
            self_blake3: String::new(),
        }
    }

    #[test]
    fn only_a_later_step_of_the_same_thing_overtakes() {
        let both = ["model.pt", "optimizer.pt"];
        let own = committed(&commit("checkpoint-100", Some(100), "generic", &both));
        for (path, step, names, expected) in [
            ("checkpoint-200", Some(200), &both[..], true),
            ("checkpoint-50", Some(50), &both, false),
            ("checkpoint-200", Some(200), &both[..1], false),
            ("final-200", Some(200), &both, false),
            ("checkpoint-200", None, &both, false),
        ] {
            let newer = commit(path, step, "generic", names);
            assert_eq!(overtakes(&newer, &own), expected, "{newer:?}");
        }
        let last = committed(&commit("last", None, "generic", &both));
        let newer = commit("checkpoint-200", Some(200), "generic", &both);
        assert!(!overtakes(&newer, &last), "it has no step");

        let single = |path: &str, step| commit(path, step, "torch-zip", &[""]);
        let own = committed(&single("step_1.pt", Some(1)));
        assert_eq!(own.key, "step:1");
        assert!(overtakes(&single("step_2.pt", Some(2)), &own));
        assert!(!overtakes(&single("eval_2.pt", Some(2)), &own));
        let flat = |step: u64| {
            let names = [format!("model_{step}.pt"), format!("optim_{step}.pt")];
            let names = [names[0].as_str(), names[1].as_str()];
            let rule = format!("{FLAT_RULE}+torch-zip");
            commit(&format!("step-{step}"), Some(step), &rule, &names)
        };
        let own = committed(&flat(1));
        assert_eq!((own.key.as_str(), own.path.as_str()), ("step:1", "."));
        assert!(overtakes(&flat(2), &own));
        assert!(!overtakes(&single("model_2.pt", Some(2)), &own));
    }
}
