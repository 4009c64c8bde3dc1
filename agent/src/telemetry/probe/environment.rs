//! What of the container's environment is the probe's business.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// Most that is read of the container's environment; it is bounded by the kernel to 6 MB of arguments and environment.
const MAX_ENVIRONMENT_BYTES: u64 = 8 << 20;

/// Where libraries are, and which fake to play. The rest may hold secrets.
pub(super) fn read(file: &Path) -> Vec<(OsString, OsString)> {
    let bytes = read_bounded(file)
        .or_else(|_| read_bounded(Path::new("/proc/1/environ")))
        .unwrap_or_default();
    parse(&bytes)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_ENVIRONMENT_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The variables that are passed on, of NUL-separated `NAME=value` pairs.
pub(super) fn parse(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    let wanted = |name: &[u8]| {
        matches!(name, b"NVML_LIB" | b"LD_LIBRARY_PATH" | b"SPOTTER_NO_GPM")
            || name.starts_with(b"FAKE_NVML_")
    };
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&pair[..equals], &pair[equals + 1..]);
            wanted(name).then(|| {
                (
                    OsString::from_vec(name.to_vec()),
                    OsString::from_vec(value.to_vec()),
                )
            })
        })
        .collect()
}
