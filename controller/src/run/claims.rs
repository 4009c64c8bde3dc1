//! Which instance of the account belongs to which attempt, and which belongs to nobody (pure). A create that is carried out
//! twice, or after its answer was given up, makes a twin under the same label: one is kept, the other is destroyed.

use crate::{
    provider::{Instance, InstanceId},
    run::{
        State,
        status::{self, Action, Seen},
    },
    store::AttemptRecord,
};

/// What must happen to an instance that should not go on as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was given up and costs GPU time again: stop it. Its disk may still be wanted.
    Stop {
        /// Run of the attempt that has it.
        run: String,
        /// That attempt.
        attempt: u32,
    },
    /// It carries the label of an attempt that has another box, or none any more: it must not be paid for.
    Destroy {
        /// Run of the attempt whose label it carries.
        run: String,
        /// That attempt.
        attempt: u32,
    },
}

/// The attempt that an instance belongs to: by its number once that is known, by the label before.
pub fn owner<'a>(attempts: &'a [AttemptRecord], instance: &Instance) -> Option<&'a AttemptRecord> {
    attempts.iter().find(|attempt| match attempt.instance {
        _ if attempt.state == State::Gone => false,
        Some(id) => id == instance.id,
        None => instance.label.as_deref() == Some(attempt.label.as_str()),
    })
}

/// Whether an instance under an attempt's label is that attempt's, or may become it: nobody else may end it.
pub fn is_claimed(attempt: &AttemptRecord, id: InstanceId) -> bool {
    attempt.state != State::Gone && attempt.instance.is_none_or(|ours| ours == id)
}

/// Instances that must be stopped or destroyed. Labels are unique to an attempt of this very store, so that nothing of another
/// laptop is ever meant. `attempts` are all of the store, read after the instances were listed: what was rented in between is
/// in the record and not in the list.
pub fn fates(instances: &[Instance], attempts: &[AttemptRecord]) -> Vec<(InstanceId, Fate)> {
    instances
        .iter()
        .filter_map(|instance| Some((instance.id, fate(instance, attempts)?)))
        .collect()
}

fn fate(instance: &Instance, attempts: &[AttemptRecord]) -> Option<Fate> {
    let of = |attempt: &AttemptRecord| (attempt.run.clone(), attempt.number);
    if let Some(attempt) = owner(attempts, instance) {
        let (run, attempt_number) = of(attempt);
        return match status::row(attempt.state, Seen::of(instance, attempt.rental)).action {
            Action::Stop => Some(Fate::Stop {
                run,
                attempt: attempt_number,
            }),
            _ => None,
        };
    }
    let label = instance.label.as_deref()?;
    let attempt = attempts.iter().find(|attempt| attempt.label == label)?;
    let twin = attempt.instance.is_some_and(|id| id != instance.id);
    let row = status::row(attempt.state, Seen::of(instance, attempt.rental));
    (twin || row.action == Action::Destroy).then(|| {
        let (run, attempt) = of(attempt);
        Fate::Destroy { run, attempt }
    })
}

