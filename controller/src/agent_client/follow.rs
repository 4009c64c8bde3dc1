//! Streams that go on where they stood: events by sequence number, logs by position, samples by time.
//!
//! A break of the link is bridged inside. A stream that follows does so for ever, until it is dropped. One that ends by itself is
//! read by somebody who has more to do, and ends with an error after [`SILENCE`] without a word. So does either at once where trying
//! again changes nothing, and with the agent's own refusal. The work in progress lives in the stream, so `next` may be cancelled in a
//! `select`.

use std::{future::Future, pin::Pin, time::Duration};

use futures::{Stream, stream};
use spotter_proto::v1::{self, agent_client::AgentClient as Contract};
use tokio::time::{sleep, timeout};
use tonic::{Response, Status, Streaming, transport::Channel};

use super::{
    AgentClient, AgentError, AgentEvent, Backoff, CALL_LIMIT, LogPiece, LogStart, SampleInfo,
    refused,
};

/// Longest time without an item of a stream that ends by itself: as long as the watcher gives a status. An agent that is replaced is
/// back well before.
const SILENCE: Duration = Duration::from_secs(20);

/// Items with their break-proof delivery.
pub type Followed<T> = Pin<Box<dyn Stream<Item = Result<T, AgentError>> + Send>>;

/// What makes one kind of stream.
trait Position: Send + 'static {
    type Message: Send + 'static;
    type Item: Send + 'static;
    const CALL: &'static str;

    /// Asks for everything from here on.
    fn open(
        &self,
        to: Contract<Channel>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Message>>, Status>> + Send + 'static;

    /// Takes a message and moves on; `None` for one that was delivered before.
    fn accept(&mut self, message: Self::Message) -> Option<Self::Item>;

    /// Nothing can follow.
    fn finished(&self) -> bool;

    /// It goes on for as long as there may be more.
    fn follows(&self) -> bool;
}

struct Events {
    next: u64,
    follow: bool,
}

impl Position for Events {
    type Message = v1::Event;
    type Item = AgentEvent;
    const CALL: &'static str = "events";

    fn open(
        &self,
        mut to: Contract<Channel>,
    ) -> impl Future<Output = Result<Response<Streaming<v1::Event>>, Status>> + Send + 'static {
        let request = v1::EventsRequest {
            from: self.next,
            follow: self.follow,
        };
        async move { to.events(request).await }
    }

    fn accept(&mut self, message: v1::Event) -> Option<AgentEvent> {
        if message.seq < self.next {
            return None;
        }
        self.next = message.seq + 1;
        Some(message.into())
    }

    fn finished(&self) -> bool {
        !self.follow
    }

    fn follows(&self) -> bool {
        self.follow
    }
}

struct Logs {
    session: String,
    start: LogStart,
    follow: bool,
    ended: bool,
}

impl Position for Logs {
    type Message = v1::LogChunk;
    type Item = LogPiece;
    const CALL: &'static str = "logs";

    fn open(
        &self,
        mut to: Contract<Channel>,
    ) -> impl Future<Output = Result<Response<Streaming<v1::LogChunk>>, Status>> + Send + 'static
    {
        let (position, tail_bytes) = match self.start {
            LogStart::At(position) => (Some(position.into()), 0),
            LogStart::Tail(bytes) => (None, bytes),
        };
        let request = v1::LogsRequest {
            session: self.session.clone(),
            position,
            tail_bytes,
            follow: self.follow,
        };
        async move { to.logs(request).await }
    }

    fn accept(&mut self, message: v1::LogChunk) -> Option<LogPiece> {
        let mut piece = LogPiece::from(message);
        if let LogStart::At(wanted) = self.start
            && piece.position.generation == wanted.generation
            && piece.position.offset < wanted.offset
        {
            // Bytes that were delivered before the break.
            let known =
                usize::try_from(wanted.offset - piece.position.offset).unwrap_or(usize::MAX);
            let known = known.min(piece.data.len());
            piece.data.drain(..known);
            piece.position.offset += known as u64;
            if piece.data.is_empty() && !piece.end {
                return None;
            }
        }
        self.ended |= piece.end;
        self.start = LogStart::At(piece.next());
        Some(piece)
    }

