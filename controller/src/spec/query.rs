//! The market's query language, as its official client reads it (pure): `field op value`, several of them, all of which
//! must hold. Becomes filters in the names and units that the market's API expects.
//!
//! What the client would send by mistake is refused here, with the place: unknown fields, lists without `in`, words for numbers.

mod fields;

use std::fmt;

use serde_json::{Map, Value, json};

use self::fields::{DEFAULTS, convert, field, names, operator};
use crate::{provider::Filter, spec::nearest};

/// What is wrong with a query, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryError {
    /// Character of the text at which it shows, from 0.
    pub at: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (character {})", self.message, self.at + 1)
    }
}

impl std::error::Error for QueryError {}

/// Value of a filter that removes what was said of its field before, defaults included.
const ANY: &str = "any";

/// Reads a query. An empty one has no conditions.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(text: &str) -> Result<Vec<Filter>, QueryError> {
    let mut scanner = Scanner { text, at: 0 };
    let mut filters = Vec::new();
    loop {
        scanner.blanks();
        if scanner.rest().is_empty() {
            return Ok(filters);
        }
        let found = condition(&mut scanner).map_err(|err| QueryError {
            at: text
                .get(..err.at)
                .map_or(err.at, |before| before.chars().count()),
            ..err
        })?;
        filters.push(found);
    }
}

/// Whatever it is: nothing that was said of this field holds, the defaults included.
pub fn any(field: &str) -> Filter {
    Filter {
        field: field.to_owned(),
        op: "eq".to_owned(),
        value: json!(ANY),
    }
}

/// All in at least this, dollars per hour: what was rounded on the way is not passed over.
pub fn price_at_least(usd_per_hour: f64) -> Filter {
    Filter {
        field: "dph_total".to_owned(),
        op: "gte".to_owned(),
        value: json!((usd_per_hour * 1e5).floor() / 1e5),
    }
}

/// What is asked of the market: `{field: {op: value}}`, the defaults included. A later filter replaces an earlier one of the same
/// field and operator; `any` removes all that were said of its field so far.
pub fn conditions(filters: &[Filter]) -> Map<String, Value> {
    let mut all: Map<String, Value> = DEFAULTS
        .iter()
        .map(|(field, value)| ((*field).to_owned(), json!({"eq": value})))
        .collect();
    for filter in filters {
        if filter.op == "eq" && filter.value == ANY {
            all.remove(&filter.field);
            continue;
        }
        let ops = all.entry(filter.field.clone()).or_insert(Value::Null);
        if !ops.is_object() {
            *ops = json!({});
        }
        ops[filter.op.as_str()] = filter.value.clone();
    }
    all
}

fn condition(scanner: &mut Scanner<'_>) -> Result<Filter, QueryError> {
    let field_at = scanner.at;
    let typed = scanner.word();
    if typed.is_empty() {
        let found = scanner.rest().chars().next().unwrap_or(' ');
        return Err(error(
            field_at,
            format!("a field is expected, not `{found}`"),
        ));
    }
    let Some((name, kind)) = field(typed) else {
        let message = match nearest(typed, names()) {
            Some(near) => format!("unknown field `{typed}`, did you mean `{near}`?"),
            None => format!(
                "unknown field `{typed}`; put a value with blanks in quotes, several values in [ ]"
            ),
        };
        return Err(error(field_at, message));
    };
    scanner.blanks();
    let op = scanner.operator(typed)?;
    scanner.blanks();
    let (value_at, value) = (scanner.at, scanner.value(typed)?);
    let converted = |(at, item): &(usize, String)| {
        convert(kind, typed, op, item).map_err(|message| error(*at, message))
    };
    let value = match (op, value) {
        ("in" | "notin", Typed::List(items)) => {
            let items: Result<Vec<Value>, _> = items.iter().map(converted).collect();
            Value::Array(items?)
        }
        ("in" | "notin", Typed::One(at, item)) => {
            let items = item.split(',').map(str::trim);
            let items: Result<Vec<Value>, _> = items
                .filter(|item| !item.is_empty())
                .map(|item| converted(&(at, item.to_owned())))
                .collect();
            Value::Array(items?)
        }
        // One value in brackets is one value.
        ("eq" | "neq", Typed::List(items)) if items.len() == 1 => converted(&items[0])?,
        (_, Typed::List(_)) => {
            let message = format!("a list needs `in` or `notin`, not `{op}`");
            return Err(error(value_at, message));
        }
        (_, Typed::One(at, item)) if item.contains(',') && !scanner.is_quoted(at) => {
            return Err(error(at, format!("several values need `in`, not `{op}`")));
        }
        // Removes a condition that is there by default, such as `verified=any`.
        ("eq", Typed::One(_, item)) if is_any(&item) => json!(ANY),
        (_, Typed::One(at, item)) if is_any(&item) => {
            return Err(error(at, format!("`{item}` only goes with `=`")));
        }
        (_, Typed::One(at, item)) => converted(&(at, item))?,
    };
    Ok(Filter {
        field: name.to_owned(),
        op: op.to_owned(),
        value,
    })
}

