//! Finished checkpoints reach the bucket: once, the newest first, whatever the bucket does meanwhile.

use std::sync::Arc;
use std::time::Duration;

use spotter_bucket::Bucket;
use spotter_bucket::ErrorKind;
use spotter_bucket::memory::MemoryBucket;

use tokio::time::Instant;

use crate::world::{GaugeBucket, HookBucket, LotBucket, MIB, World, npz};

#[tokio::test(start_paused = true)]
async fn a_finished_checkpoint_reaches_the_bucket_and_comes_back_bit_by_bit() {
    let bucket = Arc::new(MemoryBucket::new());
    let first = World::new(bucket.clone());
    first.write("step_000100.npz", &npz(1, 3000));
    first.write("checkpoint-200/model.npz", &npz(2, 5000));
    first.write("checkpoint-200/rng_state.pth", &npz(3, 100));
    first.write(
        "checkpoint-200/trainer_state.json",
        br#"{"global_step": 200}"#,
    );
    let committed = first.backup_all().await;
    assert_eq!(
        committed.iter().map(|one| one.step).collect::<Vec<_>>(),
        [Some(200), Some(100)],
        "newest first"
    );

    let state = first.backup.state();
    assert_eq!(
        (
            state.committed,
            state.pending,
            state.last_step,
            state.unsaved_bytes
        ),
        (2, 0, Some(200), 0)
    );
    assert_eq!(state.last_commit, committed[0].id);
    assert_eq!(first.events("checkpoint.committed").len(), 2);
    assert_eq!(
        first.backup.round().await.unwrap(),
        [],
        "nothing is uploaded twice"
    );

    let second = World::new(bucket.clone());
    let mut seen = Vec::new();
    let restored = second
        .backup
        .restore(None, &mut |done, total| seen.push((done, total)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (restored.checkpoint.step, restored.path.as_path()),
        (Some(200), second.path("checkpoint-200").as_path())
    );
    assert_eq!(second.tree(), first.tree_of("checkpoint-200"));
    assert_eq!(seen.last().unwrap().0, seen.last().unwrap().1);
    let by_name = second
        .backup
        .restore(Some(&committed[1].id), &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(by_name.path, second.path("step_000100.npz"));
    assert_eq!(second.tree(), first.tree());

    let puts = bucket.count("PutObject");
    assert_eq!(
        second.backup_all().await,
        [],
        "what was restored is known to be saved"
    );
    assert_eq!(bucket.count("PutObject"), puts);
    assert_eq!(second.backup.list().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_bucket_is_outlasted_by_one_round() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("step_7.npz", &npz(7, 20 * MIB));
    world.settle().await;
    bucket.fail_next("*", 60, ErrorKind::Transient);
    assert_eq!(world.backup.round().await.unwrap().len(), 1);
    world.assert_one_whole_commit_of(7).await;
}

#[tokio::test(start_paused = true)]
async fn a_large_file_that_did_not_change_is_not_sent_again() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("checkpoint-1/base.npz", &npz(0, 20 * MIB));
    world.write("checkpoint-1/head.npz", &npz(1, 10 * MIB));
    world.backup_all().await;
    let parts = bucket.count("UploadPart");
    world.write("checkpoint-2/base.npz", &npz(0, 20 * MIB));
    world.write("checkpoint-2/head.npz", &npz(2, 10 * MIB));
    world.backup_all().await;
    assert_eq!(bucket.count("UploadPart") - parts, 2, "only the head");
    let manifests = world.manifests().await;
    assert_eq!(manifests[0].files[0].key, manifests[1].files[0].key);
    assert_ne!(manifests[0].files[1].key, manifests[1].files[1].key);
}

#[tokio::test(start_paused = true)]
async fn notes_that_were_lost_cost_a_comparison_and_no_upload() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.fill();
    world.backup_all().await;
    let puts = bucket.count("PutObject") + bucket.count("UploadPart");
    let world = world.restarted_without_notes(bucket.clone());
    assert_eq!(world.backup_all().await, []);
    assert_eq!(bucket.count("PutObject") + bucket.count("UploadPart"), puts);
    assert_eq!(world.backup.state().unsaved_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_does_not_keep_a_checkpoint_from_the_bucket() {
    let bucket = Arc::new(MemoryBucket::new());
    // A directory below a file cannot be made, nor anything in it.
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.state_dir = "/proc/version/backup".into()
    });
    world.fill();
    assert_eq!(world.backup_all().await.len(), 1);
    world.assert_one_whole_commit_of(7).await;
}

#[tokio::test(start_paused = true)]
async fn files_of_one_step_that_lie_side_by_side_are_one_checkpoint() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    for step in [100, 200] {
        world.write(&format!("model_{step:06}.npz"), &npz(step, 900));
        world.write(&format!("optim_{step:06}_rank0.npz"), &npz(step + 1, 900));
        world.write(&format!("meta_{step:06}.json"), b"{}");
        assert_eq!(world.backup_all().await.len(), 1);
    }
    let other = World::new(bucket);
    let restored = other
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (restored.checkpoint.files, restored.path),
        (3, other.path(""))
    );
    assert_eq!(
        other.tree().into_keys().collect::<Vec<_>>(),
        [
            "meta_000200.json",
            "model_000200.npz",
            "optim_000200_rank0.npz"
        ]
    );
    assert_eq!(other.backup_all().await, []);
    other.write("optim_000200_rank1.npz", &npz(5, 900));
    let late = other.backup_all().await;
    assert_eq!(
        late[0].files, 4,
        "a rank that comes late makes a new commit with all of them"
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_checkpoint_overtakes_but_never_for_ever() {
    let memory = Arc::new(MemoryBucket::new());
    let hooked = HookBucket::new(memory.clone());
    let world = Arc::new(World::with(hooked.clone(), memory.clone(), |_| {}));
    memory.set_latency(Duration::from_secs(60));
    world.write("step_1.npz", &npz(1, 17 * MIB));
    // Whenever an upload begins, the trainer writes another checkpoint.
    for step in 2..=8_u64 {
        let world = Arc::downgrade(&world);
        hooked.before("CreateMultipartUpload", step - 1, move || {
            if let Some(world) = world.upgrade() {
                world.write(&format!("step_{step}.npz"), &npz(step, 17 * MIB));
            }
        });
    }
    let committed = world.backup_all().await;
    let steps: Vec<u64> = committed.iter().map(|one| one.step.unwrap()).collect();
    assert_eq!(
        steps[0], 3,
        "two yielded, the third was finished: {steps:?}"
    );
    assert_eq!(steps.len(), 8, "and nobody was forgotten: {steps:?}");
    assert_eq!(memory.open_uploads(), Vec::<String>::new());
    for manifest in world.manifests().await {
        let body = memory.object(&manifest.files[0].key).unwrap();
        assert_eq!(body, npz(manifest.step.unwrap(), 17 * MIB));
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_only_what_would_be_kept_is_uploaded() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 2
    });
    for step in 1..=6 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
    }
    let steps: Vec<_> = world
        .backup_all()
        .await
        .iter()
        .map(|one| one.step.unwrap())
        .collect();
    assert_eq!(steps, [6, 5]);
    assert_eq!(
        (
            world.backup.state().pending,
            world.backup.state().unsaved_bytes
        ),
        (0, 0)
    );
    assert_eq!(
        world.tree().len(),
        6,
        "what lay there before any training is nobody's to delete"
    );
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_the_bucket_decides_what_is_newer() {
    let memory = Arc::new(MemoryBucket::new());
    // This box's clock is an hour ahead, so its files look an hour too new.
    let ahead = World::new(memory.clone());
    memory.set_clock_offset_s(-3600.0);
    ahead.write("step_9.npz", &npz(9, 500));
    ahead.backup_all().await;
    memory.set_clock_offset_s(0.0);
    let right = World::new(memory.clone());
    right.write("step_3.npz", &npz(3, 500));
    right.backup_all().await;
    let steps: Vec<_> = right
        .backup
        .list()
        .await
        .unwrap()
        .iter()
        .map(|one| one.step.unwrap())
        .collect();
    assert_eq!(steps, [3, 9], "the one written last, whatever its number");
    let listed = memory.list("team/run/commits/").await.unwrap();
    assert_eq!(listed.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn checkpoints_a_moment_apart_keep_their_order_though_every_answer_tells_another_time() {
    for clock_s in [0.0, 3600.0, -7200.0] {
        let bucket = Arc::new(MemoryBucket::new());
        let mut world = World::with(bucket.clone(), bucket.clone(), |options| {
            options.keep.last = 2
        });
        world.trained();
        for (step, late_s) in [(1, 0.9), (2, 0.4), (3, -0.9), (4, -1.5)] {
            bucket.set_clock_offset_s(clock_s + late_s);
            world.write(&format!("step_{step}.npz"), &npz(step, 500));
            assert_eq!(
                world.backup_all().await.len(),
                1,
                "step {step}, {clock_s} s"
            );
            world = world.restarted(bucket.clone());
        }
        let steps: Vec<_> = world
            .backup
            .list()
            .await
            .unwrap()
            .iter()
            .map(|one| one.step.unwrap())
            .collect();
        assert_eq!(steps, [4, 3], "{clock_s} s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_no_faster_than_the_user_allows_until_the_box_goes_away() {
    let world = World::with_memory(|options| options.max_bytes_per_s = Some(MIB as u64));
    world.write("step_1.npz", &npz(1, 40 * MIB));
    world.settle().await;
    let began = Instant::now();
    world.backup.round().await.unwrap();
    let took = began.elapsed().as_secs();
    assert!((32..60).contains(&took), "{took} s");

    world.write("step_2.npz", &npz(2, 40 * MIB));
    world.settle().await;
    let began = Instant::now();
    let flushed = world.backup.flush(Duration::from_secs(10)).await;
    assert_eq!((flushed.committed.len(), flushed.unsaved), (1, 0));
    assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_too_much_to_do_gets_fewer_parts_at_once() {
    let memory = Arc::new(MemoryBucket::new());
    let gauge = GaugeBucket::new(memory.clone(), "UploadPart");
    let world = World::with(gauge.clone(), memory.clone(), |options| {
        options.parallel = 5
    });
    // Fourteen parts: five go well, the next ones fail three times each.
    world.write("step_1.npz", &npz(1, 110 * MIB));
    world.settle().await;
    memory.set_latency(Duration::from_secs(2));
    memory.fail_after("UploadPart", 5, 15, ErrorKind::Transient);
    assert_eq!(world.backup.round().await.unwrap().len(), 1);
    let begun = gauge.begun();
    assert_eq!(begun.len(), 14 + 15);
    assert_eq!(begun[..5].iter().max(), Some(&5), "{begun:?}");
    // Those that failed are asked again, whatever their number; then come parts that are new.
    let new = &begun[5 + 15 + 5..];
    assert!(new[..2].iter().all(|count| *count <= 3), "{begun:?}");
    world.assert_one_whole_commit_of(1).await;
}

#[tokio::test(start_paused = true)]
async fn small_files_too_go_as_many_at_once_as_the_server_takes_gladly() {
    let memory = Arc::new(MemoryBucket::new());
    let gauge = GaugeBucket::new(memory.clone(), "PutObject");
    let world = World::with(gauge.clone(), memory.clone(), |options| {
        options.parallel = 2
    });
    for number in 0..40 {
        world.write(&format!("save-1/{number}.npz"), &npz(number, 900));
    }
    world.settle().await;
    memory.set_latency(Duration::from_secs(2));
    assert_eq!(world.backup.round().await.unwrap().len(), 1);
    let begun = gauge.begun();
    assert_eq!(begun.len(), 40 + 1, "the commit is one too");
    assert_eq!(begun[..4].iter().max(), Some(&2), "{begun:?}");
    let most = *begun.iter().max().unwrap();
    assert!((4..=16).contains(&most), "it takes more: {begun:?}");
    world.assert_one_whole_commit_of(1).await;
}

#[tokio::test(start_paused = true)]
async fn no_commit_names_what_lies_where_a_place_was_given_out_before_it_was_seen_there() {
    // Lost once, lost again when it was sent again, and lost for good.
    for (losing, is_saved) in [(1, true), (2, true), (u64::MAX, false)] {
        let memory = Arc::new(MemoryBucket::new());
        let lots = LotBucket::new(memory.clone(), losing);
        let world = World::with(lots, memory.clone(), |_| {});
        world.write("step_1.npz", &npz(1, 2000));
        world.settle().await;
        let saved = world.backup.round().await;
        assert_eq!(saved.is_ok_and(|saved| saved.len() == 1), is_saved);
        let manifests = world.manifests().await;
        assert_eq!(
            manifests.len(),
            usize::from(is_saved),
            "lost {losing} times"
        );
        for file in manifests.iter().flat_map(|manifest| &manifest.files) {
            assert!(file.key.contains("/data/lot/"), "{}", file.key);
            let size_bytes = memory.object(&file.key).map(|bytes| bytes.len() as u64);
            assert_eq!(size_bytes, Some(file.size_bytes), "lost {losing} times");
        }
    }
}
