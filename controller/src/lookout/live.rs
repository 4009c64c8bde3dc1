//! One link to the box of a run, which is only looked at: its readings, log, events and state, as they come.

use std::{future::Future, time::Duration};

use futures::{StreamExt, stream};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent_client::{
        AgentClient, AgentError, AgentStatus, Followed, Link, LogPiece, LogPosition, LogStart,
        SessionState,
    },
    clock::Clock,
    error::CommandError,
    lookout::{
        copies::Copies,
        facts::{News, Reach},
    },
    run::bringing_up::{SETUP, SMOKE, TRAIN},
    tunnel::Tunnel,
};

/// How long one answer is waited for.
const STATUS_LIMIT: Duration = Duration::from_secs(10);
/// Before a box that could not be reached is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How long a box is looked at after its training: a box with somebody there does not stop itself.
const AFTER_THE_END: Duration = Duration::from_secs(30);
/// A copy that lacks more than this of its log is not completed: the end of the log has to do.
const MOST_TO_COMPLETE_BYTES: u64 = 8 << 20;
/// How much of a log is read where there is no copy.
const TAIL_BYTES: u64 = 1 << 20;

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Target {
    /// Name of the run.
    pub run: String,
    /// Its newest attempt.
    pub attempt: u32,
    /// Last event that is on record.
    pub last_event: u64,
}

/// Who hears the news.
#[derive(Debug, Clone)]
pub struct Listener {
    run: String,
    attempt: u32,
    to: mpsc::Sender<(String, u32, News)>,
}

impl Listener {
    /// News of an attempt go to `to`, with the names of both.
    pub fn new(run: &str, attempt: u32, to: mpsc::Sender<(String, u32, News)>) -> Self {
        let run = run.to_owned();
        Self { run, attempt, to }
    }

    /// Tells it; when nobody listens any more, the link is about to be dropped.
    pub async fn tell(&self, news: News) {
        let _nobody_listens = self.to.send((self.run.clone(), self.attempt, news)).await;
    }
}

/// How a box is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Between two questions how it goes; what is measured and printed comes by itself.
    pub poll: Duration,
    /// How much of what was measured before is asked for, seconds.
    pub history_s: i64,
    /// No person looks: to the box nobody is there.
    pub is_program: bool,
}

/// The way to an agent.
#[derive(Debug)]
pub struct Way {
    /// Its client.
    pub client: AgentClient,
    /// What carries it, to be closed in the end.
    pub tunnel: Option<Tunnel>,
}

/// The log of a run, as far as somebody wants to read it.
#[derive(Debug)]
pub struct Reading {
    /// Whether somebody does, now and as that changes.
    wanted: watch::Receiver<bool>,
    copies: Copies,
    is_read: bool,
    /// What follows on a copy does so once; after that it would be read twice.
    copied: Option<LogPosition>,
}

impl Reading {
    /// Reads `copies` first.
    pub fn new(copies: Copies, wanted: watch::Receiver<bool>) -> Self {
        Self {
            wanted,
            copies,
            is_read: false,
            copied: None,
        }
    }

    /// Does what is wanted now: reads the copies, or lets go of what was read.
    pub async fn turn(&mut self, target: &Target, listener: &Listener) {
        let wanted = *self.wanted.borrow_and_update();
        if wanted == self.is_read {
            return;
        }
        self.is_read = wanted;
        let (log, copied) = match wanted {
            true => self.copies.read(target).await,
            false => (self.copies.nothing(), None),
        };
        self.copied = copied;
        listener.tell(News::Copies(Box::new(log))).await;
    }

    /// Answers when something else is wanted; `false`: that will not happen any more.
    pub async fn changed(&mut self) -> bool {
        self.wanted.changed().await.is_ok()
    }
}

/// Looks at a box until its training is over, or until `stop`. A box that cannot be reached is tried again, for ever.
pub async fn look<F>(
    target: &Target,
    reading: &mut Reading,
    manner: Manner,
    clock: &Clock,
    listener: &Listener,
    stop: &CancellationToken,
    dial: impl Fn() -> F,
) where
    F: Future<Output = Result<Way, CommandError>>,
{
    loop {
        listener.tell(News::Reach(Reach::Connecting)).await;
        let dialled = tokio::select! {
            () = stop.cancelled() => return,
            dialled = dial() => dialled,
        };
        let why = match dialled {
            Ok(Way { client, tunnel }) => {
                let client = match manner.is_program {
                    true => client.in_passing(),
                    false => client,
                };
                let followed = tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    followed = follow(target, reading, manner, clock, &client, listener) => followed,
                };
                if let Some(tunnel) = tunnel {
                    tunnel.close().await;
                }
                match followed {
                    Ok(()) => {
                        listener.tell(News::Reach(Reach::LetGo)).await;
                        return;
                    }
                    Err(err) => err.to_string(),
                }
            }
            Err(err) => why(&err),
        };
        let since_us = clock.now_us();
        listener
            .tell(News::Reach(Reach::Lost { since_us, why }))
            .await;
        let again = time::sleep(TRY_AGAIN);
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut again => break,
                true = reading.changed() => reading.turn(target, listener).await,
            }
        }
    }
}

