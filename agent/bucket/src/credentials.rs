//! Keys for a bucket, in memory only: wiped when dropped, never printed.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// What a client says whose keys nobody has told it yet.
pub const NO_KEYS: &str = "no bucket keys are known";

/// Access key, secret and, for temporary ones, the session token.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Credentials {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: String,
    /// Session token of temporary keys.
    pub session_token: Option<String>,
    /// When they expire, microseconds since the epoch; `None`: unknown or never.
    pub expires_us: Option<u64>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The id is not a secret and tells which key was used; the rest never reaches a log.
        write!(f, "Credentials({}, …)", self.access_key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only for what wipes itself.
    const fn is_wiped<T: ZeroizeOnDrop>() {}

    const _: () = is_wiped::<Credentials>();
}
