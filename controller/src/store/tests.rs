//! The store with several openers, crashes, old files and lost answers.

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
            hosts: Vec::new(),
        },
        model: None,
        image: "vastai/pytorch".into(),
        image_gb: None,
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

#[test]
fn the_file_and_its_directory_are_for_the_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.set_meta("a", "1").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(store.path().parent().unwrap()), 0o700);
    for file in fs::read_dir(store.path().parent().unwrap()).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_look_at_nothing_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none/spotter.db");
    assert!(
        Store::open_existing(&path, Clock::system())
            .unwrap()
            .is_none()
    );
    assert!(!path.parent().unwrap().exists());
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
fn a_writer_who_read_an_older_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    let mut mine = attempt("a", 1);
    store.create_attempt(&mine).unwrap();
    mine.state = State::Gone;
    store.update_attempt(&mine).unwrap();
    let stale = AttemptRecord {
        state: State::Renting,
        ..attempt("a", 1)
    };
    let refused = store.update_attempt(&stale).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "attempt 1 of run `a` is gone: renting may not follow"
    );
    assert_eq!(
        store.latest_attempt("a").unwrap().unwrap().state,
        State::Gone
    );
}

#[test]
fn whoever_lost_the_lease_may_not_write_the_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let slept = store(&dir);
    slept.create_run(&run("a")).unwrap();
    slept.create_attempt(&attempt("a", 1)).unwrap();
    let ttl = Duration::from_secs(30);
    assert!(slept.take_lease("a", "slept", ttl).unwrap());
    let mut mine = attempt("a", 1);
    mine.state = State::Renting;
    slept.update_attempt(&mine).unwrap();

    let woken = Store::open(slept.path(), Clock::new(|| T0 + 31_000_000)).unwrap();
    assert!(woken.take_lease("a", "woken", ttl).unwrap());
    let stale = AttemptRecord {
        state: State::Loading,
        ..mine.clone()
    };
    let refused = |result: Result<(), StoreError>| {
        assert!(
            matches!(result, Err(StoreError::Superseded { .. })),
            "{result:?}"
        );
    };
    refused(slept.update_attempt(&stale));
    refused(slept.fence("a"));
    let adopted = AttemptRecord {
        instance: Some(7),
        ..stale.clone()
    };
    woken.update_attempt(&adopted).unwrap();
    woken.release_lease("a", "woken").unwrap();
    // Whoever acted has gone, and still what we know is out of date.
    refused(slept.update_attempt(&stale));
    assert_eq!(slept.latest_attempt("a").unwrap(), Some(adopted));
    slept.release_lease("a", "slept").unwrap();
    assert!(slept.take_lease("a", "again", ttl).unwrap());
    slept.fence("a").unwrap();
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
fn a_wish_to_stop_survives_a_writer_who_did_not_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    let mut read_before = store.run("a").unwrap();
    store.request_stop("a").unwrap();
    read_before.outcome = Some(Outcome::Done);
    store.update_run(&read_before).unwrap();
    let now = store.run("a").unwrap();
    assert!(now.stop_requested);
    assert_eq!(now.outcome, Some(Outcome::Done));
    store
        .end_run("a", Outcome::Stopped, Some("too late"))
        .unwrap();
    assert_eq!(store.run("a").unwrap(), now);
    assert!(matches!(
        store.request_stop("b"),
        Err(StoreError::NoSuchRun { .. })
    ));
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

