//! One file of samples: frames of length, CRC-32 and bytes. What a crash tore off its end is left out, then overwritten.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nvml_probe::Gpu;
use prost::Message;

use super::super::{GpuSample, HostSample, ProcessSample, Sample};

/// Begins every file; its last digit is the version of the format.
const MAGIC: &[u8; 8] = b"spsmpl 1";
/// A frame that claims more is none of ours: 72 GPUs need 16 KiB.
const MOST_FRAME_BYTES: usize = 1 << 20;
/// Length and CRC-32.
const HEAD_BYTES: usize = 8;

/// A sample as it lies on disk.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(uint64, tag = "1")]
    time_us: u64,
    #[prost(uint32, tag = "2")]
    span_s: u32,
    #[prost(message, repeated, tag = "3")]
    gpus: Vec<Gpu>,
    #[prost(message, optional, tag = "4")]
    host: Option<HostSample>,
    /// Product name and UUID of every GPU in turn; only where they are others than in the frame before.
    #[prost(string, repeated, tag = "5")]
    names: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    processes: Vec<ProcessSample>,
}

/// What does not change from sample to sample.
type Names = Vec<(Arc<str>, Arc<str>)>;

/// A file that grows.
#[derive(Debug)]
pub struct Writer {
    file: File,
    /// Bytes of whole frames, the head included.
    pub bytes: u64,
    /// Whole frames.
    pub frames: u32,
    names: Names,
}

impl Writer {
    /// Goes on with a file, or begins it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let (mut bytes, mut frames, mut names) = (0, 0, Names::new());
        if let Some(mut reader) = Reader::of(file.try_clone()?) {
            while reader.next().is_some() {
                frames += 1;
            }
            (bytes, names) = (reader.good_bytes, reader.names);
        }
        file.set_len(bytes)?;
        file.seek(SeekFrom::Start(bytes))?;
        if bytes == 0 {
            file.write_all(MAGIC)?;
            bytes = MAGIC.len() as u64;
        }
        Ok(Self {
            file,
            bytes,
            frames,
            names,
        })
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// When it cannot be written; what was written of it is then taken away again.
    pub fn push(&mut self, sample: &Sample) -> io::Result<()> {
        let names: Names = sample
            .gpus
            .iter()
            .map(|gpu| (gpu.name.clone(), gpu.uuid.clone()))
            .collect();
        let both = |(name, uuid): &(Arc<str>, Arc<str>)| [name.to_string(), uuid.to_string()];
        let stored = Stored {
            time_us: sample.time_us,
            span_s: sample.span_s,
            gpus: sample.gpus.iter().map(|gpu| gpu.reading.clone()).collect(),
            host: sample.host.clone(),
            processes: sample.processes.clone(),
            names: if names == self.names {
                Vec::new()
            } else {
                names.iter().flat_map(both).collect()
            },
        };
        let mut frame = vec![0; HEAD_BYTES];
        frame.extend(stored.encode_to_vec());
        let length = (frame.len() - HEAD_BYTES) as u32;
        let sum = crc32fast::hash(&frame[HEAD_BYTES..]);
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame[4..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        if let Err(err) = self.file.write_all(&frame) {
            // Half a frame would hide those after it.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            return Err(err);
        }
        self.names = names;
        self.bytes += frame.len() as u64;
        self.frames += 1;
        Ok(())
    }
}

/// Samples of a file in their order, up to its end or the first damage. Holds one frame at a time.
#[derive(Debug)]
pub struct Reader {
    file: BufReader<File>,
    good_bytes: u64,
    names: Names,
}

impl Reader {
    /// Opens a file; `None` when it is gone, or none of ours.
    pub fn open(path: &Path) -> Option<Self> {
        Self::of(File::open(path).ok()?)
    }

    fn of(file: File) -> Option<Self> {
        let mut file = BufReader::new(file);
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).ok()?;
        (magic == *MAGIC).then_some(Self {
            file,
            good_bytes: MAGIC.len() as u64,
            names: Names::new(),
        })
    }

    fn frame(&mut self) -> Option<Stored> {
        let mut head = [0; HEAD_BYTES];
        self.file.read_exact(&mut head).ok()?;
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let sum = u32::from_le_bytes([e, f, g, h]);
        if length > MOST_FRAME_BYTES {
            return None;
        }
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes).ok()?;
        if crc32fast::hash(&bytes) != sum {
            return None;
        }
        let stored = Stored::decode(&bytes[..]).ok()?;
        self.good_bytes += (HEAD_BYTES + length) as u64;
        Some(stored)
    }
}

impl Iterator for Reader {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        let stored = self.frame()?;
        if !stored.names.is_empty() || stored.gpus.is_empty() {
            let pairs = stored.names.chunks_exact(2);
            self.names = pairs
                .map(|pair| (pair[0].as_str().into(), pair[1].as_str().into()))
                .collect();
        }
        let named = stored.gpus.into_iter().enumerate().map(|(place, reading)| {
            let (name, uuid) = self.names.get(place).cloned().unwrap_or_default();
            GpuSample {
                name,
                uuid,
                reading,
            }
        });
        Some(Sample {
            time_us: stored.time_us,
            span_s: stored.span_s,
            gpus: named.collect(),
            host: stored.host,
            processes: stored.processes,
        })
    }
}