    fn finished(&self) -> bool {
        self.ended || !self.follow
    }

    fn follows(&self) -> bool {
        self.follow
    }
}

struct Samples {
    after_us: u64,
    until_us: u64,
    follow: bool,
}

impl Position for Samples {
    type Message = v1::Sample;
    type Item = SampleInfo;
    const CALL: &'static str = "samples";

    fn open(
        &self,
        mut to: Contract<Channel>,
    ) -> impl Future<Output = Result<Response<Streaming<v1::Sample>>, Status>> + Send + 'static
    {
        let request = v1::SamplesRequest {
            after_us: self.after_us,
            follow: self.follow,
            until_us: self.until_us,
        };
        async move { to.samples(request).await }
    }

    fn accept(&mut self, message: v1::Sample) -> Option<SampleInfo> {
        if message.time_us <= self.after_us {
            return None;
        }
        self.after_us = message.time_us;
        Some(message.into())
    }

    fn finished(&self) -> bool {
        !self.follow
    }

    fn follows(&self) -> bool {
        self.follow
    }
}

struct Follower<P: Position> {
    client: AgentClient,
    position: P,
    stream: Option<Streaming<P::Message>>,
    backoff: Backoff,
    /// What the link said when it failed last, until something came.
    why: Option<String>,
    over: bool,
}

impl<P: Position> Follower<P> {
    async fn next(&mut self) -> Option<Result<P::Item, AgentError>> {
        if self.position.follows() {
            return self.bridge().await;
        }
        match timeout(SILENCE, self.bridge()).await {
            Ok(next) => next,
            Err(_) => {
                self.over = true;
                Some(Err(AgentError::Deadline {
                    call: P::CALL,
                    limit: SILENCE,
                    why: self.why.take(),
                }))
            }
        }
    }

