//! One reading of one GPU as it goes over the pipe, and how many readings become one.

use prost::Message;

/// One reading of one GPU. Absent values are not supported, or failed this time.
///
/// The fields of the slow tier (from `power_limit_mw` on) are read every ten seconds and repeated in between.
#[derive(Clone, PartialEq, Message)]
pub struct Gpu {
    /// NVML index.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// NVML error code when the GPU as a whole cannot be read (15: fell off the bus); 0 otherwise.
    #[prost(uint32, tag = "2")]
    pub error: u32,
    /// Share of time in which a kernel ran, percent 0-100.
    #[prost(uint32, optional, tag = "3")]
    pub utilisation_percent: Option<u32>,
    /// Memory in use, bytes; without what the driver reserves where the driver tells them apart (R510 and later).
    #[prost(uint64, optional, tag = "4")]
    pub memory_used_bytes: Option<u64>,
    /// Memory in all, bytes.
    #[prost(uint64, optional, tag = "5")]
    pub memory_total_bytes: Option<u64>,
    /// Power draw at this instant, milliwatts; the mean of a second where the driver has only that.
    #[prost(uint32, optional, tag = "6")]
    pub power_mw: Option<u32>,
    /// Energy since the driver was loaded, millijoules. Volta and later.
    #[prost(uint64, optional, tag = "7")]
    pub energy_mj: Option<u64>,
    /// Core temperature, degrees Celsius.
    #[prost(uint32, optional, tag = "8")]
    pub temperature_c: Option<u32>,
    /// SM clock, MHz.
    #[prost(uint32, optional, tag = "9")]
    pub sm_clock_mhz: Option<u32>,
    /// Memory clock, MHz.
    #[prost(uint32, optional, tag = "10")]
    pub memory_clock_mhz: Option<u32>,
    /// Clocks-event-reasons bit mask: 0x1 idle, 0x4 software power cap, 0x8 hardware slowdown, 0x20 software thermal,
    /// 0x40 hardware thermal, 0x80 power brake.
    #[prost(uint64, optional, tag = "11")]
    pub throttle_reasons: Option<u64>,
    /// Share of time in which memory was read or written, percent 0-100.
    #[prost(uint32, optional, tag = "12")]
    pub memory_busy_percent: Option<u32>,
    /// Memory temperature, degrees Celsius; cards with HBM.
    #[prost(uint32, optional, tag = "13")]
    pub memory_temperature_c: Option<u32>,
    /// Performance state, 0 (fastest) to 15.
    #[prost(uint32, optional, tag = "14")]
    pub performance_state: Option<u32>,
    /// Share of cycles with at least one warp on an SM, mean over SMs, percent. GPM: Hopper and later, as the next three.
    #[prost(float, optional, tag = "15")]
    pub sm_active_percent: Option<f32>,
    /// Warps resident, of the most possible, percent.
    #[prost(float, optional, tag = "16")]
    pub sm_occupancy_percent: Option<f32>,
    /// Share of cycles with a tensor core at work, percent.
    #[prost(float, optional, tag = "17")]
    pub tensor_active_percent: Option<f32>,
    /// Memory bandwidth in use, of the most possible, percent.
    #[prost(float, optional, tag = "18")]
    pub dram_active_percent: Option<f32>,
    /// MIG devices, where the GPU is split.
    #[prost(message, repeated, tag = "19")]
    pub mig: Vec<MigDevice>,

