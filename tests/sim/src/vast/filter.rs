//! The query language of searches: filters, order, and how values are coerced to the type of the column (pure).
//!
//! Clients send numbers as JSON strings, unknown fields, and null for "not given"; all of that is answered as the market does.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// One condition of a query.
#[derive(Debug, Clone, PartialEq)]
struct Condition {
    field: String,
    op: Op,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Eq,
    Neq,
    Gt,
    Gte,
    Lt,
    Lte,
    In,
    NotIn,
}

impl Op {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "eq" => Self::Eq,
            "neq" => Self::Neq,
            "gt" => Self::Gt,
            "gte" => Self::Gte,
            "lt" => Self::Lt,
            "lte" => Self::Lte,
            "in" => Self::In,
            "notin" => Self::NotIn,
            _ => return None,
        })
    }
}

/// All conditions of a query; every one has to hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filters(Vec<Condition>);

/// Fields under their other names, with the factor to the column's unit.
const ALIASES: [(&str, &str, f64); 9] = [
    ("reliability2", "reliability", 1.0),
    ("dphtotal", "dph_total", 1.0),
    ("gpu_totalram", "gpu_total_ram", 1.0),
    ("ubuntu_version", "os_version", 1.0),
    ("driver_version", "driver_vers", 1.0),
    ("cpu_ram_GB", "cpu_ram", 1000.0),
    ("gpu_ram_GB", "gpu_ram", 1000.0),
    ("gpu_totalram_GB", "gpu_total_ram", 1000.0),
    ("target_reliability", "expected_reliability", 1.0),
];

impl Filters {
    /// Reads the conditions of a query. Keys that hold no `{op: value}` are options, not filters, and are left alone.
    ///
    /// # Errors
    /// An unknown operator, in the words of the API.
    pub fn parse(query: &Map<String, Value>) -> Result<Self, String> {
        let mut conditions = Vec::new();
        for (field, ops) in query {
            let Value::Object(ops) = ops else { continue };
            for (op, value) in ops {
                let Some(op) = Op::parse(op) else {
                    return Err(format!("unknown operator {op} for {field}"));
                };
                // `verified=None` and the like: null is "not given".
                if !value.is_null() {
                    conditions.push(Condition {
                        field: field.clone(),
                        op,
                        value: value.clone(),
                    });
                }
            }
        }
        Ok(Self(conditions))
    }

    /// Fields that the conditions name.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|condition| condition.field.as_str())
    }

    /// Whether a row of the list of instances fulfils all conditions.
    pub fn accept_row(&self, row: &Map<String, Value>) -> bool {
        self.0.iter().all(|condition| {
            row.get(&condition.field)
                .is_some_and(|column| compare(column, condition.op, &condition.value, 1.0))
        })
    }

    /// Whether an offer fulfils all conditions, virtual fields and aliases included.
    pub fn accept_offer(&self, offer: &Map<String, Value>) -> bool {
        self.0
            .iter()
            .all(|condition| offer_fulfils(offer, condition))
    }
}

fn offer_fulfils(offer: &Map<String, Value>, condition: &Condition) -> bool {
    let holds = |column: &Value| compare(column, condition.op, &condition.value, 1.0);
    match condition.field.as_str() {
        // Seen live: a filter on `id` finds nothing, one on `ask_contract_id` does.
        "id" => false,
        "geolocation" => {
            let place = offer
                .get("geolocation")
                .and_then(Value::as_str)
                .unwrap_or_default();
            holds(&Value::from(place.rsplit(", ").next().unwrap_or(place)))
        }
        "datacenter" => holds(&Value::from(
            offer.get("hosting_type") == Some(&Value::from(1)),
        )),
        "verified" => holds(&Value::from(offer.get("vericode") == Some(&Value::from(1)))),
        // Null in offers, and yet the default filter `external eq false` finds them.
        "external" => holds(&Value::from(
            offer.get("external") == Some(&Value::from(true)),
        )),
        "target_reliability" => compare(
            offer.get("expected_reliability").unwrap_or(&Value::Null),
            Op::Gte,
            &condition.value,
            1.0,
        ),
        field => {
            let (name, factor) = resolve(field);
            match offer.get(name) {
                Some(column) => compare(column, condition.op, &condition.value, factor),
                // Unknown fields are ignored.
                None => true,
            }
        }
    }
}

