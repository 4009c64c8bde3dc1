//! A plan as headed blocks, which the terminal and Markdown show each in its way.

use std::fmt::Write as _;

use crate::ui::Ui;

/// A page of blocks.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<Block>);

#[derive(Debug)]
enum Block {
    Heading(String),
    Line(String),
    Table {
        columns: &'static [&'static str],
        rows: Vec<Vec<String>>,
    },
    Items {
        ordered: bool,
        items: Vec<String>,
    },
}

impl Page {
    /// Adds a heading.
    pub(super) fn heading(&mut self, text: impl Into<String>) {
        self.0.push(Block::Heading(text.into()));
    }

    /// Adds a line.
    pub(super) fn line(&mut self, text: impl Into<String>) {
        self.0.push(Block::Line(text.into()));
    }

    /// Adds a table. A column whose name ends in `>` is set to the right.
    pub(super) fn table(&mut self, columns: &'static [&'static str], rows: Vec<Vec<String>>) {
        self.0.push(Block::Table { columns, rows });
    }

    /// Adds a list.
    pub(super) fn items(&mut self, items: Vec<String>) {
        self.0.push(Block::Items {
            ordered: false,
            items,
        });
    }

    /// Adds a list whose order matters.
    pub(super) fn steps(&mut self, items: Vec<String>) {
        self.0.push(Block::Items {
            ordered: true,
            items,
        });
    }

    /// Prints it for people.
    pub(super) fn show(&self, ui: &mut Ui) {
        for (index, block) in self.0.iter().enumerate() {
            match block {
                Block::Heading(text) => {
                    if index > 0 {
                        ui.line(format_args!(""));
                    }
                    ui.line(format_args!("{text}"));
                }
                Block::Line(text) => ui.line(format_args!("  {text}")),
                Block::Table { columns, rows } => ui.table(&super::terminal_table(columns, rows)),
                Block::Items { ordered, items } => {
                    for (number, item) in (1..).zip(items) {
                        match ordered {
                            true => ui.line(format_args!("  {number}. {item}")),
                            false => ui.line(format_args!("  - {item}")),
                        }
                    }
                }
            }
        }
    }

    /// The same as Markdown.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        for (index, block) in self.0.iter().enumerate() {
            match block {
                Block::Heading(heading) => {
                    let level = if index == 0 { "#" } else { "##" };
                    push(&mut text, &format!("{level} {heading}\n\n"));
                }
                Block::Line(line) => push(&mut text, &format!("{line}\n\n")),
                Block::Table { columns, rows } => table(&mut text, columns, rows),
                Block::Items { ordered, items } => {
                    for (number, item) in (1..).zip(items) {
                        match ordered {
                            true => push(&mut text, &format!("{number}. {item}\n")),
                            false => push(&mut text, &format!("- {item}\n")),
                        }
                    }
                    text.push('\n');
                }
            }
        }
        text
    }
}

fn table(text: &mut String, columns: &[&str], rows: &[Vec<String>]) {
    let names: Vec<&str> = columns
        .iter()
        .map(|name| name.trim_end_matches('>'))
        .collect();
    let rules: Vec<&str> = columns
        .iter()
        .map(|name| if name.ends_with('>') { "--:" } else { "---" })
        .collect();
    push(
        text,
        &format!("| {} |\n|{}|\n", names.join(" | "), rules.join("|")),
    );
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        push(text, &format!("| {} |\n", cells.join(" | ")));
    }
    text.push('\n');
}

fn push(text: &mut String, more: &str) {
    text.write_str(more).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_has_headings_tables_and_lists() {
        let mut page = Page::default();
        page.heading("Plan");
        page.line("a line");
        page.table(&["NAME", "N>"], vec![vec!["a|b".into(), "1".into()]]);
        page.heading("Then");
        page.steps(vec!["one".into(), "two".into()]);
        let expected = "# Plan\n\na line\n\n| NAME | N |\n|---|--:|\n| a\\|b | 1 |\n\n## Then\n\n1. one\n2. two\n\n";
        assert_eq!(page.markdown(), expected);
    }
}
