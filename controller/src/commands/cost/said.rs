//! How `cost` tells what was reckoned: tables, and what wants to be said beside them.

use super::{AttemptCost, Costs, RunCost};
use crate::{
    provider::hosts::is_host,
    run::next,
    ui::{Table, Ui, text},
};

fn hours(hours: Option<f64>) -> String {
    text::or_dash(hours.map(|hours| match hours >= 48.0 {
        true => format!("{:.0} d", hours / 24.0),
        false => format!("{hours:.1} h"),
    }))
}

/// All runs, a line each.
pub(super) fn runs_table(runs: &[RunCost]) -> Table {
    let mut table = Table::new(&[
        "RUN",
        "STATE",
        "NOW>",
        "GPU>",
        "STORAGE>",
        "TRAFFIC>",
        "TOTAL>",
        "BILLED>",
        "RECKONED>",
        "TO COME>",
        "BUDGET>",
        "LASTS>",
    ]);
    for run in runs {
        let state = run
            .attempts
            .last()
            .map_or("planned", |last| last.state.name());
        table.row([
            run.run.clone(),
            match (run.outcome, &run.standing) {
                (None, Some(standing)) => standing.clone(),
                (outcome, _) => outcome.unwrap_or(state).to_owned(),
            },
            text::now_usd_per_hour(run.usd_per_hour, run.at_most_usd_per_hour),
            text::usd(run.cost.gpu_usd),
            text::usd(run.cost.disk_usd),
            text::usd(run.cost.bandwidth_usd),
            text::usd(run.total_usd),
            text::usd(run.of_it.billed_usd),
            text::usd(run.of_it.reckoned_usd),
            text::or_dash(run.to_come.map(|rest| text::usd(rest.usd.base))),
            text::or_dash(run.budget_usd.map(text::usd)),
            hours(run.budget_hours),
        ]);
    }
    table
}

/// The attempts of one run, a line each.
pub(super) fn attempts_table(run: &RunCost) -> Table {
    let mut table = Table::new(&[
        "TRY>",
        "STATE",
        "INSTANCE>",
        "GPU",
        "NOW>",
        "GPU COST>",
        "STORAGE>",
        "TRAFFIC>",
        "BILLED>",
        "RECKONED>",
    ]);
    let newest = run.attempts.last().map(|last| last.attempt);
    for attempt in &run.attempts {
        let shown = attempt.counted;
        let billed = attempt.charged.map(|_| {
            let so_far = if attempt.charged_is_final {
                ""
            } else {
                " so far"
            };
            format!("{}{so_far}", text::usd(attempt.of_it.billed_usd))
        });
        table.row([
            attempt.attempt.to_string(),
            match &run.standing {
                Some(standing) if newest == Some(attempt.attempt) => standing.clone(),
                _ => attempt.state.name().to_owned(),
            },
            text::or_dash(attempt.instance),
            attempt.gpu.clone(),
            text::usd_per_hour(attempt.usd_per_hour),
            text::usd(shown.gpu_usd),
            text::usd(shown.disk_usd),
            text::usd(shown.bandwidth_usd),
            text::or_dash(billed),
            text::usd(attempt.of_it.reckoned_usd),
        ]);
    }
    table
}

/// What ends the box of an attempt: where a later one may train, without that (pure).
fn end_of(run: &RunCost, attempt: &AttemptCost) -> String {
    let is_older = run
        .attempts
        .iter()
        .any(|other| other.attempt > attempt.attempt);
    match is_older && run.outcome.is_none() {
        true => next::let_go(&run.run, attempt.attempt),
        false => run.destroy.clone(),
    }
}

