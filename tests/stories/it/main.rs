//! Stories under one paused clock, without sockets or processes, and the invariants of the source tree.
#![allow(clippy::unwrap_used, reason = "a test may hope")]

mod recovery;
mod tidy;
mod world;
