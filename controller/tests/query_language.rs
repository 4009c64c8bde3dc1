//! The query language against the official client's own parser (`vastai==1.9.1`): what it would ask of the market is what we ask.
//!
//! Needs the client: `SPOTTER_VASTAI` names it, or it lies in `target/venv` of the workspace. Without it the tests say that they
//! were skipped; with `SPOTTER_REQUIRE_ALL=1` they fail.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Map, Value, json};
use spotter::spec::query;

#[path = "../../tests/skip.rs"]
mod skip;

/// Reads queries, one a line, and answers what the client would send for each, or its complaint, as one line of JSON.
const ASK: &str = r#"
import json, sys
from vastai.api.query import parse_query, offers_fields, offers_alias, offers_mult
sys.stderr = open("/dev/null", "w")
out = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    query = {"verified": {"eq": True}, "external": {"eq": False}, "rentable": {"eq": True}}
    try:
        query = parse_query(line.rstrip("\n"), query, offers_fields, offers_alias, offers_mult)
        out.write(json.dumps(query) + "\n")
    except Exception as err:
        out.write(json.dumps(str(err)) + "\n")
"#;

/// The Python of the official client.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("SPOTTER_VASTAI").map(PathBuf::from);
    let in_workspace = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/vastai");
    let client = Some(named.unwrap_or_else(in_workspace)).filter(|client| client.exists());
    let found = client.map(|client| client.with_file_name("python"));
    if found.is_none() {
        let text =
            "the official client vastai==1.9.1 is not installed (SPOTTER_VASTAI or target/venv)";
        skip::skip(text);
    }
    found
}

/// What the official client makes of each query: an object, or the text of its complaint.
fn official(python: &Path, queries: &[String]) -> Vec<Value> {
    let mut child = Command::new(python)
        .args(["-c", ASK])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = queries.join("\n");
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), queries.len(), "one answer for each query");
    answers
}

