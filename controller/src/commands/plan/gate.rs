//! The launch gate: a run that takes long or costs much is rented only when its plan is whole and nothing in it forbids it.
//!
//! What its limits, or its forecast, keep to [`LONG_HOURS`] and [`DEAR_USD`] is a smoke run and is never held up. What was planned
//! is kept with the run as its event [`PLANNED`], and told by `status`.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::{
    figures,
    known::{self, Known},
    options::{self, Candidate, Plan},
};
use crate::{
    commands::Deps,
    error::{CommandError, ErrorKind},
    estimate::{
        advice::Gate,
        calibrated::Shipped,
        evaluate::Method,
        outlook::{Check, Forecast},
        playbook::SETUP_TAX,
    },
    provider::Offer,
    run::{
        judge::{self, Asked},
        planned::{bounds, least},
        pricing::Order,
    },
    spec::RunSpec,
    ui::{Ui, text},
};

pub(in crate::commands) use crate::run::renting::PLANNED;

/// The playbook asks for a plan before a long run: beyond experiments, which end within four hours.
pub(super) const LONG_HOURS: f64 = 4.0;
/// And before a dear one: so much is lost without regret.
pub(super) const DEAR_USD: f64 = 20.0;

/// How a run was started, so that what is said of it can be typed.
#[derive(Debug, Clone, Copy)]
pub(in crate::commands) enum Start<'a> {
    /// `run FILE`.
    File(&'a Path),
    /// `run --gpus ... -- COMMAND`.
    Flags,
    /// `resume RUN --gpus ...`.
    Resume,
}

/// What was known of a run when it was rented, as JSON.
#[derive(Debug, Serialize)]
struct Planned<'a> {
    /// Its limits and its forecast allow so much that it needs a plan.
    needed: bool,
    /// `--no-plan` was given.
    no_plan: bool,
    /// It is begun though an estimate says that it would not train there: then estimates do not hold it up later either.
    dares: bool,
    offer: u64,
    gpu: &'a str,
    num_gpus: u32,
    running_usd_per_hour: f64,
    /// Hours of training, and dollars, that its limits allow; `null`: any.
    at_most_hours: Option<f64>,
    at_most_usd: Option<f64>,
    /// Memory of the GPU, memory of the host, disk, network: what is needed, what there is, how it comes out.
    checks: Option<&'a [Check]>,
    /// Speed, the method behind it, time and cost in three scenarios, share of setup and debugging.
    forecast: Option<&'a Forecast>,
    /// That share is small enough for this hardware.
    hardware_justified: Option<bool>,
    /// What to watch in the first ten minutes, and when to stop.
    gates: Option<&'a [Gate]>,
    /// What forbids it.
    blockers: &'a [String],
}

/// What a plan has to say before a long run, in the playbook's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Memory,
    Method,
    TimeAndCost,
    Tax,
    Gates,
}

impl Item {
    const ALL: [Self; 5] = [
        Self::Memory,
        Self::Method,
        Self::TimeAndCost,
        Self::Tax,
        Self::Gates,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::Memory => "whether the memory of GPU and host is enough",
            Self::Method => "the speed, and by which method it is predicted",
            Self::TimeAndCost => "time and cost, if it goes well, as expected and badly",
            Self::Tax => {
                "the share of setup and debugging, and whether that justifies this hardware"
            }
            Self::Gates => "what to watch in the first ten minutes, and when to stop",
        }
    }

    /// What it is worked out from, as keys of the run file.
    fn keys(self) -> &'static str {
        match self {
            Self::Memory => "`model.params`, better with `seq_len`, `micro_batch` and `optimizer`",
            Self::Method => "`model.params`, better with `stack`",
            Self::TimeAndCost => "`model.tokens`, or `model.steps` with `model.batch_tokens`",
            Self::Tax => "`model.tokens`, and `model.setup` where that is not 30 minutes",
            Self::Gates => "`model.params`",
        }
    }

    fn is_missing(self, planned: &Planned<'_>) -> bool {
        match self {
            Self::Memory => planned.checks.is_none(),
            Self::Method => planned.forecast.is_none(),
            Self::TimeAndCost => planned
                .forecast
                .is_none_or(|forecast| forecast.wall_hours.is_none()),
            Self::Tax => planned.hardware_justified.is_none(),
            // There are none for what does not fit, and that is said already.
            Self::Gates => planned.gates.is_none() && planned.blockers.is_empty(),
        }
    }
}

