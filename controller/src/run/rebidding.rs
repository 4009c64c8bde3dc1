//! Bids for a box that was taken back, at the market: what has to be beaten is looked up, and more is bid.

use serde_json::json;

use crate::{
    error::CommandError,
    provider::{Filter, Instance, InstanceId, ProviderError, Rental},
    run::{
        bidding::{Bid, QUICK_RAISES, Rivals},
        budget,
        halt::Halt,
        lifecycle::Lifecycle,
        pricing, recovery,
    },
    spec::query,
    store::{AttemptRecord, RunRecord},
    ui::text,
};

/// Event of a bid that was changed, by this or by hand.
pub(super) const BID: &str = "bid_changed";
/// Between two looks at the market for what has to be beaten, once the quick bids are made: each is a search, of which ten a minute are
/// allowed, and many runs may wait at once.
const LOOK_EVERY_US: i64 = 120 * 1_000_000;
/// The same before.
const FIRST_LOOKS_EVERY_US: i64 = 30 * 1_000_000;
/// Slices of one machine that are listed at most.
const SLICES: u32 = 16;

/// After so long the market is looked at again, microseconds.
pub(super) fn look_every_us(bids: usize) -> i64 {
    match bids < QUICK_RAISES {
        true => FIRST_LOOKS_EVERY_US,
        false => LOOK_EVERY_US,
    }
}

impl Lifecycle {
    /// What has to be beaten for the box of an attempt, as the market lists its machine now, whatever the run file asks of others.
    pub(super) async fn rivals(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<Rivals, ProviderError> {
        let (Some(machine), Rental::Interruptible) = (attempt.machine_id, attempt.rental) else {
            return Ok(Rivals::Hidden);
        };
        let mut search = pricing::query(&run.spec.resources, SLICES);
        search.num_gpus = Some(attempt.num_gpus(&run.spec));
        // The box holds its disk while it is away: what is free there now may be less.
        search.disk_gb = 0.0;
        search.filters = vec![
            Filter {
                field: "machine_id".to_owned(),
                op: "eq".to_owned(),
                value: json!(machine),
            },
            query::any("verified"),
            query::any("direct_port_count"),
        ];
        let listed = self.provider.offers(&search).await?;
        let beat = listed
            .iter()
            .filter(|offer| offer.machine_id == machine)
            .filter_map(|offer| offer.min_bid_usd_per_hour)
            // What our bid beats already is another slice of the machine: a box stays with its own GPUs.
            .filter(|beat| *beat > attempt.gpu_usd_per_hour)
            .reduce(f64::min);
        Ok(beat.map_or(Rivals::Hidden, Rivals::Beat))
    }

    /// What is bid for the box of an attempt, and what a bid has to keep to.
    pub(super) fn bid_of(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        found: Option<&Instance>,
    ) -> Result<Bid, CommandError> {
        let limits = &run.spec.limits;
        let spent_usd = self.spent_usd(&run.name)?;
        let storage = attempt.storage_usd_per_hour;
        let left_usd = limits
            .purse()
            .map(|purse| purse.budget_usd - spent_usd - budget::held_back_usd(purse, storage));
        Ok(Bid {
            usd_per_hour: found.map_or(attempt.gpu_usd_per_hour, |found| found.gpu_usd_per_hour),
            headroom: run.spec.resources.bid_headroom,
            ceiling_usd_per_hour: recovery::ceiling(&run.spec.resources, storage)
                .filter(|_| attempt.rental == Rental::Interruptible),
            left_usd,
            storage_usd_per_hour: storage,
        })
    }

    /// Bids more. A bid alone does not always bring a stopped box back, so it is started as well.
    pub(super) async fn raise(
        &self,
        run: &RunRecord,
        attempt: &mut AttemptRecord,
        id: InstanceId,
        usd_per_hour: f64,
    ) -> Result<(), Halt> {
        self.store.fence(&run.name)?;
        let old = attempt.gpu_usd_per_hour;
        self.provider.change_bid(id, usd_per_hour).await?;
        attempt.gpu_usd_per_hour = usd_per_hour;
        self.store
            .record_bid(&run.name, attempt.number, usd_per_hour)?;
        let detail = json!({
            "instance": id, "old_usd_per_hour": old, "new_usd_per_hour": usd_per_hour, "over_limits": false,
            "by_hand": false,
        });
        self.note(run, attempt.number, BID, detail)?;
        self.say(
            run,
            &format!(
                "Bidding {} for instance {id}.",
                text::usd_per_hour(usd_per_hour)
            ),
        );
        self.provider.start(id).await?;
        Ok(())
    }
}
