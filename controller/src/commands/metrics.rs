//! `metrics`: what the box measured, raw: GPUs, CPU, memory, disks and network, from seven days of history on the box, or from what
//! was copied to this machine when the box is gone ([`recorded`]).

mod recorded;

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    agent_client::{AgentClient, AgentError, GpuInfo, HostInfo, SampleInfo},
    commands::{Deps, parts::no_box},
    error::CommandError,
    spec::values,
    ui::{Table, Ui, text},
};

/// How long a box is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Show or export what a run's box measured
///
/// The box keeps every second of the last two hours, means of ten seconds for a day, and of a minute for a week. Whoever watches
/// copies the minutes of every attempt to this machine: they are what there is when the box is gone. Without `--json` or `--csv`:
/// a summary of each GPU.
#[derive(Debug, clap::Args)]
pub struct MetricsArgs {
    /// The run [default: the only one that goes on]
    run: Option<String>,
    /// How far back, such as 10m or 7d [default: 1h; of copies, all]
    #[arg(long, value_parser = values::duration, allow_hyphen_values = true)]
    since: Option<Duration>,
    /// Only what was copied to this machine; the box is not asked
    #[arg(long)]
    recorded: bool,
    /// One line per reading and GPU, with a header
    #[arg(long)]
    csv: bool,
}

/// How far back a box is asked where nothing is said.
const SINCE: Duration = Duration::from_secs(3600);

/// A reading, as JSON.
#[derive(Serialize)]
struct Row<'a> {
    run: &'a str,
    attempt: u32,
    #[serde(flatten)]
    sample: &'a SampleInfo,
}

/// Runs the verb.
pub async fn metrics(ui: &mut Ui, deps: &Deps, args: &MetricsArgs) -> Result<(), CommandError> {
    if args.csv && ui.is_json() {
        return Err(CommandError::usage(
            "`--csv` and `--json` are two forms of the same: leave one out",
        ));
    }
    let run = deps.load_run(args.run.as_deref())?;
    let attempts = deps.store()?.attempts(&run.name)?;
    let newest = attempts.last().ok_or_else(|| no_box(&run))?;
    let has_box = newest.may_cost() && newest.instance.is_some();
    if args.recorded || !has_box {
        return recorded::metrics(ui, deps, &run, &attempts, args);
    }
    let attempt = newest.number;
    let failed = || {
        CommandError::new(format!("the metrics of `{}` could not be read", run.name))
            .about(run.name.as_str())
            .hint(format!(
                "see what was copied so far with `spotter metrics --recorded {}`",
                run.name
            ))
    };
    let (tunnel, client) = deps.agent_of(&run.name, failed).await?;
    let outcome = export(ui, &client, &run.name, attempt, args).await;
    tunnel.close().await;
    outcome.map_err(|err| failed().cause(err))
}

/// Prints each reading as it arrives, or the summary of all.
async fn export(
    ui: &mut Ui,
    client: &AgentClient,
    run: &str,
    attempt: u32,
    args: &MetricsArgs,
) -> Result<(), AgentError> {
    // By the box's clock: ours may be another.
    let now_us = client.status(CONNECT_LIMIT).await?.now_us;
    let back_us = micros(args.since.unwrap_or(SINCE));
    let mut samples = client.samples_between(now_us.saturating_sub(back_us), 0);
    let mut printer = Printer::new(ui, run, args.csv);
    while let Some(sample) = samples.next().await {
        printer.add(attempt, &sample?);
        if !printer.is_wanted() {
            return Ok(());
        }
    }
    printer.end();
    Ok(())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Prints readings in the form that is asked for, or adds them up.
struct Printer<'a> {
    ui: &'a mut Ui,
    run: &'a str,
    columns: Option<Columns>,
    totals: BTreeMap<(u32, u32), Total>,
}

impl<'a> Printer<'a> {
    fn new(ui: &'a mut Ui, run: &'a str, csv: bool) -> Self {
        let columns = csv.then(Columns::new);
        if let Some(columns) = &columns {
            ui.bytes(columns.header().as_bytes());
        }
        Self {
            ui,
            run,
            columns,
            totals: BTreeMap::new(),
        }
    }

