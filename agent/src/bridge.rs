//! Standard input and output to the daemon's socket, behind the nonce line. What ssh runs on a box for each connection.
//!
//! Starts the daemon where none answers. The socket is connected before the handshake is printed, so that a controller which
//! reads it has an agent; nothing else is ever printed.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use crate::config::{self, Home};

/// How long a daemon may take to answer once it was started.
const START_LIMIT: Duration = Duration::from_secs(15);
/// A daemon that ends between our look and our connect leaves its lock to the next one: we start that one too.
const RESTART_AFTER: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(10);
const NONCE_LIMIT: usize = 128;
const BUFFER_BYTES: usize = 64 << 10;

/// Connects, prints the handshake and copies until either side ends.
pub fn run(socket: &Path, nonce: &str) -> anyhow::Result<()> {
    config::check_socket_path(socket)?;
    let plain = nonce.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(
        plain && (1..=NONCE_LIMIT).contains(&nonce.len()),
        "the nonce must be 1 to {NONCE_LIMIT} visible characters"
    );
    let agent = connect(socket)?;
    let mut to_controller = owned(io::stdout())?;
    // The line end in front ends whatever a login script printed without one.
    to_controller
        .write_all(format!("\nSPOTTER-BRIDGE/1 {nonce}\n").as_bytes())
        .context("the controller is gone")?;

    let mut from_controller = owned(io::stdin())?;
    let mut to_agent = agent.try_clone()?;
    thread::spawn(move || {
        // Either way this direction is over; the daemon then ends the connection and with it the other direction.
        let _until_either_side_ends = copy(&mut from_controller, &mut to_agent);
        let _may_be_closed_already = to_agent.shutdown(Shutdown::Write);
    });
    let mut from_agent = agent;
    match copy(&mut from_agent, &mut to_controller) {
        // A controller that has left may still be sent the daemon's last words.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        copied => copied.context("the connection between controller and daemon broke"),
    }
}

/// Starts the daemon in the background. It leaves our session by itself.
pub fn start_daemon(home: &Home) -> anyhow::Result<()> {
    let program = home
        .program()
        .context("the agent's own program is not found")?;
    Command::new(&program)
        .args(["daemon", "--home"])
        .arg(home.path())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    Ok(())
}

fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let first = match UnixStream::connect(socket) {
        Ok(stream) => return Ok(stream),
        Err(err) => err,
    };
    let nobody_there =
        [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&first.kind());
    ensure!(
        nobody_there,
        "{} cannot be connected: {first}",
        socket.display()
    );
    let home = Home::decide(Some(
        socket.parent().context("the socket needs a directory")?,
    ))?;
    ensure!(
        home.socket() == std::path::absolute(socket)?,
        "no daemon serves {}: its socket is agent.sock",
        socket.display()
    );

    let deadline = Instant::now() + START_LIMIT;
    let mut start_at = Instant::now();
    loop {
        if Instant::now() >= start_at {
            start_daemon(&home)?;
            start_at = Instant::now() + RESTART_AFTER;
        }
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(err) if Instant::now() > deadline => {
                return Err(err).with_context(|| {
                    format!(
                        "the daemon did not answer at {} within {} s; see {}",
                        socket.display(),
                        START_LIMIT.as_secs(),
                        home.daemon_log().display()
                    )
                });
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// A file without the buffer of `Stdout`: bytes must leave at once.
fn owned(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}
