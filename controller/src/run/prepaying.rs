//! Money in advance for the box of a run, where its file says `rental: reserved`: once in the life of the run, when its first box trains.
//! Whatever becomes of the order to pay, the training goes on, at the price that the market says.

use serde_json::json;

use crate::{
    error::CommandError,
    ledger::{self, Charged, Interval},
    provider::{Prepaid, Rental, hosts::is_host},
    run::{budget, lifecycle::Lifecycle},
    store::{AttemptRecord, EventRecord, RunRecord, Store, StoreError},
    ui::text,
};

/// Event of an order to pay, written before it leaves.
pub(crate) const ASKED: &str = "prepay_asked";
/// Event of money that was paid.
pub(crate) const PAID: &str = "prepaid";
/// Event of money that was not paid, or, without `refused`, of which nobody knows.
pub(crate) const FAILED: &str = "prepay_failed";

/// What was paid in advance for the box of an attempt, or may have been, dollars.
///
/// # Errors
/// The store's.
pub(crate) fn paid_usd(store: &Store, attempt: &AttemptRecord) -> Result<f64, StoreError> {
    let mut events = store.events_of(&attempt.run, attempt.number, ASKED)?;
    events.extend(store.events_of(&attempt.run, attempt.number, FAILED)?);
    Ok(paid_by(&events, attempt.number))
}

/// The same, of the events of its run (pure).
fn paid_by(events: &[EventRecord], attempt: u32) -> f64 {
    let own = events.iter().filter(|event| event.attempt == attempt);
    let usd = own.map(|event| {
        let usd = event.detail["usd"].as_f64().unwrap_or_default();
        match event.kind.as_str() {
            ASKED => usd,
            FAILED if event.detail["refused"] == true => -usd,
            _ => 0.0,
        }
    });
    usd.sum::<f64>().max(0.0)
}

/// What a run cost up to now, dollars: what its attempts were charged, and of a box that is no more what was paid for it in advance, where
/// that is more. What a box that is there was paid for, it still uses up.
///
/// # Errors
/// The store's.
pub(crate) fn spent_usd(store: &Store, run: &str, now_us: i64) -> Result<f64, StoreError> {
    let intervals = store.intervals(run)?;
    let charges = store.charged(run)?;
    let attempts = store.attempts(run)?;
    let mut events = Vec::new();
    for attempt in attempts.iter().filter(|attempt| may_leave_some(attempt)) {
        for kind in [ASKED, FAILED] {
            events.extend(store.events_of(run, attempt.number, kind)?);
        }
    }
    Ok(spent(&attempts, &events, &intervals, &charges, now_us))
}

/// The same, of the records of the run (pure): the one sum that is shown, and held against limits.
pub(crate) fn spent(
    attempts: &[AttemptRecord],
    events: &[EventRecord],
    intervals: &[Interval],
    charges: &[Charged],
    now_us: i64,
) -> f64 {
    let unused = attempts
        .iter()
        .filter(|attempt| may_leave_some(attempt))
        .map(|attempt| {
            let paid_usd = paid_by(events, attempt.number);
            match paid_usd > 0.0 {
                true => unused_usd(attempt.number, paid_usd, intervals, charges, now_us),
                false => 0.0,
            }
        });
    ledger::run_cost(intervals, charges, now_us).total_usd() + unused.sum::<f64>()
}

/// Whether [`spent`] reads events of this kind.
pub(crate) fn counts(kind: &str) -> bool {
    matches!(kind, ASKED | FAILED)
}

/// Whether of an advance for the box of an attempt something may be left that nobody uses up.
fn may_leave_some(attempt: &AttemptRecord) -> bool {
    attempt.rental == Rental::OnDemand && !attempt.may_cost()
}

/// What of an advance was not used up by what its attempt was charged, dollars (pure).
pub(crate) fn unused_usd(
    attempt: u32,
    paid_usd: f64,
    intervals: &[Interval],
    charges: &[Charged],
    now_us: i64,
) -> f64 {
    let charged = charges.iter().find(|charged| charged.attempt == attempt);
    let used = ledger::counted(intervals, attempt, charged, now_us);
    (paid_usd - used.total_usd()).max(0.0)
}

