//! What a run needs of a box beyond memory and price (pure): the compute capability that its kernels take, and the CUDA that its image is
//! built for. Both are facts of an offer, so that nobody pays to find out.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{RunSpec, model::Attention};

/// A version of CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cuda {
    major: u32,
    minor: u32,
}

impl Cuda {
    /// As the market writes it: 12.8. `None`: it does not say.
    pub fn of_market(version: f64) -> Option<Self> {
        if !version.is_finite() || !(1.0..1000.0).contains(&version) {
            return None;
        }
        // Minor versions have one digit.
        let tenths = (version * 10.0).round() as u32;
        Some(Self {
            major: tenths / 10,
            minor: tenths % 10,
        })
    }
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Cuda {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('.').and_then(|(major, minor)| {
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let fits = (1..=2).contains(&major.len()) && minor.len() == 1;
            if !fits || !digits(major) || !digits(minor) {
                return None;
            }
            Some(Self {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| "a version of CUDA looks like 12.8".to_owned())
    }
}

/// One of the things that a run file asks for in `needs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Need {
    /// FlashAttention 2 is used.
    FlashAttn2,
    /// FlashAttention 3 is used.
    FlashAttn3,
    /// It computes in bf16.
    Bf16,
    /// It computes in fp8.
    Fp8,
    /// The host's driver runs this CUDA.
    Cuda(Cuda),
}

/// What can be asked for, for messages.
const WORDS: &str = "flash-attn2, flash-attn3, bf16, fp8 or cuda>=12.8";

impl FromStr for Need {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(version) = text.strip_prefix("cuda") {
            let version = version.trim_start().strip_prefix(">=").ok_or_else(|| {
                "CUDA is asked for from a version upwards, as in cuda>=12.8".to_owned()
            })?;
            return version.trim().parse().map(Self::Cuda);
        }
        match text {
            "flash-attn2" => Ok(Self::FlashAttn2),
            "flash-attn3" => Ok(Self::FlashAttn3),
            "bf16" => Ok(Self::Bf16),
            "fp8" => Ok(Self::Fp8),
            _ => Err(format!("expected {WORDS}")),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FlashAttn2 => f.write_str("flash-attn2"),
            Self::FlashAttn3 => f.write_str("flash-attn3"),
            Self::Bf16 => f.write_str("bf16"),
            Self::Fp8 => f.write_str("fp8"),
            Self::Cuda(cuda) => write!(f, "cuda>={cuda}"),
        }
    }
}

impl TryFrom<String> for Need {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Need> for String {
    fn from(need: Need) -> Self {
        need.to_string()
    }
}

/// Compute capabilities that something runs on, and what people call it.
struct Kernels {
    name: &'static str,
    from: f64,
    /// The first that it does not run on any more.
    below: f64,
}

impl Need {
    fn kernels(self) -> Option<Kernels> {
        let (name, from, below) = match self {
            Self::FlashAttn2 => ("FlashAttention 2", 8.0, f64::INFINITY),
            // Its kernels are built for Hopper alone, in the variant of the instruction set that no later GPU runs.
            Self::FlashAttn3 => ("FlashAttention 3", 9.0, 10.0),
            // Tensor cores compute in bf16 since Ampere, in fp8 since Ada Lovelace.
            Self::Bf16 => ("bf16", 8.0, f64::INFINITY),
            Self::Fp8 => ("fp8", 8.9, f64::INFINITY),
            Self::Cuda(_) => return None,
        };
        Some(Kernels { name, from, below })
    }
}

/// The CUDA that an image is built for, as its tag tells: `-cuda12.8`, `cuda-12.8.1`, `cu128`; `None`: it does not.
pub fn image_cuda(image: &str) -> Option<Cuda> {
    let (path, tag) = image.rsplit_once(':')?;
    // A port, and no tag at all.
    if tag.contains('/') {
        return None;
    }
    // NVIDIA's own images are tagged with the version itself.
    if path.rsplit('/').next() == Some("cuda") && tag.starts_with(|c: char| c.is_ascii_digit()) {
        return dotted(tag);
    }
    let tag = tag.to_ascii_lowercase();
    let mut words = Vec::new();
    let mut rest = tag.as_str();
    while let Some(at) = rest.find("cu") {
        let begins = !rest[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        rest = &rest[at + 2..];
        if begins {
            words.push(rest);
        }
    }
    words.into_iter().find_map(|word| {
        let named = word.strip_prefix("da");
        match named {
            Some(version) => dotted(version.trim_start_matches(['-', '_'])),
            None => dotted(word).or_else(|| joined(word)),
        }
    })
}

/// `12.8`, and whatever follows.
fn dotted(text: &str) -> Option<Cuda> {
    let (major, rest) = text.split_once('.')?;
    let minor = rest.get(..1)?;
    // Minor versions have one digit; `12.10` would be something else.
    if rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    format!("{major}.{minor}").parse().ok()
}

/// `128`, and whatever follows but digits: the last of them is the minor version.
fn joined(text: &str) -> Option<Cuda> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits == 3).then(|| format!("{}.{}", &text[..2], &text[2..3]).parse().ok())?
}

/// What of a run's needs a box lacks, in words; what is not known of the box is not held against it.
pub fn lacking(spec: &RunSpec, compute_cap: Option<f64>, cuda: Option<Cuda>) -> Vec<String> {
    let attention = spec.model.as_ref().map(|model| model.attention);
    let implied = match attention {
        Some(Attention::Flash2) => Some(Need::FlashAttn2),
        Some(Attention::Flash3) => Some(Need::FlashAttn3),
        Some(Attention::Sdpa | Attention::Stored) | None => None,
    };
    let mut lacking: Vec<String> = Vec::new();
    let mut tell = |what: String| {
        if !lacking.contains(&what) {
            lacking.push(what);
        }
    };
    for need in spec.needs.iter().copied().chain(implied) {
        if let Need::Cuda(wanted) = need
            && let Some(has) = cuda.filter(|has| *has < wanted)
        {
            tell(format!(
                "CUDA {wanted} is needed, and this host's driver runs {has} at most"
            ));
        }
        if let (Some(kernels), Some(has)) = (need.kernels(), compute_cap) {
            let Kernels { name, from, below } = kernels;
            if has < from {
                tell(format!(
                    "{name} needs compute capability {from:.1}, and this GPU has {has:.1}"
                ));
            } else if has >= below {
                tell(format!(
                    "{name} runs on compute capability {from:.1} to below {below:.1} alone, and this GPU has {has:.1}"
                ));
            }
        }
    }
    if let (Some(built), Some(has)) = (image_cuda(&spec.image), cuda)
        && has < built
    {
        tell(format!(
            "the image is built for CUDA {built}, and this host's driver runs {has} at most"
        ));
    }
    lacking
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cuda_of_an_image_is_read_from_its_tag() {
        for (image, expected) in [
            (
                "pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime",
                Some("12.4"),
            ),
            ("vastai/base-image:cuda-12.8.1-auto", Some("12.8")),
            ("vastai/pytorch:2.6.0-cuda_11.8", Some("11.8")),
            ("ghcr.io/somebody/train:cu128-py311", Some("12.8")),
            ("registry.lab:5000/train:v1-cu130", Some("13.0")),
            ("train:torch2.4.cu12.1", Some("12.1")),
            ("nvidia/cuda:12.6.3-devel-ubuntu24.04", Some("12.6")),
            ("train:CUDA12.2", Some("12.2")),
            ("vastai/pytorch", None),
            ("registry.lab:5000/cu128/train", None),
            ("train:cudnn9", None),
            ("train:focus128", None),
            ("train:cuda12", None),
            ("train:cu12", None),
            ("train:cu1281", None),
            ("train:cuda12.10", None),
            ("train:latest", None),
        ] {
            let found = image_cuda(image).map(|cuda| cuda.to_string());
            assert_eq!(found.as_deref(), expected, "{image}");
        }
    }

    #[test]
    fn a_need_is_read_as_it_is_written_and_written_as_it_is_read() {
        for text in ["flash-attn2", "flash-attn3", "bf16", "fp8", "cuda>=12.8"] {
            assert_eq!(text.parse::<Need>().unwrap().to_string(), text);
        }
        assert_eq!(
            "cuda >= 11.8".parse::<Need>().unwrap().to_string(),
            "cuda>=11.8"
        );
        for (text, expected) in [
            ("cuda", "upwards"),
            ("cuda==12.8", "upwards"),
            ("cuda>=12", "looks like 12.8"),
            ("cuda>=12.8.1", "looks like 12.8"),
            ("cuda>=+2.8", "looks like 12.8"),
            ("flash", "expected flash-attn2, flash-attn3"),
            ("", "expected"),
        ] {
            let why = text.parse::<Need>().unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
    }

    #[test]
    fn what_a_box_lacks_is_told_once_and_what_is_not_known_is_not_held_against_it() {
        let check =
            |needs: &[&str], image: &str, cap: Option<f64>, cuda: f64, expected: &[&str]| {
                let mut spec = RunSpec::from_flags_for_tests();
                spec.needs = needs.iter().map(|need| need.parse().unwrap()).collect();
                spec.image = image.to_owned();
                let found = lacking(&spec, cap, Cuda::of_market(cuda));
                assert_eq!(found.len(), expected.len(), "{found:?}");
                for (found, expected) in found.iter().zip(expected) {
                    assert!(found.contains(expected), "{found}");
                }
            };
        let plain = "vastai/pytorch";
        check(&[], plain, Some(6.1), 11.0, &[]);
        check(&["flash-attn2", "bf16"], plain, Some(8.6), 12.0, &[]);
        check(
            &["flash-attn2", "bf16", "flash-attn2"],
            plain,
            Some(7.5),
            12.0,
            &[
                "FlashAttention 2 needs compute capability 8.0, and this GPU has 7.5",
                "bf16 needs",
            ],
        );
        check(
            &["fp8"],
            plain,
            Some(8.6),
            12.0,
            &["fp8 needs compute capability 8.9"],
        );
        check(&["flash-attn3"], plain, Some(9.0), 12.0, &[]);
        check(
            &["flash-attn3"],
            plain,
            Some(12.0),
            12.8,
            &["to below 10.0 alone"],
        );
        check(&["cuda>=12.8"], plain, Some(8.9), 12.8, &[]);
        check(
            &["cuda>=12.8"],
            plain,
            Some(8.9),
            12.4,
            &["CUDA 12.8 is needed"],
        );
        check(
            &[],
            "train:cu128",
            Some(8.9),
            12.4,
            &["built for CUDA 12.8"],
        );
        check(&[], "train:cu128", Some(8.9), 13.0, &[]);
        check(
            &["flash-attn2", "cuda>=12.8"],
            "train:cu128",
            None,
            0.0,
            &[],
        );
    }
}
