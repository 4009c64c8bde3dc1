//! What a report says (pure): figures, tables and plots out of the record, whoever shows them.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{
    chart::{Chart, Kind, Lane, Mark, Timeline},
    gather::Gathered,
    notes, plots, spans,
    tables::{self, Grid},
};
use crate::{
    commands::plan::figures,
    run::{
        State,
        ended_alone::TrainingEnd,
        interruptions,
        summary::RunSummary,
        trained::Times,
        windows::{WINDOW, words},
    },
    store::{EventRecord, Outcome},
    ui::text,
};

/// Attempts that the timeline shows, the newest: more are no picture any more.
const LANES: usize = 30;
/// Checkpoints that it shows of each.
const TICKS: usize = 200;

/// A report.
pub(super) struct Report {
    /// Name of the run.
    pub(super) name: String,
    /// Where it stands, one word.
    pub(super) state: String,
    /// How far that is good: `good`, `bad` or `open`.
    pub(super) verdict: &'static str,
    /// Why, for people.
    pub(super) reason: Option<String>,
    /// What it is about, a line.
    pub(super) subtitle: String,
    /// Name, value, and what more there is to say of it.
    pub(super) headline: Vec<(&'static str, String, String)>,
    /// What a program wants to know.
    pub(super) figures: Figures,
    /// Attempts over time.
    pub(super) timeline: Timeline,
    /// Plots, those without values left out.
    pub(super) charts: Vec<Chart>,
    /// Tables, those without rows left out.
    pub(super) grids: Vec<Grid>,
    /// What is to be known of all this.
    pub(super) notes: Vec<String>,
}

/// The headline for programs. What is not known is `null`.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Figures {
    pub(super) state: Option<State>,
    pub(super) outcome: Option<Outcome>,
    /// How its training ended, by its box, while `state` still calls it running.
    pub(super) training_end: Option<TrainingEnd>,
    pub(super) step: Option<u64>,
    pub(super) total_steps: Option<u64>,
    /// The last loss that was printed, and the step that it is of: later ones may have printed none.
    pub(super) last_loss: Option<f64>,
    pub(super) last_loss_step: Option<u64>,
    pub(super) attempts: u64,
    pub(super) interruptions: u64,
    pub(super) steps_lost: u64,
    pub(super) wall_hours: f64,
    pub(super) trained_hours: f64,
    /// A box that had trained gave no word, up to when that was known to be its end, or to now: paid for, and not trained as far as is known.
    pub(super) silent_hours: f64,
    pub(super) cost_usd: f64,
    /// Of that, traffic that nobody has billed so far, about.
    pub(super) unbilled_traffic_usd: f64,
    pub(super) usd_per_hour: f64,
    pub(super) tokens_per_s: Option<f64>,
    pub(super) gpu_utilisation_percent: Option<f64>,
    pub(super) energy_kwh: Option<f64>,
    pub(super) predicted_wall_hours: Option<f64>,
    pub(super) predicted_train_hours: Option<f64>,
    pub(super) predicted_cost_usd: Option<f64>,
    pub(super) predicted_tokens_per_s: Option<f64>,
    /// Newest reading of a box that is here.
    pub(super) measured_until_us: Option<i64>,
}

/// What was predicted: least, expected and most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub(super) low: Option<f64>,
    pub(super) base: f64,
    pub(super) high: Option<f64>,
}

/// The time that a report is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Period {
    pub(super) from_us: i64,
    pub(super) to_us: i64,
}

impl Period {
    /// Seconds after its beginning.
    pub(super) fn s(self, us: i64) -> f64 {
        us.saturating_sub(self.from_us) as f64 / 1e6
    }

    /// Seconds in all.
    pub(super) fn length_s(self) -> f64 {
        self.s(self.to_us).max(0.0)
    }
}

/// A number of the plan, by its place in it.
fn planned(plan: Option<&Value>, what: &str, keys: [&str; 3]) -> Option<Range> {
    let of = |key: &str| plan?.pointer(&format!("/forecast/{what}/{key}"))?.as_f64();
    Some(Range {
        low: of(keys[0]),
        base: of(keys[1])?,
        high: of(keys[2]),
    })
}

