//! What was seen of attempts and machines.

use super::*;

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
