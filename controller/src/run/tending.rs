//! Boxes that belong to nobody: looked for on the account, and ended.

use std::time::Duration;

use crate::{
    error::CommandError,
    run::{
        State,
        claims::{self, Fate},
        lifecycle::Lifecycle,
    },
};

/// Longest time for a look at the whole account beside what a run needs.
const TEND_LIMIT: Duration = Duration::from_secs(30);

impl Lifecycle {
    /// Ends what costs money for nothing: twins of a create that was carried out twice, boxes whose end is on record, and boxes
    /// that the market gave back after they were given up. What cannot be done now is done at the next look.
    pub(crate) async fn tend(&self) {
        let tended = tokio::time::timeout(TEND_LIMIT, self.try_tend()).await;
        if let Ok(Err(err)) = tended {
            tracing::debug!(%err, "the account was not looked through, will try again");
        }
    }

    async fn try_tend(&self) -> Result<(), CommandError> {
        // The account first: what is rented in between is in the record, and not yet in the list.
        let instances = self.provider.instances().await?;
        let attempts = self.store.all_attempts()?;
        for instance in &instances {
            // One that is being rented, or whose price nobody follows any more, is not metered.
            if let Some(attempt) = claims::owner(&attempts, instance)
                && attempt.instance.is_some()
                && attempt.state != State::Loading
            {
                self.meter(attempt, instance).await?;
            }
        }
        for (id, fate) in claims::fates(&instances, &attempts) {
            match fate {
                Fate::Stop { run, attempt } => {
                    self.report.status(
                        &run,
                        &format!(
                            "Instance {id} of attempt {attempt} was given up and is still meant to run: stopping it."
                        ),
                    );
                    self.provider.stop(id).await?;
                    let detail = serde_json::json!({"instance": id});
                    let now_us = self.clock.now_us();
                    self.store
                        .note(&run, attempt, now_us, "revived_box_stopped", &detail)?;
                }
                Fate::Destroy { run, attempt } => {
                    self.report.status(
                        &run,
                        &format!("Instance {id} belongs to nobody: destroying it."),
                    );
                    self.provider.destroy(id).await?;
                    let detail = serde_json::json!({"instance": id});
                    let now_us = self.clock.now_us();
                    self.store
                        .note(&run, attempt, now_us, "twin_destroyed", &detail)?;
                }
            }
        }
        Ok(())
    }
}
