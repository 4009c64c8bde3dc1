//! `CommandError`: what a verb could not do, why, and what to type next; and the exit codes.
//!
//! The dispatcher adds what is still rented (the `money:` line) from the run store, so that no verb can forget it;
//! [`crate::ui::Ui::error`] prints all of it.

use std::{error::Error, fmt};

use crate::{provider::ProviderError, store::StoreError};

/// The kind of a failure; it picks the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It could not be done: 1.
    Failed,
    /// The command line, a configuration or a run file is wrong: 2.
    Usage,
    /// `wait`: the training crashed: 10.
    Crashed,
    /// `wait`: the time given for waiting is over: 11.
    TimedOut,
    /// `wait`: interrupted and not recovered: 12.
    Interrupted,
    /// `wait`: the box is no more and nothing could be recovered: 13.
    Lost,
    /// `wait`: ended because what it did contradicted its estimate: 14.
    Contradicted,
    /// `wait`: ended because a limit of the run file was reached: 15.
    Limit,
    /// `plan`: this run cannot be rented as it is written: 20.
    NoGo,
    /// A mistake in spotter itself: 101.
    Bug,
}

impl ErrorKind {
    /// Exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Crashed => 10,
            Self::TimedOut => 11,
            Self::Interrupted => 12,
            Self::Lost => 13,
            Self::Contradicted => 14,
            Self::Limit => 15,
            Self::NoGo => 20,
            Self::Bug => 101,
        }
    }
}

/// Why a verb was not carried out, in the user's nouns: lower case, no full stop.
#[derive(Debug)]
pub struct CommandError {
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
    kind: ErrorKind,
    run: Option<String>,
}

impl CommandError {
    /// It could not be done; `message` names what, with the limit that was hit.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            kind: ErrorKind::Failed,
            run: None,
        }
    }

    /// The command line or a file is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(message).kind(ErrorKind::Usage)
    }

    /// Something that cannot happen happened.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(message)
            .kind(ErrorKind::Bug)
            .hint("this is a mistake in spotter: please report it with `-v` output")
    }

    /// Adds the error that led to it, with its own chain.
    pub fn cause(mut self, cause: impl Error) -> Self {
        self.causes.extend(causes(&cause));
        self
    }

    /// Adds a cause that is not an error value.
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says first what could not be done because of this error. Its kind and its hints stay.
    pub fn so(mut self, what: impl Into<String>) -> Self {
        let why = std::mem::replace(&mut self.message, what.into());
        self.causes.insert(0, why);
        self
    }

    /// Adds something to type or to look at. Leave out what we do not believe in.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// That the run goes on by `spotter up`, unless a hint says that already.
    #[must_use]
    pub fn goes_on(self, run: &str) -> Self {
        let command = format!("`spotter up {run}`");
        match self.hints.iter().any(|hint| hint.contains(&command)) {
            true => self,
            false => self.hint(format!("go on with {command}")),
        }
    }

    /// Sets the kind, and with it the exit code.
    pub fn kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Names the run concerned: the `money:` line then speaks of its boxes only.
    pub fn about(mut self, run: impl Into<String>) -> Self {
        self.run = Some(run.into());
        self
    }

    /// What could not be done.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Why, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// What to type next.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The run concerned, when one was named.
    pub fn run(&self) -> Option<&str> {
        self.run.as_deref()
    }

    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// A cause is text by now: what was an error value was walked once, when it was added.
impl Error for CommandError {}

impl From<StoreError> for CommandError {
    fn from(err: StoreError) -> Self {
        let unknown_run = match &err {
            StoreError::NoSuchRun { name } => Some(name.clone()),
            _ => None,
        };
        let usage = unknown_run.is_some() || matches!(err, StoreError::RunExists { .. });
        let mut made = Self::from_error(&err);
        if usage {
            made = made.kind(ErrorKind::Usage);
        }
        if unknown_run.is_some() {
            made = made.hint("see what there is with `spotter ps --all`");
        }
        if made
            .causes
            .iter()
            .any(|cause| cause.contains("disk is full"))
        {
            made = made.hint(
                "free space on the disk of spotter's own folder (`SPOTTER_HOME`, else ~/.local/share/spotter), then try again",
            );
        }
        made
    }
}

