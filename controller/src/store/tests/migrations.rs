//! Stores of older and newer spotters, damaged ones, and crashes in between.

use super::*;

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
        .execute_batch(include_str!("../fixtures/schema-1.sql"))
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
        .execute_batch(include_str!("../fixtures/schema-2.sql"))
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
