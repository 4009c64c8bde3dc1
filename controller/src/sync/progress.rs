//! How far a copy is, read from what rsync prints (pure).

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that were sent.
    pub bytes: u64,
    /// Share of all bytes, percent; `None` when the size in all is not known.
    pub percent: Option<u8>,
    /// Files done and in all; 0 when not known.
    pub files: (u64, u64),
}

/// Cuts rsync's output, which overwrites its line by carriage returns, into lines and reads each.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub(super) fn feed(&mut self, bytes: &[u8], tell: &mut dyn FnMut(Progress)) {
        const LINE_LIMIT_BYTES: usize = 4096;
        for byte in bytes {
            if matches!(byte, b'\r' | b'\n') {
                if let Some(progress) = parse(&self.0) {
                    tell(progress);
                }
                self.0.clear();
            } else if self.0.len() < LINE_LIMIT_BYTES {
                self.0.push(*byte);
            }
        }
    }
}

/// `     32,768  42%  1.23MB/s    0:00:01 (xfr#3, to-chk=7/12)`
fn parse(line: &[u8]) -> Option<Progress> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    let bytes = words
        .next()?
        .chars()
        .filter(|c| !matches!(c, ',' | '.'))
        .collect::<String>()
        .parse()
        .ok()?;
    let percent = words
        .next()?
        .strip_suffix('%')?
        .parse()
        .ok()
        .filter(|percent| *percent <= 100);
    words.next().filter(|rate| rate.ends_with("/s"))?;
    let files = text
        .split_once("-chk=")
        .and_then(|(_, rest)| rest.trim_end_matches(')').split_once('/'))
        .and_then(|(left, all)| Some((left.parse::<u64>().ok()?, all.parse::<u64>().ok()?)))
        .map_or((0, 0), |(left, all)| (all.saturating_sub(left), all));
    Some(Progress {
        bytes,
        percent,
        files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_rsync_are_read() {
        let check = |line: &str, expected: Option<(u64, Option<u8>, (u64, u64))>| {
            let expected = expected.map(|(bytes, percent, files)| Progress {
                bytes,
                percent,
                files,
            });
            assert_eq!(parse(line.as_bytes()), expected, "{line}");
        };
        check(
            "     49,345,678 100%   63.21MB/s    0:00:00 (xfr#2003, to-chk=0/2003)",
            Some((49_345_678, Some(100), (2003, 2003))),
        );
        check(
            "         32,768  42%    1.23MB/s    0:00:01  ",
            Some((32_768, Some(42), (0, 0))),
        );
        check(
            "  1.024   0%    0.00kB/s    0:00:00 (xfr#1, ir-chk=7/12)",
            Some((1024, Some(0), (5, 12))),
        );
        check("Number of files: 12 (reg: 10, dir: 2)", None);
        check(
            "sent 1,234 bytes  received 56 bytes  860.00 bytes/sec",
            None,
        );
        check("", None);
        check("99 200% 1MB/s", Some((99, None, (0, 0))));
    }

    #[test]
    fn carriage_returns_end_a_line_even_between_reads() {
        let mut seen = Vec::new();
        let mut lines = Lines::default();
        for piece in [
            "  1,000  10% 1.0kB/s 0:00:01\r  2,0",
            "00  20% 1.0kB/s 0:00:01\r",
            "junk\n",
        ] {
            lines.feed(piece.as_bytes(), &mut |progress| seen.push(progress.bytes));
        }
        assert_eq!(seen, [1000, 2000]);
    }
}