impl From<ProviderError> for CommandError {
    fn from(err: ProviderError) -> Self {
        let plain = Self::from_error(&err);
        match err {
            ProviderError::NoKey { .. } => plain
                .hint("`export VAST_API_KEY=...`, or name a file that holds the key with `--api-key-file FILE`"),
            ProviderError::Unauthorized { message, .. } if message.contains("Session expired") => {
                plain.hint("log in again with the official client, or `export VAST_API_KEY=...`")
            }
            ProviderError::Unauthorized { .. } => {
                plain.hint("make a new key in the web console, then `export VAST_API_KEY=...`")
            }
            ProviderError::NoCredit { .. } => plain.hint("add credit in the web console"),
            ProviderError::NoHost { .. } => {
                plain.hint("name another box with `--host`, or rent one: the same command without it")
            }
            ProviderError::OfferGone { .. } => {
                plain.hint("see what is there now with `spotter offers`")
            }
            ProviderError::Refused {
                operation,
                status,
                message,
                ..
            } => Self::new(format!("the market refused to {operation}"))
                .because(format!("{message} (HTTP {status})")),
            ProviderError::Unreachable { operation, message } => Self::new(format!(
                "the market gave no usable answer when asked to {operation}"
            ))
            .because(message)
            .hint("check the network and try again; what is rented goes on meanwhile"),
            _ => plain,
        }
    }
}

impl CommandError {
    /// An error whose own text says what could not be done, and whose sources say why.
    pub fn from_error(err: &dyn Error) -> Self {
        let mut texts = causes(err).into_iter();
        let mut made = Self::new(texts.next().expect("an error has at least its own text"));
        made.causes = texts.collect();
        made
    }
}

/// The texts of an error and its sources, outermost first. Foreign errors often repeat their source in their own text;
/// such a source is left out.
fn causes(err: &dyn Error) -> Vec<String> {
    let mut texts = vec![err.to_string()];
    let mut next = err.source();
    while let Some(source) = next {
        let text = source.to_string();
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
        next = source.source();
    }
    texts
}

/// An error and its sources in one line, for logs and stored reasons: `a: b: c`.
pub fn chain(err: &dyn Error) -> String {
    causes(err).join(": ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("file `{0}` was not read")]
    struct Outer(&'static str, #[source] io::Error);

    #[test]
    fn the_chain_is_walked_once() {
        let err = CommandError::new("run `a` did not start")
            .cause(Outer("x", io::Error::other("disk on fire")));
        assert_eq!(err.causes(), ["file `x` was not read", "disk on fire"]);
        assert_eq!(err.to_string(), "run `a` did not start");
    }

    #[test]
    fn a_text_that_repeats_its_source_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("request failed: {0}")]
        struct Echo(#[source] io::Error);
        assert_eq!(
            chain(&Echo(io::Error::other("timed out"))),
            "request failed: timed out"
        );
    }

    #[test]
    fn each_kind_has_the_documented_exit_code() {
        let codes = [
            (ErrorKind::Failed, 1),
            (ErrorKind::Usage, 2),
            (ErrorKind::Crashed, 10),
            (ErrorKind::TimedOut, 11),
            (ErrorKind::Interrupted, 12),
            (ErrorKind::Lost, 13),
            (ErrorKind::Contradicted, 14),
            (ErrorKind::Limit, 15),
            (ErrorKind::NoGo, 20),
            (ErrorKind::Bug, 101),
        ];
        for (kind, code) in codes {
            assert_eq!(CommandError::new("x").kind(kind).exit_code(), code);
        }
    }
}
