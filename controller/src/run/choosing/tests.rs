//! What is chosen where a box was taken back: by cases, and whatever the figures are.

use proptest::prelude::*;

use super::*;
use crate::run::bidding::SHORTEST_HOURS;

/// A box at $0.20/h that was just taken, another at $0.22/h, and a day to go.
fn crossroads() -> Crossroads {
    Crossroads {
        bid_usd_per_hour: 0.20,
        storage_usd_per_hour: 0.01,
        beat_usd_per_hour: None,
        waited_hours: 0.0,
        headroom: 0.0,
        ceiling_usd_per_hour: Some(0.40),
        elsewhere: Some(Elsewhere {
            gpu_usd_per_hour: 0.22,
            storage_usd_per_hour: 0.01,
            restore: Restore::default(),
        }),
        hours_left: Some(24.0),
        move_hours: 0.35,
        at_risk_hours: 0.0,
        slack_hours: None,
        left_usd: None,
        past: Past::default(),
    }
}

#[test]
fn the_way_that_costs_least_is_chosen_and_the_choice_says_why() {
    let check = |what: &str, change: &dyn Fn(&mut Crossroads), expected: Way| {
        let mut at = crossroads();
        change(&mut at);
        let choice = choose(&at);
        assert_eq!(choice.way(), expected, "{what}: {choice}");
    };
    check("dearer by a tenth", &|_| {}, Way::Move);
    let other = |gpu: f64| {
        Some(Elsewhere {
            gpu_usd_per_hour: gpu,
            storage_usd_per_hour: 0.01,
            restore: Restore::default(),
        })
    };
    check("as cheap", &|at| at.elsewhere = other(0.20), Way::Move);
    check("much dearer", &|at| at.elsewhere = other(0.60), Way::Wait);
    check("nothing else", &|at| at.elsewhere = None, Way::Wait);
    check(
        "a market whose boxes come back soon",
        &|at| {
            at.past = Past {
                hours: 40.0,
                interruptions: 4,
                away_hours: 1.0,
                returns: 9,
            };
        },
        Way::Wait,
    );
    check(
        "one whose boxes do not",
        &|at| {
            at.elsewhere = other(0.60);
            at.past.away_hours = 60.0;
        },
        Way::Move,
    );
    // A rival that bids a little more is outbid; one that bids much more is not.
    check(
        "a little more",
        &|at| at.beat_usd_per_hour = Some(0.21),
        Way::Bid(0.21),
    );
    check(
        "much more",
        &|at| at.beat_usd_per_hour = Some(0.39),
        Way::Move,
    );
    check(
        "with headroom, to the thousandth",
        &|at| {
            at.beat_usd_per_hour = Some(0.2102);
            at.headroom = 0.01;
        },
        Way::Bid(0.213),
    );
    check(
        "headroom is cut before a limit is passed",
        &|at| {
            at.beat_usd_per_hour = Some(0.21);
            at.headroom = 0.5;
            at.ceiling_usd_per_hour = Some(0.215);
        },
        Way::Bid(0.215),
    );
    check(
        "above the ceiling",
        &|at| {
            at.beat_usd_per_hour = Some(0.21);
            at.ceiling_usd_per_hour = Some(0.205);
        },
        Way::Move,
    );
    check(
        "without a limit the bid stays",
        &|at| {
            at.beat_usd_per_hour = Some(0.21);
            at.ceiling_usd_per_hour = None;
        },
        Way::Move,
    );
    check(
        "a budget that would be over within the hour",
        &|at| {
            at.beat_usd_per_hour = Some(0.21);
            at.left_usd = Some(0.215);
        },
        Way::Move,
    );
    check(
        "it comes back by itself",
        &|at| at.beat_usd_per_hour = Some(0.18),
        Way::Wait,
    );
    check(
        "it should have come back, and did not",
        &|at| {
            at.beat_usd_per_hour = Some(0.18);
            at.waited_hours = 0.2;
        },
        Way::Move,
    );
    // There is time: a box that is dearer by a tenth is not worth it. Where there is none, it is.
    let days = |at: &mut Crossroads, slack_hours| {
        at.elsewhere = other(0.197);
        at.storage_usd_per_hour = 0.001;
        at.hours_left = Some(72.0);
        at.past.hours = 40.0;
        at.slack_hours = Some(slack_hours);
    };
    check("time enough", &|at| days(at, 40.0), Way::Wait);
    check("little time", &|at| days(at, 2.0), Way::Move);
    check("late already", &|at| days(at, -5.0), Way::Move);
    // Hours that would be done again elsewhere speak for its own box.
    check(
        "much at risk",
        &|at| {
            at.beat_usd_per_hour = Some(0.225);
            at.at_risk_hours = 3.0;
        },
        Way::Bid(0.225),
    );
}

