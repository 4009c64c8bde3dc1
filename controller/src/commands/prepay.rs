//! `prepay`: pays for a box in advance, which makes it cheaper for as long as the money lasts.

use serde::Serialize;
use serde_json::json;

use crate::{
    commands::Deps,
    error::CommandError,
    provider::{Rental, hosts::is_host},
    run::{
        budget::{self, Purse},
        prepaying::{self, ASKED, FAILED, PAID},
    },
    spec::values,
    store::{AttemptRecord, RunRecord},
    ui::{Table, Ui, text},
};

/// Pay for the box of a run in advance, which makes it a reserved one: the same box for less, as long as the money lasts
///
/// The money leaves your credit at once, and some of it may be lost when the box is ended earlier. Refused for interruptible boxes, and
/// beyond what is left of the budget, unless `--over-limits` says so.
#[derive(Debug, clap::Args)]
pub struct PrepayArgs {
    /// Run
    run: String,
    /// Dollars
    #[arg(value_parser = values::usd, allow_negative_numbers = true)]
    usd: f64,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Pay more than is left of the budget
    #[arg(long)]
    over_limits: bool,
}

/// What was paid, for `--json`.
#[derive(Serialize)]
struct Paid {
    run: String,
    attempt: u32,
    instance: u64,
    usd: f64,
    months: Option<f64>,
    discount: f64,
}

/// Runs the verb.
pub async fn prepay(ui: &mut Ui, deps: &Deps, args: &PrepayArgs) -> Result<(), CommandError> {
    let run = deps.load_run(Some(&args.run))?;
    let refused = || {
        let text = format!("nothing was paid in advance for run `{}`", run.name);
        CommandError::new(text).about(&run.name)
    };
    let store = deps.store()?;
    let attempt = store.latest_attempt(&run.name)?;
    let attempt = attempt.filter(AttemptRecord::may_cost);
    let Some((attempt, id)) = attempt.and_then(|attempt| {
        let id = attempt.instance?;
        Some((attempt, id))
    }) else {
        return Err(refused().because("it has no box"));
    };
    if let Some(why) = unwanted(&run, &attempt) {
        return Err(refused().because(why));
    }
    let now_us = deps.clock.now_us();
    let spent_usd = prepaying::spent_usd(&store, &run.name, now_us)?;
    // What was paid in advance for this box is used up by what is charged for it.
    let (intervals, charges) = (store.intervals(&run.name)?, store.charged(&run.name)?);
    let number = attempt.number;
    let unused_usd = prepaying::paid(&store, &attempt)?.map_or(0.0, |advance| {
        prepaying::unused_usd(number, &advance, &intervals, &charges, now_us)
    });
    let spent_usd = spent_usd + unused_usd;
    let disk_usd_per_hour = attempt.storage_usd_per_hour;
    if !args.over_limits
        && let Some(why) = over(
            run.spec.limits.purse(),
            spent_usd,
            disk_usd_per_hour,
            args.usd,
        )
    {
        return Err(refused().because(why).hint(format!(
            "pay it all the same with `spotter prepay --over-limits {} {}`",
            run.name, args.usd
        )));
    }
    let provider = deps.provider()?;
    let credit_usd = provider.account().await?.credit_usd;
    if args.usd > credit_usd {
        return Err(refused().because(format!("the account has {}", text::usd(credit_usd))));
    }
    if !args.yes {
        let question = format!(
            "Pay {} in advance for instance {id}? Some of it may be lost when the box is ended before it is used up",
            text::usd(args.usd)
        );
        match ui.confirm(&question) {
            Some(true) => {}
            Some(false) => return Err(refused().because("you said no")),
            None => {
                return Err(refused().because("nobody can be asked here").hint(format!(
                    "pay it with `spotter prepay --yes {} {}`",
                    run.name, args.usd
                )));
            }
        }
    }
    let detail = json!({"instance": id, "usd": args.usd});
    store.note(
        &run.name,
        attempt.number,
        deps.clock.now_us(),
        ASKED,
        &detail,
    )?;
    let bought = match provider.prepay(id, args.usd).await {
        Ok(bought) => bought,
        Err(err) if err.is_ambiguous() => {
            return Err(CommandError::new(format!(
                "whether {} were paid in advance for run `{}` is not known",
                text::usd(args.usd),
                run.name
            ))
            .about(&run.name)
            .cause(err)
            .hint("look at your credit with `spotter cost` before you pay again"));
        }
        Err(err) => {
            let detail = json!({"usd": args.usd, "reason": err.to_string(), "refused": true});
            let now_us = deps.clock.now_us();
            store.note(&run.name, attempt.number, now_us, FAILED, &detail)?;
            return Err(refused().cause(err));
        }
    };
    let detail = json!({
        "instance": id, "usd": args.usd, "months": bought.months, "discount": bought.discount,
    });
    store.note(
        &run.name,
        attempt.number,
        deps.clock.now_us(),
        PAID,
        &detail,
    )?;
    // What it costs from now on is what the market says now.
    if let Some(seen) = provider.instance(id).await? {
        store.meter(&run.name, attempt.number, &seen, deps.clock.now_us())?;
    }
    let paid = Paid {
        run: run.name.clone(),
        attempt: attempt.number,
        instance: id,
        usd: args.usd,
        months: bought.months,
        discount: bought.discount,
    };
    ui.show(&paid, |paid| {
        let mut table = Table::new(&["RUN", "INSTANCE>", "PAID>", "DAYS>", "DISCOUNT>"]);
        table.row([
            paid.run.clone(),
            paid.instance.to_string(),
            text::usd(paid.usd),
            text::or_dash(paid.months.map(|months| format!("{:.1}", months * 30.0))),
            format!("{:.0}%", paid.discount * 100.0),
        ]);
        table
    });
    Ok(())
}

