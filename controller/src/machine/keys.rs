//! What a box is given to reach its bucket: keys, tried from here first, or requests that are signed for it.

use std::{sync::Arc, time::Duration};

use spotter_bucket::{
    Bucket, BucketError, CredentialSource, ErrorKind, Layout, S3Bucket, S3Options,
};

use super::{Machine, agent_failed, local};
use crate::{
    credentials::{
        Place,
        key_ring::{BoxKeys, KeyRing},
    },
    error::chain,
    granting::{Granting, GrantingError},
    run::site::{FreshKeys, KeysGiven, Site, SiteError, Trial},
    spec::{BucketServer, KeyMode},
};

/// Longest time for a try of keys: a box waits for them, and what takes longer is no verdict.
const TRIAL_LIMIT: Duration = Duration::from_secs(15);

/// A client for a bucket with the keys of this laptop, which are renewed while it is used.
pub(super) async fn client(
    keys: &Arc<KeyRing>,
    to: &str,
    server: &BucketServer,
) -> Result<S3Bucket, SiteError> {
    let access = keys.access().await.map_err(|err| local(&err))?;
    let newest = keys.newest(access.credentials);
    let source: CredentialSource = Arc::new(move || Some(newest.credentials()));
    client_with(access.place.at(server), to, source)
}

fn client_with(place: Place, to: &str, keys: CredentialSource) -> Result<S3Bucket, SiteError> {
    let target = place.target(to).map_err(|err| local(&err))?;
    let bucket = S3Bucket::new(target, keys, S3Options::default()).map_err(|err| local(&err))?;
    let authorities = place.authorities().map_err(|err| local(&err))?;
    if !authorities.is_empty() {
        bucket
            .trust(authorities.as_bytes())
            .map_err(|err| local(&err))?;
    }
    Ok(bucket)
}

/// Begins an upload of nothing where a run's checkpoints lie, and ends it: that asks for the right to store, and leaves neither an
/// object nor a version of one.
async fn store_nothing(bucket: &dyn Bucket, layout: &Layout) -> Result<(), BucketError> {
    let key = format!(
        "{}.spotter-try-{}",
        layout.data_prefix(),
        ulid::Ulid::generate()
    );
    let upload = bucket.create_upload(&key).await?;
    if let Err(err) = bucket.abort_upload(&key, &upload).await {
        tracing::debug!(%err, "an upload that only tried keys was not ended");
    }
    Ok(())
}

impl Machine {
    /// The bucket of a run whose box gets no keys.
    pub(super) async fn granting(&self) -> Result<Option<Granting>, SiteError> {
        let kept = self.checkpoints.as_ref();
        let kept = kept.filter(|kept| kept.keys.mode == KeyMode::Presigned);
        let Some((kept, to)) = kept.and_then(|kept| Some((kept, kept.to.as_deref()?))) else {
            return Ok(None);
        };
        let bucket = client(&self.keys, to, &kept.server).await?;
        let granting = Granting::new(bucket, &self.run, kept).map_err(|err| local(&err))?;
        Ok(Some(granting))
    }

    /// Signs for the box what it may do next.
    pub(super) async fn give_grants(&self, granting: &Granting) -> Result<KeysGiven, SiteError> {
        let status = self.status().await?;
        let backup = status.backup.unwrap_or_default();
        let batches = granting.round(status.attempt, &backup).await;
        let batches = batches.map_err(|err| match err {
            GrantingError::Bucket(err) if err.kind == ErrorKind::Transient => {
                SiteError::Unreachable(chain(&err))
            }
            err => local(&err),
        })?;
        for batch in batches {
            self.client.give_grants(batch).await.map_err(agent_failed)?;
        }
        let backup = self.status().await?.backup.unwrap_or_default();
        Ok(KeysGiven {
            expires_us: backup.keys_expire_us,
            signed_for: Some(backup.checkpoints_left.unwrap_or(0)),
            ..KeysGiven::default()
        })
    }

    /// The keys that the box would get now.
    pub(super) async fn find_keys(&self) -> Result<FreshKeys, SiteError> {
        let kept = self.checkpoints.as_ref();
        let Some((kept, to)) = kept.and_then(|kept| Some((kept, kept.to.as_deref()?))) else {
            return Ok(FreshKeys::NoBucket);
        };
        if kept.keys.mode == KeyMode::Presigned {
            return Ok(FreshKeys::Signed);
        }
        let keys = self
            .keys
            .for_box(&kept.keys, to, &kept.server, &self.run)
            .await;
        Ok(FreshKeys::Keys(keys.map_err(|err| local(&err))?))
    }

    /// Tries keys on the run's bucket.
    pub(super) async fn try_from_here(&self, keys: &BoxKeys) -> Trial {
        let seconds = TRIAL_LIMIT.as_secs();
        let tried = tokio::time::timeout(TRIAL_LIMIT, self.store_with(keys)).await;
        tried.unwrap_or_else(|_| Trial::Unclear(format!("no answer in {seconds} s")))
    }

    async fn store_with(&self, keys: &BoxKeys) -> Trial {
        let kept = self.checkpoints.as_ref();
        let Some((kept, to)) = kept.and_then(|kept| Some((kept, kept.to.as_deref()?))) else {
            return Trial::Unclear("there is no bucket".to_owned());
        };
        let credentials = keys.credentials.clone();
        let client = self.keys.access().await.map_err(|err| local(&err));
        let client = client.and_then(|access| {
            let source: CredentialSource = Arc::new(move || Some(credentials.clone()));
            client_with(access.place.at(&kept.server), to, source)
        });
        let ready = client.and_then(|client| {
            let layout = Layout::new(&client.target().prefix, &self.run);
            Ok((client, layout.map_err(|err| local(&err))?))
        });
        match ready {
            Err(err) => Trial::Unclear(err.to_string()),
            Ok((client, layout)) => match store_nothing(&client, &layout).await {
                Ok(()) => Trial::Works,
                Err(err) if err.kind == ErrorKind::Denied => Trial::Refused(chain(&err)),
                Err(err) => Trial::Unclear(chain(&err)),
            },
        }
    }

    /// Gives the box what was found for it.
    pub(super) async fn hand_over(&self, keys: &FreshKeys) -> Result<KeysGiven, SiteError> {
        let keys = match keys {
            FreshKeys::NoBucket => return Ok(KeysGiven::default()),
            FreshKeys::Signed => {
                return match self.granting().await? {
                    Some(granting) => self.give_grants(&granting).await,
                    None => Ok(KeysGiven::default()),
                };
            }
            FreshKeys::Keys(keys) => keys,
        };
        let kept = self.checkpoints.as_ref();
        self.client
            .set_credentials(
                &keys.credentials,
                kept.is_some_and(|kept| kept.keys.persist),
            )
            .await
            .map_err(agent_failed)?;
        Ok(KeysGiven {
            run_only: keys.run_only,
            expires_us: keys.credentials.expires_us,
            why_own: keys.why_own.clone(),
            signed_for: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use spotter_bucket::memory::MemoryBucket;

    use super::*;

    #[tokio::test]
    async fn a_try_of_keys_leaves_nothing_in_the_bucket() {
        let bucket = MemoryBucket::default();
        let layout = Layout::new("runs", "tried").unwrap();
        store_nothing(&bucket, &layout).await.unwrap();
        assert!(bucket.list("").await.unwrap().is_empty());
        assert!(bucket.list_uploads("").await.unwrap().is_empty());
    }
}
