//! What is measured of the box.

use crate::agent_client::HostInfo;

use super::{
    Kind::{Counter, Gauge},
    Reading, otel, plain, row, share, told_by, wide,
};

/// Everything of the box itself.
pub(in crate::serve) const HOST: &[Reading<HostInfo>] = &[
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
