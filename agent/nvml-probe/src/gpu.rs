//! Reads one GPU, and remembers what it does not have.

use nvml_probe::{Gpu, GpuInfo};
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::raw;

/// Codes above 22 that nvml-wrapper has no names for: a struct version unknown to the driver, and a call it gave up.
const ARGUMENT_VERSION_MISMATCH: u32 = 25;
const DEPRECATED: u32 = 26;

/// What is asked of a GPU. Old and new ways of asking the same are two queries: each is given up by itself.
#[derive(Debug, Clone, Copy)]
enum Query {
    Utilisation,
    MemoryV2,
    MemoryV1,
    PowerInstant,
    PowerMean,
    Energy,
    TemperatureNew,
    TemperatureOld,
    SmClock,
    MemoryClock,
    ThrottleNew,
    ThrottleOld,
}

/// One GPU and what was learned about it.
pub struct Reader<'nvml> {
    index: u32,
    /// The handle, or the NVML code with which the GPU refused to give one.
    device: Result<Device<'nvml>, u32>,
    /// One bit per [`Query`] that this GPU does not answer.
    unsupported: u32,
}

impl<'nvml> Reader<'nvml> {
    pub fn new(nvml: &'nvml Nvml, index: u32) -> Self {
        Self {
            index,
            device: nvml.device_by_index(index).map_err(u32::from),
            unsupported: 0,
        }
    }

    /// Its names, as far as they can be read.
    pub fn info(&self) -> GpuInfo {
        let device = self.device.as_ref().ok();
        let name = device
            .and_then(|device| device.name().ok())
            .unwrap_or_default();
        let uuid = device
            .and_then(|device| device.uuid().ok())
            .unwrap_or_default();
        GpuInfo {
            index: self.index,
            name,
            uuid,
        }
    }

    /// One reading. A GPU that is lost gives its error and no values.
    pub fn read(&mut self) -> Gpu {
        let device = match &self.device {
            Ok(device) => device,
            Err(code) => {
                return Gpu {
                    index: self.index,
                    error: *code,
                    ..Gpu::default()
                };
            }
        };
        let mut reading = Reading {
            unsupported: &mut self.unsupported,
            first_error: None,
            lost: false,
        };
        let mut gpu = Gpu {
            index: self.index,
            ..Gpu::default()
        };

        gpu.utilisation_percent =
            reading.ask(Query::Utilisation, || Ok(device.utilization_rates()?.gpu));
        // Drivers before R510 have only the first version, which counts the driver's reserve as used.
        let memory = reading
            .ask(Query::MemoryV2, || {
                device
                    .memory_info()
                    .map(|memory| (memory.used, memory.total))
            })
            .or_else(|| reading.ask(Query::MemoryV1, || raw::memory_v1(device)));
        (gpu.memory_used_bytes, gpu.memory_total_bytes) = memory.unzip();
        // The instant value takes microseconds; PowerUsage is a mean over a second from Ampere on, and takes milliseconds.
        gpu.power_mw = reading
            .ask(Query::PowerInstant, || raw::power_instant_mw(device))
            .or_else(|| reading.ask(Query::PowerMean, || device.power_usage()));
        gpu.energy_mj = reading.ask(Query::Energy, || device.total_energy_consumption());
        // CUDA 14 drivers drop the old names of these two, and old drivers lack the new ones.
        gpu.temperature_c = reading
            .ask(Query::TemperatureNew, || raw::temperature_c(device))
            .or_else(|| {
                reading.ask(Query::TemperatureOld, || {
                    device.temperature(TemperatureSensor::Gpu)
                })
            });
        gpu.throttle_reasons = reading
            .ask(Query::ThrottleNew, || raw::clocks_event_reasons(device))
            .or_else(|| {
                let old = || {
                    device
                        .current_throttle_reasons()
                        .map(|reasons| reasons.bits())
                };
                reading.ask(Query::ThrottleOld, old)
            });
        gpu.sm_clock_mhz = reading.ask(Query::SmClock, || device.clock_info(Clock::SM));
        gpu.memory_clock_mhz = reading.ask(Query::MemoryClock, || device.clock_info(Clock::Memory));

        let verdict = reading.verdict(&gpu);
        if verdict == 0 {
            gpu
        } else {
            Gpu {
                index: self.index,
                error: verdict,
                ..Gpu::default()
            }
        }
    }
}

/// The state of one pass over one GPU.
struct Reading<'a> {
    unsupported: &'a mut u32,
    first_error: Option<u32>,
    lost: bool,
}

