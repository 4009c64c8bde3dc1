//! Results, which go beside the checkpoints.

use std::fs;
use std::sync::Arc;

use spotter_bucket::Manifest;
use spotter_bucket::memory::MemoryBucket;

use crate::world::{MIB, World, npz};

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
