//! What a run may cost: a budget that holds while it trains.

use std::time::Duration;

use spotter::{
    run::{State, lease::Lease},
    store::Outcome,
};

use crate::world::{World, spec};

const RUN: &str = "story";

#[tokio::test(start_paused = true)]
async fn a_run_is_warned_and_finished_in_order_before_its_budget_is_over() {
    // $0.24 an hour: two hours and a bit.
    let world = World::new(3, 100_000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(0.50);
    world.plan(&story);
    let run = world.drive(RUN).await;

    assert_eq!(run.outcome, Some(Outcome::Limit));
    assert!(run.reason.unwrap().contains("`limits.budget` of $0.50"));
    let kinds = world.kinds(RUN);
    let place = |kind: &str| kinds.iter().position(|known| known == kind).unwrap();
    assert!(place("budget_low") < place("limit_reached"), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "budget_low").count(), 1);
    let (ours, theirs) = world.money(RUN).await;
    assert!(
        ours < 0.50 && theirs < 0.50 && theirs > 0.40,
        "{ours} {theirs}"
    );
    let calls: Vec<&str> = world
        .boxes
        .script()
        .calls
        .iter()
        .map(|(call, _)| *call)
        .collect();
    assert!(calls.contains(&"end_session") && calls.contains(&"backup_now"));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_limits_are_used_up_is_started_again_only_with_more() {
    let world = World::new(3, 1000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(0.05);
    world.plan(&story);
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Limit));

    let mut run = world.store.run(RUN).unwrap();
    let before = world.attempts(RUN);
    let lease = Lease::take(&world.store, RUN).unwrap().unwrap();
    let refused = world.lifecycle().reopen(&run, true).await.unwrap_err();
    assert!(refused.to_string().contains("`limits.budget` of $0.05"));
    assert_eq!(world.attempts(RUN), before, "nothing was changed");
    assert_eq!(world.store.run(RUN).unwrap().outcome, Some(Outcome::Limit));

    run.spec.limits.budget_usd = Some(5.0);
    run.spec.limits.max_runtime = Some(Duration::from_secs(1));
    let refused = world.lifecycle().reopen(&run, true).await.unwrap_err();
    assert!(refused.to_string().contains("`limits.max_runtime`"));

    run.spec.limits.max_runtime = None;
    world.lifecycle().reopen(&run, true).await.unwrap();
    drop(lease);
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(run.spec.limits.budget_usd, Some(5.0));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_box_that_cannot_be_reached_is_stopped_when_its_money_is_over() {
    let world = World::new(3, 100_000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(0.50);
    world.plan(&story);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        world.boxes.script().cut = true;
    });
    assert_eq!(run.outcome, Some(Outcome::Limit));
    assert_eq!(world.market.gpu_charged(), 0);
    assert_eq!(world.market.alive().len(), 1, "what is on its disk is kept");
    let (ours, _) = world.money(RUN).await;
    assert!(ours < 0.51, "{ours}");
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_was_spent_while_nobody_watched_ends_the_recovery() {
    let world = World::new(8, 100_000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(0.10);
    world.plan(&story);
    world.drive_for(RUN, Duration::from_secs(120)).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    world.outbid(world.attempts(RUN)[0].instance);
    let run = world.drive(RUN).await;
    assert!(matches!(
        run.outcome,
        Some(Outcome::Limit | Outcome::Interrupted)
    ));
    assert!(run.reason.unwrap().contains("budget"));
    assert_eq!(world.attempts(RUN).len(), 1);
    assert_eq!(world.market.gpu_charged(), 0);
}
