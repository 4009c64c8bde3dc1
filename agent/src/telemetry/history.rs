//! Seven days of samples in bounded files: every one of the last two hours, means of ten seconds for a day, of a minute
//! after that.
//!
//! Each tier is a row of files that are only appended to; the oldest goes when there are too many. Bounds are counts and
//! bytes before they are dates, so that a clock that jumps costs little. A kill loses at most the coarse means that were being
//! gathered. Nothing is held in memory: [`read`] goes from file to file.

mod fold;
mod segment;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fold::Folder;
use segment::{Reader, Writer};

use super::Sample;
use spotter_bucket::sorted::sort_by;

/// A file is closed when it is larger than this, whatever it holds: 8 GPUs need less than 2 MiB, at one reading a second.
const MOST_FILE_BYTES: u64 = 4 << 20;

/// One resolution.
struct Tier {
    /// Seconds that a sample stands for; 0: it is one reading.
    span_s: u32,
    /// Samples in one file, at least: more where they come faster, as long as they are of its time.
    frames: u32,
    /// Seconds that one file is of, at least.
    file_s: u32,
    /// Files that are kept, the open one included; more where less than their time is in them.
    files: usize,
    /// Files that are kept however little time is in them.
    most_files: usize,
}

/// Finest first. The open file is nearly empty at times, so each tier has one more than its time needs.
static TIERS: [Tier; 3] = [
    // Two hours by quarters; of more than one reading a second as far as 144 MiB go.
    Tier {
        span_s: 0,
        frames: 900,
        file_s: 900,
        files: 9,
        most_files: 36,
    },
    // A day by three hours.
    Tier {
        span_s: 10,
        frames: 1080,
        file_s: 10800,
        files: 9,
        most_files: 9,
    },
    // A week by days.
    Tier {
        span_s: 60,
        frames: 1440,
        file_s: 86400,
        files: 8,
        most_files: 8,
    },
];

impl Tier {
    /// How many of its files, oldest first, are to go (pure).
    fn surplus(&self, found: &[File], now_us: u64) -> usize {
        let kept_us = (self.files as u64 - 1) * u64::from(self.file_s) * 1_000_000;
        let most = found.len().saturating_sub(self.files);
        let least = found.len().saturating_sub(self.most_files);
        // A file ends where the next one begins.
        let old = (0..most)
            .take_while(|at| now_us.saturating_sub(found[at + 1].from_us) >= kept_us)
            .count();
        old.max(least)
    }
}

/// Where samples go.
#[derive(Debug)]
pub struct History {
    dir: PathBuf,
    rows: [Row; 3],
    folders: [Folder; 2],
}

/// The files of one tier.
#[derive(Debug, Default)]
struct Row {
    /// The time of its first sample, and the file.
    open: Option<(u64, Writer)>,
}

impl History {
    /// A history in this directory, which is made when there is something to keep.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            rows: Default::default(),
            folders: [Folder::new(TIERS[1].span_s), Folder::new(TIERS[2].span_s)],
        }
    }

    /// Adds a sample, and whatever span it completes. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be written. The next one may be.
    pub fn push(&mut self, sample: &Sample) -> io::Result<()> {
        let [seconds, minutes] = &mut self.folders;
        let folded = [None, seconds.add(sample), minutes.add(sample)];
        self.write(0, sample)?;
        for (tier, sample) in folded.iter().enumerate() {
            if let Some(sample) = sample {
                self.write(tier, sample)?;
            }
        }
        Ok(())
    }

    /// Writes what is being gathered, before the end.
    ///
    /// # Errors
    /// As [`History::push`].
    pub fn close(&mut self) -> io::Result<()> {
        for tier in [1, 2] {
            if let Some(sample) = self.folders[tier - 1].take() {
                self.write(tier, &sample)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, tier: usize, sample: &Sample) -> io::Result<()> {
        let (row, bounds) = (&mut self.rows[tier], &TIERS[tier]);
        let time_us = sample.time_us;
        // By count and by time: a clock that jumps ends no file early, and readings that come quickly end none before its time.
        let full = |(from_us, open): &(u64, Writer)| {
            let span_us = time_us.saturating_sub(*from_us);
            open.bytes >= MOST_FILE_BYTES
                || open.frames >= bounds.frames && span_us >= u64::from(bounds.file_s) * 1_000_000
        };
        if row.open.is_none() {
            fs::create_dir_all(&self.dir)?;
            // Goes on where the last daemon ended.
            if let Some(last) = files(&self.dir, tier).pop() {
                row.open = Some((last.from_us, Writer::open(&last.path)?));
            }
        }
        if row.open.as_ref().is_none_or(full) {
            let mut found = files(&self.dir, tier);
            let number = found.last().map_or(0, |last| last.number) + 1;
            let path = self.dir.join(File::name(tier, number, time_us));
            row.open = Some((time_us, Writer::open(&path)?));
            found.push(File {
                number,
                from_us: time_us,
                path,
            });
            for old in &found[..bounds.surplus(&found, time_us)] {
                fs::remove_file(&old.path)?;
            }
        }
        match &mut row.open {
            Some((_, open)) => open.push(sample),
            None => Ok(()),
        }
    }
}

/// One file of a tier.
#[derive(Debug)]
struct File {
    /// Rises by one from file to file.
    number: u64,
    /// Time of its first sample.
    from_us: u64,
    path: PathBuf,
}

impl File {
    fn name(tier: usize, number: u64, from_us: u64) -> String {
        format!("{tier}-{number:08}-{from_us}.samples")
    }
}

/// The files of a tier, oldest first.
fn files(dir: &Path, tier: usize) -> Vec<File> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<File> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let mut parts = name.to_str()?.strip_suffix(".samples")?.split('-');
            let (of, number, from_us) = (parts.next()?, parts.next()?, parts.next()?);
            (of.parse() == Ok(tier)).then_some(File {
                number: number.parse().ok()?,
                from_us: from_us.parse().ok()?,
                path: entry.path(),
            })
        })
        .collect();
    sort_by(&mut found, |one, other| one.number.cmp(&other.number));
    found
}

