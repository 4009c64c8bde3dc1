//! What an attempt was seen to do, written down when it is over: the speed of its steady part, memory, paid time before it trained,
//! its network. Later plans are made with it. Everything is read from the record, so that it may be done again at any time.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use serde_json::Value;
use spotter_trainlog::{Progress, Reader, Record, SeenKind, failure::Class};

use crate::{
    agent_client::SampleInfo,
    ledger::Interval,
    logbook::Logbook,
    run::{
        bringing_up::{SMOKE, TRAIN},
        diagnosis,
        prediction::prediction,
        runtime::{RUNNING, trained_before},
        windows::WINDOW,
    },
    spec::RunSpec,
    store::{
        AttemptRecord, EventRecord, Measured, Observation, RunRecord, Source, Store, StoreError,
    },
};

/// Of a log, read for its figures: its end, where the training is steady.
const LOG_BYTES: u64 = 8 << 20;
/// Of the figures of a log, left out at the beginning: one in so many.
const WARMING_UP: usize = 5;
/// Longest time between two looks that belong together, microseconds.
const TOGETHER_US: u64 = 30_000_000;
/// What is wrong with a code shows in its first hour, seconds: what crashes later has trained until then.
const DEBUGGING_S: f64 = 3600.0;
/// What is measured is written down again when it has grown by so much.
const GROWN: f64 = 1.05;

/// Writes down what the attempts of a run were seen to do that are over. Answers how many
/// were new.
///
/// # Errors
/// The store's.
pub fn observe_run(
    store: &Store,
    logbook: &Logbook,
    run: &RunRecord,
    now_us: i64,
) -> Result<usize, StoreError> {
    let mut new = 0;
    for attempt in store.attempts(&run.name)? {
        if attempt.state.is_active() {
            continue;
        }
        let observed = store.observed_us(&run.name, attempt.number)?;
        if observed.is_some_and(|observed_us| observed_us >= attempt.reopened_us) {
            continue;
        }
        let record = Known {
            events: store.events(&run.name, 0)?,
            intervals: store.intervals(&run.name)?,
            measured: store.measured(&run.name, attempt.number)?,
        };
        let log = |session: &str| {
            let path = logbook.path(&run.name, attempt.number, session);
            end_of(&path).unwrap_or_default()
        };
        let Some(seen) = observation(&run.spec, &attempt, &record, &log, now_us) else {
            continue;
        };
        store.observe(&seen)?;
        new += 1;
    }
    Ok(new)
}

/// What the record holds of an attempt.
struct Known {
    events: Vec<EventRecord>,
    intervals: Vec<Interval>,
    measured: Measured,
}

/// What a program takes of a GPU before it computes anything, GiB: less was read of one that nobody used, after the end.
pub(super) const CONTEXT_GIB: f64 = 0.2;

/// Speeds of a steady training.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Speeds {
    tokens_per_s: Option<f64>,
    steps_per_s: Option<f64>,
}

