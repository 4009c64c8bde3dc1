//! `--json` on every verb that has data: one JSON value on stdout and nothing else, or one per line where something is followed; and
//! every key that `controller/docs/json.md` promises of it.

mod documented;

use std::{collections::BTreeSet, process::Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::world::{Tier, Training, World, on};

#[test]
fn every_verb_prints_the_json_that_is_documented() {
    on(Tier::One, every_verb);
}

/// How much JSON a verb prints.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One value on one line.
    One,
    /// One value per line.
    Lines,
}

/// A verb, and what is promised of it.
struct Case {
    args: &'static str,
    form: Form,
    /// Heading of the section in the documentation, without its marks.
    section: &'static str,
    /// Where the object (or the list of objects) lies that has the keys, as a JSON pointer; and the keys. There is at least one, but
    /// for a pointer that ends with `?`: there may be none.
    keys: &'static [(&'static str, &'static str)],
}

const fn one(
    args: &'static str,
    section: &'static str,
    keys: &'static [(&'static str, &'static str)],
) -> Case {
    Case {
        args,
        form: Form::One,
        section,
        keys,
    }
}

const fn lines(
    args: &'static str,
    section: &'static str,
    keys: &'static [(&'static str, &'static str)],
) -> Case {
    Case {
        args,
        form: Form::Lines,
        section,
        keys,
    }
}

const OFFER: &str = "id machine_id gpu_name num_gpus vram_mib ram_mb cpu_cores disk_gb running_usd_per_hour stopped_usd_per_hour \
    gpu_usd_per_hour storage_usd_per_hour min_bid_usd_per_hour inet_down_mbps inet_up_mbps inet_down_usd_per_gb inet_up_usd_per_gb \
    reliability verified datacenter geolocation cuda compute_cap nvlink_gbps direct_ports max_duration_s go blockers outlook risks";
const PLAN: &str = "run gpu num_gpus disk_gb rental max_price_usd_per_hour budget_usd checkpoints_to model method go offers products too_dear \
    setup_hours setup_measured history optimizations rental_advice probe gates";
const PLANNED: &str = "offer machine_id gpu num_gpus geolocation reliability vram_gib ram_gb tensor_tflops memory_gb_per_s \
    bid_usd_per_hour running_usd_per_hour stopped_usd_per_hour budget_hours avoided go lacks blockers effort risks outlook";
const SUMMARY: &str = "name state outcome reason step attempts steps_redone interruptions steps_lost checkpoints_committed \
    checkpoints_kept last_checkpoint_step cost_usd ledger_usd charged_usd usd_per_hour watched";
const STATUS: &str = "backup_alarm unsaved rare_checkpoints window contradiction warnings waiting way_on plan agent market last_word_us";
const KEPT_PLAN: &str = "needed no_plan dares offer gpu num_gpus running_usd_per_hour at_most_hours at_most_usd checks forecast gates \
    blockers hardware_justified";
const ATTEMPT: &str = "number state instance gpu gpu_usd_per_hour from_step to_step steps_redone steps_lost checkpoints_committed \
    ledger charged reason diagnosis";
/// Tried where a box is taken back.
pub const INTERRUPTION: &str =
    "attempt time_us reason step saved_step resumed_by resumed_step steps_lost";
/// Tried where a box is waited for.
pub const WAITING: &str =
    "instance since_us until_us bid_usd_per_hour ceiling_usd_per_hour storage_usd_per_hour why";
const MONEY: &str = "gpu_usd disk_usd bandwidth_usd";
const RUNS: &str = "run created_us state outcome reason stop_requested attempt instance gpu num_gpus rental step usd_per_hour cost_usd \
    saved_step saved_us unsaved backup_alarm contradiction ended_by market watched_by_pid silent_since_us";
const OBSERVATION: &str = "id edited source run attempt observed_us code model gpu num_gpus machine_id tokens_per_s steps_per_s \
    predicted_tokens_per_s gpu_utilisation_percent peak_vram_gib peak_ram_gb setup_s debug_s trained_s down_mbps up_mbps \
    advertised_down_mbps advertised_up_mbps note";
const ENDED: &str = "status, run, up, resume, stop";

