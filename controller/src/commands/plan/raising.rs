//! The launch gate for a run whose limits are raised after its start: what began small must not become long and dear without a plan.

use serde_json::{Value, json};

use super::gate::{DEAR_USD, LONG_HOURS, PLANNED, allowed};
use crate::{
    commands::Deps,
    error::{CommandError, ErrorKind},
    run::{
        planned::{bounds, least},
        prepaying,
        to_come::{self, ToCome},
    },
    spec::Limits,
    store::RunRecord,
    ui::text,
};

/// Lets a run pass that has its new limits already and had `before`, and answers what is to be kept of its plan; `None`: as it was. Asks
/// nobody, spends nothing.
///
/// # Errors
/// The limits allow a long or dear run, and nothing tells that the rest of it keeps to them.
pub(in crate::commands) fn pass(
    deps: &Deps,
    run: &RunRecord,
    before: &Limits,
    no_plan: bool,
) -> Result<Option<Value>, CommandError> {
    if !run.spec.resources.hosts.is_empty() || !is_raised(before, &run.spec.limits) {
        return Ok(None);
    }
    let store = deps.store()?;
    let kept = store.newest_event(&run.name, 0, PLANNED)?;
    let mut planned = kept.map_or(json!({}), |event| event.detail);
    // Whoever goes by himself has said so.
    if planned["no_plan"] == true {
        return Ok(None);
    }
    let Some(attempt) = store.latest_attempt(&run.name)? else {
        return Ok(None);
    };
    let usd_per_hour = attempt.gpu_usd_per_hour + attempt.storage_usd_per_hour;
    let (at_most_hours, at_most_usd) = bounds(&run.spec, usd_per_hour);
    let rest = to_come::of_attempt(&store, run, &attempt, &store.observations()?, usd_per_hour)?;
    let expected = |figure: fn(&ToCome) -> f64| rest.as_ref().map(figure);
    let is_small = |most: Option<f64>, expected: Option<f64>, bound: f64| {
        least(most, expected).is_some_and(|value| value <= bound)
    };
    let needed = !(is_small(at_most_hours, expected(|rest| rest.hours.base), LONG_HOURS)
        && is_small(at_most_usd, expected(|rest| rest.usd.base), DEAR_USD));
    let spent_usd = prepaying::spent_usd(&store, &run.name, deps.clock.now_us())?;
    let left_usd = run.spec.limits.budget_usd.map(|budget| budget - spent_usd);
    if needed && !no_plan {
        let refused = format!("run `{}` was not started again", run.name);
        let all_the_same = "or start it all the same: the same command with `--no-plan`";
        let Some(rest) = &rest else {
            return Err(CommandError::usage(format!(
                "{refused}: with these limits it may be long or dear, and nothing tells what is to come"
            ))
            .because(format!(
                "its limits allow {} at {}; above {LONG_HOURS} h or ${DEAR_USD} that has to be known, and neither its log nor `model` says it",
                allowed(at_most_hours, at_most_usd),
                text::usd_per_hour(usd_per_hour)
            ))
            .hint("keep it small: lower `--budget` or `--max-runtime`")
            .hint(all_the_same)
            .about(&run.name));
        };
        if let Some(left_usd) = left_usd.filter(|left_usd| rest.usd.base > *left_usd) {
            let whole = (spent_usd + rest.usd.pessimistic).ceil();
            return Err(CommandError::new(format!(
                "{refused}: its plan is a no go"
            ))
            .kind(ErrorKind::NoGo)
            .because(format!(
                "what is to come would cost {}, and {} of its budget are left",
                text::usd(rest.usd.base),
                text::usd(left_usd.max(0.0))
            ))
            .hint(format!(
                "raise it further, such as `--budget {whole:.0}`, which also holds if it goes badly"
            ))
            .hint(all_the_same)
            .about(&run.name));
        }
    }
    planned["needed"] = json!(needed);
    planned["no_plan"] = json!(no_plan);
    planned["at_most_hours"] = json!(at_most_hours);
    planned["at_most_usd"] = json!(at_most_usd);
    Ok(Some(planned))
}

/// Whether one of the limits allows more than before.
fn is_raised(before: &Limits, now: &Limits) -> bool {
    let more_usd = before
        .budget_usd
        .is_some_and(|old| now.budget_usd.is_none_or(|new| new > old));
    let more_time = before
        .max_runtime
        .is_some_and(|old| now.max_runtime.is_none_or(|new| new > old));
    more_usd || more_time
}
