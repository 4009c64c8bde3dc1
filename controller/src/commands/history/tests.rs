//! What `history` prints, over a store in a temporary home.

use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::{
    cli::{Cli, GlobalFlags},
    clock::Clock,
    commands::execute,
    config::{Config, Environment},
    provider::memory::MemoryMarket,
    run::machines as known_machines,
    ui::{UiOptions, paper::Paper},
};

const NOW: i64 = 1_800_000_000_000_000;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        home.write(
            "run.yaml",
            "name: gpt2\nworkdir: .\nresources: {accelerators: RTX 4090, disk: 200GB}\nrun: python train.py\n\
             model: {params: 124M, tokens: 10B, seq_len: 1024, micro_batch: 16, batch_tokens: 512k}\n",
        );
        home
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn deps(&self) -> Deps {
        let home = self.0.path().to_str().unwrap();
        let config = Config::new(
            GlobalFlags::default(),
            Environment::of(&[("SPOTTER_HOME", home)]),
        );
        let market = MemoryMarket::new(3);
        Deps::new(
            config.unwrap(),
            Clock::new(|| NOW),
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

    /// The same as one text, without the home's path.
    fn screen(&self, words: &[&str]) -> String {
        let (code, out, err) = self.spotter(words);
        let text = format!("exit: {code}\n{out}---\n{err}");
        text.replace(self.0.path().to_str().unwrap(), "HOME")
    }

    fn json(&self, words: &[&str]) -> Value {
        let (code, out, err) = self.spotter(&[words, &["--json"]].concat());
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    }

    fn add(&self, figures: &[&str]) {
        let file = self.path("run.yaml");
        let (code, _, err) = self.spotter(&[&["history", "add", &file], figures].concat());
        assert_eq!(code, 0, "{err}");
    }
}

#[test]
fn what_is_added_by_hand_is_listed_changed_and_removed() {
    let home = Home::new();
    insta::assert_snapshot!("nothing", home.screen(&["history"]));
    home.add(&[
        "--tokens-per-s",
        "142k",
        "--peak-vram",
        "20.5",
        "--setup",
        "25m",
    ]);
    home.add(&[
        "--gpu",
        "H100 SXM:2",
        "--tokens-per-s",
        "900k",
        "--gpu-utilisation",
        "97%",
    ]);
    insta::assert_snapshot!("listed", home.screen(&["history"]));
    let changed = home.json(&[
        "history",
        "edit",
        "1",
        "--tokens-per-s",
        "150k",
        "--note",
        "warm",
    ]);
    assert_eq!(changed["tokens_per_s"], 150_000.0);
    assert_eq!(
        (&changed["note"], &changed["edited"]),
        (&"warm".into(), &true.into())
    );
    assert_eq!(changed["peak_vram_gib"], 20.5, "the rest stays");
    insta::assert_snapshot!("unknown", home.screen(&["history", "rm", "1", "7"]));
    assert_eq!(
        home.json(&["history", "ls", "gpt2"])["observations"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(home.json(&["history", "rm", "1"])["removed"][0], 1);
    let left = home.json(&["history", "ls"]);
    assert_eq!(left["observations"][0]["gpu"], "H100 SXM");
    let (code, _, err) = home.spotter(&["history", "edit", "1", "--note", "x"]);
    assert_eq!(code, 2);
    assert!(err.contains("there is no observation 1"), "{err}");
}

#[test]
fn nothing_is_added_without_a_figure() {
    let home = Home::new();
    let file = home.path("run.yaml");
    insta::assert_snapshot!("no_figure", home.screen(&["history", "add", &file]));
}

#[test]
fn an_export_is_imported_once_and_a_bad_file_not_at_all() {
    let home = Home::new();
    home.add(&["--tokens-per-s", "142k", "--setup", "25m"]);
    let (code, table, _) = home.spotter(&["history", "export"]);
    assert_eq!((code, table.lines().count()), (0, 2));
    let (_, lines, _) = home.spotter(&["history", "export", "--json"]);
    assert_eq!(lines.lines().count(), 1);
    home.write("all.tsv", &table);
    home.write("all.jsonl", &lines);
    for name in ["all.tsv", "all.jsonl"] {
        let found = home.json(&["history", "import", &home.path(name)]);
        assert_eq!(
            (&found["added"], &found["known"]),
            (&0.into(), &1.into()),
            "{name}"
        );
        let other = Home::new();
        let found = other.json(&["history", "import", &home.path(name)]);
        assert_eq!(
            (&found["added"], &found["known"]),
            (&1.into(), &0.into()),
            "{name}"
        );
        let seen = &other.json(&["history"])["observations"][0];
        assert_eq!(
            (&seen["source"], &seen["tokens_per_s"]),
            (&"imported".into(), &142_000.0.into())
        );
    }
    home.write("bad.tsv", &format!("{table}b\t\t1e9\n"));
    insta::assert_snapshot!(
        "bad_table",
        home.screen(&["history", "import", &home.path("bad.tsv")])
    );
    home.write(
        "bad.jsonl",
        &format!("{lines}{{\"run\": \"b\", \"gpu\": \"H100\", \"tokens_per_s\": \"many\"}}\n"),
    );
    insta::assert_snapshot!(
        "bad_lines",
        home.screen(&["history", "import", &home.path("bad.jsonl")])
    );
    assert_eq!(
        home.json(&["history"])["observations"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // Never over a file that is there.
    let (code, _, _) = home.spotter(&["history", "export", &home.path("all.tsv")]);
    assert_eq!(code, 1);
}

#[test]
fn a_plan_goes_by_what_the_same_code_did_and_says_so() {
    let home = Home::new();
    let file = home.path("run.yaml");
    let cold = home.json(&["plan", &file]);
    assert_eq!(
        cold["offers"][0]["outlook"]["forecast"]["baseline"],
        Value::Null
    );
    assert_eq!(
        (&cold["setup_hours"], &cold["setup_measured"]),
        (&0.5.into(), &false.into())
    );
    home.add(&["--gpu", "RTX 3090:1", "--tokens-per-s", "60k"]);
    let carried = home.json(&["plan", &file]);
    let forecast = &carried["offers"][0]["outlook"]["forecast"];
    assert_eq!(forecast["baseline"]["as_is"], false);
    let factor = forecast["baseline"]["factor"].as_f64().unwrap();
    assert!(factor > 1.2, "a newer card is faster: {factor}");
    let speed = forecast["tokens_per_s"]["base"].as_f64().unwrap();
    assert!((speed - 60_000.0 * factor).abs() < 1.0, "{forecast}");
    // The same card says more, also when it is not the newest.
    home.add(&["--tokens-per-s", "142k", "--setup", "15m"]);
    let plan = home.json(&["plan", &file]);
    let forecast = &plan["offers"][0]["outlook"]["forecast"];
    assert_eq!(
        (
            &forecast["baseline"]["observation"],
            &forecast["baseline"]["as_is"]
        ),
        (&2.into(), &true.into())
    );
    assert_eq!(forecast["tokens_per_s"]["base"], 142_000.0);
    assert_eq!(
        (&plan["setup_hours"], &plan["setup_measured"]),
        (&0.25.into(), &true.into())
    );
    assert_eq!(plan["history"].as_array().unwrap().len(), 2);
    let (_, page, _) = home.spotter(&["plan", &file]);
    let block: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("What this code did before"))
        .take_while(|line| !line.is_empty())
        .collect();
    insta::assert_snapshot!("plan_block", block.join("\n"));
    // Another model is another training.
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("124M", "350M");
    home.write("large.yaml", &text);
    let other = home.json(&["plan", &home.path("large.yaml")]);
    assert_eq!(other["history"], Value::Array(Vec::new()));
}

#[test]
fn machines_with_a_past_come_last_in_a_plan_until_they_are_forgiven() {
    let home = Home::new();
    let file = home.path("run.yaml");
    let first = |plan: &Value| plan["offers"][0]["machine_id"].as_u64().unwrap();
    let best = first(&home.json(&["plan", &file]));
    let store = home.deps().store().unwrap();
    known_machines::remember(
        &store,
        best,
        NOW - 3_600_000_000,
        "ssh did not let us in within 600 s",
    )
    .unwrap();
    let shown = home.screen(&["history", "machines"]);
    insta::assert_snapshot!("machines", shown);
    let plan = home.json(&["plan", &file]);
    assert_ne!(first(&plan), best);
    let last = plan["offers"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["avoided"], "ssh did not let us in within 600 s");
    assert!(
        last["risks"][0]
            .as_str()
            .unwrap()
            .starts_with("its machine is avoided: ssh")
    );
    assert_eq!(
        home.json(&["history", "forgive", &best.to_string()])["forgiven"],
        best
    );
    assert_eq!(first(&home.json(&["plan", &file])), best);
    assert_eq!(
        home.json(&["history", "machines"])["machines"],
        Value::Array(Vec::new())
    );
    insta::assert_snapshot!(
        "nothing_to_forgive",
        home.screen(&["history", "forgive", "7"])
    );
}
