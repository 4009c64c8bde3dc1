//! The end of a session, and of a box.

use std::sync::Arc;
use std::time::Duration;

use spotter_bucket::ErrorKind;
use spotter_bucket::memory::MemoryBucket;
use tokio::time;

use crate::world::{MIB, World, noise, npz};

#[tokio::test(start_paused = true)]
async fn at_the_end_of_the_session_what_has_no_proof_is_taken_at_once() {
    let world = World::with_memory(|_| {});
    world.write("weights.bin", &noise(1, 5000));
    world.write("step_5.npz", &npz(1, 5000));
    let began = time::Instant::now();
    let state = world
        .backup
        .backup_now(Duration::from_secs(100), true)
        .await
        .unwrap();
    assert_eq!(
        (state.committed, state.pending, state.unsaved_bytes),
        (2, 0, 0)
    );
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_backup_on_request_waits_for_what_must_settle_and_ends_at_its_deadline() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("weights.bin", &noise(1, 5000));
    let state = world
        .backup
        .backup_now(Duration::from_secs(100), false)
        .await
        .unwrap();
    assert_eq!(state.committed, 1);

    world.write("more.bin", &noise(2, 20 * MIB));
    bucket.fail_next("UploadPart", u32::MAX, ErrorKind::Transient);
    let began = time::Instant::now();
    let state = world
        .backup
        .backup_now(Duration::from_secs(100), true)
        .await
        .unwrap();
    assert_eq!((state.committed, state.pending), (1, 1));
    assert!(
        began.elapsed() <= Duration::from_secs(101),
        "{:?}",
        began.elapsed()
    );
    bucket.heal();
    assert_eq!(
        world
            .backup
            .backup_now(Duration::from_secs(100), true)
            .await
            .unwrap()
            .committed,
        2
    );
}

#[tokio::test(start_paused = true)]
async fn before_the_box_goes_what_fits_is_finished_and_the_rest_is_in_the_journal() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("step_1.npz", &npz(1, 2000));
    let flushed = world.backup.flush(Duration::from_secs(10)).await;
    assert_eq!(
        (flushed.committed.len(), flushed.unsaved),
        (1, 0),
        "whole files need not settle"
    );

    // Two parts, the review, Complete and the commit are left, at 20 s each: too much for 30 s.
    let world = World::new(bucket.clone());
    world.write("step_2.npz", &npz(2, 40 * MIB));
    bucket.set_latency(Duration::from_secs(20));
    let backup = world.backup.clone();
    let round = tokio::spawn(async move { backup.round().await });
    time::sleep(Duration::from_secs(90)).await;
    let began = time::Instant::now();
    let flushed = world.backup.flush(Duration::from_secs(30)).await;
    assert!(began.elapsed() <= Duration::from_secs(31));
    assert_eq!((flushed.committed.len(), flushed.unsaved), (0, 1));
    assert_eq!(round.await.unwrap().unwrap(), []);
    let failed = world.events("checkpoint.failed");
    assert!(failed[0]["done_bytes"].as_u64().unwrap() > 0, "{failed:?}");
    bucket.heal();
    let sent = bucket.count("UploadPart");
    let world = world.restarted(bucket.clone());
    world.backup_all().await;
    assert!(
        bucket.count("UploadPart") - sent < 6,
        "what had arrived was not sent again"
    );
}
