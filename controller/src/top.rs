//! The screen of `spotter top`, apart from the terminal: what is known of each run, what is shown of it, and the keys.
//!
//! Reading order: [`facts`] is what is known of a run; [`gather`] fills it from the store and the copies of logs, [`live`] from the
//! box; [`curve`] and [`tail`] are what a log becomes. [`model`] says what is shown (pure), [`keys`] what a key does (pure), [`draw`]
//! puts it on a screen (pure). Everything up to `live` serves whoever wants to show runs elsewhere.

pub mod curve;
pub mod draw;
pub mod facts;
pub mod gather;
pub mod keys;
pub mod live;
pub mod model;
mod panes;
pub mod tail;

#[cfg(test)]
mod examples;
