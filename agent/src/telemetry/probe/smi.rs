//! Second best: `nvidia-smi`, where the probe cannot be started or finds no library. It prints a table again and again,
//! which is read like the probe's frames; it has fewer values and no errors as they happen.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nvml_probe::{Gpu, GpuInfo, Hello};
use serde_json::json;

use super::{Supervision, Waited, reap};

/// One unknown name fails the whole query, so these are the ones that every driver of the last ten years knows.
const QUERY: &str = "--query-gpu=index,uuid,name,pci.bus_id,driver_version,utilization.gpu,utilization.memory,\
memory.total,memory.used,power.draw,enforced.power.limit,temperature.gpu,clocks.sm,clocks.mem,pstate,fan.speed";

/// Columns of [`QUERY`].
const COLUMNS: usize = 16;

/// Where it is besides the search path: container toolkits, device plugins, WSL, GKE.
const PLACES: [&str; 6] = [
    "/usr/bin/nvidia-smi",
    "/usr/local/bin/nvidia-smi",
    "/usr/local/nvidia/bin/nvidia-smi",
    "/usr/lib/wsl/lib/nvidia-smi",
    "/opt/nvidia/bin/nvidia-smi",
    "/home/kubernetes/bin/nvidia/bin/nvidia-smi",
];

/// A longer text without a line end is none of its tables.
const MOST_LINE_BYTES: usize = 64 << 10;

/// How long it is read before the probe gets another chance.
const TERM: Duration = Duration::from_secs(15 * 60);

/// How a life of it ended.
pub enum Second {
    /// We were told to stop.
    Stopped,
    /// There is none on this box.
    Missing,
    /// It gave readings, until its term or its own end.
    Worked,
    /// It gave nothing.
    Failed(String),
}

impl Supervision {
    /// Reads `nvidia-smi` until it ends, its term is over or we are told to stop. `why` is what the probe lacks, `told` what was told
    /// of that. A process that could not be killed is handed back: the next one would only stand beside it.
    pub(super) fn second_best(
        &self,
        why: &str,
        environment: &[(OsString, OsString)],
        told: &mut Option<String>,
    ) -> (Second, Option<Child>) {
        let chosen = self.config.smi.iter().cloned();
        let usual = PLACES.iter().map(PathBuf::from);
        let mut places: Vec<PathBuf> = match self.config.smi {
            Some(_) => chosen.collect(),
            None => usual.collect(),
        };
        places.retain(|place| place.exists());
        let Some(program) = places.first() else {
            return (Second::Missing, None);
        };
        let mut command = Command::new(program);
        command
            .arg0("nvidia-smi")
            .arg(QUERY)
            .args(["--format=csv,noheader,nounits", "-lms"])
            .arg(self.interval.as_millis().to_string())
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(err) => {
                return (Second::Failed(format!("it cannot be started: {err}")), None);
            }
        };
        let stdout = child.stdout.take().expect("it was started with a pipe");
        let end = self.read_tables(stdout, why, told);
        match reap(&mut child, Duration::ZERO) {
            Some(_) => (end, None),
            None => (end, Some(child)),
        }
    }

    fn read_tables(
        &self,
        mut stdout: std::process::ChildStdout,
        why: &str,
        told: &mut Option<String>,
    ) -> Second {
        let over = Instant::now() + TERM;
        let (mut table, mut text) = (Table::default(), Vec::new());
        let mut piece = [0; 8 << 10];
        let mut worked = false;
        let ended = |worked, how: String| match worked {
            true => Second::Worked,
            false => Second::Failed(how),
        };
        loop {
            let patience = if worked {
                self.config.next_frame
            } else {
                self.config.first_frame
            };
            if Instant::now() >= over {
                return Second::Worked;
            }
            match self.wait_for(&stdout, Instant::now() + patience) {
                Waited::Readable => {}
                Waited::Stop => return Second::Stopped,
                Waited::TimedOut => {
                    return ended(
                        worked,
                        format!("it said nothing for {} s", patience.as_secs()),
                    );
                }
            }
            match stdout.read(&mut piece) {
                Ok(0) => return ended(worked, table.complaint("it ended")),
                Ok(length) => text.extend_from_slice(&piece[..length]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return ended(worked, format!("it cannot be read: {err}")),
            }
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let Some(rows) = table.line(&String::from_utf8_lossy(&line)) else {
                    continue;
                };
                if !worked {
                    worked = true;
                    self.board.greet(&hello(&rows));
                    let detail = json!({ "reason": why, "reads": "nvidia-smi" });
                    if told.as_deref() != Some(why) {
                        self.board.tell("gpu.fallback", detail);
                        *told = Some(why.to_owned());
                    }
                }
                self.board
                    .update(rows.into_iter().map(|row| row.gpu).collect());
            }
            if text.len() > MOST_LINE_BYTES {
                return ended(worked, "it prints no table".to_owned());
            }
        }
    }
}

/// One line about one GPU.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    info: GpuInfo,
    driver: String,
    gpu: Gpu,
}

/// Lines become tables: one is whole when it has as many lines as the last one, or the next one begins.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
    /// Lines of a whole table; 0: not known yet.
    height: usize,
    /// What it said instead.
    said: Option<String>,
}

