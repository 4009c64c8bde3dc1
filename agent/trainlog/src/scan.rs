//! Finds every name with a number, every bracketed position, and every number with a unit, in one pass over a line.
//!
//! `{'loss': 2.5}`, `loss=2.5`, `Loss 2.5 (2.7)`, `elapsed time per iteration (ms): 849.6`, `[  50/1000]`, `3.5 ms/step`:
//! dictionaries, step lines and tables differ only in what stands between a name and its number.

mod text;

use crate::{number, unit};
pub use text::is_evaluation;
use text::{
    counted, digits, is_in_word, is_position_of_two, per_second, skip_spaces, total, wrapper,
};

/// How a number stands to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// `loss: 2`, `loss=2`, `'loss': 2`.
    Sign,
    /// `loss 2`: what prose does too.
    Space,
    /// There is no name: `2 tok/s`, `[10/20]`.
    None,
}

/// A number with what is written around it.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// The words before the number, at most [`MAX_WORDS`], as written; empty when there are none.
    pub name: &'a [u8],
    /// A unit in brackets after the name, such as `ms`.
    pub note: &'a [u8],
    /// How they are separated.
    pub separator: Separator,
    /// The number in square brackets, as in `[10/20]`.
    pub bracketed: bool,
    /// The number as printed.
    pub value: &'a [u8],
    /// The number after a slash: 4000 in `50/4000`.
    pub of: Option<&'a [u8]>,
    /// What follows the number: `ms` in `2ms`; empty when there is nothing.
    pub unit: &'a [u8],
    /// Where the name starts, or the number when there is no name.
    pub start: usize,
    /// Where the number starts.
    pub at: usize,
    /// Where number, total and unit end.
    pub end: usize,
}

/// Words of a name that are kept: `elapsed time per iteration` is four.
pub const MAX_WORDS: usize = 6;

