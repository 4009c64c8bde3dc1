//! What else is to be known of a report (pure).

use std::time::Duration;

use super::{gather::Gathered, tables};
use crate::{run::marks::Doubt, ui::text};

/// A sentence each. `lanes`: attempts that the picture of them shows.
pub(super) fn notes(known: &Gathered, lanes: usize) -> Vec<String> {
    let summary = &known.summary;
    let mut notes = vec![format!("spent: {}", tables::money(known))];
    notes.extend(summary.newest_damaged.as_ref().map(Doubt::text));
    notes.extend(known.unread.iter().cloned());
    let hidden = known.attempts.len().saturating_sub(lanes);
    if hidden > 0 {
        notes.push(format!(
            "the first {hidden} attempts are not in the picture of attempts"
        ));
    }
    let nothing = known
        .shown
        .iter()
        .all(|shown| shown.measured.newest_s == 0.0);
    if nothing && !known.attempts.is_empty() {
        notes.push(
            "nothing that a box measured is here: whoever watches a run copies it".to_owned(),
        );
    }
    for shown in &known.shown {
        if shown.measured.missing_s >= 1.0 {
            let missing = Duration::from_secs_f64(shown.measured.missing_s);
            notes.push(format!(
                "of attempt {}, {} of measurements were not copied: a gap in its curves",
                shown.attempt,
                text::duration(missing)
            ));
        }
    }
    if summary.outcome.is_none() && !summary.watched {
        notes.push(
            "nobody watches this run: what happened since somebody did is not in here".to_owned(),
        );
    }
    notes
}
