//! The commits of a run as the bucket has them, newest first.
//!
//! Newest means last written by the trainer, not highest step: a name without a number, or a training begun again from zero, must
//! not hide behind an older one. The time is in the commit's name.

use std::collections::HashSet;

use futures::StreamExt;
use futures::stream;
use spotter_bucket::retention::is_copy;
use spotter_bucket::vault::too_large;
use spotter_bucket::whole::row::Row;
use spotter_bucket::{Bucket, Commit, CommitId, ErrorKind, Manifest};
use tokio_util::sync::CancellationToken;

use super::places::Places;
use super::standing::{Standing, Unanswered, chain};
use spotter_bucket::sorted::sort_by;

/// Commits read at once.
const READS_IN_FLIGHT: usize = 8;

/// All commits of a run.
#[derive(Debug, Default)]
pub struct Index {
    commits: Vec<Commit>,
    /// What those say whose data was found damaged: they are among no others.
    doubted: Vec<Manifest>,
    /// Names of those that are kept no more, and that whoever has keys deletes.
    let_go: HashSet<String>,
}

/// When the checkpoint of a commit was written, milliseconds since the epoch; `None` when that is no name of a commit.
pub fn written_ms(id: &str) -> Option<u64> {
    id.parse::<CommitId>().ok().map(|id| id.made_ms())
}

impl Index {
    /// Reads the names of all commits, or of what else lies right below a prefix under such names, that are small enough to be read, newest first.
    pub async fn names(
        bucket: &dyn Bucket,
        standing: &Standing,
        stop: &CancellationToken,
        prefix: &str,
    ) -> Result<Vec<String>, Unanswered> {
        let listed = Index::listed(bucket, standing, stop, prefix).await?;
        let readable = listed
            .into_iter()
            .filter(|(_, size_bytes)| too_large(*size_bytes).is_none());
        Ok(readable.map(|(id, _)| id).collect())
    }

    /// The same of all of them, each with its bytes.
    pub async fn listed(
        bucket: &dyn Bucket,
        standing: &Standing,
        stop: &CancellationToken,
        prefix: &str,
    ) -> Result<Vec<(String, u64)>, Unanswered> {
        let listed = standing.ask(stop, || bucket.list(prefix)).await?;
        let name = |key: &str| {
            key.strip_prefix(prefix)?
                .strip_suffix(".json")
                .map(str::to_owned)
        };
        let mut found: Vec<(String, u64)> = listed
            .iter()
            .filter_map(|object| Some((name(&object.key)?, object.size_bytes)))
            .filter(|(id, _)| written_ms(id).is_some())
            .collect();
        sort_by(&mut found, |a, b| order(&b.0).cmp(&order(&a.0)));
        Ok(found)
    }

    /// Reads all commits.
    pub async fn load(
        bucket: &dyn Bucket,
        standing: &Standing,
        stop: &CancellationToken,
        places: &Places,
    ) -> Result<Index, Unanswered> {
        let ids = Index::names(bucket, standing, stop, &places.commits_prefix()).await?;
        let read = |id: String| async move {
            let key = places.commit_key(&id);
            let manifest = read_manifest(bucket, standing, stop, places, &id, &key).await?;
            Ok::<_, Unanswered>(manifest.map(|manifest| Commit {
                id,
                manifest: manifest.ok(),
            }))
        };
        let mut reads = stream::iter(ids).map(read).buffered(READS_IN_FLIGHT);
        let mut commits = Vec::new();
        while let Some(commit) = reads.next().await {
            commits.extend(commit?);
        }
        Ok(Index {
            commits,
            doubted: Vec::new(),
            let_go: HashSet::new(),
        })
    }

