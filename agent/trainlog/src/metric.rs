//! One value that a user names, as the training's log prints it: `val_loss`, `eval/accuracy`.
//!
//! The name is the whole phrase before the number. `_`, `/`, `.`, `-` and a space are the same in it, and so are large and small
//! letters; `loss` is not found in `val loss 2.5`, which is another value.

use std::fmt;

use crate::{
    lines::{self, Lines},
    number,
};

/// Longest name, bytes.
const MAX_NAME_BYTES: usize = 64;

/// Why a name is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricError(pub String);

impl fmt::Display for MetricError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` names no value in a log: letters, digits, `_`, `/`, `.`, `-` and spaces, at most {MAX_NAME_BYTES}, with a letter in it",
            self.0
        )
    }
}

impl std::error::Error for MetricError {}

/// A value by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Small letters, with `_` for all that joins words.
    name: Vec<u8>,
}

impl Metric {
    /// A value of this name.
    ///
    /// # Errors
    /// When no log could print it so.
    pub fn new(name: &str) -> Result<Self, MetricError> {
        let fits = (1..=MAX_NAME_BYTES).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || joins(byte))
            && name.bytes().any(|byte| byte.is_ascii_alphabetic())
            && !name.starts_with(' ')
            && !name.ends_with(' ');
        if !fits {
            return Err(MetricError(name.to_owned()));
        }
        Ok(Self {
            name: name.bytes().map(plain).collect(),
        })
    }

    /// The value in one line without terminal codes; of several the last. May be no finite number, when the log says so.
    pub fn value(&self, line: &[u8]) -> Option<f64> {
        let length = self.name.len();
        let starts = 0..(line.len() + 1).saturating_sub(length);
        starts.rev().find_map(|start| {
            let is_it = line[start..start + length]
                .iter()
                .zip(&self.name)
                .all(|(printed, name)| plain(*printed) == *name);
            if !is_it || continues_a_phrase(&line[..start]) {
                return None;
            }
            number_after(&line[start + length..])
        })
    }
}

/// Follows one log for one value.
#[derive(Debug)]
pub struct MetricReader {
    metric: Metric,
    lines: Lines,
}

impl MetricReader {
    /// A reader at the start of a log.
    pub fn new(metric: Metric) -> Self {
        Self {
            metric,
            lines: Lines::default(),
        }
    }

    /// Reads the next bytes, in pieces of any size; the newest value of the lines that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<f64> {
        let (metric, mut found) = (&self.metric, None);
        self.lines.feed(bytes, &mut |block| {
            for raw in block.split(|byte| matches!(byte, b'\n' | b'\r')) {
                lines::clean(raw, &mut |line| found = metric.value(line).or(found));
            }
        });
        found
    }
}

/// Whether it joins the words of a name.
fn joins(byte: u8) -> bool {
    matches!(byte, b'_' | b'/' | b'.' | b'-' | b' ')
}

fn plain(byte: u8) -> u8 {
    if joins(byte) {
        b'_'
    } else {
        byte.to_ascii_lowercase()
    }
}

/// Whether what stands before a name belongs to it: `val_` or `train ` before `loss`. A word in capitals is the level of a log line.
fn continues_a_phrase(before: &[u8]) -> bool {
    match before.last() {
        None => false,
        Some(b' ') => {
            let words = before.trim_ascii_end();
            let start = words
                .iter()
                .rposition(|byte| !byte.is_ascii_alphanumeric())
                .map_or(0, |at| at + 1);
            let word = &words[start..];
            word.iter().any(u8::is_ascii_lowercase)
        }
        Some(byte) => byte.is_ascii_alphanumeric() || joins(*byte),
    }
}

/// The number that a name is followed by, after at most a quote, a colon or an equals sign, and spaces.
fn number_after(rest: &[u8]) -> Option<f64> {
    let rest = match rest {
        [b'\'' | b'"', rest @ ..] => rest,
        rest => rest,
    };
    let text = match rest.trim_ascii_start() {
        [b':' | b'=', text @ ..] => text.trim_ascii_start(),
        // Without a sign between, at least a space: `loss2` is another name.
        text if text.len() < rest.len() => text,
        _ => return None,
    };
    let text = match text {
        [b'\'' | b'"', rest @ ..] => rest,
        text => text,
    };
    let length = number::length(text);
    (length > 0).then(|| number::parse(&text[..length]))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_name_as_it_is_printed() {
        for (name, line, expected) in [
            ("eval_loss", "{'eval_loss': 2.25, 'epoch': 1.0}", Some(2.25)),
            ("eval_loss", "{\"eval_loss\": \"2.25\"}", Some(2.25)),
            (
                "val_loss",
                "step 250: train loss 2.4, val loss 2.5",
                Some(2.5),
            ),
            (
                "train_loss",
                "step 250: train loss 2.4, val loss 2.5",
                Some(2.4),
            ),
            ("loss", "step 250: train loss 2.4, val loss 2.5", None),
            ("loss", "iter 10: loss 2.5, time 3ms", Some(2.5)),
            ("loss", "epoch 3 loss 2.5", Some(2.5)),
            ("loss", "INFO loss=2.5", Some(2.5)),
            ("loss", "loss2 2.5 train_loss=3 loss_scale: 4", None),
            ("val/acc", "Val Acc: 91.5%", Some(91.5)),
            ("accuracy", "| accuracy=1e-1 | accuracy = 0.5", Some(0.5)),
            ("acc", "loss 2.3 acc 0.5", Some(0.5)),
            ("val_loss", "val_loss: nan", Some(f64::NAN)),
            ("val_loss", "val_loss improved from 2.5", None),
            ("val_loss", "best_val_loss: 1", None),
            ("val_loss", "val_loss", None),
            ("val_loss", "", None),
            ("perplexity", "perplexity: 1,234.5", Some(1234.5)),
        ] {
            let found = Metric::new(name).unwrap().value(line.as_bytes());
            let same = match (found, expected) {
                (Some(found), Some(expected)) if expected.is_nan() => found.is_nan(),
                _ => found == expected,
            };
            assert!(same, "{name} in {line:?}: {found:?}");
        }
    }

    #[test]
    fn a_name_has_a_letter_and_nothing_that_no_log_prints() {
        for (name, fits) in [
            ("val_loss", true),
            ("eval/mAP.50-95", true),
            ("", false),
            ("12", false),
            (" loss", false),
            ("los\u{e9}", false),
            ("a=b", false),
            (&"x".repeat(65), false),
        ] {
            assert_eq!(Metric::new(name).is_ok(), fits, "{name:?}");
        }
    }

    #[test]
    fn pieces_of_any_size_bars_and_colours_are_read() {
        let log = b"step 1\nval_loss: 3.5\r10%|# | val_loss=2.5\r\n\x1b[32mval_loss\x1b[0m: 1.5\nval_loss: 9";
        for size in [1, 2, 7, log.len()] {
            let mut reader = MetricReader::new(Metric::new("val_loss").unwrap());
            let found: Vec<f64> = log
                .chunks(size)
                .filter_map(|piece| reader.feed(piece))
                .collect();
            assert_eq!(found.last(), Some(&1.5), "in pieces of {size}: {found:?}");
            if size == 1 {
                assert_eq!(found, [3.5, 2.5, 1.5]);
            }
        }
    }
}
