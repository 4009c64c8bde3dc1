//! Bars, sparks and curves as text (pure): block characters for amounts, braille dots for curves. They read without any colour.

/// Eighths of a cell, from the left.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
/// Eighths of a cell, from below.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A bar that is so full, `width` cells.
pub fn bar(fraction: f64, width: usize) -> String {
    let eighths = (fraction.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let (full, part) = (eighths / 8, eighths % 8);
    let mut text = "█".repeat(full);
    if part > 0 {
        text.push(EIGHTHS[part]);
    }
    let rest = width - full - usize::from(part > 0);
    text + &"░".repeat(rest)
}

/// Values of 0 to 100 over the last `span_s` seconds, the newest at the right; a blank where there is none. Each comes with its age.
pub fn spark(values: &[(f64, f64)], span_s: f64, width: usize) -> String {
    let mut sums = vec![(0.0, 0_u32); width];
    for (age_s, value) in values {
        let from_right = (age_s / span_s * width as f64).floor();
        if (0.0..width as f64).contains(&from_right) {
            let sum = &mut sums[width - 1 - from_right as usize];
            *sum = (sum.0 + value, sum.1 + 1);
        }
    }
    let cell = |(sum, count): &(f64, u32)| match count {
        0 => ' ',
        count => {
            let share = sum / f64::from(*count) / 100.0;
            LEVELS[((share * 8.0).floor().clamp(0.0, 7.0)) as usize]
        }
    };
    sums.iter().map(cell).collect()
}

/// Smallest and largest of some values; `None` where there are none.
pub fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |found, value| {
        let (low, high) = found.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// A curve of `width` by `height` cells, top row first. Points rise in x.
pub fn curve(points: &[(f64, f64)], width: usize, height: usize) -> Vec<String> {
    let (columns, rows) = (width * 2, height * 4);
    let mut dots = vec![0_u8; width * height];
    let bounds_x = bounds(points.iter().map(|(x, _)| *x));
    let bounds_y = bounds(points.iter().map(|(_, y)| *y));
    if let (Some(x), Some(y)) = (bounds_x, bounds_y) {
        let place = |value: f64, (low, high): (f64, f64), cells: usize| match high > low {
            true => ((value - low) / (high - low) * (cells - 1) as f64).round() as usize,
            false => cells / 2,
        };
        let mut before: Option<(usize, usize)> = None;
        for (column, mean) in means(points, |point| place(point, x, columns)) {
            let row = rows - 1 - place(mean, y, rows);
            let (from_column, from_row) = before.unwrap_or((column, row));
            line(from_column, from_row, column, row, |column, row| {
                /// Which bit is which dot: left and right of each of four rows.
                const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
                dots[row / 4 * width + column / 2] |= BITS[row % 4][column % 2];
            });
            before = Some((column, row));
        }
    }
    let cell = |dots: &u8| char::from_u32(0x2800 + u32::from(*dots)).unwrap_or(' ');
    let blank = |cell: char| if cell == '\u{2800}' { ' ' } else { cell };
    dots.chunks(width.max(1))
        .map(|row| row.iter().map(cell).map(blank).collect())
        .collect()
}

/// Mean of the points of each column that has any.
fn means(points: &[(f64, f64)], column: impl Fn(f64) -> usize) -> Vec<(usize, f64)> {
    let mut means: Vec<(usize, f64, f64)> = Vec::new();
    for (x, y) in points {
        let at = column(*x);
        match means.last_mut() {
            Some(last) if last.0 == at => *last = (at, last.1 + y, last.2 + 1.0),
            _ => means.push((at, *y, 1.0)),
        }
    }
    let mean = |(at, sum, count): (usize, f64, f64)| (at, sum / count);
    means.into_iter().map(mean).collect()
}

/// Every dot on the way from one dot to another that is not left of it.
fn line(x0: usize, y0: usize, x1: usize, y1: usize, mut dot: impl FnMut(usize, usize)) {
    let (across, down) = (x1 - x0, y0.abs_diff(y1));
    let count = across.max(down);
    for index in 0..=count {
        let part = |length: usize| match count {
            0 => 0,
            count => (length * index + count / 2) / count,
        };
        let y = if y1 >= y0 {
            y0 + part(down)
        } else {
            y0 - part(down)
        };
        dot(x0 + part(across), y);
    }
}

/// Breaks a text into lines of at most so many characters, at words where that goes; lines after the first are indented.
pub fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    let indent = indent.min(width / 2);
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        let begun = length > if lines.is_empty() { 0 } else { indent };
        if begun && length + 1 + word.len() > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            length = indent;
        } else if begun {
            line.push(' ');
            length += 1;
        }
        while length + word.len() > width {
            let rest = word.split_off((width - length).min(word.len()));
            line.extend(word);
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            (length, word) = (indent, rest);
        }
        length += word.len();
        line.extend(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_its_fraction() {
        for (fraction, expected) in [
            (0.0, "░░░░"),
            (0.5, "██░░"),
            (0.53, "██▏░"),
            (1.0, "████"),
            (7.0, "████"),
            (-1.0, "░░░░"),
        ] {
            assert_eq!(bar(fraction, 4), expected, "{fraction}");
        }
    }

    #[test]
    fn a_spark_has_the_newest_at_the_right_and_blanks_where_nothing_was_read() {
        let values = [
            (35.0, 0.0),
            (15.0, 40.0),
            (14.0, 60.0),
            (1.0, 100.0),
            (500.0, 9.0),
        ];
        assert_eq!(spark(&values, 40.0, 4), "▁ ▅█");
        assert_eq!(spark(&[], 40.0, 4), "    ");
    }

    #[test]
    fn a_curve_goes_from_corner_to_corner() {
        let points: Vec<_> = (0..8).map(|x| (f64::from(x), -f64::from(x))).collect();
        assert_eq!(curve(&points, 4, 2), ["⠑⢄  ", "  ⠑⢄"]);
        // One point, and none.
        assert_eq!(curve(&[(3.0, 1.0)], 2, 1).len(), 1);
        assert_eq!(curve(&[(3.0, 1.0)], 2, 1)[0].trim().chars().count(), 1);
        assert_eq!(curve(&[], 3, 2), ["   ", "   "]);
        // A jump is a line, not two dots.
        assert_eq!(curve(&[(0.0, 0.0), (1.0, 1.0)], 1, 1), ["⡜"]);
    }

    #[test]
    fn a_text_breaks_at_words_and_a_long_word_anywhere() {
        for (text, expected) in [
            ("one two", vec!["one two"]),
            ("one two three", vec!["one two", "  three"]),
            ("abcdefghijkl", vec!["abcdefgh", "  ijkl"]),
            ("", vec![""]),
        ] {
            assert_eq!(wrap(text, 8, 2), expected, "{text}");
        }
    }
}