    fn add(&mut self, attempt: u32, sample: &SampleInfo) {
        if let Some(columns) = &self.columns {
            self.ui.bytes(columns.lines(attempt, sample).as_bytes());
        } else if self.ui.is_json() {
            let run = self.run;
            self.ui.json(&Row {
                run,
                attempt,
                sample,
            });
        } else {
            add(&mut self.totals, attempt, sample);
        }
    }

    /// Whether anybody still reads.
    fn is_wanted(&self) -> bool {
        self.ui.is_open()
    }

    fn end(self) {
        if self.columns.is_none() && !self.ui.is_json() {
            self.ui.table(&summary(&self.totals));
        }
    }
}

/// The columns of the CSV: time, span, then every number and text of a GPU, then those of the box, then the attempt.
struct Columns {
    gpu: Vec<String>,
    host: Vec<String>,
}

impl Columns {
    fn new() -> Self {
        Self {
            gpu: keys(&GpuInfo::default()),
            host: keys(&HostInfo::default()),
        }
    }

    fn header(&self) -> String {
        let host = self.host.iter().map(|key| format!("host_{key}"));
        let fixed = ["time_us".to_owned(), "span_s".to_owned()].into_iter();
        let attempt = ["attempt".to_owned()];
        line(
            fixed
                .chain(self.gpu.iter().cloned())
                .chain(host)
                .chain(attempt),
        )
    }

    /// A line per GPU; one without GPU values for a box that has none.
    fn lines(&self, attempt: u32, sample: &SampleInfo) -> String {
        let host = sample.host.as_ref().map(object).unwrap_or_default();
        let gpus: Vec<_> = sample.gpus.iter().map(object).collect();
        let none = [Map::new()];
        let gpus = if gpus.is_empty() { &none[..] } else { &gpus };
        let cell =
            |map: &Map<String, Value>, key: &String| map.get(key).map_or_else(String::new, cell);
        let lines = gpus.iter().map(|gpu| {
            let fixed = [sample.time_us.to_string(), sample.span_s.to_string()].into_iter();
            let gpu = self.gpu.iter().map(|key| cell(gpu, key));
            line(
                fixed
                    .chain(gpu)
                    .chain(self.host.iter().map(|key| cell(&host, key)))
                    .chain([attempt.to_string()]),
            )
        });
        lines.collect()
    }
}

/// Names of what is one value; lists have no place in a table.
fn keys(of: &impl Serialize) -> Vec<String> {
    let object = object(of);
    let single = object.iter().filter(|(_, value)| !value.is_array());
    single.map(|(key, _)| key.clone()).collect()
}

