//! Reads one GPU, and remembers what it does not have. `asking` is how one question is put, `slow` what is read every ten
//! seconds, `monitor` the hardware's own counters.

mod asking;
mod monitor;
mod slow;

use nvml_probe::{Gpu, GpuInfo, MigDevice};
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::sys_exports::field_id::{NVML_FI_DEV_MEMORY_TEMP, NVML_FI_DEV_POWER_INSTANT};
use nvml_wrapper::{Device, Nvml};

use crate::raw;
use asking::{Asking, Query, Unsupported};
use monitor::Monitor;
use slow::Flow;

/// One GPU and what was learned about it.
pub struct Reader<'nvml> {
    index: u32,
    /// The handle, or the NVML code with which the GPU refused to give one.
    device: Result<Device<'nvml>, u32>,
    unsupported: Unsupported,
    mig: Vec<Part<'nvml>>,
    monitor: Monitor<'nvml>,
    /// The newest slow tier; nothing else is set in it.
    slow: Gpu,
    flow: Flow,
}

/// One MIG device.
struct Part<'nvml> {
    device: Device<'nvml>,
    unsupported: Unsupported,
    /// Its names; the values are of no meaning.
    named: MigDevice,
}

impl<'nvml> Reader<'nvml> {
    /// `monitor`: whether the hardware's own counters may be used.
    pub fn new(nvml: &'nvml Nvml, index: u32, monitor: bool) -> Self {
        let device = nvml.device_by_index(index).map_err(u32::from);
        let mig = device.as_ref().map(parts).unwrap_or_default();
        let monitor = match &device {
            // A GPU that is split has counters per part only.
            Ok(device) if monitor && mig.is_empty() => Monitor::new(nvml, device),
            _ => Monitor::default(),
        };
        Self {
            index,
            device,
            unsupported: Unsupported::default(),
            mig,
            monitor,
            slow: Gpu::default(),
            flow: Flow::default(),
        }
    }

    /// The handle, where there is one.
    pub fn device(&self) -> Option<&Device<'nvml>> {
        self.device.as_ref().ok()
    }

    /// Its index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What is fixed about it, as far as it can be read.
    pub fn info(&self) -> GpuInfo {
        let Ok(device) = &self.device else {
            return GpuInfo {
                index: self.index,
                ..GpuInfo::default()
            };
        };
        let capability = device.cuda_compute_capability();
        let clock = |clock| device.max_clock_info(clock).unwrap_or_default();
        GpuInfo {
            index: self.index,
            name: device.name().unwrap_or_default(),
            uuid: device.uuid().unwrap_or_default(),
            pci_bus_id: device.pci_info().map(|pci| pci.bus_id).unwrap_or_default(),
            compute_capability: capability.map_or(0, |found| {
                u32::try_from(found.major * 10 + found.minor).unwrap_or(0)
            }),
            vbios: device.vbios_version().unwrap_or_default(),
            max_sm_clock_mhz: clock(Clock::SM),
            max_memory_clock_mhz: clock(Clock::Memory),
            mig: !self.mig.is_empty(),
        }
    }

    /// One reading; with `slow_due` the slow tier is read anew. A GPU that is lost gives its error and no values.
    pub fn read(&mut self, slow_due: bool) -> Gpu {
        let failed = |error| Gpu {
            index: self.index,
            error,
            ..Gpu::default()
        };
        let device = match &self.device {
            Ok(device) => device,
            Err(code) => return failed(*code),
        };
        let mut asking = Asking::new(&mut self.unsupported);
        if slow_due {
            let counted = self.monitor.works();
            self.slow = slow::read(&mut asking, device, &mut self.flow, counted);
        }
        let mut gpu = Gpu {
            index: self.index,
            ..self.slow.clone()
        };
        fast(&mut asking, device, &mut gpu);
        self.monitor.read(&mut asking, device, &mut gpu);
        gpu.mig = self.mig.iter_mut().map(Part::read).collect();
        match asking.verdict() {
            0 => gpu,
            error => failed(error),
        }
    }
}

