//! Tables: rows of a name and its value, and rows of values under a heading.

use super::{Found, Kind, Reading};
use crate::{
    names::{Meaning, meaning},
    number,
    record::Record,
    scan::{Pair, Separator},
};

/// A row of a table of names and values: `|    loss     | 56.5    |`.
pub fn row(line: &[u8]) -> Option<Record> {
    let inside = line.trim_ascii().strip_prefix(b"|")?;
    let mut cells = inside.split(|byte| *byte == b'|').map(<[u8]>::trim_ascii);
    let (name, value) = (cells.next()?, cells.next()?);
    if !cells.next()?.is_empty() || cells.next().is_some() {
        return None;
    }
    meaning(name).filter(|named| !named.evaluation)?;
    if number::length(value) != value.len() {
        return None;
    }
    let mut found = Found::default();
    found.take(value, &cell(name, value));
    Some(found.record)
}

/// The names over the columns of a table that goes on with a line for each epoch or step: `epoch   train_loss   valid_loss`.
#[derive(Debug, Clone)]
pub struct Columns {
    names: Vec<Box<[u8]>>,
    between: Between,
}

/// What stands between the cells of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    /// Any number of spaces and tabs.
    Spaces,
    /// One tab: cells may have spaces or be empty.
    Tab,
    /// One comma.
    Comma,
    /// At least two spaces, and a unit or a share behind each number: `10 (0.03%)    30.5 ms    15 m, 30 s`.
    Far,
}

/// Heads the table of nerfstudio, which has no loss.
const STEP_DONE: &[u8] = b"Step (% Done)";

/// More columns than this are no table of a training.
const MAX_COLUMNS: usize = 24;

impl Columns {
    /// Reads the heading of a table: names far apart, or between tabs or commas, among them a position and a loss.
    pub fn heading(line: &[u8]) -> Option<Self> {
        if line.len() > 400 {
            return None;
        }
        let line = line.trim_ascii();
        if line.starts_with(STEP_DONE) {
            let names = far_apart(line).map(|cell| match cell {
                STEP_DONE => &b"step"[..],
                b"Train Iter (time)" => b"step_ms",
                other => other,
            });
            return Some(Self {
                names: names.map(Into::into).collect(),
                between: Between::Far,
            });
        }
        let has_tab = line.contains(&b'\t');
        if has_tab && let Some(found) = Self::of(cells(line, Between::Tab), Between::Tab, 2) {
            return Some(found);
        }
        if !line.contains(&b' ') && line.contains(&b',') {
            return Self::of(cells(line, Between::Comma), Between::Comma, 3);
        }
        if !has_tab && memchr::memmem::find(line, b"  ").is_none() {
            return None;
        }
        // spaCy: `E    #       LOSS TOK2VEC  LOSS NER  SCORE`
        Self::of(far_apart(line), Between::Spaces, 3)
            .or_else(|| Self::of(cells(line, Between::Spaces), Between::Spaces, 3))
    }

    fn of<'a>(
        cells: impl Iterator<Item = &'a [u8]>,
        between: Between,
        least: usize,
    ) -> Option<Self> {
        let names: Vec<Box<[u8]>> = cells
            .map(|cell| match cell {
                b"E" => &b"epoch"[..],
                b"#" => b"step",
                name => name,
            })
            .map(Into::into)
            .collect();
        let is_name = |name: &[u8]| {
            name.first().is_some_and(u8::is_ascii_alphabetic)
                && name.len() < 40
                && !name.iter().any(|byte| matches!(byte, b':' | b'=' | b','))
        };
        // `total loss	score loss	border loss`: a line for each step, which nobody counts. Fewer, or one of an
        // evaluation among them, are the summary of an epoch.
        let is_loss = |name: &[u8]| {
            name.to_ascii_lowercase().ends_with(b"loss")
                && meaning(name).is_some_and(|named| !named.evaluation)
        };
        let means = |wanted: fn(Meaning) -> bool| {
            names.iter().any(|name| {
                meaning(name).is_some_and(|named| !named.evaluation && wanted(named.meaning))
            })
        };
        let is_heading = (least..=MAX_COLUMNS).contains(&names.len())
            && names.iter().all(|name| is_name(name))
            && (means(|meaning| matches!(meaning, Meaning::Epoch | Meaning::Step(_)))
                || names.len() > 2 && names.iter().all(|name| is_loss(name)))
            && means(|meaning| matches!(meaning, Meaning::Loss(_)));
        is_heading.then_some(Self { names, between })
    }

    /// Reads a row. `None`: the table has ended.
    pub fn row(&self, line: &[u8]) -> Option<Reading> {
        if self.between == Between::Far {
            return self.far_row(line);
        }
        let mut found = Found::default();
        let mut count = 0;
        for (name, value) in self.names.iter().zip(cells(line, self.between)) {
            let length = number::length(value);
            // The first column is the position; marks such as `+` and times such as `00:31` stand among the others.
            if count == 0 && (length == 0 || length != value.len()) {
                return None;
            }
            if length > 0 && length == value.len() {
                found.take(value, &cell(name, value));
            }
            count += 1;
        }
        (count == self.names.len()).then(|| found.judge(line))?
    }

    /// A row of values with their units: the number at the beginning of a cell counts, of times only those in milliseconds.
    fn far_row(&self, line: &[u8]) -> Option<Reading> {
        let mut found = Found::default();
        for (name, value) in self.names.iter().zip(far_apart(line)) {
            let (number, rest) = value.split_at(number::length(value));
            let is_step = **name == *b"step";
            if is_step && (number.is_empty() || !rest.starts_with(b" (")) {
                return None;
            }
            if is_step || rest == b" ms" {
                found.take(number, &cell(name, number));
            }
        }
        match found.record.has_metrics() {
            true => found.judge(line),
            false => Some(found.reading(Kind::Header)),
        }
    }
}

/// Cells of a line.
fn cells(line: &[u8], between: Between) -> impl Iterator<Item = &[u8]> {
    line.trim_ascii_end()
        .split(move |byte| match between {
            Between::Spaces | Between::Far => byte.is_ascii_whitespace(),
            Between::Tab => *byte == b'\t',
            Between::Comma => *byte == b',',
        })
        .map(<[u8]>::trim_ascii)
        .filter(move |cell| between != Between::Spaces || !cell.is_empty())
}

/// Cells with at least two spaces between them: a name may have one.
fn far_apart(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line.trim_ascii();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memmem::find(rest, b"  ").unwrap_or(rest.len());
        let cell;
        (cell, rest) = rest.split_at(end);
        rest = rest.trim_ascii_start();
        Some(cell)
    })
}

/// A value with the name that stands elsewhere.
fn cell<'a>(name: &'a [u8], value: &'a [u8]) -> Pair<'a> {
    Pair {
        name,
        note: &[],
        separator: Separator::Sign,
        bracketed: false,
        value,
        of: None,
        unit: &[],
        start: 0,
        at: 0,
        end: value.len(),
    }
}
