//! `daemon.log`: what the daemon has to say, in two files of bounded size.

use std::{
    fmt::{self, Write as _},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::Context;
use spotter_bucket::sorted::sort_by;
use tracing::{
    Event, Metadata, Subscriber, error,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::set_global_default,
};

use crate::now_us;

/// The older half is kept as `daemon.log.1`.
const LIMIT_BYTES: u64 = 1 << 20;

/// Sends everything that is traced in this process to `path`, and panics with it.
pub fn install(path: &Path, filter: &str) -> anyhow::Result<()> {
    let log =
        BoundedLog::open(path).with_context(|| format!("{} cannot be written", path.display()))?;
    let filter = Filter::parse(filter).context("SPOTTER_LOG cannot be parsed")?;
    let log = Mutex::new(log);
    set_global_default(Lines { filter, log })
        .context("another part of this process traces already")?;
    std::panic::set_hook(Box::new(|panic| error!("{panic}")));
    Ok(())
}

/// Writes a line for each event. Nothing here opens spans, and what other crates open is not told.
struct Lines {
    filter: Filter,
    log: Mutex<BoundedLog>,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.filter.level(metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.filter.finest())
    }

    fn event(&self, event: &Event<'_>) {
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let mut line = Line(format!("{} {level:>5} {target}:", time(now_us())));
        event.record(&mut line);
        line.0.push('\n');
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nowhere left to tell it.
        let _lost = log.write_all(line.0.as_bytes());
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// One line, as it grows: the message, then the fields.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("a string takes everything");
    }
}

/// Levels by the beginnings of targets, the longest first.
struct Filter(Vec<(String, LevelFilter)>);

impl Filter {
    /// Reads `info,spotter_agent::logs=debug` and the like.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut levels = vec![(String::new(), LevelFilter::OFF)];
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (target, level) = part.split_once('=').unwrap_or(("", part));
            let level = level
                .parse()
                .with_context(|| format!("`{part}`: `{level}` is no level"))?;
            levels.retain(|(known, _)| known != target);
            levels.push((target.to_owned(), level));
        }
        sort_by(&mut levels, |(one, _), (other, _)| {
            other.len().cmp(&one.len())
        });
        Ok(Self(levels))
    }

    fn level(&self, target: &str) -> LevelFilter {
        let known = self.0.iter().find(|(begin, _)| target.starts_with(begin));
        known.map_or(LevelFilter::OFF, |(_, level)| *level)
    }

    fn finest(&self) -> LevelFilter {
        let levels = self.0.iter().map(|(_, level)| *level);
        levels.max().unwrap_or(LevelFilter::OFF)
    }
}

struct BoundedLog {
    path: PathBuf,
    file: File,
    written: u64,
}

impl BoundedLog {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let written = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            written,
        })
    }
}

impl Write for BoundedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written >= LIMIT_BYTES {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(&self.path)?;
        }
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// `2026-11-22T23:38:00.123456Z`.
fn time(us: u64) -> String {
    let (seconds, us) = (us / 1_000_000, us % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

/// Year, month and day of a number of days since the first of 1970.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_turned_over_at_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let mut log = BoundedLog::open(&path).unwrap();
        for _ in 0..3 {
            log.write_all(&vec![b'x'; LIMIT_BYTES as usize]).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), LIMIT_BYTES);
        assert_eq!(
            fs::metadata(dir.path().join("daemon.log.1")).unwrap().len(),
            LIMIT_BYTES
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_798_761_599_000_007, "2026-12-31T23:59:59.000007Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ];
        for (us, expected) in cases {
            assert_eq!(time(us), expected);
        }
    }

    #[test]
    fn the_longest_beginning_of_a_target_decides() {
        let filter = Filter::parse("warn, spotter_agent::logs=debug,spotter_agent=info").unwrap();
        let cases = [
            ("spotter_agent::logs::generations", LevelFilter::DEBUG),
            ("spotter_agent::daemon", LevelFilter::INFO),
            ("h2", LevelFilter::WARN),
        ];
        for (target, expected) in cases {
            assert_eq!(filter.level(target), expected, "{target}");
        }
        assert_eq!(filter.finest(), LevelFilter::DEBUG);
        assert_eq!(Filter::parse("").unwrap().finest(), LevelFilter::OFF);
        assert!(Filter::parse("spotter_agent=loud").is_err());
    }

    #[test]
    fn a_line_holds_the_time_the_level_the_message_and_the_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let lines = Lines {
            filter: Filter::parse("info").unwrap(),
            log: Mutex::new(BoundedLog::open(&path).unwrap()),
        };
        tracing::subscriber::with_default(lines, || {
            tracing::warn!(session = "train", tries = 3, error = %"no room", "not {}", "noted");
            tracing::debug!("not told");
        });
        let text = fs::read_to_string(&path).unwrap();
        let (time, rest) = text.split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-11-22T23:38:00.123456Z".len());
        assert_eq!(
            rest,
            format!(
                " WARN {}: not noted session=\"train\" tries=3 error=no room\n",
                module_path!()
            )
        );
    }
}
