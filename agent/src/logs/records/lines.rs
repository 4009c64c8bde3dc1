//! Bytes to lines: bounded, with redraws as lines of their own and without terminal codes.

/// Longest line that is read. Training lines are far below; what is longer is a dump of something.
const MAX_LINE_BYTES: usize = 16 << 10;

const ESCAPE: u8 = 0x1b;

/// Collects a line until its end comes.
#[derive(Debug, Default)]
pub struct LineBuffer {
    pending: Vec<u8>,
    /// The line is too long: nothing of it is kept until its end.
    overflowed: bool,
    /// Bytes of `pending` that were handed out already, because they were a whole bar that waited for its redraw.
    shown: usize,
}

impl LineBuffer {
    /// Calls `line` for every line that these bytes complete. A carriage return ends a line as a line feed does: a bar
    /// that redraws itself is many lines. A bar that waits for its next redraw is handed out at once, since with minutes
    /// per step that redraw is minutes away.
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.push(&rest[..end]);
            self.finish(&mut line);
            rest = &rest[end + 1..];
        }
        self.push(rest);
        if self.pending.len() > self.shown && self.pending.ends_with(b"]") && is_bar(&self.pending)
        {
            self.shown = self.pending.len();
            emit(&self.pending, &mut line);
        }
    }

    /// Hands out what is left when nothing more will come.
    pub fn end(&mut self, mut line: impl FnMut(&[u8])) {
        self.finish(&mut line);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.overflowed |= self.pending.len() + bytes.len() > MAX_LINE_BYTES;
        if self.overflowed {
            self.pending.clear();
        } else {
            self.pending.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self, line: &mut impl FnMut(&[u8])) {
        if !self.overflowed && self.pending.len() > self.shown {
            emit(&self.pending, line);
        }
        self.overflowed = false;
        self.pending.clear();
        self.shown = 0;
        // One long line must not cost memory for ever.
        self.pending.shrink_to(1 << 10);
    }
}

fn is_bar(line: &[u8]) -> bool {
    line.windows(2).any(|pair| pair == b"%|")
}

fn emit(line: &[u8], sink: &mut impl FnMut(&[u8])) {
    if line.contains(&ESCAPE) {
        sink(&without_escapes(line))
    } else {
        sink(line)
    }
}

/// Removes terminal codes: `ESC [ ... letter`, `ESC ] ... BEL` or `ESC \`, and `ESC` with one byte.
fn without_escapes(line: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != ESCAPE {
            clean.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'[') => {
                while bytes
                    .next()
                    .is_some_and(|byte| !(0x40..=0x7e).contains(&byte))
                {}
            }
            Some(b']') => {
                while let Some(byte) = bytes.next() {
                    if byte == 0x07 || (byte == ESCAPE && bytes.next_if_eq(&b'\\').is_some()) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut buffer, mut lines) = (LineBuffer::default(), Vec::new());
        for piece in pieces {
            buffer.feed(piece, |line| {
                lines.push(String::from_utf8_lossy(line).into_owned())
            });
        }
        lines
    }

    #[test]
    fn line_feeds_and_redraws_end_lines() {
        assert_eq!(lines(&[b"a\nb\r", b"\nc", b"d\r\re"]), ["a", "b", "cd"]);
    }

    #[test]
    fn terminal_codes_are_removed() {
        for (line, clean) in [
            ("\x1b[1;32mok\x1b[0m\n", "ok"),
            ("\x1b]0;title\x07a\x1b]8;;url\x1b\\b\n", "ab"),
            ("a\x1b(Bb\x1b\n", "aBb"),
            ("a\x1b[12\n", "a"),
        ] {
            assert_eq!(lines(&[line.as_bytes()]), [clean], "{line:?}");
        }
    }

    #[test]
    fn a_waiting_bar_is_handed_out_once() {
        assert_eq!(
            lines(&[b" 5%|# | 1/2 [a]", b"", b"\r", b"x\n"]),
            [" 5%|# | 1/2 [a]", "x"]
        );
        assert_eq!(
            lines(&[b" 5%|# | 1/2 [a]", b"{'b': 1}\n"]),
            [" 5%|# | 1/2 [a]", " 5%|# | 1/2 [a]{'b': 1}"]
        );
    }

    #[test]
    fn an_endless_line_is_bounded() {
        let mut buffer = LineBuffer::default();
        for _ in 0..100 {
            buffer.feed(&[b'x'; 1000], |_| panic!("no line ended"));
            assert!(buffer.pending.len() <= MAX_LINE_BYTES);
        }
        let mut next = Vec::new();
        buffer.feed(b"\nb\n", |line| next.push(line.to_vec()));
        assert_eq!(next, [b"b"]);
    }
}