impl Table {
    /// Takes a line; a whole table comes back.
    fn line(&mut self, line: &str) -> Option<Vec<Row>> {
        let Some(row) = row(line) else {
            let line = line.trim();
            if !line.is_empty() {
                self.said
                    .get_or_insert_with(|| line.chars().take(200).collect());
            }
            return None;
        };
        let begins = self
            .rows
            .last()
            .is_some_and(|last| last.gpu.index >= row.gpu.index);
        if begins {
            // Fewer or more than before: a GPU went or came. The table that ended here says how many.
            self.height = self.rows.len();
            let whole = std::mem::replace(&mut self.rows, vec![row]);
            return match self.height {
                // The new line is a table by itself, and fresher.
                1 => Some(std::mem::take(&mut self.rows)),
                _ => Some(whole),
            };
        }
        self.rows.push(row);
        (self.rows.len() == self.height).then(|| std::mem::take(&mut self.rows))
    }

    fn complaint(&self, otherwise: &str) -> String {
        match &self.said {
            Some(said) => format!("it says: {said}"),
            None => otherwise.to_owned(),
        }
    }
}

fn hello(rows: &[Row]) -> Hello {
    Hello {
        driver: rows
            .first()
            .map(|row| row.driver.clone())
            .unwrap_or_default(),
        library: "nvidia-smi".to_owned(),
        gpus: rows.iter().map(|row| row.info.clone()).collect(),
        cuda: 0,
    }
}

/// `0, GPU-5c1…, NVIDIA A10, 00000000:1B:00.0, 535.1, 97, 41, 23028, 20000, 148.21, 150.00, 63, 1695, 6251, P0, [N/A]`
fn row(line: &str) -> Option<Row> {
    let columns: Vec<&str> = line.trim().split(", ").map(str::trim).collect();
    if columns.len() != COLUMNS {
        return None;
    }
    let index = columns[0].parse().ok()?;
    // Anything in brackets is no value: `[N/A]`, `[Not Supported]`, `[Unknown Error]`.
    let number = |column: usize| columns[column].trim_start_matches('P').parse::<f64>().ok();
    let whole = |column: usize| number(column).map(|value| value as u32);
    let bytes = |column: usize| number(column).map(|value| value as u64 * (1 << 20));
    let milli = |column: usize| number(column).map(|value| (value * 1000.0).round() as u32);
    let lost = columns.iter().any(|column| column.contains("GPU is lost"));
    let gpu = Gpu {
        index,
        error: if lost { 15 } else { 0 },
        utilisation_percent: whole(5),
        memory_busy_percent: whole(6),
        memory_total_bytes: bytes(7),
        memory_used_bytes: bytes(8),
        power_mw: milli(9),
        power_limit_mw: milli(10),
        temperature_c: whole(11),
        sm_clock_mhz: whole(12),
        memory_clock_mhz: whole(13),
        performance_state: whole(14),
        fan_percent: whole(15),
        ..Gpu::default()
    };
    let text = |column: usize| match columns[column] {
        text if text.starts_with('[') => String::new(),
        text => text.to_owned(),
    };
    let info = GpuInfo {
        index,
        uuid: text(1),
        name: text(2),
        pci_bus_id: text(3),
        ..GpuInfo::default()
    };
    Some(Row {
        info,
        driver: text(4),
        gpu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "0, GPU-5c1e, NVIDIA A10, 00000000:1B:00.0, 535.161.08, 97, 41, 23028, 20000, 148.21, 150.00, 63, 1695, 6251, P2, [N/A]\n";

    #[test]
    fn a_line_is_read_in_our_units_and_brackets_are_no_value() {
        let found = row(LINE).unwrap();
        assert_eq!(
            (found.driver.as_str(), found.info.name.as_str()),
            ("535.161.08", "NVIDIA A10")
        );
        let gpu = &found.gpu;
        assert_eq!(
            (gpu.utilisation_percent, gpu.memory_busy_percent),
            (Some(97), Some(41))
        );
        assert_eq!(
            (gpu.memory_used_bytes, gpu.memory_total_bytes),
            (Some(20_000 << 20), Some(23_028 << 20))
        );
        assert_eq!(
            (gpu.power_mw, gpu.power_limit_mw),
            (Some(148_210), Some(150_000))
        );
        assert_eq!(
            (gpu.temperature_c, gpu.performance_state, gpu.fan_percent),
            (Some(63), Some(2), None)
        );
        assert_eq!(
            (gpu.sm_clock_mhz, gpu.memory_clock_mhz, gpu.error),
            (Some(1695), Some(6251), 0)
        );
        let lost = LINE.replace("97, 41", "[GPU is lost], [GPU is lost]");
        assert_eq!(row(&lost).unwrap().gpu.error, 15);
        for nonsense in [
            "",
            "No devices were found",
            "a, b, c",
            &LINE.replace("0, GPU", "x, GPU"),
        ] {
            assert_eq!(row(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn lines_become_tables_as_soon_as_their_height_is_known() {
        let mut table = Table::default();
        let second = LINE.replacen('0', "1", 1);
        let mut feed = |line: &str| {
            table
                .line(line)
                .map(|rows| rows.iter().map(|row| row.gpu.index).collect::<Vec<_>>())
        };
        assert_eq!((feed(LINE), feed(&second)), (None, None));
        assert_eq!(feed(LINE), Some(vec![0, 1]), "the next one began");
        assert_eq!(feed(&second), Some(vec![0, 1]), "two lines are a table");
        assert_eq!(feed(LINE), None);
        assert_eq!(feed(LINE), Some(vec![0]), "one went");
        assert_eq!(feed("Unable to determine the device handle"), None);
        assert_eq!(
            table.complaint("x"),
            "it says: Unable to determine the device handle"
        );
    }
}
