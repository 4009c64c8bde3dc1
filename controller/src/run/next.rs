//! What a person can type next about a run that has ended, with the flags that the verb will ask for: a command that is refused is
//! no help.

use crate::{
    ledger,
    run::{budget, has_bucket, prepaying, room},
    spec::OnDone,
    store::{AttemptRecord, Outcome, RunRecord, Store, StoreError},
};

/// `spotter resume RUN`, with more of a limit that is used up. `flags` come before the name: `--here `, or nothing.
///
/// # Errors
/// When the record cannot be read.
pub fn resume(store: &Store, run: &RunRecord, flags: &str) -> Result<String, StoreError> {
    resume_with_disk(store, run, flags, run.spec.resources.disk_gb)
}

/// The same with so much disk, which `flags` name.
///
/// # Errors
/// When the record cannot be read.
pub fn resume_with_disk(
    store: &Store,
    run: &RunRecord,
    flags: &str,
    disk_gb: f64,
) -> Result<String, StoreError> {
    // One for which nothing was rented has no prices.
    let attempts = store.attempts(&run.name)?;
    let mut prices = attempts.iter().rev().map(AttemptRecord::prices);
    let rates = prices.find(|rates| rates.total() > 0.0).unwrap_or_default();
    let rates = room::scaled(rates, run.spec.resources.disk_gb, disk_gb);
    let spent_usd = prepaying::spent_usd(store, &run.name, store.now_us())?;
    let more = more(run, spent_usd, rates);
    Ok(format!("spotter resume {flags}{}{more}", run.name))
}

/// The flag without which a run is not started again (pure); empty where none is needed.
fn more(run: &RunRecord, spent_usd: f64, rates: ledger::Rates) -> String {
    let limits = &run.spec.limits;
    if let Some(purse) = limits.purse()
        && budget::shortage(purse, spent_usd, rates).is_some()
    {
        let usd = budget::raised_usd(purse, spent_usd, rates);
        return format!(" --budget {usd:.2}");
    }
    let reason = run.reason.as_deref().unwrap_or_default();
    match limits.max_runtime {
        Some(limit) if reason.contains("`limits.max_runtime`") => {
            let hours = (2.0 * limit.as_secs_f64() / 3600.0).ceil();
            format!(" --max-runtime {hours:.0}h")
        }
        _ => String::new(),
    }
}

/// `spotter destroy RUN`, with the flag without which it is refused: something on a box that cannot be asked is not known to be saved.
///
/// # Errors
/// When the record cannot be read.
pub fn destroy(store: &Store, run: &RunRecord) -> Result<String, StoreError> {
    let attempts = store.attempts(&run.name)?;
    let mut lose = "";
    for (index, attempt) in attempts.iter().enumerate() {
        // The newest box may run on and answer.
        let silent = run.spec.on_done != OnDone::Keep || index + 1 < attempts.len();
        if attempt.may_cost() && silent && !is_saved(store, run, attempt)? {
            lose = "--lose-data ";
        }
    }
    Ok(format!("spotter destroy {lose}{}", run.name))
}

/// What ends the box of an earlier attempt of a run that goes on.
pub fn let_go(run: &str, attempt: u32) -> String {
    format!("spotter destroy --attempt {attempt} --lose-data {run}")
}

/// What to do about a box that outlives its run, a sentence; `None`: none does.
///
/// # Errors
/// When the record cannot be read.
pub fn left_over(store: &Store, run: &RunRecord) -> Result<Option<String>, StoreError> {
    let usd_per_hour = ledger::rate_usd_per_hour(&store.intervals(&run.name)?, None);
    let attempts = store.attempts(&run.name)?;
    let Some(at) = attempts.iter().rposition(AttemptRecord::may_cost) else {
        return Ok(None);
    };
    let (name, is_newest) = (&run.name, at + 1 == attempts.len());
    let whose = match is_newest {
        true => "its box".to_owned(),
        false => format!("the box of its attempt {}", attempts[at].number),
    };
    let look = match is_newest && attempts[at].is_kept_for_a_look() {
        true => format!(
            "look into it with `spotter ssh --start {name}`, bring files home with `spotter fetch {name} PATH --to DIR`, then "
        ),
        false => String::new(),
    };
    let destroy = destroy(store, run)?;
    Ok(run.outcome.map(|_| {
        format!("{whose} still costs ${usd_per_hour:.4}/h: {look}end it with `{destroy}`")
    }))
}

/// Whether the record says that nothing is lost with the box of an attempt.
///
/// # Errors
/// When the record cannot be read.
pub fn is_saved(
    store: &Store,
    run: &RunRecord,
    attempt: &AttemptRecord,
) -> Result<bool, StoreError> {
    use crate::run::State;

    // Nothing was ever trained on it, or everything was fetched and verified.
    let kept = attempt.is_kept_for_a_look();
    if attempt.started_us == 0 || (attempt.state == State::Collected && !kept) {
        return Ok(true);
    }
    // It had seconds to save what it held, and may have trained on since.
    if attempt.was_taken_back() {
        return Ok(false);
    }
    let ended = run.outcome == Some(Outcome::Done) || run.outcome.is_some_and(Outcome::is_by_order);
    if ended && attempt.state != State::Running && has_bucket(run) && !kept {
        return Ok(true);
    }
    // After a crash the last backup said what was left: the crash was recorded together with an empty list of what was not saved.
    if attempt.state != State::Failed {
        return Ok(false);
    }
    let crash = store.newest_event(&run.name, attempt.number, "crashed")?;
    Ok(crash.is_some_and(|crash| crash.detail["unsaved_bytes"] == 0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ledger::Rates, spec::RunSpec};

    #[test]
    fn a_used_up_limit_is_raised_by_the_command_that_is_named() {
        let rates = Rates {
            gpu_usd_per_hour: 1.0,
            disk_usd_per_hour: 0.0,
        };
        let check = |budget_usd, max_runtime_h: Option<u64>, reason: &str, spent, expected| {
            let mut spec = RunSpec::from_flags_for_tests();
            spec.limits.budget_usd = budget_usd;
            spec.limits.max_runtime = max_runtime_h.map(|hours| Duration::from_secs(hours * 3600));
            let run = RunRecord {
                name: "r".to_owned(),
                spec,
                created_us: 0,
                stop_requested: false,
                outcome: Some(Outcome::Limit),
                reason: Some(reason.to_owned()),
            };
            assert_eq!(
                more(&run, spent, rates),
                expected,
                "{budget_usd:?} {reason}"
            );
        };
        check(None, None, "no step", 5.0, "");
        check(Some(20.0), None, "no step", 5.0, "");
        check(Some(20.0), None, "spent", 20.0, " --budget 40.00");
        check(None, Some(3), "no step", 5.0, "");
        check(
            None,
            Some(3),
            "`limits.max_runtime` is over",
            5.0,
            " --max-runtime 6h",
        );
    }
}
