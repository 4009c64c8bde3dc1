//! What others do in the bucket while a training goes on: checkpoints that are pushed, and marks of those that are damaged.

use std::sync::Arc;
use std::time::Duration;

use spotter_agent::{
    checkpoints::{CheckpointInfo, RestoreError},
    now_us,
};
use spotter_bucket::memory::MemoryBucket;
use spotter_bucket::{Best, CommitId, Keep, Layout, Manifest, Vault};
use tokio::time;

use crate::world::{KeylessBucket, PinlessBucket, StuckBucket, World, npz};

/// Longer than a box takes to hear of what others did.
const HEARD: Duration = Duration::from_secs(301);

fn steps(saved: &[CheckpointInfo]) -> Vec<Option<u64>> {
    saved.iter().map(|one| one.step).collect()
}

fn layout() -> Layout {
    Layout::new("team", "run").unwrap()
}

fn vault_of<'a>(bucket: &'a MemoryBucket, layout: &'a Layout) -> Vault<'a> {
    Vault {
        bucket,
        layout,
        run: "run",
    }
}

/// Says in the bucket that a commit is damaged, as a laptop does that has read it, or that it is not.
async fn mark(bucket: &MemoryBucket, id: &str, is_damaged: bool) {
    let layout = layout();
    let vault = vault_of(bucket, &layout);
    let id: CommitId = id.parse().unwrap();
    match is_damaged {
        true => vault.mark_damaged(&id, "a test", "", 1).await.unwrap(),
        false => vault.unmark_damaged(&id).await.unwrap(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_marked_as_damaged_is_stored_anew_by_a_box_that_still_has_it() {
    let bucket = Arc::new(MemoryBucket::new());
    let mut world = World::new(bucket.clone());
    for step in 1..=2 {
        world.write(&format!("checkpoint-{step}/base.npz"), &npz(0, 6000));
        world.write(&format!("checkpoint-{step}/model.npz"), &npz(step, 2000));
        assert_eq!(world.backup_all().await.len(), 1);
    }
    let before = world.manifests().await;
    let shared = before[0].files[0].key.clone();
    assert!(bucket.corrupt(&shared));
    for manifest in &before {
        mark(&bucket, &manifest.id, true).await;
    }
    assert_eq!(world.backup_all().await, [], "nobody told it yet");
    time::sleep(HEARD).await;
    world.backup.round().await.unwrap();
    assert_eq!(world.backup.state().committed, 0);
    let saved = world.backup_all().await;
    assert_eq!(steps(&saved), [Some(2), Some(1)]);
    assert_eq!(world.backup.state().last_commit, saved[0].id);
    for manifest in world.manifests().await {
        let is_new = before.iter().all(|old| old.id != manifest.id);
        let refers = manifest.files.iter().any(|file| file.key == shared);
        assert!(!is_new || !refers, "{manifest:?}");
    }
    let other = World::new(bucket.clone());
    let restored = other.backup.restore(None, &mut |_, _| {}).await.unwrap();
    assert_eq!(restored.unwrap().checkpoint.step, Some(2));
    assert_eq!(other.tree(), world.tree_of("checkpoint-2"));

    // A new agent reads the marks before it believes anything; one that is taken away is believed again.
    world = world.restarted(bucket.clone());
    assert_eq!(world.backup_all().await, []);
    assert_eq!(world.backup.state().committed, 2);
    mark(&bucket, &before[0].id, false).await;
    time::sleep(HEARD).await;
    assert_eq!(world.backup_all().await, []);
    assert_eq!(world.backup.state().committed, 3);
}

#[tokio::test(start_paused = true)]
async fn what_a_restore_found_damaged_is_known_to_the_next_box() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("checkpoint-1/base.npz", &npz(0, 6000));
    world.write("checkpoint-1/model.npz", &npz(1, 2000));
    assert_eq!(world.backup_all().await.len(), 1);
    let shared = world.manifests().await[0].files[0].key.clone();
    assert!(bucket.corrupt(&shared));
    let other = World::new(bucket.clone());
    let err = other.backup.restore(None, &mut |_, _| {}).await;
    let all = matches!(err, Err(RestoreError::NoneWhole { .. }));
    assert!(all, "{err:?}");

    let third = World::new(bucket.clone());
    third.write("checkpoint-2/base.npz", &npz(0, 6000));
    third.write("checkpoint-2/model.npz", &npz(2, 2000));
    assert_eq!(third.backup_all().await.len(), 1);
    assert_ne!(third.manifests().await[0].files[0].key, shared);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_commit_goes_when_as_many_newer_ones_as_are_kept_are_there() {
    let bucket = Arc::new(MemoryBucket::new());
    let keep = Keep {
        last: 2,
        ..Keep::default()
    };
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep = keep.clone();
    });
    world.trained();
    world.write("step_1.npz", &npz(1, 2000));
    let first = world.backup_all().await.remove(0);
    mark(&bucket, &first.id, true).await;
    std::fs::remove_file(world.path("step_1.npz")).unwrap();
    time::sleep(HEARD).await;
    for step in 2..=4 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(world.backup_all().await.len(), 1);
        let there = world.manifests().await;
        let is_there = there.iter().any(|one| one.id == first.id);
        assert_eq!(is_there, step < 3, "at step {step}");
    }
    assert_eq!(world.manifests().await.len(), 2, "it did not count");
    let marks = bucket.keys();
    assert!(
        !marks.iter().any(|key| key.contains("/damaged/")),
        "{marks:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_somebody_pushes_is_seen_while_the_training_goes_on() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("step_1.npz", &npz(1, 2000));
    assert_eq!(world.backup_all().await.len(), 1);
    let laptop = World::new(bucket.clone());
    laptop.write("step_9.npz", &npz(9, 2000));
    let pushed = laptop.backup_all().await;
    world.backup.round().await.unwrap();
    assert_eq!(world.backup.state().last_step, Some(1));
    time::sleep(HEARD).await;
    world.backup.round().await.unwrap();
    let state = world.backup.state();
    assert_eq!((state.last_step, state.committed), (Some(9), 2));
    assert_eq!(state.last_commit, pushed[0].id);
    // It is saved here too, should its files come here.
    let bytes = std::fs::read(laptop.path("step_9.npz")).unwrap();
    let modified = std::fs::metadata(laptop.path("step_9.npz")).unwrap();
    world.write("step_9.npz", &bytes);
    let file = std::fs::File::options()
        .append(true)
        .open(world.path("step_9.npz"))
        .unwrap();
    file.set_modified(modified.modified().unwrap()).unwrap();
    assert_eq!(world.backup_all().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_box_without_keys_sees_what_was_pushed_and_what_is_marked() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(KeylessBucket::new(bucket.clone()), bucket.clone(), |_| {});
    world.write("step_1.npz", &npz(1, 2000));
    let first = world.backup_all().await.remove(0);
    let laptop = World::new(bucket.clone());
    laptop.write("step_9.npz", &npz(9, 2000));
    assert_eq!(laptop.backup_all().await.len(), 1);
    mark(&bucket, &first.id, true).await;
    time::sleep(HEARD).await;
    world.backup.round().await.unwrap();
    assert_eq!(world.backup.state().last_step, Some(9));
    assert_eq!(steps(&world.backup_all().await), [Some(1)]);
    assert_eq!(world.backup.state().committed, 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_box_without_keys_let_go_is_no_news_to_it() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(
        KeylessBucket::new(bucket.clone()),
        bucket.clone(),
        |options| {
            options.keep.last = 2;
        },
    );
    world.trained();
    for step in 1..=4 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(world.backup_all().await.len(), 1);
    }
    assert_eq!(world.manifests().await.len(), 4, "it may delete none");
    for _ in 0..2 {
        assert_eq!(world.backup.state().committed, 2);
        time::sleep(HEARD).await;
        world.backup.round().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_best_that_is_marked_stays_on_the_box_until_it_is_stored_anew_as_the_best() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep = Keep {
            last: 2,
            best: Some(Best {
                metric: "val_loss".to_owned(),
                count: 1,
                highest: false,
            }),
            ..Keep::default()
        };
    });
    world.trained();
    for (step, value) in [(1, 0.5), (2, 3.0), (3, 2.0), (4, 1.0)] {
        world.backup.measured(Some(step), now_us(), value);
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(world.backup_all().await.len(), 1);
    }
    let manifests = world.manifests().await;
    let best = manifests.iter().find(|one| one.step == Some(1)).unwrap();
    assert!(bucket.corrupt(&best.files[0].key));
    // What the log said this agent does not know any more.
    let world = world.restarted(bucket.clone());
    world.backup.round().await.unwrap();
    mark(&bucket, &best.id, true).await;
    world.write("step_5.npz", &npz(5, 2000));
    world.backup.round().await.unwrap();
    time::sleep(HEARD).await;
    // It hears of the mark after its look, so that the new one goes first.
    assert_eq!(steps(&world.backup.round().await.unwrap())[0], Some(5));
    assert!(world.path("step_1.npz").is_file());
    world.backup_all().await;
    let there = world.manifests().await;
    let is_copy = |one: &&spotter_bucket::Manifest| one.step == Some(1) && one.id != best.id;
    let copy = there.iter().find(is_copy).unwrap();
    assert_eq!(copy.metric, best.metric);
    // Now the damaged one may go, and nothing else of it.
    world.write("step_6.npz", &npz(6, 2000));
    assert_eq!(steps(&world.backup_all().await), [Some(6)]);
    let there = world.manifests().await;
    let left: Vec<&str> = there.iter().map(|one| one.id.as_str()).collect();
    assert!(left.contains(&copy.id.as_str()) && !left.contains(&best.id.as_str()));
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(world.path("step_1.npz").is_file());
}

#[tokio::test(start_paused = true)]
async fn a_milestone_that_is_marked_and_nowhere_else_stays_in_the_bucket() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep = Keep {
            last: 2,
            every_steps: 100,
            ..Keep::default()
        };
    });
    world.trained();
    world.write("step_100.npz", &npz(100, 2000));
    let first = world.backup_all().await.remove(0);
    std::fs::remove_file(world.path("step_100.npz")).unwrap();
    mark(&bucket, &first.id, true).await;
    time::sleep(HEARD).await;
    for step in [110, 120, 130, 140] {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(world.backup_all().await.len(), 1);
    }
    // Whoever marked it was wrong.
    mark(&bucket, &first.id, false).await;
    let other = World::new(bucket.clone());
    let restored = other.backup.restore(Some(&first.id), &mut |_, _| {}).await;
    assert_eq!(restored.unwrap().unwrap().checkpoint.step, Some(100));
}

