//! The agent as it lives on a box: the real program, real terminals, tmux where there is one.
//!
//! [`bed`] gives each test a home of its own and ends everything that was started in it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod bed;
mod bridging;
mod daemon;
mod diagnosis;
mod endings;
mod following;
mod memory;
mod restart;
mod sessions;
mod shim;
#[path = "../../../tests/skip.rs"]
mod skip;
mod webhook;
mod windows;
