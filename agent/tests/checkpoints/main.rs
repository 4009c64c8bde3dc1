//! Backup and restore against the bucket in memory: what survives outages, crashes at every step, changes under the upload and
//! damage, and what every known trainer writes. The clock is paused; file times are real.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod alarms;
mod changing;
mod collecting;
mod crashes;
mod ending;
mod keeping;
mod news;
mod recording;
mod restoring;
mod saving;
mod sweeping;
mod torn;
mod world;
mod writers;