/// While the training runs, in this order.
const WHILE_IT_RUNS: &[Case] = &[
    one("init other.yaml --name other", "init", &[("", "file name")]),
    one(
        "offers --gpus any",
        "offers",
        &[("", "offers"), ("/offers", OFFER)],
    ),
    one(
        "volumes offers --size 50GB",
        "volumes",
        &[
            ("", "offers"),
            (
                "/offers",
                "id machine_id free_gb usd_per_hour reliability inet_down_mbps disk_mb_per_s geolocation",
            ),
        ],
    ),
    one(
        "volumes rent 36941860 --size 50GB --name data --yes",
        "volumes",
        &[("", "id name machine_id size_gb usd_per_hour")],
    ),
    one(
        "volumes",
        "volumes",
        &[
            ("", "volumes usd_per_hour"),
            (
                "/volumes",
                "id name machine_id size_gb instances in_use usd_per_hour start_s",
            ),
        ],
    ),
    one("volumes rm 20118481 --yes", "volumes", &[("", "removed")]),
    one(
        "plan json.yaml",
        "plan",
        &[
            ("", PLAN),
            ("/offers", PLANNED),
            ("/rental_advice?", "advice why"),
            ("/gates?", "what expect abort"),
        ],
    ),
    one(
        "plan model.yaml",
        "plan",
        &[
            ("", PLAN),
            ("/offers", PLANNED),
            ("/rental_advice", "advice why"),
            (
                "/probe",
                "here_usd probe_usd probe_first probe_usd_per_hour",
            ),
            ("/gates", "what expect abort"),
            (
                "/offers/0/outlook",
                "checks peak_vram_gib forecast other blockers",
            ),
            (
                "/offers/0/outlook/checks",
                "what needs safe_up_to risky_up_to has unit verdict detail",
            ),
            ("/offers/0/outlook/peak_vram_gib", "low base high"),
            (
                "/offers/0/outlook/forecast",
                "method baseline tokens_per_s train_hours wall_hours cost_usd setup_tax",
            ),
            ("/offers/0/outlook/forecast/tokens_per_s", "low base high"),
            (
                "/offers/0/outlook/forecast/cost_usd",
                "optimistic base pessimistic",
            ),
        ],
    ),
    one(
        "plan --evaluate published.tsv",
        "plan --evaluate",
        &[
            ("", "method rows summary"),
            (
                "/rows",
                "id source gpu not_predicted tokens_per_s tokens_per_s_per_gpu hours gpu_hours peak_vram_gib error in_range \
                 doubtful_memory verdicts",
            ),
            (
                "/summary",
                "rows not_predicted error tokens_per_s hours peak_vram transfer verdicts",
            ),
            (
                "/rows/0/tokens_per_s?",
                "low predicted high actual error in_range",
            ),
            ("/rows/0/verdicts", "card_gb verdict fits"),
            ("/summary/tokens_per_s", "rows median p90 coverage"),
            (
                "/summary/verdicts",
                "pairs fits tight does_not_fit false_fits false_does_not_fit false_fits_share false_does_not_fit_share \
                 not_said_to_fit_share",
            ),
        ],
    ),
    one(
        "ps",
        "ps",
        &[
            ("", "runs"),
            ("/runs", RUNS),
            ("/runs/0/market", "news usd_per_hour acts"),
        ],
    ),
    one(
        "events json",
        "events",
        &[
            ("", "run events"),
            ("/events", "id attempt origin seq time_us kind detail"),
        ],
    ),
    one(
        "status json",
        ENDED,
        &[
            ("", SUMMARY),
            ("", STATUS),
            ("/attempts", ATTEMPT),
            ("/attempts/0/ledger", MONEY),
            ("/plan", KEPT_PLAN),
            ("/agent", "sample"),
        ],
    ),
    one(
        "status --recorded json",
        ENDED,
        &[("", SUMMARY), ("", STATUS)],
    ),
    one(
        "checklist json",
        "checklist",
        &[
            ("", "run file wrong lines"),
            ("/lines", "section id what state evidence at_us next"),
        ],
    ),
    one(
        "cost json",
        "cost",
        &[
            (
                "",
                "credit_usd credit_hours usd_per_hour total_usd billed_usd reckoned_usd runs volumes",
            ),
            (
                "/runs",
                "run outcome usd_per_hour cost total_usd billed_usd reckoned_usd budget_usd budget_hours to_come attempts",
            ),
            (
                "/runs/0/attempts",
                "attempt state instance gpu usd_per_hour stopped_but_paid ledger charged charged_is_final billed_usd reckoned_usd \
                 difference_usd",
            ),
            ("/runs/0/cost", MONEY),
        ],
    ),
    one(
        "bid --over-limits json 0.9",
        "bid",
        &[(
            "",
            "run attempt instance old_usd_per_hour new_usd_per_hour running_usd_per_hour",
        )],
    ),
    one(
        "accept json",
        "accept",
        &[("", "run attempt contradiction")],
    ),
    lines(
        "logs json",
        "logs",
        &[
            ("", "run attempt session position gap_bytes text"),
            ("/position?", "generation offset"),
        ],
    ),
    lines(
        "metrics json",
        "metrics",
        &[
            ("", "run attempt time_us span_s gpus host processes"),
            ("/processes?", "pid name cpu_percent memory_bytes"),
        ],
    ),
    one(
        "checkpoints json",
        "checkpoints",
        &[(
            "",
            "id step attempt committed_us size_bytes files path pinned metric",
        )],
    ),
    one(
        "checkpoints ls json",
        "checkpoints",
        &[(
            "",
            "id step attempt committed_us size_bytes files path pinned metric",
        )],
    ),
    one(
        "checkpoints show json ID",
        "checkpoints",
        &[
            (
                "",
                "id step attempt committed_us rule path prev metric size_bytes files",
            ),
            ("/files", "path size_bytes mode mtime_ns blake3 key shared"),
        ],
    ),
    one(
        "checkpoints verify json",
        "checkpoints",
        &[
            ("", "whole checkpoints"),
            ("/checkpoints", "id step size_bytes commit files"),
        ],
    ),
    one(
        "checkpoints pull json ID --to pulled",
        "checkpoints",
        &[(
            "",
            "id step path size_bytes fetched_bytes reused_bytes skipped",
        )],
    ),
    one(
        "checkpoints pin json ID",
        "checkpoints",
        &[("", "id pinned")],
    ),
    one(
        "checkpoints diff json ID",
        "checkpoints",
        &[
            ("", "before after files"),
            ("/files", "path change before_bytes after_bytes"),
        ],
    ),
    one(
        "checkpoints unpin json ID",
        "checkpoints",
        &[("", "id pinned")],
    ),
    one(
        "fetch json train.sh --to fetched",
        "fetch",
        &[("", "path size_bytes blake3 to")],
    ),
    lines(
        "parse printed.log",
        "parse",
        &[(
            "",
            "line kind step total_steps epoch loss eval_loss lr grad_norm throughput throughput_unit eta",
        )],
    ),
    lines(
        "parse failed.log",
        "parse",
        &[("", "kind failure_class line evidence meaning advice")],
    ),
    one(
        "parse --summary printed.log",
        "parse --summary",
        &[(
            "",
            "step_records raw_records bar_updates first_step last_step total_steps last_epoch last_loss last_lr last_throughput \
             throughput_unit last_eta failure_class",
        )],
    ),
    one(
        "doctor bucket json.yaml --policy",
        "doctor bucket",
        &[("", "provider policy how")],
    ),
    one(
        "doctor bucket json.yaml",
        "doctor bucket",
        &[
            (
                "",
                "target endpoint region provider keys_from access_key_id ok checks clock_offset_s missing missing_policy policy \
                 left_behind",
            ),
            ("/checks", "name ok required status code detail"),
        ],
    ),
    one(
        "gc --dry-run",
        "gc",
        &[("", "instance label owner age_s usd_per_hour destroyed")],
    ),
    one("attach json", "attach, ssh", &[("", "run argv")]),
    one("ssh json", "attach, ssh", &[("", "run argv")]),
    one("ssh --config", "attach, ssh", &[("", "config_line")]),
    one("stop json", ENDED, &[("", SUMMARY), ("/attempts", ATTEMPT)]),
];

