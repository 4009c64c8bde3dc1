//! What is read of a box: GPUs, driver, container, processes (pure).

use serde::{Deserialize, Serialize};

/// One reading of a box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleInfo {
    /// When, microseconds since the epoch by the box's clock.
    pub time_us: u64,
    /// Every GPU.
    pub gpus: Vec<GpuInfo>,
    /// The container.
    pub host: Option<HostInfo>,
    /// Seconds that it stands for, with means of what varies; 0: it is one reading.
    pub span_s: u32,
    /// The busiest processes, by CPU; none in a span.
    pub processes: Vec<ProcessInfo>,
}

/// A process of the box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessInfo {
    /// Process id on the box.
    pub pid: i32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// CPU use, percent of one core.
    pub cpu_percent: f32,
    /// Memory of its own in use, bytes.
    pub memory_bytes: u64,
}

/// One GPU; what could not be read is `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "names carry the unit; the contract documents each"
)]
pub struct GpuInfo {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    /// NVML error code; 0: none.
    pub error: u32,
    pub utilisation_percent: Option<u32>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_mw: Option<u32>,
    pub temperature_c: Option<u32>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub throttle_reasons: Option<u64>,
    pub energy_mj: Option<u64>,
    pub memory_busy_percent: Option<u32>,
    pub memory_temperature_c: Option<u32>,
    pub performance_state: Option<u32>,
    pub sm_active_percent: Option<f32>,
    pub sm_occupancy_percent: Option<f32>,
    pub tensor_active_percent: Option<f32>,
    pub dram_active_percent: Option<f32>,
    #[serde(skip_deserializing)]
    pub mig: Vec<MigInfo>,
    pub power_limit_mw: Option<u32>,
    pub fan_percent: Option<u32>,
    pub pcie_tx_bytes_per_s: Option<u64>,
    pub pcie_rx_bytes_per_s: Option<u64>,
    pub pcie_replays: Option<u64>,
    pub pcie_generation: Option<u32>,
    pub pcie_width: Option<u32>,
    pub nvlink_tx_bytes_per_s: Option<u64>,
    pub nvlink_rx_bytes_per_s: Option<u64>,
    pub nvlinks_up: Option<u32>,
    pub nvlink_errors: Option<u64>,
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    pub ecc_corrected_lifetime: Option<u64>,
    pub ecc_uncorrected_lifetime: Option<u64>,
    pub remapped_rows_corrected: Option<u32>,
    pub remapped_rows_uncorrected: Option<u32>,
    pub remap_pending: Option<u32>,
    pub remap_failed: Option<u32>,
    pub retired_pages_corrected: Option<u32>,
    pub retired_pages_uncorrected: Option<u32>,
    pub retirement_pending: Option<u32>,
    pub recovery_action: Option<u32>,
    #[serde(skip_deserializing)]
    pub processes: Vec<GpuProcessInfo>,
    pub xid_count: u32,
    pub last_xid: u32,
    pub last_xid_us: u64,
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuProcessInfo {
    /// Process id on the host.
    pub pid: u32,
    /// GPU memory, where the driver tells.
    pub memory_bytes: Option<u64>,
}

/// One part of a GPU that is split by MIG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "names carry the unit; the contract documents each"
)]
pub struct MigInfo {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
}

/// The NVIDIA driver of the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriverInfo {
    /// Version, such as `580.82.07`; empty when it cannot be read.
    pub version: String,
    /// Newest CUDA version it runs, 1000 x major + 10 x minor; 0 when it cannot be read.
    pub cuda: u32,
    /// NVML library that was opened.
    pub library: String,
    /// Every GPU, by index.
    pub gpus: Vec<CardInfo>,
}

/// What is fixed about one GPU; what cannot be read is empty or 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "names carry the unit; the contract documents each"
)]
pub struct CardInfo {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    pub pci_bus_id: String,
    pub compute_capability: u32,
    pub vbios: String,
    pub max_sm_clock_mhz: u32,
    pub max_memory_clock_mhz: u32,
    pub mig: bool,
}

/// The container; what could not be read is `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "names carry the unit; the contract documents each"
)]
pub struct HostInfo {
    pub cpu_percent: Option<f32>,
    pub cpu_limit_cores: Option<f32>,
    pub memory_used_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub disk_free_bytes: Option<u64>,
    pub disk_total_bytes: Option<u64>,
    pub network_rx_bytes: Option<u64>,
    pub network_tx_bytes: Option<u64>,
    pub oom_kills: Option<u64>,
    pub cpu_throttled_us: Option<u64>,
    pub cpu_pressure_percent: Option<f32>,
    pub memory_pressure_percent: Option<f32>,
    pub io_pressure_percent: Option<f32>,
    pub memory_limit_hits: Option<u64>,
    pub disk_read_bytes_per_s: Option<u64>,
    pub disk_write_bytes_per_s: Option<u64>,
    pub network_rx_bytes_per_s: Option<u64>,
    pub network_tx_bytes_per_s: Option<u64>,
    pub shm_free_bytes: Option<u64>,
    pub shm_total_bytes: Option<u64>,
}
