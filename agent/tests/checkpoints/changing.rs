//! Files that change, grow or go while they are uploaded.

use std::fs;
use std::sync::Arc;

use spotter_bucket::memory::MemoryBucket;

use crate::world::{HookBucket, MIB, World, npz};

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
    world.fill();
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
async fn six_hundred_files_that_the_trainer_takes_away_in_mid_upload_are_saved_whole() {
    const FILES: u64 = 600;
    spotter_agent::open_files::raise();
    let memory = Arc::new(MemoryBucket::new());
    let hooked = HookBucket::new(memory.clone());
    let world = World::with(hooked.clone(), memory.clone(), |_| {});
    for number in 0..FILES {
        let name = format!("checkpoint-7/shard_{number:03}.npz");
        world.write(&name, &npz(number, 3000));
    }
    world.fill();
    let (before, dir) = (world.tree(), world.path("checkpoint-7"));
    hooked.before("PutObject", FILES / 3, move || {
        fs::remove_dir_all(&dir).unwrap()
    });
    let committed = world.backup_all().await;
    assert!(!world.path("checkpoint-7").exists());
    // Where the system allows only few open files it is lost whole, and no half of it may seem to be there.
    if spotter_agent::open_files::to_hold() <= FILES as usize {
        assert_eq!(committed, []);
        assert!(world.manifests().await.is_empty());
        return;
    }
    assert_eq!(committed.len(), 1);
    let other = World::new(memory);
    let restored = other.backup.restore(None, &mut |_, _| {}).await;
    restored.unwrap().unwrap();
    assert_eq!(other.tree(), before);
}