#[tokio::test(start_paused = true)]
async fn a_restore_tries_what_is_marked_only_after_all_others() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    for step in 1..=3 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(world.backup_all().await.len(), 1);
    }
    let newest_first = world.manifests().await;
    for manifest in &newest_first[..2] {
        mark(&bucket, &manifest.id, true).await;
    }
    let restored = async || {
        let other = World::new(bucket.clone());
        let restored = other.backup.restore(None, &mut |_, _| {}).await.unwrap();
        let restored = restored.unwrap();
        (restored.checkpoint.step, restored.skipped.len())
    };
    assert_eq!(restored().await, (Some(1), 0));
    // A mark may be wrong: better than nothing.
    assert!(bucket.corrupt(&newest_first[2].files[0].key));
    assert_eq!(restored().await, (Some(3), 1));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_does_not_tell_what_others_did_stands_in_no_uploads_way() {
    let bucket = Arc::new(MemoryBucket::new());
    let stuck = StuckBucket::new(bucket.clone());
    let world = World::with(stuck.clone(), bucket.clone(), |_| {});
    world.write("step_1.npz", &npz(1, 2000));
    assert_eq!(world.backup_all().await.len(), 1);
    time::sleep(HEARD).await;
    world.write("step_2.npz", &npz(2, 2000));
    stuck.stick("ListObjectsV2");
    let round = time::timeout(Duration::from_secs(100), world.backup.round());
    assert_eq!(steps(&round.await.unwrap().unwrap()), [Some(2)]);

    // Nor in that of the last ones of a box that goes away.
    time::sleep(HEARD).await;
    world.write("step_3.npz", &npz(3, 2000));
    stuck.stick("ListObjectsV2");
    let flush = async {
        time::sleep(Duration::from_secs(5)).await;
        let flushed = world.backup.flush(Duration::from_secs(20)).await;
        assert_eq!(flushed.unsaved, 0);
    };
    tokio::join!(flush, async { world.backup.round().await.unwrap() });
    assert_eq!(world.backup.state().last_step, Some(3));
}

