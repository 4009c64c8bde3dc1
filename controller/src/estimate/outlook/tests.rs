//! Outlooks of one model on several offers.

use super::*;
use crate::estimate::{calibrated::Shipped, gpus::Gpus};

pub(in crate::estimate) fn demand(job: &Job) -> Demand<'_> {
    Demand {
        job,
        tokens: Some(1e9),
        image_gb: 10.0,
        download_gb: 20.0,
        disk_gb: 200.0,
        keep_last: 3,
        backup_every_hours: 1.0 / 6.0,
        backed_up: true,
        setup_hours: 0.5,
        setup_measured: false,
        budget_usd: None,
        interruptible: false,
        past: &[],
    }
}

pub(in crate::estimate) fn supply(gpu: &str, num_gpus: u32) -> Supply<'static> {
    let gpu = Gpus::shipped().find(gpu, None).expect("it is shipped");
    Supply {
        machine: Machine {
            gpu,
            num_gpus: Some(num_gpus),
        },
        vram_gib: gpu.vram_gb,
        ram_gb: 128.0,
        held_usd: 0.0,
        usd_per_hour: 2.0,
        down_mbps: 1000.0,
        up_mbps: 1000.0,
        down_usd_per_gb: 0.01,
        up_usd_per_gb: 0.02,
        max_hours: Some(720.0),
        reliability: Some(0.99),
        verified: true,
        nvlink: gpu.nvlink_gb_per_s > 0.0,
    }
}

pub(in crate::estimate) fn seen(demand: &Demand<'_>, supply: &Supply<'_>) -> Outlook {
    outlook(
        demand,
        supply,
        Method::Calibrated,
        &Shipped::get().calibration,
    )
}

fn small() -> Job {
    Job {
        micro_batch: Some(4.0),
        ..Job::new(350e6)
    }
}

#[track_caller]
fn check_blocked(found: &Outlook, words: &str) {
    assert!(!found.go());
    assert!(
        found.blockers.iter().any(|why| why.contains(words)),
        "{:?}",
        found.blockers
    );
}

#[test]
fn a_small_model_fits_and_hours_make_dollars() {
    let job = small();
    let (demand, supply) = (demand(&job), supply("RTX 4090", 1));
    let found = seen(&demand, &supply);
    assert!(found.go(), "{:?}", found.blockers);
    assert_eq!(found.fit(), Verdict::Fits);
    let wall = found.forecast.wall_hours.unwrap();
    assert!(wall.optimistic < wall.base && wall.base < wall.pessimistic);
    // 30 GB down at a cent, and one checkpoint an hour up at two.
    let train = found.forecast.train_hours.unwrap().base;
    let expected = wall.base * 2.0 + 0.30 + train.ceil() * checkpoint_gb(&job) * 0.02;
    assert!((found.forecast.cost_usd.unwrap().base - expected).abs() < 1e-9);
    let tax = found.forecast.setup_tax.unwrap();
    assert!((tax - (0.5 + download_hours(&demand, &supply)) / wall.base).abs() < 1e-12);
}

#[test]
fn a_large_model_does_not_fit_a_small_card() {
    let job = Job::new(8e9);
    check_blocked(&seen(&demand(&job), &supply("RTX 4090", 1)), "GPU memory");
}

#[test]
fn offloading_asks_for_the_memory_of_the_host() {
    let job = Job {
        offload: true,
        ..Job::new(8e9)
    };
    check_blocked(&seen(&demand(&job), &supply("H100 SXM", 1)), "host memory");
}

