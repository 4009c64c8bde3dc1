//! Money in advance for the box of a run, where its file says `rental: reserved`: once in the life of the run, when its first box trains.
//! Whatever becomes of the order to pay, the training goes on, at the price that the market says.

use serde_json::json;

use crate::{
    error::CommandError,
    ledger::{self, Charged, Interval, Parts},
    provider::{Prepaid, Rental, hosts::is_host},
    run::{budget, lifecycle::Lifecycle},
    store::{AttemptRecord, ChargeRecord, EventRecord, RunRecord, Store, StoreError, counting},
    ui::text,
};

/// Event of an order to pay, written before it leaves.
pub(crate) const ASKED: &str = "prepay_asked";
/// Event of money that was paid.
pub(crate) const PAID: &str = "prepaid";
/// Event of money that was not paid, or, without `refused`, of which nobody knows.
pub(crate) const FAILED: &str = "prepay_failed";

/// Money in advance for the box of an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Advance {
    /// What was paid, or may have been, dollars.
    usd: f64,
    /// Since when what the box is charged uses it up, microseconds since the epoch.
    since_us: i64,
}

/// What was paid in advance for the box of an attempt, or may have been; `None`: nothing.
///
/// # Errors
/// The store's.
pub(crate) fn paid(store: &Store, attempt: &AttemptRecord) -> Result<Option<Advance>, StoreError> {
    let mut events = store.events_of(&attempt.run, attempt.number, ASKED)?;
    events.extend(store.events_of(&attempt.run, attempt.number, FAILED)?);
    Ok(paid_by(&events, attempt.number))
}

/// The same, of the events of its run in any order (pure).
fn paid_by(events: &[EventRecord], attempt: u32) -> Option<Advance> {
    let mut own: Vec<&EventRecord> = events
        .iter()
        .filter(|event| event.attempt == attempt)
        .collect();
    own.sort_by_key(|event| (event.time_us, event.id));
    let mut paid: Vec<Advance> = Vec::new();
    for event in own {
        match event.kind.as_str() {
            ASKED => paid.push(Advance {
                usd: event.detail["usd"].as_f64().unwrap_or_default(),
                since_us: event.time_us,
            }),
            FAILED if event.detail["refused"] == true => drop(paid.pop()),
            _ => {}
        }
    }
    paid.retain(|advance| advance.usd > 0.0);
    Some(Advance {
        usd: paid.iter().map(|advance| advance.usd).sum(),
        since_us: paid.iter().map(|advance| advance.since_us).min()?,
    })
}

/// What a run cost up to now, dollars.
///
/// # Errors
/// The store's.
pub(crate) fn spent_usd(store: &Store, run: &str, now_us: i64) -> Result<f64, StoreError> {
    Ok(of_run(store, run, now_us)?.total_usd)
}

/// What a run cost up to now, dollars, and who says it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spent {
    /// What its attempts were charged, and of a box that is no more what was paid for it in advance, where that is more. What a box that is
    /// there was paid for, it still uses up.
    pub(crate) total_usd: f64,
    /// Of it, what was paid in advance and not used up.
    pub(crate) unused_usd: f64,
    /// Who says it; what was paid in advance is billed.
    pub(crate) of_it: Parts,
}

/// The same with its parts.
///
/// # Errors
/// The store's.
pub(crate) fn of_run(store: &Store, run: &str, now_us: i64) -> Result<Spent, StoreError> {
    let intervals = store.intervals(run)?;
    let charges = store.charges(run)?;
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
    charges: &[ChargeRecord],
    now_us: i64,
) -> Spent {
    let counting = counting(charges, intervals);
    let unused = attempts
        .iter()
        .filter(|attempt| may_leave_some(attempt))
        .map(|attempt| {
            let paid = paid_by(events, attempt.number);
            paid.map_or(0.0, |advance| {
                unused_usd(attempt.number, &advance, intervals, &counting, now_us)
            })
        });
    let unused_usd = unused.fold(0.0, |all, one| all + one);
    let parts = attempts.iter().map(|attempt| {
        let of = |known: u32| known == attempt.number;
        let counts = counting.iter().find(|counts| of(counts.attempt));
        let counted = ledger::counted(intervals, attempt.number, counts, now_us);
        let bill = charges.iter().find(|bill| of(bill.attempt));
        Parts::of(counted, bill.map(|bill| bill.cost))
    });
    let mut of_it: Parts = parts.sum();
    of_it.billed_usd += unused_usd;
    Spent {
        total_usd: ledger::run_cost(intervals, &counting, now_us).total_usd() + unused_usd,
        unused_usd,
        of_it,
    }
}

/// Whether [`spent`] reads events of this kind.
pub(crate) fn counts(kind: &str) -> bool {
    matches!(kind, ASKED | FAILED)
}

