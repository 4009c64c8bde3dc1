//! What a box without keys was given, in memory alone, and what it has made of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use http::Method;

use super::{Batch, Grant};
use crate::sorted::sort_by;
use crate::{
    bucket::{ErrorKind, ListedObject},
    layout::Layout,
};

/// A place is remembered so long after what was signed for it has ended.
const REMEMBERED_US: u64 = 24 * 3600 * 1_000_000;
/// Nothing is begun with a grant that ends so soon: what is begun must come to its end, and clocks differ.
const MARGIN_US: u64 = 10 * 60 * 1_000_000;
struct Held {
    grant: Grant,
    query: Arc<str>,
    expires_us: u64,
}

/// A request as it is to be sent.
#[derive(Debug)]
pub struct Granted {
    /// Where the object really goes.
    pub key: String,
    /// The rest of the query, encoded, the signature last.
    pub query: String,
}

#[derive(Default)]
struct Shelves {
    /// Places that nothing has yet.
    free: Vec<Held>,
    /// What has which place, by the key that was asked for.
    taken: HashMap<String, Held>,
    /// What may be read, by its own key.
    there: HashMap<String, Held>,
    /// The query of what was last signed to be read: that is all that was there then, and what is only among the older is gone.
    newest: Arc<str>,
    /// Objects and uploads since the last commit.
    since: (usize, usize),
    /// Those of the last commit.
    last: (usize, usize),
    /// What was signed together and the bucket refuses now: its key was revoked, or lost a right. It is of use again when one of its
    /// requests is carried out, and goes when something else was signed.
    refused: Option<Arc<str>>,
    told_low: bool,
}

impl Shelves {
    /// Takes what was signed together, and is refused, out of use.
    fn forget(&mut self, refused: &str, now_us: u64) {
        self.free.retain(|held| *held.query != *refused);
        // An object that had such a place takes another one.
        for held in self.taken.values_mut() {
            if *held.query == *refused {
                held.expires_us = held.expires_us.min(now_us);
            }
        }
    }

    /// What is known of an upload, whether something has it or not.
    fn upload(&mut self, grant: &Grant) -> Option<&mut Held> {
        let is_it = |held: &&mut Held| {
            !grant.upload_id.is_empty()
                && (&held.grant.key, &held.grant.upload_id) == (&grant.key, &grant.upload_id)
        };
        let taken = self.taken.values_mut();
        taken.chain(&mut self.free).find(is_it)
    }
}

/// What a box without keys may do.
pub struct Stock {
    data: String,
    commits: String,
    now_us: fn() -> u64,
    shelves: Mutex<Shelves>,
}

impl Stock {
    /// Nothing yet, for the objects of one run.
    pub fn new(layout: &Layout, now_us: fn() -> u64) -> Self {
        Self {
            data: layout.data_prefix(),
            commits: layout.commits_prefix(),
            now_us,
            shelves: Mutex::new(Shelves {
                // Before anything came there is nothing to run low of.
                told_low: true,
                ..Shelves::default()
            }),
        }
    }

    /// Takes more grants in. Those of objects that are there replace what was known of them.
    pub fn add(&self, batch: Batch) {
        let query: Arc<str> = batch.query.into();
        let mut shelves = self.shelves();
        let now_us = (self.now_us)();
        // Where something went is asked for after it went there, also when nothing more may be signed for that place.
        shelves
            .taken
            .retain(|_, held| held.expires_us + REMEMBERED_US > now_us);
        shelves.there.retain(|_, held| held.expires_us > now_us);
        let more = batch.grants.iter().any(|grant| !grant.is_there());
        let refused = shelves
            .refused
            .take_if(|refused| more && **refused != *query);
        if let Some(refused) = refused {
            shelves.forget(&refused, now_us);
        }
        for grant in batch.grants {
            let held = Held {
                query: query.clone(),
                expires_us: batch.expires_us,
                grant,
            };
            if held.grant.is_there() {
                shelves.newest = query.clone();
                shelves.there.insert(held.grant.key.clone(), held);
            } else if let Some(known) = shelves.upload(&held.grant) {
                // It was signed anew, and goes on; but for one with more parts than that.
                if held.grant.signatures.len() >= known.grant.signatures.len() {
                    *known = held;
                }
            } else {
                shelves.free.push(held);
            }
        }
    }

    /// The bucket refused a request with this query, or carried it out: all that was signed together is judged by it. `reads`: one that
    /// changes nothing, which is also refused where there is nothing to read; then `code` must be about the key.
    pub fn answered(&self, query: &str, reads: bool, refused: Option<&str>) {
        const KEY_CODES: [&str; 4] = [
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "InvalidToken",
        ];
        let batch = query.split("&X-Amz-Signature=").next().unwrap_or(query);
        let mut shelves = self.shelves();
        match refused {
            Some(code) if !reads || KEY_CODES.contains(&code) => {
                // Where something else was signed before, nobody brings more for this.
                let soonest_us = (self.now_us)() + MARGIN_US;
                let is_other = |held: &Held| *held.query != *batch && held.expires_us > soonest_us;
                match shelves.free.iter().any(is_other) {
                    true => shelves.forget(batch, (self.now_us)()),
                    false => shelves.refused = Some(batch.into()),
                }
            }
            Some(_) => {}
            None if reads => {}
            None => shelves.refused = shelves.refused.take().filter(|one| **one != *batch),
        }
    }

