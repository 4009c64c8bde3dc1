//! What the market says of boxes that nobody watches: the record of those is as old as the last look.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    commands::Deps,
    error::{CommandError, chain},
    ledger,
    provider::{Instance, InstanceId},
    run::{
        State, claims,
        ended_alone::Billing,
        endings::Disk,
        status::{self, Meaning, Seen},
    },
    store::AttemptRecord,
};

/// A table is worth this wait, and no longer one.
const LIMIT: Duration = Duration::from_secs(4);

/// The market's word on one box.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct MarketWord {
    /// What it means, in one or two words; `null`: all is as recorded.
    pub news: Option<&'static str>,
    /// What the box costs now, $/h.
    pub usd_per_hour: f64,
    /// Somebody should carry the run on: what is recorded is not so any more.
    pub acts: bool,
}

/// The market knows no such box.
const GONE: &str = "box gone";
/// The box is there and nobody runs it.
const STOPPED: &str = "box stopped";
/// It is stopped, and runs again when its GPU is free.
const QUEUED: &str = "waits for its GPU";

impl MarketWord {
    /// What became of the disk of a box that does not run any more; `None`: it may run.
    pub(super) fn disk(&self) -> Option<Disk> {
        match self.news {
            Some(GONE) => Some(Disk::Lost),
            Some(STOPPED) => Some(Disk::Kept),
            _ => None,
        }
    }

    /// The market knows no such box.
    pub(super) fn is_gone(&self) -> bool {
        self.news == Some(GONE)
    }

    /// What the box of a training that has ended costs by this.
    pub(super) fn billing(&self) -> Billing {
        match self.news {
            _ if self.usd_per_hour <= 0.0 => Billing::Nothing,
            Some(STOPPED | QUEUED) => Billing::Disk,
            _ => Billing::Running,
        }
    }
}

impl Deps {
    /// The boxes of the account; else why the market did not tell.
    pub(super) async fn market_boxes(&self) -> Result<BTreeMap<InstanceId, Instance>, String> {
        let provider = self.provider().map_err(|err| err.to_string())?;
        let asked = tokio::time::timeout(LIMIT, provider.instances()).await;
        let instances = asked
            .map_err(|_| format!("the market did not answer within {} s", LIMIT.as_secs()))?
            .map_err(|err| chain(&err))?;
        if let Err(err) = self.meter(&instances) {
            tracing::debug!(%err, "what the market told of prices is not on record");
        }
        Ok(instances
            .into_iter()
            .map(|instance| (instance.id, instance))
            .collect())
    }
}

impl Deps {
    /// The market's word on the box of one attempt, by its number: cheap enough to ask whenever the box itself says nothing. `None`: there
    /// is no box to speak of.
    pub(super) async fn market_word(
        &self,
        attempt: &AttemptRecord,
    ) -> Result<Option<MarketWord>, String> {
        let Some(id) = attempt.instance else {
            let boxes = self.market_boxes().await?;
            return Ok(word(attempt, &boxes));
        };
        let provider = self.provider().map_err(|err| err.to_string())?;
        let asked = tokio::time::timeout(LIMIT, provider.instance(id)).await;
        let found = asked
            .map_err(|_| format!("the market did not answer within {} s", LIMIT.as_secs()))?
            .map_err(|err| chain(&err))?;
        if let Err(err) = self.meter(found.as_slice()) {
            tracing::debug!(%err, "what the market told of prices is not on record");
        }
        let boxes = found.into_iter().map(|found| (found.id, found)).collect();
        Ok(word(attempt, &boxes))
    }

    /// Of boxes that nobody watches the record thinks that they cost what they did at the last look.
    fn meter(&self, instances: &[Instance]) -> Result<(), CommandError> {
        let store = self.store()?;
        let attempts = store.all_attempts()?;
        let now_us = self.clock.now_us();
        for instance in instances {
            if let Some(attempt) = claims::owner(&attempts, instance)
                && attempt.instance.is_some()
                && (attempt.state != State::Loading || is_charged(instance))
            {
                store.meter(&attempt.run, attempt.number, instance, now_us)?;
            }
        }
        Ok(())
    }
}

/// One that came up while nobody watched is paid for, though its record has it loading.
fn is_charged(instance: &Instance) -> bool {
    ledger::rates(instance).gpu_usd_per_hour > 0.0
}

/// Holds the record of a box against the market's word (pure). `None`: there is no box to speak of.
pub(super) fn word(
    attempt: &AttemptRecord,
    boxes: &BTreeMap<InstanceId, Instance>,
) -> Option<MarketWord> {
    let is_its = |found: &&Instance| found.label.as_deref() == Some(attempt.label.as_str());
    let id = match attempt.instance {
        Some(id) => id,
        // Whoever rented it ended before its number was on record.
        None => boxes.values().find(is_its)?.id,
    };
    if !attempt.may_cost() {
        return None;
    }
    let Some(instance) = boxes.get(&id) else {
        return Some(MarketWord {
            news: Some(GONE),
            usd_per_hour: 0.0,
            acts: true,
        });
    };
    let meaning = status::row(attempt.state, Seen::of(instance, attempt.rental)).meaning;
    let (news, acts) = match (attempt.state, meaning) {
        // As its record says.
        (State::Waiting, Meaning::Queued) => (None, false),
        (State::Renting, _) => (Some("rented already"), true),
        _ => news(meaning),
    };
    Some(MarketWord {
        news,
        usd_per_hour: ledger::rates(instance).total(),
        acts,
    })
}