/// All pairs of a line, from left to right.
#[derive(Debug)]
pub struct Scanner<'a> {
    line: &'a [u8],
    at: usize,
    /// Starts of the words of the name that is being read, the oldest first.
    words: [usize; MAX_WORDS],
    count: usize,
    /// Where the last word of the name ends.
    name_end: usize,
    /// Where the name and a note after it end: what comes next follows on.
    edge: usize,
    note: &'a [u8],
    /// Whether a word of evaluation stood by itself, in no pair's name.
    evaluation: bool,
    /// The number of `epoch3` comes next.
    glued: bool,
    /// The second number of `[1,  2000]` comes next.
    second: bool,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of `line`.
    pub fn new(line: &'a [u8]) -> Self {
        Self {
            line,
            at: 0,
            words: [0; MAX_WORDS],
            count: 0,
            name_end: 0,
            edge: 0,
            note: &[],
            evaluation: false,
            glued: false,
            second: false,
        }
    }

    /// Whether a word of evaluation stood by itself so far.
    pub fn evaluation(&self) -> bool {
        self.evaluation
    }

    fn forget(&mut self) {
        if self.count > 0 {
            self.evaluation |= (0..self.count).any(|index| is_evaluation(self.word_at(index)));
        }
        self.count = 0;
        self.note = &[];
    }

    fn word_at(&self, index: usize) -> &'a [u8] {
        let end = if index + 1 < self.count {
            self.words[index + 1]
        } else {
            self.name_end
        };
        let word = &self.line[self.words[index]..end];
        let end = word
            .iter()
            .position(|byte| matches!(byte, b' ' | b'(' | b')'))
            .unwrap_or(word.len());
        &word[..end]
    }

    /// A word: it goes on with the name when one space separates them.
    fn word(&mut self) {
        let start = self.at;
        let mut end = start;
        while self.line.get(end).is_some_and(|byte| is_in_word(*byte)) {
            end += 1;
        }
        // A full stop or dash after a word is not part of it; an escaped `\n` in a text is not a word.
        while end > start + 1 && matches!(self.line[end - 1], b'.' | b'-' | b'\'' | b'/') {
            end -= 1;
        }
        // Marian: `Up. 1000`, `L.r. 6e-05`: the full stop of a short word before a number is part of its name.
        let after = &self.line[end..];
        if end - start <= 3 && matches!(after, [b'.', b' ', b'0'..=b'9', ..]) {
            end += 1;
        }
        // `epoch3/10`: the number is none of the name's.
        let counted = counted(&self.line[start..end]);
        if counted > 0 {
            end = start + counted;
        }
        let goes_on = self.count > 0 && start == self.edge + 1 && self.line[self.edge] == b' ';
        if !goes_on {
            self.forget();
        }
        self.push_word(start, end);
        self.at = end;
        self.glued = counted > 0;
        self.bracket_after_word();
    }

    fn push_word(&mut self, start: usize, end: usize) {
        if self.count == MAX_WORDS {
            self.words.copy_within(1.., 0);
            self.count -= 1;
        }
        self.words[self.count] = start;
        self.count += 1;
        self.name_end = end;
        self.edge = end;
    }

    /// `Iter(train)` and `time (ms)`: a short word in brackets belongs to the name, a unit is noted.
    fn bracket_after_word(&mut self) {
        let space = usize::from(self.line.get(self.at) == Some(&b' '));
        let open = self.at + space;
        if self.line.get(open) != Some(&b'(') {
            return;
        }
        let inside = &self.line[open + 1..self.line.len().min(open + 12)];
        let length = inside
            .iter()
            .take_while(|byte| byte.is_ascii_alphabetic())
            .count();
        if length == 0 || inside.get(length) != Some(&b')') {
            return;
        }
        let inside = &inside[..length];
        let after = open + length + 2;
        if matches!(inside, b"ms" | b"s" | b"sec" | b"secs" | b"seconds" | b"us") {
            self.note = inside;
        } else if space == 1 && inside == b"data" {
            // `time (data): 0.3 (0.01)`: the second number is another's.
        } else if space == 0 {
            self.push_word(open + 1, after);
        } else {
            return;
        }
        self.edge = after;
        self.at = after;
    }

    /// After a name: `:` or `=`, perhaps behind a quote.
    fn sign(&mut self) -> Option<Pair<'a>> {
        let line = self.line;
        let mut at = self.at + 1;
        // `INFO:root:[1,  2000] loss: 2.3`
        if line[at..].first() == Some(&b'[') && is_position_of_two(&line[at..]) {
            self.forget();
            self.at = at;
            return None;
        }
        if line.get(at) == Some(&b'=') || line.get(at) == Some(&b'>') {
            at += 1;
        }
        // `Iteration: \t 0`
        at += line[at.min(line.len())..]
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        let mut bracketed = false;
        // `[` of a list, `(` of a tuple, a quote around the number, `$` before it.
        for _ in 0..3 {
            match line.get(at) {
                Some(b'[') => bracketed = true,
                Some(b'(' | b'"' | b'\'' | b'$' | b'~') => {}
                _ => break,
            }
            at = skip_spaces(line, at + 1);
        }
        at += wrapper(&line[at..]);
        let length = number::length(&line[at..]);
        if length == 0 {
            self.at += 1;
            return None;
        }
        Some(self.pair(Separator::Sign, bracketed, at, length))
    }

    fn pair(
        &mut self,
        separator: Separator,
        bracketed: bool,
        at: usize,
        length: usize,
    ) -> Pair<'a> {
        let line = self.line;
        let named = separator != Separator::None && self.count > 0;
        let name = if named {
            &line[self.words[0]..self.name_end]
        } else {
            self.forget();
            &[]
        };
        let start = if named { self.words[0] } else { at };
        let mut end = at + length;
        let of = total(line, end);
        if let Some((_, after)) = of {
            end = after;
        }
        let unit = self.unit(end);
        if !unit.is_empty() {
            end += usize::from(line[end] == b' ') + unit.len();
        }
        let pair = Pair {
            name,
            note: self.note,
            separator,
            bracketed,
            value: &line[at..at + length],
            of: of.map(|(text, _)| text),
            unit,
            start,
            at,
            end,
        };
        self.count = 0;
        self.note = &[];
        self.at = end;
        pair
    }

    /// The unit directly after a number, or a known one after a space.
    fn unit(&self, end: usize) -> &'a [u8] {
        let line = self.line;
        let space = usize::from(line.get(end) == Some(&b' '));
        let start = end + space;
        let length = line[start..]
            .iter()
            .take_while(|byte| {
                byte.is_ascii_alphabetic()
                    || matches!(byte, b'/' | b'%')
                    || (space == 1 && **byte == b'_')
            })
            .count();
        let length = length + per_second(&line[start + length..], space);
        let text = &line[start..start + length];
        // `12.3k tok/s`: thousands of what follows.
        if let (0, [b'k' | b'K' | b'M'], Some(b' ')) = (space, text, line.get(start + length)) {
            let after = start + length + 1;
            let more = line[after..]
                .iter()
                .take_while(|byte| byte.is_ascii_alphabetic() || **byte == b'/')
                .count();
            if unit::speed(&line[after..after + more]).is_some() {
                return &line[start..after + more];
            }
        }
        // In `norm=1 samples/s=2` the word after the space is the next name.
        let names_next = matches!(line.get(start + length), Some(b':' | b'='));
        if length == 0 || (space == 1 && (names_next || !unit::is_known(text))) {
            return &[];
        }
        text
    }

    /// A number that no sign introduces.
    fn bare(&mut self) -> Option<Pair<'a>> {
        let line = self.line;
        let at = self.at;
        let length = number::length(&line[at..]);
        if length == 0 {
            self.at += 1;
            return None;
        }
        let gap = &line[self.edge.min(at)..at];
        let glued = std::mem::take(&mut self.glued);
        let follows = self.count > 0
            && (glued || !gap.is_empty())
            && gap.iter().all(|byte| matches!(byte, b' ' | b'#'));
        let separator = if follows {
            Separator::Space
        } else {
            Separator::None
        };
        let pair = self.pair(separator, false, at, length);
        // The rest of a word such as `0x1f` or `2nd` is no name.
        while line
            .get(self.at)
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        {
            self.at += 1;
        }
        Some(pair)
    }

    /// `[10]`, `[  50/1000]`, `[640/60000 (1%)]`, with the name before it when there is one.
    fn bracket(&mut self) -> Option<Pair<'a>> {
        let line = self.line;
        let mut at = skip_spaces(line, self.at + 1);
        let mut length = digits(line, at);
        // MXNet tells since which batch: `Batch [40-60]`.
        if self.count > 0
            && line.get(at + length) == Some(&b'-')
            && self.word_at(self.count - 1).eq_ignore_ascii_case(b"batch")
        {
            at += length + 1;
            length = digits(line, at);
        }
        let leads = self.at == 0 || matches!(line[self.at - 1], b' ' | b':' | b'\t');
        if self.count == 0 && leads && is_position_of_two(&line[self.at..]) {
            let mut pair = self.pair(Separator::None, false, at, length);
            pair.bracketed = true;
            self.second = true;
            return Some(pair);
        }
        if let Some(after) = self.named_bracket() {
            self.forget();
            self.push_word(self.at + 1, after - 1);
            self.edge = after;
            self.at = after;
            return None;
        }
        let after = skip_spaces(line, at + length);
        if length == 0 || !matches!(line.get(after), Some(b'/' | b']')) {
            self.forget();
            self.at += 1;
            return None;
        }
        let gap = &line[self.edge.min(self.at)..self.at];
        let follows = self.count > 0 && gap.iter().all(|byte| *byte == b' ');
        let separator = if follows {
            Separator::Space
        } else {
            Separator::None
        };
        Some(self.bracketed(separator, at, length))
    }

    /// `[Loss] 0.31 | [step]  1199`: where the bracket ends that is the name of the number behind it.
    fn named_bracket(&self) -> Option<usize> {
        let inside = &self.line[self.at + 1..];
        let is_name = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
        let length = inside.iter().take_while(|byte| is_name(byte)).count();
        let after = self.at + length + 2;
        let closed = length > 1 && matches!(inside.get(length..), Some([b']', b' ', ..]));
        (closed
            && !is_evaluation(&inside[..length])
            && number::length(&self.line[skip_spaces(self.line, after)..]) > 0)
            .then_some(after)
    }

    fn bracketed(&mut self, separator: Separator, at: usize, length: usize) -> Pair<'a> {
        let line = self.line;
        let mut pair = self.pair(separator, true, at, length);
        // `[12/22 19:59:55]` is a date.
        let close = skip_spaces(line, pair.end);
        pair.bracketed = matches!(line.get(close), Some(b']' | b'('));
        if line.get(close) == Some(&b']') {
            pair.end = close + 1;
        }
        pair
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        if std::mem::take(&mut self.second) {
            let at = skip_spaces(self.line, self.at + 1);
            let length = digits(self.line, at);
            return Some(self.bracketed(Separator::None, at, length));
        }
        while let Some(byte) = self.line.get(self.at) {
            let found = match byte {
                b' ' => {
                    self.at += 1;
                    None
                }
                // `loss nan`; a name never ends in one.
                b'n' | b'N' | b'i' | b'I'
                    if self.count > 0 && number::length(&self.line[self.at..]) > 0 =>
                {
                    self.bare()
                }
                b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                    self.word();
                    None
                }
                b'0'..=b'9' => self.bare(),
                b'-' | b'+' | b'.' if self.number_starts() => self.bare(),
                b':' | b'=' if self.count > 0 && self.only_quotes_since_name() => {
                    let pair = self.sign();
                    if pair.is_none() && !self.bracket_follows() {
                        self.forget();
                    }
                    pair
                }
                b'[' => self.bracket(),
                b'"' | b'\'' if self.count > 0 && self.at == self.edge => {
                    self.at += 1;
                    None
                }
                b'#' => {
                    self.at += 1;
                    None
                }
                // `train_speed(iter/s): 0.5`, `tgs (tokens/gpu/second)=3811`: the unit is the better name.
                b')' if self.count > 0 && self.at == self.edge && self.sign_follows() => {
                    self.at += 1;
                    self.edge = self.at;
                    None
                }
                _ => {
                    self.forget();
                    self.at += 1;
                    None
                }
            };
            if found.is_some() {
                return found;
            }
        }
        self.forget();
        None
    }
}

impl Scanner<'_> {
    /// A sign or a full stop begins a number only after a space or an opening bracket.
    fn number_starts(&self) -> bool {
        let before = self.at.checked_sub(1).map_or(b' ', |at| self.line[at]);
        matches!(
            before,
            b' ' | b'(' | b'[' | b'|' | b',' | b'\t' | b'"' | b'\''
        ) && number::length(&self.line[self.at..]) > 0
    }

    /// A name that was closed by a bracket goes on with a sign, perhaps behind a quote.
    fn sign_follows(&self) -> bool {
        let rest = &self.line[self.at + 1..];
        matches!(rest, [b':' | b'=', ..] | [b'\'' | b'"', b':', ..])
    }

    fn only_quotes_since_name(&self) -> bool {
        self.line[self.edge.min(self.at)..self.at]
            .iter()
            .all(|byte| matches!(byte, b' ' | b'"' | b'\''))
    }

    /// `Epoch: [0]`: the sign is only decoration.
    fn bracket_follows(&self) -> bool {
        self.line.get(skip_spaces(self.line, self.at)) == Some(&b'[')
    }
}

#[cfg(test)]
mod tests;
