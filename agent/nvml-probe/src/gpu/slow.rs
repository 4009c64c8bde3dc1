//! The slow tier: what changes rarely, or costs the driver milliseconds of its lock.

use std::time::Instant;

use nvml_probe::{Gpu, GpuProcess};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, PcieUtilCounter};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
    NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
    NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX,
    NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
    NVML_FI_DEV_PCIE_COUNT_TX_BYTES, NVML_FI_DEV_REMAPPED_COR, NVML_FI_DEV_REMAPPED_FAILURE,
    NVML_FI_DEV_REMAPPED_PENDING, NVML_FI_DEV_REMAPPED_UNC, NVML_FI_DEV_RETIRED_DBE,
    NVML_FI_DEV_RETIRED_PENDING, NVML_FI_DEV_RETIRED_PENDING_DBE, NVML_FI_DEV_RETIRED_SBE,
};

use super::asking::{Asking, Query};
use crate::raw;

/// Most NVLinks that a GPU has (Hopper and Blackwell: 18).
const MOST_LINKS: u32 = 18;

/// Counters of bytes sent and received, and when they were read.
type Counters = Option<(Instant, [u64; 2])>;

/// What rates need of the last reading.
#[derive(Default)]
pub struct Flow {
    pcie: Counters,
    nvlink: Counters,
}

