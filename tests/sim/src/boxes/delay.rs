//! A line that is late and narrow: two TAP interfaces, held by this process, and a task each way that carries every frame from
//! one to the other when its time has come.
//!
//! The kernel's own discipline for that (netem) is missing on many machines, TAP on few. The interfaces end with the process,
//! however it ends. Where they are plugged in is the network's business.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_tun::Tun;
use tracing::warn;

use super::link::Link;

/// An Ethernet frame of 1500 bytes with its header and a tag. Without offloads asked for, the kernel cuts what is larger.
const FRAME: usize = 1522;
/// Frames under way in one direction: 6 MB, what a TCP connection has in flight at most with Linux's default window.
const QUEUE: usize = 4096;
/// What a narrow line lets wait besides what its delay holds: half a second's worth, as a home router would, and 64 KiB at least.
const WAITING: Duration = Duration::from_millis(500);
const WAITING_BYTES: u64 = 64 * 1024;

/// Two interfaces with a distance between them; both vanish when it is dropped.
pub(super) struct DelayLine {
    link: watch::Sender<Link>,
    /// Ended when dropped.
    _carrying: JoinSet<()>,
}

impl DelayLine {
    /// Makes the interfaces `near` and `far`, which are up, and carries frames between them as `link` says.
    ///
    /// # Errors
    /// Where there is no `/dev/net/tun`, or no right to use it.
    pub(super) fn open(near: &str, far: &str, link: Link) -> anyhow::Result<DelayLine> {
        let (near, far) = (Arc::new(tap(near)?), Arc::new(tap(far)?));
        let (link, watched) = watch::channel(link);
        let mut carrying = JoinSet::new();
        carrying.spawn(carry(Arc::clone(&near), Arc::clone(&far), watched.clone()));
        carrying.spawn(carry(far, near, watched));
        Ok(DelayLine {
            link,
            _carrying: carrying,
        })
    }

