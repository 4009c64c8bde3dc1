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
            let cells: Vec<String> = text
                .split('\t')
                .map(|cell| cell.trim().to_owned())
                .collect();
            if cells.len() > heading.len() {
                let column = place(text, heading.len());
                let why = format!(
                    "{} cells, but the heading names {} columns",
                    cells.len(),
                    heading.len()
                );
                return Err(at(line, column, &why));
            }
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
    /// Text of a cell; empty when the table has no such column.
    pub fn text(&self, column: &str) -> &'a str {
        self.index(column)
            .and_then(|index| self.row.cells.get(index))
            .map_or("", String::as_str)
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
        let index = self.index(column).unwrap_or(0);
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
    /// Reads `8030000000`, `1,024`, `~1.5e9`, `80?`.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, doubtful) = unmarked(text);
        let digits: String = text.trim_start_matches('~').trim().replace([',', '_'], "");
        // `inf` and `nan` are numbers for the standard parser and none for us.
        let value: f64 = digits
            .starts_with(|c: char| c.is_ascii_digit() || c == '.')
            .then(|| digits.parse().ok())
            .flatten()?;
        (value > 0.0 && value.is_finite()).then_some(Self { value, doubtful })
    }
}

/// A cell without its `?`, and whether it had one.
pub fn unmarked(text: &str) -> (&str, bool) {
    match text.trim().strip_suffix('?') {
        Some(text) => (text.trim_end(), true),
        None => (text.trim(), false),
    }
}

fn heading(line: usize, text: &str) -> Result<Vec<String>, TableError> {
    let names: Vec<String> = text
        .split('\t')
        .map(|name| name.trim().to_owned())
        .collect();
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
        check_refused("a\t\n1\n", "1:3: a column without a name");
        check_refused(
            "a\tb\n\n1\t22\t3\n",
            "3:6: 3 cells, but the heading names 2 columns",
        );
    }

    #[test]
    fn a_bad_number_is_refused_with_its_place() {
        for text in ["x", "-1", "0", "nan", "inf", "1e999", "1 2", "8B"] {
            let table = Table::parse(&format!("id\tn\nrow\t{text}\n")).unwrap();
            let error = table.rows().next().unwrap().number("n").unwrap_err();
            assert_eq!((error.line, error.column), (2, 5), "{text}");
        }
    }
}