/// What no table has: what is to come, what wants to be looked at, and who says how much of it.
pub(super) fn notes(ui: &mut Ui, costs: &Costs) {
    for run in &costs.runs {
        if run
            .attempts
            .iter()
            .any(|attempt| attempt.instance.is_some_and(is_host))
        {
            ui.status(format_args!(
                "`{}` runs on hosts of yours: nobody bills for them.",
                run.run
            ));
        }
        for attempt in run
            .attempts
            .iter()
            .filter(|attempt| attempt.stopped_but_paid)
        {
            if let Some((_, why)) = run
                .kept
                .as_ref()
                .filter(|(kept, _)| *kept == attempt.attempt)
            {
                ui.warning(format_args!(
                    "instance {} of `{}` is stopped, and its disk is paid for, {} or {} a day: {why}",
                    text::or_dash(attempt.instance),
                    run.run,
                    text::usd_per_hour(attempt.usd_per_hour),
                    text::usd(attempt.usd_per_hour * 24.0),
                ));
                continue;
            }
            ui.warning(format_args!(
                "instance {} of `{}` is STOPPED AND STILL PAID FOR: {} for its disk, {} a day; end it with `{}`",
                text::or_dash(attempt.instance),
                run.run,
                text::usd_per_hour(attempt.usd_per_hour),
                text::usd(attempt.usd_per_hour * 24.0),
                end_of(run, attempt)
            ));
        }
        for attempt in &run.attempts {
            let apart = attempt.difference_usd.filter(|usd| usd.abs() >= 0.005);
            if attempt.is_doubtful {
                ui.warning(format_args!(
                    "the bill of attempt {} of `{}` CANNOT BE RIGHT: {} were charged for what was metered at {}; the dearer counts. \
                     Look at it in the provider's console",
                    attempt.attempt,
                    run.run,
                    text::usd(attempt.charged.unwrap_or_default().total_usd()),
                    text::usd(attempt.ledger.total_usd()),
                ));
            } else if let Some(usd) = apart.filter(|_| attempt.charged_is_final) {
                ui.status(format_args!(
                    "The bill of attempt {} of `{}` differs from our ledger by {usd:+.4} dollars; the bill counts.",
                    attempt.attempt, run.run
                ));
            }
        }
        if run.unused_prepaid_usd >= 0.00005 {
            ui.status(format_args!(
                "Of what `{}` cost, {} were paid in advance for boxes that are gone, and not used up.",
                run.run,
                text::usd(run.unused_prepaid_usd)
            ));
        }
        if let Some(rest) = run.to_come {
            let by = match rest.measured {
                true => "by what it does now",
                false => "by its estimate",
            };
            ui.status(format_args!(
                "`{}`: about {} and {} are to come ({} to {}), {by}.",
                run.run,
                hours(Some(rest.hours.base)),
                text::usd(rest.usd.base),
                text::usd(rest.usd.optimistic),
                text::usd(rest.usd.pessimistic)
            ));
        }
        if let (Some(budget), Some(left)) = (run.budget_usd, run.budget_hours) {
            ui.status(format_args!(
                "`{}`: {} of {} are spent; the rest lasts {} at {}.",
                run.run,
                text::usd(run.total_usd),
                text::usd(budget),
                hours(Some(left)),
                text::usd_per_hour(run.usd_per_hour)
            ));
        }
    }
    if costs.total_usd >= 0.00005 {
        ui.status(format_args!(
            "So far {}: {} billed by the provider, {} reckoned here and not billed yet{}.",
            text::usd(costs.total_usd),
            text::usd(costs.of_it.billed_usd),
            text::usd(costs.of_it.reckoned_usd),
            match costs.of_it.unbilled_traffic_usd >= 0.00005 {
                true => format!(
                    ", {} of that for traffic, by the counters of the boxes",
                    text::usd(costs.of_it.unbilled_traffic_usd)
                ),
                false => String::new(),
            },
        ));
    }
    if costs.usd_per_hour > 0.0 {
        ui.status(format_args!(
            "It costs {} for every day that this goes on.",
            text::usd(costs.usd_per_hour * 24.0)
        ));
    }
    for disk in &costs.volumes {
        let said = disk.text();
        ui.status(format_args!("{}{}.", said[..1].to_uppercase(), &said[1..]));
    }
    if let Some(credit) = costs.credit_usd {
        let lasting = match costs.credit_hours {
            Some(_) => format!(", which lasts {} at this price", hours(costs.credit_hours)),
            None => String::new(),
        };
        ui.status(format_args!(
            "The account has {}{lasting}.",
            text::usd(credit)
        ));
    }
}
