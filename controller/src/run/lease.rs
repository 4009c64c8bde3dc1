//! The watcher's lease: whoever holds it acts for a run, everybody else looks on. It is renewed while held, and a holder that
//! slept past its end finds out before it acts again.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::store::{Store, StoreError};

/// How long a lease lasts without a sign of life of its holder.
const TTL: Duration = Duration::from_secs(30);
/// How often it is renewed; two renewals may fail before it is lost.
const RENEW: Duration = Duration::from_secs(8);

/// A lease that is held until dropped.
#[derive(Debug)]
pub struct Lease {
    store: Arc<Store>,
    run: String,
    holder: String,
    lost: CancellationToken,
    renewing: JoinHandle<()>,
}

impl Lease {
    /// Takes the lease of a run; `None` when somebody else has it.
    pub fn take(store: &Arc<Store>, run: &str) -> Result<Option<Lease>, StoreError> {
        let holder = ulid::Ulid::generate().to_string();
        if !store.take_lease(run, &holder, TTL)? {
            return Ok(None);
        }
        Ok(Some(Self::held(store, run, holder)))
    }

    /// Takes the lease of a run from whoever holds it, which does not act any more from now on.
    pub fn take_over(store: &Arc<Store>, run: &str) -> Result<Option<Lease>, StoreError> {
        let holder = ulid::Ulid::generate().to_string();
        let taken = store.take_over_lease(run, &holder, TTL)?;
        Ok(taken.then(|| Self::held(store, run, holder)))
    }

    fn held(store: &Arc<Store>, run: &str, holder: String) -> Lease {
        let lost = CancellationToken::new();
        let renewing = tokio::spawn(renew(
            Arc::clone(store),
            run.to_owned(),
            holder.clone(),
            lost.clone(),
        ));
        Lease {
            store: Arc::clone(store),
            run: run.to_owned(),
            holder,
            lost,
            renewing,
        }
    }

    /// Ends when somebody else has taken the lease: the holder must stop acting at once.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
        if let Err(err) = self.store.release_lease(&self.run, &self.holder) {
            tracing::debug!(%err, "the lease was not let go; it ends by itself");
        }
    }
}

async fn renew(store: Arc<Store>, run: String, holder: String, lost: CancellationToken) {
    let mut renewed_us = store.now_us();
    loop {
        tokio::time::sleep(RENEW).await;
        match store.renew_lease(&run, &holder, TTL) {
            Ok(true) => renewed_us = store.now_us(),
            Ok(false) => {
                lost.cancel();
                return;
            }
            Err(err) => {
                tracing::warn!(%err, "the lease was not renewed, trying again");
                // By the date, not by a clock that stands still while the laptop sleeps.
                let age_us = store.now_us().saturating_sub(renewed_us);
                if age_us >= TTL.as_micros() as i64 {
                    lost.cancel();
                    return;
                }
            }
        }
    }
}
