//! What a session is asked to be, and why it is not.

use std::{collections::BTreeMap, io, path::PathBuf};

use super::{again::Again, environment, fifo, tmux::TmuxError};

/// Longest command text; the contract bounds strings to it.
const COMMAND_LIMIT_BYTES: usize = 64 << 10;
const NAME_LIMIT: usize = 63;

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// Name: letters, digits, '-', '_', at most 63 characters.
    pub name: String,
    /// Shell text.
    pub command: String,
    /// Variables on top of the container's. May be secrets.
    pub env: BTreeMap<String, String>,
    /// Absolute working directory.
    pub dir: PathBuf,
    /// Longest time it may take, seconds; 0: no limit.
    pub timeout_s: u32,
    /// How the box may start it again by itself.
    pub again: Option<Again>,
    /// It goes on for the session of this name that started then, microseconds since the epoch, and with its log.
    pub continues_us: Option<u64>,
}

/// Why a session could not be started, ended or typed into.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A live session has this name.
    #[error("session `{0}` is running: end it first, or choose another name")]
    Taken(String),
    /// There is none of this name.
    #[error("there is no session `{0}`")]
    Missing(String),
    /// It has ended, or has no window.
    #[error("{0}")]
    NotNow(String),
    /// The shim did not come up.
    #[error("session `{name}` did not start: {reason}")]
    NotStarted {
        /// Name.
        name: String,
        /// The shim's own words.
        reason: String,
    },
    /// It was killed and is still there.
    #[error("session `{name}` did not end within {waited_s} s, SIGKILL included")]
    NotEnded {
        /// Name.
        name: String,
        /// How long we waited.
        waited_s: u64,
    },
    /// The window did not do what it should.
    #[error("session `{name}` was not reached")]
    Tmux {
        /// Name.
        name: String,
        /// Why.
        source: TmuxError,
    },
    /// The file system refused.
    #[error("session `{name}`: its files cannot be used")]
    Io {
        /// Name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Whether this can be started; its name apart.
pub(super) fn check(new: &NewSession) -> Result<(), SessionError> {
    let invalid = |text: String| Err(SessionError::Invalid(text));
    if new.command.trim().is_empty() || new.command.contains('\0') {
        return invalid("the command is empty, or holds a NUL character".to_owned());
    }
    if new.command.len() > COMMAND_LIMIT_BYTES {
        return invalid(format!(
            "the command has {} bytes, the limit is {COMMAND_LIMIT_BYTES}",
            new.command.len()
        ));
    }
    if let Some((name, _)) = new
        .env
        .iter()
        .find(|(name, value)| !environment::is_valid(name, value))
    {
        return invalid(format!(
            "variable `{name}` cannot be set: a name holds no `=`, neither holds a NUL character"
        ));
    }
    let env_bytes: usize = new
        .env
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    if env_bytes > fifo::LIMIT_BYTES {
        return invalid(format!(
            "the environment has {env_bytes} bytes, the limit is {}",
            fifo::LIMIT_BYTES
        ));
    }
    if !new.dir.is_dir() {
        return invalid(format!("there is no directory {}", new.dir.display()));
    }
    Ok(())
}

/// Whether a session can be called so.
pub(super) fn check_name(name: &str) -> Result<(), SessionError> {
    let fits = (1..=NAME_LIMIT).contains(&name.len());
    if fits
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    {
        return Ok(());
    }
    Err(SessionError::Invalid(format!(
        "`{}` is no name for a session: letters, digits, `-` and `_`, at most {NAME_LIMIT}",
        name.chars().take(NAME_LIMIT + 1).collect::<String>()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_tmux_or_a_path_would_change_are_refused() {
        for name in ["train", "a-b_9", &"x".repeat(63)] {
            check_name(name).unwrap();
        }
        for name in [
            "",
            "a.b",
            "a:b",
            "../x",
            ".previous",
            "a b",
            &"x".repeat(64),
        ] {
            assert!(
                matches!(check_name(name), Err(SessionError::Invalid(_))),
                "{name}"
            );
        }
    }
}
