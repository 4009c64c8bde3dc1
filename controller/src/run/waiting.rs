//! Waits for a box that the market took back: in the market's queue, with a higher bid where that is allowed, until it is there again
//! and its training goes on. What to do is decided in `recovery`.

mod looks;

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

pub use self::looks::Looks;
use self::looks::{Meant, Nudge};
use crate::{
    error::CommandError,
    provider::{Instance, InstanceId, Intended, ProviderError, Rental},
    run::{
        State,
        bidding::Rivals,
        boxes::has_bucket,
        halt::Halt,
        lifecycle::{LOOK_AGAIN, Lifecycle},
        market_eye::{UNKNOWN, UNKNOWN_FOR},
        never_up::FAILED,
        rebidding::{BID, look_every_us},
        recovery::{self, GiveUp, Patience, Presence, Wait},
        restarts::RESTARTED,
        status::{self, Action, Seen},
        way_on,
    },
    spec::RecoverPolicy,
    store::{AttemptRecord, Outcome, RunRecord, Store, StoreError},
    ui::text,
};

/// Event with which a wait begins.
const BEGAN: &str = "waiting";
/// Events of a box that was given back and comes up, and of one that somebody took again.
const COMING: &str = "box_coming";
const AWAY: &str = "box_away";
/// Event of a box that somebody stopped while it was waited for.
const HELD: &str = "box_held";

/// A run that waits for its box, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waiting {
    /// The box.
    pub instance: InstanceId,
    /// Since when, microseconds since the epoch.
    pub since_us: i64,
    /// Until when at most.
    pub until_us: i64,
    /// What is bid now, $/h.
    pub bid_usd_per_hour: f64,
    /// What may be bid at most, $/h; `null`: it stays as it is.
    pub ceiling_usd_per_hour: Option<f64>,
    /// What its disk costs meanwhile, $/h.
    pub storage_usd_per_hour: f64,
    /// Why it waits, by the prices of all ways on; `null`: the run file says so.
    pub why: Option<String>,
}

impl Waiting {
    /// The same in one clause.
    pub fn text(&self) -> String {
        let ceiling = self.ceiling_usd_per_hour.map_or_else(
            || "is not raised".to_owned(),
            |ceiling| format!("is raised up to {}", text::usd_per_hour(ceiling)),
        );
        let why = match &self.why {
            Some(why) => format!("; it {why}"),
            None => String::new(),
        };
        format!(
            "for instance {} until {} at the latest; its disk costs ${:.4}/h meanwhile, the bid of {} {ceiling}{why}",
            self.instance,
            text::time(self.until_us),
            self.storage_usd_per_hour,
            text::usd_per_hour(self.bid_usd_per_hour)
        )
    }
}

