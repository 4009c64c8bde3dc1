//! `events`: what happened to a run, as agents told it and as spotter did it.

use serde::Serialize;

use crate::{
    commands::{Deps, plan::gate},
    error::CommandError,
    store::{EventRecord, Origin},
    ui::{Table, Ui, text},
};

/// Show what happened to a run
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// The run [default: the only one that goes on]
    run: Option<String>,
    /// Only what came after the event of this id (`id` in `--json`)
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: i64,
}

#[derive(Serialize)]
struct Rows<'a> {
    run: &'a str,
    events: Vec<EventRecord>,
}

/// Runs the verb.
pub fn events(ui: &mut Ui, deps: &Deps, args: &EventsArgs) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    let mut events = deps.store()?.events(&run.name, args.after)?;
    // Events of a box arrive when a link is there; people read them in the order in which they happened.
    events.sort_by_key(|event| (event.time_us, event.id));
    ui.show(
        &Rows {
            run: &run.name,
            events,
        },
        |rows| table(&rows.events),
    );
    Ok(())
}

fn table(events: &[EventRecord]) -> Table {
    let mut table = Table::new(&["TIME", "TRY>", "BY", "WHAT", "DETAIL"]);
    for event in events {
        table.row([
            text::time(event.time_us),
            event.attempt.to_string(),
            match event.origin {
                Origin::Agent => "box".to_owned(),
                Origin::Spotter => "spotter".to_owned(),
            },
            event.kind.clone(),
            match event.kind.as_str() {
                gate::PLANNED => gate::line(&event.detail),
                _ => text::detail(&event.detail),
            },
        ]);
    }
    table
}
