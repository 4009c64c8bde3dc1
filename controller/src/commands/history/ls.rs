//! `spotter history ls`: the observations as a table.

use std::time::Duration;

use serde::Serialize;

use crate::{
    commands::{Deps, plan::figures},
    error::CommandError,
    store::ObservationRecord,
    ui::{Table, Ui, text},
};

/// List what was seen
#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    /// Of this run alone
    run: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    observations: Vec<ObservationRecord>,
}

pub(super) fn ls(ui: &mut Ui, deps: &Deps, args: &LsArgs) -> Result<(), CommandError> {
    let observations = super::known(deps, args.run.as_deref())?;
    if observations.is_empty() {
        let whose = match &args.run {
            Some(run) => format!("No attempt of `{run}` has left figures yet."),
            None => "No attempt has left figures yet.".to_owned(),
        };
        ui.status(format_args!("{whose}"));
    }
    let listed = Listed { observations };
    if ui.is_json() || !listed.observations.is_empty() {
        ui.show(&listed, |listed| table(&listed.observations));
    }
    Ok(())
}

fn table(observations: &[ObservationRecord]) -> Table {
    let mut table = Table::new(&[
        "ID>",
        "RUN",
        "TRY>",
        "GPU",
        "TOKENS/S>",
        "OF PRED>",
        "GPU%>",
        "VRAM>",
        "RAM>",
        "SETUP>",
        "FROM",
    ]);
    for record in observations {
        let seen = &record.seen;
        let share = seen
            .tokens_per_s
            .zip(seen.predicted_tokens_per_s)
            .map(|(speed, predicted)| format!("{:.0}%", speed / predicted * 100.0));
        let whole = |value: Option<f64>| text::or_dash(value.map(|value| format!("{value:.0}")));
        let edited = if record.edited { ", edited" } else { "" };
        table.row([
            record.id.to_string(),
            seen.run.clone(),
            text::or_dash(seen.attempt),
            seen.gpus(),
            text::or_dash(seen.tokens_per_s.map(figures::count)),
            text::or_dash(share),
            whole(seen.gpu_utilisation_percent),
            text::or_dash(seen.peak_vram_gib.map(|gib| format!("{gib:.1}"))),
            whole(seen.peak_ram_gb),
            text::or_dash(seen.setup_s.map(span)),
            format!("{}{edited}", seen.source.name()),
        ]);
    }
    table
}

fn span(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds.round()).unwrap_or(Duration::MAX);
    text::duration(seconds)
}
