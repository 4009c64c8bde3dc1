//! The dead-man's switch: a box on which no session ever starts costs money for nothing, so it stops itself.
//!
//! `onstart` carries the same switch for the time before the agent is there. Both are disarmed by the file `started`, which
//! a shim makes and `onstart` removes, so that a restarted box is armed again.

use std::{fs, sync::Arc, time::Duration};

use serde_json::json;
use tokio::time;
use tracing::warn;

use super::core::Core;
use crate::{chain, config::Home, events::EventSink, now_us, self_stop::OwnInstance};

const POLL: Duration = Duration::from_secs(1);

/// Waits until the switch is due, then ends the box.
pub async fn watch(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = time::sleep(POLL) => {}
        }
        let Some(run) = core.run() else { continue };
        if is_due(
            container_started_us(&core.home, core.started_us),
            run.bring_up_s,
            now_us(),
        ) && !core.home.started().exists()
        {
            return end_box(&core, &run.provider_url, run.bring_up_s).await;
        }
    }
}

async fn end_box(core: &Core, provider_url: &str, bring_up_s: u32) {
    let reason = format!("no session started within {bring_up_s} s of the container's start");
    warn!(reason, "the box stops itself");
    match OwnInstance::find(&core.home, provider_url) {
        Ok(own) => {
            core.journal.event("self_stop", json!({ "reason": reason }));
            tokio::select! {
                () = core.stop.cancelled() => {}
                () = own.stop_for_certain() => {}
            }
        }
        Err(err) => {
            let problem = chain(&err);
            warn!(problem, "the box should stop itself and cannot");
            core.journal
                .event("self_stop", json!({ "reason": reason, "problem": problem }));
        }
    }
}

/// When the container started: when `onstart` saved its environment; where it did not, when this daemon started.
fn container_started_us(home: &Home, daemon_started_us: u64) -> u64 {
    let saved = fs::metadata(home.container_env()).and_then(|meta| meta.modified());
    let since = saved
        .ok()
        .and_then(|saved| saved.duration_since(std::time::UNIX_EPOCH).ok());
    since
        .and_then(|since| u64::try_from(since.as_micros()).ok())
        .unwrap_or(daemon_started_us)
}

/// Whether the time to bring the box up is over; 0 means for ever.
fn is_due(started_us: u64, bring_up_s: u32, now_us: u64) -> bool {
    bring_up_s > 0 && now_us.saturating_sub(started_us) >= u64::from(bring_up_s) * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_due_after_the_time_and_never_without_one() {
        assert!(!is_due(1_000_000, 10, 10_999_999));
        assert!(is_due(1_000_000, 10, 11_000_000));
        assert!(!is_due(0, 0, u64::MAX));
        assert!(!is_due(5_000_000, 10, 1_000_000), "a clock that went back");
    }
}
