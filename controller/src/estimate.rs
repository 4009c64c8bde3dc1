//! What a training will take before a dollar is spent: memory, tokens per second and hours, each with a range (pure).
//!
//! A [`job::Job`] says what is trained, a [`job::Machine`] on what. [`playbook`] applies rules of thumb, [`calibrated`] the same
//! structure with factors that [`study`] fitted to published runs; [`evaluate`] judges either on a table of runs. Each formula has its
//! source beside it, and all of them are in `docs/estimator.md`.

pub mod advice;
pub mod baseline;
pub mod calibrated;
pub mod evaluate;
pub mod gpus;
pub mod hours;
pub mod job;
pub mod memory;
pub mod notes;
pub mod outlook;
pub mod playbook;
pub mod published;
mod regression;
pub mod stacks;
pub mod study;
pub mod table;
pub mod work;
