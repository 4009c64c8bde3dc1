//! Verbs that only look at the boxes of runs that nobody watches: what they take in, and that nobody is there for it.

use std::time::Duration;

use serde_json::json;
use spotter::{
    cli::Verb,
    commands::{checklist, ps, report, status},
    provider::SshAddress,
    run::{State, silence},
};

use crate::world::{World, spec};

const RUN: &str = "story";
/// Verbs that look.
const LOOKS: [&[&str]; 4] = [
    &["ps"],
    &["status", RUN],
    &["checklist", RUN],
    &["report", RUN, "--markdown"],
];

/// What a verb wrote.
async fn typed(world: &World, words: &[&str]) -> String {
    let (mut ui, deps, verb, paper) = world.typed(&[&["spotter"][..], words].concat());
    // A line of a checklist may be wrong.
    let _ = match &verb {
        Verb::Ps(args) => ps::ps(&mut ui, &deps, args).await,
        Verb::Status(args) => status::status(&mut ui, &deps, args).await,
        Verb::Checklist(args) => checklist::checklist(&mut ui, &deps, args).await,
        Verb::Report(args) => report::report(&mut ui, &deps, args).await,
        other => panic!("{other:?} is not in these stories"),
    };
    paper.text()
}

/// A run that trains, of which whoever watched left.
async fn left_alone() -> World {
    let world = World::new(3, 4_000);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    assert_eq!(world.attempts(RUN)[0].state, State::Running);
    world
}

#[tokio::test(start_paused = true)]
async fn a_table_marks_a_box_that_cannot_be_reached_and_none_that_takes_its_time() {
    let world = left_alone().await;
    world.boxes.script().hangs = Some("status");
    let shown = typed(&world, &["ps"]).await;
    assert!(shown.contains("running"), "{shown}");
    assert!(!shown.contains("no answer"), "{shown}");
    world.boxes.script().hangs = None;
    world.boxes.script().cut = true;
    let shown = typed(&world, &["ps"]).await;
    assert!(shown.contains("running, no answer"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_silence_that_was_told_is_over_for_whoever_gets_an_answer() {
    for words in [&["ps"][..], &["status", RUN]] {
        let world = left_alone().await;
        let now_us = world.clock().now_us();
        let detail = json!({"since_us": now_us - 300_000_000, "text": "no word from its box"});
        world
            .store
            .note(RUN, 1, now_us, silence::SILENT, &detail)
            .unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        let shown = typed(&world, words).await;
        assert!(!shown.contains("no word"), "{words:?}: {shown}");
        let attempt = world.attempts(RUN).remove(0);
        assert_eq!(silence::since_us(&world.store, &attempt).unwrap(), None);
        assert!(world.kinds(RUN).contains(&silence::HEARD.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_only_looks_takes_the_news_in_and_is_not_there_for_the_box() {
    for words in LOOKS {
        let world = left_alone().await;
        let before = world.attempts(RUN).remove(0);
        tokio::time::sleep(Duration::from_secs(1_800)).await;
        world.boxes.script().calls.clear();
        let shown = typed(&world, words).await;
        let after = world.attempts(RUN).remove(0);
        assert!(
            after.last_step.unwrap() >= before.last_step.unwrap() + 1_700,
            "{words:?}: {shown}"
        );
        assert!(after.last_event > before.last_event, "{words:?}: {shown}");
        let calls = world.boxes.script().calls.clone();
        let called = |call: &str| calls.iter().any(|(called, _)| *called == call);
        assert!(called("look"), "{words:?}");
        // Such a link counts as somebody, and replaces an agent of another build.
        assert!(!called("open"), "{words:?}");
        assert_eq!(world.store.lease(RUN).unwrap(), None);
        assert_eq!(world.store.run(RUN).unwrap().outcome, None);
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_market_says_that_a_box_is_goes_on_record_once_it_answered_there() {
    for answers in [true, false] {
        let world = left_alone().await;
        let attempt = world.attempts(RUN).remove(0);
        // Of whoever watches: the market may answer late.
        let recorded = vec![SshAddress {
            host: "203.0.113.9".to_owned(),
            port: 41_000,
            proxy: false,
        }];
        let instance = attempt.instance.unwrap();
        world
            .store
            .record_addresses(RUN, 1, instance, &recorded)
            .unwrap();
        match answers {
            true => {
                world.boxes.script().breaks.insert("look", 1);
            }
            false => world.boxes.script().cut = true,
        }
        typed(&world, &["ps"]).await;
        let expected = if answers { &attempt.ssh } else { &recorded };
        assert_eq!(&world.attempts(RUN)[0].ssh, expected, "{answers}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_training_that_ended_with_nobody_there_is_told_as_ended_by_whoever_looks() {
    for (crash_at, standing, code) in [
        (None, "finished, still billing", "exit code 0"),
        (Some((1_000, 3)), "failed, still billing", "exit code 3"),
    ] {
        for words in LOOKS {
            let world = left_alone().await;
            world.boxes.script().crash_at = crash_at;
            let until_s = if crash_at.is_some() { 1_200 } else { 4_200 };
            tokio::time::sleep(Duration::from_secs(until_s)).await;
            let shown = typed(&world, words).await;
            let says = |text: &str| assert!(shown.contains(text), "{words:?}: {shown}");
            says(code);
            says("nobody has collected it");
            if words[0] != "checklist" {
                says(standing);
            }
            assert!(!shown.contains("it trains, at"), "{words:?}: {shown}");
            // Nothing was done about it: that is for whoever acts.
            assert_eq!(world.attempts(RUN)[0].state, State::Running);
            assert_eq!(world.store.run(RUN).unwrap().outcome, None);
        }
    }
}
