//! Checkpoints that somebody damaged in the bucket with a plain client: a restore passes over each, says why, and takes the newest that is
//! whole; and what lies in its way on the box leads it nowhere else.

use std::{fs, os::unix::fs::symlink, sync::Arc};

use bytes::Bytes;
use spotter::checkpoints::verify::verify;
use spotter_agent::checkpoints::RestoreError;
use spotter_bucket::{Bucket, Keep, Manifest, S3Bucket};

use crate::{
    fleet::Server,
    laptop::shelf_of,
    sidecar::{Box, noise, save},
};

/// What somebody does to a checkpoint.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Missing,
    Flipped,
    Truncated,
    Shifted,
    Emptied,
    CommitFlipped,
    CommitTruncated,
    OfAnotherRun,
    Escaping,
    NamedElsewhere,
}

/// Each, and what is said of it.
const ALL: [(Damage, &str); 10] = [
    (Damage::Missing, "is gone"),
    (Damage::Flipped, "hash differs"),
    (Damage::Truncated, "bytes instead of"),
    (Damage::Shifted, "hash differs"),
    (Damage::Emptied, "has 0 bytes"),
    (Damage::CommitFlipped, "manifest"),
    (Damage::CommitTruncated, "manifest"),
    (Damage::OfAnotherRun, "is not the run's"),
    (Damage::Escaping, "manifest"),
    (Damage::NamedElsewhere, "manifest"),
];

impl Damage {
    async fn strikes(self, bucket: &S3Bucket, manifest: &Manifest) {
        let commit = format!("p/run/commits/{}.json", manifest.id);
        // The file that went in parts, where there is one.
        let file = manifest.files.iter().max_by_key(|file| file.size_bytes);
        let data = file.unwrap().key.as_str();
        let changed = async |key: &str, change: fn(&mut Vec<u8>)| {
            let mut bytes = bucket.get(key, None).await.unwrap().to_vec();
            change(&mut bytes);
            bucket.put(key, bytes.into()).await.unwrap();
        };
        let forged = async |forge: fn(&mut Manifest)| {
            let mut forged = manifest.clone();
            forge(&mut forged);
            bucket.put(&commit, forged.seal()).await.unwrap();
        };
        match self {
            Damage::Missing => bucket.delete(data).await.unwrap(),
            Damage::Flipped => changed(data, |bytes| *bytes.last_mut().unwrap() ^= 1).await,
            Damage::Truncated => changed(data, |bytes| bytes.truncate(bytes.len() - 1)).await,
            Damage::Shifted => changed(data, |bytes| bytes.insert(0, 0)).await,
            Damage::Emptied => drop(bucket.put(data, Bytes::new()).await.unwrap()),
            Damage::CommitFlipped => {
                changed(&commit, |bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                })
                .await;
            }
            Damage::CommitTruncated => {
                changed(&commit, |bytes| bytes.truncate(bytes.len() / 2)).await;
            }
            Damage::OfAnotherRun => forged(|manifest| manifest.run = "other".into()).await,
            Damage::Escaping => {
                forged(|manifest| manifest.files[0].path = "../../escaped.dat".into()).await;
            }
            Damage::NamedElsewhere => forged(|manifest| manifest.path = "../step_1".into()).await,
        }
    }
}

pub(crate) async fn each_kind_is_passed_over_and_told(server: &Server) {
    let first = Box::new();
    let backup = first.agent_that_keeps(Keep::default(), Arc::new(server.client()));
    for step in 1..=ALL.len() as u64 + 1 {
        first.write(step, "model.dat", &noise(step, 50_000));
        // One in parts, which is hit in its last.
        let large = if step == 10 { 9 << 20 } else { 60_000 };
        first.write(step, "optimizer.dat", &noise(100 + step, large));
        save(&backup).await;
    }
    let shelf = shelf_of(server);
    let commits = shelf.vault().read_all().await.unwrap();
    let newest_first: Vec<Manifest> = commits
        .into_iter()
        .map(|(_, commit)| commit.unwrap())
        .collect();
    let client = server.client();
    for ((damage, _), manifest) in ALL.iter().zip(&newest_first) {
        damage.strikes(&client, manifest).await;
    }

    // On a box where links lie in the way of what is whole.
    let (second, outside) = (Box::new(), tempfile::tempdir().unwrap());
    let victim = outside.path().join("model.dat");
    fs::write(&victim, b"mine").unwrap();
    fs::create_dir_all(second.path("")).unwrap();
    for name in [
        "step_1",
        "step_1.spotter-partial",
        "step_1.spotter-replaced",
    ] {
        symlink(outside.path(), second.path(name)).unwrap();
    }
    let elsewhere = second.agent_that_keeps(Keep::default(), Arc::new(server.client()));
    let restored = elsewhere.restore(None, &mut |_, _| {}).await;
    let restored = restored.unwrap().unwrap();
    assert_eq!(restored.checkpoint.step, Some(1));
    assert_eq!(restored.skipped.len(), ALL.len(), "{:#?}", restored.skipped);
    for (skipped, (damage, told)) in restored.skipped.iter().zip(ALL) {
        assert!(skipped.contains(told), "{damage:?}: {skipped}");
    }
    let told = &second.events("checkpoint.restored")[0]["skipped"];
    assert_eq!(told.as_array().unwrap().len(), ALL.len());
    assert_eq!(fs::read(&victim).unwrap(), b"mine");
    assert!(!second.path("step_1").is_symlink());
    for name in ["model.dat", "optimizer.dat"] {
        let path = format!("step_1/{name}");
        let there = |at: &Box| fs::read(at.path(&path)).unwrap();
        assert!(there(&second) == there(&first), "{path}, bit by bit");
    }
    let strays = |dir: &std::path::Path| fs::read_dir(dir).unwrap().count();
    assert_eq!(strays(outside.path()), 1);

    // Who asks for a damaged one by name does not get another, and the laptop comes to the same verdicts.
    let err = elsewhere
        .restore(Some(&newest_first[1].id), &mut |_, _| {})
        .await;
    assert!(matches!(err, Err(RestoreError::Damaged { .. })), "{err:?}");
    let commits = shelf.vault().read_all().await.unwrap();
    let verdicts = verify(&shelf, &commits, &mut |_, _| {}).await.unwrap();
    let whole: Vec<u64> = verdicts
        .iter()
        .filter(|verdict| verdict.is_whole())
        .filter_map(|verdict| verdict.step)
        .collect();
    assert_eq!(whole, [1], "{verdicts:#?}");
}
