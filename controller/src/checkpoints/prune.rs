//! Deletes what a run need not keep, in the two phases of [`spotter_bucket::vault`], and what uploads that never ended left.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use serde::Serialize;
use spotter_bucket::{
    Bucket, BucketError, CommitId, Keep, Manifest,
    retention::{self, Commit},
    vault::{self, Purged},
};

use super::{Shelf, results};

/// Age from which data without a commit is taken for left behind: no upload takes so long.
const ORPHAN_MS: u64 = 24 * 3600 * 1000;

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// What stays.
    pub keep: Keep,
    /// How long the data of a deleted checkpoint stays.
    pub grace: Duration,
    /// Whether no box works for the run: only then is data without a commit left behind rather than under way.
    pub at_rest: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Microseconds since the epoch by the server's clock.
    pub now_us: u64,
}

/// A checkpoint that was deleted, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deleted {
    /// Its id.
    pub id: String,
    /// Its step; `None`: its name has none.
    pub step: Option<u64>,
    /// Bytes of its files; those that it shares with others stay.
    pub size_bytes: u64,
}

/// A deleted checkpoint whose data is still there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Its id.
    pub id: String,
    /// When its data may go, microseconds since the epoch by the server's clock.
    pub due_us: u64,
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Pruned {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Checkpoints deleted now.
    pub deleted: Vec<Deleted>,
    /// Data deleted, of checkpoints that were deleted before.
    pub purged: Vec<Purged>,
    /// Checkpoints that are deleted and whose data waits for the grace.
    pub waiting: Vec<Waiting>,
    /// Objects that no checkpoint and no collection of results ever had.
    pub orphans: usize,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Uploads that were begun and never ended.
    pub aborted_uploads: usize,
    /// Checkpoints of a newer spotter, or such as these keys may not read: while there are any no data goes, since it may be theirs. Those
    /// that a box left to be put in place are named as they lie there, `waiting-...`.
    pub newer: Vec<String>,
}

/// Why nothing was deleted.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// What would stay cannot be trusted.
    #[error("the newest checkpoint {id} is damaged: the data of {path:?} {found}")]
    NewestDamaged {
        /// Its id.
        id: String,
        /// The file.
        path: String,
        /// What is there of it.
        found: String,
    },
    /// The bucket refused.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// Deletes what `order` lets go.
///
/// # Errors
/// See [`PruneError`]. What was deleted before stays so.
pub async fn prune(shelf: &Shelf, order: &Order) -> Result<Pruned, PruneError> {
    let vault = shelf.vault();
    // What waits before the commits: one that is put in place meanwhile is then in one of the two.
    let left = vault.waiting().await?;
    let all = vault.read_all().await?;
    let mut pruned = Pruned {
        dry_run: order.dry_run,
        newer: vault::hidden(&all, &left),
        ..Pruned::default()
    };
    let commits = vault::as_commits(all);
    let now_ms = order.now_us / 1_000;
    let holds = vault.holds(now_ms).await?;
    // What is marked restores nothing, as far as anybody knows: it counts for nothing that stays. What it refers to stays with it.
    let marks = vault.damaged().await?;
    let is_marked = |id: &str| id.parse().is_ok_and(|id: CommitId| marks.contains(&id));
    let mut trusted = commits.clone();
    let mut marked = Vec::new();
    for commit in &mut trusted {
        if is_marked(&commit.id) {
            marked.extend(commit.manifest.take());
        }
    }
    let doomed = retention::doomed(&trusted, &order.keep, &holds.pinned);
    let mut overtaken = retention::overtaken(&marked, &trusted, &order.keep, &doomed);
    overtaken.retain(|manifest| !holds.pinned.contains(&manifest.id));
    if !doomed.is_empty() || !overtaken.is_empty() {
        newest_is_there(shelf, &trusted).await?;
    }
    for manifest in doomed.into_iter().chain(overtaken) {
        let Ok(id) = manifest.id.parse::<CommitId>() else {
            continue;
        };
        if order.dry_run || vault.bury(&id, "prune", order.now_us).await? {
            if !order.dry_run && is_marked(&manifest.id) {
                vault.unmark_damaged(&id).await?;
            }
            pruned.deleted.push(Deleted {
                id: manifest.id.clone(),
                step: manifest.step,
                size_bytes: manifest.total_bytes(),
            });
        }
    }
    if pruned.newer.is_empty() {
        pruned.purged = vault.purge(order.grace, now_ms, order.dry_run).await?;
    }
    let gone: HashSet<&str> = pruned.purged.iter().map(|one| one.id.as_str()).collect();
    let tombstones = vault.tombstones().await?;
    pruned.waiting = tombstones
        .iter()
        .filter(|tombstone| !gone.contains(tombstone.id.to_string().as_str()))
        .map(|tombstone| Waiting {
            id: tombstone.id.to_string(),
            due_us: (tombstone.deleted_ms + order.grace.as_millis() as u64) * 1_000,
        })
        .collect();
    // A commit or a tombstone that cannot be read may speak of anything.
    if order.at_rest
        && left.unread.is_empty()
        && commits.iter().all(|commit| commit.manifest.is_some())
        && tombstones
            .iter()
            .all(|tombstone| tombstone.manifest.is_some())
    {
        let dead = tombstones
            .iter()
            .filter_map(|tombstone| tombstone.manifest.as_ref());
        let others = dead.chain(&left.manifests);
        sweep(shelf, order, &commits, others, &mut pruned).await?;
    }
    Ok(pruned)
}

