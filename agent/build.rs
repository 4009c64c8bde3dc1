//! Embeds the NVML probe: `SPOTTER_PROBE_BIN` names the program that was built for an old glibc (scripts/build-agent.sh).
//! Without it the image is empty and the agent uses a program beside its own file, so that plain cargo needs no zig.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=SPOTTER_PROBE_BIN");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let image = match env::var_os("SPOTTER_PROBE_BIN").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).unwrap_or_else(|err| {
                panic!("SPOTTER_PROBE_BIN {} cannot be read: {err}", path.display())
            })
        }
        None => Vec::new(),
    };
    println!("cargo::rustc-env=SPOTTER_PROBE_TAG={:016x}", fnv1a(&image));
    println!("cargo::rustc-env=SPOTTER_PROBE_BYTES={}", image.len());
    // The agent has 5 MB to fit in, and the probe deflates to half.
    let packed = miniz_oxide::deflate::compress_to_vec(&image, 10);
    fs::write(out.join("nvml-probe.deflate"), packed).expect("OUT_DIR is writable");
}

/// A tag that tells images apart in file names; nothing relies on it being hard to forge.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
