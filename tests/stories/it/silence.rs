//! A box whose host is gone while the market goes on calling it running: nobody knows whether it trains, and it is paid for.

use std::time::Duration;

use spotter::{
    agent_client::BackupInfo,
    cli::Verb,
    commands::{cost, destroy, status, stop},
    error::CommandError,
    run::{State, lease::Lease, lifecycle::Goal, silence, vigil},
    store::Outcome,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::world::{Paper, World, spec};

const RUN: &str = "story";

/// A verb typed in this world, and what it wrote.
async fn typed(world: &World, words: &[&str]) -> (Result<(), CommandError>, String) {
    let (mut ui, deps, verb, paper): (_, _, _, Paper) = world.typed(words);
    let result = match &verb {
        Verb::Destroy(args) => destroy::destroy(&mut ui, &deps, args).await,
        Verb::Stop(args) => stop::stop(&mut ui, &deps, args, CancellationToken::new()).await,
        Verb::Cost(args) => cost::cost(&mut ui, &deps, args).await,
        Verb::Status(args) => status::status(&mut ui, &deps, args).await,
        other => panic!("{other:?} is not in these stories"),
    };
    (result, paper.text())
}

/// It trains past step 100, then gives no word for `silent_s` more.
async fn goes_silent(world: &World, silent_s: u64) {
    world.until(RUN, 1, State::Running).await;
    tokio::time::sleep(Duration::from_secs(105)).await;
    world.boxes.script().cut = true;
    tokio::time::sleep(Duration::from_secs(silent_s)).await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_with_its_price_and_a_command_once_it_lasts_and_so_is_its_end() {
    let world = World::new(2, 1_500);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        goes_silent(&world, 200).await;
        assert!(world.was_told("whether it trains is not known. Reconnecting"));
        assert!(!world.kinds(RUN).contains(&"box_silent".to_owned()));

        tokio::time::sleep(Duration::from_secs(220)).await;
        let attempt = world.store.latest_attempt(RUN).unwrap().unwrap();
        let run = world.store.run(RUN).unwrap();
        let told = silence::warning(&world.store, &run, &attempt).unwrap();
        let told = told.expect("it is a matter for a person");
        for part in [
            "(7 min), and the market calls it running: you pay $0.2",
            "saved is step 100.",
            "`spotter stop story`",
            "`spotter resume --elsewhere story`",
            "`spotter destroy --lose-data story`",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(world.was_told("Careful: no word from its box since 2026-01-01 00:0"));
        let (_, shown) = typed(&world, &["spotter", "status", RUN]).await;
        assert!(shown.contains("no word from its box since"), "{shown}");
        assert!(shown.contains("its last word came 7 min"), "{shown}");
        world.boxes.script().cut = false;
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let kinds = world.kinds(RUN);
    for kind in ["box_silent", "box_heard"] {
        assert_eq!(
            kinds.iter().filter(|found| *found == kind).count(),
            1,
            "{kind}"
        );
    }
    let attempt = world.store.latest_attempt(RUN).unwrap().unwrap();
    assert_eq!(silence::since_us(&world.store, &attempt).unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_laptop_whose_market_does_not_answer_either_raises_no_alarm_and_gives_no_box_up() {
    let world = World::new(2, 1_500);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        goes_silent(&world, 0).await;
        world.market.set_unreachable(true);
        tokio::time::sleep(Duration::from_secs(300)).await;
        world.store.request_stop(RUN).unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        world.market.set_unreachable(false);
        world.boxes.script().cut = false;
    });
    assert_eq!(run.outcome, Some(Outcome::Stopped));
    assert_eq!(run.reason, None, "it was stopped in order");
    assert!(!world.kinds(RUN).contains(&"box_silent".to_owned()));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_a_silent_box_ends_within_minutes_and_stops_paying_for_its_gpu() {
    for (silent_s, within_s) in [(20, 180), (400, 90)] {
        let world = World::new(2, 10_000);
        world.plan(&spec(RUN));
        let acting = async {
            let lifecycle = world.another_process();
            vigil::keep(&lifecycle, RUN, Goal::End).await.unwrap()
        };
        let (run, ()) = tokio::join!(acting, async {
            goes_silent(&world, silent_s).await;
            let asked = Instant::now();
            let (result, written) = typed(&world, &["spotter", "stop", RUN]).await;
            result.unwrap();
            assert!(asked.elapsed() < Duration::from_secs(within_s), "{written}");
        });
        assert_eq!(run.outcome, Some(Outcome::Stopped));
        let reason = run.reason.unwrap();
        assert!(reason.contains("it gave no word for"), "{reason}");
        assert_eq!(world.market.gpu_charged(), 0);
        assert_eq!(world.market.alive().len(), 1, "what is on its disk is kept");
        assert!(world.was_told("it is stopped without a last checkpoint; its disk is kept"));
        assert_eq!(world.attempts(RUN).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_box_is_destroyed_although_another_spotter_acts_for_it() {
    // As it is found, and after a stop that has just begun to look for it.
    for stopped in [false, true] {
        let world = World::new(2, 10_000);
        world.plan(&spec(RUN));
        let acting = async {
            let lifecycle = world.another_process();
            vigil::keep(&lifecycle, RUN, Goal::End).await.unwrap()
        };
        let (run, ()) = tokio::join!(acting, async {
            goes_silent(&world, 400).await;
            let (refused, _) = typed(&world, &["spotter", "destroy", RUN]).await;
            let refused = format!("{:?}", refused.unwrap_err());
            assert!(refused.contains("spotter stop story"), "{refused}");
            assert!(!refused.contains("spotter ssh"), "{refused}");
            assert!(!refused.contains("spotter fetch"), "{refused}");
            assert_eq!(
                world.store.run(RUN).unwrap().outcome,
                None,
                "nothing was done"
            );
            if stopped {
                world.store.request_stop(RUN).unwrap();
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            let asked = Instant::now();
            let words = ["spotter", "destroy", "--lose-data", RUN];
            let (result, written) = typed(&world, &words).await;
            result.unwrap();
            assert!(asked.elapsed() < Duration::from_secs(60), "{written}");
        });
        assert_eq!(run.outcome, Some(Outcome::Stopped));
        assert!(world.market.alive().is_empty());
        assert_eq!(world.attempts(RUN)[0].state, State::Gone);
    }
}

#[tokio::test(start_paused = true)]
async fn a_spotter_that_does_not_let_go_of_a_training_is_overruled() {
    let world = World::new(2, 10_000);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    // Holds it, and does nothing.
    let other = world.another_process();
    let held = Lease::take(&other.store, RUN).unwrap().unwrap();
    let words = ["spotter", "destroy", "--lose-data", RUN];
    let (result, written) = typed(&world, &words).await;
    result.unwrap();
    assert!(written.contains("it is overruled"), "{written}");
    assert!(world.market.alive().is_empty());
    // It finds out, and may not act any more.
    held.lost().await;
    assert!(other.store.fence(RUN).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_box_that_goes_silent_while_its_end_is_brought_home_may_be_given_up() {
    let world = World::new(2, 40);
    world.plan(&spec(RUN));
    let acting = async {
        let lifecycle = world.another_process();
        vigil::keep(&lifecycle, RUN, Goal::End).await.unwrap()
    };
    let (run, ()) = tokio::join!(acting, async {
        world.until(RUN, 1, State::Finishing).await;
        world.boxes.script().cut = true;
        tokio::time::sleep(Duration::from_secs(300)).await;
        let words = ["spotter", "destroy", "--lose-data", RUN];
        let (result, written) = typed(&world, &words).await;
        result.unwrap();
        assert!(written.contains("it is overruled"), "{written}");
    });
    assert_eq!(run.outcome, Some(Outcome::Stopped));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_silence_of_a_host_that_the_market_calls_offline_is_told_with_when_it_is_given_up() {
    let world = World::new(4, 400);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.market.lose_host(attempt.instance.unwrap());
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert!(
        world.was_told("its host is offline: it is given up as lost if no word comes by 2026-")
    );
    assert!(world.was_told("was given up and is still meant to run: stopping it"));
    assert!(!world.was_told("given back by the market"));
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_was_behind_is_told_to_be_up_to_date_again_once() {
    let world = World::new(2, 400);
    world.plan(&spec(RUN));
    tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.boxes.script().backup = BackupInfo {
            alarm: true,
            problem: Some("the server says 503".to_owned()),
            ..BackupInfo::default()
        };
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(world.was_told("The backup is behind: the server says 503."));
        assert!(!world.was_told("up to date again"));
        world.boxes.script().backup = BackupInfo::default();
    });
    let told = world.told.0.lock().unwrap().clone();
    let count = told
        .iter()
        .filter(|line| line.contains("The backup is up to date again."));
    assert_eq!(count.count(), 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_box_that_came_up_while_nobody_watched_is_told_with_its_price() {
    let world = World::new(2, 400);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(1.0);
    story.limits.storage_days = 0.0;
    world.plan(&story);
    // Killed as soon as the box is on record.
    tokio::select! {
        _ = world.drive(RUN) => panic!("it takes longer"),
        _ = world.until(RUN, 1, State::Loading) => {}
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.attempts(RUN)[0].state, State::Loading);
    assert_eq!(world.market.gpu_charged(), 1);
    let (result, written) = typed(&world, &["spotter", "cost", RUN]).await;
    result.unwrap();
    assert!(
        written.contains("the rest lasts 4.0 h at $0.240/h"),
        "{written}"
    );
    let (result, written) = typed(&world, &["spotter", "status", RUN]).await;
    result.unwrap();
    assert!(written.contains("$0.240/h now"), "{written}");
    assert!(!written.contains("cost         $0.0000"), "{written}");
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_over_and_whoever_leaves_says_who_acts() {
    let world = World::new(2, 600);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(90)).await;
    let other = world.another_process();
    let acting = Lease::take(&other.store, RUN).unwrap().unwrap();
    // One who only looks on and leaves.
    let (mut ui, deps, _, paper) = world.typed(&["spotter", "ps"]);
    let stop = CancellationToken::new();
    stop.cancel();
    let left = spotter::commands::watching::watch(&mut ui, &deps, RUN, Goal::End, stop);
    assert_eq!(left.await.unwrap(), None);
    let written = paper.text();
    let pid = std::process::id();
    let expected = format!("Left `{RUN}` to the spotter that acts for it, pid {pid}.");
    assert!(written.contains(&expected), "{written}");
    assert!(!written.contains("nobody watches"), "{written}");
    // One who looks on until nobody acts.
    let lifecycle = world.lifecycle();
    let (run, ()) = tokio::join!(vigil::keep(&lifecycle, RUN, Goal::End), async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(world.was_told("Another spotter acts for this run; looking on."));
        drop(acting);
    });
    assert_eq!(run.unwrap().outcome, Some(Outcome::Done));
    assert!(world.was_told("this one does from now on"));
}
