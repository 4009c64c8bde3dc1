//! What the rest of a training will take and cost (pure): by the speed that it shows, else by the one that is predicted.

use serde::Serialize;
use serde_json::Value;

use crate::{
    estimate::{calibrated::Predicted, hours, playbook::Scenarios},
    run::{
        State, past,
        prediction::{Prediction, prediction},
        windows,
    },
    spec::Model,
    store::{AttemptRecord, ObservationRecord, RunRecord, Store, StoreError},
};

/// What is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ToCome {
    /// Hours until the training ends.
    pub hours: Scenarios,
    /// Dollars at the present price, traffic left out.
    pub usd: Scenarios,
    /// By the speed that the training shows; otherwise by the one that is predicted.
    pub measured: bool,
}

/// A speed that was measured over ten minutes moves by about so much until the end, either way.
pub const STEADY: f64 = 0.1;

/// What is to come of a training. `window`: its newest one; `step`: the newest that was seen.
pub fn to_come(
    model: Option<&Model>,
    window: Option<&Value>,
    predicted: &Prediction,
    step: Option<u64>,
    usd_per_hour: f64,
) -> Option<ToCome> {
    let seen = |key: &str| window.and_then(|window| window[key].as_f64());
    // Its own log says best when it ends.
    let told_s = seen("eta_s").filter(|eta_s| *eta_s >= 0.0);
    let (train_hours, measured) = match told_s {
        Some(eta_s) => (around(eta_s / 3600.0), true),
        None => {
            let model = model?;
            let done = match step.unwrap_or(0) {
                0 => 0.0,
                // Steps of an unknown size say nothing of what is left.
                steps => steps as f64 * model.batch_tokens?,
            };
            let left = (model.tokens? - done).max(0.0);
            match seen("actual_tokens_per_s").filter(|speed| *speed > 0.0) {
                Some(speed) => (around(left / speed / 3600.0), true),
                None => (predicted.speed?.divide(left / 3600.0), false),
            }
        }
    };
    let beside = match measured {
        // What a log promises has its evaluations in it.
        true => 1.0,
        false => hours::BESIDE_ON_ONE_HOST,
    };
    let hours = Scenarios {
        optimistic: train_hours.low,
        base: train_hours.base,
        pessimistic: train_hours.high,
    }
    .map(|hours| hours * beside);
    Some(ToCome {
        hours,
        usd: hours.map(|hours| hours * usd_per_hour),
        measured,
    })
}

/// Tokens that are still to be trained from a saved step on: by the size of its steps, else by what its log promised last and the speed
/// that it had; `None`: nothing tells.
pub fn tokens_left(model: &Model, step: Option<u64>, window: Option<&Value>) -> Option<f64> {
    let by_steps = || {
        let done = step? as f64 * model.batch_tokens?;
        Some((model.tokens? - done).max(0.0))
    };
    let by_log = || {
        let seen = |key: &str| window.and_then(|window| window[key].as_f64());
        let left = seen("eta_s")?.max(0.0) * seen("actual_tokens_per_s")?;
        Some(model.tokens.map_or(left, |tokens| left.min(tokens)))
    };
    by_steps().or_else(by_log)
}

/// The same of a run as it is on record; `None`: it does not train, or nobody can tell.
pub fn of_run(
    store: &Store,
    run: &RunRecord,
    known: &[ObservationRecord],
    usd_per_hour: f64,
) -> Result<Option<ToCome>, StoreError> {
    let latest = store.latest_attempt(&run.name)?;
    let training = latest.filter(|attempt| attempt.state == State::Running);
    let Some(attempt) = training.filter(|_| run.outcome.is_none()) else {
        return Ok(None);
    };
    of_attempt(store, run, &attempt, known, usd_per_hour)
}

