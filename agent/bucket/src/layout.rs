//! Where a run's objects lie in a bucket, and back from a key to what it names (pure).
//!
//! Data keys are unique per attempt, so nothing is ever overwritten; a commit's name sorts by step, then by time, as text
//! too: `LIST commits/` is the index of checkpoints. Which is the newest is told by the time alone. Names that come from a box or a bucket are checked (`checked`) before they
//! become keys or paths.

mod checked;

use ulid::Ulid;

pub use checked::{
    CommitId, MAX_KEY_BYTES, MAX_RUN_BYTES, MAX_STEP, NameError, check_path, check_run,
};

/// The keys of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// `<prefix>/<run>`, or only the run.
    root: String,
}

impl Layout {
    /// Keys of `run` below `prefix` (which may be empty).
    pub fn new(prefix: &str, run: &str) -> Result<Self, NameError> {
        check_run(run)?;
        let prefix = prefix.trim_matches('/');
        if prefix.is_empty() {
            return Ok(Self {
                root: run.to_owned(),
            });
        }
        check_path(prefix)?;
        Ok(Self {
            root: format!("{prefix}/{run}"),
        })
    }

    /// What all data keys begin with.
    pub fn data_prefix(&self) -> String {
        format!("{}/data/", self.root)
    }

    /// Where a file of a checkpoint goes; `relative` is checked.
    pub fn data_key(&self, id: &CommitId, relative: &str) -> Result<String, NameError> {
        check_path(relative)?;
        bounded(format!("{}/data/{id}/{relative}", self.root))
    }

    /// Attempt and relative path of a data key of this run.
    pub fn data_of_key<'a>(&self, key: &'a str) -> Option<(CommitId, &'a str)> {
        let rest = key.strip_prefix(&self.data_prefix())?;
        let (id, relative) = rest.split_once('/')?;
        check_path(relative).ok()?;
        Some((id.parse().ok()?, relative))
    }

    /// What all commits begin with.
    pub fn commits_prefix(&self) -> String {
        format!("{}/commits/", self.root)
    }

    /// Where a commit goes.
    pub fn commit_key(&self, id: &CommitId) -> String {
        format!("{}/commits/{id}.json", self.root)
    }

    /// The commit that a key names, if it is one of this run.
    pub fn commit_of_key(&self, key: &str) -> Option<CommitId> {
        key.strip_prefix(&self.commits_prefix())?
            .strip_suffix(".json")?
            .parse()
            .ok()
    }

    /// Where a commit waits whose name was not known when its place was signed for.
    pub fn waiting_key(&self, place: &Ulid) -> String {
        format!("{}/commits/waiting-{place}.json", self.root)
    }

    /// Whether a key is such a place.
    pub fn is_waiting(&self, key: &str) -> bool {
        key.strip_prefix(&self.commits_prefix())
            .is_some_and(|name| name.starts_with("waiting-"))
    }

    /// What the marks of checkpoints that people want to keep begin with.
    pub fn pins_prefix(&self) -> String {
        format!("{}/pins/", self.root)
    }

    /// Where the mark lies that keeps a checkpoint from retention.
    pub fn pin_key(&self, id: &CommitId) -> String {
        format!("{}/pins/{id}.json", self.root)
    }

    /// The checkpoint that a mark keeps.
    pub fn pin_of_key(&self, key: &str) -> Option<CommitId> {
        key.strip_prefix(&self.pins_prefix())?
            .strip_suffix(".json")?
            .parse()
            .ok()
    }

    /// What the marks of checkpoints that were found damaged begin with.
    pub fn damaged_prefix(&self) -> String {
        format!("{}/damaged/", self.root)
    }

    /// Where the mark lies that says that a checkpoint was found damaged.
    pub fn damaged_key(&self, id: &CommitId) -> String {
        format!("{}/damaged/{id}.json", self.root)
    }

    /// The checkpoint that such a mark speaks of.
    pub fn damaged_of_key(&self, key: &str) -> Option<CommitId> {
        key.strip_prefix(&self.damaged_prefix())?
            .strip_suffix(".json")?
            .parse()
            .ok()
    }

    /// What the marks of restores under way begin with.
    pub fn readers_prefix(&self) -> String {
        format!("{}/readers/", self.root)
    }

    /// Where one restore says that it reads a checkpoint; the time is in the ULID.
    pub fn reader_key(&self, id: &CommitId, reader: &Ulid) -> String {
        format!("{}/readers/{id}.{reader}.json", self.root)
    }

    /// Checkpoint that is read, and since when, milliseconds since the epoch.
    pub fn reader_of_key(&self, key: &str) -> Option<(CommitId, u64)> {
        let name = key
            .strip_prefix(&self.readers_prefix())?
            .strip_suffix(".json")?;
        let (id, reader) = name.split_once('.')?;
        let reader = Ulid::from_string(reader).ok()?;
        Some((id.parse().ok()?, reader.timestamp_ms()))
    }

    /// What the records of deleted checkpoints begin with.
    pub fn tombstones_prefix(&self) -> String {
        format!("{}/tombstones/", self.root)
    }

    /// Where the record of a checkpoint that was deleted at a time lies, until its data goes too.
    pub fn tombstone_key(&self, id: &CommitId, deleted_ms: u64) -> String {
        format!("{}/tombstones/{deleted_ms:013}-{id}.json", self.root)
    }

    /// Checkpoint that was deleted, and when, milliseconds since the epoch.
    pub fn tombstone_of_key(&self, key: &str) -> Option<(CommitId, u64)> {
        let name = key
            .strip_prefix(&self.tombstones_prefix())?
            .strip_suffix(".json")?;
        let (deleted_ms, id) = name.split_once('-')?;
        Some((id.parse().ok()?, deleted_ms.parse().ok()?))
    }

    /// What all results begin with.
    pub fn results_prefix(&self) -> String {
        format!("{}/results/", self.root)
    }

    /// Where a file that is not part of a checkpoint goes; `relative` is checked.
    pub fn results_key(&self, relative: &str) -> Result<String, NameError> {
        check_path(relative)?;
        bounded(format!("{}/results/{relative}", self.root))
    }

    /// What all log pieces of an attempt begin with.
    pub fn logs_prefix(&self, attempt: u32) -> String {
        format!("{}/logs/{attempt}/", self.root)
    }

    /// Where a box that is about to go leaves what `session` printed from a place on that nobody may have read yet.
    pub fn log_key(
        &self,
        attempt: u32,
        session: &str,
        generation: u64,
        offset: u64,
    ) -> Result<String, NameError> {
        let relative = format!("{attempt}/{session}.{generation}.{offset}.log");
        check_path(&relative)?;
        bounded(format!("{}/logs/{relative}", self.root))
    }

    /// Session, generation and offset of a log piece of an attempt.
    pub fn log_of_key<'a>(&self, attempt: u32, key: &'a str) -> Option<(&'a str, u64, u64)> {
        let name = key
            .strip_prefix(&self.logs_prefix(attempt))?
            .strip_suffix(".log")?;
        let (name, offset) = name.rsplit_once('.')?;
        let (session, generation) = name.rsplit_once('.')?;
        Some((session, generation.parse().ok()?, offset.parse().ok()?))
    }

    /// Where a box that stops itself says how the training of an attempt ended.
    pub fn ending_key(&self, attempt: u32) -> String {
        format!("{}/endings/{attempt}.json", self.root)
    }

    /// Where a box that is about to go leaves what happened on it in an attempt and that nobody has read.
    pub fn events_key(&self, attempt: u32) -> String {
        format!("{}/events/{attempt}.jsonl", self.root)
    }

    /// Where a box that ends itself leaves what it measured in an attempt.
    pub fn samples_key(&self, attempt: u32) -> String {
        format!("{}/samples/{attempt}.pb", self.root)
    }
}

