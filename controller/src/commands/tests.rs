//! Verbs over the market in memory and a store in a temporary home.

use serde_json::Value;

use super::*;
use crate::{
    cli::{Cli, GlobalFlags},
    config::Environment,
    ledger::CostKind,
    provider::{Rental, memory::MemoryMarket},
    run::State,
    spec::RunSpec,
    store::Outcome,
    ui::{UiOptions, paper::Paper},
};

const T0: i64 = 1_800_000_000_000_000;
const HOUR_US: i64 = 3_600_000_000;

/// A home, a market with three machines, and a clock that stands an hour after [`T0`].
struct Desk {
    dir: tempfile::TempDir,
    market: MemoryMarket,
}

impl Desk {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            market: MemoryMarket::new(3),
        }
    }

    fn deps(&self) -> Deps {
        let home = self.dir.path().to_str().unwrap();
        let config = Config::new(
            GlobalFlags::default(),
            Environment::of(&[("SPOTTER_HOME", home)]),
        );
        let market = self.market.clone();
        Deps::new(
            config.unwrap(),
            Clock::new(|| T0 + HOUR_US),
            Box::new(move |_| Ok(Arc::new(market.clone()))),
            Box::new(|_| Err(CommandError::bug("no box is opened here"))),
        )
    }

    /// Runs a command line; answers exit code, stdout, stderr.
    fn spotter(&self, words: &[&str]) -> (u8, String, String) {
        let cli = <Cli as clap::Parser>::try_parse_from([&["spotter"], words].concat()).unwrap();
        let (out, err) = (Paper::default(), Paper::default());
        let options = UiOptions {
            json: cli.global.json,
            ..UiOptions::default()
        };
        let mut ui = Ui::to(Box::new(out.clone()), Box::new(err.clone()), options);
        let code = execute(&cli.verb, &mut ui, &self.deps());
        (code, out.text(), err.text())
    }

    fn json(&self, words: &[&str]) -> Value {
        let (code, out, err) = self.spotter(&[words, &["--json"]].concat());
        assert_eq!(code, 0, "{err}");
        assert_eq!(out.lines().count(), 1, "{out}");
        serde_json::from_str(&out).unwrap()
    }

    fn run_file(&self, more: &str) -> String {
        let path = self.dir.path().join("run.yaml");
        let text = format!("name: a\nrun: python train.py\n{more}\n");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A run with one attempt in `state` on instance 7, paid for since [`T0`].
    fn record(&self, name: &str, state: State) {
        let store = self.deps().store().unwrap();
        let mut spec = RunSpec::from_flags_for_tests();
        spec.rename(name).unwrap();
        store
            .create_run(&RunRecord {
                name: name.into(),
                spec,
                created_us: T0,
                stop_requested: false,
                outcome: None,
                reason: None,
            })
            .unwrap();
        store
            .create_attempt(&AttemptRecord {
                run: name.into(),
                number: 1,
                state,
                label: format!("spotter/{}/{name}/1/x", store.id()),
                rental: Rental::Interruptible,
                instance: (state != State::Renting).then_some(7),
                machine_id: Some(1),
                gpu: "RTX 4090".into(),
                gpu_usd_per_hour: 0.3,
                storage_usd_per_hour: 0.01,
                ssh: Vec::new(),
                created_us: T0,
                state_us: T0,
                started_us: 0,
                gone_us: 0,
                resumed_step: None,
                last_step: Some(400),
                reason: None,
                last_event: 0,
                exit_code: None,
                reopened_us: 0,
                old_session_us: 0,
            })
            .unwrap();
        if state == State::Running {
            store
                .open_interval(name, 1, CostKind::Gpu, T0, 0.3)
                .unwrap();
            store
                .open_interval(name, 1, CostKind::Disk, T0, 0.01)
                .unwrap();
        }
    }
}