impl Lifecycle {
    /// Pays what `resources.prepay` says, if nobody has ordered it yet.
    pub(crate) async fn reserve(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<(), CommandError> {
        let Some(usd) = run.spec.resources.prepay_usd else {
            return Ok(());
        };
        let Some(id) = attempt.instance.filter(|id| !is_host(*id)) else {
            return Ok(());
        };
        // One order for a run: after a crash, or an answer that was lost, its money may be gone.
        let events = self.store.events(&run.name, 0)?;
        if events.iter().any(|event| event.kind == ASKED) {
            return Ok(());
        }
        let spent_usd = self.spent_usd(&run.name)?;
        let left_usd = run.spec.limits.purse().map(|purse| {
            // Its disk is paid for as well when it is stopped and nobody comes.
            let held_usd = budget::held_back_usd(purse, attempt.storage_usd_per_hour);
            (purse.budget_usd - spent_usd - held_usd).max(0.0)
        });
        if let Some(left_usd) = left_usd.filter(|left_usd| usd > *left_usd) {
            let (usd, left) = (text::usd(usd), text::usd(left_usd));
            let reason = format!("{left} are left of `limits.budget` beside what is held back");
            self.say(
                run,
                &format!("Careful: {usd} are not paid in advance: {reason}."),
            );
            let detail = json!({"usd": run.spec.resources.prepay_usd, "reason": reason});
            self.note(
                run,
                attempt.number,
                ASKED,
                json!({"instance": id, "usd": 0.0}),
            )?;
            return self.note(run, attempt.number, FAILED, detail);
        }
        let ordered = json!({"instance": id, "usd": usd});
        self.note(run, attempt.number, ASKED, ordered)?;
        crate::fault::point("provider.prepay.before");
        let answer = self.provider.prepay(id, usd).await;
        crate::fault::point("provider.prepay.after");
        match answer {
            Ok(bought) => {
                let detail = json!({
                    "instance": id, "usd": usd, "months": bought.months, "discount": bought.discount,
                });
                self.note(run, attempt.number, PAID, detail)?;
                self.say(
                    run,
                    &format!(
                        "{} are paid in advance for instance {id}: {}.",
                        text::usd(usd),
                        words(&bought)
                    ),
                );
            }
            Err(err) => {
                let reason = err.to_string();
                self.note(
                    run,
                    attempt.number,
                    FAILED,
                    json!({"usd": usd, "reason": reason, "refused": !err.is_ambiguous()}),
                )?;
                let (name, sum) = (&run.name, text::usd(usd));
                // Whoever pays again what may be paid pays twice.
                let said = match err.is_ambiguous() {
                    true => format!(
                        "Careful: {sum} in advance for instance {id} were ordered, and no clear answer came ({reason}): whether they are paid is not \
                         known. Look at your credit with `spotter cost` before you pay anything by hand."
                    ),
                    false => format!(
                        "Careful: {sum} in advance for instance {id} were refused ({reason}); nothing was paid, and it goes on at its list price. By \
                         hand: `spotter prepay {name} {usd}`."
                    ),
                };
                self.say(run, &said);
            }
        }
        Ok(())
    }
}

/// What was bought, for people.
fn words(bought: &Prepaid) -> String {
    let less = format!("it costs {:.0}% less", bought.discount * 100.0);
    match bought.months {
        Some(months) => format!("{less} for {:.1} days of running", months * 30.0),
        None => less,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ledger::CostKind, run::State, store::Origin};

    #[test]
    fn one_sum_is_shown_and_held_against_limits_with_what_was_paid_for_nothing() {
        let event = |kind: &str, usd: f64| EventRecord {
            id: 1,
            attempt: 1,
            origin: Origin::Spotter,
            seq: 0,
            time_us: 0,
            kind: kind.to_owned(),
            detail: json!({"usd": usd, "refused": true}),
        };
        let mut attempt = crate::run::summary::attempt_for_tests(1);
        let hour = [Interval {
            attempt: 1,
            kind: CostKind::Gpu,
            from_us: 0,
            to_us: Some(3_600_000_000),
            usd_per_hour: 2.0,
        }];
        let paid = [event(ASKED, 8.0)];
        let refused = [event(ASKED, 8.0), event(FAILED, 8.0)];
        let mut check = |rental, state, events: &[EventRecord], expected: f64| {
            (attempt.rental, attempt.state) = (rental, state);
            attempt.gone_us = if state == State::Gone { 2 } else { 0 };
            let found = spent(std::slice::from_ref(&attempt), events, &hour, &[], i64::MAX);
            assert!(
                (found - expected).abs() < 1e-9,
                "{rental:?} {state}: {found}"
            );
        };
        check(Rental::OnDemand, State::Gone, &paid, 8.0);
        check(Rental::OnDemand, State::Gone, &refused, 2.0);
        check(Rental::OnDemand, State::Gone, &[], 2.0);
        check(Rental::OnDemand, State::Running, &paid, 2.0);
        check(Rental::Interruptible, State::Gone, &paid, 2.0);
    }

    #[test]
    fn an_advance_for_a_box_that_is_gone_is_spent_whether_it_was_used_up_or_not() {
        let used = |hours: i64| {
            [Interval {
                attempt: 1,
                kind: CostKind::Gpu,
                from_us: 0,
                to_us: Some(hours * 3_600_000_000),
                usd_per_hour: 2.0,
            }]
        };
        for (hours, expected_usd) in [(0, 8.0), (3, 2.0), (4, 0.0), (9, 0.0)] {
            let unused = unused_usd(1, 8.0, &used(hours), &[], i64::MAX);
            assert!((unused - expected_usd).abs() < 1e-9, "{hours} h: {unused}");
        }
    }
}
