//! The busiest processes of the box: in a container, all that can be seen are the user's own.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use super::super::ProcessSample;
use spotter_bucket::sorted::sort_by;

/// How many are told of.
const MOST: usize = 5;
/// Unit of times in /proc/PID/stat on every architecture that we run on.
const TICKS_PER_S: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;
/// Less than this is not told of, percent of one core.
const LEAST_PERCENT: f32 = 1.0;

/// Looks at all processes; remembers what rates need.
#[derive(Debug)]
pub struct ProcessReader {
    proc: PathBuf,
    /// When the last look was, and what it found.
    last: Option<(Instant, Ticks)>,
    blocked: u32,
}

/// CPU ticks of each process by its id and start: ids are used again.
type Ticks = HashMap<(i32, u64), u64>;

impl Default for ProcessReader {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            last: None,
            blocked: 0,
        }
    }
}

impl ProcessReader {
    /// Processes that waited for a disk, or for a file system that is one of another machine, at the last look.
    pub fn blocked(&self) -> u32 {
        self.blocked
    }

    /// Those that used most CPU since the last look, busiest first; the first look gives nothing. This program is left out.
    pub fn read(&mut self, now: Instant) -> Vec<ProcessSample> {
        let mut ticks = Ticks::new();
        let mut found = Vec::new();
        let before = self.last.take();
        self.blocked = 0;
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        for entry in fs::read_dir(&self.proc).into_iter().flatten().flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let Some(pid) = pid.filter(|pid| *pid != own) else {
                continue;
            };
            let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok() else {
                continue;
            };
            let Some(stat) = Stat::parse(&stat) else {
                continue;
            };
            self.blocked += u32::from(stat.state == "D");
            let id = (pid, stat.started);
            if let Some((then, known)) = &before
                // One that began since is measured by all that it used.
                && let more = stat.ticks.saturating_sub(known.get(&id).copied().unwrap_or(0))
                && more > 0
            {
                let seconds = now.duration_since(*then).as_secs_f64().max(0.001);
                found.push(ProcessSample {
                    pid,
                    name: stat.name.to_owned(),
                    cpu_percent: (more as f64 / TICKS_PER_S / seconds * 100.0) as f32,
                    memory_bytes: stat.pages * PAGE_BYTES,
                });
            }
            ticks.insert(id, stat.ticks);
        }
        self.last = Some((now, ticks));
        found.retain(|process| process.cpu_percent >= LEAST_PERCENT);
        sort_by(&mut found, |a, b| b.cpu_percent.total_cmp(&a.cpu_percent));
        found.truncate(MOST);
        found
    }
}

/// What is wanted of /proc/PID/stat.
struct Stat<'a> {
    name: &'a str,
    /// One letter; D waits for a disk and hears no signal.
    state: &'a str,
    /// CPU time, its own.
    ticks: u64,
    started: u64,
    /// Resident pages.
    pages: u64,
}

impl<'a> Stat<'a> {
    /// The name stands in brackets, and may hold brackets and blanks.
    fn parse(text: &'a str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let columns: Vec<&str> = after.split_whitespace().collect();
        let number = |column: usize| columns.get(column)?.parse::<u64>().ok();
        Some(Self {
            name,
            state: columns.first().copied()?,
            ticks: number(11)? + number(12)?,
            started: number(19)?,
            pages: number(21).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_busiest_come_first_and_a_reused_number_is_another_process() {
        let root = tempfile::tempdir().unwrap();
        let put = |pid: u32, name: &str, ticks: u64, started: u64| {
            let state = if name == "idle" { "D" } else { "S" };
            let dir = root.path().join(pid.to_string());
            fs::create_dir_all(&dir).unwrap();
            let stat = format!(
                "{pid} ({name}) {state} 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {started} 9999 256 18446744073709551615\n"
            );
            fs::write(dir.join("stat"), stat).unwrap();
        };
        let mut reader = ProcessReader {
            proc: root.path().into(),
            last: None,
            blocked: 0,
        };
        put(10, "python (a) b", 1000, 5);
        put(11, "idle", 50, 5);
        put(12, "old", 90_000, 5);
        let start = Instant::now();
        assert!(reader.read(start).is_empty());
        assert_eq!(reader.blocked(), 1);

        put(10, "python (a) b", 1995, 5);
        put(12, "new", 100, 77);
        let found = reader.read(start + Duration::from_secs(10));
        let told: Vec<_> = found
            .iter()
            .map(|one| (one.pid, one.name.as_str(), one.cpu_percent))
            .collect();
        assert_eq!(told, [(10, "python (a) b", 99.5), (12, "new", 10.0)]);
        assert_eq!(found[0].memory_bytes, 1 << 20);
    }

    #[test]
    fn no_more_than_a_few_are_told_of() {
        let mut reader = ProcessReader::default();
        reader.read(Instant::now());
        assert!(reader.read(Instant::now()).len() <= MOST);
    }
}
