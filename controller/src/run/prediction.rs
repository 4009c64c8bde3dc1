//! What the estimator predicts for the box that an attempt runs on (pure): handed to the agent, which holds the training against it.

use crate::{
    estimate::{
        baseline::{self, Past},
        calibrated::{Predicted, Shipped},
        gpus::Gpus,
        job::Machine,
    },
    spec::RunSpec,
};

/// A prediction; absent where the run file or the tables do not say enough.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prediction {
    /// Tokens per second of all GPUs.
    pub tokens_per_s: Option<f64>,
    /// The same with its range.
    pub speed: Option<Predicted>,
    /// Tokens of all GPUs between two optimizer steps.
    pub tokens_per_step: Option<f64>,
}

/// Predicts for the GPUs of an attempt, as it has them: `RTX 4090:1`. What the same code did before says more than any formula.
pub fn prediction(spec: &RunSpec, gpus: &str, past: &[Past]) -> Prediction {
    let Some(model) = &spec.model else {
        return Prediction::default();
    };
    let (name, count) = gpus.rsplit_once(':').unwrap_or((gpus, ""));
    let count = count.parse().unwrap_or(spec.resources.num_gpus);
    let machine = Gpus::shipped().find(name, None).map(|gpu| Machine {
        gpu,
        num_gpus: Some(count),
    });
    let speed = machine.map(|machine| {
        let (job, calibration) = (model.job(), &Shipped::get().calibration);
        let carried = baseline::closest(past, &job, &machine)
            .map(|past| past.carried_over(&job, &machine, calibration).0);
        let per_gpu = carried.unwrap_or_else(|| calibration.tokens_per_s_per_gpu(&job, &machine));
        per_gpu.times(machine.gpus())
    });
    Prediction {
        tokens_per_s: speed.map(|speed| speed.base),
        speed,
        tokens_per_step: model.batch_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_predicted_for_known_gpus_and_a_stated_model_only() {
        let text = "name: a\nresources: {accelerators: \"H100 SXM:4\"}\nrun: x\n";
        let spec = |more: &str| {
            crate::spec::parse(
                &format!("{text}{more}"),
                "run.yaml",
                std::path::Path::new("/"),
            )
            .unwrap()
        };
        let model = spec(
            "model: {params: 956M, tokens: 49.8B, seq_len: 2048, micro_batch: 8, batch_tokens: 524288}\n",
        );
        let got = prediction(&model, "H100 SXM:4", &[]);
        let one = prediction(&model, "H100 SXM:1", &[]).tokens_per_s.unwrap();
        let four = got.tokens_per_s.unwrap();
        assert!((100_000.0..2_000_000.0).contains(&four), "{four}");
        assert!(four > 2.0 * one, "{four} {one}");
        assert_eq!(got.tokens_per_step, Some(524_288.0));
        assert_eq!(prediction(&model, "Quantum 9000:4", &[]).tokens_per_s, None);
        assert_eq!(
            prediction(&spec(""), "H100 SXM:4", &[]),
            Prediction::default()
        );
    }
}
