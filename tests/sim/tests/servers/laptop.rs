//! The laptop against a real server: the verbs of `spotter checkpoints` without a box, and what `spotter doctor bucket` finds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use spotter::{
    checkpoints::{
        Shelf,
        diff::{Change, diff},
        prune::{Order, Pruned, prune},
        pull::pull,
        push::{About, push},
        verify::verify,
    },
    clock::Clock,
    doctor::{
        diagnosis::{Trouble, diagnose},
        policy::Need,
        probe::{Outcome, probe},
    },
};
use spotter_bucket::{Bucket, CommitId, Keep, Manifest, retention};

use crate::{
    fleet::Server,
    sidecar::{Box, FROZEN_BYTES, hashes_below, restore},
};

/// From here on nothing that lies around can still become a checkpoint.
const TWO_DAYS_US: u64 = 48 * 3600 * 1_000_000;

pub(crate) fn shelf_of(server: &Server) -> Shelf {
    Shelf::new(Arc::new(server.client()), &server.target(), "run").unwrap()
}

/// Whole ones, newest first.
async fn manifests(shelf: &Shelf) -> Vec<Manifest> {
    let commits = shelf.vault().read_all().await.unwrap();
    commits.into_iter().map(|(_, read)| read.unwrap()).collect()
}

/// Commits a directory of the desk; bytes that were there already.
async fn pushed(shelf: &Shelf, desk: &Box, step: u64) -> u64 {
    let known = manifests(shelf).await;
    let known: Vec<&Manifest> = known.iter().collect();
    let clock = Clock::system();
    let about = About {
        step: Some(step),
        attempt: 1,
        rule: "generic".into(),
        when: None,
        now_us: u64::try_from(clock.now_us()).unwrap(),
        // A server's time is known to a second or so; what is pushed later is newer all the same.
        server_us: shelf.server_us(&clock) - step * 1_000_000,
    };
    let from = desk.path(&format!("step_{step}"));
    let (manifest, reused) = push(shelf, &from, &about, &known, &mut |_, _| {})
        .await
        .unwrap();
    assert_eq!(manifest.step, Some(step));
    reused
}

/// Keeps two, and nothing of what is deleted.
async fn pruned(shelf: &Shelf, at_rest: bool, later_us: u64) -> Pruned {
    let order = Order {
        keep: Keep {
            last: 2,
            ..Keep::default()
        },
        grace: Duration::ZERO,
        at_rest,
        dry_run: false,
        now_us: shelf.server_us(&Clock::system()) + later_us,
    };
    prune(shelf, &order).await.unwrap()
}

async fn is_whole(shelf: &Shelf) {
    let commits = shelf.vault().read_all().await.unwrap();
    let verdicts = verify(shelf, &commits, &mut |_, _| {}).await.unwrap();
    assert!(
        verdicts.iter().all(|verdict| verdict.is_whole()),
        "{verdicts:?}"
    );
}

pub(crate) async fn pushed_compared_thinned_out_and_pulled(server: &Server) {
    let (desk, shelf) = (Box::new(), shelf_of(server));
    let mut reused = Vec::new();
    for step in 1..=3 {
        desk.train(step);
        reused.push(pushed(&shelf, &desk, step).await);
    }
    assert_eq!(reused, [0, FROZEN_BYTES, FROZEN_BYTES], "sent once");
    is_whole(&shelf).await;

    let all = manifests(&shelf).await;
    let changes: Vec<(String, Change)> = diff(&all[1], &all[0])
        .into_iter()
        .map(|file| (file.path, file.change))
        .collect();
    let expected = [
        ("empty.dat", Change::Same),
        ("frozen.dat", Change::Same),
        ("sub dir/ä+b%20=&'(x)~.dat", Change::Changed),
        ("weights.dat", Change::Changed),
    ];
    assert_eq!(
        changes,
        expected.map(|(path, change)| (path.to_owned(), change))
    );

    let oldest: CommitId = all[2].id.parse().unwrap();
    let now_us = shelf.server_us(&Clock::system());
    shelf.vault().pin(&oldest, "test", now_us).await.unwrap();
    assert_eq!(pruned(&shelf, false, 0).await.deleted, [], "it is pinned");
    shelf.vault().unpin(&oldest).await.unwrap();
    let gone = pruned(&shelf, false, 0).await;
    assert_eq!(gone.deleted.len(), 1, "{gone:?}");
    assert_eq!(gone.purged.len(), 1, "{gone:?}");
    assert_eq!(gone.deleted[0].id, all[2].id);

    // What two dead laptops left.
    let data = shelf.layout.data_prefix();
    let half = format!("{data}{}/half.dat", CommitId::generate(Some(9)));
    let bucket = server.client();
    bucket.put(&half, Bytes::from_static(b"h")).await.unwrap();
    let begun = format!("{data}{}/begun.dat", CommitId::generate(Some(9)));
    bucket.create_upload(&begun).await.unwrap();
    let young = pruned(&shelf, true, 0).await;
    assert_eq!((young.orphans, young.aborted_uploads), (0, 0), "{young:?}");
    let old = pruned(&shelf, true, TWO_DAYS_US).await;
    assert_eq!((old.orphans, old.aborted_uploads), (1, 1), "{old:?}");
    assert_eq!(bucket.list_uploads("p/").await.unwrap(), []);
    let there = bucket.list(&data).await.unwrap();
    let there: Vec<&str> = there.iter().map(|object| object.key.as_str()).collect();
    let left = manifests(&shelf).await;
    let spoken_for: Vec<&str> = retention::keys(&left).into_iter().collect();
    assert_eq!(there, spoken_for, "what two need, and nothing else");
    is_whole(&shelf).await;

    let to = tempfile::tempdir().unwrap();
    for manifest in &left {
        pull(&shelf, manifest, to.path(), &mut |_, _| {})
            .await
            .unwrap();
    }
    let mut kept = desk.tree();
    kept.retain(|path, _| !path.starts_with("step_1/"));
    assert_eq!(hashes_below(to.path()), kept, "bit by bit");
    let rented = Box::new();
    let agent = rented.agent(Arc::new(server.client()));
    assert_eq!(restore(&agent, None).await, 3, "a box goes on from it");
    assert_eq!(rented.tree(), desk.tree_of("step_3/"));
}

pub(crate) async fn examined(server: &Server) {
    let bucket = server.client();
    let found = probe(&bucket, "p/run/data").await;
    for check in &found.checks {
        assert!(matches!(check.result, Outcome::Works), "{check:?}");
    }
    assert_eq!(found.checks.len(), Need::ALL.len());
    assert_eq!(found.left_behind, None);
    assert!(diagnose(&found).is_none());
    assert!(found.clock_offset_s.unwrap().abs() < 60.0, "{found:?}");
    assert_eq!(bucket.list("").await.unwrap(), [], "nothing is left behind");
    assert_eq!(bucket.list_uploads("p/").await.unwrap(), []);

    let trouble = |found: &_| diagnose(found).map(|(trouble, _)| trouble);
    let elsewhere = server.client_of("nobodys-bucket");
    let found = probe(&elsewhere, "p").await;
    assert_eq!(trouble(&found), Some(Trouble::NoBucket), "{found:?}");
    if server.checks_keys() {
        let found = probe(&server.client_with_secret("another one's"), "p").await;
        assert_eq!(trouble(&found), Some(Trouble::WrongKeys), "{found:?}");
    }
}
