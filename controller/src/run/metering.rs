//! Takes in what a look at a box says of its price. What ended while nobody looked is dated by what the provider charged.

use std::time::Duration;

use crate::{
    agent_client::AgentStatus,
    error::CommandError,
    ledger::{
        self, CostKind,
        traffic::{Counters, Line, Traffic},
    },
    provider::Instance,
    run::{State, lifecycle::Lifecycle},
    store::{AttemptRecord, ChargeRecord, StoreError},
};

/// Longest time for a look at the bill of a box before the run goes on.
const BILLS_LIMIT: Duration = Duration::from_secs(30);

/// Between two looks at the counters of a box, microseconds: each is written down.
const COUNT_EVERY_US: i64 = 10_000_000;

/// What the host of a box takes for traffic.
pub(crate) fn line(seen: &Instance) -> Line {
    Line {
        down_usd_per_gb: seen.inet_down_usd_per_gb,
        up_usd_per_gb: seen.inet_up_usd_per_gb,
        mbps: seen.inet_down_mbps,
    }
}

impl Lifecycle {
    /// Takes in what went over the network of a box that somebody bills for.
    pub(crate) fn count_traffic(
        &self,
        attempt: &AttemptRecord,
        status: &AgentStatus,
        line: &Line,
    ) -> Result<(), StoreError> {
        let host = status
            .sample
            .as_ref()
            .and_then(|sample| sample.host.as_ref());
        let seen = host.and_then(|host| {
            Some(Counters {
                received: host.network_rx_bytes?,
                sent: host.network_tx_bytes?,
            })
        });
        let is_free = line.down_usd_per_gb <= 0.0 && line.up_usd_per_gb <= 0.0;
        let Some(seen) = seen.filter(|_| !is_free) else {
            return Ok(());
        };
        let (run, number) = (&attempt.run, attempt.number);
        let now_us = self.clock.now_us();
        let before = self.store.traffic(run, number)?;
        if before.is_some_and(|before| now_us.saturating_sub(before.at_us) < COUNT_EVERY_US) {
            return Ok(());
        }
        let up_us = attempt.created_us.max(attempt.reopened_us);
        let counted = Traffic::with(before.as_ref(), seen, line, up_us, now_us);
        self.store.record_traffic(run, number, &counted)
    }

    /// Brings the ledger in line with what the box of an attempt costs, as it is seen now.
    pub(crate) async fn meter(
        &self,
        attempt: &AttemptRecord,
        seen: &Instance,
    ) -> Result<(), StoreError> {
        let (run, number) = (&attempt.run, attempt.number);
        if let Some(until_us) = self.charged_until(attempt, seen).await? {
            self.store
                .close_interval(run, number, CostKind::Gpu, until_us)?;
        }
        self.store.meter(run, number, seen, self.clock.now_us())
    }

    /// What boxes that are still there were charged while nobody looked: one may have come back by itself, and gone again.
    pub(crate) async fn read_bills(&self, run: &str) -> Result<(), StoreError> {
        let attempts = self.store.attempts(run)?;
        let there =
            |attempt: &&AttemptRecord| attempt.instance.is_some() && attempt.state != State::Gone;
        // Without an answer our own figure stands.
        let _ = tokio::time::timeout(BILLS_LIMIT, async {
            for attempt in attempts.iter().filter(there) {
                self.reconcile(attempt).await;
            }
        })
        .await;
        Ok(())
    }

    /// Until when a GPU that is not charged any more can have been charged at most; `None`: it is, or nobody can say.
    async fn charged_until(
        &self,
        attempt: &AttemptRecord,
        seen: &Instance,
    ) -> Result<Option<i64>, StoreError> {
        if ledger::rates(seen).gpu_usd_per_hour > 0.0 {
            return Ok(None);
        }
        let now_us = self.clock.now_us();
        let intervals = self.store.intervals(&attempt.run)?;
        let is_old = intervals.iter().any(|known| {
            let open = known.attempt == attempt.number && known.kind == CostKind::Gpu;
            open && known.to_us.is_none() && now_us - known.from_us > ledger::UNSEEN_US
        });
        if !is_old {
            return Ok(None);
        }
        let since_s = attempt.created_us as f64 / 1e6;
        let ids = [seen.id];
        let asked = tokio::time::timeout(BILLS_LIMIT, self.provider.charges(since_s, &ids)).await;
        let Ok(Ok(charges)) = asked else {
            tracing::debug!("charges could not be read; its end counts from this look");
            return Ok(None);
        };
        let charged_usd: f64 = charges.iter().map(|charge| charge.gpu_usd).sum();
        let until_us = ledger::charged_until(&intervals, attempt.number, charged_usd);
        Ok(until_us
            .map(|until_us| until_us.saturating_add(ledger::UNSEEN_US))
            .filter(|until_us| *until_us < now_us))
    }

    /// Tells once of a bill that is closed and cannot be true.
    pub(crate) fn doubt_bill(
        &self,
        attempt: &AttemptRecord,
        now_us: i64,
    ) -> Result<(), CommandError> {
        let (name, number) = (&attempt.run, attempt.number);
        let charges = self.store.charges(name)?;
        let bill = charges
            .iter()
            .find(|charge| charge.attempt == number && charge.is_final);
        let intervals = self.store.intervals(name)?;
        let is_doubtful =
            |bill: &&ChargeRecord| !ledger::is_plausible(&intervals, number, bill.cost, now_us);
        let Some(bill) = bill.filter(is_doubtful) else {
            return Ok(());
        };
        let ours = ledger::attempt_cost(&intervals, number, now_us);
        let text = format!(
            "the bill of attempt {number} cannot be right: ${:.2} were charged for what was metered at ${:.2}",
            bill.cost.total_usd(),
            ours.total_usd()
        );
        tracing::warn!(run = name, text);
        if self
            .store
            .newest_event(name, number, "bill_doubtful")?
            .is_none()
        {
            let detail = serde_json::json!({
                "text": text, "charged_usd": bill.cost.total_usd(), "metered_usd": ours.total_usd(),
            });
            self.store
                .note(name, number, now_us, "bill_doubtful", &detail)?;
        }
        Ok(())
    }
}