/// After it was stopped, its box kept on its disk.
const AFTERWARDS: &[Case] = &[
    one(
        "wait json",
        "wait",
        &[(
            "",
            "run outcome reason diagnosis interruptions steps_lost error usd_per_hour",
        )],
    ),
    one(
        "checkpoints push json step-900.txt",
        "checkpoints",
        &[("", "id step path size_bytes files reused_bytes")],
    ),
    one(
        "checkpoints prune json --keep-last 2",
        "checkpoints",
        &[
            (
                "",
                "dry_run deleted purged waiting orphans orphan_bytes aborted_uploads",
            ),
            ("/deleted", "id step size_bytes"),
            ("/purged?", "id objects size_bytes"),
            ("/waiting", "id due_us"),
        ],
    ),
    one(
        "history",
        "history",
        &[("", "observations"), ("/observations", OBSERVATION)],
    ),
    one("history machines", "history", &[("", "machines")]),
    one(
        "destroy --lose-data json",
        "destroy",
        &[("", "run attempt instance")],
    ),
    one(
        "report json",
        "report",
        &[(
            "",
            "run path format state outcome step total_steps last_loss attempts interruptions steps_lost wall_hours trained_hours \
             cost_usd usd_per_hour tokens_per_s gpu_utilisation_percent energy_kwh predicted_wall_hours predicted_train_hours \
             predicted_cost_usd predicted_tokens_per_s measured_until_us",
        )],
    ),
    lines(
        "metrics --recorded json",
        "metrics",
        &[("", "run attempt time_us span_s gpus host processes")],
    ),
    one(
        "resume --elsewhere json",
        ENDED,
        &[("", SUMMARY), ("/attempts", ATTEMPT)],
    ),
    one("up json", ENDED, &[("", SUMMARY), ("/attempts", ATTEMPT)]),
];

