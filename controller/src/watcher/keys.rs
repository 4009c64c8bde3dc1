//! The bucket keys of a box that is watched: renewed in time, and tried again where they are refused.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    agent_client::BackupInfo,
    doctor::diagnosis::KeyFault,
    run::{
        handing::{Handed, Hands, Held, REFUSED},
        lifecycle::Lifecycle,
        site::{Site, SiteError},
    },
    store::RunRecord,
};

/// Bucket keys are handed over again this often: temporary ones expire, and a restarted agent has none.
const RENEW: Duration = Duration::from_secs(10 * 60);
/// Between two tries to get keys where something on this laptop is in the way, or the box has none worse.
const AGAIN: Duration = Duration::from_secs(60);
/// Between two looks for others while a box waits for some that work.
const LOOK: Duration = Duration::from_secs(5);
/// Nothing is signed anew more often than this.
const GRANTS_AGAIN: Duration = Duration::from_secs(20);

/// What is known of them between two looks.
pub(super) struct Keys {
    due: Instant,
    /// Not before this, since they were dealt with a moment ago.
    wait: Instant,
    /// What was told of those that this laptop does not have.
    problem: Option<String>,
    /// Checkpoints that were signed for when that was done last.
    signed_for: Option<u32>,
    hands: Hands,
}

impl Keys {
    /// Due at once: a fresh start has just given some, and an older run may have none.
    pub(super) fn new(now: Instant) -> Keys {
        Keys {
            due: now,
            wait: now,
            problem: None,
            signed_for: None,
            hands: Hands::default(),
        }
    }

    /// The box has them, or people were told why not.
    pub(super) fn are_dealt_with(&self, now: Instant) -> bool {
        self.due > now || self.wait > now
    }
}

impl Lifecycle {
    /// Hands over new bucket keys where they are due or wanted.
    pub(super) async fn renew_keys(
        &self,
        run: &RunRecord,
        site: &dyn Site,
        backup: &BackupInfo,
        keys: &mut Keys,
    ) {
        // Of huge checkpoints one or two are all that is signed for at a time.
        let enough = keys.signed_for.map_or(3, |left| left.min(3));
        let few = backup.checkpoints_left.is_some_and(|left| left < enough);
        let wanted = backup.problem.is_some() || few || keys.due <= Instant::now();
        if !wanted || keys.wait > Instant::now() {
            return;
        }
        let held = Held::of(backup, self.clock.now_us());
        match self.hand_over(run, site, held, &mut keys.hands).await {
            Ok(Handed::Given(given)) => {
                let renew_in = given.renew_in(self.clock.now_us(), RENEW);
                keys.due = Instant::now() + renew_in;
                let problem = backup.problem.as_deref();
                let again = match given.signed_for {
                    // What is refused as soon as it is signed is for a person to mend.
                    Some(_) if problem.is_some_and(|problem| problem.contains(REFUSED)) => AGAIN,
                    Some(_) => GRANTS_AGAIN,
                    None => LOOK,
                };
                keys.wait = Instant::now() + again;
                keys.signed_for = given.signed_for;
                keys.problem = None;
            }
            Ok(Handed::Kept(_)) => {
                // One that waits for keys gets them as soon as they are there.
                let again = if held == Held::Fine { AGAIN } else { LOOK };
                keys.wait = Instant::now() + again;
                keys.problem = None;
            }
            Err(err @ SiteError::Unreachable(_)) => {
                tracing::debug!(%err, "bucket keys wait for the next look");
            }
            Err(err) => {
                keys.wait = Instant::now() + AGAIN;
                let problem = err.to_string();
                if keys.problem.as_ref() != Some(&problem) {
                    let text = format!(
                        "Fresh bucket keys were not handed over: {problem}. Trying again every minute."
                    );
                    self.say(run, &text);
                    keys.problem = Some(problem);
                }
            }
        }
    }
}

/// What a person does about a backup that is behind for a reason of its keys; empty: it is none.
pub(super) fn advice(run: &str, why: &str) -> String {
    if !why.contains(REFUSED) {
        return String::new();
    }
    match KeyFault::of(why) {
        Some(KeyFault::Expired) => {
            " Get new keys where these came from (`aws sso login`): they are handed over within a minute of being there, and nothing \
             that waits is lost."
                .to_owned()
        }
        _ => format!(
            " See what is refused and what to grant: `spotter doctor bucket {run}`."
        ),
    }
}
