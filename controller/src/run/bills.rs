//! What boxes are billed: when their charge begins and ends by our own look, and what the provider says of it until that is final.

use std::time::Duration;

use crate::{
    error::CommandError, ledger::CostKind, provider::Instance, run::lifecycle::Lifecycle,
    store::AttemptRecord,
};

/// Between two looks at the bill of a box that is gone.
const BILL_AGAIN: Duration = Duration::from_secs(10 * 60);

impl Lifecycle {
    /// Reads what the provider charged for an attempt and stores it beside our own figure.
    pub(crate) async fn reconcile(&self, attempt: &AttemptRecord) {
        if let Err(err) = self.try_reconcile(attempt).await {
            tracing::warn!(%err, "charges could not be read; the ledger's own figure stands");
        }
    }

    async fn try_reconcile(&self, attempt: &AttemptRecord) -> Result<(), CommandError> {
        let ids = self.store.billed_instances(attempt)?;
        if ids.is_empty() {
            return Ok(());
        }
        let since_s = attempt.created_us as f64 / 1e6;
        let charges = self.provider.charges(since_s, &ids).await?;
        let now_us = self.clock.now_us();
        self.store.record_bill(attempt, &charges, now_us)?;
        self.doubt_bill(attempt, now_us)
    }

    /// Whether the bill of a box that is gone is worth another look.
    pub(crate) fn is_bill_open(&self, attempt: &AttemptRecord) -> Result<bool, CommandError> {
        if self.store.is_billed(&attempt.run, attempt.number)? {
            return Ok(false);
        }
        let charges = self.store.charges(&attempt.run)?;
        let read = charges
            .iter()
            .find(|charge| charge.attempt == attempt.number);
        let now_us = self.clock.now_us();
        Ok(read.is_none_or(|charge| {
            now_us.saturating_sub(charge.read_us) >= BILL_AGAIN.as_micros() as i64
        }))
    }

    /// The GPU is charged: since when and how much the provider says, else from now on what was ordered.
    pub(crate) fn gpu_charge_starts(
        &self,
        attempt: &AttemptRecord,
        seen: &Instance,
    ) -> Result<(), CommandError> {
        let now_us = self.clock.now_us();
        let (run, number) = (&attempt.run, attempt.number);
        self.store.meter(run, number, seen, now_us)?;
        let intervals = self.store.intervals(run)?;
        let metered = intervals.iter().any(|interval| {
            interval.attempt == number && interval.kind == CostKind::Gpu && interval.to_us.is_none()
        });
        if !metered {
            let price = attempt.gpu_usd_per_hour;
            self.store
                .open_interval(run, number, CostKind::Gpu, now_us, price)?;
        }
        Ok(())
    }

    /// The GPU is not charged any more.
    pub(crate) fn gpu_charge_ends(&self, attempt: &AttemptRecord) -> Result<(), CommandError> {
        self.store.close_interval(
            &attempt.run,
            attempt.number,
            CostKind::Gpu,
            self.clock.now_us(),
        )?;
        Ok(())
    }

    /// Neither its GPU nor its disk is charged from `free_us` on, microseconds since the epoch.
    pub(super) fn charges_end(
        &self,
        attempt: &AttemptRecord,
        free_us: i64,
    ) -> Result<(), CommandError> {
        for kind in [CostKind::Gpu, CostKind::Disk] {
            self.store
                .close_interval(&attempt.run, attempt.number, kind, free_us)?;
        }
        Ok(())
    }
}
