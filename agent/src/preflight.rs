//! Looks at the box before anything expensive happens: is this what was promised, and can it end itself.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;
use tokio::time;
use tracing::warn;

use crate::{
    chain,
    config::{self, Home},
    now_us,
    self_stop::OwnInstance,
    telemetry::{Sample, Telemetry},
};

/// The first sample with GPUs may take seconds: the driver wakes up.
const GPU_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(200);
/// The image takes its share of the disk that was rented.
const DISK_SHARE: f64 = 0.9;
/// With less than this, not even the code and an environment fit.
const DISK_FREE_REQUIRED_BYTES: u64 = 1 << 30;
const MEMORY_REQUIRED_BYTES: u64 = 1 << 30;
/// Signatures of most services are refused beyond 15 minutes; they correct less.
const CLOCK_LIMIT_S: f64 = 900.0;
/// 2026-01-01: an earlier date is a clock that was never set.
const EARLIEST_US: u64 = 1_767_225_600_000_000;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Short name.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// Whether the run must not go on when it does not hold.
    pub required: bool,
    /// What was found, for people.
    pub detail: String,
}

/// What was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// GPUs; 0: do not check.
    pub gpus: u32,
    /// Disk, bytes; 0: do not check.
    pub disk_bytes: u64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Each check with its verdict.
    pub checks: Vec<Check>,
    /// The instance key was found and answered a harmless read.
    pub can_self_stop: bool,
}

/// Looks at everything. `clock_offset_s` is what a bucket's server said, if one was asked.
pub async fn preflight(
    home: &Home,
    workdir: &Path,
    telemetry: &Telemetry,
    provider_url: &str,
    clock_offset_s: Option<f64>,
    promise: Promise,
) -> Report {
    let mut checks = Vec::new();
    if promise.gpus > 0 {
        let sample = sample_with_gpus(telemetry, promise.gpus).await;
        let gpus = gpus(sample.as_ref(), &telemetry.gpu_problem(), promise.gpus);
        // It would see none on the next box either.
        if !gpus.ok && !telemetry.has_probe() {
            checks.push(Check {
                name: "agent",
                ok: false,
                required: true,
                detail: "it was built without its NVML probe, so it sees no GPU".to_owned(),
            });
        }
        checks.push(gpus);
    }
    checks.push(disk(workdir, promise.disk_bytes));
    checks.push(memory(telemetry.latest().as_ref()));
    checks.push(program("tmux", "sessions run without a window"));
    checks.push(program("rsync", "code is copied as a whole each time"));
    checks.push(clock(now_us(), clock_offset_s));
    let self_stop = self_stop(home, provider_url).await;
    let can_self_stop = self_stop.ok;
    checks.push(self_stop);
    Report {
        checks,
        can_self_stop,
    }
}

/// The newest sample; waits for one that has as many GPUs as were promised.
async fn sample_with_gpus(telemetry: &Telemetry, promised: u32) -> Option<Sample> {
    let deadline = Instant::now() + GPU_PATIENCE;
    loop {
        let sample = telemetry.latest();
        let enough = sample
            .as_ref()
            .is_some_and(|sample| sample.gpus.len() >= promised as usize);
        let hopeless = sample.is_some() && !telemetry.gpu_problem().is_empty();
        if enough || hopeless || Instant::now() > deadline {
            return sample;
        }
        time::sleep(POLL).await;
    }
}

fn gpus(sample: Option<&Sample>, problem: &str, promised: u32) -> Check {
    let gpus = sample
        .map(|sample| sample.gpus.as_slice())
        .unwrap_or_default();
    let readable = gpus.iter().filter(|gpu| gpu.error == 0).count();
    let mut names: Vec<&str> = gpus.iter().map(|gpu| &*gpu.name).collect();
    names.dedup();
    let mut detail = format!(
        "{readable} of {promised} promised answer: {}",
        names.join(", ")
    );
    if gpus.is_empty() {
        detail = format!(
            "none of {promised} promised is seen: {}",
            if problem.is_empty() {
                "no sample came"
            } else {
                problem
            }
        );
    }
    Check {
        name: "gpus",
        ok: readable >= promised as usize,
        required: true,
        detail,
    }
}

