//! Keeps an eye on the provider's word while something else takes long on a box.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    provider::{Instance, Rental},
    run::{
        State,
        halt::Halt,
        lifecycle::{LOOK_AGAIN, Lifecycle},
        site::Site,
        status::{self, Action, Meaning, Row, Seen},
    },
    store::{AttemptRecord, RunRecord},
};

/// The provider calls a host silent, and its agent does not answer for this long: the box is lost.
const HEARTBEAT_GONE: Duration = Duration::from_secs(120);
/// A heartbeat that is asked for beside other work.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// An instance that the provider does not know is gone when it has said so, and its agent nothing, for this long: a list may lag,
/// and one answer may be wrong.
pub(crate) const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// What the provider says of an instance that it does not know.
pub(crate) const UNKNOWN: &str = "the provider does not know the instance any more";

/// Remembers since when the provider has said the same.
#[derive(Debug, Default)]
pub(crate) struct Eye(Option<(Meaning, Instant)>);

impl Eye {
    /// What an instance means for an attempt in `state`, and whether that has lasted beyond its deadline.
    pub(crate) fn look(
        &mut self,
        state: State,
        rented: Rental,
        instance: &Instance,
    ) -> (Row, bool) {
        let row = status::row(state, Seen::of(instance, rented));
        let since = match self.0 {
            Some((meaning, since)) if meaning == row.meaning => since,
            _ => Instant::now(),
        };
        self.0 = Some((row.meaning, since));
        let overdue = row
            .deadline
            .is_some_and(|deadline| since.elapsed() >= deadline);
        (row, overdue)
    }
}

/// What a box that ended by itself, or stays away, comes to. Before anything was copied to a new one that is no interruption: its host
/// or its image is at fault.
pub(crate) fn ended(attempt: &AttemptRecord, row: &Row) -> Halt {
    let is_new = matches!(attempt.state, State::Loading | State::Preparing)
        && attempt.awaits_training()
        && attempt.reopened_us == 0;
    match row.meaning {
        Meaning::ContainerEnded if is_new => Halt::BadBox(row.text.to_owned()),
        _ => Halt::interrupted(row.text),
    }
}

impl Lifecycle {
    /// Ends when the market takes the box back, its host is gone, or the time to come up is over. Never ends otherwise.
    pub(crate) async fn watch_market(
        &self,
        run: &RunRecord,
        attempt: AttemptRecord,
        site: &dyn Site,
    ) -> Halt {
        let mut eye = Eye::default();
        let mut heard = Instant::now();
        let mut unknown: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK_AGAIN * 3).await;
            let Some(id) = attempt.instance else { continue };
            match self.provider.instance(id).await {
                Ok(Some(instance)) => {
                    unknown = None;
                    let (row, overdue) = eye.look(attempt.state, attempt.rental, &instance);
                    match row.action {
                        Action::Recover => return Halt::interrupted(row.text),
                        Action::Respect => return Halt::StoppedByHand(row.text.to_owned()),
                        Action::WaitThenRecover | Action::WaitThenGiveUp if overdue => {
                            // The provider's word on a container can be late; an agent that answers is there.
                            if !answers(site).await {
                                return ended(&attempt, &row);
                            }
                        }
                        Action::AskHeartbeat if overdue => {
                            if answers(site).await {
                                heard = Instant::now();
                            } else if heard.elapsed() >= HEARTBEAT_GONE {
                                return Halt::Lost(format!(
                                    "{}, and its agent does not answer",
                                    row.text
                                ));
                            }
                        }
                        _ => heard = Instant::now(),
                    }
                }
                Ok(None) => {
                    let since = *unknown.get_or_insert_with(Instant::now);
                    if answers(site).await {
                        unknown = None;
                    } else if since.elapsed() >= UNKNOWN_FOR {
                        return Halt::Lost(UNKNOWN.to_owned());
                    }
                }
                Err(err) => {
                    unknown = None;
                    tracing::debug!(%err, "the provider does not answer, asking again");
                }
            }
            if attempt.awaits_training() && self.bring_up_left(run, &attempt).is_zero() {
                return Halt::BadBox(format!(
                    "its training had not started {}",
                    self.bring_up_text(run)
                ));
            }
            match self.store.run(&run.name) {
                Ok(now) if now.stop_requested && !run.stop_requested => return Halt::StopRequested,
                _ => {}
            }
        }
    }
}

async fn answers(site: &dyn Site) -> bool {
    matches!(
        tokio::time::timeout(HEARTBEAT, site.status()).await,
        Ok(Ok(_))
    )
}