    /// Newest first, damaged ones included.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// What whole commits say, newest first.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.commits
            .iter()
            .filter_map(|commit| commit.manifest.as_ref())
    }

    /// Names of all whole commits.
    pub fn ids(&self) -> HashSet<String> {
        self.manifests()
            .map(|manifest| manifest.id.clone())
            .collect()
    }

    /// How many whole commits of a row were written after a time.
    pub fn newer_than(&self, written_after_ms: u64, row: &Row) -> usize {
        self.manifests()
            .filter(|manifest| written_ms(&manifest.id).is_some_and(|ms| ms > written_after_ms))
            .filter(|manifest| Row::of(manifest).is_same(row))
            .count()
    }

    /// Takes the commits of these names, and no others, for damaged: they are not saved, nothing refers to what they hold, and none counts
    /// among those that are kept. Whether that is news.
    pub fn doubt(&mut self, damaged: &HashSet<String>) -> bool {
        let is_damaged = |id: &str| damaged.contains(id);
        let whole = self.doubted.extract_if(.., |one| !is_damaged(&one.id));
        let whole: Vec<Manifest> = whole.collect();
        let mut is_news = !whole.is_empty();
        for manifest in whole {
            self.insert(manifest);
        }
        for commit in &mut self.commits {
            if is_damaged(&commit.id) {
                let manifest = commit.manifest.take();
                is_news |= manifest.is_some();
                self.doubted.extend(manifest);
            }
        }
        is_news
    }

    /// Whether a commit that is taken for damaged holds this object.
    pub fn is_doubted(&self, key: &str) -> bool {
        let mut files = self.doubted.iter().flat_map(|one| &one.files);
        files.any(|file| file.key == key)
    }

    /// What commits say that are taken for damaged.
    pub fn doubted(&self) -> &[Manifest] {
        &self.doubted
    }

    /// Whole commits that hold the very files of a damaged one that is pinned, each with the name of that one.
    pub fn stand_ins(&self, pinned: &HashSet<String>) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for damaged in self.doubted.iter().filter(|one| pinned.contains(&one.id)) {
            let copies = self.manifests().filter(|one| is_copy(one, damaged));
            found.extend(copies.map(|copy| (copy.id.clone(), damaged.id.clone())));
        }
        found
    }

    /// Takes a new commit in.
    pub fn insert(&mut self, manifest: Manifest) {
        self.remove(&manifest.id);
        self.commits.push(Commit {
            id: manifest.id.clone(),
            manifest: Some(manifest),
        });
        sort_by(&mut self.commits, |a, b| order(&b.id).cmp(&order(&a.id)));
    }

    /// Forgets a deleted commit.
    pub fn remove(&mut self, id: &str) {
        self.commits.retain(|commit| commit.id != id);
        self.doubted.retain(|one| one.id != id);
    }

    /// Forgets a commit that is to be deleted, but not that it was known: until somebody deletes it, the bucket lists it.
    pub fn let_go(&mut self, id: &str) {
        self.remove(id);
        self.let_go.insert(id.to_owned());
    }

    /// Names of all commits that are or were known here and may be listed.
    pub fn known(&self) -> HashSet<String> {
        let there = self.commits.iter().map(|commit| &commit.id);
        there.chain(&self.let_go).cloned().collect()
    }
}

fn order(id: &str) -> (Option<u64>, &str) {
    (written_ms(id), id)
}

/// Reads the manifest of a commit, or of a collection of results, at its key. `None`: it is gone; the inner error says how it is
/// damaged.
pub async fn read_manifest(
    bucket: &dyn Bucket,
    standing: &Standing,
    stop: &CancellationToken,
    places: &Places,
    id: &str,
    key: &str,
) -> Result<Option<Result<Manifest, String>>, Unanswered> {
    let bytes = match standing.ask(stop, || bucket.get(key, None)).await {
        Ok(bytes) => bytes,
        Err(Unanswered::Bucket(err)) if err.kind == ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    let opened = Manifest::open(&bytes)
        .map_err(|err| chain(&err))
        .and_then(|manifest| {
            if manifest.id != id || manifest.run != places.run {
                return Err(format!(
                    "it says it is {} of run {}",
                    manifest.id, manifest.run
                ));
            }
            Ok(manifest)
        });
    if let Err(reason) = &opened {
        tracing::warn!(key, reason, "a commit cannot be read");
    }
    Ok(Some(opened))
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;

    #[test]
    fn only_names_of_commits_have_a_time() {
        let ulid = Ulid::from_parts(1_700_000_000_000, 5);
        assert_eq!(
            written_ms(&format!("000000000100-{ulid}")),
            Some(1_700_000_000_000)
        );
        for name in [
            "",
            "100-x",
            "000000000100",
            "00000000010x-01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "000000000100-01ARZ",
        ] {
            assert_eq!(written_ms(name), None, "{name}");
        }
    }
}
