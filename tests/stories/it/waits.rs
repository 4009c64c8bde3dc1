//! `spotter wait`: for several runs, of which one gets into trouble; over a jump of the date, and beside others who wait.

use std::time::Duration;

use spotter::{
    cli::Verb,
    commands::wait,
    error::{CommandError, ErrorKind},
    run::{State, lifecycle::Goal, vigil},
    spec::Results,
    store::Outcome,
};
use tokio::time::Instant;
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

#[tokio::test(start_paused = true)]
async fn one_that_goes_on_when_the_time_is_over_hides_none_that_ended_worse() {
    let world = World::new(6, 4_000);
    for (name, outcome) in [
        ("lost", Outcome::Lost),
        ("crashed", Outcome::Crashed),
        ("long", Outcome::Done),
    ] {
        world.plan(&spec(name));
        if name != "long" {
            world
                .store
                .end_run(name, outcome, Some("it ended so"))
                .unwrap();
        }
    }
    let code = async |names: &[&str]| {
        let words = [names, &["--timeout", "10m"]].concat();
        wait_verb(&world, &words).await.0.unwrap_err().exit_code()
    };
    let lost = code(&["long", "lost"]).await;
    assert_eq!(lost, ErrorKind::Lost.exit_code());
    let late = code(&["long", "crashed"]).await;
    assert_eq!(late, ErrorKind::TimedOut.exit_code());
}

#[tokio::test(start_paused = true)]
async fn the_time_for_waiting_goes_on_while_the_laptop_sleeps_and_when_its_date_is_set_back() {
    let world = World::new(6, 40_000);
    world.plan(&spec("one"));
    let began = Instant::now();
    let (waited, ()) = tokio::join!(wait_verb(&world, &["one", "--timeout", "8h"]), async {
        world.until("one", 1, State::Running).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        world.sleep_through(Duration::from_secs(10 * 3600));
    });
    let err = waited.0.unwrap_err();
    assert_eq!(err.exit_code(), ErrorKind::TimedOut.exit_code());
    assert!(
        began.elapsed() < Duration::from_secs(1200),
        "{:?}",
        began.elapsed()
    );
    let run = world.store.run("one").unwrap();
    assert_eq!(run.outcome, None, "nothing was ended");

    let began = Instant::now();
    let (waited, ()) = tokio::join!(wait_verb(&world, &["one", "--timeout", "1h"]), async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        world.set_back(Duration::from_secs(5 * 3600));
    });
    assert!(waited.0.is_err());
    let took = began.elapsed().as_secs();
    assert!((3600..3700).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn two_that_wait_for_a_run_act_one_at_a_time_through_a_night_of_sleep() {
    let world = World::new(6, 4_000);
    world.plan(&spec("one"));
    let (first, second) = (world.lifecycle(), world.another_process());
    let nights = async {
        world.until("one", 1, State::Running).await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(900)).await;
            // Whoever acted has no lease any more when both wake.
            world.sleep_through(Duration::from_secs(9 * 3600));
        }
    };
    let (first, second, ()) = tokio::join!(
        vigil::keep(&first, "one", Goal::End),
        vigil::keep(&second, "one", Goal::End),
        nights
    );
    for run in [first.unwrap(), second.unwrap()] {
        assert_eq!(run.outcome, Some(Outcome::Done));
    }
    assert_eq!(world.attempts("one").len(), 1, "nothing was rented twice");
    assert_eq!(world.boxes.script().started.len(), 1);
    assert!(world.market.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_looks_on_asks_ever_less_and_hears_of_the_end_all_the_same() {
    let world = World::new(6, 4_000);
    world.plan(&spec("one"));
    let (acts, looks) = (world.lifecycle(), world.another_process());
    let ends = async {
        let run = vigil::keep(&acts, "one", Goal::End).await.unwrap();
        (run, Instant::now())
    };
    let hears = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let run = vigil::keep(&looks, "one", Goal::End).await.unwrap();
        (run, Instant::now())
    };
    let ((ended, at), (heard, then)) = tokio::join!(ends, hears);
    assert_eq!(
        (ended.outcome, heard.outcome),
        (Some(Outcome::Done), Some(Outcome::Done))
    );
    let late = then.duration_since(at);
    assert!(late <= Duration::from_secs(10), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn twelve_runs_are_waited_for_at_once() {
    let world = World::new(16, 300);
    let names: Vec<String> = (0..12).map(|number| format!("run-{number}")).collect();
    for name in &names {
        world.plan(&spec(name));
    }
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    let began = Instant::now();
    let (result, paper) = wait_verb(&world, &words).await;
    assert!(result.is_ok(), "{}", paper.text());
    // As long as one of them takes, and not twelve times that.
    let took = began.elapsed().as_secs();
    assert!(took < 1_200, "{took} s");
    let done = paper.text().matches("is over: done").count();
    assert_eq!(done, 12, "{}", paper.text());
    assert!(world.market.alive().is_empty());
}
