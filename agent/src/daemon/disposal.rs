//! Whether a box that ends itself is destroyed or only stopped (pure): destroyed where its run wants that and nothing is on it alone.

use super::ending::By;
use crate::{
    checkpoints::BackupState,
    sessions::{SessionState, record::Session},
};

/// How a training ended, as far as its box's fate hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, and well.
    Well,
    /// By a limit or a contradiction.
    Ended,
    /// In any other way: a person should look first.
    Otherwise,
}

/// The end of a session, and what ended it where that was this box.
pub fn end_of(training: &Session, by: Option<By>) -> End {
    let exit_code = training.end.as_ref().and_then(|end| end.exit_code);
    match (training.state, by) {
        (SessionState::Exited, _) if exit_code == Some(0) => End::Well,
        (SessionState::Stopped, Some(_)) => End::Ended,
        _ => End::Otherwise,
    }
}

/// What became of the results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collected {
    /// The run names none.
    NotWanted,
    /// They are in the bucket, by a manifest that was read back; these paths do not exist.
    Home {
        /// Key of the manifest; empty: none of the paths exists.
        manifest_key: String,
        /// Paths of which there is nothing.
        missing: Vec<String>,
        /// Links whose targets are not among them.
        passed_over: Vec<String>,
    },
    /// They are not all there.
    No,
}

/// What is known of a box that is to end itself.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The run wants its box destroyed at the end.
    pub wanted: bool,
    /// The instance answered to its own key in preflight.
    pub proved: bool,
    /// How the training ended.
    pub end: End,
    /// When it began, microseconds since the epoch by the box's clock; `u64::MAX`: nobody knows.
    pub began_us: u64,
    /// The backup after its last round; absent: there is none, or it could not be asked.
    pub backup: Option<&'a BackupState>,
    /// The results.
    pub results: &'a Collected,
}

/// What a box does with itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposal {
    /// It destroys itself.
    Destroy,
    /// It stops, and its disk stays; why, where it was to be destroyed.
    Stop {
        /// For people; absent: nothing else was wanted.
        kept_because: Option<String>,
    },
}

impl Disposal {
    /// Why it only stops, though it was to be destroyed.
    pub fn kept_because(&self) -> Option<String> {
        match self {
            Self::Destroy => None,
            Self::Stop { kept_because } => kept_because.clone(),
        }
    }

    /// Only stops, though it was to be destroyed.
    pub fn kept(why: impl Into<String>) -> Self {
        Self::Stop {
            kept_because: Some(why.into()),
        }
    }
}

/// Decides.
pub fn disposal(facts: &Facts<'_>) -> Disposal {
    // After a crash nobody expects anything else: its disk is kept for a look.
    if !facts.wanted || facts.end == End::Otherwise {
        return Disposal::Stop { kept_because: None };
    }
    match why_kept(facts) {
        Some(why) => Disposal::kept(why),
        None => Disposal::Destroy,
    }
}

fn why_kept(facts: &Facts<'_>) -> Option<String> {
    if !facts.proved {
        return Some("its key was not proved before the start".to_owned());
    }
    let Some(backup) = facts.backup else {
        return Some("what is in the bucket is not known".to_owned());
    };
    if let Some(why) = why_unsaved(backup) {
        return Some(why);
    }
    match facts.results {
        Collected::No => return Some("its results did not get to the bucket".to_owned()),
        Collected::Home { passed_over, .. } if !passed_over.is_empty() => {
            let links = passed_over.join(", ");
            return Some(format!(
                "what these links in its results lead to is not kept: {links}"
            ));
        }
        Collected::Home {
            manifest_key,
            missing,
            ..
        } if manifest_key.is_empty() && missing.is_empty() => {
            return Some("its results are empty".to_owned());
        }
        // A training that was ended half-way may have none yet.
        Collected::Home { missing, .. } if !missing.is_empty() && facts.end != End::Ended => {
            return Some(format!("of its results there is no {}", missing.join(", ")));
        }
        // All of them are home, so that the training brought what it was for.
        Collected::Home { missing, .. } if missing.is_empty() => return None,
        Collected::Home { .. } | Collected::NotWanted => {}
    }
    // One that wrote where nobody looked leaves a bucket in which nothing lacks.
    (backup.last_commit_us < facts.began_us)
        .then(|| "nothing that this training wrote is in the bucket".to_owned())
}

