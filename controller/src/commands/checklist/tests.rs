//! Tables of facts, and what the checklist makes of them.

mod ends;
mod unclear;

use std::path::PathBuf;

use serde_json::json;

use super::{
    facts::{Brought, Copied, Facts, Money, Planned, Saves, Session},
    line::{Line, Standing, lines},
};
use crate::{
    agent_client::{GpuInfo, HostInfo, SampleInfo},
    run::{State, summary::attempt_for_tests},
    spec::{OnDone, Results, RunSpec, Smoke},
    store::Outcome,
};

const MINUTE_US: i64 = 60_000_000;

/// A whole run file, of which nothing was begun.
fn of_file() -> Facts {
    let mut spec = RunSpec::from_flags_for_tests();
    spec.name = "tiny".to_owned();
    spec.workdir = Some(PathBuf::from("/code"));
    spec.setup = Some("pip install -r requirements.txt\nsha256sum -c SUMS".to_owned());
    spec.smoke = Some(Smoke {
        run: "python train.py --steps 2".to_owned(),
        steps: None,
        timeout: std::time::Duration::from_secs(60),
    });
    spec.results = Some(Results {
        fetch: vec!["out/final.pt".to_owned()],
        to: PathBuf::from("/home/results"),
    });
    spec.limits.budget_usd = Some(20.0);
    spec.on_done = OnDone::Destroy;
    Facts {
        listing: Some("requirements.txt".to_owned()),
        file: Some("run.yaml".to_owned()),
        watched: true,
        onward: "spotter run run.yaml".to_owned(),
        destroy: "spotter destroy tiny".to_owned(),
        ..Facts::new(spec, 100 * MINUTE_US)
    }
}

fn session(from_min: i64, to_min: Option<i64>, code: i64) -> Session {
    Session {
        began_us: from_min * MINUTE_US,
        ended_us: to_min.map(|minute| minute * MINUTE_US),
        exit_code: to_min.map(|_| code),
        state: "exited".to_owned(),
        log_bytes: 1000,
        tmux: true,
    }
}

/// It was rented, and `setup` runs.
fn coming_up() -> Facts {
    let mut facts = of_file();
    facts.file = None;
    facts.onward = "spotter status tiny".to_owned();
    facts.plan = Some(Planned {
        line: "3 h and $1.20".to_owned(),
        ..Planned::default()
    });
    let mut attempt = attempt_for_tests(1);
    attempt.state = State::Syncing;
    (attempt.started_us, attempt.gone_us) = (0, 0);
    facts.attempts = vec![attempt];
    facts.setup = Some(session(1, None, 0));
    facts.money.usd_per_hour = 0.4;
    facts
}

/// It trains, and all is well.
fn training() -> Facts {
    let mut facts = coming_up();
    let attempt = facts.attempts.last_mut().unwrap();
    attempt.state = State::Running;
    attempt.started_us = 10 * MINUTE_US;
    facts.setup = Some(session(1, Some(2), 0));
    facts.smoke = Some(session(3, Some(4), 0));
    facts.train = Some(session(10, None, 0));
    (facts.step, facts.loss) = (Some(400), Some(2.5));
    facts.saves = Saves {
        found: 4,
        every_steps: Some(100),
        newest_found: Some((Some(400), 99 * MINUTE_US)),
        committed: 4,
        kept: 3,
        newest: Some((Some(400), 99 * MINUTE_US)),
        ..Saves::default()
    };
    facts.window = Some(json!({
        "window": 8, "to_us": 98 * MINUTE_US, "gpu_utilisation_percent": 97.0, "contradictions": [],
    }));
    facts.reading = Some(SampleInfo {
        time_us: 99 * 60_000_000,
        gpus: vec![GpuInfo {
            name: "NVIDIA GeForce RTX 4090".to_owned(),
            memory_used_bytes: Some(20 << 30),
            ..GpuInfo::default()
        }],
        host: Some(HostInfo {
            disk_free_bytes: Some(30 << 30),
            disk_total_bytes: Some(40 << 30),
            ..HostInfo::default()
        }),
        span_s: 60,
        processes: Vec::new(),
    });
    facts.log = Some(Copied {
        path: "/home/spotter/logs/tiny/1-train.log".to_owned(),
        bytes: 1000,
        at_us: 99 * MINUTE_US,
    });
    facts
}