/// How a run waits for its box; `None`: it does not.
pub fn of(
    store: &Store,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<Option<Waiting>, StoreError> {
    let Some(instance) = attempt
        .instance
        .filter(|_| attempt.state == State::Waiting && run.outcome.is_none())
    else {
        return Ok(None);
    };
    let began = store.newest_event(&run.name, attempt.number, BEGAN)?;
    let since_us = began.map_or(attempt.state_us, |event| event.time_us);
    let limit_us = i64::try_from(run.spec.recover.wait.as_micros()).unwrap_or(i64::MAX);
    let why = match run.spec.recover.policy {
        RecoverPolicy::Price => way_on::why(store, &run.name, attempt.number)?,
        _ => None,
    };
    Ok(Some(Waiting {
        why,
        instance,
        since_us,
        until_us: since_us.saturating_add(limit_us),
        bid_usd_per_hour: attempt.gpu_usd_per_hour,
        ceiling_usd_per_hour: recovery::ceiling(&run.spec.resources, attempt.storage_usd_per_hour),
        storage_usd_per_hour: attempt.storage_usd_per_hour,
    }))
}

impl Lifecycle {
    /// Begins to wait for the box of an interrupted attempt.
    pub(crate) fn begin_waiting(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
    ) -> Result<(), Halt> {
        self.note_waiting(run, attempt)?;
        self.move_to(attempt, State::Waiting)?;
        if let Some(waiting) = of(&self.store, run, attempt)? {
            self.say(run, &format!("Waiting {}.", waiting.text()));
        }
        Ok(())
    }

    pub(crate) fn note_waiting(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<(), CommandError> {
        let detail = json!({
            "instance": attempt.instance, "bid_usd_per_hour": attempt.gpu_usd_per_hour,
            "storage_usd_per_hour": attempt.storage_usd_per_hour, "limit_s": run.spec.recover.wait.as_secs(),
        });
        self.note(run, attempt.number, BEGAN, detail)
    }

    /// Waiting: one look at the box, and what follows from it. The next look is the next step.
    pub(crate) async fn wait_here(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
    ) -> Result<(), Halt> {
        self.still_ours(run, attempt)?;
        if run.stop_requested {
            let why = "stopped while its box was waited for";
            return Ok(self.end(run, Outcome::Stopped, Some(why))?);
        }
        let Some(waiting) = of(&self.store, run, attempt)? else {
            return Err(Halt::Lost("no instance was recorded".to_owned()));
        };
        let id = waiting.instance;
        let found = self.find_box(id).await?;
        self.still_ours(run, attempt)?;
        if let Some(found) = &found {
            self.meter(attempt, found).await?;
        }
        let mut wait = self.wait_so_far(run, attempt, &waiting, found.as_ref())?;
        let held = self.was_held(run, attempt, &waiting)?;
        let nudge = self.nudge(run, wait.presence, found.as_ref(), held);
        if nudge == Nudge::Hold {
            self.hold(run, attempt, &waiting)?;
        }
        let by_price = run.spec.recover.policy == RecoverPolicy::Price && has_bucket(run);
        let now_us = self.clock.now_us();
        if !by_price
            && wait.presence == Presence::Away
            && wait.bid.ceiling_usd_per_hour.is_some()
            && (self.looks).choice_is_due(&run.name, now_us, look_every_us(wait.bids))
        {
            // Only a look: without it the box is waited for all the same.
            wait.rivals = self.rivals(run, attempt).await.unwrap_or_else(|err| {
                tracing::debug!(%err, "what has to be beaten is not known");
                Rivals::Unseen
            });
        }
        let mut patience = recovery::here(&wait);
        if by_price && nudge != Nudge::Hold {
            patience = match patience {
                Patience::Wait
                | Patience::Bid(_)
                | Patience::GiveUp(GiveUp::Waited { .. } | GiveUp::HeldBack(_)) => {
                    self.priced_patience(run, attempt, &wait, patience).await?
                }
                other => other,
            };
        }
        match (patience, found) {
            (Patience::GoOn, Some(found)) => {
                return self.go_on_here(run, attempt, &found, wait.waited);
            }
            (Patience::Gone, _) | (_, None) => return Err(Halt::Lost(UNKNOWN.to_owned())),
            (Patience::Leave, _) => {
                self.store.fence(&run.name)?;
                // Out of the queue first: given back later, it would be charged beside its successor.
                self.provider.stop(id).await?;
                self.move_to(attempt, State::Interrupted)?;
                return Ok(self.new_attempt(run, attempt.number + 1)?);
            }
            (Patience::GiveUp(why), _) => {
                let reason = match &attempt.reason {
                    Some(reason) => format!("{reason}; not recovered: {why}"),
                    None => why.to_string(),
                };
                self.say(run, &format!("`{}` is not carried on: {why}.", run.name));
                return Ok(self.end(run, Outcome::Interrupted, Some(&reason))?);
            }
            // Whoever stopped it does not want it dearer either.
            (Patience::Wait | Patience::Bid(_), _) if nudge == Nudge::Hold => {}
            (Patience::Bid(usd_per_hour), _) => self.raise(run, attempt, id, usd_per_hour).await?,
            (Patience::Wait, _) if nudge == Nudge::Start => {
                self.store.fence(&run.name)?;
                self.provider.start(id).await?;
                self.looks.of(&run.name, |look| look.started = true);
            }
            (Patience::Wait, _) => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        Ok(())
    }

    /// What the market knows of a box, which is given some time to remember: one answer that it knows nothing is no verdict.
    pub async fn find_box(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError> {
        let since = Instant::now();
        loop {
            let found = self.provider.instance(id).await?;
            if found.is_some() || since.elapsed() >= UNKNOWN_FOR {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What to do about a box that is stopped.
    fn nudge(
        &self,
        run: &RunRecord,
        presence: Presence,
        found: Option<&Instance>,
        held: bool,
    ) -> Nudge {
        let Some(found) = found else {
            return Nudge::Leave;
        };
        let meant = match (found.intended, presence) {
            (Intended::Stopped, _) => Meant::Stopped,
            (_, Presence::Away | Presence::Gone) => Meant::Queued,
            (_, Presence::Coming | Presence::Back) => Meant::Running,
        };
        let now_us = self.clock.now_us();
        self.looks
            .of(&run.name, |look| look.take(meant, held, now_us))
    }

    /// Whether its box was stopped by hand in this wait, and not started since.
    fn was_held(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        waiting: &Waiting,
    ) -> Result<bool, Halt> {
        let newest = |kind: &str| self.store.newest_event(&run.name, attempt.number, kind);
        let Some(held) = newest(HELD)?.filter(|held| held.time_us >= waiting.since_us) else {
            return Ok(false);
        };
        // A box that came up, or was bid for, afterwards is wanted again.
        let since = [newest(COMING)?, newest(BID)?];
        Ok(since.into_iter().flatten().all(|event| event.id < held.id))
    }

    /// Tells once in a wait that its box was stopped by hand; the wait goes on, for whoever starts it again.
    fn hold(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        waiting: &Waiting,
    ) -> Result<(), Halt> {
        if self.was_held(run, attempt, waiting)? {
            return Ok(());
        }
        let name = &run.name;
        self.say(
            run,
            &format!(
                "Instance {} was stopped by hand while it was waited for: it is not started again. Its disk costs ${:.4}/h. Put it \
                 back into the queue with `spotter bid {name} USD`, go on with another box (`spotter resume --elsewhere {name}`), or \
                 end the run with `spotter stop {name}`.",
                waiting.instance, waiting.storage_usd_per_hour
            ),
        );
        let detail = json!({"instance": waiting.instance});
        Ok(self.note(run, attempt.number, HELD, detail)?)
    }

    /// What the decision needs.
    fn wait_so_far(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        waiting: &Waiting,
        found: Option<&Instance>,
    ) -> Result<Wait, Halt> {
        let now_us = self.clock.now_us();
        let since = |us: i64| Duration::from_micros(now_us.saturating_sub(us).max(0) as u64);
        let mut bids = self.store.events_of(&run.name, attempt.number, BID)?;
        bids.retain(|bid| bid.time_us >= waiting.since_us);
        let presence = presence(found);
        let coming_us = self.coming_since(run, attempt, waiting, presence)?;
        Ok(Wait {
            presence,
            coming: coming_us.map_or(Duration::ZERO, since),
            waited: since(waiting.since_us),
            limit: run.spec.recover.wait,
            spent_usd: self.spent_usd(&run.name)?,
            purse: run.spec.limits.purse(),
            bid: self.bid_of(run, attempt, found)?,
            rivals: Rivals::Unseen,
            since_bid: bids.iter().map(|bid| since(bid.time_us)).min(),
            bids: bids.len(),
        })
    }

    /// Since when the box that was given back comes up; kept on record, because whoever watches may change meanwhile.
    fn coming_since(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        waiting: &Waiting,
        presence: Presence,
    ) -> Result<Option<i64>, Halt> {
        let newest = |kind: &str| self.store.newest_event(&run.name, attempt.number, kind);
        let away = newest(AWAY)?.map_or(0, |event| event.id);
        let coming = newest(COMING)?
            .filter(|event| event.id > away && event.time_us >= waiting.since_us)
            .map(|event| event.time_us);
        let note = |kind: &str| {
            let detail = json!({"instance": waiting.instance});
            self.note(run, attempt.number, kind, detail)
        };
        match (presence, coming) {
            (Presence::Coming, None) => {
                note(COMING)?;
                Ok(Some(self.clock.now_us()))
            }
            (Presence::Away, Some(_)) => {
                note(AWAY)?;
                Ok(None)
            }
            (_, coming) => Ok(coming),
        }
    }

    /// The box is back: its next life begins.
    fn go_on_here(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        found: &Instance,
        waited: Duration,
    ) -> Result<(), Halt> {
        self.say(
            run,
            &format!(
                "Instance {} is back after {}: going on there at {}.",
                found.id,
                text::duration(waited),
                text::usd_per_hour(found.gpu_usd_per_hour)
            ),
        );
        let detail = json!({"instance": found.id, "back": true, "waited_s": waited.as_secs()});
        self.note(run, attempt.number, "reopened", detail)?;
        attempt.reason = None;
        attempt.exit_code = None;
        // This life has not restored anything yet.
        attempt.resumed_step = None;
        attempt.ssh = found.ssh.clone();
        attempt.gpu_usd_per_hour = found.gpu_usd_per_hour;
        self.store
            .record_bid(&run.name, attempt.number, found.gpu_usd_per_hour)?;
        attempt.old_session_us = attempt.started_us;
        attempt.reopened_us = self.clock.now_us();
        Ok(self.move_to(attempt, State::Loading)?)
    }

    /// How often a box of the run came back and was gone on with, by whoever watched or by itself.
    pub(crate) fn returns(&self, run: &str) -> Result<u32, StoreError> {
        let events = self.store.events(run, 0)?;
        let back = events
            .iter()
            .filter(|event| event.kind == "reopened" && event.detail["back"] == true);
        // An agent that was killed while it told this tells it again.
        let alone: BTreeSet<(u32, Option<u64>)> = events
            .iter()
            .filter(|event| event.kind == RESTARTED)
            .map(|event| (event.attempt, event.detail["started_us"].as_u64()))
            .collect();
        Ok((back.count() + alone.len()) as u32)
    }

    /// Whether the attempt's present life began because its box came back, and not by a person's word.
    pub(crate) fn came_back(&self, attempt: &AttemptRecord) -> Result<bool, StoreError> {
        let reopened = self
            .store
            .newest_event(&attempt.run, attempt.number, "reopened")?;
        Ok(reopened.is_some_and(|event| event.detail["back"] == true))
    }

    /// Whether the box came back and then did not come up, after its newest interruption.
    pub(crate) fn failed_here(&self, attempt: &AttemptRecord) -> Result<bool, StoreError> {
        let newest = |kind: &str| {
            let event = self
                .store
                .newest_event(&attempt.run, attempt.number, kind)?;
            Ok::<_, StoreError>(event.map_or(0, |event| event.id))
        };
        Ok(newest(FAILED)? > newest("interrupted")?)
    }
}

/// How a box that is waited for stands.
fn presence(found: Option<&Instance>) -> Presence {
    let Some(found) = found else {
        return Presence::Gone;
    };
    let row = status::row(State::Waiting, Seen::of(found, Rental::Interruptible));
    match (row.action, found.contract_running) {
        (Action::GoOn, true) if !found.ssh.is_empty() => Presence::Back,
        // A container that is started again shows its old status for a while.
        (_, true) if found.intended == Intended::Running => Presence::Coming,
        _ => Presence::Away,
    }
}