/// What an attempt was seen to do; `None` when nothing of it ever trained. `log` answers the end of a session's log (pure).
fn observation(
    spec: &RunSpec,
    attempt: &AttemptRecord,
    known: &Known,
    log: &dyn Fn(&str) -> Vec<u8>,
    now_us: i64,
) -> Option<Observation> {
    let mine = |event: &&EventRecord| event.attempt == attempt.number;
    let first = |kind: &str| {
        let mut events = known.events.iter().filter(mine);
        events.find(|event| event.kind == kind)
    };
    let running = first(RUNNING);
    if running.is_none() && first("smoke_begun").is_none() {
        return None;
    }
    let (gpu, count) = attempt.gpu.rsplit_once(':').unwrap_or((&attempt.gpu, ""));
    let mut seen = Observation::new(Source::Trained, &attempt.run, gpu, now_us);
    seen.attempt = Some(attempt.number);
    seen.code = Some(code(spec));
    seen.model = spec.model.clone();
    seen.num_gpus = Some(count.parse().unwrap_or(spec.resources.num_gpus));
    seen.machine_id = attempt.machine_id;
    let cold = prediction(spec, &attempt.gpu, &[]).tokens_per_s;
    seen.predicted_tokens_per_s = cold;

    let windows: Vec<&Value> = known
        .events
        .iter()
        .filter(mine)
        .filter(|event| event.kind == WINDOW)
        .map(|event| &event.detail)
        .collect();
    take_windows(&mut seen, &windows);
    let read = |session: &str| speeds(&log(session), spec, seen.num_gpus);
    if seen.tokens_per_s.is_none() && seen.steps_per_s.is_none() {
        let mut speeds = running.map(|_| read(TRAIN)).unwrap_or_default();
        if speeds == Speeds::default() && spec.smoke.is_some() {
            speeds = read(SMOKE);
            seen.source = Source::Smoked;
        }
        (seen.tokens_per_s, seen.steps_per_s) = (speeds.tokens_per_s, speeds.steps_per_s);
    }

    let measured = &known.measured;
    // What did not fit would have taken more than was seen.
    let ran_out = known.events.iter().filter(mine).any(|event| {
        event.kind == diagnosis::KIND && event.detail["class"] == Class::CudaOom.as_str()
    });
    let peak_gib = greatest(seen.peak_vram_gib, measured.vram_gib);
    seen.peak_vram_gib = peak_gib.filter(|gib| !ran_out && *gib >= CONTEXT_GIB);
    seen.peak_ram_gb = measured.ram_gb;
    seen.down_mbps = measured.down_mbps;
    seen.up_mbps = measured.up_mbps;
    seen.advertised_down_mbps = measured.advertised_down_mbps;
    seen.advertised_up_mbps = measured.advertised_up_mbps;

    let paid_us = known
        .intervals
        .iter()
        .filter(|interval| interval.attempt == attempt.number)
        .map(|interval| interval.from_us)
        .min()
        .unwrap_or(attempt.created_us);
    let began_us = running.map_or(attempt.state_us, |event| event.time_us);
    seen.setup_s = Some(seconds(began_us - paid_us));
    let alone = std::slice::from_ref(attempt);
    let trained_s = trained_before(alone, &known.events, attempt.number + 1).as_secs_f64();
    seen.trained_s = running.map(|_| trained_s);
    let kinds = known.events.iter().filter(mine);
    let kinds: Vec<&str> = kinds.map(|event| event.kind.as_str()).collect();
    seen.debug_s = running.map(|_| debugging_s(&kinds, trained_s));
    Some(seen)
}

/// How much of what an attempt trained was debugging (pure), by the kinds of its events, oldest first: what led to a crash that it
/// never got past. One that saved a checkpoint or ran again has brought something, however it ended.
fn debugging_s(kinds: &[&str], trained_s: f64) -> f64 {
    let Some(crash) = kinds.iter().rposition(|kind| *kind == "crashed") else {
        return 0.0;
    };
    let saved = kinds.contains(&"checkpoint.committed");
    let ran_again = kinds[crash..].contains(&RUNNING);
    match saved || ran_again {
        true => 0.0,
        false => trained_s.min(DEBUGGING_S),
    }
}

/// Tells the code of one run from that of another: where it lies, or what is run where none is copied (pure).
pub fn code(spec: &RunSpec) -> String {
    let text = match &spec.workdir {
        Some(dir) => format!("dir {}", dir.display()),
        None => format!("run {}", spec.run),
    };
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

/// Medians of the windows; the first one, in which caches fill, is left out where there are others.
fn take_windows(seen: &mut Observation, windows: &[&Value]) {
    let steady = match windows.len() {
        0 | 1 => windows,
        _ => &windows[1..],
    };
    let figures = |keys: &[&str]| -> Vec<f64> {
        let figure = |window: &&Value| keys.iter().find_map(|key| window[*key].as_f64());
        steady.iter().filter_map(figure).collect()
    };
    seen.tokens_per_s = median(figures(&["actual_tokens_per_s", "tokens_per_s"]));
    seen.steps_per_s = median(figures(&["step_time_s"]))
        .filter(|step_s| *step_s > 0.0)
        .map(|step_s| 1.0 / step_s);
    let used = figures(&["gpu_utilisation_percent"]);
    seen.gpu_utilisation_percent =
        (!used.is_empty()).then(|| used.iter().sum::<f64>() / used.len() as f64);
    let peak = |window: &&Value| window["memory_peak_gib"].as_f64();
    seen.peak_vram_gib = windows.iter().filter_map(peak).reduce(f64::max);
    let told = |window: &&Value| window["predicted_tokens_per_s"].as_f64();
    let told = windows.iter().rev().find_map(told);
    seen.predicted_tokens_per_s = told.or(seen.predicted_tokens_per_s);
}

/// Medians of what a log prints, without its beginning (pure).
fn speeds(log: &[u8], spec: &RunSpec, gpus: Option<u32>) -> Speeds {
    let progress = spec.progress.as_deref();
    let mut reader = Reader::with(progress.and_then(|text| Progress::new(text).ok()));
    let mut records: Vec<Record> = Vec::new();
    let mut keep = |seen: &spotter_trainlog::Seen| {
        if !seen.repeated && seen.kind != SeenKind::Evaluation {
            records.push(seen.record);
        }
    };
    reader.feed(log, &mut keep);
    reader.end(&mut keep);
    let steady = &records[records.len().div_ceil(WARMING_UP).min(records.len())..];
    let step_s = median(
        steady
            .iter()
            .filter_map(|record| record.step_time_s)
            .collect(),
    );
    let steps_per_s = step_s
        .filter(|step_s| *step_s > 0.0)
        .map(|step_s| 1.0 / step_s);
    let gpus = f64::from(gpus.unwrap_or(1));
    // By what the log says: nothing else tells the tokens of one GPU from those of all.
    let printed = |record: &Record| {
        let each = record.tokens_per_s_per_gpu.map(|each| each * gpus);
        each.or(record.tokens_per_s).filter(|speed| *speed > 0.0)
    };
    let printed = median(steady.iter().filter_map(printed).collect());
    let batch_tokens = spec.model.as_ref().and_then(|model| model.batch_tokens);
    let counted = batch_tokens
        .zip(steps_per_s)
        .map(|(tokens, steps)| tokens * steps);
    Speeds {
        tokens_per_s: counted.or(printed),
        steps_per_s,
    }
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.retain(|number| number.is_finite());
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(numbers[middle]),
        _ => Some((numbers[middle - 1] + numbers[middle]) / 2.0),
    }
}

