//! An hour of samples in memory, packed: varints instead of structs, names kept once.
//!
//! 8 GPUs cost about 430 bytes a sample, 1.5 MB an hour; as plain structs it would be 5 MB, half of the agent's budget.

use std::collections::VecDeque;
use std::sync::Arc;

use nvml_probe::Gpu;
use prost::Message;

use super::{GpuSample, HostSample, Sample};

/// One hour at 1 Hz.
const CAPACITY: usize = 3600;

/// What does not change from sample to sample; shared by all samples between two changes.
type Names = Arc<[(Arc<str>, Arc<str>)]>;

#[derive(Debug, Clone)]
struct Entry {
    time_us: u64,
    names: Names,
    packed: Arc<[u8]>,
}

/// A ring of packed samples.
#[derive(Debug, Default)]
pub struct History {
    entries: VecDeque<Entry>,
}

impl History {
    /// Adds a sample and drops the oldest one beyond an hour.
    pub fn push(&mut self, sample: &Sample) {
        if self.entries.len() == CAPACITY {
            self.entries.pop_front();
        }
        let entry = Entry {
            time_us: sample.time_us,
            names: self.names_of(sample),
            packed: pack(sample),
        };
        self.entries.push_back(entry);
    }

    /// The newest sample.
    pub fn latest(&self) -> Option<Sample> {
        self.entries.back().map(unpack)
    }

    /// Samples later than a time, oldest first. Holds packed bytes only, until it is driven.
    pub fn since(&self, after_us: u64) -> Since {
        let start = self.start_after(after_us);
        Since(
            self.entries
                .range(start..)
                .cloned()
                .collect::<Vec<_>>()
                .into_iter(),
        )
    }

    /// Index of the first entry later than `after_us`. The box's clock may have been set back, so the search goes from the
    /// newest entry backwards instead of relying on order.
    fn start_after(&self, after_us: u64) -> usize {
        self.entries
            .iter()
            .rposition(|entry| entry.time_us <= after_us)
            .map_or(0, |last_seen| last_seen + 1)
    }

    fn names_of(&self, sample: &Sample) -> Names {
        let wanted = || sample.gpus.iter().map(|gpu| (&gpu.name, &gpu.uuid));
        match self.entries.back() {
            Some(last)
                if last
                    .names
                    .iter()
                    .map(|(name, uuid)| (name, uuid))
                    .eq(wanted()) =>
            {
                last.names.clone()
            }
            _ => wanted()
                .map(|(name, uuid)| (name.clone(), uuid.clone()))
                .collect(),
        }
    }
}

/// Samples of [`History::since`].
#[derive(Debug)]
pub struct Since(std::vec::IntoIter<Entry>);

impl Iterator for Since {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        self.0.next().as_ref().map(unpack)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Since {}

/// A sample without time and names.
#[derive(Clone, PartialEq, Message)]
struct Packed {
    #[prost(message, repeated, tag = "1")]
    gpus: Vec<Gpu>,
    #[prost(message, optional, tag = "2")]
    host: Option<HostSample>,
}

fn pack(sample: &Sample) -> Arc<[u8]> {
    let gpus = sample.gpus.iter().map(|gpu| gpu.reading.clone()).collect();
    let host = sample.host.clone();
    Packed { gpus, host }.encode_to_vec().into()
}

fn unpack(entry: &Entry) -> Sample {
    let packed = Packed::decode(&entry.packed[..]).expect("only `pack` made these bytes");
    let gpus = packed.gpus.into_iter().zip(entry.names.iter());
    Sample {
        time_us: entry.time_us,
        gpus: gpus
            .map(|(reading, (name, uuid))| GpuSample {
                name: name.clone(),
                uuid: uuid.clone(),
                reading,
            })
            .collect(),
        host: packed.host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(time_us: u64, gpus: u32) -> Sample {
        let gpu = |index| GpuSample {
            name: "NVIDIA H100 80GB HBM3".into(),
            uuid: format!("GPU-{index}").into(),
            reading: Gpu {
                index,
            error: 0,
            utilisation_percent: Some(97),
            memory_used_bytes: Some(64_000_000_000),
            memory_total_bytes: Some(85_520_809_984),
            power_mw: Some(612_345),
            temperature_c: Some(63),
            sm_clock_mhz: Some(1755),
            memory_clock_mhz: Some(2619),
            throttle_reasons: Some(0x24),
            energy_mj: Some(123_456_789_012),
                ..Gpu::default()
            },
        };
        let host = HostSample {
            cpu_percent: Some(1234.5),
            cpu_limit_cores: Some(27.2),
            memory_used_bytes: Some(123_456_789_012),
            memory_limit_bytes: Some(500_000_000_000),
            disk_free_bytes: Some(400_000_000_000),
            disk_total_bytes: Some(500_000_000_000),
            network_rx_bytes: Some(9_876_543_210),
            network_tx_bytes: Some(9_876_543_210),
            oom_kills: Some(1),
        };
        Sample {
            time_us,
            gpus: (0..gpus).map(gpu).collect(),
            host: Some(host),
        }
    }

    #[test]
    fn a_sample_comes_back_as_it_went_in() {
        let mut history = History::default();
        let lost = GpuSample {
            name: "x".into(),
            reading: Gpu {
                index: 1,
                error: 15,
                ..Gpu::default()
            },
            ..GpuSample::default()
        };
        let odd = Sample {
            time_us: 2,
            gpus: vec![full(0, 1).gpus[0].clone(), lost],
            host: None,
        };
        for sample in [full(1, 8), odd.clone()] {
            history.push(&sample);
            assert_eq!(history.latest(), Some(sample));
        }
        assert_eq!(history.since(0).collect::<Vec<_>>(), [full(1, 8), odd]);
    }

    #[test]
    fn since_gives_what_is_later_even_after_the_clock_was_set_back() {
        let mut history = History::default();
        for time_us in [10, 20, 30, 5, 6] {
            history.push(&full(time_us, 1));
        }
        let times = |after| {
            history
                .since(after)
                .map(|sample| sample.time_us)
                .collect::<Vec<_>>()
        };
        assert_eq!(times(0), [10, 20, 30, 5, 6]);
        assert_eq!(times(5), [6]);
        assert_eq!(times(6), [] as [u64; 0]);
        assert_eq!(History::default().since(0).len(), 0);
    }

    #[test]
    fn an_hour_of_eight_gpus_stays_within_two_megabytes_and_is_the_newest_hour() {
        let mut history = History::default();
        for second in 0..CAPACITY as u64 + 100 {
            history.push(&full(second * 1_000_000, 8));
        }
        assert_eq!(history.since(0).len(), CAPACITY);
        assert_eq!(
            history.since(0).next().map(|sample| sample.time_us),
            Some(100_000_000)
        );
        let heap: usize = history
            .entries
            .iter()
            .map(|entry| entry.packed.len() + 32 + size_of::<Entry>())
            .sum();
        assert!(heap < 2 << 20, "{heap} bytes");
        let names = &history.entries[0].names;
        assert!(
            history
                .entries
                .iter()
                .all(|entry| Arc::ptr_eq(names, &entry.names)),
            "names are kept once"
        );
    }
}