#[test]
fn offers_are_shown_with_the_price_of_everything() {
    let desk = Desk::new();
    let found = desk.json(&[
        "offers",
        "--gpus",
        "RTX 4090:1",
        "--disk",
        "100GB",
        "--limit",
        "2",
    ]);
    let offers = found["offers"].as_array().unwrap();
    assert_eq!(offers.len(), 2);
    for offer in offers {
        let (gpu, storage) = (&offer["gpu_usd_per_hour"], &offer["storage_usd_per_hour"]);
        let all_in = gpu.as_f64().unwrap() + storage.as_f64().unwrap();
        assert!((offer["running_usd_per_hour"].as_f64().unwrap() - all_in).abs() < 1e-12);
        assert_eq!(offer["stopped_usd_per_hour"], *storage);
    }
    let (code, table, _) = desk.spotter(&["offers"]);
    assert_eq!(code, 0);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(
        table.lines().all(|line| line.chars().count() <= 120),
        "{table}"
    );
}

#[test]
fn a_plan_names_the_offer_the_bid_and_how_long_the_budget_lasts() {
    let desk = Desk::new();
    let file = desk.run_file(
        "resources: {accelerators: RTX 4090, rental: interruptible, max_price: 0.5}\n\
         checkpoints: {to: s3://bucket/runs}\nlimits: {budget: 10}",
    );
    let plan = desk.json(&["plan", &file]);
    let first = &plan["offers"][0];
    let bid = first["bid_usd_per_hour"].as_f64().unwrap();
    // The price to beat is 0.20, and headroom is 15 %.
    assert!((bid - 0.23).abs() < 0.0011, "{first}");
    let running = first["running_usd_per_hour"].as_f64().unwrap();
    let hours = first["budget_hours"].as_f64().unwrap();
    // A week of its disk at $0.01/h is held back.
    assert!((hours * running - 8.32).abs() < 1e-9, "{first}");
    assert_eq!(plan["too_dear"], 0);
    assert!(desk.market.alive().is_empty());
    let (_, table, _) = desk.spotter(&["plan", &file]);
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
}

#[test]
fn a_plan_that_cannot_be_rented_ends_with_20_and_the_reason() {
    let desk = Desk::new();
    let file = desk.run_file("resources: {accelerators: RTX 4090, max_price: 0.01}");
    let (code, out, err) = desk.spotter(&["plan", &file, "--json"]);
    assert_eq!(code, 20);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["too_dear"], 3);
    assert!(
        err.contains("error: run `a` cannot be rented as it is written\n"),
        "{err}"
    );
    assert!(
        err.contains("above `resources.max_price` of $0.010/h, which `--max-price` sets too"),
        "{err}"
    );

    let empty = Desk {
        market: MemoryMarket::new(0),
        ..desk
    };
    let file = empty.run_file("resources: {accelerators: B200}");
    let (code, _, err) = empty.spotter(&["plan", &file]);
    assert_eq!(code, 20);
    assert!(err.contains("cause: no offer has 1 x B200"), "{err}");
}

#[test]
fn ps_shows_what_goes_on_what_it_costs_and_who_watches() {
    let desk = Desk::new();
    desk.record("a", State::Running);
    let row = &desk.json(&["ps", "--recorded"])["runs"][0];
    assert_eq!(row["state"], "running");
    assert_eq!(row["step"], 400);
    assert!((row["usd_per_hour"].as_f64().unwrap() - 0.31).abs() < 1e-9);
    assert!((row["cost_usd"].as_f64().unwrap() - 0.31).abs() < 1e-9);
    assert_eq!(row["watched_by_pid"], Value::Null);
    let (_, table, hints) = desk.spotter(&["ps"]);
    assert!(table.contains("nobody watches"), "{table}");
    assert!(table.contains("running, box gone"), "{table}");
    assert!(
        hints.contains("`a` is not what its record says (box gone)"),
        "{hints}"
    );
    assert!(hints.contains("`spotter up a`"), "{hints}");

    let store = desk.deps().store().unwrap();
    assert!(
        store
            .take_lease("a", "me", Duration::from_secs(60))
            .unwrap()
    );
    assert_eq!(
        desk.json(&["ps"])["runs"][0]["watched_by_pid"],
        std::process::id()
    );

    // Ended and gone: only with `--all`.
    let mut attempt = store.latest_attempt("a").unwrap().unwrap();
    attempt.state = State::Gone;
    attempt.gone_us = T0;
    store.update_attempt(&attempt).unwrap();
    store.end_run("a", Outcome::Done, None).unwrap();
    assert_eq!(desk.json(&["ps"])["runs"], Value::Array(vec![]));
    assert_eq!(desk.json(&["ps", "--all"])["runs"][0]["outcome"], "done");
}

