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
    /// When this file is there and not older than the checkpoint's: inside of a directory, or, with `{name}` or `{step}` in it, beside
    /// the checkpoint.
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

impl CompleteWhen {
    /// Whether a name at the top of the checkpoint directory is that of a marker, which is no checkpoint, whatever number is in it.
    pub fn is_marker(&self, name: &str) -> bool {
        let CompleteWhen::Marker(pattern) = self else {
            return false;
        };
        let begin = [NAME, STEP]
            .iter()
            .filter_map(|word| pattern.find(word))
            .min();
        let ends = [NAME, STEP].map(|word| pattern.rfind(word).map(|at| at + word.len()));
        let Some((begin, end)) = begin.zip(ends.into_iter().flatten().max()) else {
            return name == pattern;
        };
        let (before, after) = (&pattern[..begin], &pattern[end..]);
        let around = before.len() + after.len();
        around > 0 && name.len() > around && name.starts_with(before) && name.ends_with(after)
    }
}

/// What a marker says. It must not be older than the files, or it belongs to an earlier save under the same name.
pub fn marker(view: &View<'_>, pattern: &str) -> io::Result<Opinion> {
    let candidate = view.candidate;
    let is_beside = pattern.contains(NAME) || pattern.contains(STEP);
    let mut path = pattern.to_owned();
    let mut made_ns = None;
    if !is_beside && candidate.directory && !candidate.is_flat() {
        made_ns = view.file(pattern).map(|marker| marker.mtime_ns);
    } else {
        let step = candidate
            .step
            .map_or_else(String::new, |step| step.to_string());
        // Files of one step that lie side by side have no name in common: the newest marker of any of them counts.
        let names: Vec<&str> = if candidate.is_flat() {
            candidate
                .files
                .iter()
                .map(|file| file.path.as_str())
                .collect()
        } else {
            vec![view.name()]
        };
        for name in names.into_iter().rev() {
            let one = pattern.replace(NAME, name).replace(STEP, &step);
            let found = view.disk.stat(&one)?.map(|marker| marker.mtime_ns);
            if made_ns.is_none() || found > made_ns {
                (path, made_ns) = (one, found);
            }
        }
    }
    let Some(made_ns) = made_ns else {
        return Ok(Opinion::Missing(format!("{path} is not there")));
    };
    let later = candidate.files.iter().find(|file| file.mtime_ns > made_ns);
    Ok(match later {
        None => Opinion::Done {
            rule: "marker",
            silence: Silence::File,
        },
        Some(later) if later.path.is_empty() => {
            Opinion::Missing(format!("{} is newer than {path}", view.name()))
        }
        Some(later) => Opinion::Missing(format!("{} is newer than {path}", later.path)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;
    use super::*;

    fn says(files: &Memory, path: &str, pattern: &str) -> String {
        let candidate = files.candidate(path);
        let view = View {
            candidate: &candidate,
            disk: files,
            finished: &[],
        };
        match marker(&view, pattern).unwrap() {
            Opinion::Missing(what) => what,
            other => format!("{other:?}"),
        }
    }

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
            ("save-5.old", 2, b""),
            ("of/5", 2, b""),
        ]);
        let says = |pattern: &str| says(&files, "save-5", pattern);
        for pattern in ["DONE", "done/{step}", "{name}.ok"] {
            assert!(says(pattern).contains("Done"), "{pattern}");
        }
        assert_eq!(says("EARLY"), "DONE is newer than EARLY");
        assert_eq!(says("READY"), "READY is not there");
        assert_eq!(says("{name}.no"), "save-5.no is not there");
        assert_eq!(says("{name}.old"), "DONE is newer than save-5.old");
        assert_eq!(says("of/{step}"), "DONE is newer than of/5");
    }

    #[test]
    fn files_side_by_side_have_the_marker_of_any_of_them() {
        let of = |weights: i64, marker: i64| {
            Memory::of(&[
                ("optim_100.bin", 3, b"o"),
                ("weights_100.bin", weights, b"w"),
                ("weights_100.bin.ok", marker, b""),
            ])
        };
        for pattern in ["{name}.ok", "weights_{step}.bin.ok"] {
            assert!(says(&of(3, 3), ".", pattern).contains("Done"), "{pattern}");
            assert_eq!(
                says(&of(5, 4), ".", pattern),
                "weights_100.bin is newer than weights_100.bin.ok"
            );
        }
        assert_eq!(
            says(&of(3, 3), ".", "{name}.no"),
            "optim_100.bin.no is not there"
        );
    }

    #[test]
    fn a_marker_is_no_checkpoint() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let when: CompleteWhen = format!("marker {pattern}").parse().unwrap();
            assert_eq!(when.is_marker(name), expected, "{pattern}: {name}");
        };
        check("{name}.ok", "save-5.ok", true);
        check("{name}.ok", "save-5", false);
        check("{name}.ok", ".ok", false);
        check("ok-{step}", "ok-5", true);
        check("ok-{name}-{step}.txt", "ok-save-5-5.txt", true);
        check("ok-{name}-{step}.txt", "ok.txt", false);
        check("DONE_1.txt", "DONE_1.txt", true);
        check("{name}", "save-5", false);
        assert!(!CompleteWhen::Quiet(Duration::ZERO).is_marker("save-5.ok"));
    }
}
