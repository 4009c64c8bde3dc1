//! What is shown of a run, in words and numbers (pure): plain data in, plain data out. [`super::panes`] makes the lines below.

pub use super::panes::{Line, lines};
use super::{
    curve::Points,
    facts::{Facts, Live, Reach, signed, troubles},
};
use crate::{
    agent_client::{GpuInfo, HostInfo},
    run::to_come::STEADY,
    ui::text,
};

/// A training that prints nothing for so long is worth a word.
const SILENT_US: i64 = 120_000_000;
/// A reading that is older than this is not of now.
const STALE_US: i64 = 10_000_000;

/// How much a text matters. Never told by a colour alone: the words say it, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Words {
    /// The text.
    pub text: String,
    /// How much it matters.
    pub tone: Tone,
}

/// A bar with words beside it.
#[derive(Debug, Clone, Default, PartialEq)]
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuRow {
    /// Its number.
    pub index: u32,
    /// Use now, percent.
    pub used_percent: Option<f64>,
    /// Use as it was, each with its age in seconds.
    pub history: Points,
    /// Bytes in use, and all.
    pub memory_bytes: Option<(u64, u64)>,
    /// Power and temperature, as far as they are read.
    pub figures: String,
    /// Something is wrong with it.
    pub is_troubled: bool,
}

/// A curve.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plot {
    /// What it is, and its newest value.
    pub title: String,
    /// Its points.
    pub points: Points,
}

/// A run on the screen.
#[derive(Debug, Clone, Default, PartialEq)]
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
#[derive(Debug, Clone, Default, PartialEq)]
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

/// What is left of a training.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Left {
    low_s: f64,
    base_s: f64,
    high_s: f64,
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
    let mut alerts = recorded.alerts.clone();
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
        saved: match saved.filter(|_| recorded.trains) {
            Some(at_us) => ago(live.box_us(now_us) - at_us),
            None => "-".to_owned(),
        },
        usd_per_hour: recorded.usd_per_hour,
        cost_usd: recorded.cost_usd,
        is_troubled: !recorded.is_over && !recorded.alerts.is_empty(),
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

/// Newest step, and how many there are in all.
pub fn steps(facts: &Facts) -> (Option<u64>, Option<u64>) {
    let live = facts.live.status.as_ref();
    let training = live.and_then(|status| status.training.as_ref());
    let step = training.and_then(|training| training.step);
    let total = training.and_then(|training| training.total_steps);
    (
        step.or(facts.recorded.step),
        total.or(facts.log.curve.total()),
    )
}

/// How far it is, 0 to 1.
pub fn fraction(facts: &Facts) -> Option<f64> {
    let (step, total) = steps(facts);
    let (step, total) = (step?, total.filter(|total| *total > 0)?);
    Some((step as f64 / total as f64).clamp(0.0, 1.0))
}

fn left(facts: &Facts, now_us: i64) -> Option<Left> {
    if !facts.recorded.trains {
        return None;
    }
    let around = |base_s: f64| Left {
        low_s: base_s * (1.0 - STEADY),
        base_s,
        high_s: base_s * (1.0 + STEADY),
    };
    let live = &facts.live;
    let training = live
        .status
        .as_ref()
        .and_then(|status| status.training.as_ref());
    if let (Some(step), Some(total)) = steps(facts) {
        let printed = training.and_then(|training| training.step_time_s);
        let step_s = live.steps_per_s().map(f64::recip).or(printed);
        if let Some(step_s) = step_s.filter(|seconds| *seconds > 0.0) {
            return Some(around(total.saturating_sub(step) as f64 * step_s));
        }
    }
    let to_come = facts.recorded.to_come?;
    // A window is closed every ten minutes: what it promised has begun to pass.
    let told = facts
        .recorded
        .window
        .as_ref()
        .and_then(|window| window["to_us"].as_i64());
    let passed_s = match told.filter(|_| to_come.measured) {
        Some(told_us) => (live.box_us(now_us) - told_us).max(0) as f64 / 1e6,
        None => 0.0,
    };
    let rest = |hours: f64| (hours * 3600.0 - passed_s).max(0.0);
    Some(Left {
        low_s: rest(to_come.hours.optimistic),
        base_s: rest(to_come.hours.base),
        high_s: rest(to_come.hours.pessimistic),
    })
}