fn is_any(item: &str) -> bool {
    matches!(item, ANY | "*" | "?")
}

/// A value as typed, with its place.
enum Typed {
    One(usize, String),
    List(Vec<(usize, String)>),
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Whether a quoted value stands at a place.
    fn is_quoted(&self, at: usize) -> bool {
        self.text[at..].starts_with(['"', '\''])
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, ends: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(ends).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Letters, digits and `_`.
    fn word(&mut self) -> &'a str {
        self.take(|c| !c.is_ascii_alphanumeric() && c != '_')
    }

    fn operator(&mut self, field: &str) -> Result<&'static str, QueryError> {
        const KNOWN: &str = "= != > >= < <= in notin";
        let start = self.at;
        let signs = self.take(|c| !matches!(c, '=' | '<' | '>' | '!'));
        let mut typed = signs.to_owned();
        if signs.is_empty() {
            typed = self.word().to_owned();
            if typed == "not" {
                self.blanks();
                typed = format!("not {}", self.word());
            }
        }
        operator(&typed).ok_or_else(|| {
            let message = match signs {
                "" => format!("an operator is expected after `{field}`: {KNOWN}"),
                signs => format!("there is no operator `{signs}`: {KNOWN}"),
            };
            error(start, message)
        })
    }

    fn value(&mut self, field: &str) -> Result<Typed, QueryError> {
        let start = self.at;
        if !self.rest().starts_with('[') {
            let (at, item) = self.item(field, char::is_whitespace)?;
            let item = match self.is_quoted(at) {
                true => item,
                false => item.trim_matches(',').to_owned(),
            };
            return Ok(Typed::One(at, item));
        }
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.blanks();
            match self.rest().chars().next() {
                None => return Err(error(start, "the list is not closed by `]`".to_owned())),
                Some(']') => {
                    self.at += 1;
                    if items.is_empty() {
                        return Err(error(start, format!("the list for `{field}` is empty")));
                    }
                    return Ok(Typed::List(items));
                }
                Some(',') => self.at += 1,
                Some(_) => items.push(self.item(field, |c| c == ',' || c == ']')?),
            }
        }
    }

    /// One value and its place: quoted, or up to a character that ends it.
    fn item(
        &mut self,
        field: &str,
        ends: impl Fn(char) -> bool,
    ) -> Result<(usize, String), QueryError> {
        let start = self.at;
        let rest = self.rest();
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            let Some(length) = rest[1..].find(quote) else {
                return Err(error(start, "the quote is not closed".to_owned()));
            };
            self.at += length + 2;
            return Ok((start, rest[1..1 + length].to_owned()));
        }
        let item = self.take(ends).trim();
        if item.is_empty() {
            return Err(error(start, format!("a value is expected for `{field}`")));
        }
        if let Some(bad) = item.find(['=', '<', '>', '!', '"', '\'', '[']) {
            let message = format!(
                "a value does not hold `{}`: put it in quotes",
                &item[bad..=bad]
            );
            return Err(error(start + bad, message));
        }
        Ok((start, item.to_owned()))
    }
}

fn error(at: usize, message: String) -> QueryError {
    QueryError { at, message }
}

#[cfg(test)]
mod tests;