/// Whether the box of an older attempt holds nothing that is still wanted: what it trained is in the bucket and was taken up
/// from there, or was trained again since.
///
/// `newer` are the attempts after it; `unsaved_step`: the newest checkpoint that finished on that box and reached no bucket.
pub fn is_superseded(
    has_bucket: bool,
    old: &AttemptRecord,
    newer: &[AttemptRecord],
    unsaved_step: Option<u64>,
) -> bool {
    let trains = |attempt: &&AttemptRecord| attempt.started_us > 0 && !attempt.state.is_bring_up();
    let taken_up = |attempt: &AttemptRecord| {
        attempt.resumed_step.is_some()
            && !old.is_kept_for_a_look()
            && unsaved_step
                .is_none_or(|step| attempt.last_step.max(attempt.resumed_step) >= Some(step))
    };
    // A box may have gone further than anybody heard.
    let trained_again =
        |attempt: &AttemptRecord| attempt.last_step >= old.last_step.max(unsaved_step);
    old.started_us == 0
        || (has_bucket
            && newer
                .iter()
                .filter(trains)
                .any(|attempt| taken_up(attempt) || trained_again(attempt)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        provider::{Intended, memory},
        run::boxes::KEPT,
    };

    pub(crate) fn attempt(state: State, instance: Option<u64>) -> AttemptRecord {
        AttemptRecord {
            state,
            label: "ours".to_owned(),
            instance,
            started_us: 0,
            gone_us: 0,
            ..crate::run::summary::attempt_for_tests(1)
        }
    }

    fn instance(id: u64, label: &str, intended: Intended) -> Instance {
        Instance {
            label: Some(label.to_owned()),
            intended,
            gpu_usd_per_hour: 0.2,
            ..memory::instance(id)
        }
    }

    #[test]
    fn a_twin_and_a_box_whose_end_was_recorded_are_destroyed_and_a_revived_one_is_stopped() {
        let destroy = Some(Fate::Destroy {
            run: "r".to_owned(),
            attempt: 1,
        });
        let stop = Some(Fate::Stop {
            run: "r".to_owned(),
            attempt: 1,
        });
        let running = Intended::Running;
        for (state, ours, id, label, intended, expected) in [
            // Still being rented: whichever turns up first is taken in by the run itself.
            (State::Renting, None, 7, "ours", running, None),
            (State::Running, Some(7), 7, "ours", running, None),
            (State::Running, Some(7), 8, "ours", running, destroy.clone()),
            (State::Gone, None, 8, "ours", running, destroy.clone()),
            (State::Gone, Some(7), 7, "ours", running, destroy),
            (State::Interrupted, Some(7), 7, "ours", running, stop),
            (
                State::Interrupted,
                Some(7),
                7,
                "ours",
                Intended::Stopped,
                None,
            ),
            (State::Failed, Some(7), 7, "ours", running, None),
            (State::Gone, None, 8, "others", running, None),
        ] {
            let found = fates(&[instance(id, label, intended)], &[attempt(state, ours)]);
            let found = found.into_iter().next().map(|(_, fate)| fate);
            assert_eq!(found, expected, "{state} {ours:?} {id} {label}");
        }
    }

    #[test]
    fn a_box_is_claimed_by_the_attempt_that_has_it_or_still_looks_for_one() {
        for (state, ours, expected) in [
            (State::Renting, None, true),
            (State::Running, Some(7), true),
            (State::Stopped, Some(7), true),
            (State::Running, Some(8), false),
            (State::Gone, Some(7), false),
            (State::Gone, None, false),
        ] {
            let found = is_claimed(&attempt(state, ours), 7);
            assert_eq!(found, expected, "{state} {ours:?}");
        }
    }

    #[test]
    fn a_box_that_trained_is_kept_until_its_steps_are_taken_up_or_trained_again() {
        let trained = |state, resumed_step, last_step| AttemptRecord {
            started_us: 1,
            resumed_step,
            last_step,
            ..attempt(state, Some(1))
        };
        let running = |resumed, last| trained(State::Running, resumed, last);
        let syncing = trained(State::Syncing, Some(450), Some(450));
        let loading = attempt(State::Loading, Some(1));
        let old = trained(State::Interrupted, None, Some(500));
        for (has_bucket, newer, unsaved_step, expected) in [
            (true, running(Some(450), Some(450)), None, true),
            (true, running(None, Some(10)), None, false),
            (true, running(None, Some(500)), None, true),
            (true, syncing, None, false),
            (true, loading, None, false),
            (false, running(None, Some(900)), None, false),
            // A checkpoint that the bucket never got is there until its steps are trained again.
            (true, running(Some(100), Some(100)), Some(480), false),
            (true, running(Some(100), Some(479)), Some(480), false),
            (true, running(Some(100), Some(480)), Some(480), true),
            (true, running(Some(480), None), Some(480), true),
            // It went further than its newest step on record.
            (true, running(Some(440), Some(530)), Some(580), false),
            (true, running(Some(440), Some(580)), Some(580), true),
            // A name without a number, of a log without steps.
            (true, running(Some(440), Some(900)), Some(u64::MAX), false),
        ] {
            let found = is_superseded(has_bucket, &old, std::slice::from_ref(&newer), unsaved_step);
            assert_eq!(found, expected, "{has_bucket} {newer:?} {unsaved_step:?}");
        }
        let kept = AttemptRecord {
            reason: Some(format!("{KEPT}x")),
            ..old
        };
        let resumed = trained(State::Running, Some(450), Some(460));
        assert!(
            !is_superseded(true, &kept, &[resumed], None),
            "what it was kept for is not known to be taken up"
        );
        let never = attempt(State::Interrupted, Some(1));
        assert!(is_superseded(false, &never, &[], None));
    }
}
