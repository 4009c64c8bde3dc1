//! What boxes that were lost left half done in the bucket: data without a commit, results without a manifest, uploads that nobody ends.
//!
//! Which of it may go is decided here (pure), by the server's clock and with a day of grace; [`Backup::sweep`] then removes it. Only
//! what lies below the run's own prefix, never what an attempt of this box still works on, and nothing while a commit or a tombstone
//! cannot be read: it may refer to anything.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::json;
use spotter_bucket::{BucketError, ListedObject, ListedUpload, Manifest};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Backup;
use super::complete::Tracker;
use super::index::written_ms;
use super::journal;
use super::round::Work;
use super::standing::chain;

/// What is younger may belong to a box that is alive.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// Between two sweeps.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// Until the next one where the bucket did not do it, or something else came first.
const RETRY: Duration = Duration::from_secs(3600);
/// Most objects that one sweep removes: a round must come to its end.
const MOST: usize = 10_000;
/// What names of our own small trials begin with, below the run's prefix.
const TRIALS: &str = "data/.spotter-";

/// What was seen of a run's bucket, in this order: what is there before what refers to it, so that a commit that is made meanwhile
/// is seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// All objects of data and results.
    pub objects: Vec<ListedObject>,
    /// All unfinished uploads of the run.
    pub uploads: Vec<ListedUpload>,
    /// Names of attempts that this box works on.
    pub working: HashSet<String>,
    /// Names of attempts that have a commit or a tombstone: nothing more is sent for them.
    pub settled: HashSet<String>,
    /// Keys that commits, tombstones and manifests of results refer to.
    pub spoken_for: HashSet<String>,
    /// Now by the server's clock, seconds since the epoch.
    pub server_s: i64,
}

/// What may go.
#[derive(Debug, Default, PartialEq)]
pub struct Orphans {
    /// Uploads to abort.
    pub uploads: Vec<ListedUpload>,
    /// Objects to delete.
    pub objects: Vec<ListedObject>,
}

/// Finds what nobody will ever need. `run` is what all keys of the run begin with.
pub fn orphans(seen: &Seen, run: &str, grace: Duration) -> Orphans {
    let oldest_s = seen
        .server_s
        .saturating_sub(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX));
    // A time that the server did not tell is no time.
    let is_old = |time_s: i64| time_s > 0 && time_s < oldest_s;
    let attempt = |key: &str| {
        let (area, rest) = key.strip_prefix(run)?.split_once('/')?;
        let (id, _) = rest.split_once('/')?;
        let written = written_ms(id).filter(|_| matches!(area, "data" | "results"));
        written.map(|ms| (id.to_owned(), i64::try_from(ms / 1_000).unwrap_or(i64::MAX)))
    };
    // An attempt is as young as the youngest thing of it.
    let mut youngest_s: BTreeMap<String, i64> = BTreeMap::new();
    let times = (seen
        .objects
        .iter()
        .map(|object| (&object.key, object.modified_s)))
    .chain(
        seen.uploads
            .iter()
            .map(|upload| (&upload.key, upload.initiated_s)),
    );
    for (key, time_s) in times {
        if let Some((id, written_s)) = attempt(key) {
            let time_s = if time_s > 0 { time_s } else { i64::MAX };
            let youngest = youngest_s.entry(id).or_insert(written_s);
            *youngest = (*youngest).max(time_s);
        }
    }
    let is_over = |key: &str| {
        attempt(key).is_some_and(|(id, _)| {
            !seen.working.contains(&id)
                && !seen.settled.contains(&id)
                && youngest_s.get(&id).is_some_and(|time_s| is_old(*time_s))
        })
    };
    let is_trial = |object: &ListedObject| {
        let name = object.key.strip_prefix(run);
        name.is_some_and(|name| name.starts_with(TRIALS)) && is_old(object.modified_s)
    };
    let is_orphan = |object: &&ListedObject| {
        let is_ours = is_over(&object.key) || is_trial(object);
        is_ours && !seen.spoken_for.contains(&object.key)
    };
    let is_forgotten = |upload: &&ListedUpload| {
        let was_left = match attempt(&upload.key) {
            // Begun by a request whose answer was lost, and begun again.
            Some((id, _)) if seen.settled.contains(&id) => true,
            Some(_) => is_over(&upload.key),
            None => upload.key.starts_with(run),
        };
        was_left && is_old(upload.initiated_s)
    };
    Orphans {
        uploads: seen.uploads.iter().filter(is_forgotten).cloned().collect(),
        objects: seen
            .objects
            .iter()
            .filter(is_orphan)
            .take(MOST)
            .cloned()
            .collect(),
    }
}

