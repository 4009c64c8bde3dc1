//! The runs as a table (pure).

use super::Row;
use crate::{
    run::State,
    ui::{Table, text},
};

pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "RUN",
        "STATE",
        "TRY>",
        "GPU",
        "STEP>",
        "SAVED>",
        "NOW>",
        "COST>",
        "WATCHED BY",
    ]);
    for row in rows {
        let watched = match (row.outcome, row.watched_by_pid) {
            (_, Some(pid)) if row.watcher_halted => format!("pid {pid}, which is stopped"),
            (_, Some(pid)) => format!("pid {pid}"),
            (Some(_), None) => "-".to_owned(),
            (None, None) => "nobody watches".to_owned(),
        };
        let state = standing(row);
        let gpu = match row.num_gpus {
            1 => row.gpu.clone(),
            count => format!("{count} x {}", row.gpu),
        };
        table.row([
            row.run.clone(),
            state,
            row.attempt.to_string(),
            gpu,
            text::or_dash(row.step),
            match (row.saved_step, row.saved_us) {
                (Some(step), _) if row.newest_damaged.is_some() => format!("{step} damaged"),
                (Some(step), _) => step.to_string(),
                // In the bucket, and its name has no number.
                (None, Some(_)) => "yes".to_owned(),
                (None, None) => "-".to_owned(),
            },
            text::now_usd_per_hour(row.usd_per_hour, row.at_most_usd_per_hour),
            text::usd(row.cost_usd),
            watched,
        ]);
    }
    table
}

/// Where it stands, in some words, the worst of what is known first.
fn standing(row: &Row) -> String {
    let news = row.market.and_then(|word| word.news);
    let ended = row.training_end.as_ref().map(|end| match news {
        // What it costs then is the market's to say.
        Some(_) => end.how.word().to_owned(),
        None => end.standing(),
    });
    let state = match row.outcome {
        Some(outcome) if row.ended_by.is_some() => {
            format!("{outcome}: {}", row.ended_by.as_deref().unwrap_or_default())
        }
        Some(outcome) if row.state == State::Gone.name() && row.usd_per_hour > 0.0 => {
            format!("{outcome}, an old box kept")
        }
        Some(outcome) if outcome != row.state => format!("{outcome}, {}", row.state),
        Some(outcome) => outcome.to_owned(),
        None if row.stop_requested => format!("{}, stopping", row.state),
        None if ended.is_some() => ended.unwrap_or_default(),
        None if row.silence.is_some() => format!("{}, no word", row.state),
        None if row.no_word.is_some() => {
            format!(
                "{}, {}",
                row.state,
                row.no_word.as_deref().unwrap_or_default()
            )
        }
        None if row.contradiction.is_some() => format!("{}, contradicted", row.state),
        None if row.backup_alarm.is_some() => format!("{}, backup behind", row.state),
        None if row.refused.is_some() => format!("{}, refused by its bucket", row.state),
        None => row.state.clone(),
    };
    match news {
        Some(news) => format!("{state}, {news}"),
        None => state,
    }
}
