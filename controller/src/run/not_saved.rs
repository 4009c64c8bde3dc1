//! What of an ended training is not saved yet, why, and what to type: the step is taken again, and the box is paid for meanwhile.

use serde_json::json;

use crate::{
    agent_client::BackupInfo,
    error::CommandError,
    run::{State, halt::Halt, lifecycle::Lifecycle, site::SiteError},
    store::{AttemptRecord, RunRecord, Store, StoreError},
    ui::text,
};

/// Kind of the event.
pub const NOT_SAVED: &str = "not_saved";
/// Most checkpoints that are named in one sentence.
const NAMED: usize = 3;

/// What is told of an attempt that is being finished; `None`: all went well so far, or it is over.
///
/// # Errors
/// When the store cannot be read.
pub fn warning(store: &Store, attempt: &AttemptRecord) -> Result<Option<String>, StoreError> {
    if attempt.state != State::Finishing {
        return Ok(None);
    }
    let newest = store.newest_event(&attempt.run, attempt.number, NOT_SAVED)?;
    Ok(newest.map(|event| {
        let word = |key: &str| event.detail[key].as_str().unwrap_or_default().to_owned();
        line(&word("what"), &word("reason"), &word("next"))
    }))
}

fn line(what: &str, reason: &str, next: &str) -> String {
    format!("the {what} are not saved yet: {reason}; {next}")
}

/// What lies on a box and cannot be saved as it is, by name and with the reasons (pure).
pub(super) fn unsavable(backup: &BackupInfo) -> String {
    let named = backup.at_stake.iter().take(NAMED).map(|(path, bytes)| {
        let size = text::bytes(*bytes);
        match backup.why_unsaved(path) {
            Some(why) => format!("`{path}` ({size}), because {why}"),
            None => format!("`{path}` ({size}), because it is not whole"),
        }
    });
    let mut named: Vec<String> = named.collect();
    let all = text::bytes(backup.unsaved_bytes);
    if named.is_empty() {
        return format!("{all} of checkpoint files are not whole, and so in no bucket");
    }
    if backup.at_stake.len() > NAMED {
        named.push(format!("and others, {all} in all"));
    }
    format!("in no bucket is {}", named.join("; "))
}

/// The kind of a failure, and what to type (pure).
fn class(run: &str, err: &SiteError) -> (&'static str, String) {
    match err {
        SiteError::Unreachable(_) | SiteError::NoAnswer(_) => (
            "no_answer",
            format!("it is tried again while somebody watches: `spotter up {run}`"),
        ),
        SiteError::Refused(_) => (
            "refused",
            format!(
                "see what the bucket allows with `spotter doctor bucket {run}`, then go on with `spotter up {run}`"
            ),
        ),
        SiteError::Fault(_) => ("fault", format!("go on with `spotter up {run}`")),
        SiteError::Local(_) => (
            "here",
            format!("mend that on this machine, then go on with `spotter up {run}`"),
        ),
    }
}

/// How it goes on: a broken link is no verdict.
pub(super) fn unsaved(run: &RunRecord, err: SiteError) -> Halt {
    match err {
        SiteError::Unreachable(why) => Halt::Again(why),
        err => {
            let text = format!("run `{}` ended, but not everything is saved", run.name);
            Halt::Pause(CommandError::new(text).cause(err))
        }
    }
}

impl Lifecycle {
    /// Tells once, on the screen and in the record, what was not saved and why; answers how it goes on.
    pub(super) fn not_saved(
        &self,
        run: &RunRecord,
        attempt: u32,
        what: &str,
        err: SiteError,
    ) -> Halt {
        if let Err(err) = self.tell_not_saved(run, attempt, what, &err) {
            return err.into();
        }
        unsaved(run, err)
    }

    fn tell_not_saved(
        &self,
        run: &RunRecord,
        attempt: u32,
        what: &str,
        err: &SiteError,
    ) -> Result<(), CommandError> {
        let reason = err.to_string();
        let newest = self.store.newest_event(&run.name, attempt, NOT_SAVED)?;
        let is_told = newest.is_some_and(|event| {
            event.detail["what"] == what && event.detail["reason"] == reason.as_str()
        });
        if is_told {
            return Ok(());
        }
        let (class, next) = class(&run.name, err);
        self.say(run, &format!("Careful: {}.", line(what, &reason, &next)));
        let detail = json!({ "what": what, "class": class, "reason": reason, "next": next });
        self.note(run, attempt, NOT_SAVED, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_saved_is_named_with_its_reason() {
        let check = |at_stake: &[(&str, u64)], unsaved: &[&str], expected: &str| {
            let backup = BackupInfo {
                unsaved_bytes: at_stake.iter().map(|(_, bytes)| bytes).sum::<u64>().max(4),
                at_stake: (at_stake.iter())
                    .map(|(path, bytes)| ((*path).to_owned(), *bytes))
                    .collect(),
                unsaved: unsaved.iter().map(|line| (*line).to_owned()).collect(),
                ..BackupInfo::default()
            };
            assert_eq!(unsavable(&backup), expected);
        };
        let link = "best.pt: it is a link to /data/best.pt";
        check(
            &[("best.pt", 4)],
            &["best.pt.old: torn", link],
            "in no bucket is `best.pt` (4 B), because it is a link to /data/best.pt",
        );
        check(
            &[("a.pt", 2048), ("best.pt", 4)],
            &[link],
            "in no bucket is `a.pt` (2.0 KiB), because it is not whole; `best.pt` (4 B), because it is a link to /data/best.pt",
        );
        check(
            &[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)],
            &[],
            "in no bucket is `a` (1 B), because it is not whole; `b` (1 B), because it is not whole; \
             `c` (1 B), because it is not whole; and others, 5 B in all",
        );
        // Agents that know no names.
        check(
            &[],
            &[],
            "4 B of checkpoint files are not whole, and so in no bucket",
        );
    }

    #[test]
    fn each_kind_of_failure_has_a_command_to_type() {
        let check = |err: SiteError, class_expected: &str, command: &str| {
            let (found, next) = class("tiny", &err);
            assert_eq!(found, class_expected);
            assert!(next.contains(command), "{next}");
        };
        let why = || "why".to_owned();
        check(
            SiteError::Unreachable(why()),
            "no_answer",
            "`spotter up tiny`",
        );
        check(SiteError::NoAnswer(why()), "no_answer", "`spotter up tiny`");
        check(
            SiteError::Refused(why()),
            "refused",
            "`spotter doctor bucket tiny`",
        );
        check(SiteError::Fault(why()), "fault", "`spotter up tiny`");
        check(SiteError::Local(why()), "here", "`spotter up tiny`");
    }
}
