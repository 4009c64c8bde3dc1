//! What nvml-wrapper 0.13 does not wrap, and two system calls: all `unsafe` code of the probe.

use std::mem;

use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_GPM_METRICS_GET_VERSION, nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t,
    nvmlEventTypeXidCriticalError, nvmlFieldValue_t, nvmlGpmMetricsGet_t, nvmlGpmSample_t,
    nvmlMemory_t, nvmlTemperature_t, nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU,
    nvmlValueType_enum_NVML_VALUE_TYPE_DOUBLE, nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_LONG_LONG,
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

/// All NVLinks at once: without it, the throughput counters are those of link 0.
pub const ALL_LINKS: u32 = u32::MAX;

/// Values by field id and scope; absent where the GPU does not have one. Not by nvml-wrapper's field values: those refuse
/// types they do not expect, and cannot name a scope.
///
/// # Errors
/// When none of them is there.
pub fn fields<const N: usize>(
    device: &Device<'_>,
    wanted: [(u32, u32); N],
) -> Result<[Option<u64>; N], NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetFieldValues.as_ref())?;
    // SAFETY: C structs of integers and a union of numbers, for all of which zero is a value.
    let mut fields: [nvmlFieldValue_t; N] = unsafe { mem::zeroed() };
    for (field, (id, scope)) in fields.iter_mut().zip(wanted) {
        (field.fieldId, field.scopeId) = (id, scope);
    }
    // SAFETY: the handle belongs to the same library, and NVML writes exactly the elements that were promised.
    nvml_try(unsafe { call(handle(device), N as i32, fields.as_mut_ptr()) })?;
    let values = fields.map(|field| (field.nvmlReturn == 0).then(|| integer(&field)).flatten());
    if values.iter().any(Option::is_some) {
        return Ok(values);
    }
    // The first one's own reason, which may be a passing one.
    nvml_try(fields.first().map_or(0, |field| field.nvmlReturn))?;
    Err(NvmlError::NotSupported)
}

#[allow(non_upper_case_globals, reason = "they are NVML's names")]
fn integer(field: &nvmlFieldValue_t) -> Option<u64> {
    // SAFETY: NVML says in `valueType` which member it wrote; each of these is a number, so any bits are valid.
    unsafe {
        match field.valueType {
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT => Some(u64::from(field.value.uiVal)),
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG => Some(field.value.ulVal),
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG => Some(field.value.ullVal),
            nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_LONG_LONG => {
                u64::try_from(field.value.sllVal).ok()
            }
            nvmlValueType_enum_NVML_VALUE_TYPE_DOUBLE => Some(field.value.dVal as u64),
            _ => None,
        }
    }
}

/// Performance state, 0 to 15.
pub fn performance_state(device: &Device<'_>) -> Result<u32, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetPerformanceState.as_ref())?;
    let mut state = 0;
    // SAFETY: the handle belongs to the same library, and NVML writes one enum.
    nvml_try(unsafe { call(handle(device), &mut state) })?;
    // 32 is NVML's word for an unknown one.
    (state < 16).then_some(state).ok_or(NvmlError::NoData)
}

/// Memory rows that were replaced: after corrected and after uncorrected errors, whether one waits, whether one failed.
pub fn remapped_rows(device: &Device<'_>) -> Result<[u32; 4], NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetRemappedRows.as_ref())?;
    let mut rows = [0; 4];
    let [corrected, uncorrected, pending, failed] = &mut rows;
    // SAFETY: the handle belongs to the same library, and NVML writes four `unsigned int`.
    nvml_try(unsafe { call(handle(device), corrected, uncorrected, pending, failed) })?;
    Ok(rows)
}

/// Two counters of the hardware performance monitor, from which [`gpm_metrics`] makes rates.
pub struct GpmSample<'nvml> {
    nvml: &'nvml Nvml,
    sample: nvmlGpmSample_t,
}

impl<'nvml> GpmSample<'nvml> {
    /// Room for one; it is filled by [`GpmSample::fill`].
    pub fn new(nvml: &'nvml Nvml) -> Result<Self, NvmlError> {
        let call = nvml_sym(nvml.lib().nvmlGpmSampleAlloc.as_ref())?;
        let mut sample = std::ptr::null_mut();
        // SAFETY: NVML writes one pointer, which is freed once, in `drop`.
        nvml_try(unsafe { call(&mut sample) })?;
        Ok(Self { nvml, sample })
    }

