//! Advice for a small model on good and bad offers.

use super::*;
use crate::estimate::{
    calibrated::Shipped,
    outlook::tests::{demand, seen, supply},
    stacks::Stack,
};

fn small() -> Job {
    Job {
        micro_batch: Some(1.0),
        ..Job::new(350e6)
    }
}

#[track_caller]
fn check_risk(demand: &Demand<'_>, supply: &Supply<'_>, words: &str) {
    let found = risks(demand, supply, &seen(demand, supply));
    assert!(found.iter().any(|risk| risk.contains(words)), "{found:?}");
}

fn menu(job: &Job, supply: &Supply<'_>) -> Vec<String> {
    let demand = demand(job);
    optimizations(
        &demand,
        supply,
        &seen(&demand, supply),
        &Shipped::get().calibration,
    )
}

#[test]
fn a_good_offer_has_no_risk_and_every_bad_trait_is_named() {
    let job = small();
    let (good, there) = (
        Demand {
            tokens: Some(10e9),
            ..demand(&job)
        },
        supply("RTX 4090", 1),
    );
    assert_eq!(risks(&good, &there, &seen(&good, &there)), [""; 0]);
    check_risk(
        &good,
        &Supply {
            max_hours: Some(3.0),
            ..there
        },
        "the host rents for 3.0 h",
    );
    check_risk(
        &good,
        &Supply {
            reliability: Some(0.9),
            ..there
        },
        "reliability is 90.0%",
    );
    check_risk(
        &good,
        &Supply {
            down_mbps: 50.0,
            ..there
        },
        "bandwidth of 50 Mb/s",
    );
    check_risk(
        &good,
        &Supply {
            verified: false,
            ..there
        },
        "not verified",
    );
    check_risk(
        &Demand {
            interruptible: true,
            ..good.clone()
        },
        &there,
        "taken back",
    );
    check_risk(
        &Demand {
            backed_up: false,
            ..good.clone()
        },
        &there,
        "nothing is backed up",
    );
    check_risk(
        &Demand {
            setup_hours: 80.0,
            setup_measured: false,
            ..good.clone()
        },
        &there,
        "setup and debugging",
    );
    check_risk(&good, &supply("V100", 1), "no bf16");
    let heavy = Job {
        stack: Stack::named("deepspeed"),
        ..small()
    };
    check_risk(&demand(&heavy), &there, "heavyweight");
}

#[test]
fn the_menu_holds_what_applies_and_nothing_else() {
    let tuned = Job {
        compile: Some(true),
        stack: Stack::named("nanogpt"),
        micro_batch: Some(24.0),
        ..small()
    };
    assert_eq!(menu(&tuned, &supply("H100 SXM", 1)), [""; 0]);
    let found = menu(
        &Job {
            precision: Precision::Fp32,
            ..small()
        },
        &supply("RTX 4090", 1),
    );
    assert!(found[0].contains("bf16"), "{found:?}");
    assert!(found[1].contains("micro-batch from 1 to"), "{found:?}");
    assert!(
        found.iter().any(|line| line.contains("torch.compile")),
        "{found:?}"
    );
    let found = menu(&Job::new(3e9), &supply("RTX 4090", 1));
    assert!(
        found
            .iter()
            .any(|line| line.contains("recompute activations")),
        "{found:?}"
    );
    assert!(found.iter().any(|line| line.contains("LoRA")), "{found:?}");
}

#[test]
fn a_larger_micro_batch_that_is_advised_does_fit() {
    let job = small();
    let there = supply("RTX 4090", 1);
    let calibration = &Shipped::get().calibration;
    let (larger, peak) = larger_micro_batch(&job, &there, calibration).unwrap();
    assert!(larger > 1.0 && peak * calibration.memory_limit <= there.vram_gib);
}

#[test]
fn short_runs_may_be_interrupted_and_long_ones_should_not() {
    let job = small();
    let there = supply("H100 SXM", 1);
    let advised = |tokens: Option<f64>, backed_up: bool| {
        let demand = Demand {
            tokens,
            backed_up,
            ..demand(&job)
        };
        rental(&demand, &seen(&demand, &there)).advice
    };
    assert_eq!(advised(Some(1e8), true), "interruptible");
    assert_eq!(advised(Some(1e11), true), "on-demand");
    assert_eq!(advised(Some(1e8), false), "on-demand");
    assert_eq!(advised(None, true), "on-demand");
}

#[test]
fn debugging_goes_where_it_is_cheaper_unless_moving_eats_it_up() {
    let job = small();
    let demand = Demand {
        setup_hours: 2.0,
        setup_measured: false,
        ..demand(&job)
    };
    let found = probe(&demand, 10.0, 0.5);
    assert_eq!(
        (found.here_usd, found.probe_usd, found.probe_first),
        (20.0, 3.5, true)
    );
    assert!(!probe(&demand, 0.5, 0.5).probe_first);
}

#[test]
fn gates_have_numbers_and_thresholds() {
    let job = small();
    let (demand, there) = (demand(&job), supply("RTX 4090", 1));
    let found = gates(&there, &seen(&demand, &there));
    assert_eq!(found.len(), 5);
    assert!(found[2].abort.contains("22.1 GiB"), "{found:?}");
}
