//! Holds what a training does against what was predicted, a window of ten minutes at a time (pure).
//!
//! [`figures`] makes figures of the samples and steps of a window; [`triggers`] says what in them contradicts the estimate, and how
//! often it must have been so; [`bottleneck`] what holds the training up; [`policy`] what is done about it.

use spotter_bucket::sorted::sort_by;

pub mod bottleneck;
pub mod figures;
pub mod policy;
pub mod triggers;

pub use bottleneck::{Bottleneck, bottleneck};
pub use figures::{Figures, Reading, Tally};
pub use policy::{Act, Found, OnContradiction, Policy, Standing};
pub use triggers::{Contradiction, Expected, Judge};

/// The middle of some numbers; of an even count the mean of the two.
fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = numbers
        .iter()
        .copied()
        .filter(|number| number.is_finite())
        .collect();
    sort_by(&mut sorted, f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}
