//! Durations as people print them.

use crate::number::length;

/// A duration at the start of a text: `1:32:27`, `1 day, 3:11:10`, `10 days, 2:00:00`, `1h 23m`, `119.3s`.
pub fn duration(text: &[u8]) -> Option<&[u8]> {
    let digits = |from: usize| {
        text[from.min(text.len())..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let clock = |from: usize| {
        let mut end = from + digits(from);
        let mut colons = 0;
        while text.get(end) == Some(&b':') && digits(end + 1) == 2 {
            end += 3;
            colons += 1;
        }
        if end > from && text.get(end) == Some(&b'.') && colons > 0 {
            end += 1 + digits(end + 1);
        }
        (colons > 0).then_some(end)
    };
    if let Some(end) = clock(0) {
        return Some(&text[..end]);
    }
    let days = digits(0);
    for word in [&b" day, "[..], b" days, ", b" day ", b" days "] {
        if days > 0 && text[days..].starts_with(word) {
            return clock(days + word.len()).map(|end| &text[..end]);
        }
    }
    // Numbers with units, until something else comes.
    let mut end = 0;
    let mut at = 0;
    loop {
        let number = length(&text[at..]);
        if number == 0 {
            break;
        }
        let space = usize::from(text.get(at + number) == Some(&b' '));
        let unit_at = at + number + space;
        let letters = text[unit_at..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphabetic())
            .count();
        let known: &[&[u8]] = &[
            b"ms", b"s", b"sec", b"secs", b"second", b"seconds", b"m", b"min", b"mins", b"minute",
            b"minutes", b"h", b"hr", b"hrs", b"hour", b"hours", b"d", b"day", b"days",
        ];
        if !known.contains(&&text[unit_at..unit_at + letters]) {
            break;
        }
        end = unit_at + letters;
        at = end + text[end..].iter().take_while(|byte| **byte == b' ').count();
    }
    (end > 0).then(|| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_taken_whole() {
        for (text, expected) in [
            ("0:10:12  iter", "0:10:12"),
            ("1 day, 3:11:10, time", "1 day, 3:11:10"),
            ("10 days, 3:23:11", "10 days, 3:23:11"),
            ("119.3s", "119.3s"),
            ("1h 23m left", "1h 23m"),
            ("05:18,", "05:18"),
            ("12 apples", ""),
            ("", ""),
        ] {
            let got = duration(text.as_bytes()).unwrap_or_default();
            assert_eq!(got, expected.as_bytes(), "{text}");
        }
    }
}