#[test]
fn too_little_disk_network_money_or_time_forbids_it() {
    let job = small();
    let (good, there) = (demand(&job), supply("RTX 4090", 1));
    check_blocked(
        &seen(
            &Demand {
                disk_gb: 20.0,
                ..good.clone()
            },
            &there,
        ),
        "disk",
    );
    check_blocked(
        &seen(
            &good,
            &Supply {
                down_mbps: 1.4,
                ..there
            },
        ),
        "downloads would take",
    );
    check_blocked(
        &seen(
            &Demand {
                budget_usd: Some(1.0),
                ..good.clone()
            },
            &there,
        ),
        "budget",
    );
    // What is held back is not there to train with.
    let cost = seen(&good, &there).forecast.cost_usd.unwrap().base;
    let tight = Demand {
        budget_usd: Some(cost + 1.0),
        ..good.clone()
    };
    assert!(seen(&tight, &there).go());
    let held = Supply {
        held_usd: 1.5,
        ..there
    };
    check_blocked(&seen(&tight, &held), "of which $1.50 are held back");
    let alone = Demand {
        backed_up: false,
        ..good
    };
    check_blocked(
        &seen(
            &alone,
            &Supply {
                max_hours: Some(0.5),
                ..there
            },
        ),
        "nothing is backed up",
    );
}

#[test]
fn an_upload_that_cannot_keep_up_is_tight() {
    let job = Job {
        pure_16_bit: Some(true),
        micro_batch: Some(1.0),
        ..Job::new(3e9)
    };
    let slow = Supply {
        up_mbps: 20.0,
        ..supply("H100 SXM", 1)
    };
    let found = seen(&demand(&job), &slow);
    let network = found
        .checks
        .iter()
        .find(|check| check.what == "network")
        .unwrap();
    assert_eq!(network.verdict, Verdict::Tight);
    assert!(uploads_fall_behind(&demand(&job), &slow));
}

#[test]
fn without_tokens_there_is_a_speed_and_no_time() {
    let job = small();
    let demand = Demand {
        tokens: None,
        ..demand(&job)
    };
    let found = seen(&demand, &supply("RTX 4090", 1));
    assert!(found.forecast.tokens_per_s.base > 1000.0);
    assert_eq!(
        (found.forecast.wall_hours, found.forecast.cost_usd),
        (None, None)
    );
}

#[test]
fn memory_that_the_same_training_took_counts_before_the_formulas() {
    let job = small();
    let past = |gpu: &str, gib: f64| {
        [Past {
            observation: 7,
            job: job.clone(),
            machine: supply(gpu, 1).machine,
            tokens_per_s: 50_000.0,
            peak_vram_gib: Some(gib),
            observed_us: 0,
        }]
    };
    let check = |past: &[Past], gpu: &str, needs: Option<f64>, verdict: Verdict| {
        let demand = Demand {
            past,
            ..demand(&job)
        };
        let found = seen(&demand, &supply(gpu, 1));
        let memory = &found.checks[0];
        assert_eq!(memory.verdict, verdict, "{gpu}: {memory:?}");
        if let Some(needs) = needs {
            assert_eq!((memory.needs, found.peak_vram_gib.base), (needs, needs));
            assert!(
                memory.detail.starts_with("observation 7 took"),
                "{memory:?}"
            );
        }
    };
    // By formula it takes a fraction of that; it was seen to fit, however full it was.
    check(
        &past("RTX 4090", 20.0),
        "RTX 4090",
        Some(20.0),
        Verdict::Fits,
    );
    check(
        &past("RTX 4090", 23.5),
        "RTX 4090",
        Some(23.5),
        Verdict::Tight,
    );
    // More memory is there, and less than was taken, of which caches may be a part.
    check(
        &past("RTX 4090", 23.5),
        "A100 SXM4",
        Some(23.5),
        Verdict::Fits,
    );
    check(&past("A100 SXM4", 60.0), "RTX 4090", None, Verdict::Tight);
    check(&[], "RTX 4090", None, Verdict::Fits);
    // A card of the same name that has less than was taken.
    let small_card = Supply {
        vram_gib: 40.0,
        ..supply("A100 SXM4", 1)
    };
    let demand = Demand {
        past: &past("A100 SXM4", 60.0),
        ..demand(&job)
    };
    let memory = &seen(&demand, &small_card).checks[0];
    assert_eq!(memory.verdict, Verdict::Tight);
    assert!(memory.needs < 40.0, "{memory:?}");
}