#[test]
fn the_lease_is_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(&dir);
    // Another program would have its own connection, as these threads have.
    let path = first.path().to_owned();
    let barrier = Barrier::new(8);
    let taken: Vec<bool> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let (path, barrier) = (&path, &barrier);
                scope.spawn(move || {
                    let store = Store::open(path, Clock::new(|| T0)).unwrap();
                    barrier.wait();
                    store
                        .take_lease("a", &format!("holder-{n}"), Duration::from_secs(30))
                        .unwrap()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "{taken:?}");

    let holder = first.lease("a").unwrap().unwrap().holder;
    assert!(
        first
            .take_lease("a", &holder, Duration::from_secs(30))
            .unwrap()
    );
    assert!(
        first
            .renew_lease("a", &holder, Duration::from_secs(60))
            .unwrap()
    );
    assert!(
        !first
            .renew_lease("a", "somebody", Duration::from_secs(60))
            .unwrap()
    );
    first.release_lease("a", "somebody").unwrap();
    assert!(first.lease("a").unwrap().is_some());
    first.release_lease("a", &holder).unwrap();
    assert!(first.lease("a").unwrap().is_none());
}

#[test]
fn a_lease_ends_with_its_time_or_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let now = store(&dir);
    let ttl = Duration::from_secs(30);
    assert!(now.take_lease("a", "old", ttl).unwrap());
    assert!(!now.take_lease("a", "new", ttl).unwrap());
    let later = Store::open(now.path(), Clock::new(|| T0 + 31_000_000)).unwrap();
    assert!(later.lease("a").unwrap().is_none());
    assert!(later.take_lease("a", "new", ttl).unwrap());
    assert!(!now.renew_lease("a", "old", ttl).unwrap());

    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    assert!(now.take_lease("b", "dead", ttl).unwrap());
    now.lock()
        .execute("UPDATE leases SET pid = ?1 WHERE run = 'b'", [pid])
        .unwrap();
    assert!(now.lease("b").unwrap().is_none());
    assert!(now.take_lease("b", "alive", ttl).unwrap());
}

#[test]
fn intervals_follow_the_price() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = |kind, at_s: i64, price| {
        store
            .open_interval("a", 1, kind, T0 + at_s * 1_000_000, price)
            .unwrap();
    };
    record(CostKind::Disk, 0, 0.01);
    record(CostKind::Gpu, 60, 0.36);
    record(CostKind::Gpu, 90, 0.36);
    record(CostKind::Gpu, 160, 0.72);
    for at_s in [260, 261] {
        store
            .close_interval("a", 1, CostKind::Gpu, T0 + at_s * 1_000_000)
            .unwrap();
    }
    let intervals = store.intervals("a").unwrap();
    assert_eq!(intervals.len(), 3);
    let cost = ledger::attempt_cost(&intervals, 1, T0 + 3_600_000_000);
    assert!((cost.gpu_usd - (0.01 + 0.02)).abs() < 1e-9, "{cost:?}");
    assert!((cost.disk_usd - 0.01).abs() < 1e-9, "{cost:?}");
    assert!((ledger::rate_usd_per_hour(&intervals, None) - 0.01).abs() < 1e-12);
}

#[test]
fn a_look_that_is_older_than_the_end_of_a_box_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    let mut attempt = attempt("a", 1);
    store.create_attempt(&attempt).unwrap();
    let seen = crate::provider::Instance {
        id: 7,
        machine_id: 1,
        label: None,
        intended: crate::provider::Intended::Running,
        actual: crate::provider::Actual::Running,
        contract_running: true,
        scheduling: false,
        status_msg: String::new(),
        is_bid: false,
        gpu_usd_per_hour: 0.3,
        storage_usd_per_hour: 0.01,
        disk_gb: 40.0,
        gpu_name: String::new(),
        num_gpus: 1,
        ssh: Vec::new(),
        start_s: 0.0,
        end_s: None,
        up_since_s: None,
        charged_gpu_usd_per_hour: None,
        inet_down_mbps: 0.0,
    };
    store.meter("a", 1, &seen, T0).unwrap();
    let rate = |store: &Store| ledger::rate_usd_per_hour(&store.intervals("a").unwrap(), None);
    assert!((rate(&store) - 0.31).abs() < 1e-9);
    for kind in [CostKind::Gpu, CostKind::Disk] {
        store.close_interval("a", 1, kind, T0 + 1_000_000).unwrap();
    }
    attempt.state = State::Gone;
    store.update_attempt(&attempt).unwrap();
    store.meter("a", 1, &seen, T0 + 2_000_000).unwrap();
    assert_eq!(rate(&store), 0.0);
}

