//! What is tried before a box that does not come up is given up: its image is fetched again, its container is restarted.

use std::time::Duration;

use spotter::{provider::Actual, run::State, store::Outcome};

use crate::world::{World, spec};

const RUN: &str = "story";

#[tokio::test(start_paused = true)]
async fn an_image_that_broke_off_is_fetched_again_on_the_same_box() {
    let world = World::new(4, 60);
    world.market.spoil_next(|i| {
        i.actual = Actual::Loading;
        i.ssh.clear();
        i.status_msg = "layer 3: unexpected EOF".to_owned();
    });
    world.market.mend_by_restart();
    world.plan(&spec(RUN));
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 1);
    let id = attempts[0].instance.unwrap();
    assert_eq!(world.market.restarts(), [("recycle instance", id)]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_lets_nobody_in_is_restarted_once_and_then_given_up() {
    let world = World::new(4, 60);
    world.boxes.script().dead_boxes = 1;
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 2, State::Loading).await;
        world.boxes.script().dead_boxes = 0;
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let first = &world.attempts(RUN)[0];
    let id = first.instance.unwrap();
    assert_eq!(world.market.restarts(), [("reboot instance", id)]);
    let events = world.store.events(RUN, 0).unwrap();
    let rebooted = events
        .iter()
        .find(|event| event.kind == "rebooted")
        .unwrap();
    let waited = Duration::from_micros((rebooted.time_us - first.created_us) as u64);
    assert!(waited >= Duration::from_secs(5 * 60), "{waited:?}");
    let reason = first.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("ssh did not let us in"), "{reason}");
}
