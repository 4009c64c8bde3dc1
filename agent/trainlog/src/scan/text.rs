//! What stands at a place of a line: totals, wrappers, positions of two numbers, words of evaluation.

use crate::number;

/// `tensor(2.5, device='cuda:0')`, `np.float64(0.5)`: how many bytes stand before the number.
pub(super) fn wrapper(text: &[u8]) -> usize {
    const WRAPPERS: [&[u8]; 8] = [
        b"tensor(",
        b"np.float64(",
        b"np.float32(",
        b"np.int64(",
        b"array(",
        b"Array(",
        b"Decimal('",
        b"jnp.array(",
    ];
    WRAPPERS
        .iter()
        .find(|wrapper| text.starts_with(wrapper))
        .map_or(0, |wrapper| wrapper.len())
}

/// `/4000` or `/ 4000` after a number: its text and where it ends.
pub(super) fn total(line: &[u8], end: usize) -> Option<(&[u8], usize)> {
    let slash = skip_spaces(line, end);
    if slash > end + 1 || line.get(slash) != Some(&b'/') {
        return None;
    }
    let at = skip_spaces(line, slash + 1);
    let length = match line.get(at) {
        Some(b'0'..=b'9') => number::length(&line[at..]),
        _ => 0,
    };
    (length > 0).then(|| (&line[at..at + length], at + length))
}

/// How many letters of `epoch3` or `epoch3/10` are the name; 0 for any other word.
pub(super) fn counted(word: &[u8]) -> usize {
    const NAME: &[u8] = b"epoch";
    let Some((name, number)) = word.split_at_checked(NAME.len()) else {
        return 0;
    };
    let first = digits(number, 0);
    let whole = first == number.len()
        || number[first] == b'/' && first + 1 + digits(number, first + 1) == number.len();
    if first > 0 && whole && name.eq_ignore_ascii_case(NAME) {
        NAME.len()
    } else {
        0
    }
}

/// How many bytes of ` per second` follow the word behind a number.
pub(super) fn per_second(rest: &[u8], space: usize) -> usize {
    let Some(after) = rest.strip_prefix(b" per sec").filter(|_| space == 1) else {
        return 0;
    };
    rest.len() - after.strip_prefix(b"ond").unwrap_or(after).len()
}

/// `[1,  2000]` or `[1,  250/ 2562]`, an epoch and the position in it, with more of the line behind it.
pub(super) fn is_position_of_two(text: &[u8]) -> bool {
    let first = skip_spaces(text, 1);
    let comma = first + digits(text, first);
    if comma == first || text.get(comma) != Some(&b',') || text.get(comma + 1) != Some(&b' ') {
        return false;
    }
    let second = skip_spaces(text, comma + 1);
    let mut end = second + digits(text, second);
    if end == second {
        return false;
    }
    if let Some((_, after)) = total(text, end) {
        end = after;
    }
    matches!(text[end..], [b']', b' ' | b':' | b'\t', ..])
}

/// How many digits stand there.
pub(super) fn digits(line: &[u8], from: usize) -> usize {
    line[from..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count()
}

pub(super) fn skip_spaces(line: &[u8], from: usize) -> usize {
    from + line[from.min(line.len())..]
        .iter()
        .take_while(|byte| **byte == b' ')
        .count()
}

pub(super) fn is_in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'.' | b'-' | b'@' | b'\'')
}

/// Words that say that a value or a line is of an evaluation.
pub fn is_evaluation(word: &[u8]) -> bool {
    const WORDS: [&[u8]; 12] = [
        b"val",
        b"valid",
        b"validation",
        b"validate",
        b"validating",
        b"eval",
        b"evaluation",
        b"evaluate",
        b"evaluating",
        b"test",
        b"testing",
        b"dev",
    ];
    WORDS.iter().any(|known| word.eq_ignore_ascii_case(known))
}
