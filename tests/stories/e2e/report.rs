//! A run that was interrupted once, and what is left of it when all boxes are gone: its report, and what they measured.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::world::{Tier, Training, World, on};

#[test]
fn a_report_shows_all_attempts_of_a_run_whose_boxes_are_gone() {
    on(Tier::One, report);
}

fn report(world: &World) {
    world.training(&Training::interruptible("told", 150));
    let mut watcher = world.background(&["run", "told.yaml"]);
    let first = world.until_step("told", 1, 40);
    world.ctl(&["outbid", &first.to_string()]);
    assert_eq!(watcher.wait(), 0, "{}", watcher.text());
    world.assert_nothing_rented();

    // Both boxes are gone, and what they measured is here: of the first at least up to the look at which it was at step 40.
    let metrics = world.ok(&["metrics", "told", "--json"]);
    assert!(metrics.out.contains("The box is gone"), "{}", metrics.out);
    let rows: Vec<Value> = metrics
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let attempts: BTreeSet<u64> = rows
        .iter()
        .map(|row| row["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(attempts, BTreeSet::from([1, 2]), "{}", metrics.stdout);
    let busy = rows
        .iter()
        .filter(|row| row["attempt"] == 2)
        .filter_map(|row| row["gpus"][0]["utilisation_percent"].as_u64());
    assert!(busy.max() > Some(0), "{}", metrics.stdout);
    let csv = world.ok(&["metrics", "told", "--csv"]).stdout;
    assert_eq!(csv.lines().count(), rows.len() + 1, "{csv}");
    assert!(csv.lines().next().unwrap().ends_with(",attempt"), "{csv}");

    let written = world.ok(&["report", "told", "--json"]).stdout;
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["path"], "told-report.html", "{written}");
    assert_eq!(written["outcome"], "done", "{written}");
    assert_eq!(written["attempts"], 2, "{written}");
    assert_eq!(written["interruptions"], 1, "{written}");
    assert_eq!(
        (written["step"].as_u64(), written["total_steps"].as_u64()),
        (Some(150), Some(150)),
        "{written}"
    );
    assert_eq!(written["last_loss"], 850.5, "{written}");
    assert_eq!(written["tokens_per_s"], 1000.0, "{written}");
    let status = world.status("told");
    assert_eq!(written["cost_usd"], status["cost_usd"], "{written}");
    assert_eq!(written["steps_lost"], status["steps_lost"], "{written}");
    let hours = |key: &str| written[key].as_f64().unwrap();
    assert!(
        0.0 < hours("trained_hours") && hours("trained_hours") < hours("wall_hours"),
        "{written}"
    );

    let path = world.work().join("told-report.html");
    let page = std::fs::read_to_string(&path).unwrap();
    for shown in [
        "aria-label=\"Loss, as printed\"",
        "aria-label=\"Speed, tokens/s\"",
        "aria-label=\"GPU use, %\"",
        "aria-label=\"GPU memory, of the fullest, GiB\"",
        "aria-label=\"Power of all GPUs, W\"",
        "aria-label=\"Cost, by our own ledger, $\"",
        "attempt 1 was interrupted",
        "checkpoint of step 10",
        ">attempt 2<",
    ] {
        assert!(page.contains(shown), "{shown} is not in {}", path.display());
    }
    assert!(!page.contains("<script"), "no script is needed");

    // An older report is written anew, and nothing else is; Markdown goes to stdout.
    world.ok(&["report", "told"]);
    world.write("told-report.html", "my notes\n");
    let refused = world.say(&["report", "told"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(refused.out.contains("--force"), "{}", refused.out);
    let markdown = world.ok(&["report", "told", "--markdown"]).stdout;
    assert!(
        markdown.contains("## `told`: done") || markdown.contains("told: done"),
        "{markdown}"
    );
    assert!(markdown.contains("### Attempts"), "{markdown}");
}
