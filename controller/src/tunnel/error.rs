//! Why ssh did not do it, read from its own words on stderr (pure).

use std::{fmt, io, time::Duration};

use spotter_bucket::short::shorten;

use crate::provider::SshAddress;

/// What kind of failure ssh reported; decides whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// Nobody listens there (yet).
    Refused,
    /// No answer in time.
    Timeout,
    /// The host or network cannot be reached, or its name is not known.
    Unreachable,
    /// The connection came up and was closed before a login.
    Closed,
    /// Anything else.
    Other,
    /// The box does not accept our key. Providers spread new keys slowly: worth a retry for a minute or two.
    Auth,
    /// The box shows another host key than at first contact. Never retried, never accepted.
    HostKey,
}

impl FailureKind {
    /// Reads ssh's stderr.
    pub fn classify(words: &str) -> FailureKind {
        let has = |needles: &[&str]| needles.iter().any(|needle| words.contains(needle));
        if has(&[
            "REMOTE HOST IDENTIFICATION HAS CHANGED",
            "Host key verification failed",
            "host key for",
        ]) {
            FailureKind::HostKey
        } else if has(&[
            "Permission denied",
            "Too many authentication failures",
            "No supported authentication methods",
        ]) {
            FailureKind::Auth
        } else if has(&["Connection refused"]) {
            FailureKind::Refused
        } else if has(&["timed out", "Timeout, server"]) {
            FailureKind::Timeout
        } else if has(&[
            "Could not resolve hostname",
            "No route to host",
            "Network is unreachable",
            "Network is down",
        ]) {
            FailureKind::Unreachable
        } else if has(&[
            "Connection closed",
            "Connection reset",
            "closed by remote host",
            "kex_exchange_identification",
            "Broken pipe",
        ]) {
            FailureKind::Closed
        } else {
            FailureKind::Other
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FailureKind::Refused => "connection refused",
            FailureKind::Timeout => "no answer in time",
            FailureKind::Unreachable => "cannot be reached",
            FailureKind::Closed => "connection closed before login",
            FailureKind::Other => "ssh failed",
            FailureKind::Auth => "key not accepted",
            FailureKind::HostKey => "host key changed",
        })
    }
}

/// One address that did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub address: SshAddress,
    /// What kind.
    pub kind: FailureKind,
    /// ssh's own words, last lines, free of control characters.
    pub words: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ssh {}:{}: {}",
            self.address.host, self.address.port, self.kind
        )?;
        if !self.words.is_empty() {
            write!(f, " ({})", self.words)?;
        }
        Ok(())
    }
}

/// Why nothing came through the tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// No address let us in.
    #[error("{}", join(failures))]
    Unreachable {
        /// Every address with its reason; never empty.
        failures: Vec<Failure>,
    },
    /// The connection was there and broke.
    #[error("the ssh connection to {}:{} broke{}", address.host, address.port, bracket(words))]
    Lost {
        /// Which connection.
        address: SshAddress,
        /// ssh's own words.
        words: String,
    },
    /// ssh is connected, but the login shell never came to our command.
    #[error("the shell of {}:{} did not come to our command{} ({noise_bytes} bytes of other output{})", address.host, address.port,
        code.map_or_else(|| format!(" in {} s", limit.as_secs()), |code| format!(": it ended with code {code}")), bracket_tail(noise, words))]
    Silent {
        /// Which connection.
        address: SshAddress,
        /// How long we waited.
        limit: Duration,
        /// Exit code of the shell, when it ended.
        code: Option<i32>,
        /// How much it printed.
        noise_bytes: usize,
        /// The end of what it printed.
        noise: String,
        /// The end of its stderr.
        words: String,
    },
    /// A command on the box took too long and was ended.
    #[error("a command on {}:{} did not end in {} s", address.host, address.port, limit.as_secs())]
    Slow {
        /// Which connection.
        address: SshAddress,
        /// The limit.
        limit: Duration,
    },
    /// Something on this machine.
    #[error("{what}")]
    Local {
        /// What could not be done.
        what: String,
        /// Why.
        source: io::Error,
    },
}

impl TunnelError {
    /// The failure that says most about what to do: a changed host key before a refused key before everything else.
    pub fn kind(&self) -> FailureKind {
        match self {
            TunnelError::Unreachable { failures } => failures
                .iter()
                .map(|failure| failure.kind)
                .max()
                .unwrap_or(FailureKind::Other),
            TunnelError::Lost { .. } => FailureKind::Closed,
            TunnelError::Slow { .. } => FailureKind::Timeout,
            TunnelError::Silent { .. } | TunnelError::Local { .. } => FailureKind::Other,
        }
    }

