//! The line to a box in tiers 1 and 1.5: a relay on loopback that runs one `sshd -i` per connection and can delay, slow, stall,
//! reset and refuse. No root, no network namespace.

use std::{io, net::SocketAddr, os::fd::OwnedFd, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    process::Command,
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::warn;

use super::LinkFault;

/// Below the range from which the kernel takes ports of outgoing connections: polling a port of that range until it listens
/// can connect to itself. Ports below 20000 are left to the machine's own services.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// More than sshd itself would take (`MaxStartups`), so that its limit is the one that is met.
const MAX_CONNECTIONS: usize = 512;
const CHUNK: usize = 16 * 1024;
/// 4 MiB in flight each way: twice the window of an ssh channel.
const QUEUE: usize = 256;
/// How long sshd may take to notice that its client has gone.
const SSHD_END: Duration = Duration::from_secs(5);

/// State of a line; faults add up until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Link {
    pub(super) mode: Mode,
    pub(super) delay: Duration,
    /// Bytes per second each way; 0: no limit.
    pub(super) rate: u64,
}

/// Whether a line carries anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    #[default]
    Open,
    Drop,
    Refuse,
}

impl Link {
    /// Whether it takes longer than the machine itself would.
    pub(super) fn is_slow(self) -> bool {
        self.rate > 0 || !self.delay.is_zero()
    }

    /// The line after a fault.
    pub(super) fn after(self, fault: &LinkFault) -> Link {
        match fault {
            LinkFault::Heal => Link::default(),
            LinkFault::Drop => Link {
                mode: Mode::Drop,
                ..self
            },
            LinkFault::Refuse => Link {
                mode: Mode::Refuse,
                ..self
            },
            // It happens at one instant and leaves the line as it was.
            LinkFault::Reset => self,
            LinkFault::Delay(ms) => Link {
                delay: Duration::from_millis(*ms),
                ..self
            },
            LinkFault::Rate(rate) => Link {
                rate: *rate,
                ..self
            },
        }
    }
}

/// Makes the command that serves one connection on its stdin and stdout.
pub(super) type Serve = Arc<dyn Fn() -> Command + Send + Sync>;

/// What the relay's tasks watch.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    link: Link,
    /// The box has no power: nobody answers, and nobody says goodbye.
    dark: bool,
    /// Connections older than this count are reset.
    resets: u64,
    /// The relay ends.
    closed: bool,
    /// Counts changes, so that a change can be waited for.
    change: u64,
}

impl Line {
    fn stalled(&self) -> bool {
        self.dark || self.link.mode == Mode::Drop
    }
}

