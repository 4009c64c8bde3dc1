//! Everything for people, on stderr: status lines, warnings, hints, progress. May be shared by tasks.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::sanitize;

/// The way to the user's eyes. Cheap to clone; all clones write to the same place.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    out: Mutex<Box<dyn Write + Send>>,
    bars: Option<MultiProgress>,
    quiet: bool,
    colour: bool,
}

/// How a word at the beginning of a line is painted.
#[derive(Clone, Copy)]
pub(super) enum Paint {
    Red,
    Yellow,
    Cyan,
    Magenta,
    Bold,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Red => "1;31",
            Self::Yellow => "1;33",
            Self::Cyan => "36",
            Self::Magenta => "1;35",
            Self::Bold => "1",
        }
    }
}

impl Console {
    /// The real one. Progress bars are drawn when stderr is a terminal.
    pub(super) fn stderr(quiet: bool, colour: bool) -> Self {
        let bars = (io::stderr().is_terminal() && !quiet).then(MultiProgress::new);
        Self::new(Box::new(io::stderr()), bars, quiet, colour)
    }

    /// One that writes elsewhere, without bars.
    pub(super) fn to(out: Box<dyn Write + Send>, quiet: bool, colour: bool) -> Self {
        Self::new(out, None, quiet, colour)
    }

    fn new(
        out: Box<dyn Write + Send>,
        bars: Option<MultiProgress>,
        quiet: bool,
        colour: bool,
    ) -> Self {
        Self(Arc::new(Inner {
            out: Mutex::new(out),
            bars,
            quiet,
            colour,
        }))
    }

    /// A sentence about what goes on. Left out with `--quiet`.
    pub fn status(&self, text: impl std::fmt::Display) {
        if !self.0.quiet {
            self.line(&sanitize::text(&text.to_string()));
        }
    }

    /// Something that is not as it should be, yet does not end the verb. Shown even with `--quiet`.
    pub fn warning(&self, text: impl std::fmt::Display) {
        self.marked("warning", Paint::Yellow, &text.to_string());
    }

    /// Something to type next. Left out with `--quiet`.
    pub fn hint(&self, text: impl std::fmt::Display) {
        if !self.0.quiet {
            self.marked("hint", Paint::Cyan, &text.to_string());
        }
    }

    /// Said before the program ends at once, perhaps in the middle of a question: waits for nobody.
    pub fn last_word(&self, text: &str) {
        if let Ok(mut out) = self.0.out.try_lock() {
            let _ = writeln!(out, "\n{}", sanitize::line(text));
        }
    }

    /// `mark: text`; further lines of the text are indented, so that they cannot pass for lines of ours.
    pub(super) fn marked(&self, mark: &str, paint: Paint, text: &str) {
        let clean = sanitize::text(text);
        let body = clean.trim_end().replace('\n', "\n       ");
        self.line(&format!(
            "{} {body}",
            self.paint(paint, &format!("{mark}:"))
        ));
    }

    /// Shows that something takes a while. `total`: 0 when it is not known.
    pub fn progress(&self, label: &str, unit: Unit, total: u64) -> Progress {
        let label = sanitize::line(label).into_owned();
        let bar = self.0.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::no_length());
            bar.set_style(style(unit, false));
            bar.set_message(label.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let progress = Progress {
            console: self.clone(),
            bar,
            label,
            unit,
            plain: Mutex::new(Plain::default()),
        };
        progress.set(0, total);
        progress
    }

    /// Asks a question that wants yes or no; `None` when nobody can be asked (no terminal).
    pub fn confirm(&self, question: &str) -> Option<bool> {
        if !io::stdin().is_terminal() || self.0.bars.is_none() {
            return None;
        }
        let ask = || {
            let mut out = self.lock();
            let _ = write!(out, "{} [y/N] ", sanitize::line(question));
            let _ = out.flush();
            drop(out);
            let mut answer = String::new();
            io::stdin().read_line(&mut answer).ok()?;
            Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
        };
        match &self.0.bars {
            Some(bars) => bars.suspend(ask),
            None => ask(),
        }
    }

    pub(super) fn paint(&self, paint: Paint, text: &str) -> String {
        if self.0.colour {
            format!("\x1b[{}m{text}\x1b[0m", paint.code())
        } else {
            text.to_owned()
        }
    }

    fn line(&self, text: &str) {
        // Nobody is left to tell when stderr is closed.
        let write = || {
            let _ = writeln!(self.lock(), "{text}");
        };
        match &self.0.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Lets `write` put something on the same terminal without a bar in its way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.0.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Write + Send>> {
        self.0.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("quiet", &self.0.quiet)
            .finish_non_exhaustive()
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as sizes.
    Bytes,
    /// Anything else, shown as a number.
    Count,
}

/// Something that takes a while: a bar on a terminal, a line at each tenth otherwise. Gone when dropped.
#[derive(Debug)]
pub struct Progress {
    console: Console,
    bar: Option<ProgressBar>,
    label: String,
    unit: Unit,
    plain: Mutex<Plain>,
}

#[derive(Debug, Default)]
struct Plain {
    /// Tenths that were told.
    tenths: u64,
    /// The last message.
    message: String,
}

impl Progress {
    /// How far it is. `total`: 0 when it is not known.
    pub fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(total).filter(|total| *total > 0) {
                bar.set_style(style(self.unit, total > 0));
                if total > 0 {
                    bar.set_length(total);
                }
            }
            bar.set_position(done);
            return;
        }
        if total == 0 {
            return;
        }
        let tenths = done.min(total) * 10 / total;
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if tenths > plain.tenths {
            plain.tenths = tenths;
            let (done, total) = match self.unit {
                Unit::Bytes => (super::text::bytes(done), super::text::bytes(total)),
                Unit::Count => (done.to_string(), total.to_string()),
            };
            self.console.status(format_args!(
                "{}: {} % ({done} of {total})",
                self.label,
                tenths * 10
            ));
        }
    }

    /// Whether it is a bar, which is drawn over; otherwise each word of it is a line.
    pub fn is_drawn(&self) -> bool {
        self.bar.is_some()
    }

    /// What is going on within it, such as a state or a step. Told once when it changes.
    pub fn message(&self, text: &str) {
        let text = sanitize::line(text);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {text}", self.label));
            return;
        }
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if plain.message != text {
            plain.message = text.clone().into_owned();
            self.console.status(format_args!("{}: {text}", self.label));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(unit: Unit, bounded: bool) -> ProgressStyle {
    let template = match (unit, bounded) {
        (Unit::Bytes, true) => {
            "{spinner} {msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}"
        }
        (Unit::Count, true) => "{spinner} {msg} {wide_bar} {pos}/{len} {eta}",
        (Unit::Bytes, false) => "{spinner} {msg} {binary_bytes} {elapsed}",
        (Unit::Count, false) => "{spinner} {msg} {elapsed}",
    };
    ProgressStyle::with_template(template).expect("the templates above are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_can_be_drawn() {
        for unit in [Unit::Bytes, Unit::Count] {
            for bounded in [true, false] {
                // A template that is not one would panic here, and else only before a person.
                style(unit, bounded);
            }
        }
    }
}
