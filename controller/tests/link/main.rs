//! The link to a box, with real parts: ssh, sshd as an ordinary user, rsync, the real agent. The parts of the client that need no
//! box run against a small agent in memory.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod boot;
mod client;
mod fake;
mod fetching;
mod onstart;
mod relay;
mod sshd;
mod sync;
mod tunnel;
mod verbs;
