//! What a crash leaves of a journal, and what is read of it.

use super::*;

fn candidate() -> Candidate {
    let stat = FileStat {
        path: String::new(),
        ino: 1,
        size_bytes: 30,
        mtime_ns: 5,
        ctime_ns: 5,
        mode: 0o644,
    };
    Candidate {
        key: "step:7".into(),
        path: "step_7.pt".into(),
        step: Some(7),
        directory: false,
        unfinished: None,
        unreadable: None,
        files: vec![stat],
    }
}

fn part(number: u32) -> Entry {
    Entry::Part {
        file: 0,
        number,
        size_bytes: 10,
        blake3: format!("hash{number}"),
        etag: format!("tag{number}"),
    }
}

#[test]
fn a_journal_cut_at_any_byte_still_tells_a_true_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, problem) =
        AttemptLog::create(dir.path(), "000000000007-A", "torch-zip", &candidate());
    assert!(problem.is_none());
    let mut states = vec![log.attempt.clone()];
    let upload = Entry::Upload {
        file: 0,
        key: "k".into(),
        upload_id: "u".into(),
        part_size_bytes: 10,
    };
    for entry in [
        upload,
        part(1),
        part(2),
        part(3),
        Entry::Sealed {
            manifest: "{}".into(),
        },
    ] {
        log.record(entry).unwrap();
        states.push(log.attempt.clone());
    }
    assert_eq!(log.attempt.done_bytes(), 30);
    let path = log.path.clone();
    let bytes = fs::read(&path).unwrap();
    let mut seen = 0;
    for length in 0..=bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let mut loaded = load(dir.path()).unwrap();
        let whole_lines = bytes[..length]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        if whole_lines == 0 {
            assert!(loaded.is_empty() && !path.exists());
            continue;
        }
        assert_eq!(
            loaded[0].attempt,
            states[whole_lines - 1],
            "cut at {length}"
        );
        // What is written after the cut can be read again.
        loaded[0].record(part(9)).unwrap();
        assert_eq!(load(dir.path()).unwrap()[0].attempt, loaded[0].attempt);
        seen = whole_lines;
    }
    assert_eq!(seen, states.len());
}

#[test]
fn nothing_waits_for_the_disk_but_what_cannot_be_had_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = AttemptLog::create(dir.path(), "id", "generic", &candidate());
    let stored = |part_size_bytes: u64| Entry::Stored {
        file: 0,
        entry: ManifestFile {
            path: String::new(),
            mode: 0o644,
            mtime_ns: 5,
            size_bytes: 30,
            blake3: "hash".into(),
            key: "k".into(),
            part_size_bytes,
            parts: Vec::new(),
        },
    };
    let sealed = Entry::Sealed {
        manifest: "{}".into(),
    };
    for (entry, waits) in [
        (part(1), false),
        (stored(0), false),
        (stored(10), true),
        (Entry::Dropped { file: 0 }, true),
        (sealed, true),
    ] {
        let waited = log.record(entry.clone()).unwrap().is_some();
        assert_eq!(waited, waits, "{entry:?}");
    }
}

#[test]
fn an_attempt_goes_on_where_nothing_can_be_written() {
    let (mut log, problem) = AttemptLog::create(
        Path::new("/nonexistent/spotter"),
        "id",
        "generic",
        &candidate(),
    );
    assert!(problem.is_some());
    let upload = Entry::Upload {
        file: 0,
        key: "k".into(),
        upload_id: "u".into(),
        part_size_bytes: 10,
    };
    log.record(upload).unwrap();
    log.record(part(1)).unwrap();
    assert_eq!(log.attempt.done_bytes(), 10);
    log.remove().unwrap();
}