#[test]
fn what_has_to_be_fetched_of_a_checkpoint_counts_against_another_box() {
    const GB: u64 = 1_000_000_000;
    let over = |bytes: u64, promised: f64, measured: Option<f64>| {
        let mut at = crossroads();
        let other = at.elsewhere.as_mut().unwrap();
        other.restore = Restore::new(bytes, promised, measured);
        at.beat_usd_per_hour = Some(0.24);
        choose(&at)
    };
    assert_eq!(over(0, 800.0, None).way(), Way::Move, "nothing to fetch");
    assert_eq!(over(15 * GB, 800.0, None).way(), Way::Move, "150 s");
    assert_eq!(over(200 * GB, 100.0, None).way(), Way::Bid(0.24), "4.4 h");
    // What its machine was seen to do counts more than what its host says.
    assert_eq!(over(200 * GB, 10_000.0, Some(100.0)).way(), Way::Bid(0.24));
    let line = over(36 * GB, 4000.0, None).to_string();
    let says = "; 0.1 h of that for a checkpoint of 36.0 GB at promised 1000 Mb/s)";
    assert!(line.contains(says), "{line}");
    let line = over(36 * GB, 4000.0, Some(80.0)).to_string();
    assert!(
        line.contains("1.0 h of that for a checkpoint of 36.0 GB at measured 80 Mb/s"),
        "{line}"
    );
    assert_eq!(Restore::new(GB, 0.0, None).mbps, UNKNOWN_MBPS);
}

#[test]
fn the_line_has_every_way_with_its_price() {
    let mut at = crossroads();
    at.beat_usd_per_hour = Some(0.21);
    assert_eq!(
        choose(&at).to_string(),
        "bids more for its box: the next 14.0 h of training, delay included, cost with bidding $0.210/h for its box $3.09 \
         ($0.220/h after 0.1 h, which count as $0.0058); with another box $3.34 ($0.230/h after 0.3 h, which count as $0.0403), with \
         waiting for its box $3.70 ($0.210/h after 6.0 h, which count as $0.70)"
    );
    at.slack_hours = Some(22.0);
    let line = choose(&at).to_string();
    assert!(
        line.ends_with("; 10.0 h of delay now would not make it late"),
        "{line}"
    );
}

proptest! {
    /// Whatever is on the market, no bid passes a limit, and nothing is chosen that is not open.
    #[test]
    fn no_limit_is_ever_passed(
        bid in 0.001f64..40.0, storage in 0.0f64..1.0, beat in proptest::option::of(0.001f64..40.0), waited in 0.0f64..50.0,
        headroom in 0.0f64..2.0, ceiling in proptest::option::of(0.001f64..40.0), other in proptest::option::of(0.001f64..40.0),
        hours in proptest::option::of(0.0f64..2000.0), left in proptest::option::of(0.0f64..500.0),
        slack in proptest::option::of(-100.0f64..500.0), run_hours in 0.0f64..1000.0, interruptions in 0u32..100, away in 0.0f64..1000.0, returns in 0u32..100,
        bytes in proptest::num::u64::ANY, mbps in -1.0f64..20_000.0,
    ) {
        let at = Crossroads {
            bid_usd_per_hour: bid,
            storage_usd_per_hour: storage,
            beat_usd_per_hour: beat,
            waited_hours: waited,
            headroom,
            ceiling_usd_per_hour: ceiling,
            elsewhere: other.map(|gpu_usd_per_hour| Elsewhere {
                gpu_usd_per_hour, storage_usd_per_hour: storage, restore: Restore::new(bytes, mbps, None),
            }),
            hours_left: hours,
            move_hours: 0.3,
            at_risk_hours: 0.1,
            slack_hours: slack,
            left_usd: left,
            past: Past { hours: run_hours, interruptions, away_hours: away, returns },
        };
        let choice = choose(&at);
        prop_assert!(choice.ways.iter().all(|way| way.usd.is_finite() && way.usd >= 0.0));
        prop_assert!(choice.ways.is_sorted_by_key(|way| way.usd));
        for way in &choice.ways {
            match way.way {
                Way::Wait => {}
                Way::Move => prop_assert!(other.is_some()),
                Way::Bid(new) => {
                    prop_assert!(ceiling.is_some_and(|most| new <= most));
                    prop_assert!(left.is_none_or(|left| new + storage <= left / SHORTEST_HOURS + 1e-9));
                    prop_assert!(new > bid && beat.is_some_and(|beat| new >= beat));
                }
            }
        }
    }
}
