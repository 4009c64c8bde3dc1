//! Progress bars: tqdm, rich, Keras and Ultralytics, each with its position, speed and the time that is left.
//!
//! `Training:  34%|###   | 17070/50000 [31:57<1:32:27,  5.94it/s, loss=0.13]`
//! `Epoch 3/9 ━━━━━━ 98/98 0:00:22 • 0:00:10 4.44it/s v_num: 0 train/loss: 1.5`
//! ` 37/43 [=====>...] - ETA: 21:00 - loss: 48.9`

mod shapes;

use crate::{
    number::{Printed, Text},
    scan::{Scanner, Separator, is_evaluation},
    unit::Unit,
};
pub use shapes::parse;

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
const OTHER: [&[u8]; 24] = [
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
    b"captur",
    b"render",
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
        } else if TRAINING.iter().any(|word| contains(name, word)) {
            Role::Training
        } else if name.is_empty() || is_values(name) {
            Role::Unnamed
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

/// Whether measured values, and no amounts, stand where a name would: `d: -23.5;gen: -0.2`, not `size: 1.5 GB`.
fn is_values(name: &[u8]) -> bool {
    let mut pairs = Scanner::new(name).peekable();
    let measures = pairs.peek().is_some_and(|first| {
        let measured = memchr::memchr(b'.', first.value).is_some();
        first.start == 0 && first.separator == Separator::Sign && measured
    });
    let mut end = 0;
    let bare = pairs.all(|pair| {
        end = pair.end;
        matches!(pair.unit, b"" | b"%")
    });
    measures && bare && !name[end..].iter().any(u8::is_ascii_alphabetic)
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

/// Whether a text holds a lower-case word in any case.
fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len())
        .any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
