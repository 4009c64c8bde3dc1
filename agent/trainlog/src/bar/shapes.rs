//! The shapes of bars: how each of them writes its counts, its speed and what is left.

use memchr::memmem;

use super::Bar;
use crate::{
    duration::duration,
    number::{Printed, Text, length},
    scan::Scanner,
    unit::{self, Unit},
};

/// The first bar of a line.
pub fn parse(line: &[u8]) -> Option<Bar<'_>> {
    tqdm(line)
        .or_else(|| drawn(line))
        .or_else(|| keras(line))
        .or_else(|| plain(line))
        .or_else(|| endless(line))
        .or_else(|| undrawn(line))
        .or_else(|| logged(line))
        .or_else(|| notebook(line))
}

/// `name:  34%|###   | 17/50 [31:57<1:32:27,  5.94it/s, loss=0.13]`
fn tqdm(line: &[u8]) -> Option<Bar<'_>> {
    let percent = percent_before(line, b'|')?;
    let prefix = before_percent(line, percent)?;
    let drawing = &line[percent + 2..];
    let counts = &drawing[memchr::memchr(b'|', drawing)? + 1..];
    let counted = Counted::read(counts.trim_ascii_start())?;
    let rest = counted.rest.trim_ascii_start();
    // Composer names what it counts: `10/625 ba [00:05<05:00,  2.05ba/s]`.
    let rest = rest.strip_prefix(b"ba ").unwrap_or(rest);
    let after = rest.strip_prefix(b"[")?;
    Some(bracketed(prefix, counted, after))
}

/// `name: 100% 3/3 [00:05<00:00,  1.75s/it]`: the drawing itself was left out.
fn plain(line: &[u8]) -> Option<Bar<'_>> {
    let percent = percent_before(line, b' ')?;
    let prefix = before_percent(line, percent)?;
    let counted = Counted::read(line[percent + 2..].trim_ascii_start())?;
    let after = counted.rest.trim_ascii_start().strip_prefix(b"[")?;
    starts_with_time(after).then(|| bracketed(prefix, counted, after))
}

/// `name: 51it [00:20,  2.53it/s]`, `name: |   | 51/? [00:20<00:00,  2.53it/s]`: nobody knows how many there are.
fn endless(line: &[u8]) -> Option<Bar<'_>> {
    let open = memchr::memchr_iter(b'[', line)
        .find(|open| line[..*open].ends_with(b"it ") || line[..*open].ends_with(b"/? "))?;
    let unit = open - 3;
    let digits = line[..unit]
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let after = &line[unit + 4..];
    if digits == 0 || !starts_with_time(after) {
        return None;
    }
    let counted = Counted {
        position: Printed::position(&line[unit - digits..unit], b"")?,
        total: None,
        foreign: false,
        rest: &[],
    };
    let drawn = line[open - 2] == b'?';
    let name_end = memchr::memchr(b'|', line).filter(|bar| drawn && *bar < unit - digits);
    let name = &line[..name_end.unwrap_or(unit - digits)];
    Some(bracketed(name, counted, after))
}

/// `name 4975/4975 [08:42<00:00,  9.52it/s]`: neither drawing nor percentage, as text copied from a notebook.
fn undrawn(line: &[u8]) -> Option<Bar<'_>> {
    let open = memchr::memchr_iter(b'[', line).find(|open| {
        let after = &line[open + 1..];
        let time = after
            .iter()
            .take_while(|byte| byte.is_ascii_digit() || **byte == b':')
            .count();
        line[..*open].ends_with(b" ") && starts_with_time(after) && after.get(time) == Some(&b'<')
    })?;
    let head = &line[..open - 1];
    let counts = head
        .iter()
        .rposition(|byte| !byte.is_ascii_digit() && *byte != b'/')
        .map_or(0, |before| before + 1);
    // `2.5/10` is no count.
    let cut = matches!(head[..counts].last(), Some(b'.' | b',' | b'-' | b'_'));
    let counted =
        Counted::read(&head[counts..]).filter(|counted| counted.rest.is_empty() && !cut)?;
    Some(bracketed(&head[..counts], counted, &line[open + 1..]))
}

