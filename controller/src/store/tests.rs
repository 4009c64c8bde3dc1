//! Runs, attempts and events in the store; the rest by subject in the files beside this one.

mod leases;
mod migrations;
mod money;
mod observations;

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, sync::Barrier, thread};

use serde_json::json;

use super::*;
use crate::{
    ledger::{self, CostKind},
    provider::Charge,
    spec::{Limits, OnDone, Recover, RecoverPolicy, Resources},
};

const T0: i64 = 1_800_000_000_000_000;

fn store(dir: &tempfile::TempDir) -> Store {
    Store::open(&dir.path().join("home/spotter.db"), Clock::new(|| T0)).unwrap()
}

fn run(name: &str) -> RunRecord {
    let spec = RunSpec {
        name: name.into(),
        workdir: None,
        resources: Resources {
            gpu_name: Some("RTX 4090".into()),
            num_gpus: 1,
            disk_gb: 40.0,
            rental: Rental::Interruptible,
            filters: Vec::new(),
            max_price_usd_per_hour: Some(0.5),
            bid_headroom: 0.15,
            bid_max_usd_per_hour: None,
            prepay_usd: None,
            hosts: Vec::new(),
        },
        needs: Vec::new(),
        model: None,
        image: "vastai/pytorch".into(),
        image_gb: None,
        container: Default::default(),
        onstart: None,
        envs: BTreeMap::new(),
        setup: None,
        smoke: None,
        run: "python train.py".into(),
        resume: None,
        progress: None,
        checkpoints: None,
        validate: crate::spec::Validate::default(),
        recover: Recover {
            policy: RecoverPolicy::Elsewhere,
            attempts: 5,
            wait: Duration::from_secs(86_400),
            deadline: None,
        },
        limits: Limits {
            bring_up: Duration::from_secs(2700),
            storage_days: 7.0,
            budget_usd: None,
            max_runtime: None,
            no_progress: None,
        },
        results: None,
        on_done: OnDone::Destroy,
        notify: None,
    };
    RunRecord {
        name: name.into(),
        spec,
        created_us: T0,
        stop_requested: false,
        outcome: None,
        reason: None,
    }
}

fn attempt(run: &str, number: u32) -> AttemptRecord {
    AttemptRecord {
        run: run.into(),
        number,
        state: State::Planned,
        label: format!("spotter/x/{run}/{number}/n"),
        rental: Rental::Interruptible,
        instance: None,
        machine_id: None,
        gpu: "RTX 4090".into(),
        gpu_usd_per_hour: 0.34,
        storage_usd_per_hour: 0.008,
        ssh: vec![SshAddress {
            host: "203.0.113.42".into(),
            port: 40123,
            proxy: false,
        }],
        created_us: T0,
        state_us: T0,
        started_us: 0,
        gone_us: 0,
        resumed_step: None,
        last_step: None,
        reason: None,
        last_event: 0,
        exit_code: None,
        reopened_us: 0,
        old_session_us: 0,
    }
}

fn event(seq: u64) -> StoredEvent {
    StoredEvent {
        seq,
        time_us: T0 + seq as i64,
        kind: "checkpoint.committed".into(),
        detail: json!({"step": seq}),
    }
}

fn seen(run: &str, attempt: Option<u32>, tokens_per_s: f64) -> Observation {
    let mut seen = Observation::new(Source::Trained, run, "RTX 4090", T0);
    seen.attempt = attempt;
    seen.tokens_per_s = Some(tokens_per_s);
    seen
}

#[test]
fn runs_and_attempts_come_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let written = {
        let store = store(&dir);
        store.create_run(&run("a")).unwrap();
        let mut first = attempt("a", 1);
        store.create_attempt(&first).unwrap();
        for state in [State::Renting, State::Loading] {
            first.state = state;
            first.instance = Some(1_234_567);
            first.last_step = Some(99);
            first.exit_code = Some(-1);
            store.update_attempt(&first).unwrap();
        }
        (store.id().to_owned(), first)
    };
    let store = store(&dir);
    assert_eq!(store.id(), written.0);
    assert_eq!(store.find_run("a").unwrap(), Some(run("a")));
    assert_eq!(
        store.attempts("a").unwrap(),
        std::slice::from_ref(&written.1)
    );
    assert_eq!(store.latest_attempt("a").unwrap(), Some(written.1.clone()));
    assert_eq!(store.all_attempts().unwrap(), [written.1]);
    assert_eq!(store.latest_attempt("b").unwrap(), None);
    assert!(matches!(store.run("b"), Err(StoreError::NoSuchRun { .. })));
}

#[test]
fn where_a_box_answers_is_written_down_for_that_box_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    let known = AttemptRecord {
        instance: Some(7),
        last_step: Some(40),
        ..attempt("a", 1)
    };
    store.create_attempt(&known).unwrap();
    let moved = vec![SshAddress {
        host: "203.0.113.9".to_owned(),
        port: 41_000,
        proxy: false,
    }];
    store.record_addresses("a", 1, 8, &moved).unwrap();
    assert_eq!(store.latest_attempt("a").unwrap().unwrap(), known);
    store.record_addresses("a", 1, 7, &moved).unwrap();
    let now = store.latest_attempt("a").unwrap().unwrap();
    assert_eq!(
        now,
        AttemptRecord {
            ssh: moved,
            ..known
        }
    );
}