/// The same of one attempt, and of one that has ended what was still to come when it did.
pub fn of_attempt(
    store: &Store,
    run: &RunRecord,
    attempt: &AttemptRecord,
    known: &[ObservationRecord],
    usd_per_hour: f64,
) -> Result<Option<ToCome>, StoreError> {
    let predicted = prediction(&run.spec, &attempt.gpu, &past::of(&run.spec, known));
    let window = windows::newest(store, attempt)?;
    // From where it resumed, until its first step is seen.
    let step = attempt.last_step.or(attempt.resumed_step);
    let model = run.spec.model.as_ref();
    Ok(to_come(
        model,
        window.as_ref(),
        &predicted,
        step,
        usd_per_hour,
    ))
}

fn around(hours: f64) -> Predicted {
    Predicted {
        low: hours * (1.0 - STEADY),
        base: hours,
        high: hours * (1.0 + STEADY),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model(more: &str) -> Model {
        let text = format!(
            "name: a\nresources: {{accelerators: RTX 4090}}\nrun: x\nmodel: {{params: 124M, tokens: 3.6B{more}}}\n"
        );
        let spec = crate::spec::parse(&text, "run.yaml", std::path::Path::new("/")).unwrap();
        spec.model.unwrap()
    }

    #[test]
    fn the_rest_is_told_by_the_log_then_by_the_speed_that_is_seen_then_by_the_predicted() {
        let predicted = Prediction {
            speed: Some(Predicted {
                low: 50_000.0,
                base: 100_000.0,
                high: 200_000.0,
            }),
            ..Prediction::default()
        };
        let stepped = model(", batch_tokens: 1M");
        let told = |window: Option<Value>, step, model: &Model| {
            let found = to_come(Some(model), window.as_ref(), &predicted, step, 0.5)?;
            Some((found.hours.base, found.usd.base, found.measured))
        };
        assert_eq!(
            told(Some(json!({"eta_s": 7200.0})), Some(5), &stepped),
            Some((2.0, 1.0, true))
        );
        // 1.8 of 3.6 billion tokens are left.
        let window = json!({"actual_tokens_per_s": 50_000.0});
        assert_eq!(
            told(Some(window), Some(1800), &stepped),
            Some((10.0, 5.0, true))
        );
        let (hours, usd, measured) = told(None, Some(1800), &stepped).unwrap();
        assert!((hours - 5.25).abs() < 1e-9 && (usd - 2.625).abs() < 1e-9 && !measured);
        let (hours, ..) = told(None, None, &model("")).unwrap();
        assert!((hours - 10.5).abs() < 1e-9, "{hours}");
        assert_eq!(
            told(None, Some(7), &model("")),
            None,
            "steps of an unknown size"
        );
        assert_eq!(to_come(None, None, &predicted, None, 0.5), None);
    }

    #[test]
    fn what_is_left_is_told_by_the_saved_step_else_by_the_log() {
        let window = json!({"eta_s": 3600.0, "actual_tokens_per_s": 50_000.0});
        let left = |more: &str, step, seen: bool| {
            tokens_left(&model(more), step, Some(&window).filter(|_| seen))
        };
        assert_eq!(left(", batch_tokens: 1M", Some(1800), true), Some(1.8e9));
        assert_eq!(left(", batch_tokens: 1M", Some(9000), true), Some(0.0));
        assert_eq!(left("", Some(1800), true), Some(1.8e8));
        assert_eq!(left(", batch_tokens: 1M", None, true), Some(1.8e8));
        assert_eq!(
            left("", Some(1800), false),
            None,
            "steps of an unknown size"
        );
    }

    #[test]
    fn the_range_of_a_prediction_is_that_of_its_speed() {
        let predicted = Prediction {
            speed: Some(Predicted {
                low: 50_000.0,
                base: 100_000.0,
                high: 200_000.0,
            }),
            ..Prediction::default()
        };
        let found = to_come(Some(&model("")), None, &predicted, None, 1.0).unwrap();
        assert!((found.usd.optimistic * 2.0 - found.usd.base).abs() < 1e-9);
        assert!((found.usd.pessimistic - found.usd.base * 2.0).abs() < 1e-9);
    }
}