fn object(of: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(of) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn line(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\n"
}

/// What is added up of one GPU.
#[derive(Debug, Default)]
struct Total {
    name: String,
    seconds: f64,
    /// Sums over seconds, and the seconds in which there was a value.
    utilisation: (f64, f64),
    power_w: (f64, f64),
    memory_peak: Option<u64>,
    memory_total: Option<u64>,
    hottest_c: Option<u32>,
    /// Seconds in which the clocks were lowered for heat or power.
    held_back_s: f64,
    last_xid: u32,
}

/// Clocks-event reasons that cost speed: power cap, hardware slowdown, heat, power brake.
const HELD_BACK: u64 = 0x4 | 0x8 | 0x20 | 0x40 | 0x80;

fn add(totals: &mut BTreeMap<(u32, u32), Total>, attempt: u32, sample: &SampleInfo) {
    let seconds = f64::from(sample.span_s.max(1));
    for gpu in &sample.gpus {
        let total = totals.entry((attempt, gpu.index)).or_default();
        total.name.clone_from(&gpu.name);
        total.seconds += seconds;
        let sum = |of: &mut (f64, f64), value: Option<f64>| {
            if let Some(value) = value {
                *of = (of.0 + value * seconds, of.1 + seconds);
            }
        };
        sum(
            &mut total.utilisation,
            gpu.utilisation_percent.map(f64::from),
        );
        sum(
            &mut total.power_w,
            gpu.power_mw.map(|power| f64::from(power) / 1000.0),
        );
        total.memory_peak = total.memory_peak.max(gpu.memory_used_bytes);
        total.memory_total = total.memory_total.max(gpu.memory_total_bytes);
        total.hottest_c = total.hottest_c.max(gpu.temperature_c);
        if gpu.throttle_reasons.unwrap_or(0) & HELD_BACK != 0 {
            total.held_back_s += seconds;
        }
        if gpu.last_xid != 0 {
            total.last_xid = gpu.last_xid;
        }
    }
}

fn summary(totals: &BTreeMap<(u32, u32), Total>) -> Table {
    let mut table = Table::new(&[
        "TRY>",
        "GPU>",
        "SECONDS>",
        "BUSY>",
        "PEAK MEMORY>",
        "POWER>",
        "HOTTEST>",
        "HELD BACK>",
        "XID>",
        "NAME",
    ]);
    for ((attempt, index), total) in totals {
        let mean = |(sum, seconds): (f64, f64), unit: &str| {
            text::or_dash((seconds > 0.0).then(|| format!("{:.0} {unit}", sum / seconds)))
        };
        let memory = match (total.memory_peak, total.memory_total) {
            (Some(peak), Some(all)) => format!("{} of {}", text::bytes(peak), text::bytes(all)),
            _ => "-".to_owned(),
        };
        table.row([
            attempt.to_string(),
            index.to_string(),
            format!("{:.0}", total.seconds),
            mean(total.utilisation, "%"),
            memory,
            mean(total.power_w, "W"),
            text::or_dash(total.hottest_c.map(|celsius| format!("{celsius} C"))),
            format!(
                "{:.0} %",
                100.0 * total.held_back_s / total.seconds.max(1.0)
            ),
            text::or_dash((total.last_xid != 0).then_some(total.last_xid)),
            total.name.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(span_s: u32, utilisation: u32, throttle: u64) -> SampleInfo {
        SampleInfo {
            time_us: 5,
            span_s,
            gpus: vec![GpuInfo {
                index: 1,
                name: "an \"odd\", name".to_owned(),
                utilisation_percent: Some(utilisation),
                memory_used_bytes: Some(u64::from(utilisation)),
                throttle_reasons: Some(throttle),
                ..GpuInfo::default()
            }],
            host: Some(HostInfo {
                cpu_percent: Some(12.5),
                ..HostInfo::default()
            }),
            processes: Vec::new(),
        }
    }

    /// Column names to cells of the first line.
    fn csv(sample: &SampleInfo) -> (usize, BTreeMap<String, String>) {
        let columns = Columns::new();
        let (header, lines) = (columns.header(), columns.lines(2, sample));
        let names = header.trim_end().split(',').map(str::to_owned);
        let first = lines.lines().next().unwrap();
        let plain = first.replace("\"an \"\"odd\"\", name\"", "quoted");
        let cells: Vec<_> = plain.split(',').map(str::to_owned).collect();
        assert_eq!(names.clone().count(), cells.len(), "{header}{lines}");
        (lines.lines().count(), names.zip(cells).collect())
    }

    #[test]
    fn the_csv_has_a_line_per_gpu_and_a_cell_for_every_value() {
        let (lines, cells) = csv(&sample(0, 97, 0));
        assert_eq!(lines, 1);
        for (column, cell) in [
            ("time_us", "5"),
            ("span_s", "0"),
            ("index", "1"),
            ("name", "quoted"),
            ("utilisation_percent", "97"),
            ("power_mw", ""),
            ("host_cpu_percent", "12.5"),
            ("host_oom_kills", ""),
            ("attempt", "2"),
        ] {
            assert_eq!(
                cells.get(column).map(String::as_str),
                Some(cell),
                "{column}"
            );
        }
        assert!(!cells.contains_key("processes") && !cells.contains_key("mig"));
        let (lines, cells) = csv(&SampleInfo {
            gpus: Vec::new(),
            ..sample(0, 0, 0)
        });
        assert_eq!((lines, cells["index"].as_str()), (1, ""));
        assert_eq!(cells["host_cpu_percent"], "12.5");
    }

    #[test]
    fn a_span_weighs_as_much_as_its_seconds() {
        let mut totals = BTreeMap::new();
        for sample in [sample(0, 100, 0x4), sample(9, 0, 0x1)] {
            add(&mut totals, 2, &sample);
        }
        let total = &totals[&(2, 1)];
        assert_eq!(total.seconds, 10.0);
        assert_eq!(total.utilisation, (100.0, 10.0));
        assert_eq!((total.held_back_s, total.memory_peak), (1.0, Some(100)));
        assert_eq!(total.hottest_c, None);
        assert!(!summary(&totals).is_empty());
    }
}
