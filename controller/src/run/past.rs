//! What is known from earlier runs that may be said of this one (pure): speeds of the same code, and the paid time before it trained.

use crate::{
    estimate::{baseline::Past, gpus::Gpus, job::Machine},
    run::observing::{CONTEXT_GIB, code},
    spec::{Model, RunSpec},
    store::ObservationRecord,
};

/// Parameters of one model, stated twice, differ by less than this.
const SAME_PARAMS: f64 = 0.02;

/// Observations of the same code and model, the newest last.
pub fn related<'o>(spec: &RunSpec, known: &'o [ObservationRecord]) -> Vec<&'o ObservationRecord> {
    let code = code(spec);
    let mut found: Vec<&ObservationRecord> = known
        .iter()
        .filter(|record| {
            let seen = &record.seen;
            seen.code.as_ref() == Some(&code) || seen.run == spec.name
        })
        .filter(|record| match (&record.seen.model, &spec.model) {
            (Some(seen), Some(model)) => is_same_model(seen, model),
            _ => true,
        })
        .collect();
    found.sort_by_key(|record| record.seen.observed_us);
    found
}

/// Speeds that may be carried over to a run.
pub fn of(spec: &RunSpec, known: &[ObservationRecord]) -> Vec<Past> {
    related(spec, known)
        .into_iter()
        .filter_map(|record| {
            let seen = &record.seen;
            let tokens_per_s = seen.tokens_per_s.filter(|speed| *speed > 0.0)?;
            Some(Past {
                observation: record.id,
                // One that was recorded without its model did what the run file says now.
                job: seen.model.as_ref().or(spec.model.as_ref())?.job(),
                machine: Machine {
                    gpu: Gpus::shipped().find(&seen.gpu, None)?,
                    num_gpus: seen.num_gpus,
                },
                tokens_per_s,
                // Memory is that of one training alone; a driver may report none, and what was read after the end is next to none.
                peak_vram_gib: seen
                    .peak_vram_gib
                    .filter(|gib| *gib >= CONTEXT_GIB && seen.model.is_some()),
                observed_us: seen.observed_us,
            })
        })
        .collect()
}

/// Paid hours of setting up and debugging for each attempt that trained, as earlier runs of the same code had them; `None`: there
/// were none.
pub fn setup_hours(spec: &RunSpec, known: &[ObservationRecord]) -> Option<f64> {
    let related = related(spec, known);
    let seen = || related.iter().map(|record| &record.seen);
    let trained = seen()
        .filter(|seen| {
            let debug_s = seen.debug_s.unwrap_or(0.0);
            seen.trained_s
                .is_some_and(|trained_s| debug_s == 0.0 || trained_s > debug_s)
        })
        .count();
    let measured = seen().filter(|seen| seen.setup_s.is_some()).count();
    if measured == 0 {
        return None;
    }
    let paid_s: f64 = seen()
        .map(|seen| seen.setup_s.unwrap_or(0.0) + seen.debug_s.unwrap_or(0.0))
        .sum();
    Some(paid_s / 3600.0 / trained.max(1) as f64)
}

fn is_same_model(a: &Model, b: &Model) -> bool {
    (a.params / b.params - 1.0).abs() <= SAME_PARAMS && a.method == b.method
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::{Observation, Source};

    fn spec(text: &str) -> RunSpec {
        let head = "resources: {accelerators: RTX 4090}\nrun: python train.py\n";
        crate::spec::parse(&format!("{head}{text}"), "run.yaml", Path::new("/")).unwrap()
    }

    const SMALL: &str = "name: a\nworkdir: .\nmodel: {params: 124M}";

    fn record(id: i64, spec: &RunSpec, change: impl FnOnce(&mut Observation)) -> ObservationRecord {
        let mut seen = Observation::new(Source::Trained, &spec.name, "RTX 4090", id);
        seen.code = Some(code(spec));
        seen.model.clone_from(&spec.model);
        seen.num_gpus = Some(1);
        seen.tokens_per_s = Some(1000.0);
        change(&mut seen);
        ObservationRecord {
            id,
            edited: false,
            seen,
        }
    }

    #[test]
    fn only_the_same_code_and_model_on_a_known_gpu_says_something() {
        let this = spec(SMALL);
        let renamed = spec("name: b\nworkdir: .\nmodel: {params: 125M, micro_batch: 4}");
        let larger = spec("name: a\nworkdir: .\nmodel: {params: 350M}");
        let known = [
            record(1, &this, |_| ()),
            record(2, &renamed, |_| ()),
            record(3, &larger, |_| ()),
            record(4, &this, |seen| seen.gpu = "Quantum 9000".into()),
            record(5, &this, |seen| seen.tokens_per_s = None),
            // Typed in under the run's name.
            record(6, &this, |seen| seen.code = None),
            record(7, &spec("name: c\nmodel: {params: 124M}"), |_| ()),
        ];
        let peaks = |change: fn(&mut Observation)| {
            let seen = record(1, &this, |seen| {
                seen.peak_vram_gib = Some(13.0);
                change(seen);
            });
            of(&this, &[seen])[0].peak_vram_gib
        };
        assert_eq!(peaks(|_| ()), Some(13.0));
        assert_eq!(peaks(|seen| seen.model = None), None);
        assert_eq!(peaks(|seen| seen.peak_vram_gib = Some(0.0)), None);
        let ids = |past: Vec<Past>| past.iter().map(|past| past.observation).collect::<Vec<_>>();
        assert_eq!(ids(of(&this, &known)), [1, 2, 6]);
        assert_eq!(
            related(&this, &known)
                .iter()
                .map(|record| record.id)
                .collect::<Vec<_>>(),
            [1, 2, 4, 5, 6]
        );
    }

    #[test]
    fn setup_and_debugging_are_shared_by_the_attempts_that_came_to_something() {
        let this = spec(SMALL);
        let paid = |id, setup_s, trained_s: Option<f64>, debug_s| {
            record(id, &this, move |seen| {
                seen.setup_s = Some(setup_s);
                seen.trained_s = trained_s;
                seen.debug_s = debug_s;
            })
        };
        assert_eq!(setup_hours(&this, &[]), None);
        let known = [
            paid(1, 600.0, Some(300.0), Some(300.0)),
            paid(2, 900.0, None, None),
            paid(3, 1200.0, Some(90_000.0), Some(0.0)),
            paid(4, 600.0, Some(50_000.0), Some(0.0)),
        ];
        let hours = setup_hours(&this, &known).unwrap();
        assert!((hours - 0.5).abs() < 1e-12, "{hours}");
        // Ten hours that ended in a crash are no ten hours of debugging.
        let late = [paid(5, 1800.0, Some(36_000.0), Some(3600.0))];
        assert_eq!(setup_hours(&this, &late), Some(1.5));
    }
}
