//! The user's own expression for the lines that show progress.

use std::fmt;

use regex_lite::Regex;

use crate::{
    number::{self, Printed},
    record::Record,
    unit::Unit,
};

/// Groups that an expression may have.
pub const GROUPS: [&str; 8] = [
    "step",
    "total",
    "epoch",
    "loss",
    "lr",
    "tokens_per_s",
    "samples_per_s",
    "step_time_s",
];

/// An expression with at least one of [`GROUPS`].
#[derive(Debug, Clone)]
pub struct Progress(Regex);

/// Why a text is no such expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressError {
    /// It is no regular expression; the reason in words.
    Malformed(String),
    /// It has a group of this name, which stands for nothing.
    Unknown(String),
    /// It has no named group.
    Nameless,
}

impl fmt::Display for ProgressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => f.write_str(why),
            Self::Unknown(name) => write!(f, "no value is called `{name}`"),
            Self::Nameless => f.write_str("it has no named group"),
        }
    }
}

impl std::error::Error for ProgressError {}

impl Progress {
    /// Reads an expression such as `iteration (?<step>\d+) of (?<total>\d+): (?<loss>\S+)`.
    pub fn new(text: &str) -> Result<Self, ProgressError> {
        let expression =
            Regex::new(text).map_err(|err| ProgressError::Malformed(err.to_string()))?;
        let mut names = expression.capture_names().flatten().peekable();
        if names.peek().is_none() {
            return Err(ProgressError::Nameless);
        }
        if let Some(unknown) = names.find(|name| !GROUPS.contains(name)) {
            return Err(ProgressError::Unknown(unknown.to_owned()));
        }
        drop(names);
        Ok(Self(expression))
    }

    /// What the expression finds in a line.
    pub(crate) fn read(&self, line: &[u8]) -> Option<Record> {
        let line = String::from_utf8_lossy(line);
        let found = self.0.captures(&line)?;
        let number = |name: &str| {
            let text = found.name(name)?.as_str().trim().as_bytes();
            let length = number::length(text);
            (length > 0).then(|| text.split_at(length))
        };
        let measure = |name: &str| number(name).and_then(|(number, _)| Printed::measure(number));
        let count =
            |name: &str| number(name).and_then(|(number, unit)| Printed::count(number, unit));
        let mut record = Record {
            step: count("step"),
            total_steps: count("total"),
            epoch: measure("epoch"),
            loss: measure("loss"),
            learning_rate: measure("lr"),
            ..Record::default()
        };
        for (name, unit) in [
            ("tokens_per_s", Unit::Tokens),
            ("samples_per_s", Unit::Samples),
            ("step_time_s", Unit::SecondsPerStep),
        ] {
            if let Some(value) = measure(name) {
                record.add_speed(value, unit);
            }
        }
        (record.step.is_some() || record.has_metrics()).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_needs_groups_that_stand_for_something() {
        for (text, expected) in [
            (r"(?<step>\d+)", None),
            (r"(?P<loss>\S+) (?<lr>\S+)", None),
            (r"(\d+)", Some(ProgressError::Nameless)),
            (
                r"(?<speed>\d+)",
                Some(ProgressError::Unknown("speed".to_owned())),
            ),
        ] {
            assert_eq!(Progress::new(text).err(), expected, "{text}");
        }
        assert!(matches!(
            Progress::new("("),
            Err(ProgressError::Malformed(_))
        ));
    }
}