/// What of the checkpoints is not in the bucket.
pub fn why_unsaved(backup: &BackupState) -> Option<String> {
    if backup.unseen {
        return Some("its checkpoints could not be looked at".to_owned());
    }
    if backup.pending > 0 {
        return Some(format!(
            "{} finished checkpoints did not get to the bucket",
            backup.pending
        ));
    }
    if backup.unsaved_bytes > 0 || !backup.unsaved.is_empty() {
        return Some(format!(
            "{} bytes of checkpoint files are in no commit",
            backup.unsaved_bytes
        ));
    }
    // Torn ones and old ones, too, which nobody would call unsaved.
    (backup.here_alone_bytes > 0).then(|| {
        let bytes = backup.here_alone_bytes;
        format!("{bytes} bytes of checkpoint files are on its disk only")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_destroyed_only_where_everything_is_in_the_bucket_and_its_key_is_proved() {
        let saved = BackupState {
            last_commit_us: 100,
            ..BackupState::default()
        };
        let texts =
            |texts: &[&str]| -> Vec<String> { texts.iter().map(|&text| text.to_owned()).collect() };
        let home = |manifest_key: &str, missing: &[&str], passed_over: &[&str]| Collected::Home {
            manifest_key: manifest_key.to_owned(),
            missing: texts(missing),
            passed_over: texts(passed_over),
        };
        let key = "r/results/1.json";
        let (all, some) = (home(key, &[], &[]), home(key, &["out/final.pt"], &[]));
        let (empty, none) = (home("", &[], &[]), home("", &["out"], &[]));
        let linked = home(key, &["out/final.pt"], &["out/best"]);
        let good = Facts {
            wanted: true,
            proved: true,
            end: End::Well,
            began_us: 100,
            backup: Some(&saved),
            results: &all,
        };
        let of = |change: &dyn Fn(&mut BackupState)| {
            let mut state = saved.clone();
            change(&mut state);
            state
        };
        let waiting = of(&|state| state.pending = 2);
        let torn = of(&|state| state.unsaved_bytes = 9);
        let refused = of(&|state| {
            state
                .unsaved
                .push("a name that no path may have".to_owned())
        });
        let blind = of(&|state| state.unseen = true);
        let alone = of(&|state| state.here_alone_bytes = 7);
        let before = of(&|state| state.last_commit_us = 99);
        let never = BackupState::default();
        for (name, facts, kept) in [
            ("all is saved", good.clone(), None),
            (
                "no results are named",
                Facts {
                    results: &Collected::NotWanted,
                    ..good.clone()
                },
                None,
            ),
            (
                "a limit ended it before its results",
                Facts {
                    end: End::Ended,
                    results: &some,
                    ..good.clone()
                },
                None,
            ),
            (
                "nothing was committed, and its results are home",
                Facts {
                    backup: Some(&never),
                    ..good.clone()
                },
                None,
            ),
            (
                "nothing was committed since it began",
                Facts {
                    backup: Some(&before),
                    results: &Collected::NotWanted,
                    ..good.clone()
                },
                Some("nothing that this training wrote"),
            ),
            (
                "nothing was ever committed, and a limit ended it before its results",
                Facts {
                    end: End::Ended,
                    backup: Some(&never),
                    results: &none,
                    ..good.clone()
                },
                Some("nothing that this training wrote"),
            ),
            (
                "nothing was ever committed, and a limit ended it before all of its results",
                Facts {
                    end: End::Ended,
                    backup: Some(&never),
                    results: &some,
                    ..good.clone()
                },
                Some("nothing that this training wrote"),
            ),
            (
                "nobody knows when it began",
                Facts {
                    began_us: u64::MAX,
                    results: &Collected::NotWanted,
                    ..good.clone()
                },
                Some("nothing that this training wrote"),
            ),
            (
                "a torn one is older than the newest commit",
                Facts {
                    backup: Some(&alone),
                    ..good.clone()
                },
                Some("7 bytes of checkpoint files are on its disk only"),
            ),
            (
                "its results are directories with nothing in them",
                Facts {
                    results: &empty,
                    ..good.clone()
                },
                Some("are empty"),
            ),
            (
                "a link among its results leads elsewhere, and a limit ended it",
                Facts {
                    end: End::Ended,
                    results: &linked,
                    ..good.clone()
                },
                Some("lead to is not kept: out/best"),
            ),
            (
                "not proved",
                Facts {
                    proved: false,
                    ..good.clone()
                },
                Some("not proved before the start"),
            ),
            (
                "no bucket",
                Facts {
                    backup: None,
                    ..good.clone()
                },
                Some("is not known"),
            ),
            (
                "not looked at",
                Facts {
                    backup: Some(&blind),
                    ..good.clone()
                },
                Some("could not be looked at"),
            ),
            (
                "uploads wait",
                Facts {
                    backup: Some(&waiting),
                    ..good.clone()
                },
                Some("2 finished checkpoints"),
            ),
            (
                "a torn file",
                Facts {
                    backup: Some(&torn),
                    ..good.clone()
                },
                Some("9 bytes"),
            ),
            (
                "one that cannot be saved",
                Facts {
                    backup: Some(&refused),
                    ..good.clone()
                },
                Some("in no commit"),
            ),
            (
                "a result is missing",
                Facts {
                    results: &some,
                    ..good.clone()
                },
                Some("there is no out/final.pt"),
            ),
            (
                "results wait",
                Facts {
                    results: &Collected::No,
                    ..good.clone()
                },
                Some("did not get to the bucket"),
            ),
            (
                "results wait, and a limit ended it",
                Facts {
                    end: End::Ended,
                    results: &Collected::No,
                    ..good.clone()
                },
                Some("did not get to the bucket"),
            ),
        ] {
            match (disposal(&facts), kept) {
                (Disposal::Destroy, None) => {}
                (
                    Disposal::Stop {
                        kept_because: Some(why),
                    },
                    Some(part),
                ) if why.contains(part) => {}
                (got, _) => panic!("{name}: {got:?}"),
            }
            for stays in [
                Facts {
                    wanted: false,
                    ..facts.clone()
                },
                Facts {
                    end: End::Otherwise,
                    ..facts
                },
            ] {
                let got = disposal(&stays);
                assert_eq!(got, Disposal::Stop { kept_because: None }, "{name}");
            }
        }
    }
}
