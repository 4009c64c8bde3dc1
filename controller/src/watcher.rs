//! Watches a training: [`decide`] from what was seen (pure), then act; what it prints and does is brought home on the way.

mod copies;
mod decide;
mod keys;
mod link;
mod listening;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use self::copies::Samples;
use self::decide::{HEARTBEAT_LATE, Sight, Verdict, decide, waited, went_with_its_container};
pub(crate) use self::decide::{SIGNAL_EXPLAINED, ended_by_signal};
use self::keys::Keys;
use self::link::Link;
use crate::{
    agent_client::{AgentStatus, SessionInfo, SessionState},
    ledger::{self, CostKind, traffic::Line},
    provider::{Instance, ProviderError},
    run::{
        State,
        bringing_up::{TRAIN, ended_text},
        budget::{self, Standing},
        halt::Halt,
        lifecycle::{Lifecycle, TEND},
        metering,
        observing::Meter,
        restarts,
        site::Site,
        status::Seen,
        windows,
    },
    store::{AttemptRecord, RunRecord},
    ui::text,
};

/// Between two looks at the agent.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Between two looks at the provider while all is well. An outbid is known within 15 s; the link usually tells sooner.
const MARKET: Duration = Duration::from_secs(10);
/// Between two looks at the money.
const MONEY: Duration = Duration::from_secs(10);
/// Between two looks at what is ahead: credit, and the end of the contract.
const AHEAD: Duration = Duration::from_secs(10 * 60);
/// Longest time for one word of a box that is left alone afterwards: an ssh login, and an agent that is replaced.
const LOOK_IN: Duration = Duration::from_secs(60);

/// What the watcher knows between two looks.
struct View {
    status: Option<AgentStatus>,
    heard: Instant,
    instance: Option<Option<Seen>>,
    /// Since when its container runs, by the provider.
    up_since_us: Option<i64>,
    instance_since: Instant,
    asked: Option<Instant>,
    link: Link,
    keys: Keys,
    boot: Option<String>,
    restarted: bool,
    ended: Option<Instant>,
    tended: Instant,
    counted: Option<Instant>,
    /// What its host takes for traffic, by the provider's newest word.
    line: Line,
    ahead: Option<Instant>,
    told_step: Option<u64>,
    /// When the box is told next who tells the user.
    hand_over: Instant,
    alarm: bool,
    /// Commits of the box when it was told that the bucket refuses it: once is enough until it commits again, or is refused no more.
    refused: Option<u64>,
    /// What was told of how rarely it saves, as long as that holds.
    rare: Option<String>,
    contradicted: bool,
    /// What was told of its disk, as long as that holds.
    disk: Option<String>,
    meter: Meter,
    samples: Samples,
    /// Money in advance was asked for, or need not be.
    reserved: bool,
    until: Until,
    began: Instant,
}

/// How long a training is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Its end.
    End,
    /// One word of its box, which has its bucket keys then.
    Heard,
}

impl Lifecycle {
    /// Running: ends when the training has ended, or the box is not ours any more.
    pub(crate) async fn watch(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        self.watch_until(Until::End, run, attempt, site).await
    }

    /// Looks in on a training that is left alone afterwards: what its box did by itself is taken over, and it gets its keys. Ends as
    /// [`Self::watch`] does where there is something to be done; else as soon as the box was heard, or does not answer.
    pub(crate) async fn look_in(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        self.watch_until(Until::Heard, run, attempt, site).await
    }

    async fn watch_until(
        &self,
        until: Until,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), Halt> {
        let id = attempt
            .instance
            .ok_or_else(|| Halt::Lost("no instance was recorded".to_owned()))?;
        let now = Instant::now();
        let mut view = View {
            status: None,
            heard: now,
            instance: None,
            up_since_us: None,
            instance_since: now,
            asked: None,
            link: Link::default(),
            keys: Keys::new(now),
            boot: None,
            restarted: false,
            ended: None,
            tended: now,
            counted: None,
            line: Line::default(),
            ahead: None,
            told_step: None,
            hand_over: Instant::now(),
            alarm: false,
            refused: None,
            rare: None,
            contradicted: false,
            disk: None,
            meter: Meter::default(),
            samples: Samples::default(),
            reserved: false,
            until,
            began: now,
        };
        let ended = self.look_on(run, attempt, site, id, &mut view).await;
        view.samples.settle();
        ended
    }

