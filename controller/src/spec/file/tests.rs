//! Run files good and bad, and the schema for editors against the keys that the parser knows.

use std::{collections::BTreeSet, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::json;
use spotter_bucket::Style;

use super::*;
use crate::spec::{UploadWindow, WebhookFrom};

const FULL: &str = r#"
name: flightmind-d24
workdir: .
resources:
  accelerators: "H100 SXM:4"
  disk: 500GB
  rental: interruptible
  offers: "reliability>0.95 inet_down>500"
  max_price: 9.00
  bid: {headroom: 15%, max: $8.5}
image: vastai/pytorch:2.9.0
onstart: echo started
envs:
  HF_TOKEN: null
  EPOCHS: 3
  EMPTY: ""
setup: uv sync --frozen
smoke: {run: python train.py --max-steps 100, steps: 100, timeout: 5m}
run: |
  torchrun --nproc_per_node=$SPOTTER_NUM_GPUS train.py
resume: torchrun train.py --resume $SPOTTER_CHECKPOINT
checkpoints:
  dir: ./out/checkpoints
  to: s3://bucket/runs
  every: 10m
  keep: {last: 3, every_steps: 10000, best: {metric: val_loss, count: 2}, grace: 24h}
  settle: 1500ms
  complete_when: quiet 20s
  tripwire: false
  upload: {max: 50MB/s, schedule: ["22:00-06:00 full", "12:00-13:00 9MB/s"], zone: "+01:00"}
  credentials: session
  role: arn:aws:iam::123456789012:role/train
  persist: true
  on_stale: stop
  server: {endpoint: "https://minio.lab:9000", region: lab-1, style: virtual}
recover: {policy: here, attempts: 4, wait: 6h, deadline: 3d}
limits: {bring_up: 30m, budget: 600}
results: {fetch: [checkpoints/final.pt, logs], to: ./brought}
on_done: stop
"#;

const SMALL: &str = "name: a\nresources: {accelerators: A40}\nrun: python train.py\n";

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// `text` with one line changed or added is refused with `expected`.
#[track_caller]
fn check_error(text: &str, expected: &str) {
    let err = parse(text, "run.yaml", dir().path()).unwrap_err();
    assert_eq!(err.to_string(), expected);
}

#[test]
fn a_box_without_keys_needs_a_bucket_and_keeps_nothing() {
    let with = |keys: &str| format!("{SMALL}checkpoints: {{credentials: presigned{keys}}}\n");
    let spec = parse(&with(", to: s3://runs"), "run.yaml", dir().path()).unwrap();
    let keys = spec.checkpoints.unwrap().keys;
    assert_eq!((keys.mode, keys.persist), (KeyMode::Presigned, false));
    check_error(
        &with(""),
        "run.yaml:4:28: nothing can be signed without a bucket: set `to`",
    );
    check_error(
        &with(", to: s3://runs, persist: true"),
        "run.yaml:4:63: what is signed for the box stays in its memory with `credentials: presigned`: leave `persist` out",
    );
}

#[test]
fn a_contradiction_has_the_consequence_that_the_run_file_names() {
    for (on_contradiction, go_on_unanswered, expected) in [
        (
            "alert",
            false,
            "it is ended when nobody watches for a whole window",
        ),
        ("alert", true, "it goes on though nobody answers"),
        (
            "stop",
            false,
            "its box ends it, as `validate.on_contradiction` says",
        ),
        (
            "command echo",
            true,
            "its box runs the command of `validate.on_contradiction`, and it goes on though nobody answers",
        ),
    ] {
        let validate = crate::spec::Validate {
            on_contradiction: on_contradiction.to_owned(),
            go_on_unanswered,
            ..Default::default()
        };
        assert_eq!(validate.consequence(), expected);
    }
}

#[test]
fn the_whole_file_is_read() {
    let dir = dir();
    let spec = parse(FULL, "run.yaml", dir.path()).unwrap();
    assert_eq!(spec.name, "flightmind-d24");
    assert_eq!(spec.workdir.as_deref(), Some(dir.path()));
    assert_eq!(
        spec.resources,
        Resources {
            gpu_name: Some("H100 SXM".into()),
            num_gpus: 4,
            disk_gb: 500.0,
            rental: Rental::Interruptible,
            filters: query::parse("reliability>0.95 inet_down>500").unwrap(),
            max_price_usd_per_hour: Some(9.0),
            bid_headroom: 0.15,
            bid_max_usd_per_hour: Some(8.5),
            hosts: Vec::new(),
        }
    );
    assert_eq!(spec.image, "vastai/pytorch:2.9.0");
    assert_eq!(spec.onstart.as_deref(), Some("echo started"));
    assert_eq!(spec.envs["HF_TOKEN"], None);
    assert_eq!(spec.envs["EPOCHS"].as_deref(), Some("3"));
    assert_eq!(spec.envs["EMPTY"].as_deref(), Some(""));
    assert_eq!(
        spec.run,
        "torchrun --nproc_per_node=$SPOTTER_NUM_GPUS train.py\n"
    );
    assert_eq!(
        spec.checkpoints,
        Some(Checkpoints {
            dir: "out/checkpoints".into(),
            to: Some("s3://bucket/runs".into()),
            every: Duration::from_secs(600),
            keep_last: 3,
            keep_every_steps: 10_000,
            keep_best: Some(Best {
                metric: "val_loss".into(),
                count: 2,
                highest: false,
            }),
            keep_grace: Duration::from_secs(86_400),
            settle: Some(Duration::from_millis(1500)),
            complete_when: Some("quiet 20000ms".into()),
            tripwire: false,
            max_bytes_per_s: Some(50_000_000),
            keys: KeyRules {
                mode: KeyMode::Session,
                role: Some("arn:aws:iam::123456789012:role/train".into()),
                persist: true,
            },
            on_stale: OnStale::Stop,
            windows: vec![
                UploadWindow {
                    from_min: 21 * 60,
                    to_min: 5 * 60,
                    max_bytes_per_s: None,
                },
                UploadWindow {
                    from_min: 11 * 60,
                    to_min: 12 * 60,
                    max_bytes_per_s: Some(9_000_000),
                },
            ],
            server: BucketServer {
                endpoint: Some("https://minio.lab:9000".into()),
                region: Some("lab-1".into()),
                style: Some(Style::Virtual),
                ca: None,
            },
        })
    );
    assert_eq!(
        spec.recover,
        Recover {
            policy: RecoverPolicy::Here,
            attempts: 4,
            wait: Duration::from_secs(6 * 3600),
            deadline: Some(Duration::from_secs(3 * 86_400)),
        }
    );
    assert_eq!(
        spec.limits,
        Limits {
            bring_up: Duration::from_secs(1800),
            budget_usd: Some(600.0),
            max_runtime: None,
            no_progress: None,
        }
    );
    assert_eq!(
        spec.smoke,
        Some(Smoke {
            run: "python train.py --max-steps 100".into(),
            steps: Some(100),
            timeout: Duration::from_secs(300),
        })
    );
    let results = spec.results.unwrap();
    assert_eq!(results.fetch, ["checkpoints/final.pt", "logs"]);
    assert_eq!(results.to, dir.path().join("brought"));
    assert_eq!(spec.on_done, OnDone::Stop);
}

#[test]
fn the_smallest_file_gets_every_default() {
    let spec = parse(SMALL, "run.yaml", dir().path()).unwrap();
    assert_eq!(spec.resources.gpu_name.as_deref(), Some("A40"));
    assert_eq!(spec.resources.num_gpus, 1);
    assert_eq!(spec.resources.disk_gb, DEFAULT_DISK_GB);
    assert_eq!(spec.resources.rental, Rental::OnDemand);
    assert_eq!(spec.workdir, None);
    assert_eq!(spec.image, DEFAULT_IMAGE);
    assert_eq!(
        spec.limits,
        Limits {
            bring_up: DEFAULT_BRING_UP,
            budget_usd: None,
            max_runtime: None,
            no_progress: None,
        }
    );
    assert_eq!(spec.recover.policy, RecoverPolicy::Elsewhere);
    assert_eq!(spec.recover.attempts, DEFAULT_ATTEMPTS);
    assert_eq!(spec.recover.wait, DEFAULT_WAIT);
    assert_eq!(spec.recover.deadline, None);
    assert_eq!((spec.checkpoints, spec.results), (None, None));
    assert_eq!(spec.on_done, OnDone::Stop, "what it wrote is nowhere else");
    // What is stored is read back the same.
    let spec = parse(FULL, "run.yaml", dir().path()).unwrap();
    let stored = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<RunSpec>(&stored).unwrap(), spec);
}

