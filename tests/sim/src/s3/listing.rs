//! One page of a bucket's keys: prefix, delimiter, where to go on (pure over a scan of the store).

use std::sync::Arc;

use super::store::{Description, Store, StoreError};

/// Most rows of a page.
pub const MAX_ROWS: usize = 1000;

/// What is asked of a bucket's keys.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// What keys begin with.
    pub prefix: String,
    /// Keys are folded up to its next occurrence after the prefix.
    pub delimiter: Option<String>,
    /// Only keys after this one.
    pub after: Option<String>,
    /// Continuation token of the page before.
    pub token: Option<String>,
    /// Most rows.
    pub max_rows: usize,
}

/// A page.
#[derive(Debug, Default, PartialEq)]
pub struct Page {
    /// Objects, in key order.
    pub objects: Vec<Arc<Description>>,
    /// Folded keys, in order.
    pub common_prefixes: Vec<String>,
    /// Token of the next page; `None` on the last.
    pub next: Option<String>,
}

/// Reads a page. `None` for a token that this server did not write.
pub fn page(store: &Store, bucket: &str, query: &Query) -> Result<Option<Page>, StoreError> {
    let last = match query.token.as_deref().map(Last::read) {
        None => query.after.clone().map(Last::Key),
        Some(None) => return Ok(None),
        Some(last) => last,
    };
    let from = last
        .as_ref()
        .map_or(query.prefix.as_str(), |last| last.text().max(&query.prefix));
    let max_rows = query.max_rows.min(MAX_ROWS);
    let mut page = Page::default();
    let mut newest = last.clone();
    store.scan(bucket, from, |object| {
        let key = &object.key;
        if !key.starts_with(&query.prefix) {
            return false;
        }
        if last.as_ref().is_some_and(|last| last.covers(key))
            || newest.as_ref().is_some_and(|newest| newest.covers(key))
        {
            return true;
        }
        if page.objects.len() + page.common_prefixes.len() >= max_rows {
            page.next = newest.as_ref().map(Last::write);
            return false;
        }
        let delimiter = query
            .delimiter
            .as_deref()
            .filter(|delimiter| !delimiter.is_empty());
        let folded = delimiter.and_then(|delimiter| {
            let at = key[query.prefix.len()..].find(delimiter)?;
            Some(key[..query.prefix.len() + at + delimiter.len()].to_owned())
        });
        match folded {
            Some(folded) => {
                page.common_prefixes.push(folded.clone());
                newest = Some(Last::Folded(folded));
            }
            None => {
                page.objects.push(object.clone());
                newest = Some(Last::Key(key.clone()));
            }
        }
        true
    })?;
    Ok(Some(page))
}

/// The last row of a page.
#[derive(Debug, Clone, PartialEq)]
enum Last {
    Key(String),
    Folded(String),
}

impl Last {
    /// Whether a key is this row, or before it.
    fn covers(&self, key: &str) -> bool {
        match self {
            Self::Key(last) => key <= last.as_str(),
            Self::Folded(last) => key.starts_with(last.as_str()),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Key(last) | Self::Folded(last) => last,
        }
    }

    /// As a token: opaque, as S3 says, and safe in a URL.
    fn write(&self) -> String {
        let kind = if matches!(self, Self::Key(_)) {
            'k'
        } else {
            'f'
        };
        format!("{kind}{}", hex::encode(self.text()))
    }

    fn read(token: &str) -> Option<Self> {
        let text = |rest: &str| String::from_utf8(hex::decode(rest).ok()?).ok();
        match (token.strip_prefix('k'), token.strip_prefix('f')) {
            (Some(rest), _) => text(rest).map(Self::Key),
            (None, Some(rest)) => text(rest).map(Self::Folded),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::store::Precondition, *};

    fn store(keys: &[&str]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &["runs".to_owned()]).unwrap();
        for key in keys {
            let description = Description {
                key: (*key).to_owned(),
                size_bytes: 0,
                etag: String::new(),
                modified_ms: 0,
                content_type: None,
                metadata: Default::default(),
            };
            store
                .put(
                    "runs",
                    description,
                    store.scratch().unwrap().1,
                    &Precondition::default(),
                )
                .unwrap();
        }
        (dir, store)
    }

    /// All rows, page by page, folded keys marked by a star; each page has the most rows but the last.
    fn check(store: &Store, query: &Query, expected: &[&str]) {
        for max_rows in 1..=4 {
            let mut found = Vec::new();
            let mut query = Query {
                max_rows,
                ..query.clone()
            };
            loop {
                let page = page(store, "runs", &query).unwrap().unwrap();
                let rows = page.objects.len() + page.common_prefixes.len();
                assert!(rows == max_rows || page.next.is_none(), "{query:?}");
                found.extend(page.objects.iter().map(|object| object.key.clone()));
                found.extend(
                    page.common_prefixes
                        .iter()
                        .map(|folded| format!("{folded}*")),
                );
                query.token = page.next;
                if query.token.is_none() {
                    break;
                }
            }
            found.sort();
            assert_eq!(found, expected, "{query:?}");
        }
    }

    #[test]
    fn pages_of_any_size_hold_every_row_once() {
        let (_dir, store) = store(&["a", "a/1", "a/2", "a/b/3", "a0", "b/1", "b/2", "c"]);
        let query = |prefix: &str, delimiter: Option<&str>, after: Option<&str>| Query {
            prefix: prefix.to_owned(),
            delimiter: delimiter.map(str::to_owned),
            after: after.map(str::to_owned),
            ..Query::default()
        };
        check(
            &store,
            &query("", None, None),
            &["a", "a/1", "a/2", "a/b/3", "a0", "b/1", "b/2", "c"],
        );
        check(
            &store,
            &query("", Some("/"), None),
            &["a", "a/*", "a0", "b/*", "c"],
        );
        check(
            &store,
            &query("a/", Some("/"), None),
            &["a/1", "a/2", "a/b/*"],
        );
        check(&store, &query("a", None, Some("a/2")), &["a/b/3", "a0"]);
        check(&store, &query("b", None, Some("a")), &["b/1", "b/2"]);
        check(&store, &query("x", None, None), &[]);
    }

    #[test]
    fn a_token_of_another_server_is_refused() {
        let (_dir, store) = store(&["a"]);
        for token in ["", "x", "kzz", "k61 "] {
            let query = Query {
                token: Some(token.to_owned()),
                max_rows: 10,
                ..Query::default()
            };
            assert_eq!(page(&store, "runs", &query).unwrap(), None, "{token}");
        }
    }
}
