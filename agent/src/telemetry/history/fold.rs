//! Many readings become one (pure), without knowing their fields: a number's tag says how it is folded.
//!
//! It works on the encoded message, so that a new field needs no line here, only its rule in [`nvml_probe::Gpu::folding`].

use nvml_probe::{Folding, Gpu};
use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::super::{GpuSample, HostSample, Sample};

/// The numbers of one message, as they add up.
#[derive(Debug, Default)]
struct Numbers(Vec<Number>);

#[derive(Debug)]
struct Number {
    tag: u32,
    wire_type: WireType,
    times: u32,
    sum: f64,
    /// The newest, the largest or all bits, as the rule wants it.
    kept: u64,
}

impl Numbers {
    /// Adds the numbers of a message; texts and messages within it are left to the caller.
    fn add(&mut self, message: &impl Message, rule: fn(u32) -> Folding) {
        let bytes = message.encode_to_vec();
        let mut rest = &bytes[..];
        while let Some((tag, wire_type, raw)) = next(&mut rest) {
            let Some(raw) = raw else { continue };
            let place = self.0.iter().position(|number| number.tag == tag);
            let place = place.unwrap_or_else(|| {
                self.0.push(Number {
                    tag,
                    wire_type,
                    times: 0,
                    sum: 0.0,
                    kept: 0,
                });
                self.0.len() - 1
            });
            let number = &mut self.0[place];
            number.times += 1;
            number.sum += match wire_type {
                WireType::ThirtyTwoBit => f64::from(f32::from_bits(raw as u32)),
                _ => raw as f64,
            };
            number.kept = match rule(tag) {
                Folding::Union => number.kept | raw,
                Folding::Largest => number.kept.max(raw),
                Folding::Last | Folding::Mean => raw,
            };
        }
    }

    /// The message of the folded numbers.
    fn fold<M: Message + Default>(&self, rule: fn(u32) -> Folding) -> M {
        let mut bytes = Vec::new();
        for number in &self.0 {
            let mean = number.sum / f64::from(number.times);
            encode_key(number.tag, number.wire_type, &mut bytes);
            match (number.wire_type, rule(number.tag)) {
                (WireType::ThirtyTwoBit, Folding::Mean) => {
                    bytes.extend_from_slice(&(mean as f32).to_le_bytes());
                }
                (WireType::ThirtyTwoBit, _) => {
                    bytes.extend_from_slice(&(number.kept as u32).to_le_bytes());
                }
                (_, Folding::Mean) => encode_varint(mean.round() as u64, &mut bytes),
                _ => encode_varint(number.kept, &mut bytes),
            }
        }
        M::decode(&bytes[..]).expect("the fields came from a message of this type")
    }
}

/// The next field of a message: a number in its bits, or nothing for one that is none. `None` at the end.
fn next(rest: &mut &[u8]) -> Option<(u32, WireType, Option<u64>)> {
    let (tag, wire_type) = decode_key(rest).ok()?;
    let raw = match wire_type {
        WireType::Varint => Some(decode_varint(rest).ok()?),
        WireType::ThirtyTwoBit if rest.len() >= 4 => Some(u64::from(rest.get_u32_le())),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
            *rest = rest.get(length..)?;
            None
        }
        // No message of ours has other kinds.
        _ => return None,
    };
    Some((tag, wire_type, raw))
}

/// Gathers samples until their span is over.
#[derive(Debug)]
pub struct Folder {
    span_us: u64,
    /// Number of the span that is being gathered.
    span: u64,
    newest: Option<Sample>,
    gpus: Vec<Numbers>,
    host: Numbers,
}

impl Folder {
    /// Makes one sample of all within `span_s`.
    pub fn new(span_s: u32) -> Self {
        Self {
            span_us: u64::from(span_s) * 1_000_000,
            span: 0,
            newest: None,
            gpus: Vec::new(),
            host: Numbers::default(),
        }
    }

