//! What one reading of the box holds. The numbers of a GPU are the probe's own, see [`Gpu`].

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use nvml_probe::{Folding, Gpu};
use prost::Message;

/// One reading of the box.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// When, microseconds since the epoch by the box's clock; of a span: when it ended.
    pub time_us: u64,
    /// Seconds that it stands for, with means of what varies; 0: it is one reading.
    pub span_s: u32,
    /// Every GPU by index; empty while there is no telemetry (then [`super::Telemetry::gpu_problem`] says why).
    pub gpus: Vec<GpuSample>,
    /// The container, or the host where there is no container limit.
    pub host: Option<HostSample>,
    /// The busiest processes of the last ten seconds, by CPU; none in a span.
    pub processes: Vec<ProcessSample>,
}

/// One reading of one GPU, with its names. The values are those of [`Gpu`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GpuSample {
    /// Product name; shared, because it is the same in every sample.
    pub name: Arc<str>,
    /// NVML UUID; shared likewise.
    pub uuid: Arc<str>,
    /// The values.
    pub reading: Gpu,
}

impl GpuSample {
    /// Memory in use and in all, bytes: of a GPU that is split, of the part that is nearest to its end.
    pub fn memory_bytes(&self) -> Option<(u64, u64)> {
        let share = |(used, total): (u64, u64)| used as f64 / total.max(1) as f64;
        let parts = self
            .mig
            .iter()
            .filter_map(|part| part.memory_used_bytes.zip(part.memory_total_bytes));
        let fullest = parts.reduce(|fullest, part| match share(part) > share(fullest) {
            true => part,
            false => fullest,
        });
        fullest.or(self.memory_used_bytes.zip(self.memory_total_bytes))
    }
}

impl Deref for GpuSample {
    type Target = Gpu;

    fn deref(&self) -> &Gpu {
        &self.reading
    }
}

impl DerefMut for GpuSample {
    fn deref_mut(&mut self) -> &mut Gpu {
        &mut self.reading
    }
}

/// One reading of the container's limits and use. Absent values could not be read.
#[derive(Clone, PartialEq, Message)]
pub struct HostSample {
    /// CPU use, percent of one core.
    #[prost(float, optional, tag = "1")]
    pub cpu_percent: Option<f32>,
    /// Cores this box may use; fractional under a quota.
    #[prost(float, optional, tag = "2")]
    pub cpu_limit_cores: Option<f32>,
    /// Memory in use without reclaimable page cache, bytes.
    #[prost(uint64, optional, tag = "3")]
    pub memory_used_bytes: Option<u64>,
    /// Memory limit: the container's, else the host's total, bytes.
    #[prost(uint64, optional, tag = "4")]
    pub memory_limit_bytes: Option<u64>,
    /// Free bytes on the file system of the working directory.
    #[prost(uint64, optional, tag = "5")]
    pub disk_free_bytes: Option<u64>,
    /// Size of that file system, bytes.
    #[prost(uint64, optional, tag = "6")]
    pub disk_total_bytes: Option<u64>,
    /// Bytes received since boot on all interfaces but loopback.
    #[prost(uint64, optional, tag = "7")]
    pub network_rx_bytes: Option<u64>,
    /// Bytes sent since boot, likewise.
    #[prost(uint64, optional, tag = "8")]
    pub network_tx_bytes: Option<u64>,
    /// OOM kills counted by the box's memory cgroup since it was made.
    #[prost(uint64, optional, tag = "9")]
    pub oom_kills: Option<u64>,
    /// Time in which a CPU quota held the box back since its cgroup was made, microseconds.
    #[prost(uint64, optional, tag = "10")]
    pub cpu_throttled_us: Option<u64>,
    /// Share of the last 10 s in which something waited for a CPU, percent (PSI), as in the next two.
    #[prost(float, optional, tag = "11")]
    pub cpu_pressure_percent: Option<f32>,
    /// Share in which something waited for memory.
    #[prost(float, optional, tag = "12")]
    pub memory_pressure_percent: Option<f32>,
    /// Share in which something waited for a disk.
    #[prost(float, optional, tag = "13")]
    pub io_pressure_percent: Option<f32>,
    /// Times that memory in use ran into the limit since the cgroup was made.
    #[prost(uint64, optional, tag = "14")]
    pub memory_limit_hits: Option<u64>,
    /// Read from disks, bytes per second; the machine's where the container's is not counted.
    #[prost(uint64, optional, tag = "15")]
    pub disk_read_bytes_per_s: Option<u64>,
    /// Written to disks, likewise.
    #[prost(uint64, optional, tag = "16")]
    pub disk_write_bytes_per_s: Option<u64>,
    /// Received on all interfaces but loopback, bytes per second.
    #[prost(uint64, optional, tag = "17")]
    pub network_rx_bytes_per_s: Option<u64>,
    /// Sent, likewise.
    #[prost(uint64, optional, tag = "18")]
    pub network_tx_bytes_per_s: Option<u64>,
    /// Free bytes of /dev/shm, through which data loaders hand their batches.
    #[prost(uint64, optional, tag = "19")]
    pub shm_free_bytes: Option<u64>,
    /// Size of /dev/shm.
    #[prost(uint64, optional, tag = "20")]
    pub shm_total_bytes: Option<u64>,
    /// Processes that waited for a disk, in state D, when all were last looked at. For the judgement on the box alone: it is not told.
    #[prost(uint32, optional, tag = "21")]
    pub processes_blocked: Option<u32>,
    /// The pressure of the disk is that of the whole machine, neighbours and all. For the judgement on the box alone, as the next.
    #[prost(bool, optional, tag = "22")]
    pub pressure_of_machine: Option<bool>,
    /// What is read from and written to disks is that of the whole machine.
    #[prost(bool, optional, tag = "23")]
    pub disks_of_machine: Option<bool>,
}

impl HostSample {
    /// How the number with this tag is folded.
    pub fn folding(tag: u32) -> Folding {
        match tag {
            1 | 11..=13 | 15..=18 => Folding::Mean,
            // What kills is the peak.
            3 | 21 => Folding::Largest,
            _ => Folding::Last,
        }
    }
}

/// A process on the box that has much to do.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessSample {
    /// Process id on the box.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Its name, at most 15 bytes.
    #[prost(string, tag = "2")]
    pub name: String,
    /// CPU use, percent of one core.
    #[prost(float, tag = "3")]
    pub cpu_percent: f32,
    /// Memory of its own in use, bytes.
    #[prost(uint64, tag = "4")]
    pub memory_bytes: u64,
}
