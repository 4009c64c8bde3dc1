//! Follows what sessions print: exact bytes through truncation and rotation ([`generations`]), told by inotify with a
//! polling safety net. What they say of the training is read by `spotter-trainlog`.

pub mod generations;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::watch, time};
use tracing::warn;

pub use generations::{CHUNK_BYTES, Chunk, LogError, LogFile, Position};

use crate::sessions::record::{self, Spec};

/// How often logs are looked at though nothing was heard: inotify says nothing on some network file systems.
const SAFETY_NET: Duration = Duration::from_millis(500);

/// All logs that somebody follows, and one ear for changes to any of them.
pub struct Logs {
    open: Mutex<HashMap<PathBuf, OpenLog>>,
    watcher: Option<Mutex<RecommendedWatcher>>,
    changes: watch::Sender<u64>,
}

struct OpenLog {
    /// The session's directory; another one under the same name is another session.
    inode: u64,
    file: Arc<LogFile>,
}

impl Default for Logs {
    fn default() -> Self {
        let changes = watch::Sender::new(0_u64);
        let heard = changes.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading opens files: that must not wake us to read again.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                heard.send_modify(|count| *count = count.wrapping_add(1));
            }
        });
        if let Err(err) = &watcher {
            warn!(error = %err, "no inotify: logs are polled every {} ms instead", SAFETY_NET.as_millis());
        }
        Self {
            open: Mutex::default(),
            watcher: watcher.ok().map(Mutex::new),
            changes,
        }
    }
}

impl Logs {
    /// The log of the session in `dir`, shared by all who read it.
    pub fn of_session(&self, dir: &Path) -> io::Result<Arc<LogFile>> {
        let inode = fs::metadata(dir)?.ino();
        let mut open = lock(&self.open);
        if let Some(known) = open.get(dir).filter(|known| known.inode == inode) {
            return Ok(known.file.clone());
        }
        let first = record::read::<Spec>(dir, "spec.json")?.map_or(0, |spec| spec.first_generation);
        let file = Arc::new(LogFile::open(
            &record::log_path(dir),
            &table_path(dir),
            first,
        )?);
        self.watch(dir);
        open.insert(
            dir.to_owned(),
            OpenLog {
                inode,
                file: file.clone(),
            },
        );
        Ok(file)
    }

    /// Hears of changes in any directory that is followed.
    pub fn ear(&self) -> Ear {
        Ear(self.changes.subscribe())
    }

    fn watch(&self, dir: &Path) {
        let Some(watcher) = &self.watcher else { return };
        if let Err(err) = lock(watcher).watch(dir, RecursiveMode::NonRecursive) {
            warn!(dir = %dir.display(), error = %err, "no inotify for this directory: it is polled instead");
        }
    }
}

/// Waits for changes. Those that happen between two waits are not missed.
pub struct Ear(watch::Receiver<u64>);

impl Ear {
    /// Returns after a change, or after the safety net's interval.
    pub async fn listen(&mut self) {
        // A closed channel means that the daemon ends; the pause keeps callers from spinning until they notice.
        if let Ok(Err(_closed)) = time::timeout(SAFETY_NET, self.0.changed()).await {
            time::sleep(SAFETY_NET).await;
        }
    }
}

/// Where the generations of a session's log are noted.
pub fn table_path(dir: &Path) -> PathBuf {
    dir.join("log.json")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_log_is_shared_until_its_directory_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("train");
        fs::create_dir(&dir).unwrap();
        let logs = Logs::default();
        let first = logs.of_session(&dir).unwrap();
        assert!(Arc::ptr_eq(&first, &logs.of_session(&dir).unwrap()));
        fs::rename(&dir, root.path().join("old")).unwrap();
        fs::create_dir(&dir).unwrap();
        assert!(!Arc::ptr_eq(&first, &logs.of_session(&dir).unwrap()));
    }

    #[tokio::test]
    async fn a_change_is_heard_also_when_it_came_before_the_wait() {
        let root = tempfile::tempdir().unwrap();
        let logs = Logs::default();
        logs.of_session(root.path()).unwrap();
        let mut ear = logs.ear();
        fs::write(root.path().join("log"), "x").unwrap();
        ear.listen().await;
    }
}
