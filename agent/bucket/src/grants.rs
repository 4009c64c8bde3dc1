//! Grants: requests that somebody who has keys signed ahead, so that a box without keys can make them.
//!
//! [`Stock`] holds what a box was given, in memory alone. An object that is to be stored gets the next free place, since nobody
//! knew its name when the place was signed for: manifests tell where it went, and commits wait at places of their own until
//! somebody with keys puts them where they belong ([`crate::Vault::adopt`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use http::Method;

use crate::sorted::sort_by;
use crate::{
    bucket::{ErrorKind, ListedObject},
    layout::Layout,
};

/// A place is remembered so long after what was signed for it has ended.
const REMEMBERED_US: u64 = 24 * 3600 * 1_000_000;
/// What is said of a request that nobody signed.
pub const NOT_GRANTED: &str =
    "nothing is signed for it any more: whoever watches the run brings more";
/// Bytes of one signature.
pub const SIGNATURE_BYTES: usize = 32;
/// Nothing is begun with a grant that ends so soon: what is begun must come to its end, and clocks differ.
const MARGIN_US: u64 = 10 * 60 * 1_000_000;

/// What may be done with one object.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Full key.
    pub key: String,
    /// Of a multipart upload that was begun for it; empty: none was.
    pub upload_id: String,
    /// Signatures, one after the other. Of an object that is there: GET, HEAD. Of one that may be put: GET, HEAD, PUT. Of an upload:
    /// GET, HEAD, Complete, ListParts, and UploadPart of each part from the first on.
    pub signatures: Vec<u8>,
}

/// Where the signature of a part stands among those of an upload, less its number.
const PARTS_FROM: usize = 3;

