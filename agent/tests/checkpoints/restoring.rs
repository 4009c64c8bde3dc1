//! What comes back from the bucket, and what of it is not believed.

use std::fs;
use std::sync::Arc;

use spotter_agent::checkpoints::RestoreError;
use spotter_bucket::manifest::MAX_MANIFEST_BYTES;
use spotter_bucket::memory::MemoryBucket;
use spotter_bucket::{CommitId, ErrorKind, Manifest};

use crate::world::{MIB, World, npz};

#[tokio::test(start_paused = true)]
async fn a_damaged_checkpoint_is_passed_over_and_named() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    for step in 1..=7_u64 {
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
    let data = |number: usize| manifests[number].files[0].key.clone();
    let whole = bucket.object(&data(3)).unwrap();
    bucket.insert(&data(3), whole.slice(..whole.len() - 1));
    bucket.insert(&data(4), "");
    let forged = Manifest {
        run: "other".into(),
        ..manifests[5].clone()
    };
    bucket.insert(
        &format!("team/run/commits/{}.json", forged.id),
        forged.clone().seal(),
    );

    let other = World::new(bucket.clone());
    let restored = other
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(restored.checkpoint.step, Some(1));
    assert_eq!(restored.skipped.len(), 6, "{:?}", restored.skipped);
    for (skipped, reason) in restored.skipped.iter().zip([
        "hash differs",
        "is gone",
        "manifest",
        "bytes instead of",
        "has 0 bytes",
        "is not the run's",
    ]) {
        assert!(skipped.contains(reason), "{skipped}");
    }
    assert_eq!(
        other.events("checkpoint.restored")[0]["skipped"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    assert_eq!(other.tree(), world.tree_of("step_1.npz"));

    let err = other
        .backup
        .restore(Some(&manifests[0].id), &mut |_, _| {})
        .await
        .unwrap_err();
    assert!(matches!(err, RestoreError::Damaged { .. }), "{err}");
    bucket.remove(&manifests[6].files[0].key);
    let err = World::new(bucket)
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap_err();
    assert!(
        matches!(&err, RestoreError::NoneWhole { skipped } if skipped.len() == 7),
        "{err}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_a_newer_spotter_is_passed_over_as_that() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    for step in 1..=2_u64 {
        world.write(&format!("step_{step}.npz"), &npz(step, 500));
        world.backup_all().await;
    }
    let newer = world.manifests().await[0].id.clone();
    bucket.insert(&format!("team/run/commits/{newer}.json"), r#"{"v": 99}"#);
    let other = World::new(bucket);
    let restored = other.backup.restore(None, &mut |_, _| {}).await;
    let restored = restored.unwrap().unwrap();
    assert_eq!(restored.checkpoint.step, Some(1));
    let told = &restored.skipped[..];
    assert!(
        matches!(told, [one] if one.contains("written by a newer spotter")),
        "{told:?}"
    );
    let err = other.backup.restore(Some(&newer), &mut |_, _| {}).await;
    let err = err.unwrap_err().to_string();
    assert!(
        err.contains("cannot be restored") && !err.contains("damaged"),
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
async fn a_bucket_that_lists_commits_and_gives_none_is_no_empty_one() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    for step in 1..=2_u64 {
        world.write(&format!("step_{step}.npz"), &npz(step, 500));
        world.backup_all().await;
    }
    let other = World::new(bucket.clone());
    bucket.fail_next("GetObject", 2, ErrorKind::NotFound);
    let err = other.backup.restore(None, &mut |_, _| {}).await;
    assert!(
        matches!(&err, Err(RestoreError::NoneWhole { skipped }) if skipped.len() == 2),
        "{err:?}"
    );
    // One that was deleted since is passed over without a word.
    bucket.fail_next("GetObject", 1, ErrorKind::NotFound);
    let restored = other.backup.restore(None, &mut |_, _| {}).await;
    let restored = restored.unwrap().unwrap();
    assert_eq!(
        (restored.checkpoint.step, restored.skipped.len()),
        (Some(1), 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_commit_too_large_to_be_read_is_named_and_leaves_no_empty_bucket() {
    let bucket = Arc::new(MemoryBucket::new());
    let large = CommitId::generate(None);
    let huge = bytes::Bytes::from(vec![b' '; MAX_MANIFEST_BYTES + 1]);
    bucket.insert(&format!("team/run/commits/{large}.json"), huge);
    let world = World::new(bucket.clone());
    let err = world.backup.restore(None, &mut |_, _| {}).await;
    assert!(
        matches!(&err, Err(RestoreError::NoneWhole { skipped }) if skipped[0].contains("larger than")),
        "{err:?}"
    );
    let id = large.to_string();
    let err = world.backup.restore(Some(&id), &mut |_, _| {}).await;
    assert!(matches!(err, Err(RestoreError::Damaged { .. })), "{err:?}");
    assert_eq!(bucket.count("GetObject"), 0, "it is not read");

    world.write("step_1.npz", &npz(1, 500));
    world.backup_all().await;
    let other = World::new(bucket);
    let restored = other.backup.restore(None, &mut |_, _| {}).await.unwrap();
    assert_eq!(restored.unwrap().checkpoint.step, Some(1));
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
async fn an_interrupted_restore_goes_on_where_it_was() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("state-7/model.npz", &npz(7, 40 * MIB));
    world.write("state-7/rng_state.npz", &npz(8, 100));
    assert_eq!(world.backup_all().await.len(), 1);
    let other = World::new(bucket.clone());
    // The commit, then three of eight ranges come; then the bucket says no in a way that is not the checkpoint's fault.
    bucket.fail_after("GetObject", 4, 100, ErrorKind::Refused);
    let err = other.backup.restore(None, &mut |_, _| {}).await;
    assert!(matches!(err, Err(RestoreError::Bucket(_))), "{err:?}");
    bucket.heal();
    let partial = other.path("state-7.spotter-partial/model.npz");
    let mut half = npz(7, 40 * MIB);
    half[16 * MIB..].fill(0);
    assert_eq!(fs::metadata(&partial).unwrap().len(), half.len() as u64);
    // Not every byte of what came need have reached the file; so much has.
    fs::write(&partial, half).unwrap();
    let before = bucket.count("GetObject");
    let restored = other
        .backup
        .restore(None, &mut |_, _| {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(restored.checkpoint.step, Some(7));
    let asked = bucket.count("GetObject") - before;
    assert!(asked <= 6, "{asked} requests");
    assert_eq!(other.tree(), world.tree());
    assert!(
        bucket.keys().iter().all(|key| !key.contains("/readers/")),
        "the mark is gone"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_bucket_a_training_goes_on_from_what_is_known_to_be_whole() {
    let world = World::new(Arc::new(MemoryBucket::new()));
    let newest = |committed| {
        let found = world.backup.newest_local(committed).unwrap();
        found.map(|local| (local.step, local.path))
    };
    assert_eq!(newest(false), None);
    assert!(!world.backup.has_saved());
    world.write("step_10.txt", b"any bytes");
    assert_eq!(newest(false), None, "nothing but silence speaks for it");
    world.backup_all().await;
    let saved = Some((Some(10), world.path("step_10.txt")));
    assert_eq!(newest(false), saved);
    assert!(world.backup.has_saved());

    world.write("step_20.txt", b"half of any byt");
    let whole = npz(3, 2000);
    world.write("step_30.npz", &whole[..whole.len() - 1]);
    assert_eq!(newest(false), saved, "what is half is not believed");
    world.write("step_30.npz", &whole);
    assert_eq!(newest(false), Some((Some(30), world.path("step_30.npz"))));
    assert_eq!(newest(true), saved, "a host that lost power");

    // Files of a step that lie side by side go on from the directory; one that has lost a file since is not the one that was saved.
    world.write("model_000040.npz", &npz(4, 2000));
    world.write("optim_000040.npz", &npz(5, 2000));
    world.backup_all().await;
    let dir = world.path("model_000040.npz").parent().unwrap().to_owned();
    assert_eq!(newest(true), Some((Some(40), dir)));
    fs::remove_file(world.path("optim_000040.npz")).unwrap();
    assert_eq!(newest(true), Some((Some(30), world.path("step_30.npz"))));
}

#[tokio::test(start_paused = true)]
async fn what_turned_out_to_be_damaged_is_never_referred_to_again() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    let fill = |world: &World, step: u64| {
        world.write(&format!("checkpoint-{step}/base.npz"), &npz(0, 6000));
        world.write(&format!("checkpoint-{step}/model.npz"), &npz(step, 2000));
    };
    for step in 1..=3 {
        fill(&world, step);
        assert_eq!(world.backup_all().await.len(), 1, "step {step}");
    }
    let shared = world.manifests().await[0].files[0].key.clone();
    assert!(bucket.corrupt(&shared));
    // Every commit refers to it, so none comes back.
    let other = World::new(bucket.clone());
    let err = other.backup.restore(None, &mut |_, _| {}).await;
    let all = |skipped: &[String]| skipped.len() == 3;
    assert!(
        matches!(&err, Err(RestoreError::NoneWhole { skipped }) if all(skipped)),
        "{err:?}"
    );
    fill(&other, 4);
    assert_eq!(other.backup_all().await.len(), 1);
    assert_ne!(other.manifests().await[0].files[0].key, shared);
    let third = World::new(bucket);
    let restored = third.backup.restore(None, &mut |_, _| {}).await.unwrap();
    assert_eq!(restored.unwrap().checkpoint.step, Some(4));
    assert_eq!(third.tree(), other.tree());
}

#[tokio::test(start_paused = true)]
async fn a_training_goes_on_from_a_step_rather_than_from_what_was_left_for_others() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    let restored = async |bucket: &Arc<MemoryBucket>| {
        let other = World::new(bucket.clone());
        let restored = other.backup.restore(None, &mut |_, _| {}).await.unwrap();
        restored.unwrap().checkpoint.path
    };
    world.write("best.npz", &npz(1, 2000));
    world.backup_all().await;
    assert_eq!(restored(&bucket).await, "best.npz", "there is nothing else");
    world.write("step_100.npz", &npz(2, 2000));
    world.write("best.npz", &npz(3, 2000));
    world.write("final/model.npz", &npz(4, 2000));
    assert_eq!(world.backup_all().await.len(), 3);
    assert_eq!(restored(&bucket).await, "step_100.npz");
    let local = world.backup.newest_local(true).unwrap().unwrap();
    assert_eq!(local.step, Some(100));
    // What is written over and over is no export, whether it has a step or not.
    world.write("last.npz", &npz(5, 2000));
    world.backup_all().await;
    assert_eq!(restored(&bucket).await, "last.npz");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_was_exported_beside_the_checkpoints_is_one_and_comes_back_as_one() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("training_args.bin", &npz(1, 300));
    world.write("config.json", b"{}");
    assert_eq!(world.backup_all().await, [], "no checkpoint alone");
    let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let shard = |seed| spotter_bucket::whole::samples::safetensors(&npz(seed, 500));
    world.write("model-00001-of-00002.safetensors", &shard(2));
    assert_eq!(world.backup_all().await, [], "one is to come");
    world.write("model-00002-of-00002.safetensors", &shard(3));
    assert_eq!(world.backup_all().await, [], "their index is to come");
    world.write("model.safetensors.index.json", index);
    let committed = world.backup_all().await;
    let names: Vec<_> = committed
        .iter()
        .map(|one| (one.path.as_str(), one.files))
        .collect();
    assert_eq!(names, [("model-files", 5)]);
    let other = World::new(bucket);
    let restored = other.backup.restore(None, &mut |_, _| {}).await.unwrap();
    assert_eq!(restored.unwrap().path, other.path(""));
    assert_eq!(other.tree(), world.tree());
    assert_eq!(other.backup_all().await, [], "it is known");
}
