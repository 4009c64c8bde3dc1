//! What broken links and dead controllers do to a run: nothing is given up, nothing is lost, nothing is done twice.

use std::time::Duration;

use spotter::{
    run::State,
    spec::Results,
    store::{Origin, Outcome},
};

use crate::world::{World, spec};

const RUN: &str = "story";

/// Every byte that the training printed is here once, and every event that its agent told.
fn assert_nothing_is_lost(world: &World, attempt: u32) {
    let instance = world.attempts(RUN)[attempt as usize - 1].instance.unwrap();
    assert_eq!(
        world.copied(RUN, attempt, "train"),
        world.boxes.printed(instance, "train")
    );
    let told: Vec<u64> = world
        .boxes
        .journal(instance)
        .iter()
        .map(|event| event.seq)
        .collect();
    let stored: Vec<u64> = world
        .store
        .events(RUN, 0)
        .unwrap()
        .iter()
        .filter(|event| event.attempt == attempt && event.origin == Origin::Agent)
        .map(|event| event.seq)
        .collect();
    assert_eq!(stored, told);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_at_any_call_while_finishing_loses_nothing_and_gives_no_box_up() {
    for call in [
        "open",
        "give_credentials",
        "backup_now",
        "configure",
        "collect_results",
        "hash_files",
        "fetch",
        "log",
        "events",
        "acknowledge",
        "status",
    ] {
        let world = World::new(2, 40);
        let mut spec = spec(RUN);
        spec.results = Some(Results {
            fetch: vec!["final.pt".to_owned()],
            to: world.folder().join("results"),
        });
        world.plan(&spec);
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            world.until(RUN, 1, State::Finishing).await;
            let mut script = world.boxes.script();
            script.breaks.insert(call, 3);
            // Another way to the box is only wanted when the one there was is broken.
            if call == "open" {
                script.breaks.insert("backup_now", 1);
            }
        });

        assert_eq!(run.outcome, Some(Outcome::Done), "{call}");
        assert_eq!(world.attempts(RUN).len(), 1, "{call}");
        assert_nothing_is_lost(&world, 1);
        assert_eq!(
            std::fs::read(world.folder().join("results/final.pt")).unwrap(),
            b"weights",
            "{call}"
        );
        assert!(world.market.alive().is_empty(), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_at_any_call_of_a_stop_stops_the_training_once_and_loses_nothing() {
    for (call, lost) in [
        ("open", false),
        ("status", false),
        ("end_session", false),
        ("end_session", true),
        ("backup_now", true),
        ("log", false),
        ("events", false),
    ] {
        let world = World::new(2, 10_000);
        world.plan(&spec(RUN));
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            world.until(RUN, 1, State::Running).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            {
                let mut script = world.boxes.script();
                let table = if lost {
                    &mut script.lost
                } else {
                    &mut script.breaks
                };
                table.insert(call, 2);
            }
            world.store.request_stop(RUN).unwrap();
        });

        assert_eq!(run.outcome, Some(Outcome::Stopped), "{call}");
        let attempts = world.attempts(RUN);
        assert_eq!(attempts.len(), 1, "{call}");
        assert_nothing_is_lost(&world, 1);
        let instance = attempts[0].instance.unwrap();
        let printed = world.boxes.printed(instance, "train");
        let last = printed.lines().rev().nth(1).unwrap();
        let step = format!("step {}/10000", attempts[0].last_step.unwrap());
        assert_eq!(last.trim_end(), step, "the step on record is the last one");
        assert!(world.market.alive().is_empty(), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_at_any_call_before_the_training_starts_it_once_on_the_same_box() {
    for (call, lost) in [
        ("open", false),
        ("preflight", false),
        ("configure", false),
        ("give_credentials", false),
        ("prove_bucket", false),
        ("status", false),
        ("sync", false),
        ("start_session", false),
        ("start_session", true),
    ] {
        let world = World::new(4, 30);
        {
            let mut script = world.boxes.script();
            let table = if lost {
                &mut script.lost
            } else {
                &mut script.breaks
            };
            table.insert(call, 3);
        }
        let mut spec = spec(RUN);
        spec.setup = Some("prepare".to_owned());
        spec.workdir = Some(world.folder().to_owned());
        world.plan(&spec);
        let run = world.drive(RUN).await;
        assert_eq!(run.outcome, Some(Outcome::Done), "{call}");
        assert_eq!(world.attempts(RUN).len(), 1, "{call}");
        assert_eq!(world.boxes.script().started.len(), 1, "{call}");
        assert!(world.market.alive().is_empty(), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_for_ten_minutes_in_mid_training_changes_nothing() {
    let world = World::new(2, 1_500);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        world.boxes.script().cut = true;
        tokio::time::sleep(Duration::from_secs(600)).await;
        world.boxes.script().cut = false;
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
    assert_nothing_is_lost(&world, 1);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_died_hours_ago_is_followed_by_one_that_finds_the_training() {
    // Killed at every second from the order to the training, it comes back when all is over, and when it is not.
    for killed_after in (30..48).step_by(5) {
        for (minutes, hours) in [(90, 1), (60, 6)] {
            let world = World::new(3, minutes);
            world.boxes.script().step_s = 60;
            world.plan(&spec(RUN));
            world
                .drive_for(RUN, Duration::from_secs(killed_after))
                .await;
            let began = !world.boxes.script().started.is_empty();
            tokio::time::sleep(Duration::from_secs(hours * 3600)).await;
            let run = world.drive(RUN).await;
            assert_eq!(run.outcome, Some(Outcome::Done), "{killed_after} s");
            if began {
                assert_eq!(world.attempts(RUN).len(), 1, "{killed_after} s");
                assert_nothing_is_lost(&world, 1);
            }
            assert_eq!(world.boxes.script().started.len(), 1, "{killed_after} s");
            assert!(world.market.alive().is_empty(), "{killed_after} s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn setup_alone_never_disarms_the_switch_of_a_box_whose_controller_died() {
    for in_smoke in [false, true] {
        let world = World::new(3, 100);
        let mut spec = spec(RUN);
        spec.setup = Some("prepare".to_owned());
        let name = if in_smoke {
            spec.smoke = Some(spotter::spec::Smoke {
                run: "short".to_owned(),
                steps: None,
                timeout: Duration::from_secs(900),
            });
            "smoke"
        } else {
            "setup"
        };
        world.boxes.script().lasts.insert(name, (100_000, 0));
        world.plan(&spec);
        world.drive_for(RUN, Duration::from_secs(300)).await;
        assert_eq!(world.market.gpu_charged(), 1);
        tokio::time::sleep(spec.bring_up()).await;
        assert_eq!(world.market.gpu_charged(), 0, "the box stopped itself");
    }
}

#[tokio::test(start_paused = true)]
async fn what_setup_printed_is_here_when_its_box_is_given_up() {
    let world = World::new(8, 100);
    world.boxes.script().lasts.insert("setup", (100_000, 0));
    let mut spec = spec(RUN);
    spec.setup = Some("prepare".to_owned());
    spec.limits.bring_up = Duration::from_secs(300);
    world.plan(&spec);
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Failed));
    for attempt in 1..=3 {
        assert!(world.copied(RUN, attempt, "setup").contains("setup begins"));
    }
    assert!(world.kinds(RUN).contains(&"session.started".to_owned()));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_session_never_started_can_be_stopped() {
    let world = World::new(2, 100);
    world.plan(&spec(RUN));
    // The intent is on record, the request never left.
    let (_, ()) = tokio::join!(world.drive_for(RUN, Duration::from_secs(90)), async {
        world.until(RUN, 1, State::Loading).await;
        world.boxes.script().hangs = Some("start_session");
    });
    world.boxes.script().hangs = None;
    world.store.request_stop(RUN).unwrap();
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Stopped));
    assert!(world.boxes.script().started.is_empty());
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_ssh_key_that_was_replaced_is_told_and_let_in() {
    let world = World::new(2, 600);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    world.boxes.script().key = "ssh-ed25519 BBBB another".to_owned();
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert!(world.was_told("The ssh key of this home was replaced"));
}
