//! How hosts are written and numbered (pure).

use std::str::FromStr;

use crate::provider::SshAddress;

/// Numbers of hosts begin here; the market's own are far below.
const FIRST: u64 = 1_000_000_000_000;
/// How many numbers there are.
const NUMBERS: u64 = 1_000_000_000_000;
const SSH_PORT: u16 = 22;

/// Whether an instance or offer is a host of the user's, and nobody bills for it.
pub fn is_host(id: u64) -> bool {
    id >= FIRST
}

/// The number of a host that follows from any number.
pub(super) fn one_of(any: u64) -> u64 {
    FIRST + any % NUMBERS
}

/// `user@host`, `user@host:port`, `user@[::1]:port`.
pub fn parse(text: &str) -> Result<SshAddress, String> {
    let (user, place) = match text.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, text),
    };
    let bad = || format!("`{text}` is not of the form user@host or user@host:port");
    let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, rest))) => (host, rest.strip_prefix(':').filter(|_| !rest.is_empty())),
        Some(None) => return Err(bad()),
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        Some(port) => u16::from_str(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(bad)?,
        None => SSH_PORT,
    };
    let is_plain = |word: &str| {
        !word.is_empty()
            && !word.starts_with('-')
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    if !is_plain(host) || user.is_some_and(|user| !is_plain(user)) {
        return Err(bad());
    }
    Ok(SshAddress {
        host: user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}")),
        port,
        proxy: false,
    })
}

/// A host as people type it.
pub fn name(at: &SshAddress) -> String {
    match at.port {
        SSH_PORT => at.host.clone(),
        port => format!("{}:{port}", at.host),
    }
}

/// The number of a host, the same each time.
pub fn number(at: &SshAddress) -> u64 {
    let hash = blake3::hash(name(at).as_bytes());
    let bytes = hash.as_bytes()[..8].try_into().expect("eight bytes");
    one_of(u64::from_le_bytes(bytes))
}
