//! The gate before machines of the market in memory: one RTX 4090 for $0.41/h all in.

use super::*;
use crate::{
    provider::{Provider as _, memory::MemoryMarket},
    run::pricing,
};

const SMALL: &str = "model: {params: 124M, seq_len: 1024, micro_batch: 16";

fn spec(more: &str) -> RunSpec {
    let text = format!(
        "name: a\nrun: python train.py\nresources: {{accelerators: RTX 4090, disk: 200GB}}\n{more}\n"
    );
    crate::spec::parse(&text, "run.yaml", Path::new("/")).unwrap()
}

async fn first_offer(spec: &RunSpec) -> (Offer, Order) {
    let query = pricing::query(&spec.resources, 8);
    let offer = MemoryMarket::new(1).offers(&query).await.unwrap().remove(0);
    let order = pricing::order(&offer, &spec.resources).unwrap();
    (offer, order)
}

fn said(err: &CommandError) -> String {
    let mut lines = vec![format!("{}: {}", err.exit_code(), err.message())];
    lines.extend(err.causes().iter().map(|cause| format!("cause: {cause}")));
    lines.extend(err.hints().iter().map(|hint| format!("hint: {hint}")));
    lines.join("\n")
}

/// What is kept with a run whose file ends in `more`, or what is said instead.
async fn tried(more: &str, no_plan: bool) -> Result<Value, String> {
    let spec = spec(more);
    let (offer, order) = first_offer(&spec).await;
    let start = Start::File(Path::new("run.yaml"));
    judge(&spec, (&offer, order), &Known::default(), start, no_plan).map_err(|err| said(&err))
}

#[tokio::test]
async fn what_its_limits_or_its_forecast_keep_small_needs_no_plan() {
    for (more, needed) in [
        ("limits: {max_runtime: 3h}", false),
        ("limits: {max_runtime: 4h, budget: 20}", false),
        ("limits: {max_runtime: 241m, budget: 20}", true),
        // At $0.41/h it buys less than four hours, or more.
        ("limits: {budget: 1.5}", false),
        ("limits: {budget: 1.8}", true),
        ("limits: {budget: 20}", true),
        ("", true),
        // It may well be stopped before its end, but not too late.
        (
            &format!("{SMALL}, tokens: 900B}}\nlimits: {{max_runtime: 4h}}"),
            false,
        ),
        (&format!("{SMALL}, tokens: 100M}}"), false),
        (&format!("{SMALL}, tokens: 10B}}"), true),
        // A smoke run is its user's own affair, also where it does not fit.
        ("model: {params: 70B}\nlimits: {max_runtime: 10m}", false),
    ] {
        let kept = tried(more, true).await.unwrap();
        assert_eq!(kept["needed"], needed, "{more}");
        let passed = tried(more, false).await;
        assert_eq!(
            passed.is_ok(),
            !needed || more.contains("10B"),
            "{more}: {passed:?}"
        );
    }
    let kept = tried("limits: {max_runtime: 3h}", false).await.unwrap();
    assert_eq!(kept["at_most_hours"], 3.0);
    assert_eq!(kept["forecast"], Value::Null);
    // Three hours, and 45 minutes before.
    let usd = kept["at_most_usd"].as_f64().unwrap();
    let price = kept["running_usd_per_hour"].as_f64().unwrap();
    assert!((usd - 3.75 * price).abs() < 1e-9, "{usd}");
}

#[tokio::test]
async fn a_long_run_starts_with_a_plan_that_holds_and_keeps_its_five_parts() {
    let kept = tried(&format!("{SMALL}, tokens: 10B}}"), false)
        .await
        .unwrap();
    assert_eq!(
        (&kept["needed"], &kept["no_plan"]),
        (&true.into(), &false.into())
    );
    assert_eq!(kept["checks"].as_array().unwrap().len(), 4);
    assert_eq!(kept["forecast"]["method"], "calibrated");
    assert!(
        kept["forecast"]["cost_usd"]["pessimistic"]
            .as_f64()
            .unwrap()
            > 1.0
    );
    assert_eq!(kept["hardware_justified"], true);
    assert_eq!(kept["gates"].as_array().unwrap().len(), 5);
    assert_eq!(kept["blockers"], serde_json::json!([]));
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_to_write() {
    for (name, more) in [
        ("no_model", ""),
        ("no_tokens", "model: {params: 124M}\nlimits: {budget: 20}"),
        ("does_not_fit", "model: {params: 70B, tokens: 1B}"),
    ] {
        insta::assert_snapshot!(name, tried(more, false).await.unwrap_err());
        assert_eq!(tried(more, true).await.unwrap()["no_plan"], true);
    }
    let spec = spec("");
    let (mut offer, order) = first_offer(&spec).await;
    for (name, start) in [("flags", Start::Flags), ("resume", Start::Resume)] {
        let refused = judge(&spec, (&offer, order), &Known::default(), start, false);
        insta::assert_snapshot!(name, said(&refused.unwrap_err()));
    }
    offer.gpu_name = "Quantum 9000".to_owned();
    let spec = self::spec(&format!("{SMALL}, tokens: 10B}}"));
    let start = Start::File(Path::new("run.yaml"));
    let refused = judge(&spec, (&offer, order), &Known::default(), start, false);
    insta::assert_snapshot!("unknown_gpu", said(&refused.unwrap_err()));
}

#[tokio::test]
async fn what_is_kept_is_told_in_a_line() {
    let small = line(&tried("limits: {max_runtime: 3h}", false).await.unwrap());
    assert!(
        small.starts_with("by its limits at most 3.0 h and $1.5"),
        "{small}"
    );
    let skipped = line(&tried("", true).await.unwrap());
    assert_eq!(skipped, "skipped with `--no-plan`");
    let planned = line(
        &tried(&format!("{SMALL}, tokens: 10B}}"), false)
            .await
            .unwrap(),
    );
    assert!(planned.contains(" h and $"), "{planned}");
    assert!(
        planned.contains(" on 1 x RTX 4090, if it goes well "),
        "{planned}"
    );
    assert_eq!(line(&Value::Null), "nothing was said of time or cost");
}

#[tokio::test]
async fn the_run_files_that_we_ship_pass() {
    let readme = include_str!("../../../../../README.md");
    let (_, block) = readme.split_once("```yaml\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    for text in [
        block,
        include_str!("../../init.yaml"),
        include_str!("../../../../examples/tiny-lm/run.yaml"),
    ] {
        let spec = crate::spec::parse(text, "run.yaml", Path::new("/")).unwrap();
        // The market in memory has no other GPU.
        let mut wanted = spec.clone();
        wanted.resources.gpu_name = Some("RTX 4090".to_owned());
        wanted.resources.max_price_usd_per_hour = None;
        let (offer, order) = first_offer(&wanted).await;
        let start = Start::File(Path::new("run.yaml"));
        let passed = judge(&spec, (&offer, order), &Known::default(), start, false);
        assert!(
            passed.is_ok(),
            "{}: {}",
            spec.name,
            said(&passed.unwrap_err())
        );
    }
}
