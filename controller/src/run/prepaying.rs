//! Money in advance for the box of a run, where its file says `rental: reserved`: once in the life of the run, when its first box trains.
//! Whatever becomes of the order to pay, the training goes on, at the price that the market says.

use serde_json::json;

use crate::{
    error::CommandError,
    provider::{Prepaid, hosts::is_host},
    run::lifecycle::Lifecycle,
    store::{AttemptRecord, RunRecord},
    ui::text,
};

/// Event of an order to pay, written before it leaves.
pub(crate) const ASKED: &str = "prepay_asked";
/// Event of money that was paid.
pub(crate) const PAID: &str = "prepaid";
/// Event of money that was not paid, or of which nobody knows.
const FAILED: &str = "prepay_failed";

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
        if let Some(budget_usd) = run.spec.limits.budget_usd
            && spent_usd + usd > budget_usd
        {
            let (usd, left) = (text::usd(usd), text::usd((budget_usd - spent_usd).max(0.0)));
            let reason = format!("{left} are left of `limits.budget`");
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
                    json!({"usd": usd, "reason": reason}),
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