/// Why nobody should pay in advance for the box of an attempt (pure).
fn unwanted(run: &RunRecord, attempt: &AttemptRecord) -> Option<&'static str> {
    if attempt.instance.is_some_and(is_host) {
        return Some("it runs on a host of yours, for which nobody bills");
    }
    if attempt.rental == Rental::Interruptible {
        return Some(
            "its box is interruptible, and only one that is rented on demand can be reserved",
        );
    }
    if run.outcome.is_some() || run.stop_requested || !attempt.state.is_active() {
        return Some("it has ended, and nobody wants its box to run");
    }
    None
}

/// Whether that would be more than is left of the budget beside what is held back for the disk of a box that stops (pure).
fn over(purse: Option<Purse>, spent_usd: f64, disk_usd_per_hour: f64, usd: f64) -> Option<String> {
    let purse = purse?;
    let (budget_usd, days) = (purse.budget_usd, purse.storage_days);
    let held_usd = budget::held_back_usd(purse, disk_usd_per_hour);
    let left_usd = (budget_usd - spent_usd - held_usd).max(0.0);
    let held = match held_usd > 0.0 {
        true => format!(
            ", and {} are held back for {days} days of its disk (`limits.storage_days`)",
            text::usd(held_usd)
        ),
        false => String::new(),
    };
    (usd > left_usd).then(|| {
        format!("of `limits.budget` of ${budget_usd:.2}, ${spent_usd:.2} are spent{held}: ${left_usd:.2} are left")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_paid_than_is_left_of_the_budget() {
        let purse = |storage_days| {
            Some(Purse {
                budget_usd: 20.0,
                storage_days,
            })
        };
        assert_eq!(over(None, 5.0, 0.01, 100.0), None);
        assert_eq!(over(purse(0.0), 5.0, 0.01, 15.0), None);
        let why = over(purse(0.0), 5.0, 0.01, 15.01).unwrap();
        assert!(why.ends_with("$5.00 are spent: $15.00 are left"), "{why}");
        assert!(over(purse(0.0), 25.0, 0.01, 0.01).is_some());
        let why = over(purse(7.0), 5.0, 0.01, 15.0).unwrap();
        assert_eq!(
            why,
            "of `limits.budget` of $20.00, $5.00 are spent, and $1.68 are held back for 7 days of its disk (`limits.storage_days`): \
             $13.32 are left"
        );
        assert_eq!(over(purse(7.0), 5.0, 0.01, 13.0), None);
    }
}
