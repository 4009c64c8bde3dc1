//! A box that gives no word while its market calls it running: nobody knows whether it trains, and it is paid for. Since when, what that
//! costs, what is saved and what can be done is told; and a stop of such a box ends.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::{
    State, alarms,
    finishing::Ending,
    halt::{Halt, refused},
    lifecycle::{LOOK_AGAIN, Lifecycle},
    site::Site,
};
use crate::{
    agent_client::AgentStatus,
    error::CommandError,
    ledger,
    provider::hosts::is_host,
    store::{AttemptRecord, Origin, Outcome, RunRecord, Store, StoreError},
    ui::text,
};

/// Event: no word came for [`ALARM_AFTER`], while the provider called the box running.
pub const SILENT: &str = "box_silent";
/// Event: it answers again.
pub const HEARD: &str = "box_heard";
/// A router restarts within minutes; after that a person should know what is paid for.
pub(crate) const ALARM_AFTER: Duration = Duration::from_secs(5 * 60);
/// The date of the last word is written down this often.
const WORD_KEPT: Duration = Duration::from_secs(10);
/// How long a stop looks for a box that may save a last checkpoint: one that has just gone silent, and one that is known to be.
const STOP_REACH: Duration = Duration::from_secs(120);
const STOP_REACH_SILENT: Duration = Duration::from_secs(30);

/// Since when nothing was heard of a box of which that was told, microseconds since the epoch; `None`: it answers, as far as is known.
///
/// # Errors
/// When the record cannot be read.
pub fn since_us(store: &Store, attempt: &AttemptRecord) -> Result<Option<i64>, StoreError> {
    if attempt.state != State::Running {
        return Ok(None);
    }
    let newest = |kind: &str| store.newest_event(&attempt.run, attempt.number, kind);
    let Some(silent) = newest(SILENT)? else {
        return Ok(None);
    };
    let heard = newest(HEARD)?.is_some_and(|heard| heard.id > silent.id);
    let since_us = silent.detail["since_us"].as_i64();
    Ok(since_us.filter(|_| !heard))
}

/// The same with what it costs, what is saved and what to do, for people; `None`: nothing is wrong.
///
/// # Errors
/// When the record cannot be read.
pub fn warning(
    store: &Store,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<Option<String>, StoreError> {
    let since_us = since_us(store, attempt)?.filter(|_| run.outcome.is_none());
    let told = since_us.map(|since_us| text(store, attempt, since_us));
    told.transpose()
}

/// When the box of an attempt gave its last word, to ten seconds; `None`: nobody watched it.
///
/// # Errors
/// When the record cannot be read.
pub fn last_word_us(store: &Store, attempt: &AttemptRecord) -> Result<Option<i64>, StoreError> {
    let kept = store.meta(&key(attempt))?;
    Ok(kept.and_then(|kept| kept.parse().ok()))
}

/// When anybody heard of the box of an attempt for the last time: its last word, or the newest event that it told of, whoever watched then.
/// Never later than now; `None`: nobody did.
///
/// # Errors
/// When the record cannot be read.
pub(crate) fn newest_word_us(
    store: &Store,
    attempt: &AttemptRecord,
) -> Result<Option<i64>, StoreError> {
    let events = store.events(&attempt.run, 0)?;
    let told = events
        .iter()
        .filter(|event| event.attempt == attempt.number && event.origin == Origin::Agent);
    let told_us = told.map(|event| event.time_us).max();
    let word_us = last_word_us(store, attempt)?.max(told_us);
    Ok(word_us.map(|word_us| word_us.min(store.now_us())))
}

/// Writes down that a box was heard, where that was not done just now.
pub(crate) fn keep_word(
    store: &Store,
    attempt: &AttemptRecord,
    kept: &mut Option<Instant>,
) -> Result<(), StoreError> {
    if kept.is_some_and(|at| at.elapsed() < WORD_KEPT) {
        return Ok(());
    }
    *kept = Some(Instant::now());
    store.set_meta(&key(attempt), &store.now_us().to_string())
}

/// Writes down that a box of which silence was told gave a word, whoever heard it.
pub(crate) fn note_heard(store: &Store, attempt: &AttemptRecord) -> Result<(), StoreError> {
    if let Some(since_us) = since_us(store, attempt)? {
        let now_us = store.now_us();
        let silent_us = now_us.saturating_sub(since_us);
        let detail = json!({"silent_s": silent_us / 1_000_000});
        store.note(&attempt.run, attempt.number, now_us, HEARD, &detail)?;
    }
    Ok(())
}

fn key(attempt: &AttemptRecord) -> String {
    format!("heard/{}/{}", attempt.run, attempt.number)
}

fn text(store: &Store, attempt: &AttemptRecord, since_us: i64) -> Result<String, StoreError> {
    let name = &attempt.run;
    let usd_per_hour = ledger::rate_usd_per_hour(&store.intervals(name)?, None);
    let saved = alarms::newest_saved(store, name, (1..=attempt.number).rev())?;
    let silent_us = store.now_us().saturating_sub(since_us).max(0);
    Ok(words(&Silence {
        run: name,
        since_us,
        silent: Duration::from_micros(silent_us.unsigned_abs()),
        usd_per_hour: (!attempt.instance.is_some_and(is_host)).then_some(usd_per_hour),
        saved: saved.map(|(step, _)| step),
    }))
}

/// What is told of a silent box.
struct Silence<'a> {
    run: &'a str,
    since_us: i64,
    silent: Duration,
    /// `None`: a host of the user's own.
    usd_per_hour: Option<f64>,
    /// The newest checkpoint in the bucket, and its step where it has one.
    saved: Option<Option<u64>>,
}

