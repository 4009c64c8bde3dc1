//! The market's query language, as its official client reads it (pure): `field op value`, several of them, all of which
//! must hold. Becomes filters in the names and units that the market's API expects.

use std::fmt;

use serde_json::{Value, json};

use crate::{provider::Filter, spec::nearest};

/// What is wrong with a query, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryError {
    /// Byte of the text at which it shows.
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

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A number, multiplied by this to get from the user's unit to the market's.
    Number(u32),
    /// Yes or no.
    Bool,
    /// A word, or a phrase whose blanks may be written `_`.
    Text,
    /// `535.86.05`, compared as a number of nine digits.
    DriverVersion,
}

/// Fields that can be searched, by the market's names.
const FIELDS: &[(&str, Kind)] = &[
    ("ask_contract_id", Kind::Number(1)),
    ("bw_nvlink", Kind::Number(1)),
    ("cluster_id", Kind::Number(1)),
    ("compute_cap", Kind::Number(1)),
    ("cpu_arch", Kind::Text),
    ("cpu_cores", Kind::Number(1)),
    ("cpu_cores_effective", Kind::Number(1)),
    ("cpu_ghz", Kind::Number(1)),
    // GB to MB, by 1000 as the official client does.
    ("cpu_ram", Kind::Number(1000)),
    ("cuda_max_good", Kind::Number(1)),
    ("datacenter", Kind::Bool),
    ("direct_port_count", Kind::Number(1)),
    ("disk_bw", Kind::Number(1)),
    ("disk_space", Kind::Number(1)),
    ("dlperf", Kind::Number(1)),
    ("dlperf_per_dphtotal", Kind::Number(1)),
    ("dph_total", Kind::Number(1)),
    ("driver_version", Kind::DriverVersion),
    // Days to seconds.
    ("duration", Kind::Number(86_400)),
    ("external", Kind::Bool),
    ("flops_per_dphtotal", Kind::Number(1)),
    ("geolocation", Kind::Text),
    ("gpu_arch", Kind::Text),
    ("gpu_display_active", Kind::Bool),
    ("gpu_frac", Kind::Number(1)),
    ("gpu_max_power", Kind::Number(1)),
    ("gpu_max_temp", Kind::Number(1)),
    ("gpu_mem_bw", Kind::Number(1)),
    ("gpu_name", Kind::Text),
    ("gpu_ram", Kind::Number(1000)),
    ("gpu_total_ram", Kind::Number(1000)),
    ("has_avx", Kind::Bool),
    ("host_id", Kind::Number(1)),
    ("inet_down", Kind::Number(1)),
    ("inet_down_cost", Kind::Number(1)),
    ("inet_up", Kind::Number(1)),
    ("inet_up_cost", Kind::Number(1)),
    ("machine_id", Kind::Number(1)),
    ("min_bid", Kind::Number(1)),
    ("mobo_name", Kind::Text),
    ("num_gpus", Kind::Number(1)),
    ("os_version", Kind::Text),
    ("pci_gen", Kind::Number(1)),
    ("pcie_bw", Kind::Number(1)),
    ("reliability", Kind::Number(1)),
    ("rentable", Kind::Bool),
    ("rented", Kind::Bool),
    ("static_ip", Kind::Bool),
    ("storage_cost", Kind::Number(1)),
    ("total_flops", Kind::Number(1)),
    ("verified", Kind::Bool),
];

/// Other names of the same, as the official client knows them.
const ALIASES: &[(&str, &str)] = &[
    ("cuda_vers", "cuda_max_good"),
    ("display_active", "gpu_display_active"),
    ("dlperf_usd", "dlperf_per_dphtotal"),
    ("dph", "dph_total"),
    ("dphtotal", "dph_total"),
    ("flops_usd", "flops_per_dphtotal"),
    ("gpu_totalram", "gpu_total_ram"),
    ("reliability2", "reliability"),
    ("ubuntu_version", "os_version"),
];