/// Reads the slow tier into an otherwise empty reading. `counted`: PCIe is measured in another way as well.
pub fn read(asking: &mut Asking<'_>, device: &Device<'_>, flow: &mut Flow, counted: bool) -> Gpu {
    let mut gpu = Gpu {
        power_limit_mw: asking.ask(Query::PowerLimit, || device.enforced_power_limit()),
        fan_percent: asking.ask(Query::Fan, || device.fan_speed(0)),
        pcie_replays: asking
            .ask(Query::PcieReplays, || device.pcie_replay_counter())
            .map(u64::from),
        pcie_generation: asking.ask(Query::PcieGeneration, || device.current_pcie_link_gen()),
        pcie_width: asking.ask(Query::PcieWidth, || device.current_pcie_link_width()),
        nvlinks_up: asking.ask(Query::NvlinkState, || links_up(device)),
        nvlink_errors: asking.ask(Query::NvlinkErrors, || nvlink_errors(device)),
        recovery_action: asking.ask(Query::RecoveryAction, || {
            super::number(device, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
        }),
        ..Gpu::default()
    };
    pcie(asking, device, flow, counted, &mut gpu);
    nvlink(asking, device, flow, &mut gpu);
    ecc(asking, device, &mut gpu);
    let processes = asking.ask(Query::Processes, || device.running_compute_processes());
    let of = |process: nvml_wrapper::struct_wrappers::device::ProcessInfo| GpuProcess {
        pid: process.pid,
        memory_bytes: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
    };
    gpu.processes = processes.into_iter().flatten().map(of).collect();
    gpu
}

fn pcie(
    asking: &mut Asking<'_>,
    device: &Device<'_>,
    flow: &mut Flow,
    counted: bool,
    gpu: &mut Gpu,
) {
    let bytes = asking.ask(Query::PcieBytes, || {
        counters(
            device,
            [
                (NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0),
                (NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0),
            ],
        )
    });
    if let Some(bytes) = bytes {
        let [tx, rx] = rates(&mut flow.pcie, Instant::now(), bytes);
        (gpu.pcie_tx_bytes_per_s, gpu.pcie_rx_bytes_per_s) = (tx, rx);
    } else if asking.cannot(Query::PcieBytes) && !counted {
        // The last resort: it holds the driver for 20 ms in each direction. In units of 1000 bytes per second.
        let mut one = |direction| {
            asking
                .ask(Query::PcieThroughput, || device.pcie_throughput(direction))
                .map(|kilobytes| u64::from(kilobytes) * 1000)
        };
        gpu.pcie_tx_bytes_per_s = one(PcieUtilCounter::Send);
        gpu.pcie_rx_bytes_per_s = one(PcieUtilCounter::Receive);
    }
}

fn nvlink(asking: &mut Asking<'_>, device: &Device<'_>, flow: &mut Flow, gpu: &mut Gpu) {
    let kibibytes = asking.ask(Query::NvlinkBytes, || {
        counters(
            device,
            [
                (NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, raw::ALL_LINKS),
                (NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, raw::ALL_LINKS),
            ],
        )
    });
    if let Some(kibibytes) = kibibytes {
        let bytes = kibibytes.map(|count| count.saturating_mul(1024));
        let [tx, rx] = rates(&mut flow.nvlink, Instant::now(), bytes);
        (gpu.nvlink_tx_bytes_per_s, gpu.nvlink_rx_bytes_per_s) = (tx, rx);
    }
}

fn ecc(asking: &mut Asking<'_>, device: &Device<'_>, gpu: &mut Gpu) {
    let mut count = |query, counter: fn() -> EccCounter| {
        let both = || {
            let corrected = device.total_ecc_errors(MemoryError::Corrected, counter())?;
            let uncorrected = device.total_ecc_errors(MemoryError::Uncorrected, counter())?;
            Ok((corrected, uncorrected))
        };
        asking.ask(query, both).unzip()
    };
    (gpu.ecc_corrected, gpu.ecc_uncorrected) = count(Query::Ecc, || EccCounter::Volatile);
    (gpu.ecc_corrected_lifetime, gpu.ecc_uncorrected_lifetime) =
        count(Query::EccLifetime, || EccCounter::Aggregate);
    let rows = asking
        .ask(Query::RemappedRows, || raw::remapped_rows(device))
        .map(|rows| rows.map(Some))
        .or_else(|| {
            let fields = [
                (NVML_FI_DEV_REMAPPED_COR, 0),
                (NVML_FI_DEV_REMAPPED_UNC, 0),
                (NVML_FI_DEV_REMAPPED_PENDING, 0),
                (NVML_FI_DEV_REMAPPED_FAILURE, 0),
            ];
            let values = asking.ask(Query::RemappedFields, || raw::fields(device, fields))?;
            Some(values.map(|value| u32::try_from(value?).ok()))
        });
    if let Some([corrected, uncorrected, pending, failed]) = rows {
        gpu.remapped_rows_corrected = corrected;
        gpu.remapped_rows_uncorrected = uncorrected;
        gpu.remap_pending = pending;
        gpu.remap_failed = failed;
    } else if asking.cannot(Query::RemappedFields) {
        retired(asking, device, gpu);
    }
}

/// Before Ampere whole pages of memory were retired, by way of a reboot.
fn retired(asking: &mut Asking<'_>, device: &Device<'_>, gpu: &mut Gpu) {
    // As many fields as are asked for rows: the call is made once for both.
    let fields = [
        (NVML_FI_DEV_RETIRED_SBE, 0),
        (NVML_FI_DEV_RETIRED_DBE, 0),
        (NVML_FI_DEV_RETIRED_PENDING, 0),
        (NVML_FI_DEV_RETIRED_PENDING_DBE, 0),
    ];
    let pages = asking.ask(Query::RetiredFields, || raw::fields(device, fields));
    if let Some(pages) = pages {
        let [corrected, uncorrected, pending, pending_uncorrected] =
            pages.map(|value| u32::try_from(value?).ok());
        gpu.retired_pages_corrected = corrected;
        gpu.retired_pages_uncorrected = uncorrected;
        gpu.retirement_pending = pending.or(pending_uncorrected);
    }
}

/// Counters by field ids, all of which must be there.
fn counters(device: &Device<'_>, wanted: [(u32, u32); 2]) -> Result<[u64; 2], NvmlError> {
    match raw::fields(device, wanted)? {
        [Some(sent), Some(received)] => Ok([sent, received]),
        _ => Err(NvmlError::NotSupported),
    }
}

/// NVLinks that are up. The first one that does not exist ends the count; a GPU without any cannot answer.
fn links_up(device: &Device<'_>) -> Result<u32, NvmlError> {
    let mut up = 0;
    for link in 0..MOST_LINKS {
        match device.link_wrapper_for(link).is_active() {
            Ok(active) => up += u32::from(active),
            Err(err) if link == 0 => return Err(err),
            Err(NvmlError::InvalidArg | NvmlError::NotSupported) => break,
            Err(err) => return Err(err),
        }
    }
    Ok(up)
}

fn nvlink_errors(device: &Device<'_>) -> Result<u64, NvmlError> {
    let kinds = [
        (NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, 0),
        (NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL, 0),
        (NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 0),
        (NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL, 0),
    ];
    Ok(raw::fields(device, kinds)?.into_iter().flatten().sum())
}

/// Bytes per second since the last reading; none at first, and none over a counter that began anew.
fn rates(last: &mut Counters, now: Instant, bytes: [u64; 2]) -> [Option<u64>; 2] {
    let Some((then, before)) = last.replace((now, bytes)) else {
        return [None; 2];
    };
    let seconds = now.duration_since(then).as_secs_f64();
    let rate = |place: usize| {
        let more = bytes[place].checked_sub(before[place])?;
        (seconds > 0.0).then(|| (more as f64 / seconds) as u64)
    };
    [rate(0), rate(1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_is_what_was_added_since_the_last_reading() {
        let mut last = None;
        let start = Instant::now();
        let mut at = |seconds, bytes| rates(&mut last, start + Duration::from_secs(seconds), bytes);
        assert_eq!(at(0, [1000, 5]), [None, None]);
        assert_eq!(at(10, [21_000, 5]), [Some(2000), Some(0)]);
        assert_eq!(at(20, [10, 105]), [None, Some(10)], "a counter began anew");
        assert_eq!(at(20, [10, 105]), [None, None], "no time, no rate");
    }
}
