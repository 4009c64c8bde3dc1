//! A libnvidia-ml.so.1 that answers from a text file, so that everything above NVML is tested without a GPU.
//!
//! Copy the built `libfake_nvml.so` to `DIR/libnvidia-ml.so.1` and set `LD_LIBRARY_PATH=DIR`, or set `NVML_LIB=path`.
//! `FAKE_NVML_SCENARIO=file` names the scenario (default `fake-nvml.txt` in the working directory). It is read again at
//! every call, so that a test or a simulated box changes it while the program runs; write a new file and rename it over the
//! old one, or a call may see half. `FAKE_NVML_FREEZE=1` reads it once, to measure the caller instead of the fake.
//!
//! # Scenario
//! A line is `WHO KEY VALUE`; `WHO` is a GPU's index, `*` for all GPUs, or `sys`. Later lines win, a GPU's own line wins over
//! `*`, and `#` starts a comment. A missing file is one idle GPU.
//!
//! ```text
//! sys driver 580.82.07                  # nvmlSystemGetDriverVersion; likewise: sys nvml TEXT, sys cuda 13000
//! sys count 8                           # number of GPUs, default 1
//! sys init LIB_RM_VERSION_MISMATCH      # result of nvmlInit (names of nvmlReturn_t without NVML_ERROR_, or OK)
//! * name NVIDIA H100 80GB HBM3          # product name; `0 uuid TEXT` (never for `*`) sets a UUID
//! * util.gpu 97                         # percent; likewise util.mem
//! * mem.total_mib 81559                 # default; likewise mem.used_mib (default 4) and mem.reserved_mib (default 551)
//! * power_w 612                         # nvmlDeviceGetPowerUsage and, unless field.186 says otherwise, the instant power
//! * energy_mj 123456                    # default: power_w times the seconds since the library was loaded
//! * temp 63                             # degrees Celsius
//! * clock.sm 1755                       # MHz; likewise clock.mem, clock.graphics, clock.video
//! * throttle 4                          # clocks-event-reasons bit mask, default 0
//! * field.186 612000                    # nvmlDeviceGetFieldValues by field id
//! 0 util.gpu ramp 100 0 30              # any number: from 100 to 0 over 30 s since the library was loaded
//! 3 err GPU_IS_LOST                     # every call on GPU 3 fails
//! * err.nvmlDeviceGetMemoryInfo_v2 FUNCTION_NOT_FOUND     # one call fails, by its C name; `sys` for calls without a GPU
//! * delay.nvmlDeviceGetPowerUsage 20    # milliseconds before the answer; a large number is a hang. `delay`: every call
//! ```
//! A value that a scenario does not set, and that has no default above, is NOT_SUPPORTED.

#![allow(non_snake_case, reason = "these are the names of the C interface")]
#![allow(
    clippy::missing_safety_doc,
    reason = "NVML's own documentation says what each pointer must be"
)]

mod scenario;

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nvml_wrapper_sys::bindings::{
    nvmlClockType_t, nvmlDevice_t, nvmlFieldValue_t, nvmlMemory_t, nvmlMemory_v2_t,
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED, nvmlReturn_enum_NVML_SUCCESS as OK,
    nvmlReturn_t, nvmlTemperature_t, nvmlTemperatureSensors_t, nvmlUtilization_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG as UNSIGNED_LONG_LONG,
};
use scenario::{Scenario, Who};

/// Initialisations that were not shut down.
static USERS: AtomicU32 = AtomicU32::new(0);

/// Field id of the power draw at this instant.
const POWER_INSTANT: u32 = 186;

// ---- The library itself.

/// Starts the fake; the scenario may refuse.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    let scenario = Scenario::current();
    wait(&scenario, Who::System, "nvmlInit_v2");
    match scenario.text(Who::System, "init") {
        Some(name) if name != "OK" => scenario::error_code(name),
        _ => {
            USERS.fetch_add(1, Ordering::Relaxed);
            OK
        }
    }
}

/// Like `nvmlInit_v2`; no flag changes anything here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    // SAFETY: it takes nothing.
    unsafe { nvmlInit_v2() }
}

/// Ends one initialisation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    let left = USERS.try_update(Ordering::Relaxed, Ordering::Relaxed, |users| {
        users.checked_sub(1)
    });
    if left.is_ok() { OK } else { UNINITIALIZED }
}

/// A text for an error; always the same, callers have their own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlErrorString(_result: nvmlReturn_t) -> *const c_char {
    c"an error of the fake NVML".as_ptr()
}