impl Grant {
    fn signature(&self, method: &Method, query: &[(&'static str, &str)]) -> Option<&[u8]> {
        let part = query.iter().find(|(name, _)| *name == "partNumber");
        let at = match (method.as_str(), part, query.is_empty()) {
            ("GET", None, true) => 0,
            ("HEAD", None, true) => 1,
            ("PUT", None, true) if self.upload_id.is_empty() => 2,
            // Of a longer list of parts only the first page can be asked for.
            (_, _, true) => return None,
            _ if !query.contains(&("uploadId", &self.upload_id)) => return None,
            ("POST", None, _) => 2,
            ("GET", None, _) if query.len() == 1 => 3,
            ("PUT", Some((_, number)), _) => PARTS_FROM + number.parse::<usize>().ok()?,
            _ => return None,
        };
        self.signatures.chunks_exact(SIGNATURE_BYTES).nth(at)
    }

    /// Most parts that its upload may have.
    fn parts(&self) -> usize {
        (self.signatures.len() / SIGNATURE_BYTES).saturating_sub(PARTS_FROM + 1)
    }

    fn is_there(&self) -> bool {
        self.signatures.len() == 2 * SIGNATURE_BYTES
    }
}

/// Grants that were signed together.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// What the query of every request has besides its own and the signature, encoded.
    pub query: String,
    /// When they end, microseconds since the epoch.
    pub expires_us: u64,
    /// The grants.
    pub grants: Vec<Grant>,
}

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
            shelves.free.retain(|held| held.query != refused);
            // An object that had such a place takes another one.
            for held in shelves.taken.values_mut() {
                if held.query == refused {
                    held.expires_us = held.expires_us.min(now_us);
                }
            }
        }
        for grant in batch.grants {
            let held = Held {
                query: query.clone(),
                expires_us: batch.expires_us,
                grant,
            };
            if held.grant.is_there() {
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
                shelves.refused = Some(batch.into());
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

    /// What is known to be there, in key order; sizes and times are not known.
    pub fn list(&self, prefix: &str) -> Vec<ListedObject> {
        let shelves = self.shelves();
        let mut keys: Vec<&String> = shelves.there.keys().collect();
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
mod tests {
    use super::*;

    const HOUR_US: u64 = 3_600_000_000;

    fn now_us() -> u64 {
        HOUR_US
    }

    fn stock() -> Stock {
        Stock::new(&Layout::new("p", "run").unwrap(), now_us)
    }

    /// A grant whose n-th signature is made of the number n.
    fn grant(key: &str, upload_id: &str, signatures: u8) -> Grant {
        Grant {
            key: format!("p/run/{key}"),
            upload_id: upload_id.to_owned(),
            signatures: (0..signatures)
                .flat_map(|number| [number; SIGNATURE_BYTES])
                .collect(),
        }
    }

    fn batch(hours: u64, grants: Vec<Grant>) -> Batch {
        Batch {
            query: "X-Amz-Date=now".to_owned(),
            expires_us: now_us() + hours * HOUR_US,
            grants,
        }
    }

    fn key(relative: &str) -> String {
        format!("p/run/{relative}")
    }

    #[track_caller]
    fn check(
        stock: &Stock,
        method: &Method,
        relative: &str,
        query: &[(&'static str, &str)],
        expected: Result<(&str, u8), ErrorKind>,
    ) {
        let found = stock.sign(method, &key(relative), query);
        let found = found.map(|granted| (granted.key, granted.query));
        let expected = expected.map(|(place, number)| {
            let signature = hex::encode([number; SIGNATURE_BYTES]);
            let query = format!("X-Amz-Date=now&X-Amz-Signature={signature}");
            (key(place), query)
        });
        assert_eq!(found, expected, "{method} {relative} {query:?}");
    }

    #[test]
    fn an_object_keeps_the_place_it_took_and_another_gets_the_next() {
        let stock = stock();
        stock.add(batch(
            1,
            vec![grant("data/lot/1", "", 3), grant("data/lot/2", "", 3)],
        ));
        check(
            &stock,
            &Method::GET,
            "data/a/x",
            &[],
            Err(ErrorKind::NotFound),
        );
        check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));
        check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));
        check(&stock, &Method::GET, "data/a/x", &[], Ok(("data/lot/1", 0)));
        check(
            &stock,
            &Method::HEAD,
            "data/lot/1",
            &[],
            Ok(("data/lot/1", 1)),
        );
        assert_eq!(stock.stored_as(&key("data/a/x")), key("data/lot/1"));
        assert_eq!(stock.stored_as(&key("data/a/y")), key("data/a/y"));
        check(&stock, &Method::PUT, "data/a/y", &[], Ok(("data/lot/2", 2)));
        check(
            &stock,
            &Method::PUT,
            "data/a/z",
            &[],
            Err(ErrorKind::Denied),
        );
        stock.add(batch(1, vec![grant("data/lot/3", "", 3)]));
        check(&stock, &Method::PUT, "data/a/z", &[], Ok(("data/lot/3", 2)));
    }

    #[test]
    fn what_the_bucket_refuses_is_used_up_as_soon_as_something_else_is_signed() {
        let stock = stock();
        let first = vec![
            grant("data/lot/1", "", 3),
            grant("data/lot/2", "", 3),
            grant("data/lot/u", "id", 6),
            grant("commits/waiting-1.json", "", 3),
        ];
        stock.add(batch(1, first));
        check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));
        assert_eq!(stock.begin(&key("data/a/big"), 2).unwrap(), "id");
        assert_eq!(stock.left().0, 1);
        let sent = "X-Amz-Date=now&X-Amz-Signature=00";
        // A read that is refused may only mean that there is nothing.
        stock.answered(sent, true, Some("AccessDenied"));
        assert_eq!(stock.left().0, 1);
        stock.answered(sent, true, Some("InvalidAccessKeyId"));
        assert_eq!(stock.left().0, 0);
        // It was a moment's mood.
        stock.answered(sent, false, None);
        assert_eq!(stock.left().0, 1);
        stock.answered(sent, false, Some("AccessDenied"));
        assert_eq!(stock.left().0, 0);
        // Until there is something else it is tried again as it is.
        check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));

        let mut second = batch(
            2,
            vec![
                grant("data/lot/3", "", 3),
                grant("data/lot/u", "id", 7),
                grant("commits/waiting-2.json", "", 3),
            ],
        );
        second.query = "X-Amz-Date=later".to_owned();
        stock.add(second);
        assert_eq!(stock.left().0, 1);
        let put = stock.sign(&Method::PUT, &key("data/a/x"), &[]).unwrap();
        assert_eq!(put.key, key("data/lot/3"));
        assert!(put.query.starts_with("X-Amz-Date=later&"), "{}", put.query);
        // An upload that was begun goes on with the same id, and with more parts.
        let part = [("partNumber", "3"), ("uploadId", "id")];
        let sent = stock.sign(&Method::PUT, &key("data/a/big"), &part).unwrap();
        assert!(
            sent.query.starts_with("X-Amz-Date=later&"),
            "{}",
            sent.query
        );
        assert_eq!(sent.key, key("data/lot/u"));
    }

    #[test]
    fn an_upload_that_is_signed_anew_outlives_its_first_grant() {
        let stock = stock();
        stock.add(batch(1, vec![grant("data/lot/u", "id", 6)]));
        assert_eq!(stock.begin(&key("data/a/big"), 2).unwrap(), "id");
        let part = [("partNumber", "2"), ("uploadId", "id")];
        let mut renewed = batch(9, vec![grant("data/lot/u", "id", 6)]);
        renewed.query = "X-Amz-Date=later".to_owned();
        stock.add(renewed.clone());
        let sent = stock.sign(&Method::PUT, &key("data/a/big"), &part).unwrap();
        assert!(
            sent.query.starts_with("X-Amz-Date=later&"),
            "{}",
            sent.query
        );
        // One that was signed for fewer parts than it has is kept as it is; and none is there twice.
        renewed.grants[0].signatures.truncate(5 * SIGNATURE_BYTES);
        stock.add(renewed);
        assert!(stock.sign(&Method::PUT, &key("data/a/big"), &part).is_ok());
        assert_eq!(stock.begin(&key("data/a/more"), 1), Err(ErrorKind::Denied));
    }

    #[test]
    fn places_are_for_their_own_part_of_the_run_and_others_for_one_name() {
        let stock = stock();
        stock.add(batch(
            1,
            vec![
                grant("commits/waiting-1.json", "", 3),
                grant("endings/3.json", "", 3),
                grant("data/lot/1", "", 3),
            ],
        ));
        for relative in [
            "results/a",
            "logs/1/train.0.0.log",
            "endings/2.json",
            "pins/a.json",
        ] {
            check(&stock, &Method::PUT, relative, &[], Err(ErrorKind::Denied));
        }
        let commit = "commits/000000000001-x.json";
        check(
            &stock,
            &Method::PUT,
            "endings/3.json",
            &[],
            Ok(("endings/3.json", 2)),
        );
        check(
            &stock,
            &Method::PUT,
            commit,
            &[],
            Ok(("commits/waiting-1.json", 2)),
        );
        check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/1", 2)));
    }

    #[test]
    fn an_upload_takes_one_that_was_begun_for_enough_parts() {
        let stock = stock();
        stock.add(batch(
            1,
            vec![
                grant("data/lot/1", "one", 4 + 2),
                grant("data/lot/2", "two", 4 + 5),
            ],
        ));
        assert_eq!(stock.begin(&key("data/a/x"), 6), Err(ErrorKind::Denied));
        assert_eq!(stock.begin(&key("data/a/x"), 3), Ok("two".to_owned()));
        let part = |number| [("partNumber", number), ("uploadId", "two")];
        let of = [("uploadId", "two")];
        let place = "data/lot/2";
        check(&stock, &Method::PUT, "data/a/x", &part("1"), Ok((place, 4)));
        check(&stock, &Method::PUT, "data/a/x", &part("5"), Ok((place, 8)));
        check(
            &stock,
            &Method::PUT,
            "data/a/x",
            &part("6"),
            Err(ErrorKind::NotFound),
        );
        check(&stock, &Method::POST, "data/a/x", &of, Ok((place, 2)));
        check(&stock, &Method::GET, "data/a/x", &of, Ok((place, 3)));
        check(&stock, &Method::GET, "data/a/x", &[], Ok((place, 0)));
        let other = [("uploadId", "one")];
        check(
            &stock,
            &Method::POST,
            "data/a/x",
            &other,
            Err(ErrorKind::NotFound),
        );
        let page = [("part-number-marker", "1000"), ("uploadId", "two")];
        check(
            &stock,
            &Method::GET,
            "data/a/x",
            &page,
            Err(ErrorKind::NotFound),
        );
    }

    #[test]
    fn what_is_there_is_listed_and_read_until_its_signatures_end() {
        let stock = stock();
        let commit = "commits/000000000001-x.json";
        stock.add(batch(
            1,
            vec![grant(commit, "", 2), grant("data/lot/9", "", 2)],
        ));
        let listed = stock.list(&key("commits/"));
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].key, key(commit));
        check(&stock, &Method::GET, commit, &[], Ok((commit, 0)));
        check(
            &stock,
            &Method::HEAD,
            "data/lot/9",
            &[],
            Ok(("data/lot/9", 1)),
        );
        let stock = self::stock();
        stock.add(batch(0, vec![grant(commit, "", 2)]));
        check(&stock, &Method::GET, commit, &[], Err(ErrorKind::Denied));
    }

    #[test]
    fn what_ends_soon_is_no_place_any_more() {
        let stock = stock();
        let mut soon = batch(0, vec![grant("data/lot/1", "", 3)]);
        soon.expires_us += MARGIN_US;
        stock.add(soon);
        stock.add(batch(1, vec![grant("data/lot/2", "", 3)]));
        check(&stock, &Method::PUT, "data/a/x", &[], Ok(("data/lot/2", 2)));
        check(
            &stock,
            &Method::PUT,
            "data/a/y",
            &[],
            Err(ErrorKind::Denied),
        );
    }

    #[test]
    fn what_is_left_is_counted_in_checkpoints_like_the_last_and_told_once_when_low() {
        let stock = stock();
        assert_eq!(
            (stock.left(), stock.low(0)),
            ((0, 0), None),
            "nothing came yet"
        );
        let mut grants: Vec<Grant> = (0..5)
            .map(|number| grant(&format!("data/lot/{number}"), "", 3))
            .collect();
        for number in 0..3 {
            grants.push(grant(&format!("commits/waiting-{number}.json"), "", 3));
            grants.push(grant(&format!("data/lot/u{number}"), "id", 5));
        }
        stock.add(batch(2, grants));
        let end = now_us() + 2 * HOUR_US;
        assert_eq!((stock.left(), stock.low(HOUR_US)), ((3, end), None));
        let commit = |name: &str| {
            for file in ["x", "y"] {
                stock
                    .sign(&Method::PUT, &key(&format!("data/{name}/{file}")), &[])
                    .unwrap();
            }
            stock.begin(&key(&format!("data/{name}/z")), 1).unwrap();
            stock
                .sign(&Method::PUT, &key(&format!("commits/{name}.json")), &[])
                .unwrap();
        };
        commit("a");
        assert_eq!(
            (stock.left(), stock.low(HOUR_US)),
            ((1, end), None),
            "three files and two of each"
        );
        assert_eq!(
            stock.low(3 * HOUR_US),
            Some((1, end)),
            "it ends within three hours"
        );
        assert_eq!(stock.low(HOUR_US), None);
        commit("b");
        assert_eq!(stock.low(HOUR_US), Some((0, end)));
        assert_eq!(stock.low(HOUR_US), None, "told");
    }
}
