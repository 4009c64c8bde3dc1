//! The box's own figures: what the container may use and does use, from its cgroup; from /proc where there is no limit.
//!
//! A rented box is a container on someone's larger machine: `free` and `nproc` there tell about the machine. cgroup v2 is
//! asked first, then v1. Everything is read from kernel files that answer at once, except the disk, see [`disk`].

mod flow;
mod processes;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;

use super::HostSample;
use flow::Flow;
pub use processes::ProcessReader;

/// Limits at or above this are cgroup v1's way of saying `none` (2^63 rounded down to a page).
const NO_LIMIT: u64 = 1 << 60;

/// Reads the host; remembers what rates need.
#[derive(Debug)]
pub struct HostReader {
    proc: PathBuf,
    cgroup: PathBuf,
    levels: Option<Levels>,
    last_cpu: Option<(Instant, f64)>,
    flow: Flow,
}

impl Default for HostReader {
    fn default() -> Self {
        Self::of("/proc", "/sys/fs/cgroup")
    }
}

/// The cgroup directories that count for this process, innermost first.
#[derive(Debug, Clone, PartialEq)]
enum Levels {
    /// Unified: one directory per level.
    V2(Vec<PathBuf>),
    /// One tree per controller.
    V1 {
        memory: Vec<PathBuf>,
        cpu: Vec<PathBuf>,
        cpuacct: Vec<PathBuf>,
        blkio: Vec<PathBuf>,
    },
}

/// Memory as one cgroup level sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Memory {
    used_bytes: u64,
    limit_bytes: u64,
}

impl HostReader {
    /// A reader over other roots than the real ones, for tests.
    fn of(proc: impl Into<PathBuf>, cgroup: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            cgroup: cgroup.into(),
            levels: None,
            last_cpu: None,
            flow: Flow::default(),
        }
    }

    /// All figures but the disk and the processes. CPU use is a rate: the first reading has none.
    pub fn read(&mut self) -> HostSample {
        let levels = self
            .levels
            .get_or_insert_with(|| find_levels(&self.proc, &self.cgroup))
            .clone();
        let memory = levels.memory().or_else(|| host_memory(&self.proc));
        let network = network(&self.proc);
        let own_disk = levels.disk_bytes();
        let disk = own_disk.or_else(|| flow::disk_bytes(&self.proc));
        let [read, written, received, sent] = self.flow.rates(Instant::now(), disk, network);
        let shm = disk_of_shm();
        let cpu_percent = self.cpu_percent(&levels);
        let pressure = |what| flow::pressure(levels.outermost(), &self.proc, what);
        let io = pressure("io");
        HostSample {
            cpu_percent,
            cpu_limit_cores: levels.cpu_quota_cores().or_else(affinity_cores),
            memory_used_bytes: memory.map(|memory| memory.used_bytes),
            memory_limit_bytes: memory.map(|memory| memory.limit_bytes),
            disk_free_bytes: None,
            disk_total_bytes: None,
            network_rx_bytes: network.map(|(received, _)| received),
            network_tx_bytes: network.map(|(_, sent)| sent),
            oom_kills: levels.oom_kills(),
            cpu_throttled_us: levels.throttled_us(),
            cpu_pressure_percent: pressure("cpu").map(|(percent, _)| percent),
            memory_pressure_percent: pressure("memory").map(|(percent, _)| percent),
            io_pressure_percent: io.map(|(percent, _)| percent),
            memory_limit_hits: levels.limit_hits(),
            disk_read_bytes_per_s: read,
            disk_write_bytes_per_s: written,
            network_rx_bytes_per_s: received,
            network_tx_bytes_per_s: sent,
            shm_free_bytes: shm.map(|shm| shm.free_bytes),
            shm_total_bytes: shm.map(|shm| shm.total_bytes),
            processes_blocked: None,
            pressure_of_machine: io.map(|(_, of_machine)| of_machine),
            disks_of_machine: disk.map(|_| own_disk.is_none()),
        }
    }

    fn cpu_percent(&mut self, levels: &Levels) -> Option<f32> {
        let now = Instant::now();
        let used_s = levels
            .cpu_used_s()
            .or_else(|| host_cpu_used_s(&self.proc))?;
        let (then, before_s) = self.last_cpu.replace((now, used_s))?;
        let wall_s = now.duration_since(then).as_secs_f64();
        (wall_s > 0.0 && used_s >= before_s).then(|| ((used_s - before_s) / wall_s * 100.0) as f32)
    }
}