/// The HF Trainer in a notebook: `[ 22/290 02:50 < 38:04, 0.12 it/s, Epoch 0.36/5]`, at the end `[290/290 41:02, Epoch 5/5]`.
fn notebook(line: &[u8]) -> Option<Bar<'_>> {
    memmem::find(line, b", Epoch ")?;
    let open = memchr::memchr(b'[', line)?;
    let counted = Counted::read(line[open + 1..].trim_ascii_start())?;
    let after = counted.rest.strip_prefix(b" ")?;
    let time = after
        .iter()
        .take_while(|byte| byte.is_ascii_digit() || **byte == b':')
        .count();
    let goes_on = after[time..].starts_with(b" < ") || after[time..].starts_with(b", Epoch ");
    (starts_with_time(after) && goes_on).then(|| bracketed(&line[..open], counted, after))
}

/// tqdm-loggable: `Progress on:train 11.0it/20.0kit rate:3.4s/it remaining:18:53:20 elapsed:17:46 postfix:loss=9.51`
fn logged(line: &[u8]) -> Option<Bar<'_>> {
    const SIGN: &[u8] = b"Progress on:";
    let start = memmem::find(line, SIGN)? + SIGN.len();
    let name_end = start + memchr::memchr(b' ', &line[start..])?;
    let number = |text: &[u8]| {
        let (number, unit) = text.split_at(length(text));
        let scale = unit.strip_suffix(b"it")?;
        // A product such as 8.11 times a thousand is no whole number.
        let count = Printed::count(number, scale).or_else(|| Printed::position(number, scale));
        count.filter(|_| !number.is_empty())
    };
    let field = |name: &[u8]| {
        let at = memmem::find(&line[name_end..], name)? + name_end + name.len();
        let rest = &line[at..];
        Some(&rest[..memchr::memchr(b' ', rest).unwrap_or(rest.len())])
    };
    let counts = field(b" ")?;
    let slash = memchr::memchr(b'/', counts)?;
    let postfix = memmem::find(line, b" postfix:").map_or(line.len(), |at| at + 9);
    Some(Bar {
        prefix: &line[start..name_end],
        position: number(&counts[..slash])?,
        total: number(&counts[slash + 1..]),
        rate: field(b" rate:").and_then(speed).flatten(),
        remaining: field(b" remaining:").and_then(time_left),
        postfix: &line[postfix..],
        rest: &[],
        foreign: false,
    })
}

/// Bars of box drawing characters: rich, Ultralytics, Keras 3.
fn drawn(line: &[u8]) -> Option<Bar<'_>> {
    // All of them are drawn with characters of the block that begins with these two bytes in UTF-8.
    let any = memchr::memchr(0xe2, line)?;
    let first = memmem::find(&line[any..], "━".as_bytes())
        // At 0 % Ultralytics draws only the thin line; other programs underline headings with it.
        .or_else(|| {
            memmem::find(&line[any - 2.min(any)..], "% ─".as_bytes()).map(|at| at + 2 - 2.min(any))
        })?
        + any;
    let end = first
        + line[first..]
            .iter()
            .take_while(|byte| !byte.is_ascii() || **byte == b' ')
            .count();
    let head = line[..first].trim_ascii_end();
    if let Some(counted) = Counted::read(&line[end..]) {
        let head = match head.strip_suffix(b"%") {
            Some(_) => before_percent(line, head.len() - 1)?,
            None => head,
        };
        return Some(spaced(head, counted));
    }
    // Keras 3 counts before it draws.
    let counts = head
        .iter()
        .rposition(|byte| !byte.is_ascii_digit() && *byte != b'/')
        .map_or(0, |before| before + 1);
    let counted = Counted::read(&head[counts..])?;
    Some(dashed(&head[..counts], counted, &line[end..]))
}

