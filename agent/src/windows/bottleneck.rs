//! What holds a training up, by the pattern of its figures (pure): one class, and the figures that speak for it.

use serde::{Deserialize, Serialize};

use super::Figures;

/// GPUs above this do what they can, percent.
const BUSY_PERCENT: f64 = 85.0;
/// Memory that is read or written for this share of the time is what a busy GPU waits for, percent.
const MEMORY_BUSY_PERCENT: f64 = 70.0;
/// A GPU that always runs a kernel on so little of its power waits inside of it, for another GPU.
const SPINNING_POWER: f64 = 0.45;
/// A log that grows by this much costs time: a progress bar has tenths of it, KB/s.
const LOG_KB_PER_S: f64 = 100.0;
/// CPUs above this share are full.
const CPU_FULL: f64 = 0.85;
/// Data that comes over the network, MB/s.
const STREAMING_MB_PER_S: f64 = 20.0;
/// Half of a PCIe 3.0 x16 slot, MB/s.
const PCIE_BUSY_MB_PER_S: f64 = 6_000.0;
/// GPUs of one job that differ by more wait for each other, percentage points.
const SPREAD_PERCENT: f64 = 25.0;
/// What was written and stayed: a checkpoint now and then is far below it, MB/s.
const DISK_MB_PER_S: f64 = 100.0;
/// Something waits for a disk for this share of the time: a checkpoint now and then makes it wait far less, percent.
const DISK_WAIT_PERCENT: f64 = 40.0;
/// Where the kernel does not tell of pressure: a process waits for a disk at this share of the looks.
const DISK_BLOCKED_SHARE: f64 = 0.5;
/// Samples that no cache holds: half of what a slow SSD reads, MB/s.
const DISK_READ_MB_PER_S: f64 = 200.0;
/// About one core: a single thread that feeds the GPUs.
const ONE_CORE: std::ops::Range<f64> = 0.8..1.6;

/// What holds a training up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bottleneck {
    /// `compute`, `memory`, `input`, `sync` or `logging`.
    pub class: String,
    /// The figures that speak for it.
    pub evidence: String,
}

/// Names the class; `None` where no pattern fits, or the GPUs could not be read.
pub fn bottleneck(figures: &Figures) -> Option<Bottleneck> {
    let used = figures.gpu_utilisation_percent?;
    let found = |class: &str, evidence: String| {
        Some(Bottleneck {
            class: class.to_owned(),
            evidence: format!("GPUs busy {used:.0} % of the time, {evidence}"),
        })
    };
    let above = |value: Option<f64>, limit: f64| value.filter(|value| *value >= limit);
    let several = figures.gpus > 1;
    if used >= BUSY_PERCENT {
        if several && let Some(power) = figures.power_share.filter(|power| *power < SPINNING_POWER)
        {
            return found(
                "sync",
                format!(
                    "on {:.0} % of their power: they wait for each other",
                    power * 100.0
                ),
            );
        }
        if let Some(busy) = above(figures.memory_busy_percent, MEMORY_BUSY_PERCENT) {
            return found("memory", format!("their memory {busy:.0} %"));
        }
        if let Some(share) = above(figures.held_back_share, 0.2) {
            return found(
                "compute",
                format!(
                    "held back by heat or supply in {:.0} % of the looks",
                    share * 100.0
                ),
            );
        }
        return found("compute", "and nothing else is full".to_owned());
    }
    if several && let Some(spread) = above(figures.gpu_spread_percent, SPREAD_PERCENT) {
        return found(
            "sync",
            format!("the busiest {spread:.0} points above the idlest"),
        );
    }
    if let Some(rate) = above(figures.log_kb_per_s, LOG_KB_PER_S) {
        return found("logging", format!("{rate:.0} KB/s of log"));
    }
    if let Some(share) = above(figures.cpu_share, CPU_FULL) {
        return found(
            "input",
            format!("{:.0} % of the CPUs in use", share * 100.0),
        );
    }
    if let Some(waits) = disk_waits(figures) {
        return found("input", waits);
    }
    if let Some(rate) = above(figures.network_mb_per_s, STREAMING_MB_PER_S) {
        return found("input", format!("{rate:.0} MB/s from the network"));
    }
    if let Some(rate) = above(figures.pcie_mb_per_s, PCIE_BUSY_MB_PER_S) {
        let class = if several { "sync" } else { "input" };
        return found(class, format!("{rate:.0} MB/s over PCIe"));
    }
    if let Some(rate) = above(figures.disk_growth_mb_per_s, DISK_MB_PER_S) {
        return found("input", format!("{rate:.0} MB/s written to the disk"));
    }
    if let Some(cores) = figures.cpu_cores.filter(|cores| ONE_CORE.contains(cores)) {
        let evidence = format!("{cores:.1} cores in use: one thread feeds them");
        return found("input", evidence);
    }
    None
}