/// Driver version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(
    version: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller's buffer and its length are passed on as they came.
    system("nvmlSystemGetDriverVersion", |scenario| unsafe {
        put_text(
            version,
            length,
            scenario.text(Who::System, "driver").unwrap_or("580.82.07"),
        )
    })
}

/// Version of the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(
    version: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller's buffer and its length are passed on as they came.
    system("nvmlSystemGetNVMLVersion", |scenario| unsafe {
        put_text(
            version,
            length,
            scenario.text(Who::System, "nvml").unwrap_or("13.580.82.07"),
        )
    })
}

/// CUDA version of the driver, as 1000 x major + 10 x minor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> nvmlReturn_t {
    system("nvmlSystemGetCudaDriverVersion_v2", |scenario| {
        let number = scenario.number(Who::System, "cuda").unwrap_or(13_000.0);
        // SAFETY: the caller gives room for one `int`, or null.
        unsafe { put(version, Some(number as c_int)) }
    })
}

/// Number of GPUs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: the caller gives room for one `unsigned int`, or null.
    system("nvmlDeviceGetCount_v2", |scenario| unsafe {
        put(count, Some(scenario.gpus()))
    })
}

/// Handle of a GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    on_gpu(
        handle(index),
        "nvmlDeviceGetHandleByIndex_v2",
        |_, index| {
            // SAFETY: the caller gives room for one handle, or null.
            unsafe { put(device, Some(handle(index))) }
        },
    )
}

/// Handle of the GPU with this UUID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(
    uuid: *const c_char,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    if uuid.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and the caller passes a C string.
    let wanted = unsafe { CStr::from_ptr(uuid) }.to_string_lossy();
    system("nvmlDeviceGetHandleByUUID", |scenario| {
        match (0..scenario.gpus()).find(|index| uuid_of(scenario, *index) == wanted) {
            // SAFETY: the caller gives room for one handle, or null.
            Some(index) => unsafe { put(device, Some(handle(index))) },
            None => NOT_FOUND,
        }
    })
}

// ---- One GPU.

/// Product name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    name: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetName", |scenario, gpu| {
        let text = scenario
            .text(Who::Gpu(gpu), "name")
            .unwrap_or("NVIDIA H100 80GB HBM3");
        // SAFETY: the caller's buffer and its length are passed on as they came.
        unsafe { put_text(name, length, text) }
    })
}

/// UUID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller's buffer and its length are passed on as they came.
    on_gpu(device, "nvmlDeviceGetUUID", |scenario, gpu| unsafe {
        put_text(uuid, length, &uuid_of(scenario, gpu))
    })
}

/// Index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(
    device: nvmlDevice_t,
    index: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller gives room for one `unsigned int`, or null.
    on_gpu(device, "nvmlDeviceGetIndex", |_, gpu| unsafe {
        put(index, Some(gpu))
    })
}

/// Share of time with a kernel running, and with memory busy, percent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    rates: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetUtilizationRates", |scenario, gpu| {
        let memory = scenario.number(Who::Gpu(gpu), "util.mem").unwrap_or(0.0) as c_uint;
        let rate = scenario.number(Who::Gpu(gpu), "util.gpu");
        // SAFETY: the caller gives room for one struct, or null.
        unsafe {
            put(
                rates,
                rate.map(|rate| nvmlUtilization_t {
                    gpu: rate as c_uint,
                    memory,
                }),
            )
        }
    })
}

/// Memory, first version: what the driver reserves counts as used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetMemoryInfo", |scenario, gpu| {
        let Memory {
            total,
            used,
            reserved,
        } = memory_of(scenario, gpu);
        let used = used + reserved;
        // SAFETY: the caller gives room for one struct, or null.
        unsafe {
            put(
                memory,
                Some(nvmlMemory_t {
                    total,
                    used,
                    free: total.saturating_sub(used),
                }),
            )
        }
    })
}

/// Memory, second version: reserved memory apart. Refuses a struct of another version, as the driver does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetMemoryInfo_v2", |scenario, gpu| {
        let version = struct_version::<nvmlMemory_v2_t>(2);
        // SAFETY: the caller passes an initialised struct, or null.
        match unsafe { memory.as_ref() } {
            None => return INVALID_ARGUMENT,
            Some(given) if given.version != version => return VERSION_MISMATCH,
            Some(_) => {}
        }
        let Memory {
            total,
            used,
            reserved,
        } = memory_of(scenario, gpu);
        let free = total.saturating_sub(used + reserved);
        // SAFETY: the caller gives room for one struct.
        unsafe {
            put(
                memory,
                Some(nvmlMemory_v2_t {
                    version,
                    total,
                    reserved,
                    free,
                    used,
                }),
            )
        }
    })
}

