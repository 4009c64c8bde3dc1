//! The copies of a run's logs and measurements on this machine, read and never written.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use crate::{
    agent_client::LogPosition,
    logbook::Logbook,
    lookout::{facts::Log, live::Target},
    run::bringing_up::{SETUP, SMOKE, TRAIN},
};

/// How much of the copies of a run's logs is read: a second of work, and most runs are smaller.
const COPIES_BYTES: u64 = 16 << 20;

/// Where the copies of a run are, and how its log is read.
#[derive(Debug, Clone)]
pub struct Copies {
    home: PathBuf,
    progress: Option<String>,
}

impl Copies {
    /// Those below `home`, read by the expression of the run file, if it has one.
    pub fn new(home: &Path, progress: Option<String>) -> Self {
        let home = home.to_owned();
        Self { home, progress }
    }

    /// Reads them, aside. Answers them, and where the training's log of the newest attempt goes on on its box, if there is a copy of it.
    pub async fn read(&self, target: &Target) -> (Log, Option<LogPosition>) {
        let (home, run, attempt) = (self.home.clone(), target.run.clone(), target.attempt);
        let progress = self.progress.clone();
        let read = move || copies(&home, &run, attempt, progress);
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|_| (self.nothing(), None))
    }

    /// Nothing of them.
    pub fn nothing(&self) -> Log {
        Log::with(self.progress.clone())
    }
}

/// Reads the copies of a run's logs on this machine.
pub fn copies(
    home: &Path,
    run: &str,
    attempt: u32,
    progress: Option<String>,
) -> (Log, Option<LogPosition>) {
    let mut log = Log::with(progress);
    match read_copies(home, run, attempt, &mut log) {
        Ok(position) => (log, position),
        Err(err) => {
            log.problem = Some(format!("the copy of its log cannot be read: {err}"));
            (log, None)
        }
    }
}

fn read_copies(
    home: &Path,
    run: &str,
    attempt: u32,
    log: &mut Log,
) -> io::Result<Option<LogPosition>> {
    let book = Logbook::new(home);
    let mut left = COPIES_BYTES;
    let mut found = Vec::new();
    let mut position = None;
    for number in (1..=attempt).rev() {
        let path = book.path(run, number, TRAIN);
        if left == 0 || !path.exists() {
            continue;
        }
        let bytes = match number == attempt {
            false => end_of(&path, left)?,
            true => {
                // Whoever watches the run appends to the copy meanwhile.
                let at = || book.position(run, number, TRAIN);
                let (mut before, mut bytes) = (at()?, end_of(&path, left)?);
                while at()? != before {
                    (before, bytes) = (at()?, end_of(&path, left)?);
                }
                position = before;
                bytes
            }
        };
        left = left.saturating_sub(bytes.len() as u64);
        log.newest_us = log.newest_us.max(changed_us(&path)?);
        found.push((number, TRAIN, bytes));
    }
    // Before the training there are others to look at.
    if position.is_none() && attempt > 0 {
        for session in [SMOKE, SETUP] {
            let path = book.path(run, attempt, session);
            if path.exists() {
                log.newest_us = log.newest_us.max(changed_us(&path)?);
                found.insert(0, (attempt, session, end_of(&path, 1 << 20)?));
                break;
            }
        }
    }
    for (number, session, bytes) in found.into_iter().rev() {
        log.begin(number, session);
        log.feed(&bytes);
    }
    for number in (1..=attempt).rev() {
        let measured = &mut log.measured;
        book.each_minute(run, number, &mut |minute| measured.add(minute.sample()))?;
        if measured.sample.is_some() {
            break;
        }
    }
    Ok(position)
}

/// The end of a file, from a line's start.
fn end_of(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(limit);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    if skipped > 0 {
        let line = bytes.iter().position(|byte| *byte == b'\n');
        bytes.drain(..line.map_or(0, |end| end + 1));
    }
    Ok(bytes)
}

fn changed_us(path: &Path) -> io::Result<i64> {
    let changed = fs::metadata(path)?.modified()?;
    let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_of_all_attempts_are_one_curve_and_the_newest_is_the_tail() {
        let home = tempfile::tempdir().unwrap();
        let book = Logbook::new(home.path());
        let write = |attempt: u32, session: &str, text: &str| {
            book.open("r", attempt, session).unwrap();
            fs::write(book.path("r", attempt, session), text).unwrap();
        };
        let step = |step: u64| format!("step {step}/40 | loss {step}.5 | 100.0 ms/step\n");
        write(1, TRAIN, &(step(1) + &step(2) + &step(3)));
        write(2, SETUP, "pip\n");
        let (log, position) = copies(home.path(), "r", 2, None);
        assert_eq!((log.problem, position), (None, None));
        assert_eq!(log.of, Some((2, SETUP.to_owned())));
        assert_eq!(log.tail.lines(), [(0, "pip".to_owned())]);
        assert_eq!(log.curve.loss().len(), 3);
        write(2, TRAIN, &step(3));
        let (log, position) = copies(home.path(), "r", 2, None);
        assert_eq!(log.of, Some((2, TRAIN.to_owned())));
        let offset = step(3).len() as u64;
        assert_eq!(
            position.unwrap(),
            LogPosition {
                generation: 0,
                offset
            }
        );
        assert!(log.newest_us > 0);
        // What the box measured, by minutes.
        let mut measured = book.open_samples("r", 1).unwrap();
        let mut sample = crate::top::examples::sample(90, vec![crate::top::examples::gpu(0, 70)]);
        measured.add(&[sample.clone()]).unwrap();
        sample.time_us += 60_000_000;
        measured.add(&[sample]).unwrap();
        measured.settle().unwrap();
        let (log, _) = copies(home.path(), "r", 2, None);
        assert_eq!(log.measured.used[&0].len(), 2);
        let newest = log.measured.sample.unwrap();
        assert_eq!(newest.gpus[0].utilisation_percent, Some(70));
        let (log, position) = copies(home.path(), "other", 1, None);
        assert!(log.of.is_none() && position.is_none() && log.problem.is_none());
    }

    #[test]
    fn the_end_of_a_long_log_begins_with_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "first\nsecond\nthird\n").unwrap();
        assert_eq!(end_of(&path, 10).unwrap(), b"third\n");
        assert_eq!(end_of(&path, 100).unwrap(), b"first\nsecond\nthird\n");
    }
}