impl Reading<'_> {
    /// Asks once, unless this GPU is known not to answer, or was lost a moment ago.
    fn ask<T>(&mut self, query: Query, call: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        let bit = 1 << query as u32;
        if self.lost || *self.unsupported & bit != 0 {
            return None;
        }
        match call() {
            Ok(value) => Some(value),
            Err(err) => {
                if is_unsupported(&err) {
                    *self.unsupported |= bit;
                } else {
                    self.lost |= is_lost(&err);
                    self.first_error.get_or_insert(u32::from(err));
                }
                None
            }
        }
    }

    /// The GPU's error: when it is lost, or when nothing at all could be read and something failed.
    fn verdict(&self, gpu: &Gpu) -> u32 {
        let nothing = *gpu
            == Gpu {
                index: gpu.index,
                ..Gpu::default()
            };
        if self.lost || nothing {
            self.first_error.unwrap_or(0)
        } else {
            0
        }
    }
}

/// Only these mean that asking again is pointless. Any other error may pass, and a metric that was disabled for good
/// because of one bad moment would be missing for the rest of the run.
fn is_unsupported(err: &NvmlError) -> bool {
    matches!(
        err,
        NvmlError::NotSupported
            | NvmlError::NoPermission
            | NvmlError::InvalidArg
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::UnexpectedVariant(ARGUMENT_VERSION_MISMATCH | DEPRECATED)
    )
}

/// The GPU as a whole is gone: further calls would only take the driver's lock.
fn is_lost(err: &NvmlError) -> bool {
    matches!(
        err,
        NvmlError::GpuLost
            | NvmlError::ResetRequired
            | NvmlError::LibRmVersionMismatch
            | NvmlError::Uninitialized
            | NvmlError::DriverNotLoaded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(
        unsupported: &mut u32,
        answers: &[(Query, Result<u32, NvmlError>)],
    ) -> (Vec<Option<u32>>, u32, usize) {
        let mut asked = 0;
        let mut reading = Reading {
            unsupported,
            first_error: None,
            lost: false,
        };
        let mut gpu = Gpu::default();
        let values: Vec<_> = answers
            .iter()
            .map(|(query, answer)| {
                reading.ask(*query, || {
                    asked += 1;
                    answer
                        .as_ref()
                        .copied()
                        .map_err(|err| NvmlError::from(code(err)))
                })
            })
            .collect();
        gpu.power_mw = values.iter().copied().flatten().next();
        (values, reading.verdict(&gpu), asked)
    }

    fn code(err: &NvmlError) -> u32 {
        match err {
            NvmlError::NotSupported => 3,
            NvmlError::GpuLost => 15,
            NvmlError::Unknown => 999,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_unsupported_query_is_asked_once() {
        let mut unsupported = 0;
        let answers = || {
            [
                (Query::PowerInstant, Err(NvmlError::NotSupported)),
                (Query::PowerMean, Ok(5)),
            ]
        };
        assert_eq!(
            pass(&mut unsupported, &answers()),
            (vec![None, Some(5)], 0, 2)
        );
        assert_eq!(
            pass(&mut unsupported, &answers()),
            (vec![None, Some(5)], 0, 1)
        );
    }

    #[test]
    fn a_passing_error_costs_one_value_and_is_asked_again() {
        let mut unsupported = 0;
        let answers = || {
            [
                (Query::Energy, Err(NvmlError::Unknown)),
                (Query::SmClock, Ok(1755)),
            ]
        };
        for _ in 0..2 {
            assert_eq!(
                pass(&mut unsupported, &answers()),
                (vec![None, Some(1755)], 0, 2)
            );
        }
    }

    #[test]
    fn a_lost_gpu_is_left_alone_for_the_rest_of_the_pass_and_reports_its_code() {
        let answers = [
            (Query::Energy, Ok(1)),
            (Query::SmClock, Err(NvmlError::GpuLost)),
            (Query::MemoryClock, Ok(2)),
        ];
        assert_eq!(pass(&mut 0, &answers), (vec![Some(1), None, None], 15, 2));
    }

    #[test]
    fn a_gpu_of_which_nothing_can_be_read_reports_the_first_error() {
        let answers = [
            (Query::Energy, Err(NvmlError::Unknown)),
            (Query::SmClock, Err(NvmlError::NotSupported)),
        ];
        assert_eq!(pass(&mut 0, &answers).1, 999);
    }
}