/// That the box waits for its disk: by what the kernel tells of pressure, else by what its processes wait for, else by what is read.
fn disk_waits(figures: &Figures) -> Option<String> {
    let read = match figures.disk_read_mb_per_s {
        Some(rate) => format!(", at {rate:.0} MB/s read"),
        None => String::new(),
    };
    if let Some(percent) = figures.io_pressure_percent {
        return (percent >= DISK_WAIT_PERCENT)
            .then(|| format!("something waited for the disk {percent:.0} % of it{read}"));
    }
    if let Some(share) = figures
        .disk_blocked_share
        .filter(|share| *share >= DISK_BLOCKED_SHARE)
    {
        return Some(format!(
            "processes waited for the disk in {:.0} % of the looks{read}",
            share * 100.0
        ));
    }
    let rate = figures.disk_read_mb_per_s?;
    (rate >= DISK_READ_MB_PER_S).then(|| format!("{rate:.0} MB/s read from the disk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_has_its_class() {
        let at = |percent: f64| Figures {
            gpu_utilisation_percent: Some(percent),
            gpus: 1,
            log_kb_per_s: Some(1.0),
            cpu_share: Some(0.2),
            cpu_cores: Some(3.0),
            network_mb_per_s: Some(0.1),
            ..Figures::default()
        };
        let cases: [(&str, Figures, Option<&str>); 19] = [
            ("nothing was read", Figures::default(), None),
            ("busy", at(97.0), Some("compute")),
            (
                "busy with its memory",
                Figures {
                    memory_busy_percent: Some(82.0),
                    ..at(97.0)
                },
                Some("memory"),
            ),
            (
                "hot",
                Figures {
                    held_back_share: Some(0.6),
                    ..at(97.0)
                },
                Some("compute"),
            ),
            (
                "spinning",
                Figures {
                    gpus: 8,
                    power_share: Some(0.3),
                    ..at(99.0)
                },
                Some("sync"),
            ),
            (
                "one alone does not spin",
                Figures {
                    power_share: Some(0.3),
                    ..at(99.0)
                },
                Some("compute"),
            ),
            (
                "uneven",
                Figures {
                    gpus: 4,
                    gpu_spread_percent: Some(60.0),
                    ..at(50.0)
                },
                Some("sync"),
            ),
            (
                "talkative",
                Figures {
                    log_kb_per_s: Some(900.0),
                    ..at(40.0)
                },
                Some("logging"),
            ),
            (
                "full CPUs",
                Figures {
                    cpu_share: Some(0.97),
                    ..at(40.0)
                },
                Some("input"),
            ),
            (
                "waits for its disk",
                Figures {
                    io_pressure_percent: Some(63.0),
                    network_mb_per_s: Some(80.0),
                    ..at(40.0)
                },
                Some("input"),
            ),
            (
                "a checkpoint now and then, by the kernel's own word",
                Figures {
                    io_pressure_percent: Some(9.0),
                    disk_blocked_share: Some(0.6),
                    disk_read_mb_per_s: Some(900.0),
                    ..at(40.0)
                },
                None,
            ),
            (
                "no word of pressure, and blocked",
                Figures {
                    disk_blocked_share: Some(0.6),
                    ..at(40.0)
                },
                Some("input"),
            ),
            (
                "no word of pressure, and reads",
                Figures {
                    disk_blocked_share: Some(0.1),
                    disk_read_mb_per_s: Some(250.0),
                    ..at(40.0)
                },
                Some("input"),
            ),
            (
                "busy, though it reads",
                Figures {
                    io_pressure_percent: Some(63.0),
                    ..at(97.0)
                },
                Some("compute"),
            ),
            (
                "streaming",
                Figures {
                    network_mb_per_s: Some(80.0),
                    ..at(40.0)
                },
                Some("input"),
            ),
            (
                "over PCIe, one",
                Figures {
                    pcie_mb_per_s: Some(9e3),
                    ..at(40.0)
                },
                Some("input"),
            ),
            (
                "over PCIe, several",
                Figures {
                    gpus: 2,
                    pcie_mb_per_s: Some(9e3),
                    ..at(40.0)
                },
                Some("sync"),
            ),
            (
                "one thread",
                Figures {
                    cpu_cores: Some(1.1),
                    ..at(40.0)
                },
                Some("input"),
            ),
            ("nobody knows", at(40.0), None),
        ];
        for (name, figures, expected) in cases {
            let got = bottleneck(&figures);
            assert_eq!(
                got.as_ref().map(|got| got.class.as_str()),
                expected,
                "{name}: {got:?}"
            );
        }
        let disk = |figures| bottleneck(&figures).unwrap().evidence;
        assert_eq!(
            disk(Figures {
                io_pressure_percent: Some(63.0),
                disk_read_mb_per_s: Some(120.0),
                ..at(40.0)
            }),
            "GPUs busy 40 % of the time, something waited for the disk 63 % of it, at 120 MB/s read"
        );
    }
}