    /// The request on `key`, if it was granted. A PUT takes a place where it has none yet.
    ///
    /// # Errors
    /// `Denied` when somebody with keys has to sign more, `NotFound` when nothing is known of such an object.
    pub fn sign(
        &self,
        method: &Method,
        key: &str,
        query: &[(&'static str, &str)],
    ) -> Result<Granted, ErrorKind> {
        let mut shelves = self.shelves();
        let now_us = (self.now_us)();
        let is_put = method == Method::PUT && query.is_empty();
        let mut known = shelves.there.get(key).filter(|_| !is_put);
        if known.is_some_and(|held| held.expires_us <= now_us) {
            return Err(ErrorKind::Denied);
        }
        let by_place = |held: &&Held| held.grant.key == key;
        known = known
            .or_else(|| shelves.taken.get(key))
            .or_else(|| shelves.taken.values().find(by_place));
        if known.is_none_or(|held| held.expires_us <= now_us) {
            if !is_put {
                return Err(ErrorKind::NotFound);
            }
            self.take(&mut shelves, key, 0)?;
            known = shelves.taken.get(key);
        }
        let held = known.ok_or(ErrorKind::NotFound)?;
        let signature = held.grant.signature(method, query);
        let signature = hex::encode(signature.ok_or(ErrorKind::NotFound)?);
        Ok(Granted {
            key: held.grant.key.clone(),
            query: format!("{}&X-Amz-Signature={signature}", held.query),
        })
    }

    /// Gives an upload of at most so many parts to `key`, and returns its id.
    ///
    /// # Errors
    /// `Denied` when there is none.
    pub fn begin(&self, key: &str, parts: usize) -> Result<String, ErrorKind> {
        let mut shelves = self.shelves();
        self.take(&mut shelves, key, parts.max(1))?;
        Ok(shelves.taken[key].grant.upload_id.clone())
    }

    /// Gives a place to `key`: one for this very key, else any of its part of the run. `parts`: 0 for an object in one request.
    fn take(&self, shelves: &mut Shelves, key: &str, parts: usize) -> Result<(), ErrorKind> {
        let soonest_us = (self.now_us)() + MARGIN_US;
        shelves.free.retain(|held| held.expires_us > soonest_us);
        let is_commit = key.starts_with(&self.commits);
        let below = match is_commit {
            true => &self.commits,
            false => &self.data,
        };
        let fits = |held: &Held| {
            let grant = &held.grant;
            let size_fits = match parts {
                0 => grant.upload_id.is_empty(),
                parts => !grant.upload_id.is_empty() && grant.parts() >= parts,
            };
            let place_fits =
                key.starts_with(below.as_str()) && grant.key.starts_with(below.as_str());
            size_fits && (grant.key == key || place_fits)
        };
        let at = shelves
            .free
            .iter()
            .position(fits)
            .ok_or(ErrorKind::Denied)?;
        let held = shelves.free.remove(at);
        match (is_commit, parts) {
            (true, _) => shelves.last = std::mem::take(&mut shelves.since),
            (false, 0) => shelves.since.0 += 1,
            (false, _) => shelves.since.1 += 1,
        }
        shelves.taken.insert(key.to_owned(), held);
        Ok(())
    }

    /// Where `key` went, as far as it was given a place.
    pub fn stored_as(&self, key: &str) -> String {
        let shelves = self.shelves();
        let held = shelves.taken.get(key);
        held.map_or(key, |held| &held.grant.key).to_owned()
    }

    /// What was there when somebody with keys last looked, in key order; sizes and times are not known.
    pub fn list(&self, prefix: &str) -> Vec<ListedObject> {
        let shelves = self.shelves();
        let newest = |(_, held): &(&String, &Held)| held.query == shelves.newest;
        let there = shelves.there.iter().filter(newest);
        let mut keys: Vec<&String> = there.map(|(key, _)| key).collect();
        sort_by(&mut keys, |one, other| one.cmp(other));
        let listed = keys.into_iter().filter(|key| key.starts_with(prefix));
        let object = |key: &String| ListedObject {
            key: key.clone(),
            size_bytes: 0,
            etag: String::new(),
            modified_s: 0,
        };
        listed.map(object).collect()
    }

    /// How many more checkpoints like the last one can be stored, and until when at most, microseconds since the epoch (0: none can).
    pub fn left(&self) -> (u32, u64) {
        let shelves = self.shelves();
        left(&shelves, &self.commits, (self.now_us)() + MARGIN_US)
    }

    /// What there is to tell: the next checkpoint may not find what it needs, or not in `soon_us`. Once, until there is enough again.
    pub fn low(&self, soon_us: u64) -> Option<(u32, u64)> {
        let mut shelves = self.shelves();
        let now_us = (self.now_us)();
        let (left, expires_us) = left(&shelves, &self.commits, now_us + MARGIN_US);
        let is_low = left == 0 || expires_us < now_us + soon_us;
        let told = std::mem::replace(&mut shelves.told_low, is_low);
        (is_low && !told).then_some((left, expires_us))
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves
            .lock()
            .expect("nothing panics while it holds the grants")
    }
}

fn left(shelves: &Shelves, commits_prefix: &str, soonest_us: u64) -> (u32, u64) {
    let (mut files, mut uploads, mut commits) = (0, 0, 0);
    let mut expires_us = 0;
    for held in &shelves.free {
        if held.expires_us <= soonest_us || Some(&held.query) == shelves.refused.as_ref() {
            continue;
        }
        expires_us = held.expires_us.max(expires_us);
        match held.grant.key.starts_with(commits_prefix) {
            true => commits += 1,
            false if held.grant.upload_id.is_empty() => files += 1,
            false => uploads += 1,
        }
    }
    let (in_one, in_parts) = shelves.last;
    let enough_for = |there: usize, each: usize| there.checked_div(each).unwrap_or(usize::MAX);
    let enough: usize = commits
        .min(enough_for(files, in_one))
        .min(enough_for(uploads, in_parts));
    (enough as u32, expires_us)
}

#[cfg(test)]
mod tests;