impl Levels {
    /// The tightest memory limit of all levels, and the use at that level; `None` without any limit.
    fn memory(&self) -> Option<Memory> {
        let (dirs, limit, usage, stat, inactive) = match self {
            Self::V2(dirs) => (
                dirs,
                "memory.max",
                "memory.current",
                "memory.stat",
                "inactive_file",
            ),
            Self::V1 { memory, .. } => (
                memory,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "memory.stat",
                "total_inactive_file",
            ),
        };
        let limited = dirs
            .iter()
            .filter_map(|dir| Some((number(&dir.join(limit))?, dir)));
        let (limit_bytes, dir) = limited
            .filter(|(bytes, _)| *bytes < NO_LIMIT)
            .min_by_key(|(bytes, _)| *bytes)?;
        // Inactive file cache is dropped before anything is killed; counting it would show every box as full.
        let cache = value(&dir.join(stat), inactive).unwrap_or(0);
        let used_bytes = number(&dir.join(usage))?.saturating_sub(cache);
        Some(Memory {
            used_bytes,
            limit_bytes,
        })
    }

    /// The tightest CPU quota of all levels, in cores.
    fn cpu_quota_cores(&self) -> Option<f32> {
        let quotas: Vec<f32> = match self {
            Self::V2(dirs) => dirs
                .iter()
                .filter_map(|dir| quota_v2(&dir.join("cpu.max")))
                .collect(),
            Self::V1 { cpu, .. } => cpu.iter().filter_map(|dir| quota_v1(dir)).collect(),
        };
        quotas.into_iter().reduce(f32::min)
    }

    /// CPU seconds used by everything in the outermost level: in a container, the container.
    fn cpu_used_s(&self) -> Option<f64> {
        match self {
            Self::V2(dirs) => {
                let stats = dirs
                    .iter()
                    .rev()
                    .find_map(|dir| value(&dir.join("cpu.stat"), "usage_usec"));
                stats.map(|microseconds| microseconds as f64 / 1e6)
            }
            Self::V1 { cpuacct, .. } => {
                let usages = cpuacct
                    .iter()
                    .rev()
                    .find_map(|dir| number(&dir.join("cpuacct.usage")));
                usages.map(|nanoseconds| nanoseconds as f64 / 1e9)
            }
        }
    }

    /// Processes that the kernel killed for memory, by the outermost level that counts them.
    fn oom_kills(&self) -> Option<u64> {
        let (dirs, file) = match self {
            Self::V2(dirs) => (dirs, "memory.events"),
            Self::V1 { memory, .. } => (memory, "memory.oom_control"),
        };
        dirs.iter()
            .rev()
            .find_map(|dir| value(&dir.join(file), "oom_kill"))
    }
}

impl Levels {
    /// Microseconds in which the quota held the box back.
    fn throttled_us(&self) -> Option<u64> {
        match self {
            Self::V2(dirs) => outermost(dirs, |dir| value(&dir.join("cpu.stat"), "throttled_usec")),
            Self::V1 { cpu, .. } => {
                outermost(cpu, |dir| value(&dir.join("cpu.stat"), "throttled_time"))
                    .map(|nanoseconds| nanoseconds / 1000)
            }
        }
    }

    /// Times that memory in use ran into the limit.
    fn limit_hits(&self) -> Option<u64> {
        match self {
            Self::V2(dirs) => outermost(dirs, |dir| value(&dir.join("memory.events"), "max")),
            Self::V1 { memory, .. } => outermost(memory, |dir| number(&dir.join("memory.failcnt"))),
        }
    }

    /// Bytes read from and written to disks.
    fn disk_bytes(&self) -> Option<(u64, u64)> {
        match self {
            Self::V2(dirs) => outermost(dirs, |dir| flow::io_stat(&dir.join("io.stat"))),
            Self::V1 { blkio, .. } => outermost(blkio, |dir| {
                flow::service_bytes(&dir.join("blkio.throttle.io_service_bytes"))
            }),
        }
    }

    /// The directory of the box as a whole, where pressure is told.
    fn outermost(&self) -> Option<&Path> {
        match self {
            Self::V2(dirs) => dirs.last().map(PathBuf::as_path),
            Self::V1 { .. } => None,
        }
    }
}

/// The first answer from the outside in: in a container, the container's.
fn outermost<T>(dirs: &[PathBuf], answer: impl Fn(&Path) -> Option<T>) -> Option<T> {
    dirs.iter().rev().find_map(|dir| answer(dir))
}

