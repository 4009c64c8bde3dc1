//! What others did in the bucket: checkpoints that were pushed there while a training goes on, and those that turned out to be damaged.
//!
//! Nobody calls for it: two listings every few minutes find both, by whatever road the laptop reached the bucket; a box without keys goes by
//! what was signed for it to read. What is damaged counts as
//! unsaved from then on, so that it is uploaded anew where its files are still here.

use std::collections::HashSet;
use std::time::Duration;

use spotter_bucket::{BucketError, CommitId, Manifest};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::candidate::Candidate;
use super::complete::Tracker;
use super::delete::patiently;
use super::index::Index;
use super::round::{Work, looks_like};
use super::standing::chain;
use super::{ANSWER_WITHIN, Backup};

/// Between two looks at what others did.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// Longest wait for a mark to be put; nobody waits for it twice.
const MARK_LIMIT: Duration = Duration::from_secs(20);

/// What others did.
#[derive(Debug, Default)]
struct News {
    /// Whole commits that this agent did not know.
    pushed: Vec<Manifest>,
    /// Names of all commits that are marked as damaged; `None`: the bucket did not tell.
    damaged: Option<HashSet<String>>,
}

/// The bucket does not tell now.
#[derive(Debug)]
pub(super) struct Unknown;

impl Backup {
    /// Looks at what others did, when it is time, and goes by it. What the bucket does not tell now it tells the next time; a box that goes
    /// away does not wait for it.
    pub(super) async fn hear_news(&self, work: &mut Work, stop: &CancellationToken) {
        let due = work.news_at.is_none_or(|at| Instant::now() >= at);
        let due = due && self.pace().flush_by.is_none();
        if !due {
            return self.go_by_doubts(work);
        }
        let Some(known) = work.index.as_ref().map(Index::known) else {
            return;
        };
        let stop = stop.child_token();
        // What came before a wait that took too long counts all the same.
        let mut news = News::default();
        let ask = async {
            let asked = time::timeout(ANSWER_WITHIN, self.ask_news(&known, &mut news));
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                asked = asked => match asked {
                    Ok(Ok(())) => {}
                    Ok(Err(err)) => {
                        debug!(error = %chain(&err), "the bucket does not tell what others did");
                    }
                    Err(_) => debug!("the bucket does not tell in time what others did"),
                },
            }
        };
        let goes_away = |_: &Tracker| self.pace().flush_by.is_some();
        self.attend(&mut work.tracker, goes_away, &stop, ask).await;
        let Some(index) = &mut work.index else { return };
        let is_new = !news.pushed.is_empty();
        for manifest in news.pushed {
            info!(
                id = manifest.id,
                "somebody else put a checkpoint into the bucket"
            );
            index.insert(manifest);
        }
        if is_new {
            self.tell_index(work);
        }
        if let Some(damaged) = news.damaged {
            work.marked = damaged;
        }
        work.news_at = Some(Instant::now() + LOOK_EVERY);
        self.go_by_doubts(work);
    }

    /// Names of the commits that are marked as damaged; `None`: the bucket does not tell now.
    pub(super) async fn marked(&self, stop: &CancellationToken) -> Option<HashSet<String>> {
        let vault = self.places.vault(&*self.bucket);
        let asked = time::timeout(ANSWER_WITHIN, vault.damaged());
        let damaged = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            damaged = asked => damaged.ok()?.ok()?,
        };
        Some(damaged.iter().map(CommitId::to_string).collect())
    }

    /// What others did up to now is known.
    pub(super) fn note_marked(&self, work: &mut Work, marked: HashSet<String>) {
        work.marked = marked;
        work.news_at = Some(Instant::now() + LOOK_EVERY);
    }

    /// Commits that are marked, and those that this agent found damaged by itself, count for nothing.
    fn go_by_doubts(&self, work: &mut Work) {
        let mut damaged = work.marked.clone();
        damaged.extend(self.distrusted().iter().cloned());
        let Some(index) = &mut work.index else { return };
        if index.doubt(&damaged) {
            let ids: Vec<&String> = damaged.iter().collect();
            warn!(
                ?ids,
                "these checkpoints were found damaged in the bucket: what of them is here is uploaded anew"
            );
            self.tell_index(work);
        }
    }

    async fn ask_news(&self, known: &HashSet<String>, news: &mut News) -> Result<(), BucketError> {
        let vault = self.places.vault(&*self.bucket);
        let damaged = vault.damaged().await?;
        news.damaged = Some(damaged.iter().map(CommitId::to_string).collect());
        for id in vault.ids().await? {
            if !known.contains(&id.to_string())
                && let Some(Ok(manifest)) = vault.read(&id).await?
            {
                news.pushed.push(manifest);
            }
        }
        Ok(())
    }

    /// The commit that is taken for damaged, that people pinned, and that these files were: they want them whatever came since. Fails where
    /// the bucket does not tell what is pinned.
    pub(super) async fn pinned_as(
        &self,
        work: &Work,
        candidate: &Candidate,
    ) -> Result<Option<String>, Unknown> {
        let mut doubted = work.index.iter().flat_map(Index::doubted);
        let Some(damaged) = doubted.find(|one| looks_like(one, candidate)) else {
            return Ok(None);
        };
        if !self.bucket.has_keys() {
            return Ok(None);
        }
        let vault = self.places.vault(&*self.bucket);
        let holds = patiently(|| vault.holds(self.server_us() / 1_000));
        match time::timeout(ANSWER_WITHIN, holds).await {
            Ok(Ok(holds)) if holds.pinned.contains(&damaged.id) => Ok(Some(damaged.id.clone())),
            Ok(Ok(_)) => Ok(None),
            Ok(Err(_)) | Err(_) => Err(Unknown),
        }
    }

    /// What was pinned is whole again under another name, and as dear as it was.
    pub(super) async fn pin_instead(&self, id: &str, pinned: &str) {
        let Ok(id) = id.parse() else { return };
        let vault = self.places.vault(&*self.bucket);
        let by = format!("it stands for {pinned}, which was damaged");
        let pin = patiently(|| vault.pin(&id, &by, self.server_us()));
        match time::timeout(MARK_LIMIT, pin).await {
            Ok(Ok(())) => {
                info!(%id, pinned, "what was pinned and damaged is whole again, and pinned")
            }
            Ok(Err(err)) => {
                warn!(%id, pinned, error = %chain(&err), "a checkpoint could not be pinned for the damaged one that it stands for")
            }
            Err(_) => {
                warn!(%id, pinned, "the bucket did not pin a checkpoint in time for the damaged one that it stands for")
            }
        }
    }

    /// A restore found a commit damaged: it counts for nothing here, nor on any box to come.
    pub(super) async fn distrust(&self, id: &str, why: &str) {
        self.distrusted().insert(id.to_owned());
        let Ok(id) = id.parse() else { return };
        if !self.bucket.has_keys() {
            return;
        }
        let vault = self.places.vault(&*self.bucket);
        let mark = vault.mark_damaged(&id, "restore", why, self.server_us());
        if let Ok(Err(err)) = time::timeout(MARK_LIMIT, mark).await {
            debug!(error = %chain(&err), "a damaged checkpoint could not be marked in the bucket");
        }
    }
}
