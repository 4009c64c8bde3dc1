//! A training that saves too rarely is told so in time, once, with what to set; and when it saves often enough, that is over.

use std::time::Duration;

use serde_json::json;
use spotter::run::{State, alarms};
use spotter_bucket::cadence;

use crate::world::{World, spec};

const RUN: &str = "story";
/// A step takes four minutes here, and a checkpoint comes every ten steps.
const STEP_S: u64 = 240;

fn count(world: &World, kind: &str) -> usize {
    let kinds = world.kinds(RUN);
    kinds.iter().filter(|known| *known == kind).count()
}

#[tokio::test(start_paused = true)]
async fn a_training_that_saves_too_rarely_is_told_once_whoever_watches_and_until_it_saves_often() {
    let world = World::new(3, 60);
    world.boxes.script().step_s = STEP_S;
    world.plan(&spec(RUN));
    // Nothing is wrong before half an hour is at risk.
    world.drive_for(RUN, Duration::from_secs(29 * 60)).await;
    assert_eq!(count(&world, cadence::EVENT), 0);
    world.drive_for(RUN, Duration::from_secs(5 * 60)).await;
    assert_eq!(count(&world, cadence::EVENT), 1);
    let told = alarms::rare(&world.store, RUN, 1).unwrap().unwrap();
    // Seven steps fit into half an hour, and people set round numbers.
    assert!(
        told.contains("min of training are at risk") && told.ends_with("save every 5 steps"),
        "{told}"
    );
    assert!(world.was_told(&told));

    // Another spotter finds it told, and so do the checkpoints after it that are as rare.
    world.drive_for(RUN, Duration::from_secs(60 * 60)).await;
    assert_eq!(count(&world, cadence::EVENT), 1);
    assert_eq!(count(&world, cadence::ENDED), 0);
    assert!(alarms::rare(&world.store, RUN, 1).unwrap().is_some());

    // Somebody changes the trainer's habit.
    let instance = world.attempts(RUN)[0].instance.unwrap();
    for _ in 0..6 {
        world.drive_for(RUN, Duration::from_secs(5 * 60)).await;
        let found = json!({"path": "checkpoint-1"});
        world
            .boxes
            .script()
            .tell(instance, "checkpoint.found", found);
    }
    world.drive_for(RUN, Duration::from_secs(2 * 60)).await;
    assert_eq!(count(&world, cadence::ENDED), 1);
    assert_eq!(alarms::rare(&world.store, RUN, 1).unwrap(), None);
    assert_eq!(world.attempts(RUN)[0].state, State::Running);

    // And falls back: told again, with the setting of the trainer that writes such names.
    world.boxes.script().no_commits = true;
    world.drive_for(RUN, Duration::from_secs(33 * 60)).await;
    assert_eq!(count(&world, cadence::EVENT), 2);
    let told = alarms::rare(&world.store, RUN, 1).unwrap().unwrap();
    assert!(told.ends_with("`--save_steps 5`"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_training_that_saves_often_is_told_nothing() {
    let world = World::new(3, 60);
    world.boxes.script().step_s = 60;
    world.plan(&spec(RUN));
    world.drive(RUN).await;
    assert_eq!(count(&world, cadence::EVENT), 0);
    assert_eq!(count(&world, cadence::ENDED), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_is_told_what_the_box_judged_by_what_was_saved_meanwhile() {
    // A checkpoint every forty minutes, and one every ten.
    for (step_s, expected) in [(STEP_S, 1), (60, 0)] {
        let world = World::new(3, 400);
        world.boxes.script().step_s = step_s;
        world.plan(&spec(RUN));
        world.drive_for(RUN, Duration::from_secs(20 * 60)).await;
        assert_eq!(count(&world, cadence::EVENT), 0);

        tokio::time::sleep(Duration::from_secs(3 * 60 * 60)).await;
        world.drive_for(RUN, Duration::from_secs(90)).await;
        assert_eq!(count(&world, cadence::EVENT), expected, "{step_s}");
        assert_eq!(count(&world, cadence::ENDED), 0, "{step_s}");
        let told = alarms::rare(&world.store, RUN, 1).unwrap();
        assert_eq!(
            told.as_ref()
                .is_some_and(|told| told.starts_with("40 min of training are at risk")),
            expected == 1,
            "what lies between two of the box's checkpoints: {told:?}"
        );
        if let Some(told) = told {
            assert!(world.was_told(&told));
        }
    }
}