fn progress(facts: &Facts, left: Option<Left>, now_us: i64) -> Bar {
    let (step, total) = steps(facts);
    let mut parts = Vec::new();
    let mut tone = Tone::Plain;
    if let Some(silent_us) = silent_us(&facts.live, now_us).filter(|_| facts.recorded.trains)
        && silent_us > SILENT_US
    {
        parts.push(format!("! no progress printed for {}", ago(silent_us)));
        tone = Tone::Warn;
    }
    parts.push(match (step, total) {
        (None, _) => "no step yet".to_owned(),
        (Some(step), None) => format!("step {}", grouped(step)),
        (Some(step), Some(total)) => format!("step {} of {}", grouped(step), grouped(total)),
    });
    if let Some(left) = left {
        let end_us = now_us.saturating_add((left.base_s * 1e6) as i64);
        let (base, low, high) = (span(left.base_s), span(left.low_s), span(left.high_s));
        parts.push(format!("{base} left ({low} to {high})"));
        parts.push(format!("until {}", clock(end_us)));
    }
    Bar {
        label: "progress",
        fraction: fraction(facts),
        parts,
        tone,
    }
}

/// For how long the training has printed nothing of its progress.
fn silent_us(live: &Live, now_us: i64) -> Option<i64> {
    let training = live.status.as_ref()?.training.as_ref()?;
    Some(live.box_us(now_us) - signed(training.time_us))
}

fn saved(facts: &Facts, now_us: i64) -> Bar {
    let (recorded, live) = (&facts.recorded, &facts.live);
    let bar = |fraction, parts: Vec<String>, tone| Bar {
        label: "saved",
        fraction,
        parts,
        tone,
    };
    let Some(every_s) = recorded.save_every_s else {
        return bar(None, vec!["no backup is asked for".to_owned()], Tone::Dim);
    };
    let backup = live
        .status
        .as_ref()
        .and_then(|status| status.backup.as_ref());
    let told = backup.and_then(|backup| Some((backup.last_step, signed(backup.last_commit_us?))));
    // A box knows its own commits; the record also those of boxes before it.
    let newest = [told, recorded.saved]
        .into_iter()
        .flatten()
        .max_by_key(|(_, at)| *at);
    let committed = backup
        .map_or(0, |backup| backup.committed)
        .max(recorded.committed);
    let (mut parts, age_us) = match newest {
        Some((step, at_us)) => {
            let step = step.map_or_else(String::new, |step| format!("step {}, ", grouped(step)));
            let age_us = (live.box_us(now_us) - at_us).max(0);
            (vec![format!("{step}{} ago", ago(age_us))], Some(age_us))
        }
        None if recorded.trains && recorded.started_us > 0 => {
            let age_us = (now_us - recorded.started_us).max(0);
            (
                vec![format!("nothing yet, training for {}", ago(age_us))],
                Some(age_us),
            )
        }
        None => (vec!["nothing".to_owned()], None),
    };
    let in_bucket = (committed > 0).then(|| format!("{committed} in the bucket"));
    if !recorded.trains {
        parts.extend(in_bucket);
        return bar(None, parts, Tone::Dim);
    }
    parts.push(format!("limit {}", span(every_s as f64)));
    if let Some(backup) = backup {
        if backup.uploading_total_bytes > 0 {
            parts.push(format!(
                "sending {} of {}",
                text::bytes(backup.uploading_done_bytes),
                text::bytes(backup.uploading_total_bytes)
            ));
        } else if backup.pending > 0 {
            parts.push(format!("{} waiting", backup.pending));
        }
    }
    parts.extend(in_bucket);
    let fraction = age_us.map(|age_us| age_us as f64 / 1e6 / every_s.max(1) as f64);
    let is_late = fraction.is_some_and(|fraction| fraction > 1.0);
    let tone = match (backup.is_some_and(|backup| backup.alarm), is_late) {
        (true, _) => {
            parts.insert(0, "! BEHIND".to_owned());
            Tone::Bad
        }
        (false, true) => {
            parts.insert(0, "! over the limit".to_owned());
            Tone::Warn
        }
        (false, false) => Tone::Plain,
    };
    bar(fraction.map(|fraction| fraction.min(1.0)), parts, tone)
}

