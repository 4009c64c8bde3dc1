//! The end of a session, and of a box.

use std::sync::Arc;
use std::time::Duration;

use spotter_agent::checkpoints::CheckpointInfo;
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

#[tokio::test(start_paused = true)]
async fn what_its_writer_died_over_is_not_believed_for_its_silence() {
    let world = World::with_memory(|_| {});
    world.trained();
    // Any bytes, as a flax file has them: nothing in it says where it ends.
    world.write("step_1.msgpack", &noise(1, 5000));
    assert_eq!(world.backup_all().await.len(), 1);
    world.write("step_2.msgpack", &noise(2, 2500));
    world.write("step_3.npz", &npz(3, 5000));
    // What is renamed when it was written is done.
    world.write(".new", &noise(9, 2500));
    std::thread::sleep(Duration::from_millis(12));
    std::fs::rename(world.path(".new"), world.path("step_9.msgpack")).unwrap();
    let died = |world: &World| {
        let now_us = spotter_agent::now_us();
        world.backup.died(&spotter_agent::checkpoints::Death {
            began_us: now_us,
            ended_us: now_us,
            until_us: now_us,
            how: "signal 9".to_owned(),
        });
    };
    died(&world);
    let state = world
        .backup
        .backup_now(Duration::from_secs(100), true)
        .await
        .unwrap();
    let steps = |manifests: Vec<spotter_bucket::Manifest>| -> Vec<_> {
        manifests.iter().map(|one| one.step.unwrap()).collect()
    };
    assert_eq!(steps(world.manifests().await), [9, 3, 1]);
    assert_eq!(state.pending, 0);
    let told = world.events("checkpoint.unsaved");
    assert_eq!(
        (told.len(), &told[0]["path"]),
        (1, &"step_2.msgpack".into()),
        "{told:?}"
    );
    let reason = told[0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("died (signal 9)") && reason.contains("complete_when"),
        "{reason}"
    );
    // Nor is it later, nor by another agent, nor when the next training goes on.
    let bucket = world.bucket();
    let world = world.restarted(bucket);
    assert_eq!(world.backup_all().await, []);
    std::thread::sleep(Duration::from_millis(12));
    world.trained();
    world.write("step_4.msgpack", &noise(4, 5000));
    assert_eq!(world.backup_all().await.len(), 1);
    assert_eq!(steps(world.manifests().await), [4, 9, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_share_that_is_there_long_before_the_others_waits_for_them() {
    let world = World::with_memory(|_| {});
    world.trained();
    world.backup.ranks(Some(2));
    let lone = async |name: &str, seed| {
        world.write(name, &npz(seed, 500));
        assert_eq!(world.backup_all().await, [], "{name}");
        time::sleep(Duration::from_secs(60)).await;
        world.backup.round().await.unwrap();
        let unsaved = world.backup.state().unsaved;
        let said = "runs on 2 GPUs: the others are waited for";
        assert!(unsaved[0].contains(said), "{unsaved:?}");
    };
    lone("step_5_rank0.npz", 1).await;
    world.write("step_5_rank1.npz", &npz(2, 500));
    assert_eq!(world.backup_all().await[0].files, 2);
    // From now on there is one to compare with.
    world.write("step_6_rank0.npz", &npz(3, 500));
    assert_eq!(world.backup_all().await, []);

    // One rank writes all there is: its next step shows it, and from then on each is taken as it comes.
    let world = World::with_memory(|_| {});
    world.backup.ranks(Some(2));
    assert_eq!(world.backup_all().await, []);
    world.write("step_5_rank0/model.npz", &npz(1, 500));
    assert_eq!(world.backup_all().await, []);
    world.write("step_6_rank0/model.npz", &npz(2, 500));
    let steps = |saved: Vec<CheckpointInfo>| saved.iter().map(|one| one.step).collect::<Vec<_>>();
    assert_eq!(steps(world.backup_all().await), [Some(5), Some(6)]);
    world.write("step_7_rank0/model.npz", &npz(3, 500));
    assert_eq!(steps(world.backup_all().await), [Some(7)]);

    // Or that nothing followed for two minutes.
    let world = World::with_memory(|_| {});
    world.backup.ranks(Some(4));
    world.write("step_5_rank0.npz", &npz(1, 500));
    let written = std::time::SystemTime::now() - Duration::from_secs(121);
    let file = std::fs::File::options()
        .append(true)
        .open(world.path("step_5_rank0.npz"))
        .unwrap();
    file.set_modified(written).unwrap();
    drop(file);
    assert_eq!(steps(world.backup_all().await), [Some(5)]);
    // There is no time for that where the box goes away.
    let world = World::with_memory(|_| {});
    world.backup.ranks(Some(4));
    world.write("step_5_rank0.npz", &npz(1, 500));
    assert_eq!(world.backup_all().await, []);
    let flushed = world.backup.flush(Duration::from_secs(60)).await;
    assert_eq!(steps(flushed.committed), [Some(5)]);

    // Nothing comes any more.
    let world = World::with_memory(|_| {});
    world.backup.ranks(Some(2));
    world.write("step_5_rank0.npz", &npz(1, 500));
    assert_eq!(world.backup_all().await, []);
    let state = world.backup.backup_now(Duration::from_secs(100), true);
    assert_eq!(state.await.unwrap().committed, 1);
}

#[tokio::test(start_paused = true)]
async fn one_ranks_share_is_no_checkpoint() {
    let world = World::with_memory(|_| {});
    for rank in 0..2 {
        world.write(&format!("step_5_rank{rank}/model.npz"), &npz(rank, 500));
    }
    assert_eq!(world.backup_all().await, []);
    time::sleep(Duration::from_secs(61)).await;
    assert_eq!(world.backup.round().await.unwrap(), []);
    let unsaved = world.backup.state().unsaved;
    assert_eq!(unsaved.len(), 2, "{unsaved:?}");
    assert!(unsaved[0].contains("one rank's share"), "{unsaved:?}");
    let ruled = World::with_memory(|options| {
        options.complete_when = Some("quiet 5000ms".parse().unwrap());
    });
    for rank in 0..2 {
        ruled.write(&format!("step_5_rank{rank}/model.npz"), &npz(rank, 500));
    }
    assert_eq!(ruled.backup_all().await.len(), 2);
    // Files without a step are one, as those of one step are.
    let flat = World::with_memory(|_| {});
    for rank in 0..2 {
        flat.write(&format!("ckpt_rank{rank}.npz"), &npz(rank, 500));
    }
    let committed = flat.backup_all().await;
    assert_eq!((committed.len(), committed[0].files), (1, 2));
}
