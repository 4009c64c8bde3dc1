//! The agent as it lives on a box: the real program, real terminals, tmux where there is one.
//!
//! [`bed`] gives each test a home of its own and ends everything that was started in it.
#![allow(clippy::unwrap_used, reason = "a test may hope")]

mod bed;
mod bridging;
mod daemon;
mod following;
mod sessions;
mod shim;
