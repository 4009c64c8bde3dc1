//! The calls of a probe's slow tier: identity, limits, PCIe, NVLink, ECC, processes.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlClockType_t, nvmlDevice_t, nvmlEccCounterType_t, nvmlEnableState_t, nvmlMemoryErrorType_t,
    nvmlNvLinkErrorCounter_t, nvmlPciInfo_t, nvmlPcieUtilCounter_t, nvmlProcessInfo_t,
    nvmlPstates_t, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_enum_NVML_SUCCESS as OK,
    nvmlReturn_t,
};

use crate::scenario::{Scenario, Who};
use crate::{on_gpu, put, put_text};

/// A call that answers one whole number, by the scenario's key.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($kind:ty) = $key:literal * $factor:literal;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, place: *mut $kind) -> nvmlReturn_t {
            on_gpu(device, stringify!($name), |scenario, gpu| {
                let value = scenario.number(Who::Gpu(gpu), $key);
                // SAFETY: the caller gives room for one value, or null.
                unsafe { put(place, value.map(|value| (value * $factor) as $kind)) }
            })
        }
    )*};
}

numbers! {
    /// Power limit in force, milliwatts.
    nvmlDeviceGetEnforcedPowerLimit(c_uint) = "power_limit_w" * 1000.0;
    /// Performance state.
    nvmlDeviceGetPerformanceState(nvmlPstates_t) = "pstate" * 1.0;
    /// PCIe replays.
    nvmlDeviceGetPcieReplayCounter(c_uint) = "pcie.replays" * 1.0;
    /// Present PCIe generation.
    nvmlDeviceGetCurrPcieLinkGeneration(c_uint) = "pcie.generation" * 1.0;
    /// Present PCIe lanes.
    nvmlDeviceGetCurrPcieLinkWidth(c_uint) = "pcie.width" * 1.0;
}

/// Version of the firmware.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetVbiosVersion(
    device: nvmlDevice_t,
    version: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetVbiosVersion", |scenario, gpu| {
        let text = scenario
            .text(Who::Gpu(gpu), "vbios")
            .unwrap_or("96.00.89.00.01");
        // SAFETY: the caller's buffer and its length are passed on as they came.
        unsafe { put_text(version, length, text) }
    })
}

/// CUDA compute capability.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> nvmlReturn_t {
    on_gpu(
        device,
        "nvmlDeviceGetCudaComputeCapability",
        |scenario, gpu| {
            let number = scenario.number(Who::Gpu(gpu), "capability").unwrap_or(90.0) as c_int;
            // SAFETY: the caller gives room for one `int` each, or null.
            match unsafe { put(major, Some(number / 10)) } {
                // SAFETY: likewise.
                OK => unsafe { put(minor, Some(number % 10)) },
                refused => refused,
            }
        },
    )
}

/// PCI address: bus 16 and up, one per GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(
    device: nvmlDevice_t,
    info: *mut nvmlPciInfo_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetPciInfo_v3", |_, gpu| {
        // SAFETY: a C struct of numbers and texts, for all of which zero is a value.
        let mut answer: nvmlPciInfo_t = unsafe { std::mem::zeroed() };
        answer.bus = 0x10 + gpu;
        answer.pciDeviceId = 0x2330_10de;
        let (text, legacy) = (
            format!("00000000:{:02X}:00.0", answer.bus),
            format!("0000:{:02X}:00.0", answer.bus),
        );
        // SAFETY: both are arrays of that many characters.
        unsafe {
            put_text(answer.busId.as_mut_ptr(), 32, &text);
            put_text(answer.busIdLegacy.as_mut_ptr(), 16, &legacy);
            put(info, Some(answer))
        }
    })
}

/// Highest rate of a clock, MHz.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(
    device: nvmlDevice_t,
    clock: nvmlClockType_t,
    rate: *mut c_uint,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetMaxClockInfo", |scenario, gpu| {
        let keys = [
            "max_clock.graphics",
            "max_clock.sm",
            "max_clock.mem",
            "max_clock.video",
        ];
        let Some(key) = keys.get(clock as usize) else {
            return INVALID_ARGUMENT;
        };
        let value = scenario.number(Who::Gpu(gpu), key);
        // SAFETY: the caller gives room for one `unsigned int`, or null.
        unsafe { put(rate, value.map(|value| value as c_uint)) }
    })
}

/// A fan's intended speed, percent; only the first one is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFanSpeed_v2(
    device: nvmlDevice_t,
    fan: c_uint,
    speed: *mut c_uint,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetFanSpeed_v2", |scenario, gpu| {
        let value = scenario
            .number(Who::Gpu(gpu), "fan")
            .filter(|_| fan == 0)
            .map(|value| value as c_uint);
        // SAFETY: the caller gives room for one `unsigned int`, or null.
        unsafe { put(speed, value) }
    })
}

