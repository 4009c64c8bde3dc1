//! How many files may be open: the daemon holds those of a checkpoint open while it is uploaded, and many logins are given 1,024. What
//! the daemon starts for a user gets back what was there before.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// What the daemon asks for, where the hard limit allows it.
const WANTED: u64 = 8192;
/// What is left of that to everything else: connections, logs, pipes.
const OTHERS: u64 = 512;
/// Files held open at once; those beyond are opened when they are read. Below the number of files that [leases] are kept of.
///
/// [leases]: crate::checkpoints::lease
const MOST_HELD: u64 = 3500;

static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises this process's limit, once. What is refused is done without.
pub fn raise() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let wanted = WANTED.min(hard);
    if wanted <= soft {
        return;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => {
            // The first value is the one to give back.
            let _raised_again = BEFORE.set(soft);
        }
        Err(err) => warn!(error = %err, soft, "no more files may be open"),
    }
}

/// The limit before it was raised; `None`: it is as it was.
pub fn before() -> Option<u64> {
    BEFORE.get().copied()
}

/// Gives a process that was started by one with a raised limit the one it had before.
pub fn give_back(before: u64) {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && before < soft
    {
        // A lower one is refused to nobody.
        let _refused = setrlimit(Resource::RLIMIT_NOFILE, before, hard);
    }
}

/// How many files of one checkpoint are held open.
pub fn to_hold() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(held_of(soft)).unwrap_or(usize::MAX)
}

/// Two may be under way at once, when one is overtaken by a newer one.
fn held_of(soft: u64) -> u64 {
    (soft.saturating_sub(OTHERS.min(soft / 2)) / 2).min(MOST_HELD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_others_leave_is_held_and_never_more_than_there_are_leases() {
        let cases = [
            (0, 0),
            (256, 64),
            (1_024, 256),
            (4_096, 1_792),
            (8_192, 3_500),
            (u64::MAX, 3_500),
        ];
        for (soft, expected) in cases {
            assert_eq!(held_of(soft), expected, "of {soft}");
        }
    }
}
