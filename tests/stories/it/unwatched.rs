//! A report of a run that nobody watched: it shows what the box kept meanwhile, or what it left in the bucket.

use std::time::Duration;

use serde_json::{Value, json};
use spotter::{
    agent_client::{AgentEvent, LogPiece, LogPosition},
    cli::Verb,
    commands::{report, status},
    run::site::LeftLog,
    store::Outcome,
};

use crate::world::{Paper, World, spec};

const RUN: &str = "story";

/// `spotter report RUN --json ...`: what it says of itself, and what was said beside it.
async fn reported(world: &World, more: &[&str]) -> (Value, String) {
    let page = world.folder().join("page.html");
    let page = page.to_str().unwrap();
    let mut words = vec!["spotter", "report", RUN, "--json", "-o", page];
    words.extend(more);
    let (mut ui, deps, verb, paper) = world.typed(&words);
    let Verb::Report(args) = &verb else {
        panic!("`report` is report");
    };
    report::report(&mut ui, &deps, args).await.unwrap();
    let text = Paper::text(&paper);
    let json = text.lines().find(|line| line.starts_with('{')).unwrap();
    (serde_json::from_str(json).unwrap(), text.clone())
}

fn step(figures: &Value) -> u64 {
    figures["step"].as_u64().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn a_report_brings_home_what_the_box_kept_while_nobody_watched() {
    let world = World::new(3, 4_000);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    let (before, _) = reported(&world, &["--recorded"]).await;
    tokio::time::sleep(Duration::from_secs(1_800)).await;
    let (recorded, said) = reported(&world, &["--recorded"]).await;
    assert_eq!(step(&before), step(&recorded), "{said}");

    let events = world.kinds(RUN).len();
    let (figures, said) = reported(&world, &[]).await;
    assert!(said.contains("Nobody watches `story`"), "{said}");
    assert!(
        step(&figures) >= step(&before) + 1_700,
        "{before} {figures}"
    );
    assert!(world.kinds(RUN).len() > events, "its events came, too");
    // It only looked: the run goes on, and whoever comes next acts for it.
    assert_eq!(world.store.run(RUN).unwrap().outcome, None);
    assert_eq!(world.store.lease(RUN).unwrap(), None);
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
}

#[tokio::test(start_paused = true)]
async fn a_report_shows_what_a_box_that_is_gone_left_in_its_bucket() {
    let world = World::new(3, 4_000);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    let attempt = world.attempts(RUN).remove(0);
    world.market.outbid(attempt.instance.unwrap());
    world.boxes.end_container(attempt.instance.unwrap());
    {
        let mut script = world.boxes.script();
        script.left_log = LeftLog {
            pieces: vec![LogPiece {
                position: LogPosition {
                    generation: 9,
                    offset: 0,
                },
                data: b"step 3999/4000 | loss 1.25\n".to_vec(),
                gap_bytes: 0,
                end: false,
            }],
            too_large: Vec::new(),
        };
        script.left_events = vec![AgentEvent {
            seq: 500,
            time_us: 1,
            attempt: 1,
            kind: "window".to_owned(),
            run: RUN.to_owned(),
            detail: json!({}),
        }];
    }
    let (figures, said) = reported(&world, &[]).await;
    assert_eq!(figures["last_loss"], 1.25, "{figures} {said}");
    let kinds = world.kinds(RUN);
    assert!(kinds.iter().any(|kind| kind == "window"), "{kinds:?}");

    // A bucket that does not answer is told, and what is here is shown all the same.
    world.boxes.script().logs_away = 1;
    let (again, said) = reported(&world, &[]).await;
    assert!(said.contains("ends where it was watched last"), "{said}");
    assert_eq!(again["last_loss"], 1.25, "{again}");
}

#[tokio::test(start_paused = true)]
async fn a_status_takes_the_news_of_the_box_in_before_it_shows_anything() {
    let world = World::new(3, 4_000);
    world.plan(&spec(RUN));
    world.drive_for(RUN, Duration::from_secs(120)).await;
    let before = world.attempts(RUN).remove(0);
    tokio::time::sleep(Duration::from_secs(1_800)).await;
    let (mut ui, deps, verb, paper) = world.typed(&["spotter", "status", RUN]);
    let Verb::Status(args) = &verb else {
        panic!("`status` is status");
    };
    status::status(&mut ui, &deps, args).await.unwrap();
    let shown = paper.text();
    let number = |before: &str| -> u64 {
        let line = shown.lines().find_map(|line| line.strip_prefix(before));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.unwrap_or_else(|| panic!("no {before}: {shown}"))
            .parse()
            .unwrap()
    };
    let step = number("  step ");
    assert!(step >= before.last_step.unwrap() + 1_700, "{shown}");
    assert!(number("  checkpoints ") >= step / 10 - 2, "{shown}");
    // It only looked.
    assert_eq!(world.store.lease(RUN).unwrap(), None);
    assert_eq!(world.store.run(RUN).unwrap().outcome, None);
}
