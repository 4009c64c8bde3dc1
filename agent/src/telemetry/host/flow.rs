//! Rates of disks and network, and pressure (PSI): what flows, and what waits.

use std::fs;
use std::path::Path;
use std::time::Instant;

/// Bytes of a sector in /proc/diskstats, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;

/// What rates need of the last reading: disk read and written, network received and sent.
#[derive(Debug, Default)]
pub struct Flow(Option<(Instant, [Option<u64>; 4])>);

impl Flow {
    /// Bytes per second since the last reading; none at first, and none of a counter that went backwards.
    pub fn rates(
        &mut self,
        now: Instant,
        disk: Option<(u64, u64)>,
        network: Option<(u64, u64)>,
    ) -> [Option<u64>; 4] {
        let ((read, written), (received, sent)) = (disk.unzip(), network.unzip());
        let counters = [read, written, received, sent];
        let Some((then, before)) = self.0.replace((now, counters)) else {
            return [None; 4];
        };
        let seconds = now.duration_since(then).as_secs_f64();
        let mut rates = [None; 4];
        for ((rate, before), now) in rates.iter_mut().zip(before).zip(counters) {
            let more = now
                .zip(before)
                .and_then(|(now, before)| now.checked_sub(before));
            *rate = more
                .filter(|_| seconds > 0.0)
                .map(|bytes| (bytes as f64 / seconds) as u64);
        }
        rates
    }
}

/// `8:0 rbytes=90112 wbytes=4096 rios=…` of every disk. A root cgroup has no such lines, and counts nothing.
pub fn io_stat(file: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(file).ok()?;
    let sum = |key: &str| {
        let values = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
        values.sum::<u64>()
    };
    (!text.trim().is_empty()).then(|| (sum("rbytes="), sum("wbytes=")))
}

/// `8:0 Read 90112` of every disk; version 1 of cgroups.
pub fn service_bytes(file: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(file).ok()?;
    let sum = |kind: &str| {
        let values = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            (words.next()? == kind).then(|| words.next()?.parse::<u64>().ok())?
        });
        values.sum::<u64>()
    };
    text.contains("Read").then(|| (sum("Read"), sum("Write")))
}

/// Bytes read from and written to the machine's whole disks, by /proc/diskstats: partitions and layers above a disk would
/// count the same bytes again.
pub fn disk_bytes(proc: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(proc.join("diskstats")).ok()?;
    let mut disks = text.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let name = *columns.get(2)?;
        let whole = if name.starts_with("nvme") {
            !name.contains('p')
        } else {
            ["sd", "vd", "xvd", "hd"]
                .iter()
                .any(|kind| name.starts_with(kind))
                && !name.ends_with(|last: char| last.is_ascii_digit())
        };
        let sectors = |column: usize| columns.get(column)?.parse::<u64>().ok();
        whole.then_some(())?;
        Some((sectors(5)? * SECTOR_BYTES, sectors(9)? * SECTOR_BYTES))
    });
    let first = disks.next()?;
    Some(
        disks.fold(first, |(read, written), (more_read, more_written)| {
            (read + more_read, written + more_written)
        }),
    )
}

/// Share of the last 10 s in which something waited, percent: the box's own, else the machine's; and whether it is the machine's.
pub fn pressure(cgroup: Option<&Path>, proc: &Path, what: &str) -> Option<(f32, bool)> {
    let own = cgroup.and_then(|dir| fs::read_to_string(dir.join(format!("{what}.pressure"))).ok());
    let of_machine = own.is_none();
    let text = own.or_else(|| fs::read_to_string(proc.join("pressure").join(what)).ok())?;
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let word = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?;
    Some((word.parse().ok()?, of_machine))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rates_are_differences_over_time() {
        let (mut flow, start) = (Flow::default(), Instant::now());
        let mut at = |seconds, disk, network| {
            flow.rates(start + Duration::from_secs(seconds), disk, network)
        };
        assert_eq!(at(0, Some((0, 100)), Some((5, 5))), [None; 4]);
        assert_eq!(
            at(2, Some((2000, 100)), Some((4, 25))),
            [Some(1000), Some(0), None, Some(10)]
        );
        assert_eq!(at(3, None, Some((14, 25))), [None, None, Some(10), Some(0)]);
    }

    #[test]
    fn disks_are_counted_once_in_every_form() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let v2 = "8:0 rbytes=100 wbytes=7 rios=1 wios=1 dbytes=9 dios=0\n259:0 rbytes=1 wbytes=2\n";
        assert_eq!(io_stat(&file("io.stat", v2)), Some((101, 9)));
        assert_eq!(io_stat(&file("io.stat", "\n")), None);
        let v1 = "8:0 Read 100\n8:0 Write 7\n8:0 Total 107\n8:16 Read 1\n8:16 Write 2\nTotal 110\n";
        assert_eq!(service_bytes(&file("v1", v1)), Some((101, 9)));
        assert_eq!(service_bytes(&file("v1", "Total 0\n")), None);
        let stats = "   8  0 sda 1 0 10 0 1 0 20 0 0 0 0\n   8  1 sda1 1 0 10 0 1 0 20 0 0 0 0\n \
            259 0 nvme0n1 1 0 1 0 1 0 2 0 0 0 0\n 259 1 nvme0n1p1 1 0 1 0 1 0 2 0 0 0 0\n 7 0 loop0 1 0 9 0 0 0 0 0 0 0 0\n";
        file("diskstats", stats);
        assert_eq!(disk_bytes(dir.path()), Some((11 * 512, 22 * 512)));
    }
}