/// Three checkpoints of which the oldest is pinned, and then found damaged, which the box has heard.
async fn pinned_and_marked(world: &World, bucket: &Arc<MemoryBucket>) -> Manifest {
    world.trained();
    let layout = layout();
    let vault = vault_of(bucket, &layout);
    for step in 1..=3 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        let saved = world.backup_all().await.remove(0);
        if step == 1 {
            let id = saved.id.parse().unwrap();
            vault.pin(&id, "a test", now_us()).await.unwrap();
        }
    }
    let first = world.manifests().await.pop().unwrap();
    mark(bucket, &first.id, true).await;
    time::sleep(HEARD).await;
    world.backup.round().await.unwrap();
    first
}

#[tokio::test(start_paused = true)]
async fn a_pinned_checkpoint_that_is_marked_is_stored_anew_however_old_and_pinned_as_it_was() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 2;
    });
    let first = pinned_and_marked(&world, &bucket).await;
    let layout = layout();
    let vault = vault_of(&bucket, &layout);
    // As many newer ones as are kept are there, and somebody wants it all the same.
    let again = world.backup_all().await;
    assert_eq!(steps(&again), [Some(1)]);
    let copy: CommitId = again[0].id.parse().unwrap();
    let holds = vault.holds(now_us() / 1_000).await.unwrap();
    assert!(holds.pinned.contains(&again[0].id), "{holds:?}");
    for step in 4..=5 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(steps(&world.backup_all().await), [Some(step)]);
        let there = world.manifests().await;
        let left = [&first.id, &again[0].id].map(|id| there.iter().any(|one| one.id == *id));
        assert_eq!(left, [true, true], "at step {step}");
        assert!(world.path("step_1.npz").is_file());
    }
    // Once nobody holds them, they go as any other.
    let id = first.id.parse().unwrap();
    vault.unpin(&id).await.unwrap();
    vault.unpin(&copy).await.unwrap();
    world.write("step_6.npz", &npz(6, 2000));
    assert_eq!(steps(&world.backup_all().await), [Some(6)]);
    assert_eq!(world.manifests().await.len(), 2);
    assert!(!world.path("step_1.npz").exists());
}