    /// Changes delay and rate. One that has neither lets go at once all that was under way.
    pub(super) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

fn tap(name: &str) -> anyhow::Result<Tun> {
    let made = Tun::builder().name(name).tap().up().build();
    made.with_context(|| format!("cannot make the interface {name} by /dev/net/tun"))?
        .pop()
        .context("the kernel made no interface")
}

/// Where frames go.
trait Out: Sync {
    /// Sends one frame.
    fn put(&self, frame: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
}

impl Out for Tun {
    async fn put(&self, frame: &[u8]) -> io::Result<()> {
        self.send(frame).await.map(|_| ())
    }
}

/// Carries one direction until the interfaces are gone.
async fn carry(from: Arc<Tun>, to: Arc<Tun>, link: watch::Receiver<Link>) {
    let waiting = AtomicUsize::new(0);
    let (queue, frames) = mpsc::channel(QUEUE);
    let carried = tokio::try_join!(
        collect(&from, &queue, &waiting, &link),
        deliver(frames, &waiting, link.clone(), &*to),
    );
    if let Err(err) = carried {
        warn!(interface = from.name(), %err, "the delay line of a box has ended");
    }
}

/// Takes frames in. One that finds no room is lost, as at any router; its sender's TCP slows down and sends it again.
async fn collect(
    from: &Tun,
    queue: &mpsc::Sender<(Instant, Bytes)>,
    waiting: &AtomicUsize,
    link: &watch::Receiver<Link>,
) -> io::Result<()> {
    let mut buffer = [0; FRAME];
    loop {
        let size = from.recv(&mut buffer).await?;
        let line = *link.borrow();
        if fits(waiting.load(Ordering::Relaxed), line) {
            let frame = (Instant::now(), Bytes::copy_from_slice(&buffer[..size]));
            if queue.try_send(frame).is_ok() {
                waiting.fetch_add(size, Ordering::Relaxed);
            }
        }
    }
}

/// Whether another frame may wait where so many bytes do already.
fn fits(waiting: usize, link: Link) -> bool {
    let worth = |time: Duration| (link.rate as f64 * time.as_secs_f64()) as u64;
    let room = worth(WAITING).max(WAITING_BYTES) + worth(link.delay);
    link.rate == 0 || waiting as u64 <= room
}

/// Sends each frame when its delay and its turn have passed, in the order in which they came.
async fn deliver(
    mut frames: mpsc::Receiver<(Instant, Bytes)>,
    waiting: &AtomicUsize,
    mut link: watch::Receiver<Link>,
    to: &impl Out,
) -> io::Result<()> {
    let mut free_at = Instant::now();
    while let Some((at, frame)) = frames.recv().await {
        // The line takes one frame after the other, for as long as its rate asks; then each is on its way for the delay.
        let begin = free_at.max(at);
        loop {
            let now = *link.borrow_and_update();
            free_at = begin + on_wire(frame.len(), now.rate);
            if !now.is_slow() {
                free_at = begin.min(Instant::now());
                break;
            }
            tokio::select! {
                () = sleep_until(free_at + now.delay) => break,
                // With the sender gone nothing will change any more, and this task is about to end.
                changed = link.changed() => if changed.is_err() { return Ok(()) },
            }
        }
        waiting.fetch_sub(frame.len(), Ordering::Relaxed);
        to.put(&frame).await?;
    }
    Ok(())
}

/// How long a frame keeps the line busy.
fn on_wire(size: usize, rate: u64) -> Duration {
    match rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs_f64(size as f64 / rate as f64),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes what arrives, and when: milliseconds after its making.
    struct Notes(Instant, Mutex<Vec<(u8, u128)>>);

    impl Out for Notes {
        async fn put(&self, frame: &[u8]) -> io::Result<()> {
            let Notes(start, arrived) = self;
            let at_ms = start.elapsed().as_millis();
            arrived.lock().unwrap().push((frame[0], at_ms));
            Ok(())
        }
    }

    /// When frames of a hundred bytes arrive, milliseconds after all of them were sent at once.
    async fn arrivals(link: Link, frames: u8, change: Option<(u64, Link)>) -> Vec<(u8, u128)> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let notes = Notes(Instant::now(), Mutex::default());
        for number in 0..frames {
            let frame = Bytes::from(vec![number; 100]);
            queue.try_send((notes.0, frame)).unwrap();
        }
        drop(queue);
        let (line, watched) = watch::channel(link);
        let bytes = AtomicUsize::new(usize::from(frames) * 100);
        let delivering = deliver(waiting, &bytes, watched, &notes);
        let changing = async {
            if let Some((after_ms, link)) = change {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                line.send_replace(link);
            }
        };
        let (delivered, ()) = tokio::join!(delivering, changing);
        delivered.unwrap();
        assert_eq!(bytes.into_inner(), 0, "nothing waits any more");
        notes.1.into_inner().unwrap()
    }

    fn slow(delay_ms: u64, rate: u64) -> Link {
        Link {
            delay: Duration::from_millis(delay_ms),
            rate,
            ..Link::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_arrive_in_order_after_their_delay_and_their_turn() {
        let check = async |link, change, expected: [u128; 3]| {
            let expected: Vec<_> = (0..).zip(expected).collect();
            assert_eq!(arrivals(link, 3, change).await, expected, "{link:?}");
        };
        check(slow(0, 0), None, [0, 0, 0]).await;
        check(slow(250, 0), None, [250, 250, 250]).await;
        check(slow(0, 1000), None, [100, 200, 300]).await;
        check(slow(250, 1000), None, [350, 450, 550]).await;
        // What is under way meets the change.
        check(slow(250, 0), Some((100, slow(400, 0))), [400, 400, 400]).await;
        check(slow(400, 0), Some((100, slow(50, 0))), [100, 100, 100]).await;
        check(slow(0, 10), Some((500, slow(0, 1000))), [500, 500, 500]).await;
        check(
            slow(9000, 10),
            Some((100, Link::default())),
            [100, 100, 100],
        )
        .await;
    }

    #[test]
    fn a_narrow_line_lets_half_a_second_wait_besides_what_its_delay_holds() {
        let check = |link, waiting, expected| assert_eq!(fits(waiting, link), expected, "{link:?}");
        check(slow(300, 0), usize::MAX, true);
        check(slow(0, 1), 64 * 1024, true);
        check(slow(0, 1), 64 * 1024 + 1, false);
        check(slow(0, 1_000_000), 500_000, true);
        check(slow(1000, 1_000_000), 1_500_000, true);
        check(slow(1000, 1_000_000), 1_500_001, false);
    }
}
