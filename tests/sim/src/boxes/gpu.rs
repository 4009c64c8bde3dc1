//! What the fake NVML of a box shows: idle GPUs, or busy ones while the session `train` lives.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::{self, MissedTickBehavior};
use tracing::warn;

use super::BoxSpec;

/// How often the training's life is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Seconds in which a GPU comes two thirds of the way to its new temperature.
const WARM_UP_SECS: f64 = 20.0;
const COOL_C: f64 = 34.0;
const HOT_C: f64 = 71.0;
const IDLE_MEMORY_MIB: u64 = 4;
const IDLE_POWER_W: f64 = 60.0;

/// What GPUs do at an instant.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Load {
    training: bool,
    /// 0: as cool as idle, 1: as hot as it gets.
    heat: f64,
    /// Counts periods: busy figures tremble a little from one to the next.
    tick: u64,
}

const IDLE: Load = Load {
    training: false,
    heat: 0.0,
    tick: 0,
};

/// Writes the scenario of an idle machine.
pub(super) fn write_idle(path: &Path, spec: &BoxSpec) -> anyhow::Result<()> {
    replace(path, &scenario(spec, IDLE))
}

/// Keeps the scenario at `path` true to the session in `train` until dropped.
pub(super) async fn follow(path: PathBuf, train: PathBuf, spec: BoxSpec) {
    let mut load = IDLE;
    let mut written = String::new();
    let mut ticks = time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        load = next(load, is_training(&train));
        let text = scenario(&spec, load);
        if text != written {
            match replace(&path, &text) {
                Ok(()) => written = text,
                Err(err) => warn!(
                    id = spec.id,
                    error = format!("{err:#}"),
                    "the GPU scenario is stale, will retry"
                ),
            }
        }
    }
}

fn next(load: Load, training: bool) -> Load {
    let goal = if training { 1.0 } else { 0.0 };
    let share = 1.0 - (-PERIOD.as_secs_f64() / WARM_UP_SECS).exp();
    Load {
        training,
        heat: load.heat + (goal - load.heat) * share,
        tick: load.tick.wrapping_add(1),
    }
}

