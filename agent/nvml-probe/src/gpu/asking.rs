//! Asking one GPU, once per question that it turned out not to answer.

use nvml_wrapper::error::NvmlError;

/// Codes above 22 that nvml-wrapper has no names for: a struct version unknown to the driver, and a call it gave up.
const ARGUMENT_VERSION_MISMATCH: u32 = 25;
const DEPRECATED: u32 = 26;

/// What is asked of a GPU. Old and new ways of asking the same are two queries: each is given up by itself.
#[derive(Debug, Clone, Copy)]
pub enum Query {
    Utilisation,
    MemoryV2,
    MemoryV1,
    PowerInstant,
    PowerMean,
    Energy,
    TemperatureNew,
    TemperatureOld,
    MemoryTemperature,
    SmClock,
    MemoryClock,
    ThrottleNew,
    ThrottleOld,
    PerformanceState,
    Monitor,
    PowerLimit,
    Fan,
    PcieBytes,
    PcieThroughput,
    PcieReplays,
    PcieGeneration,
    PcieWidth,
    NvlinkBytes,
    NvlinkState,
    NvlinkErrors,
    Ecc,
    EccLifetime,
    RemappedRows,
    RemappedFields,
    RetiredFields,
    RecoveryAction,
    Processes,
}

/// What a GPU does not answer: one bit per [`Query`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Unsupported(u64);

impl Unsupported {
    /// Whether this was asked before, and cannot be answered.
    pub fn holds(self, query: Query) -> bool {
        self.0 & (1 << query as u32) != 0
    }

    fn add(&mut self, query: Query) {
        self.0 |= 1 << query as u32;
    }
}

/// The state of one pass over one GPU.
pub struct Asking<'a> {
    unsupported: &'a mut Unsupported,
    first_error: Option<u32>,
    answered: bool,
    lost: bool,
}

impl<'a> Asking<'a> {
    pub fn new(unsupported: &'a mut Unsupported) -> Self {
        Self {
            unsupported,
            first_error: None,
            answered: false,
            lost: false,
        }
    }

    /// Asks, unless this GPU is known not to answer, or was lost a moment ago.
    pub fn ask<T>(
        &mut self,
        query: Query,
        call: impl FnOnce() -> Result<T, NvmlError>,
    ) -> Option<T> {
        if self.lost || self.unsupported.holds(query) {
            return None;
        }
        match call() {
            Ok(value) => {
                self.answered = true;
                Some(value)
            }
            Err(err) => {
                if is_unsupported(&err) {
                    self.unsupported.add(query);
                } else {
                    self.lost |= is_lost(&err);
                    self.first_error.get_or_insert(u32::from(err));
                }
                None
            }
        }
    }

    /// Whether this GPU is known not to answer.
    pub fn cannot(&self, query: Query) -> bool {
        self.unsupported.holds(query)
    }

    /// The GPU's error: when it is lost, or when nothing at all could be read and something failed.
    pub fn verdict(&self) -> u32 {
        if self.lost || !self.answered {
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
        unsupported: &mut Unsupported,
        answers: &[(Query, Result<u32, NvmlError>)],
    ) -> (Vec<Option<u32>>, u32, usize) {
        let mut asked = 0;
        let mut asking = Asking::new(unsupported);
        let values: Vec<_> = answers
            .iter()
            .map(|(query, answer)| {
                asking.ask(*query, || {
                    asked += 1;
                    answer
                        .as_ref()
                        .copied()
                        .map_err(|err| NvmlError::from(code(err)))
                })
            })
            .collect();
        (values, asking.verdict(), asked)
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
        let mut unsupported = Unsupported::default();
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
        let mut unsupported = Unsupported::default();
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
        assert_eq!(
            pass(&mut Unsupported::default(), &answers),
            (vec![Some(1), None, None], 15, 2)
        );
    }

    #[test]
    fn a_gpu_of_which_nothing_can_be_read_reports_the_first_error() {
        let answers = [
            (Query::Energy, Err(NvmlError::Unknown)),
            (Query::SmClock, Err(NvmlError::NotSupported)),
        ];
        assert_eq!(pass(&mut Unsupported::default(), &answers).1, 999);
    }
}
