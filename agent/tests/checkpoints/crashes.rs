//! The agent dies at any call, and the next one goes on.

use std::sync::Arc;
use std::time::Duration;

use spotter_bucket::ErrorKind;
use spotter_bucket::memory::MemoryBucket;

use crate::world::{CrashBucket, HookBucket, MIB, World, npz};

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
        world.fill();
        assert!(!world.backup_until_death(&bucket).await);
        bucket.calls()
    };
    assert!(calls > 12, "a round makes {calls} calls");
    for after in [false, true] {
        for at in 1..=calls {
            crash_and_recover(at, after).await;
        }
    }
}

async fn crash_and_recover(at: u64, after: bool) {
    let context = format!("crash {} call {at}", if after { "after" } else { "before" });
    let crashing = CrashBucket::new(at, after);
    let world = World::with(crashing.clone(), crashing.memory.clone(), |_| {});
    world.fill();
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
async fn a_sealed_checkpoint_that_the_bucket_refuses_stands_in_no_others_way() {
    let crashing = CrashBucket::at_nth("PutObject", 1);
    let world = World::with(crashing.clone(), crashing.memory.clone(), |_| {});
    world.write("step_7.npz", &npz(7, 20 * MIB));
    assert!(world.backup_until_death(&crashing).await);
    let bucket = crashing.memory.clone();
    let world = world.restarted(bucket.clone());
    world.write("step_8.npz", &npz(8, 20 * MIB));
    world.write("step_9.npz", &npz(9, 20 * MIB));
    bucket.fail_next("PutObject", 2, ErrorKind::Refused);
    assert!(world.backup.round().await.is_err());
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(world.backup.round().await.is_err(), "refused again");
    let state = world.backup.state();
    assert_eq!((state.committed, state.pending), (3, 0), "{state:?}");
    assert_eq!(world.events("checkpoint.failed").len(), 1, "told once");
}

#[tokio::test(start_paused = true)]
async fn notes_about_one_bucket_say_nothing_of_another_one() {
    // Everything is stored and sealed, and the commit is not there.
    let crashing = CrashBucket::at_nth("PutObject", 1);
    let world = World::with(crashing.clone(), crashing.memory.clone(), |_| {});
    world.write("step_7.npz", &npz(7, 20 * MIB));
    assert!(world.backup_until_death(&crashing).await);
    let world = world.moved_to("other", Arc::new(MemoryBucket::new()));
    assert_eq!(world.backup_all().await.len(), 1);
    world.assert_one_whole_commit_of(7).await;
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_is_replaced_ends_what_it_does_and_begins_nothing() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.fill();
    world.settle().await;
    bucket.set_latency(Duration::from_secs(5));
    let works = world.backup.clone();
    let round = tokio::spawn(async move { works.round().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.backup.retire().await;
    assert!(round.is_finished(), "it is waited for");
    assert_eq!(round.await.unwrap().unwrap(), []);
    bucket.set_latency(Duration::ZERO);
    let asked = world.backup.backup_now(Duration::from_secs(60), true);
    assert_eq!(asked.await.unwrap().committed, 0);
    let world = world.restarted(bucket);
    world.backup_all().await;
    world.assert_one_whole_commit_of(7).await;
}

/// A checkpoint that changed in one file out of three; the others refer to the data of the one before, which was there.
fn fill_again(world: &World, step: u64) {
    world.write(&format!("save-{step}/base.npz"), &npz(0, 20 * MIB));
    world.write(&format!("save-{step}/small.npz"), &npz(1, 900));
    world.write(&format!("save-{step}/head.npz"), &npz(step, 10 * MIB));
}

/// Buries a checkpoint and its data, as a prune without a grace does.
fn purge(bucket: &MemoryBucket, id: &str) {
    for key in bucket.keys() {
        if key.contains(id) {
            assert!(bucket.remove(&key));
        }
    }
}

async fn assert_whole(world: &World, bucket: &MemoryBucket) {
    for manifest in world.manifests().await {
        for file in &manifest.files {
            let body = bucket.object(&file.key);
            assert_eq!(
                body.map(|body| body.len() as u64),
                Some(file.size_bytes),
                "{}",
                file.key
            );
        }
    }
    world.assert_one_whole_commit_of(2).await;
}

#[tokio::test(start_paused = true)]
async fn data_of_an_older_checkpoint_that_is_deleted_while_the_box_is_stopped_is_sent_again() {
    // Three parts and two of the first one; of the second one only the head's are sent.
    let crashing = CrashBucket::at_nth("UploadPart", 6);
    let bucket = crashing.memory.clone();
    let world = World::with(crashing.clone(), bucket.clone(), |_| {});
    fill_again(&world, 1);
    let first = world.backup_all().await.remove(0);
    fill_again(&world, 2);
    assert!(world.backup_until_death(&crashing).await);
    purge(&bucket, &first.id);
    std::fs::remove_dir_all(world.path("save-1")).unwrap();
    let world = world.restarted(bucket.clone());
    assert_eq!(world.backup_all().await.len(), 1);
    assert_whole(&world, &bucket).await;
}

#[tokio::test(start_paused = true)]
async fn data_of_an_older_checkpoint_that_is_deleted_during_the_upload_is_sent_again() {
    let bucket = Arc::new(MemoryBucket::new());
    let hooked = HookBucket::new(bucket.clone());
    let world = World::with(hooked.clone(), bucket.clone(), |_| {});
    fill_again(&world, 1);
    let first = world.backup_all().await.remove(0);
    fill_again(&world, 2);
    std::fs::remove_dir_all(world.path("save-1")).unwrap();
    let purged = bucket.clone();
    hooked.before("UploadPart", 6, move || purge(&purged, &first.id));
    assert_eq!(world.backup_all().await.len(), 1);
    assert_whole(&world, &bucket).await;
    assert_eq!(
        bucket.count("UploadPart"),
        5 + 2 + 3,
        "the base a second time, the head once"
    );
}

#[tokio::test(start_paused = true)]
async fn notes_of_small_files_that_a_power_cut_takes_cost_their_upload_and_nothing_else() {
    for lines in 1..=4 {
        let crashing = CrashBucket::at_nth("PutObject", 5);
        let bucket = crashing.memory.clone();
        let world = World::with(crashing.clone(), bucket.clone(), |_| {});
        for number in 0..6 {
            world.write(&format!("save-2/{number}.npz"), &npz(number, 900));
        }
        assert!(world.backup_until_death(&crashing).await);
        world.cut_notes(lines);
        let world = world.restarted(bucket.clone());
        assert_eq!(world.backup_all().await.len(), 1);
        assert_whole(&world, &bucket).await;
        assert_eq!(bucket.keys().len(), 6 + 1, "no litter after {lines}");
        assert_eq!(world.notes_left(), Vec::<String>::new());
    }
}
