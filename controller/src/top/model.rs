//! What is shown of a run, in words and numbers (pure): plain data in, plain data out. [`super::panes`] makes the lines below.

mod bars;
mod machine;
mod words;

use serde::Serialize;

pub use self::bars::steps;
pub use self::words::{ago, clock, grouped, short, span};
use self::{
    bars::{fraction, left, money, progress, saved},
    machine::{gpus, host},
};
pub use super::panes::{Line, lines};
use crate::{
    lookout::{
        curve::Points,
        facts::{Facts, Reach, signed, troubles},
    },
    run::ended_alone::How,
};

/// A training that prints nothing for so long is worth a word.
const SILENT_US: i64 = 120_000_000;
/// A reading that is older than this is not of now.
const STALE_US: i64 = 10_000_000;

/// How much a text matters. Never told by a colour alone: the words say it, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tone {
    /// As it should be.
    #[default]
    Plain,
    /// Aside.
    Dim,
    /// Worth a look.
    Warn,
    /// Something must be done.
    Bad,
}

/// A text and how much it matters.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Words {
    /// The text.
    pub text: String,
    /// How much it matters.
    pub tone: Tone,
}

/// A bar with words beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Bar {
    /// What it is about.
    pub label: &'static str,
    /// How full it is; `None`: nobody knows.
    pub fraction: Option<f64>,
    /// The words, the weightiest first: a narrow screen leaves out the others.
    pub parts: Vec<String>,
    /// How much they matter.
    pub tone: Tone,
}

/// One GPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GpuRow {
    /// Its number.
    pub index: u32,
    /// Use now, percent.
    pub used_percent: Option<f64>,
    /// Use as it was, each with its age in seconds.
    pub history: Points,
    /// How much of that is shown, seconds.
    pub span_s: f64,
    /// Bytes in use, and all.
    pub memory_bytes: Option<(u64, u64)>,
    /// Power and temperature, as far as they are read.
    pub figures: String,
    /// Something is wrong with it.
    pub is_troubled: bool,
}

/// A curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plot {
    /// What it is, and its newest value.
    pub title: String,
    /// Its points.
    pub points: Points,
}

/// A run on the screen.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct View {
    /// Name of the run.
    pub name: String,
    /// How it stands.
    pub state: Words,
    /// What it runs on.
    pub about: String,
    /// Where what is shown comes from, and how old it is.
    pub freshness: Words,
    /// What is wrong, a sentence each.
    pub alerts: Vec<String>,
    /// Steps, and the time that is left.
    pub progress: Bar,
    /// The newest checkpoint against the backup interval.
    pub saved: Bar,
    /// Money against the budget.
    pub money: Bar,
    /// Every GPU.
    pub gpus: Vec<GpuRow>,
    /// Instead of GPUs: why there are none, or what is known of them.
    pub gpu_note: Option<Words>,
    /// CPU, memory, disk and network of the box, the weightiest first.
    pub host: Vec<String>,
    /// Loss over steps.
    pub loss: Plot,
    /// Speed over steps.
    pub speed: Plot,
}

/// A run in the list.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ListRow {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: Words,
    /// Use of its GPUs now, percent.
    pub used_percent: Option<f64>,
    /// How far it is.
    pub fraction: Option<f64>,
    /// Its newest step.
    pub step: Option<u64>,
    /// Time that is left.
    pub left: String,
    /// Its newest loss.
    pub loss: Option<f64>,
    /// Age of its newest checkpoint while it trains.
    pub saved: String,
    /// What it costs now, $/h.
    pub usd_per_hour: f64,
    /// What it cost.
    pub cost_usd: f64,
    /// Something is wrong with it.
    pub is_troubled: bool,
}

impl Words {
    /// A text that matters so much.
    pub fn new(text: impl Into<String>, tone: Tone) -> Self {
        let text = text.into();
        Self { text, tone }
    }
}

/// What is shown of a run at `now_us`.
pub fn view(facts: &Facts, now_us: i64) -> View {
    let (recorded, live) = (&facts.recorded, &facts.live);
    let watched = match (recorded.is_over, recorded.watched) {
        (true, _) => "",
        (false, true) => " · watched",
        (false, false) => " · nobody watches",
    };
    let attempt = match recorded.attempt {
        0 => "no box yet".to_owned(),
        number => format!("attempt {number}"),
    };
    let (gpus, gpu_note) = gpus(facts, now_us);
    let mut alerts = facts.alerts();
    for gpu in live.sample.iter().flat_map(|sample| &sample.gpus) {
        let found = troubles(gpu);
        if !found.is_empty() {
            alerts.push(format!("GPU {}: {}", gpu.index, found.join(", ")));
        }
    }
    alerts.extend(facts.log.problem.clone());
    if facts.log.curve.is_broken() {
        alerts.push("the loss is not a number any more".to_owned());
    }
    let left = left(facts, now_us);
    View {
        name: recorded.name.clone(),
        state: state(facts),
        about: format!("{attempt} · {}{watched}", recorded.gpus),
        freshness: freshness(facts, now_us),
        alerts,
        progress: progress(facts, left, now_us),
        saved: saved(facts, now_us),
        money: money(facts, left),
        gpus,
        gpu_note,
        host: live
            .sample
            .as_ref()
            .and_then(|sample| sample.host.as_ref())
            .map_or_else(Vec::new, host),
        loss: loss(facts),
        speed: speed(facts),
    }
}

