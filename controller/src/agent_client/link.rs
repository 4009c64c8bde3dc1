//! How the link is, what failed, and how a broken link is told from an answer (pure but for the channel that tells of it).

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tonic::{Code, Status};

use super::DialError;

/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How the link to the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// No call was made yet.
    Unused,
    /// The last answer came through.
    Connected,
    /// Nothing comes through.
    Lost {
        /// Since when.
        since: Instant,
        /// What the last try said.
        why: String,
    },
}

/// What the agent decided about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does not know what was named.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request is not understood or not allowed.
    Invalid,
    /// Not in the state that the box is in.
    NotNow,
    /// This agent is older than the call.
    Unknown,
    /// It tried and could not.
    Failed,
}

/// Why a call was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AgentError {
    /// The agent answered no.
    #[error("the agent refused `{call}`: {message}")]
    Refused {
        /// Name of the call.
        call: &'static str,
        /// What kind of no.
        verdict: Verdict,
        /// Its words.
        message: String,
    },
    /// No answer within the call's deadline.
    #[error("the agent gave no answer to `{call}` in {} s{}", limit.as_secs(), why.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    Deadline {
        /// Name of the call.
        call: &'static str,
        /// The deadline.
        limit: Duration,
        /// What the last try said of the link, when the link was broken.
        why: Option<String>,
    },
    /// The agent cannot be reached, and trying again will not change that.
    #[error("the agent cannot be reached: {why}")]
    Unreachable {
        /// What the link said.
        why: String,
    },
    /// The link broke while a request that must not be repeated was on its way.
    #[error("the link broke during `{call}`, whether it was done is unknown: {why}")]
    Ambiguous {
        /// Name of the call.
        call: &'static str,
        /// What the link said.
        why: String,
    },
}

impl AgentError {
    /// What the agent decided, if it answered.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            AgentError::Refused { verdict, .. } => Some(*verdict),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) link: watch::Sender<Link>,
    /// Why the last dial failed; `None` after one that did not.
    pub(super) dial: Mutex<Option<DialError>>,
    pub(super) passing: Passing,
}

/// A client that only looks is nobody to its box by any connection: of each new one that is said first, before anything else is asked.
#[derive(Debug, Default)]
pub(super) struct Passing {
    /// It only looks.
    is_it: AtomicBool,
    /// Of the present connection it was said.
    said: AtomicBool,
    /// Statuses under way, which say it: they alone may open a connection.
    saying: AtomicUsize,
}

/// A status under way.
pub(super) struct Saying<'a>(&'a Passing);

impl Drop for Saying<'_> {
    fn drop(&mut self) {
        self.0.saying.fetch_sub(1, SeqCst);
    }
}

impl Passing {
    pub(super) fn set(&self) {
        self.is_it.store(true, SeqCst);
    }

    /// Whether it must be said before anything else.
    pub(super) fn must_say(&self) -> bool {
        self.is_it.load(SeqCst) && !self.said.load(SeqCst)
    }

    pub(super) fn saying(&self) -> Saying<'_> {
        self.saying.fetch_add(1, SeqCst);
        Saying(self)
    }

    pub(super) fn has_said(&self) {
        self.said.store(true, SeqCst);
    }

    /// The connection is gone. Answers whether a new one may be opened now.
    pub(super) fn may_dial(&self) -> bool {
        self.said.store(false, SeqCst);
        !self.is_it.load(SeqCst) || self.saying.load(SeqCst) > 0
    }
}

/// A failure of the link, as opposed to an answer of the agent.
pub(super) struct LinkFailure {
    pub(super) why: String,
    pub(super) permanent: bool,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared {
            link: watch::Sender::new(Link::Unused),
            dial: Mutex::new(None),
            passing: Passing::default(),
        }
    }

    pub(super) fn connected(&self) {
        self.link.send_if_modified(|link| {
            let news = *link != Link::Connected;
            *link = Link::Connected;
            news
        });
    }

    pub(super) fn lost(&self, why: &str) {
        self.link.send_modify(|link| {
            let since = match link {
                Link::Lost { since, .. } => *since,
                Link::Unused | Link::Connected => Instant::now(),
            };
            *link = Link::Lost {
                since,
                why: why.to_owned(),
            };
        });
    }

    /// Tells a broken link from an answer: an answer comes off the wire and has no source; `Unavailable` and `Cancelled` are
    /// what the first call after a death gives, and a daemon that is being replaced.
    pub(super) fn link_failure(&self, status: &Status) -> Option<LinkFailure> {
        let transport = std::error::Error::source(status).is_some();
        if !transport && !matches!(status.code(), Code::Unavailable | Code::Cancelled) {
            self.connected();
            return None;
        }
        let dial = self
            .dial
            .lock()
            .expect("nothing panics while it holds this lock")
            .clone();
        let failure = match dial {
            Some(DialError { why, permanent }) => LinkFailure { why, permanent },
            None => LinkFailure {
                why: innermost(status),
                permanent: false,
            },
        };
        self.lost(&failure.why);
        Some(failure)
    }
}

/// The last error of the chain: the outer ones only say "transport error".
fn innermost(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(err) = source {
        text = err.to_string();
        source = err.source();
    }
    text
}

/// Growing pauses between tries.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff(PAUSE.0)
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE.1);
        pause
    }
}

pub(super) fn refused(call: &'static str, status: &Status) -> AgentError {
    let verdict = match status.code() {
        Code::NotFound => Verdict::NotFound,
        Code::AlreadyExists => Verdict::AlreadyExists,
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated => Verdict::Invalid,
        Code::FailedPrecondition | Code::Aborted => Verdict::NotNow,
        Code::Unimplemented => Verdict::Unknown,
        _ => Verdict::Failed,
    };
    // A box is not ours: its words are shown, its control characters are not obeyed.
    let message = status
        .message()
        .chars()
        .filter(|c| !c.is_control() || *c == '\n')
        .take(4096)
        .collect();
    AgentError::Refused {
        call,
        verdict,
        message,
    }
}