/// A column's name for any of its names, and the factor from the given unit to the column's.
pub fn resolve(field: &str) -> (&str, f64) {
    ALIASES
        .iter()
        .find(|(alias, _, _)| *alias == field)
        .map_or((field, 1.0), |(_, column, factor)| (column, *factor))
}

fn compare(column: &Value, op: Op, given: &Value, factor: f64) -> bool {
    let list = || {
        given
            .as_array()
            .map_or_else(|| vec![given.clone()], Clone::clone)
    };
    match op {
        Op::In => list().iter().any(|value| equal(column, value, factor)),
        Op::NotIn => !list().iter().any(|value| equal(column, value, factor)),
        Op::Eq => equal(column, given, factor),
        Op::Neq => !equal(column, given, factor),
        Op::Gt => order(column, given, factor).is_some_and(Ordering::is_gt),
        Op::Gte => order(column, given, factor).is_some_and(Ordering::is_ge),
        Op::Lt => order(column, given, factor).is_some_and(Ordering::is_lt),
        Op::Lte => order(column, given, factor).is_some_and(Ordering::is_le),
    }
}

fn equal(column: &Value, given: &Value, factor: f64) -> bool {
    match (column, given) {
        (Value::Bool(column), _) => truth(given) == Some(*column),
        // Some columns are 0 and 1 where clients say false and true.
        (Value::Number(column), Value::Bool(given)) => {
            column.as_f64() == Some(f64::from(u8::from(*given)))
        }
        _ => order(column, given, factor).is_some_and(Ordering::is_eq),
    }
}

/// Compares by the type of the column; `None` where the two cannot be compared.
fn order(column: &Value, given: &Value, factor: f64) -> Option<Ordering> {
    match column {
        Value::Number(column) => column.as_f64()?.partial_cmp(&(number(given)? * factor)),
        Value::String(column) => match (column.parse::<f64>(), number(given)) {
            (Ok(column), Some(given)) => column.partial_cmp(&given),
            _ => Some(column.as_str().cmp(given.as_str()?)),
        },
        _ => None,
    }
}

/// A number, or a string that is one.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => number.as_f64().map(|number| number != 0.0),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// One column to sort by, and whether largest first.
pub type SortKey = (String, bool);

/// Reads `order`: pairs of field and direction.
pub fn sort_keys(order: &Value) -> Vec<SortKey> {
    let pairs = order.as_array().map_or(&[][..], Vec::as_slice);
    pairs
        .iter()
        .filter_map(|pair| {
            let field = pair.get(0)?.as_str()?;
            let descending = pair.get(1).and_then(Value::as_str) == Some("desc");
            Some((resolve(field).0.to_owned(), descending))
        })
        .collect()
}