fn money(facts: &Facts, left: Option<Left>) -> Bar {
    let recorded = &facts.recorded;
    let mut parts = vec![
        format!("{} now", text::usd_per_hour(recorded.usd_per_hour)),
        format!("{} so far", text::usd(recorded.cost_usd)),
    ];
    if let Some(left) = left.filter(|_| recorded.usd_per_hour > 0.0) {
        let usd = |seconds: f64| text::usd(seconds / 3600.0 * recorded.usd_per_hour);
        let (base, low, high) = (usd(left.base_s), usd(left.low_s), usd(left.high_s));
        parts.push(format!("{base} to come"));
        parts.push(format!("({low} to {high})"));
    }
    let budget = recorded.budget_usd.filter(|budget| *budget > 0.0);
    let fraction = budget.map(|budget| recorded.cost_usd / budget);
    parts.extend(budget.map(|budget| format!("budget {}", text::usd(budget))));
    let mut tone = Tone::Plain;
    if fraction.is_some_and(|fraction| fraction >= 0.9) {
        parts.insert(0, "! budget nearly used up".to_owned());
        tone = Tone::Warn;
    }
    if recorded.is_over && recorded.usd_per_hour > 0.0 {
        parts.insert(0, "! still paid for".to_owned());
        tone = Tone::Warn;
    }
    Bar {
        label: "money",
        fraction: fraction.map(|fraction| fraction.min(1.0)),
        parts,
        tone,
    }
}

fn gpus(facts: &Facts, now_us: i64) -> (Vec<GpuRow>, Option<Words>) {
    let live = &facts.live;
    let sample = live.sample.as_ref();
    let sample = sample.filter(|sample| !sample.gpus.is_empty());
    if let Some(sample) = sample {
        let newest_us = signed(sample.time_us);
        let rows = sample.gpus.iter().map(|gpu| row(gpu, live, newest_us));
        // From a box that does not answer.
        let old_us = now_us - live.sample_us;
        let note = (live.sample_us > 0 && old_us > STALE_US && facts.reach != Reach::Live)
            .then(|| Words::new(format!("! read {} ago", ago(old_us)), Tone::Warn));
        return (rows.collect(), note);
    }
    let problem = live
        .status
        .as_ref()
        .and_then(|status| status.gpu_problem.as_ref());
    let note = match (problem, &recorded_use(facts)) {
        (Some(problem), _) => Words::new(format!("! no GPU readings: {problem}"), Tone::Warn),
        (None, Some(words)) => Words::new(words.clone(), Tone::Dim),
        (None, None) if facts.reach == Reach::Live => {
            Words::new("no GPU was read so far", Tone::Dim)
        }
        (None, None) => Words::new("no readings of its GPUs are on record", Tone::Dim),
    };
    (Vec::new(), Some(note))
}

/// What the newest window said of the GPUs.
fn recorded_use(facts: &Facts) -> Option<String> {
    let window = facts.recorded.window.as_ref()?;
    let used = window["gpu_utilisation_percent"].as_f64()?;
    let to_us = window["to_us"].as_i64()?;
    let memory = match (
        window["memory_peak_gib"].as_f64(),
        window["memory_total_gib"].as_f64(),
    ) {
        (Some(peak), Some(total)) => format!(", memory peak {peak:.1} of {total:.1} GiB"),
        _ => String::new(),
    };
    Some(format!(
        "in the window until {}: GPU use {used:.0} %{memory}",
        text::time(to_us)
    ))
}

fn row(gpu: &GpuInfo, live: &Live, newest_us: i64) -> GpuRow {
    let mut figures = Vec::new();
    if let Some(power) = gpu.power_mw {
        figures.push(format!("{:.0} W", f64::from(power) / 1000.0));
    }
    if let Some(celsius) = gpu.temperature_c {
        figures.push(format!("{celsius} C"));
    }
    let history = live.used.get(&gpu.index).into_iter().flatten();
    GpuRow {
        index: gpu.index,
        used_percent: gpu.utilisation_percent.map(f64::from),
        history: history
            .map(|(at, used)| ((newest_us - at) as f64 / 1e6, *used))
            .collect(),
        memory_bytes: gpu.memory_used_bytes.zip(gpu.memory_total_bytes),
        figures: figures.join(" "),
        is_troubled: !troubles(gpu).is_empty(),
    }
}

fn host(host: &HostInfo) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(cpu) = host.cpu_percent {
        let of = host.cpu_limit_cores;
        let of = of.map_or_else(String::new, |cores| format!(" of {cores:.0} cores"));
        words.push(format!("CPU {cpu:.0} %{of}"));
    }
    if let Some(used) = host.memory_used_bytes {
        let of = host.memory_limit_bytes;
        let of = of.map_or_else(String::new, |limit| format!(" of {}", text::bytes(limit)));
        words.push(format!("memory {}{of}", text::bytes(used)));
    }
    if let Some(free) = host.disk_free_bytes {
        words.push(format!("{} of disk free", text::bytes(free)));
    }
    if let (Some(rx), Some(tx)) = (host.network_rx_bytes_per_s, host.network_tx_bytes_per_s) {
        words.push(format!("net in {}/s", text::bytes(rx)));
        words.push(format!("out {}/s", text::bytes(tx)));
    }
    words
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