    /// Reads the counters.
    pub fn fill(&mut self, device: &Device<'_>) -> Result<(), NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlGpmSampleGet.as_ref())?;
        // SAFETY: handle and sample belong to the same library.
        nvml_try(unsafe { call(handle(device), self.sample) })
    }
}

impl Drop for GpmSample<'_> {
    fn drop(&mut self) {
        if let Ok(call) = self.nvml.lib().nvmlGpmSampleFree.as_ref() {
            // SAFETY: allocated by the same library, and freed only here.
            unsafe { call(self.sample) };
        }
    }
}

/// What happened between two samples, by metric id; absent where the GPU does not have one.
pub fn gpm_metrics<const N: usize>(
    earlier: &GpmSample<'_>,
    later: &GpmSample<'_>,
    wanted: [u32; N],
) -> Result<[Option<f64>; N], NvmlError> {
    let call = nvml_sym(later.nvml.lib().nvmlGpmMetricsGet.as_ref())?;
    // SAFETY: a C struct of numbers and pointers, for all of which zero is a value.
    let mut request: nvmlGpmMetricsGet_t = unsafe { mem::zeroed() };
    request.version = NVML_GPM_METRICS_GET_VERSION;
    request.numMetrics = N as u32;
    (request.sample1, request.sample2) = (earlier.sample, later.sample);
    for (metric, id) in request.metrics.iter_mut().zip(wanted) {
        metric.metricId = id;
    }
    // SAFETY: the samples belong to the same library, and NVML writes only the metrics that were asked for.
    nvml_try(unsafe { call(&mut request) })?;
    let mut values = [None; N];
    for (value, metric) in values.iter_mut().zip(&request.metrics) {
        *value = (metric.nvmlReturn == 0 && metric.value.is_finite()).then_some(metric.value);
    }
    Ok(values)
}

/// The driver's critical errors, of the GPUs that can tell.
pub struct XidEvents<'nvml> {
    nvml: &'nvml Nvml,
    set: nvmlEventSet_t,
}

// SAFETY: the set is a handle that NVML allows to be waited for on any thread; it is never shared between two.
unsafe impl Send for XidEvents<'_> {}

impl<'nvml> XidEvents<'nvml> {
    /// Asks for the errors of these GPUs.
    ///
    /// # Errors
    /// When no GPU can tell, as in some containers.
    pub fn register(nvml: &'nvml Nvml, devices: &[&Device<'_>]) -> Result<Self, NvmlError> {
        let create = nvml_sym(nvml.lib().nvmlEventSetCreate.as_ref())?;
        let register = nvml_sym(nvml.lib().nvmlDeviceRegisterEvents.as_ref())?;
        let mut set = std::ptr::null_mut();
        // SAFETY: NVML writes one pointer. It lives as long as the process, so it is never freed.
        nvml_try(unsafe { create(&mut set) })?;
        let mut outcome = Err(NvmlError::NotSupported);
        for device in devices {
            let kind = u64::from(nvmlEventTypeXidCriticalError);
            // SAFETY: handle and set belong to the same library.
            match nvml_try(unsafe { register(handle(device), kind, set) }) {
                Ok(()) => outcome = Ok(()),
                Err(err) if outcome.is_err() => outcome = Err(err),
                Err(_) => {}
            }
        }
        outcome.map(|()| Self { nvml, set })
    }

    /// Waits for the next one: the handle of its GPU, and its code.
    ///
    /// # Errors
    /// `Timeout` when none came in time.
    pub fn wait(&self, timeout_ms: u32) -> Result<(usize, u32), NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlEventSetWait_v2.as_ref())?;
        // SAFETY: a C struct of integers and a handle, for all of which zero is a value.
        let mut event: nvmlEventData_t = unsafe { mem::zeroed() };
        // SAFETY: the set belongs to the same library, and NVML writes one struct.
        nvml_try(unsafe { call(self.set, &mut event, timeout_ms) })?;
        let code = u32::try_from(event.eventData).unwrap_or(u32::MAX);
        Ok((event.device.addr(), code))
    }
}

/// A device's handle as a number. By it an event finds its GPU: a lost one does not tell its index any more.
pub fn handle_of(device: &Device<'_>) -> usize {
    handle(device).addr()
}

fn handle(device: &Device<'_>) -> nvmlDevice_t {
    // SAFETY: the handle is used only while `device`, and with it the library, is borrowed.
    unsafe { device.handle() }
}

/// `NVML_STRUCT_VERSION` of the C header.
const fn struct_version<T>(version: u32) -> u32 {
    size_of::<T>() as u32 | version << 24
}