#[test]
fn a_name_a_number_and_a_label_are_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    assert!(matches!(
        store.create_run(&run("a")),
        Err(StoreError::RunExists { .. })
    ));
    store.create_attempt(&attempt("a", 1)).unwrap();
    let again = store.create_attempt(&attempt("a", 1));
    assert!(
        matches!(again, Err(StoreError::AttemptExists { number: 1, .. })),
        "{again:?}"
    );
    let same_label = AttemptRecord {
        label: attempt("a", 1).label,
        ..attempt("a", 2)
    };
    assert!(matches!(
        store.create_attempt(&same_label),
        Err(StoreError::AttemptExists { .. })
    ));
    let orphan = store.create_attempt(&attempt("b", 1));
    assert!(matches!(orphan, Err(StoreError::NoSuchRun { .. })));
    assert_eq!(store.all_attempts().unwrap().len(), 1);
}

#[test]
fn an_ended_run_is_opened_again_by_a_person_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    let failed = AttemptRecord {
        state: State::Failed,
        instance: Some(7),
        started_us: 5,
        ..attempt("a", 1)
    };
    store.create_attempt(&failed).unwrap();
    store.request_stop("a").unwrap();
    store
        .end_run("a", Outcome::Crashed, Some("it broke"))
        .unwrap();
    let again = AttemptRecord {
        state: State::Loading,
        reopened_us: T0,
        old_session_us: 5,
        ..failed
    };
    assert!(again.awaits_training());
    assert!(matches!(
        store.update_attempt(&again),
        Err(StoreError::BadMove { .. })
    ));
    store.reopen_run("a", &again).unwrap();
    let now = store.run("a").unwrap();
    assert_eq!(
        (now.outcome, now.reason, now.stop_requested),
        (None, None, false)
    );
    assert_eq!(store.attempts("a").unwrap(), std::slice::from_ref(&again));
    store.reopen_run("a", &attempt("a", 2)).unwrap();
    assert_eq!(store.attempts("a").unwrap().len(), 2);
}

#[test]
fn that_a_run_was_stopped_and_has_ended_is_an_event_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    for _again in 0..2 {
        store.request_stop("a").unwrap();
        store.end_run("a", Outcome::Stopped, Some("x")).unwrap();
    }
    store.end_run("a", Outcome::Done, None).unwrap();
    let told: Vec<_> = store
        .events("a", 0)
        .unwrap()
        .into_iter()
        .map(|event| (event.kind, event.attempt, event.detail))
        .collect();
    let expected = [
        ("stop_requested", serde_json::json!({})),
        (
            "ended",
            serde_json::json!({"outcome": "stopped", "reason": "x"}),
        ),
    ];
    let expected = expected.map(|(kind, detail)| (kind.to_owned(), 0, detail));
    assert_eq!(told, expected);
    for missing in [
        store.request_stop("b"),
        store.end_run("b", Outcome::Done, None),
    ] {
        assert!(matches!(missing, Err(StoreError::NoSuchRun { .. })));
    }
}

#[test]
fn the_newest_event_of_a_kind_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    for step in [1, 2] {
        store
            .note("a", 1, T0, "seen", &json!({"step": step}))
            .unwrap();
        store.note("a", 1, T0, "other", &json!({})).unwrap();
    }
    let found = store.newest_event("a", 1, "seen").unwrap().unwrap();
    assert_eq!(found.detail, json!({"step": 2}));
    assert_eq!(store.newest_event("a", 2, "seen").unwrap(), None);
}

#[test]
fn an_event_that_arrives_twice_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    store.create_attempt(&attempt("a", 1)).unwrap();
    assert_eq!(
        store.append_events("a", 1, &[event(1), event(2)]).unwrap(),
        2
    );
    assert_eq!(
        store.append_events("a", 1, &[event(2), event(3)]).unwrap(),
        3
    );
    assert_eq!(store.append_events("a", 1, &[]).unwrap(), 3);
    assert_eq!(
        store
            .note("a", 1, T0, "rented", &json!({"instance": 7}))
            .unwrap(),
        1
    );
    assert_eq!(store.note("a", 1, T0, "gone", &json!({})).unwrap(), 2);

    let events = store.events("a", 0).unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.origin, event.seq))
        .collect();
    let (agent, spotter) = (Origin::Agent, Origin::Spotter);
    assert_eq!(
        told,
        [
            (agent, 1),
            (agent, 2),
            (agent, 3),
            (spotter, 1),
            (spotter, 2)
        ]
    );
    assert_eq!(events[0].detail, json!({"step": 1}));
    assert_eq!(store.events("a", events[3].id).unwrap(), events[4..]);

    // A whole row written by somebody who knows fewer events does not take them back.
    store.update_attempt(&attempt("a", 1)).unwrap();
    assert_eq!(store.latest_attempt("a").unwrap().unwrap().last_event, 3);
}

#[test]
fn a_huge_detail_is_dropped_with_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let huge = StoredEvent {
        detail: json!({"x": "y".repeat(100_000)}),
        ..event(1)
    };
    store.append_events("a", 1, &[huge]).unwrap();
    assert_eq!(
        store.events("a", 0).unwrap()[0].detail,
        json!({"dropped_bytes": 100_008})
    );
}