/// Order of two rows; nulls and missing columns come last whichever the direction.
pub fn compare_rows(a: &Map<String, Value>, b: &Map<String, Value>, keys: &[SortKey]) -> Ordering {
    keys.iter()
        .map(|(field, descending)| {
            let (a, b) = (a.get(field), b.get(field));
            compare_values(
                a.unwrap_or(&Value::Null),
                b.unwrap_or(&Value::Null),
                *descending,
            )
        })
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Order of two values of one column.
pub fn compare_values(a: &Value, b: &Value, descending: bool) -> Ordering {
    match (a.is_null(), b.is_null()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let order = match (a, b) {
        (Value::Number(a), Value::Number(b)) => a
            .as_f64()
            .partial_cmp(&b.as_f64())
            .unwrap_or(Ordering::Equal),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => Ordering::Equal,
    };
    if descending { order.reverse() } else { order }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn offer() -> Map<String, Value> {
        let row = json!({
            "id": 5, "ask_contract_id": 5, "num_gpus": 2, "gpu_name": "RTX 4090", "gpu_ram": 24564,
            "dph_total": 0.348, "geolocation": "Quebec, CA", "hosting_type": 0, "vericode": 1, "external": null,
            "static_ip": true, "has_avx": 1, "driver_vers": 570124006, "driver_version": "570.124.06",
            "os_version": "22.04", "cpu_ram": 257650, "reliability": 0.9953, "expected_reliability": 0.993,
            "cluster_id": null
        });
        row.as_object().unwrap().clone()
    }

    fn check(query: Value, expected: bool) {
        let filters = Filters::parse(query.as_object().unwrap()).unwrap();
        assert_eq!(filters.accept_offer(&offer()), expected, "{query}");
    }

    #[test]
    fn values_are_coerced_to_the_type_of_the_column() {
        check(json!({"num_gpus": {"eq": "2"}}), true);
        check(json!({"num_gpus": {"eq": 2.0}}), true);
        check(json!({"num_gpus": {"eq": "two"}}), false);
        check(json!({"dph_total": {"lte": "0.5"}}), true);
        check(json!({"dph_total": {"gt": "0.5"}}), false);
        check(json!({"gpu_ram": {"gte": 24000.0}}), true);
        check(json!({"static_ip": {"eq": "true"}}), true);
        check(json!({"static_ip": {"eq": 0}}), false);
        check(json!({"has_avx": {"eq": true}}), true);
        check(json!({"os_version": {"gte": "20.04"}}), true);
        check(json!({"ubuntu_version": {"eq": 22.04}}), true);
    }

    #[test]
    fn every_operator_means_what_it_says() {
        check(json!({"num_gpus": {"neq": 1}}), true);
        check(json!({"num_gpus": {"gt": 2}}), false);
        check(json!({"num_gpus": {"gte": 2, "lt": 3}}), true);
        check(json!({"num_gpus": {"gte": 2, "lt": 2}}), false);
        check(json!({"gpu_name": {"in": ["RTX 3090", "RTX 4090"]}}), true);
        check(json!({"gpu_name": {"notin": ["RTX 3090"]}}), true);
        check(json!({"gpu_name": {"notin": ["RTX 4090"]}}), false);
        check(json!({"gpu_name": {"eq": "RTX_4090"}}), false);
    }

    #[test]
    fn virtual_fields_and_aliases_reach_their_columns() {
        check(json!({"geolocation": {"notin": ["CN", "VN"]}}), true);
        check(json!({"geolocation": {"eq": "CA"}}), true);
        check(json!({"datacenter": {"eq": true}}), false);
        check(
            json!({"verified": {"eq": true}, "external": {"eq": false}}),
            true,
        );
        check(json!({"verified": {"eq": "false"}}), false);
        check(json!({"driver_version": {"gte": 535086005}}), true);
        check(json!({"reliability2": {"gte": "0.99"}}), true);
        check(json!({"cpu_ram_GB": {"gte": 257}}), true);
        check(json!({"cpu_ram_GB": {"gte": 258}}), false);
        check(json!({"target_reliability": {"eq": 0.9}}), true);
        check(json!({"target_reliability": {"eq": 0.999}}), false);
        check(json!({"ask_contract_id": {"eq": 5}}), true);
        check(json!({"id": {"eq": 5}}), false);
    }

    #[test]
    fn unknown_fields_nulls_and_options_are_no_filters() {
        check(json!({"bogus_field": {"gte": "1"}}), true);
        check(
            json!({"verified": {"eq": null}, "num_gpus": null, "limit": 3, "type": "bid"}),
            true,
        );
        check(json!({"cluster_id": {"eq": 1}}), false);
        assert!(Filters::parse(json!({"a": {"like": 1}}).as_object().unwrap()).is_err());
    }

    #[test]
    fn rows_are_ordered_by_all_keys_with_nulls_last() {
        let rows = [
            json!({"a": 1, "b": 2}),
            json!({"a": null, "b": 9}),
            json!({"a": 1, "b": 3}),
        ];
        let mut rows: Vec<_> = rows
            .iter()
            .map(|row| row.as_object().unwrap().clone())
            .collect();
        let keys = sort_keys(&json!([["a", "asc"], ["b", "desc"], ["unknown", "asc"]]));
        rows.sort_by(|a, b| compare_rows(a, b, &keys));
        let b: Vec<_> = rows.iter().map(|row| row["b"].as_i64().unwrap()).collect();
        assert_eq!(b, [3, 2, 9]);
    }
}
