//! The box's own figures: what the container may use and does use, from its cgroup; from /proc where there is no limit.
//!
//! A rented box is a container on someone's larger machine: `free` and `nproc` there tell about the machine. cgroup v2 is
//! asked first, then v1. Everything is read from kernel files that answer at once, except the disk, see [`disk`].

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;

use super::HostSample;

/// Limits at or above this are cgroup v1's way of saying `none` (2^63 rounded down to a page).
const NO_LIMIT: u64 = 1 << 60;

/// Reads the host; remembers what rates need.
#[derive(Debug)]
pub struct HostReader {
    proc: PathBuf,
    cgroup: PathBuf,
    levels: Option<Levels>,
    last_cpu: Option<(Instant, f64)>,
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
        }
    }

    /// All figures but the disk. CPU use is a rate: the first reading has none.
    pub fn read(&mut self) -> HostSample {
        let levels = self
            .levels
            .get_or_insert_with(|| find_levels(&self.proc, &self.cgroup))
            .clone();
        let memory = levels.memory().or_else(|| host_memory(&self.proc));
        let network = network(&self.proc);
        HostSample {
            cpu_percent: self.cpu_percent(&levels),
            cpu_limit_cores: levels.cpu_quota_cores().or_else(affinity_cores),
            memory_used_bytes: memory.map(|memory| memory.used_bytes),
            memory_limit_bytes: memory.map(|memory| memory.limit_bytes),
            disk_free_bytes: None,
            disk_total_bytes: None,
            network_rx_bytes: network.map(|(received, _)| received),
            network_tx_bytes: network.map(|(_, sent)| sent),
            oom_kills: levels.oom_kills(),
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
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A directory tree in the place of /proc and /sys/fs/cgroup.
    fn read(files: &[(&str, &str)]) -> HostSample {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        HostReader::of(root.path().join("proc"), root.path().join("cgroup")).read()
    }

    const MACHINE: [(&str, &str); 3] = [
        (
            "proc/meminfo",
            "MemTotal:       1073741824 kB\nMemFree: 5 kB\nMemAvailable:   536870912 kB\n",
        ),
        (
            "proc/stat",
            "cpu  100 20 30 4000 50 6 7 8 9 10\ncpu0 1 2 3 4\n",
        ),
        (
            "proc/net/dev",
            "Inter-|   Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0:100 1 0 0 0 0 0 0 40 1 0 0 0 0 0 0\n  eth1: 11 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n",
        ),
    ];

    #[test]
    fn a_container_under_cgroup_v2_has_its_own_limits() {
        let mut files = MACHINE.to_vec();
        files.extend([
            ("proc/self/cgroup", "0::/\n"),
            ("cgroup/cgroup.controllers", "cpu memory\n"),
            ("cgroup/memory.max", "68719476736\n"),
            ("cgroup/memory.current", "10737418240\n"),
            (
                "cgroup/memory.stat",
                "anon 1\ninactive_file 2147483648\nactive_file 5\n",
            ),
            (
                "cgroup/memory.events",
                "low 0\noom 3\noom_kill 2\noom_group_kill 9\n",
            ),
            ("cgroup/cpu.max", "2720000 100000\n"),
            ("cgroup/cpu.stat", "usage_usec 1000000\n"),
        ]);
        let sample = read(&files);
        assert_eq!(sample.memory_limit_bytes, Some(64 * GIB));
        assert_eq!(sample.memory_used_bytes, Some(8 * GIB));
        assert_eq!(sample.oom_kills, Some(2));
        assert_eq!(sample.cpu_limit_cores, Some(27.2));
        assert_eq!(
            (sample.network_rx_bytes, sample.network_tx_bytes),
            (Some(111), Some(42))
        );
        assert_eq!(sample.cpu_percent, None, "a rate needs two readings");
    }

    #[test]
    fn the_tightest_of_nested_limits_counts() {
        let mut files = MACHINE.to_vec();
        files.extend([
            ("proc/self/cgroup", "0::/user/session\n"),
            ("cgroup/cgroup.controllers", ""),
            ("cgroup/user/session/memory.max", "max\n"),
            ("cgroup/user/session/memory.current", "1\n"),
            ("cgroup/user/memory.max", "4294967296\n"),
            ("cgroup/user/memory.current", "1073741824\n"),
            ("cgroup/user/cpu.max", "150000 100000\n"),
            ("cgroup/cpu.max", "max 100000\n"),
        ]);
        let sample = read(&files);
        assert_eq!(
            (sample.memory_used_bytes, sample.memory_limit_bytes),
            (Some(GIB), Some(4 * GIB))
        );
        assert_eq!(sample.cpu_limit_cores, Some(1.5));
    }

    #[test]
    fn cgroup_v1_is_read_where_there_is_no_v2_even_if_its_path_is_only_valid_outside() {
        let mut files = MACHINE.to_vec();
        files.extend([
            (
                "proc/self/cgroup",
                "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
            ),
            ("cgroup/memory/memory.limit_in_bytes", "2147483648\n"),
            ("cgroup/memory/memory.usage_in_bytes", "1610612736\n"),
            (
                "cgroup/memory/memory.stat",
                "inactive_file 1\ntotal_inactive_file 536870912\n",
            ),
            (
                "cgroup/memory/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            ),
            ("cgroup/cpu/cpu.cfs_quota_us", "400000\n"),
            ("cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        let sample = read(&files);
        assert_eq!(
            (sample.memory_used_bytes, sample.memory_limit_bytes),
            (Some(GIB), Some(2 * GIB))
        );
        assert_eq!(
            (sample.cpu_limit_cores, sample.oom_kills),
            (Some(4.0), Some(1))
        );
    }

    #[test]
    fn without_a_limit_the_machine_counts() {
        for cgroup in [
            &[][..],
            &[
                (
                    "cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ],
            &[
                ("cgroup/cgroup.controllers", ""),
                ("cgroup/memory.max", "max\n"),
            ],
        ] {
            let sample = read(&[&MACHINE[..], cgroup].concat());
            assert_eq!(sample.memory_limit_bytes, Some(1024 * GIB), "{cgroup:?}");
            assert_eq!(sample.memory_used_bytes, Some(512 * GIB), "{cgroup:?}");
            assert!(sample.cpu_limit_cores.unwrap() >= 1.0);
            assert_eq!(sample.oom_kills, None);
        }
    }

    #[test]
    fn an_empty_proc_gives_an_empty_sample() {
        let sample = read(&[]);
        assert_eq!(
            HostSample {
                cpu_limit_cores: sample.cpu_limit_cores,
                ..HostSample::default()
            },
            sample
        );
    }

    #[test]
    fn cpu_use_is_the_difference_between_two_readings() {
        let root = tempfile::tempdir().unwrap();
        let stat = root.path().join("stat");
        let mut reader = HostReader::of(root.path(), root.path().join("none"));
        fs::write(&stat, "cpu  100 0 0 4000\n").unwrap();
        assert_eq!(reader.read().cpu_percent, None);
        // 200 busy ticks are two CPU seconds; the time between the readings is at most this test's.
        fs::write(&stat, "cpu  300 0 0 9000\n").unwrap();
        assert!(reader.read().cpu_percent.unwrap() > 0.0);
        // Counters that went backwards (a migrated container) give no rate.
        fs::write(&stat, "cpu  10 0 0 9000\n").unwrap();
        assert_eq!(reader.read().cpu_percent, None);
    }

    #[test]
    fn the_disk_of_a_directory_that_does_not_exist_yet_is_its_parents() {
        let root = tempfile::tempdir().unwrap();
        let found = disk(&root.path().join("not/yet")).unwrap();
        assert_eq!(found.total_bytes, disk(root.path()).unwrap().total_bytes);
        assert!(found.free_bytes <= found.total_bytes && found.total_bytes > 0);
    }
}
