//! States of candidates, and what moves them from one to the next.

use super::super::candidate::FileStat;
use super::*;

fn file(path: &str, size_bytes: u64, mtime_ns: i64) -> FileStat {
    FileStat {
        path: path.into(),
        ino: 7,
        size_bytes,
        mtime_ns,
        ctime_ns: mtime_ns,
        mode: 0o644,
    }
}

fn single(name: &str, size_bytes: u64, mtime_ns: i64) -> Candidate {
    Candidate {
        key: format!("file:{name}"),
        path: name.into(),
        step: super::super::names::step_of(name),
        directory: false,
        unfinished: None,
        unreadable: None,
        files: vec![file("", size_bytes, mtime_ns)],
    }
}

fn directory(names: &[&str]) -> Candidate {
    Candidate {
        key: "dir:save-5".into(),
        path: "save-5".into(),
        step: Some(5),
        directory: true,
        unfinished: None,
        unreadable: None,
        files: names.iter().map(|name| file(name, 1, 1)).collect(),
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn whole(silence: Silence) -> Finding {
    Finding::Whole {
        rule: "torch-zip".into(),
        silence,
        doubt: None,
        ruled: false,
    }
}

fn doubtful(superseded: bool) -> Finding {
    Finding::Whole {
        rule: "torch-zip".into(),
        silence: Silence::Directory,
        doubt: Some(Doubt {
            reason: "it has nothing like b.pt".into(),
            superseded,
        }),
        ruled: false,
    }
}

#[test]
fn a_file_that_grows_is_never_due_and_a_quiet_one_is_after_its_settle_time() {
    let mut tracker = Tracker::new(Settle::default());
    for second in 0..10 {
        tracker.observe(vec![single("a.pt", second, second as i64)], at(second));
        assert!(
            tracker.due(at(second), Haste::None).is_empty(),
            "second {second}"
        );
    }
    assert_eq!(tracker.next_look(), Some(at(11)));
    tracker.observe(vec![single("a.pt", 9, 9)], at(11));
    assert_eq!(tracker.due(at(11), Haste::None), [single("a.pt", 9, 9)]);
}

#[test]
fn any_changed_field_starts_over() {
    let original = single("a.pt", 5, 5);
    let changes: [fn(&mut FileStat); 5] = [
        |file| file.ino += 1,
        |file| file.size_bytes += 1,
        |file| file.mtime_ns += 1,
        |file| file.ctime_ns += 1,
        |file| file.mode = 0o600,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut tracker = Tracker::new(Settle::default());
        tracker.observe(vec![original.clone()], at(0));
        assert!(tracker.judge(&original, whole(Silence::File), at(2), Haste::None));
        let mut changed = original.clone();
        change(&mut changed.files[0]);
        tracker.observe(vec![changed.clone()], at(3));
        assert!(tracker.ready().is_empty(), "change {number}");
        assert!(tracker.due(at(4), Haste::None).is_empty());
        assert_eq!(tracker.due(at(5), Haste::None), [changed]);
    }
}

#[test]
fn what_nothing_proves_waits_for_the_longest_silence_and_a_writer_delays_it() {
    let mut tracker = Tracker::new(Settle::default());
    let candidate = single("a.bin", 5, 5);
    let busy = || Finding::Busy("a.bin is open for writing".into());
    tracker.observe(vec![candidate.clone()], at(0));
    assert!(!tracker.judge(&candidate, whole(Silence::Unknown), at(2), Haste::None));
    assert!(tracker.due(at(29), Haste::None).is_empty());
    assert!(!tracker.judge(&candidate, busy(), at(30), Haste::None));
    assert_eq!(tracker.refused()[0].reason, "a.bin is open for writing");
    assert!(tracker.due(at(31), Haste::None).is_empty());
    assert!(!tracker.judge(&candidate, whole(Silence::Unknown), at(32), Haste::None));
    assert!(
        tracker.due(at(59), Haste::None).is_empty(),
        "silence begins when it is closed"
    );
    assert!(tracker.judge(&candidate, whole(Silence::Unknown), at(60), Haste::None));
    assert_eq!((tracker.next_look(), tracker.refused()), (None, Vec::new()));
}

#[test]
fn a_long_wait_of_the_users_own_makes_no_work_doubtful_that_was_done_before_a_death() {
    let advice_of_quiet = "by marker or command";
    for (rule, unknown_s, written_s, expected) in [
        ("generic", 30, 960, None),
        ("generic", 30, 980, Some("`complete_when` in the run file")),
        ("quiet+json", 600, 960, None),
        ("quiet+json", 600, 980, Some(advice_of_quiet)),
        // Less is enough where the user says so.
        ("quiet", 10, 980, None),
    ] {
        let mut tracker = Tracker::new(Settle::all(at(unknown_s)));
        tracker.deaths.push(Death {
            began_us: 0,
            ended_us: 1_000_000_000,
            until_us: 1_010_000_000,
            how: "exit code 1".into(),
        });
        let candidate = single("a.xyz", 5, written_s * 1_000_000_000);
        tracker.observe(vec![candidate.clone()], at(0));
        let finding = Finding::Whole {
            rule: rule.into(),
            silence: Silence::Unknown,
            doubt: None,
            ruled: rule.starts_with("quiet"),
        };
        let taken = tracker.judge(&candidate, finding, at(1_000), Haste::None);
        let refused = tracker.refused();
        let reason = refused.first().map(|one| one.reason.as_str());
        let case = format!("{rule}, {unknown_s} s, {written_s} s: {reason:?}");
        assert_eq!(
            (taken, reason.is_none()),
            (expected.is_none(), expected.is_none()),
            "{case}"
        );
        assert!(
            reason
                .unwrap_or_default()
                .contains(expected.unwrap_or_default()),
            "{case}"
        );
    }
}

#[test]
fn haste_takes_what_is_proven_and_only_the_end_of_the_session_takes_the_rest() {
    let mut tracker = Tracker::new(Settle::default());
    let (sure, odd) = (single("a.pt", 5, 5), single("b.dat1", 5, 5));
    tracker.observe(vec![sure.clone(), odd.clone()], at(0));
    assert_eq!(tracker.due(at(0), Haste::Proven).len(), 2);
    assert!(tracker.judge(&sure, whole(Silence::Directory), at(0), Haste::Proven));
    assert!(!tracker.judge(&odd, whole(Silence::Unknown), at(0), Haste::Proven));
    assert!(tracker.judge(&odd, whole(Silence::Unknown), at(0), Haste::Final));
}

#[test]
fn a_torn_file_is_not_ready_and_says_why() {
    let mut tracker = Tracker::new(Settle::default());
    let candidate = single("a.pt", 5, 5);
    tracker.observe(vec![candidate.clone()], at(0));
    let torn = Finding::Broken("no end record".into());
    assert!(!tracker.judge(&candidate, torn, at(2), Haste::None));
    let refused = &tracker.refused()[0];
    assert_eq!(
        (refused.path.as_str(), refused.reason.as_str()),
        ("a.pt", "no end record")
    );
    assert_eq!(
        (tracker.unsaved_bytes(None), tracker.unsaved_bytes(Some(1))),
        (5, 0)
    );
    assert!(tracker.due(at(61), Haste::None).is_empty());
    assert_eq!(tracker.due(at(62), Haste::None).len(), 1);
}

#[test]
fn what_lacks_a_marker_is_looked_at_every_second_and_no_silence_outweighs_it() {
    let mut tracker = Tracker::new(Settle::default());
    let candidate = directory(&["a.pt"]);
    tracker.observe(vec![candidate.clone()], at(0));
    for second in 2..600 {
        assert_eq!(
            tracker.due(at(second), Haste::None).len(),
            1,
            "second {second}"
        );
        let lacks = Finding::Incomplete("`latest` does not name it yet".into());
        assert!(!tracker.judge(&candidate, lacks, at(second), Haste::Final));
        assert_eq!(tracker.unsettled(at(second)), usize::from(second < 60));
    }
    assert!(tracker.judge(&candidate, whole(Silence::Directory), at(600), Haste::None));
}

#[test]
fn a_smaller_one_is_taken_only_when_it_grew_before_our_eyes_and_its_writer_has_gone_on() {
    let check = |seen_growing: bool, superseded: bool, lost_a_file: bool, expected: bool| {
        let mut tracker = Tracker::new(Settle::default());
        if seen_growing {
            tracker.observe(Vec::new(), at(0));
        }
        if lost_a_file {
            tracker.observe(vec![directory(&["a.pt", "b.pt"])], at(1));
        }
        let candidate = directory(&["a.pt"]);
        tracker.observe(vec![candidate.clone()], at(2));
        let taken = tracker.judge(&candidate, doubtful(superseded), at(60), Haste::None);
        assert_eq!(taken, expected, "{seen_growing} {superseded} {lost_a_file}");
    };
    check(true, true, false, true);
    check(false, true, false, false);
    check(true, false, false, false);
    check(true, true, true, false);
}

#[test]
fn what_was_finished_and_loses_files_is_being_deleted() {
    let mut tracker = Tracker::new(Settle::default());
    let finished = directory(&["a.pt", "b.pt", "c.pt"]);
    tracker.observe(vec![finished.clone()], at(0));
    assert!(tracker.judge(&finished, whole(Silence::File), at(5), Haste::None));
    for names in [&["a.pt", "b.pt"][..], &["b.pt"]] {
        tracker.observe(vec![directory(names)], at(6));
        assert!(tracker.due(at(100), Haste::Final).is_empty(), "{names:?}");
    }
    assert_eq!(tracker.unsaved_bytes(None), 0);
    tracker.observe(vec![directory(&["b.pt", "d.pt"])], at(101));
    assert_eq!(
        tracker.due(at(103), Haste::None).len(),
        1,
        "it is written anew"
    );
}

#[test]
fn what_loses_a_file_before_it_was_finished_is_refused_until_it_is_written_anew() {
    let mut tracker = Tracker::new(Settle::default());
    tracker.observe(vec![directory(&["a.pt", "b.pt"])], at(0));
    let half = directory(&["b.pt"]);
    tracker.observe(vec![half.clone()], at(1));
    assert!(!tracker.judge(&half, whole(Silence::File), at(99), Haste::Final));
    assert_eq!(tracker.refused()[0].reason, "a.pt was taken away from it");
    let ruled = || Finding::Whole {
        rule: "hf-trainer".into(),
        silence: Silence::File,
        doubt: None,
        ruled: true,
    };
    assert!(
        tracker.judge(&half, ruled(), at(99), Haste::None),
        "its rule knows what must be there"
    );
    tracker.start_over("dir:save-5", at(100));
    assert_eq!(tracker.next_look(), Some(at(102)));
    let other = directory(&["b.pt", "c.pt"]);
    tracker.observe(vec![other.clone()], at(103));
    assert!(tracker.judge(&other, whole(Silence::File), at(105), Haste::None));
}

#[test]
fn the_newest_written_comes_first_whatever_its_number() {
    let mut tracker = Tracker::new(Settle::default());
    let candidates = [
        single("step_9.pt", 1, 100),
        single("step_100.pt", 1, 300),
        single("step_50.pt", 1, 200),
    ];
    tracker.observe(candidates.to_vec(), at(0));
    for candidate in &candidates {
        assert!(tracker.judge(candidate, whole(Silence::File), at(2), Haste::None));
    }
    let order: Vec<_> = tracker
        .ready()
        .into_iter()
        .map(|ready| ready.candidate.step)
        .collect();
    assert_eq!(order, [Some(100), Some(50), Some(9)]);
    assert_eq!(tracker.unsaved_bytes(None), 3);
    tracker.give_up("file:step_9.pt", false);
    assert_eq!((tracker.ready().len(), tracker.unsaved_bytes(None)), (2, 2));
}

#[test]
fn what_is_here_alone_is_all_but_what_nobody_misses() {
    let mut tracker = Tracker::new(Settle::default());
    let (older, torn) = (single("step_9.pt", 1, 100), single("step_10.pt", 20, 100));
    let whole_one = directory(&["a.pt", "b.pt"]);
    let all = [older.clone(), torn.clone(), whole_one.clone()];
    tracker.observe(all.to_vec(), at(0));
    assert_eq!(tracker.here_alone_bytes(), 23, "nobody looked so far");
    for candidate in [&older, &whole_one] {
        assert!(tracker.judge(candidate, whole(Silence::File), at(2), Haste::None));
    }
    let broken = Finding::Broken("no end record".into());
    assert!(!tracker.judge(&torn, broken, at(2), Haste::None));
    // Older than the newest commit: worth no upload, and still nowhere else.
    assert_eq!(tracker.unsaved_bytes(Some(1)), 3);
    assert_eq!(tracker.here_alone_bytes(), 23);
    tracker.give_up(&older.key, true);
    assert_eq!(tracker.here_alone_bytes(), 23, "somebody may miss it");
    tracker.give_up(&older.key, false);
    assert_eq!(tracker.here_alone_bytes(), 22);
    // One that was whole and lost a file is uploaded no more.
    tracker.observe(vec![older, torn, directory(&["b.pt"])], at(3));
    assert_eq!(tracker.unsaved_bytes(Some(1)), 0);
    assert_eq!(tracker.here_alone_bytes(), 21);
    // A link that leads out may be to the best there is.
    let mut linked = single("best.pt", 5, 100);
    linked.unreadable = Some("it is a link".to_owned());
    tracker.observe(vec![linked.clone()], at(4));
    let refused = Finding::Broken("it is a link".into());
    assert!(!tracker.judge(&linked, refused, at(5), Haste::None));
    assert_eq!(tracker.unsaved_bytes(Some(1)), 5);
}
