//! `events`: what happened to a run, as agents told it and as spotter did it.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    commands::{Deps, plan::gate},
    error::CommandError,
    run::causes::cause,
    store::{EventRecord, Origin},
    ui::{Table, Ui, text},
};

/// Show what happened to a run
///
/// Of many checkpoints that could not be saved for one reason the first and the newest are shown; `--json` has all.
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

/// Which of many checkpoints that cannot be saved for one cause are shown: the first and the newest, which says how many there are; for
/// every event `None` (not shown), or that number (1: it stands for itself).
fn shown(events: &[EventRecord]) -> Vec<Option<usize>> {
    let cause_of = |event: &EventRecord| {
        let key = match event.kind.as_str() {
            "checkpoint.unsaved" => "reason",
            "checkpoint.failed" => "problem",
            _ => return None,
        };
        let cause = cause(event.detail[key].as_str()?);
        Some((event.attempt, event.kind.clone(), cause))
    };
    let mut told: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        if let Some(cause) = cause_of(event) {
            told.entry(cause).or_default().push(at);
        }
    }
    let mut shown = vec![Some(1); events.len()];
    for places in told.values() {
        if let [_, between @ .., newest] = places.as_slice() {
            between.iter().for_each(|at| shown[*at] = None);
            shown[*newest] = Some(places.len());
        }
    }
    shown
}

fn table(events: &[EventRecord]) -> Table {
    let mut table = Table::new(&["TIME", "TRY>", "BY", "WHAT", "DETAIL"]);
    for (event, count) in events.iter().zip(shown(events)) {
        let Some(count) = count else { continue };
        let of = match count {
            1 => String::new(),
            count => format!(" ({count} like this)"),
        };
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
                _ => format!("{}{of}", text::detail(&event.detail)),
            },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_many_torn_checkpoints_the_first_and_the_newest_are_shown_with_their_number() {
        let event = |at: usize, kind: &str, reason: &str| EventRecord {
            id: at as i64,
            attempt: 1,
            origin: Origin::Agent,
            seq: at as u64,
            time_us: at as i64,
            kind: kind.to_owned(),
            detail: json!({"path": format!("step_{at}.pt"), "reason": reason}),
        };
        let torn = "checkpoint.unsaved";
        let events = [
            event(0, torn, "it ends after 7 bytes"),
            event(1, "checkpoint.found", "it ends after 7 bytes"),
            event(2, torn, "it ends after 8 bytes"),
            event(3, torn, "it is a link"),
            event(4, torn, "it ends after 9 bytes"),
        ];
        assert_eq!(shown(&events), [Some(1), Some(1), None, Some(1), Some(3)]);
        assert_eq!(shown(&events[..1]), [Some(1)]);
    }
}