fn greatest(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}

fn seconds(us: i64) -> f64 {
    us.max(0) as f64 / 1e6
}

/// The last bytes of a copy of a log.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Keeps the most of what looks at a box have shown (pure).
#[derive(Debug, Default)]
pub(crate) struct Meter {
    most: Measured,
    told: Measured,
    /// Time, bytes received and sent at the look before.
    before: Option<(u64, u64, u64)>,
}

impl Meter {
    /// Adds a look.
    pub(crate) fn add(&mut self, sample: &SampleInfo) {
        const GIB: f64 = (1_u64 << 30) as f64;
        let most = &mut self.most;
        let vram = sample.gpus.iter().filter_map(|gpu| gpu.memory_used_bytes);
        most.vram_gib = greatest(most.vram_gib, vram.max().map(|bytes| bytes as f64 / GIB));
        let Some(host) = &sample.host else { return };
        let ram_gb = host.memory_used_bytes.map(|bytes| bytes as f64 / 1e9);
        most.ram_gb = greatest(most.ram_gb, ram_gb);
        let Some((received, sent)) = host.network_rx_bytes.zip(host.network_tx_bytes) else {
            return;
        };
        let before = self.before.replace((sample.time_us, received, sent));
        // Counters start anew with their container, and what came while nobody looked says nothing of the speed.
        let Some((then_us, old_received, old_sent)) = before.filter(|(then_us, rx, tx)| {
            let passed_us = sample.time_us.saturating_sub(*then_us);
            (1..=TOGETHER_US).contains(&passed_us) && received >= *rx && sent >= *tx
        }) else {
            return;
        };
        let mbps = |bytes: u64| bytes as f64 * 8.0 / (sample.time_us - then_us) as f64;
        most.down_mbps = greatest(most.down_mbps, Some(mbps(received - old_received)));
        most.up_mbps = greatest(most.up_mbps, Some(mbps(sent - old_sent)));
        let more_gb = (received - old_received) as f64 / 1e9;
        most.received_gb = Some(most.received_gb.unwrap_or(0.0) + more_gb);
    }

    /// What is known, when it is so much more than what was told before that it is worth being written down.
    pub(crate) fn news(&mut self) -> Option<Measured> {
        let (most, told) = (&self.most, &self.told);
        let grown = |most: Option<f64>, told: Option<f64>| {
            most.is_some_and(|most| most > told.unwrap_or(0.0) * GROWN)
        };
        let is_news = grown(most.vram_gib, told.vram_gib)
            || grown(most.ram_gb, told.ram_gb)
            || grown(most.received_gb, told.received_gb)
            || grown(most.down_mbps, told.down_mbps)
            || grown(most.up_mbps, told.up_mbps);
        is_news.then(|| {
            self.told = self.most;
            self.told
        })
    }
}

#[cfg(test)]
mod tests;
