//! Bucket keys: in memory, each set wiping the one before; on disk only where the user chose that; and told of before they end.

use std::{
    fmt, fs,
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use spotter_bucket::Credentials;
use tokio::time;
use tracing::warn;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::core::Core;
use crate::{events::EventSink, files, now_us};

/// Between two looks at the end of the keys.
const LOOK: Duration = Duration::from_secs(5);

/// What is held, and what is known of it.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Held {
    v: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expires_us: Option<u64>,
    /// When they came, microseconds since the epoch.
    since_us: u64,
    #[serde(skip)]
    told: u32,
}

/// Something to tell about the end of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// They end soon, and nobody has brought others.
    Soon {
        /// When, microseconds since the epoch.
        expires_us: u64,
    },
    /// They have ended.
    Ended {
        /// When, microseconds since the epoch.
        expires_us: u64,
    },
}

/// What there is to tell now (pure). Whoever watches brings others at half of their life, so a quarter is left only when nobody
/// does. `told`: how many of the two were told already.
fn notice(since_us: u64, expires_us: Option<u64>, told: u32, now_us: u64) -> Option<Notice> {
    let expires_us = expires_us?;
    if now_us >= expires_us {
        return (told < 2).then_some(Notice::Ended { expires_us });
    }
    let left_us = expires_us - now_us;
    let life_us = expires_us.saturating_sub(since_us);
    (told < 1 && left_us <= life_us / 4).then_some(Notice::Soon { expires_us })
}

/// The keys of this box.
pub struct CredentialSlot {
    held: RwLock<Option<Held>>,
    /// Where they are kept where the user chose that.
    file: PathBuf,
}

impl CredentialSlot {
    /// Takes up what is kept in `file`, if anything is.
    pub fn open(file: PathBuf) -> Self {
        let held = match files::read_if_there(&file) {
            Ok(Some(bytes)) => serde_json::from_slice(&Zeroizing::new(bytes)).ok(),
            Ok(None) => None,
            Err(err) => {
                warn!(error = %err, "the bucket keys that were kept cannot be read");
                None
            }
        };
        Self {
            held: RwLock::new(held),
            file,
        }
    }

    /// Replaces the keys. With `persist` they are kept on the disk too, readable for this user alone; without, what was kept there
    /// is wiped.
    pub fn set(&self, credentials: &Credentials, persist: bool) -> io::Result<()> {
        let mut held = Held {
            v: 1,
            access_key_id: credentials.access_key_id.clone(),
            secret_access_key: credentials.secret_access_key.clone(),
            session_token: credentials.session_token.clone(),
            expires_us: credentials.expires_us,
            since_us: now_us(),
            told: 0,
        };
        let kept = if persist {
            let bytes = Zeroizing::new(serde_json::to_vec(&held).map_err(io::Error::other)?);
            // The file of the old keys stays reachable through this when the new one has taken its name.
            let old = fs::OpenOptions::new().write(true).open(&self.file).ok();
            files::write_durably(&self.file, &bytes).and_then(|()| old.map_or(Ok(()), overwrite))
        } else {
            self.wipe_file()
        };
        // The same keys again have told what they had to tell.
        let mut slot = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let same = slot.as_ref().filter(|old| {
            old.access_key_id == held.access_key_id && old.expires_us == held.expires_us
        });
        if let Some(old) = same {
            (held.since_us, held.told) = (old.since_us, old.told);
        }
        *slot = Some(held);
        kept
    }

    /// The keys, unless there are none or they have expired.
    pub fn get(&self) -> Option<Credentials> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let held = held.as_ref()?;
        let good = held.expires_us.is_none_or(|expires| now_us() < expires);
        good.then(|| Credentials {
            access_key_id: held.access_key_id.clone(),
            secret_access_key: held.secret_access_key.clone(),
            session_token: held.session_token.clone(),
            expires_us: held.expires_us,
        })
    }

    /// When the keys end, also when they have; `None` when there are none, or nothing says so.
    pub fn expires_us(&self) -> Option<u64> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref()?.expires_us
    }

    /// What there is to tell now; each thing once for each set of keys.
    fn notice(&self, now_us: u64) -> Option<Notice> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let held = held.as_mut()?;
        let notice = notice(held.since_us, held.expires_us, held.told, now_us)?;
        held.told = match notice {
            Notice::Soon { .. } => 1,
            Notice::Ended { .. } => 2,
        };
        Some(notice)
    }

    /// Forgets the keys, in memory and on disk.
    pub fn wipe(&self) -> io::Result<()> {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.wipe_file()
    }

    /// Puts the keys that are held on the disk again: what was wiped for an end that did not come.
    pub fn keep_again(&self) -> io::Result<()> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = held.as_ref() else {
            return Ok(());
        };
        let bytes = Zeroizing::new(serde_json::to_vec(held).map_err(io::Error::other)?);
        files::write_durably(&self.file, &bytes)
    }

    /// Whether they are on the disk.
    pub fn is_kept(&self) -> bool {
        self.file.exists()
    }

    /// Forgets what is on the disk; overwrites it before it is removed: a freed block may be read by the next tenant of the disk.
    pub fn wipe_file(&self) -> io::Result<()> {
        match fs::OpenOptions::new().write(true).open(&self.file) {
            Ok(file) => overwrite(file)?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(err),
        }
        fs::remove_file(&self.file)
    }
}