/// Lets a run pass that may be rented on this offer, and answers what is to be kept with it. Asks nobody, spends nothing.
pub(in crate::commands) fn pass(
    ui: &mut Ui,
    deps: &Deps,
    spec: &RunSpec,
    (offer, order): &(Offer, Order),
    start: Start<'_>,
    no_plan: bool,
) -> Result<Value, CommandError> {
    let known = known::of(deps, Some(spec))?;
    let planned = judge(spec, (offer, *order), &known, start, no_plan)?;
    if planned["needed"] == true && !no_plan {
        ui.status(format_args!("Planned: {}.", line(&planned)));
        if planned["hardware_justified"] == false {
            ui.warning(format_args!(
                "more than {:.0} % of what is paid is setup and debugging: do that on cheaper hardware first",
                SETUP_TAX * 100.0
            ));
        }
    }
    Ok(planned)
}

fn judge(
    spec: &RunSpec,
    order: (&Offer, Order),
    known: &Known,
    start: Start<'_>,
    no_plan: bool,
) -> Result<Value, CommandError> {
    let asked = Asked {
        spec,
        method: Method::Calibrated,
        calibration: &Shipped::get().calibration,
        known,
        left_usd: spec.limits.budget_usd,
        going_on: None,
    };
    let plan = Plan::of(&asked, vec![judge::judge_one(&asked, order.0, order.1)]);
    let option = plan.offers.first().expect("one option for the one order");
    let planned = planned(spec, &plan, option, no_plan);
    let missing: Vec<Item> = Item::ALL
        .into_iter()
        .filter(|item| item.is_missing(&planned))
        .collect();
    let holds = missing.is_empty() && planned.blockers.is_empty();
    if !planned.needed || no_plan || holds {
        return Ok(serde_json::to_value(&planned).expect("a plan is plain data"));
    }
    Err(refusal(spec, option, &planned, &missing, start))
}

fn planned<'a>(
    spec: &RunSpec,
    plan: &'a Plan<'_>,
    option: &'a Candidate<'_>,
    no_plan: bool,
) -> Planned<'a> {
    let (at_most_hours, at_most_usd) = bounds(spec, option.running_usd_per_hour);
    let outlook = option.outlook.as_ref();
    let forecast = outlook.map(|outlook| &outlook.forecast);
    let expected_hours = forecast.and_then(|forecast| Some(forecast.wall_hours?.base));
    let expected_usd = forecast.and_then(|forecast| Some(forecast.cost_usd?.base));
    let within = |most: Option<f64>, expected: Option<f64>, bound: f64| {
        least(most, expected).is_some_and(|value| value <= bound)
    };
    let is_smoke = within(at_most_hours, expected_hours, LONG_HOURS)
        && within(at_most_usd, expected_usd, DEAR_USD);
    Planned {
        needed: !is_smoke,
        no_plan,
        dares: outlook.is_some_and(|outlook| !outlook.obstacles.is_empty()),
        offer: option.offer,
        gpu: option.gpu,
        num_gpus: option.num_gpus,
        running_usd_per_hour: option.running_usd_per_hour,
        at_most_hours,
        at_most_usd,
        checks: outlook.map(|outlook| outlook.checks.as_slice()),
        forecast,
        hardware_justified: forecast
            .and_then(|forecast| forecast.setup_tax)
            .map(|tax| tax <= SETUP_TAX),
        gates: Some(plan.gates.as_slice()).filter(|gates| !gates.is_empty()),
        blockers: &option.blockers,
    }
}

fn refusal(
    spec: &RunSpec,
    option: &Candidate<'_>,
    planned: &Planned<'_>,
    missing: &[Item],
    start: Start<'_>,
) -> CommandError {
    let name = &spec.name;
    let done = match start {
        Start::File(_) | Start::Flags => "rented",
        Start::Resume => "started again",
    };
    let bounds = format!("above {LONG_HOURS} h or ${DEAR_USD}");
    let err = match missing {
        [] => CommandError::new(format!("run `{name}` was not {done}: its plan is a no go"))
            .kind(ErrorKind::NoGo),
        _ => CommandError::usage(format!(
            "run `{name}` was not {done}: it may be long or dear, and its plan lacks {} of {} parts",
            missing.len(),
            Item::ALL.len()
        )),
    };
    let forecast = planned.forecast;
    let mut why = vec![match forecast
        .and_then(|forecast| forecast.wall_hours.zip(forecast.cost_usd))
    {
        Some((hours, cost)) => format!(
            "{} h and {} are expected; {bounds} a plan has to hold first",
            figures::hours(hours.base),
            text::usd(cost.base)
        ),
        None => format!(
            "its limits allow {} at {}; {bounds} a plan is needed first",
            allowed(planned.at_most_hours, planned.at_most_usd),
            text::usd_per_hour(planned.running_usd_per_hour)
        ),
    }];
    let offer = planned.offer;
    why.extend(
        planned
            .blockers
            .iter()
            .map(|blocker| format!("offer {offer}: {blocker}")),
    );
    let unknown_gpu = spec.model.is_some() && option.outlook.is_none();
    // A run that is stored cannot be written anew.
    let can_write = !unknown_gpu && !matches!(start, Start::Resume);
    why.extend(missing.iter().map(|item| match can_write {
        true => format!("missing: {} (write {})", item.words(), item.keys()),
        false => format!("missing: {}", item.words()),
    }));
    let hints = if unknown_gpu {
        vec![format!(
            "nothing is known of a {}: choose another GPU, see `spotter offers --gpus any`",
            planned.gpu
        )]
    } else if missing.is_empty() {
        options::remedies(spec, option)
    } else {
        Vec::new()
    };
    hints
        .into_iter()
        .chain(ways_on(spec, start, missing.is_empty(), can_write))
        .fold(err.because(why.join("\n")).about(name), CommandError::hint)
}

