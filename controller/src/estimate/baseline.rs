//! Speeds that the same code has shown before and the memory that it took, and what they say of another machine (pure).
//!
//! One's own past runs say more than any formula. On the same GPUs a speed is taken as it is; on others it is carried over by the
//! ratio of what method `calibrated` says of both, which is close to the root of (peak ratio x bandwidth ratio) and was the best
//! rule on published pairs. What another code did is not used at all.
//!
//! Memory is that of the card as its driver counts it, with what a framework keeps for later: a larger card shows more of it.

use serde::Serialize;

use super::{
    calibrated::{Calibration, Predicted, Range},
    job::{Job, Machine},
    playbook::{self, Carry, SCENARIOS},
};

/// A speed that was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// Number of the observation.
    pub observation: i64,
    /// What was trained.
    pub job: Job,
    /// On what.
    pub machine: Machine<'static>,
    /// Tokens per second of all GPUs.
    pub tokens_per_s: f64,
    /// Most memory of one GPU, GiB.
    pub peak_vram_gib: Option<f64>,
    /// When, microseconds since the epoch.
    pub observed_us: i64,
}

/// How a speed was carried over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Carried {
    /// Number of the observation.
    pub observation: i64,
    /// Speed of each GPU here for each that was seen there.
    pub factor: f64,
    /// Same GPUs, same training: nothing was carried over.
    pub as_is: bool,
}

/// Hosts of one GPU differ by a tenth: what the playbook takes off a speed of the same architecture.
const AS_IS: Range = Range {
    low: 0.9,
    high: 1.1,
};

/// Memory of a GPU that the very same training was seen to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taken<'p> {
    /// By which observation.
    pub past: &'p Past,
    /// Most of it, GiB.
    pub gib: f64,
    /// On this very GPU: it fits, for it did.
    pub as_is: bool,
}

/// The memory to go by: what the same training took on so many GPUs, of the same kind before others, then the most of it.
pub fn taken<'p>(past: &'p [Past], job: &Job, machine: &Machine<'_>) -> Option<Taken<'p>> {
    let same = |past: &&Past| past.machine.num_gpus == machine.num_gpus && past.job == *job;
    past.iter()
        .filter(same)
        .filter_map(|past| {
            Some(Taken {
                past,
                gib: past.peak_vram_gib?,
                as_is: past.machine.gpu.name == machine.gpu.name,
            })
        })
        .max_by(|a, b| a.as_is.cmp(&b.as_is).then(a.gib.total_cmp(&b.gib)))
}

/// The speed to go by: of the same GPUs before others, then of what differs least, then the newest.
pub fn closest<'p>(past: &'p [Past], job: &Job, machine: &Machine<'_>) -> Option<&'p Past> {
    past.iter().min_by(|a, b| {
        let rank = |past: &Past| {
            let same_gpu = past.machine.gpu.name == machine.gpu.name;
            let same_count = past.machine.num_gpus == machine.num_gpus;
            (
                !same_gpu,
                !same_count,
                past.job != *job,
                past.distance(machine),
            )
        };
        let (a_rank, b_rank) = (rank(a), rank(b));
        (a_rank.0, a_rank.1, a_rank.2)
            .cmp(&(b_rank.0, b_rank.1, b_rank.2))
            .then(a_rank.3.total_cmp(&b_rank.3))
            .then(b.observed_us.cmp(&a.observed_us))
    })
}

impl Past {
    /// Tokens per second and GPU that it says of a machine, and how that was come to.
    pub fn carried_over(
        &self,
        job: &Job,
        machine: &Machine<'_>,
        calibration: &Calibration,
    ) -> (Predicted, Carried) {
        let seen = self.per_gpu();
        let as_is = self.is_same(job, machine);
        let speed = match as_is {
            true => Predicted::new(seen, AS_IS),
            false => calibration.carried_over(job, machine, (&self.job, &self.machine, seen)),
        };
        (speed, self.carried(speed.base, as_is))
    }

    /// The same by the playbook's rule: the lesser of the ratios of peak and bandwidth, and something taken off.
    pub fn carried_over_by_hand(&self, job: &Job, machine: &Machine<'_>) -> (Predicted, Carried) {
        let seen = self.per_gpu();
        let as_is = self.is_same(job, machine);
        let carry = if self.machine.gpus() < 2.0 && machine.gpus() >= 2.0 {
            Carry::FirstAttempt
        } else if self.machine.gpu.compute_cap.trunc() != machine.gpu.compute_cap.trunc() {
            Carry::OtherArchitecture
        } else {
            Carry::SameArchitecture
        };
        let base = match as_is {
            true => seen,
            false => playbook::carried_over(job, machine, (&self.machine, seen), carry),
        };
        let [high, _, low] = SCENARIOS;
        let speed = Predicted {
            low: base * low,
            base,
            high: base * high,
        };
        (speed, self.carried(base, as_is))
    }

    fn carried(&self, per_gpu: f64, as_is: bool) -> Carried {
        Carried {
            observation: self.observation,
            factor: per_gpu / self.per_gpu(),
            as_is,
        }
    }

    fn per_gpu(&self) -> f64 {
        self.tokens_per_s / self.machine.gpus()
    }

    fn is_same(&self, job: &Job, machine: &Machine<'_>) -> bool {
        self.machine.gpu.name == machine.gpu.name
            && self.machine.num_gpus == machine.num_gpus
            && self.job == *job
    }

