//! What lost boxes left in the bucket goes, and nothing that anybody may still need.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use spotter_bucket::Bucket;
use spotter_bucket::memory::MemoryBucket;

use crate::world::{CrashBucket, MIB, World, noise};

const DAY: Duration = Duration::from_secs(86_400);

/// Name of an attempt that was begun two days ago.
fn old_attempt() -> String {
    let then = SystemTime::now() - 2 * DAY;
    let ms = then
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let ulid = ulid::Ulid::from_parts(ms as u64, 7);
    format!("000000000009-{ulid}")
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_box_left_goes_after_a_day_and_nothing_else() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.fill();
    world.backup_all().await;
    let lost = format!("team/run/data/{}", old_attempt());
    let others = [
        format!("team/run2/data/{}/model.npz", old_attempt()),
        "team/run/data/readme.txt".to_owned(),
        "team/run/notes/today".to_owned(),
    ];
    for key in &others {
        bucket.insert(key, "not ours to judge");
    }
    let mut kept = bucket.keys();
    bucket.insert(&format!("{lost}/model.npz"), "half of it");
    bucket
        .create_upload(&format!("{lost}/optim.npz"))
        .await
        .unwrap();

    let world = world.restarted(bucket.clone());
    world.backup_all().await;
    assert_eq!(bucket.keys().len(), kept.len() + 1, "too young to judge");
    assert_eq!(bucket.open_uploads().len(), 1);

    bucket.grow_old(2 * DAY);
    let world = world.restarted(bucket.clone());
    world.backup_all().await;
    kept.sort();
    assert_eq!(bucket.keys(), kept);
    assert_eq!(bucket.open_uploads(), Vec::<String>::new());
    let swept = world.events("bucket.swept");
    assert_eq!(swept.len(), 1);
    assert_eq!(
        (
            &swept[0]["objects"],
            &swept[0]["uploads"],
            &swept[0]["bytes"]
        ),
        (&1.into(), &1.into(), &10.into())
    );
    world.assert_one_whole_commit_of(7).await;
}

#[tokio::test(start_paused = true)]
async fn the_sweep_comes_again_every_day() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.backup_all().await;
    bucket.insert(
        &format!("team/run/data/{}/model.npz", old_attempt()),
        "late",
    );
    bucket.grow_old(2 * DAY);
    world.backup_all().await;
    assert_eq!(bucket.keys().len(), 1, "not twice a day");
    tokio::time::sleep(DAY).await;
    world.backup_all().await;
    assert_eq!(bucket.keys(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_whose_data_was_swept_while_its_box_was_stopped_is_sent_anew() {
    // The two small files, then the commit.
    let crash = CrashBucket::at_nth("PutObject", 3);
    let memory = crash.memory.clone();
    let world = World::with(crash.clone(), memory.clone(), |_| {});
    world.fill();
    assert!(world.backup_until_death(&crash).await);
    let keys = memory.keys();
    assert_eq!(keys.len(), 3, "all of the data and no commit: {keys:?}");
    memory.remove(&keys[0]);
    let world = world.restarted(memory);
    assert_eq!(world.backup_all().await.len(), 1);
    world.assert_one_whole_commit_of(7).await;
    assert_eq!(world.notes_left(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_was_begun_twice_goes_though_its_checkpoint_is_saved() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.fill();
    world.backup_all().await;
    let id = world.manifests().await[0].id.clone();
    let again = format!("team/run/data/{id}/optim.npz");
    bucket.create_upload(&again).await.unwrap();
    let kept = bucket.keys();
    bucket.grow_old(2 * DAY);
    let world = world.restarted(bucket.clone());
    world.backup_all().await;
    assert_eq!(bucket.open_uploads(), Vec::<String>::new());
    assert_eq!(bucket.keys(), kept);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_swept_while_a_commit_or_a_tombstone_cannot_be_read() {
    let id = old_attempt();
    for damaged in [
        format!("team/run/commits/{id}.json"),
        format!("team/run/tombstones/0000000000001-{id}.json"),
    ] {
        let bucket = Arc::new(MemoryBucket::new());
        bucket.insert(&format!("team/run/data/{}/a", old_attempt()), "left");
        bucket.insert(&damaged, "{");
        bucket.grow_old(2 * DAY);
        let kept = bucket.keys();
        let world = World::new(bucket.clone());
        world.backup_all().await;
        assert_eq!(bucket.keys(), kept, "{damaged}");
        bucket.remove(&damaged);
        tokio::time::sleep(DAY).await;
        world.backup_all().await;
        assert_eq!(bucket.keys(), Vec::<String>::new(), "{damaged}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_dead_collections_of_results_left_goes_and_what_a_manifest_or_a_journal_has_stays() {
    let crash = CrashBucket::at_nth("CompleteMultipartUpload", 1);
    let memory = crash.memory.clone();
    let world = World::with(crash.clone(), memory.clone(), |_| {});
    world.write("out/a.txt", b"a");
    let (workdir, paths) = (world.path(""), ["out".to_owned()]);
    let collect = |world: &World| {
        let (backup, workdir, paths) = (world.backup.clone(), workdir.clone(), paths.clone());
        async move { backup.collect_results(&workdir, &paths).await }
    };
    collect(&world).await.unwrap();
    let results = || -> Vec<String> {
        let mut keys = memory.keys();
        keys.retain(|key| key.starts_with("team/run/results/"));
        keys
    };
    let kept = results();
    world.write("out/model.bin", &noise(1, 20 * MIB));
    tokio::select! {
        ended = collect(&world) => panic!("the bucket did not die: {ended:?}"),
        () = crash.died() => {}
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let dead = format!("team/run/results/{}/half.bin", old_attempt());
    memory.insert(&dead, "half of it");
    memory.create_upload(&dead).await.unwrap();
    memory.grow_old(2 * DAY);
    assert_eq!(memory.open_uploads().len(), 2);

    // What this box may go on with is younger than it looks.
    let world = world.restarted(memory.clone());
    world.backup_all().await;
    assert_eq!(results(), kept);
    assert_eq!(memory.open_uploads().len(), 1);
    let sent = memory.count("UploadPart");
    collect(&world).await.unwrap();
    assert_eq!(memory.count("UploadPart"), sent, "none was sent twice");
    assert_eq!(memory.open_uploads(), Vec::<String>::new());

    // A manifest that nobody can read may speak of anything.
    let damaged = format!("team/run/results/{}.json", old_attempt());
    memory.insert(&damaged, "{");
    memory.insert(&dead, "half of it");
    memory.grow_old(2 * DAY);
    tokio::time::sleep(DAY).await;
    world.backup_all().await;
    assert!(memory.object(&dead).is_some());
    memory.remove(&damaged);
    tokio::time::sleep(DAY).await;
    world.backup_all().await;
    assert!(memory.object(&dead).is_none());
}
