//! Why a step stopped short, and what is recorded and done about it.

use std::{sync::Arc, time::Duration};

use crate::{
    error::CommandError,
    provider::ProviderError,
    run::{
        State,
        boxes::KEPT,
        endings::Disk,
        finishing::Ending,
        interruptions::interruptions,
        lifecycle::{LOOK_AGAIN, Lifecycle},
        machines,
        market_eye::UNKNOWN,
        never_up::{FAILED, reason_of},
        next,
        pulling::{self, Fault},
        recovery::GiveUp,
        silence,
        site::{Site, SiteError},
        trained::{HEARD_US, heard_until, watched_word},
    },
    store::{AttemptRecord, Outcome, RunRecord, StoreError},
};

/// Why a step stopped short.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The market took the box back, or its container ended.
    Interrupted {
        /// Why, for people.
        why: String,
        /// How long that had been so before it was believed: nothing trained in that time.
        waited: Duration,
    },
    /// Provider and heartbeat agree that the box is no more.
    Lost(String),
    /// This box does not come up; another one may.
    BadBox(String),
    /// Somebody stopped the box on purpose, or the account is empty.
    StoppedByHand(String),
    /// A limit of the run file is reached: the box is finished in order, within the time that is left.
    Limit {
        /// Which limit, for people.
        why: String,
        /// Until the money is over.
        left: Duration,
    },
    /// The box has ended the training itself: by a limit, or because it contradicted its estimate.
    EndedByBox(Ending),
    /// Nothing that the market has is within what the run file allows, nor will be: the run ends as it stands.
    GiveUp(GiveUp),
    /// Another box would not help.
    Fatal(CommandError),
    /// The user asked for the end of the run.
    StopRequested,
    /// Another process acts for this run, or the record has moved on: read it again.
    Superseded,
    /// The link broke, which says nothing about the box: take the step again, over a new link.
    Again(String),
    /// The provider gives no usable answer just now: wait, and take the step again.
    Wait(CommandError),
    /// Something on this laptop or at the provider is in the way. The run stays as it stands; `up` goes on.
    Pause(CommandError),
}

impl Halt {
    /// An interruption that was believed at once.
    pub(crate) fn interrupted(why: impl Into<String>) -> Self {
        Self::Interrupted {
            why: why.into(),
            waited: Duration::ZERO,
        }
    }
}

impl From<CommandError> for Halt {
    fn from(err: CommandError) -> Self {
        Self::Fatal(err)
    }
}

impl From<crate::store::StoreError> for Halt {
    fn from(err: crate::store::StoreError) -> Self {
        match err {
            // Somebody else has moved the record on, or acts now: what we meant to write is out of date.
            StoreError::BadMove { .. } | StoreError::Superseded { .. } => Self::Superseded,
            err => Self::Pause(err.into()),
        }
    }
}

impl From<ProviderError> for Halt {
    fn from(err: ProviderError) -> Self {
        match err {
            ProviderError::OfferGone { .. }
            | ProviderError::BidTooLow { .. }
            | ProviderError::NoCredit { .. }
            | ProviderError::Refused { status: ..500, .. } => Self::Fatal(err.into()),
            // A rate or a broken network says nothing about the run, and passes.
            err if err.may_pass() => Self::Wait(err.into()),
            // A missing key is for a person.
            err => Self::Pause(err.into()),
        }
    }
}

impl Halt {
    /// For whoever cannot go on after it.
    pub(crate) fn into_error(self, run: &str) -> CommandError {
        match self {
            Self::Fatal(err) | Self::Pause(err) | Self::Wait(err) => err.about(run),
            Self::Superseded => CommandError::new(format!(
                "nothing more was done for `{run}`: another spotter acts for it"
            ))
            .about(run),
            Self::Interrupted { why, .. }
            | Self::Lost(why)
            | Self::BadBox(why)
            | Self::StoppedByHand(why)
            | Self::Again(why)
            | Self::Limit { why, .. } => CommandError::new(format!("the box of `{run}` went"))
                .because(why)
                .about(run),
            Self::EndedByBox(_) => {
                CommandError::new(format!("the training of `{run}` was ended by its box"))
                    .about(run)
            }
            Self::GiveUp(why) => CommandError::new(format!("run `{run}` is not carried on"))
                .because(why.to_string())
                .about(run),
            Self::StopRequested => {
                CommandError::new(format!("the end of `{run}` was asked for")).about(run)
            }
        }
    }
}

