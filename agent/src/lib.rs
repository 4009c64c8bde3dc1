//! The half of spotter that lives on the rented box: one process that outlives the laptop's attention.
//!
//! Reading order: [`config`] what was typed becomes what was decided; [`daemon`] starts every task and waits for every
//! task; [`handlers`] one short function per call of the contract. [`sessions`] owns training processes, [`logs`] follows what
//! they print, [`telemetry`] reads GPUs and the host, [`windows`] holds the training against its estimate, [`checkpoints`] brings finished checkpoints to the bucket, [`journal`]
//! remembers what happened, [`webhook`] tells it.

pub mod bridge;
pub mod checkpoints;
pub mod config;
pub mod convert;
pub mod daemon;
pub mod events;
pub mod fault;
pub mod files;
pub mod handlers;
pub mod journal;
pub mod line;
pub mod logs;
pub mod open_files;
pub mod preflight;
pub mod self_stop;
pub mod sessions;
pub mod tasks;
pub mod telemetry;
pub mod webhook;
pub mod windows;
pub mod wiping;

/// The box's clock: microseconds since the Unix epoch.
pub fn now_us() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// An error with all its causes on one line, for logs, events and gRPC messages.
pub fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Does what waits for a disk or for the kernel. A thread of the runtime gives its other tasks away first: a slow disk holds up
/// whoever asks it, and nobody else.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
