//! Which checkpoints stay, in the bucket and on the box.

use std::sync::Arc;

use spotter_bucket::memory::MemoryBucket;

use crate::world::{World, npz};

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
