//! One link to the box of a run, which is only looked at: its readings, log, events and state, as they come.

use std::{future::Future, time::Duration};

use futures::{StreamExt, stream};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use crate::{
    agent_client::{
        AgentClient, AgentError, AgentStatus, Link, LogPosition, LogStart, SessionState,
    },
    error::CommandError,
    run::bringing_up::{SETUP, SMOKE, TRAIN},
    store::Store,
    top::facts::{HISTORY_S, News, Reach},
    tunnel::Tunnel,
};

/// Between two questions how it goes; what is measured and printed comes by itself.
const POLL: Duration = Duration::from_secs(2);
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
    /// Where the copy of the training's log ends, if there is one.
    pub copied: Option<LogPosition>,
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

/// Looks at a box until its training is over, or until `stop`. A box that cannot be reached is tried again, for ever.
pub async fn look<F>(
    target: &Target,
    store: &Store,
    listener: &Listener,
    stop: &CancellationToken,
    dial: impl Fn() -> F,
) where
    F: Future<Output = Result<(Tunnel, AgentClient), CommandError>>,
{
    // What follows on a copy does so once; after that it would be read twice.
    let mut copied = target.copied;
    loop {
        listener.tell(News::Reach(Reach::Connecting)).await;
        let dialled = tokio::select! {
            () = stop.cancelled() => return,
            dialled = dial() => dialled,
        };
        let why = match dialled {
            Ok((tunnel, client)) => {
                let followed = tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    followed = follow(target, copied.take(), store, &client, listener) => followed,
                };
                tunnel.close().await;
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
        let since_us = store.now_us();
        listener
            .tell(News::Reach(Reach::Lost { since_us, why }))
            .await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = time::sleep(TRY_AGAIN) => {}
        }
    }
}

fn why(err: &CommandError) -> String {
    match err.causes() {
        [] => err.message().to_owned(),
        causes => causes.join(": "),
    }
}

/// Tells everything that comes, until the training is over. A link that breaks is mended inside the client.
async fn follow(
    target: &Target,
    copied: Option<LogPosition>,
    store: &Store,
    client: &AgentClient,
    listener: &Listener,
) -> Result<(), AgentError> {
    let first = client.status(STATUS_LIMIT).await?;
    listener.tell(News::Reach(Reach::Live)).await;
    let since_us = first
        .now_us
        .saturating_sub(HISTORY_S.unsigned_abs() * 1_000_000);
    let mut samples = client.samples(since_us, true);
    let mut events = client.events(target.last_event + 1, true);
    let mut session = session_of(&first).map(str::to_owned);
    let mut log = match &session {
        Some(session) => {
            let start = start(copied, &first, session);
            begin(listener, target, session, start).await;
            client.logs(session, start, true)
        }
        None => stream::pending().boxed(),
    };
    let polls = stream::unfold(client.clone(), |client| async {
        time::sleep(POLL).await;
        let status = client.status(STATUS_LIMIT).await;
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
            piece = log.next() => match piece {
                Some(piece) => listener.tell(News::LogBytes(piece?.data)).await,
                // The session has ended; another may come.
                None => log = stream::pending().boxed(),
            },
            Some(status) = polls.next() => {
                // A silent link is told by the link itself.
                let Ok(status) = status else { continue };
                let newest = session_of(&status).map(str::to_owned);
                if newest != session && let Some(newest) = &newest {
                    let start = LogStart::Tail(TAIL_BYTES);
                    begin(listener, target, newest, start).await;
                    log = client.logs(newest, start, true);
                }
                session = newest;
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
                        let since_us = store.now_us().saturating_sub(ago);
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