/// Says that no other box was tried, and why.
pub(crate) fn our_fault(err: CommandError) -> CommandError {
    err.hint(
        "no other box was tried: this is a fault of spotter's own, and each of them would meet it",
    )
    .hint("please report it with the output of `-v`")
}

/// A box that refused is at fault; a broken link is nobody's fault; the laptop's own trouble is for a person to mend.
pub(crate) fn refused(what: &str, err: SiteError) -> Halt {
    match err {
        SiteError::Local(why) => Halt::Pause(CommandError::new(what).because(why)),
        SiteError::Unreachable(why) | SiteError::NoAnswer(why) => {
            Halt::Again(format!("{what}: {why}"))
        }
        SiteError::Refused(why) => Halt::BadBox(format!("{what}: {why}")),
        SiteError::Fault(why) => Halt::Fatal(our_fault(CommandError::new(what).because(why))),
    }
}

impl Lifecycle {
    /// Records why a step stopped short and prepares what follows.
    pub(crate) async fn halted(
        &self,
        run: &RunRecord,
        mut attempt: AttemptRecord,
        halt: Halt,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), CommandError> {
        if matches!(
            halt,
            Halt::Interrupted { .. } | Halt::StoppedByHand(_) | Halt::Lost(_)
        ) {
            let disk = match halt {
                Halt::Lost(_) => Disk::Lost,
                _ => Disk::Kept,
            };
            match self.had_ended(run, &mut attempt, disk).await {
                Ok(false) => {}
                Ok(true) | Err(Halt::Superseded) => return Ok(()),
                Err(halt) => {
                    return Err(halt.into_error(&run.name).goes_on(&run.name));
                }
            }
        }
        match halt {
            Halt::Superseded => {
                // Whoever acts now has written more than we know; our own lease tells soon whether it is ours no more.
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(())
            }
            Halt::Again(why) => {
                tracing::debug!(run = run.name, why, "the link broke; taking the step again");
                tokio::time::sleep(LOOK_AGAIN).await;
                Ok(())
            }
            Halt::Pause(err) | Halt::Wait(err) => {
                // What stopped it is to be told, whatever became of its record.
                if let Err(kept) = self.keep_pause(run, &mut attempt, &err) {
                    let why = reason_of(&kept);
                    tracing::warn!(run = run.name, why, "why it paused is not on record");
                }
                Err(err.about(&run.name).goes_on(&run.name))
            }
            // A box that came back and stopped itself, because it did not come up in time: its switch looks like the market's doing.
            Halt::Interrupted { why, .. }
                if attempt.reopened_us > 0
                    && attempt.awaits_training()
                    && self.came_back(&attempt)?
                    && self.bring_up_left(run, &attempt).is_zero() =>
            {
                self.gone_again(run, attempt, why)
            }
            Halt::Interrupted { why, waited } => {
                let mut detail = serde_json::json!({"reason": why, "step": attempt.last_step});
                let word_us = silence::newest_word_us(&self.store, &attempt)?;
                let word_us = watched_word(&attempt, word_us);
                if let Some(heard_us) = heard_until(self.clock.now_us(), waited, word_us) {
                    detail[HEARD_US] = heard_us.into();
                }
                self.note(run, attempt.number, "interrupted", detail)?;
                let newest = interruptions(&self.store.events(&run.name, 0)?).pop();
                let cost = newest.and_then(|newest| newest.cost()).unwrap_or_default();
                self.say(
                    run,
                    &format!("Attempt {} was interrupted: {why}.{cost}", attempt.number),
                );
                self.box_went(attempt, State::Interrupted, why)
            }
            Halt::Lost(why) => {
                // Until then it was paid for, and whether it trained nobody knows.
                let heard_us = silence::newest_word_us(&self.store, &attempt)?;
                let detail = serde_json::json!({"reason": why, "step": attempt.last_step, HEARD_US: heard_us});
                self.note(run, attempt.number, "lost", detail)?;
                let newest = interruptions(&self.store.events(&run.name, 0)?).pop();
                let cost = newest.and_then(|newest| newest.cost()).unwrap_or_default();
                self.say(
                    run,
                    &format!(
                        "The box of attempt {} is lost: {why}.{cost}",
                        attempt.number
                    ),
                );
                // One that is gone without a trace may have been ended by a person.
                if let Some(machine) = attempt.machine_id.filter(|_| why != UNKNOWN) {
                    let died = format!("a box of it died: {why}");
                    machines::remember(&self.store, machine, self.clock.now_us(), &died)?;
                }
                self.box_went(attempt, State::Lost, why)
            }
            Halt::StoppedByHand(why) => self.stopped_by_hand(run, attempt, why).await,
            Halt::Limit { why, left } => {
                self.stop_for_limit(run, &mut attempt, site, &why, left)
                    .await
            }
            Halt::EndedByBox(ending) => {
                self.say(
                    run,
                    &format!("The box ended the training: {}.", ending.reason()),
                );
                self.stop_training(run, &mut attempt, site, &ending).await
            }
            // The market gave it back and it does not come up: another one may.
            Halt::BadBox(why)
                if attempt.reopened_us > 0
                    && attempt.awaits_training()
                    && self.came_back(&attempt)? =>
            {
                self.gone_again(run, attempt, why)
            }
            // What it trained in an earlier life stays on its disk; it is not started again by itself.
            Halt::BadBox(why) if attempt.reopened_us > 0 && attempt.awaits_training() => {
                let reason = format!("{KEPT}it did not come up again: {why}");
                self.note(
                    run,
                    attempt.number,
                    FAILED,
                    serde_json::json!({"reason": why}),
                )?;
                attempt.reason = Some(reason.clone());
                self.move_to(&mut attempt, State::Failed)?;
                self.end(run, Outcome::Failed, Some(&reason))
            }
            // It holds a training, and whether that is saved nobody can say: only a person ends it.
            Halt::BadBox(why) if attempt.started_us > 0 => {
                let text = format!(
                    "the box of `{}` cannot be used and was kept: it holds a training",
                    run.name
                );
                Err(CommandError::new(text)
                    .because(why)
                    .about(&run.name)
                    .hint(format!("try again with `spotter up {}`", run.name))
                    .hint(format!(
                        "or give it up with `spotter destroy --lose-data {}`",
                        run.name
                    )))
            }
            Halt::BadBox(why) => {
                self.say(
                    run,
                    &format!(
                        "The box of attempt {} did not come up: {why}.",
                        attempt.number
                    ),
                );
                let fault = pulling::fault(&why).filter(|_| attempt.state == State::Loading);
                let remedy = fault.and_then(|fault| Some((fault, fault.remedy()?)));
                if remedy.is_none() {
                    self.remember_machine(&attempt, &why)?;
                }
                let printed = self.container_words(&attempt).await;
                let keys = self.keys_on_disk(&attempt).await;
                self.note(
                    run,
                    attempt.number,
                    FAILED,
                    serde_json::json!({"reason": why, "container_log": printed, "keys_on_disk": keys}),
                )?;
                if let Some((fault, remedy)) = remedy {
                    let attempts = self.store.attempts(&run.name)?;
                    let trained = attempts.iter().any(|attempt| attempt.started_us > 0);
                    // A registry that counts may let the next address pull; nobody is there to log in for a run that goes on.
                    let hopeless = fault == Fault::Image || !trained;
                    if hopeless && fault.was_seen(&attempts, &attempt) {
                        let err = self.no_image(run, &why, remedy)?;
                        return self.failed(run, attempt, err).await;
                    }
                    self.say(run, &format!("That is not its machine's fault: {remedy}."));
                }
                attempt.reason = Some(why);
                self.end_box_patiently(run, &mut attempt).await
            }
            Halt::StopRequested => self.stop_on_request(run, attempt, site).await,
            Halt::GiveUp(why) => self.give_up_unrented(run, attempt, &why).await,
            Halt::Fatal(err) => self.failed(run, attempt, err).await,
        }
    }