/// How a run stands, a word.
pub fn state(facts: &Facts) -> Words {
    let recorded = &facts.recorded;
    if let Some(end) = facts.training_end() {
        let tone = match end.how {
            How::Failed => Tone::Bad,
            How::Finished | How::Stopped | How::Interrupted => Tone::Warn,
        };
        return Words::new(end.how.word().to_uppercase(), tone);
    }
    let tone = match recorded.state.as_str() {
        "running" | "done" | "collected" | "finishing" => Tone::Plain,
        "crashed" | "failed" | "lost" | "contradicted" => Tone::Bad,
        "interrupted" | "waiting" | "limit" => Tone::Warn,
        _ => Tone::Plain,
    };
    Words::new(recorded.state.to_uppercase(), tone)
}

/// A run in the list at `now_us`.
pub fn list_row(facts: &Facts, now_us: i64) -> ListRow {
    let (recorded, live) = (&facts.recorded, &facts.live);
    let used = live.sample.iter().flat_map(|sample| &sample.gpus);
    let used: Vec<f64> = used
        .filter_map(|gpu| gpu.utilisation_percent.map(f64::from))
        .collect();
    let status = live.status.as_ref();
    let told = status.and_then(|status| status.training.as_ref()?.loss);
    let backup = status.and_then(|status| status.backup.as_ref()?.last_commit_us);
    let saved = backup.map(signed).max(recorded.saved.map(|(_, at)| at));
    ListRow {
        name: recorded.name.clone(),
        state: state(facts),
        used_percent: (!used.is_empty() && recorded.box_runs)
            .then(|| used.iter().sum::<f64>() / used.len() as f64),
        fraction: fraction(facts),
        step: steps(facts).0,
        left: left(facts, now_us).map_or_else(|| "-".to_owned(), |left| span(left.base_s)),
        loss: told.or_else(|| facts.log.curve.loss().last().map(|(_, loss)| *loss)),
        saved: match saved.filter(|_| facts.trains()) {
            Some(at_us) => ago(live.box_us(now_us) - at_us),
            None => "-".to_owned(),
        },
        usd_per_hour: recorded.usd_per_hour,
        cost_usd: recorded.cost_usd,
        is_troubled: !recorded.is_over && !facts.alerts().is_empty(),
    }
}

/// Where what is shown comes from, and how old it is.
fn freshness(facts: &Facts, now_us: i64) -> Words {
    let newest_us = [
        facts.recorded.newest_us,
        facts.log.newest_us,
        facts.live.sample_us,
        facts.live.status_us,
    ];
    let newest_us = newest_us.into_iter().max().unwrap_or(0);
    let old = ago(now_us - newest_us);
    match &facts.reach {
        Reach::Live => match now_us - facts.live.status_us {
            late if facts.live.status_us > 0 && late > STALE_US => Words::new(
                format!("! the box is silent: this is {} old", ago(late)),
                Tone::Warn,
            ),
            _ => Words::new("live", Tone::Plain),
        },
        Reach::Connecting if facts.live.status_us > 0 => {
            Words::new(format!("connecting again: this is {old} old"), Tone::Warn)
        }
        Reach::Connecting => {
            Words::new(format!("connecting; from the record, {old} old"), Tone::Dim)
        }
        Reach::Lost { since_us, why } => Words::new(
            format!(
                "! no link for {}: this is {old} old ({why})",
                ago(now_us - since_us)
            ),
            Tone::Warn,
        ),
        Reach::LetGo => Words::new(
            format!("the training has ended; its box is not looked at any more: this is {old} old"),
            Tone::Warn,
        ),
        Reach::Record => Words::new(format!("from the record: {old} old"), Tone::Dim),
    }
}

fn loss(facts: &Facts) -> Plot {
    let points = facts.log.curve.loss();
    let eval = facts.live.status.as_ref();
    let eval = eval.and_then(|status| status.training.as_ref()?.eval_loss);
    let eval = eval.map_or_else(String::new, |loss| format!(", eval {loss:.4}"));
    let title = match points.last() {
        _ if facts.log.curve.is_broken() => "loss is NOT A NUMBER".to_owned(),
        Some((_, loss)) => format!("loss {loss:.4}{eval}"),
        None => "loss: none printed so far".to_owned(),
    };
    Plot { title, points }
}

fn speed(facts: &Facts) -> Plot {
    match facts.log.curve.speed() {
        Some((unit, points)) => {
            let newest = points.last().map_or(0.0, |(_, speed)| *speed);
            let title = format!("{} {unit}", short(newest));
            Plot { title, points }
        }
        None => Plot {
            title: "speed: none printed so far".to_owned(),
            points: Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests;
