//! Queries as people type them, right and wrong.

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
    check(
        "driver_version>=535086005",
        &[("driver_version", "gte", json!(535_086_005))],
    );
    check(
        "ubuntu_version>=20.04",
        &[("os_version", "gte", json!("20.04"))],
    );
    check("cuda_vers>=12.8", &[("cuda_max_good", "gte", json!(12.8))]);
    check("cuda_vers>=12", &[("cuda_max_good", "gte", json!(12))]);
    // 12.10 as a number is 12.1.
    for typed in ["12.10", "13.20", "12.8.1", "twelve"] {
        let refused = parse(&format!("num_gpus=1 cuda_vers>={typed}")).unwrap_err();
        let says = refused.to_string();
        assert!(
            says.contains("looks like 12.8") && says.contains(typed),
            "{says}"
        );
    }
    check("id=7", &[("ask_contract_id", "eq", json!(7))]);
    check(
        "datacenter=1 verified=None",
        &[
            ("datacenter", "eq", json!(true)),
            ("verified", "eq", Value::Null),
        ],
    );
    check("num_gpus in 2,4", &[("num_gpus", "in", json!([2, 4]))]);
    check("num_gpus=4,", &[("num_gpus", "eq", json!(4))]);
    check(
        "gpu_name=[\"RTX 4090\"]",
        &[("gpu_name", "eq", json!("RTX 4090"))],
    );
    check("  ", &[]);
}

#[test]
fn names_that_only_the_server_knows_are_the_same_fields() {
    for text in ["gpu_ram_GB>=24", "gpu_ram>=24"] {
        check(text, &[("gpu_ram", "gte", json!(24_000))]);
    }
    check("cpu_ram_GB>64", &[("cpu_ram", "gt", json!(64_000))]);
    check(
        "gpu_totalram_GB>=160",
        &[("gpu_total_ram", "gte", json!(160_000))],
    );
    check(
        "driver_vers>=535086005",
        &[("driver_version", "gte", json!(535_086_005))],
    );
    check(
        "target_reliability>=0.95",
        &[("target_reliability", "gte", json!(0.95))],
    );
}

#[test]
fn a_place_is_told_in_characters() {
    check_error(
        "gpu_name=\u{65e5}\u{672c} dph<cheap",
        16,
        "`dph` is compared with a number ($/h), not `cheap`",
    );
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
        "unknown field `4090`; put a value with blanks in quotes, several values in [ ]",
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
        "`dph` is compared with a number ($/h), not `cheap`",
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
    check_error(
        "dph<<1",
        3,
        "there is no operator `<<`: = != > >= < <= in notin",
    );
    check_error(
        "dph =< 1",
        4,
        "there is no operator `=<`: = != > >= < <= in notin",
    );
    check_error(
        "mobo_name=a<b",
        11,
        "a value does not hold `<`: put it in quotes",
    );
    check_error(
        "geolocation=US,CA",
        12,
        "several values need `in`, not `eq`",
    );
    check_error("verified!=any", 10, "`any` only goes with `=`");
    check_error("gpu_name=\"\"", 9, "a value is expected for `gpu_name`");
    check_error(
        "gpu_ram in [24,fast]",
        15,
        "`gpu_ram` is compared with a number (GB), not `fast`",
    );
    check_error("; drop", 0, "a field is expected, not `;`");
    check_error(
        "driver_version>5x",
        15,
        "`driver_version` looks like 535.86.05, not `5x`",
    );
    check_error(
        "dph<NaN",
        4,
        "`dph` is compared with a number ($/h), not `NaN`",
    );
}

#[test]
fn what_is_asked_of_the_market_keeps_the_defaults_that_no_filter_speaks_of() {
    let asked = |text: &str| Value::Object(conditions(&parse(text).unwrap()));
    assert_eq!(
        asked("verified=any dph>=0.1 dph<=0.5 dph>=0.2"),
        json!({"external": {"eq": false}, "rentable": {"eq": true}, "dph_total": {"gte": 0.2, "lte": 0.5}})
    );
    assert_eq!(
        asked("verified=any external=any rentable=false verified=false num_gpus=2 num_gpus=any"),
        json!({"verified": {"eq": false}, "rentable": {"eq": false}})
    );
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