/// Operators as typed, longest first, and as the market has them.
const OPERATORS: &[(&str, &str)] = &[
    ("==", "eq"),
    ("!=", "neq"),
    (">=", "gte"),
    ("<=", "lte"),
    ("=", "eq"),
    (">", "gt"),
    ("<", "lt"),
];

/// Operators that are words.
const WORD_OPERATORS: &[(&str, &str)] = &[
    ("eq", "eq"),
    ("neq", "neq"),
    ("noteq", "neq"),
    ("gt", "gt"),
    ("gte", "gte"),
    ("lt", "lt"),
    ("lte", "lte"),
    ("in", "in"),
    ("notin", "notin"),
    ("nin", "notin"),
    ("not eq", "neq"),
    ("not in", "notin"),
];

/// Reads a query. An empty one has no conditions.
pub fn parse(text: &str) -> Result<Vec<Filter>, QueryError> {
    let mut scanner = Scanner { text, at: 0 };
    let mut filters = Vec::new();
    loop {
        scanner.blanks();
        if scanner.rest().is_empty() {
            return Ok(filters);
        }
        filters.push(condition(&mut scanner)?);
    }
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
    let name = ALIASES
        .iter()
        .find(|(alias, _)| *alias == typed)
        .map_or(typed, |(_, name)| name);
    let Some((name, kind)) = FIELDS.iter().find(|(known, _)| *known == name) else {
        let names = FIELDS
            .iter()
            .map(|(name, _)| *name)
            .chain(ALIASES.iter().map(|(alias, _)| *alias));
        let message = match nearest(typed, names) {
            Some(near) => format!("unknown field `{typed}`, did you mean `{near}`?"),
            None => format!("unknown field `{typed}`; put a value with blanks in quotes"),
        };
        return Err(error(field_at, message));
    };
    scanner.blanks();
    let op_at = scanner.at;
    let op = scanner.operator().ok_or_else(|| {
        let message = format!("an operator is expected after `{typed}`: = != > >= < <= in notin");
        error(op_at, message)
    })?;
    scanner.blanks();
    let value_at = scanner.at;
    let value = scanner.value(typed)?;
    let value = match (op, value) {
        ("in" | "notin", Typed::List(items)) => {
            let items: Result<Vec<Value>, _> = items
                .iter()
                .map(|item| convert(*kind, typed, op, item))
                .collect();
            Value::Array(items.map_err(|message| error(value_at, message))?)
        }
        ("in" | "notin", Typed::One(item)) => {
            let item = convert(*kind, typed, op, &item).map_err(|why| error(value_at, why))?;
            Value::Array(vec![item])
        }
        (_, Typed::List(_)) => {
            return Err(error(
                value_at,
                format!("a list needs `in` or `notin`, not `{op}`"),
            ));
        }
        // Removes a condition that is there by default, such as `verified=any`.
        ("eq", Typed::One(item)) if matches!(item.as_str(), "any" | "*" | "?") => json!("any"),
        (_, Typed::One(item)) => {
            convert(*kind, typed, op, &item).map_err(|why| error(value_at, why))?
        }
    };
    Ok(Filter {
        field: (*name).to_owned(),
        op: op.to_owned(),
        value,
    })
}