#[test]
fn an_error_about_a_run_tells_what_its_box_costs() {
    let desk = Desk::new();
    desk.record("a", State::Running);
    desk.record("b", State::Renting);
    let deps = desk.deps();
    assert_eq!(deps.money(Some("a")), ["instance 7 still costs $0.310/h"]);
    let all = deps.money(None);
    assert_eq!(all[0], "instance 7 of run `a` still costs $0.310/h");
    assert!(
        all[1].starts_with("a box of run `b` may have been rented: its label would be"),
        "{all:?}"
    );
    desk.market.set_unreachable(true);
    let (code, _, err) = desk.spotter(&["gc"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("money: instance 7 of run `a` still costs $0.310/h\n"),
        "{err}"
    );
    // A look at the market is about no box.
    let (code, _, err) = desk.spotter(&["offers"]);
    assert_eq!(code, 1);
    assert!(!err.contains("money:"), "{err}");
}

#[test]
fn before_the_gpu_is_charged_both_prices_are_told() {
    let desk = Desk::new();
    desk.record("a", State::Loading);
    let store = desk.deps().store().unwrap();
    store
        .open_interval("a", 1, CostKind::Disk, T0, 0.01)
        .unwrap();
    assert_eq!(
        desk.deps().money(Some("a")),
        ["instance 7 costs $0.010/h for its disk now, and $0.310/h once it runs"]
    );
}

#[test]
fn ps_says_once_what_nobody_watches_and_which_backup_is_behind() {
    let desk = Desk::new();
    for name in ["a", "b", "c"] {
        desk.record(name, State::Running);
    }
    let store = desk.deps().store().unwrap();
    let alarm = |seq, kind: &str, detail| crate::store::StoredEvent {
        seq,
        time_us: T0,
        kind: kind.to_owned(),
        detail,
    };
    let events = [
        alarm(
            1,
            "checkpoint.failed",
            serde_json::json!({"path": "step-20.pt", "problem": "access denied"}),
        ),
        alarm(2, "backup.alarm", serde_json::json!({"reason": "late"})),
    ];
    store.append_events("b", 1, &events).unwrap();
    let (_, table, said) = desk.spotter(&["ps"]);
    assert_eq!(said.matches("hint: ").count(), 1, "{said}");
    assert!(said.contains("nobody watches 3 runs"), "{said}");
    assert!(
        said.contains("warning: the backup of `b` is behind: late (step-20.pt: access denied)"),
        "{said}"
    );
    assert!(table.contains("running, backup behind"), "{table}");
    let (_, status, _) = desk.spotter(&["status", "b", "--recorded"]);
    assert!(status.contains("BEHIND: late (step-20.pt"), "{status}");
}

#[test]
fn a_run_without_a_box_says_so_with_a_hint_and_one_exit_code_everywhere() {
    let desk = Desk::new();
    desk.record("a", State::Running);
    let store = desk.deps().store().unwrap();
    // Nor is there a bucket in which its box could have left results.
    let mut run = store.run("a").unwrap();
    run.spec.checkpoints = None;
    store.update_run(&run).unwrap();
    let mut attempt = store.latest_attempt("a").unwrap().unwrap();
    attempt.state = State::Gone;
    attempt.gone_us = T0;
    store.update_attempt(&attempt).unwrap();
    store.end_run("a", Outcome::Done, None).unwrap();
    for words in [
        ["ssh", "a"].as_slice(),
        &["attach", "a"],
        &["fetch", "a", "x", "--to", "y"],
    ] {
        let (code, _, err) = desk.spotter(words);
        assert_eq!(code, 1, "{words:?} {err}");
        assert!(
            err.contains("error: run `a` has no box\n"),
            "{words:?} {err}"
        );
        assert!(
            err.contains("cause: it has ended: done\n"),
            "{words:?} {err}"
        );
        assert!(err.contains("hint: "), "{words:?} {err}");
    }
}

#[test]
fn gc_and_ps_agree_on_what_a_box_costs() {
    let desk = Desk::new();
    desk.record("a", State::Loading);
    let store = desk.deps().store().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let request = crate::provider::RentRequest {
        offer: 1,
        label: store.latest_attempt("a").unwrap().unwrap().label,
        image: String::new(),
        disk_gb: 40.0,
        onstart: String::new(),
        env: Vec::new(),
        bid_usd_per_hour: Some(0.3),
        container: Default::default(),
    };
    let market: &dyn Provider = &desk.market;
    let id = runtime.block_on(market.rent(&request)).unwrap();
    let mut attempt = store.latest_attempt("a").unwrap().unwrap();
    attempt.instance = Some(id);
    store.update_attempt(&attempt).unwrap();
    store
        .open_interval("a", 1, CostKind::Disk, T0, 0.01)
        .unwrap();
    let shown = |words: &[&str], path: &str| {
        let found = desk.json(words);
        found.pointer(path).unwrap().as_f64().unwrap()
    };
    let ps = shown(&["ps"], "/runs/0/usd_per_hour");
    assert_eq!(ps, 0.01);
    assert_eq!(shown(&["gc"], "/instances/0/usd_per_hour"), ps);
    // Rented by nobody's record: the GPU is not charged while the box is being made.
    let stranger = crate::provider::RentRequest {
        offer: 2,
        label: "mine".to_owned(),
        ..request
    };
    runtime.block_on(market.rent(&stranger)).unwrap();
    assert_eq!(shown(&["gc"], "/instances/1/usd_per_hour"), 0.01);
}

#[test]
fn a_run_need_not_be_named_when_there_is_only_one() {
    let desk = Desk::new();
    assert_eq!(
        desk.deps().load_run(None).unwrap_err().message(),
        "there is no run"
    );
    desk.record("a", State::Running);
    assert_eq!(desk.deps().load_run(None).unwrap().name, "a");
    desk.record("b", State::Running);
    let err = desk.deps().load_run(None).unwrap_err();
    assert_eq!(err.message(), "2 runs are going on: name the one you mean");
    assert_eq!(err.exit_code(), 2);
    assert_eq!(desk.deps().load_run(Some("b")).unwrap().name, "b");
}

#[test]
fn a_run_that_waits_by_design_is_not_told_to_be_thrown_away() {
    let desk = Desk::new();
    desk.record("a", State::Waiting);
    let store = desk.deps().store().unwrap();
    store
        .open_interval("a", 1, CostKind::Disk, T0, 0.01)
        .unwrap();
    let (code, _, said) = desk.spotter(&["cost", "a", "--recorded"]);
    assert_eq!(code, 0, "{said}");
    for part in [
        "instance 7 of `a` is stopped",
        "it waits for instance 7 until",
        "once somebody watches, `spotter up a`",
        "`spotter resume --elsewhere a` goes on with another box",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("--lose-data"), "{said}");
}

#[test]
fn events_are_told_in_the_order_of_time() {
    let desk = Desk::new();
    desk.record("a", State::Running);
    let store = desk.deps().store().unwrap();
    store
        .note(
            "a",
            1,
            T0 + 5,
            "later",
            &serde_json::json!({"reason": "\u{1b}[2Joutbid"}),
        )
        .unwrap();
    store
        .note("a", 1, T0 + 1, "earlier", &serde_json::json!({"step": 3}))
        .unwrap();
    let (_, table, _) = desk.spotter(&["events", "a"]);
    let kinds: Vec<_> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(4))
        .collect();
    assert_eq!(kinds, [Some("earlier"), Some("later")]);
    assert!(
        table.contains("reason=outbid") && !table.contains('\u{1b}'),
        "{table}"
    );
    let first = desk.json(&["events", "a"])["events"][1]["id"]
        .as_i64()
        .unwrap();
    let rest = desk.json(&["events", "a", "--after", &first.to_string()]);
    assert_eq!(rest["events"].as_array().unwrap().len(), 1);
}
