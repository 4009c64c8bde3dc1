//! Append-only events with sequence numbers; survives kill -9 and a loss of power.
//!
//! Segments of about 1 MiB, named after their first sequence number; each event is a frame of length, CRC-32 and JSON, on
//! disk before anyone can see its number. What the controller acknowledged is dropped by the segment; the rest never is.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::{aside, events::EventSink, files, now_us};

mod frames;

use frames::{HEADER_BYTES, list_segments, next_frame, open_segment, scan, segment_path};

/// A segment is closed when it is larger than this.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Details above this are replaced by a note: the contract bounds strings to 64 KiB.
const DETAIL_LIMIT_BYTES: usize = 60 << 10;
/// Events kept in memory while the disk refuses them; the oldest go first.
const PENDING_LIMIT: usize = 1024;
const ACKNOWLEDGED: &str = "acknowledged";

/// One event as it lies on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Format version.
    pub v: u32,
    /// Sequence number, from 1, rising by one.
    pub seq: u64,
    /// When, microseconds since the epoch by the box's clock.
    pub time_us: u64,
    /// Kind, as the contract lists them.
    pub kind: String,
    /// Run; empty before Configure.
    pub run: String,
    /// Attempt; 0 before Configure.
    pub attempt: u32,
    /// Details.
    pub detail: Value,
}

/// The journal of a box.
pub struct Journal {
    dir: PathBuf,
    inner: Mutex<Inner>,
    /// Beside the lock, which is held while the disk takes its time: the status must not wait for a disk.
    acknowledged: AtomicU64,
    last: watch::Sender<u64>,
}

struct Inner {
    /// First sequence number and path of every segment; the last one is open.
    segments: BTreeMap<u64, PathBuf>,
    file: File,
    written: u64,
    next: u64,
    pending: VecDeque<Entry>,
    run: String,
    attempt: u32,
}