/// Nothing goes unless what would stay is there in its full size.
async fn newest_is_there(shelf: &Shelf, commits: &[Commit]) -> Result<(), PruneError> {
    let newest = commits.iter().find_map(|commit| commit.manifest.as_ref());
    for file in newest.into_iter().flat_map(|manifest| &manifest.files) {
        let found = match shelf.bucket.head(&file.key).await? {
            Some(found) if found.size_bytes == file.size_bytes => continue,
            Some(found) => format!(
                "has {} bytes instead of {}",
                found.size_bytes, file.size_bytes
            ),
            None => "is gone".to_owned(),
        };
        return Err(PruneError::NewestDamaged {
            id: newest
                .map(|manifest| manifest.id.clone())
                .unwrap_or_default(),
            path: file.path.clone(),
            found,
        });
    }
    Ok(())
}

/// Data and uploads that belong to no checkpoint and no collection of results, and are too old to become one.
async fn sweep<'a>(
    shelf: &Shelf,
    order: &Order,
    commits: &'a [Commit],
    others: impl Iterator<Item = &'a Manifest>,
    pruned: &mut Pruned,
) -> Result<(), BucketError> {
    let now_ms = order.now_us / 1_000;
    let alive: HashSet<&str> = commits.iter().map(|commit| commit.id.as_str()).collect();
    let whole = commits.iter().filter_map(|commit| commit.manifest.as_ref());
    let (data, area) = (shelf.layout.data_prefix(), shelf.layout.results_prefix());
    let mut objects = shelf.bucket.list(&data).await?;
    let results = shelf.bucket.list(&area).await?;
    // A manifest that cannot be read may speak of any of them.
    let mut collected = Some(Vec::new());
    for object in &results {
        if results::manifest_of_key(&shelf.layout, &object.key).is_some() {
            let read = results::read(shelf, &object.key).await?.ok();
            collected = collected.zip(read).map(|(mut all, manifest)| {
                all.push(manifest);
                all
            });
        }
    }
    if collected.is_some() {
        objects.extend(results);
    }
    let spoken_for = retention::keys(whole.chain(others));
    let of_results = retention::keys(collected.iter().flatten());
    let attempt = |key: &str| match shelf.layout.data_of_key(key) {
        Some((id, _)) => Some(id),
        None => results::file_of_key(&shelf.layout, key),
    };
    // The time in a name is that of the files. An attempt is as young as the youngest thing of it that the server has; what it tells no
    // time of is young.
    let mut youngest_ms: HashMap<CommitId, u64> = HashMap::new();
    for object in &objects {
        if let Some(id) = attempt(&object.key) {
            let modified_ms = match u64::try_from(object.modified_s) {
                Ok(0) | Err(_) => u64::MAX,
                Ok(seconds) => seconds.saturating_mul(1_000),
            };
            let youngest = youngest_ms.entry(id).or_insert_with(|| id.made_ms());
            *youngest = (*youngest).max(modified_ms);
        }
    }
    let is_old = |id: &CommitId| {
        let youngest = youngest_ms.get(id);
        youngest.is_some_and(|ms| ms.saturating_add(ORPHAN_MS) <= now_ms)
    };
    let orphans: BTreeMap<String, u64> = objects
        .into_iter()
        .filter(|object| {
            attempt(&object.key).is_some_and(|id| {
                is_old(&id)
                    && !alive.contains(id.to_string().as_str())
                    && !spoken_for.contains(object.key.as_str())
                    && !of_results.contains(object.key.as_str())
            })
        })
        .map(|object| (object.key, object.size_bytes))
        .collect();
    // Servers that cannot list uploads sweep them by themselves.
    let mut uploads = Vec::new();
    for prefix in [&data, &area] {
        uploads.extend(shelf.bucket.list_uploads(prefix).await.unwrap_or_default());
    }
    // Some servers tell the same time of every upload: it is no older than what it is a part of.
    uploads.retain(|upload| {
        let told_ms = u64::try_from(upload.initiated_s).unwrap_or(0) * 1_000;
        let begun_ms = attempt(&upload.key).map_or(told_ms, |id| told_ms.max(id.made_ms()));
        told_ms > 0 && begun_ms.saturating_add(ORPHAN_MS) <= now_ms
    });
    (pruned.orphans, pruned.orphan_bytes) = (orphans.len(), orphans.values().sum());
    pruned.aborted_uploads = uploads.len();
    if order.dry_run {
        return Ok(());
    }
    let keys: Vec<&str> = orphans.keys().map(String::as_str).collect();
    shelf.vault().delete_all(&keys).await?;
    for upload in uploads {
        shelf
            .bucket
            .abort_upload(&upload.key, &upload.upload_id)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use spotter_bucket::{
        Target,
        memory::{MemoryBucket, collection},
    };

    use super::*;

    const OLD: &str = "000000000000-01ARZ3NDEKTSV4RRFFQ69G5FAV";
    const DEAD: &str = "000000000000-01ARZ3NDEKTSV4RRFFQ69G5FAW";

    #[tokio::test]
    async fn an_upload_is_no_older_than_what_it_is_a_part_of_whatever_time_its_server_tells() {
        let bucket = Arc::new(MemoryBucket::new());
        let target = Target::parse("s3://bucket/team", None, None).unwrap();
        let shelf = Shelf::new(bucket.clone(), &target, "run").unwrap();
        let (data, id) = (shelf.layout.data_prefix(), CommitId::generate(Some(9)));
        bucket
            .create_upload(&format!("{data}{id}/a"))
            .await
            .unwrap();
        bucket
            .create_upload(&format!("{data}{OLD}/a"))
            .await
            .unwrap();
        bucket.grow_old(Duration::from_secs(10 * 365 * 24 * 3600));
        let order = |later_ms: u64| Order {
            keep: Keep::default(),
            grace: Duration::ZERO,
            at_rest: true,
            dry_run: false,
            now_us: (id.made_ms() + later_ms) * 1_000,
        };
        let pruned = prune(&shelf, &order(60_000)).await.unwrap();
        assert_eq!(pruned.aborted_uploads, 1);
        let open = bucket.list_uploads(&data).await.unwrap();
        assert_eq!(open.len(), 1);
        assert!(open[0].key.contains(&id.to_string()), "{open:?}");
        let pruned = prune(&shelf, &order(ORPHAN_MS)).await.unwrap();
        assert_eq!(pruned.aborted_uploads, 1);
    }

    #[tokio::test]
    async fn what_dead_collections_left_goes_and_what_a_manifest_refers_to_stays() {
        let bucket = Arc::new(MemoryBucket::new());
        let target = Target::parse("s3://bucket/team", None, None).unwrap();
        let shelf = Shelf::new(bucket.clone(), &target, "run").unwrap();
        let young = CommitId::generate(None);
        let day = Duration::from_secs(24 * 3600);
        let now_us = (young.made_ms() + 60_000) * 1_000;
        let manifest_key = format!("team/run/results/{OLD}.json");
        let kept = [
            format!("team/run/results/{DEAD}/a"),
            format!("team/run/results/{young}/a"),
            manifest_key.clone(),
            "team/run/results/notes.txt".to_owned(),
        ];
        for key in &kept {
            bucket.insert(key, "a");
        }
        // Of one file whose data a dead one had sent.
        let sealed = collection("run", OLD, "a", b"a", &kept[0]);
        bucket.insert(&manifest_key, sealed);
        bucket.insert(&format!("team/run/results/{DEAD}/b"), "bb");
        let order = Order {
            keep: Keep::default(),
            grace: Duration::ZERO,
            at_rest: true,
            dry_run: false,
            now_us,
        };
        // One that nobody can read may speak of anything.
        let damaged = format!("team/run/results/{DEAD}.json");
        bucket.insert(&damaged, "{");
        let pruned = prune(&shelf, &order).await.unwrap();
        assert_eq!((pruned.orphans, bucket.keys().len()), (0, 6));
        bucket.remove(&damaged);
        // Whatever time its name tells, it was sent a moment ago.
        let pruned = prune(&shelf, &order).await.unwrap();
        assert_eq!((pruned.orphans, bucket.keys().len()), (0, 5));
        bucket.grow_old(day);
        bucket.insert(&format!("team/run/results/{DEAD}/b"), "bb");
        assert_eq!(prune(&shelf, &order).await.unwrap().orphans, 0);
        bucket.grow_old(day);
        let pruned = prune(&shelf, &order).await.unwrap();
        assert_eq!((pruned.orphans, pruned.orphan_bytes), (1, 2));
        let mut kept = kept.to_vec();
        kept.sort();
        assert_eq!(bucket.keys(), kept);
    }

    #[tokio::test]
    async fn what_a_commit_that_cannot_be_read_may_refer_to_is_no_orphan() {
        let waiting = "waiting-01ARZ3NDEKTSV4RRFFQ69G5FAV";
        for (name, unread, is_newer) in [
            (OLD, "{\"v\": 99}", true),
            (OLD, "{\"v\": 1", false),
            (waiting, "{\"v\": 99}", true),
            (waiting, "{\"v\": 1", false),
        ] {
            let bucket = Arc::new(MemoryBucket::new());
            let target = Target::parse("s3://bucket/team", None, None).unwrap();
            let shelf = Shelf::new(bucket.clone(), &target, "run").unwrap();
            // Of a checkpoint that is long deleted, and whose file another one took over.
            let shared = format!("team/run/data/{DEAD}/base");
            bucket.insert(&shared, "base");
            bucket.insert(&format!("team/run/commits/{name}.json"), unread);
            let day = Duration::from_secs(24 * 3600);
            bucket.grow_old(2 * day);
            let order = Order {
                keep: Keep::default(),
                grace: Duration::ZERO,
                at_rest: true,
                dry_run: false,
                now_us: 1_900_000_000_000_000,
            };
            let pruned = prune(&shelf, &order).await.unwrap();
            assert_eq!(pruned.orphans, 0);
            assert_eq!(pruned.newer == [name], is_newer, "{name}");
            assert!(bucket.object(&shared).is_some());
            let lies_at = format!("team/run/commits/{name}.json");
            // And what a waiting one refers to that can be read.
            let sealed = collection("run", OLD, "a", b"base", &shared);
            let waits_at = format!("team/run/commits/{waiting}.json");
            assert!(bucket.remove(&lies_at));
            bucket.insert(&waits_at, sealed);
            assert_eq!(prune(&shelf, &order).await.unwrap().orphans, 0);
            assert!(bucket.remove(&waits_at));
            assert_eq!(prune(&shelf, &order).await.unwrap().orphans, 1);
        }
    }
}