    /// No address so much as refused.
    pub fn nothing_answered(&self) -> bool {
        let is_timeout = |failure: &Failure| failure.kind == FailureKind::Timeout;
        matches!(self, TunnelError::Unreachable { failures } if failures.iter().all(is_timeout))
    }

    /// A new attempt over a new connection may go better.
    pub fn is_link(&self) -> bool {
        match self {
            TunnelError::Unreachable { .. } => {
                !matches!(self.kind(), FailureKind::HostKey | FailureKind::Auth)
            }
            TunnelError::Lost { .. } | TunnelError::Slow { .. } => true,
            TunnelError::Silent { .. } | TunnelError::Local { .. } => false,
        }
    }

    pub(super) fn local(what: impl Into<String>, source: io::Error) -> TunnelError {
        TunnelError::Local {
            what: what.into(),
            source,
        }
    }
}

fn join(failures: &[Failure]) -> String {
    let all: Vec<String> = failures.iter().map(Failure::to_string).collect();
    all.join("; ")
}

fn bracket(words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!(": {words}")
    }
}

fn bracket_tail(noise: &str, words: &str) -> String {
    let text = if words.is_empty() { noise } else { words };
    bracket(text)
}

/// What a program printed last as one line that is safe to print: control characters dropped, at most 300 characters, of which the first say what
/// failed and the last why.
pub(crate) fn last_words(bytes: &[u8]) -> String {
    const LIMIT_CHARS: usize = 300;
    let text = String::from_utf8_lossy(bytes);
    // The box of @ signs around a changed host key says nothing by itself.
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            line.chars()
                .filter(|c| !c.is_control())
                .collect::<String>()
                .trim()
                .to_owned()
        })
        .filter(|line| line.chars().any(|c| c != '@'))
        .collect();
    shorten(&lines.join(" | "), LIMIT_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_words_tell_the_kind_of_failure() {
        let check =
            |words: &str, expected| assert_eq!(FailureKind::classify(words), expected, "{words}");
        check(
            "ssh: connect to host 10.0.0.1 port 22: Connection refused",
            FailureKind::Refused,
        );
        check(
            "ssh: connect to host 10.0.0.1 port 22: Connection timed out",
            FailureKind::Timeout,
        );
        check(
            "Connection timed out during banner exchange",
            FailureKind::Timeout,
        );
        check("root@h: Permission denied (publickey).", FailureKind::Auth);
        check(
            "Received disconnect from UNKNOWN port 65535:2: Too many authentication failures",
            FailureKind::Auth,
        );
        check(
            "@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            FailureKind::HostKey,
        );
        check(
            "ssh: Could not resolve hostname nowhere.invalid: Name or service not known",
            FailureKind::Unreachable,
        );
        check(
            "ssh: connect to host 10.9.9.9 port 22: No route to host",
            FailureKind::Unreachable,
        );
        check(
            "kex_exchange_identification: Connection closed by remote host",
            FailureKind::Closed,
        );
        check("Bad configuration option: frobnicate", FailureKind::Other);
        check("", FailureKind::Other);
    }

    #[test]
    fn words_are_one_printable_line() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(last_words(bytes), expected);
        check(b"\x1b[31mPermission denied\r\n\n", "[31mPermission denied");
        check(b"@@@@@@\nfirst\nsecond\n", "first | second");
        check(b"", "");
        assert_eq!(last_words(&[b'x'; 5000]).len(), 300);
    }

    #[test]
    fn a_changed_host_key_outweighs_a_closed_port() {
        let address = |port| SshAddress {
            host: "h".to_owned(),
            port,
            proxy: false,
        };
        let failure = |port, kind| Failure {
            address: address(port),
            kind,
            words: String::new(),
        };
        let error = TunnelError::Unreachable {
            failures: vec![
                failure(1, FailureKind::HostKey),
                failure(2, FailureKind::Refused),
            ],
        };
        assert_eq!(error.kind(), FailureKind::HostKey);
        assert!(!error.is_link());
        assert_eq!(
            error.to_string(),
            "ssh h:1: host key changed; ssh h:2: connection refused"
        );
    }

    #[test]
    fn of_a_long_output_the_words_that_say_what_failed_stay() {
        let middle = "Warning: Permanently added the host\n".repeat(30);
        let said =
            format!("rsync: mkdir failed: No space left on device\n{middle}rsync error: code 11\n");
        let words = last_words(said.as_bytes());
        assert_eq!(words.chars().count(), 300);
        assert!(
            words.starts_with("rsync: mkdir failed: No space left on device | "),
            "{words}"
        );
        assert!(words.ends_with("rsync error: code 11"), "{words}");
        assert_eq!(last_words(b"one\n\x1b[2Jtwo\n@@@@\n"), "one | [2Jtwo");
    }
}
