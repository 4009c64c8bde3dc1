//! A Vast.ai market, boxes with a real sshd and an S3 server on this machine.
//!
//! [`market`] is the state machine, prices and bills (pure, by a clock that is an argument); [`vast`] speaks its HTTP API as the
//! official client knows it; [`boxes`] makes the machines; [`s3`] is the bucket; [`control`] turns the fault switches. [`world`]
//! puts market and boxes under a real clock, and [`sim`] puts all of it behind one `run`. [`random_market`] is another market, pure and
//! much faster, in which prices move for weeks.

// An instance has a hundred fields, and `json!` counts every one of them.
#![recursion_limit = "256"]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may hope"))]

pub mod boxes;
pub mod control;
pub mod listen;
pub mod market;
pub mod random_market;
pub mod s3;
pub mod sim;
pub mod sink;
pub mod vast;
pub mod world;

pub use sim::{Ready, SimConfig, run};
