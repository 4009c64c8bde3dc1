//! `bid`: changes by hand what is paid for an interruptible box.

use serde::Serialize;
use serde_json::json;

use crate::{
    commands::Deps,
    error::CommandError,
    provider::{Intended, Rental},
    run::{State, budget, prepaying},
    spec::values,
    store::{AttemptRecord, RunRecord},
    ui::{Table, Ui, text},
};

/// A bid below the market's smallest unit is none.
const LEAST_USD: f64 = 0.001;
/// A budget that would be over sooner than this is no place for a higher bid.
const SHORTEST_HOURS: f64 = 1.0;

/// Change what is bid for the box of a run, dollars per hour for the whole box
///
/// You pay what you bid, not what others bid. Refused above `resources.bid.max`, above `resources.max_price` all in, and where the
/// budget would be over within the hour, unless `--over-limits` says so.
#[derive(Debug, clap::Args)]
pub struct BidArgs {
    /// Run
    run: String,
    /// The new bid, $/h for the whole box
    #[arg(value_parser = price, allow_negative_numbers = true)]
    price: f64,
    /// Bid more than the run file allows
    #[arg(long)]
    over_limits: bool,
}

/// Reads a bid.
fn price(text: &str) -> Result<f64, String> {
    values::usd(text)
        .map_err(|_| "a bid is dollars an hour for the whole box, above 0, such as 0.25".to_owned())
}

/// What was changed, for `--json`.
#[derive(Serialize)]
struct Changed {
    run: String,
    attempt: u32,
    instance: u64,
    old_usd_per_hour: f64,
    new_usd_per_hour: f64,
    /// With its disk.
    running_usd_per_hour: f64,
}

/// Runs the verb.
pub async fn bid(ui: &mut Ui, deps: &Deps, args: &BidArgs) -> Result<(), CommandError> {
    let run = deps.load_run(Some(&args.run))?;
    let store = deps.store()?;
    let latest = store.latest_attempt(&run.name)?;
    let attempt = latest.filter(|attempt| attempt.may_cost());
    let Some((attempt, id)) = attempt.and_then(|attempt| {
        let id = attempt.instance?;
        Some((attempt, id))
    }) else {
        return Err(refused(&run).because("it has no box"));
    };
    if let Some(why) = unwanted(&run, &attempt) {
        return Err(refused(&run)
            .because(why)
            .hint(format!("go on with it: `spotter resume {}`", run.name)));
    }
    let provider = deps.provider()?;
    let seen = provider
        .instance(id)
        .await?
        .ok_or_else(|| refused(&run).because(format!("instance {id} does not exist any more")))?;
    let spent_usd = prepaying::spent_usd(&store, &run.name, deps.clock.now_us())?;
    if !args.over_limits
        && let Some(why) = over(&run, args.price, seen.storage_usd_per_hour, spent_usd)
    {
        return Err(refused(&run).because(why).hint(format!(
            "bid it all the same with `spotter bid --over-limits {} {}`",
            run.name, args.price
        )));
    }
    if args.price < LEAST_USD {
        return Err(CommandError::usage(format!(
            "a bid is at least ${LEAST_USD}"
        )));
    }
    // What it cost until now is not lost with its price.
    store.meter(&run.name, attempt.number, &seen, deps.clock.now_us())?;
    provider.change_bid(id, args.price).await?;
    // From here on this is the price that was agreed to.
    store.record_bid(&run.name, attempt.number, args.price)?;
    let mut after = provider.instance(id).await?;
    let mut queued = false;
    // The market does not always start a box by itself that it had stopped, however high the new bid is.
    if after
        .as_ref()
        .is_some_and(|after| after.intended == Intended::Stopped)
    {
        match provider.start(id).await {
            Ok(at_once) => queued = !at_once,
            Err(err) => ui.warning(format_args!("the box was not started: {err}")),
        }
        after = provider.instance(id).await?;
    }
    let new_usd_per_hour = after
        .as_ref()
        .map_or(args.price, |seen| seen.gpu_usd_per_hour);
    let now_us = deps.clock.now_us();
    if let Some(after) = &after {
        store.meter(&run.name, attempt.number, after, now_us)?;
    }
    let detail = json!({
        "instance": id, "old_usd_per_hour": seen.gpu_usd_per_hour, "new_usd_per_hour": new_usd_per_hour,
        "over_limits": args.over_limits,
    });
    store.note(&run.name, attempt.number, now_us, "bid_changed", &detail)?;
    if (new_usd_per_hour - args.price).abs() > LEAST_USD {
        ui.warning(format_args!(
            "the provider shows a bid of {} after the change, not {}",
            text::usd_per_hour(new_usd_per_hour),
            text::usd_per_hour(args.price)
        ));
    }
    let changed = Changed {
        run: run.name.clone(),
        attempt: attempt.number,
        instance: id,
        old_usd_per_hour: seen.gpu_usd_per_hour,
        new_usd_per_hour,
        running_usd_per_hour: new_usd_per_hour + seen.storage_usd_per_hour,
    };
    ui.show(&changed, |changed| {
        let mut table = Table::new(&["RUN", "INSTANCE>", "OLD BID>", "NEW BID>", "ALL IN>"]);
        table.row([
            changed.run.clone(),
            changed.instance.to_string(),
            text::usd_per_hour(changed.old_usd_per_hour),
            text::usd_per_hour(changed.new_usd_per_hour),
            text::usd_per_hour(changed.running_usd_per_hour),
        ]);
        table
    });
    if after.is_some_and(|after| !after.contract_running) {
        ui.status(format_args!(
            "The box does not run now: {}.",
            match queued {
                true => "it waits for its GPU, which somebody else has",
                false => "somebody pays more, or the market has not looked yet",
            }
        ));
    }
    Ok(())
}

