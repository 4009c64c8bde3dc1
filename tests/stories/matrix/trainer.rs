//! What the trainer writes: a directory per step with a marker as its last file, its bytes determined by the step.

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock, time::Duration};

/// The step during whose upload everything happens; its model goes in two parts.
pub const CRITICAL: u64 = 3;
/// The file that is written last.
pub const MARKER: &str = "whole";
/// Steps there are.
pub const STEPS: u64 = 4;
/// What is collected in the end: a directory of a model in two parts and a small file.
pub const RESULTS: &str = "out";
/// A little more than one part.
const LARGE_BYTES: usize = (8 << 20) + 60_000;

/// A checkpoint's files.
type Files = Vec<(String, Vec<u8>)>;

/// Of every step, from 1.
static FILES: LazyLock<Vec<Files>> = LazyLock::new(|| (1..=STEPS).map(files).collect());

/// Their hashes.
static HASHES: LazyLock<Vec<BTreeMap<String, String>>> = LazyLock::new(|| {
    let hash = |(name, bytes): &(String, Vec<u8>)| {
        (name.clone(), blake3::hash(bytes).to_hex().to_string())
    };
    FILES
        .iter()
        .map(|files| files.iter().map(hash).collect())
        .collect()
});

/// Paths and blake3 of the checkpoint of a step.
pub fn hashes(step: u64) -> &'static BTreeMap<String, String> {
    &HASHES[usize::try_from(step).unwrap() - 1]
}

/// Name of the checkpoint's directory.
pub fn name(step: u64) -> String {
    format!("step-{step}")
}

/// Writes the checkpoint of a step. File times advance in steps of the kernel's clock, so two checkpoints must be a step apart.
pub fn write(dir: &Path, step: u64) {
    let dir = dir.join(name(step));
    fs::create_dir_all(&dir).unwrap();
    std::thread::sleep(Duration::from_millis(12));
    for (name, bytes) in &FILES[usize::try_from(step).unwrap() - 1] {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Writes what is to be collected, where it is not there.
pub fn write_results_once(home: &Path) {
    let dir = home.join(RESULTS);
    if dir.exists() {
        return;
    }
    fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in results() {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Paths and blake3 of what is collected.
pub fn hashes_of_results() -> BTreeMap<String, String> {
    let hash = |(name, bytes): (&str, Vec<u8>)| {
        let path = format!("{RESULTS}/{name}");
        (path, blake3::hash(&bytes).to_hex().to_string())
    };
    results().into_iter().map(hash).collect()
}

fn results() -> [(&'static str, Vec<u8>); 2] {
    [
        ("final.safetensors", safetensors(STEPS + 1, LARGE_BYTES)),
        ("train.log", b"step 4 loss 1.0\n".to_vec()),
    ]
}

fn files(step: u64) -> Files {
    let size = if step == CRITICAL { LARGE_BYTES } else { 3_000 };
    vec![
        // The frozen half of the model is the same in every checkpoint.
        ("base.safetensors".to_owned(), safetensors(0, 2_000)),
        ("model.safetensors".to_owned(), safetensors(step, size)),
        (MARKER.to_owned(), step.to_string().into_bytes()),
    ]
}

/// A whole safetensors file of one array that looks random and depends on a seed.
fn safetensors(seed: u64, length: usize) -> Vec<u8> {
    let header = format!(
        "{{\"w\":{{\"dtype\":\"U8\",\"shape\":[{length}],\"data_offsets\":[0,{length}]}}}}"
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    let begin = bytes.len();
    bytes.resize(begin + length, 0);
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes[begin..]);
    bytes
}
