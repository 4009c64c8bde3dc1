//! Downloads that go on, each kind of damage, and links that nobody writes through.

use std::{fs, path::Path};

use super::*;
use crate::memory::MemoryBucket;

const PART: u64 = 4 << 20;

fn noise(length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// A file in the bucket, in parts when it is large, which are subtrees of its hash.
fn stored(bucket: &MemoryBucket, name: &str, bytes: &[u8]) -> ManifestFile {
    let part = |(number, bytes): (usize, &[u8])| {
        let mut hasher = RangeHasher::part(number as u64 * PART);
        hasher.update(bytes);
        hasher.finish()
    };
    let mut file = stored_before(bucket, name, bytes);
    if !file.parts.is_empty() {
        file.parts = bytes.chunks(PART as usize).enumerate().map(part).collect();
    }
    file
}

/// The same as it was stored when each part was hashed alone.
fn stored_before(bucket: &MemoryBucket, name: &str, bytes: &[u8]) -> ManifestFile {
    let key = format!("run/data/x/{name}");
    bucket.insert(&key, bytes.to_vec());
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let large = bytes.len() as u64 > PART;
    ManifestFile {
        path: name.into(),
        mode: 0o644,
        mtime_ns: 0,
        size_bytes: bytes.len() as u64,
        blake3: hash(bytes),
        key,
        part_size_bytes: if large { PART } else { 0 },
        parts: if large {
            bytes.chunks(PART as usize).map(hash).collect()
        } else {
            Vec::new()
        },
    }
}

fn jobs(dir: &Path, files: &[ManifestFile]) -> Vec<Job> {
    files
        .iter()
        .map(|file| Job {
            file: file.clone(),
            path: dir.join(&file.path),
        })
        .collect()
}

#[tokio::test]
async fn what_is_there_and_hashes_right_is_not_read_again() {
    let (bucket, dir) = (MemoryBucket::new(), tempfile::tempdir().unwrap());
    let large = noise(3 * PART + 17);
    let files = [
        stored(&bucket, "large", &large),
        stored(&bucket, "small", b"small"),
        stored(&bucket, "empty", b""),
    ];
    let all = jobs(dir.path(), &files);
    make_room(dir.path(), &all).unwrap();
    let mut last = (0, 0);
    let brought = download(&bucket, all.clone(), &mut |done, total| {
        last = (done, total)
    })
    .await
    .unwrap();
    let total = large.len() as u64 + 5;
    assert_eq!((brought.fetched_bytes, brought.reused_bytes), (total, 0));
    assert_eq!(last, (total, total));
    assert_eq!(fs::read(dir.path().join("large")).unwrap(), large);

    // As a download that was killed leaves it: one part never came, another came half.
    let mut half = large.clone();
    half[PART as usize..2 * PART as usize].fill(0);
    half[3 * PART as usize..].fill(0);
    fs::write(dir.path().join("large"), &half).unwrap();
    fs::write(dir.path().join("stranger"), b"x").unwrap();
    make_room(dir.path(), &all).unwrap();
    let brought = download(&bucket, all.clone(), &mut |_, _| {})
        .await
        .unwrap();
    assert_eq!(brought.fetched_bytes, PART + 17);
    assert_eq!(fs::read(dir.path().join("large")).unwrap(), large);
    assert!(!dir.path().join("stranger").exists());
    assert!(all.iter().all(is_there));
}

#[tokio::test]
async fn each_kind_of_damage_has_its_name() {
    let (bucket, dir) = (MemoryBucket::new(), tempfile::tempdir().unwrap());
    let large = noise(2 * PART + 9);
    let check = async |spoil: &dyn Fn(&str), expected: Damage| {
        for stored in [stored, stored_before] {
            let file = stored(&bucket, "file", &large);
            assert_eq!(
                examine(&bucket, &bucket, &file, &mut |_| {}).await.unwrap(),
                None
            );
            spoil(&file.key);
            let found = examine(&bucket, &bucket, &file, &mut |_| {}).await.unwrap();
            assert_eq!(found, Some(expected.clone()));
            let folder = tempfile::tempdir_in(dir.path()).unwrap();
            let all = jobs(folder.path(), &[file]);
            make_room(folder.path(), &all).unwrap();
            let err = download(&bucket, all, &mut |_, _| {}).await.unwrap_err();
            assert!(
                matches!(&err, DownloadError::Damaged { damage, .. } if *damage == expected),
                "{err}"
            );
        }
    };
    check(&|key| assert!(bucket.remove(key)), Damage::Missing).await;
    let cut = |bytes: usize| {
        let large = large.clone();
        let bucket = &bucket;
        move |key: &str| bucket.insert(key, large[..bytes].to_vec())
    };
    let size = |found_bytes: usize| Damage::Size {
        expected_bytes: large.len() as u64,
        found_bytes: found_bytes as u64,
    };
    check(&cut(large.len() - 1), size(large.len() - 1)).await;
    check(&cut(77), size(77)).await;
    check(&cut(0), size(0)).await;
    check(
        &|key| assert!(bucket.corrupt(key)),
        Damage::Altered {
            from_byte: PART,
            to_byte: 2 * PART - 1,
        },
    )
    .await;
}

#[tokio::test]
async fn a_longer_object_is_found_by_its_size() {
    let bucket = MemoryBucket::new();
    let file = stored(&bucket, "file", b"four");
    bucket.insert(&file.key, "four and more");
    let found = examine(&bucket, &bucket, &file, &mut |_| {}).await.unwrap();
    assert_eq!(
        found,
        Some(Damage::Size {
            expected_bytes: 4,
            found_bytes: 13
        })
    );
}

#[tokio::test]
async fn links_are_never_written_through() {
    let (bucket, dir) = (MemoryBucket::new(), tempfile::tempdir().unwrap());
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, b"mine").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join("file")).unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("deep")).unwrap();
    let mut files = vec![stored(&bucket, "file", b"data")];
    files.push(ManifestFile {
        path: "deep/victim".into(),
        ..files[0].clone()
    });
    let all = jobs(dir.path(), &files);
    // Even when nobody swept: the file itself is not followed.
    let err = download(&bucket, all[..1].to_vec(), &mut |_, _| {}).await;
    assert!(matches!(err, Err(DownloadError::Disk { .. })), "{err:?}");
    make_room(dir.path(), &all).unwrap();
    download(&bucket, all, &mut |_, _| {}).await.unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"mine");
    assert_eq!(fs::read(dir.path().join("deep/victim")).unwrap(), b"data");
}