#[test]
fn a_bid_is_not_undone_by_whoever_watches() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.create_run(&run("a")).unwrap();
    let mut watched = attempt("a", 1);
    watched.state = State::Loading;
    store.create_attempt(&watched).unwrap();
    store.record_bid("a", 1, 0.77).unwrap();
    watched.state = State::Preparing;
    store.update_attempt(&watched).unwrap();
    assert_eq!(store.attempts("a").unwrap()[0].gpu_usd_per_hour, 0.77);
}

#[test]
fn the_last_charges_replace_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut charge = Charge {
        instance: 7,
        gpu_usd: 0.1,
        disk_usd: 0.01,
        bandwidth_usd: 0.0,
    };
    store.record_charge("a", 1, &charge, T0, false).unwrap();
    charge.gpu_usd = 0.2;
    store.record_charge("a", 1, &charge, T0, true).unwrap();
    let charges = store.charges("a").unwrap();
    assert_eq!(charges.len(), 1);
    assert!(charges[0].is_final);
    assert_eq!(charges[0].cost, ledger::Cost::from(&charge));
    assert!(store.is_billed("a", 1).unwrap() && !store.is_billed("a", 2).unwrap());
    assert_eq!(store.charged("a").unwrap()[0].cost, charges[0].cost);
}

#[test]
fn many_programs_open_and_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("home/spotter.db");
    let barrier = Barrier::new(6);
    let ids: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let (path, barrier) = (&path, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let store = Store::open(path, Clock::new(|| T0)).unwrap();
                    for seq in 1..=20 {
                        store.append_events("a", n, &[event(seq)]).unwrap();
                        store.note("a", 99, T0, "seen", &json!({"by": n})).unwrap();
                    }
                    store.id().to_owned()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    let events = Store::open(&path, Clock::system())
        .unwrap()
        .events("a", 0)
        .unwrap();
    assert_eq!(events.len(), 6 * 20 * 2);
    let ours: Vec<u64> = events
        .iter()
        .filter(|e| e.attempt == 99)
        .map(|e| e.seq)
        .collect();
    assert_eq!(ours, (1..=120).collect::<Vec<_>>());
}

#[test]
fn a_crash_in_a_transaction_leaves_what_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let before = store(&dir);
    before.create_run(&run("a")).unwrap();
    before.create_attempt(&attempt("a", 1)).unwrap();

    // The state of the files at the instant of a crash: written to the log, never committed.
    let crashed = dir.path().join("crashed");
    fs::create_dir(&crashed).unwrap();
    let mut connection = Connection::open(before.path()).unwrap();
    let transaction = write(&mut connection).unwrap();
    transaction
        .execute_batch("PRAGMA cache_spill = 1; PRAGMA cache_size = 1")
        .unwrap();
    transaction
        .execute("UPDATE attempts SET state = 'gone'", [])
        .unwrap();
    for seq in 0..2000 {
        transaction
            .execute(
                "INSERT INTO events (run, attempt, origin, seq, time_us, kind, detail_json)
                 VALUES ('a', 1, 'agent', ?1, 0, 'k', ?2)",
                rusqlite::params![seq, "x".repeat(500)],
            )
            .unwrap();
    }
    for file in fs::read_dir(before.path().parent().unwrap()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), crashed.join(file.file_name())).unwrap();
    }
    drop(transaction);

    let wal = fs::metadata(crashed.join("spotter.db-wal")).unwrap().len();
    assert!(
        wal > 500_000,
        "the transaction reached the disk: {wal} bytes"
    );
    let after = Store::open(&crashed.join("spotter.db"), Clock::new(|| T0)).unwrap();
    assert_eq!(after.attempts("a").unwrap(), [attempt("a", 1)]);
    assert!(after.events("a", 0).unwrap().is_empty());
}

