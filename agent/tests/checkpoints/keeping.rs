//! Which checkpoints stay, in the bucket and on the box.

use std::sync::Arc;
use std::time::Duration;

use spotter_agent::now_us;
use spotter_bucket::memory::MemoryBucket;
use spotter_bucket::{Best, ErrorKind, Keep, Layout, Vault};
use tokio::time;

use crate::world::{World, npz};

#[tokio::test(start_paused = true)]
async fn only_the_newest_stay_in_the_bucket_and_on_the_box() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 2
    });
    world.trained();
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
    assert_eq!(world.events("checkpoint.deleted").len(), 6);
    // The data goes with the next look for what is due.
    time::sleep(Duration::from_secs(61)).await;
    world.backup.round().await.unwrap();
    assert_eq!(
        bucket.keys().len(),
        2 + 2 + 1,
        "two commits, two models, one base"
    );
    assert_eq!(world.events("checkpoint.purged").len(), 3);
    let other = World::new(bucket);
    other
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(other.tree(), world.tree_of("checkpoint-5"));
}

/// Saves checkpoints of these steps, a file each.
async fn save(world: &World, steps: impl IntoIterator<Item = u64>) {
    for step in steps {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(world.backup_all().await.len(), 1, "step {step}");
    }
}

async fn steps(world: &World) -> Vec<u64> {
    let listed = world.backup.list().await.unwrap();
    listed.iter().map(|one| one.step.unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_best_stay_beside_the_newest_by_what_the_log_said_at_their_step() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep = Keep {
            last: 2,
            best: Some(Best {
                metric: "val_loss".to_owned(),
                count: 2,
                highest: false,
            }),
            ..Keep::default()
        };
    });
    world.trained();
    // Nothing was measured for 30, and what was at 40 is no number.
    for (step, value) in [
        (10, Some(3.0)),
        (20, Some(1.5)),
        (30, None),
        (40, Some(f64::NAN)),
        (50, Some(2.0)),
        (60, Some(2.5)),
        (70, Some(2.25)),
    ] {
        if let Some(value) = value {
            world.backup.measured(Some(step), now_us(), value);
        }
        save(&world, [step]).await;
    }
    // The newest two, and the best two.
    assert_eq!(steps(&world).await, [70, 60, 50, 20]);
    let on_the_box: Vec<String> = world.tree().into_keys().collect();
    assert_eq!(on_the_box.len(), 4, "{on_the_box:?}");
    let told: Vec<Option<String>> = world
        .manifests()
        .await
        .into_iter()
        .map(|manifest| Some(manifest.metric?.value))
        .collect();
    let expected = ["2.25", "2.5", "2.0", "1.5"].map(|value| Some(value.to_owned()));
    assert_eq!(told, expected);
    // A better one takes the place of the worst of them, unless that is pinned.
    let layout = Layout::new("team", "run").unwrap();
    let vault = Vault {
        bucket: &*bucket,
        layout: &layout,
        run: "run",
    };
    let ids = vault.ids().await.unwrap();
    let of = |step: u64| *ids.iter().find(|id| id.step == step).unwrap();
    vault.pin(&of(50), "test", now_us()).await.unwrap();
    world.backup.measured(Some(80), now_us(), 1.0);
    save(&world, [80]).await;
    assert_eq!(steps(&world).await, [80, 70, 50, 20]);
    // An agent that starts again knows nothing of the log, and goes by the commits.
    let world = world.restarted(bucket.clone());
    vault.unpin(&of(50)).await.unwrap();
    save(&world, [90, 100]).await;
    assert_eq!(steps(&world).await, [100, 90, 80, 20]);
}

