//! Tab-separated tables with a heading: cells by column name, and errors that name the line and the column (pure).
//!
//! Columns may stand in any order and may be missing; what a reader cannot do without, it asks for by name.

use std::collections::BTreeSet;

/// Why a table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct TableError {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

/// Most rows that are read; a table of runs has hundreds.
const MAX_ROWS: usize = 100_000;
/// What people put into a cell that has nothing to say.
const BLANK: [&str; 14] = [
    "-",
    "\u{2013}",
    "\u{2014}",
    "?",
    "n/a",
    "na",
    "nan",
    "none",
    "null",
    "unknown",
    "unstated",
    "not stated",
    "tbd",
    "oom",
];
/// What may stand behind a number, and by how much it counts. Memory is in GB, time in hours.
const UNITS: [(&str, f64); 14] = [
    ("", 1.0),
    ("k", 1e3),
    ("m", 1e6),
    ("b", 1e9),
    ("bn", 1e9),
    ("t", 1e12),
    ("g", 1.0),
    ("gb", 1.0),
    ("gib", 1.0),
    ("mb", 1.0 / 1024.0),
    ("mib", 1.0 / 1024.0),
    ("h", 1.0),
    ("hours", 1.0),
    ("tok/s", 1.0),
];

/// A table, checked for its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    heading: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    line: usize,
    cells: Vec<String>,
}

impl Table {
    /// Reads a table. Empty lines are skipped, and cells that are missing at the end of a line are empty.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text
            .lines()
            .map(|line| line.strip_suffix('\r').unwrap_or(line))
            .enumerate()
            .map(|(index, line)| (index + 1, line))
            .filter(|(_, line)| !line.trim().is_empty());
        let Some((line, first)) = lines.next() else {
            return Err(at(
                1,
                1,
                "the table is empty: its first line names the columns",
            ));
        };
        let heading = heading(line, first)?;
        let mut rows = Vec::new();
        for (line, text) in lines {
            if rows.len() == MAX_ROWS {
                return Err(at(line, 1, &format!("at most {MAX_ROWS} rows are read")));
            }
            let cells = split(text);
            rows.push(Row { line, cells });
        }
        if rows.is_empty() {
            return Err(at(line, 1, "the table has a heading and no rows"));
        }
        Ok(Self { heading, rows })
    }

    /// Names of the columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.heading.iter().map(String::as_str)
    }

    /// Refuses a table that lacks a column.
    pub fn require(&self, column: &str) -> Result<(), TableError> {
        if self.heading.iter().any(|name| name == column) {
            Ok(())
        } else {
            Err(at(1, 1, &format!("there is no column `{column}`")))
        }
    }

    /// The rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = Cells<'_>> {
        self.rows.iter().map(|row| Cells { table: self, row })
    }
}

/// One row of a table.
#[derive(Debug, Clone, Copy)]
pub struct Cells<'a> {
    table: &'a Table,
    row: &'a Row,
}

impl<'a> Cells<'a> {
    /// Text of a cell; empty when the table has no such column, or the cell says only that nothing is known.
    pub fn text(&self, column: &str) -> &'a str {
        let text = self
            .index(column)
            .and_then(|index| self.row.cells.get(index))
            .map_or("", String::as_str);
        let blank = BLANK.iter().any(|blank| blank.eq_ignore_ascii_case(text));
        if blank { "" } else { text }
    }

    /// Line of the row, from 1.
    pub fn line(&self) -> usize {
        self.row.line
    }

    /// Refuses a row with more cells than the heading has columns: it cannot be told which is which.
    pub fn complete(&self) -> Result<(), TableError> {
        let (cells, columns) = (self.row.cells.len(), self.table.heading.len());
        if cells <= columns {
            return Ok(());
        }
        let why = format!("{cells} cells, but the heading names {columns} columns");
        Err(self.error_at(columns, &why))
    }

    /// A number above zero, with what its marks say; `None` for an empty cell.
    pub fn number(&self, column: &str) -> Result<Option<Stated>, TableError> {
        match self.text(column) {
            "" => Ok(None),
            text => Stated::parse(text).map(Some).ok_or_else(|| {
                let why = format!("`{column}` is a number above 0, such as 8030000000, ~1.5e9 or 80?, not `{text}`");
                self.error(column, &why)
            }),
        }
    }

    /// An error at a cell.
    pub fn error(&self, column: &str, message: &str) -> TableError {
        self.error_at(self.index(column).unwrap_or(0), message)
    }

    fn error_at(&self, index: usize, message: &str) -> TableError {
        // Cells were trimmed; the place is that of the cell, which is near enough to be found at once.
        let before: usize = self
            .row
            .cells
            .iter()
            .take(index)
            .map(|cell| cell.chars().count() + 1)
            .sum();
        at(self.row.line, before + 1, message)
    }

    fn index(&self, column: &str) -> Option<usize> {
        self.table.heading.iter().position(|name| name == column)
    }
}

