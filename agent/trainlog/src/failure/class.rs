//! Kinds of failure, and which of them may follow from others.

use std::fmt;

use serde::{Serialize, Serializer};

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Nothing that ended the training.
    None,
    /// The GPU's memory was full.
    CudaOom,
    /// The machine's or container's memory was full.
    HostOom,
    /// Communication between GPUs failed.
    Nccl,
    /// The disk was full.
    DiskFull,
    /// The driver does not fit the CUDA version, or is not there.
    DriverMismatch,
    /// The program was not built for this GPU, or needs a newer one.
    UnsupportedGpu,
    /// `/dev/shm` is too small for the data loader.
    DataloaderShm,
    /// The driver reported a GPU error.
    Xid,
    /// A check inside a GPU kernel failed.
    DeviceAssert,
    /// The loss is not a number.
    NanLoss,
    /// Something on the internet did not answer.
    Network,
    /// A module or library is missing.
    MissingModule,
    /// A checkpoint or weights file is damaged.
    CorruptCheckpoint,
    /// The machine was taken away, or its time was up.
    Preempted,
    /// Somebody or something killed it, and nothing shows that memory ran out. Only an end tells, never a log.
    Killed,
    /// Any other exception or crash.
    TracebackOther,
    /// It chose to end with an exit code, and its log names no error.
    ExitCode,
}

impl Class {
    /// The class as it is written in data.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CudaOom => "cuda_oom",
            Self::HostOom => "host_oom",
            Self::Nccl => "nccl",
            Self::DiskFull => "disk_full",
            Self::DriverMismatch => "driver_mismatch",
            Self::UnsupportedGpu => "unsupported_gpu",
            Self::DataloaderShm => "dataloader_shm",
            Self::Xid => "xid",
            Self::DeviceAssert => "device_assert",
            Self::NanLoss => "nan_loss",
            Self::Network => "network",
            Self::MissingModule => "missing_module",
            Self::CorruptCheckpoint => "corrupt_checkpoint",
            Self::Preempted => "preempted",
            Self::Killed => "killed",
            Self::TracebackOther => "traceback_other",
            Self::ExitCode => "exit_code",
        }
    }

    /// Whether it may be the consequence of something else: the first of these in time is the cause.
    pub(super) fn may_follow(self) -> bool {
        matches!(
            self,
            Self::Nccl
                | Self::Network
                | Self::Preempted
                | Self::TracebackOther
                | Self::MissingModule
        )
    }

    /// Whether a program that only says so is mostly at its end. What it did not find it often does without.
    pub(super) fn ends_programs(self) -> bool {
        !matches!(
            self,
            Self::MissingModule
                | Self::Network
                | Self::DriverMismatch
                | Self::UnsupportedGpu
                | Self::TracebackOther
        )
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Class {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