/// Size and free space of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that an ordinary user may still write.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Space on the file system of a directory, or of its nearest parent that exists. May block on a hung network mount.
pub fn disk(dir: &Path) -> Option<Disk> {
    let found = dir.ancestors().find_map(|dir| statvfs(dir).ok())?;
    let unit = found.fragment_size();
    Some(Disk {
        free_bytes: found.blocks_available() * unit,
        total_bytes: found.blocks() * unit,
    })
}

/// Space in /dev/shm, which is memory and never hangs.
fn disk_of_shm() -> Option<Disk> {
    let dir = Path::new("/dev/shm");
    dir.is_dir().then(|| disk(dir)).flatten()
}

/// Finds the levels that count. Inside a container the mount usually shows the container's own cgroup as its root, and
/// `/proc/self/cgroup` may name a path that exists only outside: only levels that exist are taken.
fn find_levels(proc: &Path, cgroup: &Path) -> Levels {
    let own = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let path_of = |wanted: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            controllers
                .split(',')
                .any(|name| name == wanted)
                .then(|| path.trim_start_matches('/').to_owned())
        })
    };
    if cgroup.join("cgroup.controllers").exists() {
        return Levels::V2(existing(cgroup, path_of("")));
    }
    let tree = |controller: &str| existing(&cgroup.join(controller), path_of(controller));
    Levels::V1 {
        memory: tree("memory"),
        cpu: tree("cpu"),
        cpuacct: tree("cpuacct"),
        blkio: tree("blkio"),
    }
}

/// `root/path` and its parents up to `root`, as far as they exist.
fn existing(root: &Path, path: Option<String>) -> Vec<PathBuf> {
    let leaf = root.join(path.unwrap_or_default());
    let inside = |dir: &&Path| {
        dir.starts_with(root) && !dir.components().any(|part| part.as_os_str() == "..")
    };
    leaf.ancestors()
        .take_while(inside)
        .filter(|dir| dir.is_dir())
        .map(Path::to_path_buf)
        .collect()
}

/// `200000 100000` is two cores, `max 100000` none.
fn quota_v2(file: &Path) -> Option<f32> {
    let text = fs::read_to_string(file).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    cores(quota.parse().ok()?, period.parse().ok()?)
}

/// -1 means none; it is not a `u64`.
fn quota_v1(dir: &Path) -> Option<f32> {
    cores(
        number(&dir.join("cpu.cfs_quota_us"))?,
        number(&dir.join("cpu.cfs_period_us"))?,
    )
}

fn cores(quota: u64, period: u64) -> Option<f32> {
    (period > 0).then(|| (quota as f64 / period as f64) as f32)
}

/// CPUs that this process may run on.
fn affinity_cores() -> Option<f32> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let cores = (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .count();
    (cores > 0).then_some(cores as f32)
}

/// The machine's memory, from /proc/meminfo (kB).
fn host_memory(proc: &Path) -> Option<Memory> {
    let file = proc.join("meminfo");
    let total = value(&file, "MemTotal:")?;
    let available = value(&file, "MemAvailable:")?;
    Some(Memory {
        used_bytes: total.saturating_sub(available) * 1024,
        limit_bytes: total * 1024,
    })
}

/// CPU seconds used by the machine since it started: every column of /proc/stat but idle, I/O wait and the two guest
/// columns, which are counted in the first two already. The unit is 1/100 s on every architecture that we run on.
fn host_cpu_used_s(proc: &Path) -> Option<f64> {
    let text = fs::read_to_string(proc.join("stat")).ok()?;
    let columns: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|column| column.parse().ok())
        .collect();
    let busy = columns
        .iter()
        .take(8)
        .enumerate()
        .filter(|(place, _)| !matches!(place, 3 | 4));
    (columns.len() >= 4).then(|| busy.map(|(_, ticks)| *ticks).sum::<u64>() as f64 / 100.0)
}

/// Bytes received and sent on all interfaces but loopback.
fn network(proc: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(proc.join("net/dev")).ok()?;
    let counters = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let columns: Vec<u64> = rest
            .split_whitespace()
            .map_while(|column| column.parse().ok())
            .collect();
        (name.trim() != "lo" && columns.len() >= 9).then(|| (columns[0], columns[8]))
    });
    Some(
        counters.fold((0, 0), |(received, sent), (more_received, more_sent)| {
            (received + more_received, sent + more_sent)
        }),
    )
}

/// A file that holds one number; `max` and negative numbers are none.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number after a key at the start of a line.
fn value(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == key)
            .then(|| words.next()?.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests;