/// Of a box that nobody can take back.
const ON_DEMAND: &[Case] = &[one(
    "prepay --yes demand 5",
    "prepay",
    &[("", "run attempt instance usd months discount")],
)];

/// What only goes with a box that is rented on demand.
fn on_demand(world: &World, documented: &str) {
    let mut training = Training::interruptible("demand", 3_000);
    training.rental = "on-demand";
    world.training(&training);
    world.ok(&["run", "demand.yaml", "--detach"]);
    let id = world.alive()[0]["id"].to_string();
    for case in ON_DEMAND {
        check(world, case, &id, documented);
    }
    world.ok(&["destroy", "--lose-data", "demand"]);
    world.assert_nothing_rented();
}

fn every_verb(world: &World) {
    let documented =
        std::fs::read_to_string(stories::workspace().join("controller/docs/json.md")).unwrap();
    let mut training = Training::interruptible("json", 30);
    training.on_done = "stop";
    // Three checkpoints that stay, and a box that does until it is stopped.
    training.command = Some("bash train.sh 30; [ -n \"$SPOTTER_CHECKPOINT\" ] || sleep 600");
    world.training(&training);
    let published = stories::workspace().join("controller/data/published-runs.tsv");
    let published = std::fs::read_to_string(published).unwrap();
    let (head, rows) = published.split_once('\n').unwrap();
    // Those first that state both a speed and a peak: their rows have all the keys.
    let mut rows: Vec<&str> = rows.lines().collect();
    let column = |name: &str| head.split('\t').position(|column| column == name).unwrap();
    let stated = ["tokens_per_s_total", "peak_vram_gb_per_gpu"].map(column);
    rows.sort_by_key(|row| {
        let cells: Vec<&str> = row.split('\t').collect();
        stated.iter().any(|column| cells[*column].is_empty())
    });
    world.write("published.tsv", &format!("{head}\n{}\n", rows.join("\n")));
    world.write("step-900.txt", "900\n");
    world.write(
        "printed.log",
        "step 1/9 | loss 2.5 | lr 1.00e-03 | 100.0 ms/step | 1,000 tok/s\nstep 2/9 | loss 2.25\n",
    );
    world.write(
        "failed.log",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
    );
    let yaml = std::fs::read_to_string(world.work().join("json.yaml")).unwrap();
    world.write(
        "model.yaml",
        &format!("{yaml}model: {{params: 124M, tokens: 10M}}\n"),
    );
    world.ok(&["run", "json.yaml", "--detach"]);
    let id = world.until("three checkpoints in the bucket", || {
        let said = world.say(&["checkpoints", "json", "--json"]);
        let rows: Value = serde_json::from_str(&said.stdout).ok()?;
        Some(rows[2]["id"].as_str()?.to_owned())
    });

    for verb in ["up", "wait"] {
        left(world, verb);
    }
    would_lose(world);
    for case in WHILE_IT_RUNS {
        check(world, case, &id, &documented);
    }
    for case in AFTERWARDS {
        check(world, case, &id, &documented);
    }
    world.say(&["destroy", "--lose-data", "json"]);
    world.assert_nothing_rented();
    on_demand(world, &documented);

    // A verb that is new has its place here, or says nothing that a program would read.
    // What `serve` prints is tried where it serves.
    let without_data = BTreeSet::from(["help", "checkpoints", "doctor", "run", "serve", "top"]);
    let known: BTreeSet<&str> = WHILE_IT_RUNS
        .iter()
        .chain(AFTERWARDS)
        .chain(ON_DEMAND)
        .filter_map(|case| case.args.split(' ').next())
        .chain(without_data)
        .collect();
    let help = world.ok(&["--help"]).stdout;
    let (_, verbs) = help.split_once("Commands:\n").unwrap();
    let (verbs, _) = verbs.split_once("\n\n").unwrap();
    for verb in verbs.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?;
        (!name.starts_with(' ')).then(|| name.split(' ').next())?
    }) {
        assert!(known.contains(verb), "`{verb} --json` is tried nowhere");
    }
}