/// What is read at every tick: what changes within a second, and costs the driver microseconds.
fn fast(asking: &mut Asking<'_>, device: &Device<'_>, gpu: &mut Gpu) {
    let load = asking.ask(Query::Utilisation, || device.utilization_rates());
    (gpu.utilisation_percent, gpu.memory_busy_percent) =
        load.map(|load| (load.gpu, load.memory)).unzip();
    (gpu.memory_used_bytes, gpu.memory_total_bytes) = memory(asking, device);
    // The instant value takes microseconds; PowerUsage is a mean over a second from Ampere on, and takes milliseconds.
    gpu.power_mw = asking
        .ask(Query::PowerInstant, || {
            number(device, NVML_FI_DEV_POWER_INSTANT)
        })
        .or_else(|| asking.ask(Query::PowerMean, || device.power_usage()));
    gpu.energy_mj = asking.ask(Query::Energy, || device.total_energy_consumption());
    // CUDA 14 drivers drop the old names of these two, and old drivers lack the new ones.
    gpu.temperature_c = asking
        .ask(Query::TemperatureNew, || raw::temperature_c(device))
        .or_else(|| {
            asking.ask(Query::TemperatureOld, || {
                device.temperature(TemperatureSensor::Gpu)
            })
        });
    gpu.throttle_reasons = asking
        .ask(Query::ThrottleNew, || raw::clocks_event_reasons(device))
        .or_else(|| {
            let old = || {
                device
                    .current_throttle_reasons()
                    .map(|reasons| reasons.bits())
            };
            asking.ask(Query::ThrottleOld, old)
        });
    gpu.memory_temperature_c = asking
        .ask(Query::MemoryTemperature, || {
            number(device, NVML_FI_DEV_MEMORY_TEMP)
        })
        // Cards without the sensor answer, with nothing.
        .filter(|celsius| *celsius > 0);
    gpu.sm_clock_mhz = asking.ask(Query::SmClock, || device.clock_info(Clock::SM));
    gpu.memory_clock_mhz = asking.ask(Query::MemoryClock, || device.clock_info(Clock::Memory));
    gpu.performance_state = asking.ask(Query::PerformanceState, || raw::performance_state(device));
}

/// Used and total bytes. Drivers before R510 have only the first version, which counts the driver's reserve as used.
fn memory(asking: &mut Asking<'_>, device: &Device<'_>) -> (Option<u64>, Option<u64>) {
    let new = || {
        device
            .memory_info()
            .map(|memory| (memory.used, memory.total))
    };
    asking
        .ask(Query::MemoryV2, new)
        .or_else(|| asking.ask(Query::MemoryV1, || raw::memory_v1(device)))
        .unzip()
}

/// One value by its field id.
fn number(device: &Device<'_>, field: u32) -> Result<u32, nvml_wrapper::error::NvmlError> {
    let [value] = raw::fields(device, [(field, 0)])?;
    value
        .and_then(|value| u32::try_from(value).ok())
        .ok_or(nvml_wrapper::error::NvmlError::NoData)
}

/// The parts of a GPU that is split; none of one that is whole.
fn parts<'nvml>(device: &Device<'nvml>) -> Vec<Part<'nvml>> {
    if !device.mig_mode().is_ok_and(|mode| mode.current == 1) {
        return Vec::new();
    }
    // The count is the most that there can be: places in between may be empty.
    let places = 0..device.mig_device_count().unwrap_or(0);
    places
        .filter_map(|index| {
            let device = device.mig_device_by_index(index).ok()?;
            let named = MigDevice {
                index,
                name: device.name().unwrap_or_default(),
                uuid: device.uuid().unwrap_or_default(),
                ..MigDevice::default()
            };
            Some(Part {
                device,
                unsupported: Unsupported::default(),
                named,
            })
        })
        .collect()
}

impl Part<'_> {
    fn read(&mut self) -> MigDevice {
        let mut asking = Asking::new(&mut self.unsupported);
        let (memory_used_bytes, memory_total_bytes) = memory(&mut asking, &self.device);
        MigDevice {
            memory_used_bytes,
            memory_total_bytes,
            ..self.named.clone()
        }
    }
}
