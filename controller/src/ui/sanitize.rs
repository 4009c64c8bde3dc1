//! Takes terminal escapes and other control characters out of text that somebody else wrote (pure): logs, messages of a
//! provider, names in a manifest. A terminal obeys what it is shown, so nothing of that kind may reach it.

use std::borrow::Cow;

/// One line: escapes and control characters are gone, line ends and tabs are spaces.
pub fn line(text: &str) -> Cow<'_, str> {
    if text
        .chars()
        .all(|c| !is_unsafe(c) && c != '\n' && c != '\t')
    {
        return Cow::Borrowed(text);
    }
    let clean = self::text(text);
    Cow::Owned(clean.trim_end_matches('\n').replace(['\n', '\t'], " "))
}

/// Several lines: as [`line`], but line ends and tabs stay.
pub fn text(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| !is_unsafe(c)) {
        return Cow::Borrowed(text);
    }
    let mut stream = Stream::default();
    let clean = stream.clean(text.as_bytes());
    // A lone carriage return would let the next words overwrite these.
    let clean = String::from_utf8_lossy(&clean)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    Cow::Owned(clean.chars().filter(|c| !is_unsafe(*c)).collect())
}

/// Control characters, and the marks that reverse the direction of text.
fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Cleans a log that arrives in pieces; an escape may be cut in two anywhere.
///
/// Carriage returns, tabs and line ends stay, so that progress bars look as they do on the box; colours stay when asked for.
#[derive(Debug, Default)]
pub struct Stream {
    keep_colours: bool,
    state: Escape,
    /// The escape sequence so far, for the case that it is a colour.
    pending: Vec<u8>,
    /// The second byte of a C1 control in UTF-8 is still to come.
    after_c2: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// Plain text.
    #[default]
    Plain,
    /// After ESC.
    Started,
    /// In ESC [ ... letter.
    Csi,
    /// In ESC ] ..., ESC P ... and the like, up to BEL or ESC \.
    Str,
    /// After ESC in one of those.
    StrEnding,
    /// After ESC ( and the like: one more byte.
    OneMore,
}

/// No colour is longer than this; whatever is gets dropped.
const MAX_ESCAPE_BYTES: usize = 64;

impl Stream {
    /// One that lets colours (SGR) through.
    pub fn with_colours(keep_colours: bool) -> Self {
        Self {
            keep_colours,
            ..Self::default()
        }
    }

    /// The next piece, cleaned.
    pub fn clean(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.step(byte, &mut out);
        }
        out
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        match self.state {
            Escape::Plain => self.plain(byte, out),
            Escape::Started => {
                self.pending.push(byte);
                self.state = match byte {
                    b'[' => Escape::Csi,
                    b']' | b'P' | b'X' | b'^' | b'_' => Escape::Str,
                    b'(' | b')' | b'*' | b'+' | b'#' | b'%' | b' ' => Escape::OneMore,
                    0x1b => Escape::Started,
                    _ => Escape::Plain,
                };
            }
            Escape::Csi => {
                self.pending.push(byte);
                match byte {
                    // Parameters and intermediates.
                    0x20..=0x3f if self.pending.len() < MAX_ESCAPE_BYTES => {}
                    // The end of the sequence; only `m` is a colour.
                    0x40..=0x7e => {
                        if byte == b'm' && self.keep_colours {
                            out.append(&mut self.pending);
                        }
                        self.state = Escape::Plain;
                    }
                    0x1b => self.start(),
                    _ => self.state = Escape::Plain,
                }
            }
            Escape::Str => match byte {
                0x07 => self.state = Escape::Plain,
                0x1b => self.state = Escape::StrEnding,
                // A title does not span lines; without its end it would swallow the rest of the log.
                b'\n' => {
                    self.state = Escape::Plain;
                    out.push(byte);
                }
                _ => {}
            },
            Escape::StrEnding => {
                self.state = if byte == b'\\' {
                    Escape::Plain
                } else {
                    Escape::Str
                };
            }
            Escape::OneMore => self.state = Escape::Plain,
        }
    }

    fn plain(&mut self, byte: u8, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.after_c2) {
            // U+0080 to U+009F: the same controls in one character.
            if (0x80..=0x9f).contains(&byte) {
                if byte == 0x9b {
                    self.start();
                    self.pending.push(b'[');
                    self.state = Escape::Csi;
                }
                return;
            }
            out.push(0xc2);
        }
        match byte {
            0x1b => self.start(),
            0xc2 => self.after_c2 = true,
            b'\n' | b'\r' | b'\t' => out.push(byte),
            0..=0x1f | 0x7f => {}
            _ => out.push(byte),
        }
    }

    fn start(&mut self) {
        self.pending.clear();
        self.pending.push(0x1b);
        self.state = Escape::Started;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expected: &str) {
        assert_eq!(text(input), expected);
        // The same when it arrives byte by byte; carriage returns are a matter of `text` alone.
        if !input.contains('\r') {
            let mut stream = Stream::default();
            let pieces: Vec<u8> = input
                .bytes()
                .flat_map(|byte| stream.clean(&[byte]))
                .collect();
            let whole = String::from_utf8(pieces).unwrap();
            assert_eq!(
                whole.chars().filter(|c| !is_unsafe(*c)).collect::<String>(),
                expected
            );
        }
    }

    #[test]
    fn plain_text_is_untouched() {
        check(
            "loss 3.14, größer, 漢字\n\tnext",
            "loss 3.14, größer, 漢字\n\tnext",
        );
        assert!(matches!(text("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn escapes_are_taken_out_whole() {
        check("a\x1b[31mred\x1b[0m b", "ared b");
        check("title \x1b]0;owned\x07 gone", "title  gone");
        check("link \x1b]8;;http://x\x1b\\ gone", "link  gone");
        check("clip \x1b]52;c;AAAA\x1b\\end", "clip end");
        check("charset \x1b(0x", "charset x");
        check("c1 \u{9b}2Jx", "c1 x");
        check(
            "bell \x07 backspace \x08\x08 del \x7f nul \0",
            "bell  backspace  del  nul ",
        );
        check("never ends \x1b]0;abc\nnext", "never ends \nnext");
        check("turned \u{202e}round", "turned round");
        check("unfinished \x1b[12", "unfinished ");
    }

    #[test]
    fn a_carriage_return_does_not_hide_what_was_before() {
        check("safe\rdanger", "safe\ndanger");
        check("dos\r\nline", "dos\nline");
    }

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(line("a\nb\tc\x1b[2Jd\n"), "a b cd");
        assert!(matches!(line("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn colours_and_progress_bars_stay_in_a_log_that_wants_them() {
        let mut stream = Stream::with_colours(true);
        let clean = stream.clean(b"\x1b[1;31mred\x1b[0m 10%\r20%\x1b[2K\x1b[3A");
        assert_eq!(clean, b"\x1b[1;31mred\x1b[0m 10%\r20%");
    }

    #[test]
    fn what_is_no_utf8_passes_through_a_stream() {
        assert_eq!(
            Stream::default().clean(b"\xff\xfe \xc2x \xc3\xa4"),
            b"\xff\xfe \xc2x \xc3\xa4"
        );
    }
}