#[tokio::test(start_paused = true)]
async fn what_stands_for_a_pinned_checkpoint_stays_also_where_its_own_pin_fails() {
    let bucket = Arc::new(MemoryBucket::new());
    let pinless = PinlessBucket::new(bucket.clone());
    let world = World::with(pinless.clone(), bucket.clone(), |options| {
        options.keep.last = 2;
    });
    pinned_and_marked(&world, &bucket).await;
    let layout = layout();
    let vault = vault_of(&bucket, &layout);
    let again = world.backup_all().await;
    assert_eq!(steps(&again), [Some(1)]);
    for step in 4..=5 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(steps(&world.backup_all().await), [Some(step)]);
        let there = world.manifests().await;
        assert!(
            there.iter().any(|one| one.id == again[0].id),
            "at step {step}"
        );
        assert!(world.path("step_1.npz").is_file(), "at step {step}");
    }
    let pinned = async || vault.holds(now_us() / 1_000).await.unwrap().pinned;
    assert!(!pinned().await.contains(&again[0].id));
    // It is tried again whenever something may go.
    pinless.heal();
    world.write("step_6.npz", &npz(6, 2000));
    assert_eq!(steps(&world.backup_all().await), [Some(6)]);
    assert!(pinned().await.contains(&again[0].id));
}
