//! The end of a log as lines for a screen, bounded and clean of escapes (pure).

use std::collections::VecDeque;

use crate::ui::sanitize;

/// Lines that are kept.
const MAX_LINES: usize = 2000;
/// Bytes of a line that are kept: no screen is wider, and a log may be one line.
const MAX_LINE_BYTES: usize = 4096;

/// The last lines of a log. Each has a number that stays its own.
#[derive(Debug, Default)]
pub struct Tail {
    lines: VecDeque<String>,
    /// Number of the first line that is kept.
    first: u64,
    /// The line that has no end yet.
    open: Vec<u8>,
    /// A carriage return came: what follows is written over the line.
    over: bool,
    clean: sanitize::Stream,
}

impl Tail {
    /// Takes bytes as they came, in pieces of any size.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in self.clean.clean(bytes) {
            match byte {
                b'\n' => self.close(),
                b'\r' => self.over = true,
                byte => {
                    if std::mem::take(&mut self.over) {
                        self.open.clear();
                    }
                    if self.open.len() < MAX_LINE_BYTES {
                        self.open.push(byte);
                    }
                }
            }
        }
    }

    /// Another log follows: a line without an end has its end here.
    pub fn end(&mut self) {
        if !self.open.is_empty() {
            self.close();
        }
    }

    /// Every line with its number, oldest first; the last may still grow.
    pub fn lines(&self) -> Vec<(u64, String)> {
        let open = (!self.open.is_empty()).then(|| text(&self.open));
        let all = self.lines.iter().cloned().chain(open);
        (self.first..).zip(all).collect()
    }

    fn close(&mut self) {
        self.over = false;
        let line = std::mem::take(&mut self.open);
        self.lines.push_back(text(&line));
        if self.lines.len() > MAX_LINES {
            self.lines.pop_front();
            self.first += 1;
        }
    }
}

fn text(line: &[u8]) -> String {
    sanitize::line(&String::from_utf8_lossy(line)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], expected: &[(u64, &str)]) {
        let mut tail = Tail::default();
        for piece in pieces {
            tail.feed(piece.as_bytes());
        }
        let found = tail.lines();
        let found: Vec<_> = found
            .iter()
            .map(|(id, line)| (*id, line.as_str()))
            .collect();
        assert_eq!(found, expected, "{pieces:?}");
    }

    #[test]
    fn lines_come_in_pieces_and_bars_are_drawn_over() {
        check(&["a\nb", "c\n"], &[(0, "a"), (1, "bc")]);
        check(&["10 %\r20 %", "\r30"], &[(0, "30")]);
        check(&["10 %\r", "\nnext\r\n"], &[(0, "10 %"), (1, "next")]);
        check(
            &["\x1b[31mred\x1b[0m\x1b]52;c;AAAA\x07\tx\n"],
            &[(0, "red x")],
        );
    }

    #[test]
    fn a_long_log_keeps_its_end_and_its_numbers() {
        let mut tail = Tail::default();
        for number in 0..MAX_LINES + 5 {
            tail.feed(format!("{number}\n").as_bytes());
        }
        let lines = tail.lines();
        assert_eq!((lines.len(), &lines[0]), (MAX_LINES, &(5, "5".to_owned())));
        tail.feed(&vec![b'x'; MAX_LINE_BYTES * 3]);
        assert_eq!(tail.lines()[MAX_LINES].1.len(), MAX_LINE_BYTES);
    }
}