/// Samples later than `after_us` and not later than `until_us`, oldest first; each time in the finest tier that has it.
/// Opens the files of `dir` one after the other as it is driven, and blocks on the disk.
pub fn read(dir: &Path, after_us: u64, until_us: u64) -> Samples {
    let mut parts: Vec<Part> = Vec::new();
    let mut end_us = until_us.saturating_add(1);
    for tier in 0..TIERS.len() {
        let found = files(dir, tier);
        let Some(first) = found.first().map(|file| file.from_us) else {
            continue;
        };
        // A file ends where the next one begins; what was passed over by then is not opened.
        let ends = found.iter().skip(1).map(|next| next.from_us);
        let ends: Vec<u64> = ends.chain([u64::MAX]).collect();
        let wanted = found.into_iter().zip(ends);
        let wanted = wanted.filter(|(file, end)| *end > after_us && file.from_us < end_us);
        // Gathered from the newest to the oldest, and driven the other way.
        parts.extend(wanted.rev().map(|(file, _)| Part {
            path: file.path,
            end_us,
        }));
        end_us = end_us.min(first);
    }
    Samples {
        parts,
        open: None,
        after_us,
    }
}

/// Samples later than `after_us` of the coarsest tier, which is of all times, and then the readings that it has not got yet: few enough to
/// be sent away. Like [`read`] otherwise.
pub fn minutes(dir: &Path, after_us: u64) -> impl Iterator<Item = Sample> + use<> {
    let mut parts: Vec<Part> = files(dir, TIERS.len() - 1)
        .into_iter()
        .map(|file| Part {
            path: file.path,
            end_us: u64::MAX,
        })
        .collect();
    parts.reverse();
    let mut minutes = Samples {
        parts,
        open: None,
        after_us,
    };
    let (dir, mut newest_us, mut rest) = (dir.to_owned(), after_us, None::<Samples>);
    std::iter::from_fn(move || {
        if rest.is_none()
            && let Some(minute) = minutes.next()
        {
            newest_us = newest_us.max(minute.time_us);
            return Some(minute);
        }
        let rest = rest.get_or_insert_with(|| read(&dir, newest_us, u64::MAX));
        rest.next()
    })
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    /// From here on a finer tier has the samples.
    end_us: u64,
}

/// Samples of [`read`].
#[derive(Debug)]
pub struct Samples {
    /// Newest first.
    parts: Vec<Part>,
    open: Option<(Reader, u64)>,
    after_us: u64,
}

impl Iterator for Samples {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        loop {
            if let Some((reader, end_us)) = &mut self.open {
                let wanted = self.after_us.saturating_add(1)..*end_us;
                if let Some(sample) = reader.find(|sample| wanted.contains(&sample.time_us)) {
                    return Some(sample);
                }
            }
            let part = self.parts.pop()?;
            // One that was removed meanwhile is too old.
            self.open = Reader::open(&part.path).map(|reader| (reader, part.end_us));
        }
    }
}

#[cfg(test)]
mod tests;
