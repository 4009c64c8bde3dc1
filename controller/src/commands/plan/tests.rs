//! Plans over the market in memory: its machines have one RTX 4090, 64 GB of memory and 800 Mb/s, for $0.41/h all in.

use std::{io, sync::Arc};

use serde_json::Value;

use super::*;
use crate::{
    cli::{Cli, GlobalFlags, Verb},
    clock::Clock,
    config::{Config, Environment},
    provider::memory::MemoryMarket,
    ui::{UiOptions, paper::Paper},
};

/// Plans a run file that ends in `more`; answers exit code, stdout and the error.
async fn planned(more: &str, flags: &[&str]) -> (u8, String, Option<CommandError>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.yaml");
    let text = format!(
        "name: a\nrun: python train.py\nresources: {{accelerators: RTX 4090, disk: 200GB}}\n{more}\n"
    );
    std::fs::write(&file, text).unwrap();
    let home = dir.path().to_str().unwrap();
    let config = Config::new(
        GlobalFlags::default(),
        Environment::of(&[("SPOTTER_HOME", home)]),
    );
    let market = MemoryMarket::new(3);
    let deps = Deps::new(
        config.unwrap(),
        Clock::new(|| 1_800_000_000_000_000),
        Box::new(move |_| Ok(Arc::new(market.clone()))),
        Box::new(|_| Err(CommandError::bug("no box is opened here"))),
    );
    let words = [&["spotter", "plan", file.to_str().unwrap()], flags].concat();
    let cli = <Cli as clap::Parser>::try_parse_from(words).unwrap();
    let out = Paper::default();
    let options = UiOptions {
        json: cli.global.json,
        ..UiOptions::default()
    };
    let mut ui = Ui::to(Box::new(out.clone()), Box::new(io::sink()), options);
    let Verb::Plan(args) = &cli.verb else {
        panic!("another verb");
    };
    let result = plan(&mut ui, &deps, args).await;
    let code = result.as_ref().err().map_or(0, CommandError::exit_code);
    (code, out.text(), result.err())
}

const SMALL: &str = "model: {name: GPT-2, params: 124M, tokens: 10B, seq_len: 1024, micro_batch: 16, batch_tokens: 512k}";