/// ` 37/43 [=====>...] - ETA: 21:00 - loss: 48.9`
fn keras(line: &[u8]) -> Option<Bar<'_>> {
    let open = memchr::memchr_iter(b'[', line).find(|open| {
        line[..*open].ends_with(b" ") && matches!(line.get(open + 1), Some(b'=' | b'>' | b'.'))
    })? - 1;
    let head = &line[..open];
    let counts = head
        .iter()
        .rposition(|byte| !byte.is_ascii_digit() && *byte != b'/')
        .map_or(0, |before| before + 1);
    let counted = Counted::read(&head[counts..])?;
    let drawing = &line[open + 2..];
    let close = memchr::memchr(b']', drawing)?;
    drawing[..close]
        .iter()
        .all(|byte| matches!(byte, b'=' | b'>' | b'.'))
        .then(|| dashed(&head[..counts], counted, &drawing[close + 1..]))
}

/// Where the first percent sign stands that `next` follows.
fn percent_before(line: &[u8], next: u8) -> Option<usize> {
    memchr::memchr_iter(b'%', line).find(|at| line.get(at + 1) == Some(&next))
}

/// What stands before the digits of a percentage.
fn before_percent(line: &[u8], percent: usize) -> Option<&[u8]> {
    let digits = line[..percent]
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit() || **byte == b'.')
        .count();
    (digits > 0).then(|| &line[..percent - digits])
}

/// `17070/50000` and what follows.
struct Counted<'a> {
    position: Printed,
    total: Option<Printed>,
    foreign: bool,
    rest: &'a [u8],
}

impl<'a> Counted<'a> {
    fn read(text: &'a [u8]) -> Option<Self> {
        let (position, unit, rest) = count(text)?;
        let (total, total_unit, rest) = count(rest.strip_prefix(b"/")?)?;
        let is_scale = |unit: &[u8]| matches!(unit, b"" | b"k" | b"K" | b"M");
        Some(Self {
            position,
            total: Some(total),
            foreign: !is_scale(unit) || !is_scale(total_unit),
            rest,
        })
    }
}

/// A count with the letters behind it.
fn count(text: &[u8]) -> Option<(Printed, &[u8], &[u8])> {
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    let length = length(text);
    let letters = text[length..]
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic())
        .count();
    let (unit, rest) = text[length..].split_at(letters);
    Some((Printed::position(&text[..length], unit)?, unit, rest))
}

/// `31:57` or `1:32:27` or `?`, as tqdm's bracket begins.
fn starts_with_time(text: &[u8]) -> bool {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && text.get(digits) == Some(&b':')
}

/// The bracket of tqdm: `31:57<1:32:27,  5.94it/s, loss=0.13]`.
fn bracketed<'a>(prefix: &'a [u8], counted: Counted<'a>, after: &'a [u8]) -> Bar<'a> {
    let end = closing(after);
    let (inside, rest) = (&after[..end], after.get(end + 1..).unwrap_or_default());
    let mut postfix = inside;
    let mut remaining = None;
    let mut rate = None;
    // The times, then the speed; either may be missing.
    let (first, others) = split_at_comma(postfix);
    if let Some(less) = memchr::memchr(b'<', first) {
        remaining = time_left(first[less + 1..].trim_ascii());
        postfix = others;
    } else if starts_with_time(first) {
        postfix = others;
    }
    let (first, others) = split_at_comma(postfix);
    if let Some(found) = speed(first.trim_ascii()) {
        rate = found;
        postfix = others;
    }
    let mut bar = Bar {
        prefix,
        position: counted.position,
        total: counted.total,
        rate,
        remaining,
        postfix,
        rest,
        foreign: counted.foreign,
    };
    bar.foreign |= is_foreign_speed(first.trim_ascii());
    bar
}

