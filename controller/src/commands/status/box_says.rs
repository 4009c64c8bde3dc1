//! What a box says of itself, in lines.

use std::time::Duration;

use crate::{
    agent_client::{AgentStatus, GpuInfo, SessionState},
    run::bringing_up::TRAIN,
    ui::{Ui, text},
};

/// What its agent says of a training, its backup and its GPUs.
pub(super) fn show_agent(ui: &mut Ui, agent: &AgentStatus) {
    if let Some(session) = agent.session(TRAIN) {
        let how = if session.state == SessionState::Running {
            "running"
        } else {
            "ended"
        };
        ui.line(format_args!(
            "  training     {how}, {} of log",
            text::bytes(session.log_bytes)
        ));
    }
    if let Some(training) = &agent.training {
        let loss = training
            .loss
            .map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
        let rate = training
            .tokens_per_s
            .map_or_else(String::new, |rate| format!(", {rate:.0} tokens/s"));
        let total = training
            .total_steps
            .map_or_else(String::new, |total| format!(" of {total}"));
        ui.line(format_args!(
            "  last line    step {}{total}{loss}{rate}",
            text::or_dash(training.step)
        ));
    }
    if let Some(backup) = &agent.backup {
        let alarm = if backup.alarm { ", BEHIND" } else { "" };
        ui.line(format_args!(
            "  backup       {} waiting, {} not saved{alarm}",
            backup.pending,
            text::bytes(backup.unsaved_bytes)
        ));
        if let Some(expires_us) = backup.keys_expire_us {
            let left_us = expires_us.saturating_sub(agent.now_us);
            let when = match left_us {
                0 => "have ended: hand over others with `spotter up`".to_owned(),
                left_us => format!("end in {}", text::duration(Duration::from_micros(left_us))),
            };
            match backup.checkpoints_left {
                None => ui.line(format_args!("  bucket keys  {when}")),
                Some(0) => ui.line(format_args!(
                    "  signed for   no more checkpoints, LOW: sign for more with `spotter up`"
                )),
                Some(left) => ui.line(format_args!(
                    "  signed for   {left} more checkpoints; the signatures {when}"
                )),
            }
        }
        if let Some(problem) = &backup.problem {
            ui.line(format_args!("  problem      {problem}"));
        }
    }
    let Some(sample) = &agent.sample else { return };
    for gpu in &sample.gpus {
        let memory = match (gpu.memory_used_bytes, gpu.memory_total_bytes) {
            (Some(used), Some(total)) => format!("{} of {}", text::bytes(used), text::bytes(total)),
            _ => "-".to_owned(),
        };
        ui.line(format_args!(
            "  gpu {}        {} %, {memory}, {} W, {} C{}  {}",
            gpu.index,
            text::or_dash(gpu.utilisation_percent),
            gpu.power_mw
                .map_or_else(|| "-".to_owned(), |power| (power / 1000).to_string()),
            text::or_dash(gpu.temperature_c),
            troubles(gpu),
            gpu.name
        ));
    }
    if let Some(problem) = &agent.gpu_problem {
        let what = if sample.gpus.is_empty() {
            "no readings: "
        } else {
            ""
        };
        ui.line(format_args!("  gpu          {what}{problem}"));
    }
}

/// What holds a GPU back or is wrong with it, as the end of its line; nothing when all is well.
fn troubles(gpu: &GpuInfo) -> String {
    /// Clocks-event reasons that cost speed, in NVML's bits.
    const REASONS: [(u64, &str); 5] = [
        (0x4, "power cap"),
        (0x8, "hardware slowdown"),
        (0x20, "heat"),
        (0x40, "heat (hardware)"),
        (0x80, "power brake"),
    ];
    let mask = gpu.throttle_reasons.unwrap_or(0);
    let reasons = REASONS.iter().filter(|(bit, _)| mask & bit != 0);
    let reasons: Vec<_> = reasons.map(|(_, words)| *words).collect();
    let mut words = String::new();
    if !reasons.is_empty() {
        words += &format!(", held back by {}", reasons.join(" and "));
    }
    if gpu.xid_count > 0 {
        words += &format!(", {} Xid errors, last {}", gpu.xid_count, gpu.last_xid);
    }
    if gpu.ecc_uncorrected.unwrap_or(0) > 0 || gpu.remap_failed == Some(1) {
        words += ", memory is failing";
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpus_line_ends_with_what_holds_it_back() {
        let check = |throttle, xids, ecc, expected: &str| {
            let gpu = GpuInfo {
                throttle_reasons: throttle,
                xid_count: xids,
                last_xid: if xids > 0 { 79 } else { 0 },
                ecc_uncorrected: ecc,
                ..GpuInfo::default()
            };
            assert_eq!(troubles(&gpu), expected);
        };
        check(None, 0, None, "");
        check(Some(0x1), 0, Some(0), "");
        check(Some(0x4), 0, None, ", held back by power cap");
        check(
            Some(0x24),
            2,
            Some(1),
            ", held back by power cap and heat, 2 Xid errors, last 79, memory is failing",
        );
    }
}
