//! What is measured, by the names that the readers of DCGM and of OpenTelemetry know (pure): one table for both.

use crate::agent_client::{GpuInfo, HostInfo};

/// How a value behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It rises and falls.
    Gauge,
    /// It only rises, but for a restart.
    Counter,
}

/// The name in OpenTelemetry: `hw.*` where there is a convention, else our own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Otel {
    pub(super) name: &'static str,
    /// In the notation of UCUM.
    pub(super) unit: &'static str,
    /// What the value of [`Reading`] is multiplied by.
    pub(super) factor: f64,
    /// An attribute that tells it from others of the same name.
    pub(super) attribute: Option<(&'static str, &'static str)>,
}

/// A value of a `T`.
pub(super) struct Reading<T> {
    /// For Prometheus.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) otel: Option<Otel>,
    pub(super) value: fn(&T) -> Option<f64>,
}

use Kind::{Counter, Gauge};

const MIB: f64 = 1_048_576.0;

const fn otel(name: &'static str, unit: &'static str, factor: f64) -> Option<Otel> {
    Some(Otel {
        name,
        unit,
        factor,
        attribute: None,
    })
}

const fn told_by(
    name: &'static str,
    unit: &'static str,
    factor: f64,
    attribute: (&'static str, &'static str),
) -> Option<Otel> {
    Some(Otel {
        name,
        unit,
        factor,
        attribute: Some(attribute),
    })
}

/// Shorthand for a row.
const fn row<T>(
    name: &'static str,
    help: &'static str,
    kind: Kind,
    otel: Option<Otel>,
    value: fn(&T) -> Option<f64>,
) -> Reading<T> {
    Reading {
        name,
        help,
        kind,
        otel,
        value,
    }
}

