//! Reads training logs: steps, losses and rates as the common trainers print them, and what went wrong. Shared by the
//! agent, which follows a log as it grows, and by the controller's `parse`. No clock, no files: bytes in, values out.
//!
//! Reading order: [`reader`] follows a log; [`lines`] makes lines of bytes; [`bar`] reads progress bars; [`scan`] finds names
//! with numbers, [`names`] knows what they mean, [`read`] makes records of them; [`summary`] counts; [`live`] keeps the newest
//! values; [`metric`] finds one that a user names; [`failure`] gathers evidence, weighs and explains it;
//! [`telling`] says what a user who is away is told.
//!
//! Formats are recognised by their shape, not by their trainer. A new one is a line in a table (a name in [`names`], a unit in
//! [`unit`], a sign in `failure/rules.rs`) and its example in `tests/frameworks/`.

mod bar;
mod duration;
pub mod failure;
mod lines;
pub mod live;
mod metric;
mod names;
mod number;
mod progress;
mod read;
mod reader;
mod record;
mod scan;
mod summary;
pub mod telling;
mod unit;

pub use metric::{Metric, MetricError, MetricReader};
pub use number::{Printed, Text};
pub use progress::{GROUPS, Progress, ProgressError};
pub use reader::{Reader, Seen, SeenKind};
pub use record::{Record, Throughput};
pub use summary::Summary;
pub use unit::Unit;
