//! Numbers as people print them: signs, exponents, thousands separators, `nan` and `inf`, and a copy of what was printed.

use std::fmt;

use serde::{Serialize, Serializer};

/// Longest text that is kept of a printed value, in bytes.
const TEXT_BYTES: usize = 31;

/// A short text held in place: records are made by the million.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text {
    length: u8,
    bytes: [u8; TEXT_BYTES],
}

impl Text {
    /// The first 31 bytes of `text`, without thousands separators between digits.
    fn of_number(text: &[u8]) -> Self {
        Self::collect(text.iter().copied().filter(|byte| *byte != b','))
    }

    /// The first 31 bytes of `text`.
    pub(crate) fn new(text: &[u8]) -> Self {
        Self::collect(text.iter().copied())
    }

    fn collect(text: impl Iterator<Item = u8>) -> Self {
        let mut bytes = [0; TEXT_BYTES];
        let mut length = 0;
        // Only ASCII is kept, so that the text is valid wherever it is cut.
        for byte in text.filter(u8::is_ascii).take(TEXT_BYTES) {
            bytes[length] = byte;
            length += 1;
        }
        Self {
            length: u8::try_from(length).expect("at most 31"),
            bytes,
        }
    }

    /// The text's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.bytes()).expect("only ASCII was kept")
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A number and how the log wrote it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Printed {
    /// As printed, without thousands separators; counts also without zero padding.
    pub text: Text,
    /// What it means: `15K` is 15,000.
    pub value: f64,
}

impl Printed {
    /// A measured value; `text` must be a number as [`length`] finds it.
    pub(crate) fn measure(text: &[u8]) -> Option<Self> {
        Some(Self {
            text: Text::of_number(text),
            value: parse(text)?,
        })
    }

    /// A count such as a step: never negative, never with a fraction other than `.0`; `unit` may be `K` or `M`.
    pub(crate) fn count(text: &[u8], unit: &[u8]) -> Option<Self> {
        let mut printed = Self::position(text, unit)?;
        if printed.value.fract() != 0.0 {
            return None;
        }
        if let Some(whole) = text.strip_suffix(b".0").filter(|whole| !whole.is_empty()) {
            printed.text = Self::position(whole, unit)?.text;
        }
        Some(printed)
    }

    /// As [`Self::count`], with a fraction: an epoch, or the 312.5 steps of a bar.
    pub(crate) fn position(text: &[u8], unit: &[u8]) -> Option<Self> {
        let value = parse(text).filter(|value| *value >= 0.0 && value.is_finite())?;
        let (scale, shown) = match unit {
            b"k" | b"K" => (1e3, unit),
            b"M" => (1e6, unit),
            b"B" => (1e9, unit),
            _ => (1.0, &b""[..]),
        };
        let padding = text.iter().take_while(|byte| **byte == b'0').count();
        let padding = if text.get(padding).is_some_and(u8::is_ascii_digit) {
            padding
        } else {
            padding.saturating_sub(1)
        };
        let kept = text[padding..].iter().chain(shown).copied();
        Some(Self {
            text: Text::collect(kept.filter(|byte| *byte != b',')),
            value: value * scale,
        })
    }

