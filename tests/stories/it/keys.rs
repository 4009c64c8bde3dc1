//! Bucket keys that end while a box saves its last checkpoints: nobody watches the training any more, and it gets others all the same.

use std::time::Duration;

use spotter::{run::State, store::Outcome};

use crate::world::{World, spec};

const RUN: &str = "story";

fn given(world: &World) -> usize {
    let script = world.boxes.script();
    let calls = script.calls.iter();
    calls
        .filter(|(call, _)| *call == "give_credentials")
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_box_gets_newer_keys_while_its_last_checkpoints_wait_for_them() {
    let world = World::new(3, 20);
    world.plan(&spec(RUN));
    world.boxes.script().hangs = Some("backup_now");
    world.drive_for(RUN, Duration::from_secs(5 * 60)).await;
    assert_eq!(world.attempts(RUN)[0].state, State::Finishing);

    let refused = "the bucket refuses our keys: PutObject: the token has expired (ExpiredToken)";
    for (problem, expected) in [(None, 1..=1), (Some(refused.to_owned()), 5..=6)] {
        world.boxes.script().backup.problem = problem;
        let before = given(&world);
        world.drive_for(RUN, Duration::from_secs(5 * 60 + 30)).await;
        let given = given(&world) - before;
        assert!(expected.contains(&given), "{given} of {expected:?}");
    }
    assert!(world.was_told("the bucket does not take it yet: the bucket refuses our keys"));

    world.boxes.script().hangs = None;
    world.boxes.script().backup.problem = None;
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert!(world.market.alive().is_empty());
}