    async fn look_on(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
        id: u64,
        view: &mut View,
    ) -> Result<(), Halt> {
        loop {
            self.still_ours(run, attempt)?;
            if self.store.run(&run.name)?.stop_requested {
                return Err(Halt::StopRequested);
            }
            if view.tended.elapsed() >= TEND {
                view.tended = Instant::now();
                self.reap_older(run).await;
                self.tend().await;
            }
            // What it costs is known before it is counted.
            self.look_at_market(view, attempt, id).await?;
            // A box that the market does not know costs nothing: whether it is gone is judged below, and what it cost by its bill.
            let is_unknown = view.instance == Some(None);
            if !is_unknown && view.counted.is_none_or(|at| at.elapsed() >= MONEY) {
                view.counted = Some(Instant::now());
                self.count_money(run, attempt)?;
                if let (Some(open), Some(allowance)) = (&*site, self.allowance(run, attempt)?) {
                    open.allow(allowance.left);
                }
            }
            if view.ahead.is_none_or(|at| at.elapsed() >= AHEAD) {
                view.ahead = Some(Instant::now());
                self.look_ahead(run, attempt).await?;
            }
            // Opening a tunnel to a box that was taken back takes long and leads nowhere.
            if view.status.is_none()
                && matches!(
                    decide(&sight(view)),
                    Verdict::Interrupted(_) | Verdict::Lost(_) | Verdict::StoppedByHand(_)
                )
            {
                let sight = sight(view);
                return self
                    .act(run, attempt, site, decide(&sight), waited(&sight))
                    .await;
            }
            if site.is_none() {
                *site = self.try_open(run, attempt, view).await?;
            }
            if let Some(open) = site.clone() {
                self.listen(run, attempt, open.as_ref(), view).await?;
            }
            self.judge_silence(run, attempt, view)?;
            // A training that ended by a signal may have been stopped with its container: the provider knows which.
            let session = view
                .status
                .as_ref()
                .and_then(|status| status.session(TRAIN));
            if session.is_some_and(|session| !session.is_running()) {
                view.asked = None;
                self.look_at_market(view, attempt, id).await?;
            }
            let seen = sight(view);
            let verdict = decide(&seen);
            let trains = view
                .status
                .as_ref()
                .and_then(|status| status.session(TRAIN));
            if !view.reserved
                && view.until == Until::End
                && matches!(verdict, Verdict::GoOn)
                && trains.is_some_and(SessionInfo::is_running)
            {
                view.reserved = true;
                self.reserve(run, attempt).await?;
            }
            match verdict {
                Verdict::GoOn if view.until == Until::Heard && view.is_heard() => return Ok(()),
                Verdict::GoOn if view.until == Until::Heard && view.began.elapsed() >= LOOK_IN => {
                    let text = match view.status {
                        Some(_) => "Its box was given no fresh bucket keys.".to_owned(),
                        None => format!(
                            "Its box does not answer now, and was given no fresh bucket keys. Nobody watches it: whether it is lost is judged \
                             while `spotter up {}` does.",
                            run.name
                        ),
                    };
                    self.say(run, &text);
                    return Ok(());
                }
                Verdict::GoOn => {}
                verdict => {
                    // What follows may copy the rest of them itself.
                    view.samples.settle();
                    return self.act(run, attempt, site, verdict, waited(&seen)).await;
                }
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    /// `waited`: how long what it goes by had been so before it was believed.
    async fn act(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
        verdict: Verdict,
        waited: Duration,
    ) -> Result<(), Halt> {
        match verdict {
            Verdict::GoOn => Ok(()),
            Verdict::Interrupted(why) => {
                let alone = restarts::why_not(&self.store, attempt)?;
                let why = match alone {
                    Some(reason) => format!("{why}; the box did not go on by itself: {reason}"),
                    None => why,
                };
                Err(Halt::Interrupted { why, waited })
            }
            Verdict::Lost(why) => Err(Halt::Lost(why)),
            Verdict::StoppedByHand(why) => Err(Halt::StoppedByHand(why)),
            Verdict::Ended(session) if session.ended_well() => {
                attempt.exit_code = Some(0);
                self.say(run, "The training ended well.");
                Ok(self.move_to(attempt, State::Finishing)?)
            }
            Verdict::Ended(session) if session.state == SessionState::Stopped => {
                // The box says why it did, where it was the box.
                if let Some(open) = site.clone() {
                    self.copy_events(run, attempt, open.as_ref())
                        .await
                        .map_err(|err| Halt::Again(err.to_string()))?;
                }
                if let Some(ending) = windows::ending(&self.store, attempt)? {
                    return Err(Halt::EndedByBox(ending.into()));
                }
                // Somebody ended the session on the box itself: that is a person's decision, too.
                self.store.request_stop(&run.name)?;
                Err(Halt::StopRequested)
            }
            Verdict::Ended(session) => {
                let open = match site {
                    Some(site) => site.clone(),
                    none => none.insert(self.open(run, attempt).await?).clone(),
                };
                tracing::debug!(how = ended_text(&session), "the training ended");
                self.crashed(run, attempt, open.as_ref(), &session).await
            }
        }
    }

    /// Holds what was spent against the budget: a warning in time, and an end in order before it is over.
    fn count_money(&self, run: &RunRecord, attempt: &AttemptRecord) -> Result<(), Halt> {
        let Some(purse) = run.spec.limits.purse() else {
            return Ok(());
        };
        let budget_usd = purse.budget_usd;
        let spent_usd = self.spent_usd(&run.name)?;
        let intervals = self.store.intervals(&run.name)?;
        let rate = ledger::rate_usd_per_hour(&intervals, None);
        let pays_gpu = intervals
            .iter()
            .any(|open| open.to_us.is_none() && open.kind == CostKind::Gpu);
        // What is held back is for the disk of a box that stands still.
        let disk_usd_per_hour = match pays_gpu {
            true => attempt.storage_usd_per_hour,
            false => 0.0,
        };
        let held = match budget::held_back_usd(purse, disk_usd_per_hour) {
            held_usd if held_usd > 0.0 => format!(
                " and {} held back for {} days of its disk (`limits.storage_days`)",
                text::usd(held_usd),
                purse.storage_days
            ),
            _ => String::new(),
        };
        match budget::standing(Some(purse), spent_usd, rate, disk_usd_per_hour) {
            Standing::Fine => Ok(()),
            Standing::Low { left } => {
                let told = self
                    .store
                    .newest_event(&run.name, attempt.number, "budget_low")?;
                if told.is_some() {
                    return Ok(());
                }
                let minutes = left.as_secs() / 60;
                self.say(
                    run,
                    &format!(
                        "Careful: of the budget of {}, {} are spent{held}; at ${rate:.3}/h it lasts {minutes} more minutes. The run is \
                         finished in order before that.",
                        text::usd(budget_usd),
                        text::usd(spent_usd)
                    ),
                );
                let detail = serde_json::json!({
                    "budget_usd": budget_usd, "spent_usd": spent_usd, "usd_per_hour": rate, "left_s": left.as_secs(),
                });
                Ok(self.note(run, attempt.number, "budget_low", detail)?)
            }
            Standing::Finish { left } => Err(Halt::Limit {
                why: format!(
                    "{} of `limits.budget` of {} are spent{held}",
                    text::usd(spent_usd),
                    text::usd(budget_usd)
                ),
                left,
            }),
        }
    }

    async fn look_at_market(
        &self,
        view: &mut View,
        attempt: &mut AttemptRecord,
        id: u64,
    ) -> Result<(), Halt> {
        let late = view.heard.elapsed() >= HEARTBEAT_LATE || view.link.lost;
        // With the heartbeat missing the provider is the only source: it is asked as often as its rate allows.
        let pause = if late { HEARTBEAT } else { MARKET };
        if view.asked.is_some_and(|asked| asked.elapsed() < pause) {
            return Ok(());
        }
        view.asked = Some(Instant::now());
        let answer: Result<Option<Instance>, ProviderError> = self.provider.instance(id).await;
        match answer {
            Ok(instance) => {
                view.link.answered = view.asked;
                if let Some(instance) = &instance {
                    self.meter(attempt, instance).await?;
                    view.line = metering::line(instance);
                    view.up_since_us = instance.up_since_s.map(|since| (since * 1e6) as i64);
                    // Ports change when a container is started again.
                    if !instance.ssh.is_empty() && instance.ssh != attempt.ssh {
                        attempt.ssh = instance.ssh.clone();
                        self.store.update_attempt(attempt)?;
                    }
                }
                let seen = Some(
                    instance
                        .as_ref()
                        .map(|instance| Seen::of(instance, attempt.rental)),
                );
                if seen != view.instance {
                    view.instance = seen;
                    view.instance_since = Instant::now();
                }
                Ok(())
            }
            Err(err @ (ProviderError::Unauthorized { .. } | ProviderError::NoKey { .. })) => {
                Err(err.into())
            }
            // The laptop may be offline: that says nothing about the box, nor that an answer of before still stands.
            Err(err) => {
                if view.instance == Some(None) {
                    view.instance_since = Instant::now();
                }
                tracing::debug!(%err, "the provider does not answer");
                Ok(())
            }
        }
    }
}

impl View {
    /// Whether the box was heard, and has its keys where it needs some, or was told why not.
    fn is_heard(&self) -> bool {
        let now = Instant::now();
        // An end is judged first: what ended by a signal may have gone with its box.
        let status = self.status.as_ref().filter(|_| self.ended.is_none());
        status.is_some_and(|status| status.backup.is_none() || self.keys.are_dealt_with(now))
    }
}

fn sight(view: &View) -> Sight {
    let status = view.status.as_ref();
    let session = status.and_then(|status| status.session(TRAIN));
    let unwatched = session
        .zip(view.up_since_us)
        .is_some_and(|(session, up_since_us)| went_with_its_container(session, up_since_us));
    Sight {
        instance: view.instance,
        instance_unchanged: view.instance_since.elapsed(),
        session: session.cloned(),
        heartbeat_age: view.heard.elapsed(),
        restarted: view.restarted || unwatched,
        ended_for: view.ended.map_or(Duration::ZERO, |ended| ended.elapsed()),
    }
}
