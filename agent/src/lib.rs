//! The half of spotter that lives on the rented box: one process that outlives the laptop's attention.
//!
//! Reading order: [`config`] what was typed becomes what was decided; [`daemon`] starts every task and waits for every
//! task; [`handlers`] one short function per call of the contract. [`sessions`] owns training processes, [`logs`] follows what
//! they print, [`telemetry`] reads GPUs and the host, [`checkpoints`] brings finished checkpoints to the bucket, [`journal`]
//! remembers what happened.

pub mod bridge;
pub mod checkpoints;
pub mod config;
pub mod convert;
pub mod daemon;
pub mod events;
pub mod handlers;
pub mod journal;
pub mod logs;
pub mod preflight;
pub mod self_stop;
pub mod sessions;
pub mod telemetry;