#[test]
fn accelerators_may_be_a_map() {
    for (written, name, count) in [
        ("{RTX 4090: 2}", "RTX 4090", 2),
        ("\"RTX_4090:2\"", "RTX 4090", 2),
        ("RTX 4090:2", "RTX 4090", 2),
        ("H100 SXM", "H100 SXM", 1),
    ] {
        let text = SMALL.replace(
            "{accelerators: A40}",
            &format!("\n  accelerators: {written}"),
        );
        let spec = parse(&text, "run.yaml", dir().path()).unwrap();
        assert_eq!(spec.resources.gpu_name.as_deref(), Some(name), "{written}");
        assert_eq!(spec.resources.num_gpus, count, "{written}");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_one() {
    check_error(
        &format!("{SMALL}chekpoints: {{}}\n"),
        "run.yaml:4:1: unknown key `chekpoints`, did you mean `checkpoints`?",
    );
    check_error(
        &FULL.replace("every: 10m", "evry: 10m"),
        "run.yaml:25:3: unknown key `evry`, did you mean `every`?",
    );
    // Keys of later versions are not known to this one.
    check_error(
        &format!("{SMALL}data: []\n"),
        "run.yaml:4:1: unknown key `data`; the keys here are name, workdir, resources, needs, model, image, image_size, image_login, ports, docker_options, template, onstart, envs, setup, \
         smoke, run, resume, progress, checkpoints, validate, recover, limits, results, on_done, notify",
    );
}

#[test]
fn a_bad_value_is_named_with_its_place() {
    let cases = [
        (
            "disk: 500GB",
            "disk: 500MB",
            "6:9: a size looks like 500GB or 1TB",
        ),
        (
            "H100 SXM:4",
            "H100 SXM:0",
            "5:17: the number of GPUs is from 1 to 64, as in \"H100 SXM:1\"",
        ),
        (
            "rental: interruptible",
            "rental: spot",
            "7:11: expected on-demand or interruptible",
        ),
        (
            "reliability>0.95",
            "relability>0.95",
            "8:11: unknown field `relability`, did you mean `reliability`? (character 1)",
        ),
        (
            "max_price: 9.00",
            "max_price: cheap",
            "9:14: an amount is in dollars, such as 9.00 or $9, above 0 and up to 1000000",
        ),
        (
            "headroom: 15%",
            "headroom: much",
            "10:19: a share looks like 15% or 0.15",
        ),
        (
            "name: flightmind-d24",
            "name: a/b",
            "2:7: a name has 1 to 63 letters, digits, `-`, `_` or `.`, and begins with a letter or digit",
        ),
        (
            "EPOCHS: 3",
            "1EPOCH: 3",
            "15:3: a variable has letters, digits and `_`, and does not begin with a digit",
        ),
        (
            "EPOCHS: 3",
            "SPOTTER_RUN: x",
            "15:3: variables that begin with SPOTTER_ are set by spotter",
        ),
        (
            "last: 3",
            "last: 1",
            "26:16: a whole number from 2 to 100000 is expected: the one before the last is needed when the last turns \
             out to be damaged",
        ),
        (
            "dir: ./out/checkpoints",
            "dir: ../out",
            "23:8: the path must not leave the working directory on the box",
        ),
        (
            "every: 10m",
            "every: 10",
            "25:10: a time span looks like 90s, 10m, 72h or 2d",
        ),
        (
            "policy: here",
            "policy: there",
            "36:19: expected elsewhere or here or price or ask or never",
        ),
        (
            "bring_up: 30m",
            "bring_up: 5s",
            "37:20: the limit is at least 10s",
        ),
        (
            "fetch: [checkpoints/final.pt, logs]",
            "fetch: [/etc]",
            "38:19: the path is relative to the working directory on the box",
        ),
        (
            "fetch: [checkpoints/final.pt, logs]",
            "fetch: []",
            "38:18: the list is empty: name what to fetch, or leave `results` out",
        ),
        (
            "fetch: [checkpoints/final.pt, logs]",
            "fetch: out",
            "38:11: expected a list of paths, as in [out/final.pt, logs]",
        ),
        (
            "to: ./brought",
            "to: /",
            "38:52: files are not fetched to the root of this machine",
        ),
        (
            "timeout: 5m",
            "timeout: 5",
            "18:68: a time span looks like 90s, 10m, 72h or 2d",
        ),
        (
            "credentials: session",
            "credentials: mine",
            "31:16: expected auto or session or keys or presigned",
        ),
        (
            "credentials: session",
            "credentials: presigned",
            "32:9: no keys go to the box with `credentials: presigned`: leave `role` out",
        ),
        (
            "role: arn:aws:iam::123456789012:role/train",
            "role: train",
            "32:9: a role looks like arn:aws:iam::123456789012:role/train",
        ),
        (
            "metric: val_loss",
            "metric: mAP50",
            "26:54: say which are better: `mode: min` keeps those with the least of it, `mode: max` those with the most",
        ),
        (
            "metric: val_loss, count: 2",
            "metric: mAP50, mode: best",
            "26:67: expected min or max",
        ),
        (
            "metric: val_loss",
            "metric: a=b",
            "26:54: `a=b` names no value in a log: letters, digits, `_`, `/`, `.`, `-` and spaces, at most 64, with a letter in it",
        ),
        (
            "on_stale: stop",
            "on_stale: panic",
            "34:13: expected alert or stop",
        ),
        (
            "on_done: stop",
            "on_done: nothing",
            "39:10: expected destroy or stop or keep",
        ),
        (
            "workdir: .",
            "workdir: ~/code",
            "3:10: `~` is not expanded: write the whole path, or one relative to this file",
        ),
        (
            "max: $8.5",
            "max: $9.5",
            "10:29: the highest bid of $9.500/h is above `max_price` of $9.000/h, which is all in",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(FULL.contains(from), "{from}");
        check_error(&FULL.replace(from, to), &format!("run.yaml:{expected}"));
    }
}

#[test]
fn an_interruptible_box_without_a_bucket_is_refused_with_the_reason() {
    let expected = "run.yaml:7:11: an interruptible box is taken back without warning: name a bucket with \
                    `checkpoints.to`, so that checkpoints outlive it, or rent on-demand";
    check_error(&FULL.replace("  to: s3://bucket/runs\n", ""), expected);
}

#[test]
fn a_missing_workdir_is_found_before_money_is_spent() {
    let dir = dir();
    let text = FULL.replace("workdir: .", "workdir: none");
    let err = parse(&text, "run.yaml", dir.path())
        .unwrap_err()
        .to_string();
    assert_eq!(
        err,
        format!(
            "run.yaml:3:10: `{}` is no directory",
            dir.path().join("none").display()
        )
    );
}

#[test]
fn a_literal_secret_is_refused_without_showing_it() {
    let text = FULL.replace("HF_TOKEN: null", "HF_TOKEN: hf_verysecret");
    let err = parse(&text, "run.yaml", dir().path())
        .unwrap_err()
        .to_string();
    assert!(
        err.starts_with("run.yaml:14:3: `HF_TOKEN` looks like a secret"),
        "{err}"
    );
    assert!(!err.contains("hf_verysecret"), "{err}");
}

#[test]
fn an_expression_for_progress_is_checked_where_it_stands() {
    let file = |regex: &str| format!("{SMALL}progress: {{regex: '{regex}'}}\n");
    let good = r"it (?<step>\d+)/(?<total>\d+) nll (?<loss>\S+)";
    let spec = parse(&file(good), "run.yaml", dir().path()).unwrap();
    assert_eq!(spec.progress.as_deref(), Some(good));
    for (regex, expected) in [
        ("it (", "4:19: `it (` is no regular expression: "),
        (
            r"it (\d+)",
            r"4:19: `it (\d+)` finds no values: it has no named group; groups are step, total, ",
        ),
        (
            r"it (?<speed>\d+)",
            r"4:19: `it (?<speed>\d+)` finds no values: no value is called `speed`; groups are step, ",
        ),
    ] {
        let err = parse(&file(regex), "run.yaml", dir().path())
            .unwrap_err()
            .to_string();
        assert!(err.starts_with(&format!("run.yaml:{expected}")), "{err}");
    }
}

#[test]
fn windows_and_limits_are_read_with_their_defaults_and_checked_where_they_stand() {
    let file = |more: &str| format!("{SMALL}{more}\n");
    let read = |more: &str| parse(&file(more), "run.yaml", dir().path()).unwrap();
    assert_eq!(read("").validate, super::super::Validate::default());
    let spec =
        read("validate: {window: 5m, on_contradiction: command ./tell.sh, unanswered: continue}");
    let validate = &spec.validate;
    assert_eq!(validate.on_contradiction, "command ./tell.sh");
    assert_eq!(
        (
            validate.window.as_secs(),
            validate.early_checkpoint.as_secs()
        ),
        (300, 900)
    );
    assert!(validate.go_on_unanswered);
    let limits = read("limits: {max_runtime: 72h, no_progress: 30m}").limits;
    assert_eq!(limits.max_runtime.unwrap().as_secs(), 72 * 3600);
    assert_eq!(limits.no_progress.unwrap().as_secs(), 1800);
    for (more, expected) in [
        (
            "validate: {on_contradiction: shout}",
            "4:30: expected `alert`, `stop` or `command ...`",
        ),
        (
            "validate: {window: 5s}",
            "4:20: the interval is at least 10s",
        ),
        (
            "limits: {no_progress: 1s}",
            "4:23: the limit is at least 10s",
        ),
    ] {
        let err = parse(&file(more), "run.yaml", dir().path())
            .unwrap_err()
            .to_string();
        assert_eq!(err, format!("run.yaml:{expected}"));
    }
}

#[test]
fn a_bucket_must_be_one() {
    let text = FULL.replace("s3://bucket/runs", "gs://bucket/runs");
    let err = parse(&text, "run.yaml", dir().path())
        .unwrap_err()
        .to_string();
    assert!(err.starts_with("run.yaml:24:7: "), "{err}");
}

#[test]
fn a_file_that_is_not_there_says_how_to_make_one() {
    let err = read(&dir().path().join("run.yaml")).unwrap_err();
    assert!(
        err.to_string()
            .ends_with("run.yaml` cannot be read: there is none"),
        "{err}"
    );
    let shown = CommandError::from(err);
    assert_eq!(shown.hints(), ["write one with `spotter init`"]);
    assert_eq!(shown.exit_code(), 2);
}

/// The keys that a part of the file knows, as its own error tells them.
fn keys_of<T: DeserializeOwned>() -> BTreeSet<String> {
    let Err(err) = from_yaml::<T>("no_such_key_at_all: 1\n") else {
        panic!("an unknown key was taken");
    };
    let (_, keys) = err
        .message
        .split_once("the keys here are ")
        .expect("nothing is near to it");
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_schema_for_editors_knows_the_same_keys() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/run.schema.json")).unwrap();
    let check = |path: &str, known: BTreeSet<String>| {
        let part = schema.pointer(path).unwrap_or_else(|| panic!("no {path}"));
        let keys: BTreeSet<String> = part["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(keys, known, "{path}");
        assert_eq!(part["additionalProperties"], json!(false), "{path}");
        for (key, property) in part["properties"].as_object().unwrap() {
            assert!(
                property["description"].is_string(),
                "{path}/{key} has no description"
            );
        }
    };
    check("", keys_of::<FileKeys>());
    check("/properties/resources", keys_of::<ResourcesKeys>());
    check("/properties/resources/properties/bid", keys_of::<BidKeys>());
    check("/properties/checkpoints", keys_of::<CheckpointsKeys>());
    check(
        "/properties/checkpoints/properties/keep",
        keys_of::<KeepKeys>(),
    );
    check(
        "/properties/checkpoints/properties/upload",
        keys_of::<UploadKeys>(),
    );
    check(
        "/properties/checkpoints/properties/server",
        keys_of::<ServerKeys>(),
    );
    check("/properties/recover", keys_of::<RecoverKeys>());
    check("/properties/model", keys_of::<ModelKeys>());
    check("/properties/limits", keys_of::<LimitsKeys>());
    check("/properties/smoke", keys_of::<SmokeKeys>());
    check("/properties/progress", keys_of::<ProgressKeys>());
    check("/properties/validate", keys_of::<ValidateKeys>());
    check("/properties/results", keys_of::<ResultsKeys>());
    check("/properties/notify", keys_of::<NotifyKeys>());
    assert_eq!(schema["required"], json!(["name", "resources", "run"]));
}

#[test]
fn a_wrong_server_or_schedule_is_refused_at_its_place() {
    let check = |line: &str, expected: &str| {
        let text = format!("{SMALL}checkpoints:\n  to: s3://bucket/runs\n  {line}\n");
        check_error(&text, expected);
    };
    check(
        "server: {endpoint: minio.lab}",
        "run.yaml:6:22: endpoint \"\" is not usable: it is not a URL",
    );
    check(
        "server: {style: vhost}",
        "run.yaml:6:19: expected path or virtual",
    );
    check(
        "server: {region: eu/west}",
        "run.yaml:6:20: region \"eu/west\" is not usable: letters, digits and `-` only",
    );
    check(
        "upload: {zone: CET}",
        "run.yaml:6:18: a zone is how far its clock is ahead of UTC: +02:00, -05:30 or UTC",
    );
    check(
        "upload: {schedule: [\"9-17 full\"]}",
        "run.yaml:6:23: a window looks like `22:00-06:00 full` or `09:00-17:00 5MB/s`",
    );
    let dir = dir();
    let text = format!("{SMALL}checkpoints: {{to: s3://bucket/runs, server: {{ca: ca.pem}}}}\n");
    let err = parse(&text, "run.yaml", dir.path())
        .unwrap_err()
        .to_string();
    assert!(
        err.starts_with("run.yaml:4:") && err.contains("ca.pem` cannot be read"),
        "{err}"
    );
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(dir.path().join("ca.pem"), pem).unwrap();
    let spec = parse(&text, "run.yaml", dir.path()).unwrap();
    assert_eq!(
        spec.checkpoints.unwrap().server.ca,
        Some(dir.path().join("ca.pem"))
    );
}

#[test]
fn the_documentation_names_every_key() {
    let guide = include_str!("../../../docs/run-file.md");
    for keys in [
        keys_of::<FileKeys>(),
        keys_of::<ResourcesKeys>(),
        keys_of::<BidKeys>(),
        keys_of::<CheckpointsKeys>(),
        keys_of::<KeepKeys>(),
        keys_of::<UploadKeys>(),
        keys_of::<ServerKeys>(),
        keys_of::<RecoverKeys>(),
        keys_of::<LimitsKeys>(),
        keys_of::<ModelKeys>(),
        keys_of::<SmokeKeys>(),
        keys_of::<ProgressKeys>(),
        keys_of::<ValidateKeys>(),
        keys_of::<ResultsKeys>(),
        keys_of::<NotifyKeys>(),
    ] {
        for key in keys {
            assert!(
                guide.contains(&format!("`{key}`")) || guide.contains(&format!(".{key}`")),
                "{key}"
            );
        }
    }
}

#[test]
fn the_url_of_a_webhook_is_read_where_it_is_and_is_no_part_of_the_run() {
    let dir = dir();
    let read = |notify: &str| {
        let text = format!("{SMALL}notify: {notify}\n");
        let path = dir.path().join("run.yaml");
        std::fs::write(&path, &text).unwrap();
        parse(&text, "some/where/run.yaml", dir.path()).map(|spec| (spec.notify.unwrap(), path))
    };
    let (notify, path) = read("{webhook: https://hooks.example.com/hush, command: cat}").unwrap();
    assert_eq!(notify.webhook, Some(WebhookFrom::File(path.clone())));
    assert_eq!(notify.command.as_deref(), Some("cat"));
    assert!(!format!("{notify:?}").contains("hush"));
    assert!(!serde_json::to_string(&notify).unwrap().contains("hush"));
    assert_eq!(
        webhook_in(&path).unwrap().as_str(),
        "https://hooks.example.com/hush"
    );
    let (notify, path) = read("{webhook: null}").unwrap();
    assert_eq!(notify.webhook, Some(WebhookFrom::Shell));
    assert!(
        webhook_in(&path)
            .unwrap_err()
            .contains("not there any more")
    );
    let (notify, _) = read("{command: cat}").unwrap();
    assert_eq!(notify.webhook, None);
    for (notify, expected) in [
        (
            "{webhook: \"http://example.com/hush\"}",
            "a webhook over http would show its URL to the network: use https",
        ),
        (
            "{webhook: hush}",
            "a webhook is a URL that begins with https://",
        ),
        ("{webhook: [https://example.com/hush]}", "expected "),
        ("{command: \" \"}", "there is nothing to run"),
        ("{url: https://example.com/hush}", "unknown key `url`"),
    ] {
        let err = read(notify).unwrap_err().to_string();
        assert!(err.contains(expected) && !err.contains("hush"), "{err}");
    }
}
