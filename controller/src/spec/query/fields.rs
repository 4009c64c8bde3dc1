//! What can be asked of an offer: fields with the kind and unit of their values, their other names, and operators (pure data,
//! and how a typed value becomes the market's).

use serde_json::{Value, json};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number.
    Number {
        /// Multiplied by this to get from the user's unit to the market's.
        factor: u32,
        /// The user's unit, for errors; empty where there is none.
        unit: &'static str,
    },
    /// Yes or no.
    Bool,
    /// A word, or a phrase whose blanks may be written `_`.
    Text,
    /// `535.86.05`, compared as a number of nine digits.
    DriverVersion,
    /// `12.8`, compared as a number: the market's minor versions have one digit, and 12.10 would be taken for 12.1.
    Cuda,
    /// `22.04`: a text that has an order.
    Version,
}

const PLAIN: Kind = number("");
/// By 1000 as the official client does it, not 1024.
const GB_AS_MB: Kind = Kind::Number {
    factor: 1000,
    unit: "GB",
};

const fn number(unit: &'static str) -> Kind {
    Kind::Number { factor: 1, unit }
}

/// Fields that can be searched, by the market's names.
pub(super) const FIELDS: &[(&str, Kind)] = &[
    ("ask_contract_id", PLAIN),
    ("bw_nvlink", number("GB/s")),
    ("cluster_id", PLAIN),
    ("compute_cap", PLAIN),
    ("cpu_arch", Kind::Text),
    ("cpu_cores", PLAIN),
    ("cpu_cores_effective", PLAIN),
    ("cpu_ghz", number("GHz")),
    ("cpu_name", Kind::Text),
    ("cpu_ram", GB_AS_MB),
    ("cuda_max_good", Kind::Cuda),
    ("datacenter", Kind::Bool),
    ("direct_port_count", PLAIN),
    ("disk_bw", number("MB/s")),
    ("disk_name", Kind::Text),
    ("disk_space", number("GB")),
    ("dlperf", PLAIN),
    ("dlperf_per_dphtotal", PLAIN),
    ("dph_base", number("$/h")),
    ("dph_total", number("$/h")),
    ("driver_version", Kind::DriverVersion),
    (
        "duration",
        Kind::Number {
            factor: 86_400,
            unit: "days",
        },
    ),
    ("expected_reliability", number("0 to 1")),
    ("external", Kind::Bool),
    ("flops_per_dphtotal", PLAIN),
    ("geolocation", Kind::Text),
    ("gpu_arch", Kind::Text),
    ("gpu_display_active", Kind::Bool),
    ("gpu_frac", PLAIN),
    ("gpu_lanes", PLAIN),
    ("gpu_max_power", number("W")),
    ("gpu_max_temp", number("degrees C")),
    ("gpu_mem_bw", number("GB/s")),
    ("gpu_name", Kind::Text),
    ("gpu_ram", GB_AS_MB),
    ("gpu_total_ram", GB_AS_MB),
    ("has_avx", Kind::Bool),
    ("host_id", PLAIN),
    ("hosting_type", PLAIN),
    ("inet_down", number("Mb/s")),
    ("inet_down_cost", number("$/GB")),
    ("inet_up", number("Mb/s")),
    ("inet_up_cost", number("$/GB")),
    ("machine_id", PLAIN),
    ("min_bid", number("$/h")),
    ("mobo_name", Kind::Text),
    ("num_gpus", PLAIN),
    ("os_version", Kind::Version),
    ("pci_gen", PLAIN),
    ("pcie_bw", number("GB/s")),
    ("reliability", number("0 to 1")),
    ("rentable", Kind::Bool),
    ("rented", Kind::Bool),
    ("score", PLAIN),
    ("static_ip", Kind::Bool),
    ("storage_cost", number("$/GB/month")),
    ("target_reliability", number("0 to 1")),
    ("total_flops", number("TFLOPS")),
    ("verification", Kind::Text),
    ("verified", Kind::Bool),
    ("vms_enabled", Kind::Bool),
];

/// Other names of the same, as the official client or the server knows them.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("cpu_ram_GB", "cpu_ram"),
    ("cuda_vers", "cuda_max_good"),
    ("display_active", "gpu_display_active"),
    ("dlperf_usd", "dlperf_per_dphtotal"),
    ("dph", "dph_total"),
    ("dphtotal", "dph_total"),
    ("driver_vers", "driver_version"),
    ("flops_usd", "flops_per_dphtotal"),
    ("gpu_ram_GB", "gpu_ram"),
    ("gpu_totalram", "gpu_total_ram"),
    ("gpu_totalram_GB", "gpu_total_ram"),
    // A filter on `id` itself was seen to match nothing.
    ("id", "ask_contract_id"),
    ("reliability2", "reliability"),
    ("ubuntu_version", "os_version"),
];

