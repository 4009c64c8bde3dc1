//! Bytes to blocks of whole lines: bounded, from UTF-8 or UTF-16, whatever the pieces are in which they come.
//!
//! A carriage return ends a line as a line feed does: a bar that redraws itself is many lines. [`clean`] takes one line
//! apart where the terminal's cursor was moved, and removes all other terminal codes.

use memchr::{memchr2, memmem, memrchr2};

/// Most of a line that is read. Training lines are far below; what is longer is a dump of something.
pub const MAX_LINE_BYTES: usize = 64 << 10;

const ESCAPE: u8 = 0x1b;
const BACKSPACE: u8 = 0x08;

/// How the log is written. A redirection in PowerShell writes UTF-16.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Encoding {
    /// Fewer than two bytes have come.
    #[default]
    Unknown,
    Utf8,
    Utf16 {
        big_endian: bool,
    },
}

/// Collects lines until they are whole.
#[derive(Debug, Default)]
pub struct Lines {
    encoding: Encoding,
    /// Bytes that wait for the rest of their UTF-16 unit, or for the second byte of the log.
    odd: Vec<u8>,
    high_surrogate: Option<u16>,
    pending: Vec<u8>,
    /// The pending line was handed out at its limit; the rest is skipped.
    overflowed: bool,
}

impl Lines {
    /// Calls `block` with bytes that hold whole lines, each with its end.
    pub fn feed(&mut self, bytes: &[u8], block: &mut dyn FnMut(&[u8])) {
        match self.encoding {
            Encoding::Unknown => {
                self.odd.extend_from_slice(bytes);
                if self.odd.len() >= 2 {
                    self.start(block);
                }
            }
            Encoding::Utf8 => self.split(bytes, block),
            Encoding::Utf16 { big_endian } => {
                let text = self.decode(bytes, big_endian);
                self.split(&text, block);
            }
        }
    }

    /// Hands out what is left when nothing more will come.
    pub fn end(&mut self, block: &mut dyn FnMut(&[u8])) {
        if self.encoding == Encoding::Unknown {
            let rest = std::mem::take(&mut self.odd);
            self.split(&rest, block);
        }
        if !self.pending.is_empty() {
            block(&self.pending);
        }
        self.pending.clear();
        self.overflowed = false;
    }

    /// The line that has no end so far.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Bytes of memory held.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.pending.capacity() + self.odd.capacity()
    }

    fn start(&mut self, block: &mut dyn FnMut(&[u8])) {
        let bytes = std::mem::take(&mut self.odd);
        let (encoding, rest) = match bytes.as_slice() {
            [0xff, 0xfe, rest @ ..] => (Encoding::Utf16 { big_endian: false }, rest),
            [0xfe, 0xff, rest @ ..] => (Encoding::Utf16 { big_endian: true }, rest),
            all => (Encoding::Utf8, all),
        };
        self.encoding = encoding;
        self.feed(rest, block);
    }

    fn decode(&mut self, bytes: &[u8], big_endian: bool) -> Vec<u8> {
        let mut text = String::with_capacity(bytes.len() / 2 + 4);
        for byte in bytes {
            self.odd.push(*byte);
            let [first, second] = *self.odd.as_slice() else {
                continue;
            };
            self.odd.clear();
            let unit = if big_endian {
                u16::from_be_bytes([first, second])
            } else {
                u16::from_le_bytes([first, second])
            };
            match (self.high_surrogate.take(), unit) {
                (None, 0xd800..=0xdbff) => self.high_surrogate = Some(unit),
                (high, _) => {
                    let units = high.into_iter().chain([unit]);
                    let chars = char::decode_utf16(units);
                    text.extend(chars.map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)));
                }
            }
        }
        text.into_bytes()
    }

    fn split(&mut self, bytes: &[u8], block: &mut dyn FnMut(&[u8])) {
        let mut rest = bytes;
        if !self.pending.is_empty() || self.overflowed {
            let end = memchr2(b'\n', b'\r', rest);
            self.keep(&rest[..end.map_or(rest.len(), |end| end + 1)], block);
            let Some(end) = end else { return };
            if !self.overflowed {
                block(&self.pending);
            }
            self.overflowed = false;
            self.pending.clear();
            // One long line must not cost memory for ever.
            self.pending.shrink_to(4 << 10);
            rest = &rest[end + 1..];
        }
        let whole = memrchr2(b'\n', b'\r', rest).map_or(0, |end| end + 1);
        if whole > 0 {
            block(&rest[..whole]);
        }
        self.keep(&rest[whole..], block);
    }

    /// Adds to the pending line; at its limit it is handed out as it is.
    fn keep(&mut self, bytes: &[u8], block: &mut dyn FnMut(&[u8])) {
        if self.overflowed {
            return;
        }
        let room = MAX_LINE_BYTES - self.pending.len();
        self.pending
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            block(&self.pending);
            self.pending.clear();
            self.overflowed = true;
        }
    }
}

