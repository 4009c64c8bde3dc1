//! The calls on one GPU: each takes its value from the scenario.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlClockType_t, nvmlDevice_t, nvmlFieldValue_t, nvmlMemory_t, nvmlMemory_v2_t,
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_enum_NVML_SUCCESS as OK,
    nvmlReturn_t, nvmlTemperature_t, nvmlTemperatureSensors_t, nvmlUtilization_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG as UNSIGNED_LONG_LONG,
};

use crate::scenario::{self, Scenario, Who};
use crate::{on_gpu, put, put_text, uuid_of};

/// Field id of the power draw at this instant.
const POWER_INSTANT: u32 = 186;

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
            match field_of(scenario, gpu, field.fieldId, field.scopeId) {
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

fn field_of(scenario: &Scenario, gpu: u32, field: u32, scope: u32) -> Option<f64> {
    // NVLink throughput: all links together, or one.
    let one_link = (138..=141).contains(&field) && scope != u32::MAX;
    let key = if one_link {
        format!("field.{field}.{scope}")
    } else {
        format!("field.{field}")
    };
    let listed = scenario.number(Who::Gpu(gpu), &key);
    let from_power = || {
        scenario
            .number(Who::Gpu(gpu), "power_w")
            .map(|watts| watts * 1000.0)
    };
    listed.or_else(|| (field == POWER_INSTANT).then(from_power).flatten())
}

/// `NVML_STRUCT_VERSION` of the C header.
const fn struct_version<T>(version: u32) -> u32 {
    size_of::<T>() as u32 | version << 24
}