/// PCIe throughput of one direction, KB/s. The driver takes 20 ms for it; the scenario says so by `delay.`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPcieThroughput(
    device: nvmlDevice_t,
    direction: nvmlPcieUtilCounter_t,
    value: *mut c_uint,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetPcieThroughput", |scenario, gpu| {
        let key = if direction == 0 {
            "pcie.tx_kbps"
        } else {
            "pcie.rx_kbps"
        };
        let found = scenario.number(Who::Gpu(gpu), key);
        // SAFETY: the caller gives room for one `unsigned int`, or null.
        unsafe { put(value, found.map(|found| found as c_uint)) }
    })
}

/// Whether a link is up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: nvmlDevice_t,
    link: c_uint,
    active: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetNvLinkState", |scenario, gpu| {
        match links(scenario, gpu) {
            0 => NOT_SUPPORTED,
            count if link >= count => INVALID_ARGUMENT,
            _ => {
                let state = scenario.number(Who::Gpu(gpu), &format!("nvlink.{link}"));
                // SAFETY: the caller gives room for one enum, or null.
                unsafe { put(active, Some(state.unwrap_or(1.0) as nvmlEnableState_t)) }
            }
        }
    })
}

/// An error counter of a link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkErrorCounter(
    device: nvmlDevice_t,
    link: c_uint,
    kind: nvmlNvLinkErrorCounter_t,
    count: *mut c_ulonglong,
) -> nvmlReturn_t {
    on_gpu(
        device,
        "nvmlDeviceGetNvLinkErrorCounter",
        |scenario, gpu| {
            if link >= links(scenario, gpu) {
                return INVALID_ARGUMENT;
            }
            let value = scenario.number(Who::Gpu(gpu), &format!("nvlink.err.{kind}"));
            // SAFETY: the caller gives room for one `unsigned long long`, or null.
            unsafe { put(count, Some(value.unwrap_or(0.0) as c_ulonglong)) }
        },
    )
}

/// Memory errors by kind and counter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    kind: nvmlMemoryErrorType_t,
    counter: nvmlEccCounterType_t,
    count: *mut c_ulonglong,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetTotalEccErrors", |scenario, gpu| {
        let key = match (kind, counter) {
            (0, 0) => "ecc.corrected",
            (0, _) => "ecc.corrected.lifetime",
            (_, 0) => "ecc.uncorrected",
            _ => "ecc.uncorrected.lifetime",
        };
        let value = scenario.number(Who::Gpu(gpu), key);
        // SAFETY: the caller gives room for one `unsigned long long`, or null.
        unsafe { put(count, value.map(|value| value as c_ulonglong)) }
    })
}

/// Memory rows that were replaced: `remap CORRECTED UNCORRECTED PENDING FAILED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRemappedRows(
    device: nvmlDevice_t,
    corrected: *mut c_uint,
    uncorrected: *mut c_uint,
    pending: *mut c_uint,
    failed: *mut c_uint,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetRemappedRows", |scenario, gpu| {
        let Some(text) = scenario.text(Who::Gpu(gpu), "remap") else {
            return NOT_SUPPORTED;
        };
        let mut words = text
            .split_whitespace()
            .map(|word| word.parse().unwrap_or(0));
        for place in [corrected, uncorrected, pending, failed] {
            // SAFETY: the caller gives room for one `unsigned int` each, or null.
            let stored = unsafe { put(place, Some(words.next().unwrap_or(0))) };
            if stored != OK {
                return stored;
            }
        }
        OK
    })
}

/// Processes that compute: `proc PID:BYTES PID:-`, where `-` is memory that the driver does not tell.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    on_gpu(
        device,
        "nvmlDeviceGetComputeRunningProcesses_v3",
        |scenario, gpu| {
            let text = scenario.text(Who::Gpu(gpu), "proc").unwrap_or("");
            let found = text.split_whitespace().filter_map(|word| {
                let (pid, bytes) = word.split_once(':')?;
                Some(nvmlProcessInfo_t {
                    pid: pid.parse().ok()?,
                    usedGpuMemory: bytes.parse().unwrap_or(c_ulonglong::MAX),
                    gpuInstanceId: c_uint::MAX,
                    computeInstanceId: c_uint::MAX,
                })
            });
            let found: Vec<nvmlProcessInfo_t> = found.collect();
            // SAFETY: the caller passes its room in `count`, or null.
            let Some(count) = (unsafe { count.as_mut() }) else {
                return INVALID_ARGUMENT;
            };
            let room = std::mem::replace(count, found.len() as c_uint) as usize;
            if found.is_empty() {
                return OK;
            }
            if infos.is_null() || room < found.len() {
                return INSUFFICIENT_SIZE;
            }
            // SAFETY: not null, and the caller gives room for at least as many as were found.
            unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), infos, found.len()) };
            OK
        },
    )
}

fn links(scenario: &Scenario, gpu: u32) -> c_uint {
    scenario.number(Who::Gpu(gpu), "nvlinks").unwrap_or(0.0) as c_uint
}