/// A number as somebody stated it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stated {
    /// The number.
    pub value: f64,
    /// Marked `?`: whoever wrote the table was not sure.
    pub doubtful: bool,
}

impl Stated {
    /// Reads `8030000000`, `8B`, `1,024`, `~1.5e9`, `80?`, `24 GB`. What is a bound or a range, such as `>40` or `130k-140k`, is
    /// doubtful; of a range the middle is taken.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, marked) = unmarked(text);
        let exact = text.trim_start_matches(['~', '\u{2248}']).trim_start();
        let number = exact.trim_start_matches(['<', '>', '=', '\u{2264}', '\u{2265}']);
        let bound = number.len() < exact.len();
        if let Some(value) = amount(number) {
            let doubtful = marked || bound;
            return Some(Self { value, doubtful });
        }
        let (low, high) = number.split_once(['-', '\u{2013}'])?;
        let (low, high) = (low.trim(), high.trim().trim_start_matches('~'));
        // In `130-140k` the unit is said once.
        let unit = high.trim_start_matches(|c: char| c.is_ascii_digit() || ".,_ ".contains(c));
        let low = amount(&format!("{low}{unit}")).or_else(|| amount(low))?;
        let high = amount(high)?;
        (low <= high).then_some(Self {
            value: (low + high) / 2.0,
            doubtful: true,
        })
    }
}

/// A number above 0 with its unit.
fn amount(text: &str) -> Option<f64> {
    let text = text.trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || ".,_eE+-".contains(c));
    let (digits, unit) = (&text[..text.len() - unit.len()], unit.trim());
    let (_, factor) = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    // `inf` and `nan` are numbers for the standard parser and none for us.
    let value: f64 = digits
        .starts_with(|c: char| c.is_ascii_digit() || c == '.')
        .then(|| digits.replace([',', '_'], "").parse().ok())
        .flatten()?;
    let value = value * factor;
    (value > 0.0 && value.is_finite()).then_some(value)
}

/// A cell without its `?`, and whether it had one.
pub fn unmarked(text: &str) -> (&str, bool) {
    match text.trim().strip_suffix('?') {
        Some(text) => (text.trim_end(), true),
        None => (text.trim(), false),
    }
}

/// The cells of a line, without the quotes that spreadsheets put around some, and without empty ones at its end.
fn split(text: &str) -> Vec<String> {
    let mut cells: Vec<String> = text.split('\t').map(unquoted).collect();
    while cells.len() > 1 && cells.last().is_some_and(String::is_empty) {
        cells.pop();
    }
    cells
}

fn unquoted(cell: &str) -> String {
    let cell = cell.trim();
    let inner = cell
        .strip_prefix('"')
        .and_then(|cell| cell.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.replace("\"\"", "").contains('"') => {
            inner.replace("\"\"", "\"").trim().to_owned()
        }
        _ => cell.to_owned(),
    }
}

fn heading(line: usize, text: &str) -> Result<Vec<String>, TableError> {
    let names = split(text);
    let mut seen = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(at(line, place(text, index), "a column without a name"));
        }
        if !seen.insert(name) {
            return Err(at(
                line,
                place(text, index),
                &format!("the column `{name}` is there twice"),
            ));
        }
    }
    Ok(names)
}

