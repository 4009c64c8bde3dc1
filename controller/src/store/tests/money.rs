//! Intervals, bids and charges.

use super::*;

#[test]
fn intervals_follow_the_price() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = |kind, at_s: i64, price| {
        store
            .open_interval("a", 1, kind, T0 + at_s * 1_000_000, price)
            .unwrap();
    };
    record(CostKind::Disk, 0, 0.01);
    record(CostKind::Gpu, 60, 0.36);
    record(CostKind::Gpu, 90, 0.36);
    record(CostKind::Gpu, 160, 0.72);
    for at_s in [260, 261] {
        store
            .close_interval("a", 1, CostKind::Gpu, T0 + at_s * 1_000_000)
            .unwrap();
    }
    let intervals = store.intervals("a").unwrap();
    assert_eq!(intervals.len(), 3);
    let cost = ledger::attempt_cost(&intervals, 1, T0 + 3_600_000_000);
    assert!((cost.gpu_usd - (0.01 + 0.02)).abs() < 1e-9, "{cost:?}");
    assert!((cost.disk_usd - 0.01).abs() < 1e-9, "{cost:?}");
    assert!((ledger::rate_usd_per_hour(&intervals, None) - 0.01).abs() < 1e-12);
}

#[test]
fn a_look_that_is_older_than_the_end_of_a_box_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    let mut attempt = attempt("a", 1);
    store.create_attempt(&attempt).unwrap();
    let seen = crate::provider::memory::instance(7);
    store.meter("a", 1, &seen, T0).unwrap();
    let rate = |store: &Store| ledger::rate_usd_per_hour(&store.intervals("a").unwrap(), None);
    assert!((rate(&store) - 0.31).abs() < 1e-9);
    for kind in [CostKind::Gpu, CostKind::Disk] {
        store.close_interval("a", 1, kind, T0 + 1_000_000).unwrap();
    }
    attempt.state = State::Gone;
    store.update_attempt(&attempt).unwrap();
    store.meter("a", 1, &seen, T0 + 2_000_000).unwrap();
    assert_eq!(rate(&store), 0.0);
}

#[test]
fn a_bid_is_not_undone_by_whoever_watches() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    let mut watched = attempt("a", 1);
    watched.state = State::Loading;
    store.create_attempt(&watched).unwrap();
    store.record_bid("a", 1, 0.77).unwrap();
    watched.state = State::Preparing;
    store.update_attempt(&watched).unwrap();
    assert_eq!(store.attempts("a").unwrap()[0].gpu_usd_per_hour, 0.77);
}

#[test]
fn the_last_charges_replace_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut charge = Charge {
        instance: 7,
        gpu_usd: 0.1,
        disk_usd: 0.01,
        bandwidth_usd: 0.0,
    };
    store.record_charge("a", 1, &charge, T0, false).unwrap();
    charge.gpu_usd = 0.2;
    store.record_charge("a", 1, &charge, T0, true).unwrap();
    let charges = store.charges("a").unwrap();
    assert_eq!(charges.len(), 1);
    assert!(charges[0].is_final);
    assert_eq!(charges[0].cost, ledger::Cost::from(&charge));
    assert!(store.is_billed("a", 1).unwrap() && !store.is_billed("a", 2).unwrap());
    assert_eq!(store.charged("a").unwrap()[0].cost, charges[0].cost);
}

#[test]
fn what_a_twin_cost_is_not_the_bill_of_a_box_of_which_nothing_is_charged_yet() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let hour_us = 3_600_000_000;
    let attempt = AttemptRecord {
        instance: Some(7),
        state: State::Gone,
        gone_us: T0,
        ..attempt("a", 1)
    };
    store
        .note(
            "a",
            1,
            T0,
            "twin_destroyed",
            &serde_json::json!({"instance": 8}),
        )
        .unwrap();
    let charge = |instance: u64, gpu_usd: f64| Charge {
        instance,
        gpu_usd,
        disk_usd: 0.0,
        bandwidth_usd: 0.0,
    };
    store
        .record_bill(&attempt, &[charge(8, 0.25)], T0 + hour_us)
        .unwrap();
    assert!(store.charges("a").unwrap().is_empty(), "it is no bill");
    store
        .record_bill(&attempt, &[charge(8, 0.25), charge(7, 1.0)], T0 + hour_us)
        .unwrap();
    assert_eq!(store.charges("a").unwrap()[0].cost.gpu_usd, 1.25);
    // Hours later what is not charged will not be.
    store
        .record_bill(&attempt, &[charge(8, 0.5)], T0 + 7 * hour_us)
        .unwrap();
    let closed = store.charges("a").unwrap().remove(0);
    assert_eq!((closed.cost.gpu_usd, closed.is_final), (0.5, true));
}
