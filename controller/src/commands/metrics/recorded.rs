//! What was copied of the measurements of every attempt, for a run whose box is gone.

use std::{io, time::Duration};

use super::{MetricsArgs, Printer, micros};
use crate::{
    commands::{Deps, parts::no_box},
    error::CommandError,
    logbook::Logbook,
    store::{AttemptRecord, RunRecord},
    ui::{Ui, text},
};

/// What there is of copies.
#[derive(Debug, Default, PartialEq)]
struct Extent {
    attempts: u32,
    newest_us: u64,
    /// Seconds that a line stands for at most.
    span_s: u32,
    missing_s: u64,
    /// End of the line before, within its attempt.
    before_us: Option<u64>,
}

/// Seconds between two lines of which the first says nothing of a gap: a reading may come late.
const LATE_S: u64 = 5;

impl Extent {
    fn add(&mut self, time_us: u64, span_s: u32) {
        self.newest_us = self.newest_us.max(time_us);
        self.span_s = self.span_s.max(span_s);
        let begin_us = time_us.saturating_sub(u64::from(span_s) * 1_000_000);
        if let Some(before_us) = self.before_us.replace(time_us) {
            let gap_s = begin_us.saturating_sub(before_us) / 1_000_000;
            if gap_s > LATE_S {
                self.missing_s += gap_s;
            }
        }
    }
}

/// Prints the copies, or says that there are none.
pub(super) fn metrics(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    attempts: &[AttemptRecord],
    args: &MetricsArgs,
) -> Result<(), CommandError> {
    let book = Logbook::new(deps.config.home());
    let failed = |attempt: u32| {
        let path = book.samples_path(&run.name, attempt);
        move |err: io::Error| {
            CommandError::new(format!("the copy `{}` could not be read", path.display())).cause(err)
        }
    };
    // Once for what there is: which minutes are wanted counts from the newest.
    let mut all = Extent::default();
    for attempt in attempts {
        let number = attempt.number;
        all.before_us = None;
        let before_us = all.newest_us;
        book.each_minute(&run.name, number, &mut |minute| {
            all.add(minute.time_us, minute.span_s);
        })
        .map_err(failed(number))?;
        all.attempts += u32::from(all.newest_us > before_us);
    }
    if all.attempts == 0 {
        let err = match args.recorded {
            true => CommandError::new(format!("nothing that `{}` measured is here", run.name)),
            false => no_box(run),
        };
        return Err(err
            .because("whoever watches a run copies what its box measured, and nobody has so far"));
    }
    let from_us = args
        .since
        .map_or(0, |since| all.newest_us.saturating_sub(micros(since)));
    ui.status(format_args!(
        "{}",
        words(&all, deps.clock.now_us(), args.recorded)
    ));
    let mut printer = Printer::new(ui, &run.name, args.csv);
    for attempt in attempts {
        let number = attempt.number;
        book.each_minute(&run.name, number, &mut |minute| {
            if minute.time_us > from_us && printer.is_wanted() {
                printer.add(number, &minute.sample());
            }
        })
        .map_err(failed(number))?;
    }
    printer.end();
    Ok(())
}

/// Where the values come from, a sentence.
fn words(all: &Extent, now_us: i64, recorded: bool) -> String {
    let attempts = match all.attempts {
        1 => "1 attempt".to_owned(),
        count => format!("{count} attempts"),
    };
    let newest_us = i64::try_from(all.newest_us).unwrap_or(i64::MAX);
    let age_us = u64::try_from(now_us.saturating_sub(newest_us)).unwrap_or(0);
    let missing = match all.missing_s {
        0 => String::new(),
        seconds => format!(
            "; {} in between were not copied",
            text::duration(Duration::from_secs(seconds))
        ),
    };
    format!(
        "{}his is what was copied of {attempts}, means of at most {}, the newest of {} ({} ago){missing}.",
        if recorded { "T" } else { "The box is gone: t" },
        text::duration(Duration::from_secs(u64::from(all.span_s.max(1)))),
        text::time(newest_us),
        text::duration(Duration::from_micros(age_us)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_copied_is_told() {
        let mut all = Extent {
            attempts: 2,
            ..Extent::default()
        };
        for (minute, span_s) in [(1, 60), (2, 58), (3, 60), (10, 60)] {
            all.add(minute * 60_000_000, span_s);
        }
        all.before_us = None;
        all.add(100 * 60_000_000, 60);
        assert_eq!(all.missing_s, 6 * 60);
        assert_eq!(
            words(&all, 3 * 3_600_000_000, false),
            "The box is gone: this is what was copied of 2 attempts, means of at most 1 min, the newest of 1970-01-01 01:40:00Z \
             (1 h 20 min ago); 6 min in between were not copied."
        );
        all.missing_s = 0;
        all.attempts = 1;
        assert_eq!(
            words(&all, 0, true),
            "This is what was copied of 1 attempt, means of at most 1 min, the newest of 1970-01-01 01:40:00Z (0 s ago)."
        );
    }
}
