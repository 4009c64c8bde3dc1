//! With `recover.policy: price` a run whose box was taken back waits, bids or moves by what each costs, and says so.

use std::time::Duration;

use spotter::{
    run::{State, waiting},
    spec::{RecoverPolicy, RunSpec},
    store::Outcome,
};

use crate::world::{World, spec};

const RUN: &str = "story";

/// A run that goes on by price.
fn priced() -> RunSpec {
    let mut priced = spec(RUN);
    priced.recover.policy = RecoverPolicy::Price;
    priced.resources.bid_headroom = 0.0;
    priced.resources.bid_max_usd_per_hour = Some(0.40);
    priced
}

/// Trains for a while; then somebody pays more for its box.
async fn outbid_at(world: &World, usd_per_hour: f64) -> u64 {
    let attempt = world.until(RUN, 1, State::Running).await;
    tokio::time::sleep(Duration::from_secs(75)).await;
    world.outbid_by(attempt.instance, usd_per_hour);
    attempt.instance.unwrap()
}

/// The ways that were chosen, in order.
fn chosen(world: &World) -> Vec<String> {
    let events = world.store.events(RUN, 0).unwrap();
    let chosen = events.iter().filter(|event| event.kind == "way_chosen");
    chosen
        .map(|event| {
            assert!(event.detail["ways"][0]["usd"].as_f64() > Some(0.0));
            event.detail["way"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_box_that_costs_no_more_is_taken_at_once() {
    let world = World::new(3, 200);
    world.plan(&priced());
    let (run, _) = tokio::join!(world.drive(RUN), outbid_at(&world, 0.35));
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 2);
    assert_eq!(chosen(&world), ["move"]);
    assert!(world.was_told("goes on with another box: the next"));
    assert!(world.was_told("with waiting for its box"));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rival_that_pays_a_little_more_is_outbid_by_what_the_market_shows() {
    let world = World::new(1, 200);
    world.market.list_rivals();
    world.plan(&priced());
    let (run, first) = tokio::join!(world.drive(RUN), outbid_at(&world, 0.25));
    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 1, "nothing was rented in its place");
    assert_eq!(attempts[0].instance, Some(first));
    assert_eq!(
        attempts[0].gpu_usd_per_hour, 0.251,
        "one bid, and no more than it takes"
    );
    assert_eq!(chosen(&world), ["bid", "bid"]);
    assert!(world.was_told("bids more for its box: the next"));
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_where_nothing_else_can_be_had_says_why_and_leaves_when_something_can() {
    let world = World::new(1, 200);
    world.plan(&priced());
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        outbid_at(&world, 0.45).await;
        let attempt = world.until(RUN, 1, State::Waiting).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let run = world.store.run(RUN).unwrap();
        let waiting = waiting::of(&world.store, &run, &attempt).unwrap().unwrap();
        let why = waiting.why.as_deref().unwrap();
        assert!(why.starts_with("waits for its box: the next"), "{why}");
        assert!(waiting.text().contains(why));
        assert_eq!(
            chosen(&world),
            ["wait"],
            "told once, not every five minutes"
        );
        assert_eq!(world.market.gpu_charged(), 0);
        world.market.add_machines(1, 1);
        tokio::time::sleep(Duration::from_secs(400)).await;
        assert_eq!(chosen(&world), ["wait", "move"]);
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 2);
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_longer_than_its_limit_where_there_is_another_box_and_no_attempt_more_than_allowed()
 {
    let world = World::new(1, 10_000);
    let mut story = priced();
    story.recover.wait = Duration::from_secs(1800);
    world.plan(&story);
    let ((), ()) = tokio::join!(world.drive_for(RUN, Duration::from_secs(3 * 3600)), async {
        outbid_at(&world, 0.45).await;
        tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
        let attempts = world.attempts(RUN);
        assert_eq!(attempts.len(), 1, "there is nothing to leave it for");
        assert_eq!(attempts[0].state, State::Waiting);
        assert_eq!(world.market.gpu_charged(), 0);
        // So dear that waiting on would be cheaper.
        world.market.add_machines(1, 1);
        world.market.ask(0.35);
    });
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 2, "it has waited for long enough");
    assert_eq!(attempts[1].state, State::Running);
    assert_eq!(chosen(&world), ["wait", "move"]);

    let world = World::new(3, 10_000);
    let mut story = priced();
    story.recover.attempts = 1;
    world.plan(&story);
    let (run, _) = tokio::join!(world.drive(RUN), outbid_at(&world, 0.35));
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    assert!(chosen(&world).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_takes_hours_to_fetch_speaks_for_its_own_box_and_the_line_says_so() {
    // The rival pays a little more; another box costs no more, and would fetch 200 GB at 100 Mb/s first.
    let choose = async |bytes: u64| {
        let world = World::new(2, 200);
        world.market.list_rivals();
        world.boxes.script().checkpoint_bytes = bytes;
        for machine in [1, 2] {
            world
                .market
                .change_offer(machine, |offer| offer.inet_down_mbps = 100.0);
        }
        world.plan(&priced());
        let (run, _) = tokio::join!(world.drive(RUN), outbid_at(&world, 0.25));
        assert_eq!(run.outcome, Some(Outcome::Done));
        world
    };
    let world = choose(0).await;
    assert_eq!(chosen(&world)[0], "move");
    let world = choose(200_000_000_000).await;
    assert_eq!(chosen(&world)[0], "bid");
    assert!(world.was_told("4.4 h of that for a checkpoint of 200.0 GB at promised 100 Mb/s"));
    assert_eq!(world.attempts(RUN).len(), 1);
}

/// Whoever watches may be killed at any moment of the choice, the wait and the move.
#[tokio::test(start_paused = true)]
async fn a_choice_outlives_those_who_watch() {
    for seed in 0..4u64 {
        let world = World::new(1, 150);
        world.plan(&priced());
        world.drive_for(RUN, Duration::from_secs(90)).await;
        world.outbid_by(world.attempts(RUN)[0].instance, 0.45);
        for life in 0..120 {
            if life == 20 {
                world.market.add_machines(1, 1);
            }
            let killed_after = Duration::from_millis(700 + (seed * 977 + life * 1733) % 9000);
            world.drive_for(RUN, killed_after).await;
            assert!(world.market.gpu_charged() <= 1, "seed {seed}, life {life}");
            if world.store.run(RUN).unwrap().outcome.is_some() {
                break;
            }
        }
        let run = world.drive(RUN).await;
        assert_eq!(run.outcome, Some(Outcome::Done), "seed {seed}");
        assert_eq!(world.attempts(RUN).len(), 2, "seed {seed}");
        assert!(world.market.alive().is_empty(), "seed {seed}");
    }
}