/// Whether of an advance for the box of an attempt something may be left that nobody uses up.
fn may_leave_some(attempt: &AttemptRecord) -> bool {
    attempt.rental == Rental::OnDemand && !attempt.may_cost()
}

/// What of an advance was not used up by what its attempt was charged since it was paid, dollars (pure).
pub(crate) fn unused_usd(
    attempt: u32,
    advance: &Advance,
    intervals: &[Interval],
    charges: &[Charged],
    now_us: i64,
) -> f64 {
    let charged = charges.iter().find(|charged| charged.attempt == attempt);
    let all = ledger::counted(intervals, attempt, charged, now_us);
    let before = ledger::cost_until(intervals, attempt, advance.since_us);
    let used_usd = (all.total_usd() - before.total_usd()).max(0.0);
    (advance.usd - used_usd).max(0.0)
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
            let held = run.spec.limits.purse().map_or(0.0, |purse| {
                budget::held_back_usd(purse, attempt.storage_usd_per_hour)
            });
            let reason = format!(
                "{left} are left of `limits.budget` beside {} that are held back for its disk (`limits.storage_days`)",
                text::usd(held)
            );
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
            assert!((found.of_it.billed_usd - found.unused_usd).abs() < 1e-9);
            let found = found.total_usd;
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
    fn a_sum_does_not_fall_when_a_bill_comes_whose_traffic_is_not_charged_yet() {
        let attempt = crate::run::summary::attempt_for_tests(1);
        let spent_by = |kind, usd: f64| Interval {
            attempt: 1,
            kind,
            from_us: 0,
            to_us: Some(3_600_000_000),
            usd_per_hour: usd,
        };
        let hour = [
            spent_by(CostKind::Gpu, 2.0),
            spent_by(CostKind::Traffic, 0.5),
        ];
        let bill = |traffic_usd: f64, is_final: bool| ChargeRecord {
            attempt: 1,
            instance: 1,
            cost: ledger::Cost {
                gpu_usd: 2.0,
                disk_usd: 0.0,
                bandwidth_usd: traffic_usd,
            },
            read_us: 7_200_000_000,
            is_whole: true,
            is_final,
        };
        for (charges, total_usd, traffic_usd) in [
            (vec![], 2.5, 0.5),
            (vec![bill(0.0, false)], 2.5, 0.5),
            (vec![bill(0.25, false)], 2.5, 0.25),
            (vec![bill(0.75, false)], 2.75, 0.0),
            // Nothing is added any more: it counts.
            (vec![bill(0.25, true)], 2.25, 0.0),
        ] {
            let attempts = std::slice::from_ref(&attempt);
            let found = spent(attempts, &[], &hour, &charges, i64::MAX);
            assert!((found.total_usd - total_usd).abs() < 1e-9, "{found:?}");
            let parts = found.of_it;
            assert!(
                (parts.unbilled_traffic_usd - traffic_usd).abs() < 1e-9,
                "{found:?}"
            );
            assert!((parts.billed_usd + parts.reckoned_usd - total_usd).abs() < 1e-9);
        }
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
        for (hours, paid_at_h, expected_usd) in [
            (0, 0, 8.0),
            (3, 0, 2.0),
            (4, 0, 0.0),
            (9, 0, 0.0),
            // What was charged before it was paid does not use it up.
            (9, 9, 8.0),
            (9, 8, 6.0),
        ] {
            let advance = Advance {
                usd: 8.0,
                since_us: paid_at_h * 3_600_000_000,
            };
            let unused = unused_usd(1, &advance, &used(hours), &[], i64::MAX);
            assert!((unused - expected_usd).abs() < 1e-9, "{hours} h: {unused}");
        }
    }

    #[test]
    fn an_order_that_was_refused_is_no_advance_and_one_of_which_nobody_knows_is() {
        let event = |id: i64, kind: &str, detail: serde_json::Value| EventRecord {
            id,
            attempt: 1,
            origin: Origin::Spotter,
            seq: 0,
            time_us: id,
            kind: kind.to_owned(),
            detail,
        };
        let asked = |id, usd: f64| event(id, ASKED, json!({"usd": usd}));
        let failed = |id, refused: bool| event(id, FAILED, json!({"usd": 5.0, "refused": refused}));
        let advance = |usd, since_us| Some(Advance { usd, since_us });
        for (events, expected) in [
            (vec![], None),
            (vec![asked(1, 5.0)], advance(5.0, 1)),
            (vec![asked(1, 5.0), failed(2, true)], None),
            (vec![asked(1, 5.0), failed(2, false)], advance(5.0, 1)),
            // The budget did not allow it.
            (vec![asked(1, 0.0)], None),
            // By kind, as they are read.
            (
                vec![asked(1, 5.0), asked(3, 5.0), asked(4, 5.0), failed(2, true)],
                advance(10.0, 3),
            ),
        ] {
            assert_eq!(paid_by(&events, 1), expected, "{events:?}");
        }
    }
}
