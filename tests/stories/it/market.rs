//! What the market and the provider do: twins, transient errors, boxes that vanish, come back or are stopped by hand.

use std::{sync::Arc, time::Duration};

use spotter::{
    cli::Verb,
    commands::{bid, destroy},
    error::CommandError,
    provider::{Charge, Provider, Rental},
    run::{State, lifecycle::Goal, vigil},
    spec::RecoverPolicy,
    store::Outcome,
};

use crate::world::{World, spec};

const RUN: &str = "story";

#[tokio::test(start_paused = true)]
async fn a_create_that_is_carried_out_twice_leaves_one_box_at_once() {
    let world = World::new(6, 3_000);
    world.market.rent_twice(1);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        assert_eq!(world.market.alive().len(), 1, "the twin is gone");
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert!(world.kinds(RUN).contains(&"twin_destroyed".to_owned()));
    let attempt = &world.attempts(RUN)[0];
    let billed = world.store.billed_instances(attempt).unwrap();
    assert_eq!(billed.len(), 2, "the twin's bill is the run's, too");
    let charges = world.market.charges(0.0, &billed).await.unwrap();
    let theirs: f64 = charges.iter().map(Charge::total_usd).sum();
    let ours = world.store.charged(RUN).unwrap()[0].cost.total_usd();
    assert!(
        ours > 0.0 && (ours - theirs).abs() < 1e-9,
        "{ours} {theirs}"
    );
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_bid_below_the_floor_leaves_behind_is_destroyed_at_once_and_paid_by_its_run() {
    let world = World::new(6, 300);
    world.market.raise_floors(1);
    world.market.fail("destroy instance", 2);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Loading).await;
        let alive = world.market.alive();
        assert_eq!(alive.len(), 1, "the stopped box is gone");
        assert_eq!(Some(alive[0].id), attempt.instance);
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert!(
        world.was_told("The bid of $0.230/h for offer 1 is below the floor, which was $0.200/h")
    );
    assert!(world.was_told("Instance 1000, which was made all the same, is destroyed."));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 1, "an order that was refused is no attempt");
    let billed = world.store.billed_instances(&attempts[0]).unwrap();
    assert_eq!(billed, [1000, 1001]);
    let charges = world.market.charges(0.0, &billed).await.unwrap();
    assert!(charges[0].gpu_usd == 0.0 && charges[0].disk_usd > 0.0);
    let theirs: f64 = charges.iter().map(Charge::total_usd).sum();
    let ours = world.store.charged(RUN).unwrap()[0].cost.total_usd();
    assert!((ours - theirs).abs() < 1e-9, "{ours} {theirs}");
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_spotter_that_dies_before_it_destroys_what_a_low_bid_left_goes_on_elsewhere() {
    let world = World::new(6, 300);
    world.market.raise_floors(1);
    world.market.queue_starts();
    world.market.fail("destroy instance", 1);
    world.plan(&spec(RUN));
    // The refusal came, and the box that it left is still there.
    world.drive_for(RUN, Duration::from_secs(1)).await;
    assert_eq!(world.market.alive().len(), 1);
    assert_eq!(world.attempts(RUN)[0].state, State::Renting);

    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(
        world.attempts(RUN).len(),
        2,
        "found by its label, and given up"
    );
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_create_that_appears_after_the_look_for_it_is_found_within_a_minute() {
    let world = World::new(6, 3_000);
    world.market.carry_out_late(Duration::from_secs(90));
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(180)).await;
        let alive = world.market.alive();
        assert_eq!(alive.len(), 1);
        assert_eq!(
            Some(alive[0].id),
            attempt.instance,
            "the one on record is kept"
        );
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.boxes.script().started.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_appears_after_its_run_has_ended_goes_with_the_next_command() {
    let world = World::new(6, 30);
    world.market.carry_out_late(Duration::from_secs(3600));
    world.plan(&spec(RUN));
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.market.alive().len(), 1);
    world.plan(&spec("another"));
    assert_eq!(world.drive("another").await.outcome, Some(Outcome::Done));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn errors_that_pass_never_fail_a_recovery() {
    for operation in [
        "search offers",
        "create instance",
        "list instances",
        "show instance",
        "stop instance",
        "destroy instance",
        "attach ssh key",
    ] {
        let world = World::new(6, 300);
        world.plan(&spec(RUN));
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            let attempt = world.until(RUN, 1, State::Running).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            world.market.fail(operation, 4);
            world.outbid(attempt.instance);
        });
        assert_eq!(run.outcome, Some(Outcome::Done), "{operation}");
        assert_eq!(world.attempts(RUN).len(), 2, "{operation}");
        assert!(world.market.alive().is_empty(), "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_that_pass_never_keep_a_bad_box_or_an_ended_run_paid_for() {
    for operation in ["show instance", "destroy instance", "list instances"] {
        let world = World::new(8, 100);
        world.boxes.script().dead_boxes = 99;
        let mut bad = spec(RUN);
        bad.limits.bring_up = Duration::from_secs(300);
        world.plan(&bad);
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            world.until(RUN, 1, State::Preparing).await;
            tokio::time::sleep(Duration::from_secs(250)).await;
            world.market.fail(operation, 20);
        });
        assert_eq!(run.outcome, Some(Outcome::Failed), "{operation}");
        assert!(world.market.alive().is_empty(), "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_that_vanishes_at_any_time_ends_every_wait_for_it() {
    for state in [
        State::Loading,
        State::Preparing,
        State::Syncing,
        State::Running,
        State::Finishing,
    ] {
        let world = World::new(6, 100);
        let mut story = spec(RUN);
        story.setup = Some("prepare".to_owned());
        world.boxes.script().lasts.insert("setup", (30, 0));
        world.plan(&story);
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            let attempt = world.until(RUN, 1, state).await;
            if state == State::Finishing {
                world.boxes.script().hangs = Some("backup_now");
            }
            world.market.vanish(attempt.instance.unwrap());
            world.until(RUN, 2, State::Loading).await;
            world.boxes.script().hangs = None;
        });
        assert_eq!(run.outcome, Some(Outcome::Done), "{state}");
        assert_eq!(world.attempts(RUN).len(), 2, "{state}");
        assert!(world.market.alive().is_empty(), "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_whose_box_vanishes_or_is_taken_back_ends() {
    for vanishes in [true, false] {
        let world = World::new(6, 10_000);
        world.plan(&spec(RUN));
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            let attempt = world.until(RUN, 1, State::Running).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
            world.boxes.script().cut = true;
            world.store.request_stop(RUN).unwrap();
            tokio::time::sleep(Duration::from_secs(30)).await;
            match vanishes {
                true => world.market.vanish(attempt.instance.unwrap()),
                false => world.outbid(attempt.instance),
            }
        });
        assert_eq!(run.outcome, Some(Outcome::Stopped));
        assert_eq!(world.market.gpu_charged(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_lost_while_a_run_is_finished_ends_the_wait_for_it() {
    let world = World::new(6, 100);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Finishing).await;
        world.boxes.script().hangs = Some("backup_now");
        world.market.lose_host(attempt.instance.unwrap());
        world.until(RUN, 2, State::Loading).await;
        world.boxes.script().hangs = None;
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_box_of_ours_that_is_stopped_in_the_console_ends_its_run_and_keeps_its_disk() {
    for finishing in [false, true] {
        let world = World::new(6, 300);
        let mut story = spec(RUN);
        story.resources.rental = Rental::OnDemand;
        world.plan(&story);
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            let state = if finishing {
                State::Finishing
            } else {
                State::Running
            };
            let attempt = world.until(RUN, 1, state).await;
            world.boxes.script().hangs = finishing.then_some("backup_now");
            world.outbid(attempt.instance);
        });
        assert_eq!(run.outcome, Some(Outcome::Stopped));
        assert!(run.reason.unwrap().contains("stopped, and not by this run"));
        assert_eq!(
            world.attempts(RUN).len(),
            1,
            "nothing was rented in its place"
        );
        assert_eq!(world.market.alive().len(), 1, "its disk is kept");
        assert_eq!(world.market.gpu_charged(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outbid_before_the_training_is_an_interruption_and_the_machine_is_not_avoided() {
    let world = World::new(6, 60);
    let mut story = spec(RUN);
    story.setup = Some("prepare".to_owned());
    world.boxes.script().lasts.insert("setup", (30, 0));
    world.plan(&story);
    world.market.queue_starts();
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        // Four in a row: three boxes that do not come up would be the end.
        for (number, state) in [
            (1, State::Loading),
            (2, State::Syncing),
            (3, State::Loading),
            (4, State::Syncing),
        ] {
            let attempt = world.until(RUN, number, state).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            world.outbid(attempt.instance);
        }
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 5);
    let kinds = world.kinds(RUN);
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "interrupted").count(),
        4
    );
    assert!(!kinds.contains(&"bring_up_failed".to_owned()));
    assert!(world.market.alive().is_empty());

    let world = World::new(6, 60);
    let mut story = spec(RUN);
    story.recover.policy = RecoverPolicy::Never;
    world.plan(&story);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Loading).await;
        world.market.queue_starts();
        world.outbid(attempt.instance);
    });
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    assert!(world.market.alive().is_empty(), "nothing was trained on it");
}

