//! The screen of `spotter top`, apart from the terminal: what is shown of each run, and the keys.
//!
//! [`crate::lookout`] knows the runs. [`model`] says what is shown (pure), [`keys`] what a key does (pure), [`draw`] puts it on a screen
//! (pure). What is shown serves pages as well.

pub mod draw;
pub mod keys;
pub mod model;
mod panes;

#[cfg(test)]
pub mod examples;