/// What to type next: the plan, limits that make it a smoke run, or no plan at all.
fn ways_on(spec: &RunSpec, start: Start<'_>, is_whole: bool, can_write: bool) -> Vec<String> {
    const EXAMPLE: &str = "model: {params: 124M, seq_len: 1024, micro_batch: 16, tokens: 10B}";
    let file = match start {
        Start::File(file) => format!("`{}`", file.display()),
        Start::Flags | Start::Resume => "a run file".to_owned(),
    };
    let mut ways = Vec::new();
    if !is_whole && can_write {
        let (what, example) = match &spec.model {
            None => ("what is trained", EXAMPLE),
            Some(_) => ("how long it trains", "model.tokens: 10B"),
        };
        ways.push(format!(
            "say in {file} {what}, such as `{example}`: spotter works out the rest"
        ));
    }
    let small = match start {
        Start::File(file) => {
            ways.push(format!(
                "see the whole plan, which costs nothing: `spotter plan {}`",
                file.display()
            ));
            Some(format!(
                "`limits: {{max_runtime: {LONG_HOURS}h, budget: {DEAR_USD}}}`"
            ))
        }
        Start::Flags => Some(format!("`--max-runtime {LONG_HOURS}h --budget {DEAR_USD}`")),
        // What it has trained and spent counts.
        Start::Resume => None,
    };
    if let Some(small) = small.filter(|_| !is_whole) {
        ways.push(format!("or keep it small: {small}"));
    }
    ways.push(match start {
        Start::File(file) => format!(
            "or start it all the same: `spotter run --no-plan {}`",
            file.display()
        ),
        Start::Flags | Start::Resume => {
            "or start it all the same: the same command with `--no-plan`".to_owned()
        }
    });
    ways
}

pub(super) fn allowed(hours: Option<f64>, usd: Option<f64>) -> String {
    let hours = hours.map_or_else(
        || "any time".to_owned(),
        |hours| format!("{} h", figures::hours(hours)),
    );
    let usd = usd.map_or_else(|| "any cost".to_owned(), text::usd);
    format!("{hours} and {usd}")
}

/// A kept plan in one line, for people.
pub(in crate::commands) fn line(planned: &Value) -> String {
    let number = |pointer: &str| planned.pointer(pointer).and_then(Value::as_f64);
    let pair = |scenario: &str| {
        let hours = number(&format!("/forecast/wall_hours/{scenario}"))?;
        let usd = number(&format!("/forecast/cost_usd/{scenario}"))?;
        Some(format!(
            "{} h and {}",
            figures::hours(hours),
            text::usd(usd)
        ))
    };
    let mut parts = Vec::new();
    if planned["needed"] == true && planned["no_plan"] == true {
        parts.push("skipped with `--no-plan`".to_owned());
    }
    if let (Some(base), Some(good), Some(bad)) =
        (pair("base"), pair("optimistic"), pair("pessimistic"))
    {
        let on = planned["gpu"].as_str().unwrap_or("GPU");
        let count = planned["num_gpus"].as_u64().unwrap_or(1);
        parts.push(format!(
            "{base} on {count} x {on}, if it goes well {good}, if badly {bad}"
        ));
    }
    let (hours, usd) = (number("/at_most_hours"), number("/at_most_usd"));
    if hours.is_some() || usd.is_some() {
        parts.push(format!("by its limits at most {}", allowed(hours, usd)));
    }
    match parts.is_empty() {
        true => "nothing was said of time or cost".to_owned(),
        false => parts.join("; "),
    }
}

#[cfg(test)]
mod tests;
