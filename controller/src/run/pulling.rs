//! What a host's daemon says of an image that does not arrive, and whose fault that is (pure): the host's, the image's, or that of a registry
//! which counts pulls.

use crate::store::AttemptRecord;

/// After these the image is pulled anew, once: it broke off.
pub(super) const BROKEN_OFF: &str = "unexpected eof";
/// Words after which an image never arrives (observed in the provider's own tooling) ...
const HOPELESS: [&str; 4] = [
    "error response from daemon",
    "failed to pull image",
    "no space left on device",
    BROKEN_OFF,
];
/// ... those that no other host would mend: there is no such image, or it is not for everybody ...
const OF_IMAGE: [&str; 6] = [
    "manifest unknown",
    "unauthorized",
    "pull access denied",
    "requested access to the resource is denied",
    "repository does not exist",
    "invalid reference format",
];
/// ... and those of a registry that lets an address pull so much without a login, which neighbours share.
const OF_PULLS: [&str; 2] = ["toomanyrequests", "pull rate limit"];

/// Whose fault it is that an image does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The host's: another one may do better.
    Host,
    /// That of whoever named the image, or of its login.
    Image,
    /// Too many pulls without a login come from the host's address.
    Pulls,
}

/// Whether an image never arrives, by what its host says.
pub(super) fn fault(said: &str) -> Option<Fault> {
    let said = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&OF_PULLS) {
        Some(Fault::Pulls)
    } else if has(&OF_IMAGE) {
        Some(Fault::Image)
    } else {
        has(&HOPELESS).then_some(Fault::Host)
    }
}

impl Fault {
    /// What to look at, where the machine has done nothing wrong.
    pub(super) fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Host => None,
            Self::Image => Some("check `image`, and `image_login` for one that is not public"),
            Self::Pulls => Some(
                "pulls without a login are counted for each address: log in with `image_login`",
            ),
        }
    }

    /// Whether a box of an earlier attempt, on another machine, ended with the same.
    pub(super) fn was_seen(self, attempts: &[AttemptRecord], now: &AttemptRecord) -> bool {
        let before = attempts.iter().rev().filter(|old| old.number < now.number);
        before
            // A training that was had with this image since says that it can be had.
            .take_while(|old| old.started_us == 0)
            .any(|old| {
                old.machine_id != now.machine_id
                    && old.reason.as_deref().and_then(fault) == Some(self)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::summary::attempt_for_tests;

    #[test]
    fn a_host_that_fails_is_told_from_an_image_that_cannot_be_had() {
        for (said, expected) in [
            ("success, running a:b", None),
            ("0a9fb61ac2dd: Downloading", None),
            (
                "Error response from daemon: no such thing",
                Some(Fault::Host),
            ),
            ("write: No space left on device", Some(Fault::Host)),
            ("layer 3: unexpected EOF", Some(Fault::Host)),
            (
                "Error response from daemon: manifest for a:b not found: manifest unknown",
                Some(Fault::Image),
            ),
            (
                "Error response from daemon: pull access denied for a",
                Some(Fault::Image),
            ),
            ("UNAUTHORIZED: authentication required", Some(Fault::Image)),
            (
                "Error response from daemon: toomanyrequests: You have reached your unauthenticated pull rate limit",
                Some(Fault::Pulls),
            ),
        ] {
            assert_eq!(fault(said), expected, "{said}");
        }
    }

    #[test]
    fn it_is_the_image_when_a_second_machine_says_the_same() {
        let attempt = |number, machine, reason: &str| AttemptRecord {
            machine_id: Some(machine),
            reason: Some(reason.to_owned()),
            started_us: 0,
            ..attempt_for_tests(number)
        };
        let now = attempt(2, 42, "");
        for (reason, machine, expected) in [
            ("manifest unknown: a:b", 41, true),
            ("pull access denied", 41, true),
            ("manifest unknown: a:b", 42, false),
            ("no space left on device", 41, false),
            ("toomanyrequests", 41, false),
        ] {
            let attempts = [attempt(1, machine, reason), now.clone()];
            assert_eq!(Fault::Image.was_seen(&attempts, &now), expected, "{reason}");
        }
        // It was had in between: two machines said so weeks apart.
        let trained = AttemptRecord {
            started_us: 5,
            ..attempt(2, 43, "")
        };
        let now = attempt(3, 42, "");
        let attempts = [
            attempt(1, 41, "manifest unknown: a:b"),
            trained,
            now.clone(),
        ];
        assert!(!Fault::Image.was_seen(&attempts, &now));
    }
}
