//! What `plan` puts first is what `run` rents: at the start, when an offer is gone, and after an interruption.

use std::time::Duration;

use spotter::{
    cli::Verb,
    commands::plan,
    provider::Offer,
    run::{State, lease::Lease, lifecycle::Goal},
    spec::{self, RecoverPolicy, RunSpec},
    store::Outcome,
};

use crate::world::World;

const RUN: &str = "story";
const FILE: &str = "\
name: story
run: train
resources: {accelerators: RTX 4090, disk: 40GB, rental: interruptible}
model: {params: 124M, seq_len: 1024, micro_batch: 8, tokens: 1B}
checkpoints: {to: \"s3://bucket/runs\"}
recover: {policy: elsewhere}
";

/// Five machines at one price: the first and the fourth have 8 GB of memory, and traffic of the second is dear.
fn market(world: &World) {
    for machine in [1, 4] {
        world
            .market
            .change_offer(machine, |offer| offer.ram_mb = 8_000);
    }
    world
        .market
        .change_offer(2, |offer| offer.inet_down_usd_per_gb = 0.05);
}

fn parsed(text: &str) -> RunSpec {
    spec::parse(text, "run.yaml", std::path::Path::new("/")).unwrap()
}

/// Offers in the order of `spotter plan --json`, those that are a go.
async fn planned(world: &World, text: &str) -> Vec<u64> {
    let file = world.folder().join("run.yaml");
    std::fs::write(&file, text).unwrap();
    let words = ["spotter", "--json", "plan", file.to_str().unwrap()];
    let (mut ui, deps, verb, paper) = world.typed(&words);
    let Verb::Plan(args) = &verb else {
        panic!("`plan` is plan");
    };
    let _ = plan::plan(&mut ui, &deps, args).await;
    let text = paper.text();
    let line = text.lines().find(|line| line.starts_with('{')).unwrap();
    let page: serde_json::Value = serde_json::from_str(line).unwrap();
    let offers = page["offers"].as_array().unwrap().iter();
    let go = offers.filter(|offer| offer["go"] == true);
    go.map(|offer| offer["offer"].as_u64().unwrap()).collect()
}

fn machine(world: &World, number: u32) -> Option<u64> {
    let attempts = world.attempts(RUN);
    let attempt = attempts.iter().find(|found| found.number == number)?;
    attempt.machine_id
}

#[tokio::test(start_paused = true)]
async fn a_plan_names_first_what_is_rented_also_when_offers_are_gone_and_after_an_outbid() {
    let world = World::new(5, 300);
    market(&world);
    let first = planned(&world, FILE).await;
    assert_eq!(first, [3, 5, 2], "8 GB hold no loaders beside the system");
    world.market.snatch(3);
    world.plan(&parsed(FILE));
    let (run, next) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Running).await;
        assert_eq!(attempt.machine_id, Some(5), "the second of the plan");
        tokio::time::sleep(Duration::from_secs(75)).await;
        let next = planned(&world, FILE).await;
        world.outbid(attempt.instance);
        next
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    // The market lists what it does not sell; the offer of our own box is gone from it.
    assert_eq!(next, [3, 2]);
    assert_eq!(machine(&world, 2), Some(2));
    assert!(world.was_told("Offer 3 is gone; trying the next one."));
    assert!(world.market.alive().is_empty());
}

