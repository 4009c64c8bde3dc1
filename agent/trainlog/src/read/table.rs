//! Tables: rows of a name and its value, and rows of values under a heading.

use super::{Found, Reading};
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
pub struct Columns(Vec<Box<[u8]>>);

/// More columns than this are no table of a training.
const MAX_COLUMNS: usize = 24;

impl Columns {
    /// Reads the heading of a table: words far apart, among them a position and a loss.
    pub fn heading(line: &[u8]) -> Option<Self> {
        if line.len() > 400
            || !line
                .windows(2)
                .any(|pair| matches!(pair, b"  " | [b'\t', _]))
        {
            return None;
        }
        let names: Vec<Box<[u8]>> = cells(line).map(Into::into).collect();
        let is_name = |name: &[u8]| {
            name[0].is_ascii_alphabetic()
                && !name.iter().any(|byte| matches!(byte, b':' | b'=' | b','))
        };
        let means = |wanted: fn(Meaning) -> bool| {
            names.iter().any(|name| {
                meaning(name).is_some_and(|named| !named.evaluation && wanted(named.meaning))
            })
        };
        let is_heading = (3..=MAX_COLUMNS).contains(&names.len())
            && names.iter().all(|name| is_name(name))
            && means(|meaning| matches!(meaning, Meaning::Epoch | Meaning::Step(_)))
            && means(|meaning| matches!(meaning, Meaning::Loss(_)));
        is_heading.then_some(Self(names))
    }

    /// Reads a row. `None`: the table has ended.
    pub fn row(&self, line: &[u8]) -> Option<Reading> {
        let mut found = Found::default();
        let mut count = 0;
        for (name, value) in self.0.iter().zip(cells(line)) {
            let length = number::length(value);
            // The first column is the position; marks such as `+` and times such as `00:31` stand among the others.
            if count == 0 && length != value.len() {
                return None;
            }
            if length > 0 && length == value.len() {
                found.take(value, &cell(name, value));
            }
            count += 1;
        }
        (count == self.0.len()).then(|| found.judge(line))?
    }
}

/// Words of a line, whatever is between them.
fn cells(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|cell| !cell.is_empty())
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
