//! MIG devices, the hardware monitor (GPM) and Xid events.

use std::ffi::{c_uint, c_ulonglong};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlEventTypeXidCriticalError,
    nvmlGpmMetricsGet_t, nvmlGpmSample_t, nvmlGpmSupport_t,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_TIMEOUT as TIMEOUT, nvmlReturn_enum_NVML_SUCCESS as OK,
    nvmlReturn_t,
};

use crate::scenario::{Scenario, Who};
use crate::{handle, on_gpu, part_handle, put, system};

/// MIG mode now and after the next reset: on where the scenario lists MIG devices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetMigMode", |scenario, gpu| {
        let mode = c_uint::from(scenario.text(Who::Gpu(gpu), "mig").is_some());
        // SAFETY: the caller gives room for one `unsigned int` each, or null.
        unsafe {
            put(pending, Some(mode));
            put(current, Some(mode))
        }
    })
}

/// Most MIG devices that there can be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(
    device: nvmlDevice_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller gives room for one `unsigned int`, or null.
    on_gpu(device, "nvmlDeviceGetMaxMigDeviceCount", |_, _| unsafe {
        put(count, Some(7))
    })
}

/// Handle of a MIG device; places that the scenario leaves out are empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    part: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    on_gpu(
        device,
        "nvmlDeviceGetMigDeviceHandleByIndex",
        |scenario, gpu| {
            let listed = scenario.text(Who::Gpu(gpu), "mig").unwrap_or("");
            let there = listed
                .split_whitespace()
                .any(|word| word.parse() == Ok(index));
            if !there {
                return NOT_FOUND;
            }
            // SAFETY: the caller gives room for one handle, or null.
            unsafe { put(part, Some(part_handle(gpu, index))) }
        },
    )
}

/// Whether the GPU has a monitor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmQueryDeviceSupport(
    device: nvmlDevice_t,
    support: *mut nvmlGpmSupport_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlGpmQueryDeviceSupport", |scenario, gpu| {
        // SAFETY: the caller passes an initialised struct, or null.
        let Some(support) = (unsafe { support.as_mut() }) else {
            return INVALID_ARGUMENT;
        };
        support.isSupportedDevice = scenario.number(Who::Gpu(gpu), "gpm").unwrap_or(0.0) as c_uint;
        OK
    })
}

/// What a sample remembers: whose it is.
struct Sample(Option<u32>);

/// Room for a sample.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleAlloc(sample: *mut nvmlGpmSample_t) -> nvmlReturn_t {
    let made: nvmlGpmSample_t = Box::into_raw(Box::new(Sample(None))).cast();
    // SAFETY: the caller gives room for one pointer, or null.
    unsafe { put(sample, Some(made)) }
}

/// Takes a sample back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleFree(sample: nvmlGpmSample_t) -> nvmlReturn_t {
    if sample.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: made by `nvmlGpmSampleAlloc`, and the caller frees it once.
    drop(unsafe { Box::from_raw(sample.cast::<Sample>()) });
    OK
}

/// Reads the counters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleGet(
    device: nvmlDevice_t,
    sample: nvmlGpmSample_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlGpmSampleGet", |scenario, gpu| {
        if scenario.number(Who::Gpu(gpu), "gpm").unwrap_or(0.0) == 0.0 {
            return NOT_SUPPORTED;
        }
        // SAFETY: made by `nvmlGpmSampleAlloc` and not freed, or null.
        let Some(sample) = (unsafe { sample.cast::<Sample>().as_mut() }) else {
            return INVALID_ARGUMENT;
        };
        sample.0 = Some(gpu);
        OK
    })
}

/// What happened between two samples: `gpm.ID`; each metric carries its own result. Both must have been filled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmMetricsGet(request: *mut nvmlGpmMetricsGet_t) -> nvmlReturn_t {
    system("nvmlGpmMetricsGet", |scenario| {
        // SAFETY: the caller passes an initialised struct, or null.
        let Some(request) = (unsafe { request.as_mut() }) else {
            return INVALID_ARGUMENT;
        };
        // SAFETY: made by `nvmlGpmSampleAlloc` and not freed, or null.
        let whose = |sample: nvmlGpmSample_t| unsafe { sample.cast::<Sample>().as_ref() }?.0;
        let gpu = match (whose(request.sample1), whose(request.sample2)) {
            (Some(first), Some(second)) if first == second && request.version == 1 => first,
            _ => return INVALID_ARGUMENT,
        };
        let wanted = request.metrics.iter_mut().take(request.numMetrics as usize);
        for metric in wanted {
            let key = format!("gpm.{}", metric.metricId);
            match scenario.number(Who::Gpu(gpu), &key) {
                Some(value) => (metric.nvmlReturn, metric.value) = (OK, value),
                None => metric.nvmlReturn = NOT_SUPPORTED,
            }
        }
        OK
    })
}

/// Events that were delivered: each new text of a GPU's `xid` is one event.
static DELIVERED: Mutex<Vec<(u32, String)>> = Mutex::new(Vec::new());

/// One set is all that there is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    system("nvmlEventSetCreate", |_| {
        let made: nvmlEventSet_t = std::ptr::without_provenance_mut(0x9000);
        // SAFETY: the caller gives room for one pointer, or null.
        unsafe { put(set, Some(made)) }
    })
}

/// Nothing to put away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(_set: nvmlEventSet_t) -> nvmlReturn_t {
    OK
}

/// Every GPU can tell, unless the scenario refuses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    _kinds: c_ulonglong,
    _set: nvmlEventSet_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceRegisterEvents", |_, _| OK)
}

/// Waits for the next Xid event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    _set: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    let end = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        let refused = system("nvmlEventSetWait_v2", |_| OK);
        if refused != OK {
            return refused;
        }
        if let Some((gpu, code)) = next_xid(&Scenario::current()) {
            let event = nvmlEventData_t {
                device: handle(gpu),
                eventType: nvmlEventTypeXidCriticalError.into(),
                eventData: code,
                gpuInstanceId: c_uint::MAX,
                computeInstanceId: c_uint::MAX,
            };
            // SAFETY: the caller gives room for one struct, or null.
            return unsafe { put(data, Some(event)) };
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return TIMEOUT;
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// The first event that was not delivered, which now is.
fn next_xid(scenario: &Scenario) -> Option<(u32, c_ulonglong)> {
    let mut delivered = DELIVERED.lock().ok()?;
    (0..scenario.gpus()).find_map(|gpu| {
        let text = scenario.own_text(Who::Gpu(gpu), "xid")?;
        if delivered
            .iter()
            .any(|(of, known)| *of == gpu && known == text)
        {
            return None;
        }
        delivered.push((gpu, text.to_owned()));
        Some((gpu, text.split_whitespace().next()?.parse().ok()?))
    })
}