fn words(silence: &Silence<'_>) -> String {
    let Silence {
        run,
        since_us,
        silent,
        usd_per_hour,
        saved,
    } = silence;
    let since = text::time(*since_us);
    let minutes = text::duration(Duration::from_secs(silent.as_secs() / 60 * 60));
    let paid = usd_per_hour.map_or_else(String::new, |usd| {
        format!(
            ", and the market calls it running: you pay {}",
            text::usd_per_hour(usd)
        )
    });
    let saved = match saved {
        None => "no checkpoint is known to be saved".to_owned(),
        Some(None) => "its newest checkpoint is saved".to_owned(),
        Some(Some(step)) => format!("saved is step {step}"),
    };
    format!(
        "no word from its box since {since} ({minutes}){paid}; whether it trains is not known; {saved}. Stop it, its disk kept, with \
         `spotter stop {run}`, then go on elsewhere with `spotter resume --elsewhere {run}`; or give it up with `spotter destroy \
         --lose-data {run}`"
    )
}

impl Lifecycle {
    /// Tells once that a box is silent, wherever people look.
    pub(crate) fn tell_silent(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        silent: Duration,
    ) -> Result<(), CommandError> {
        let known = since_us(&self.store, attempt)?;
        let by_clock = self.clock.now_us().saturating_sub(micros(silent));
        let since_us = known.unwrap_or(by_clock);
        let text = text(&self.store, attempt, since_us)?;
        self.say(run, &format!("Careful: {text}."));
        if known.is_none() {
            let detail = json!({"since_us": since_us, "text": text});
            self.note(run, attempt.number, SILENT, detail)?;
        }
        Ok(())
    }

    /// The way to a box whose training is to be ended, and what its agent says. Where somebody asked for the end, a box that gives no word
    /// is looked for no longer than it may take to come back.
    pub(crate) async fn reach_to_stop(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
        ending: &Ending,
    ) -> Result<(Arc<dyn Site>, AgentStatus), Halt> {
        if !matches!(ending, Ending::Asked) || attempt.instance.is_some_and(is_host) {
            return self.reach_once(run, attempt, site).await;
        }
        let patience = match since_us(&self.store, attempt)? {
            Some(_) => STOP_REACH_SILENT,
            None => STOP_REACH,
        };
        let limit = Instant::now() + patience;
        let mut told = false;
        loop {
            let quick = Instant::now() + LOOK_AGAIN;
            let mut reached = Box::pin(self.reach_once(run, attempt, site));
            let mut answer = tokio::time::timeout_at(quick.min(limit), &mut reached).await;
            if answer.is_err() && !told {
                told = true;
                let text = format!(
                    "The box gives no word. If none comes within {} s, it is stopped without a last checkpoint; its disk is kept.",
                    patience.as_secs()
                );
                self.say(run, &text);
            }
            if answer.is_err() {
                answer = tokio::time::timeout_at(limit, reached).await;
            } else {
                drop(reached);
            }
            match answer {
                Ok(Err(Halt::Again(why))) if Instant::now() < limit => {
                    tracing::debug!(run = run.name, why, "looking for the box again");
                    *site = None;
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(Err(Halt::Again(_))) | Err(_) => break,
                Ok(answer) => return answer,
            }
        }
        *site = None;
        // Where the market does not answer either, the network of this laptop is away, and nothing is known of the box.
        match self
            .provider
            .instance(attempt.instance.unwrap_or_default())
            .await
        {
            Ok(Some(_)) => Err(Halt::Lost(format!(
                "it gave no word for {} s when its training was to be stopped",
                patience.as_secs()
            ))),
            Ok(None) | Err(_) => Err(Halt::Again("neither box nor market answers".to_owned())),
        }
    }

    async fn reach_once(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &mut Option<Arc<dyn Site>>,
    ) -> Result<(Arc<dyn Site>, AgentStatus), Halt> {
        let site = self.site_of(run, attempt, site).await?;
        let status = site
            .status()
            .await
            .map_err(|err| refused("its agent did not answer", err))?;
        Ok((site, status))
    }

    /// The box of a training that was to be stopped gave no word: it is given up, and stopped as it is.
    pub(crate) fn stop_silent(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        why: &str,
    ) -> Result<(), CommandError> {
        self.keep_for_a_look(run, attempt, why);
        match self.move_to(attempt, State::Lost) {
            // Somebody else has moved it on.
            Err(StoreError::BadMove { .. } | StoreError::Superseded { .. }) => return Ok(()),
            other => other?,
        }
        self.end(run, Outcome::Stopped, attempt.reason.as_deref())
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_box_is_told_with_its_age_its_price_what_is_saved_and_what_to_type() {
        let silence = Silence {
            run: "r",
            since_us: 1_767_225_600_000_000,
            silent: Duration::from_secs(7 * 60 + 12),
            usd_per_hour: Some(0.205),
            saved: Some(Some(750)),
        };
        assert_eq!(
            words(&silence),
            "no word from its box since 2026-01-01 00:00:00Z (7 min), and the market calls it running: you pay $0.205/h; whether it \
             trains is not known; saved is step 750. Stop it, its disk kept, with `spotter stop r`, then go on elsewhere with `spotter \
             resume --elsewhere r`; or give it up with `spotter destroy --lose-data r`"
        );
        let own = Silence {
            usd_per_hour: None,
            saved: None,
            ..silence
        };
        let told = words(&own);
        assert!(told.contains("(7 min); whether"), "{told}");
        assert!(
            told.contains("no checkpoint is known to be saved"),
            "{told}"
        );
    }
}
