//! What ends a run from outside and can be seen coming: the account's credit, and the end of the contract.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    error::CommandError,
    ledger,
    provider::Instance,
    run::{State, lifecycle::Lifecycle},
    store::{AttemptRecord, EventRecord, RunRecord, Store, StoreError},
    ui::text,
};

/// The market ends a contract without asking; two days later its disk is gone. A day is time to move.
const CONTRACT: Duration = Duration::from_secs(24 * 3600);
/// With no credit left every box of the account is stopped at once. Half a day holds a night.
const CREDIT: Duration = Duration::from_secs(12 * 3600);
/// Told once more when this is near.
const SOON: Duration = Duration::from_secs(3600);
/// Kinds of the events, as stored.
const CONTRACT_ENDS: &str = "contract_ends";
const CREDIT_LOW: &str = "credit_low";

/// Kind of the event that ends a warning.
fn end_of(kind: &str) -> &'static str {
    match kind {
        CREDIT_LOW => "credit_restored",
        _ => "contract_extended",
    }
}

/// Time until a contract ends, where that is near (pure).
fn contract_left(end_s: Option<f64>, now_s: f64) -> Option<Duration> {
    near(end_s? - now_s, CONTRACT)
}

/// Time until the credit is spent at the present price, where that is near (pure).
fn credit_left(credit_usd: f64, usd_per_hour: f64) -> Option<Duration> {
    if usd_per_hour <= 0.0 {
        return None;
    }
    near(credit_usd / usd_per_hour * 3600.0, CREDIT)
}

fn near(seconds: f64, limit: Duration) -> Option<Duration> {
    (seconds < limit.as_secs_f64()).then(|| Duration::from_secs_f64(seconds.max(0.0)))
}

/// Whether it is to be told: for the first time, or because it is soon now and was not then (pure).
fn is_news(told_left_s: Option<f64>, left: Duration) -> bool {
    let soon = SOON.as_secs_f64();
    told_left_s.is_none_or(|told| told > soon && left <= SOON)
}

/// `2.5 h`, `40 min`.
fn words(left: Duration) -> String {
    match left > SOON {
        true => format!("{:.1} h", left.as_secs_f64() / 3600.0),
        false => format!("{} min", left.as_secs() / 60),
    }
}

/// What was told of an attempt that is still ahead, for people.
///
/// # Errors
/// The store's.
pub fn warnings(store: &Store, run: &str, attempt: u32) -> Result<Vec<String>, StoreError> {
    let mut warnings = Vec::new();
    for kind in [CREDIT_LOW, CONTRACT_ENDS] {
        if let Some(event) = standing(store, run, attempt, kind)? {
            warnings.extend(event.detail["text"].as_str().map(str::to_owned));
        }
    }
    Ok(warnings)
}

/// The newest warning of a kind that was not ended since.
fn standing(
    store: &Store,
    run: &str,
    attempt: u32,
    kind: &str,
) -> Result<Option<EventRecord>, StoreError> {
    let ended = store.newest_event(run, attempt, end_of(kind))?;
    let ended = ended.map_or(0, |event| event.id);
    let told = store.newest_event(run, attempt, kind)?;
    Ok(told.filter(|told| told.id > ended))
}

