//! What a plot shows (pure), whoever draws it.

use super::curve::Curve;

/// One plot over time or over steps.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    /// What it shows.
    pub(super) title: &'static str,
    /// Unit of its values.
    pub(super) unit: String,
    /// What lies along it.
    pub(super) axis: Axis,
    /// Its curves.
    pub(super) series: Vec<Series>,
    /// Values to hold them against.
    pub(super) levels: Vec<Level>,
    /// Moments on a time axis.
    pub(super) marks: Vec<Mark>,
    /// Times in which nothing was trained, from and to.
    pub(super) shades: Vec<(f64, f64)>,
    /// 0 is on it, as it must be where lengths are compared.
    pub(super) from_zero: bool,
}

/// What lies along a plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Axis {
    /// Seconds after a moment, up to the last.
    Time {
        /// Microseconds since the epoch.
        from_us: i64,
        /// Seconds after that.
        to_s: f64,
    },
    /// Steps of the training.
    Steps,
    /// Records of a log that prints no steps.
    Records,
}

/// One curve.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// Whose it is; empty where there is one alone.
    pub(super) label: String,
    /// Number of its colour.
    pub(super) colour: usize,
    /// How it is drawn.
    pub(super) line: Line,
    /// Its points.
    pub(super) curve: Curve,
}

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Solid, over the range of what its points stand for.
    Band,
    /// Dashed.
    Dashed,
}

/// A value across the whole plot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Level {
    /// What it is.
    pub(super) label: String,
    /// The value.
    pub(super) value: f64,
}

/// A moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    /// Seconds after the start of the axis.
    pub(super) at_s: f64,
    /// What it is.
    pub(super) kind: Kind,
    /// For whoever points at it.
    pub(super) label: String,
}

/// What happened at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The box was taken back, or lost.
    Interruption,
    /// A checkpoint was committed.
    Checkpoint,
    /// A window contradicted the estimate.
    Contradiction,
}

/// The attempts of a run, one below the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Timeline {
    /// Seconds in all.
    pub(super) to_s: f64,
    /// Its beginning, microseconds since the epoch.
    pub(super) from_us: i64,
    /// Every attempt.
    pub(super) lanes: Vec<Lane>,
}

/// One attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    /// Its name.
    pub(super) label: String,
    /// When it had a box, seconds after the beginning.
    pub(super) rented: (f64, f64),
    /// When it trained.
    pub(super) trained: Vec<(f64, f64)>,
    /// What happened.
    pub(super) marks: Vec<Mark>,
}
