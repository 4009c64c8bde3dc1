//! Bucket keys of a box: tried before they replace what it holds, given by whoever has some that work, and renewed while a box saves
//! its last checkpoints.

use std::{sync::Arc, time::Duration};

use spotter::{
    cli::Verb,
    commands::up,
    error::CommandError,
    run::{
        State,
        lease::Lease,
        lifecycle::{Goal, Lifecycle},
        site::Trial,
        vigil,
    },
    store::Outcome,
};
use tokio_util::sync::CancellationToken;

use crate::world::{World, spec};

const RUN: &str = "story";

/// What a bucket says of keys that it does not accept, by what is wrong with them.
const FAULTS: [(&str, &str); 4] = [
    (
        "expired",
        "CreateMultipartUpload runs/story: the provided token has expired (ExpiredToken)",
    ),
    (
        "wrong secret",
        "CreateMultipartUpload runs/story: no (SignatureDoesNotMatch)",
    ),
    (
        "unknown id",
        "CreateMultipartUpload runs/story: no such id (InvalidAccessKeyId)",
    ),
    (
        "denied",
        "CreateMultipartUpload runs/story: this key may not do that (AccessDenied)",
    ),
];

fn given(world: &World) -> usize {
    let script = world.boxes.script();
    let calls = script.calls.iter();
    calls
        .filter(|(call, _)| *call == "give_credentials")
        .count()
}

/// Id of the keys that the newest box holds.
fn held(world: &World) -> Option<String> {
    let instance = world.attempts(RUN).last()?.instance?;
    world.boxes.script().held.get(&instance).cloned()
}

/// The laptop has these keys from now on, which come to this.
fn change_keys(world: &World, id: &'static str, trial: Trial) {
    let mut script = world.boxes.script();
    script.bucket_key = Some(id);
    script.trials.insert(id, trial);
}

/// Lines that people were told of keys, without the run's name.
fn told_of_keys(world: &World) -> Vec<String> {
    let told = world.told.0.lock().unwrap();
    let of_keys = told.iter().filter(|line| line.contains("keys"));
    of_keys
        .map(|line| line.trim_start_matches("story: ").to_owned())
        .collect()
}