/// Whether the session's shim lives: it holds `lock` for life.
fn is_training(train: &Path) -> bool {
    // The shim takes its lock before it writes the start record. Trying the lock before that could make the shim's own
    // attempt fail.
    if !train.join("start.json").exists() || train.join("end.json").exists() {
        return false;
    }
    let Ok(file) = File::open(train.join("lock")) else {
        return false;
    };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// Text for the fake NVML; later lines win.
fn scenario(spec: &BoxSpec, load: Load) -> String {
    let limit = power_limit_w(&spec.gpu_name);
    let mut text = format!(
        "sys driver 580.82.07\nsys cuda 13000\nsys count {}\n* name {}\n* mem.total_mib {}\n* power_limit_w {limit}\n",
        spec.num_gpus,
        product_name(&spec.gpu_name),
        spec.vram_mib,
    );
    if spec.compute_cap > 0 {
        text.push_str(&format!("* capability {}\n", spec.compute_cap / 10));
    }
    for gpu in 0..u64::from(spec.num_gpus) {
        let tremble = ((load.tick + gpu * 2) % 5) as f64 - 2.0;
        let temperature = COOL_C + (HOT_C - COOL_C) * load.heat;
        let (util, util_memory, memory, power, pstate) = if load.training {
            (
                97.0 + tremble.min(1.0),
                48.0 + tremble,
                spec.vram_mib * 4 / 5,
                limit * (0.93 + 0.01 * tremble),
                2,
            )
        } else {
            (0.0, 0.0, IDLE_MEMORY_MIB, IDLE_POWER_W.min(limit / 4.0), 8)
        };
        text.push_str(&format!(
            "{gpu} util.gpu {util:.0}\n{gpu} util.mem {util_memory:.0}\n{gpu} mem.used_mib {memory}\n\
             {gpu} power_w {power:.0}\n{gpu} temp {temperature:.0}\n{gpu} pstate {pstate}\n"
        ));
    }
    text
}

/// NVML says the maker's name, the market does not.
fn product_name(market: &str) -> String {
    if market.starts_with("NVIDIA") {
        return market.to_owned();
    }
    let consumer = ["RTX 20", "RTX 30", "RTX 40", "RTX 50", "GTX"]
        .iter()
        .any(|family| market.starts_with(family));
    // "RTX 4000 Ada" and its sisters are workstation cards.
    if consumer && !market.contains("Ada") {
        format!("NVIDIA GeForce {market}")
    } else {
        format!("NVIDIA {market}")
    }
}

/// Board power by the makers' data sheets, watts.
fn power_limit_w(market: &str) -> f64 {
    const KNOWN: [(&str, f64); 13] = [
        ("B200", 1000.0),
        ("H200", 700.0),
        ("H100 PCIE", 350.0),
        ("H100", 700.0),
        ("A100 PCIE", 300.0),
        ("A100", 400.0),
        ("L40", 350.0),
        ("RTX 5090", 575.0),
        ("RTX 4090", 450.0),
        ("RTX 3090", 350.0),
        ("RTX 4080", 320.0),
        ("RTX 3080", 320.0),
        ("T4", 70.0),
    ];
    KNOWN
        .iter()
        .find(|(name, _)| market.contains(name))
        .map_or(300.0, |(_, watts)| *watts)
}

/// A reader sees the old text or the new one, never half of one.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let aside = path.with_extension("new");
    fs::write(&aside, text).with_context(|| format!("cannot write {}", aside.display()))?;
    fs::rename(&aside, path).with_context(|| format!("cannot replace {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> BoxSpec {
        BoxSpec {
            id: 1,
            env: Vec::new(),
            onstart: String::new(),
            authorized_keys: Vec::new(),
            disk_mb: 1,
            memory_mb: 0,
            gpu_name: "RTX 4090".to_owned(),
            num_gpus: 2,
            vram_mib: 24_564,
            compute_cap: 890,
        }
    }

    #[test]
    fn an_idle_machine_shows_its_cards_at_rest() {
        let text = scenario(&spec(), IDLE);
        for line in [
            "sys count 2",
            "* name NVIDIA GeForce RTX 4090",
            "* mem.total_mib 24564",
            "* capability 89",
            "1 util.gpu 0",
            "0 power_w 60",
        ] {
            assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
        }
    }

    #[test]
    fn a_busy_machine_warms_up_and_stays_within_its_limits() {
        let mut load = IDLE;
        let mut last = 0.0;
        for _ in 0..120 {
            load = next(load, true);
            assert!(load.heat > last && load.heat < 1.0);
            last = load.heat;
            for line in scenario(&spec(), load).lines() {
                let words: Vec<&str> = line.split(' ').collect();
                match words[1] {
                    "util.gpu" => assert!(
                        (95..=98).contains(&words[2].parse::<u32>().unwrap()),
                        "{line}"
                    ),
                    "power_w" => assert!(
                        (400..=450).contains(&words[2].parse::<u32>().unwrap()),
                        "{line}"
                    ),
                    "mem.used_mib" => assert_eq!(words[2], "19651"),
                    _ => {}
                }
            }
        }
        assert!(scenario(&spec(), load).contains("0 temp 71\n"));
        assert!(next(load, false).heat < load.heat);
    }

    #[test]
    fn a_session_is_training_while_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_training(dir.path()));
        let lock = File::create(dir.path().join("lock")).unwrap();
        let held = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
        assert!(!is_training(dir.path()), "no start record yet");
        fs::write(dir.path().join("start.json"), "{}").unwrap();
        assert!(is_training(dir.path()));
        drop(held);
        assert!(!is_training(dir.path()));
    }

    #[test]
    fn names_gain_what_the_market_leaves_out() {
        let check = |market: &str, expected: &str| assert_eq!(product_name(market), expected);
        check("RTX 3090", "NVIDIA GeForce RTX 3090");
        check("RTX 4000 Ada", "NVIDIA RTX 4000 Ada");
        check("H100 SXM", "NVIDIA H100 SXM");
        check("NVIDIA L4", "NVIDIA L4");
    }
}
