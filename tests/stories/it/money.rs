//! What a run may cost: a budget that holds while it trains.

use std::time::Duration;

use spotter::{
    cli::Verb,
    commands::resume,
    error::CommandError,
    ledger,
    provider::Charge,
    run::{State, lease::Lease},
    store::Outcome,
};
use tokio_util::sync::CancellationToken;

use crate::world::{World, spec};

const RUN: &str = "story";

#[tokio::test(start_paused = true)]
async fn a_run_is_warned_and_finished_in_order_before_its_budget_is_over() {
    // $0.24 an hour: two hours and a bit.
    let world = World::new(3, 100_000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(0.50);
    story.limits.storage_days = 0.0;
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
async fn traffic_counts_against_the_budget_before_any_bill_tells_of_it() {
    // 36 GB an hour at $0.02 are three times what the box costs, and no bill ever has them.
    let world = World::new(3, 100_000);
    for machine in 1..=3 {
        world
            .market
            .change_offer(machine, |offer| offer.inet_up_usd_per_gb = 0.02);
    }
    world.boxes.script().sends_bytes_per_s = 10_000_000;
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(0.50);
    story.limits.storage_days = 0.0;
    world.plan(&story);
    // Somebody else takes over the watch on the way: nothing is counted twice.
    world.drive_for(RUN, Duration::from_secs(900)).await;
    let spent_usd = world.lifecycle().spent_usd(RUN).unwrap();
    assert!(spent_usd > 0.2 && spent_usd < 0.25, "{spent_usd}");
    let run = world.drive(RUN).await;

    assert_eq!(run.outcome, Some(Outcome::Limit));
    let now_us = world.clock().now_us();
    let cost = ledger::attempt_cost(&world.store.intervals(RUN).unwrap(), 1, now_us);
    assert!(cost.bandwidth_usd > 0.3, "{cost:?}");
    assert!(
        cost.total_usd() < 0.50 && cost.total_usd() > 0.40,
        "{cost:?}"
    );
    assert_eq!(
        world
            .kinds(RUN)
            .iter()
            .filter(|kind| *kind == "budget_low")
            .count(),
        1
    );
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_limits_are_used_up_is_started_again_only_with_more() {
    let world = World::new(3, 1000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(0.05);
    story.limits.storage_days = 0.0;
    world.plan(&story);
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Limit));

    let mut run = world.store.run(RUN).unwrap();
    let before = world.attempts(RUN);
    let lease = Lease::take(&world.store, RUN).unwrap().unwrap();
    let refused = world.lifecycle().reopen(&run, true).await.unwrap_err();
    assert!(refused.to_string().contains("budget of $0.05"));
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

/// `spotter resume ...`, as somebody types it.
async fn typed_resume(world: &World, words: &[&str]) -> Result<(), CommandError> {
    let words = [&["spotter"], words].concat();
    let (mut ui, deps, verb, _paper) = world.typed(&words);
    let Verb::Resume(args) = &verb else {
        panic!("`resume` is resume");
    };
    resume::resume(&mut ui, &deps, args, CancellationToken::new()).await
}

/// Its disk is dearer than the one that it had: at the old price the budget would do.
#[tokio::test(start_paused = true)]
async fn a_larger_disk_that_the_budget_does_not_hold_changes_nothing_and_names_a_budget_that_does()
{
    let world = World::new(3, 100);
    world.boxes.script().crash_at = Some((35, 7));
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(3.0);
    world.plan(&story);
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Crashed));
    world.boxes.script().crash_at = None;
    // Ten times the disk: a week of it costs $16.80.
    for machine in 1..=3 {
        let dearer = |offer: &mut spotter::provider::Offer| offer.storage_usd_per_hour = 0.1;
        world.market.change_offer(machine, dearer);
    }
    let (run, attempts) = (world.store.run(RUN).unwrap(), world.attempts(RUN));
    let events = world.kinds(RUN);

    let asked = ["resume", RUN, "--disk", "400GB", "--max-runtime", "2h"];
    let refused = typed_resume(&world, &asked).await.unwrap_err();
    let told = refused.to_string();
    assert!(told.contains("$16.80 for 7 days of its disk"), "{told}");
    let now = world.store.run(RUN).unwrap();
    assert_eq!((now.outcome, &now.spec), (run.outcome, &run.spec));
    assert_eq!(world.attempts(RUN), attempts);
    assert_eq!(world.kinds(RUN), events);

    // The command that it names works.
    let hint = refused.hints().join("\n");
    let start = "`spotter resume --disk 400GB story --max-runtime 7200s --budget ";
    assert!(hint.contains(start), "{hint}");
    let command = hint.split('`').nth(1).unwrap();
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let resumed = typed_resume(&world, &words).await;
    assert!(resumed.is_ok(), "{command}: {resumed:?}");
    let run = world.store.run(RUN).unwrap();
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(run.spec.resources.disk_gb, 400.0);
    assert_eq!(world.attempts(RUN).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_is_not_taken_elsewhere_by_a_command_that_its_budget_refuses() {
    let world = World::new(3, 100_000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(1.9);
    story.recover.policy = spotter::spec::RecoverPolicy::Here;
    world.plan(&story);
    let ((), first) = tokio::join!(world.drive_for(RUN, Duration::from_secs(600)), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.outbid_by(first.instance, 5.0);
        first
    });
    let waiting = world.attempts(RUN).remove(0);
    assert_eq!(waiting.state, State::Waiting);
    for machine in 1..=3 {
        let dearer = |offer: &mut spotter::provider::Offer| offer.storage_usd_per_hour = 0.1;
        world.market.change_offer(machine, dearer);
    }
    let refused = typed_resume(&world, &["resume", RUN, "--elsewhere"]).await;
    let hint = refused.unwrap_err().hints().join("\n");
    assert!(
        hint.contains("`spotter resume --elsewhere story --budget "),
        "{hint}"
    );
    let now = world.attempts(RUN);
    assert_eq!(
        (now.len(), now[0].state, now[0].instance),
        (1, State::Waiting, first.instance)
    );
    assert_eq!(
        world.store.run(RUN).unwrap().spec.limits.budget_usd,
        Some(1.9)
    );
}

#[tokio::test(start_paused = true)]
async fn a_bill_is_read_again_until_hours_after_the_end_and_the_newest_figure_counts() {
    let world = World::new(3, 100);
    world.plan(&spec(RUN));
    world.drive(RUN).await;
    let attempt = world.attempts(RUN).remove(0);
    let charge = |gpu_usd: f64| Charge {
        instance: attempt.instance.unwrap(),
        gpu_usd,
        disk_usd: 0.0,
        bandwidth_usd: 0.0,
    };
    let (now_us, hour_us) = (world.clock().now_us(), 3_600_000_000);
    for (hours, gpu_usd, is_final) in [(0, 0.004, false), (2, 0.005, false), (7, 0.006, true)] {
        let read_us = now_us + hours * hour_us;
        world
            .store
            .record_bill(&attempt, &[charge(gpu_usd)], read_us)
            .unwrap();
        let bill = world.store.charges(RUN).unwrap().remove(0);
        assert_eq!((bill.is_whole, bill.is_final), (true, is_final), "{hours}");
        assert_eq!(world.lifecycle().spent_usd(RUN).unwrap(), gpu_usd);
    }
    // While it is open, whoever looks reads it again; afterwards nobody does.
    let early = charge(0.0);
    world.store.record_bill(&attempt, &[early], now_us).unwrap();
    tokio::time::sleep(Duration::from_secs(7 * 3600)).await;
    world.drive(RUN).await;
    let bill = world.store.charges(RUN).unwrap().remove(0);
    assert!(bill.is_final && bill.cost.gpu_usd > 0.0, "{bill:?}");
    let read_us = bill.read_us;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    world.drive(RUN).await;
    assert_eq!(world.store.charges(RUN).unwrap()[0].read_us, read_us);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_cannot_be_reached_is_stopped_when_its_money_is_over() {
    let world = World::new(3, 100_000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(0.50);
    story.limits.storage_days = 0.0;
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
    story.limits.storage_days = 0.0;
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

/// Lets hours pass in which nobody watches.
async fn pass(hours: u64) {
    for _ in 0..hours * 120 {
        tokio::time::advance(Duration::from_secs(30)).await;
        // Whoever lives on a box does what is due.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_pays_seven_days_of_the_disk_of_a_box_that_stopped_itself_while_the_laptop_was_off()
 {
    // A week of its disk costs $1.68, and an hour of training $0.24.
    let world = World::new(3, 100_000);
    world.boxes.script().step_s = 360;
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(10.0);
    world.plan(&story);
    world.drive_for(RUN, Duration::from_secs(3600)).await;
    world.boxes.script().alone = true;
    let mut hours = 1;
    while world.market.gpu_charged() > 0 {
        pass(1).await;
        hours += 1;
        assert!(hours < 40, "it spends what its disk will cost");
    }
    assert!(hours >= 33, "{hours}: it stopped long before it had to");
    pass(7 * 24 - 1).await;
    let (_, theirs) = world.money(RUN).await;
    assert!(theirs > 9.7 && theirs <= 10.0, "{theirs}");

    world.boxes.script().alone = false;
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Limit), "{:?}", run.reason);
    assert_eq!(world.attempts(RUN).len(), 1, "nothing is rented for it");
    assert_eq!(world.market.gpu_charged(), 0);
    let spent_usd = world.lifecycle().spent_usd(RUN).unwrap();
    assert!(
        (spent_usd - theirs).abs() < 0.24 * 6.1,
        "{spent_usd} of {theirs}: what ended unseen is dated by what was charged"
    );
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_holds_no_week_of_a_disk_rents_nothing_and_says_what_to_change() {
    // A week of its disk costs $1.68.
    let world = World::new(3, 100);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(1.50);
    world.plan(&story);
    let err = world
        .lifecycle()
        .drive(RUN, spotter::run::lifecycle::Goal::End)
        .await
        .unwrap_err();
    let text = format!("{err:?}");
    for words in [
        "$1.68 for 7 days of its disk",
        "raise `limits.budget`",
        "`resources.disk`",
        "`limits.storage_days: 3`",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(world.store.run(RUN).unwrap().outcome, Some(Outcome::Failed));
    assert!(world.market.alive().is_empty());
    let (_, theirs) = world.money(RUN).await;
    assert_eq!(theirs, 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_recovery_for_which_the_rest_of_the_budget_holds_no_disk_ends_the_run_as_any_used_up_budget()
 {
    let world = World::new(8, 100_000);
    let mut story = spec(RUN);
    story.limits.budget_usd = Some(1.9);
    world.plan(&story);
    world.drive_for(RUN, Duration::from_secs(2400)).await;
    world.outbid(world.attempts(RUN)[0].instance);
    // Nobody looks, and its disk is paid for from what was left to train with.
    tokio::time::sleep(Duration::from_secs(5 * 3600)).await;
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    let reason = run.reason.unwrap();
    assert!(
        reason.contains("; not recovered: ")
            && reason
                .contains("of the budget of $1.90 are spent, and the rest is held back: $1.68"),
        "{reason}"
    );
    assert!(world.was_told("is not carried on: "));
    assert!(world.kinds(RUN).iter().any(|kind| kind == "ended"));
    let attempts = world.attempts(RUN);
    assert_eq!((attempts.len(), attempts[1].state), (2, State::Gone));
    assert_eq!(attempts[1].instance, None, "nothing was rented for it");
    assert_eq!(world.market.gpu_charged(), 0);
    // Somebody who gives it more goes on.
    let resume = spotter::run::next::resume(&world.store, &world.store.run(RUN).unwrap(), "");
    assert!(resume.unwrap().contains("--budget "));
}
