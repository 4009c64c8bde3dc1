//! All runs as Prometheus reads them (pure): exposition format 0.0.4. GPUs have the names of dcgm-exporter, everything else is
//! `spotter_*`. Taken at one moment, then written family by family: a thousand boxes are 30 MB of text, and 3 MB of numbers.

use std::fmt::Write;

use super::readings::{self, GPU, HOST, Kind, RUN, Reading};
use crate::lookout::facts::{Facts, Reach, signed};

/// What the answer is, for its header.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A reading that came longer ago is not of now: its lines end, so that nobody takes it for one.
const STALE_US: i64 = 30_000_000;

/// The values of all runs at a moment.
#[derive(Debug, Default)]
pub struct Exposition {
    record_is_read: bool,
    /// What is fixed of runs: it is a label.
    info: Vec<String>,
    runs: Vec<Series>,
    hosts: Vec<Series>,
    gpus: Vec<Series>,
}

/// One thing that is measured: its labels, and its values in the order of its table.
#[derive(Debug)]
struct Series {
    labels: String,
    values: Vec<Option<f64>>,
}

impl Series {
    fn new<T>(labels: String, table: &[Reading<T>], of: &T) -> Self {
        let values = table.iter().map(|reading| (reading.value)(of)).collect();
        Self { labels, values }
    }
}

impl Exposition {
    /// Takes the values of all runs.
    pub fn take(runs: &[Facts], record_is_read: bool, now_us: i64) -> Self {
        let mut taken = Self {
            record_is_read,
            ..Self::default()
        };
        for facts in runs {
            taken.add(facts, now_us);
        }
        taken
    }

    fn add(&mut self, facts: &Facts, now_us: i64) {
        let recorded = &facts.recorded;
        let attempt = recorded.attempt.to_string();
        let own = [("run", recorded.name.as_str()), ("attempt", &attempt)];
        let more = [
            ("state", recorded.state.as_str()),
            ("gpus", recorded.gpus.as_str()),
        ];
        self.info.push(labels(own.iter().chain(&more)));
        let run = run_reading(facts, now_us);
        self.runs.push(Series::new(labels(own.iter()), RUN, &run));
        let Some(sample) = fresh(facts, now_us) else {
            return;
        };
        if let Some(host) = &sample.host {
            self.hosts.push(Series::new(labels(own.iter()), HOST, host));
        }
        for gpu in &sample.gpus {
            let index = gpu.index.to_string();
            let more = [
                ("gpu", index.as_str()),
                ("UUID", &gpu.uuid),
                ("modelName", &gpu.name),
            ];
            let labels = labels(own.iter().chain(&more));
            self.gpus.push(Series::new(labels, GPU, gpu));
        }
    }

    /// The text, in pieces of one family each.
    pub fn pieces(self) -> impl Iterator<Item = String> + Send + 'static {
        let mut first = String::new();
        head(
            &mut first,
            "spotter_record_readable",
            "The record of runs on this machine can be read",
            "gauge",
        );
        line(
            &mut first,
            "spotter_record_readable",
            "",
            f64::from(u8::from(self.record_is_read)),
        );
        head(
            &mut first,
            "spotter_run_info",
            "State and GPUs of a run, as labels",
            "gauge",
        );
        for labels in &self.info {
            line(&mut first, "spotter_run_info", labels, 1.0);
        }
        let first = std::iter::once(first);
        first
            .chain(families(RUN, self.runs))
            .chain(families(HOST, self.hosts))
            .chain(families(GPU, self.gpus))
            .filter(|piece| !piece.is_empty())
    }
}

