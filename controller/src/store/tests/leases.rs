//! Who may write: leases, writers who come late, wishes to stop.

use super::*;

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
