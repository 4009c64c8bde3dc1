//! The figures that the estimator must reach on the shipped table, each row predicted without its own source.

use super::*;

fn shipped(method: Method) -> Evaluation {
    evaluate(Published::shipped(), method)
}

#[test]
fn speeds_of_unseen_sources_are_predicted_within_a_quarter_and_ranges_keep_their_word() {
    let speeds = shipped(Method::Calibrated).summary.tokens_per_s.unwrap();
    assert!(speeds.rows >= 140, "{speeds:?}");
    assert!(speeds.median <= 0.27, "{speeds:?}");
    assert!((0.72..=0.88).contains(&speeds.coverage), "{speeds:?}");
}

#[test]
fn hours_of_unseen_sources_are_predicted_as_well_as_speeds() {
    let hours = shipped(Method::Calibrated).summary.hours.unwrap();
    assert!(hours.median <= 0.27, "{hours:?}");
}

#[test]
fn a_speed_is_carried_over_to_another_gpu() {
    let carried = shipped(Method::Calibrated).summary.transfer.unwrap();
    assert!(carried.rows >= 500, "{carried:?}");
    assert!(carried.median <= 0.22, "{carried:?}");
    assert!((0.68..=0.92).contains(&carried.coverage), "{carried:?}");
}

#[test]
fn peaks_of_memory_and_their_verdicts_hold() {
    let summary = shipped(Method::Calibrated).summary;
    let peaks = summary.peak_vram.unwrap();
    assert!(peaks.rows >= 80, "{peaks:?}");
    assert!(peaks.median <= 0.20, "{peaks:?}");
    let verdicts = summary.verdicts.unwrap();
    assert!(verdicts.false_fits_share <= 0.03, "{verdicts:?}");
    assert!(verdicts.false_does_not_fit_share <= 0.15, "{verdicts:?}");
    // Calling everything tight would be no verdict.
    assert!(verdicts.not_said_to_fit_share <= 0.25, "{verdicts:?}");
}

#[test]
fn fitting_beats_the_rules_of_thumb() {
    let fitted = shipped(Method::Calibrated).summary;
    let rules = shipped(Method::Playbook).summary;
    assert!(fitted.tokens_per_s.unwrap().median < rules.tokens_per_s.unwrap().median);
    assert!(fitted.transfer.unwrap().median < rules.transfer.unwrap().median);
}

#[test]
fn the_shipped_factors_are_those_that_the_shipped_runs_give() {
    let study = Study::of(Published::shipped());
    let shipped = Shipped::get();
    assert_eq!(shipped.sources, study.sources());
    let same = |a: &[f64], b: &[f64]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
    };
    assert!(
        same(&shipped.calibration.speed, &study.whole().speed),
        "run the example fit-estimator"
    );
    assert!(
        same(&shipped.calibration.memory, &study.whole().memory),
        "run the example fit-estimator"
    );
    let names: Vec<&str> = crate::estimate::calibrated::SPEED
        .iter()
        .map(|prior| prior.name)
        .collect();
    assert_eq!(shipped.speed_names, names);
}

#[test]
fn a_row_of_a_known_source_is_predicted_without_it() {
    let run = Published::shipped()
        .iter()
        .find(|run| run.id == "runpod-06")
        .unwrap();
    let alone = evaluate(std::slice::from_ref(run), Method::Calibrated);
    let study = Study::of(Published::shipped());
    let expected = study
        .without(&run.source_key())
        .tokens_per_s_per_gpu(&run.job, &run.machine().unwrap());
    assert_eq!(
        alone.rows[0].tokens_per_s_per_gpu.unwrap().predicted,
        expected.base
    );
    assert_ne!(study.whole().speed, study.without(&run.source_key()).speed);
}

#[test]
fn an_unknown_gpu_is_said_and_not_guessed() {
    let runs = Published::parse("id\tparams_total\tgpu\na\t1e9\tTPU v4\nb\t1e9\tH100\n").unwrap();
    let found = evaluate(&runs, Method::Calibrated);
    assert_eq!(
        found.rows[0].not_predicted.as_deref(),
        Some("the GPU `TPU v4` is not known; there are figures of NVIDIA's alone")
    );
    assert!(found.rows[1].tokens_per_s_per_gpu.unwrap().predicted > 0.0);
    assert_eq!(found.summary.tokens_per_s, None);
    assert_eq!(found.summary.not_predicted, 1);
}