fn disk(workdir: &Path, promised_bytes: u64) -> Check {
    match statvfs(workdir) {
        Ok(stat) => {
            let total = stat.blocks() * stat.fragment_size();
            let free = stat.blocks_available() * stat.fragment_size();
            disk_verdict(total, free, promised_bytes)
        }
        Err(errno) => {
            let detail = format!(
                "{} cannot be looked at: {}",
                workdir.display(),
                errno.desc()
            );
            Check {
                name: "disk",
                ok: false,
                required: true,
                detail,
            }
        }
    }
}

fn disk_verdict(total: u64, free: u64, promised: u64) -> Check {
    let enough = free >= DISK_FREE_REQUIRED_BYTES;
    let as_promised = promised == 0 || total as f64 >= promised as f64 * DISK_SHARE;
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let mut detail = format!("{:.1} GB free of {:.1} GB", gb(free), gb(total));
    if promised > 0 {
        detail.push_str(&format!(", {:.1} GB promised", gb(promised)));
    }
    Check {
        name: "disk",
        ok: enough && as_promised,
        required: !enough,
        detail,
    }
}

fn memory(sample: Option<&Sample>) -> Check {
    let limit = sample.and_then(|sample| sample.host.as_ref()?.memory_limit_bytes);
    match limit {
        Some(limit) => Check {
            name: "memory",
            ok: limit >= MEMORY_REQUIRED_BYTES,
            required: true,
            detail: format!("{:.1} GB", limit as f64 / 1e9),
        },
        None => Check {
            name: "memory",
            ok: false,
            required: false,
            detail: "the limit cannot be read".to_owned(),
        },
    }
}

fn program(name: &'static str, without: &str) -> Check {
    let found = config::find_program(name, &config::search_path());
    let detail = match &found {
        Some(path) => path.display().to_string(),
        None => format!("not installed: {without}"),
    };
    Check {
        name,
        ok: found.is_some(),
        required: false,
        detail,
    }
}

fn clock(now_us: u64, offset_s: Option<f64>) -> Check {
    let (ok, detail) = match offset_s {
        _ if now_us < EARLIEST_US => (
            false,
            "the box's date lies in the past: its clock was never set".to_owned(),
        ),
        Some(offset) => (
            offset.abs() < CLOCK_LIMIT_S,
            format!("{offset:+.1} s to the bucket's server"),
        ),
        None => (true, "nothing to compare it with".to_owned()),
    };
    Check {
        name: "clock",
        ok,
        required: true,
        detail,
    }
}

async fn self_stop(home: &Home, provider_url: &str) -> Check {
    let proved = match OwnInstance::find(home, provider_url) {
        Ok(own) => {
            let read = own.read().await;
            if let Err(err) = own.note_proof(home, read.is_ok()) {
                warn!(error = %err, "that the instance key answered cannot be kept: the box will not destroy itself");
            }
            read
        }
        Err(err) => Err(err),
    };
    match proved {
        Ok(()) => {
            let detail = "the instance key answered: limits hold with the laptop off".to_owned();
            Check {
                name: "self_stop",
                ok: true,
                required: false,
                detail,
            }
        }
        Err(err) => Check {
            name: "self_stop",
            ok: false,
            required: false,
            detail: chain(&err),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn a_disk_below_the_promise_is_told_and_a_full_one_stops_the_run() {
        let check = |total, free, promised| {
            let check = disk_verdict(total, free, promised);
            (check.ok, check.required)
        };
        assert_eq!(check(100 * GB, 90 * GB, 100 * GB), (true, false));
        assert_eq!(
            check(91 * GB, 80 * GB, 100 * GB),
            (true, false),
            "the image takes its share"
        );
        assert_eq!(check(50 * GB, 40 * GB, 100 * GB), (false, false));
        assert_eq!(check(100 * GB, GB / 2, 100 * GB), (false, true));
        assert_eq!(check(50 * GB, 40 * GB, 0), (true, false));
    }

    #[test]
    fn a_clock_is_judged_by_its_date_and_by_the_buckets_server() {
        let now = EARLIEST_US + 1;
        assert!(clock(now, None).ok);
        assert!(clock(now, Some(-5.0)).ok);
        assert!(!clock(now, Some(1000.0)).ok);
        assert!(!clock(0, Some(0.0)).ok);
    }

    #[test]
    fn missing_gpus_are_explained() {
        let check = gpus(None, "libnvidia-ml.so.1 is missing", 2);
        assert!(!check.ok && check.required);
        assert_eq!(
            check.detail,
            "none of 2 promised is seen: libnvidia-ml.so.1 is missing"
        );
    }
}