#[tokio::test(start_paused = true)]
async fn data_of_a_deleted_checkpoint_stays_for_the_grace_and_as_long_as_it_is_read() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 2;
        options.keep_grace = Duration::from_secs(3600);
    });
    world.trained();
    let data = |step: u64| {
        let keys = bucket.keys();
        keys.iter().any(|key| {
            key.starts_with("team/run/data/") && key.ends_with(&format!("step_{step}.npz"))
        })
    };
    save(&world, 1..=2).await;
    let second = world.manifests().await[0].id.parse().unwrap();
    let layout = Layout::new("team", "run").unwrap();
    let vault = Vault {
        bucket: &*bucket,
        layout: &layout,
        run: "run",
    };
    save(&world, 3..=4).await;
    assert_eq!(steps(&world).await, [4, 3]);
    assert!(data(1) && data(2), "their data is still there");
    // The server's clock decides. A restore began a moment ago, by that clock.
    bucket.set_clock_offset_s(7200.0);
    let mark = vault
        .begin_reading(&second, "a test", now_us() + 7_200_000_000)
        .await
        .unwrap();
    time::sleep(Duration::from_secs(3600)).await;
    world.backup.round().await.unwrap();
    assert!(!data(1) && data(2), "{:?}", bucket.keys());
    bucket.remove(&mark);
    time::sleep(Duration::from_secs(3600)).await;
    world.backup.round().await.unwrap();
    assert!(!data(2) && data(3), "{:?}", bucket.keys());
    assert_eq!(world.events("checkpoint.purged").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_taken_back_when_what_it_refers_to_went_while_it_was_on_its_way() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep_grace = Duration::from_secs(3600);
    });
    world.trained();
    world.write("checkpoint-1/model.npz", &npz(1, 4000));
    world.write("checkpoint-1/base.npz", &npz(0, 6000));
    assert_eq!(world.backup_all().await.len(), 1);
    // Another machine deletes it; its data waits for the grace.
    let layout = Layout::new("team", "run").unwrap();
    let vault = Vault {
        bucket: &*bucket,
        layout: &layout,
        run: "run",
    };
    let first = world.manifests().await[0].id.parse().unwrap();
    assert!(vault.bury(&first, "a test", now_us()).await.unwrap());
    // The next one is sealed, and refers to its file, when the bucket goes away before the commit. The grace ends meanwhile.
    world.write("checkpoint-2/model.npz", &npz(2, 4000));
    world.write("checkpoint-2/base.npz", &npz(0, 6000));
    assert_eq!(world.settle().await.len(), 0);
    bucket.fail_after("PutObject", 1, 60, ErrorKind::Transient);
    let purge = async {
        time::sleep(Duration::from_secs(30)).await;
        vault.purge(Duration::ZERO, now_us() / 1_000, false).await
    };
    let (round, purged) = tokio::join!(world.backup.round(), purge);
    assert_eq!(purged.unwrap()[0].objects, 2, "no commit refers to it");
    let problem = round.unwrap_err();
    assert!(format!("{problem:?}").contains("Withdrawn"), "{problem:?}");
    assert!(world.manifests().await.is_empty(), "it was taken back");
    // It is saved all the same, with everything it refers to.
    assert_eq!(world.backup_all().await.len(), 1);
    let manifests = world.manifests().await;
    assert_eq!((manifests.len(), manifests[0].step), (1, Some(2)));
    for file in &manifests[0].files {
        assert!(bucket.object(&file.key).is_some(), "{} is gone", file.key);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_pinned_or_the_first_of_so_many_steps_stays() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 2;
        options.keep.every_steps = 100;
    });
    world.trained();
    save(&world, [10]).await;
    let layout = Layout::new("team", "run").unwrap();
    let vault = Vault {
        bucket: &*bucket,
        layout: &layout,
        run: "run",
    };
    save(&world, [20]).await;
    let twenty = world.manifests().await[0].id.parse().unwrap();
    vault.pin(&twenty, "a test", 1).await.unwrap();
    save(&world, [30, 100, 110, 200, 210, 220]).await;
    assert_eq!(steps(&world).await, [220, 210, 200, 100, 20, 10]);
    vault.unpin(&twenty).await.unwrap();
    save(&world, [230]).await;
    assert_eq!(steps(&world).await, [230, 220, 200, 100, 10]);
}

#[tokio::test(start_paused = true)]
async fn keys_that_may_not_delete_stop_no_backup() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 2
    });
    world.trained();
    bucket.fail_next("DeleteObject", 1_000, ErrorKind::Denied);
    save(&world, 1..=4).await;
    assert_eq!(steps(&world).await, [4, 3, 2, 1]);
    assert_eq!(world.events("retention.failed").len(), 1);
    bucket.heal();
    // It is not asked again at every commit: what is put beside a commit that stays would pile up.
    time::sleep(Duration::from_secs(3600)).await;
    save(&world, [5]).await;
    assert_eq!(steps(&world).await, [5, 4]);
}