/// Conditions that hold unless a query speaks of them.
pub(super) const DEFAULTS: [(&str, bool); 3] =
    [("verified", true), ("external", false), ("rentable", true)];

/// Operators as typed, and as the market has them.
const OPERATORS: &[(&str, &str)] = &[
    ("=", "eq"),
    ("==", "eq"),
    ("eq", "eq"),
    ("!=", "neq"),
    ("neq", "neq"),
    ("noteq", "neq"),
    ("not eq", "neq"),
    (">", "gt"),
    ("gt", "gt"),
    (">=", "gte"),
    ("gte", "gte"),
    ("<", "lt"),
    ("lt", "lt"),
    ("<=", "lte"),
    ("lte", "lte"),
    ("in", "in"),
    ("notin", "notin"),
    ("nin", "notin"),
    ("not in", "notin"),
];

/// The market's name of an operator.
pub(super) fn operator(typed: &str) -> Option<&'static str> {
    let found = OPERATORS.iter().find(|(known, _)| *known == typed);
    found.map(|(_, op)| *op)
}

/// A field by any of its names.
pub(super) fn field(typed: &str) -> Option<(&'static str, Kind)> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == typed);
    let name = alias.map_or(typed, |(_, name)| name);
    FIELDS.iter().find(|(known, _)| *known == name).copied()
}

/// Every name that a field goes by.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let fields = FIELDS.iter().map(|(name, _)| *name);
    fields.chain(ALIASES.iter().map(|(alias, _)| *alias))
}

/// A value in the market's type and unit; the error says what is wrong with it.
pub(super) fn convert(kind: Kind, field: &str, op: &str, typed: &str) -> Result<Value, String> {
    let ordered = matches!(op, "gt" | "gte" | "lt" | "lte");
    if typed.is_empty() {
        return Err(format!("a value is expected for `{field}`"));
    }
    if matches!(kind, Kind::Bool | Kind::Text) && ordered {
        return Err(format!("`{field}` has no order: only = != in notin apply"));
    }
    // Means "not given" to the market.
    if matches!(typed, "None" | "null") && matches!(op, "eq" | "neq") {
        return Ok(Value::Null);
    }
    match kind {
        Kind::Bool => match typed.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(json!(true)),
            "false" | "0" => Ok(json!(false)),
            _ => Err(format!("`{field}` is true, false or any, not `{typed}`")),
        },
        Kind::Text => Ok(json!(typed.replace('_', " ").trim())),
        Kind::Number { factor, unit } => as_number(typed, factor).ok_or_else(|| {
            let unit = match unit {
                "" => String::new(),
                unit => format!(" ({unit})"),
            };
            format!("`{field}` is compared with a number{unit}, not `{typed}`")
        }),
        Kind::DriverVersion => driver_number(typed)
            .ok_or_else(|| format!("`{field}` looks like 535.86.05, not `{typed}`")),
        Kind::Cuda => {
            let number = as_number(typed, 1).filter(|_| !loses_a_digit(typed));
            number.ok_or_else(|| {
                format!("`{field}` looks like 12.8, with one digit after the dot, not `{typed}`")
            })
        }
        Kind::Version => {
            let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            if !typed.split('.').all(digits) {
                return Err(format!("`{field}` looks like 22.04, not `{typed}`"));
            }
            // 22.10 is not 22.1, so it stays a text.
            Ok(json!(typed))
        }
    }
}

/// Whether a number is less than what was typed: 12.10 would be 12.1.
fn loses_a_digit(typed: &str) -> bool {
    let fraction = typed.split_once('.').map_or("", |(_, fraction)| fraction);
    fraction.len() > 1 && fraction.ends_with('0')
}

fn as_number(typed: &str, factor: u32) -> Option<Value> {
    let number: f64 = typed.trim_start_matches('$').parse().ok()?;
    let number = Some(number).filter(|number| number.is_finite())? * f64::from(factor);
    // Whole numbers travel as such: the market compares columns of integers.
    if number.fract() == 0.0 && number.abs() < 9e15 {
        Some(json!(number as i64))
    } else {
        Some(json!(number))
    }
}

/// `535.86.05` as 535086005; missing parts are 0, and nine digits are taken as they are.
fn driver_number(typed: &str) -> Option<Value> {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if typed.len() == 9 && digits(typed) {
        return Some(json!(typed.parse::<u64>().ok()?));
    }
    let parts: Vec<&str> = typed.split('.').collect();
    let valid = (1..=3).contains(&parts.len())
        && parts
            .iter()
            .all(|part| (1..=3).contains(&part.len()) && digits(part));
    valid.then(|| {
        let number = (0..3).fold(0_u64, |number, index| {
            let part = parts.get(index).and_then(|part| part.parse::<u64>().ok());
            number * 1000 + part.unwrap_or(0)
        });
        json!(number)
    })
}
