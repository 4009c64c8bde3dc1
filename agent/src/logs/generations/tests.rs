//! Logs that grow, are cut, replaced and lost, read to the byte.

use std::{fs::OpenOptions, io::Write};

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    log: LogFile,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile::open(&dir.path().join("log"), &dir.path().join("log.json"), 0).unwrap();
        Self { dir, log }
    }

    fn reopen(&mut self) {
        self.log = LogFile::open(&self.path("log"), &self.path("log.json"), 0).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, text: &str) {
        self.append_to("log", text);
    }

    fn append_to(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(name))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// All there is from a position on, with the bytes that were reported lost.
    fn drain(&self, from: Position) -> (String, u64, Position) {
        let (mut text, mut gap, mut position) = (String::new(), 0, from);
        loop {
            let chunk = self.log.read(position).unwrap();
            text.push_str(std::str::from_utf8(&chunk.data).unwrap());
            gap += chunk.gap_bytes;
            position = chunk.next();
            if chunk.is_empty() {
                return (text, gap, position);
            }
        }
    }
}

fn at(generation: u64, offset: u64) -> Position {
    Position { generation, offset }
}

#[test]
fn bytes_come_once_and_positions_count_on() {
    let fixture = Fixture::new();
    assert_eq!(fixture.drain(at(0, 0)), (String::new(), 0, at(0, 0)));
    fixture.append("one\n");
    assert_eq!(fixture.drain(at(0, 0)), ("one\n".into(), 0, at(0, 4)));
    fixture.append("two\n");
    assert_eq!(fixture.drain(at(0, 4)), ("two\n".into(), 0, at(0, 8)));
    assert_eq!(fixture.drain(at(0, 2)), ("e\ntwo\n".into(), 0, at(0, 8)));
}

#[test]
fn a_rename_loses_nothing_even_when_the_old_file_still_grows() {
    let fixture = Fixture::new();
    fixture.append("one\n");
    let (_, _, position) = fixture.drain(at(0, 0));
    fs::rename(fixture.path("log"), fixture.path("log.1")).unwrap();
    fixture.append_to("log.1", "late\n");
    fixture.append("new\n");
    assert_eq!(fixture.drain(position), ("late\nnew\n".into(), 0, at(1, 4)));
}

#[test]
fn a_replaced_file_is_not_left_while_its_successor_is_empty() {
    let fixture = Fixture::new();
    fixture.append("one\n");
    let (_, _, position) = fixture.drain(at(0, 0));
    fs::rename(fixture.path("log"), fixture.path("log.1")).unwrap();
    fixture.append("");
    assert_eq!(fixture.drain(position), (String::new(), 0, at(0, 4)));
    fixture.append_to("log.1", "late\n");
    fixture.append("new\n");
    assert_eq!(fixture.drain(position), ("late\nnew\n".into(), 0, at(1, 4)));
}

#[test]
fn a_truncation_begins_a_generation_and_tells_what_was_lost() {
    let fixture = Fixture::new();
    fixture.append("one\ntwo\n");
    fixture.drain(at(0, 0));
    fs::write(fixture.path("log"), "x\n").unwrap();
    assert_eq!(fixture.drain(at(0, 8)), ("x\n".into(), 0, at(1, 2)));
    // Somebody who had read less is told how much is gone.
    assert_eq!(fixture.drain(at(0, 3)), ("x\n".into(), 5, at(1, 2)));
}

#[test]
fn a_truncation_is_noticed_even_when_the_file_has_outgrown_its_old_length() {
    let fixture = Fixture::new();
    fixture.append("short\n");
    fixture.drain(at(0, 0));
    fs::write(fixture.path("log"), "other and much longer\n").unwrap();
    assert_eq!(
        fixture.drain(at(0, 6)),
        ("other and much longer\n".into(), 0, at(1, 22))
    );
}

#[test]
fn positions_mean_the_same_after_a_restart() {
    let mut fixture = Fixture::new();
    fixture.append("one\n");
    fixture.drain(at(0, 0));
    fs::rename(fixture.path("log"), fixture.path("log.1")).unwrap();
    fixture.append("two\n");
    fixture.drain(at(0, 0));
    fixture.reopen();
    assert_eq!(fixture.drain(at(0, 1)), ("ne\ntwo\n".into(), 0, at(1, 4)));
    assert_eq!(fixture.log.beginning(), at(0, 0));

    fs::remove_file(fixture.path("log.1")).unwrap();
    fixture.reopen();
    assert_eq!(fixture.drain(at(0, 1)), ("two\n".into(), 3, at(1, 4)));
}

#[test]
fn a_file_that_was_rotated_while_nobody_looked_is_read_to_its_end() {
    let mut fixture = Fixture::new();
    fixture.append("one\n");
    let (_, _, position) = fixture.drain(at(0, 0));
    fixture.append("two\n");
    fs::rename(fixture.path("log"), fixture.path("log.1")).unwrap();
    fixture.append("three\n");
    fixture.reopen();
    assert_eq!(
        fixture.drain(position),
        ("two\nthree\n".into(), 0, at(1, 6))
    );
}

#[test]
fn a_deleted_file_is_read_to_its_end_while_it_is_open() {
    let fixture = Fixture::new();
    fixture.append("one\n");
    fixture.drain(at(0, 0));
    fixture.append("two\n");
    fs::remove_file(fixture.path("log")).unwrap();
    fixture.append("three\n");
    assert_eq!(
        fixture.drain(at(0, 4)),
        ("two\nthree\n".into(), 0, at(1, 6))
    );
}

#[test]
fn positions_that_never_were_are_refused() {
    let fixture = Fixture::new();
    fixture.append("one\n");
    for position in [at(0, 5), at(3, 0)] {
        let err = fixture.log.read(position).unwrap_err();
        assert!(
            matches!(
                err,
                LogError::NoSuchPosition {
                    newest_offset: 4,
                    ..
                }
            ),
            "{position:?}: {err}"
        );
    }
}

#[test]
fn a_tail_begins_at_a_line() {
    let fixture = Fixture::new();
    fixture.append("one\ntwo\nthree\n");
    let tail = |bytes| fixture.log.tail(bytes).unwrap().offset;
    assert_eq!(tail(6), 8, "the line begins exactly there");
    assert_eq!(tail(7), 8, "in the middle of a line");
    assert_eq!(tail(10), 4);
    assert_eq!(tail(1000), 0);
    fixture.append(&"x".repeat(100_000));
    assert_eq!(tail(50_000), 14 + 50_000, "one line without an end");
}

#[test]
fn a_later_log_of_the_same_name_begins_above_all_generations() {
    let fixture = Fixture::new();
    assert_eq!(
        next_first_generation(&fixture.path("log.json"), 4).unwrap(),
        5
    );
    fixture.append("one\n");
    fixture.drain(at(0, 0));
    fs::write(fixture.path("log"), "").unwrap();
    fixture.drain(at(0, 0));
    assert_eq!(
        next_first_generation(&fixture.path("log.json"), 0).unwrap(),
        2
    );
}
