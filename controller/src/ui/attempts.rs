//! The attempts of a run as a table, the last row being all of them.

use super::{
    Table,
    text::{or_dash, usd},
};
use crate::run::summary::RunSummary;

/// One row per attempt: what it ran on, which steps, how many were redone, checkpoints, money by us and by the provider.
pub fn attempts_table(summary: &RunSummary) -> Table {
    let mut table = Table::new(&[
        "TRY>",
        "STATE",
        "INSTANCE>",
        "GPU",
        "FROM>",
        "TO>",
        "REDONE>",
        "CKPTS>",
        "COST>",
        "BILLED>",
    ]);
    let newest = summary.attempts.last().map(|newest| newest.number);
    for attempt in &summary.attempts {
        let is_newest = newest == Some(attempt.number);
        let ended = summary.training_end.as_ref().filter(|_| is_newest);
        table.row([
            attempt.number.to_string(),
            ended.map_or_else(
                || attempt.state.to_string(),
                |end| end.how.word().to_owned(),
            ),
            or_dash(attempt.instance),
            attempt.gpu.clone(),
            or_dash(attempt.from_step),
            or_dash(attempt.to_step),
            attempt.steps_redone.to_string(),
            attempt.checkpoints_committed.to_string(),
            usd(attempt.counted.total_usd()),
            or_dash(attempt.charged.map(|charged| usd(charged.total_usd()))),
        ]);
    }
    if summary.attempts.len() > 1 {
        let blank = String::new;
        table.row([
            "all".to_owned(),
            blank(),
            blank(),
            blank(),
            blank(),
            or_dash(summary.step),
            summary.steps_redone.to_string(),
            summary.checkpoints_committed.to_string(),
            usd(summary.cost_usd),
            or_dash(summary.charged_usd.map(usd)),
        ]);
    }
    table
}