    /// Power limit in force, milliwatts.
    #[prost(uint32, optional, tag = "20")]
    pub power_limit_mw: Option<u32>,
    /// First fan's intended speed, percent of its most; none on SXM cards.
    #[prost(uint32, optional, tag = "21")]
    pub fan_percent: Option<u32>,
    /// Sent over PCIe, bytes per second.
    #[prost(uint64, optional, tag = "22")]
    pub pcie_tx_bytes_per_s: Option<u64>,
    /// Received over PCIe, bytes per second.
    #[prost(uint64, optional, tag = "23")]
    pub pcie_rx_bytes_per_s: Option<u64>,
    /// PCIe replays since the last reset.
    #[prost(uint64, optional, tag = "24")]
    pub pcie_replays: Option<u64>,
    /// Present PCIe generation; falls when idle.
    #[prost(uint32, optional, tag = "25")]
    pub pcie_generation: Option<u32>,
    /// Present PCIe lanes.
    #[prost(uint32, optional, tag = "26")]
    pub pcie_width: Option<u32>,
    /// Data sent over all NVLinks, bytes per second.
    #[prost(uint64, optional, tag = "27")]
    pub nvlink_tx_bytes_per_s: Option<u64>,
    /// Data received over all NVLinks, bytes per second.
    #[prost(uint64, optional, tag = "28")]
    pub nvlink_rx_bytes_per_s: Option<u64>,
    /// NVLinks that are up.
    #[prost(uint32, optional, tag = "29")]
    pub nvlinks_up: Option<u32>,
    /// NVLink errors since the last reset: CRC, replays and recoveries.
    #[prost(uint64, optional, tag = "30")]
    pub nvlink_errors: Option<u64>,
    /// Memory errors that ECC corrected since the driver was loaded.
    #[prost(uint64, optional, tag = "31")]
    pub ecc_corrected: Option<u64>,
    /// Memory errors that ECC could not correct, likewise.
    #[prost(uint64, optional, tag = "32")]
    pub ecc_uncorrected: Option<u64>,
    /// Corrected in the card's life.
    #[prost(uint64, optional, tag = "33")]
    pub ecc_corrected_lifetime: Option<u64>,
    /// Uncorrected in the card's life.
    #[prost(uint64, optional, tag = "34")]
    pub ecc_uncorrected_lifetime: Option<u64>,
    /// Memory rows replaced after corrected errors. Ampere data-centre cards and later, as the next three.
    #[prost(uint32, optional, tag = "35")]
    pub remapped_rows_corrected: Option<u32>,
    /// Memory rows replaced after uncorrected errors.
    #[prost(uint32, optional, tag = "36")]
    pub remapped_rows_uncorrected: Option<u32>,
    /// A replacement waits for a reset: 0 or 1.
    #[prost(uint32, optional, tag = "37")]
    pub remap_pending: Option<u32>,
    /// A replacement failed: 0 or 1. The card wants exchange.
    #[prost(uint32, optional, tag = "38")]
    pub remap_failed: Option<u32>,
    /// What the driver asks for: 0 nothing, 1 reset, 2 reboot, 3 and 4 drain first.
    #[prost(uint32, optional, tag = "39")]
    pub recovery_action: Option<u32>,
    /// Processes that compute on it, by the host's process ids; often empty in a container.
    #[prost(message, repeated, tag = "40")]
    pub processes: Vec<GpuProcess>,

    /// Critical Xid errors since the agent started. Filled by the agent, as the next two.
    #[prost(uint32, tag = "41")]
    pub xid_count: u32,
    /// The newest one's code; 0: none.
    #[prost(uint32, tag = "42")]
    pub last_xid: u32,
    /// When it came, microseconds since the epoch by the box's clock; 0: none.
    #[prost(uint64, tag = "43")]
    pub last_xid_us: u64,

    /// Memory pages retired after corrected errors, in the card's life. Data-centre cards before Ampere, as the next two.
    #[prost(uint32, optional, tag = "44")]
    pub retired_pages_corrected: Option<u32>,
    /// Memory pages retired after an uncorrected error.
    #[prost(uint32, optional, tag = "45")]
    pub retired_pages_uncorrected: Option<u32>,
    /// A page waits for a reboot to be retired: 0 or 1.
    #[prost(uint32, optional, tag = "46")]
    pub retirement_pending: Option<u32>,
}

/// A process on a GPU.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct GpuProcess {
    /// Process id, on the host.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// GPU memory it uses, bytes; absent where the driver does not tell.
    #[prost(uint64, optional, tag = "2")]
    pub memory_bytes: Option<u64>,
}

/// One part of a GPU that is split by MIG. Absent values could not be read.
#[derive(Clone, PartialEq, Message)]
pub struct MigDevice {
    /// Index on its GPU.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Name, such as `NVIDIA H100 80GB HBM3 MIG 1g.10gb`.
    #[prost(string, tag = "2")]
    pub name: String,
    /// UUID.
    #[prost(string, tag = "3")]
    pub uuid: String,
    /// Memory in use, bytes.
    #[prost(uint64, optional, tag = "4")]
    pub memory_used_bytes: Option<u64>,
    /// Memory in all, bytes.
    #[prost(uint64, optional, tag = "5")]
    pub memory_total_bytes: Option<u64>,
}

/// How many readings of a number become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folding {
    /// Their mean: loads, temperatures, rates.
    Mean,
    /// The newest: counters, limits, names.
    Last,
    /// Every bit that was set in any.
    Union,
    /// The largest.
    Largest,
}

impl Gpu {
    /// How the number with this tag is folded.
    pub fn folding(tag: u32) -> Folding {
        match tag {
            // Of memory the peak counts: it is what runs out.
            2 | 4 => Folding::Largest,
            11 => Folding::Union,
            1 | 5 | 7 | 24..=26 | 29..=39 | 41..=43 => Folding::Last,
            _ => Folding::Mean,
        }
    }
}
