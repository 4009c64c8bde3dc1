//! A box that the market took back is waited for: bids, limits, persons who are asked, and what each interruption cost in steps.

use std::time::Duration;

use spotter::{
    provider::{Intended, Provider},
    run::{State, interruptions::interruptions, lease::Lease},
    spec::{RecoverPolicy, RunSpec},
    store::{AttemptRecord, Outcome},
};

use crate::world::{World, spec};

const RUN: &str = "story";

/// A run that waits for its box.
fn waits() -> RunSpec {
    let mut waits = spec(RUN);
    waits.recover.policy = RecoverPolicy::Here;
    waits
}

/// The first box trains for a while, then somebody pays more for it.
async fn outbid_at(world: &World, seconds: u64, usd_per_hour: f64) -> AttemptRecord {
    let attempt = world.until(RUN, 1, State::Running).await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    world.outbid_by(attempt.instance, usd_per_hour);
    attempt
}

fn bids(world: &World) -> Vec<f64> {
    let events = world.store.events(RUN, 0).unwrap();
    events
        .iter()
        .filter(|event| event.kind == "bid_changed")
        .map(|event| event.detail["new_usd_per_hour"].as_f64().unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_box_is_bid_for_until_it_is_back_and_the_training_goes_on_there() {
    let world = World::new(3, 200);
    let mut story = waits();
    story.resources.bid_max_usd_per_hour = Some(0.40);
    world.market.list_rivals();
    world.plan(&story);
    let (run, first) = tokio::join!(world.drive(RUN), outbid_at(&world, 75, 0.30));
    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 1, "nothing was rented in its place");
    assert_eq!(attempts[0].instance, first.instance);
    // What has to be beaten, which is $0.301, and the headroom of 15 %: once.
    assert_eq!(bids(&world), [0.347]);
    // What it cost in steps is on record.
    let found = interruptions(&world.store.events(RUN, 0).unwrap());
    assert_eq!(found.len(), 1);
    let (step, from) = (found[0].step.unwrap(), found[0].resumed_step.unwrap());
    assert_eq!(found[0].resumed_by, Some(1));
    assert_eq!(found[0].steps_lost, Some(step - from));
    let starts: Vec<u64> = world
        .boxes
        .script()
        .started
        .iter()
        .map(|(_, step)| *step)
        .collect();
    assert_eq!(starts, [0, from]);
    if step > from {
        assert!(world.was_told(&format!("{} steps were lost", step - from)));
    }
    assert!(world.market.alive().is_empty());
}

/// Whoever has a box on demand does not leave it for a bid, and one that is paid stays as it was bid.
#[tokio::test(start_paused = true)]
async fn a_box_that_is_not_listed_is_not_bid_for_blindly() {
    let world = World::new(3, 200);
    let mut story = waits();
    story.resources.bid_max_usd_per_hour = Some(0.40);
    world.plan(&story);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = outbid_at(&world, 75, 0.50).await.instance.unwrap();
        world.until(RUN, 1, State::Waiting).await;
        tokio::time::sleep(Duration::from_secs(55 * 60)).await;
        assert_eq!(bids(&world), [0.276, 0.332], "two at once");
        tokio::time::sleep(Duration::from_secs(60 * 60)).await;
        assert_eq!(bids(&world), [0.276, 0.332, 0.399], "a fifth in an hour");
        world.market.give_back(first);
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_the_bid_stays_and_the_disk_alone_is_paid_for() {
    let world = World::new(3, 200);
    world.plan(&waits());
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = outbid_at(&world, 75, 0.30).await;
        world.until(RUN, 1, State::Waiting).await;
        for _ in 0..120 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(world.market.gpu_charged(), 0);
        }
        world.market.give_back(first.instance.unwrap());
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
    assert!(bids(&world).is_empty());
    assert!(world.was_told("its disk costs $0.0100/h meanwhile"));
    let (ours, theirs) = world.money(RUN).await;
    assert!((ours - theirs).abs() < 0.005, "{ours} {theirs}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_its_time_with_the_money_or_by_a_persons_wish() {
    // Its time.
    let world = World::new(3, 10_000);
    let mut story = waits();
    story.recover.wait = Duration::from_secs(3600);
    world.plan(&story);
    let (run, _) = tokio::join!(world.drive(RUN), outbid_at(&world, 75, 0.30));
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    let reason = run.reason.unwrap();
    assert!(reason.contains("`recover.wait` of 1 h"), "{reason}");
    assert_eq!(world.market.alive().len(), 1, "its disk is kept");
    assert_eq!(world.market.gpu_charged(), 0);

    // The money: the disk eats what is left of it.
    let world = World::new(3, 10_000);
    let mut story = waits();
    story.limits.budget_usd = Some(0.05);
    story.limits.storage_days = 0.0;
    world.plan(&story);
    let (run, _) = tokio::join!(world.drive(RUN), outbid_at(&world, 75, 0.30));
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    let reason = run.reason.unwrap();
    assert!(
        reason.contains("of the budget of $0.0500 are spent"),
        "{reason}"
    );

    // A wish.
    let world = World::new(3, 10_000);
    world.plan(&waits());
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        outbid_at(&world, 75, 0.30).await;
        world.until(RUN, 1, State::Waiting).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        world.store.request_stop(RUN).unwrap();
    });
    assert_eq!(run.outcome, Some(Outcome::Stopped));
    assert_eq!(world.market.alive().len(), 1, "its disk is kept");
    let old = &world.market.alive()[0];
    assert!(
        !old.scheduling && !old.contract_running,
        "it is in no queue"
    );
}