fn wide(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn plain(value: Option<impl Into<f64>>) -> Option<f64> {
    value.map(Into::into)
}

/// Of a percentage, the share.
fn share(value: Option<f32>) -> Option<f64> {
    value.map(|percent| f64::from(percent) / 100.0)
}

/// Everything of a GPU. The names and units for Prometheus are those of dcgm-exporter, so that its dashboards work.
pub(super) const GPU: &[Reading<GpuInfo>] = &[
    row(
        "DCGM_FI_DEV_GPU_UTIL",
        "Share of time in which a kernel ran, percent",
        Gauge,
        told_by("hw.gpu.utilization", "1", 0.01, ("hw.gpu.task", "general")),
        |gpu| plain(gpu.utilisation_percent),
    ),
    row(
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        "Share of time in which memory was read or written, percent",
        Gauge,
        otel("gpu.memory_busy", "1", 0.01),
        |gpu| plain(gpu.memory_busy_percent),
    ),
    row(
        "DCGM_FI_DEV_FB_USED",
        "GPU memory in use, MiB",
        Gauge,
        otel("hw.gpu.memory.usage", "By", MIB),
        |gpu| wide(gpu.memory_used_bytes).map(|bytes| bytes / MIB),
    ),
    row(
        "DCGM_FI_DEV_FB_FREE",
        "GPU memory that is free, MiB",
        Gauge,
        None,
        |gpu| {
            let free = gpu
                .memory_total_bytes?
                .saturating_sub(gpu.memory_used_bytes?);
            Some(free as f64 / MIB)
        },
    ),
    row(
        "DCGM_FI_DEV_FB_TOTAL",
        "GPU memory in all, MiB",
        Gauge,
        otel("hw.gpu.memory.limit", "By", MIB),
        |gpu| wide(gpu.memory_total_bytes).map(|bytes| bytes / MIB),
    ),
    row(
        "DCGM_FI_DEV_POWER_USAGE",
        "Power draw, W",
        Gauge,
        otel("hw.power", "W", 1.0),
        |gpu| gpu.power_mw.map(|mw| f64::from(mw) / 1000.0),
    ),
    row(
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT",
        "Power limit in force, W",
        Gauge,
        otel("gpu.power_limit", "W", 1.0),
        |gpu| gpu.power_limit_mw.map(|mw| f64::from(mw) / 1000.0),
    ),
    row(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "Energy since the driver was loaded, mJ",
        Counter,
        otel("hw.energy", "J", 0.001),
        |gpu| wide(gpu.energy_mj),
    ),
    row(
        "DCGM_FI_DEV_GPU_TEMP",
        "GPU temperature, degrees Celsius",
        Gauge,
        told_by("hw.temperature", "Cel", 1.0, ("hw.sensor_location", "gpu")),
        |gpu| plain(gpu.temperature_c),
    ),
    row(
        "DCGM_FI_DEV_MEMORY_TEMP",
        "Memory temperature, degrees Celsius",
        Gauge,
        told_by(
            "hw.temperature",
            "Cel",
            1.0,
            ("hw.sensor_location", "memory"),
        ),
        |gpu| plain(gpu.memory_temperature_c),
    ),
    row(
        "DCGM_FI_DEV_SM_CLOCK",
        "SM clock, MHz",
        Gauge,
        told_by("gpu.clock", "MHz", 1.0, ("gpu.clock.domain", "sm")),
        |gpu| plain(gpu.sm_clock_mhz),
    ),
    row(
        "DCGM_FI_DEV_MEM_CLOCK",
        "Memory clock, MHz",
        Gauge,
        told_by("gpu.clock", "MHz", 1.0, ("gpu.clock.domain", "memory")),
        |gpu| plain(gpu.memory_clock_mhz),
    ),
    row(
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
        "Why clocks are lowered, bit mask",
        Gauge,
        otel("gpu.clocks_event_reasons", "1", 1.0),
        |gpu| wide(gpu.throttle_reasons),
    ),
    row(
        "DCGM_FI_DEV_PSTATE",
        "Performance state, 0 is the fastest",
        Gauge,
        otel("gpu.pstate", "1", 1.0),
        |gpu| plain(gpu.performance_state),
    ),
    row(
        "DCGM_FI_DEV_FAN_SPEED",
        "Speed of the first fan, percent of its most",
        Gauge,
        otel("hw.fan.speed_ratio", "1", 0.01),
        |gpu| plain(gpu.fan_percent),
    ),
    row(
        "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
        "PCIe replays since the last reset",
        Counter,
        otel("gpu.pcie.replay", "1", 1.0),
        |gpu| wide(gpu.pcie_replays),
    ),
    row(
        "DCGM_FI_DEV_PCIE_LINK_GEN",
        "Present PCIe generation",
        Gauge,
        otel("gpu.pcie.link_generation", "1", 1.0),
        |gpu| plain(gpu.pcie_generation),
    ),
    row(
        "DCGM_FI_DEV_PCIE_LINK_WIDTH",
        "Present PCIe lanes",
        Gauge,
        otel("gpu.pcie.link_width", "1", 1.0),
        |gpu| plain(gpu.pcie_width),
    ),
    row(
        "DCGM_FI_PROF_PCIE_TX_BYTES",
        "Sent over PCIe, bytes per second",
        Gauge,
        told_by(
            "gpu.pcie.rate",
            "By/s",
            1.0,
            ("network.io.direction", "transmit"),
        ),
        |gpu| wide(gpu.pcie_tx_bytes_per_s),
    ),
    row(
        "DCGM_FI_PROF_PCIE_RX_BYTES",
        "Received over PCIe, bytes per second",
        Gauge,
        told_by(
            "gpu.pcie.rate",
            "By/s",
            1.0,
            ("network.io.direction", "receive"),
        ),
        |gpu| wide(gpu.pcie_rx_bytes_per_s),
    ),
    row(
        "DCGM_FI_PROF_NVLINK_TX_BYTES",
        "Sent over all NVLinks, bytes per second",
        Gauge,
        told_by(
            "gpu.nvlink.rate",
            "By/s",
            1.0,
            ("network.io.direction", "transmit"),
        ),
        |gpu| wide(gpu.nvlink_tx_bytes_per_s),
    ),
    row(
        "DCGM_FI_PROF_NVLINK_RX_BYTES",
        "Received over all NVLinks, bytes per second",
        Gauge,
        told_by(
            "gpu.nvlink.rate",
            "By/s",
            1.0,
            ("network.io.direction", "receive"),
        ),
        |gpu| wide(gpu.nvlink_rx_bytes_per_s),
    ),
    row(
        "spotter_gpu_nvlinks_up",
        "NVLinks that are up",
        Gauge,
        otel("gpu.nvlink.up", "1", 1.0),
        |gpu| plain(gpu.nvlinks_up),
    ),
    row(
        "spotter_gpu_nvlink_errors",
        "NVLink errors since the last reset",
        Counter,
        otel("gpu.nvlink.errors", "{error}", 1.0),
        |gpu| wide(gpu.nvlink_errors),
    ),
    row(
        "DCGM_FI_PROF_SM_ACTIVE",
        "Share of cycles with at least one warp on an SM",
        Gauge,
        otel("gpu.sm_active", "1", 1.0),
        |gpu| share(gpu.sm_active_percent),
    ),
    row(
        "DCGM_FI_PROF_SM_OCCUPANCY",
        "Warps resident, of the most possible",
        Gauge,
        otel("gpu.sm_occupancy", "1", 1.0),
        |gpu| share(gpu.sm_occupancy_percent),
    ),
    row(
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        "Share of cycles with a tensor core at work",
        Gauge,
        otel("gpu.tensor_active", "1", 1.0),
        |gpu| share(gpu.tensor_active_percent),
    ),
    row(
        "DCGM_FI_PROF_DRAM_ACTIVE",
        "Memory bandwidth in use, of the most possible",
        Gauge,
        otel("gpu.dram_active", "1", 1.0),
        |gpu| share(gpu.dram_active_percent),
    ),
    row(
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
        "Memory errors corrected since the driver was loaded",
        Counter,
        told_by("hw.errors", "{error}", 1.0, ("error.type", "corrected")),
        |gpu| wide(gpu.ecc_corrected),
    ),
    row(
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "Memory errors not corrected since the driver was loaded",
        Counter,
        told_by("hw.errors", "{error}", 1.0, ("error.type", "uncorrected")),
        |gpu| wide(gpu.ecc_uncorrected),
    ),
    row(
        "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL",
        "Memory errors corrected in the card's life",
        Counter,
        None,
        |gpu| wide(gpu.ecc_corrected_lifetime),
    ),
    row(
        "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL",
        "Memory errors not corrected in the card's life",
        Counter,
        None,
        |gpu| wide(gpu.ecc_uncorrected_lifetime),
    ),
    row(
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        "Memory rows replaced after corrected errors",
        Counter,
        told_by("gpu.remapped_rows", "1", 1.0, ("error.type", "corrected")),
        |gpu| plain(gpu.remapped_rows_corrected),
    ),
    row(
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "Memory rows replaced after uncorrected errors",
        Counter,
        told_by("gpu.remapped_rows", "1", 1.0, ("error.type", "uncorrected")),
        |gpu| plain(gpu.remapped_rows_uncorrected),
    ),
    row(
        "DCGM_FI_DEV_ROW_REMAP_PENDING",
        "A replacement of a row waits for a reset",
        Gauge,
        otel("gpu.row_remap_pending", "1", 1.0),
        |gpu| plain(gpu.remap_pending),
    ),
    row(
        "DCGM_FI_DEV_ROW_REMAP_FAILURE",
        "A replacement of a row failed",
        Gauge,
        otel("gpu.row_remap_failure", "1", 1.0),
        |gpu| plain(gpu.remap_failed),
    ),
    row(
        "DCGM_FI_DEV_XID_ERRORS",
        "Code of the newest Xid error since the agent started; 0: none",
        Gauge,
        otel("gpu.xid", "1", 1.0),
        |gpu| Some(f64::from(gpu.last_xid)),
    ),
    row(
        "spotter_gpu_xid_total",
        "Critical Xid errors since the agent started",
        Counter,
        otel("gpu.xid_count", "{error}", 1.0),
        |gpu| Some(f64::from(gpu.xid_count)),
    ),
    row(
        "spotter_gpu_recovery_action",
        "What the driver asks for: 0 nothing, 1 reset, 2 reboot, 3 and 4 drain first",
        Gauge,
        otel("gpu.recovery_action", "1", 1.0),
        |gpu| plain(gpu.recovery_action),
    ),
    row(
        "spotter_gpu_nvml_error",
        "NVML error with which it could not be read; 0: none",
        Gauge,
        None,
        |gpu| Some(f64::from(gpu.error)),
    ),
];

/// Everything of the box itself.
pub(super) const HOST: &[Reading<HostInfo>] = &[
    row(
        "spotter_host_cpu_cores",
        "CPU use, cores",
        Gauge,
        otel("system.cpu.cores_used", "{cpu}", 1.0),
        |host| share(host.cpu_percent),
    ),
    row(
        "spotter_host_cpu_limit_cores",
        "Cores that the box may use",
        Gauge,
        otel("system.cpu.limit", "{cpu}", 1.0),
        |host| plain(host.cpu_limit_cores),
    ),
    row(
        "spotter_host_memory_used_bytes",
        "Memory in use without page cache",
        Gauge,
        otel("system.memory.usage", "By", 1.0),
        |host| wide(host.memory_used_bytes),
    ),
    row(
        "spotter_host_memory_limit_bytes",
        "Memory that the box may use",
        Gauge,
        otel("system.memory.limit", "By", 1.0),
        |host| wide(host.memory_limit_bytes),
    ),
    row(
        "spotter_host_disk_free_bytes",
        "Free bytes below the working directory",
        Gauge,
        otel("spotter.disk.free", "By", 1.0),
        |host| wide(host.disk_free_bytes),
    ),
    row(
        "spotter_host_disk_size_bytes",
        "Size of that file system",
        Gauge,
        otel("spotter.disk.size", "By", 1.0),
        |host| wide(host.disk_total_bytes),
    ),
    row(
        "spotter_host_disk_read_bytes_per_second",
        "Read from disks",
        Gauge,
        told_by(
            "spotter.disk.rate",
            "By/s",
            1.0,
            ("disk.io.direction", "read"),
        ),
        |host| wide(host.disk_read_bytes_per_s),
    ),
    row(
        "spotter_host_disk_written_bytes_per_second",
        "Written to disks",
        Gauge,
        told_by(
            "spotter.disk.rate",
            "By/s",
            1.0,
            ("disk.io.direction", "write"),
        ),
        |host| wide(host.disk_write_bytes_per_s),
    ),
    row(
        "spotter_host_network_received_bytes_total",
        "Bytes received since boot",
        Counter,
        told_by(
            "system.network.io",
            "By",
            1.0,
            ("network.io.direction", "receive"),
        ),
        |host| wide(host.network_rx_bytes),
    ),
    row(
        "spotter_host_network_sent_bytes_total",
        "Bytes sent since boot",
        Counter,
        told_by(
            "system.network.io",
            "By",
            1.0,
            ("network.io.direction", "transmit"),
        ),
        |host| wide(host.network_tx_bytes),
    ),
    row(
        "spotter_host_shm_free_bytes",
        "Free bytes of /dev/shm",
        Gauge,
        otel("spotter.shm.free", "By", 1.0),
        |host| wide(host.shm_free_bytes),
    ),
    row(
        "spotter_host_oom_kills_total",
        "OOM kills of the box's memory cgroup",
        Counter,
        otel("spotter.oom_kills", "{kill}", 1.0),
        |host| wide(host.oom_kills),
    ),
    row(
        "spotter_host_cpu_throttled_seconds_total",
        "Time in which a CPU quota held the box back",
        Counter,
        otel("spotter.cpu.throttled", "s", 1.0),
        |host| wide(host.cpu_throttled_us).map(|us| us / 1e6),
    ),
];

/// What is known of a run itself.
#[derive(Debug, Clone, Default)]
pub(super) struct RunReading {
    pub(super) over: bool,
    pub(super) reachable: bool,
    pub(super) watched: bool,
    pub(super) step: Option<u64>,
    pub(super) total_steps: Option<u64>,
    pub(super) loss: Option<f64>,
    pub(super) eval_loss: Option<f64>,
    pub(super) learning_rate: Option<f64>,
    pub(super) grad_norm: Option<f64>,
    pub(super) tokens_per_s: Option<f64>,
    pub(super) samples_per_s: Option<f64>,
    pub(super) step_time_s: Option<f64>,
    pub(super) usd_per_hour: f64,
    pub(super) cost_usd: f64,
    pub(super) budget_usd: Option<f64>,
    pub(super) committed: u64,
    pub(super) last_checkpoint_us: Option<i64>,
    pub(super) alerts: usize,
}

fn truth(value: bool) -> Option<f64> {
    Some(f64::from(u8::from(value)))
}

/// Everything of a run.
pub(super) const RUN: &[Reading<RunReading>] = &[
    row(
        "spotter_run_over",
        "The run has ended",
        Gauge,
        None,
        |run| truth(run.over),
    ),
    row(
        "spotter_run_reachable",
        "The agent on its box answers",
        Gauge,
        otel("spotter.run.reachable", "1", 1.0),
        |run| truth(run.reachable),
    ),
    row(
        "spotter_run_watched",
        "Somebody acts for it: interruptions are recovered",
        Gauge,
        otel("spotter.run.watched", "1", 1.0),
        |run| truth(run.watched),
    ),
    row(
        "spotter_run_step",
        "Newest step",
        Gauge,
        otel("spotter.run.step", "{step}", 1.0),
        |run| wide(run.step),
    ),
    row(
        "spotter_run_planned_steps",
        "Steps in all",
        Gauge,
        otel("spotter.run.planned_steps", "{step}", 1.0),
        |run| wide(run.total_steps),
    ),
    row(
        "spotter_run_loss",
        "Newest training loss",
        Gauge,
        otel("spotter.run.loss", "1", 1.0),
        |run| run.loss,
    ),
    row(
        "spotter_run_eval_loss",
        "Newest evaluation loss",
        Gauge,
        otel("spotter.run.eval_loss", "1", 1.0),
        |run| run.eval_loss,
    ),
    row(
        "spotter_run_learning_rate",
        "Newest learning rate",
        Gauge,
        otel("spotter.run.learning_rate", "1", 1.0),
        |run| run.learning_rate,
    ),
    row(
        "spotter_run_grad_norm",
        "Newest norm of the gradient",
        Gauge,
        otel("spotter.run.grad_norm", "1", 1.0),
        |run| run.grad_norm,
    ),
    row(
        "spotter_run_tokens_per_second",
        "Newest speed, tokens per second",
        Gauge,
        otel("spotter.run.tokens_per_second", "{token}/s", 1.0),
        |run| run.tokens_per_s,
    ),
    row(
        "spotter_run_samples_per_second",
        "Newest speed, samples per second",
        Gauge,
        otel("spotter.run.samples_per_second", "{sample}/s", 1.0),
        |run| run.samples_per_s,
    ),
    row(
        "spotter_run_step_seconds",
        "Newest time of a step",
        Gauge,
        otel("spotter.run.step_time", "s", 1.0),
        |run| run.step_time_s,
    ),
    row(
        "spotter_run_usd_per_hour",
        "What it costs now, US dollars per hour",
        Gauge,
        otel("spotter.run.usd_per_hour", "{USD}/h", 1.0),
        |run| Some(run.usd_per_hour),
    ),
    row(
        "spotter_run_cost_usd",
        "What it cost so far, US dollars",
        Gauge,
        otel("spotter.run.cost", "{USD}", 1.0),
        |run| Some(run.cost_usd),
    ),
    row(
        "spotter_run_budget_usd",
        "What it may cost, US dollars",
        Gauge,
        otel("spotter.run.budget", "{USD}", 1.0),
        |run| run.budget_usd,
    ),
    row(
        "spotter_run_checkpoints_committed",
        "Checkpoints in its bucket",
        Gauge,
        otel("spotter.run.checkpoints_committed", "{checkpoint}", 1.0),
        |run| Some(run.committed as f64),
    ),
    row(
        "spotter_run_last_checkpoint_timestamp_seconds",
        "When the newest checkpoint was complete in the bucket",
        Gauge,
        otel("spotter.run.last_checkpoint", "s", 1.0),
        |run| run.last_checkpoint_us.map(|us| us as f64 / 1e6),
    ),
    row(
        "spotter_run_alerts",
        "Sentences about what is wrong or must be known",
        Gauge,
        otel("spotter.run.alerts", "1", 1.0),
        |run| Some(run.alerts as f64),
    ),
];
