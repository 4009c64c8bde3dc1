//! A box wipes the bucket keys that it keeps before it is destroyed, whoever destroys it; one that cannot is destroyed all the same.

use std::time::Duration;

use spotter::{
    cli::Verb,
    commands::{destroy, gc},
    provider::{Provider, RentRequest},
    run::{State, label, site::SiteError},
    spec::RunSpec,
    store::Outcome,
};
use tokio::time::Instant;

use crate::world::{World, spec};

const RUN: &str = "story";

/// A run whose boxes keep their keys on the disk.
fn persistent() -> RunSpec {
    let mut story = spec(RUN);
    story.checkpoints.as_mut().unwrap().keys.persist = true;
    story
}

/// A scripted box answers only while it exists: what it wiped, it wiped before its end.
fn assert_wiped(world: &World, instances: &[u64]) {
    assert_eq!(world.boxes.script().wiped, instances);
    assert!(world.market.alive().is_empty(), "and all are gone");
    let kinds = world.kinds(RUN);
    let wiped = kinds.iter().filter(|kind| *kind == "box_wiped").count();
    assert_eq!(wiped, instances.len(), "{kinds:?}");
    assert!(!kinds.contains(&"box_not_wiped".to_owned()), "{kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_box_is_wiped_before_it_goes_at_the_end_of_its_run() {
    let world = World::new(3, 60);
    world.plan(&persistent());
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_wiped(&world, &[world.attempts(RUN)[0].instance.unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn a_box_is_wiped_before_somebody_destroys_it_in_mid_training() {
    let world = World::new(3, 10_000);
    world.plan(&persistent());
    world.drive_for(RUN, Duration::from_secs(90)).await;
    let attempt = world.until(RUN, 1, State::Running).await;
    let (mut ui, deps, verb, _) = world.typed(&["spotter", "destroy", "--lose-data", RUN]);
    let Verb::Destroy(args) = &verb else {
        panic!("`destroy` is destroy");
    };
    // The provider takes only the second order: the box is wiped once.
    world.market.fail("destroy instance", 1);
    let refused = destroy::destroy(&mut ui, &deps, args).await;
    assert!(refused.is_err());
    destroy::destroy(&mut ui, &deps, args).await.unwrap();
    assert_wiped(&world, &[attempt.instance.unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_is_given_up_while_it_comes_up_is_wiped_before_it_goes() {
    let world = World::new(3, 60);
    let refusal = SiteError::Refused("no".to_owned());
    world.boxes.script().refuses_to_configure = Some(refusal);
    world.plan(&persistent());
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 2, State::Loading).await;
        world.boxes.script().refuses_to_configure = None;
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let instances: Vec<u64> = world
        .attempts(RUN)
        .iter()
        .map(|attempt| attempt.instance.unwrap())
        .collect();
    assert_eq!(instances.len(), 2);
    assert_wiped(&world, &instances);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_no_record_claims_is_wiped_before_it_is_swept_up() {
    let world = World::new(3, 60);
    world.plan(&persistent());
    let order = RentRequest {
        offer: 1,
        label: label::label(world.store.id(), RUN, 1, "nonce"),
        image: "image".to_owned(),
        disk_gb: 40.0,
        onstart: String::new(),
        env: Vec::new(),
        bid_usd_per_hour: None,
        container: Default::default(),
    };
    let instance = world.market.rent(&order).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (mut ui, deps, verb, paper) = world.typed(&["spotter", "gc"]);
    let Verb::Gc(args) = &verb else {
        panic!("`gc` is gc");
    };
    gc::gc(&mut ui, &deps, args).await.unwrap();
    assert!(paper.text().contains("orphan"), "{}", paper.text());
    assert_wiped(&world, &[instance]);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_cannot_wipe_its_keys_is_destroyed_all_the_same_and_that_is_told() {
    for persist in [true, false] {
        let world = World::new(3, 60);
        let mut story = persistent();
        story.checkpoints.as_mut().unwrap().keys.persist = persist;
        world.plan(&story);
        world.boxes.script().hangs = Some("wipe");
        let (run, took) = tokio::join!(world.drive(RUN), async {
            world.until(RUN, 1, State::Collected).await;
            let collected = Instant::now();
            world.until(RUN, 1, State::Gone).await;
            collected.elapsed()
        });
        assert_eq!(run.outcome, Some(Outcome::Done));
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert!(world.market.alive().is_empty());
        let told = world.was_told("goes with the bucket keys on its disk");
        assert_eq!(told, persist, "in memory they end with the box");
        let noted = world.kinds(RUN).contains(&"box_not_wiped".to_owned());
        assert_eq!(noted, persist);
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_that_was_taken_back_with_keys_on_its_disk_is_told_to_have_them_still() {
    let world = World::new(3, 200);
    world.plan(&persistent());
    let (run, first) = tokio::join!(world.drive(RUN), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.outbid(first.instance);
        first.instance.unwrap()
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let second = world.attempts(RUN)[1].instance.unwrap();
    assert_eq!(world.boxes.script().wiped, [second]);
    let events = world.store.events(RUN, 0).unwrap();
    let left = events.iter().find(|event| event.kind == "box_not_wiped");
    let detail = &left.unwrap().detail;
    assert_eq!(detail["instance"], first);
    assert_eq!(detail["reason"], "it is stopped");
    assert!(world.market.alive().is_empty());
}
