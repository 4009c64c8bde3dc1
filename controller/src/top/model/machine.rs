//! The GPUs and the container of a run (pure): as they are now, else as they were copied, else what the last window said.

use super::{GpuRow, STALE_US, Tone, Words, ago};
use crate::{
    agent_client::{GpuInfo, HostInfo},
    lookout::facts::{Facts, Reach, Used, signed, troubles},
    ui::text,
};

/// What a spark shows of readings that come every second, and of minutes that were copied, seconds.
const SPARK_S: (f64, f64) = (300.0, 3600.0);

pub(super) fn gpus(facts: &Facts, now_us: i64) -> (Vec<GpuRow>, Option<Words>) {
    let live = &facts.live;
    let sample = live.sample.as_ref();
    if let Some(sample) = sample.filter(|sample| !sample.gpus.is_empty()) {
        let newest_us = signed(sample.time_us);
        let rows = sample.gpus.iter();
        let rows = rows.map(|gpu| row(gpu, &live.used, newest_us, SPARK_S.0));
        // From a box that does not answer.
        let old_us = now_us - live.sample_us;
        let note = (live.sample_us > 0 && old_us > STALE_US && facts.reach != Reach::Live)
            .then(|| Words::new(format!("! read {} ago", ago(old_us)), Tone::Warn));
        return (rows.collect(), note);
    }
    let status = live.status.as_ref();
    if let Some(problem) = status.and_then(|status| status.gpu_problem.as_ref()) {
        let words = format!("! no GPU readings: {problem}");
        return (Vec::new(), Some(Words::new(words, Tone::Warn)));
    }
    let copied = facts.log.measured.sample.as_ref();
    if let Some(sample) = copied.filter(|sample| !sample.gpus.is_empty()) {
        let newest_us = signed(sample.time_us);
        let rows = sample.gpus.iter();
        let rows = rows.map(|gpu| row(gpu, &facts.log.measured.used, newest_us, SPARK_S.1));
        let old = ago(now_us - newest_us);
        let words = format!("the last hour that is on record, until {old} ago, by minutes");
        return (rows.collect(), Some(Words::new(words, Tone::Dim)));
    }
    let note = match recorded_use(facts) {
        Some(words) => words,
        None if facts.reach == Reach::Live => "no GPU was read so far".to_owned(),
        None => "no readings of its GPUs are on record".to_owned(),
    };
    (Vec::new(), Some(Words::new(note, Tone::Dim)))
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

fn row(gpu: &GpuInfo, used: &Used, newest_us: i64, span_s: f64) -> GpuRow {
    let mut figures = Vec::new();
    if let Some(power) = gpu.power_mw {
        figures.push(format!("{:.0} W", f64::from(power) / 1000.0));
    }
    if let Some(celsius) = gpu.temperature_c {
        figures.push(format!("{celsius} C"));
    }
    let history = used.get(&gpu.index).into_iter().flatten();
    GpuRow {
        index: gpu.index,
        used_percent: gpu.utilisation_percent.map(f64::from),
        history: history
            .map(|(at, used)| ((newest_us - at) as f64 / 1e6, *used))
            .collect(),
        span_s,
        memory_bytes: gpu.memory_used_bytes.zip(gpu.memory_total_bytes),
        figures: figures.join(" "),
        is_troubled: !troubles(gpu).is_empty(),
    }
}

pub(super) fn host(host: &HostInfo) -> Vec<String> {
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
