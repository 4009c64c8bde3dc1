//! A query is read, or refused at a place that it has.

use spotter::spec::query::{conditions, parse};

pub(crate) fn check(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    match parse(text) {
        Ok(filters) => drop(conditions(&filters)),
        Err(err) => assert!(err.at <= text.len(), "{err} of {text:?}"),
    }
}
