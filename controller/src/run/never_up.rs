//! What is kept and told of a box that did not come up: why, with the attempt, and what it had printed.

use std::time::Duration;

use serde_json::json;

use super::{State, lifecycle::Lifecycle};
use crate::{
    error::CommandError,
    provider::DiskLook,
    store::{AttemptRecord, RunRecord, Store, StoreError},
    ui::text,
};

/// Event: the training of an attempt did not start.
pub(crate) const FAILED: &str = "bring_up_failed";
/// Event: it did not start now, and its box is kept: `up` goes on.
pub(crate) const PAUSED: &str = "bring_up_paused";
/// Lines of a container's log that are kept of a box that is given up, and characters of them.
const LAST_LINES: u32 = 30;
const LAST_CHARS: usize = 4000;
/// Longest time for them: the box is paid for meanwhile.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// Why something failed, as one clause (pure).
pub(crate) fn reason_of(err: &CommandError) -> String {
    std::iter::once(err.message())
        .chain(err.causes().iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(": ")
}

/// Whether a box of an attempt in this state is paid for and does not train yet (pure).
fn comes_up(state: State) -> bool {
    matches!(
        state,
        State::Loading | State::Preparing | State::Syncing | State::Smoke
    )
}

fn newest_pause(store: &Store, attempt: &AttemptRecord) -> Result<Option<String>, StoreError> {
    let event = store.newest_event(&attempt.run, attempt.number, PAUSED)?;
    Ok(event.and_then(|event| Some(event.detail["reason"].as_str()?.to_owned())))
}

impl Lifecycle {
    /// Keeps why a bring-up stopped short of which the box is kept: with the attempt, and once among its events.
    pub(super) fn keep_pause(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        err: &CommandError,
    ) -> Result<(), CommandError> {
        let is_bring_up = attempt.instance.is_some() && comes_up(attempt.state);
        if !is_bring_up || !attempt.awaits_training() {
            return Ok(());
        }
        let reason = reason_of(err);
        if newest_pause(&self.store, attempt)?.as_ref() != Some(&reason) {
            let detail = json!({"reason": reason});
            self.note(run, attempt.number, PAUSED, detail)?;
        }
        attempt.reason = Some(reason);
        match self.store.update_attempt(attempt) {
            // Somebody else has moved it on: then it did not stop here.
            Err(StoreError::BadMove { .. } | StoreError::Superseded { .. }) => Ok(()),
            kept => Ok(kept?),
        }
    }

    /// It trains after all.
    pub(super) fn forget_pause(&self, attempt: &mut AttemptRecord) -> Result<(), StoreError> {
        if attempt.reason.is_some() && newest_pause(&self.store, attempt)? == attempt.reason {
            attempt.reason = None;
        }
        Ok(())
    }

    /// Two machines said so: the next one would, too.
    pub(super) fn no_image(
        &self,
        run: &RunRecord,
        why: &str,
        remedy: &str,
    ) -> Result<CommandError, CommandError> {
        let image = match run.spec.image.as_str() {
            "" => "the image of its template".to_owned(),
            image => format!("the image `{image}`"),
        };
        let cost = text::usd(self.spent_usd(&run.name)?);
        Ok(CommandError::new(format!(
            "run `{}` did not start: {image} cannot be had",
            run.name
        ))
        .because(format!("two machines say: {why}"))
        .hint(format!("{remedy}; then type the same `spotter run` again"))
        .hint(format!(
            "no machine is avoided for it; the tries cost {cost}"
        )))
    }

    /// What a container that nobody could reach has printed, by the provider; nothing when that takes long.
    pub(super) async fn container_words(&self, attempt: &AttemptRecord) -> Option<String> {
        let id = attempt
            .instance
            .filter(|_| attempt.state == State::Preparing)?;
        let asked = self.provider.container_log(id, LAST_LINES);
        let printed = tokio::time::timeout(LAST_WORDS, asked).await.ok()?.ok()?;
        let kept = printed.char_indices().rev().nth(LAST_CHARS);
        Some(printed[kept.map_or(0, |(at, _)| at)..].to_owned())
    }

    /// What lies where sshd looks for keys, asked past sshd: whether it was a key that was missing.
    pub(super) async fn keys_on_disk(&self, attempt: &AttemptRecord) -> Option<String> {
        let id = attempt
            .instance
            .filter(|_| attempt.state == State::Preparing)?;
        let asked = self.provider.look_at_disk(id, DiskLook::List, "/root/.ssh");
        let listed = tokio::time::timeout(LAST_WORDS, asked).await.ok()?.ok()?;
        Some(listed.chars().take(LAST_CHARS).collect())
    }
}