/// What is known of a run itself.
pub(super) fn run_reading(facts: &Facts, now_us: i64) -> readings::RunReading {
    let (recorded, live) = (&facts.recorded, &facts.live);
    let status = live
        .status
        .as_ref()
        .filter(|_| is_fresh(live.status_us, now_us));
    let training = status.and_then(|status| status.training.clone());
    let backup = status.and_then(|status| status.backup.as_ref());
    let told = backup.and_then(|backup| backup.last_commit_us).map(signed);
    let (step, total_steps) = crate::top::model::steps(facts);
    readings::RunReading {
        over: recorded.is_over,
        reachable: facts.reach == Reach::Live,
        watched: recorded.watched,
        step,
        total_steps,
        loss: training.as_ref().and_then(|training| training.loss),
        eval_loss: training.as_ref().and_then(|training| training.eval_loss),
        learning_rate: training
            .as_ref()
            .and_then(|training| training.learning_rate),
        grad_norm: training.as_ref().and_then(|training| training.grad_norm),
        tokens_per_s: training.as_ref().and_then(|training| training.tokens_per_s),
        samples_per_s: training
            .as_ref()
            .and_then(|training| training.samples_per_s),
        step_time_s: training.as_ref().and_then(|training| training.step_time_s),
        usd_per_hour: recorded.usd_per_hour,
        cost_usd: recorded.cost_usd,
        budget_usd: recorded.budget_usd,
        committed: backup
            .map_or(0, |backup| backup.committed)
            .max(recorded.committed),
        last_checkpoint_us: told.max(recorded.saved.map(|(_, at_us)| at_us)),
        alerts: facts.alerts().len(),
    }
}

/// The reading of a box that is of now.
pub(super) fn fresh(facts: &Facts, now_us: i64) -> Option<&crate::agent_client::SampleInfo> {
    let live = &facts.live;
    live.sample
        .as_ref()
        .filter(|_| facts.recorded.box_runs && is_fresh(live.sample_us.max(live.status_us), now_us))
}

fn is_fresh(at_us: i64, now_us: i64) -> bool {
    at_us > 0 && now_us.saturating_sub(at_us) <= STALE_US
}

fn families<T>(
    table: &'static [Reading<T>],
    series: Vec<Series>,
) -> impl Iterator<Item = String> + Send + 'static {
    table.iter().enumerate().map(move |(index, reading)| {
        let mut text = String::new();
        let values = series
            .iter()
            .filter_map(|one| Some((&one.labels, one.values[index]?)));
        for (labels, value) in values {
            if text.is_empty() {
                let kind = match reading.kind {
                    Kind::Gauge => "gauge",
                    Kind::Counter => "counter",
                };
                head(&mut text, reading.name, reading.help, kind);
            }
            line(&mut text, reading.name, labels, value);
        }
        text
    })
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    out.push_str(name);
    out.push_str(labels);
    let _ = match value {
        value if value.is_nan() => writeln!(out, " NaN"),
        f64::INFINITY => writeln!(out, " +Inf"),
        f64::NEG_INFINITY => writeln!(out, " -Inf"),
        value => writeln!(out, " {value}"),
    };
}