impl Journal {
    /// Opens or begins the journal in `dir`. A tail that a crash tore off is removed.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let acknowledged = files::read_if_there(&dir.join(ACKNOWLEDGED))?
            .and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok())
            .unwrap_or(0);
        let mut segments = list_segments(dir)?;
        let (first, path) = match segments.last_key_value() {
            Some((first, path)) => (*first, path.clone()),
            None => {
                // The numbers that were acknowledged are never given again, even where the segments are lost.
                let first = acknowledged + 1;
                (first, segment_path(dir, first))
            }
        };
        let mut file = open_segment(&path)?;
        let tail = scan(&mut file, first)?;
        if tail.good_bytes < tail.all_bytes {
            warn!(segment = %path.display(), torn_bytes = tail.all_bytes - tail.good_bytes, "removed the torn tail of the journal");
            file.set_len(tail.good_bytes)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(tail.good_bytes))?;
        segments.insert(first, path);
        files::sync_dir(dir)?;
        let next = tail.next.max(acknowledged + 1);
        let inner = Inner {
            segments,
            file,
            written: tail.good_bytes,
            next,
            pending: VecDeque::new(),
            run: String::new(),
            attempt: 0,
        };
        Ok(Self {
            dir: dir.to_owned(),
            inner: Mutex::new(inner),
            acknowledged: AtomicU64::new(acknowledged),
            last: watch::Sender::new(next - 1),
        })
    }

    /// Which run and attempt later events belong to.
    pub fn set_run(&self, run: &str, attempt: u32) {
        let mut inner = self.lock();
        run.clone_into(&mut inner.run);
        inner.attempt = attempt;
    }

    /// Number of the newest event that is on disk; 0 when there is none.
    pub fn last(&self) -> u64 {
        *self.last.borrow()
    }

    /// Tells when [`Self::last`] rises.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// Oldest event that nobody acknowledged; 0 when all are.
    pub fn oldest_unacknowledged(&self) -> u64 {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        if acknowledged < self.last() {
            acknowledged + 1
        } else {
            0
        }
    }

    /// Events up to and including `up_to` are stored elsewhere: segments that hold nothing newer are removed.
    pub fn acknowledge(&self, up_to: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let up_to = up_to.min(self.last());
        if up_to <= self.acknowledged.load(Ordering::Acquire) {
            return Ok(());
        }
        files::write_durably(&self.dir.join(ACKNOWLEDGED), up_to.to_string().as_bytes())?;
        self.acknowledged.store(up_to, Ordering::Release);
        // A segment ends where the next begins; the open one has no next and stays.
        let firsts: Vec<u64> = inner.segments.keys().copied().collect();
        for pair in firsts.windows(2) {
            if pair[1] > up_to + 1 {
                break;
            }
            if let Some(path) = inner.segments.remove(&pair[0]) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// At most `limit` events from number `from` on, oldest first; nothing when there are none yet.
    pub fn read(&self, from: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let last = self.last();
        let segments: Vec<(u64, PathBuf)> = {
            let inner = self.lock();
            let begin = inner
                .segments
                .range(..=from)
                .next_back()
                .map_or(0, |(first, _)| *first);
            inner
                .segments
                .range(begin..)
                .map(|(first, path)| (*first, path.clone()))
                .collect()
        };
        let mut entries = Vec::new();
        for (_, path) in segments {
            let mut file = match File::open(&path) {
                Ok(file) => io::BufReader::new(file),
                // Acknowledged and removed since we looked.
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                Err(err) => return Err(err),
            };
            while let Some((entry, _)) = next_frame(&mut file)? {
                if entry.seq > last || entries.len() >= limit {
                    return Ok(entries);
                }
                if entry.seq >= from {
                    entries.push(entry);
                }
            }
        }
        Ok(entries)
    }

    /// Tries again to write what the disk refused. Called by the daemon's clock and before it ends.
    pub fn flush(&self) {
        let mut inner = self.lock();
        self.drain(&mut inner);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes pending events; what is on disk is published, the rest stays for the next try.
    fn drain(&self, inner: &mut Inner) {
        while let Some(entry) = inner.pending.front().cloned() {
            match self.append(inner, entry) {
                Ok(()) => inner.pending.pop_front(),
                Err(err) => {
                    error!(error = %err, pending = inner.pending.len(), "the journal could not be written, will retry");
                    return;
                }
            };
            self.last.send_replace(inner.next - 1);
        }
    }

    fn append(&self, inner: &mut Inner, mut entry: Entry) -> io::Result<()> {
        if inner.written > SEGMENT_BYTES {
            self.rotate(inner)?;
        }
        entry.seq = inner.next;
        let payload = serde_json::to_vec(&entry)?;
        let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
        frame.extend_from_slice(
            &u32::try_from(payload.len())
                .map_err(io::Error::other)?
                .to_le_bytes(),
        );
        frame.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        frame.extend_from_slice(&payload);
        let written = inner
            .file
            .write_all(&frame)
            .and_then(|()| inner.file.sync_data());
        if let Err(err) = written {
            // Half a frame must not stay in front of the next one.
            inner.file.set_len(inner.written)?;
            inner.file.seek(SeekFrom::Start(inner.written))?;
            return Err(err);
        }
        inner.written += frame.len() as u64;
        inner.next += 1;
        Ok(())
    }

    fn rotate(&self, inner: &mut Inner) -> io::Result<()> {
        let path = segment_path(&self.dir, inner.next);
        inner.file = open_segment(&path)?;
        files::sync_dir(&self.dir)?;
        inner.segments.insert(inner.next, path);
        inner.written = 0;
        Ok(())
    }
}

impl EventSink for Journal {
    fn event(&self, kind: &str, detail: Value) {
        aside(|| self.record(kind, detail));
    }
}

impl Journal {
    fn record(&self, kind: &str, detail: Value) {
        let mut inner = self.lock();
        let length = detail.to_string().len();
        let detail = if length > DETAIL_LIMIT_BYTES {
            json!({ "detail_too_long_bytes": length })
        } else {
            detail
        };
        if inner.pending.len() >= PENDING_LIMIT {
            error!("an event is lost: the disk has refused the journal for {PENDING_LIMIT} events");
            inner.pending.pop_front();
        }
        let (run, attempt) = (inner.run.clone(), inner.attempt);
        inner.pending.push_back(Entry {
            v: 1,
            seq: 0,
            time_us: now_us(),
            kind: kind.to_owned(),
            run,
            attempt,
            detail,
        });
        self.drain(&mut inner);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread,
    };

    use super::*;

    fn kinds(journal: &Journal, from: u64) -> Vec<(u64, String)> {
        journal
            .read(from, 10_000)
            .unwrap()
            .into_iter()
            .map(|entry| (entry.seq, entry.kind))
            .collect()
    }

    #[test]
    fn numbers_go_on_after_the_journal_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.event("a", json!({}));
        journal.set_run("r", 2);
        journal.event("b", json!({ "x": 1 }));
        drop(journal);

        let journal = Journal::open(dir.path()).unwrap();
        journal.event("c", json!({}));

        assert_eq!(
            kinds(&journal, 1),
            [(1, "a".into()), (2, "b".into()), (3, "c".into())]
        );
        let second = &journal.read(2, 1).unwrap()[0];
        assert_eq!(
            (second.run.as_str(), second.attempt, &second.detail),
            ("r", 2, &json!({ "x": 1 }))
        );
    }

    #[test]
    fn every_torn_tail_is_removed_and_whole_events_stay() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.event("whole", json!({}));
        let whole = fs::metadata(segment_path(dir.path(), 1)).unwrap().len();
        journal.event("torn", json!({}));
        drop(journal);
        let bytes = fs::read(segment_path(dir.path(), 1)).unwrap();

        for cut in whole..bytes.len() as u64 {
            fs::write(segment_path(dir.path(), 1), &bytes[..cut as usize]).unwrap();
            let journal = Journal::open(dir.path()).unwrap();
            assert_eq!(kinds(&journal, 1), [(1, "whole".into())], "cut at {cut}");
            journal.event("next", json!({}));
            assert_eq!(kinds(&journal, 2), [(2, "next".into())], "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        Journal::open(dir.path()).unwrap().event("a", json!({}));
        let path = segment_path(dir.path(), 1);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(kinds(&Journal::open(dir.path()).unwrap(), 1), []);
    }

    #[test]
    fn acknowledged_segments_go_and_their_numbers_never_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let filler = "x".repeat(50 << 10);
        for _ in 0..60 {
            journal.event("e", json!({ "filler": filler }));
        }
        assert!(list_segments(dir.path()).unwrap().len() >= 3);
        assert_eq!(journal.oldest_unacknowledged(), 1);
        let middle = *list_segments(dir.path()).unwrap().keys().nth(1).unwrap();

        journal.acknowledge(middle).unwrap();

        // The segment that holds one unacknowledged event stays whole.
        assert_eq!(journal.read(1, 1).unwrap()[0].seq, middle);
        assert_eq!(journal.oldest_unacknowledged(), middle + 1);

        journal.acknowledge(u64::MAX).unwrap();
        assert_eq!(journal.oldest_unacknowledged(), 0);
        assert_eq!(list_segments(dir.path()).unwrap().len(), 1);
        drop(journal);
        fs::remove_file(list_segments(dir.path()).unwrap().values().next().unwrap()).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.event("after", json!({}));
        assert_eq!(kinds(&journal, 1), [(61, "after".into())]);
    }

    #[test]
    fn subscribers_hear_of_new_events() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let mut seen = journal.subscribe();
        seen.mark_unchanged();
        journal.event("a", json!({}));
        assert!(seen.has_changed().unwrap());
        assert_eq!(*seen.borrow_and_update(), 1);
    }

    #[test]
    fn a_detail_beyond_the_contract_is_replaced_by_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal.event("big", json!({ "text": "y".repeat(70 << 10) }));
        assert!(
            journal.read(1, 1).unwrap()[0].detail["detail_too_long_bytes"]
                .as_u64()
                .unwrap()
                > 70 << 10
        );
    }

    /// Something that does not end before `release` is called holds the journal, as a disk that takes its time does.
    fn held(journal: &Arc<Journal>) -> impl FnOnce() {
        let (locked, is_locked) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let journal = journal.clone();
        let holder = thread::spawn(move || {
            let _inner = journal.lock();
            locked.send(()).unwrap();
            released.recv().unwrap();
        });
        is_locked.recv().unwrap();
        move || {
            release.send(()).unwrap();
            holder.join().unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_slow_disk_holds_up_neither_the_status_nor_other_tasks() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(dir.path()).unwrap());
        journal.event("a", json!({}));
        let release = held(&journal);
        assert_eq!(journal.oldest_unacknowledged(), 1);
        let writes = journal.clone();
        let writer = tokio::spawn(async move { writes.event("b", json!({})) });
        let other = tokio::spawn(async { 7 });
        assert_eq!(other.await.unwrap(), 7);
        release();
        writer.await.unwrap();
        assert_eq!(journal.last(), 2);
    }
}