const SCENARIOS: [&str; 3] = ["optimistic", "base", "pessimistic"];

/// Everything that a report says.
pub(super) fn report(known: &Gathered) -> Report {
    let summary = &known.summary;
    let rented: Vec<spans::Span> = known
        .attempts
        .iter()
        .map(|attempt| spans::rented(attempt, &known.intervals, known.now_us))
        .collect();
    let times = known
        .attempts
        .iter()
        .map(|attempt| Times::so_far(attempt, &known.events, known.now_us));
    let (trained, silent): (Vec<Vec<spans::Span>>, Vec<Vec<spans::Span>>) =
        times.map(|times| (times.trained, times.silent)).unzip();
    let period = period(known, &rented);
    let all_trained: Vec<spans::Span> = trained.iter().flatten().copied().collect();
    let plan = known.plan.as_ref();
    let speed = planned(plan, "tokens_per_s", ["low", "base", "high"])
        .or_else(|| told_speed(&known.events))
        .or_else(|| {
            let cold = known.prediction.speed?;
            Some(Range {
                low: Some(cold.low),
                base: cold.base,
                high: Some(cold.high),
            })
        });
    let predicted = Predictions {
        speed,
        train_hours: planned(plan, "train_hours", SCENARIOS),
        wall_hours: planned(plan, "wall_hours", SCENARIOS),
        cost_usd: planned(plan, "cost_usd", SCENARIOS),
    };
    let figures = Figures {
        silent_hours: spans::seconds(&silent.concat()) / 3600.0,
        ..figures_of(known, summary, &predicted, period, &all_trained)
    };
    let down = spans::between(&all_trained, (period.from_us, period.to_us));
    let charts = plots::charts(known, &predicted, period, &down);
    let grids = tables::grids(known, &predicted, &figures, &trained);
    let (state, verdict) = match &summary.training_end {
        Some(end) => (end.standing(), "open"),
        None => state(summary),
    };
    Report {
        name: known.run.name.clone(),
        state,
        verdict,
        reason: reason(known),
        subtitle: subtitle(known, period),
        headline: headline(summary, &figures, &predicted),
        timeline: timeline(known, &rented, &trained, period),
        charts,
        grids,
        notes: notes::notes(known, LANES),
        figures,
    }
}

/// What was predicted of a run.
pub(super) struct Predictions {
    pub(super) speed: Option<Range>,
    pub(super) train_hours: Option<Range>,
    pub(super) wall_hours: Option<Range>,
    pub(super) cost_usd: Option<Range>,
}

/// What the box held the training against.
fn told_speed(events: &[EventRecord]) -> Option<Range> {
    let windows = events.iter().rev().filter(|event| event.kind == WINDOW);
    let base = windows
        .filter_map(|event| event.detail["predicted_tokens_per_s"].as_f64())
        .next()?;
    Some(Range {
        low: None,
        base,
        high: None,
    })
}

/// From the first box to the last, or to the end of the run; never nothing.
fn period(known: &Gathered, rented: &[spans::Span]) -> Period {
    let from_us = rented.iter().map(|span| span.0).min();
    let from_us = from_us.unwrap_or(known.run.created_us);
    let ended = known
        .events
        .iter()
        .rev()
        .find(|event| event.kind == "ended");
    let ended_us = ended.map(|event| event.time_us);
    let last_us = rented.iter().map(|span| span.1).max().unwrap_or(from_us);
    let to_us = match known.run.outcome {
        // What its box cost after that is on the bill, not in the time that it took.
        Some(_) => ended_us.unwrap_or(last_us),
        None => known.now_us,
    };
    Period {
        from_us,
        to_us: to_us.max(from_us + 1_000_000),
    }
}