/// Character at which a cell begins, from 1.
fn place(text: &str, index: usize) -> usize {
    let before: usize = text
        .split('\t')
        .take(index)
        .map(|cell| cell.chars().count() + 1)
        .sum();
    before + 1
}

fn at(line: usize, column: usize, message: &str) -> TableError {
    TableError {
        line,
        column,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        assert_eq!(Table::parse(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn columns_are_found_by_name_in_any_order() {
        let table = Table::parse("\u{feff}b\ta\r\n1\t~2,000?\r\n\r\n3\r\n").unwrap();
        let rows: Vec<_> = table.rows().collect();
        assert_eq!(
            rows[0].number("a").unwrap(),
            Some(Stated {
                value: 2000.0,
                doubtful: true
            })
        );
        assert_eq!(rows[1].number("a").unwrap(), None);
        assert_eq!(rows[1].text("absent"), "");
        assert!(table.require("b").is_ok());
        assert_eq!(
            table.require("c").unwrap_err().to_string(),
            "1:1: there is no column `c`"
        );
    }

    #[test]
    fn a_table_of_bad_form_is_refused_with_its_place() {
        check_refused(
            "",
            "1:1: the table is empty: its first line names the columns",
        );
        check_refused("a\tb\n", "1:1: the table has a heading and no rows");
        check_refused("a\tb\ta\n1\n", "1:5: the column `a` is there twice");
        check_refused("a\t\tb\n1\n", "1:3: a column without a name");
    }

    #[test]
    fn a_row_is_as_long_as_the_heading_or_shorter() {
        let table = Table::parse("a\tb\t\n\n1\t22\t3\n1\t2\t\t\n").unwrap();
        let rows: Vec<_> = table.rows().collect();
        assert_eq!(
            rows[0].complete().unwrap_err().to_string(),
            "3:6: 3 cells, but the heading names 2 columns"
        );
        assert_eq!(rows[1].complete(), Ok(()));
    }

    #[test]
    fn quotes_of_spreadsheets_and_words_for_nothing_are_no_part_of_a_cell() {
        let line = "\"said \"\"so\"\"\"\tN/A\t\"a\" or \"b\"";
        let table = Table::parse(&format!("a\tb\tc\n{line}\n")).unwrap();
        let row = table.rows().next().unwrap();
        assert_eq!(row.text("a"), "said \"so\"");
        assert_eq!(row.number("b"), Ok(None));
        assert_eq!(row.text("c"), "\"a\" or \"b\"");
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let read = |text: &str| Stated::parse(text).map(|stated| (stated.value, stated.doubtful));
        for (text, value) in [
            ("8030000000", 8.03e9),
            ("8B", 8e9),
            ("1.1 B", 1.1e9),
            ("~124M", 124e6),
            ("64k", 64e3),
            ("1,024", 1024.0),
            ("3.6e9", 3.6e9),
            ("1e-3", 1e-3),
            ("24 GB", 24.0),
            ("2048MiB", 2.0),
            ("\u{2248}12 h", 12.0),
        ] {
            assert_eq!(read(text), Some((value, false)), "{text}");
        }
        for (text, value) in [
            ("80?", 80.0),
            (">40", 40.0),
            ("~ <= 8", 8.0),
            ("130-140k", 135e3),
            ("22 \u{2013} 24 GB", 23.0),
        ] {
            assert_eq!(read(text), Some((value, true)), "{text}");
        }
    }

    #[test]
    fn a_bad_number_is_refused_with_its_place() {
        for text in ["x", "-1", "0", "inf", "1e999", "1 2", "8 apples", "9-3"] {
            let table = Table::parse(&format!("id\tn\nrow\t{text}\n")).unwrap();
            let error = table.rows().next().unwrap().number("n").unwrap_err();
            assert_eq!((error.line, error.column), (2, 5), "{text}");
        }
    }
}