/// What rich and Ultralytics print behind the count: `0:00:22 • 0:00:10 4.44it/s v_num: 0`, `4.0s/it 1:26<8:33`.
fn spaced<'a>(prefix: &'a [u8], counted: Counted<'a>) -> Bar<'a> {
    let mut rate = None;
    let mut remaining = None;
    let mut times = 0;
    let mut at = 0;
    let text = counted.rest;
    while at < text.len() {
        let start = at
            + text[at..]
                .iter()
                .take_while(|byte| !byte.is_ascii() || byte.is_ascii_whitespace())
                .count();
        let length = text[start..]
            .iter()
            .take_while(|byte| byte.is_ascii() && !byte.is_ascii_whitespace())
            .count();
        let word = &text[start..start + length];
        if let Some(less) = memchr::memchr(b'<', word) {
            remaining = time_left(&word[less + 1..]);
        } else if let Some(found) = speed(word) {
            rate = found.or(rate);
        } else if starts_with_time(word) || word.starts_with(b"-:--") {
            times += 1;
            if times == 2 {
                remaining = time_left(word);
            }
        } else if !is_duration(word) {
            break;
        }
        at = start + length;
    }
    Bar {
        prefix,
        position: counted.position,
        total: counted.total,
        rate,
        remaining,
        postfix: &text[at..],
        rest: &[],
        foreign: counted.foreign || counts_bytes(text),
    }
}

/// What Keras prints behind the drawing: ` - ETA: 21:00 - loss: 48.9`, ` 47s 108ms/step - loss: 0.5`.
fn dashed<'a>(prefix: &'a [u8], counted: Counted<'a>, after: &'a [u8]) -> Bar<'a> {
    let mut bar = Bar {
        prefix,
        position: counted.position,
        total: counted.total,
        rate: None,
        remaining: None,
        postfix: after,
        rest: &[],
        foreign: counted.foreign,
    };
    for pair in Scanner::new(after) {
        if pair.name.eq_ignore_ascii_case(b"eta") {
            bar.remaining = duration(&after[pair.at..]).map(Text::new);
        } else if let (true, Some(unit)) = (pair.name.is_empty(), unit::speed(pair.unit)) {
            bar.rate = Printed::measure(pair.value).map(|value| (value, unit));
        }
    }
    bar
}

/// The end of the bracket that was opened before `text`.
fn closing(text: &[u8]) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' if depth == 0 => return at,
            b']' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

fn split_at_comma(text: &[u8]) -> (&[u8], &[u8]) {
    memchr::memchr(b',', text).map_or((text, &[]), |comma| (&text[..comma], &text[comma + 1..]))
}

/// `5.94it/s`; `?it/s` is a speed that is not known yet, hence a second option.
fn speed(text: &[u8]) -> Option<Option<(Printed, Unit)>> {
    if let Some(unit) = text.strip_prefix(b"?") {
        return unit::speed(unit.trim_ascii()).map(|_| None);
    }
    let length = length(text);
    let unit = unit::speed(text[length..].trim_ascii()).filter(|_| length > 0)?;
    Some(Printed::measure(&text[..length]).map(|value| (value, unit)))
}

/// `120MB/s`, `998 examples/s`: what is transferred or prepared, not trained.
fn is_foreign_speed(text: &[u8]) -> bool {
    let letters = &text[length(text)..].trim_ascii();
    letters.ends_with(b"B/s")
        || letters.ends_with(b"file/s")
        || letters.ends_with(b"files/s")
        || letters.ends_with(b"examples/s")
}

/// What pip writes behind its counts: ` MB 5.6 MB/s eta 0:00:01`.
fn counts_bytes(text: &[u8]) -> bool {
    let mut words = text.split(|byte| *byte == b' ');
    words.find(|word| !word.is_empty()).is_some_and(|word| {
        matches!(
            word,
            b"bytes" | b"kB" | b"KB" | b"MB" | b"GB" | b"KiB" | b"MiB" | b"GiB"
        )
    })
}

fn time_left(text: &[u8]) -> Option<Text> {
    duration(text).map(Text::new)
}

fn is_duration(text: &[u8]) -> bool {
    duration(text).is_some_and(|taken| taken.len() == text.len())
}