    async fn bridge(&mut self) -> Option<Result<P::Item, AgentError>> {
        while !self.over {
            if self.stream.is_none()
                && let Err(err) = self.client.say_passing(CALL_LIMIT).await
            {
                match err {
                    AgentError::Deadline { why, .. } => self.why = why,
                    err => {
                        self.over = true;
                        return Some(Err(err));
                    }
                }
                continue;
            }
            let answer = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.position.open(self.client.contract.clone()).await {
                    Ok(answer) => {
                        self.client.shared.connected();
                        self.stream = Some(answer.into_inner());
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            let status = match answer {
                Ok(Some(message)) => {
                    self.backoff = Backoff::new();
                    self.why = None;
                    let item = self.position.accept(message);
                    match item {
                        Some(item) => return Some(Ok(item)),
                        None => continue,
                    }
                }
                Ok(None) if self.position.finished() => {
                    self.over = true;
                    break;
                }
                // The daemon is being replaced.
                Ok(None) => Status::unavailable("the agent ended the stream"),
                Err(status) => status,
            };
            self.stream = None;
            let Some(failure) = self.client.shared.link_failure(&status) else {
                self.over = true;
                return Some(Err(refused(P::CALL, &status)));
            };
            if failure.permanent {
                self.over = true;
                return Some(Err(AgentError::Unreachable { why: failure.why }));
            }
            self.why = Some(failure.why);
            sleep(self.backoff.next()).await;
        }
        None
    }

    fn into_stream(self) -> Followed<P::Item> {
        Box::pin(stream::unfold(self, |mut follower| async move {
            let item = follower.next().await?;
            Some((item, follower))
        }))
    }
}

fn follow<P: Position>(client: &AgentClient, position: P) -> Followed<P::Item> {
    Follower {
        client: client.clone(),
        position,
        stream: None,
        backoff: Backoff::new(),
        why: None,
        over: false,
    }
    .into_stream()
}

impl AgentClient {
    /// Journal events from `from` on (1: all that the agent still has). With `follow`, new ones as they happen, for ever.
    pub fn events(&self, from: u64, follow_on: bool) -> Followed<AgentEvent> {
        follow(
            self,
            Events {
                next: from.max(1),
                follow: follow_on,
            },
        )
    }

    /// Bytes of a session's log. With `follow`, new ones as they are written, until the session has ended.
    pub fn logs(&self, session: &str, start: LogStart, follow_on: bool) -> Followed<LogPiece> {
        follow(
            self,
            Logs {
                session: session.to_owned(),
                start,
                follow: follow_on,
                ended: false,
            },
        )
    }

    /// Samples taken after `after_us` (0: all that the agent still has). With `follow`, new ones as they are taken, for ever.
    pub fn samples(&self, after_us: u64, follow_on: bool) -> Followed<SampleInfo> {
        follow(
            self,
            Samples {
                after_us,
                until_us: 0,
                follow: follow_on,
            },
        )
    }

    /// Samples taken after `after_us` and not after `until_us` (0: up to now).
    pub fn samples_between(&self, after_us: u64, until_us: u64) -> Followed<SampleInfo> {
        follow(
            self,
            Samples {
                after_us,
                until_us,
                follow: false,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::agent_client::LogPosition;

    #[test]
    fn bytes_that_were_delivered_before_are_cut_off() {
        let at = |generation, offset| LogStart::At(LogPosition { generation, offset });
        let check = |start: LogStart,
                     chunk: (u64, u64, &[u8]),
                     expected: Option<(u64, &[u8])>,
                     next: LogStart| {
            let mut logs = Logs {
                session: String::new(),
                start,
                follow: true,
                ended: false,
            };
            let position = Some(v1::LogPosition {
                generation: chunk.0,
                offset: chunk.1,
            });
            let piece = logs.accept(v1::LogChunk {
                position,
                data: chunk.2.to_vec(),
                ..Default::default()
            });
            assert_eq!(
                piece
                    .as_ref()
                    .map(|piece| (piece.position.offset, piece.data.as_slice())),
                expected
            );
            assert_eq!(logs.start, next);
        };
        check(at(1, 10), (1, 10, b"abc"), Some((10, b"abc")), at(1, 13));
        check(at(1, 10), (1, 8, b"abc"), Some((10, b"c")), at(1, 11));
        check(at(1, 10), (1, 0, b"abc"), None, at(1, 10));
        check(at(1, 10), (2, 0, b"new"), Some((0, b"new")), at(2, 3));
        check(
            LogStart::Tail(100),
            (1, 50, b"x"),
            Some((50, b"x")),
            at(1, 51),
        );
    }

    #[test]
    fn an_event_is_delivered_once() {
        let mut events = Events {
            next: 5,
            follow: true,
        };
        let mut accept = |seq| {
            events
                .accept(v1::Event {
                    seq,
                    ..Default::default()
                })
                .map(|event| event.seq)
        };
        assert_eq!(
            [4, 5, 5, 7, 6].map(&mut accept),
            [None, Some(5), None, Some(7), None]
        );
    }

    /// A box behind a link that is down; `permanent` where trying again changes nothing.
    struct Nowhere {
        permanent: bool,
    }

    #[async_trait::async_trait]
    impl crate::agent_client::Dial for Nowhere {
        async fn dial(
            &self,
        ) -> Result<Box<dyn crate::agent_client::Io>, crate::agent_client::DialError> {
            Err(crate::agent_client::DialError {
                why: "no route to the box".to_owned(),
                permanent: self.permanent,
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_ends_by_itself_is_not_waited_for_behind_a_dead_link() {
        let client = AgentClient::new(std::sync::Arc::new(Nowhere { permanent: false }));
        let began = tokio::time::Instant::now();
        let mut events = client.events(1, false);
        let said = events.next().await.unwrap().unwrap_err().to_string();
        assert!(said.contains("no route to the box"), "{said}");
        assert_eq!(began.elapsed().as_secs(), SILENCE.as_secs());
        assert!(events.next().await.is_none());
        let mut followed = client.events(1, true);
        let long = timeout(Duration::from_secs(3600), followed.next()).await;
        assert!(long.is_err(), "one that follows waits for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_trying_changes_ends_every_stream_at_once() {
        let client = AgentClient::new(std::sync::Arc::new(Nowhere { permanent: true }));
        for follow_on in [false, true] {
            let began = tokio::time::Instant::now();
            let mut events = client.events(1, follow_on);
            let err = events.next().await.unwrap().unwrap_err();
            assert!(matches!(err, AgentError::Unreachable { .. }), "{err}");
            assert!(began.elapsed() < Duration::from_secs(1));
        }
    }
}
