//! A session that is started again after it went with its container: with what, and how its log stays one.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::record::{self, Spec};
use crate::{files, logs::table_path};

/// Beside the session.
pub const FILE: &str = "again.json";

/// How the box may start a session again by itself. Holds no secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Format version.
    pub v: u32,
    /// Shell text where there is no checkpoint to go on from.
    pub fresh: String,
    /// Shell text where there is one.
    pub resume: String,
    /// Variables whose values may not be kept here: where there are any, the box cannot start it.
    pub secrets: Vec<String>,
    /// How often it may be started again from now on.
    pub times: u32,
    /// Variables on top of the container's; none where there are secrets.
    pub env: BTreeMap<String, String>,
}

/// Goes on with the log of the session in `before` for the one in `dir`: positions in it stay what they are. Returns the log's first
/// generation and the bytes that are in it.
pub fn continue_log(before: &Path, dir: &Path) -> io::Result<(u64, u64)> {
    let spec = record::read::<Spec>(before, "spec.json")?.ok_or(io::ErrorKind::NotFound)?;
    let log = record::log_path(before);
    let file = OpenOptions::new().read(true).append(true).open(&log)?;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    // Half a line must not become one with the first that follows.
    if last != *b"\n" {
        (&file).write_all(b"\n")?;
    }
    if let Some(table) = files::read_if_there(&table_path(before))? {
        fs::write(table_path(dir), table)?;
    }
    // A second name for the same file: whatever becomes of this try, the old one is there.
    fs::hard_link(&log, record::log_path(dir))?;
    Ok((spec.first_generation, file.metadata()?.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::LogFile;

    #[test]
    fn a_log_that_goes_on_keeps_its_positions_and_ends_its_last_line() {
        let root = tempfile::tempdir().unwrap();
        let (before, dir) = (root.path().join("before"), root.path().join("dir"));
        fs::create_dir(&before).unwrap();
        fs::create_dir(&dir).unwrap();
        let spec = Spec {
            first_generation: 3,
            ..Spec::sample()
        };
        record::write(&before, "spec.json", &spec).unwrap();
        assert!(continue_log(&before, &dir).is_err(), "there is no log");
        fs::write(before.join("log"), "one\ntw").unwrap();
        let old = LogFile::open(&before.join("log"), &table_path(&before), 3).unwrap();
        let read = old.read(old.beginning()).unwrap();
        assert_eq!(read.data, b"one\ntw");

        assert_eq!(continue_log(&before, &dir).unwrap(), (3, 7));
        let mut log = OpenOptions::new()
            .append(true)
            .open(dir.join("log"))
            .unwrap();
        log.write_all(b"three\n").unwrap();
        let new = LogFile::open(&dir.join("log"), &table_path(&dir), 3).unwrap();
        let more = new.read(read.next()).unwrap();
        assert_eq!((more.position, more.gap_bytes), (read.next(), 0));
        assert_eq!(more.data, b"\nthree\n");
    }
}
