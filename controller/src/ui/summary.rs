//! A run as a table: attempts, steps, checkpoints and money.

use super::{Table, text};
use crate::run::summary::RunSummary;

/// Attempts, one row each, and their sum.
pub fn attempts_table(summary: &RunSummary) -> Table {
    let mut table = Table::new(&[
        "ATTEMPT>",
        "STATE",
        "INSTANCE>",
        "GPU",
        "STEPS",
        "REDONE>",
        "CHECKPOINTS>",
        "LEDGER>",
        "CHARGED>",
    ]);
    for attempt in &summary.attempts {
        let steps = match (attempt.from_step, attempt.to_step) {
            (Some(from), Some(to)) => format!("{from}-{to}"),
            (Some(from), None) => format!("{from}-"),
            _ => "-".to_owned(),
        };
        table.row([
            attempt.number.to_string(),
            attempt.state.to_string(),
            text::or_dash(attempt.instance),
            attempt.gpu.clone(),
            steps,
            attempt.steps_redone.to_string(),
            attempt.checkpoints_committed.to_string(),
            text::usd(attempt.ledger.total_usd()),
            attempt
                .charged
                .map_or_else(|| "-".to_owned(), |cost| text::usd(cost.total_usd())),
        ]);
    }
    if summary.attempts.len() > 1 {
        table.row([
            "all".to_owned(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            summary.steps_redone.to_string(),
            summary.checkpoints_committed.to_string(),
            text::usd(summary.ledger_usd),
            summary
                .charged_usd
                .map_or_else(|| "-".to_owned(), text::usd),
        ]);
    }
    table
}
