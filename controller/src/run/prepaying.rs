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
    let sum = |kind: &str, counts: fn(&EventRecord) -> bool| {
        let events = store.events_of(&attempt.run, attempt.number, kind)?;
        let events = events.iter().filter(|event| counts(event));
        let usd = events.filter_map(|event| event.detail["usd"].as_f64());
        Ok::<f64, StoreError>(usd.sum())
    };
    let asked = sum(ASKED, |_| true)?;
    let refused = sum(FAILED, |event| event.detail["refused"] == true)?;
    Ok((asked - refused).max(0.0))
}

/// What a run cost up to now, dollars: what its attempts were charged, and of a box that is no more what was paid for it in advance, where
/// that is more. What a box that is there was paid for, it still uses up.
///
/// # Errors
/// The store's.
pub(crate) fn spent_usd(store: &Store, run: &str, now_us: i64) -> Result<f64, StoreError> {
    let intervals = store.intervals(run)?;
    let charges = store.charged(run)?;
    let mut spent_usd = ledger::run_cost(&intervals, &charges, now_us).total_usd();
    let attempts = store.attempts(run)?;
    let on_demand = attempts
        .iter()
        .filter(|attempt| attempt.rental == Rental::OnDemand && !attempt.may_cost());
    for attempt in on_demand {
        let paid_usd = paid_usd(store, attempt)?;
        if paid_usd > 0.0 {
            spent_usd += unused_usd(attempt.number, paid_usd, &intervals, &charges, now_us);
        }
    }
    Ok(spent_usd)
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
    use crate::ledger::CostKind;

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
