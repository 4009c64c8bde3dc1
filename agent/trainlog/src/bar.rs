//! Progress bars: tqdm, rich, Keras and Ultralytics, each with its position, speed and the time that is left.
//!
//! `Training:  34%|###   | 17070/50000 [31:57<1:32:27,  5.94it/s, loss=0.13]`
//! `Epoch 3/9 ━━━━━━ 98/98 0:00:22 • 0:00:10 4.44it/s v_num: 0 train/loss: 1.5`
//! ` 37/43 [=====>...] - ETA: 21:00 - loss: 48.9`

use memchr::memmem;

use crate::{
    duration::duration,
    number::{Printed, Text, length},
    scan::{Scanner, is_evaluation},
    unit::{self, Unit},
};

/// One drawing of a bar.
#[derive(Debug, Clone, Copy)]
pub struct Bar<'a> {
    /// What stands before it: a name, or the trainer's metrics.
    pub prefix: &'a [u8],
    /// Where it stands.
    pub position: Printed,
    /// Where it ends.
    pub total: Option<Printed>,
    /// Its speed.
    pub rate: Option<(Printed, Unit)>,
    /// The time that is left, as printed.
    pub remaining: Option<Text>,
    /// What the trainer added.
    pub postfix: &'a [u8],
    /// What follows the bar on the same line.
    pub rest: &'a [u8],
    /// It counts bytes or files.
    pub foreign: bool,
}

/// Words in a bar's name that say it is the training.
const TRAINING: [&[u8]; 8] = [
    b"train", b"epoch", b"step", b"iter", b"optimi", b"fit", b"finetun", b"episode",
];

/// Words that say it is not, even beside one of the others.
const OTHER: [&[u8]; 22] = [
    b"eval",
    b"valid",
    b"test",
    b"load",
    b"predict",
    b"sanity",
    b"fetch",
    b"generat",
    b"sampl",
    b"inference",
    b"map",
    b"token",
    b"cach",
    b"warm",
    b"rollout",
    b"scan",
    b"comput",
    b"process",
    b"saving",
    b"upload",
    b"extract",
    b"images",
];

/// What the name of a bar says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It names the training.
    Training,
    /// It has no name.
    Unnamed,
    /// It names other work, or something unknown.
    Other,
}

impl Bar<'_> {
    /// What its name says.
    pub fn role(&self) -> Role {
        let name = self.name();
        if self.is_other_work() {
            Role::Other
        } else if name.is_empty() {
            Role::Unnamed
        } else if TRAINING.iter().any(|word| contains(name, word)) {
            Role::Training
        } else {
            Role::Other
        }
    }

    /// Whether its name says that it is of an evaluation: `Val`, `Epoch 3 val`, `[Dev] epoch 1/10`.
    pub fn is_evaluation(&self) -> bool {
        // What a metric is called says nothing of the bar behind it.
        let words = || {
            self.prefix
                .split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')
        };
        let starts = |word: &[u8], with: &[u8]| {
            word.len() >= with.len() && word[..with.len()].eq_ignore_ascii_case(with)
        };
        let is_other = |word: &[u8]| starts(word, b"train") || starts(word, b"loss");
        let is_word = |word: &[u8]| is_evaluation(word) || word.eq_ignore_ascii_case(b"tests");
        words().any(is_word) && !words().any(is_other)
    }

    /// Whether its name, or what it counts, says that it is not the training.
    pub fn is_other_work(&self) -> bool {
        let name = self.name();
        self.foreign || self.is_evaluation() || OTHER.iter().any(|word| contains(name, word))
    }

    /// The prefix without a rank and without a time stamp.
    fn name(&self) -> &[u8] {
        let mut name = self.prefix.trim_ascii();
        for _ in 0..3 {
            let Some(end) = prefix_end(name) else { break };
            name = name[end..].trim_ascii();
        }
        name.strip_suffix(b":").unwrap_or(name).trim_ascii()
    }
}

/// Where a prefix that others add ends: `[rank0]:`, `(Worker pid=12)`, `3:`, `[12:00:01]`.
fn prefix_end(name: &[u8]) -> Option<usize> {
    let close = |open: u8, close: u8| {
        (name.first() == Some(&open))
            .then(|| name.iter().position(|byte| *byte == close))
            .flatten()
            .map(|end| end + 1)
    };
    let bracket = close(b'[', b']').or_else(|| close(b'(', b')'));
    if let Some(end) = bracket {
        return Some(end + usize::from(name.get(end) == Some(&b':')));
    }
    let digits = name
        .iter()
        .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b':' | b'.' | b','))
        .count();
    (digits > 1).then_some(digits)
}

/// The first bar of a line.
pub fn parse(line: &[u8]) -> Option<Bar<'_>> {
    tqdm(line)
        .or_else(|| drawn(line))
        .or_else(|| keras(line))
        .or_else(|| plain(line))
        .or_else(|| endless(line))
        .or_else(|| logged(line))
}

/// `name:  34%|###   | 17/50 [31:57<1:32:27,  5.94it/s, loss=0.13]`
fn tqdm(line: &[u8]) -> Option<Bar<'_>> {
    let percent = percent_before(line, b'|')?;
    let prefix = before_percent(line, percent)?;
    let drawing = &line[percent + 2..];
    let counts = &drawing[memchr::memchr(b'|', drawing)? + 1..];
    let counted = Counted::read(counts.trim_ascii_start())?;
    let after = counted.rest.trim_ascii_start().strip_prefix(b"[")?;
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

/// tqdm-loggable: `Progress on:train 11.0it/20.0kit rate:3.4s/it remaining:18:53:20 elapsed:17:46 postfix:loss=9.51`
fn logged(line: &[u8]) -> Option<Bar<'_>> {
    const SIGN: &[u8] = b"Progress on:";
    let start = memmem::find(line, SIGN)? + SIGN.len();
    let name_end = start + memchr::memchr(b' ', &line[start..])?;
    let number = |text: &[u8]| {
        let (number, unit) = text.split_at(length(text));
        let scale = unit.strip_suffix(b"it")?;
        Printed::count(number, scale).filter(|_| !number.is_empty())
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
        foreign: counted.foreign,
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

fn time_left(text: &[u8]) -> Option<Text> {
    duration(text).map(Text::new)
}

fn is_duration(text: &[u8]) -> bool {
    duration(text).is_some_and(|taken| taken.len() == text.len())
}

/// Whether a text holds a lower-case word in any case.
fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len())
        .any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