/// What all boxes of a run cost now by the market's word, $/h (pure).
pub(super) fn all_boxes_usd_per_hour(
    attempts: &[AttemptRecord],
    boxes: &BTreeMap<InstanceId, Instance>,
) -> f64 {
    attempts
        .iter()
        .filter_map(|attempt| word(attempt, boxes))
        // An empty sum of floats is -0.
        .fold(0.0, |sum, word| sum + word.usd_per_hour)
}

fn news(meaning: Meaning) -> (Option<&'static str>, bool) {
    match meaning {
        Meaning::Up | Meaning::Starting | Meaning::StoppedAsWanted => (None, false),
        Meaning::Restarting => (Some("restarting"), false),
        Meaning::Queued => (Some(QUEUED), true),
        Meaning::ContainerEnded => (Some("container ended"), true),
        Meaning::Paused => (Some("paused"), true),
        Meaning::HostSilent => (Some("host silent"), false),
        Meaning::TakenBack => (Some(STOPPED), true),
        Meaning::StoppedByHand => (Some(STOPPED), true),
        Meaning::Kept => (Some("box runs on"), false),
        Meaning::Revived => (Some("box given back"), true),
        Meaning::Unexpected => (Some("box still there"), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Actual, Intended, memory};

    fn attempt(state: State) -> AttemptRecord {
        AttemptRecord {
            state,
            instance: Some(7),
            gone_us: 0,
            ..crate::run::summary::attempt_for_tests(1)
        }
    }

    fn instance(intended: Intended, actual: Actual) -> Instance {
        Instance {
            intended,
            actual,
            contract_running: intended == Intended::Running,
            ..memory::instance(7)
        }
    }

    #[test]
    fn a_stopped_box_costs_its_disk_and_a_vanished_one_nothing() {
        let boxes = |instance: Instance| BTreeMap::from([(7, instance)]);
        for (state, boxes, news, usd_per_hour, acts) in [
            (
                State::Running,
                boxes(instance(Intended::Running, Actual::Running)),
                None,
                0.31,
                false,
            ),
            (
                State::Running,
                boxes(instance(Intended::Stopped, Actual::Exited)),
                Some("box stopped"),
                0.01,
                true,
            ),
            (
                State::Stopped,
                boxes(instance(Intended::Stopped, Actual::Exited)),
                None,
                0.01,
                false,
            ),
            (
                State::Stopped,
                boxes(instance(Intended::Running, Actual::Running)),
                Some("box runs on"),
                0.31,
                false,
            ),
            (State::Running, BTreeMap::new(), Some("box gone"), 0.0, true),
        ] {
            let found = word(&attempt(state), &boxes).unwrap();
            assert_eq!((found.news, found.acts), (news, acts), "{state} {boxes:?}");
            assert!((found.usd_per_hour - usd_per_hour).abs() < 1e-9);
        }
        assert_eq!(word(&attempt(State::Gone), &BTreeMap::new()), None);
    }

    #[test]
    fn what_a_training_that_ended_costs_still_is_the_markets_to_say() {
        for (news, usd_per_hour, expected) in [
            (None, 0.31, Billing::Running),
            (Some("container ended"), 0.31, Billing::Running),
            (Some(STOPPED), 0.01, Billing::Disk),
            (Some(QUEUED), 0.01, Billing::Disk),
            (Some(GONE), 0.0, Billing::Nothing),
            // A host that is offline, or one of one's own.
            (Some("host silent"), 0.0, Billing::Nothing),
            (None, 0.0, Billing::Nothing),
        ] {
            let word = MarketWord {
                news,
                usd_per_hour,
                acts: true,
            };
            assert_eq!(word.billing(), expected, "{news:?}");
        }
    }

    #[test]
    fn a_box_that_was_rented_by_one_who_did_not_live_to_record_it_is_known_by_its_label() {
        let renting = AttemptRecord {
            instance: None,
            label: "ours".to_owned(),
            ..attempt(State::Renting)
        };
        let labelled = |label: &str| {
            let label = Some(label.to_owned());
            let found = instance(Intended::Running, Actual::Running);
            BTreeMap::from([(7, Instance { label, ..found })])
        };
        let found = word(&renting, &labelled("ours")).unwrap();
        assert_eq!((found.news, found.acts), (Some("rented already"), true));
        assert!((found.usd_per_hour - 0.31).abs() < 1e-9);
        assert_eq!(word(&renting, &labelled("another")), None);
    }

    #[test]
    fn a_run_costs_what_all_its_boxes_cost() {
        let old = AttemptRecord {
            instance: Some(6),
            ..attempt(State::Interrupted)
        };
        let boxes = BTreeMap::from([
            (6, instance(Intended::Stopped, Actual::Exited)),
            (7, instance(Intended::Running, Actual::Running)),
        ]);
        let both = [old, attempt(State::Running)];
        assert!((all_boxes_usd_per_hour(&both, &boxes) - 0.32).abs() < 1e-9);
        // A host that is offline charges nothing, whatever the contract says.
        let offline = BTreeMap::from([(7, instance(Intended::Running, Actual::Offline))]);
        assert_eq!(all_boxes_usd_per_hour(&both[1..], &offline), 0.0);
    }
}