fn bounded(key: String) -> Result<String, NameError> {
    if key.len() > MAX_KEY_BYTES {
        Err(NameError::KeyTooLong(key.len()))
    } else {
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ULID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    #[test]
    fn keys_are_as_documented_and_parse_back() {
        let layout = Layout::new("/team/a/", "llama-7b").unwrap();
        let id: CommitId = format!("000000001500-{ULID}").parse().unwrap();
        let data = layout.data_key(&id, "model/a b.pt").unwrap();
        assert_eq!(
            data,
            format!("team/a/llama-7b/data/000000001500-{ULID}/model/a b.pt")
        );
        assert_eq!(layout.data_of_key(&data), Some((id, "model/a b.pt")));
        let commit = layout.commit_key(&id);
        assert_eq!(
            commit,
            format!("team/a/llama-7b/commits/000000001500-{ULID}.json")
        );
        assert_eq!(layout.commit_of_key(&commit), Some(id));
        let waiting = layout.waiting_key(&id.ulid);
        assert!(layout.is_waiting(&waiting) && !layout.is_waiting(&commit));
        assert_eq!(layout.commit_of_key(&waiting), None);
        assert_eq!(layout.pin_of_key(&layout.pin_key(&id)), Some(id));
        assert_eq!(layout.damaged_of_key(&layout.damaged_key(&id)), Some(id));
        let reader = Ulid::from_parts(1_700_000_000_000, 7);
        let key = layout.reader_key(&id, &reader);
        assert_eq!(layout.reader_of_key(&key), Some((id, 1_700_000_000_000)));
        let key = layout.tombstone_key(&id, 1_700_000_000_123);
        assert_eq!(
            key,
            format!("team/a/llama-7b/tombstones/1700000000123-000000001500-{ULID}.json")
        );
        assert_eq!(layout.tombstone_of_key(&key), Some((id, 1_700_000_000_123)));
        assert_eq!(
            layout.results_key("logs/train.log").unwrap(),
            "team/a/llama-7b/results/logs/train.log"
        );
        assert_eq!(
            Layout::new("", "run").unwrap().commits_prefix(),
            "run/commits/"
        );
    }

    #[test]
    fn keys_of_others_are_not_ours() {
        let layout = Layout::new("p", "run").unwrap();
        for key in [
            format!("p/run2/commits/000000000001-{ULID}.json"),
            format!("run/commits/000000000001-{ULID}.json"),
            format!("p/run/commits/000000000001-{ULID}.json.tmp"),
            format!("p/run/commits/1-{ULID}.json"),
            "p/run/commits/.json".to_owned(),
        ] {
            assert_eq!(layout.commit_of_key(&key), None, "{key}");
        }
        assert_eq!(
            layout.data_of_key(&format!("p/run/data/000000000001-{ULID}/../x")),
            None
        );
    }

    #[test]
    fn a_run_name_stays_one_plain_component() {
        for run in ["a", "llama-7b", "R2.d2_x"] {
            assert!(Layout::new("", run).is_ok(), "{run}");
        }
        for run in [
            "",
            ".",
            "..",
            ".a",
            "a/b",
            "a b",
            "a\n",
            "ä",
            &"a".repeat(129),
        ] {
            assert!(Layout::new("", run).is_err(), "{run}");
        }
    }
}
