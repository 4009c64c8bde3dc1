//! Offers held against what a run asks for, by tables.

use std::path::Path;

use super::*;
use crate::{estimate::calibrated::Shipped, provider::memory};

const TRAINED: &str = "model: {params: 124M, seq_len: 1024, micro_batch: 8, tokens: 1B}\n";

/// What is taken of three machines at $0.41/h, $0.42/h and $0.43/h, as `change` has them: their numbers in the judge's order, and
/// what stands in the way of the last.
fn check(
    more: &str,
    change: impl Fn(&mut [Offer; 3], &mut Known),
    expected: (&[u64], Option<u64>),
    obstacle: Option<&str>,
) {
    let text =
        format!("name: a\nrun: train\nresources: {{accelerators: RTX 4090, disk: 200GB}}\n{more}");
    let spec = crate::spec::parse(&text, "run.yaml", Path::new("/")).unwrap();
    let mut offers = [1_u64, 2, 3].map(|machine| Offer {
        gpu_usd_per_hour: 0.39 + 0.01 * machine as f64,
        ..memory::offer(machine)
    });
    let mut known = Known::default();
    change(&mut offers, &mut known);
    let asked = Asked {
        spec: &spec,
        method: Method::Calibrated,
        calibration: &Shipped::get().calibration,
        known: &known,
        left_usd: None,
        going_on: None,
    };
    let verdicts = judge(&asked, &offers);
    let ids: Vec<u64> = verdicts.offers.iter().map(|found| found.offer.id).collect();
    let best = verdicts.best(Bar::Trains).map(|found| found.offer.id);
    assert_eq!((ids.as_slice(), best), expected, "{more}");
    let last = verdicts
        .offers
        .last()
        .and_then(|last| last.obstacle(Bar::Trains));
    match (obstacle, &last) {
        (None, _) => assert_eq!(last, None, "{more}"),
        (Some(words), Some(last)) => assert!(last.contains(words), "{last}"),
        (Some(words), None) => panic!("{more}: nothing says {words}"),
    }
}

#[test]
fn the_cheapest_is_taken_of_those_that_would_train_it() {
    check("", |_, _| (), (&[1, 2, 3], Some(1)), None);
    check(TRAINED, |_, _| (), (&[1, 2, 3], Some(1)), None);
    check(
        "",
        |offers, _| offers.reverse(),
        (&[1, 2, 3], Some(1)),
        None,
    );
    // Its memory is too small for the system and the loaders; without `model` nobody can tell.
    let little = |offers: &mut [Offer; 3], _: &mut Known| offers[0].ram_mb = 8_000;
    check(TRAINED, little, (&[2, 3, 1], Some(2)), Some("host memory"));
    check("", little, (&[1, 2, 3], Some(1)), None);
    let slow = |offers: &mut [Offer; 3], _: &mut Known| offers[0].inet_down_mbps = 2.0;
    check(
        TRAINED,
        slow,
        (&[2, 3, 1], Some(2)),
        Some("downloads would take"),
    );
    // Traffic makes a cheap hour dear.
    let traffic = |offers: &mut [Offer; 3], _: &mut Known| offers[0].inet_down_usd_per_gb = 0.05;
    check(TRAINED, traffic, (&[2, 3, 1], Some(2)), None);
    let bad = |_: &mut [Offer; 3], known: &mut Known| {
        known.avoided.insert(1, "ssh did not let us in".to_owned());
    };
    check("", bad, (&[2, 3, 1], Some(2)), None);
}

#[test]
fn what_lacks_a_need_is_never_taken_with_or_without_a_model() {
    let old = |offers: &mut [Offer; 3], _: &mut Known| {
        offers[0].cuda = 12.2;
        offers[1].compute_cap = 750;
    };
    for model in ["", TRAINED] {
        check(
            &format!("needs: [\"cuda>=12.4\"]\n{model}"),
            old,
            (&[2, 3, 1], Some(2)),
            Some("CUDA 12.4 is needed"),
        );
        check(
            &format!("needs: [flash-attn2]\n{model}"),
            old,
            (&[1, 3, 2], Some(1)),
            Some("FlashAttention 2 needs"),
        );
        check(
            &format!("image: \"train:cu124\"\n{model}"),
            old,
            (&[2, 3, 1], Some(2)),
            Some("built for CUDA 12.4"),
        );
        check(
            &format!("needs: [flash-attn3]\n{model}"),
            old,
            (&[1, 2, 3], None),
            Some("FlashAttention 3 needs compute capability 9.0"),
        );
    }
    check(
        "model: {params: 124M, attention: flash3}\n",
        |_, _| (),
        (&[1, 2, 3], None),
        Some("FlashAttention 3"),
    );
}

