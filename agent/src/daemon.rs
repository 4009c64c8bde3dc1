//! Starts every task, waits for the stop signal, waits for every task. One daemon per home directory, by a lock.
//!
//! [`validation`] holds the training against its estimate and its limits, [`ending`] ends it by them, [`diagnosis`] says what ended it;
//! [`answering`] is the server, [`core`] what its handlers ask; [`run_file`] what the controller configured; [`backup`] the running backup, [`keys`] its bucket keys;
//! [`dead_man`] the switch that ends a forgotten box, [`disposal`] whether it is destroyed or stopped, [`presence`] whether anybody is there, [`telling`] what the user is told while nobody is, [`restart`] what goes on by itself after a
//! restart of the container.

pub mod answering;
pub mod backup;
pub mod core;
pub mod dead_man;
pub mod death;
pub mod diagnosis;
pub mod disposal;
pub mod ending;
pub mod full_disk;
pub mod goodbye;
pub mod keys;
pub mod log_file;
pub mod presence;
pub mod restart;
pub mod run_file;
pub mod telling;
pub mod training;
pub mod validation;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::{
        prctl::set_dumpable,
        stat::{Mode, umask},
    },
    unistd::setsid,
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::core::Core;
use crate::{
    config::{self, Home},
    open_files,
    tasks::Task,
};

/// A shim that looks whether we live, or a predecessor that is ending, may hold the lock for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How long open calls and tasks may take to end.
const GOODBYE_LIMIT: Duration = Duration::from_secs(4);
/// How often the journal retries what a full disk refused.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Two threads are enough for one box, and each costs memory that the training could use.
const WORKER_THREADS: usize = 2;
/// Blocking work is file reading: short, and bounded in number.
const BLOCKING_THREADS: usize = 8;

/// Runs the daemon until it is told to stop.
pub fn run(home: &Home) -> anyhow::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    // Whoever started us may end its session. EPERM: we lead one already.
    let _already_leading = setsid();
    // Bucket keys are in this memory: no core dump may hold them.
    set_dumpable(false)?;
    let _lock = take_lock(&home.daemon_lock())?;
    log_file::install(&home.daemon_log(), &config::log_filter())?;
    open_files::raise();
    // The first provider wins; a test that installed one before us has the same.
    let _installed_already = rustls::crypto::ring::default_provider().install_default();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("no runtime")?;
    let served = runtime.block_on(serve(home));
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(err) = &served {
        error!(error = format!("{err:#}"), "the daemon ends");
    }
    served
}

fn take_lock(path: &Path) -> anyhow::Result<Flock<File>> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path);
    let mut file = open.with_context(|| format!("{} cannot be opened", path.display()))?;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // For people; the lock itself is the truth.
                lock.set_len(0)?;
                writeln!(lock, "{}", std::process::id())?;
                return Ok(lock);
            }
            Err((file, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another daemon serves this home directory: it holds {}",
                path.display()
            ),
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("{} cannot be locked", path.display()));
            }
        };
        thread::sleep(Duration::from_millis(20));
    }
}

async fn serve(home: &Home) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A terminal that closes is no reason to leave; installing a listener is what keeps us.
    let _ignored = signal(SignalKind::hangup())?;

    let core = Core::open(home).await?;
    // Before anybody is answered: whoever connects finds a training that runs, and does not start another one.
    restart::go_on(&core).await;
    let listener = listen(&home.socket())?;
    let closing = CancellationToken::new();
    let answering: Task = Box::pin(answering::answer(core.clone(), listener, closing.clone()));
    let server = tokio::spawn(answering);
    core.start_tasks();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        boot = core.boot,
        "the daemon serves {}",
        home.socket().display()
    );

    tokio::select! {
        () = core.stop.cancelled() => info!("told to stop"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if !core.stop.is_cancelled() {
        restart::note_termination(home);
        goodbye::say(&core).await;
    }

    core.stop.cancel();
    closing.cancel();
    match time::timeout(GOODBYE_LIMIT, server).await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => warn!(error = %err, "the server panicked"),
        Err(_) => warn!("calls were still open after {} s", GOODBYE_LIMIT.as_secs()),
    }
    core.end_tasks(GOODBYE_LIMIT).await;
    remove_socket(&home.socket())?;
    core.wipe_if_asked().await?;
    info!("the daemon has ended");
    Ok(())
}

/// Our socket, for our user only. A stale one is ours to remove: we hold the lock.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    config::check_socket_path(path)?;
    remove_socket(path)?;
    let listener =
        UnixListener::bind(path).with_context(|| format!("{} cannot be bound", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}