#[tokio::test(start_paused = true)]
async fn what_an_outage_left_behind_leaves_the_box_when_newer_ones_are_saved() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 2
    });
    // Somebody put it there to begin from.
    world.write("step_0.npz", &npz(0, 2000));
    std::thread::sleep(Duration::from_millis(12));
    world.backup.training(Some(now_us()));
    // The bucket is away while the training saves five times, and the third save is torn.
    for step in 1..=5_u64 {
        let whole = npz(step, 2000);
        let bytes = if step == 3 { &whole[..900] } else { &whole };
        world.write(&format!("step_{step}.npz"), bytes);
    }
    world.write("step_6.npz", &npz(6, 2000));
    bucket.fail_next("*", u32::MAX, ErrorKind::Transient);
    let waits = time::timeout(Duration::from_secs(600), world.backup.round()).await;
    assert!(waits.is_err(), "the bucket is away");
    bucket.heal();
    assert_eq!(world.tree().len(), 7, "nothing goes while nothing is saved");
    world.backup_all().await;
    assert_eq!(steps(&world).await, [6, 5]);
    let on_the_box: Vec<String> = world.tree().into_keys().collect();
    assert_eq!(
        on_the_box,
        ["step_0.npz", "step_3.npz", "step_5.npz", "step_6.npz"],
        "what is kept, what was there before, and what was never whole"
    );
    let told: Vec<(String, bool)> = world
        .events("checkpoint.deleted")
        .iter()
        .map(|detail| {
            (
                detail["path"].as_str().unwrap().to_owned(),
                detail["skipped"] == true,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("step_4.npz".to_owned(), true),
            ("step_2.npz".to_owned(), true),
            ("step_1.npz".to_owned(), true)
        ]
    );
    assert_eq!(world.backup.state().unsaved_bytes, 0);
    // What nobody uploads and nobody deletes is named.
    let unsaved: Vec<String> = (world.events("checkpoint.unsaved").iter())
        .map(|detail| detail["path"].as_str().unwrap().to_owned())
        .filter(|path| path == "step_0.npz")
        .collect();
    assert_eq!(unsaved.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_later_step_succeeds_stays_in_the_bucket_and_on_the_box() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 3
    });
    // Somebody's own, and read by name by the training.
    world.write("base.npz", &npz(90, 2000));
    for step in [1, 2, 3] {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
    }
    assert_eq!(world.backup_all().await.len(), 4);
    world.trained();
    world.write("best.npz", &npz(91, 2000));
    world.write("final/model.npz", &npz(92, 2000));
    assert_eq!(world.backup_all().await.len(), 2);
    for step in [100, 200, 300, 400, 500] {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
        assert_eq!(world.backup_all().await.len(), 1, "step {step}");
    }
    let expected = [
        "base.npz",
        "best.npz",
        "final/model.npz",
        "step_1.npz",
        "step_2.npz",
        "step_3.npz",
        "step_300.npz",
        "step_400.npz",
        "step_500.npz",
    ];
    let on_the_box: Vec<String> = world.tree().into_keys().collect();
    assert_eq!(on_the_box, expected);
    let mut in_the_bucket: Vec<String> = world
        .manifests()
        .await
        .into_iter()
        .map(|one| one.path)
        .collect();
    in_the_bucket.sort();
    assert_eq!(
        in_the_bucket,
        expected.map(|path| path.split('/').next().unwrap())
    );
    // A restart knows when the training began, and what was restored goes like any other.
    let other = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 3
    });
    let restored = other.backup.restore(None, &mut |_, _| {}).await.unwrap();
    assert_eq!(restored.unwrap().checkpoint.step, Some(500));
    other.trained();
    let other = other.restarted(bucket);
    save(&other, [600, 700, 800]).await;
    let on_the_box: Vec<String> = other.tree().into_keys().collect();
    assert_eq!(on_the_box, ["step_600.npz", "step_700.npz", "step_800.npz"]);
}

#[tokio::test(start_paused = true)]
async fn the_best_is_uploaded_however_many_steps_came_after_it() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::with(bucket.clone(), bucket.clone(), |options| {
        options.keep.last = 2
    });
    world.trained();
    bucket.fail_next("*", u32::MAX, ErrorKind::Transient);
    world.write("best.npz", &npz(91, 2000));
    for step in 1..=4_u64 {
        world.write(&format!("step_{step}.npz"), &npz(step, 2000));
    }
    let waits = time::timeout(Duration::from_secs(600), world.backup.round()).await;
    assert!(waits.is_err(), "the bucket is away");
    bucket.heal();
    world.backup_all().await;
    let mut saved: Vec<String> = (world.manifests().await.into_iter())
        .map(|one| one.path)
        .collect();
    saved.sort();
    assert_eq!(saved, ["best.npz", "step_3.npz", "step_4.npz"]);
    assert_eq!(world.backup.state().unsaved_bytes, 0);
}
