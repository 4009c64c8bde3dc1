//! Boxes with slow lines: given up before anything expensive happens on them, and kept where the box is not to blame.

use std::time::Duration;

use spotter::{
    agent_client::LineInfo,
    run::{lease::Lease, lifecycle::Goal, machines},
    store::{AttemptRecord, Outcome},
};

use crate::{
    hosts::{self, Doors},
    world::{World, spec},
};

const RUN: &str = "story";

fn line(up_kb: f64) -> LineInfo {
    LineInfo {
        up_bytes_per_s: Some(up_kb * 1e3),
        down_bytes_per_s: Some(60e6),
        ..LineInfo::default()
    }
}

/// A run whose boxes have these lines, one after the other.
async fn trained_over(lines: Vec<LineInfo>) -> (World, Vec<AttemptRecord>) {
    let world = World::new(6, 60);
    world.boxes.script().lines = lines.into();
    world.plan(&spec(RUN));
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert!(world.market.alive().is_empty());
    let attempts = world.attempts(RUN);
    (world, attempts)
}

#[tokio::test(start_paused = true)]
async fn a_box_with_a_line_that_is_far_too_slow_is_given_up_at_once_and_its_machine_is_remembered()
{
    let (world, attempts) = trained_over(vec![line(170.0), line(60_000.0)]).await;
    assert_eq!(attempts.len(), 2);
    let why = "its line: 170 KB/s up, below 1.0 MB/s";
    assert_eq!(attempts[0].reason.as_deref(), Some(why));
    assert_eq!(attempts[0].started_us, 0, "it has trained nothing");
    let lived = Duration::from_micros((attempts[0].gone_us - attempts[0].created_us) as u64);
    assert!(lived <= Duration::from_secs(60), "{lived:?}");
    let machine = attempts[0].machine_id.unwrap();
    let now_us = world.clock().now_us();
    let avoided = machines::avoided(&world.store, machine, now_us).unwrap();
    assert_eq!(avoided.as_deref(), Some(why));
    assert_ne!(attempts[1].machine_id, Some(machine));
    for shown in ["170 KB/s up (offered: ", "60 MB/s up (offered: "] {
        let shown = format!("Its line to the bucket: {shown}");
        assert!(world.was_told(&shown), "{shown}: {:?}", world.told);
    }
    // No code was sent to the first, and each was measured once.
    let first = attempts[0].instance.unwrap();
    let script = world.boxes.script();
    let calls: Vec<&str> = script
        .calls
        .iter()
        .filter(|(_, instance)| *instance == first)
        .map(|(call, _)| *call)
        .collect();
    assert!(!calls.contains(&"sync"), "{calls:?}");
    let measured = script
        .calls
        .iter()
        .filter(|(call, _)| *call == "measure_line");
    assert_eq!(measured.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_is_only_told_where_the_box_may_not_be_to_blame() {
    let own_server = LineInfo {
        own_server: true,
        ..line(170.0)
    };
    let (world, attempts) = trained_over(vec![own_server]).await;
    assert_eq!(attempts.len(), 1);
    assert!(world.was_told("the bucket's own server may be the slower end"));

    // Two machines tell of a line each; three tell of the way to the bucket.
    let (world, attempts) = trained_over(vec![line(170.0); 3]).await;
    assert_eq!(attempts.len(), 3);
    assert!(world.was_told("as on 2 boxes before: the way to the bucket may be at fault"));
    let now_us = world.clock().now_us();
    let remembered = machines::all(&world.store, now_us).unwrap();
    assert_eq!(remembered, [], "the machines of the two did no wrong");

    // One that cannot be measured is no slow one.
    let not_measured = LineInfo {
        not_measured: Some("the bucket's server is in a private network".to_owned()),
        ..LineInfo::default()
    };
    let (world, attempts) = trained_over(vec![not_measured]).await;
    assert_eq!(attempts.len(), 1);
    assert!(
        world.was_told("Its line was not measured: the bucket's server is in a private network.")
    );
}

#[tokio::test(start_paused = true)]
async fn ones_own_box_is_kept_however_slow_its_line_is() {
    let (world, doors) = (World::new(1, 60), Doors::default());
    // 6 Mb/s up, as at home.
    world.boxes.script().lines = vec![line(750.0)].into();
    world.plan(&hosts::on_hosts(&["home"]));
    let run = hosts::drive(&world, &doors).await;
    assert_eq!(run.outcome, Some(Outcome::Done), "{:?}", run.reason);
    assert_eq!(world.attempts(RUN).len(), 1);
    assert!(
        world.was_told(
            "Careful: its line is slow: 750 KB/s up, below 1.0 MB/s; it is your own box."
        ),
        "{:?}",
        world.told
    );
    let now_us = world.clock().now_us();
    assert_eq!(machines::all(&world.store, now_us).unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_spotter_that_dies_after_it_measured_a_slow_line_gives_its_box_up_all_the_same() {
    let world = World::new(6, 60);
    world.boxes.script().lines = vec![line(170.0), line(60_000.0)].into();
    world.plan(&spec(RUN));
    {
        let lease = Lease::take(&world.store, RUN).unwrap();
        let _lease = lease.expect("nobody else watches");
        // The last words of the box keep it busy until it is killed.
        world.boxes.script().hangs = Some("events");
        let lifecycle = world.lifecycle();
        let measured = async {
            let seen = || world.store.newest_event(RUN, 1, "line_measured").unwrap();
            while seen().is_none() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            run = lifecycle.drive(RUN, Goal::End) => panic!("{run:?}"),
            () = measured => {}
        }
    }
    assert_eq!(world.attempts(RUN)[0].reason, None, "it was killed before");
    world.boxes.script().hangs = None;
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    let why = "its line: 170 KB/s up, below 1.0 MB/s";
    assert_eq!(attempts[0].reason.as_deref(), Some(why));
    assert_eq!(attempts[0].started_us, 0, "it has trained nothing");
}

#[tokio::test(start_paused = true)]
async fn without_a_bucket_no_line_is_measured_and_that_is_said() {
    let world = World::new(6, 60);
    let mut plain = spec(RUN);
    plain.checkpoints = None;
    world.plan(&plain);
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert!(world.was_told("Its line was not measured: the run has no bucket."));
    let script = world.boxes.script();
    assert!(script.calls.iter().all(|(call, _)| *call != "measure_line"));
}
