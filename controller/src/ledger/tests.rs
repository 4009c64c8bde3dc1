//! Seconds and prices, bills that cannot be true, ends that nobody saw.

use super::*;

const HOUR_US: i64 = 3_600_000_000;

fn interval(
    attempt: u32,
    kind: CostKind,
    from_h: i64,
    to_h: Option<i64>,
    usd_per_hour: f64,
) -> Interval {
    Interval {
        attempt,
        kind,
        from_us: from_h * HOUR_US,
        to_us: to_h.map(|h| h * HOUR_US),
        usd_per_hour,
    }
}

/// Two attempts: one interrupted after two hours whose disk stayed for three more, one that still runs.
fn two_attempts() -> Vec<Interval> {
    vec![
        interval(1, CostKind::Gpu, 1, Some(3), 0.30),
        interval(1, CostKind::Disk, 1, Some(6), 0.01),
        interval(2, CostKind::Gpu, 4, None, 0.40),
        interval(2, CostKind::Disk, 4, None, 0.02),
    ]
}

#[track_caller]
fn check(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() < 1e-9,
        "{actual} instead of {expected}"
    );
}

#[test]
fn the_end_of_a_charge_that_nobody_saw_is_where_the_providers_dollars_end() {
    let mut intervals = two_attempts();
    assert_eq!(charged_until(&intervals, 1, 5.0), None, "nothing is open");
    intervals.push(interval(1, CostKind::Gpu, 5, None, 0.50));
    // Two hours at $0.30 before, and one and a half at $0.50.
    let until_us = charged_until(&intervals, 1, 0.60 + 0.75).unwrap();
    assert!((until_us - 13 * HOUR_US / 2).abs() < 1000, "{until_us}");
    // What was not charged yet says nothing.
    assert_eq!(charged_until(&intervals, 1, 0.0), None);
    assert_eq!(charged_until(&intervals, 1, 0.30), Some(5 * HOUR_US));
}

#[test]
fn an_attempt_costs_its_seconds_times_their_price() {
    let intervals = two_attempts();
    let first = attempt_cost(&intervals, 1, 10 * HOUR_US);
    check(first.gpu_usd, 0.60);
    check(first.disk_usd, 0.05);
    let second = attempt_cost(&intervals, 2, 5 * HOUR_US + 1_000_000);
    check(second.gpu_usd, 0.40 + 0.40 / 3600.0);
    check(attempt_cost(&intervals, 3, 10 * HOUR_US).total_usd(), 0.0);
}

#[test]
fn a_final_bill_counts_where_it_can_be_true_and_else_the_dearer_of_the_two() {
    let gpu = |hours: i64| Interval {
        attempt: 1,
        kind: CostKind::Gpu,
        from_us: 0,
        to_us: Some(hours * HOUR_US),
        usd_per_hour: 1.0,
    };
    for (hours, charged, is_true, counts) in [
        (40, 40.0, true, 40.0),
        (40, 48.0, true, 48.0),
        (40, 48.1, false, 48.1),
        (40, 33.0, true, 33.0),
        // Six hours of it may have been somebody else's, while nobody looked.
        (40, 26.1, true, 26.1),
        (40, 25.9, false, 40.0),
        (40, 0.0, false, 40.0),
        (3, 0.1, true, 0.1),
        (3, 0.0, false, 3.0),
        (0, 0.01, true, 0.01),
        (0, 0.02, false, 0.02),
    ] {
        let bill = Cost {
            gpu_usd: charged,
            disk_usd: 0.0,
            bandwidth_usd: 0.5,
        };
        let closed = Charged {
            attempt: 1,
            cost: bill,
            is_final: true,
        };
        let (intervals, now_us) = ([gpu(hours)], 99 * HOUR_US);
        let plausible = is_plausible(&intervals, 1, bill, now_us);
        assert_eq!(plausible, is_true, "{hours} {charged}");
        let found = counted(&intervals, 1, Some(&closed), now_us);
        check(found.total_usd(), counts + 0.5);
    }
}

