//! Whether a host has the line that it promised. One that has not is remembered: images, data and checkpoints are waited for at the
//! price of a GPU.
//!
//! Only what a box gets from elsewhere counts, never what comes from this laptop, whose own line would be measured.

use std::time::Duration;

use serde_json::json;

use crate::{
    agent_client::CheckpointInfo,
    error::CommandError,
    run::{lifecycle::Lifecycle, machines},
    store::{AttemptRecord, Measured, RunRecord, Store, StoreError},
};

/// Connections are slow when they begin: less than this says nothing, GB.
const ENOUGH_GB: f64 = 1.0;
/// A host is believed down to this share of what it promises.
const BELIEVED: f64 = 0.25;
/// No source gives more to one box for sure, Mb/s: what is promised beyond it cannot be told.
const SOURCE_MBPS: f64 = 1000.0;
/// Event of a host that promised more than it has.
const LIED: &str = "bandwidth_lied";

/// What speaks against a host by what its box received, for people (pure).
fn lied(measured: &Measured) -> Option<String> {
    let promised = measured.advertised_down_mbps?;
    let (got, received_gb) = (measured.down_mbps?, measured.received_gb?);
    let is_far_less = got < promised.min(SOURCE_MBPS) * BELIEVED;
    (received_gb >= ENOUGH_GB && is_far_less).then(|| {
        format!(
            "it received {received_gb:.1} GB at {got:.0} Mb/s at best, where its host promises {promised:.0} Mb/s"
        )
    })
}

/// Fastest download that was seen on a machine when a box of ours there last received enough to tell, Mb/s.
///
/// # Errors
/// The store's.
pub(crate) fn of_machine(store: &Store, machine: u64) -> Result<Option<f64>, StoreError> {
    let mut there = store.all_attempts()?;
    there.retain(|attempt| attempt.machine_id == Some(machine));
    there.sort_by_key(|attempt| attempt.created_us);
    for attempt in there.iter().rev() {
        let measured = store.measured(&attempt.run, attempt.number)?;
        if measured.received_gb.is_some_and(|gb| gb >= ENOUGH_GB) && measured.down_mbps.is_some() {
            return Ok(measured.down_mbps);
        }
    }
    Ok(None)
}

impl Lifecycle {
    /// Takes in how fast a checkpoint came from the bucket. A server of the user's own may be the slower end, and counts for nothing.
    pub(crate) fn measure_restore(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        restored: &CheckpointInfo,
        took: Duration,
    ) -> Result<(), StoreError> {
        let server = run.spec.checkpoints.as_ref().map(|kept| &kept.server);
        if server.is_some_and(|server| server.endpoint.is_some()) {
            return Ok(());
        }
        let (gb, seconds) = (restored.size_bytes as f64 / 1e9, took.as_secs_f64());
        let before = self.store.measured(&run.name, attempt.number)?;
        let restored = Measured {
            received_gb: Some(before.received_gb.unwrap_or(0.0) + gb),
            down_mbps: Some(gb * 8000.0 / seconds.max(1e-3)),
            ..Measured::default()
        };
        self.store
            .record_measured(&run.name, attempt.number, &restored)
    }

    /// Remembers the machine of the newest attempt if its line is far from what was promised; once for each attempt.
    pub(crate) fn judge_bandwidth(&self, run: &RunRecord) -> Result<(), CommandError> {
        let Some(attempt) = self.store.latest_attempt(&run.name)? else {
            return Ok(());
        };
        let Some(machine) = attempt.machine_id else {
            return Ok(());
        };
        let (name, number) = (&run.name, attempt.number);
        let Some(why) = lied(&self.store.measured(name, number)?) else {
            return Ok(());
        };
        if self.store.newest_event(name, number, LIED)?.is_some() {
            return Ok(());
        }
        machines::remember(&self.store, machine, self.clock.now_us(), &why)?;
        self.note(
            run,
            number,
            LIED,
            json!({"machine": machine, "reason": why}),
        )?;
        self.say(
            run,
            &format!("Machine {machine} is avoided from now on: {why}."),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(received_gb: f64, got_mbps: f64, promised_mbps: f64, expected: bool) {
        let measured = Measured {
            received_gb: Some(received_gb),
            down_mbps: Some(got_mbps),
            advertised_down_mbps: Some(promised_mbps),
            ..Measured::default()
        };
        assert_eq!(lied(&measured).is_some(), expected, "{measured:?}");
    }

    #[test]
    fn a_host_lies_whose_box_receives_a_gigabyte_at_less_than_a_quarter_of_what_it_promises() {
        check(5.0, 199.0, 800.0, true);
        check(5.0, 201.0, 800.0, false);
        check(1.0, 10.0, 800.0, true);
        // Too little to tell.
        check(0.9, 10.0, 800.0, false);
        // No bucket and no registry proves ten gigabits.
        check(50.0, 260.0, 10_000.0, false);
        check(50.0, 240.0, 10_000.0, true);
        // A slow line that says so is honest.
        check(5.0, 30.0, 100.0, false);
        assert_eq!(lied(&Measured::default()), None);
    }

    #[test]
    fn a_lie_is_told_in_figures() {
        let measured = Measured {
            received_gb: Some(5.04),
            down_mbps: Some(49.6),
            advertised_down_mbps: Some(800.0),
            ..Measured::default()
        };
        assert_eq!(
            lied(&measured).unwrap(),
            "it received 5.0 GB at 50 Mb/s at best, where its host promises 800 Mb/s"
        );
    }
}
