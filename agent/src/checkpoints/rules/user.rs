//! The user's own rule for when a checkpoint is complete: `marker FILE`, `quiet 20s` or `command ...`.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use super::{Opinion, Silence, View};

/// Stands for the checkpoint's name in a marker's path.
const NAME: &str = "{name}";
/// Stands for its step.
const STEP: &str = "{step}";

/// When a checkpoint is complete, by the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompleteWhen {
    /// When this file is there and not older than the others: inside of a directory, or, with `{name}` or `{step}` in it, beside the
    /// checkpoint.
    Marker(String),
    /// When nothing has changed for so long.
    Quiet(Duration),
    /// When this shell command succeeds; `SPOTTER_CHECKPOINT` is the checkpoint's absolute path.
    Command(String),
}

/// Why a text is no such rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` says not when a checkpoint is complete: `marker FILE`, `quiet 20s` or `command ...`"
)]
pub struct NoRule {
    text: String,
}

impl FromStr for CompleteWhen {
    type Err = NoRule;

    /// Reads the form that the contract carries, in which `quiet` has milliseconds: `quiet 20000ms`.
    fn from_str(text: &str) -> Result<CompleteWhen, NoRule> {
        let no_rule = || NoRule {
            text: text.chars().take(200).collect(),
        };
        let (word, rest) = text
            .trim()
            .split_once(char::is_whitespace)
            .ok_or_else(no_rule)?;
        let rest = rest.trim();
        match word {
            "marker"
                if !rest.starts_with('/')
                    && rest.split('/').all(|part| !matches!(part, "" | "." | "..")) =>
            {
                Ok(CompleteWhen::Marker(rest.to_owned()))
            }
            "quiet" => {
                let milliseconds = rest
                    .strip_suffix("ms")
                    .and_then(|number| number.parse().ok());
                Ok(CompleteWhen::Quiet(Duration::from_millis(
                    milliseconds.ok_or_else(no_rule)?,
                )))
            }
            "command" => Ok(CompleteWhen::Command(rest.to_owned())),
            _ => Err(no_rule()),
        }
    }
}

impl fmt::Display for CompleteWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompleteWhen::Marker(path) => write!(f, "marker {path}"),
            CompleteWhen::Quiet(wait) => write!(f, "quiet {}ms", wait.as_millis()),
            CompleteWhen::Command(command) => write!(f, "command {command}"),
        }
    }
}

/// What a marker says. It must not be older than the files, or it belongs to an earlier save under the same name.
pub fn marker(view: &View<'_>, pattern: &str) -> io::Result<Opinion> {
    let done = Opinion::Done {
        rule: "marker",
        silence: Silence::File,
    };
    let is_beside = pattern.contains(NAME) || pattern.contains(STEP);
    if !is_beside && view.candidate.directory && !view.candidate.is_flat() {
        let Some(marker) = view.file(pattern) else {
            return Ok(Opinion::Missing(format!("{pattern} is not there")));
        };
        let later = view
            .candidate
            .files
            .iter()
            .find(|file| file.mtime_ns > marker.mtime_ns);
        return Ok(later.map_or(done, |later| {
            Opinion::Missing(format!("{} is newer than {pattern}", later.path))
        }));
    }
    let step = view
        .candidate
        .step
        .map_or_else(String::new, |step| step.to_string());
    let path = pattern.replace(NAME, view.name()).replace(STEP, &step);
    Ok(match view.disk.open(&path)? {
        Some(_) => done,
        None => Opinion::Missing(format!("{path} is not there")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        for text in [
            "marker DONE",
            "quiet 20000ms",
            "command test -e ok && true",
            "marker {name}.done",
        ] {
            assert_eq!(text.parse::<CompleteWhen>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "marker",
            "marker /etc/passwd",
            "marker ../x",
            "quiet soon",
            "quiet 20s",
            "always now",
        ] {
            assert!(text.parse::<CompleteWhen>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_marker_is_inside_or_beside_and_never_older() {
        let files = Memory::of(&[
            ("save-5/w.bin", 3, b"w"),
            ("save-5/DONE", 3, b""),
            ("save-5/EARLY", 2, b""),
            ("done/5", 9, b""),
            ("save-5.ok", 9, b""),
        ]);
        let candidate = files.candidate("save-5");
        let view = View {
            candidate: &candidate,
            disk: &files,
        };
        let says = |pattern: &str| match marker(&view, pattern).unwrap() {
            Opinion::Missing(what) => what,
            other => format!("{other:?}"),
        };
        for pattern in ["DONE", "done/{step}", "{name}.ok"] {
            assert!(says(pattern).contains("Done"), "{pattern}");
        }
        assert_eq!(says("EARLY"), "DONE is newer than EARLY");
        assert_eq!(says("READY"), "READY is not there");
        assert_eq!(says("{name}.no"), "save-5.no is not there");
    }
}
