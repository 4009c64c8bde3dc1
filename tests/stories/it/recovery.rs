//! What the market, the host and the laptop may do to a run, and that it never costs a box or a checkpoint.

use std::{sync::Arc, time::Duration};

use spotter::{
    cli::Verb,
    commands::{destroy, resume, status},
    error::CommandError,
    run::{State, lease::Lease, lifecycle::Goal},
    spec::{OnDone, RecoverPolicy},
    store::{Outcome, RunRecord},
};
use tokio_util::sync::CancellationToken;

use crate::world::{CHECKPOINT_EVERY, World, spec};

const RUN: &str = "story";

#[tokio::test(start_paused = true)]
async fn a_run_is_rented_trained_collected_and_its_box_destroyed() {
    // Long enough for its price to be more than a rounding.
    let world = World::new(2, 3_600);
    world.plan(&spec(RUN));

    let run = world.drive(RUN).await;

    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 1);
    assert_eq!(
        (attempts[0].state, attempts[0].exit_code),
        (State::Gone, Some(0))
    );
    assert!(world.market.alive().is_empty());
    let (ours, theirs) = world.money(RUN).await;
    assert!(theirs > 0.20, "an hour of it costs ${theirs}");
    assert!(
        (ours - theirs).abs() <= 0.01 * theirs,
        "{ours} by the ledger, {theirs} by the market"
    );
    let charged = world.lifecycle().spent_usd(RUN).unwrap();
    assert!(
        (charged - theirs).abs() < 1e-9,
        "{charged} on record, {theirs} charged"
    );
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_run_continues_from_its_newest_whole_checkpoint_on_exactly_one_new_box() {
    let world = Arc::new(World::new(3, 200));
    world.plan(&spec(RUN));

    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(75)).await;
        world.outbid(first.instance);
        let mut most = 0;
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            most = most.max(world.market.gpu_charged());
        }
        assert_eq!(most, 1, "boxes with a GPU charge at once");
    });

    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|attempt| attempt.state == State::Gone));
    let resumed = attempts[1].resumed_step.unwrap();
    assert_eq!(resumed % CHECKPOINT_EVERY, 0);
    assert!(
        attempts[0].last_step.unwrap() - resumed < CHECKPOINT_EVERY,
        "at most one interval is redone"
    );
    assert_eq!(
        world
            .boxes
            .script()
            .started
            .iter()
            .map(|(_, step)| *step)
            .collect::<Vec<_>>(),
        [0, resumed]
    );
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_only_wants_it_running_finds_out_that_the_box_of_the_record_was_taken_meanwhile() {
    let world = World::new(3, 400);
    world.plan(&spec(RUN));
    let lifecycle = world.lifecycle();
    lifecycle.drive(RUN, Goal::Running).await.unwrap();
    let first = world.attempts(RUN).remove(0);
    assert_eq!(first.state, State::Running);
    tokio::time::sleep(Duration::from_secs(75)).await;
    // Nobody watches.
    world.outbid(first.instance);

    lifecycle.drive(RUN, Goal::Running).await.unwrap();

    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[1].state, State::Running);
    assert_ne!(attempts[1].instance, first.instance);
    assert_eq!(world.market.gpu_charged(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_after_an_interruption_keeps_the_old_box_stopped_and_a_resume_goes_elsewhere() {
    for on_done in [OnDone::Destroy, OnDone::Keep] {
        let world = World::new(3, 400);
        let mut story = spec(RUN);
        story.on_done = on_done;
        world.plan(&story);
        world.drive_for(RUN, Duration::from_secs(90)).await;
        let first = world.attempts(RUN).remove(0);
        assert_eq!(first.state, State::Running);
        world.outbid(first.instance);
        // Whoever watches is killed as soon as the interruption is on record.
        while world.attempts(RUN)[0].state != State::Interrupted {
            world.drive_for(RUN, Duration::from_secs(1)).await;
        }

        world.store.request_stop(RUN).unwrap();
        let run = world.drive(RUN).await;

        assert_eq!(run.outcome, Some(Outcome::Stopped));
        assert_eq!(run.reason, None, "it did train");
        let left = world.market.alive();
        assert_eq!(left.len(), 1, "nobody knows what its disk holds");
        assert!(!left[0].scheduling, "it does not come back: {on_done:?}");
        assert!(world.was_told("stays stopped"), "and that is said");
        assert_eq!(world.market.gpu_charged(), 0);

        // Without a word it goes on elsewhere: the market has that box.
        let (mut ui, deps, verb, paper) = world.typed(&["spotter", "resume", RUN]);
        let Verb::Resume(args) = &verb else {
            panic!("`resume` is resume");
        };
        let stop = CancellationToken::new();
        let resumed = resume::resume(&mut ui, &deps, args, stop).await;
        assert!(resumed.is_ok(), "{}", paper.text());
        let closing = "`story` is done at step 400: ";
        assert!(paper.text().contains(closing), "{}", paper.text());
        assert_eq!(world.store.run(RUN).unwrap().outcome, Some(Outcome::Done));
        let newest = world.attempts(RUN).pop().unwrap();
        assert_ne!(newest.instance, first.instance, "{on_done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_box_stays_until_the_checkpoint_that_only_it_has_is_trained_again_or_let_go() {
    for let_go in [false, true] {
        let world = Arc::new(World::new(3, 400));
        world.plan(&spec(RUN));
        let destroy = async |words: &[&str]| {
            let (mut ui, deps, verb, _paper) = world.typed(words);
            let Verb::Destroy(args) = &verb else {
                panic!("`destroy` is destroy");
            };
            destroy::destroy(&mut ui, &deps, args).await
        };
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            let first = world.until(RUN, 1, State::Running).await;
            tokio::time::sleep(Duration::from_secs(75)).await;
            let saved = *world.boxes.script().commits.last().unwrap();
            // The bucket is away for some checkpoints; then the market takes the box.
            world.boxes.script().no_uploads = true;
            tokio::time::sleep(Duration::from_secs(50)).await;
            world.outbid(first.instance);
            let newer = world.until(RUN, 2, State::Running).await;
            world.boxes.script().no_uploads = false;
            let old = world.attempts(RUN).remove(0);
            assert_eq!(newer.resumed_step, Some(saved));
            let only_there = old.last_step.unwrap() / CHECKPOINT_EVERY * CHECKPOINT_EVERY;
            assert!(only_there > saved + CHECKPOINT_EVERY);
            while !world.was_told("never reached the bucket") {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let step = world.attempts(RUN)[1].last_step;
            assert!(step < Some(only_there), "{step:?}");
            assert!(world.was_told("spotter destroy --attempt 1 --lose-data"));
            assert_eq!(world.market.alive().len(), 2, "its disk is there");
            let (mut ui, deps, verb, paper) =
                world.typed(&["spotter", "status", "--recorded", RUN]);
            let Verb::Status(args) = &verb else {
                panic!("`status` is status");
            };
            status::status(&mut ui, &deps, args).await.unwrap();
            assert!(paper.text().contains("old box"), "{}", paper.text());
            assert_eq!(world.market.gpu_charged(), 1);

            if let_go {
                let refused = destroy(&["spotter", "destroy", "--attempt", "1", RUN]).await;
                let refused = refused.unwrap_err().to_string();
                assert!(refused.contains("was not destroyed"), "{refused}");
                assert_eq!(world.market.alive().len(), 2);
                let lose = ["spotter", "destroy", "--lose-data", RUN, "--attempt"];
                destroy(&[&lose[..], &["1"]].concat()).await.unwrap();
                let newest = destroy(&[&lose[..], &["2"]].concat()).await;
                assert!(newest.is_err(), "that is the run's own box");
            } else {
                while world.attempts(RUN)[0].state != State::Gone {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                let step = world.attempts(RUN)[1].last_step;
                assert!(step >= Some(only_there), "{step:?}");
            }
            assert_eq!(world.market.alive().len(), 1, "{let_go}");
        });
        assert_eq!(run.outcome, Some(Outcome::Done));
        assert!(world.market.alive().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_is_found_by_its_label_and_rented_once() {
    let world = World::new(3, 50);
    world.market.lose_create_answers(1);
    world.plan(&spec(RUN));

    let run = world.drive(RUN).await;

    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
    assert_eq!(world.boxes.script().started.len(), 1);
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_somebody_else_took_is_passed_over() {
    let world = World::new(3, 50);
    world.market.snatch(1);
    world.plan(&spec(RUN));
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN)[0].machine_id, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_told_saved_and_never_restarted() {
    let world = World::new(3, 100);
    world.boxes.script().crash_at = Some((30, 7));
    world.plan(&spec(RUN));

    let run = world.drive(RUN).await;

    assert_eq!(run.outcome, Some(Outcome::Crashed));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 1);
    assert_eq!(
        (attempts[0].state, attempts[0].exit_code),
        (State::Failed, Some(7))
    );
    assert_eq!(
        world.market.gpu_charged(),
        0,
        "the GPU is not paid while the cause is looked at"
    );
    assert_eq!(world.market.alive().len(), 1, "the disk is kept for it");
    let told = world.told.0.lock().unwrap().join("\n");
    assert!(told.contains("ValueError"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn boxes_that_never_answer_are_given_up_after_three_and_none_is_left() {
    let world = World::new(8, 100);
    world.boxes.script().dead_boxes = 99;
    let mut spec = spec(RUN);
    spec.limits.bring_up = Duration::from_secs(300);
    world.plan(&spec);

    let run = world.drive(RUN).await;

    assert_eq!(run.outcome, Some(Outcome::Failed));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 3);
    let mut machines: Vec<_> = attempts.iter().map(|attempt| attempt.machine_id).collect();
    machines.dedup();
    assert_eq!(
        machines.len(),
        3,
        "a machine that did not come up is not tried again"
    );
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn attempts_and_policy_bound_the_recovery() {
    for (policy, attempts) in [(RecoverPolicy::Elsewhere, 2), (RecoverPolicy::Never, 1)] {
        let world = World::new(8, 10_000);
        let mut spec = spec(RUN);
        spec.recover.policy = policy;
        spec.recover.attempts = attempts;
        world.plan(&spec);
        let (run, ()) = tokio::join!(world.drive(RUN), async {
            for number in 1..=attempts {
                let attempt = world.until(RUN, number, State::Running).await;
                tokio::time::sleep(Duration::from_secs(20)).await;
                world.outbid(attempt.instance);
            }
        });
        assert_eq!(run.outcome, Some(Outcome::Interrupted));
        assert_eq!(world.attempts(RUN).len(), attempts as usize);
        assert_eq!(world.market.gpu_charged(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_market_that_does_not_answer_for_an_hour_is_no_verdict() {
    let world = World::new(3, 7200);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        world.market.set_unreachable(true);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        world.market.set_unreachable(false);
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_denies_a_box_whose_agent_answers_is_not_believed() {
    let world = World::new(3, 400);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        // For minutes; and once while the link is cut.
        world.market.deny_instances(12);
        tokio::time::sleep(Duration::from_secs(180)).await;
        world.boxes.script().cut = true;
        tokio::time::sleep(Duration::from_secs(20)).await;
        world.market.deny_instances(1);
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.boxes.script().cut = false;
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(world.attempts(RUN).len(), 1);
    assert_eq!(world.boxes.script().started.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_is_gone_and_silent_is_lost_and_followed_by_another() {
    let world = World::new(3, 400);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        let first = world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.market.vanish(first.instance.unwrap());
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
    let attempts = world.attempts(RUN);
    assert_eq!(attempts.len(), 2);
    let lost = world.store.newest_event(RUN, 1, "lost").unwrap().unwrap();
    // What passed until it was judged lost was paid for; that it trained nobody knows.
    let heard_us = lost.detail["heard_us"].as_i64().unwrap();
    let silent_s = (lost.time_us - heard_us) / 1_000_000;
    assert!((5..600).contains(&silent_s), "{silent_s} s: {lost:?}");
    let events = world.store.events(RUN, 0).unwrap();
    let times = spotter::run::trained::Times::of(1, &events, Some(attempts[0].state_us));
    assert_eq!(times.trained.last().unwrap().1, heard_us);
    assert_eq!(times.silent, [(heard_us, lost.time_us)]);
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_one_of_several_watchers_acts() {
    let world = World::new(5, 120);
    world.plan(&spec(RUN));
    let first = Lease::take(&world.store, RUN).unwrap();
    assert!(first.is_some());
    assert!(Lease::take(&world.store, RUN).unwrap().is_none());
    // Renewed for as long as it is held, whatever the clock says.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(Lease::take(&world.store, RUN).unwrap().is_none());
    drop(first);
    assert!(Lease::take(&world.store, RUN).unwrap().is_some());
}

/// A controller that is killed at any moment is followed by one that finds everything: the moments are seeded.
#[tokio::test(start_paused = true)]
async fn a_controller_killed_again_and_again_never_rents_twice_and_leaves_nothing() {
    for seed in 0..40u64 {
        let world = World::new(6, 90);
        world.market.lose_create_answers(u32::from(seed % 3 == 0));
        world.plan(&spec(RUN));
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut ended: Option<Result<RunRecord, CommandError>> = None;
        for life in 0..400 {
            let lifecycle = world.lifecycle();
            let lease = Lease::take(&world.store, RUN).unwrap();
            assert!(lease.is_some(), "seed {seed}: the dead hold no lease");
            let killed_after = Duration::from_millis(200 + next() % 9_000);
            let finished =
                tokio::time::timeout(killed_after, lifecycle.drive(RUN, Goal::End)).await;
            assert!(world.market.gpu_charged() <= 1, "seed {seed}, life {life}");
            if let Ok(result) = finished {
                ended = Some(result);
                break;
            }
        }
        let run = ended
            .unwrap_or_else(|| panic!("seed {seed}: never ended"))
            .unwrap();
        assert_eq!(run.outcome, Some(Outcome::Done), "seed {seed}");
        assert_eq!(world.boxes.script().started.len(), 1, "seed {seed}");
        assert!(world.market.alive().is_empty(), "seed {seed}");
    }
}
