//! Regression that neither a strange row nor a strange source carries away, and quantiles with weights (pure).
//!
//! Rows of one source share what nobody wrote down: a code, a network, a habit of measuring. Each source therefore has an effect of
//! its own, drawn towards 0, beside the factors, drawn towards what is expected of them. What minimizes
//! `sum(huber(row / row_sd)) + sum(huber(source / source_sd)) + sum(((factor - mean) / sd)^2)` is found by reweighting.

use super::calibrated::{Prior, dot};

/// One row of a fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Number of its source, from 0.
    pub source: usize,
    /// Features, one for each factor.
    pub features: Vec<f64>,
    /// What was measured.
    pub target: f64,
}

/// How far rows and sources are expected to scatter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scatter {
    /// Of rows around their source.
    pub row_sd: f64,
    /// Of sources around the factors.
    pub source_sd: f64,
}

/// Beyond so many standard deviations a residual counts by its size and no longer by its square.
const HUBER: f64 = 1.2;
/// Rounds of reweighting; the weights stand still long before.
const ROUNDS: usize = 30;

/// Fits the factors. Without observations they are what is expected.
pub fn fit(observations: &[Observation], priors: &[Prior], scatter: Scatter) -> Vec<f64> {
    let factors = priors.len();
    let sources = observations
        .iter()
        .map(|row| row.source + 1)
        .max()
        .unwrap_or(0);
    let size = factors + sources;
    let mut row_weights = vec![1.0; observations.len()];
    let mut source_weights = vec![1.0; sources];
    let mut solution = vec![0.0; size];
    for _ in 0..ROUNDS {
        let mut matrix = vec![vec![0.0; size]; size];
        let mut right = vec![0.0; size];
        for (index, prior) in priors.iter().enumerate() {
            let pull = 1.0 / (prior.sd * prior.sd);
            matrix[index][index] += pull;
            right[index] += pull * prior.mean;
        }
        for (index, weight) in source_weights.iter().enumerate() {
            matrix[factors + index][factors + index] +=
                weight / (scatter.source_sd * scatter.source_sd);
        }
        for (row, weight) in observations.iter().zip(&row_weights) {
            let weight = weight / (scatter.row_sd * scatter.row_sd);
            let own = factors + row.source;
            for (i, a) in row.features.iter().enumerate() {
                for (j, b) in row.features.iter().enumerate() {
                    matrix[i][j] += weight * a * b;
                }
                matrix[i][own] += weight * a;
                matrix[own][i] += weight * a;
                right[i] += weight * a * row.target;
            }
            matrix[own][own] += weight;
            right[own] += weight * row.target;
        }
        solution = solve(matrix, right);
        for (row, weight) in observations.iter().zip(&mut row_weights) {
            let fitted = dot(&solution[..factors], &row.features) + solution[factors + row.source];
            *weight = huber((row.target - fitted) / scatter.row_sd);
        }
        for (weight, effect) in source_weights.iter_mut().zip(&solution[factors..]) {
            *weight = huber(effect / scatter.source_sd);
        }
    }
    solution.truncate(factors);
    solution
}

/// Weight of a residual, in standard deviations.
fn huber(residual: f64) -> f64 {
    let size = residual.abs();
    if size > HUBER { HUBER / size } else { 1.0 }
}

/// Solves a symmetric positive definite system by Cholesky's decomposition.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let size = right.len();
    for column in 0..size {
        for row in column..size {
            let sum = matrix[row][column] - dot(&matrix[row][..column], &matrix[column][..column]);
            matrix[row][column] = if row == column {
                // Every diagonal has a prior's pull in it, so it is above 0.
                sum.sqrt()
            } else {
                sum / matrix[column][column]
            };
        }
    }
    for row in 0..size {
        right[row] = (right[row] - dot(&matrix[row][..row], &right[..row])) / matrix[row][row];
    }
    for row in (0..size).rev() {
        let later: f64 = (row + 1..size)
            .map(|next| matrix[next][row] * right[next])
            .sum();
        right[row] = (right[row] - later) / matrix[row][row];
    }
    right
}

/// The value below which the share `at` of the weight lies; `None` without values.
pub fn weighted_quantile(values: &[(f64, f64)], at: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = sorted.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    for (value, weight) in &sorted {
        sum += weight;
        if sum >= at * total {
            return Some(*value);
        }
    }
    sorted.last().map(|(value, _)| *value)
}

/// Quantile of equal weights, between neighbours where it falls between; `None` without values.
pub fn quantile(values: &[f64], at: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let place = at * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: [Prior; 2] = [
        Prior {
            name: "level",
            mean: 0.0,
            sd: 100.0,
        },
        Prior {
            name: "slope",
            mean: 0.0,
            sd: 100.0,
        },
    ];
    const SCATTER: Scatter = Scatter {
        row_sd: 0.1,
        source_sd: 0.1,
    };

    fn line(source: usize, x: f64, target: f64) -> Observation {
        Observation {
            source,
            features: vec![1.0, x],
            target,
        }
    }

    #[test]
    fn a_line_is_found_again() {
        let rows: Vec<_> = [0, 1, 2, 3]
            .map(|i| line(i, i as f64, 1.0 + 2.0 * i as f64))
            .into();
        let found = fit(&rows, &WIDE, SCATTER);
        assert!(
            (found[0] - 1.0).abs() < 0.01 && (found[1] - 2.0).abs() < 0.01,
            "{found:?}"
        );
    }

    #[test]
    fn one_strange_source_with_many_rows_moves_little() {
        let mut rows: Vec<_> = (0..6).map(|i| line(i, i as f64, 1.0)).collect();
        rows.extend((0..40).map(|i| line(6, (i % 6) as f64, 9.0)));
        let found = fit(&rows, &WIDE, SCATTER);
        assert!((found[0] - 1.0).abs() < 0.6, "{found:?}");
    }

    #[test]
    fn without_observations_the_expected_stays() {
        let priors = [Prior {
            name: "level",
            mean: 0.7,
            sd: 0.1,
        }];
        assert!((fit(&[], &priors, SCATTER)[0] - 0.7).abs() < 1e-12);
    }

    #[test]
    fn quantiles_lie_where_they_should() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[1.0, 2.0], 0.5), Some(1.5));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(
            weighted_quantile(&[(1.0, 1.0), (2.0, 1.0), (3.0, 8.0)], 0.5),
            Some(3.0)
        );
        assert_eq!(weighted_quantile(&[(1.0, 9.0), (2.0, 1.0)], 0.5), Some(1.0));
    }
}