impl Backup {
    /// Removes what lost boxes left, once a day, when nothing is in a hurry.
    pub(super) async fn sweep(&self, work: &mut Work, stop: &CancellationToken) {
        let in_a_hurry = || {
            let pace = self.pace();
            pace.finals > 0 || pace.flush_by.is_some()
        };
        let is_due = work.sweep_at.is_none_or(|at| Instant::now() >= at);
        if !is_due || in_a_hurry() || stop.is_cancelled() {
            return;
        }
        let working = work.attempts.iter().map(|log| log.attempt.id.clone());
        let mut working: HashSet<String> = working.collect();
        working.extend(crate::aside(|| journal::ids(&self.collecting())));
        let stop = stop.child_token();
        let job = async {
            tokio::select! {
                biased;
                () = stop.cancelled() => RETRY,
                swept = self.sweep_now(working) => swept.unwrap_or_else(|err| {
                    warn!(error = %chain(&err), "what lost boxes left in the bucket could not be removed, will try again");
                    RETRY
                }),
            }
        };
        // A finished checkpoint is worth more than a clean bucket.
        let something_waits = |tracker: &Tracker| in_a_hurry() || !tracker.ready().is_empty();
        let wait = self.attend(&mut work.tracker, something_waits, &stop, job);
        work.sweep_at = Some(Instant::now() + wait.await);
    }

    /// Returns when to look again. Each thing is asked for once: checkpoints wait for the end of this.
    async fn sweep_now(&self, working: HashSet<String>) -> Result<Duration, BucketError> {
        let Some(seen) = self.see(working).await? else {
            return Ok(RETRY);
        };
        let orphans = orphans(&seen, &self.places.run_prefix(), self.options.sweep_grace);
        for upload in &orphans.uploads {
            self.bucket
                .abort_upload(&upload.key, &upload.upload_id)
                .await?;
        }
        for object in &orphans.objects {
            self.bucket.delete(&object.key).await?;
        }
        if orphans != Orphans::default() {
            let bytes: u64 = orphans.objects.iter().map(|one| one.size_bytes).sum();
            let (objects, uploads) = (orphans.objects.len(), orphans.uploads.len());
            info!(
                objects,
                uploads, bytes, "removed what lost boxes left in the bucket"
            );
            self.standing.event(
                "bucket.swept",
                json!({ "objects": objects, "uploads": uploads, "bytes": bytes }),
            );
        }
        Ok(EVERY)
    }