fn why(err: &CommandError) -> String {
    match err.causes() {
        [] => err.message().to_owned(),
        causes => causes.join(": "),
    }
}

/// The log that is followed.
struct Log {
    session: Option<&'static str>,
    pieces: Followed<LogPiece>,
}

impl Log {
    fn none() -> Self {
        Self {
            session: None,
            pieces: stream::pending().boxed(),
        }
    }

    /// Follows the session that is the newest now.
    async fn open(
        &mut self,
        target: &Target,
        reading: &mut Reading,
        status: &AgentStatus,
        client: &AgentClient,
        listener: &Listener,
    ) {
        let newest = session_of(status);
        if !reading.is_read || newest == self.session {
            return;
        }
        if let Some(newest) = newest {
            let start = start(reading.copied.take(), status, newest);
            begin(listener, target, newest, start).await;
            self.pieces = client.logs(newest, start, true);
        }
        self.session = newest;
    }
}

/// Tells everything that comes, until the training is over. A link that breaks is mended inside the client.
async fn follow(
    target: &Target,
    reading: &mut Reading,
    manner: Manner,
    clock: &Clock,
    client: &AgentClient,
    listener: &Listener,
) -> Result<(), AgentError> {
    let ask = move |client: AgentClient| async move { client.status(STATUS_LIMIT).await };
    let first = ask(client.clone()).await?;
    listener.tell(News::Reach(Reach::Live)).await;
    let since_us = first
        .now_us
        .saturating_sub(manner.history_s.unsigned_abs() * 1_000_000);
    let mut samples = client.samples(since_us, true);
    let mut events = client.events(target.last_event + 1, true);
    let mut log = Log::none();
    log.open(target, reading, &first, client, listener).await;
    let polls = stream::unfold(client.clone(), |client| async move {
        time::sleep(manner.poll).await;
        let status = ask(client.clone()).await;
        Some((status, client))
    });
    let mut polls = std::pin::pin!(polls);
    let mut link = client.link();
    let mut over_since = None;
    listener.tell(News::Status(Box::new(first))).await;
    loop {
        tokio::select! {
            Some(sample) = samples.next() => listener.tell(News::Sample(Box::new(sample?))).await,
            Some(event) = events.next() => listener.tell(News::Event(event?)).await,
            piece = log.pieces.next() => match piece {
                Some(piece) => listener.tell(News::LogBytes(piece?.data)).await,
                // The session has ended; another may come.
                None => log.pieces = stream::pending().boxed(),
            },
            // Somebody waits for it: the next answer is not.
            true = reading.changed() => {
                reading.turn(target, listener).await;
                log = Log::none();
                if let Ok(status) = ask(client.clone()).await {
                    log.open(target, reading, &status, client, listener).await;
                }
            }
            Some(status) = polls.next() => {
                // A silent link is told by the link itself.
                let Ok(status) = status else { continue };
                log.open(target, reading, &status, client, listener).await;
                let is_over = is_over(&status);
                listener.tell(News::Status(Box::new(status))).await;
                if !is_over {
                    over_since = None;
                } else if over_since.get_or_insert_with(time::Instant::now).elapsed() > AFTER_THE_END {
                    return Ok(());
                }
            }
            Ok(()) = link.changed() => {
                let now = link.borrow_and_update().clone();
                match now {
                    Link::Lost { since, why } => {
                        let ago = i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX);
                        let since_us = clock.now_us().saturating_sub(ago);
                        listener.tell(News::Reach(Reach::Lost { since_us, why })).await;
                    }
                    Link::Connected => listener.tell(News::Reach(Reach::Live)).await,
                    Link::Unused => {}
                }
            }
        }
    }
}

/// A training's log goes on where the copy ends; what was read of another is of no use.
async fn begin(listener: &Listener, target: &Target, session: &str, start: LogStart) {
    if !(session == TRAIN && matches!(start, LogStart::At(_))) {
        let (attempt, session) = (target.attempt, session.to_owned());
        listener.tell(News::LogBegins { attempt, session }).await;
    }
}

/// The session to look at: the training, before that what prepares it.
fn session_of(status: &AgentStatus) -> Option<&'static str> {
    let sessions = [TRAIN, SMOKE, SETUP];
    sessions
        .into_iter()
        .find(|name| status.session(name).is_some())
}

/// Where to begin reading a log.
fn start(copied: Option<LogPosition>, status: &AgentStatus, session: &str) -> LogStart {
    let written = status
        .session(session)
        .map_or(0, |session| session.log_bytes);
    match copied.filter(|_| session == TRAIN) {
        Some(at) if written.saturating_sub(at.offset) <= MOST_TO_COMPLETE_BYTES => LogStart::At(at),
        _ => LogStart::Tail(TAIL_BYTES),
    }
}

/// The training has ended.
fn is_over(status: &AgentStatus) -> bool {
    let training = status.session(TRAIN);
    training.is_some_and(|training| training.state != SessionState::Running)
}