#[tokio::test(start_paused = true)]
async fn a_box_that_somebody_stops_while_it_is_waited_for_is_left_to_him() {
    let world = World::new(3, 200);
    let mut story = waits();
    story.resources.bid_max_usd_per_hour = Some(0.40);
    world.plan(&story);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        // More than may be bid.
        let first = outbid_at(&world, 75, 0.50).await.instance.unwrap();
        world.until(RUN, 1, State::Waiting).await;
        let seen = || world.market.alive().remove(0);
        tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
        assert!(seen().scheduling, "it is in the market's queue");
        world.market.stop(first).await.unwrap();
        let before = bids(&world);
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(seen().intended, Intended::Stopped, "nobody starts it again");
        }
        assert_eq!(bids(&world), before, "nor is more bid for it");
        assert!(world.was_told("was stopped by hand while it was waited for"));
        assert_eq!(world.attempts(RUN)[0].state, State::Waiting);
        // Whoever stopped it starts it again.
        world.market.give_back(first);
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
    let kinds = world.kinds(RUN);
    assert_eq!(kinds.iter().filter(|kind| *kind == "box_held").count(), 1);
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_answer_that_a_box_is_unknown_does_not_rent_another_one() {
    let world = World::new(3, 200);
    let mut story = waits();
    story.recover.policy = RecoverPolicy::Ask;
    world.plan(&story);
    let (run, first) = tokio::join!(world.drive(RUN), outbid_at(&world, 75, 0.30));
    world.market.deny_instances(3);
    {
        let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
        world.lifecycle().reopen(&run, true).await.unwrap();
    }
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Waiting).await;
        world.market.give_back(first.instance.unwrap());
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_is_gone_or_does_not_come_up_again_is_given_up_for_another_one() {
    for vanishes in [true, false] {
        let world = World::new(3, 200);
        let mut story = waits();
        story.limits.bring_up = Duration::from_secs(300);
        world.plan(&story);
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            let first = outbid_at(&world, 75, 0.30).await.instance.unwrap();
            world.until(RUN, 1, State::Waiting).await;
            if vanishes {
                world.market.vanish(first);
            } else {
                world.boxes.script().dead_boxes = 99;
                world.market.give_back(first);
            }
            world.until(RUN, 2, State::Loading).await;
            assert_eq!(world.market.gpu_charged(), 1, "never two at once");
            world.boxes.script().dead_boxes = 0;
        });
        assert_eq!(run.outcome, Some(Outcome::Done), "{vanishes}");
        assert_eq!(world.attempts(RUN).len(), 2, "{vanishes}");
        assert!(world.market.alive().is_empty(), "{vanishes}");
    }
}

