//! An old box of a run on the machine of its new one: what lies on its disk is copied over by the host, for nothing, before the rest is
//! fetched from the bucket.
//!
//! The copy is help and no promise: whatever of it fails or takes long, the bucket has everything that is restored, and what came over is
//! held against its hashes like any file.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    error::CommandError,
    provider::{DiskLook, DiskPath, Provider, ProviderError, hosts::is_host},
    run::lifecycle::Lifecycle,
    store::{AttemptRecord, RunRecord},
};

/// Between two looks at how much has come over; each is a request and a result to fetch.
const LOOK: Duration = Duration::from_secs(5);
/// A copy that brings nothing for so long is not under way.
const STANDS: Duration = Duration::from_secs(60);
/// Longest time for a copy: a disk moves 100 GB in it.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// The newest old box on the machine of the new one that trained and still has its disk (pure).
pub(crate) fn sibling<'a>(
    attempts: &'a [AttemptRecord],
    new: &AttemptRecord,
) -> Option<&'a AttemptRecord> {
    let machine = new.machine_id?;
    attempts
        .iter()
        .filter(|old| old.number < new.number && old.started_us > 0 && old.may_cost())
        .filter(|old| old.machine_id == Some(machine))
        .filter(|old| old.instance.is_some_and(|id| !is_host(id)))
        .max_by_key(|old| old.number)
}

/// Copies a directory, and waits until there is as much of it on both sides. Answers how many KiB that is; `None`: there is nothing to
/// copy.
///
/// # Errors
/// When the market refuses, or not all of it came over in time.
pub async fn copy_over(
    provider: &dyn Provider,
    from: DiskPath<'_>,
    to: DiskPath<'_>,
) -> Result<Option<u64>, ProviderError> {
    let Some(wanted) = size_kib(provider, from).await?.filter(|kib| *kib > 0) else {
        return Ok(None);
    };
    provider.copy(from, to).await?;
    let began = Instant::now();
    let (mut best, mut grew) = (0, began);
    loop {
        let there = size_kib(provider, to).await?.unwrap_or(0);
        if there >= wanted {
            return Ok(Some(wanted));
        }
        if there > best {
            (best, grew) = (there, Instant::now());
        }
        if grew.elapsed() >= STANDS || began.elapsed() >= LIMIT {
            provider.cancel_copy(to.instance).await?;
            return Err(ProviderError::Unreachable {
                operation: "copy",
                message: format!("{best} of {wanted} KiB came over"),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Size of a directory; `None`: it is not there.
async fn size_kib(provider: &dyn Provider, at: DiskPath<'_>) -> Result<Option<u64>, ProviderError> {
    let printed = provider
        .look_at_disk(at.instance, DiskLook::Size, at.path)
        .await?;
    Ok(printed
        .lines()
        .last()
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok()))
}

impl Lifecycle {
    /// Before a restore: what an old box on the same machine has. `workdir` is the same on both.
    pub(crate) async fn copy_from_sibling(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        workdir: &str,
    ) -> Result<(), CommandError> {
        let attempts = self.store.attempts(&run.name)?;
        let (Some(old), Some(to), Some(keys)) = (
            sibling(&attempts, attempt),
            attempt.instance,
            run.spec.checkpoints.as_ref(),
        ) else {
            return Ok(());
        };
        let Some(from) = old.instance else {
            return Ok(());
        };
        let path = format!("{}/{}", workdir.trim_end_matches('/'), keys.dir);
        let at = |instance| DiskPath {
            instance,
            path: &path,
        };
        let machine = attempt.machine_id.unwrap_or_default();
        self.say(
            run,
            &format!(
                "Instance {from} of attempt {} is on the same machine, {machine}: copying its checkpoints over, which costs nothing.",
                old.number
            ),
        );
        match copy_over(self.provider.as_ref(), at(from), at(to)).await {
            Ok(kib) => {
                let detail = serde_json::json!({"from": from, "to": to, "kib": kib});
                self.note(run, attempt.number, "copied_from_sibling", detail)?;
            }
            Err(err) => {
                self.say(
                    run,
                    &format!("They did not all come over ({err}): the bucket has them."),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{State, claims::tests::attempt};

    #[test]
    fn the_newest_old_box_on_the_same_machine_that_trained_is_a_sibling() {
        let old = |number: u32, state, machine_id, started_us| AttemptRecord {
            number,
            machine_id: Some(machine_id),
            started_us,
            ..attempt(state, Some(u64::from(number)))
        };
        let new = old(9, State::Syncing, 5, 0);
        let found = |attempts: &[AttemptRecord]| sibling(attempts, &new).map(|old| old.number);
        let kept = State::Interrupted;
        assert_eq!(found(&[old(1, kept, 5, 1), old(2, kept, 5, 1)]), Some(2));
        assert_eq!(found(&[old(1, kept, 5, 1), old(2, kept, 6, 1)]), Some(1));
        assert_eq!(
            found(&[old(1, State::Gone, 5, 1)]),
            None,
            "its disk is gone"
        );
        assert_eq!(found(&[old(1, kept, 5, 0)]), None, "it never trained");
        assert_eq!(found(&[old(9, kept, 5, 1)]), None, "that is the new one");
        let nowhere = AttemptRecord {
            machine_id: None,
            ..new.clone()
        };
        assert_eq!(sibling(&[old(1, kept, 5, 1)], &nowhere), None);
        let host = AttemptRecord {
            instance: Some(u64::MAX),
            ..old(1, kept, 5, 1)
        };
        assert!(is_host(u64::MAX) && found(&[host]).is_none());
    }
}
