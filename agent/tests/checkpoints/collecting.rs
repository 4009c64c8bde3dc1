//! Results, which go beside the checkpoints.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spotter_agent::checkpoints::{Results, ResultsError};
use spotter_bucket::memory::MemoryBucket;
use spotter_bucket::{ErrorKind, Manifest};

use crate::world::{CrashBucket, HookBucket, MIB, World, noise, npz};

/// Collects a directory `out`.
async fn collect(world: &World) -> Result<Results, ResultsError> {
    let paths = ["out".to_owned()];
    world.backup.collect_results(&world.path(""), &paths).await
}

/// Begins to collect it, until the bucket dies; then all is quiet.
async fn collect_until_death(world: &World, bucket: &CrashBucket) {
    tokio::select! {
        ended = collect(world) => panic!("the bucket did not die: {ended:?}"),
        () = bucket.died() => {}
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// Every file of the manifest is in the bucket as it is here.
fn assert_kept(world: &World, bucket: &MemoryBucket, results: &Results) -> Manifest {
    let manifest = Manifest::open(&bucket.object(&results.manifest_key).unwrap()).unwrap();
    for file in &manifest.files {
        let body = bucket.object(&file.key).unwrap();
        assert!(
            body == fs::read(world.path(&file.path)).unwrap(),
            "{file:?}"
        );
    }
    manifest
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
async fn a_collection_that_was_killed_sends_only_what_lacks() {
    let crash = CrashBucket::at_nth("UploadPart", 3);
    let memory = crash.memory.clone();
    let world = World::with(crash.clone(), memory.clone(), |_| {});
    world.write("out/model.bin", &noise(1, 40 * MIB));
    world.write("out/notes.txt", b"notes");
    collect_until_death(&world, &crash).await;
    assert_eq!(memory.count("UploadPart"), 2);
    let begun = memory.open_uploads();

    let world = world.restarted(memory.clone());
    let results = collect(&world).await.unwrap();
    assert_eq!(memory.count("UploadPart"), 5, "three of five parts lacked");
    assert_eq!(memory.count("CreateMultipartUpload"), 1);
    // The small file and the manifest.
    assert_eq!(memory.count("PutObject"), 2);
    let manifest = assert_kept(&world, &memory, &results);
    assert_eq!(begun, [manifest.files[0].key.as_str()]);
    assert_eq!(world.notes_left(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_the_newest_manifest_has_is_not_sent_again_nor_what_a_killed_one_sent() {
    // The two small files, then the manifest.
    let crash = CrashBucket::at_nth("PutObject", 3);
    let memory = crash.memory.clone();
    let world = World::with(crash.clone(), memory.clone(), |_| {});
    world.write("out/model.bin", &noise(1, 20 * MIB));
    world.write("out/a.txt", b"a");
    world.write("out/b.txt", b"b");
    collect_until_death(&world, &crash).await;
    assert_eq!(memory.count("UploadPart"), 3);

    // It is another list of files now, and all but one are the same.
    world.write("out/b.txt", b"other");
    let world = world.restarted(memory.clone());
    let first = collect(&world).await.unwrap();
    assert_eq!(memory.count("UploadPart"), 3);
    assert_eq!(memory.count("PutObject"), 4, "one file and the manifest");
    assert_kept(&world, &memory, &first);

    world.write("out/b.txt", b"yet another");
    let world = world.restarted_without_notes(memory.clone());
    let second = collect(&world).await.unwrap();
    assert_ne!(second.manifest_key, first.manifest_key);
    assert_eq!(memory.count("UploadPart"), 3);
    assert_eq!(memory.count("PutObject"), 6);
    assert_kept(&world, &memory, &second);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_again_goes_on_where_it_stood_and_whoever_asks_meanwhile_waits_for_it() {
    let bucket = Arc::new(MemoryBucket::new());
    bucket.set_latency(Duration::from_secs(10));
    let world = World::new(bucket.clone());
    world.write("out/model.bin", &noise(1, 20 * MIB));
    // The list, the beginning of the upload, and its three parts at once.
    let left = tokio::time::timeout(Duration::from_secs(35), collect(&world)).await;
    assert!(left.is_err(), "the link broke first");
    assert_eq!(bucket.count("UploadPart"), 3);
    let (one, other) = tokio::join!(collect(&world), collect(&world));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(bucket.count("UploadPart"), 3);
    assert_eq!(bucket.count("CreateMultipartUpload"), 1);
    // And what is there is not read again for one who comes late.
    let again = collect(&world).await.unwrap();
    assert_kept(&world, &bucket, &again);
    assert_eq!(bucket.count("PutObject"), 1, "the manifest");
}

#[tokio::test(start_paused = true)]
async fn how_far_a_collection_is_can_be_seen() {
    let memory = Arc::new(MemoryBucket::new());
    let hooks = HookBucket::new(memory.clone());
    let world = World::with(hooks.clone(), memory.clone(), |_| {});
    world.write("out/a.txt", b"four");
    world.write("out/model.bin", &noise(1, 20 * MIB));
    let total = 20 * MIB as u64 + 4;
    let backup = world.backup.clone();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    for (call, nth) in [("CreateMultipartUpload", 1), ("CompleteMultipartUpload", 1)] {
        let (backup, seen) = (backup.clone(), seen.clone());
        hooks.before(call, nth, move || {
            let state = backup.state();
            seen.lock()
                .unwrap()
                .push((state.results_done_bytes, state.results_total_bytes));
        });
    }
    collect(&world).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [(4, total), (total, total)]);
    let state = backup.state();
    assert_eq!(
        (state.results_done_bytes, state.results_total_bytes),
        (0, 0)
    );
    assert_eq!(state.uploading_total_bytes, 0, "that speaks of checkpoints");
}

#[tokio::test(start_paused = true)]
async fn a_link_is_the_file_that_it_leads_to_and_one_that_leads_elsewhere_is_named() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("elsewhere/best.npz", &npz(1, 100));
    world.write("out/run-1/log.txt", b"loss 1.0\n");
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("key.txt"), b"not of this run").unwrap();
    for (target, link) in [
        (Path::new("../elsewhere/best.npz"), "out/best.npz"),
        (Path::new("run-1"), "out/latest"),
        (Path::new("../elsewhere"), "out/all"),
        (Path::new("nothing"), "out/gone"),
        (&outside.path().join("key.txt"), "out/key.txt"),
        (outside.path(), "out/scratch"),
    ] {
        std::os::unix::fs::symlink(target, world.path(link)).unwrap();
    }
    for _ in 0..2 {
        let results = collect(&world).await.unwrap();
        let names: Vec<&str> = results
            .files
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        assert_eq!(names, ["out/best.npz", "out/run-1/log.txt"]);
        let mut passed_over = results.passed_over.clone();
        passed_over.sort();
        assert_eq!(passed_over, ["out/all", "out/key.txt", "out/scratch"]);
        assert_kept(&world, &bucket, &results);
    }
    // Over ssh the same files are fetched, and the same links are named.
    for paths in [&["out"][..], &["out/*/*.txt"], &["out/*"], &["out/**"]] {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let workdir = world.path("");
        let kept = world
            .backup
            .collect_results(&workdir, &paths)
            .await
            .unwrap();
        let fetched = spotter_agent::files::hash_files(&workdir, &paths).unwrap();
        assert_eq!(kept.files, fetched.files, "{paths:?}");
        let named: Vec<PathBuf> = kept.passed_over.iter().map(PathBuf::from).collect();
        assert_eq!(named, fetched.leading_out, "{paths:?}");
    }
    let (workdir, middle) = (world.path(""), ["out/*/*.txt".to_owned()]);
    let kept = world.backup.collect_results(&workdir, &middle).await;
    assert_eq!(kept.unwrap().passed_over, ["out/scratch/key.txt"]);
}

#[tokio::test(start_paused = true)]
async fn why_results_were_not_uploaded_is_on_record_once_for_each_reason() {
    let bucket = Arc::new(MemoryBucket::new());
    let world = World::new(bucket.clone());
    world.write("out/a.txt", b"four");
    let problems = || -> Vec<String> {
        let told = world.events("results.failed");
        let problem = |detail: &serde_json::Value| detail["problem"].as_str().unwrap().to_owned();
        told.iter().map(problem).collect()
    };
    for _ in 0..3 {
        bucket.fail_next("PutObject", 1, ErrorKind::Refused);
        assert!(collect(&world).await.is_err());
    }
    assert_eq!(problems().len(), 1, "{:?}", problems());
    assert!(problems()[0].contains("PutObject"), "{:?}", problems());
    collect(&world).await.unwrap();
    world.write("out/a.txt", b"fives");
    bucket.fail_next("PutObject", 1, ErrorKind::Refused);
    assert!(collect(&world).await.is_err());
    assert_eq!(problems().len(), 2, "it had ended in between");
}