#[test]
fn a_run_that_goes_on_takes_what_costs_least_for_what_is_left() {
    let text = "name: a\nrun: train\nresources: {accelerators: RTX 4090, disk: 200GB}\n\
                model: {params: 500M, seq_len: 1024, micro_batch: 2, tokens: 2B}\n";
    let spec = crate::spec::parse(text, "run.yaml", Path::new("/")).unwrap();
    // A fast card behind a slow line, and one that is slower and dearer for each token.
    let offers = [
        Offer {
            gpu_name: "H100 SXM".to_owned(),
            vram_mib: 81_559,
            gpu_usd_per_hour: 1.2,
            inet_down_mbps: 60.0,
            ..memory::offer(1)
        },
        Offer {
            gpu_usd_per_hour: 0.6,
            ..memory::offer(2)
        },
    ];
    let known = Known::default();
    let first = |going_on: Option<GoingOn>| {
        let asked = Asked {
            spec: &spec,
            method: Method::Calibrated,
            calibration: &Shipped::get().calibration,
            known: &known,
            left_usd: None,
            going_on,
        };
        let verdicts = judge(&asked, &offers);
        let best = verdicts.best(Bar::Facts).unwrap();
        let cost = best.outlook.as_ref().unwrap().forecast.cost_usd.unwrap();
        (best.offer.id, cost.base)
    };
    let left = |tokens_left, restores| {
        Some(GoingOn {
            tokens_left,
            restores,
        })
    };
    let (begun, whole_usd) = first(None);
    assert_eq!(begun, 1);
    assert_eq!(first(left(None, false)).0, 1, "nothing tells what is left");
    let (taken, rest_usd) = first(left(Some(2e7), true));
    assert_eq!(taken, 2, "an hour of downloads is most of what is left");
    assert!(rest_usd < whole_usd / 5.0, "{rest_usd} of {whole_usd}");
    let (_, fresh_usd) = first(left(Some(2e7), false));
    assert!(fresh_usd < rest_usd, "a checkpoint is fetched first");
}

#[test]
fn an_offer_whose_disk_the_budget_does_not_hold_for_a_week_is_not_taken() {
    let judged = |limits: &str, left_usd: f64, disks: [f64; 3]| {
        let text = format!(
            "name: a\nrun: train\nresources: {{accelerators: RTX 4090, disk: 200GB, max_price: 0.42}}\nlimits: {{{limits}}}\n"
        );
        let spec = crate::spec::parse(&text, "run.yaml", Path::new("/")).unwrap();
        let offers = [1_u64, 2, 3].map(|machine| Offer {
            // The third is too dear at any rate.
            gpu_usd_per_hour: if machine == 3 { 0.5 } else { 0.3 },
            storage_usd_per_hour: disks[machine as usize - 1],
            ..memory::offer(machine)
        });
        let known = Known::default();
        let asked = Asked {
            spec: &spec,
            method: Method::Calibrated,
            calibration: &Shipped::get().calibration,
            known: &known,
            left_usd: Some(left_usd),
            going_on: None,
        };
        let verdicts = judge(&asked, &offers);
        let held_cents = (verdicts.shortage).map(|shortage| (shortage.held_usd * 100.0).round());
        (
            verdicts.best(Bar::Facts).map(|best| best.offer.id),
            held_cents,
        )
    };
    assert_eq!(
        judged("budget: 5", 5.0, [0.01, 0.02, 0.02]),
        (Some(1), None)
    );
    assert_eq!(
        judged("budget: 5", 5.0, [0.03, 0.02, 0.02]),
        (Some(2), None)
    );
    // After 3.50 were spent, a week of neither is left: the least of what would be held back is told.
    assert_eq!(
        judged("budget: 5", 1.5, [0.03, 0.02, 0.03]),
        (None, Some(336.0))
    );
    // The price of the third may fall, and its disk would be held: that is waited for.
    assert_eq!(judged("budget: 5", 1.5, [0.03, 0.02, 0.001]), (None, None));
    assert_eq!(
        judged("budget: 5, storage_days: 2", 1.5, [0.03, 0.02, 0.03]),
        (Some(2), None)
    );
}

#[test]
fn whoever_dares_goes_by_himself_where_an_estimate_says_no_and_not_where_a_fact_does() {
    let text = "name: a\nrun: train\nneeds: [fp8]\nresources: {accelerators: RTX 4090}\nmodel: {params: 70B}\n";
    let spec = crate::spec::parse(text, "run.yaml", Path::new("/")).unwrap();
    let known = Known::default();
    let asked = Asked {
        spec: &spec,
        method: Method::Calibrated,
        calibration: &Shipped::get().calibration,
        known: &known,
        left_usd: None,
        going_on: None,
    };
    let order = |offer: &Offer| pricing::order(offer, &spec.resources).unwrap();
    let here = memory::offer(1);
    let found = judge_one(&asked, &here, order(&here));
    assert!(found.obstacle(Bar::Trains).unwrap().contains("GPU memory"));
    assert_eq!(found.obstacle(Bar::Facts), None);
    let old = Offer {
        compute_cap: 860,
        ..here.clone()
    };
    let found = judge_one(&asked, &old, order(&old));
    assert!(found.obstacle(Bar::Facts).unwrap().contains("fp8 needs"));
    assert_eq!(found.blockers()[0], found.lacks[0]);
}