/// An age in one unit, or two while minutes matter.
pub fn ago(us: i64) -> String {
    span(us.max(0) as f64 / 1e6)
}

/// Seconds in at most two units, without those that do not matter: `45s`, `3m`, `2h10m`, `3d4h`.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e10) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..3600 => format!("{minutes}m"),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// A time of the day, UTC.
pub fn clock(us: i64) -> String {
    text::time(us).get(11..20).unwrap_or("-").to_owned()
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number in at most six characters: `0.0123`, `12.5`, `1.25k`, `18.4M`.
pub fn short(number: f64) -> String {
    let size = number.abs();
    let (scaled, unit) = match size {
        size if size >= 1e15 => return format!("{number:.0e}"),
        size if size >= 999_500_000.0 => (number / 1e9, "G"),
        size if size >= 999_500.0 => (number / 1e6, "M"),
        size if size >= 9_999.5 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let size = scaled.abs();
    match size {
        0.0 => "0".to_owned(),
        size if size < 1e-3 => format!("{scaled:.0e}"),
        size if size < 0.995 => format!("{scaled:.3}{unit}"),
        size if size < 9.995 => format!("{scaled:.2}{unit}"),
        size if size < 99.95 && unit.is_empty() => format!("{scaled:.2}"),
        size if size < 999.5 => format!("{scaled:.1}{unit}"),
        _ => format!("{scaled:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::examples::{self, NOW_US};

    #[test]
    fn numbers_and_spans_are_short() {
        for (number, expected) in [
            (0.0, "0"),
            (0.01234, "0.012"),
            (0.00001, "1e-5"),
            (2.1309, "2.13"),
            (99.96, "100.0"),
            (1234.4, "1234"),
            (18_312.0, "18.3k"),
            (999_600.0, "1.00M"),
            (-7.5, "-7.50"),
            (3.2e9, "3.20G"),
        ] {
            assert_eq!(short(number), expected, "{number}");
        }
        for (seconds, expected) in [
            (-4.0, "0s"),
            (119.9, "119s"),
            (185.0, "3m"),
            (7860.0, "2h11m"),
            (90_000.0, "1d1h"),
            (f64::INFINITY, "115740d17h"),
        ] {
            assert_eq!(span(seconds), expected, "{seconds}");
        }
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn what_is_left_is_told_by_the_steps_that_are_seen_then_by_the_last_window() {
        let mut facts = examples::live(1);
        let parts = |facts: &Facts| view(facts, NOW_US).progress.parts;
        // 8,446 steps of 0.9 s.
        assert_eq!(
            parts(&facts),
            [
                "step 1,234 of 9,680",
                "2h06m left (1h54m to 2h19m)",
                "until 10:06:41Z"
            ]
        );
        // What is seen says more than what is printed: 100 steps in 50 s.
        facts.live.steps = [(NOW_US - 50_000_000, 1134), (NOW_US, 1234)].into();
        assert_eq!(parts(&facts)[1], "1h10m left (1h03m to 1h17m)");
        // Two hours by a window that was closed five minutes ago.
        facts.forget_box();
        facts.log = crate::top::facts::Log::default();
        assert_eq!(
            parts(&facts)[..2],
            ["step 1,230", "1h55m left (1h43m to 2h07m)"]
        );
        facts.recorded.trains = false;
        assert_eq!(parts(&facts), ["step 1,230"]);
    }

    #[test]
    fn a_training_that_prints_nothing_is_told() {
        let mut facts = examples::live(1);
        let status = facts.live.status.as_mut().unwrap();
        status.training.as_mut().unwrap().time_us -= 300_000_000;
        let bar = view(&facts, NOW_US).progress;
        assert_eq!(
            (bar.parts[0].as_str(), bar.tone),
            ("! no progress printed for 5m", Tone::Warn)
        );
    }

    #[test]
    fn the_age_of_a_checkpoint_stands_against_the_limit() {
        let check = |change: &dyn Fn(&mut Facts), expected: &[&str], tone: Tone| {
            let mut facts = examples::live(1);
            change(&mut facts);
            let bar = view(&facts, NOW_US).saved;
            assert_eq!(bar.parts[..expected.len()], *expected, "{bar:?}");
            assert_eq!(bar.tone, tone);
            assert!(bar.fraction.is_none_or(|fraction| fraction <= 1.0));
        };
        let backup = |facts: &mut Facts, change: &dyn Fn(&mut crate::agent_client::BackupInfo)| {
            change(facts.live.status.as_mut().unwrap().backup.as_mut().unwrap());
        };
        check(
            &|_| {},
            &[
                "step 1,200, 3m ago",
                "limit 10m",
                "1 waiting",
                "12 in the bucket",
            ],
            Tone::Plain,
        );
        let late = |facts: &mut Facts| {
            facts.recorded.saved = None;
            backup(facts, &|backup| {
                backup.last_commit_us = Some(u64::try_from(NOW_US - 660_000_000).unwrap());
            });
        };
        check(
            &late,
            &["! over the limit", "step 1,200, 11m ago"],
            Tone::Warn,
        );
        check(
            &|facts| backup(facts, &|backup| backup.alarm = true),
            &["! BEHIND"],
            Tone::Bad,
        );
        let none = |facts: &mut Facts| {
            facts.recorded.saved = None;
            facts.forget_box();
        };
        check(
            &none,
            &["! over the limit", "nothing yet, training for 2h00m"],
            Tone::Warn,
        );
        let off = |facts: &mut Facts| facts.recorded.save_every_s = None;
        check(&off, &["no backup is asked for"], Tone::Dim);
    }

    #[test]
    fn money_is_told_now_so_far_and_to_come() {
        let mut facts = examples::live(1);
        let money = view(&facts, NOW_US).money;
        assert_eq!(
            money.parts,
            [
                "$0.696/h now",
                "$1.53 so far",
                "$1.47 to come ($1.32 to $1.62)",
                "budget $20.00"
            ]
        );
        facts.recorded.budget_usd = Some(1.6);
        assert_eq!(
            view(&facts, NOW_US).money.parts[0],
            "! budget nearly used up"
        );
        let mut over = examples::over();
        over.recorded.usd_per_hour = 0.01;
        assert_eq!(view(&over, NOW_US).money.parts[0], "! still paid for");
    }

    #[test]
    fn where_it_comes_from_and_how_old_it_is_is_always_said() {
        let check = |reach: Reach, old_s: i64, expected: &str| {
            let mut facts = examples::live(1);
            facts.reach = reach;
            let found = view(&facts, NOW_US + old_s * 1_000_000).freshness.text;
            assert!(found.starts_with(expected), "{found}");
        };
        let lost = Reach::Lost {
            since_us: NOW_US,
            why: "no route".to_owned(),
        };
        check(Reach::Live, 1, "live");
        check(Reach::Live, 30, "! the box is silent: this is 30s old");
        check(lost, 60, "! no link for 60s: this is 60s old (no route)");
        check(Reach::Connecting, 10, "connecting again: this is 10s old");
        check(Reach::Record, 7200, "from the record: 2h00m old");
        check(Reach::LetGo, 120, "the training has ended");
    }

    #[test]
    fn a_box_without_readings_says_why() {
        let mut facts = examples::live(0);
        let note = |facts: &Facts| view(facts, NOW_US).gpu_note.unwrap().text;
        assert!(
            note(&facts).starts_with("in the window until"),
            "{}",
            note(&facts)
        );
        facts.live.status.as_mut().unwrap().gpu_problem = Some("no driver".to_owned());
        assert_eq!(note(&facts), "! no GPU readings: no driver");
        facts.forget_box();
        facts.recorded.window = None;
        assert_eq!(note(&facts), "no readings of its GPUs are on record");
    }

    #[test]
    fn a_filter_keeps_the_lines_that_have_its_text_and_their_numbers() {
        let facts = examples::live(1);
        let all = lines(&facts, super::super::keys::Pane::Events, "");
        assert_eq!(all.len(), 5);
        assert!(all.is_sorted_by_key(|line| line.id));
        let found = lines(&facts, super::super::keys::Pane::Events, "CHECKPOINT");
        assert_eq!(found.iter().map(|line| line.id).collect::<Vec<_>>(), [3, 4]);
        assert!(
            found[0]
                .text
                .contains("checkpoint.committed bytes=1500000000 seconds=14.2 step=1200")
        );
    }
}
