//! Whether a file is whole by its own format: zip (torch, npz, keras), PyTorch's older pickles, safetensors, npy, JSON.
//!
//! Everything read here is hostile: each read is bounded and checked against the file's size, nothing is trusted to be
//! where it says. An unknown format is neither whole nor broken; then only silence speaks for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::pickle;

mod legacy;
mod npy;
pub mod zip;

/// What the format of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Structure {
    /// Whole, by the named rule.
    Whole(&'static str),
    /// No format that we know.
    Unknown,
    /// Torn, and why.
    Broken(String),
}

/// Bytes that can be read at any place: a file, or memory in tests.
pub trait ReadAt {
    /// Fills `buffer` from `offset` on; an error when there are not enough bytes.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let wanted = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.as_slice().size()
    }
}

/// Reads up to so many bytes from the beginning.
pub fn head<R: ReadAt + ?Sized>(file: &R, most_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.size()?.min(most_bytes) as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Longest header, central directory or JSON text that is read to judge a file. A model of 100,000 tensors has a tenth of this.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;

const ALWAYS_ZIP: [&str; 3] = [".npz", ".zip", ".keras"];
/// PyTorch's file is a zip since 1.6, and a row of pickles before that; anybody may give these endings to anything.
const USUALLY_TORCH: [&str; 6] = [".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"];

/// Judges a file by its name's ending and its bytes.
pub fn check<R: ReadAt + ?Sized>(name: &str, file: &R) -> io::Result<Structure> {
    let lower = name.to_ascii_lowercase();
    let ends_with = |endings: &[&str]| endings.iter().any(|ending| lower.ends_with(ending));
    let size = file.size()?;
    if lower.ends_with(".safetensors") {
        return safetensors(file, size);
    }
    if lower.ends_with(".json") {
        return json(file, size);
    }
    if lower.ends_with(".npy") {
        return npy::check(file, size);
    }
    let always_zip = ends_with(&ALWAYS_ZIP);
    if !always_zip && !ends_with(&USUALLY_TORCH) {
        return Ok(Structure::Unknown);
    }
    if size < 4 {
        return Ok(Structure::Broken(format!("{size} bytes are no checkpoint")));
    }
    let mut magic = [0; 4];
    file.read_at(&mut magic, 0)?;
    if &magic == zip::LOCAL_HEADER {
        let rule = if lower.ends_with(".npz") {
            "npz"
        } else {
            "torch-zip"
        };
        return zip::check(file, size, rule);
    }
    if always_zip {
        return Ok(Structure::Broken(
            "it does not begin like a zip file".to_owned(),
        ));
    }
    // Most files of these names are neither, and need not be read.
    if magic[0] != pickle::PROTOCOL {
        return Ok(Structure::Unknown);
    }
    legacy::check(file, size)
}

/// A safetensors file is whole when the last tensor ends where the file does.
fn safetensors<R: ReadAt + ?Sized>(file: &R, size: u64) -> io::Result<Structure> {
    if size < 8 {
        return Ok(Structure::Broken(format!(
            "{size} bytes are no safetensors file"
        )));
    }
    let mut length = [0; 8];
    file.read_at(&mut length, 0)?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes.checked_add(8).is_none_or(|end| end > size) {
        return Ok(Structure::Broken(
            "the safetensors header is longer than the file".to_owned(),
        ));
    }
    if header_bytes > MAX_INDEX_BYTES {
        return Ok(Structure::Unknown);
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_at(&mut header, 8)?;
    let Ok(tensors) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&header)
    else {
        return Ok(Structure::Broken(
            "the safetensors header is not JSON".to_owned(),
        ));
    };
    let mut data_end = 0;
    for (name, tensor) in tensors.iter().filter(|(name, _)| *name != "__metadata__") {
        let offset = |index| tensor.get("data_offsets")?.get(index)?.as_u64();
        match (offset(0), offset(1)) {
            (Some(start), Some(end)) if start <= end => data_end = data_end.max(end),
            _ => {
                return Ok(Structure::Broken(format!(
                    "tensor {name:.60} has no place in the safetensors file"
                )));
            }
        }
    }
    if data_end.checked_add(8 + header_bytes) != Some(size) {
        return Ok(Structure::Broken(format!(
            "its tensors end at {data_end} + {} of {size} bytes",
            8 + header_bytes
        )));
    }
    Ok(Structure::Whole("safetensors"))
}

fn json<R: ReadAt + ?Sized>(file: &R, size: u64) -> io::Result<Structure> {
    if size > MAX_INDEX_BYTES {
        return Ok(Structure::Unknown);
    }
    let mut text = vec![0; size as usize];
    file.read_at(&mut text, 0)?;
    Ok(
        match serde_json::from_slice::<serde::de::IgnoredAny>(&text) {
            Ok(_) => Structure::Whole("json"),
            // Python writes NaN and Infinity, which are no JSON: then silence must do.
            Err(err) if err.is_eof() => {
                Structure::Broken("the JSON text ends in the middle".to_owned())
            }
            Err(_) => Structure::Unknown,
        },
    )
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::*;

    fn judged(name: &str, bytes: &[u8]) -> Structure {
        check(name, bytes).expect("memory never fails to be read inside its bounds")
    }

    fn torch() -> Vec<u8> {
        samples::zip(
            &[
                ("archive/data.pkl", b"\x80\x02}q\0."),
                ("archive/data/0", &[7; 300]),
                ("archive/version", b"3\n"),
            ],
            false,
        )
    }

    fn whole_files() -> Vec<(&'static str, &'static str, Vec<u8>)> {
        vec![
            ("model.pt", "torch-zip", torch()),
            (
                "big.ckpt",
                "torch-zip",
                samples::zip(&[("a", b"one"), ("b", &[9; 99])], true),
            ),
            (
                "last.npz",
                "npz",
                samples::zip(&[("w.npy", &[1; 64])], false),
            ),
            (
                "w.safetensors",
                "safetensors",
                samples::safetensors(&[3; 120]),
            ),
            (
                "empty.safetensors",
                "safetensors",
                samples::safetensors(&[]),
            ),
            ("old.pth", "torch-legacy", samples::legacy(&[5, 9])),
            (
                "state.pkl",
                "pickle",
                b"\x80\x02}q\x00X\x01\x00\x00\x00aK\x07s.".to_vec(),
            ),
            ("w.npy", "npy", samples::npy("'<f4'", "(3, 2)", 24)),
            (
                "trainer_state.json",
                "json",
                br#"{"global_step": 5, "log": [1.5, {"a": null}]}"#.to_vec(),
            ),
        ]
    }

    #[test]
    fn whole_files_are_recognised_by_their_own_rule() {
        for (name, rule, bytes) in whole_files() {
            assert_eq!(judged(name, &bytes), Structure::Whole(rule), "{name}");
        }
    }

    #[test]
    fn no_prefix_of_a_whole_file_is_whole() {
        for (name, _, bytes) in whole_files() {
            for length in 0..bytes.len() {
                let judged = judged(name, &bytes[..length]);
                // A number cut after its dot is a syntax error like any other; then silence must do.
                let may_be_unknown = name.ends_with(".json") && judged == Structure::Unknown;
                assert!(
                    matches!(judged, Structure::Broken(_)) || may_be_unknown,
                    "{name} cut at {length}"
                );
            }
        }
    }

    #[test]
    fn a_whole_zip_inside_a_torn_one_proves_nothing() {
        let outer = samples::zip(&[("inner.zip", &torch())], false);
        let cut = 30 + "inner.zip".len() + torch().len();
        assert!(matches!(
            judged("outer.pt", &outer[..cut]),
            Structure::Broken(_)
        ));
    }

    #[test]
    fn bytes_behind_the_end_are_noticed() {
        for (name, _, mut bytes) in whole_files() {
            bytes.extend_from_slice(&[0; 5]);
            assert!(
                !matches!(judged(name, &bytes), Structure::Whole(_)),
                "{name}"
            );
        }
    }

    #[test]
    fn formats_without_a_proof_are_left_to_silence() {
        assert_eq!(judged("mine.bin", b"whatever it is"), Structure::Unknown);
        assert_eq!(judged("__0_0.distcp", &[0; 50]), Structure::Unknown);
        assert_eq!(judged("nan.json", br#"{"loss": NaN}"#), Structure::Unknown);
        assert_eq!(judged("weights.h5", b""), Structure::Unknown);
    }

    #[test]
    fn noise_is_not_taken_for_a_pickle_that_was_cut() {
        // Raw numbers, of which one file in 256 begins like a pickle, and a dozen of so many like one of a known protocol.
        let mut state = 1_u64;
        let mut files = 0;
        for file in 0..200_000_u64 {
            let mut bytes: Vec<u8> = Vec::with_capacity(64);
            while bytes.len() < 64 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(file | 1);
                bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
            }
            bytes[0] = super::pickle::PROTOCOL;
            if matches!(judged("00000.bin", &bytes), Structure::Broken(_)) {
                files += 1;
            }
        }
        // As many as would begin so among 51 million.
        assert!(files < 100, "{files} of 200,000");
        // What Python itself wrote and did not finish is known all the same.
        for cut in [
            &b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}"[..],
            b"\x80\x02}q\x00X\x05\x00\x00\x00a",
        ] {
            assert!(matches!(judged("state.bin", cut), Structure::Broken(_)));
        }
    }

    #[test]
    fn a_header_that_claims_the_impossible_is_broken() {
        let mut bytes = samples::safetensors(&[1; 10]);
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(
            judged("a.safetensors", &bytes),
            Structure::Broken(_)
        ));
        let odd = br#"{"w":{"data_offsets":[9,3]}}"#;
        let mut reversed = (odd.len() as u64).to_le_bytes().to_vec();
        reversed.extend_from_slice(odd);
        assert!(matches!(
            judged("a.safetensors", &reversed),
            Structure::Broken(_)
        ));
    }

    proptest! {
        #[test]
        fn nothing_in_a_file_makes_the_check_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..5_usize) {
            let name = ["a.pt", "a.npz", "a.safetensors", "a.json", "a.npy"][kind];
            let _ = check(name, bytes.as_slice());
        }

        #[test]
        fn a_damaged_zip_never_makes_the_check_panic(place in 0..600_usize, value in any::<u8>(), wide in any::<bool>()) {
            let mut bytes = samples::zip(&[("a", &[1; 100]), ("b", &[2; 50])], wide);
            let place = place % bytes.len();
            bytes[place] = value;
            let _ = check("a.pt", bytes.as_slice());
        }
    }
}
