//! Whether the bucket has the newest commit still, asked anew: what a box that goes with its disk must know, and not only remember.

use tokio::time;
use tokio_util::sync::CancellationToken;

use super::index::Index;
use super::standing::chain;
use super::{ANSWER_WITHIN, Backup};

impl Backup {
    /// Asks the bucket for the newest commit that this agent knows of, and for every object of it. Where it knows of none there is nothing to
    /// ask for.
    ///
    /// # Errors
    /// Why it is not there in full, or why nobody can say so within [`ANSWER_WITHIN`], for people.
    pub async fn newest_is_there(&self) -> Result<(), String> {
        let id = self.state().last_commit;
        if id.is_empty() {
            return Ok(());
        }
        let stop = CancellationToken::new();
        let ask = async {
            let load = Index::load(&*self.bucket, &self.standing, &stop, &self.places);
            let index = load.await.map_err(|err| chain(&err))?;
            let Some(newest) = index.manifests().find(|one| one.id == id) else {
                return Ok(false);
            };
            let uploader = self.uploader(&[], &stop);
            let whole = uploader.is_all_there(newest).await;
            whole.map_err(|err| chain(&err))
        };
        match time::timeout(ANSWER_WITHIN, ask).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(format!(
                "its newest checkpoint {id} is not in the bucket in full"
            )),
            Ok(Err(why)) => Err(format!(
                "the bucket was asked for its newest checkpoint: {why}"
            )),
            Err(_) => Err(format!(
                "the bucket did not say in {} s whether it has its newest checkpoint",
                ANSWER_WITHIN.as_secs()
            )),
        }
    }
}
