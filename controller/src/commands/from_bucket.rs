//! Brings what a run's bucket alone knows into its record, in passing, so that whoever looks at the run tells of it: the marks of damaged
//! checkpoints, and the last commits of boxes that are gone.

use std::{collections::HashSet, time::Duration};

use spotter_bucket::{CommitId, Unread};

use crate::{
    checkpoints::Shelf,
    commands::Deps,
    run::{late, marks},
    store::{AttemptRecord, RunRecord, Store},
};

/// A look waits so long for its bucket, and no longer.
const LIMIT: Duration = Duration::from_secs(4);

impl Deps {
    /// Looks into the bucket of a run that has trained. What cannot be had now is as it was last read.
    pub(super) async fn read_bucket(&self, run: &RunRecord) {
        match tokio::time::timeout(LIMIT, self.bucket_of(run)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::debug!(why, run = run.name, "its bucket was not read"),
            Err(_) => tracing::debug!(run = run.name, "its bucket did not answer in time"),
        }
    }

    async fn bucket_of(&self, run: &RunRecord) -> Result<(), String> {
        let store = self.store().map_err(|err| err.to_string())?;
        let attempts = store.attempts(&run.name).map_err(|err| err.to_string())?;
        let kept = run.spec.checkpoints.as_ref();
        let Some((to, kept)) = kept.and_then(|kept| Some((kept.to.as_ref()?, kept))) else {
            return Ok(());
        };
        if attempts.iter().all(|attempt| attempt.started_us == 0) {
            return Ok(());
        }
        let sites = self.sites().map_err(|err| err.to_string())?;
        let opened = sites.bucket(to, &kept.server).await;
        let (bucket, target) = opened.map_err(|err| err.to_string())?;
        let shelf = Shelf::new(bucket, &target, &run.name).map_err(|err| err.to_string())?;
        let damaged = shelf.vault().damaged().await;
        if let Ok(damaged) = &damaged {
            self.note_marks(run, damaged);
        }
        self.take_late(&store, run, &attempts, &shelf).await?;
        damaged.map(drop).map_err(|err| err.to_string())
    }

    /// Takes commits into the record that their boxes, which are gone, told nobody of.
    async fn take_late(
        &self,
        store: &Store,
        run: &RunRecord,
        attempts: &[AttemptRecord],
        shelf: &Shelf,
    ) -> Result<(), String> {
        let vault = shelf.vault();
        let now_us = self.clock.now_us();
        let there = vault.ids().await.map_err(|err| err.to_string())?;
        let events = store.events(&run.name, 0).map_err(|err| err.to_string())?;
        let unknown = late::unknown(&events, attempts, &there, now_us);
        if unknown.is_empty() {
            return Ok(());
        }
        // Before the commits: a copy that is put in place meanwhile is then in one of the two.
        let left = vault.waiting().await.ok();
        let mut noted = 0;
        for id in unknown {
            if noted == late::MOST {
                break;
            }
            let read = vault.read(&id).await.map_err(|err| err.to_string())?;
            match read {
                Some(Ok(manifest)) => {
                    let is_new = late::note(store, &run.name, attempts, &manifest, now_us);
                    noted += usize::from(is_new.map_err(|err| err.to_string())?);
                }
                Some(Err(Unread::Damaged(why))) if late::stays_damaged(&id, left.as_ref()) => {
                    late::note_unread(store, &run.name, &id, &why, now_us)
                        .map_err(|err| err.to_string())?;
                    noted += 1;
                }
                // What waits to be put anew, a newer spotter wrote, or the bucket does not give out now, may be read another time.
                Some(Err(_)) | None => {}
            }
        }
        Ok(())
    }

    /// Writes down which are marked, all of them.
    pub(super) fn note_marks(&self, run: &RunRecord, damaged: &HashSet<CommitId>) {
        let noted = self
            .store()
            .map(|store| marks::note(&store, &run.name, damaged, self.clock.now_us()));
        match noted {
            Ok(Ok(())) => {}
            Ok(Err(err)) => tracing::debug!(%err, "marks were not written down"),
            Err(err) => tracing::debug!(%err, "marks were not written down"),
        }
    }
}