/// Mean power of the last second, milliwatts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(
    device: nvmlDevice_t,
    power: *mut c_uint,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetPowerUsage", |scenario, gpu| {
        let milliwatts = scenario
            .number(Who::Gpu(gpu), "power_w")
            .map(|watts| (watts * 1000.0) as c_uint);
        // SAFETY: the caller gives room for one `unsigned int`, or null.
        unsafe { put(power, milliwatts) }
    })
}

/// Energy since the driver was loaded, millijoules.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    device: nvmlDevice_t,
    energy: *mut c_ulonglong,
) -> nvmlReturn_t {
    on_gpu(
        device,
        "nvmlDeviceGetTotalEnergyConsumption",
        |scenario, gpu| {
            let from_power = || {
                Some(
                    scenario.number(Who::Gpu(gpu), "power_w")?
                        * scenario::age().as_secs_f64()
                        * 1000.0,
                )
            };
            let millijoules = scenario
                .number(Who::Gpu(gpu), "energy_mj")
                .or_else(from_power);
            // SAFETY: the caller gives room for one `unsigned long long`, or null.
            unsafe { put(energy, millijoules.map(|value| value as c_ulonglong)) }
        },
    )
}

/// Core temperature, degrees Celsius; the old name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    _sensor: nvmlTemperatureSensors_t,
    temperature: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller gives room for one `unsigned int`, or null.
    on_gpu(device, "nvmlDeviceGetTemperature", |scenario, gpu| unsafe {
        put(
            temperature,
            scenario
                .number(Who::Gpu(gpu), "temp")
                .map(|value| value as c_uint),
        )
    })
}

/// Core temperature, degrees Celsius; the new name. Refuses a struct of another version, as the driver does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperatureV(
    device: nvmlDevice_t,
    temperature: *mut nvmlTemperature_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetTemperatureV", |scenario, gpu| {
        // SAFETY: the caller passes an initialised struct, or null.
        let Some(answer) = (unsafe { temperature.as_mut() }) else {
            return INVALID_ARGUMENT;
        };
        if answer.version != struct_version::<nvmlTemperature_t>(1) {
            return VERSION_MISMATCH;
        }
        let Some(value) = scenario.number(Who::Gpu(gpu), "temp") else {
            return NOT_SUPPORTED;
        };
        answer.temperature = value as c_int;
        OK
    })
}

/// A clock's present rate, MHz.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(
    device: nvmlDevice_t,
    clock: nvmlClockType_t,
    rate: *mut c_uint,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetClockInfo", |scenario, gpu| {
        let Some(key) =
            ["clock.graphics", "clock.sm", "clock.mem", "clock.video"].get(clock as usize)
        else {
            return INVALID_ARGUMENT;
        };
        // SAFETY: the caller gives room for one `unsigned int`, or null.
        unsafe {
            put(
                rate,
                scenario
                    .number(Who::Gpu(gpu), key)
                    .map(|value| value as c_uint),
            )
        }
    })
}

/// Why the clocks are lowered; the new name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksEventReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    on_gpu(
        device,
        "nvmlDeviceGetCurrentClocksEventReasons",
        |scenario, gpu| {
            // SAFETY: the caller gives room for one `unsigned long long`, or null.
            unsafe { put(reasons, Some(throttle_of(scenario, gpu))) }
        },
    )
}

/// Why the clocks are lowered; the old name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    on_gpu(
        device,
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        |scenario, gpu| {
            // SAFETY: the caller gives room for one `unsigned long long`, or null.
            unsafe { put(reasons, Some(throttle_of(scenario, gpu))) }
        },
    )
}

/// Values by field id; each carries its own result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    on_gpu(device, "nvmlDeviceGetFieldValues", |scenario, gpu| {
        let Some(count) = usize::try_from(count).ok().filter(|_| !values.is_null()) else {
            return INVALID_ARGUMENT;
        };
        // SAFETY: not null, and the caller passes `count` initialised elements.
        for field in unsafe { std::slice::from_raw_parts_mut(values, count) } {
            match field_of(scenario, gpu, field.fieldId) {
                Some(value) => {
                    field.nvmlReturn = OK;
                    field.valueType = UNSIGNED_LONG_LONG;
                    field.value.ullVal = value as u64;
                }
                None => field.nvmlReturn = NOT_SUPPORTED,
            }
        }
        OK
    })
}

// ---- How every call begins and ends.

/// A call without a GPU: its delay, its error, then its answer.
fn system(name: &str, answer: impl FnOnce(&Scenario) -> nvmlReturn_t) -> nvmlReturn_t {
    let scenario = Scenario::current();
    wait(&scenario, Who::System, name);
    match refusal(&scenario, Who::System, name) {
        Some(code) => code,
        None => answer(&scenario),
    }
}

