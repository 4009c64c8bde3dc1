//! Telemetry with real parts: the probe as a child process, on a library with the NVML ABI that answers from a file.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

#[path = "../../../tests/skip.rs"]
mod skip;

mod failing;
mod living;
mod reading;
mod smi;
mod world;