/// Calls `line` with each piece of `raw` that stands by itself on a terminal, without terminal codes.
pub fn clean(raw: &[u8], line: &mut dyn FnMut(&[u8])) {
    // Some collectors of logs write a carriage return as what syslog makes of it.
    let mut rest = raw;
    while let Some(at) = memmem::find(rest, b"#015") {
        clean_piece(&rest[..at], line);
        rest = &rest[at + 4..];
    }
    clean_piece(rest, line);
}

fn clean_piece(raw: &[u8], line: &mut dyn FnMut(&[u8])) {
    if memchr2(ESCAPE, BACKSPACE, raw).is_none() {
        return line(raw);
    }
    let mut text = Vec::with_capacity(raw.len());
    let mut flush = |text: &mut Vec<u8>| {
        if !text.is_empty() {
            line(text);
        }
        text.clear();
    };
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            // Keras takes its old bar back letter by letter.
            BACKSPACE => flush(&mut text),
            ESCAPE => match bytes.next() {
                Some(b'[') => {
                    let last = bytes.by_ref().find(|byte| (0x40..=0x7e).contains(byte));
                    // Cursor movements: what follows is drawn elsewhere.
                    if matches!(last, Some(b'A'..=b'G' | b'H' | b'd' | b'f')) {
                        flush(&mut text);
                    }
                }
                Some(b']') => {
                    while let Some(byte) = bytes.next() {
                        if byte == 0x07 || (byte == ESCAPE && bytes.next_if_eq(&b'\\').is_some()) {
                            break;
                        }
                    }
                }
                Some(b'(' | b')') => {
                    bytes.next();
                }
                _ => {}
            },
            _ => text.push(byte),
        }
    }
    flush(&mut text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut text) = (Lines::default(), Vec::new());
        let mut block = |block: &[u8]| text.extend_from_slice(block);
        for piece in pieces {
            lines.feed(piece, &mut block);
        }
        lines.end(&mut block);
        text.split(|byte| matches!(byte, b'\n' | b'\r'))
            .filter(|line| !line.is_empty())
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }

    #[test]
    fn line_feeds_and_redraws_end_lines() {
        assert_eq!(
            lines(&[b"a\nb\r", b"\nc", b"d\r\re"]),
            ["a", "b", "cd", "e"]
        );
        assert_eq!(lines(&[b"x"]), ["x"]);
        assert_eq!(lines(&[]), [""; 0]);
    }

    #[test]
    fn utf_16_is_read_in_pieces_of_any_size() {
        let text = "loss \u{1f600}: 1\nb\n";
        for (mark, big_endian) in [([0xff, 0xfe], false), ([0xfe, 0xff], true)] {
            let mut log = mark.to_vec();
            for unit in text.encode_utf16() {
                log.extend(if big_endian {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                });
            }
            for size in [1, 2, 3, 100] {
                let pieces: Vec<&[u8]> = log.chunks(size).collect();
                assert_eq!(lines(&pieces), ["loss \u{1f600}: 1", "b"], "{size}");
            }
        }
    }

    #[test]
    fn an_endless_line_is_read_once_to_its_limit() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for _ in 0..1000 {
            lines.feed(&[b'x'; 1000], &mut |block| seen.push(block.len()));
            assert!(lines.held() <= 2 * MAX_LINE_BYTES);
        }
        lines.feed(b"\nb\n", &mut |block| seen.push(block.len()));
        assert_eq!(seen, [MAX_LINE_BYTES, 2]);
    }

    fn cleaned(raw: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        clean(raw.as_bytes(), &mut |piece| {
            pieces.push(String::from_utf8_lossy(piece).into_owned());
        });
        pieces
    }

    #[test]
    fn terminal_codes_are_removed() {
        for (raw, expected) in [
            ("plain", "plain"),
            ("\x1b[1;32mok\x1b[0m", "ok"),
            ("\x1b]0;title\x07a\x1b]8;;url\x1b\\b", "ab"),
            ("a\x1b(Bb\x1b", "ab"),
            ("a\x1b[12", "a"),
            ("a\x1b[K", "a"),
        ] {
            assert_eq!(cleaned(raw), [expected], "{raw:?}");
        }
    }

    #[test]
    fn what_is_drawn_elsewhere_is_a_line_of_its_own() {
        assert_eq!(cleaned("a\x1b[Ab\x1b[3Gc"), ["a", "b", "c"]);
        assert_eq!(
            cleaned("1/2 [>]\x08\x08\x082/2 [=]"),
            ["1/2 [>]", "2/2 [=]"]
        );
    }
}
