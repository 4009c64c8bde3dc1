//! From tokens per second to hours (pure).

use super::job::Machine;

/// Time that passes beside training, relative to training: evaluations and checkpoints.
pub const BESIDE_ON_ONE_HOST: f64 = 1.05;
/// The same on several hosts, where restarts come on top: long trainings on clusters train nine tenths of the time (Grattafiori et
/// al. 2024, section 3.3.4).
const BESIDE_ON_SEVERAL: f64 = 1.12;

/// Hours from start to end for each hour of training: evaluations, checkpoints and, on clusters, restarts.
pub fn beside_training(machine: &Machine<'_>) -> f64 {
    match machine.num_gpus {
        Some(gpus) if gpus <= 8 => BESIDE_ON_ONE_HOST,
        _ => BESIDE_ON_SEVERAL,
    }
}