/// It ended well, and everything is where it belongs.
fn done() -> Facts {
    let mut facts = training();
    facts.outcome = Some(Outcome::Done);
    facts.onward = "spotter resume tiny".to_owned();
    let attempt = facts.attempts.last_mut().unwrap();
    attempt.state = State::Gone;
    attempt.gone_us = 100 * MINUTE_US;
    facts.train = Some(session(10, Some(99), 0));
    facts.results = Some(Brought {
        files: 1,
        bytes: 5 << 20,
        at_us: 99 * MINUTE_US,
    });
    facts.money = Money {
        cost_usd: 1.2,
        usd_per_hour: 0.0,
        ledger_usd: 1.2,
        unbilled_traffic_usd: 0.0,
        charged_usd: Some(1.21),
        apart_usd: 0.01,
        doubtful: None,
    };
    facts
}

fn of<'a>(lines: &'a [Line], id: &str) -> &'a Line {
    lines.iter().find(|line| line.id == id).expect(id)
}

/// Lines that stand so, by their names.
fn standing(facts: &Facts, state: Standing) -> Vec<&'static str> {
    let lines = lines(facts);
    let found = lines.iter().filter(|line| line.state == state);
    found.map(|line| line.id).collect()
}

#[test]
fn every_line_has_a_name_of_its_own_evidence_and_what_to_do_where_it_is_not_done() {
    for facts in [of_file(), coming_up(), training(), done()] {
        let lines = lines(&facts);
        let mut ids: Vec<&str> = lines.iter().map(|line| line.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), lines.len());
        for line in &lines {
            assert!(!line.evidence.is_empty(), "{line:?}");
            let is_open = !matches!(line.state, Standing::Done | Standing::DoesNotApply);
            assert_eq!(line.next.is_some(), is_open, "{line:?}");
        }
    }
}

#[test]
fn a_run_file_alone_has_done_nothing_but_what_it_says() {
    let facts = of_file();
    assert_eq!(
        standing(&facts, Standing::Done),
        ["dependencies", "rental", "budget"]
    );
    assert_eq!(
        standing(&facts, Standing::DoesNotApply),
        ["flash_attention", "tensorboard"]
    );
    assert_eq!(standing(&facts, Standing::Wrong), [""; 0]);
    assert_eq!(standing(&facts, Standing::Unknown), [""; 0]);
}

#[test]
fn lines_are_done_one_after_the_other_as_a_run_goes_on() {
    let cases: [(&str, Facts, &[&str]); 3] = [
        (
            "coming up",
            coming_up(),
            &[
                "dependencies",
                "gpu_model",
                "rental",
                "instance",
                "code",
                "planned",
                "budget",
            ],
        ),
        (
            "training",
            training(),
            &[
                "code_tested",
                "dependencies",
                "checkpointing",
                "logging",
                "data_validated",
                "gpu_model",
                "rental",
                "instance",
                "code",
                "setup",
                "cuda",
                "data",
                "session",
                "gpu_monitoring",
                "training",
                "detached",
                "backup",
                "gpu_utilisation",
                "logs",
                "curves",
                "disk",
                "saved_lately",
                "planned",
                "budget",
            ],
        ),
        (
            "done",
            done(),
            &[
                "code_tested",
                "dependencies",
                "checkpointing",
                "logging",
                "data_validated",
                "gpu_model",
                "rental",
                "instance",
                "code",
                "setup",
                "cuda",
                "data",
                "session",
                "gpu_monitoring",
                "training",
                "detached",
                "backup",
                "gpu_utilisation",
                "logs",
                "curves",
                "disk",
                "saved_lately",
                "final_model",
                "logs_home",
                "results_home",
                "verified",
                "destroyed",
                "planned",
                "budget",
                "bill",
            ],
        ),
    ];
    for (name, facts, expected) in cases {
        assert_eq!(standing(&facts, Standing::Done), expected, "{name}");
        assert_eq!(standing(&facts, Standing::Wrong), [""; 0], "{name}");
    }
}

#[test]
fn without_its_facts_no_line_of_a_training_is_done() {
    let mut facts = training();
    facts.step = None;
    facts.train = None;
    facts.window = None;
    facts.reading = None;
    facts.log = None;
    facts.saves = Saves::default();
    facts.setup = None;
    facts.smoke = None;
    let left = standing(&facts, Standing::Done);
    let expected = [
        // A training begins after these alone, and it was begun.
        "code_tested",
        "dependencies",
        "gpu_model",
        "rental",
        "instance",
        "code",
        "setup",
        "training",
        "planned",
        "budget",
    ];
    assert_eq!(left, expected);
}

