//! What is told when checkpoints are not saved.

use std::sync::Arc;
use std::time::Duration;

use spotter_agent::checkpoints::{BackupError, backup_loop};
use spotter_bucket::ErrorKind;
use spotter_bucket::memory::MemoryBucket;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::world::{World, npz};

#[tokio::test(start_paused = true)]
async fn missing_rights_raise_the_alarm_and_new_keys_end_it() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.every = Duration::from_secs(600)
    });
    bucket.set_read_only(true);
    let stop = CancellationToken::new();
    let rounds = tokio::spawn(backup_loop(
        world.backup.clone(),
        Duration::from_secs(5),
        stop.clone(),
    ));
    world.write("step_1.npz", &npz(1, 2000));
    time::sleep(Duration::from_secs(500)).await;
    let state = world.backup.state();
    assert!(
        !state.alarm && state.problem.contains("refuses our keys") && state.pending == 1,
        "{state:?}"
    );
    assert_eq!(
        world.events("credentials.wanted").len(),
        1,
        "once, not per try"
    );

    time::sleep(Duration::from_secs(200)).await;
    assert!(world.backup.state().alarm);
    assert_eq!(world.events("backup.alarm").len(), 1);
    bucket.set_read_only(false);
    world.backup.credentials_changed();
    time::sleep(Duration::from_secs(10)).await;
    let state = world.backup.state();
    assert!(
        !state.alarm && state.problem.is_empty() && state.committed == 1,
        "{state:?}"
    );
    assert_eq!(world.events("backup.recovered").len(), 1);
    stop.cancel();
    rounds.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_without_any_checkpoint_raises_the_alarm() {
    let world = World::with_memory(|options| options.every = Duration::from_secs(600));
    let started_us = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_micros() as u64;
    world.backup.training(Some(started_us));
    time::sleep(Duration::from_secs(1190)).await;
    world.backup.round().await.unwrap();
    assert!(!world.backup.state().alarm);
    time::sleep(Duration::from_secs(20)).await;
    world.backup.round().await.unwrap();
    assert!(world.backup.state().alarm);
    world.write("step_1.npz", &npz(1, 2000));
    world.backup_all().await;
    assert!(!world.backup.state().alarm);
}