/// A listening relay; it ends, with all its connections, when dropped.
pub(super) struct Relay {
    address: SocketAddr,
    line: watch::Sender<Line>,
    applied: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on a free port of loopback.
    pub(super) async fn open(link: Link, serve: Serve) -> anyhow::Result<Relay> {
        let listener = bind_low().await?;
        let address = listener.local_addr()?;
        let (line, watched) = watch::channel(Line {
            link,
            ..Line::default()
        });
        let (applied_tx, applied) = watch::channel(0);
        let task = tokio::spawn(accept_loop(address, listener, watched, applied_tx, serve));
        let relay = Relay {
            address,
            line,
            applied,
            task,
        };
        // A box that refuses must do so from the start.
        relay.change(|_| {}).await;
        Ok(relay)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the line; answers when new connections meet the change.
    pub(super) async fn set(&self, link: Link, reset: bool) {
        self.change(|line| {
            line.link = link;
            if reset || link.mode == Mode::Refuse {
                line.resets += 1;
            }
        })
        .await;
    }

    /// Takes the box away without a goodbye: connections stay open and nothing flows, for good.
    pub(super) async fn darken(&self) {
        self.change(|line| line.dark = true).await;
    }

    /// Ends the relay: nobody listens, every connection is closed and every sshd is killed when this answers.
    pub(super) async fn close(mut self) {
        self.line.send_modify(|line| line.closed = true);
        let _ = (&mut self.task).await;
    }

    async fn change(&self, change: impl FnOnce(&mut Line)) {
        let mut wanted = 0;
        self.line.send_modify(|line| {
            change(line);
            line.change += 1;
            wanted = line.change;
        });
        // An error would mean that the relay has ended, and then there is nothing to wait for.
        let _ = self
            .applied
            .clone()
            .wait_for(|applied| *applied >= wanted)
            .await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn bind_low() -> anyhow::Result<TcpListener> {
    for _ in 0..200 {
        match TcpListener::bind(("127.0.0.1", rand::random_range(PORTS))).await {
            Ok(listener) => return Ok(listener),
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => {}
            Err(err) => return Err(err).context("cannot listen on loopback"),
        }
    }
    bail!("no free port found in {PORTS:?} after 200 tries")
}

async fn accept_loop(
    address: SocketAddr,
    listener: TcpListener,
    mut line: watch::Receiver<Line>,
    applied: watch::Sender<u64>,
    serve: Serve,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let now = *line.borrow_and_update();
        if now.closed {
            drop(listener);
            while connections.join_next().await.is_some() {}
            return;
        }
        let refusing = now.link.mode == Mode::Refuse && !now.dark;
        if refusing {
            listener = None;
        } else if listener.is_none() {
            match TcpListener::bind(address).await {
                Ok(bound) => listener = Some(bound),
                Err(err) => warn!(%address, %err, "cannot listen again, will retry"),
            }
        }
        let settled = refusing || listener.is_some();
        if settled {
            applied.send_replace(now.change);
        }
        tokio::select! {
            changed = line.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            accepted = accept(listener.as_ref()), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok(client) => {
                    let born = line.borrow().resets;
                    connections.spawn(connection(client, line.clone(), born, Arc::clone(&serve)));
                }
                Err(err) => {
                    warn!(%address, %err, "cannot accept, will retry");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = sleep(Duration::from_millis(100)), if !settled => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn connection(mut client: TcpStream, line: watch::Receiver<Line>, born: u64, serve: Serve) {
    // Without this, small packets would wait for each other and the relay would add 40 ms of its own.
    let _ = client.set_nodelay(true);
    let mut ending = line.clone();
    let reset = tokio::select! {
        () = until(&mut ending, |line| line.closed || (line.resets > born && !line.dark)) => !ending.borrow().closed,
        carried = carry(&mut client, line, &serve) => {
            if let Err(err) = carried {
                warn!(error = format!("{err:#}"), "a connection to a box failed");
            }
            false
        }
    };
    if reset {
        // With no time to linger, closing sends RST instead of FIN.
        let abort = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let _ = setsockopt(&client, sockopt::Linger, &abort);
    }
}

async fn carry(
    client: &mut TcpStream,
    mut line: watch::Receiver<Line>,
    serve: &Serve,
) -> anyhow::Result<()> {
    until(&mut line, |line| !line.stalled()).await;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    let mut sshd = {
        let mut command = serve();
        command.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)));
        command.stdout(Stdio::from(OwnedFd::from(theirs)));
        command.kill_on_drop(true);
        // The command holds copies of sshd's end: while it lives, we would not see sshd close it.
        command.spawn().context("cannot start sshd")?
    };
    {
        let (from_client, to_client) = client.split();
        let (from_box, to_box) = ours.into_split();
        let mut watched = line.clone();
        let up = pump(from_client, to_box, line.clone());
        let down = pump(from_box, to_client, line);
        tokio::pin!(up, down);
        tokio::select! {
            _ = &mut down => {}
            sent = &mut up => if sent.is_ok() {
                let _ = timeout(SSHD_END, &mut down).await;
            },
            () = until(&mut watched, |line| line.dark) => {
                let _ = sshd.start_kill();
                std::future::pending::<()>().await;
            }
        }
    }
    if timeout(SSHD_END, sshd.wait()).await.is_err() {
        let _ = sshd.kill().await;
    }
    Ok(())
}

/// Carries one direction. What was read waits in a bounded queue for its delay, its turn, and the line to be open.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    line: watch::Receiver<Line>,
) -> io::Result<()> {
    let (queue, mut chunks) = mpsc::channel::<(Instant, Bytes)>(QUEUE);
    let mut reading = line.clone();
    let read = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            until(&mut reading, |line| !line.stalled()).await;
            let size = from.read(&mut buffer).await?;
            let chunk = (Instant::now(), Bytes::copy_from_slice(&buffer[..size]));
            // An empty chunk is the end, which travels like everything else.
            if queue.send(chunk).await.is_err() || size == 0 {
                return Ok(());
            }
        }
    };
    let mut writing = line;
    let write = async move {
        let mut free_at = Instant::now();
        while let Some((at, mut chunk)) = chunks.recv().await {
            let delay = writing.borrow().link.delay;
            sleep_until(at + delay).await;
            loop {
                until(&mut writing, |line| !line.stalled()).await;
                let rate = writing.borrow().link.rate;
                let mut piece = chunk.len();
                if rate > 0 {
                    // A fiftieth of a second's worth at a time looks like a slow line, not like a stuttering one.
                    piece = piece.min((rate / 50).max(1) as usize);
                    free_at = free_at.max(Instant::now())
                        + Duration::from_secs_f64(piece as f64 / rate as f64);
                    sleep_until(free_at).await;
                    until(&mut writing, |line| !line.stalled()).await;
                }
                if piece == 0 {
                    return to.shutdown().await;
                }
                to.write_all(&chunk.split_to(piece)).await?;
                if chunk.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Waits for a state of the line; for ever when the relay has ended, which ends its tasks too.
async fn until(line: &mut watch::Receiver<Line>, state: impl FnMut(&Line) -> bool) {
    if line.wait_for(state).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_add_up_until_the_line_is_healed() {
        let slow = Link::default()
            .after(&LinkFault::Delay(40))
            .after(&LinkFault::Rate(1000));
        let check = |fault: LinkFault, expected: Link| assert_eq!(slow.after(&fault), expected);
        check(
            LinkFault::Drop,
            Link {
                mode: Mode::Drop,
                ..slow
            },
        );
        check(
            LinkFault::Refuse,
            Link {
                mode: Mode::Refuse,
                ..slow
            },
        );
        check(LinkFault::Reset, slow);
        check(
            LinkFault::Delay(0),
            Link {
                delay: Duration::ZERO,
                ..slow
            },
        );
        check(LinkFault::Heal, Link::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_line_carries_at_its_rate_and_late_by_its_delay() {
        let link = Link {
            delay: Duration::from_millis(200),
            rate: 1000,
            ..Link::default()
        };
        let (_line, watched) = watch::channel(Line {
            link,
            ..Line::default()
        });
        let start = Instant::now();
        let mut carried = Vec::new();
        pump(&[7_u8; 3000][..], &mut carried, watched)
            .await
            .unwrap();
        assert_eq!(carried, [7; 3000]);
        let took = start.elapsed();
        assert!(
            (Duration::from_millis(3190)..Duration::from_millis(3300)).contains(&took),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_line_holds_what_was_sent_and_even_its_end() {
        let (line, watched) = watch::channel(Line::default());
        let (mut near, from) = tokio::io::duplex(64);
        let (to, mut far) = tokio::io::duplex(64);
        let carrying = tokio::spawn(pump(from, to, watched));
        near.write_all(b"a").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'a');

        line.send_modify(|line| line.link.mode = Mode::Drop);
        near.write_all(b"b").await.unwrap();
        drop(near);
        assert!(
            timeout(Duration::from_secs(60), far.read_u8())
                .await
                .is_err()
        );

        line.send_modify(|line| line.link.mode = Mode::Open);
        assert_eq!(far.read_u8().await.unwrap(), b'b');
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
        carrying.await.unwrap().unwrap();
    }
}