/// The client sends numbers as texts, which the server takes for numbers.
fn coerced(value: &Value) -> Value {
    match value {
        Value::String(text) => match (text.as_str(), text.parse::<f64>()) {
            ("true" | "True", _) => json!(true),
            ("false" | "False", _) => json!(false),
            (_, Ok(number)) => json!(number),
            _ => value.clone(),
        },
        Value::Number(number) => json!(number.as_f64().unwrap()),
        Value::Array(list) => list.iter().map(coerced).collect(),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (key.clone(), coerced(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn ours(query: &str) -> Result<Value, String> {
    let filters = query::parse(query).map_err(|err| err.to_string())?;
    Ok(coerced(&Value::Object(query::conditions(&filters))))
}

/// A generator of numbers that is the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // Knuth's multiplier; the high bits are the random ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

/// One condition as people write them.
fn condition(dice: &mut Dice) -> String {
    let equal = [
        "=", "==", " = ", " == ", " eq ", "!=", " != ", " neq ", " not eq ", " noteq ",
    ];
    let ordered = [
        ">", ">=", "<", "<=", " > ", " >= ", " < ", " <= ", " gt ", " gte ", " lt ", " lte ",
    ];
    let listed = [" in ", " notin ", " nin ", " not in "];
    match dice.roll(6) {
        0 => {
            let field = dice.pick(&[
                "num_gpus",
                "reliability",
                "dph",
                "dph_total",
                "inet_down",
                "cuda_vers",
                "disk_space",
                "cpu_ram",
                "gpu_ram",
                "gpu_total_ram",
                "duration",
                "total_flops",
                "dlperf_usd",
                "flops_usd",
                "direct_port_count",
                "compute_cap",
                "bw_nvlink",
                "machine_id",
            ]);
            let op = match dice.roll(3) {
                0 => dice.pick(&equal),
                _ => dice.pick(&ordered),
            };
            format!(
                "{field}{op}{}",
                dice.pick(&["1", "0.98", "24", "610", "12.4", ".5", "1e3"])
            )
        }
        1 => {
            let field = dice.pick(&["gpu_name", "geolocation", "cpu_arch", "mobo_name"]);
            let value = dice.pick(&[
                "RTX_4090",
                "\"RTX 4090\"",
                "\"H100 SXM\"",
                "A40",
                "amd64",
                "SE",
                "RTX-4090",
                "\"RTX_3090\"",
            ]);
            format!("{field}{}{value}", dice.pick(&equal))
        }
        2 => {
            let field = dice.pick(&["gpu_name", "geolocation"]);
            let value = dice.pick(&[
                "[RTX_4090,RTX_3090]",
                "[\"RTX 4090\",\"RTX 3090\"]",
                "[CN,VN]",
                "[ US , CA ]",
                "[SE]",
                "US,CA",
                "TW",
                "[A40,\"H100 SXM\",]",
            ]);
            format!("{field}{}{value}", dice.pick(&listed))
        }
        3 => {
            let field = dice.pick(&[
                "verified",
                "external",
                "rentable",
                "rented",
                "datacenter",
                "static_ip",
                "has_avx",
                "display_active",
                "vms_enabled",
            ]);
            let value = dice.pick(&["true", "True", "false", "False", "None", "null"]);
            format!(
                "{field}{}{value}",
                dice.pick(&["=", "==", " = ", " eq ", "!="])
            )
        }
        4 => {
            let field = dice.pick(&[
                "verified", "external", "rentable", "num_gpus", "gpu_name", "dph",
            ]);
            format!(
                "{field}{}{}",
                dice.pick(&["=", " = ", "=="]),
                dice.pick(&["any", "*", "?"])
            )
        }
        _ => {
            let version = dice.pick(&["535.86.05", "550.127.5", "0.0.1"]);
            format!(
                "driver_version{}{version}",
                dice.pick(&[">=", " < ", "=", "!="])
            )
        }
    }
}

#[test]
fn a_thousand_queries_ask_the_market_what_the_official_client_asks() {
    let Some(python) = python() else { return };
    let mut dice = Dice(20_261_122);
    let queries: Vec<String> = (0..1000)
        .map(|_| {
            let several: Vec<String> = (0..=dice.roll(5)).map(|_| condition(&mut dice)).collect();
            several.join(dice.pick(&[" ", "  "]))
        })
        .collect();
    for (query, theirs) in queries.iter().zip(official(&python, &queries)) {
        assert!(
            theirs.is_object(),
            "a query of ours is none: {query}: {theirs}"
        );
        assert_eq!(ours(query), Ok(coerced(&theirs)), "{query}");
    }
}

#[test]
fn where_we_ask_something_else_than_the_official_client_it_is_on_purpose() {
    let Some(python) = python() else { return };
    let cases = [
        // A name that the server knows, where the client only warns.
        ("reliability2>0.9", Some(("reliability", "gt", json!(0.9)))),
        // A filter on `id` finds nothing.
        ("id=7", Some(("ask_contract_id", "eq", json!(7.0)))),
        (
            "ubuntu_version=22.04",
            Some(("os_version", "eq", json!(22.04))),
        ),
        // The client takes three parts or fails; all it would send for one part is the number 535.
        (
            "driver_version>=535",
            Some(("driver_version", "gte", json!(535_000_000.0))),
        ),
        // The client cannot multiply lists.
        (
            "gpu_ram in [24,48]",
            Some(("gpu_ram", "in", json!([24_000.0, 48_000.0]))),
        ),
        (
            "gpu_name='RTX 4090'",
            Some(("gpu_name", "eq", json!("RTX 4090"))),
        ),
        // Sent with a warning, or as nonsense: better said than sent.
        ("bogus_field>=1", None),
        ("num_gpus=[1,2]", None),
        ("num_gpus=many", None),
        ("gpu_name>A", None),
        ("static_ip=maybe", None),
    ];
    let queries: Vec<String> = cases.iter().map(|(query, _)| (*query).to_owned()).collect();
    for ((query, expected), theirs) in cases.iter().zip(official(&python, &queries)) {
        let ours = ours(query);
        assert_ne!(ours, Ok(coerced(&theirs)), "{query}: it agrees by now");
        match expected {
            Some((field, op, value)) => {
                assert_eq!(ours.unwrap()[*field][*op], *value, "{query}");
            }
            None => assert!(ours.is_err(), "{query}"),
        }
    }
}

#[test]
fn what_the_official_client_refuses_is_refused() {
    let Some(python) = python() else { return };
    let queries: Vec<String> = [
        "num_gpus==",
        "num_gpus",
        "gpu_name=RTX 4090",
        "dph<<1",
        "dph=<1",
        "dph <> 1",
        "=1",
        "; drop",
        "verified!=any",
        "num_gpus in",
        "num_gpus in []",
        "gpu_ram>=lots",
        "driver_version>=535.86",
        "geolocation in [US",
        "geolocation in US, CA",
        "not in [US]",
    ]
    .map(str::to_owned)
    .to_vec();
    // One of these we understand: the missing part of a version is 0.
    let understood = ["driver_version>=535.86"];
    for (query, theirs) in queries.iter().zip(official(&python, &queries)) {
        if !theirs.is_string() {
            // The client's pattern lets some through as nonsense.
            assert!(ours(query).is_err(), "{query}: {theirs}");
            continue;
        }
        assert_eq!(
            ours(query).is_err(),
            !understood.contains(&query.as_str()),
            "{query}: {theirs}"
        );
    }
}