    /// The value as a count; `None` for what is none.
    pub fn whole(&self) -> Option<u64> {
        (self.value >= 0.0 && self.value < u64::MAX as f64).then_some(self.value as u64)
    }
}

impl Serialize for Printed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

/// How many bytes of `text` are a number; 0 when it does not start with one.
pub fn length(text: &[u8]) -> usize {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let unsigned = &text[sign..];
    let length = match unsigned.first() {
        Some(b'0'..=b'9' | b'.') => digits(unsigned),
        Some(b'n' | b'N' | b'i' | b'I') => word(unsigned),
        _ => 0,
    };
    if length == 0 { 0 } else { sign + length }
}

/// `nan`, `inf` and `infinity` in any case.
fn word(text: &[u8]) -> usize {
    let length = text
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
        .count();
    let is = |name: &[u8]| text[..length].eq_ignore_ascii_case(name);
    if is(b"nan") || is(b"inf") || is(b"infinity") {
        length
    } else {
        0
    }
}

/// `1,184,689.5e-3`. A comma belongs to the number when exactly three digits follow, and at most three come before.
fn digits(text: &[u8]) -> usize {
    let run = |from: usize| {
        text[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut end = run(0);
    if (1..=3).contains(&end) && text[0] != b'0' {
        while text.get(end) == Some(&b',') && run(end + 1) == 3 {
            end += 4;
        }
    }
    if text.get(end) == Some(&b'.') {
        let fraction = run(end + 1);
        // Without digits behind it, it may be the full stop of a sentence, and says nothing.
        if fraction > 0 {
            end += 1 + fraction;
        }
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(end + 1), Some(b'-' | b'+')));
        let exponent = run((end + 1 + sign).min(text.len()));
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    end
}

/// The value of a text that [`length`] took for a number.
pub fn parse(text: &[u8]) -> Option<f64> {
    if let Some(value) = parse_short(text) {
        return Some(value);
    }
    let separated = text.contains(&b',');
    let text = std::str::from_utf8(text).ok()?;
    if separated {
        text.replace(',', "").parse().ok()
    } else {
        text.parse().ok()
    }
}

/// Plain decimals of at most 15 digits. Digits and power of ten are exact then, and so is their quotient's rounding.
fn parse_short(text: &[u8]) -> Option<f64> {
    const POWERS: [f64; 16] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
    ];
    let (negative, unsigned) = match text {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    if unsigned.is_empty() || unsigned.len() > 16 {
        return None;
    }
    let mut mantissa = 0_u64;
    let mut digits = 0;
    let mut point = None;
    for byte in unsigned {
        match byte {
            b'0'..=b'9' => {
                mantissa = mantissa * 10 + u64::from(byte - b'0');
                digits += 1;
            }
            b'.' if point.is_none() => point = Some(digits),
            _ => return None,
        }
    }
    if digits == 0 || digits > 15 {
        return None;
    }
    let value = mantissa as f64 / POWERS[digits - point.unwrap_or(digits)];
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_as_far_as_they_go() {
        for (text, taken, value) in [
            ("12", 2, 12.0),
            ("-0.5,", 4, -0.5),
            ("1e-3 ", 4, 1e-3),
            ("8.550940E+00|", 12, 8.55094),
            ("5e", 1, 5.0),
            ("3em", 1, 3.0),
            ("1,184,689 tok", 9, 1_184_689.0),
            ("277,786.5", 9, 277_786.5),
            ("0,123", 1, 0.0),
            ("1,23", 1, 1.0),
            ("1,2345", 1, 1.0),
            ("1234,567", 4, 1234.0),
            ("2.", 1, 2.0),
            (".5", 2, 0.5),
            ("-inf", 4, f64::NEG_INFINITY),
            ("Infinity", 8, f64::INFINITY),
        ] {
            assert_eq!(length(text.as_bytes()), taken, "{text}");
            assert_eq!(parse(&text.as_bytes()[..taken]), Some(value), "{text}");
        }
        for text in ["nano", "nan_loss", ".", "-", "", "info"] {
            assert_eq!(length(text.as_bytes()), 0, "{text}");
        }
        assert!(parse(b"NaN").is_some_and(f64::is_nan));
    }

    #[test]
    fn counts_lose_padding_separators_and_a_zero_fraction() {
        for (text, unit, expected) in [
            ("0001000", "", Some(("1000", 1000.0))),
            ("0", "", Some(("0", 0.0))),
            ("000", "", Some(("0", 0.0))),
            ("1,000", "", Some(("1000", 1000.0))),
            ("15", "K", Some(("15K", 15_000.0))),
            ("6023.0", "", Some(("6023", 6023.0))),
            ("2e+3", "", Some(("2e+3", 2000.0))),
            ("0.5", "", None),
            ("-1", "", None),
            ("nan", "", None),
        ] {
            let got = Printed::count(text.as_bytes(), unit.as_bytes());
            let got = got.map(|printed| (printed.text.as_str().to_owned(), printed.value));
            let expected = expected.map(|(text, value)| (text.to_owned(), value));
            assert_eq!(got, expected, "{text}{unit}");
        }
    }

    #[test]
    fn short_decimals_are_what_the_standard_library_makes_of_them() {
        for text in [
            "0",
            "7",
            "-0.5",
            "2.5",
            "10.5",
            "0.1",
            "0.3",
            "123456789.012345",
            "999999999999999",
            "0.00000000000001",
            ".5",
            "3.",
            "1234567890123456",
            "1e5",
            "1.2.3",
            "-",
            "",
        ] {
            let short = parse_short(text.as_bytes());
            assert!(
                short.is_none() || short == text.parse().ok(),
                "{text}: {short:?}"
            );
        }
        assert_eq!(parse_short(b"0.3"), Some(0.3));
    }

    #[test]
    fn measures_are_kept_as_printed() {
        for (text, expected) in [
            ("0.000E+00", "0.000E+00"),
            ("1,234.50", "1234.50"),
            ("nan", "nan"),
            ("0.03", "0.03"),
        ] {
            let printed = Printed::measure(text.as_bytes()).unwrap();
            assert_eq!(printed.text.as_str(), expected);
        }
    }
}