impl Lifecycle {
    /// Looks at what is ahead of a box, and tells what is near. What cannot be had now is looked at next time.
    pub(crate) async fn look_ahead(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<(), CommandError> {
        let Some(id) = attempt.instance else {
            return Ok(());
        };
        if run.spec.limits.budget_usd.is_some() {
            // Traffic counts too, and only the provider meters it.
            self.reconcile(attempt).await;
            // Bills of boxes that are gone may still grow.
            for gone in self.store.attempts(&run.name)? {
                if gone.state == State::Gone && self.is_bill_open(&gone)? {
                    self.reconcile(&gone).await;
                }
            }
        }
        let (Ok(account), Ok(fleet)) = (
            self.provider.account().await,
            self.provider.instances().await,
        ) else {
            return Ok(());
        };
        let now_s = self.clock.now_us() as f64 / 1e6;
        // Every box of the account lives on the same credit.
        let boxes: f64 = fleet.iter().map(|seen| ledger::rates(seen).total()).sum();
        // And so does every volume; where they cannot be listed the warning comes a little late.
        let volumes = self.provider.volumes().await.unwrap_or_default();
        let volumes: f64 = volumes.iter().filter_map(|disk| disk.usd_per_hour).sum();
        let usd_per_hour = boxes + volumes;
        if let Some(left) = credit_left(account.credit_usd, usd_per_hour) {
            let credit_usd = account.credit_usd;
            let (dollars, when) = (credit_usd.max(0.0), self.when(left));
            let text = format!(
                "the account has ${dollars:.2} left, which lasts until {when} at ${usd_per_hour:.3}/h for all its boxes and volumes; without \
                 credit every box is stopped"
            );
            let detail = json!({"credit_usd": credit_usd, "usd_per_hour": usd_per_hour});
            self.warn(run, attempt, CREDIT_LOW, left, text, detail)?;
        } else {
            self.warn_no_more(run, attempt, CREDIT_LOW, "the account's credit lasts again")?;
        }
        let ours = fleet.iter().find(|seen| seen.id == id);
        let end_s = ours.and_then(|seen: &Instance| seen.end_s);
        if let Some(left) = contract_left(end_s, now_s) {
            let text = format!(
                "the contract of instance {id} ends at {}: it is stopped then and cannot be started again",
                self.when(left)
            );
            self.warn(
                run,
                attempt,
                CONTRACT_ENDS,
                left,
                text,
                json!({"instance": id}),
            )?;
        } else if ours.is_some() {
            let text = format!("the contract of instance {id} goes on");
            self.warn_no_more(run, attempt, CONTRACT_ENDS, &text)?;
        }
        Ok(())
    }

    /// The moment in so much time, for people: unlike the time left it stays true.
    fn when(&self, left: Duration) -> String {
        let left_us = i64::try_from(left.as_micros()).unwrap_or(i64::MAX);
        // To the nearest second: both times went through floats.
        let at_us = self.clock.now_us().saturating_add(left_us);
        text::time(at_us.saturating_add(500_000))
    }

    /// What was told is over.
    fn warn_no_more(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        kind: &str,
        text: &str,
    ) -> Result<(), CommandError> {
        if standing(&self.store, &run.name, attempt.number, kind)?.is_none() {
            return Ok(());
        }
        self.say(run, &format!("No warning any more: {text}."));
        self.note(run, attempt.number, end_of(kind), json!({"text": text}))
    }

    fn warn(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        kind: &str,
        left: Duration,
        text: String,
        mut detail: Value,
    ) -> Result<(), CommandError> {
        let told = standing(&self.store, &run.name, attempt.number, kind)?;
        let told_left_s = told.and_then(|event| event.detail["left_s"].as_f64());
        if !is_news(told_left_s, left) {
            return Ok(());
        }
        self.say(run, &format!("Careful: {text} (in {}).", words(left)));
        detail["left_s"] = left.as_secs().into();
        detail["text"] = text.into();
        self.note(run, attempt.number, kind, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_told_and_told_again_when_it_is_soon() {
        let hours = |hours: f64| Duration::from_secs_f64(hours * 3600.0);
        assert_eq!(credit_left(100.0, 1.0), None);
        assert_eq!(credit_left(3.0, 1.0), Some(hours(3.0)));
        assert_eq!(credit_left(-1.0, 1.0), Some(Duration::ZERO));
        assert_eq!(credit_left(0.0, 0.0), None, "nothing is paid for");
        assert_eq!(contract_left(None, 0.0), None);
        assert_eq!(contract_left(Some(86_400.0 * 3.0), 0.0), None);
        assert_eq!(contract_left(Some(7200.0), 3600.0), Some(hours(1.0)));
        assert!(is_news(None, hours(5.0)));
        assert!(!is_news(Some(18_000.0), hours(4.0)));
        assert!(is_news(Some(18_000.0), hours(0.5)));
        assert!(!is_news(Some(1800.0), hours(0.25)));
    }
}