    /// How far apart two machines are: e-folds of peak and bandwidth, and of the number of GPUs.
    fn distance(&self, machine: &Machine<'_>) -> f64 {
        let folds = |a: f64, b: f64| (a / b).ln().abs();
        folds(self.machine.gpu.tensor_tflops, machine.gpu.tensor_tflops)
            + folds(
                self.machine.gpu.memory_gb_per_s,
                machine.gpu.memory_gb_per_s,
            )
            + folds(self.machine.gpus(), machine.gpus())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::{calibrated::Shipped, gpus::Gpus};

    fn machine(name: &str, gpus: u32) -> Machine<'static> {
        Machine {
            gpu: Gpus::shipped().find(name, None).unwrap(),
            num_gpus: Some(gpus),
        }
    }

    fn past(observation: i64, gpu: &str, gpus: u32, observed_us: i64) -> Past {
        Past {
            observation,
            job: Job::new(124e6),
            machine: machine(gpu, gpus),
            tokens_per_s: 100_000.0 * f64::from(gpus),
            peak_vram_gib: None,
            observed_us,
        }
    }

    #[test]
    fn the_same_gpus_say_most_then_what_differs_least_then_what_is_newest() {
        let all = [
            past(1, "H100 SXM", 1, 9),
            past(2, "RTX 4090", 4, 9),
            past(3, "RTX 4090", 1, 5),
            past(4, "RTX 4090", 1, 7),
            past(5, "RTX 3090", 1, 9),
        ];
        let job = Job::new(124e6);
        for (gpu, gpus, expected) in [
            ("RTX 4090", 1, 4),
            ("RTX 4090", 3, 2),
            ("RTX 4090", 4, 2),
            ("H100 SXM", 8, 1),
            ("A100 SXM4", 1, 4),
            ("RTX 3090", 1, 5),
        ] {
            let found = closest(&all, &job, &machine(gpu, gpus)).unwrap();
            assert_eq!(found.observation, expected, "{gpus} x {gpu}");
        }
        assert_eq!(closest(&[], &job, &machine("RTX 4090", 1)), None);
    }

    #[test]
    fn memory_is_that_of_the_same_training_and_of_the_same_gpus_first() {
        let took = |observation, gpu, gpus, gib| Past {
            peak_vram_gib: gib,
            ..past(observation, gpu, gpus, 0)
        };
        let mut all = vec![
            took(1, "A100 SXM4", 1, Some(19.0)),
            took(2, "RTX 4090", 1, Some(13.0)),
            took(3, "RTX 4090", 1, Some(14.0)),
            took(4, "RTX 4090", 1, None),
            took(5, "RTX 4090", 2, Some(9.0)),
        ];
        let other_batch = Job {
            micro_batch: Some(64.0),
            ..Job::new(124e6)
        };
        all.push(Past {
            job: other_batch.clone(),
            ..took(6, "H100 SXM", 1, Some(60.0))
        });
        let job = Job::new(124e6);
        let of = |job: &Job, gpu: &str, gpus: u32| {
            let found = taken(&all, job, &machine(gpu, gpus))?;
            Some((found.past.observation, found.gib, found.as_is))
        };
        assert_eq!(of(&job, "RTX 4090", 1), Some((3, 14.0, true)));
        assert_eq!(of(&job, "RTX 4090", 2), Some((5, 9.0, true)));
        assert_eq!(of(&job, "RTX 3090", 1), Some((1, 19.0, false)));
        assert_eq!(of(&other_batch, "RTX 3090", 1), Some((6, 60.0, false)));
        assert_eq!(of(&job, "RTX 3090", 4), None);
    }

    #[test]
    fn the_same_training_on_the_same_gpus_is_taken_as_it_is() {
        let calibration = &Shipped::get().calibration;
        let (seen, job) = (past(3, "RTX 4090", 2, 0), Job::new(124e6));
        let here = machine("RTX 4090", 2);
        let (speed, carried) = seen.carried_over(&job, &here, calibration);
        assert_eq!(
            (speed.base, carried.factor, carried.as_is),
            (100_000.0, 1.0, true)
        );
        assert!(speed.low > 0.8 * speed.base && speed.high < 1.2 * speed.base);
        let (by_hand, _) = seen.carried_over_by_hand(&job, &here);
        assert_eq!(by_hand.base, 100_000.0);
        // Another batch is another training.
        let larger = Job {
            micro_batch: Some(64.0),
            ..Job::new(124e6)
        };
        assert!(!seen.carried_over(&larger, &here, calibration).1.as_is);
    }

    #[test]
    fn another_gpu_gets_about_the_root_of_the_ratios_and_by_hand_the_lesser() {
        let calibration = &Shipped::get().calibration;
        let (seen, job) = (past(3, "RTX 3090", 1, 0), Job::new(124e6));
        let there = machine("H100 SXM", 1);
        let gpu = |name: &str| Gpus::shipped().find(name, None).unwrap();
        let peaks = gpu("H100 SXM").tensor_tflops / gpu("RTX 3090").tensor_tflops;
        let bandwidths = gpu("H100 SXM").memory_gb_per_s / gpu("RTX 3090").memory_gb_per_s;
        let (speed, carried) = seen.carried_over(&job, &there, calibration);
        let root = (peaks * bandwidths).sqrt();
        assert!(
            (0.7 * root..1.4 * root).contains(&carried.factor),
            "{} {root}",
            carried.factor
        );
        assert!(speed.low < speed.base && speed.base < speed.high);
        assert_eq!((carried.observation, carried.as_is), (3, false));
        let (_, by_hand) = seen.carried_over_by_hand(&job, &there);
        // From Ampere to Hopper is another architecture.
        let expected = 0.7 * peaks.min(bandwidths);
        assert!(
            (by_hand.factor - expected).abs() < 1e-9,
            "{}",
            by_hand.factor
        );
    }
}