/// Zeros over all of a file.
fn overwrite(mut file: fs::File) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    file.write_all(&vec![0; length])?;
    file.sync_all()
}

impl fmt::Debug for CredentialSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.get().is_some() {
            "CredentialSlot(set)"
        } else {
            "CredentialSlot(empty)"
        })
    }
}

/// Tells when the keys are about to end and when they have.
pub async fn watch(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = time::sleep(LOOK) => {}
        }
        let now = now_us();
        if let Some(running) = core.backup()
            && let Some(stock) = running.bucket.stock()
            && let Some((left, expires_us)) = stock.low(2_000_000 * u64::from(running.plan.every_s))
        {
            warn!(left, "the grants of this box run low");
            let detail = json!({ "checkpoints_left": left, "expires_us": expires_us });
            core.journal.event("grants.low", detail);
        }
        match core.credentials.notice(now) {
            Some(Notice::Soon { expires_us }) => {
                let left_s = expires_us.saturating_sub(now) / 1_000_000;
                warn!(left_s, "the bucket keys end soon");
                let detail = json!({ "expires_us": expires_us, "left_s": left_s });
                core.journal.event("credentials.expiring", detail);
            }
            Some(Notice::Ended { expires_us }) => {
                warn!("the bucket keys have ended");
                let detail = json!({ "expires_us": expires_us });
                core.journal.event("credentials.expired", detail);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Compiles only for what wipes itself.
    const fn is_wiped<T: ZeroizeOnDrop>() {}

    const _: () = {
        is_wiped::<Held>();
        is_wiped::<Credentials>();
    };

    fn keys(id: &str, expires_us: Option<u64>) -> Credentials {
        Credentials {
            access_key_id: id.into(),
            secret_access_key: "hush".into(),
            session_token: None,
            expires_us,
        }
    }

    #[test]
    fn expired_keys_are_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let slot = CredentialSlot::open(dir.path().join("keys"));
        assert!(slot.get().is_none());
        slot.set(&keys("id", None), false).unwrap();
        assert!(slot.get().is_some());
        slot.set(&keys("id", Some(1)), false).unwrap();
        assert!(slot.get().is_none());
        assert_eq!(slot.expires_us(), Some(1));
        assert_eq!(format!("{slot:?}"), "CredentialSlot(empty)");
    }

    #[test]
    fn keys_are_on_the_disk_only_while_that_is_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        let slot = CredentialSlot::open(file.clone());
        slot.set(&keys("a", None), false).unwrap();
        assert!(!file.exists());
        slot.set(&keys("b", None), true).unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let again = CredentialSlot::open(file.clone());
        assert_eq!(again.get(), Some(keys("b", None)));
        again.set(&keys("c", None), false).unwrap();
        assert!(!file.exists());
        again.set(&keys("d", None), true).unwrap();
        again.wipe_file().unwrap();
        assert!(!again.is_kept());
        again.keep_again().unwrap();
        let back = CredentialSlot::open(file.clone());
        assert_eq!(back.get(), again.get(), "an end that did not come");
        again.wipe().unwrap();
        assert!(!file.exists() && again.get().is_none());
        fs::write(&file, b"{\"v\": 1").unwrap();
        assert!(CredentialSlot::open(file).get().is_none(), "half a file");
    }

    #[test]
    fn the_end_of_keys_is_told_in_time_and_once() {
        let check = |told, now, expected| {
            assert_eq!(
                notice(1_000, Some(2_000), told, now),
                expected,
                "{told} {now}"
            );
        };
        check(0, 1_000, None);
        check(0, 1_749, None);
        check(0, 1_750, Some(Notice::Soon { expires_us: 2_000 }));
        check(1, 1_999, None);
        check(1, 2_000, Some(Notice::Ended { expires_us: 2_000 }));
        check(0, 9_000, Some(Notice::Ended { expires_us: 2_000 }));
        check(2, 9_000, None);
        assert_eq!(notice(0, None, 0, u64::MAX), None);

        let dir = tempfile::tempdir().unwrap();
        let slot = CredentialSlot::open(dir.path().join("keys"));
        slot.set(&keys("a", Some(1)), false).unwrap();
        assert_eq!(slot.notice(5), Some(Notice::Ended { expires_us: 1 }));
        slot.set(&keys("a", Some(1)), false).unwrap();
        assert_eq!(slot.notice(6), None, "the same keys again");
        slot.set(&keys("b", Some(2)), false).unwrap();
        assert_eq!(slot.notice(7), Some(Notice::Ended { expires_us: 2 }));
    }

    #[test]
    fn keys_that_newer_ones_replace_on_the_disk_are_overwritten_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.json");
        let slot = CredentialSlot::open(file.clone());
        let keys = |secret: &str| Credentials {
            access_key_id: "id".into(),
            secret_access_key: secret.into(),
            session_token: None,
            expires_us: None,
        };
        slot.set(&keys("old"), true).unwrap();
        // Another name for the same blocks shows what becomes of them.
        let blocks = dir.path().join("blocks");
        fs::hard_link(&file, &blocks).unwrap();
        slot.set(&keys("new"), true).unwrap();
        let left = fs::read(&blocks).unwrap();
        assert!(!left.is_empty() && left.iter().all(|byte| *byte == 0));
        assert!(
            String::from_utf8(fs::read(&file).unwrap())
                .unwrap()
                .contains("new")
        );
    }
}
