//! Runs, looked at and never touched: what is known of each, for a screen and for other tools.
//!
//! Reading order: [`facts`] is what is known of a run; [`gather`] fills it from the store, [`copies`] from the copies of its logs,
//! [`live`] from its box, and [`standing`] says where it stands by all of them; [`curve`] and [`tail`] are what a log becomes. [`links`]
//! are all boxes that are looked at.

pub mod copies;
pub mod curve;
pub mod facts;
pub mod gather;
pub mod links;
pub mod live;
pub mod standing;
pub mod tail;
