//! A box that destroyed itself with nobody there: whoever looks at its run first is told the end, and may go on at once.

use std::time::Duration;

use spotter::{
    cli::Verb,
    commands::{checklist, cost, ps, report, resume, status},
    error::CommandError,
    provider::Provider,
    run::State,
    store::Outcome,
};
use spotter_bucket::{EndedBy, Ending};
use tokio_util::sync::CancellationToken;

use crate::world::{Paper, World, spec};

const RUN: &str = "story";

/// The laptop sleeps; a limit ends the training, and the box ends itself, leaving its word. `destroys`: it is gone, else it is stopped.
async fn ended_alone(destroys: bool) -> World {
    let world = World::new(3, 4_000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(4.0);
    world.plan(&story);
    world.drive_for(RUN, Duration::from_secs(120)).await;
    let attempt = world.until(RUN, 1, State::Running).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let mut ending = Ending::new(attempt.started_us.unsigned_abs(), 2, EndedBy::Request);
    ending.destroys = destroys;
    ending.cause = Some(spotter_bucket::Cause {
        by: "max_runtime".to_owned(),
        reason: "`limits.max_runtime` is over".to_owned(),
    });
    world.boxes.script().endings.insert(1, ending);
    let instance = attempt.instance.unwrap();
    match destroys {
        true => world.market.vanish(instance),
        false => world.market.stop(instance).await.unwrap(),
    }
    world.boxes.end_container(instance);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    world
}

async fn typed(world: &World, words: &[&str]) -> (Result<(), CommandError>, String) {
    let (mut ui, deps, verb, paper): (_, _, _, Paper) = world.typed(words);
    let stop = CancellationToken::new();
    let result = match &verb {
        Verb::Ps(args) => ps::ps(&mut ui, &deps, args).await,
        Verb::Status(args) => status::status(&mut ui, &deps, args).await,
        Verb::Cost(args) => cost::cost(&mut ui, &deps, args).await,
        Verb::Checklist(args) => checklist::checklist(&mut ui, &deps, args).await,
        Verb::Report(args) => report::report(&mut ui, &deps, args).await,
        Verb::Resume(args) => resume::resume(&mut ui, &deps, args, stop).await,
        other => panic!("{other:?} is not in these stories"),
    };
    (result, paper.text())
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_box_destroyed_itself_has_ended_for_whoever_looks_first() {
    for (words, shown) in [
        (["status", RUN].as_slice(), "story  limit"),
        (&["cost", RUN], "gone"),
        (&["checklist", RUN], "its box is gone"),
        (&["report", RUN, "--markdown"], "max_runtime"),
        (&["ps"], "limit"),
    ] {
        let world = ended_alone(true).await;
        let line = [&["spotter"][..], words].concat();
        // A line of the checklist may be wrong.
        let (_, said) = typed(&world, &line).await;
        let run = world.store.run(RUN).unwrap();
        assert_eq!(run.outcome, Some(Outcome::Limit), "{words:?}: {said}");
        assert!(said.contains(shown), "{words:?}: {said}");
        assert!(said.contains("destroyed itself"), "{words:?}: {said}");
        assert_eq!(world.attempts(RUN)[0].state, State::Gone, "{said}");
        assert_eq!(world.store.lease(RUN).unwrap(), None);
        let ends = world.kinds(RUN);
        let ends = ends.iter().filter(|kind| *kind == "self_stopped");
        assert_eq!(ends.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_finds_an_end_leaves_the_other_boxes_of_the_run_as_they_are() {
    let world = World::new(3, 4_000);
    world.plan(&spec(RUN));
    // What its first box holds is in no bucket.
    world.boxes.script().no_commits = true;
    let trained = async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(105)).await;
        world.outbid(first.instance);
        let second = world.until(RUN, 2, State::Running).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        (first.instance.unwrap(), second)
    };
    let (first, second) = tokio::select! {
        _ = world.drive(RUN) => panic!("it takes longer"),
        trained = trained => trained,
    };
    let mut ending = Ending::new(second.started_us.unsigned_abs(), 2, EndedBy::Exit);
    (ending.destroys, ending.exit_code) = (true, Some(0));
    world.boxes.script().endings.insert(2, ending);
    let instance = second.instance.unwrap();
    world.market.vanish(instance);
    world.boxes.end_container(instance);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let (_, said) = typed(&world, &["spotter", "status", RUN]).await;
    let run = world.store.run(RUN).unwrap();
    assert_eq!(run.outcome, Some(Outcome::Done), "{said}");
    assert_eq!(world.attempts(RUN)[1].state, State::Gone, "{said}");
    let left: Vec<u64> = world.market.alive().iter().map(|left| left.id).collect();
    assert_eq!(left, [first], "{said}");
}

#[tokio::test(start_paused = true)]
async fn what_is_only_read_from_the_record_or_said_by_nobody_ends_no_run() {
    let world = ended_alone(true).await;
    typed(&world, &["spotter", "status", "--recorded", RUN])
        .await
        .0
        .unwrap();
    assert_eq!(world.store.run(RUN).unwrap().outcome, None);
    // A box that is gone and left no word may have been ended by anybody.
    world.boxes.script().endings.clear();
    typed(&world, &["spotter", "status", RUN]).await.0.unwrap();
    assert_eq!(world.store.run(RUN).unwrap().outcome, None);
    assert_eq!(world.store.lease(RUN).unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_its_box_ended_is_resumed_without_waiting_for_its_end() {
    for destroys in [true, false] {
        let world = ended_alone(destroys).await;
        let first = world.attempts(RUN)[0].instance;
        let line = ["spotter", "resume", RUN, "--budget", "5", "--no-plan"];
        let (resumed, said) = typed(&world, &line).await;
        assert!(resumed.is_ok(), "{resumed:?} {said}");
        assert!(said.contains("nobody came, and its box"), "{said}");
        let run = world.store.run(RUN).unwrap();
        assert_eq!(run.outcome, Some(Outcome::Done), "{said}");
        let newest = world.attempts(RUN).pop().unwrap();
        assert_eq!(
            newest.instance == first,
            !destroys,
            "on its own box where that is kept"
        );
        assert!(world.market.alive().is_empty());
    }
}
