//! GPM, the performance monitor of Hopper and later: what the SMs, their tensor cores and the memory really did, where
//! `utilisation` only says that some kernel ran. Needs no rights that a container lacks.

use nvml_probe::Gpu;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::asking::{Asking, Query};
use crate::raw::{self, GpmSample};

/// Metric ids of `nvmlGpmMetricId_t`: SM activity, SM occupancy, any tensor core, DRAM bandwidth (percent); PCIe sent and
/// received, NVLink sent and received (MiB per second).
const METRICS: [u32; 8] = [2, 3, 5, 10, 20, 21, 61, 60];

/// The two samples between which rates are made; none where the GPU has no monitor.
#[derive(Default)]
pub struct Monitor<'nvml> {
    samples: Option<(GpmSample<'nvml>, GpmSample<'nvml>)>,
    /// The first of the two holds counters.
    primed: bool,
}

impl<'nvml> Monitor<'nvml> {
    pub fn new(nvml: &'nvml Nvml, device: &Device<'nvml>) -> Self {
        let supported = device.gpm_support().unwrap_or(false);
        let room = || GpmSample::new(nvml).ok();
        Self {
            samples: supported.then(|| room().zip(room())).flatten(),
            primed: false,
        }
    }

    /// Whether it has given values.
    pub fn works(&self) -> bool {
        self.primed
    }

    /// What happened since the last call; the first one gives nothing. PCIe and NVLink are taken only where nothing better
    /// was read.
    pub fn read(&mut self, asking: &mut Asking<'_>, device: &Device<'_>, gpu: &mut Gpu) {
        let Some((earlier, later)) = &mut self.samples else {
            return;
        };
        let primed = self.primed;
        let read = asking.ask(Query::Monitor, || {
            later.fill(device)?;
            let nothing = Ok::<_, NvmlError>([None; METRICS.len()]);
            if primed {
                raw::gpm_metrics(earlier, later, METRICS)
            } else {
                nothing
            }
        });
        self.primed = read.is_some();
        let Some(
            [
                sm,
                occupancy,
                tensor,
                dram,
                pcie_tx,
                pcie_rx,
                nvlink_tx,
                nvlink_rx,
            ],
        ) = read
        else {
            return;
        };
        std::mem::swap(earlier, later);
        let percent = |value: Option<f64>| value.map(|value| value.clamp(0.0, 100.0) as f32);
        gpu.sm_active_percent = percent(sm);
        gpu.sm_occupancy_percent = percent(occupancy);
        gpu.tensor_active_percent = percent(tensor);
        gpu.dram_active_percent = percent(dram);
        let bytes = |mebibytes: Option<f64>| mebibytes.map(|value| (value * 1_048_576.0) as u64);
        gpu.pcie_tx_bytes_per_s = gpu.pcie_tx_bytes_per_s.or(bytes(pcie_tx));
        gpu.pcie_rx_bytes_per_s = gpu.pcie_rx_bytes_per_s.or(bytes(pcie_rx));
        // A GPU without links has zeroes here.
        if gpu.nvlinks_up.is_some() {
            gpu.nvlink_tx_bytes_per_s = gpu.nvlink_tx_bytes_per_s.or(bytes(nvlink_tx));
            gpu.nvlink_rx_bytes_per_s = gpu.nvlink_rx_bytes_per_s.or(bytes(nvlink_rx));
        }
    }
}