fn figures_of(
    known: &Gathered,
    summary: &RunSummary,
    predicted: &Predictions,
    period: Period,
    trained: &[spans::Span],
) -> Figures {
    let base = |range: Option<Range>| range.map(|range| range.base);
    let measured = || known.shown.iter().map(|shown| &shown.measured);
    let used = measured().fold((0.0, 0.0), |all, one| {
        let (sum, seconds) = one.busy.sums();
        (all.0 + sum, all.1 + seconds)
    });
    let energy_wh: f64 = measured().map(|one| one.energy_wh).sum();
    let newest_s = measured().map(|one| one.newest_s).fold(0.0, f64::max);
    let logs = || known.shown.iter().rev().map(|shown| &shown.log);
    let last_loss = logs().find_map(|log| log.last_loss);
    Figures {
        state: summary.state,
        outcome: summary.outcome,
        training_end: summary.training_end.clone(),
        step: summary.step,
        total_steps: logs()
            .find_map(|log| log.total_steps)
            .map(|total| total as u64),
        last_loss: last_loss.map(|(loss, _)| loss),
        last_loss_step: last_loss.and_then(|(_, step)| Some(step? as u64)),
        attempts: summary.attempts.len() as u64,
        interruptions: summary.interruptions.len() as u64,
        steps_lost: summary.steps_lost,
        wall_hours: period.length_s() / 3600.0,
        trained_hours: spans::seconds(trained) / 3600.0,
        silent_hours: 0.0,
        cost_usd: summary.cost_usd,
        unbilled_traffic_usd: summary.unbilled_traffic_usd,
        usd_per_hour: summary.usd_per_hour,
        tokens_per_s: tables::speed(known),
        gpu_utilisation_percent: (used.1 > 0.0).then(|| used.0 / used.1),
        energy_kwh: (energy_wh > 0.0).then_some(energy_wh / 1000.0),
        predicted_wall_hours: base(predicted.wall_hours),
        predicted_train_hours: base(predicted.train_hours),
        predicted_cost_usd: base(predicted.cost_usd),
        predicted_tokens_per_s: base(predicted.speed),
        measured_until_us: (newest_s > 0.0).then_some((newest_s * 1e6) as i64),
    }
}

/// Why it stands as it does, for people.
fn reason(known: &Gathered) -> Option<String> {
    let told = known.summary.reason.clone();
    told.or_else(|| known.summary.training_end.as_ref().map(TrainingEnd::words))
}

fn state(summary: &RunSummary) -> (String, &'static str) {
    match summary.outcome {
        Some(Outcome::Done) => ("done".to_owned(), "good"),
        Some(Outcome::Stopped) => ("stopped".to_owned(), "open"),
        Some(other) => (other.name().to_owned(), "bad"),
        None => {
            let state = summary.state.map_or("planned", State::name);
            (state.to_owned(), "open")
        }
    }
}

fn subtitle(known: &Gathered, period: Period) -> String {
    let mut boxes: Vec<String> = known
        .attempts
        .iter()
        .map(|attempt| match attempt.gpu.rsplit_once(':') {
            Some((gpu, count)) => format!("{count} x {gpu}"),
            None => attempt.gpu.clone(),
        })
        .collect();
    boxes.dedup();
    let on = match boxes.is_empty() {
        true => "no box so far".to_owned(),
        false => boxes.join(", then "),
    };
    let until = match known.run.outcome {
        Some(_) => "to",
        None => "so far, to",
    };
    format!(
        "{on}; {} {until} {}",
        text::time(period.from_us),
        text::time(period.to_us)
    )
}

/// Hours in words that fit their length.
pub(super) fn hours(hours: f64) -> String {
    text::duration(Duration::from_secs_f64((hours * 3600.0).max(0.0)))
}

