//! How far a copy is, read from what rsync prints, and how far several are together (pure).

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that were sent.
    pub bytes: u64,
    /// Share of all bytes, percent; `None` when the size in all is not known.
    pub percent: Option<u8>,
    /// All bytes; `None` when not known.
    pub total_bytes: Option<u64>,
    /// Files done and in all; 0 when not known.
    pub files: (u64, u64),
}

impl Progress {
    /// Bytes in all, as far as they are known, 0 where nothing is: never fewer than were `told` before. Where only the share is known, which
    /// rsync cuts down to whole percents, there are at least as many as would be one percent further.
    pub fn least_bytes(&self, told: u64) -> u64 {
        let least = match (self.total_bytes, self.percent) {
            (None, None) if told == 0 => return 0,
            (Some(total), _) => total,
            (None, Some(percent @ 0..100)) => {
                self.bytes.saturating_mul(100) / (u64::from(percent) + 1)
            }
            (None, _) => self.bytes,
        };
        least.max(self.bytes).max(told)
    }
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
        total_bytes: None,
        files,
    })
}

/// How far several copies at once are together, told as one.
pub(super) struct Sum<'a> {
    streams: Vec<Progress>,
    /// Files and bytes that need no copy.
    there: (u64, u64),
    all: (u64, u64),
    tell: &'a mut (dyn FnMut(Progress) + Send),
}

impl<'a> Sum<'a> {
    /// `there` and `all`: files and bytes that lie here already, and in all.
    pub(super) fn new(
        streams: usize,
        there: (u64, u64),
        all: (u64, u64),
        tell: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Sum<'a> {
        let mut sum = Sum {
            streams: vec![Progress::default(); streams],
            there,
            all,
            tell,
        };
        sum.tell();
        sum
    }

    /// One of them says how far it is. After a broken link it begins to count anew, and is not believed until it has caught up.
    pub(super) fn set(&mut self, stream: usize, at: Progress) {
        let slot = &mut self.streams[stream];
        slot.bytes = slot.bytes.max(at.bytes);
        slot.files.0 = slot.files.0.max(at.files.0);
        self.tell();
    }

    fn tell(&mut self) {
        let bytes: u64 = self.streams.iter().map(|at| at.bytes).sum();
        let files: u64 = self.streams.iter().map(|at| at.files.0).sum();
        let (all_files, all_bytes) = self.all;
        let bytes = (self.there.1 + bytes).min(all_bytes);
        let percent = bytes.saturating_mul(100).checked_div(all_bytes);
        (self.tell)(Progress {
            bytes,
            percent: percent.and_then(|percent| u8::try_from(percent).ok()),
            total_bytes: Some(all_bytes),
            files: ((self.there.0 + files).min(all_files), all_files),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_copies_are_told_as_one_that_never_goes_back() {
        let mut told = Vec::new();
        let mut tell = |at: Progress| told.push((at.bytes, at.percent, at.files));
        let mut sum = Sum::new(2, (1, 100), (4, 400), &mut tell);
        let at = |bytes, files| Progress {
            bytes,
            files: (files, 2),
            ..Progress::default()
        };
        sum.set(0, at(60, 1));
        sum.set(1, at(40, 0));
        // Begun anew after a broken link.
        sum.set(0, at(10, 0));
        // rsync counts what changed meanwhile, too.
        sum.set(0, at(300, 2));
        drop(sum);
        let expected = [
            (100, Some(25), (1, 4)),
            (160, Some(40), (2, 4)),
            (200, Some(50), (2, 4)),
            (200, Some(50), (2, 4)),
            (400, Some(100), (3, 4)),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_copied_in_all_never_shrinks_and_is_reached_in_the_end() {
        let mut told = 0;
        for (bytes, percent, total_bytes, expected) in [
            (0, Some(0), None, 0),
            // Nothing is known yet: that is not all there is.
            (7, None, None, 0),
            (19, Some(0), None, 1900),
            // Of 2,000 bytes: what a cut percentage promised would fall.
            (39, Some(1), None, 1950),
            (40, Some(2), None, 1950),
            (1000, Some(50), None, 1960),
            // Begun anew after a broken link.
            (10, Some(1), None, 1960),
            (2000, Some(100), None, 2000),
            (2000, None, Some(1500), 2000),
            (2000, None, Some(3000), 3000),
            (3500, None, None, 3500),
        ] {
            let at = Progress {
                bytes,
                percent,
                total_bytes,
                files: (0, 0),
            };
            told = at.least_bytes(told);
            assert_eq!(told, expected, "{at:?}");
        }
    }

    #[test]
    fn lines_of_rsync_are_read() {
        let check = |line: &str, expected: Option<(u64, Option<u8>, (u64, u64))>| {
            let expected = expected.map(|(bytes, percent, files)| Progress {
                bytes,
                percent,
                total_bytes: None,
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