#[tokio::test(start_paused = true)]
async fn a_box_that_the_market_gives_back_after_it_was_given_up_is_stopped_again() {
    let world = World::new(2, 10_000);
    let mut story = spec(RUN);
    story.recover.policy = RecoverPolicy::Never;
    world.plan(&story);
    let (run, first) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.outbid(attempt.instance);
        attempt.instance.unwrap()
    });
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    world.market.give_back(first);
    assert_eq!(world.market.gpu_charged(), 1);
    world.plan(&spec("another"));
    world.drive_for("another", Duration::from_secs(5)).await;
    let alive = world.market.alive();
    let old = alive.iter().find(|found| found.id == first).unwrap();
    assert!(
        !old.contract_running,
        "its disk is kept, its GPU is not paid"
    );
}

#[tokio::test(start_paused = true)]
async fn a_destroy_during_an_order_that_is_on_its_way_leaves_nothing_rented() {
    for killed in [false, true] {
        let world = Arc::new(World::new(6, 10_000));
        world.plan(&spec(RUN));
        world.market.carry_out_slowly(Duration::from_secs(10));
        let watcher = {
            let world = Arc::clone(&world);
            tokio::spawn(async move { vigil::keep(&world.lifecycle(), RUN, Goal::End).await })
        };
        world.until(RUN, 1, State::Renting).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        if killed {
            watcher.abort();
        }
        assert!(world.market.alive().is_empty(), "the order is on its way");
        destroy_verb(&world).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(world.market.alive().is_empty(), "killed: {killed}");
        assert_eq!(
            world.store.run(RUN).unwrap().outcome,
            Some(Outcome::Stopped)
        );
        assert_eq!(world.attempts(RUN)[0].state, State::Gone);
        if !killed {
            assert_eq!(
                watcher.await.unwrap().unwrap().outcome,
                Some(Outcome::Stopped)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_spotter_that_was_suspended_while_it_rented_leaves_the_box_to_the_one_that_took_over() {
    let world = Arc::new(World::new(6, 400));
    world.plan(&spec(RUN));
    world.market.answer_slowly(Duration::from_secs(200));
    // A process of its own: its lease ends while it sleeps.
    let asleep = world.another_process();
    assert!(
        asleep
            .store
            .take_lease(RUN, "asleep", Duration::from_secs(30))
            .unwrap()
    );
    let first = tokio::spawn(async move { asleep.drive(RUN, Goal::Running).await.map(drop) });
    world.until(RUN, 1, State::Renting).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.boxes.script().started.len(), 1, "it trained once");
    assert_eq!(world.attempts(RUN).len(), 1, "and on one box");
    let (ours, theirs) = world.money(RUN).await;
    assert!((ours - theirs).abs() < 0.005, "{ours} and {theirs}");
    first.abort();
}

/// `spotter destroy RUN`, as somebody would type it beside a watcher.
async fn destroy_verb(world: &World) {
    let (mut ui, deps, verb, _) = world.typed(&["spotter", "destroy", RUN]);
    let Verb::Destroy(args) = &verb else {
        panic!("`destroy` is destroy");
    };
    destroy::destroy(&mut ui, &deps, args).await.unwrap();
}

/// `spotter bid RUN PRICE`.
async fn bid_verb(world: &World, price: &str) -> Result<(), CommandError> {
    let (mut ui, deps, verb, _) = world.typed(&["spotter", "bid", RUN, price]);
    let Verb::Bid(args) = &verb else {
        panic!("`bid` is bid");
    };
    bid::bid(&mut ui, &deps, args).await
}

#[tokio::test(start_paused = true)]
async fn a_higher_bid_for_a_box_that_is_not_up_yet_is_what_it_may_cost() {
    let world = World::new(3, 100);
    world.plan(&spec(RUN));
    // Whoever rented it is gone before the first look at the box.
    world.drive_for(RUN, Duration::from_millis(10)).await;
    let attempt = world.attempts(RUN).remove(0);
    assert_eq!((attempt.state, attempt.started_us), (State::Loading, 0));
    bid_verb(&world, "0.45").await.unwrap();
    assert_eq!(world.attempts(RUN)[0].gpu_usd_per_hour, 0.45);
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_eq!(
        world.attempts(RUN).len(),
        1,
        "it was not taken for a mistake"
    );
    assert_eq!(world.attempts(RUN)[0].gpu_usd_per_hour, 0.45);
}

#[tokio::test(start_paused = true)]
async fn a_bid_starts_a_box_that_the_market_had_stopped_and_is_refused_for_one_that_was_given_up() {
    let world = World::new(1, 400);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(90)).await;
    let attempt = world.attempts(RUN).remove(0);
    assert_eq!(attempt.state, State::Running);
    let id = attempt.instance.unwrap();
    // Nobody watches, so nobody has given it up yet.
    world.market.outbid(id);
    assert_eq!(world.market.gpu_charged(), 0);
    bid_verb(&world, "0.5").await.unwrap();
    assert_eq!(
        world.market.gpu_charged(),
        1,
        "a new price alone starts nothing"
    );
    // Now it is given up for good.
    world.outbid(Some(id));
    world.drive_for(RUN, Duration::from_secs(60)).await;
    let run = world.store.run(RUN).unwrap();
    assert!(run.outcome.is_none());
    let err = bid_verb(&world, "0.6").await.unwrap_err();
    assert!(err.to_string().contains("was not changed"), "{err}");
    assert_eq!(world.market.gpu_charged(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_old_box_is_kept_while_it_holds_what_is_in_no_bucket() {
    // Nothing was committed when the first box was taken back.
    let world = World::new(6, 400);
    world.boxes.script().no_commits = true;
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        world.outbid(first.instance);
        world.until(RUN, 2, State::Running).await;
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(
            world.market.alive().len(),
            2,
            "its steps were not trained again yet"
        );
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(world.market.alive().len(), 1, "now they were");
    });
    assert_eq!(run.outcome, Some(Outcome::Done));

    // The run is stopped before that.
    let world = World::new(6, 10_000);
    world.boxes.script().no_commits = true;
    world.plan(&spec(RUN));
    let (run, first) = tokio::join!(world.drive(RUN), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        world.outbid(first.instance);
        world.until(RUN, 2, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.store.request_stop(RUN).unwrap();
        first.instance.unwrap()
    });
    assert_eq!(run.outcome, Some(Outcome::Stopped));
    let alive: Vec<u64> = world.market.alive().iter().map(|found| found.id).collect();
    assert_eq!(alive, [first]);
    assert_eq!(world.market.gpu_charged(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_old_box_without_a_commit_outlives_a_market_that_has_nothing_for_hours() {
    let world = World::new(1, 400);
    world.boxes.script().no_commits = true;
    world.plan(&spec(RUN));
    let (_, first) = tokio::join!(world.drive_for(RUN, Duration::from_secs(4 * 3600)), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        world.outbid(first.instance);
        first.instance.unwrap()
    });
    let alive: Vec<u64> = world.market.alive().iter().map(|found| found.id).collect();
    assert_eq!(alive, [first]);
    assert_eq!(world.attempts(RUN)[1].state, State::Planned);
}
