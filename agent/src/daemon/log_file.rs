//! `daemon.log`: what the daemon has to say, in two files of bounded size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::Context;
use tracing::error;
use tracing_subscriber::{
    Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

/// The older half is kept as `daemon.log.1`.
const LIMIT_BYTES: u64 = 1 << 20;

/// Sends everything that is traced in this process to `path`, and panics with it.
pub fn install(path: &Path, filter: &str) -> anyhow::Result<()> {
    let log =
        BoundedLog::open(path).with_context(|| format!("{} cannot be written", path.display()))?;
    // Targets and levels are enough; the richer filter would bring a regex engine to every box.
    let filter: Targets = filter.parse().context("SPOTTER_LOG cannot be parsed")?;
    let lines = fmt::layer().with_ansi(false).with_writer(Mutex::new(log));
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .context("another part of this process traces already")?;
    std::panic::set_hook(Box::new(|panic| error!("{panic}")));
    Ok(())
}

struct BoundedLog {
    path: PathBuf,
    file: File,
    written: u64,
}

impl BoundedLog {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let written = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            written,
        })
    }
}

impl Write for BoundedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written >= LIMIT_BYTES {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(&self.path)?;
        }
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_turned_over_at_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let mut log = BoundedLog::open(&path).unwrap();
        for _ in 0..3 {
            log.write_all(&vec![b'x'; LIMIT_BYTES as usize]).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), LIMIT_BYTES);
        assert_eq!(
            fs::metadata(dir.path().join("daemon.log.1")).unwrap().len(),
            LIMIT_BYTES
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
