//! Backup and restore against the bucket in memory: what survives outages, crashes at every step, changes under the upload and
//! damage. The clock is paused; file times are real.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod checkpoint_world;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use checkpoint_world::{CrashBucket, HookBucket, MIB, World, noise, npz};
use spotter_agent::checkpoints::{BackupError, RestoreError, backup_loop};
use spotter_bucket::memory::MemoryBucket;
use spotter_bucket::{Bucket, CommitId, ErrorKind, Manifest};
use tokio::time;
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn a_finished_checkpoint_reaches_the_bucket_and_comes_back_bit_by_bit() {
    let bucket = Arc::new(MemoryBucket::new());
    let first = World::new(bucket.clone());
    first.write("step_000100.npz", &npz(1, 3000));
    first.write("checkpoint-200/model.npz", &npz(2, 5000));
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
async fn a_lost_answer_to_complete_makes_one_commit() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("step_7.npz", &npz(7, 20 * MIB));
    bucket.lose_complete_answer(1);
    assert_eq!(world.backup_all().await.len(), 1);
    assert_eq!(bucket.count("UploadPart"), 3, "nothing was sent twice");
    world.assert_one_whole_commit_of(7).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lost_the_upload_gets_another_one() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("step_7.npz", &npz(7, 20 * MIB));
    bucket.fail_after("UploadPart", 1, 1, ErrorKind::NotFound);
    assert_eq!(world.backup_all().await.len(), 1);
    assert_eq!(bucket.count("CreateMultipartUpload"), 2);
    world.assert_one_whole_commit_of(7).await;
}

/// Dies before, then after, each call that a whole round makes; a new agent then finishes what is there.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_call_ends_in_one_commit_and_no_litter() {
    let calls = {
        let bucket = CrashBucket::new(u64::MAX, false);
        let world = World::with(bucket.clone(), bucket.memory.clone(), |_| {});
        fill(&world);
        world.backup_all().await;
        bucket.calls()
    };
    assert!(calls > 12, "a round makes {calls} calls");
    for after in [false, true] {
        for at in 1..=calls {
            crash_and_recover(at, after).await;
        }
    }
}

fn fill(world: &World) {
    world.write("checkpoint-7/model.npz", &npz(7, 20 * MIB));
    world.write("checkpoint-7/rng.npz", &npz(8, 100));
    world.write("checkpoint-7/trainer_state.json", br#"{"global_step": 7}"#);
}

async fn crash_and_recover(at: u64, after: bool) {
    let context = format!("crash {} call {at}", if after { "after" } else { "before" });
    let crashing = CrashBucket::new(at, after);
    let world = World::with(crashing.clone(), crashing.memory.clone(), |_| {});
    fill(&world);
    assert!(world.backup_until_death(&crashing).await, "{context}");
    let parts_before = crashing.memory.count("UploadPart");

    let world = world.restarted(crashing.memory.clone());
    world.backup_all().await;
    world.assert_one_whole_commit_of(7).await;
    assert_eq!(
        crashing.memory.open_uploads(),
        Vec::<String>::new(),
        "{context}"
    );
    let commit = world.manifests().await.remove(0);
    let mut expected: Vec<String> = commit.files.iter().map(|file| file.key.clone()).collect();
    expected.insert(0, format!("team/run/commits/{}.json", commit.id));
    let mut found = crashing.memory.keys();
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "{context}");
    // At most the parts that were in flight are sent again.
    let parts_in_all = crashing.memory.count("UploadPart");
    assert!(
        parts_in_all <= 3 + parts_before.min(3),
        "{context}: {parts_before} then {parts_in_all} parts"
    );
    assert_eq!(world.notes_left(), Vec::<String>::new(), "{context}");
}

