//! Reads what was copied of the boxes of a run: their logs, and what was measured on them. A copy that cannot be read is none.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use spotter_trainlog::{
    Progress,
    live::{Latest, Recogniser},
};

use super::facts::{Copied, Facts};
use crate::{
    logbook::Logbook,
    run::{bringing_up::TRAIN, busy::Busy, trained::Times},
    store::EventRecord,
};

/// The end of a log that is read for its newest step and loss: hours of most trainings.
const TAIL_BYTES: u64 = 4 << 20;

/// Fills in what the copies of all attempts tell: each by the newest attempt that has it. `events`: of the run.
pub(super) fn read(book: &Logbook, events: &[EventRecord], facts: &mut Facts) {
    let run = facts.name().to_owned();
    for one in facts.attempts.clone().into_iter().rev() {
        let attempt = one.number;
        let path = book.path(&run, attempt, TRAIN);
        if facts.log.is_none()
            && let Ok(Some(at)) = book.position(&run, attempt, TRAIN)
        {
            facts.log = Some(Copied {
                path: path.display().to_string(),
                bytes: at.offset,
                at_us: modified_us(&path),
            });
            if let Some(told) = tail(&path, facts.spec.progress.as_deref()) {
                facts.step = facts.step.or(told.step);
                // Newer than the mean of the newest window.
                facts.loss = told.loss.or(facts.loss);
            }
        }
        if facts.reading.is_none() {
            let times = Times::so_far(&one, events, facts.now_us);
            measured(book, &run, attempt, Busy::of(times.trained), facts);
        }
    }
}

/// Readings of less than this may be those of what was before and after, seconds.
const BRIEF_S: f64 = 120.0;

/// The newest minute, and the use of the GPUs while it trained.
fn measured(book: &Logbook, run: &str, attempt: u32, mut busy: Busy, facts: &mut Facts) {
    let mut newest = None;
    let read = book.each_minute(run, attempt, &mut |minute| {
        busy.add(&minute);
        newest = Some(minute);
    });
    if let Err(err) = read {
        tracing::debug!(%err, run, attempt, "the copy of its measurements cannot be read");
    }
    facts.reading = newest.map(|minute| minute.sample());
    facts.mean_use_percent = busy.percent();
    facts.is_brief = busy.sums().1 < BRIEF_S;
    facts.memory_bytes = busy.memory_bytes();
}

/// What the end of a log says of its training.
fn tail(path: &Path, progress: Option<&str>) -> Option<Latest> {
    let text = last_lines(path).ok()?;
    let mut recogniser = Recogniser::with(progress.and_then(|text| Progress::new(text).ok()));
    recogniser.feed(&text, 0);
    recogniser.end(0);
    recogniser.latest()
}

/// The last whole lines of a file.
fn last_lines(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut text)?;
    if from > 0 {
        let first = text
            .iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'))
            .map_or(text.len(), |end| end + 1);
        text.drain(..first);
    }
    Ok(text)
}

/// When a file was written last; 0: nobody can tell.
fn modified_us(path: &Path) -> i64 {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    let since = modified
        .ok()
        .and_then(|at: SystemTime| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_tells_its_newest_step_and_loss() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(tail(&path, None), None);
        let lines: String = (1..=90_000)
            .map(|step| format!("step {step}/90000 | loss 2.5 | lr 1.00e-03 | 100.0 ms/step\n"))
            .collect();
        assert!(lines.len() as u64 > TAIL_BYTES);
        fs::write(&path, lines + "step 90000/90000 | loss 1.25").unwrap();
        let told = tail(&path, None).unwrap();
        assert_eq!((told.step, told.loss), (Some(90_000), Some(1.25)));
        // What a user says of his own lines counts.
        fs::write(&path, "done 7 with 0.5\n").unwrap();
        let own = "done (?P<step>\\d+) with (?P<loss>[0-9.]+)";
        let told = tail(&path, Some(own)).unwrap();
        assert_eq!((told.step, told.loss), (Some(7), Some(0.5)));
    }
}
