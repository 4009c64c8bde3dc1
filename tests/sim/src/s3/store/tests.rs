//! Restarts and readers, over real files.

use super::*;

fn stored(store: &Store, key: &str, content: &[u8]) -> Result<(), StoreError> {
    let (mut file, scratch) = store.scratch().unwrap();
    file.write_all(content).unwrap();
    let description = Description {
        key: key.to_owned(),
        size_bytes: content.len() as u64,
        etag: hex::encode(Md5::digest(content)),
        modified_ms: 5,
        content_type: None,
        metadata: BTreeMap::new(),
    };
    store.put("runs", description, scratch, &Precondition::default())
}

fn content(store: &Store, key: &str) -> Vec<u8> {
    let (description, file) = store.read("runs", key).unwrap();
    let mut bytes = Vec::new();
    file.take(description.size_bytes)
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn objects_and_parts_are_there_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &["runs".to_owned()]).unwrap();
    stored(&store, "a/../b\n", b"one").unwrap();
    stored(&store, "a/../b\n", b"three").unwrap();
    stored(&store, "empty", b"").unwrap();
    let begun = Begun {
        bucket: "runs".into(),
        key: "k".into(),
        initiated_ms: 7,
        content_type: None,
        metadata: BTreeMap::new(),
        crc32: false,
    };
    let id = store.begin(begun.clone()).unwrap();
    let (mut file, scratch) = store.scratch().unwrap();
    file.write_all(b"part").unwrap();
    let md5 = hex::encode(Md5::digest(b"part"));
    store
        .put_part(("runs", "k", &id), 3, (4, md5.clone(), None), scratch)
        .unwrap();
    let half_written = store.scratch().unwrap().1.keep().unwrap();
    drop(store);

    let store = Store::open(dir.path(), &[]).unwrap();
    assert_eq!(store.buckets(), ["runs"]);
    assert_eq!(content(&store, "a/../b\n"), b"three");
    assert_eq!(content(&store, "empty"), b"");
    assert!(!half_written.exists(), "what was being written is gone");
    assert_eq!(store.uploads("runs").unwrap(), [(id.clone(), begun)]);
    let done = store
        .complete(
            ("runs", "k", &id),
            &[Wanted {
                number: 3,
                etag: md5,
                crc32: None,
            }],
            &Precondition::default(),
        )
        .unwrap();
    assert_eq!(
        (done.size_bytes, content(&store, "k").as_slice()),
        (4, &b"part"[..])
    );
    assert!(store.uploads("runs").unwrap().is_empty());
}

#[test]
fn a_reader_keeps_the_object_it_began_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &["runs".to_owned()]).unwrap();
    stored(&store, "k", b"before").unwrap();
    let (_, mut file) = store.read("runs", "k").unwrap();
    stored(&store, "k", b"after!").unwrap();
    let mut bytes = [0; 6];
    file.read_exact(&mut bytes).unwrap();
    assert_eq!(
        (&bytes, content(&store, "k").as_slice()),
        (b"before", &b"after!"[..])
    );
}