#[tokio::test]
async fn a_plan_has_every_column_check_and_gate() {
    let (code, line, _) = planned(SMALL, &["--json"]).await;
    let plan: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((code, &plan["go"]), (0, &Value::Bool(true)));
    let option = &plan["offers"][0];
    for column in [
        "running_usd_per_hour",
        "vram_gib",
        "ram_gb",
        "tensor_tflops",
        "memory_gb_per_s",
    ] {
        assert!(option[column].as_f64().unwrap() > 0.0, "{column}");
    }
    let checks: Vec<&str> = option["outlook"]["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["what"].as_str().unwrap())
        .collect();
    assert_eq!(checks, ["GPU memory", "host memory", "disk", "network"]);
    let forecast = &option["outlook"]["forecast"];
    assert_eq!(forecast["method"], "calibrated");
    assert_eq!(option["outlook"]["other"]["method"], "playbook");
    let hours = &forecast["wall_hours"];
    assert!(hours["optimistic"].as_f64() < hours["base"].as_f64());
    assert!(hours["base"].as_f64() < hours["pessimistic"].as_f64());
    // The price is all in, and nothing is paid for traffic here.
    let cost = forecast["cost_usd"]["base"].as_f64().unwrap();
    let price = option["running_usd_per_hour"].as_f64().unwrap();
    assert!((cost / hours["base"].as_f64().unwrap() - price).abs() < 1e-9);
    assert_eq!(option["effort"], "low");
    assert_eq!(plan["gates"].as_array().unwrap().len(), 5);
    assert_eq!(plan["rental_advice"]["advice"], "on-demand");
    assert!(plan["probe"]["here_usd"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn a_screen_is_no_wider_than_a_terminal_of_120_and_ends_with_the_verdict() {
    let (_, page, _) = planned(SMALL, &[]).await;
    assert!(
        page.lines().all(|line| line.chars().count() <= 120),
        "{page}"
    );
    for part in [
        "Time and cost by method `calibrated`",
        "Does it fit",
        "Setup and debugging",
        "Worth doing first",
        "In the first ten minutes",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(
        page.lines().last().unwrap().starts_with("Go: offer"),
        "{page}"
    );
}

#[tokio::test]
async fn the_same_plan_is_there_as_markdown() {
    let (code, text, _) = planned(SMALL, &["--markdown"]).await;
    assert_eq!(code, 0);
    assert!(
        text.starts_with("# Plan of `a`: GPT-2, 124M parameters, all weights, 10.0B tokens\n"),
        "{text}"
    );
    assert!(
        text.contains("| OFFER | FIT | TOKENS/S | HOURS | COST | TAX | EFFORT |"),
        "{text}"
    );
}

#[tokio::test]
async fn a_model_that_fits_nowhere_is_no_go_with_what_would_hold_it() {
    let (code, page, error) = planned("model: {params: 8B, tokens: 1B}", &[]).await;
    let error = error.unwrap();
    assert_eq!(code, 20);
    assert!(page.ends_with("No go.\n"), "{page}");
    assert!(error.causes()[0].contains("GPU memory"), "{error:?}");
    assert!(
        error.hints()[0].contains("it would fit a card of"),
        "{error:?}"
    );
    // A time on a card that cannot hold it would be a lie.
    let row = page.lines().find(|line| line.contains("no go")).unwrap();
    assert!(row.contains(" - "), "{row}");
}

#[tokio::test]
async fn a_budget_that_is_too_small_is_no_go_with_what_it_takes() {
    let (code, _, error) = planned(&format!("{SMALL}\nlimits: {{budget: 1}}"), &[]).await;
    let error = error.unwrap();
    assert_eq!(code, 20);
    assert!(
        error.causes()[0].contains("and the budget is $1.00"),
        "{error:?}"
    );
    assert!(
        error.hints()[0].contains("raise `limits.budget`"),
        "{error:?}"
    );
}

/// A week of its disk, $1.68, is held back of what a box may spend.
#[tokio::test]
async fn a_budget_that_holds_the_training_and_not_a_week_of_its_disk_is_no_go_and_one_sum_mends_it()
{
    let first = async |more: &str| {
        let (_, line, error) = planned(&format!("{SMALL}\n{more}"), &["--json"]).await;
        let plan: Value = serde_json::from_str(&line).unwrap();
        (plan["offers"][0].clone(), error)
    };
    let (without, _) = first("").await;
    let cost = &without["outlook"]["forecast"]["cost_usd"];
    let budget = (cost["base"].as_f64().unwrap() + 1.0).round();
    let (offer, error) = first(&format!("limits: {{budget: {budget}}}")).await;
    assert_eq!(offer["go"], false);
    let why = offer["blockers"][0].as_str().unwrap();
    assert!(
        why.contains("of which $1.68 are held back for its disk"),
        "{why}"
    );
    let hours = offer["budget_hours"].as_f64().unwrap();
    assert!((hours - (budget - 1.68) / 0.41).abs() < 0.01, "{hours}");
    let enough = (cost["pessimistic"].as_f64().unwrap() + 1.68).ceil();
    let hint = format!("raise `limits.budget` to {enough:.0}, ");
    let error = error.unwrap();
    assert!(error.hints()[0].starts_with(&hint), "{hint} {error:?}");
    // What is held back alone is more: the sum that is named does for both.
    let (_, error) = first("limits: {budget: 1}").await;
    let hint = format!("raise `limits.budget`, such as to {enough:.0}, ");
    let error = error.unwrap();
    assert!(error.hints()[0].starts_with(&hint), "{hint} {error:?}");
    let (offer, error) = first(&format!("limits: {{budget: {enough}}}")).await;
    assert_eq!((&offer["go"], error.is_none()), (&Value::Bool(true), true));
    assert!(
        !offer["risks"].to_string().contains("the budget of"),
        "{offer}"
    );
}

#[tokio::test]
async fn a_plan_goes_by_the_size_of_the_image_where_that_is_told() {
    let minutes = async |more: &str| {
        let (_, line, _) = planned(&format!("{SMALL}\n{more}"), &["--json"]).await;
        let plan: Value = serde_json::from_str(&line).unwrap();
        let checks = plan["offers"][0]["outlook"]["checks"].clone();
        let network = checks.as_array().unwrap().last().unwrap().clone();
        network["needs"].as_f64().unwrap()
    };
    let (usual, small) = (minutes("").await, minutes("image_size: 2GB").await);
    // 12 GB and 2 GB at 800 Mb/s.
    assert!(
        (usual - small - 100.0 / 60.0).abs() < 0.01,
        "{usual} {small}"
    );
}

#[tokio::test]
async fn the_other_method_gives_other_hours() {
    let hours = async |flags: &[&str]| {
        let (_, line, _) = planned(SMALL, &[&["--json"], flags].concat()).await;
        let plan: Value = serde_json::from_str(&line).unwrap();
        let forecast = &plan["offers"][0]["outlook"]["forecast"];
        forecast["wall_hours"]["base"].as_f64().unwrap()
    };
    assert_ne!(hours(&["--method", "playbook"]).await, hours(&[]).await);
}

#[tokio::test]
async fn without_tokens_there_is_a_speed_and_no_time() {
    let (code, page, _) = planned("model: {params: 124M}", &[]).await;
    assert_eq!(code, 0);
    assert!(page.contains("Say in `model.tokens`"), "{page}");
}

#[tokio::test]
async fn products_that_are_named_have_a_row_each_and_the_others_are_left_out() {
    let (code, line, _) = planned(SMALL, &["--json", "--gpus", "RTX 4090,H100"]).await;
    let plan: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(code, 0);
    assert_eq!(plan["offers"].as_array().unwrap().len(), 1);
    assert_eq!(plan["offers"][0]["gpu"], "RTX 4090");
    assert_eq!(plan["products"], serde_json::json!([]));
    let (code, _, error) = planned(SMALL, &["--gpus", "H100"]).await;
    assert_eq!(code, 20, "{error:?}");
}

#[test]
fn other_products_stand_beside_the_plan_and_the_cheap_probe_is_looked_for_on_all_of_them() {
    use crate::provider::{Offer, memory};

    let text =
        format!("name: a\nrun: x\nresources: {{accelerators: H100 SXM, disk: 200GB}}\n{SMALL}\n");
    let spec = crate::spec::parse(&text, "run.yaml", std::path::Path::new("/")).unwrap();
    let own = [Offer {
        gpu_name: "H100 SXM".to_owned(),
        vram_mib: 81_559,
        gpu_usd_per_hour: 2.0,
        ..memory::offer(1)
    }];
    let dear = Offer {
        gpu_usd_per_hour: 0.6,
        ..memory::offer(3)
    };
    let others = [memory::offer(2), dear];
    let known = Known::default();
    let asked = Asked {
        spec: &spec,
        method: Method::Calibrated,
        calibration: &Shipped::get().calibration,
        known: &known,
        left_usd: None,
        going_on: None,
    };
    let alone = Plan::of(&asked, judge::judge(&asked, &own).offers);
    assert_eq!(alone.probe.as_ref().unwrap().probe_usd_per_hour, 2.01);
    let plan = alone.beside(
        &asked,
        products::one_each(judge::judge(&asked, &others).offers),
    );
    let shown: Vec<u64> = plan.products.iter().map(|option| option.offer).collect();
    assert_eq!(shown, [2], "the best of each product");
    let probe = plan.probe.as_ref().unwrap();
    assert!((probe.probe_usd_per_hour - 0.41).abs() < 1e-9);
    assert!(probe.probe_usd < probe.here_usd && probe.probe_first);
    let page = report::page(&plan, spec.model.as_ref().unwrap(), &known).markdown();
    assert!(
        page.contains("Other GPUs, the best offer of each"),
        "{page}"
    );
    assert!(page.contains("| 1 x RTX 4090 | 2 |"), "{page}");
}
