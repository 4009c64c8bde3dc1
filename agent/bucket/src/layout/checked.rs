//! Names that come from elsewhere, checked before they become keys or paths; and the name of a commit (pure).

use std::{fmt, str::FromStr};

use ulid::Ulid;

/// Highest step that a commit's name can carry: twelve digits.
pub const MAX_STEP: u64 = 999_999_999_999;
/// Longest key that S3 takes, bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// Longest name of a run, bytes: it becomes part of every key.
pub const MAX_RUN_BYTES: usize = 128;
/// Longest component of a path, bytes: the limit of Linux file systems.
const MAX_COMPONENT_BYTES: usize = 255;

/// A name that cannot be part of a key or a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A path that would leave its directory, or that no file can have.
    #[error("path {path:?} is not usable: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A run's name with characters that mean something to S3 or a shell.
    #[error(
        "run name {0:?} is not usable: 1 to {MAX_RUN_BYTES} letters, digits, `.`, `_` and `-`, not beginning with `.`"
    )]
    Run(String),
    /// Not `<step, 12 digits>-<ulid>`.
    #[error("commit id {0:?} is not usable: it must be a step of 12 digits, `-` and a ULID")]
    Commit(String),
    /// A key that S3 would refuse.
    #[error("key of {0} bytes is longer than the {MAX_KEY_BYTES} that S3 takes")]
    KeyTooLong(usize),
}

/// Checks a path that came from elsewhere: relative, no `.` or `..`, no empty component, no NUL.
pub fn check_path(path: &str) -> Result<(), NameError> {
    let refuse = |reason| {
        Err(NameError::Path {
            path: path.chars().take(200).collect(),
            reason,
        })
    };
    if path.is_empty() {
        return refuse("it is empty");
    }
    if path.starts_with('/') {
        return refuse("it is absolute");
    }
    if path.contains('\0') {
        return refuse("it holds a NUL");
    }
    if path.len() > MAX_KEY_BYTES {
        return refuse("it is longer than a key may be");
    }
    for component in path.split('/') {
        match component {
            "" => return refuse("a component is empty"),
            "." | ".." => return refuse("a component is `.` or `..`"),
            _ if component.len() > MAX_COMPONENT_BYTES => {
                return refuse("a component is longer than 255 bytes");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks the name of a run.
pub fn check_run(run: &str) -> Result<(), NameError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if run.is_empty()
        || run.len() > MAX_RUN_BYTES
        || run.starts_with('.')
        || !run.bytes().all(plain)
    {
        return Err(NameError::Run(run.chars().take(200).collect()));
    }
    Ok(())
}

/// Name of a commit; ordered by step, then by time, and its text sorts the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId {
    /// Step; 0 for a checkpoint whose name has no number.
    pub step: u64,
    /// Unique part; begins with the time.
    pub ulid: Ulid,
}

impl CommitId {
    /// A new, unique name; a checkpoint without a step counts as step 0.
    ///
    /// A step beyond [`MAX_STEP`] is named as that: uniqueness and the order among all others stay.
    pub fn generate(step: Option<u64>) -> Self {
        Self {
            step: step.unwrap_or(0).min(MAX_STEP),
            ulid: Ulid::generate(),
        }
    }

    /// When the name was made, milliseconds since the epoch by its maker's clock.
    pub fn made_ms(&self) -> u64 {
        self.ulid.timestamp_ms()
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012}-{}", self.step, self.ulid)
    }
}

impl FromStr for CommitId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Commit(text.chars().take(200).collect());
        let (step, ulid) = text.split_once('-').ok_or_else(refused)?;
        if step.len() != 12 || !step.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused());
        }
        let id = Self {
            step: step.parse().map_err(|_| refused())?,
            ulid: Ulid::from_string(ulid).map_err(|_| refused())?,
        };
        // Lower case and the look-alikes of base 32 parse too, but would be a second name for the same commit.
        if id.to_string() != text {
            return Err(refused());
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ULID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    #[test]
    fn only_the_one_spelling_of_a_commit_id_parses() {
        fn check(text: &str, parses: bool) {
            assert_eq!(text.parse::<CommitId>().is_ok(), parses, "{text}");
        }
        check(&format!("000000000001-{ULID}"), true);
        check(&format!("999999999999-{ULID}"), true);
        check(&format!("00000000001-{ULID}"), false);
        check(&format!("+00000000001-{ULID}"), false);
        check(&format!("000000000001-{}", ULID.to_lowercase()), false);
        check(&format!("000000000001-{ULID}x"), false);
        check("000000000001", false);
        check("", false);
    }

    #[test]
    fn paths_that_leave_their_directory_are_refused() {
        for path in ["a", "a/b", "..a", "a..", "ä/ö", "a b", ".hidden"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
        for path in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b",
        ] {
            assert!(check_path(path).is_err(), "{path}");
        }
        assert!(check_path(&"a".repeat(256)).is_err());
        assert!(check_path(&"a/".repeat(600)).is_err());
    }
}
