//! Run files good and bad, and the schema for editors against the keys that the parser knows.

mod keys;
mod notify;
mod refused;

use std::time::Duration;

use spotter_bucket::{Best, Style};

use super::*;
use crate::{
    provider::Rental,
    spec::{
        BucketServer, Checkpoints, DEFAULT_ATTEMPTS, DEFAULT_BRING_UP, DEFAULT_DISK_GB,
        DEFAULT_STORAGE_DAYS, DEFAULT_WAIT, KeyMode, KeyRules, Limits, OnStale, Recover, Resources,
        Smoke, UploadWindow, Validate, query,
    },
};

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
limits: {bring_up: 30m, budget: 600, storage_days: 3}
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
            prepay_usd: None,
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
                settled: false,
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
            storage_days: 3.0,
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
            storage_days: DEFAULT_STORAGE_DAYS,
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
        let validate = Validate {
            on_contradiction: on_contradiction.to_owned(),
            go_on_unanswered,
            ..Default::default()
        };
        assert_eq!(validate.consequence(), expected);
    }
}

#[test]
fn windows_and_limits_are_read_with_their_defaults_and_checked_where_they_stand() {
    let file = |more: &str| format!("{SMALL}{more}\n");
    let read = |more: &str| parse(&file(more), "run.yaml", dir().path()).unwrap();
    assert_eq!(read("").validate, Validate::default());
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
