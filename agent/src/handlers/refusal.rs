//! Everything that a call can be refused with, and its gRPC code.
//!
//! `Unavailable`, `Cancelled` and `Unknown` are never used for a verdict: to the controller they mean that the link broke.

use std::io;

use spotter_bucket::short::shorten;
use tonic::{Code, Status};

use crate::{
    chain,
    checkpoints::{BackupError, RestoreError, ResultsError},
    daemon::run_file::ConfigureError,
    files::HashError,
    logs::LogError,
    sessions::SessionError,
};

/// A message travels in a header, and those are small.
const MESSAGE_LIMIT_CHARS: usize = 1500;

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// See [`SessionError`].
    #[error(transparent)]
    Session(#[from] SessionError),
    /// See [`LogError`].
    #[error(transparent)]
    Log(#[from] LogError),
    /// See [`ConfigureError`].
    #[error(transparent)]
    Configure(#[from] ConfigureError),
    /// See [`HashError`].
    #[error(transparent)]
    Hash(#[from] HashError),
    /// See [`BackupError`].
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// See [`RestoreError`].
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// See [`ResultsError`].
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// The file system refused.
    #[error("the agent's files cannot be used")]
    Io(#[from] io::Error),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Nothing says where checkpoints go.
    #[error("no backup is configured")]
    NoBackup,
    /// Sessions need the agent's files.
    #[error("a session is running: end it before the agent's files are removed")]
    Busy,
    /// A task of ours panicked.
    #[error("the agent broke at this call: {0}")]
    Broken(String),
}

/// The one place where our errors become gRPC codes.
pub fn to_status(refusal: impl Into<Refusal>) -> Status {
    let refusal = refusal.into();
    let text = shorten(&chain(&refusal), MESSAGE_LIMIT_CHARS);
    Status::new(code(&refusal), text)
}

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Session(err) => match err {
            SessionError::Invalid(_) => Code::InvalidArgument,
            SessionError::Taken(_) => Code::AlreadyExists,
            SessionError::Missing(_) => Code::NotFound,
            SessionError::NotNow(_) => Code::FailedPrecondition,
            SessionError::NotStarted { .. } | SessionError::Tmux { .. } => Code::Aborted,
            SessionError::NotEnded { .. } => Code::DeadlineExceeded,
            SessionError::Io { .. } => Code::Internal,
        },
        Refusal::Log(LogError::NoSuchPosition { .. }) => Code::OutOfRange,
        Refusal::Configure(ConfigureError::Io { .. } | ConfigureError::Busy(_)) => {
            Code::FailedPrecondition
        }
        Refusal::Configure(_) => Code::InvalidArgument,
        Refusal::Hash(err) | Refusal::Results(ResultsError::Files(err)) => match err {
            HashError::Escapes(_) | HashError::Pattern { .. } => Code::InvalidArgument,
            HashError::TooMany => Code::ResourceExhausted,
            HashError::Read { .. } => Code::Internal,
        },
        Refusal::Backup(BackupError::NoAnswer { .. })
        | Refusal::Restore(RestoreError::NoAnswer { .. }) => Code::DeadlineExceeded,
        Refusal::Backup(BackupError::List(_) | BackupError::Unseen { .. })
        | Refusal::Restore(RestoreError::Bucket(_)) => Code::FailedPrecondition,
        Refusal::Restore(RestoreError::NoSuchCheckpoint(_)) => Code::NotFound,
        Refusal::Restore(RestoreError::Damaged { .. } | RestoreError::NoneWhole { .. }) => {
            Code::DataLoss
        }
        Refusal::Restore(RestoreError::Space { .. }) => Code::ResourceExhausted,
        Refusal::Invalid(_) => Code::InvalidArgument,
        Refusal::NoBackup | Refusal::Busy => Code::FailedPrecondition,
        Refusal::Results(ResultsError::Upload(_)) => Code::FailedPrecondition,
        Refusal::Log(LogError::Io { .. })
        | Refusal::Backup(_)
        | Refusal::Restore(_)
        | Refusal::Io(_)
        | Refusal::Broken(_) => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_never_looks_like_a_broken_link() {
        let refusals = [
            Refusal::Session(SessionError::NotStarted {
                name: "x".into(),
                reason: "y".into(),
            }),
            Refusal::Session(SessionError::Taken("x".into())),
            Refusal::NoBackup,
            Refusal::Broken("x".into()),
            Refusal::Io(io::Error::other("x")),
        ];
        for refusal in refusals {
            let code = code(&refusal);
            assert!(
                ![Code::Unavailable, Code::Cancelled, Code::Unknown].contains(&code),
                "{refusal}: {code:?}"
            );
        }
    }

    #[test]
    fn causes_are_told_once_and_shortened() {
        let source = io::Error::other("disk on fire");
        let status = to_status(SessionError::Io {
            name: "train".into(),
            source,
        });
        assert_eq!(
            status.message(),
            "session `train`: its files cannot be used: disk on fire"
        );
        let long = format!("{}: AccessDenied", "x".repeat(10_000));
        let status = to_status(Refusal::Broken(long));
        assert_eq!(status.message().len(), MESSAGE_LIMIT_CHARS);
        // Why stands at the end of a chain of causes.
        assert!(status.message().ends_with(": AccessDenied"));
    }
}