/// Ctrl-C: who leaves is told where the run stands, and nothing happens to it.
fn left(world: &World, verb: &str) {
    let watched = || {
        let runs: Value = serde_json::from_str(&world.ok(&["ps", "--json"]).stdout).unwrap();
        runs["runs"][0]["watched_by_pid"].is_number()
    };
    assert!(!watched());
    let child = world
        .spotter(&[verb, "json", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    world.until("somebody watches", || watched().then_some(()));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{verb}: {output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.lines().count(), 1, "{verb}: {printed}");
    let value: Value = serde_json::from_str(&printed).unwrap();
    let run = value.get(0).unwrap_or(&value);
    assert_eq!(run["outcome"], Value::Null, "{verb}: {printed}");
}

/// One verb: what it prints, and what was promised.
fn check(world: &World, case: &Case, id: &str, documented: &str) {
    let args: Vec<&str> = case
        .args
        .split(' ')
        .map(|word| if word == "ID" { id } else { word })
        .chain(["--json"])
        .collect();
    let said = world.ok(&args);
    let (_, printed) = said.out.split_once('\n').unwrap();
    let values: Vec<Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {printed}")))
        .collect();
    assert!(!values.is_empty(), "{args:?} printed nothing: {printed}");
    if case.form == Form::One {
        assert_eq!(values.len(), 1, "{args:?} printed more: {printed}");
    }
    let section = documented::section(documented, case.section);
    for (at, keys) in case.keys {
        let may_be_none = at.ends_with('?');
        let at = at.trim_end_matches('?');
        for value in &values {
            let found = value
                .pointer(at)
                .unwrap_or_else(|| panic!("{args:?}: nothing at `{at}` of {value}"));
            let objects: Vec<&Value> = match found {
                Value::Array(rows) => rows.iter().collect(),
                Value::Null => Vec::new(),
                one => vec![one],
            };
            assert!(
                may_be_none || !objects.is_empty(),
                "{args:?}: nothing to try at `{at}` of {value}"
            );
            for object in objects {
                assert_has(object, keys);
            }
        }
        for key in keys.split_whitespace() {
            let told =
                section.contains(&format!("`{key}`")) || section.contains(&format!("\"{key}\""));
            assert!(told, "`{key}` of `{}` is not documented", case.args);
        }
    }
}

/// Every one of these keys is there, whatever its value.
#[track_caller]
pub fn assert_has(object: &Value, keys: &str) {
    for key in keys.split_whitespace() {
        assert!(object.get(key).is_some(), "`{key}` is missing in {object}");
    }
}

const LOSSES: (&str, &str) = (
    "run attempt instance reason would_lose",
    "what name size_bytes",
);

/// A refusal is data as well: the box trains, and its result is nowhere else.
fn would_lose(world: &World) {
    let refused = world.say(&["destroy", "json", "--json"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    let value: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_has(&value, LOSSES.0);
    let losses = value["would_lose"].as_array().unwrap();
    assert!(!losses.is_empty(), "{value}");
    for loss in losses {
        assert_has(loss, LOSSES.1);
    }
}