#[tokio::test(start_paused = true)]
async fn parts_that_arrived_before_a_crash_are_not_sent_again() {
    let crashing = CrashBucket::at_nth("CompleteMultipartUpload", 1);
    let world = World::with(crashing.clone(), crashing.memory.clone(), |_| {});
    world.write("step_7.npz", &npz(7, 40 * MIB));
    assert!(world.backup_until_death(&crashing).await);
    assert_eq!(crashing.memory.count("UploadPart"), 6);
    let world = world.restarted(crashing.memory.clone());
    world.backup_all().await;
    assert_eq!(
        crashing.memory.count("UploadPart"),
        6,
        "the journal and the server agree on all six"
    );
    world.assert_one_whole_commit_of(7).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changed_while_the_agent_was_dead_begins_anew() {
    let crashing = CrashBucket::at_nth("CompleteMultipartUpload", 1);
    let world = World::with(crashing.clone(), crashing.memory.clone(), |_| {});
    world.write("last.npz", &npz(1, 20 * MIB));
    assert!(world.backup_until_death(&crashing).await);
    let world = world.restarted(crashing.memory.clone());
    world.write("last.npz", &npz(2, 20 * MIB));
    assert_eq!(world.backup_all().await.len(), 1);
    assert_eq!(
        crashing.memory.open_uploads(),
        Vec::<String>::new(),
        "the old attempt was swept"
    );
    assert_eq!(world.restored_bytes("last.npz").await, npz(2, 20 * MIB));
}

#[tokio::test(start_paused = true)]
async fn a_file_overwritten_under_its_upload_is_never_a_torn_commit() {
    for part in 1..=3 {
        let memory = Arc::new(MemoryBucket::new());
        let hooked = HookBucket::new(memory.clone());
        let world = World::with(hooked.clone(), memory.clone(), |_| {});
        let (old, new) = (npz(1, 20 * MIB), npz(2, 20 * MIB));
        world.write("last.npz", &old);
        let path = world.path("last.npz");
        let bytes = new.clone();
        hooked.before("UploadPart", part, move || {
            // In place, as torch.save does: same inode, same size.
            fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&path)
                .unwrap();
            fs::write(&path, &bytes).unwrap();
        });
        world.settle().await;
        world.backup.round().await.unwrap();
        for manifest in world.manifests().await {
            let whole = blake3::hash(&old).to_hex().to_string();
            assert_eq!(
                manifest.files[0].blake3, whole,
                "part {part}: only the old bytes could be committed by now"
            );
        }
        world.backup_all().await;
        assert_eq!(world.restored_bytes("last.npz").await, new, "part {part}");
        assert_eq!(memory.open_uploads(), Vec::<String>::new(), "part {part}");
        for manifest in world.manifests().await {
            let body = memory.object(&manifest.files[0].key).unwrap();
            assert!(
                body == old || body == new,
                "part {part}: a mixture was committed"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_grows_in_pieces_is_taken_only_when_it_is_whole() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    let bytes = npz(3, 9000);
    for piece in 1..=30 {
        // Each piece leaves more silence than the settle time, and no writer.
        world.write("step_3.npz", &bytes[..bytes.len() * piece / 31]);
        assert_eq!(world.settle().await, [], "piece {piece}");
        assert_eq!(world.backup.round().await.unwrap(), [], "piece {piece}");
    }
    assert_eq!(bucket.keys(), Vec::<String>::new());
    world.write("step_3.npz", &bytes);
    assert_eq!(world.backup_all().await.len(), 1);
    assert_eq!(world.restored_bytes("step_3.npz").await, bytes);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_the_trainer_rotates_away_during_its_upload_is_still_saved() {
    let memory = Arc::new(MemoryBucket::new());
    let hooked = HookBucket::new(memory.clone());
    let world = World::with(hooked.clone(), memory.clone(), |_| {});
    fill(&world);
    let before = world.tree();
    let dir = world.path("checkpoint-7");
    hooked.before("UploadPart", 2, move || fs::remove_dir_all(&dir).unwrap());
    assert_eq!(world.backup_all().await.len(), 1);
    let other = World::new(memory);
    other
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(other.tree(), before);
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_stay_in_the_bucket_and_on_the_box() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep_last = 2
    });
    for step in 1..=5_u64 {
        // The second file never changes, so that every commit refers to the first one's copy.
        world.write(&format!("checkpoint-{step}/model.npz"), &npz(step, 4000));
        world.write(&format!("checkpoint-{step}/base.npz"), &npz(0, 6000));
        assert_eq!(world.backup_all().await.len(), 1, "step {step}");
        let steps: Vec<_> = world
            .backup
            .list()
            .await
            .unwrap()
            .iter()
            .map(|one| one.step.unwrap())
            .collect();
        assert_eq!(
            steps,
            (step.saturating_sub(1).max(1)..=step)
                .rev()
                .collect::<Vec<_>>()
        );
        for manifest in world.manifests().await {
            for file in &manifest.files {
                assert!(
                    bucket.object(&file.key).is_some(),
                    "step {step}: {} is gone",
                    file.key
                );
            }
        }
    }
    let on_the_box: Vec<String> = world.tree().into_keys().collect();
    assert_eq!(
        on_the_box,
        [
            "checkpoint-4/base.npz",
            "checkpoint-4/model.npz",
            "checkpoint-5/base.npz",
            "checkpoint-5/model.npz"
        ]
    );
    assert_eq!(
        bucket.keys().len(),
        2 + 2 + 1,
        "two commits, two models, one base"
    );
    assert_eq!(world.events("checkpoint.deleted").len(), 6);
    let other = World::new(bucket);
    other
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(other.tree(), world.tree_of("checkpoint-5"));
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
    fill(&world);
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
    fill(&world);
    assert_eq!(world.backup_all().await.len(), 1);
    world.assert_one_whole_commit_of(7).await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_checkpoint_is_passed_over_and_named() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    for step in 1..=4_u64 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        world.backup_all().await;
    }
    let manifests = world.manifests().await;
    assert!(bucket.corrupt(&manifests[0].files[0].key), "bits flipped");
    assert!(bucket.remove(&manifests[1].files[0].key), "data gone");
    assert!(
        bucket.corrupt(&format!("team/run/commits/{}.json", manifests[2].id)),
        "commit damaged"
    );

    let other = World::new(bucket.clone());
    let restored = other
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(restored.checkpoint.step, Some(1));
    assert_eq!(restored.skipped.len(), 3, "{:?}", restored.skipped);
    for (skipped, reason) in restored
        .skipped
        .iter()
        .zip(["hash differs", "is gone", "manifest"])
    {
        assert!(skipped.contains(reason), "{skipped}");
    }
    assert_eq!(
        other.events("checkpoint.restored")[0]["skipped"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(other.tree(), world.tree_of("step_1.npz"));

    let err = other
        .backup
        .restore(Some(&manifests[0].id), &mut |_, _| {})
        .await
        .unwrap_err();
    assert!(matches!(err, RestoreError::Damaged { .. }), "{err}");
    bucket.remove(&manifests[3].files[0].key);
    let err = World::new(bucket)
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap_err();
    assert!(
        matches!(&err, RestoreError::AllDamaged { skipped } if skipped.len() == 4),
        "{err}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_bucket_restores_nothing_and_an_unknown_name_is_an_error() {
    let world = World::new(Arc::new(MemoryBucket::new()));
    assert_eq!(
        world.backup.restore(None, &mut |_, _| {}).await.unwrap(),
        None
    );
    let err = world
        .backup
        .restore(
            Some("000000000005-01ARZ3NDEKTSV4RRFFQ69G5FAV"),
            &mut |_, _| {},
        )
        .await
        .unwrap_err();
    assert!(matches!(err, RestoreError::NoSuchCheckpoint(_)));
}

#[tokio::test(start_paused = true)]
async fn no_path_in_a_commit_leaves_the_checkpoint_directory() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("checkpoint-1/model.npz", &npz(1, 500));
    world.backup_all().await;
    let whole = world.manifests().await.remove(0);
    type Spoil = fn(&mut Manifest);
    let spoils: [Spoil; 7] = [
        |manifest| manifest.path = "../checkpoint-1".into(),
        |manifest| manifest.path = "/tmp/checkpoint-1".into(),
        |manifest| manifest.path = ".ssh".into(),
        |manifest| manifest.path = "a/b".into(),
        |manifest| manifest.files[0].path = "../../escaped.npz".into(),
        |manifest| manifest.files[0].path = "/escaped.npz".into(),
        |manifest| {
            manifest.rule = "flat-step+npz".into();
            manifest.files[0].path = ".bashrc".into();
        },
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let mut manifest = whole.clone();
        manifest.id = CommitId::generate(Some(1)).to_string();
        spoil(&mut manifest);
        bucket.insert(
            &format!("team/run/commits/{}.json", manifest.id),
            manifest.seal(),
        );
        let other = World::new(bucket.clone());
        let restored = other
            .backup
            .restore(None, &mut |_, _| {})
            .await
            .unwrap()
            .unwrap();
        assert_eq!(restored.skipped.len(), number + 1, "{:?}", restored.skipped);
        assert_eq!(
            other.everything(),
            [
                "checkpoints",
                "checkpoints/checkpoint-1",
                "checkpoints/checkpoint-1/model.npz"
            ]
        );
    }
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
async fn restoring_on_the_same_box_fetches_nothing_and_keeps_what_is_newer() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("last.npz", &npz(1, 3000));
    world.backup_all().await;
    let gets = bucket.count("GetObject");
    world
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bucket.count("GetObject") - gets, 1, "only the commit");

    world.write("last.npz", &npz(2, 3000));
    world
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(fs::read(world.path("last.npz")).unwrap(), npz(1, 3000));
    assert_eq!(
        fs::read(world.path("last.npz.spotter-replaced")).unwrap(),
        npz(2, 3000)
    );
}

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
        options.keep_last = 2
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
        "what is in no commit is never deleted"
    );
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_the_session_what_has_no_proof_is_taken_at_once() {
    let world = World::with_memory(|_| {});
    world.write("weights.bin", &noise(1, 5000));
    world.write("step_5.npz", &npz(1, 5000));
    let began = time::Instant::now();
    let state = world
        .backup
        .backup_now(Duration::from_secs(100), true)
        .await;
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
        .await;
    assert_eq!(state.committed, 1);

    world.write("more.bin", &noise(2, 20 * MIB));
    bucket.fail_next("UploadPart", u32::MAX, ErrorKind::Transient);
    let began = time::Instant::now();
    let state = world
        .backup
        .backup_now(Duration::from_secs(100), true)
        .await;
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
async fn results_are_kept_beside_the_checkpoints_and_verified() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("final.npz", &npz(1, 20 * MIB));
    world.write("logs/train.log", b"loss 1.0\n");
    let workdir = world.path("");
    let paths = ["final.npz".to_owned(), "logs".to_owned(), "none".to_owned()];
    let results = world
        .backup
        .collect_results(&workdir, &paths)
        .await
        .unwrap();
    assert_eq!(results.missing, ["none"]);
    let manifest = Manifest::open(&bucket.object(&results.manifest_key).unwrap()).unwrap();
    assert!(results.manifest_key.starts_with("team/run/results/"));
    for (file, result) in manifest.files.iter().zip(&results.files) {
        let body = bucket.object(&file.key).unwrap();
        assert_eq!(body, fs::read(world.path(&file.path)).unwrap());
        assert_eq!(
            (&result.path, &result.blake3),
            (&file.path, &blake3::hash(&body).to_hex().to_string())
        );
    }
    assert_eq!(results.files.len(), 2);
    assert_eq!(
        world.backup.list().await.unwrap(),
        [],
        "results are no checkpoint"
    );
    let err = world
        .backup
        .collect_results(&workdir, &["../x".to_owned()])
        .await
        .unwrap_err();
    assert!(err.to_string().contains("results were not collected"));
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
