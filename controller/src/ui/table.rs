//! Tables on stdout: plain columns that fit a terminal of 80, and that `awk` can read when there is no terminal.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, presets};

use super::sanitize;

/// Rows under a header, without lines between them.
#[derive(Debug)]
pub struct Table {
    header: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns. A name that ends in `>` is a column of numbers, set to the right.
    pub fn new(columns: &[&'static str]) -> Self {
        Self {
            header: columns
                .iter()
                .map(|name| name.trim_end_matches('>'))
                .collect(),
            right: columns.iter().map(|name| name.ends_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; its cells are cleaned of terminal escapes.
    pub fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells = cells
            .into_iter()
            .map(|cell| sanitize::line(cell.as_ref()).into_owned());
        self.rows.push(cells.collect());
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Leaves columns out until the rest fits a terminal, those named first first; answers which.
    pub fn fit(&mut self, width: u16, least_first: &[&'static str]) -> Vec<&'static str> {
        let mut left_out = Vec::new();
        for name in least_first {
            if self.natural_width() <= usize::from(width) {
                break;
            }
            let Some(at) = self.header.iter().position(|column| column == name) else {
                continue;
            };
            self.header.remove(at);
            self.right.remove(at);
            for row in self.rows.iter_mut().filter(|row| at < row.len()) {
                row.remove(at);
            }
            left_out.push(*name);
        }
        left_out
    }

    /// Characters of its longest line where nothing is broken.
    fn natural_width(&self) -> usize {
        let widest = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            longest.max(self.header[index].chars().count())
        };
        let columns: usize = (0..self.header.len()).map(widest).sum();
        columns + 2 * self.header.len().saturating_sub(1)
    }

    /// The text, with a line end. `width`: columns of the terminal; `None`: as wide as it gets.
    pub(super) fn render(&self, width: Option<u16>) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.force_no_tty();
        match width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        let align = |index: usize| match self.right.get(index) {
            Some(true) => CellAlignment::Right,
            _ => CellAlignment::Left,
        };
        let cells = |row: &mut dyn Iterator<Item = &str>| -> Vec<Cell> {
            row.enumerate()
                .map(|(i, cell)| Cell::new(cell).set_alignment(align(i)))
                .collect()
        };
        table.set_header(cells(&mut self.header.iter().copied()));
        for row in &self.rows {
            table.add_row(cells(&mut row.iter().map(String::as_str)));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            // Two blanks between columns; the first starts at the left edge.
            column.set_padding((0, 2));
            // Numbers are never broken in two.
            if self.right.get(index) == Some(&true) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["RUN", "STATE", "COST>"]);
        table.row(["a", "running", "$1.20"]);
        table.row([
            "a-run-with-a-long-name",
            "interrupted \x1b[2Jby\nthe market",
            "$12.00",
        ]);
        table
    }

    #[test]
    fn columns_line_up_and_hostile_text_is_harmless() {
        let expected = "\
RUN                     STATE                        COST
a                       running                     $1.20
a-run-with-a-long-name  interrupted by the market  $12.00
";
        assert_eq!(sample().render(None), expected);
    }

    #[test]
    fn what_matters_least_is_left_out_until_the_rest_fits() {
        let fit = |width| {
            let mut table = sample();
            let left_out = table.fit(width, &["STATE", "no such column", "COST"]);
            (left_out, table.render(None))
        };
        assert_eq!(fit(80), (Vec::new(), sample().render(None)));
        let (left_out, text) = fit(56);
        assert_eq!(left_out, ["STATE"]);
        assert_eq!(
            text.lines().next().unwrap().trim_end(),
            "RUN                       COST"
        );
        let (left_out, text) = fit(10);
        assert_eq!(left_out, ["STATE", "COST"], "what is not named stays");
        assert!(text.contains("a-run-with-a-long-name"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_gets_narrow_lines() {
        let text = sample().render(Some(40));
        assert!(
            text.lines().all(|line| line.chars().count() <= 40),
            "{text}"
        );
        assert!(text.contains("$12.00"), "{text}");
    }
}