/// A value in the market's type and unit.
fn convert(kind: Kind, field: &str, op: &str, typed: &str) -> Result<Value, String> {
    let ordered = matches!(op, "gt" | "gte" | "lt" | "lte");
    match kind {
        Kind::Bool | Kind::Text if ordered => {
            Err(format!("`{field}` has no order: only = != in notin apply"))
        }
        Kind::Bool => match typed.to_ascii_lowercase().as_str() {
            "true" => Ok(json!(true)),
            "false" => Ok(json!(false)),
            _ => Err(format!("`{field}` is true, false or any, not `{typed}`")),
        },
        Kind::Text => Ok(json!(typed.replace('_', " "))),
        Kind::Number(factor) => {
            let number: f64 = typed
                .trim_start_matches('$')
                .parse()
                .map_err(|_| format!("`{field}` is compared with a number, not `{typed}`"))?;
            if !number.is_finite() {
                return Err(format!(
                    "`{field}` is compared with a number, not `{typed}`"
                ));
            }
            let number = number * f64::from(factor);
            // Whole numbers travel as such: the market compares columns of integers.
            if number.fract() == 0.0 && number.abs() < 9e15 {
                Ok(json!(number as i64))
            } else {
                Ok(json!(number))
            }
        }
        Kind::DriverVersion => {
            let parts: Vec<&str> = typed.split('.').collect();
            let valid = (1..=3).contains(&parts.len())
                && parts.iter().all(|part| {
                    (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
                });
            if !valid {
                return Err(format!("`{field}` looks like 535.86.05, not `{typed}`"));
            }
            let number = (0..3).fold(0_u64, |number, index| {
                let part = parts.get(index).and_then(|part| part.parse::<u64>().ok());
                number * 1000 + part.unwrap_or(0)
            });
            Ok(json!(number))
        }
    }
}

/// A value as typed.
enum Typed {
    One(String),
    List(Vec<String>),
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Letters, digits and `_`.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn operator(&mut self) -> Option<&'static str> {
        for (typed, op) in OPERATORS {
            if self.rest().starts_with(*typed) {
                self.at += typed.len();
                return Some(*op);
            }
        }
        let start = self.at;
        let mut word = self.word().to_owned();
        if word == "not" {
            self.blanks();
            word = format!("not {}", self.word());
        }
        let found = WORD_OPERATORS.iter().find(|(typed, _)| *typed == word);
        if found.is_none() {
            self.at = start;
        }
        found.map(|(_, op)| *op)
    }

    fn value(&mut self, field: &str) -> Result<Typed, QueryError> {
        let start = self.at;
        if !self.rest().starts_with('[') {
            return Ok(Typed::One(self.item(field, |c| c.is_whitespace())?));
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

    /// One value: quoted, or up to a character that ends it.
    fn item(&mut self, field: &str, ends: impl Fn(char) -> bool) -> Result<String, QueryError> {
        let start = self.at;
        let rest = self.rest();
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            let Some(length) = rest[1..].find(quote) else {
                return Err(error(start, "the quote is not closed".to_owned()));
            };
            self.at += length + 2;
            return Ok(rest[1..1 + length].to_owned());
        }
        let end = rest.find(ends).unwrap_or(rest.len());
        let item = rest[..end].trim();
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
        self.at += end;
        Ok(item.to_owned())
    }
}

fn error(at: usize, message: String) -> QueryError {
    QueryError { at, message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str, Value)]) {
        let filters = parse(text).unwrap_or_else(|err| panic!("{text}: {err}"));
        let found: Vec<_> = filters
            .iter()
            .map(|filter| {
                (
                    filter.field.as_str(),
                    filter.op.as_str(),
                    filter.value.clone(),
                )
            })
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[track_caller]
    fn check_error(text: &str, at: usize, message: &str) {
        let err = parse(text).unwrap_err();
        assert_eq!((err.at, err.message.as_str()), (at, message), "{text}");
    }

    #[test]
    fn the_run_file_of_the_design_is_understood() {
        check(
            "reliability>0.95 inet_down>500 bw_nvlink>200 cuda_vers>=12.0",
            &[
                ("reliability", "gt", json!(0.95)),
                ("inet_down", "gt", json!(500)),
                ("bw_nvlink", "gt", json!(200)),
                ("cuda_max_good", "gte", json!(12)),
            ],
        );
    }

    #[test]
    fn every_way_to_write_an_operator() {
        check("num_gpus=1", &[("num_gpus", "eq", json!(1))]);
        check("num_gpus == 1", &[("num_gpus", "eq", json!(1))]);
        check("num_gpus eq 1", &[("num_gpus", "eq", json!(1))]);
        check("num_gpus!=1", &[("num_gpus", "neq", json!(1))]);
        check("num_gpus not eq 1", &[("num_gpus", "neq", json!(1))]);
        check("dph<=0.5", &[("dph_total", "lte", json!(0.5))]);
        check("dph lt $0.5", &[("dph_total", "lt", json!(0.5))]);
        check(
            "geolocation not in [US, CA]",
            &[("geolocation", "notin", json!(["US", "CA"]))],
        );
        check(
            "geolocation nin US",
            &[("geolocation", "notin", json!(["US"]))],
        );
    }

    #[test]
    fn values_get_the_markets_type_and_unit() {
        check(
            "gpu_name=RTX_4090",
            &[("gpu_name", "eq", json!("RTX 4090"))],
        );
        check(
            "gpu_name = \"H100 SXM\"",
            &[("gpu_name", "eq", json!("H100 SXM"))],
        );
        check(
            "gpu_name in ['RTX 4090',\"RTX 3090\",A40]",
            &[("gpu_name", "in", json!(["RTX 4090", "RTX 3090", "A40"]))],
        );
        check("gpu_ram>=24", &[("gpu_ram", "gte", json!(24_000))]);
        check("duration>=0.5", &[("duration", "gte", json!(43_200))]);
        check("verified=False", &[("verified", "eq", json!(false))]);
        check("verified=any", &[("verified", "eq", json!("any"))]);
        check(
            "driver_version>=535.86.05",
            &[("driver_version", "gte", json!(535_086_005))],
        );
        check("  ", &[]);
    }

    #[test]
    fn an_error_names_the_place_and_the_nearest_field() {
        check_error(
            "relability>0.9",
            0,
            "unknown field `relability`, did you mean `reliability`?",
        );
        check_error(
            "gpu_name=RTX 4090",
            13,
            "unknown field `4090`; put a value with blanks in quotes",
        );
        check_error(
            "dph",
            3,
            "an operator is expected after `dph`: = != > >= < <= in notin",
        );
        check_error(
            "dph ~ 3",
            4,
            "an operator is expected after `dph`: = != > >= < <= in notin",
        );
        check_error("dph <", 5, "a value is expected for `dph`");
        check_error(
            "dph < cheap",
            6,
            "`dph` is compared with a number, not `cheap`",
        );
        check_error(
            "verified > true",
            11,
            "`verified` has no order: only = != in notin apply",
        );
        check_error(
            "verified = maybe",
            11,
            "`verified` is true, false or any, not `maybe`",
        );
        check_error(
            "num_gpus = [1,2]",
            11,
            "a list needs `in` or `notin`, not `eq`",
        );
        check_error("num_gpus in [1,2", 12, "the list is not closed by `]`");
        check_error("num_gpus in []", 12, "the list for `num_gpus` is empty");
        check_error("gpu_name = \"RTX", 11, "the quote is not closed");
        check_error("dph<<1", 4, "a value does not hold `<`: put it in quotes");
        check_error("; drop", 0, "a field is expected, not `;`");
        check_error(
            "driver_version>5x",
            15,
            "`driver_version` looks like 535.86.05, not `5x`",
        );
        check_error("dph<NaN", 4, "`dph` is compared with a number, not `NaN`");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            if let Err(err) = parse(&text) {
                prop_assert!(err.at <= text.len());
                prop_assert!(!err.message.is_empty());
            }
        }

        #[test]
        fn what_looks_like_a_query_is_answered(
            text in "(num_gpus|dph|gpu_name|verified)( )?(=|>|<=|in|not in)( )?(\\[?[a-z0-9,\" ]{0,9}\\]?)",
        ) {
            let _ = parse(&text);
        }
    }
}
