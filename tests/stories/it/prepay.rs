//! Money in advance: for a box that is rented on demand, within what is left of the budget, and never twice by mistake.

use std::time::Duration;

use spotter::{cli::Verb, commands::prepay, error::CommandError, provider::Rental, spec::RunSpec};

use crate::world::{World, spec};

const RUN: &str = "story";

async fn prepay_verb(world: &World, words: &[&str]) -> Result<(), CommandError> {
    let typed: Vec<&str> = ["spotter", "prepay", RUN]
        .iter()
        .chain(words)
        .copied()
        .collect();
    let (mut ui, deps, verb, _) = world.typed(&typed);
    let Verb::Prepay(args) = &verb else {
        panic!("`prepay` is prepay");
    };
    prepay::prepay(&mut ui, &deps, args).await
}

fn on_demand() -> RunSpec {
    let mut spec = spec(RUN);
    spec.resources.rental = Rental::OnDemand;
    spec.limits.budget_usd = Some(12.0);
    spec
}

#[tokio::test(start_paused = true)]
async fn a_box_is_paid_for_in_advance_by_somebody_who_says_so_and_within_the_budget() {
    let world = World::new(3, 400);
    world.market.set_credit(30.0);
    world.plan(&on_demand());
    world.drive_for(RUN, Duration::from_secs(90)).await;
    let refused = |err: CommandError| format!("{}: {:?}", err.message(), err.causes());
    // Nobody sits at this terminal.
    let why = refused(prepay_verb(&world, &["5"]).await.unwrap_err());
    assert!(why.contains("nobody can be asked"), "{why}");
    let why = refused(prepay_verb(&world, &["--yes", "13"]).await.unwrap_err());
    assert!(why.contains("of `limits.budget` of $12.00"), "{why}");
    let why = refused(
        prepay_verb(&world, &["--yes", "--over-limits", "31"])
            .await
            .unwrap_err(),
    );
    assert!(why.contains("the account has"), "{why}");
    prepay_verb(&world, &["--yes", "8"]).await.unwrap();
    // What was paid in advance is no longer left of the budget.
    let why = refused(prepay_verb(&world, &["--yes", "5"]).await.unwrap_err());
    assert!(why.contains("$8.00 are spent"), "{why}");
    let events = world.store.events(RUN, 0).unwrap();
    let paid: Vec<_> = events
        .iter()
        .filter(|event| event.kind == "prepaid")
        .collect();
    assert_eq!(paid.len(), 1);
    assert_eq!(paid[0].detail["usd"], 8.0);
    assert_eq!(paid[0].detail["discount"], 0.2);
}

#[tokio::test(start_paused = true)]
async fn an_interruptible_box_is_not_paid_for_in_advance() {
    let world = World::new(3, 400);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(90)).await;
    let err = prepay_verb(&world, &["--yes", "5"]).await.unwrap_err();
    assert!(format!("{:?}", err.causes()).contains("interruptible"));
}