    /// Looks at the bucket. `None`: something in it cannot be read, so that nothing can be judged.
    async fn see(&self, working: HashSet<String>) -> Result<Option<Seen>, BucketError> {
        let vault = self.places.vault(&*self.bucket);
        let mut objects = self.bucket.list(&self.places.data_prefix()).await?;
        // Not every box may look at results.
        let area = self.places.results_prefix();
        let results = self.bucket.list(&area).await.unwrap_or_default();
        // Not every server lists uploads, and not every key may.
        let run = self.places.run_prefix();
        let uploads = self.bucket.list_uploads(&run).await.unwrap_or_default();
        let listed = self.bucket.list(&self.places.commits_prefix()).await?;
        // What waits before the commits: one that is put in place meanwhile is then in one of the two.
        let left = vault.waiting().await?;
        if !left.unread.is_empty() {
            return Ok(None);
        }
        let commits = vault.read_all().await?;
        let read: HashSet<String> = commits.iter().map(|(id, _)| id.to_string()).collect();
        let is_unread = |object: &ListedObject| {
            let id = vault.layout.commit_of_key(&object.key);
            id.is_some_and(|id| !read.contains(&id.to_string()))
        };
        if listed.iter().any(is_unread) {
            return Ok(None);
        }
        // The commits before the tombstones: a checkpoint that is being deleted is then in one of the two.
        let buried = vault.tombstones().await?;
        let mut manifests = left.manifests;
        for object in &results {
            let name = object.key.strip_prefix(&area);
            let id = name.and_then(|name| name.strip_suffix(".json"));
            if id.and_then(written_ms).is_some() {
                match Manifest::open(&self.bucket.get(&object.key, None).await?) {
                    Ok(manifest) => manifests.push(manifest),
                    Err(_) => return Ok(None),
                }
            }
        }
        objects.extend(results);
        for (_, commit) in commits {
            let Ok(manifest) = commit else {
                return Ok(None);
            };
            manifests.push(manifest);
        }
        for tombstone in buried {
            let Some(manifest) = tombstone.manifest else {
                return Ok(None);
            };
            manifests.push(manifest);
        }
        let (mut settled, mut spoken_for) = (HashSet::new(), HashSet::new());
        for manifest in manifests {
            settled.insert(manifest.id);
            spoken_for.extend(manifest.files.into_iter().map(|file| file.key));
        }
        Ok(Some(Seen {
            objects,
            uploads,
            working,
            settled,
            spoken_for,
            server_s: i64::try_from(self.server_us() / 1_000_000).unwrap_or(i64::MAX),
        }))
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;

    const NOW_S: i64 = 2_000_000_000;
    const DAY_S: i64 = 86_400;

    fn id(step: u64, written_s: i64) -> String {
        format!(
            "{step:012}-{}",
            Ulid::from_parts(written_s as u64 * 1_000, step.into())
        )
    }

    fn object(key: &str, modified_s: i64) -> ListedObject {
        ListedObject {
            key: key.to_owned(),
            size_bytes: 1,
            etag: String::new(),
            modified_s,
        }
    }

    fn upload(key: &str, initiated_s: i64) -> ListedUpload {
        ListedUpload {
            key: key.to_owned(),
            upload_id: "u".to_owned(),
            initiated_s,
        }
    }

    #[test]
    fn only_what_is_old_and_nobodys_goes() {
        let old_s = NOW_S - 2 * DAY_S;
        let check =
            |what: &str, change: &dyn Fn(&mut Seen, &str), objects: usize, uploads: usize| {
                let id = id(7, old_s);
                let mut seen = Seen {
                    objects: vec![object(&format!("p/run/data/{id}/a"), old_s)],
                    uploads: vec![upload(&format!("p/run/data/{id}/b"), old_s)],
                    server_s: NOW_S,
                    ..Seen::default()
                };
                change(&mut seen, &id);
                let found = orphans(&seen, "p/run/", GRACE);
                assert_eq!(
                    (found.objects.len(), found.uploads.len()),
                    (objects, uploads),
                    "{what}"
                );
            };
        let young_s = NOW_S - DAY_S + 60;
        check("all of it", &|_, _| {}, 1, 1);
        check(
            "an attempt that this box works on",
            &|seen, id| seen.working = HashSet::from([id.to_owned()]),
            0,
            0,
        );
        check(
            "an attempt with a commit: what was begun twice was finished once",
            &|seen, id| seen.settled = HashSet::from([id.to_owned()]),
            0,
            1,
        );
        check(
            "an attempt with a commit and an upload that began lately",
            &|seen, id| {
                seen.settled = HashSet::from([id.to_owned()]);
                seen.uploads[0].initiated_s = young_s;
            },
            0,
            0,
        );
        check(
            "data that a commit of another attempt refers to",
            &|seen, id| seen.spoken_for = HashSet::from([format!("p/run/data/{id}/a")]),
            0,
            1,
        );
        check(
            "an upload began lately",
            &|seen, _| seen.uploads[0].initiated_s = young_s,
            0,
            0,
        );
        check(
            "an object came lately",
            &|seen, _| seen.objects[0].modified_s = young_s,
            0,
            0,
        );
        check(
            "a server that tells no times",
            &|seen, _| seen.objects[0].modified_s = 0,
            0,
            0,
        );
        check(
            "a name that was given lately, whatever the server says",
            &|seen, _| {
                let id = id(7, young_s);
                seen.objects[0].key = format!("p/run/data/{id}/a");
                seen.uploads[0].key = format!("p/run/data/{id}/b");
            },
            0,
            0,
        );
        check(
            "keys that are not ours",
            &|seen, id| {
                seen.objects[0].key = "p/run/data/readme/a".to_owned();
                seen.uploads[0].key = format!("p/running/data/{id}/b");
            },
            0,
            0,
        );
        check(
            "a trial, and its upload",
            &|seen, _| {
                seen.objects[0].key = "p/run/data/.spotter-probe-1".to_owned();
                seen.uploads[0].key = "p/run/data/.spotter-probe-1".to_owned();
            },
            1,
            1,
        );
        check(
            "a trial that began lately",
            &|seen, _| {
                seen.objects[0] = object("p/run/data/.spotter-probe-1", young_s);
                seen.uploads[0] = upload("p/run/data/.spotter-probe-1", young_s);
            },
            0,
            0,
        );
        check(
            "results without a manifest",
            &|seen, id| {
                seen.objects[0].key = format!("p/run/results/{id}/a");
                seen.uploads[0].key = format!("p/run/results/{id}/b");
            },
            1,
            1,
        );
        check(
            "results that this box is collecting",
            &|seen, id| {
                seen.objects[0].key = format!("p/run/results/{id}/a");
                seen.uploads[0].key = format!("p/run/results/{id}/b");
                seen.working = HashSet::from([id.to_owned()]);
            },
            0,
            0,
        );
        check(
            "results that a manifest refers to, and the manifest",
            &|seen, id| {
                let (file, manifest) = (
                    format!("p/run/results/{id}/a"),
                    format!("p/run/results/{id}.json"),
                );
                seen.objects = vec![object(&file, old_s), object(&manifest, old_s)];
                seen.spoken_for = HashSet::from([file]);
                seen.uploads.clear();
            },
            0,
            0,
        );
        check(
            "what lies elsewhere in the run's prefix",
            &|seen, id| {
                seen.objects[0].key = format!("p/run/logs/{id}/a");
                seen.uploads.clear();
            },
            0,
            0,
        );
    }
}
