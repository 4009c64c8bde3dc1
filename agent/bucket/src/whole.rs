//! When files are a whole checkpoint: what box and laptop must agree about before either commits one.
//!
//! Reading order: [`candidate`] is what lies there, [`names`] what its names say, [`rules`] what each framework promises of it, [`structure`]
//! whether a file is whole by its own format (PyTorch's by [`pickle`]), [`beside`] which files without a step are one, [`row`]
//! which checkpoints succeed each other, [`export`] which no training goes on from: all pure, over a listing and what can be read at any place.
//! [`folder`] asks a real directory. Who writes, and how long nobody has, is the box's own to find out.

pub mod beside;
pub mod candidate;
pub mod export;
pub mod folder;
pub mod names;
pub mod pickle;
pub mod row;
pub mod rules;
#[cfg(any(test, feature = "fakes"))]
pub mod samples;
pub mod structure;