#[test]
fn a_store_of_schema_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spotter.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(include_str!("fixtures/schema-1.sql"))
        .unwrap();

    let store = Store::open(&path, Clock::new(|| T0)).unwrap();
    assert_eq!(store.id(), "01k8w9s6v0f2x4c6e8g0j2m4n6");
    let run = store.run("flightmind").unwrap();
    assert_eq!(run.spec.resources.gpu_name.as_deref(), Some("RTX 4090"));
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    let attempts = store.attempts("flightmind").unwrap();
    assert_eq!(attempts[0].state, State::Interrupted);
    assert_eq!(attempts[0].instance, Some(1_234_567));
    assert_eq!(store.events("flightmind", 0).unwrap().len(), 2);
    assert_eq!(store.intervals("flightmind").unwrap().len(), 2);
    assert!(store.charges("flightmind").unwrap()[0].is_final);
    // What is read can be written, once its watcher's lease is over.
    store.lock().execute("DELETE FROM leases", []).unwrap();
    store.update_run(&run).unwrap();
    store.update_attempt(&attempts[0]).unwrap();
}

#[test]
fn a_store_of_schema_2_is_read_and_keeps_observations() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spotter.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(include_str!("fixtures/schema-2.sql"))
        .unwrap();

    let store = Store::open(&path, Clock::new(|| T0)).unwrap();
    let attempt = &store.attempts("flightmind").unwrap()[0];
    assert_eq!(attempt.reopened_us, 1_800_002_000_000_000);
    assert_eq!(attempt.old_session_us, 1_800_000_300_000_000);
    assert_eq!(store.events("flightmind", 0).unwrap().len(), 2);
    assert_eq!(store.observations().unwrap(), []);
    assert_eq!(
        store.measured("flightmind", 1).unwrap(),
        Measured::default()
    );
    store.observe(&seen("flightmind", Some(1), 10.0)).unwrap();
    assert_eq!(store.observations().unwrap().len(), 1);
}

fn seen(run: &str, attempt: Option<u32>, tokens_per_s: f64) -> Observation {
    let mut seen = Observation::new(Source::Trained, run, "RTX 4090", T0);
    seen.attempt = attempt;
    seen.tokens_per_s = Some(tokens_per_s);
    seen
}

#[test]
fn an_attempt_is_observed_once_and_what_people_did_to_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let speeds = || -> Vec<Option<f64>> {
        let all = store.observations().unwrap();
        all.iter().map(|record| record.seen.tokens_per_s).collect()
    };
    assert_eq!(store.observed_us("a", 1).unwrap(), None);
    store.observe(&seen("a", Some(1), 10.0)).unwrap();
    store.observe(&seen("a", Some(1), 11.0)).unwrap();
    store.observe(&seen("a", Some(2), 20.0)).unwrap();
    assert_eq!(speeds(), [Some(11.0), Some(20.0)]);
    assert_eq!(store.observed_us("a", 1).unwrap(), Some(T0));

    let first = store.observations().unwrap()[0].id;
    assert!(
        store
            .edit_observation(first, &seen("a", Some(1), 15.0))
            .unwrap()
    );
    store.observe(&seen("a", Some(1), 12.0)).unwrap();
    assert_eq!(speeds(), [Some(15.0), Some(20.0)]);
    assert!(store.observation(first).unwrap().unwrap().edited);

    // All or none.
    assert_eq!(store.remove_observations(&[first, 99]).unwrap(), Some(99));
    assert_eq!(speeds().len(), 2);
    assert_eq!(store.remove_observations(&[first]).unwrap(), None);
    store.observe(&seen("a", Some(1), 12.0)).unwrap();
    assert_eq!(speeds(), [Some(20.0)]);
    assert_eq!(store.observation(first).unwrap(), None);
    assert!(
        !store
            .edit_observation(first, &seen("a", Some(1), 1.0))
            .unwrap()
    );
    assert_eq!(
        store.observed_us("a", 1).unwrap(),
        Some(T0),
        "it was observed"
    );

    // What comes from elsewhere is added once, also when its number is taken here.
    let more = [
        seen("a", Some(2), 20.0),
        seen("a", Some(2), 21.0),
        seen("b", None, 5.0),
    ];
    assert_eq!(store.add_observations(&more).unwrap(), 2);
    assert_eq!(store.add_observations(&more).unwrap(), 0);
    assert_eq!(speeds(), [Some(20.0), Some(21.0), Some(5.0)]);
}