/// `{a="x",b="y"}`. What a box says of itself is quoted.
fn labels<'a>(all: impl Iterator<Item = &'a (&'a str, &'a str)>) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in all.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for char in value.chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                char => text.push(char),
            }
        }
        text.push('"');
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::top::examples::{self, NOW_US};

    fn text(runs: &[Facts], now_us: i64) -> String {
        Exposition::take(runs, true, now_us).pieces().collect()
    }

    /// Reads the format as its description has it: value by name and labels. Fails on whatever a reader would refuse.
    fn parse(text: &str) -> BTreeMap<(String, String), f64> {
        let mut found = BTreeMap::new();
        let (mut family, mut seen) = (String::new(), BTreeSet::new());
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (word, name) = (words.next().unwrap(), words.next().unwrap());
                let rest = words.next().unwrap();
                match word {
                    "HELP" => assert!(seen.insert(name.to_owned()), "{name} comes twice"),
                    "TYPE" => {
                        assert!(["gauge", "counter"].contains(&rest), "{line}");
                        family = name.to_owned();
                    }
                    _ => panic!("{line}"),
                }
                continue;
            }
            let end = line.rfind(' ').unwrap();
            let (series, value) = (&line[..end], &line[end + 1..]);
            let (name, labels) = match series.find('{') {
                Some(at) => (&series[..at], &series[at..]),
                None => (series, ""),
            };
            assert_eq!(name, family, "a line outside of its family");
            assert!(labels.is_empty() || labels.ends_with('}'), "{line}");
            let value: f64 = value.replace("+Inf", "inf").parse().unwrap();
            let is_new = found.insert((name.to_owned(), labels.to_owned()), value);
            assert!(is_new.is_none(), "{series} comes twice");
        }
        found
    }

    #[test]
    fn every_box_has_its_gpus_by_the_names_of_dcgm() {
        let found = parse(&text(&[examples::live(2)], NOW_US));
        let of = |name: &str, gpu: &str| {
            let mut found = found.iter().filter(|((found, labels), _)| {
                found == name && labels.contains(&format!("gpu=\"{gpu}\""))
            });
            *found.next().unwrap_or_else(|| panic!("{name} of {gpu}")).1
        };
        let facts = examples::live(2);
        let gpu = &facts.live.sample.as_ref().unwrap().gpus[1];
        assert_eq!(
            of("DCGM_FI_DEV_GPU_UTIL", "1"),
            f64::from(gpu.utilisation_percent.unwrap())
        );
        let mib = gpu.memory_used_bytes.unwrap() as f64 / 1_048_576.0;
        assert_eq!(of("DCGM_FI_DEV_FB_USED", "1"), mib);
        assert_eq!(
            of("DCGM_FI_DEV_POWER_USAGE", "0"),
            f64::from(
                facts.live.sample.as_ref().unwrap().gpus[0]
                    .power_mw
                    .unwrap()
            ) / 1000.0
        );
        let run = |name: &str| {
            let labels = "{run=\"llama-7b\",attempt=\"2\"}".to_owned();
            found.get(&(name.to_owned(), labels)).copied()
        };
        assert_eq!(run("spotter_run_reachable"), Some(1.0));
        assert_eq!(run("spotter_run_cost_usd"), Some(1.53));
        assert_eq!(run("spotter_run_checkpoints_committed"), Some(12.0));
        assert_eq!(run("spotter_host_cpu_cores"), Some(3.4));
    }

    #[test]
    fn what_is_old_or_gone_is_not_told_as_if_it_were_of_now() {
        let later = text(&[examples::live(2)], NOW_US + 60_000_000);
        assert!(!later.contains("DCGM_"), "{later}");
        assert!(later.contains("spotter_run_cost_usd{run=\"llama-7b\",attempt=\"2\"} 1.53\n"));
        let over = text(&[examples::over()], NOW_US);
        assert!(!over.contains("DCGM_") && over.contains("spotter_run_over"));
    }

    #[test]
    fn names_that_a_box_makes_up_are_quoted_and_odd_values_written_as_readers_want_them() {
        let mut facts = examples::live(1);
        facts.live.sample.as_mut().unwrap().gpus[0].name = "a\"} 1\n# \\x".to_owned();
        let training = facts.live.status.as_mut().unwrap().training.as_mut();
        training.unwrap().loss = Some(f64::NAN);
        let found = text(&[facts], NOW_US);
        parse(&found);
        assert!(
            found.contains("modelName=\"a\\\"} 1\\n# \\\\x\""),
            "{found}"
        );
        assert!(found.contains("spotter_run_loss{run=\"llama-7b\",attempt=\"2\"} NaN\n"));
    }

    #[test]
    fn no_name_stands_for_two_things() {
        let names = GPU.iter().map(|reading| reading.name);
        let names = names.chain(HOST.iter().map(|reading| reading.name));
        let names: Vec<_> = names
            .chain(RUN.iter().map(|reading| reading.name))
            .collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }
}
