//! Finds every name with a number, and every number with a known unit, in one pass over a line.

use super::number::number;

/// Units that may stand apart from their number. Any other word after a space is the next name.
const UNITS: [&str; 16] = [
    "ms",
    "s",
    "us",
    "ms/step",
    "s/step",
    "ms/iter",
    "s/iter",
    "ms/it",
    "s/it",
    "it/s",
    "tok/s",
    "tok/sec",
    "tokens/s",
    "tokens/sec",
    "samples/s",
    "samples/sec",
];

/// How a number stands to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// `loss: 2`, `loss=2`, `'loss': 2`.
    Sign,
    /// `loss 2`: what prose does too.
    Space,
    /// `2 tok/s`: there is no name.
    Unit,
}

/// A number with what is written around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair<'a> {
    /// The word directly before the name, as `val` in `val loss: 2`; empty when there is none.
    pub before: &'a [u8],
    /// The name; empty for a number that has only a unit.
    pub name: &'a [u8],
    /// How they are separated.
    pub separator: Separator,
    /// The number.
    pub value: f64,
    /// What follows it: `ms` in `2ms`; empty when there is nothing.
    pub unit: &'a [u8],
    /// The number after a slash: 4000 in `50/4000`.
    pub of: Option<f64>,
}

/// All pairs of a line, from left to right.
pub fn pairs(line: &[u8]) -> Pairs<'_> {
    Pairs {
        line,
        at: 0,
        before: &[],
    }
}

/// Iterator of [`pairs`].
#[derive(Debug)]
pub struct Pairs<'a> {
    line: &'a [u8],
    at: usize,
    before: &'a [u8],
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        while let Some(byte) = self.line.get(self.at) {
            let found = match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.word(),
                b'0'..=b'9' | b'.' | b'-' | b'+' => self.bare_number(),
                b' ' => {
                    self.at += 1;
                    None
                }
                _ => {
                    self.before = &[];
                    self.at += 1;
                    None
                }
            };
            if found.is_some() {
                self.before = &[];
                return found;
            }
        }
        None
    }
}

impl<'a> Pairs<'a> {
    /// A word, which is a name when a number follows.
    fn word(&mut self) -> Option<Pair<'a>> {
        let line = self.line;
        let start = self.at;
        let length = line[start..]
            .iter()
            .take_while(|byte| is_in_name(**byte))
            .count();
        self.at = start + length;
        let name = trim_end(&line[start..self.at]);
        let (after, separator) = self.separator();
        let Some((value, length)) = number(&line[after..]) else {
            self.before = if self.at - start == name.len() {
                name
            } else {
                &[]
            };
            return None;
        };
        let before = std::mem::take(&mut self.before);
        self.at = after + length;
        let of = self.total();
        Some(Pair {
            before,
            name,
            separator,
            value,
            unit: self.unit(),
            of,
        })
    }

    /// Skips what may stand between a name and its number: a closing quote, `:` or `=`, an opening quote or bracket.
    fn separator(&self) -> (usize, Separator) {
        let skip = |at: usize, wanted: &[u8]| {
            at + usize::from(self.line.get(at).is_some_and(|byte| wanted.contains(byte)))
        };
        let spaces = |at: usize| {
            at + self.line[at..]
                .iter()
                .take_while(|byte| **byte == b' ')
                .count()
        };
        let sign = spaces(skip(self.at, b"'\""));
        let after = skip(sign, b":=");
        let separator = if after > sign {
            Separator::Sign
        } else {
            Separator::Space
        };
        (skip(skip(spaces(after), b"["), b"'\""), separator)
    }

    /// A number without a name counts when a known unit follows.
    fn bare_number(&mut self) -> Option<Pair<'a>> {
        self.before = &[];
        let Some((value, length)) = number(&self.line[self.at..]) else {
            self.at += 1;
            return None;
        };
        self.at += length;
        let unit = self.unit();
        if is_unit(unit) {
            return Some(Pair {
                before: &[],
                name: &[],
                separator: Separator::Unit,
                value,
                unit,
                of: None,
            });
        }
        // The rest of a word such as `2nd` or `0x1f` is no name.
        self.at += self.line[self.at..]
            .iter()
            .take_while(|byte| is_in_name(**byte))
            .count();
        None
    }

    /// `/4000` directly after a number.
    fn total(&mut self) -> Option<f64> {
        let rest = self.line.get(self.at..)?.strip_prefix(b"/")?;
        let (value, length) = number(rest)?;
        self.at += 1 + length;
        Some(value)
    }

    /// The unit directly after a number, or a known one after a space.
    fn unit(&mut self) -> &'a [u8] {
        let line = self.line;
        let space = usize::from(line.get(self.at) == Some(&b' '));
        let start = self.at + space;
        let length = line[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphabetic() || **byte == b'/')
            .count();
        let unit = &line[start..start + length];
        // In `norm=1 samples/s=2` the word after the space is the next name.
        let names_next = matches!(line.get(start + length), Some(b':' | b'='));
        if length == 0 || (space == 1 && (names_next || !is_unit(unit))) {
            return &[];
        }
        self.at = start + length;
        unit
    }
}

fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'.' | b'-')
}

/// A full stop or dash after a word is not part of it.
fn trim_end(name: &[u8]) -> &[u8] {
    let kept = name
        .iter()
        .rposition(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        .map_or(0, |last| last + 1);
    &name[..kept]
}

fn is_unit(unit: &[u8]) -> bool {
    UNITS
        .iter()
        .any(|known| unit.eq_ignore_ascii_case(known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &str) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let got: Vec<String> = pairs(line.as_bytes())
            .map(|pair| {
                let Pair {
                    before,
                    name,
                    value,
                    unit,
                    of,
                    ..
                } = pair;
                let of = of.map_or_else(String::new, |of| format!("/{of}"));
                format!("{}.{}={value}{of}{}", text(before), text(name), text(unit))
            })
            .collect();
        assert_eq!(got.join(" "), expected, "{line}");
    }

    #[test]
    fn names_numbers_and_units_are_found() {
        check("{'loss': 2.5, 'lr': '1e-3'}", ".loss=2.5 .lr=0.001");
        check(
            "iter 100: loss 2.5, time 12.5ms, mfu 3%",
            ".iter=100 .loss=2.5 .time=12.5ms .mfu=3",
        );
        check(
            "step 50/4000 (1%) | val loss 2.9 | 3.5 ms/step | 1,184 tok/s",
            ".step=50/4000 val.loss=2.9 .=3.5ms/step .=1184tok/s",
        );
        check(
            "total time: 333.63m | learning rate: 2",
            "total.time=333.63m learning.rate=2",
        );
        check("lr=[5e-05, 6e-05] x", ".lr=0.00005");
        check("norm=1 samples/s=2 s: 3", ".norm=1 .samples/s=2 .s=3");
        check("tok/sec: 277,786 | a.b-c: 1", ".tok/sec=277786 .a.b-c=1");
    }

    #[test]
    fn other_text_has_no_pairs() {
        for line in [
            "",
            "no number",
            "12 34",
            "loss: none",
            "2nd 0x1f",
            "- . + -",
            "loss:",
            "loss =",
            "caf\u{e9} \u{2588}",
        ] {
            check(line, "");
        }
    }
}
