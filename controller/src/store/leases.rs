//! Who watches a run: a lease that one process holds and renews, so that exactly one acts.

use std::{
    collections::HashMap,
    fs,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use nix::{errno::Errno, sys::signal, unistd};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, doing, write};

/// A watcher's claim on a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Unique name of the holder.
    pub holder: String,
    /// Machine and process namespace in which `pid` counts.
    pub host: String,
    /// Process that holds it.
    pub pid: u32,
    /// When it ends unless renewed, microseconds since the epoch.
    pub expires_us: i64,
}

impl Store {
    /// Takes the run's lease for `ttl` from whoever has it: that one's fences hold from now on, and it finds out at its next
    /// renewal. `false`: yet another one was quicker.
    pub fn take_over_lease(
        &self,
        run: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.lock()
            .execute("DELETE FROM leases WHERE run = ?1", params![run])
            .map_err(doing("take the lease over"))?;
        self.take_lease(run, holder, ttl)
    }

    /// Takes the run's lease for `ttl` when nobody has it, its time is over, its holder's process is no more, or `holder`
    /// has it already. `false`: somebody else watches.
    pub fn take_lease(&self, run: &str, holder: &str, ttl: Duration) -> Result<bool, StoreError> {
        let now_us = self.now_us();
        let host = this_host();
        let mut connection = self.lock();
        let transaction = write(&mut connection)?;
        if let Some(lease) = read(&transaction, run)? {
            let orphan = lease.host == host && !is_alive(lease.pid);
            if lease.holder != holder && lease.expires_us > now_us && !orphan {
                return Ok(false);
            }
        }
        transaction
            .execute(
                "INSERT INTO leases (run, holder, host, pid, expires_us) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (run) DO UPDATE SET holder = excluded.holder, host = excluded.host,
                     pid = excluded.pid, expires_us = excluded.expires_us",
                params![run, holder, host, std::process::id(), expiry(now_us, ttl)],
            )
            .map_err(doing("take the lease"))?;
        transaction.commit().map_err(doing("take the lease"))?;
        drop(connection);
        crate::fault::point("store.lease.after");
        self.held().insert(run.to_owned(), holder.to_owned());
        Ok(true)
    }

    /// Holds it for `ttl` from now. `false`: somebody else has taken it, and the holder must stop acting at once.
    pub fn renew_lease(&self, run: &str, holder: &str, ttl: Duration) -> Result<bool, StoreError> {
        let changed = self
            .lock()
            .execute(
                "UPDATE leases SET expires_us = ?3 WHERE run = ?1 AND holder = ?2",
                params![run, holder, expiry(self.now_us(), ttl)],
            )
            .map_err(doing("renew the lease"))?;
        Ok(changed == 1)
    }

    /// Lets go of it; nothing happens when somebody else has it.
    pub fn release_lease(&self, run: &str, holder: &str) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "DELETE FROM leases WHERE run = ?1 AND holder = ?2",
                params![run, holder],
            )
            .map_err(doing("release the lease"))?;
        let mut held = self.held();
        if held.get(run).is_some_and(|mine| mine == holder) {
            held.remove(run);
        }
        Ok(())
    }

    /// Whether this handle may act for the run: it holds the lease, or nobody does.
    ///
    /// # Errors
    /// [`StoreError::Superseded`] when somebody else acts, or did since: what the caller knows is out of date.
    pub fn fence(&self, run: &str) -> Result<(), StoreError> {
        self.check_fence(&self.lock(), run)
    }

    /// The same within a transaction.
    pub(super) fn check_fence(&self, connection: &Connection, run: &str) -> Result<(), StoreError> {
        let mine = self.held().get(run).cloned();
        let lease = read(connection, run)?;
        let free = match (mine, lease) {
            (Some(mine), Some(lease)) => lease.holder == mine,
            // Somebody took it while we slept, and has let go of it since.
            (Some(_), None) => false,
            (None, Some(lease)) => !is_held(&lease, self.now_us()),
            (None, None) => true,
        };
        if free {
            return Ok(());
        }
        Err(StoreError::Superseded {
            run: run.to_owned(),
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who watches the run now; `None` when nobody does.
    pub fn lease(&self, run: &str) -> Result<Option<Lease>, StoreError> {
        let lease = read(&self.lock(), run)?;
        let now_us = self.now_us();
        Ok(lease.filter(|lease| is_held(lease, now_us)))
    }
}

/// Its time is not over, and its process is there as far as can be told.
fn is_held(lease: &Lease, now_us: i64) -> bool {
    lease.expires_us > now_us && (lease.host != this_host() || is_alive(lease.pid))
}

fn read(connection: &Connection, run: &str) -> Result<Option<Lease>, StoreError> {
    connection
        .query_row(
            "SELECT holder, host, pid, expires_us FROM leases WHERE run = ?1",
            [run],
            |row| {
                Ok(Lease {
                    holder: row.get(0)?,
                    host: row.get(1)?,
                    pid: row.get(2)?,
                    expires_us: row.get(3)?,
                })
            },
        )
        .optional()
        .map_err(doing("read the lease"))
}

fn expiry(now_us: i64, ttl: Duration) -> i64 {
    now_us.saturating_add(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX))
}

/// Names this machine and, where there are such things, the process namespace: a pid means nothing outside of it.
fn this_host() -> String {
    let host = unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let namespace = fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string());
    format!(
        "{}/{}",
        host.unwrap_or_default(),
        namespace.unwrap_or_default()
    )
}

impl Lease {
    /// Whether its process is there and stopped (`SIGSTOP`, Ctrl-Z): it does nothing until somebody lets it go on.
    pub fn is_halted(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        self.host == this_host() && is_halted(&stat)
    }
}

/// Whether `/proc/PID/stat` tells of a process that is stopped (pure).
fn is_halted(stat: &str) -> bool {
    // `pid (name) state parent ...`, and a name may hold anything.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| state.starts_with(['T', 't']))
}

/// Whether a process of that number exists. A number that was given to another process keeps the lease until it expires:
/// late, but never two watchers.
fn is_alive(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else {
        return false;
    };
    signal::kill(unistd::Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_stopped_is_known_by_its_state_whatever_it_is_called() {
        for (stat, expected) in [
            ("7 (spotter) T 1 7 7", true),
            ("7 (a) T b) t 1 7 7", true),
            ("7 (spotter) S 1 7 7", false),
            ("7 (a) T b) R 1 7 7", false),
            ("", false),
        ] {
            assert_eq!(is_halted(stat), expected, "{stat}");
        }
    }
}