#[test]
fn what_is_wrong_is_told_with_what_shows_it_and_what_to_type() {
    let check = |id: &str, facts: Facts, evidence: &str, next: &str| {
        let lines = lines(&facts);
        let line = of(&lines, id);
        assert_eq!(line.state, Standing::Wrong, "{line:?}");
        assert!(line.evidence.contains(evidence), "{line:?}");
        assert_eq!(line.next.as_deref(), Some(next), "{line:?}");
    };
    let of_training = |change: &dyn Fn(&mut Facts)| {
        let mut facts = training();
        change(&mut facts);
        facts
    };
    let of_done = |change: &dyn Fn(&mut Facts)| {
        let mut facts = done();
        change(&mut facts);
        facts
    };
    check(
        "setup",
        of_training(&|facts| facts.setup = Some(session(1, Some(2), 7))),
        "`setup` ended with code 7",
        "spotter logs tiny --session setup",
    );
    check(
        "code_tested",
        of_training(&|facts| facts.smoke = Some(session(1, Some(2), 1))),
        "`smoke` ended with code 1",
        "spotter logs tiny --session smoke",
    );
    check(
        "checkpointing",
        of_training(&|facts| facts.saves = Saves::default()),
        "none is finished in `checkpoints`",
        "spotter logs tiny",
    );
    check(
        "checkpointing",
        of_training(&|facts| facts.spec.checkpoints = None),
        "no `checkpoints`",
        "add `checkpoints: {dir: DIR, to: s3://BUCKET/PREFIX}` to the run file",
    );
    check(
        "logging",
        of_training(&|facts| {
            facts.step = None;
            facts.unread = Some("no line looked like a step".to_owned());
        }),
        "no line looked like a step",
        "spotter parse /home/spotter/logs/tiny/1-train.log",
    );
    check(
        "cuda",
        of_training(&|facts| {
            facts.window = Some(json!({"window": 1, "gpu_utilisation_percent": 0.0}));
        }),
        "0 % busy",
        "spotter logs tiny",
    );
    check(
        "gpu_monitoring",
        of_training(&|facts| facts.silent = Some("no word for 7 min".to_owned())),
        "no word for 7 min",
        "spotter status tiny",
    );
    check(
        "gpu_utilisation",
        of_training(&|facts| {
            facts.contradiction =
                Some(("half as fast".to_owned(), "spotter accept tiny".to_owned()));
        }),
        "half as fast",
        "spotter accept tiny",
    );
    check(
        "gpu_utilisation",
        of_training(&|facts| facts.reading.as_mut().unwrap().gpus[0].last_xid = 79),
        "GPU 0: Xid 79",
        "spotter metrics tiny",
    );
    check(
        "logs",
        of_training(&|facts| {
            facts.window = Some(json!({"contradictions": [{"trigger": "metric"}]}));
            facts.contradiction = Some((
                "the loss stands".to_owned(),
                "spotter accept tiny".to_owned(),
            ));
        }),
        "the loss stands",
        "spotter accept tiny",
    );
    check(
        "backup",
        of_training(&|facts| facts.saves.alarm = Some("access denied".to_owned())),
        "access denied",
        "spotter doctor bucket tiny",
    );
    check(
        "saved_lately",
        of_training(&|facts| facts.saves.unsaved = vec!["a.pt: cut short".to_owned(); 2]),
        "a.pt: cut short and 1 more",
        "spotter doctor bucket tiny",
    );
    check(
        "disk",
        of_training(&|facts| facts.disk_fills = Some("full in 20 min".to_owned())),
        "full in 20 min",
        "spotter ssh tiny",
    );
    check(
        "budget",
        of_training(&|facts| facts.money.cost_usd = 20.5),
        "$20.50 of $20.00",
        "spotter cost tiny",
    );
    check(
        "final_model",
        of_done(&|facts| {
            facts.saves.unsaved = vec!["b.pt: denied".to_owned()];
            facts.saves.newest_found = Some((Some(500), 99 * MINUTE_US));
        }),
        "b.pt: denied",
        "spotter resume tiny",
    );
    check(
        "final_model",
        of_done(&|facts| {
            facts.saves = Saves::default();
            facts.outcome = Some(Outcome::Lost);
        }),
        "its box is gone",
        "spotter resume tiny",
    );
    check(
        "logs_home",
        of_done(&|facts| facts.log.as_mut().unwrap().bytes = 10),
        "10 B of 1000 B",
        "spotter logs tiny",
    );
    check(
        "results_home",
        of_done(&|facts| facts.results = Some(Brought::default())),
        "nothing of out/final.pt is in /home/results",
        "spotter fetch tiny out/final.pt --to /home/results",
    );
    check(
        "destroyed",
        of_done(&|facts| {
            facts.attempts[0].state = State::Collected;
            facts.attempts[0].gone_us = 0;
            facts.money.usd_per_hour = 0.4;
        }),
        "instance 1 of attempt 1 still costs",
        "spotter destroy tiny",
    );
    check(
        "bill",
        of_done(&|facts| (facts.money.charged_usd, facts.money.apart_usd) = (Some(2.4), 1.2)),
        "$2.40 billed",
        "spotter cost tiny",
    );
}
