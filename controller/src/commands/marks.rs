//! Brings the marks of damaged checkpoints from a run's bucket into its record, in passing: whoever looks at the run then tells of them.

use std::{collections::HashSet, time::Duration};

use spotter_bucket::CommitId;

use crate::{checkpoints::Shelf, commands::Deps, run::marks, store::RunRecord};

/// A look waits so long for its bucket, and no longer.
const LIMIT: Duration = Duration::from_secs(4);

impl Deps {
    /// Reads the marks of a run that has trained and has a bucket. What cannot be had now is as it was last read.
    pub(super) async fn read_marks(&self, run: &RunRecord) {
        match tokio::time::timeout(LIMIT, self.marks_of(run)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::debug!(why, run = run.name, "marks were not read"),
            Err(_) => tracing::debug!(run = run.name, "the bucket did not tell its marks in time"),
        }
    }

    async fn marks_of(&self, run: &RunRecord) -> Result<(), String> {
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
        self.note_marks(run, &damaged.map_err(|err| err.to_string())?);
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
