//! What one reading of the box holds. The numbers of a GPU are the probe's own, see [`Gpu`].

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use nvml_probe::Gpu;
use prost::Message;

/// One reading of the box.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When, microseconds since the epoch by the box's clock.
    pub time_us: u64,
    /// Every GPU by index; empty while there is no telemetry (then [`super::Telemetry::gpu_problem`] says why).
    pub gpus: Vec<GpuSample>,
    /// The container, or the host where there is no container limit.
    pub host: Option<HostSample>,
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
}
