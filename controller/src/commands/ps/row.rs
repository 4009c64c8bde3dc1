//! One run as its record has it, for `ps`.

use std::time::Duration;

use super::Row;
use crate::{
    error::CommandError,
    ledger,
    run::{
        State, alarms, behind, diagnosis, ended_alone, marks, next, prepaying, silence, windows,
    },
    store::{AttemptRecord, RunRecord, Store},
    ui::text,
};

/// A watched box is heard every few seconds, and its last word is dated to ten: after so long that is worth a mark.
const NO_WORD_US: i64 = 20_000_000;

/// What is on record of a run, and where its box is said to stand by that.
pub(super) fn row(
    store: &Store,
    run: &RunRecord,
    attempts: &[AttemptRecord],
    now_us: i64,
) -> Result<Row, CommandError> {
    let latest = attempts.last();
    let lease = store.lease(&run.name)?;
    let intervals = store.intervals(&run.name)?;
    let spent = prepaying::of_run(store, &run.name, now_us)?;
    let newest_first = attempts.iter().rev().map(|attempt| attempt.number);
    let saved = alarms::newest_saved(store, &run.name, newest_first)?;
    let newest_alone = latest.map(|latest| latest.number).into_iter();
    let saved_here = alarms::newest_saved(store, &run.name, newest_alone)?;
    let unsaved = match latest.filter(|attempt| attempt.may_cost()) {
        Some(attempt) => alarms::unsaved(store, &run.name, attempt.number)?,
        None => Vec::new(),
    };
    let last_word_us = match latest {
        Some(attempt) => silence::last_word_us(store, attempt)?,
        None => None,
    };
    let trains = latest.is_some_and(|latest| latest.state == State::Running);
    let gpu = latest
        .map(|attempt| attempt.gpu.clone())
        .filter(|gpu| !gpu.is_empty());
    // The newest one that is kept by policy is no news.
    let stays = |attempt: &AttemptRecord| {
        let is_newest = latest.is_some_and(|latest| latest.number == attempt.number);
        attempt.may_cost() && (attempt.is_kept_for_a_look() || !is_newest)
    };
    Ok(Row {
        run: run.name.clone(),
        state: latest
            .map_or("planned", |attempt| attempt.state.name())
            .to_owned(),
        outcome: run.outcome.map(|outcome| outcome.name()),
        reason: run.reason.clone().or_else(|| latest?.reason.clone()),
        stop_requested: run.stop_requested,
        attempt: latest.map_or(0, |attempt| attempt.number),
        instance: latest
            .filter(|attempt| attempt.may_cost())
            .and_then(|attempt| attempt.instance),
        gpu: gpu
            .or_else(|| run.spec.resources.gpu_name.clone())
            .unwrap_or_default(),
        num_gpus: latest.map_or(run.spec.resources.num_gpus, |latest| {
            latest.num_gpus(&run.spec)
        }),
        rental: run.spec.resources.rental.name(),
        step: newest_step(attempts, saved_here.and_then(|(step, _)| step)),
        usd_per_hour: ledger::rate_usd_per_hour(&intervals, None),
        at_most_usd_per_hour: latest
            .filter(|attempt| attempt.may_cost() && attempt.instance.is_some())
            .map(AttemptRecord::at_most_usd_per_hour),
        cost_usd: spent.total_usd,
        unbilled_traffic_usd: spent.of_it.unbilled_traffic_usd,
        created_us: run.created_us,
        saved_step: saved.and_then(|(step, _)| step),
        saved_us: saved.map(|(_, time_us)| time_us),
        newest_damaged: marks::of_run(
            store,
            &run.name,
            attempts.iter().map(|attempt| attempt.number),
        )?,
        unsaved,
        backup_alarm: match latest {
            Some(attempt) => behind::backup(store, attempt)?,
            None => None,
        },
        refused: match latest {
            Some(attempt) => alarms::refused(store, attempt)?,
            None => None,
        },
        contradiction: match latest.filter(|attempt| attempt.state == State::Running) {
            Some(attempt) => windows::contradiction(store, attempt)?,
            None => None,
        },
        // Whoever watches collects it.
        training_end: match latest.filter(|_| lease.is_none()) {
            Some(attempt) => ended_alone::of(store, run, attempt)?,
            None => None,
        },
        ended_by: match latest {
            Some(attempt) => diagnosis::of(store, attempt)?.map(|found| found.class),
            None => None,
        },
        market: None,
        watched_by_pid: lease.as_ref().map(|lease| lease.pid),
        silent_since_us: match latest {
            Some(attempt) => silence::since_us(store, attempt)?,
            None => None,
        },
        silence: match latest {
            Some(attempt) => silence::warning(store, run, attempt)?,
            None => None,
        },
        last_word_us,
        // Of one that nobody watches the last word is as old as the last look.
        no_word: last_word_us
            .filter(|_| trains && lease.is_some() && run.outcome.is_none())
            .and_then(|heard_us| no_word(now_us.saturating_sub(heard_us))),
        watcher_halted: lease.is_some_and(|lease| lease.is_halted()),
        left_over: match attempts.iter().any(stays) {
            true => next::left_over(store, run)?,
            false => None,
        },
    })
}

/// The newest step that was seen. `saved`: the newest one that the newest attempt saved, which may come before the line of its log (pure).
fn newest_step(attempts: &[AttemptRecord], saved: Option<u64>) -> Option<u64> {
    let (newest, older) = attempts.split_last()?;
    let here = newest.last_step.max(saved);
    here.or_else(|| older.iter().rev().find_map(|attempt| attempt.last_step))
}

/// What is shown of a watched box that gave its last word so long ago; `None`: that is not long.
fn no_word(age_us: i64) -> Option<String> {
    let age = Duration::from_secs(age_us.max(0).unsigned_abs() / 1_000_000);
    (age_us >= NO_WORD_US).then(|| format!("no word for {}", text::duration(age)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::summary::attempt_for_tests;

    #[test]
    fn what_is_saved_is_never_beyond_the_step_that_was_seen() {
        let check = |last_steps: &[Option<u64>], saved, expected| {
            let attempts = last_steps.iter().map(|last_step| AttemptRecord {
                last_step: *last_step,
                ..attempt_for_tests(1)
            });
            let attempts: Vec<AttemptRecord> = attempts.collect();
            assert_eq!(newest_step(&attempts, saved), expected, "{last_steps:?}");
        };
        check(&[], None, None);
        check(&[Some(1274)], Some(1300), Some(1300));
        check(&[Some(1310)], Some(1300), Some(1310));
        check(&[None], Some(100), Some(100));
        // The next one trains again from what was saved.
        check(&[Some(1400), Some(1310)], Some(1300), Some(1310));
        check(&[Some(1400), None], None, Some(1400));
    }

    #[test]
    fn a_watched_box_is_marked_once_its_last_word_is_older_than_its_date_may_be() {
        for (age_us, expected) in [
            (-5_000_000, None),
            (19_999_999, None),
            (20_000_000, Some("no word for 20 s")),
            (95_000_000, Some("no word for 1 min 35 s")),
        ] {
            assert_eq!(no_word(age_us).as_deref(), expected, "{age_us}");
        }
    }
}