/// The gate judges one offer; when that goes before it is rented, whatever is taken has to be a go as well.
#[tokio::test(start_paused = true)]
async fn a_run_that_needed_a_plan_begins_on_no_offer_that_its_plan_calls_a_no_go() {
    for (third_usd_per_hour, taken) in [(0.45, Some(3)), (4.5, None)] {
        let world = World::new(3, 300);
        for (machine, price) in [(2, 4.0), (3, third_usd_per_hour)] {
            let dear = |offer: &mut Offer| offer.gpu_usd_per_hour = price;
            world.market.change_offer(machine, dear);
        }
        let text = FILE.replace("interruptible", "on-demand") + "limits: {budget: 5}\n";
        assert_eq!(planned(&world, &text).await.first(), Some(&1));
        let spec = parsed(&text);
        world.plan(&spec);
        let event = serde_json::json!({"needed": true, "no_plan": false, "dares": false, "offer": 1, "gates": null});
        let now_us = world.clock().now_us();
        world.store.note(RUN, 0, now_us, "planned", &event).unwrap();
        world.market.snatch(1);
        let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
        let ended = world.lifecycle().drive(RUN, Goal::End).await;
        let kept = world.store.newest_event(RUN, 0, "planned").unwrap();
        let kept = kept.unwrap().detail;
        let Some(machine_id) = taken else {
            let err = ended.unwrap_err();
            let why = err.causes().join(" ");
            assert!(why.contains("is a go by its plan; offer"), "{why}");
            assert!(why.contains("and the budget is $5.00"), "{why}");
            assert_eq!(world.market.gpu_charged(), 0);
            assert_eq!(kept, event);
            continue;
        };
        assert_eq!(ended.unwrap().outcome, Some(Outcome::Done));
        assert_eq!(machine(&world, 1), Some(machine_id));
        assert_eq!(kept["offer"], machine_id);
        assert_eq!(kept["needed"], true);
        assert!(kept["forecast"]["cost_usd"]["base"].as_f64() < Some(5.0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_cheapest_is_passed_over_for_a_fact_and_the_run_says_why() {
    let world = World::new(3, 300);
    world.market.change_offer(1, |offer| {
        (offer.cuda, offer.gpu_usd_per_hour) = (12.2, 0.30);
    });
    let text = FILE
        .replace("interruptible", "on-demand")
        .replace("checkpoints:", "image: \"train:cu128\"\ncheckpoints:");
    assert_eq!(planned(&world, &text).await, [2, 3]);
    let text = text
        .lines()
        .filter(|line| !line.starts_with("model"))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(
        planned(&world, &text).await,
        [2, 3],
        "with or without `model`"
    );
    world.plan(&parsed(&text));
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_eq!(machine(&world, 1), Some(2));
    assert!(world.was_told(
        "Passing over offer 1, which is cheaper: the image is built for CUDA 12.8, and this host's driver runs 12.2 at most."
    ));
}

#[tokio::test(start_paused = true)]
async fn a_market_in_which_nothing_would_train_it_is_refused_at_the_start_and_waited_for_later() {
    let world = World::new(2, 300);
    let little = |offer: &mut Offer| offer.ram_mb = 8_000;
    world.market.change_offer(2, little);
    world.plan(&parsed(FILE));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Running).await;
        assert_eq!(attempt.machine_id, Some(1));
        tokio::time::sleep(Duration::from_secs(75)).await;
        world.outbid(attempt.instance);
        tokio::time::sleep(Duration::from_secs(1800)).await;
        assert!(world.was_told(
            "No box to go on with: none of the 1 offers would train it; offer 2: host memory"
        ));
        assert_eq!(
            world.market.gpu_charged(),
            0,
            "nothing that would not train it was rented"
        );
        world.market.change_offer(2, |offer| offer.ram_mb = 64_000);
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(machine(&world, 2), Some(2));

    let world = World::new(1, 300);
    world.market.change_offer(1, little);
    world.plan(&parsed(FILE));
    let failed = world
        .lifecycle()
        .drive(RUN, spotter::run::lifecycle::Goal::End)
        .await;
    let err = failed.unwrap_err();
    assert!(err.causes()[0].contains("host memory"), "{err:?}");
    assert!(err.hints()[0].contains("`spotter plan`"), "{err:?}");
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_choice_by_price_leaves_a_box_only_for_one_that_would_train_it() {
    let world = World::new(2, 300);
    world.market.change_offer(2, |offer| offer.ram_mb = 8_000);
    let mut run = parsed(FILE);
    run.recover.policy = RecoverPolicy::Price;
    world.plan(&run);
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let attempt = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(75)).await;
        world.outbid_by(attempt.instance, 5.0);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(world.attempts(RUN).len(), 1, "it waits");
        assert!(!world.was_told("another box"));
        world.market.give_back(attempt.instance.unwrap());
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert!(attempts.iter().all(|found| found.machine_id == Some(1)));
}