    /// Adds a sample. When it begins a new span, or other GPUs, the last span comes back as one.
    pub fn add(&mut self, sample: &Sample) -> Option<Sample> {
        let span = sample.time_us / self.span_us;
        let same = self.newest.as_ref().is_some_and(|newest| {
            let uuids = |sample: &Sample| sample.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
            let (before, now): (Vec<_>, Vec<_>) = (uuids(newest), uuids(sample));
            span == self.span && before == now
        });
        let done = if same { None } else { self.take() };
        self.span = span;
        self.gpus.resize_with(sample.gpus.len(), Numbers::default);
        for (numbers, gpu) in self.gpus.iter_mut().zip(&sample.gpus) {
            numbers.add(&gpu.reading, Gpu::folding);
        }
        if let Some(host) = &sample.host {
            self.host.add(host, HostSample::folding);
        }
        self.newest = Some(sample.clone());
        done
    }

    /// What was gathered; nothing when that is nothing.
    pub fn take(&mut self) -> Option<Sample> {
        let newest = self.newest.take()?;
        let gpus = std::mem::take(&mut self.gpus);
        let host = std::mem::take(&mut self.host);
        let fold = |(numbers, gpu): (&Numbers, GpuSample)| GpuSample {
            reading: Gpu {
                // Parts have names, and no history of their own.
                mig: gpu.reading.mig,
                ..numbers.fold(Gpu::folding)
            },
            name: gpu.name,
            uuid: gpu.uuid,
        };
        Some(Sample {
            time_us: newest.time_us,
            span_s: (self.span_us / 1_000_000) as u32,
            gpus: gpus.iter().zip(newest.gpus).map(fold).collect(),
            host: newest.host.map(|_| host.fold(HostSample::folding)),
            processes: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: u64, power_mw: u32, throttle: u64, cpu: f32) -> Sample {
        Sample {
            time_us: second * 1_000_000,
            span_s: 0,
            gpus: vec![GpuSample {
                name: "x".into(),
                uuid: "GPU-1".into(),
                reading: Gpu {
                    index: 3,
                    power_mw: Some(power_mw),
                    throttle_reasons: Some(throttle),
                    energy_mj: Some(u64::from(power_mw) << 40),
                    memory_total_bytes: Some(80 << 30),
                    sm_active_percent: second.is_multiple_of(2).then_some(50.0),
                    ..Gpu::default()
                },
            }],
            host: Some(HostSample {
                cpu_percent: Some(cpu),
                oom_kills: Some(second),
                ..HostSample::default()
            }),
            processes: Vec::new(),
        }
    }

    #[test]
    fn loads_become_means_counters_stay_the_newest_and_masks_are_joined() {
        let mut folder = Folder::new(10);
        assert_eq!(folder.add(&sample(10, 100, 4, 10.0)), None);
        assert_eq!(folder.add(&sample(11, 300, 8, 20.0)), None);
        let folded = folder.add(&sample(20, 5, 0, 0.0)).unwrap();
        assert_eq!((folded.time_us, folded.span_s), (11_000_000, 10));
        let gpu = &folded.gpus[0];
        assert_eq!((gpu.index, &*gpu.uuid, &*gpu.name), (3, "GPU-1", "x"));
        assert_eq!((gpu.power_mw, gpu.throttle_reasons), (Some(200), Some(12)));
        assert_eq!(gpu.energy_mj, Some(300 << 40));
        assert_eq!(gpu.memory_total_bytes, Some(80 << 30));
        assert_eq!(
            gpu.sm_active_percent,
            Some(50.0),
            "what was absent does not count"
        );
        assert_eq!(gpu.temperature_c, None);
        let host = folded.host.unwrap();
        assert_eq!((host.cpu_percent, host.oom_kills), (Some(15.0), Some(11)));
        assert_eq!(folder.take().unwrap().gpus[0].power_mw, Some(5));
        assert_eq!(folder.take(), None);
    }

    #[test]
    fn other_gpus_and_a_clock_that_was_set_back_begin_a_new_span() {
        let mut folder = Folder::new(60);
        folder.add(&sample(100, 1, 0, 0.0));
        let none = Sample {
            gpus: Vec::new(),
            ..sample(101, 1, 0, 0.0)
        };
        assert_eq!(folder.add(&none).unwrap().gpus.len(), 1);
        assert_eq!(folder.add(&sample(30, 1, 0, 0.0)).unwrap().gpus.len(), 0);
        assert_eq!(folder.take().unwrap().time_us, 30_000_000);
    }
}