#[tokio::test(start_paused = true)]
async fn returns_to_the_same_box_count_as_attempts() {
    let world = World::new(3, 10_000);
    let mut story = waits();
    story.recover.attempts = 2;
    world.plan(&story);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = outbid_at(&world, 75, 0.30).await.instance;
        world.until(RUN, 1, State::Waiting).await;
        world.market.give_back(first.unwrap());
        outbid_at(&world, 75, 0.30).await;
    });
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    let reason = run.reason.unwrap();
    assert!(
        reason.contains("all 2 attempts of `recover.attempts`"),
        "{reason}"
    );
    let found = interruptions(&world.store.events(RUN, 0).unwrap());
    assert_eq!(found.len(), 2);
    assert!(
        found.iter().all(|found| found.steps_lost < Some(20)),
        "{found:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_person_who_is_asked_chooses_the_same_box_or_another_one() {
    for here in [true, false] {
        let world = World::new(3, 200);
        let mut story = waits();
        story.recover.policy = RecoverPolicy::Ask;
        world.plan(&story);
        let (run, first) = tokio::join!(world.drive(RUN), outbid_at(&world, 75, 0.30));
        assert_eq!(run.outcome, Some(Outcome::Interrupted));
        assert!(
            run.reason
                .as_ref()
                .unwrap()
                .contains("`recover.policy` is `ask`")
        );
        assert_eq!(world.market.gpu_charged(), 0);
        assert_eq!(
            world.market.alive().len(),
            1,
            "the disk waits for the answer"
        );

        {
            let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
            world.lifecycle().reopen(&run, here).await.unwrap();
        }
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            if here {
                world.until(RUN, 1, State::Waiting).await;
                tokio::time::sleep(Duration::from_secs(600)).await;
                world.market.give_back(first.instance.unwrap());
            }
        });
        assert_eq!(run.outcome, Some(Outcome::Done), "here: {here}");
        let expected = if here { 1 } else { 2 };
        assert_eq!(world.attempts(RUN).len(), expected, "here: {here}");
        assert!(world.market.alive().is_empty(), "here: {here}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_want_to_wait_any_more_goes_on_elsewhere() {
    let world = World::new(3, 200);
    world.plan(&waits());
    let ((), first) = tokio::join!(
        world.drive_for(RUN, Duration::from_secs(1200)),
        outbid_at(&world, 75, 0.30)
    );
    let run = world.store.run(RUN).unwrap();
    assert_eq!(world.attempts(RUN)[0].state, State::Waiting);
    {
        let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
        world.lifecycle().go_elsewhere(&run).await.unwrap();
    }
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 2);
    assert_ne!(attempts[1].instance, first.instance);
    assert!(world.market.alive().is_empty());
}

/// Whoever watches may be killed at any moment of the wait and of the return.
#[tokio::test(start_paused = true)]
async fn a_wait_outlives_those_who_watch() {
    for seed in 0..12u64 {
        let world = World::new(3, 120);
        let mut story = waits();
        story.resources.bid_max_usd_per_hour = Some(0.40);
        world.plan(&story);
        world.drive_for(RUN, Duration::from_secs(90)).await;
        let first = world.attempts(RUN)[0].instance;
        assert_eq!(world.attempts(RUN)[0].state, State::Running, "seed {seed}");
        world.outbid_by(first, 0.30);
        for life in 0..60 {
            let killed_after = Duration::from_millis(700 + (seed * 977 + life * 1733) % 9000);
            world.drive_for(RUN, killed_after).await;
            assert!(world.market.gpu_charged() <= 1, "seed {seed}, life {life}");
            if world.store.run(RUN).unwrap().outcome.is_some() {
                break;
            }
        }
        let run = world.drive(RUN).await;
        assert_eq!(run.outcome, Some(Outcome::Done), "seed {seed}");
        assert_eq!(world.attempts(RUN).len(), 1, "seed {seed}");
        assert_eq!(world.boxes.script().started.len(), 2, "seed {seed}");
        assert!(world.market.alive().is_empty(), "seed {seed}");
    }
}