/// Lets so many seconds pass, with a look at the end of each minute.
async fn train(world: &World, seconds: u64) {
    for _ in 0..seconds / 60 {
        time::sleep(Duration::from_secs(60)).await;
        world.backup.round().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_training_that_has_stopped_saving_raises_the_alarm_and_one_that_saves_rarely_does_not() {
    let world = World::with_memory(|options| options.every = Duration::from_secs(600));
    let started_us = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_micros() as u64;
    world.backup.training(Some(started_us));
    // Every fifty minutes, of which ten are allowed: its habit.
    for step in 1..=4 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(world.backup_all().await.len(), 1);
        train(&world, 3_000).await;
        assert!(!world.backup.state().alarm, "after {step}");
    }
    train(&world, 3_600).await;
    assert!(world.backup.state().alarm, "a hundred and ten minutes");
    let told = world.events("backup.alarm");
    let reason = told[0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("the newest checkpoint was saved"),
        "{reason}"
    );
    world.backup.training(None);
    world.backup.round().await.unwrap();
    assert!(!world.backup.state().alarm, "nobody trains any more");
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_refuses_is_an_error_that_is_told_once_and_tried_again() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("step_1.npz", &npz(1, 2000));
    world.settle().await;
    bucket.fail_next("PutObject", 3, ErrorKind::Refused);
    for _ in 0..3 {
        let err = world.backup.round().await.unwrap_err();
        assert!(matches!(err, BackupError::Upload { .. }), "{err}");
    }
    assert_eq!(world.events("checkpoint.failed").len(), 1);
    assert!(world.backup.state().problem.contains("refused"));
    assert_eq!(world.backup.round().await.unwrap().len(), 1);
    assert_eq!(world.backup.state().problem, "");
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_read_is_never_taken_for_one_whose_files_are_saved() {
    let world = World::with_memory(|_| {});
    assert!(world.backup.state().unseen, "no look was had");
    // A link to itself: nobody can read it, not even root.
    let dir = world.path("");
    std::os::unix::fs::symlink("checkpoints", &dir).unwrap();
    let asked = world.backup.backup_now(Duration::from_secs(600), true);
    let err = asked.await.unwrap_err();
    assert!(matches!(err, BackupError::Unseen { .. }), "{err:?}");
    let state = world.backup.state();
    assert!(
        state.unseen && state.problem.contains("could not be read"),
        "{state:?}"
    );
    // An alarm may end the training: one bad look is none.
    assert!(!state.alarm, "{state:?}");
    tokio::time::sleep(Duration::from_secs(601)).await;
    world.backup.round().await.unwrap_err();
    assert!(world.backup.state().alarm);

    std::fs::remove_file(&dir).unwrap();
    world.write("step_1.npz", &npz(1, 2000));
    let state = world.backup.backup_now(Duration::from_secs(600), true);
    let state = state.await.unwrap();
    assert_eq!(
        (state.committed, state.unseen, state.alarm),
        (1, false, false)
    );
    assert_eq!(state.problem, "");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_leads_out_is_named_at_the_last_look_though_newer_ones_are_saved() {
    let world = World::with_memory(|_| {});
    let elsewhere = world.path("../elsewhere.npz");
    std::fs::create_dir_all(world.path("")).unwrap();
    std::fs::write(&elsewhere, npz(1, 2000)).unwrap();
    world.trained();
    std::os::unix::fs::symlink(&elsewhere, world.path("best.npz")).unwrap();
    world.write("step_2.npz", &npz(2, 2000));
    world.settle().await;
    assert_eq!(world.backup.round().await.unwrap().len(), 1);
    assert_eq!(world.events("checkpoint.unsaved").len(), 0, "it is young");

    let state = world.backup.backup_now(Duration::from_secs(100), true);
    let state = state.await.unwrap();
    let size_bytes = std::fs::metadata(&elsewhere).unwrap().len();
    assert_eq!(state.at_stake, [("best.npz".to_owned(), size_bytes)]);
    assert!(!state.alarm, "{state:?}");
    let told = world.events("checkpoint.unsaved");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["path"], "best.npz");
    let reason = told[0]["reason"].as_str().unwrap();
    for said in ["a link to /", "elsewhere.npz", "put a copy in its place"] {
        assert!(reason.contains(said), "{reason}");
    }
    assert_eq!(state.unsaved, [format!("best.npz: {reason}")]);
    tokio::time::sleep(Duration::from_secs(700)).await;
    world.backup.round().await.unwrap();
    assert!(!world.backup.state().alarm, "a newer one is saved");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_cannot_be_read_is_told_and_does_not_stop_the_others() {
    let world = World::with_memory(|_| {});
    world.write("step_1.npz", &npz(1, 2000));
    world.write("checkpoint-2/weights.npz", &npz(2, 2000));
    let unreadable = world.path("checkpoint-2/more.npz");
    std::os::unix::fs::symlink("more.npz", &unreadable).unwrap();
    let state = world.backup.backup_now(Duration::from_secs(100), true);
    let state = state.await.unwrap();
    assert_eq!((state.committed, state.pending), (1, 0), "{state:?}");
    assert!(state.unsaved_bytes > 0, "{state:?}");
    time::sleep(Duration::from_secs(700)).await;
    world.backup.round().await.unwrap();
    let state = world.backup.state();
    assert!(state.alarm, "{state:?}");
    assert!(
        state.unsaved[0].contains("more.npz cannot be read"),
        "{state:?}"
    );
    std::fs::remove_file(&unreadable).unwrap();
    assert_eq!(world.backup_all().await.len(), 1);
    assert_eq!(world.backup.state().unsaved_bytes, 0);
}
