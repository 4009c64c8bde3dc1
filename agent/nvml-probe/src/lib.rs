//! What the NVML probe and the agent say to each other: length-delimited protobuf frames on the probe's stdout, and the
//! exit codes of a probe that cannot work.
//!
//! Both ends are always built together (the probe is embedded in the agent), so nothing here has to stay compatible. The
//! structs are written by hand because the agent's contract compiler would be a build dependency larger than the probe.

mod reading;

use std::error::Error;
use std::fmt;

use prost::bytes::{Buf, BytesMut};
use prost::{DecodeError, Message};

pub use reading::{Folding, Gpu, GpuProcess, MigDevice};

/// Largest frame that either side accepts, bytes. 128 GPUs need 8 KB; the rest is head-room against a garbled length.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// One message of the probe.
#[derive(Clone, PartialEq, Message)]
pub struct Frame {
    /// What it says.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4")]
    pub body: Option<Body>,
}

/// The kinds of messages.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// First frame of a probe that works.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// One reading, every interval.
    #[prost(message, tag = "2")]
    Sample(Sample),
    /// Last frame of a probe that cannot work.
    #[prost(message, tag = "3")]
    State(State),
    /// A critical error, as it happens.
    #[prost(message, tag = "4")]
    Xid(Xid),
}

/// What does not change while the probe runs.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// Driver version, such as `580.82.07`; empty when it cannot be read.
    #[prost(string, tag = "1")]
    pub driver: String,
    /// Library that was opened.
    #[prost(string, tag = "2")]
    pub library: String,
    /// Every GPU, by index.
    #[prost(message, repeated, tag = "3")]
    pub gpus: Vec<GpuInfo>,
    /// CUDA version of the driver, 1000 x major + 10 x minor; 0 when it cannot be read.
    #[prost(uint32, tag = "4")]
    pub cuda: u32,
}

/// What is fixed about one GPU. What cannot be read is empty or 0.
#[derive(Clone, PartialEq, Message)]
pub struct GpuInfo {
    /// NVML index.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Product name; empty when it cannot be read.
    #[prost(string, tag = "2")]
    pub name: String,
    /// NVML UUID; empty when it cannot be read.
    #[prost(string, tag = "3")]
    pub uuid: String,
    /// PCI address, such as `00000000:1B:00.0`.
    #[prost(string, tag = "4")]
    pub pci_bus_id: String,
    /// CUDA compute capability, 10 x major + minor: 90 on Hopper.
    #[prost(uint32, tag = "5")]
    pub compute_capability: u32,
    /// Version of its firmware.
    #[prost(string, tag = "6")]
    pub vbios: String,
    /// Highest SM clock, MHz.
    #[prost(uint32, tag = "7")]
    pub max_sm_clock_mhz: u32,
    /// Highest memory clock, MHz.
    #[prost(uint32, tag = "8")]
    pub max_memory_clock_mhz: u32,
    /// Split by MIG.
    #[prost(bool, tag = "9")]
    pub mig: bool,
}

/// One reading of every GPU.
#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// Every GPU of the greeting, in its order.
    #[prost(message, repeated, tag = "1")]
    pub gpus: Vec<Gpu>,
    /// How long the reading took, microseconds.
    #[prost(uint32, tag = "2")]
    pub took_us: u32,
}

/// A critical error that the driver reported for one GPU.
#[derive(Clone, PartialEq, Message)]
pub struct Xid {
    /// NVML index of the GPU; absent when the driver named one that was not greeted.
    #[prost(uint32, optional, tag = "1")]
    pub index: Option<u32>,
    /// Xid code, such as 79: fell off the bus.
    #[prost(uint32, tag = "2")]
    pub code: u32,
}

/// Why the probe ends.
#[derive(Clone, PartialEq, Message)]
pub struct State {
    /// Exit code that follows, see [`Failure`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// What NVML or the loader said.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// Why a probe cannot work; the number is its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Failure {
    /// No usable `libnvidia-ml.so.1` anywhere.
    NoLibrary = 20,
    /// The kernel module is not loaded, or its devices are not in the container.
    NoDriver = 21,
    /// Library and kernel module are of different versions: the host was upgraded without a restart.
    Mismatch = 22,
    /// The devices may not be opened.
    NoPermission = 23,
    /// NVML works and sees no GPU.
    NoGpu = 24,
    /// NVML refused for another reason.
    Init = 25,
}

impl Failure {
    /// All of them, for the way back from an exit code.
    pub const ALL: [Self; 6] = [
        Self::NoLibrary,
        Self::NoDriver,
        Self::Mismatch,
        Self::NoPermission,
        Self::NoGpu,
        Self::Init,
    ];

    /// Exit code of the probe.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// The failure that an exit code stands for.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.code() == code)
    }
}

/// Why a stream of frames is of no more use.
#[derive(Debug, Clone, PartialEq)]
pub enum FrameError {
    /// The bytes are no frame.
    Malformed(DecodeError),
    /// The frame claims to be larger than [`MAX_FRAME_BYTES`].
    TooLarge(usize),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(_) => write!(f, "the bytes are no frame"),
            Self::TooLarge(bytes) => write!(
                f,
                "a frame of {bytes} bytes is over the limit of {MAX_FRAME_BYTES}"
            ),
        }
    }
}

impl Error for FrameError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Malformed(err) => Some(err),
            Self::TooLarge(_) => None,
        }
    }
}

/// Takes the first whole frame out of what was read so far; `None` when more bytes are needed.
///
/// # Errors
/// When the bytes are no frame, or one larger than [`MAX_FRAME_BYTES`]. The stream is then of no more use.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let mut rest = &buffer[..];
    let length = match prost::decode_length_delimiter(&mut rest) {
        Ok(length) => length,
        // A varint has at most ten bytes; fewer may simply be cut off.
        Err(err) if buffer.len() >= 10 => return Err(FrameError::Malformed(err)),
        Err(_) => return Ok(None),
    };
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge(length));
    }
    if rest.len() < length {
        return Ok(None);
    }
    let start = buffer.len() - rest.len();
    buffer.advance(start);
    Frame::decode(buffer.split_to(length))
        .map(Some)
        .map_err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Frame {
        let gpu = |index| Gpu {
            index,
            power_mw: Some(612_345),
            energy_mj: Some(u64::MAX),
            ..Gpu::default()
        };
        Frame {
            body: Some(Body::Sample(Sample {
                gpus: (0..8).map(gpu).collect(),
                took_us: 4000,
            })),
        }
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let state = Frame {
            body: Some(Body::State(State {
                code: 20,
                text: "x".repeat(300),
            })),
        };
        let frames = [sample(), state, Frame::default(), sample()];
        let stream: Vec<u8> = frames
            .iter()
            .flat_map(Message::encode_length_delimited_to_vec)
            .collect();
        for step in [1, 2, 7, stream.len()] {
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = take_frame(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames, "in pieces of {step}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn garbage_and_oversized_frames_are_refused() {
        for bytes in [
            &[0xff; 12][..],
            &[0xff, 0xff, 0xff, 0x7f][..],
            &[3, 0xff, 0xff, 0xff][..],
        ] {
            assert!(
                take_frame(&mut BytesMut::from(bytes)).is_err(),
                "{bytes:x?}"
            );
        }
        assert_eq!(
            take_frame(&mut BytesMut::from(&[0x80_u8][..])).unwrap(),
            None
        );
    }

    #[test]
    fn every_failure_is_known_by_its_exit_code() {
        for failure in Failure::ALL {
            assert_eq!(Failure::from_code(failure.code()), Some(failure));
        }
        assert_eq!(Failure::from_code(0), None);
    }
}