/// A call on a GPU: likewise, and the GPU must exist.
fn on_gpu(
    device: nvmlDevice_t,
    name: &str,
    answer: impl FnOnce(&Scenario, u32) -> nvmlReturn_t,
) -> nvmlReturn_t {
    let scenario = Scenario::current();
    let Some(gpu) = index(device).filter(|gpu| *gpu < scenario.gpus()) else {
        return INVALID_ARGUMENT;
    };
    wait(&scenario, Who::Gpu(gpu), name);
    match refusal(&scenario, Who::Gpu(gpu), name) {
        Some(code) => code,
        None => answer(&scenario, gpu),
    }
}

fn wait(scenario: &Scenario, who: Who, name: &str) {
    if let Some(delay) = scenario.delay(who, name) {
        thread::sleep(delay);
    }
}

fn refusal(scenario: &Scenario, who: Who, name: &str) -> Option<nvmlReturn_t> {
    let general = || {
        matches!(who, Who::Gpu(_))
            .then(|| scenario.text(who, "err"))
            .flatten()
    };
    let named = scenario
        .text(who, &format!("err.{name}"))
        .or_else(general)
        .map(scenario::error_code);
    let uninitialised = || (USERS.load(Ordering::Relaxed) == 0).then_some(UNINITIALIZED);
    named.filter(|code| *code != OK).or_else(uninitialised)
}

/// Handles are small numbers, so that a caller who follows one crashes at once. Never null.
fn handle(index: u32) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(0x1000 + index as usize)
}

fn index(device: nvmlDevice_t) -> Option<u32> {
    device
        .addr()
        .checked_sub(0x1000)
        .and_then(|index| u32::try_from(index).ok())
}

/// Stores an answer; a value that the scenario lacks is not supported.
///
/// # Safety
/// `place` is null or valid for a write of `T`.
unsafe fn put<T>(place: *mut T, value: Option<T>) -> nvmlReturn_t {
    match value {
        _ if place.is_null() => INVALID_ARGUMENT,
        None => NOT_SUPPORTED,
        Some(value) => {
            // SAFETY: not null, and the caller vouches for the rest.
            unsafe { place.write(value) };
            OK
        }
    }
}

/// Stores a C string.
///
/// # Safety
/// `place` is null or valid for writes of `length` bytes.
unsafe fn put_text(place: *mut c_char, length: c_uint, text: &str) -> nvmlReturn_t {
    if place.is_null() {
        return INVALID_ARGUMENT;
    }
    if text.len() >= length as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: not null, and text and its zero fit by the check above.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), place.cast(), text.len());
        place.add(text.len()).write(0);
    }
    OK
}

/// `NVML_STRUCT_VERSION` of the C header.
const fn struct_version<T>(version: u32) -> u32 {
    size_of::<T>() as u32 | version << 24
}

// ---- Values that several calls share.

/// Bytes.
struct Memory {
    total: u64,
    used: u64,
    reserved: u64,
}

fn memory_of(scenario: &Scenario, gpu: u32) -> Memory {
    let bytes = |key, default| {
        let mebibytes: f64 = scenario.number(Who::Gpu(gpu), key).unwrap_or(default);
        (mebibytes * 1_048_576.0) as u64
    };
    Memory {
        total: bytes("mem.total_mib", 81_559.0),
        used: bytes("mem.used_mib", 4.0),
        reserved: bytes("mem.reserved_mib", 551.0),
    }
}

fn throttle_of(scenario: &Scenario, gpu: u32) -> c_ulonglong {
    scenario.number(Who::Gpu(gpu), "throttle").unwrap_or(0.0) as c_ulonglong
}

fn uuid_of(scenario: &Scenario, gpu: u32) -> String {
    // Only a line of the GPU's own counts: one for `*` would make all GPUs the same.
    let own = scenario.own_text(Who::Gpu(gpu), "uuid");
    own.map_or_else(
        || format!("GPU-00000000-fa4e-0000-0000-{gpu:012}"),
        str::to_owned,
    )
}

fn field_of(scenario: &Scenario, gpu: u32, field: u32) -> Option<f64> {
    let listed = scenario.number(Who::Gpu(gpu), &format!("field.{field}"));
    let from_power = || {
        scenario
            .number(Who::Gpu(gpu), "power_w")
            .map(|watts| watts * 1000.0)
    };
    listed.or_else(|| (field == POWER_INSTANT).then(from_power).flatten())
}