#[test]
fn of_what_is_measured_the_most_is_kept_and_of_promises_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = |most: Measured| store.record_measured("a", 1, &most).unwrap();
    record(Measured {
        advertised_down_mbps: Some(800.0),
        ..Measured::default()
    });
    record(Measured {
        vram_gib: Some(20.0),
        down_mbps: Some(50.0),
        ..Measured::default()
    });
    record(Measured {
        vram_gib: Some(18.0),
        ram_gb: Some(3.0),
        advertised_down_mbps: Some(700.0),
        ..Measured::default()
    });
    let expected = Measured {
        vram_gib: Some(20.0),
        ram_gb: Some(3.0),
        down_mbps: Some(50.0),
        advertised_down_mbps: Some(700.0),
        ..Measured::default()
    };
    assert_eq!(store.measured("a", 1).unwrap(), expected);
    assert_eq!(store.measured("a", 2).unwrap(), Measured::default());
}

#[test]
fn names_that_begin_alike_are_listed_and_one_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    for (key, value) in [("m/2", "b"), ("m/1", "a"), ("m%", "c"), ("n/1", "d")] {
        store.set_meta(key, value).unwrap();
    }
    let found = store.metas("m/").unwrap();
    assert_eq!(
        found,
        [("m/1".into(), "a".into()), ("m/2".into(), "b".into())]
    );
    assert!(store.forget_meta("m/1").unwrap());
    assert!(!store.forget_meta("m/1").unwrap());
    assert_eq!(store.metas("m/").unwrap().len(), 1);
}

#[test]
fn a_failed_migration_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let broken: &[(u32, &str)] = &[
        (1, ""),
        (98, "CREATE TABLE more (x) STRICT; this is no SQL"),
        (99, ""),
    ];
    let mut connection = store.lock();
    assert!(schema::migrate(&mut connection, broken, &Clock::system()).is_err());
    let version: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, schema::MIGRATIONS.last().unwrap().0);
    let tables: u32 = connection
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name = 'more'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(tables, 0);

    let newest = schema::MIGRATIONS.last().unwrap().0;
    let good: &[(u32, &str)] = &[(1, ""), (newest + 1, "CREATE TABLE more (x TEXT) STRICT;")];
    schema::migrate(&mut connection, good, &Clock::system()).unwrap();
    let applied: u32 = connection
        .query_row("SELECT count(*) FROM migrations", [], |row| row.get(0))
        .unwrap();
    assert_eq!(applied, newest + 1);
}

#[test]
fn a_store_of_a_newer_spotter_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spotter.db");
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 77)
        .unwrap();
    let refused = Store::open(&path, Clock::system()).unwrap_err();
    assert!(
        matches!(refused, StoreError::Newer { found: 77, .. }),
        "{refused}"
    );
}

#[test]
fn what_is_no_database_is_an_error_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spotter.db");
    fs::write(
        &path,
        "not a database, but long enough to be looked at ".repeat(100),
    )
    .unwrap();
    let text = crate::error::chain(&Store::open(&path, Clock::system()).unwrap_err());
    assert!(text.contains("not a database"), "{text}");
}