fn check(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => "keys",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

/// An error as it is printed, without the money.
fn printed(err: &CommandError) -> String {
    let causes = err.causes().iter().map(|cause| format!("cause: {cause}"));
    let hints = err.hints().iter().map(|hint| format!("hint: {hint}"));
    let first = format!("error: {}", err.message());
    let lines = [first].into_iter().chain(causes).chain(hints);
    lines.collect::<Vec<_>>().join("\n")
}

/// Types `spotter up`, and answers what it wrote.
async fn type_up(world: &World) -> String {
    let (mut ui, deps, verb, paper) = world.typed(&["spotter", "up", RUN]);
    let Verb::Up(args) = &verb else {
        panic!("{verb:?} is another verb");
    };
    let done = up::up(&mut ui, &deps, args, CancellationToken::new()).await;
    done.unwrap();
    paper.text()
}

#[tokio::test(start_paused = true)]
async fn keys_that_do_not_work_never_replace_those_of_a_box_that_do() {
    let mut said = Vec::new();
    for (name, why) in FAULTS {
        let world = World::new(2, 3_000);
        world.plan(&spec(RUN));
        world.drive_for(RUN, Duration::from_secs(120)).await;
        assert_eq!(held(&world).as_deref(), Some("OWN"), "{name}");
        world.told.0.lock().unwrap().clear();

        change_keys(&world, "BAD", Trial::Refused(why.to_owned()));
        world.drive_for(RUN, Duration::from_secs(25 * 60)).await;
        assert_eq!(held(&world).as_deref(), Some("OWN"), "{name}");
        assert_eq!(world.attempts(RUN)[0].state, State::Running, "{name}");
        let told = told_of_keys(&world);
        assert_eq!(told.len(), 1, "said once: {told:?}");
        said.push(format!("{name}: {}", told[0]));
        // To its end with what it holds, and nothing is lost.
        assert_eq!(
            world.drive(RUN).await.outcome,
            Some(Outcome::Done),
            "{name}"
        );
        assert_eq!(held(&world).as_deref(), Some("OWN"), "{name}");
        assert!(world.market.alive().is_empty(), "{name}");
    }
    check("kept", &said.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_hands_over_what_works_and_nothing_else() {
    let world = World::new(2, 6_000);
    world.plan(&spec(RUN));
    let (run, ()) = tokio::join!(world.drive(RUN), async {
        world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(5 * 60)).await;
        let (_, why) = FAULTS[1];
        change_keys(&world, "BAD", Trial::Refused(why.to_owned()));
        tokio::time::sleep(Duration::from_secs(15 * 60)).await;
        assert_eq!(held(&world).as_deref(), Some("OWN"));
        assert!(world.boxes.script().tried.contains(&"BAD".to_owned()));

        change_keys(&world, "NEXT", Trial::Works);
        tokio::time::sleep(Duration::from_secs(2 * 60)).await;
        assert_eq!(held(&world).as_deref(), Some("NEXT"));
        // The same ones are neither tried nor given again while nothing is wrong with them.
        let (before, tried) = (given(&world), world.boxes.script().tried.len());
        tokio::time::sleep(Duration::from_secs(40 * 60)).await;
        assert_eq!(given(&world), before);
        assert_eq!(world.boxes.script().tried.len(), tried);
    });
    assert_eq!(run.outcome, Some(Outcome::Done));
}

#[tokio::test(start_paused = true)]
async fn a_laptop_without_a_network_judges_no_keys() {
    let world = World::new(2, 6_000);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    change_keys(
        &world,
        "UNTRIED",
        Trial::Unclear("no answer in 15 s".to_owned()),
    );
    world.drive_for(RUN, Duration::from_secs(5 * 60)).await;
    assert_eq!(
        held(&world).as_deref(),
        Some("OWN"),
        "it may have been good"
    );
    assert!(
        world.was_told("from here they could not be tried on s3://bucket/runs (no answer in 15 s)")
    );

    // An agent that was started again holds none: anything is better.
    world.boxes.script().backup.problem =
        Some("ListObjectsV2 runs: no bucket keys are known".to_owned());
    world.drive_for(RUN, Duration::from_secs(30)).await;
    assert_eq!(held(&world).as_deref(), Some("UNTRIED"));
}

#[tokio::test(start_paused = true)]
async fn the_last_is_saved_with_what_the_box_holds_where_the_laptop_has_nothing() {
    let world = World::new(2, 600);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    world.boxes.script().bucket_key = None;
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert_eq!(held(&world).as_deref(), Some("OWN"));
    assert!(world.was_told("its box goes on with those it has"));
}

#[tokio::test(start_paused = true)]
async fn an_up_beside_a_watcher_gives_the_box_its_keys_and_says_so() {
    let world = World::new(2, 6_000);
    world.plan(&spec(RUN));
    let acting = async {
        let lifecycle = Lifecycle {
            sites: Arc::new(world.boxes.with_bucket_key("FIRST")),
            ..world.another_process()
        };
        vigil::keep(&lifecycle, RUN, Goal::End).await.unwrap()
    };
    let looking_on = async {
        world.until(RUN, 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(held(&world).as_deref(), Some("FIRST"));
        let (_, why) = FAULTS[0];
        world
            .boxes
            .script()
            .trials
            .insert("FIRST", Trial::Refused(why.to_owned()));
        world.boxes.script().backup.problem = Some(format!("the bucket refuses our keys: {why}"));
        tokio::time::sleep(Duration::from_secs(5 * 60)).await;
        assert_eq!(
            held(&world).as_deref(),
            Some("FIRST"),
            "there are no others"
        );

        world.boxes.script().bucket_key = Some("SECOND");
        let (written, ()) = tokio::join!(type_up(&world), async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert_eq!(held(&world).as_deref(), Some("SECOND"));
            world.boxes.script().backup.problem = None;
            // Whoever acts does not bring its own back.
            tokio::time::sleep(Duration::from_secs(45 * 60)).await;
            assert_eq!(held(&world).as_deref(), Some("SECOND"));
        });
        written
    };
    let (run, written) = tokio::join!(acting, looking_on);
    assert_eq!(run.outcome, Some(Outcome::Done));
    let of_keys = written
        .lines()
        .filter(|line| line.contains("another spotter") || line.contains("Another spotter"));
    check("beside", &of_keys.collect::<Vec<_>>().join("\n"));
}

#[tokio::test(start_paused = true)]
async fn an_up_beside_a_watcher_with_keys_that_do_not_work_changes_nothing_and_says_so() {
    let world = World::new(2, 1_000);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    let other = world.another_process();
    let _acting = Lease::take(&other.store, RUN).unwrap().unwrap();
    world.told.0.lock().unwrap().clear();
    let (_, why) = FAULTS[2];
    change_keys(&world, "BAD", Trial::Refused(why.to_owned()));
    world.lifecycle().hand_over_beside(RUN).await.unwrap();
    world.boxes.script().bucket_key = None;
    world.lifecycle().hand_over_beside(RUN).await.unwrap();
    world.boxes.script().cut = true;
    world.lifecycle().hand_over_beside(RUN).await.unwrap();
    assert_eq!(held(&world).as_deref(), Some("OWN"));
    check("beside_in_vain", &told_of_keys(&world).join("\n"));
}

#[tokio::test(start_paused = true)]
async fn a_box_that_comes_up_goes_on_with_the_keys_it_has_or_says_what_to_type_next() {
    let mut said = Vec::new();
    for (name, why) in FAULTS {
        for has_some in [true, false] {
            let world = World::new(2, 40);
            world.plan(&spec(RUN));
            // Killed as soon as its keys came, and before.
            world.boxes.script().hangs = Some(if has_some {
                "prove_bucket"
            } else {
                "give_credentials"
            });
            world.drive_for(RUN, Duration::from_secs(120)).await;
            world.boxes.script().hangs = None;
            assert_eq!(held(&world).is_some(), has_some, "{name}");
            change_keys(&world, "BAD", Trial::Refused(why.to_owned()));
            if has_some {
                assert_eq!(
                    world.drive(RUN).await.outcome,
                    Some(Outcome::Done),
                    "{name}"
                );
                assert_eq!(held(&world).as_deref(), Some("OWN"), "{name}");
                assert_eq!(world.attempts(RUN).len(), 1, "{name}");
                continue;
            }
            let lease = Lease::take(&world.store, RUN).unwrap().unwrap();
            let refused = world.lifecycle().drive(RUN, Goal::End).await;
            said.push(printed(&refused.unwrap_err()));
            // A pair of keys is mended by who made it; the box waits for that. Rights are another matter: nothing was trained yet.
            let is_over = name == "denied";
            let boxes = if is_over { 0 } else { 1 };
            assert_eq!(world.market.alive().len(), boxes, "{name}");
            // Why is kept with the attempt and among its events, until it trains.
            let kind = if is_over {
                "bring_up_failed"
            } else {
                "bring_up_paused"
            };
            let told = world.store.newest_event(RUN, 1, kind).unwrap().unwrap();
            let reason = world.attempts(RUN)[0].reason.clone().unwrap();
            assert_eq!(told.detail["reason"], reason.as_str(), "{name}");
            assert!(reason.contains(why), "{name}: {reason}");
            if !is_over {
                change_keys(&world, "GOOD", Trial::Works);
                drop(lease);
                assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
                assert_eq!(world.attempts(RUN)[0].reason, None, "{name}");
            }
        }
    }
    check("before_training", &said.join("\n\n"));
}

#[tokio::test(start_paused = true)]
async fn a_box_gets_newer_keys_while_its_last_checkpoints_wait_for_them() {
    let world = World::new(3, 20);
    world.plan(&spec(RUN));
    world.boxes.script().hangs = Some("backup_now");
    world.drive_for(RUN, Duration::from_secs(5 * 60)).await;
    assert_eq!(world.attempts(RUN)[0].state, State::Finishing);

    let refused = "the bucket refuses our keys: PutObject: the token has expired (ExpiredToken)";
    for (problem, expected) in [(None, 1..=1), (Some(refused.to_owned()), 5..=6)] {
        world.boxes.script().backup.problem = problem;
        let before = given(&world);
        world.drive_for(RUN, Duration::from_secs(5 * 60 + 30)).await;
        let given = given(&world) - before;
        assert!(expected.contains(&given), "{given} of {expected:?}");
    }
    assert!(world.was_told("the bucket does not take it yet: the bucket refuses our keys"));

    world.boxes.script().hangs = None;
    world.boxes.script().backup.problem = None;
    assert_eq!(world.drive(RUN).await.outcome, Some(Outcome::Done));
    assert!(world.market.alive().is_empty());
}
