//! What was planned of a run when it was begun, and how much of that has to hold of the box that it takes (pure).

use serde_json::{Value, json};

use crate::{estimate::playbook::SETUP_TAX, run::judge::Judged, spec::RunSpec};

/// How much has to hold of an offer that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bar {
    /// Nothing forbids it, as its plan would say.
    Go,
    /// It would train the run there, whatever that takes.
    Trains,
    /// Nothing but facts: its user goes by himself, not by estimates.
    Facts,
}

impl Bar {
    /// Of a run whose user goes by himself, or not.
    pub fn dared(dared: bool) -> Self {
        if dared { Self::Facts } else { Self::Trains }
    }

    /// Of the first box of a run, by what was planned of it; `None`: nothing was.
    pub fn of_plan(planned: Option<&Value>) -> Option<Self> {
        let planned = planned?;
        (planned["needed"] == true && planned["no_plan"] != true).then_some(Self::Go)
    }
}

/// Hours of training, and dollars, that a run's limits allow.
pub fn bounds(spec: &RunSpec, usd_per_hour: f64) -> (Option<f64>, Option<f64>) {
    let limits = &spec.limits;
    let trains = limits.max_runtime.map(|time| time.as_secs_f64() / 3600.0);
    let paid = limits
        .budget_usd
        .filter(|_| usd_per_hour > 0.0)
        .map(|usd| usd / usd_per_hour);
    // Before it trains, a box is paid for as well.
    let before = spec.bring_up().as_secs_f64() / 3600.0;
    let usd = trains.map(|hours| (hours + before) * usd_per_hour);
    (least(trains, paid), least(usd, limits.budget_usd))
}

/// The lesser of two limits, either of which may be absent.
pub fn least(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::min)
}

/// The same plan with the offer that was taken instead of the one that was judged; `None`: it was that one.
pub fn taken(planned: &Value, spec: &RunSpec, judged: &Judged<'_>) -> Option<Value> {
    let offer = judged.offer;
    if planned["offer"] == offer.id {
        return None;
    }
    let running = judged.order.running_usd_per_hour();
    let (at_most_hours, at_most_usd) = bounds(spec, running);
    let outlook = judged.outlook.as_ref();
    let forecast = outlook.map(|outlook| &outlook.forecast);
    let mut renewed = planned.clone();
    renewed["offer"] = json!(offer.id);
    renewed["gpu"] = json!(offer.gpu_name);
    renewed["num_gpus"] = json!(offer.num_gpus);
    renewed["running_usd_per_hour"] = json!(running);
    renewed["at_most_hours"] = json!(at_most_hours);
    renewed["at_most_usd"] = json!(at_most_usd);
    renewed["checks"] = json!(outlook.map(|outlook| &outlook.checks));
    renewed["forecast"] = json!(forecast);
    renewed["hardware_justified"] = json!(
        forecast
            .and_then(|forecast| forecast.setup_tax)
            .map(|tax| tax <= SETUP_TAX)
    );
    renewed["blockers"] = json!(judged.blockers());
    Some(renewed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_was_needed_and_made_has_to_hold_of_the_first_box() {
        let bar = |needed: bool, no_plan: bool| {
            Bar::of_plan(Some(&json!({"needed": needed, "no_plan": no_plan})))
        };
        assert_eq!(bar(true, false), Some(Bar::Go));
        assert_eq!(bar(true, true), None);
        assert_eq!(bar(false, false), None);
        assert_eq!(Bar::of_plan(None), None);
    }
}
