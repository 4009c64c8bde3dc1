//! A checkpoint that a mark in the bucket calls damaged: whoever looks at its run is told, and it counts for no safe model.

use spotter::{
    cli::Verb,
    commands::{checklist, report, status},
    run::marks,
};

use crate::world::{World, commit_id, spec};

const RUN: &str = "story";

/// What a verb wrote.
async fn typed(world: &World, words: &[&str]) -> String {
    let (mut ui, deps, verb, paper) = world.typed(words);
    // A line of a checklist may be wrong.
    let _ = match &verb {
        Verb::Status(args) => status::status(&mut ui, &deps, args).await,
        Verb::Checklist(args) => checklist::checklist(&mut ui, &deps, args).await,
        Verb::Report(args) => report::report(&mut ui, &deps, args).await,
        other => panic!("{other:?} is not in these stories"),
    };
    paper.text()
}

#[tokio::test(start_paused = true)]
async fn a_mark_on_the_newest_checkpoint_is_told_wherever_people_look_until_it_is_gone() {
    let world = World::new(2, 100);
    world.plan(&spec(RUN));
    world.drive(RUN).await;
    let safe = "in the bucket, of step 100; the log ends";
    let shown = typed(&world, &["spotter", "checklist", RUN]).await;
    assert!(shown.contains(safe), "{shown}");

    let key = |step: u64| format!("runs/{RUN}/damaged/{}.json", commit_id(step));
    world.boxes.bucket().insert(&key(20), "{}");
    world.boxes.bucket().insert(&key(100), "{}");
    let told = "the newest checkpoint in the bucket, of step 100, was found damaged; the newest that was not is of step 90";
    for words in [
        ["status", RUN].as_slice(),
        &["checklist", RUN],
        &["report", RUN, "--markdown"],
    ] {
        let shown = typed(&world, &[&["spotter"][..], words].concat()).await;
        assert!(shown.contains(told), "{words:?}: {shown}");
        assert!(!shown.contains(safe), "{words:?}: {shown}");
    }
    let kinds = world.kinds(RUN);
    let marked = kinds.iter().filter(|kind| *kind == marks::DAMAGED);
    assert_eq!(marked.count(), 2, "each once, however often it was read");
    // What was read is on record, for those who ask nobody.
    let shown = typed(&world, &["spotter", "status", RUN, "--recorded"]).await;
    assert!(shown.contains(told), "{shown}");

    assert!(world.boxes.bucket().remove(&key(100)));
    let shown = typed(&world, &["spotter", "checklist", RUN]).await;
    assert!(shown.contains(safe), "{shown}");
    assert!(world.kinds(RUN).contains(&marks::UNMARKED.to_owned()));
}
