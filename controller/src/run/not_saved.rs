//! What of an ended training is not saved yet, why, and what to type: the step is taken again, and the box is paid for meanwhile.

use serde_json::json;

use crate::{
    error::CommandError,
    run::{State, halt::Halt, lifecycle::Lifecycle, site::SiteError},
    store::{AttemptRecord, RunRecord, Store, StoreError},
};

/// Kind of the event.
pub const NOT_SAVED: &str = "not_saved";

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
        text(&word("what"), &word("reason"), &word("next"))
    }))
}

fn text(what: &str, reason: &str, next: &str) -> String {
    format!("the {what} are not saved yet: {reason}; {next}")
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
        self.say(run, &format!("Careful: {}.", text(what, &reason, &next)));
        let detail = json!({ "what": what, "class": class, "reason": reason, "next": next });
        self.note(run, attempt, NOT_SAVED, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