#[test]
fn a_run_costs_its_attempts_and_a_closed_bill_beats_our_figure() {
    let intervals = two_attempts();
    check(
        run_cost(&intervals, &[], 5 * HOUR_US).total_usd(),
        0.65 + 0.42,
    );
    let bill = Cost {
        gpu_usd: 0.61,
        disk_usd: 0.05,
        bandwidth_usd: 0.10,
    };
    let closed = Charged {
        attempt: 1,
        cost: bill,
        is_final: true,
    };
    check(
        run_cost(&intervals, &[closed], 5 * HOUR_US).total_usd(),
        0.76 + 0.42,
    );
    // An open one lags behind; what it has beyond our figure was charged while nobody looked.
    let mut open = Charged {
        is_final: false,
        ..closed
    };
    check(
        run_cost(&intervals, &[open], 5 * HOUR_US).total_usd(),
        0.66 + 0.10 + 0.42,
    );
    open.cost.gpu_usd = 0.20;
    check(
        run_cost(&intervals, &[open], 5 * HOUR_US).total_usd(),
        0.65 + 0.10 + 0.42,
    );
    // A bill without intervals, as after a lost answer, counts too.
    check(run_cost(&[], &[closed], 0).total_usd(), 0.76);
}

#[test]
fn the_rate_is_what_is_open_now() {
    let intervals = two_attempts();
    check(rate_usd_per_hour(&intervals, None), 0.42);
    check(rate_usd_per_hour(&intervals, Some(1)), 0.0);
    check(rate_usd_per_hour(&intervals, Some(2)), 0.42);
    check(open_rates(&intervals).gpu_usd_per_hour, 0.40);
    check(open_rates(&intervals).disk_usd_per_hour, 0.02);
}

#[test]
fn a_clock_that_went_back_costs_nothing() {
    check(interval(1, CostKind::Gpu, 5, None, 1.0).usd(HOUR_US), 0.0);
}

#[test]
fn a_bill_agrees_when_it_is_equal_to_the_cent_without_traffic() {
    let ledger = Cost {
        gpu_usd: 1.0,
        disk_usd: 0.1,
        bandwidth_usd: 0.0,
    };
    let near = Cost {
        gpu_usd: 1.002,
        disk_usd: 0.1,
        bandwidth_usd: 3.0,
    };
    let far = Cost {
        gpu_usd: 1.02,
        ..near
    };
    assert!(
        Reconciliation {
            ledger,
            charged: near
        }
        .agrees()
    );
    let apart = Reconciliation {
        ledger,
        charged: far,
    };
    assert!(!apart.agrees());
    check(apart.difference_usd(), 0.02);
}

#[test]
fn what_is_billed_is_told_from_what_is_reckoned() {
    let cost = |gpu_usd: f64, disk_usd: f64, bandwidth_usd: f64| Cost {
        gpu_usd,
        disk_usd,
        bandwidth_usd,
    };
    let ours = cost(1.0, 0.5, 0.2);
    let untrue = cost(2.0, 0.5, 0.2);
    // What was counted and charged; of it billed, reckoned, and traffic that nobody billed.
    let rows = [
        ("never asked", cost(1.0, 0.5, 0.0), None, [0.0, 1.5, 0.0]),
        ("behind", ours, Some((0.75, 0.5, 0.2)), [1.45, 0.25, 0.0]),
        (
            "traffic behind",
            ours,
            Some((1.0, 0.5, 0.05)),
            [1.55, 0.15, 0.15],
        ),
        ("closed", ours, Some((1.0, 0.5, 0.2)), [1.7, 0.0, 0.0]),
        (
            "cannot be true: the dearer of ours counts",
            untrue,
            Some((0.0, 0.0, 0.2)),
            [0.2, 2.5, 0.0],
        ),
    ];
    for (what, counted, charged, [billed, reckoned, traffic]) in rows {
        let charged = charged.map(|(gpu, disk, bandwidth)| cost(gpu, disk, bandwidth));
        let parts = Parts::of(counted, charged);
        let told = [
            parts.billed_usd,
            parts.reckoned_usd,
            parts.unbilled_traffic_usd,
        ];
        for (told, expected) in told.into_iter().zip([billed, reckoned, traffic]) {
            assert!(
                (told - expected).abs() < 1e-9,
                "{what}: {told} for {expected}"
            );
        }
    }
    let all: Parts = [
        Parts::of(cost(1.0, 0.0, 0.25), None),
        Parts::of(cost(2.0, 0.0, 0.0), Some(cost(2.0, 0.0, 0.0))),
    ]
    .into_iter()
    .sum();
    assert_eq!(
        (all.billed_usd, all.reckoned_usd, all.unbilled_traffic_usd),
        (2.0, 1.25, 0.25)
    );
}