fn headline(
    summary: &RunSummary,
    figures: &Figures,
    predicted: &Predictions,
) -> Vec<(&'static str, String, String)> {
    let of = |total: Option<u64>| total.map_or_else(String::new, |total| format!("of {total}"));
    let held = |actual: f64, range: Option<Range>, show: &dyn Fn(f64) -> String| match range {
        Some(range) if range.base > 0.0 => {
            let share = figures::percent(actual / range.base);
            format!("{share} of the {} that were predicted", show(range.base))
        }
        _ => "nothing was predicted".to_owned(),
    };
    let steps = interruptions::figure(summary.steps_lost, &summary.interruptions);
    let lost = match summary.interruptions.len() {
        0 => (steps, "no interruption".to_owned()),
        1 => (steps, "by 1 interruption".to_owned()),
        count => (steps, format!("by {count} interruptions")),
    };
    let share = match figures.wall_hours > 0.0 {
        true => figures::percent((figures.trained_hours / figures.wall_hours).min(1.0)),
        false => "-".to_owned(),
    };
    let silent = match figures.silent_hours * 3600.0 >= 1.0 {
        true => format!(
            ", and {} more without a word from its box",
            hours(figures.silent_hours)
        ),
        false => String::new(),
    };
    let mut items = vec![
        ("Step", text::or_dash(figures.step), of(figures.total_steps)),
        (
            "Loss",
            text::or_dash(figures.last_loss.map(loss)),
            match figures.last_loss_step {
                Some(step) => format!("of step {step}, the last that was printed"),
                None => "the last that was printed".to_owned(),
            },
        ),
        (
            "Time",
            hours(figures.wall_hours),
            held(figures.wall_hours, predicted.wall_hours, &hours),
        ),
        (
            "Trained",
            hours(figures.trained_hours),
            format!("{share} of the time{silent}"),
        ),
        (
            "Cost",
            text::usd(figures.cost_usd),
            held(figures.cost_usd, predicted.cost_usd, &text::usd)
                + &text::unbilled_traffic(figures.unbilled_traffic_usd),
        ),
        ("Steps lost", lost.0, lost.1),
    ];
    if let Some(used) = figures.gpu_utilisation_percent {
        let energy = figures
            .energy_kwh
            .map_or_else(String::new, |kwh| format!("{kwh:.2} kWh"));
        items.push(("GPU use", format!("{used:.0} %"), energy));
    }
    if let Some(speed) = figures.tokens_per_s {
        let tokens = |speed: f64| format!("{} tokens/s", figures::count(speed));
        items.push((
            "Speed",
            tokens(speed),
            held(speed, predicted.speed, &tokens),
        ));
    }
    items
}

/// A loss with the digits that matter.
pub(super) fn loss(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.1}"),
        small if small < 0.001 && small > 0.0 => format!("{value:.2e}"),
        _ => format!("{value:.4}"),
    }
}

fn timeline(
    known: &Gathered,
    rented: &[spans::Span],
    trained: &[Vec<spans::Span>],
    period: Period,
) -> Timeline {
    let skip = known.attempts.len().saturating_sub(LANES);
    let lanes = known
        .attempts
        .iter()
        .zip(rented)
        .zip(trained)
        .skip(skip)
        .map(|((attempt, rented), trained)| {
            let s = |span: &spans::Span| (period.s(span.0), period.s(span.1));
            Lane {
                label: format!("try {}", attempt.number),
                rented: s(rented),
                trained: trained.iter().map(s).collect(),
                marks: marks(known, period, Some(attempt.number)),
            }
        })
        .collect();
    Timeline {
        to_s: period.length_s(),
        from_us: period.from_us,
        lanes,
    }
}

/// What happened, of one attempt or of all.
pub(super) fn marks(known: &Gathered, period: Period, attempt: Option<u32>) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut saved = Vec::new();
    for event in &known.events {
        if attempt.is_some_and(|number| event.attempt != number) {
            continue;
        }
        let (kind, label) = match event.kind.as_str() {
            "checkpoint.committed" => {
                let step = event.detail["step"].as_u64();
                let of = step.map_or_else(String::new, |step| format!(" of step {step}"));
                (Kind::Checkpoint, format!("checkpoint{of}"))
            }
            "window.contradicted" => (
                Kind::Contradiction,
                format!("contradicts the estimate: {}", words(&event.detail)),
            ),
            "interrupted" | "lost" => {
                let reason = event.detail["reason"].as_str().unwrap_or("no reason");
                let number = event.attempt;
                (
                    Kind::Interruption,
                    format!("attempt {number} was interrupted: {reason}"),
                )
            }
            _ => continue,
        };
        let mark = Mark {
            at_s: period.s(event.time_us),
            kind,
            label,
        };
        match kind {
            Kind::Checkpoint => saved.push(mark),
            _ => marks.push(mark),
        }
    }
    // So many ticks that they touch say as much as all.
    let every = saved.len().div_ceil(TICKS).max(1);
    marks.extend(saved.into_iter().step_by(every));
    marks
}
