//! `spotter wait` for several runs, of which one gets into trouble.

use std::time::Duration;

use spotter::{
    cli::Verb,
    commands::wait,
    error::{CommandError, ErrorKind},
    run::State,
    spec::Results,
};
use tokio_util::sync::CancellationToken;

use crate::world::{Paper, World, spec};

/// `spotter wait ...`, and what it wrote.
async fn wait_verb(world: &World, words: &[&str]) -> (Result<(), CommandError>, Paper) {
    let words: Vec<&str> = ["spotter", "wait"].iter().chain(words).copied().collect();
    let (mut ui, deps, verb, paper) = world.typed(&words);
    let Verb::Wait(args) = &verb else {
        panic!("`wait` is wait");
    };
    let stop = CancellationToken::new();
    (wait::wait(&mut ui, &deps, args, stop).await, paper)
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_not_watched_any_more_is_told_at_once_and_hides_no_other() {
    let world = World::new(6, 100);
    // Its results have no place here, which only a person can mend.
    let mut stuck = spec("stuck");
    let file = world.folder().join("file");
    std::fs::write(&file, "no folder").unwrap();
    stuck.results = Some(Results {
        fetch: vec!["out".to_owned()],
        to: file.join("results"),
    });
    world.plan(&stuck);
    world.plan(&spec("long"));
    world.drive_for("stuck", Duration::from_secs(60)).await;
    let ((result, paper), text) = tokio::join!(wait_verb(&world, &["stuck", "long"]), async {
        world.until("long", 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(70)).await;
        world.store.run("long").unwrap()
    });
    assert_eq!(text.outcome, None, "the other one goes on meanwhile");
    let written = paper.text();
    let told = written.find("`stuck` is not watched any more").unwrap();
    let over = written.find("`long` is over: done").unwrap();
    assert!(told < over, "{written}");
    assert!(written.contains("were not fetched"), "{written}");
    assert_eq!(
        result.unwrap_err().exit_code(),
        ErrorKind::Failed.exit_code()
    );
    let row = written
        .lines()
        .find(|line| line.starts_with("long "))
        .unwrap();
    assert!(row.contains("done"), "{written}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_ends_too_early_names_the_money_that_goes_on() {
    let world = World::new(6, 4_000);
    for name in ["one", "two"] {
        world.plan(&spec(name));
    }
    let (result, paper) = wait_verb(&world, &["one", "two", "--timeout", "10m"]).await;
    let err = result.unwrap_err();
    assert_eq!(err.exit_code(), ErrorKind::TimedOut.exit_code());
    for name in ["one", "two"] {
        let money = format!("`{name}`: instance");
        let line = err.causes().iter().find(|line| line.starts_with(&money));
        assert!(line.unwrap().contains("$0.240/h"), "{err:?}");
        let written = paper.text();
        let row = format!("{name} ");
        let row = written.lines().find(|line| line.starts_with(&row)).unwrap();
        assert!(row.contains("$0.240/h"), "{written}");
    }
}
