//! Numbers as people print them: signs, exponents, thousands separators, `nan` and `inf`.

/// Reads a number at the start of `text`: its value and how many bytes it took.
pub fn number(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let unsigned = &text[sign..];
    let (value, length) = word(unsigned).or_else(|| digits(unsigned))?;
    let value = if text.first() == Some(&b'-') {
        -value
    } else {
        value
    };
    Some((value, sign + length))
}

/// `nan`, `inf` and `infinity` in any case.
fn word(text: &[u8]) -> Option<(f64, usize)> {
    let length = text
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric())
        .count();
    let word = &text[..length];
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    if is("nan") {
        Some((f64::NAN, length))
    } else if is("inf") || is("infinity") {
        Some((f64::INFINITY, length))
    } else {
        None
    }
}

/// `1,184,689.5e-3`. A comma belongs to the number when exactly three digits follow, and at most three come before.
fn digits(text: &[u8]) -> Option<(f64, usize)> {
    let run = |from: usize| {
        text[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut end = run(0);
    if end == 0 && text.first() != Some(&b'.') {
        return None;
    }
    let mut separated = false;
    if (1..=3).contains(&end) {
        while text.get(end) == Some(&b',') && run(end + 1) == 3 {
            end += 4;
            separated = true;
        }
    }
    if text.get(end) == Some(&b'.') {
        let fraction = run(end + 1);
        if fraction == 0 && end == 0 {
            return None;
        }
        end += 1 + fraction;
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(end + 1), Some(b'-' | b'+')));
        let exponent = run((end + 1 + sign).min(text.len()));
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let text = std::str::from_utf8(&text[..end]).expect("only ASCII was taken");
    let value = if separated {
        text.replace(',', "").parse()
    } else {
        text.parse()
    };
    value.ok().map(|value| (value, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_far_as_they_go() {
        for (text, expected) in [
            ("12", Some((12.0, 2))),
            ("-0.5,", Some((-0.5, 4))),
            ("1e-3 ", Some((1e-3, 4))),
            ("8.550940E+00|", Some((8.55094, 12))),
            ("5e", Some((5.0, 1))),
            ("3em", Some((3.0, 1))),
            ("1,184,689 tok", Some((1_184_689.0, 9))),
            ("277,786.5", Some((277_786.5, 9))),
            ("1,23", Some((1.0, 1))),
            ("1,2345", Some((1.0, 1))),
            ("1234,567", Some((1234.0, 4))),
            ("2.", Some((2.0, 2))),
            (".5", Some((0.5, 2))),
            ("-inf", Some((f64::NEG_INFINITY, 4))),
            ("Infinity", Some((f64::INFINITY, 8))),
            ("nano", None),
            (".", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text}");
        }
        assert!(number(b"NaN,").is_some_and(|(value, length)| value.is_nan() && length == 3));
    }
}
