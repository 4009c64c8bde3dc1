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
//! * field.138 4096                      # likewise; fields 138 to 141 of all links, of one link as field.138.LINK
//! * pstate 0                            # likewise power_limit_w, fan (percent), vbios, capability (default 90)
//! * max_clock.sm 1980                   # MHz; likewise max_clock.mem
//! * pcie.generation 5                   # likewise pcie.width, pcie.replays; pcie.tx_kbps and pcie.rx_kbps
//! * nvlinks 18                          # number of links; `nvlink.3 0` takes one down
//! * ecc.corrected 3                     # likewise ecc.uncorrected; with .lifetime those of the card's life
//! * remap 1 0 1 0                       # rows replaced after corrected and uncorrected errors, pending, failed
//! 0 proc 4242:1073741824 4300:-         # processes with their memory in bytes; `-`: the driver does not tell
//! * gpm 1                               # it has a monitor; `gpm.2 87.5` is a metric by its id
//! 0 mig 0 2                             # it is split: MIG devices 0 and 2; `0.2 mem.used_mib 512` is a line about one
//! 1 xid 79 first                        # an Xid event; each new text is another event
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

mod device;
mod parts;
mod scenario;
mod slow;

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED, nvmlReturn_enum_NVML_SUCCESS as OK,
    nvmlReturn_t,
};
use scenario::{Scenario, Who};

/// Initialisations that were not shut down.
static USERS: AtomicU32 = AtomicU32::new(0);

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
    let Some(gpu) = index(device).filter(|gpu| scenario::whole(*gpu) < scenario.gpus()) else {
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

/// Handle of a MIG device: it answers what the scenario says of it, as if it were a GPU.
fn part_handle(gpu: u32, part: u32) -> nvmlDevice_t {
    handle(scenario::part(gpu, part))
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

/// Only a line of the GPU's own counts: one for `*` would make all GPUs the same.
fn uuid_of(scenario: &Scenario, gpu: u32) -> String {
    let own = scenario.own_text(Who::Gpu(gpu), "uuid");
    let kind = if scenario::whole(gpu) == gpu {
        "GPU"
    } else {
        "MIG"
    };
    own.map_or_else(
        || format!("{kind}-00000000-fa4e-0000-0000-{gpu:012}"),
        str::to_owned,
    )
}
