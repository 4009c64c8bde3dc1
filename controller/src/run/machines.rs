//! Machines with a past: a box did not come up there, or died. They are avoided for a while, by all runs of this laptop; a person may
//! forgive them before.

use serde::Serialize;

use crate::{
    run::deadline,
    store::{Store, StoreError},
};

/// A machine that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadMachine {
    /// Its number on the market.
    pub machine_id: u64,
    /// When it last did wrong, microseconds since the epoch.
    pub since_us: i64,
    /// Until when it is avoided, microseconds since the epoch.
    pub until_us: i64,
    /// It is avoided now.
    pub avoided: bool,
    /// What it did, for people.
    pub reason: String,
}

/// Under which names the store remembers machines.
const PREFIX: &str = "bad_machine/";

/// Remembers what a machine did.
///
/// # Errors
/// The store's.
pub fn remember(store: &Store, machine: u64, now_us: i64, why: &str) -> Result<(), StoreError> {
    store.set_meta(&key(machine), &format!("{now_us} {why}"))
}

/// All machines that are remembered, avoided or not, by number.
///
/// # Errors
/// The store's.
pub fn all(store: &Store, now_us: i64) -> Result<Vec<BadMachine>, StoreError> {
    let mut found: Vec<BadMachine> = store
        .metas(PREFIX)?
        .iter()
        .filter_map(|(key, noted)| {
            let machine_id = key.strip_prefix(PREFIX)?.parse().ok()?;
            Some(read(machine_id, noted, now_us))
        })
        .collect();
    found.sort_by_key(|machine| machine.machine_id);
    Ok(found)
}

/// What speaks against a machine now.
///
/// # Errors
/// The store's.
pub fn avoided(store: &Store, machine: u64, now_us: i64) -> Result<Option<String>, StoreError> {
    let noted = store.meta(&key(machine))?;
    let known = noted.map(|noted| read(machine, &noted, now_us));
    Ok(known
        .filter(|known| known.avoided)
        .map(|known| known.reason))
}

/// Forgets what a machine did. False: nothing is known of it.
///
/// # Errors
/// The store's.
pub fn forgive(store: &Store, machine: u64) -> Result<bool, StoreError> {
    store.forget_meta(&key(machine))
}

fn key(machine: u64) -> String {
    format!("{PREFIX}{machine}")
}

fn read(machine_id: u64, noted: &str, now_us: i64) -> BadMachine {
    let (at_us, why) = noted.split_once(' ').unwrap_or(("0", noted));
    let since_us = at_us.parse::<i64>().unwrap_or(0);
    let until_us = since_us.saturating_add(deadline::AVOIDED.as_micros() as i64);
    BadMachine {
        machine_id,
        since_us,
        until_us,
        avoided: now_us < until_us,
        reason: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_machine_is_avoided_for_a_week_or_until_it_is_forgiven() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let day_us = 86_400_000_000;
        remember(&store, 41, day_us, "ssh did not let us in").unwrap();
        remember(&store, 7, 0, "its box died").unwrap();
        assert_eq!(
            avoided(&store, 41, 2 * day_us).unwrap().as_deref(),
            Some("ssh did not let us in")
        );
        assert_eq!(avoided(&store, 41, 8 * day_us).unwrap(), None);
        assert_eq!(avoided(&store, 42, 0).unwrap(), None);
        let known = all(&store, 7 * day_us).unwrap();
        assert_eq!(
            known
                .iter()
                .map(|known| (known.machine_id, known.avoided))
                .collect::<Vec<_>>(),
            [(7, false), (41, true)]
        );
        assert!(forgive(&store, 41).unwrap());
        assert!(!forgive(&store, 41).unwrap());
        assert_eq!(avoided(&store, 41, 2 * day_us).unwrap(), None);
    }
}