fn refused(run: &RunRecord) -> CommandError {
    CommandError::new(format!("the bid of run `{}` was not changed", run.name)).about(&run.name)
}

/// Why nobody should bid for the box of an attempt (pure): one that was given up would cost GPU time for nothing.
fn unwanted(run: &RunRecord, attempt: &AttemptRecord) -> Option<&'static str> {
    if attempt.rental != Rental::Interruptible {
        return Some("its box is rented on demand, for which nobody bids");
    }
    match attempt.state {
        _ if run.outcome.is_some() || run.stop_requested => {
            Some("it has ended, and nobody wants its box to run")
        }
        State::Interrupted | State::Lost => Some("its box was taken back and given up"),
        state if state.is_active() || state == State::Waiting => None,
        _ => Some("its training has ended"),
    }
}

/// Which limit of the run file a bid would break (pure).
fn over(run: &RunRecord, price: f64, storage_usd_per_hour: f64, spent_usd: f64) -> Option<String> {
    let resources = &run.spec.resources;
    let all_in = price + storage_usd_per_hour;
    if let Some(max) = resources.bid_max_usd_per_hour.filter(|max| price > *max) {
        return Some(format!(
            "${price:.3}/h is above `resources.bid.max` of ${max:.3}/h"
        ));
    }
    if let Some(max) = resources.max_price_usd_per_hour.filter(|max| all_in > *max) {
        return Some(format!(
            "all in it would cost ${all_in:.3}/h, above `resources.max_price` of ${max:.3}/h"
        ));
    }
    let purse = run.spec.limits.purse()?;
    let (budget, days) = (purse.budget_usd, purse.storage_days);
    let held_usd = budget::held_back_usd(purse, storage_usd_per_hour);
    let hours = (budget - spent_usd - held_usd) / all_in;
    (hours < SHORTEST_HOURS).then(|| {
        let minutes = (hours * 60.0).max(0.0);
        let held = match held_usd > 0.0 {
            true => format!(
                ", and {} are held back for {days} days of its disk (`limits.storage_days`)",
                text::usd(held_usd)
            ),
            false => String::new(),
        };
        format!(
            "of `limits.budget` of ${budget:.2}, ${spent_usd:.2} are spent{held}: at ${all_in:.3}/h the rest lasts {minutes:.0} minutes"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{spec::RunSpec, store::Outcome};

    #[test]
    fn nobody_bids_for_a_box_that_was_given_up() {
        let run = |outcome| RunRecord {
            name: "r".to_owned(),
            spec: RunSpec::from_flags_for_tests(),
            created_us: 0,
            stop_requested: false,
            outcome,
            reason: None,
        };
        let attempt = |state, rental| AttemptRecord {
            state,
            rental,
            gone_us: 0,
            ..crate::run::summary::attempt_for_tests(1)
        };
        for (state, outcome, words) in [
            (State::Loading, None, None),
            (State::Running, None, None),
            (State::Waiting, None, None),
            (State::Interrupted, None, Some("given up")),
            (State::Lost, None, Some("given up")),
            (State::Stopped, Some(Outcome::Stopped), Some("has ended")),
            (State::Running, Some(Outcome::Stopped), Some("has ended")),
            (State::Failed, None, Some("has ended")),
        ] {
            let found = unwanted(&run(outcome), &attempt(state, Rental::Interruptible));
            match words {
                None => assert_eq!(found, None, "{state}"),
                Some(words) => assert!(found.unwrap().contains(words), "{state} {found:?}"),
            }
        }
        let on_demand = attempt(State::Running, Rental::OnDemand);
        assert!(
            unwanted(&run(None), &on_demand)
                .unwrap()
                .contains("on demand")
        );
    }

    #[test]
    fn a_bid_above_any_limit_of_the_run_file_is_refused_with_the_limit() {
        let check = |price: f64, spent_usd: f64, days: f64, expected: Option<&str>| {
            let mut spec = RunSpec::from_flags_for_tests();
            spec.resources.bid_max_usd_per_hour = Some(0.5);
            spec.resources.max_price_usd_per_hour = Some(0.45);
            spec.limits.budget_usd = Some(2.0);
            spec.limits.storage_days = days;
            let run = RunRecord {
                name: "r".to_owned(),
                spec,
                created_us: 0,
                stop_requested: false,
                outcome: None,
                reason: None,
            };
            let found = over(&run, price, 0.01, spent_usd);
            match expected {
                None => assert_eq!(found, None),
                Some(words) => assert!(found.as_deref().unwrap().contains(words), "{found:?}"),
            }
        };
        check(0.3, 0.0, 0.0, None);
        check(0.51, 0.0, 0.0, Some("`resources.bid.max` of $0.500/h"));
        check(0.445, 0.0, 0.0, Some("`resources.max_price` of $0.450/h"));
        check(0.4, 1.8, 0.0, Some("lasts 29 minutes"));
        check(0.4, 2.5, 0.0, Some("lasts 0 minutes"));
        // What is held back for its disk is not there to train with.
        check(0.3, 0.0, 7.0, None);
        let held = "$0.50 are spent, and $1.68 are held back for 7 days of its disk (`limits.storage_days`)";
        check(0.3, 0.5, 7.0, Some(held));
    }
}
