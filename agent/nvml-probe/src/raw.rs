//! What nvml-wrapper 0.13 does not wrap, and two system calls: all `unsafe` code of the probe.

use std::mem;

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_POWER_INSTANT;
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlFieldValue_t, nvmlMemory_t, nvmlTemperature_t,
    nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
};

/// Asks the kernel to kill this process when the thread that started it ends, and names the process. Returns false when
/// the parent is gone already, which the kernel would not notice any more.
pub fn die_with_parent(parent: Option<u32>) -> bool {
    // SAFETY: both calls take plain values and a string that lives for the whole program; neither touches our memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // Started from a memfd the name would be a number.
        libc::prctl(libc::PR_SET_NAME, c"nvml-probe".as_ptr());
    }
    parent.is_none_or(|parent| std::os::unix::process::parent_id() == parent)
}

/// Used and total bytes by the first version of the call.
pub fn memory_v1(device: &Device<'_>) -> Result<(u64, u64), NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetMemoryInfo.as_ref())?;
    let mut memory = nvmlMemory_t {
        total: 0,
        free: 0,
        used: 0,
    };
    // SAFETY: the symbol has this signature in every driver, the handle belongs to the same library, and NVML writes one
    // `nvmlMemory_t`.
    nvml_try(unsafe { call(handle(device), &mut memory) })?;
    Ok((memory.used, memory.total))
}

/// Core temperature in degrees Celsius by the new name.
pub fn temperature_c(device: &Device<'_>) -> Result<u32, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetTemperatureV.as_ref())?;
    let mut temperature = nvmlTemperature_t {
        version: struct_version::<nvmlTemperature_t>(1),
        sensorType: nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU,
        temperature: 0,
    };
    // SAFETY: the handle belongs to the same library, and the version field tells NVML how much it may write.
    nvml_try(unsafe { call(handle(device), &mut temperature) })?;
    u32::try_from(temperature.temperature).map_err(|_| NvmlError::NoData)
}

/// Reasons for which the clocks are lowered, by the new name.
pub fn clocks_event_reasons(device: &Device<'_>) -> Result<u64, NvmlError> {
    let call = nvml_sym(
        device
            .nvml()
            .lib()
            .nvmlDeviceGetCurrentClocksEventReasons
            .as_ref(),
    )?;
    let mut reasons = 0;
    // SAFETY: the handle belongs to the same library, and NVML writes one `unsigned long long`.
    nvml_try(unsafe { call(handle(device), &mut reasons) })?;
    Ok(reasons)
}

/// Power draw at this instant in milliwatts. Not by nvml-wrapper's field values: those refuse types they do not expect.
pub fn power_instant_mw(device: &Device<'_>) -> Result<u32, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetFieldValues.as_ref())?;
    // SAFETY: a C struct of integers and a union of numbers, for all of which zero is a value.
    let mut field: nvmlFieldValue_t = unsafe { mem::zeroed() };
    field.fieldId = NVML_FI_DEV_POWER_INSTANT;
    // SAFETY: the handle belongs to the same library, and NVML writes exactly the one element that was promised.
    nvml_try(unsafe { call(handle(device), 1, &mut field) })?;
    nvml_try(field.nvmlReturn)?;
    #[allow(non_upper_case_globals)]
    // SAFETY: NVML says in `valueType` which member it wrote; each of these is an integer, so any bits are valid.
    let value = unsafe {
        match field.valueType {
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT => u64::from(field.value.uiVal),
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG => field.value.ulVal,
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG => field.value.ullVal,
            _ => return Err(NvmlError::NotSupported),
        }
    };
    u32::try_from(value).map_err(|_| NvmlError::NoData)
}

fn handle(device: &Device<'_>) -> nvmlDevice_t {
    // SAFETY: the handle is used only while `device`, and with it the library, is borrowed.
    unsafe { device.handle() }
}

/// `NVML_STRUCT_VERSION` of the C header.
const fn struct_version<T>(version: u32) -> u32 {
    size_of::<T>() as u32 | version << 24
}