    async fn stop_on_request(
        &self,
        run: &RunRecord,
        mut attempt: AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(), CommandError> {
        if !attempt.awaits_training() {
            return self
                .stop_training(run, &mut attempt, site, &Ending::Asked)
                .await;
        }
        let reason = "stopped before the training started";
        // What an earlier life left on the disk is not lost to a change of mind.
        attempt.reason = Some(match attempt.reopened_us {
            0 => reason.to_owned(),
            _ => format!("{KEPT}{reason} again"),
        });
        if attempt.state == State::Renting && attempt.instance.is_none() {
            // Whether it was rented is not known yet; only its end makes that sure.
            self.end_box_patiently(run, &mut attempt).await?;
        } else {
            self.move_to(&mut attempt, State::Stopped)?;
        }
        // Of a run that trained before, that is no reason for its end.
        let reason = attempt.reason.as_deref();
        let reason = match self.has_trained(run)? {
            true => None,
            false => reason,
        };
        self.end(run, Outcome::Stopped, reason)
    }

    /// Somebody stopped the box on purpose: nothing is rented in its place.
    async fn stopped_by_hand(
        &self,
        run: &RunRecord,
        mut attempt: AttemptRecord,
        why: String,
    ) -> Result<(), CommandError> {
        // A box stops itself when it does not come up in time: that is its own doing.
        if attempt.started_us == 0 && self.bring_up_left(run, &attempt).is_zero() {
            let limit = self.bring_up_text(run);
            attempt.reason = Some(format!("its training had not started {limit}"));
            return self.end_box_patiently(run, &mut attempt).await;
        }
        let destroy = next::destroy(&self.store, run)?;
        self.say(
            run,
            &format!(
                "The box of attempt {} is stopped: {why}. Its disk costs ${:.4}/h until `{destroy}`.",
                attempt.number, attempt.storage_usd_per_hour
            ),
        );
        self.note(
            run,
            attempt.number,
            "stopped_by_hand",
            serde_json::json!({"reason": why, "step": attempt.last_step}),
        )?;
        self.gpu_charge_ends(&attempt)?;
        let reason = match attempt.started_us {
            0 => why,
            _ => format!("{KEPT}{why}"),
        };
        attempt.reason = Some(reason.clone());
        match self.move_to(&mut attempt, State::Stopped) {
            Err(StoreError::BadMove { .. } | StoreError::Superseded { .. }) => Ok(()),
            Err(err) => Err(err.into()),
            Ok(()) => self.end(run, Outcome::Stopped, Some(&reason)),
        }
    }

    /// A box that was waited for is back and does not come up: it is given up like one that is taken back.
    fn gone_again(
        &self,
        run: &RunRecord,
        attempt: AttemptRecord,
        why: String,
    ) -> Result<(), CommandError> {
        self.say(
            run,
            &format!(
                "The box of attempt {} did not come up again: {why}.",
                attempt.number
            ),
        );
        let detail = serde_json::json!({"reason": why});
        self.note(run, attempt.number, FAILED, detail)?;
        self.box_went(attempt, State::Interrupted, why)
    }

    /// Records that a box is no longer ours, and that its GPU is not charged any more.
    fn box_went(
        &self,
        mut attempt: AttemptRecord,
        state: State,
        why: String,
    ) -> Result<(), CommandError> {
        attempt.reason = Some(why);
        self.gpu_charge_ends(&attempt)?;
        match self.move_to(&mut attempt, state) {
            // Somebody else was faster; the loop reads what they wrote.
            Err(StoreError::BadMove { .. } | StoreError::Superseded { .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Another box would not help. Where nothing was ever trained the run is over and nothing is left to pay; otherwise
    /// everything that holds a training stays as it is.
    async fn failed(
        &self,
        run: &RunRecord,
        mut attempt: AttemptRecord,
        err: CommandError,
    ) -> Result<(), CommandError> {
        let trained = self
            .store
            .attempts(&run.name)?
            .iter()
            .any(|attempt| attempt.started_us > 0);
        let reason = reason_of(&err);
        if attempt.awaits_training() && attempt.instance.is_some() {
            let detail = serde_json::json!({"reason": reason});
            self.note(run, attempt.number, FAILED, detail)?;
        }
        if trained {
            if attempt.started_us == 0 && attempt.instance.is_some() {
                attempt.reason = Some(reason);
                self.end_box_patiently(run, &mut attempt).await?;
            }
            return Err(err.about(&run.name).goes_on(&run.name));
        }
        attempt.reason = Some(reason.clone());
        if attempt.state.may_follow(State::Failed) {
            self.move_to(&mut attempt, State::Failed)?;
        }
        self.end(run, Outcome::Failed, Some(&reason))?;
        let ended = self.store.run(&run.name)?;
        let settled = self.settle_patiently(&ended, None).await;
        Err(match settled {
            Ok(()) => err.about(&run.name),
            Err(settle) => err.because(settle.to_string()).about(&run.name),
        })
    }
}
