//! Money in advance: for a box that is rented on demand, within what is left of the budget, and never twice by mistake.

use std::time::Duration;

use spotter::{
    cli::Verb,
    commands::prepay,
    error::CommandError,
    provider::{Provider, Rental},
    run::State,
    spec::RunSpec,
    store::Outcome,
};

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
    // What was paid in advance is no longer left of the budget, beside what it cost before that.
    let why = refused(prepay_verb(&world, &["--yes", "5"]).await.unwrap_err());
    assert!(why.contains("$8.01 are spent"), "{why}");
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

/// Events of a kind.
fn count(world: &World, kind: &str) -> usize {
    let events = world.store.events(RUN, 0).unwrap();
    events.iter().filter(|event| event.kind == kind).count()
}

fn reserved() -> RunSpec {
    let mut spec = on_demand();
    spec.resources.prepay_usd = Some(8.0);
    spec
}

#[tokio::test(start_paused = true)]
async fn a_reserved_run_pays_once_when_its_first_box_trains_whoever_watches_and_wherever_it_goes_on()
 {
    let world = World::new(3, 400);
    world.market.set_credit(30.0);
    world.plan(&reserved());
    let credit = async || world.market.account().await.unwrap().credit_usd;
    let (_, ()) = tokio::join!(world.drive_for(RUN, Duration::from_secs(90)), async {
        world.until(RUN, 1, State::Syncing).await;
        assert_eq!(credit().await, 30.0, "nothing before it trains");
    });
    assert_eq!(credit().await, 22.0);
    assert!(
        world.was_told(
            "$8.00 are paid in advance for instance 1000: it costs 20% less for 2.4 days"
        )
    );
    // Another watcher, and another box.
    world.drive_for(RUN, Duration::from_secs(30)).await;
    let first = world.attempts(RUN)[0].instance.unwrap();
    world.market.lose_host(first);
    world.boxes.end_container(first);
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 2);
    assert_eq!(credit().await, 22.0, "its money was for the first one");
    assert_eq!(
        (count(&world, "prepay_asked"), count(&world, "prepaid")),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_payment_that_fails_or_whose_answer_is_lost_is_told_and_never_sent_again() {
    // Too little credit is a plain no; of an answer that a gateway gave nobody knows.
    for (credit_usd, broken, says) in [
        (5.0, 0, "nothing was paid, and it goes on at its list price"),
        (30.0, 1, "whether they are paid is not known"),
    ] {
        let world = World::new(3, 200);
        world.market.set_credit(credit_usd);
        world.market.fail("prepay instance", broken);
        world.plan(&reserved());
        world.drive_for(RUN, Duration::from_secs(90)).await;
        assert!(world.was_told(says), "{says}");
        // What may be paid already is not to be paid again by hand.
        let by_hand = world.was_told("By hand: `spotter prepay story 8`");
        assert_eq!(by_hand, broken == 0, "{says}");
        assert_eq!(
            world.drive(RUN).await.outcome,
            Some(Outcome::Done),
            "{says}"
        );
        let counts = ["prepay_asked", "prepaid", "prepay_failed"].map(|kind| count(&world, kind));
        assert_eq!(counts, [1, 0, 1], "{says}");
    }
}
