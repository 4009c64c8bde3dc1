//! Public keys: an account's reach the instances created afterwards, an instance's own list grows by attaching.

use serde::Serialize;

use crate::market::{Effect, InstanceId, Market, Millis, Refused};

/// A public key under a number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SshKey {
    /// Its number.
    pub id: u64,
    /// `type base64 comment`, one line.
    pub text: String,
    /// When it was added.
    pub created_ms: Millis,
}

impl SshKey {
    /// Type and key without the comment: what makes two keys the same.
    fn body(text: &str) -> Vec<&str> {
        text.split_whitespace().take(2).collect()
    }
}

/// What attaching a key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// It was added.
    Added,
    /// It was there.
    Already,
}

impl Market {
    /// Makes a key that may do everything an account may.
    pub fn add_api_key(&mut self, account: usize, key: &str) {
        self.accounts[account].api_keys.push(key.to_owned());
    }

    /// Adds a key to an account, or finds it there.
    pub fn add_account_key(&mut self, now: Millis, account: usize, text: &str) -> SshKey {
        let known = self.accounts[account]
            .ssh_keys
            .iter()
            .find(|k| SshKey::body(&k.text) == SshKey::body(text));
        if let Some(key) = known {
            return key.clone();
        }
        let key = SshKey {
            id: self.next_key_id(),
            text: text.trim().to_owned(),
            created_ms: now,
        };
        self.accounts[account].ssh_keys.push(key.clone());
        key
    }

    /// Takes a key off an account; instances keep it. False: it was not there.
    pub fn remove_account_key(&mut self, account: usize, key: u64) -> bool {
        let keys = &mut self.accounts[account].ssh_keys;
        let before = keys.len();
        keys.retain(|known| known.id != key);
        keys.len() < before
    }

    /// Adds a key to an instance.
    ///
    /// # Errors
    /// When the instance does not exist any more.
    pub fn attach_key(
        &mut self,
        now: Millis,
        id: InstanceId,
        text: &str,
    ) -> Result<Attached, Refused> {
        self.advance(now);
        let known = self
            .living(id)?
            .ssh_keys
            .iter()
            .any(|k| SshKey::body(&k.text) == SshKey::body(text));
        if known {
            return Ok(Attached::Already);
        }
        let key = SshKey {
            id: self.next_key_id(),
            text: text.trim().to_owned(),
            created_ms: now,
        };
        self.at(id).ssh_keys.push(key);
        self.push(Effect::SetKeys(id));
        Ok(Attached::Added)
    }

    /// Takes a key off an instance. False: it was not there.
    ///
    /// # Errors
    /// When the instance does not exist any more.
    pub fn detach_key(&mut self, now: Millis, id: InstanceId, key: u64) -> Result<bool, Refused> {
        self.advance(now);
        self.living(id)?;
        let keys = &mut self.at(id).ssh_keys;
        let before = keys.len();
        keys.retain(|known| known.id != key);
        let found = keys.len() < before;
        if found {
            self.push(Effect::SetKeys(id));
        }
        Ok(found)
    }
}
