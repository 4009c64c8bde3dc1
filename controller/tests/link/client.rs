//! The client against a small agent in memory, whose cable can be cut at will.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt, stream};
use spotter::agent_client::{
    AgentClient, AgentError, Dial, DialError, Io, Link, LogPosition, LogStart, SessionRequest,
    Verdict,
};
use spotter_proto::v1::{self, agent_server};
use tokio::task::AbortHandle;
use tonic::{Request, Response, Status, transport::Server};

/// What the small agent knows, and the cables to it.
#[derive(Default)]
struct World {
    calls: AtomicU64,
    sessions: Mutex<Vec<v1::Session>>,
    cables: Mutex<Vec<AbortHandle>>,
    dials: AtomicUsize,
    /// So many of the next dials fail.
    refuse: AtomicUsize,
    /// A refused dial says that trying again is of no use.
    permanent: AtomicBool,
    /// The next answer that can be lost is.
    lose: AtomicBool,
    /// The cable is cut after every so many messages of a stream; 0: never.
    cut_every: AtomicUsize,
    /// Stream requests as they came.
    asked: Mutex<Vec<String>>,
    /// Bytes that are in the bucket, of so many in all: one more with each status.
    uploaded: AtomicU64,
    of_bytes: AtomicU64,
}

impl World {
    fn cut(&self) {
        for cable in self.cables.lock().unwrap().drain(..) {
            cable.abort();
        }
    }

    async fn lose_answer(&self) {
        if self.lose.swap(false, SeqCst) {
            self.cut();
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Clone, Default)]
struct Fake(Arc<World>);

impl Fake {
    fn client(&self) -> AgentClient {
        AgentClient::new(Arc::new(self.clone()))
    }

    /// Cuts the cable behind every n-th message.
    fn breaking<T: Send + 'static>(
        &self,
        messages: impl Stream<Item = T> + Send + 'static,
    ) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
        let (world, every) = (self.0.clone(), self.0.cut_every.load(SeqCst));
        let messages = messages.enumerate().then(move |(n, message)| {
            let world = world.clone();
            async move {
                if every > 0 && n == every {
                    // What was sent before arrives; then nothing.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    world.cut();
                }
                Ok(message)
            }
        });
        Box::pin(messages)
    }
}

#[async_trait]
impl Dial for Fake {
    async fn dial(&self) -> Result<Box<dyn Io>, DialError> {
        self.0.dials.fetch_add(1, SeqCst);
        let refused = self
            .0
            .refuse
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        if refused.is_ok() {
            return Err(DialError {
                why: "nobody home".to_owned(),
                permanent: self.0.permanent.load(SeqCst),
            });
        }
        let (near, mut cable_near) = tokio::io::duplex(64 << 10);
        let (far, mut cable_far) = tokio::io::duplex(64 << 10);
        let cable = tokio::spawn(async move {
            let _ = tokio::io::copy_bidirectional(&mut cable_near, &mut cable_far).await;
        });
        self.0.cables.lock().unwrap().push(cable.abort_handle());
        let service = agent_server::AgentServer::new(self.clone());
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(stream::once(async move { Ok::<_, std::io::Error>(far) })),
        );
        Ok(Box::new(near))
    }
}

fn missing() -> Status {
    Status::unimplemented("not part of this test")
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The log that the small agent has: 100 bytes in generation 1, then 100 in generation 2.
fn log_bytes() -> Vec<u8> {
    (0..200u8).collect()
}

#[async_trait]
impl agent_server::Agent for Fake {
    type EventsStream = Messages<v1::Event>;
    type SamplesStream = Messages<v1::Sample>;
    type LogsStream = Messages<v1::LogChunk>;
    type RestoreStream = Messages<v1::RestoreProgress>;

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let from = request.into_inner().from;
        self.0.asked.lock().unwrap().push(format!("events {from}"));
        // An agent that begins a little early must do no harm.
        let first = from.saturating_sub(1).max(1);
        let events = stream::iter((first..=30).map(|seq| v1::Event {
            seq,
            ..Default::default()
        }));
        Ok(Response::new(
            self.breaking(events.chain(stream::pending())),
        ))
    }

    async fn samples(
        &self,
        request: Request<v1::SamplesRequest>,
    ) -> Result<Response<Self::SamplesStream>, Status> {
        let request = request.into_inner();
        let after = request.after_us;
        self.0
            .asked
            .lock()
            .unwrap()
            .push(format!("samples {after}"));
        // Here as well: the reading that was delivered last comes again.
        let samples = stream::iter((after.max(1)..=20).map(|time_us| v1::Sample {
            time_us,
            ..Default::default()
        }));
        let messages = match request.follow {
            true => samples.chain(stream::pending()).boxed(),
            false => samples.boxed(),
        };
        Ok(Response::new(self.breaking(messages)))
    }

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        if request.session != "train" {
            return Err(Status::not_found("no such session"));
        }
        let from = match request.position {
            Some(v1::LogPosition {
                generation: 2,
                offset,
            }) => 100 + offset as usize,
            Some(v1::LogPosition { offset, .. }) => offset as usize,
            None => 200 - request.tail_bytes as usize,
        };
        self.0.asked.lock().unwrap().push(format!("logs {from}"));
        let all = log_bytes();
        let chunks: Vec<v1::LogChunk> = (from..200)
            .step_by(7)
            .map(|at| {
                let limit = if at < 100 { 100 } else { 200 };
                let (generation, offset) = if at < 100 { (1, at) } else { (2, at - 100) };
                v1::LogChunk {
                    position: Some(v1::LogPosition {
                        generation,
                        offset: offset as u64,
                    }),
                    data: all[at..(at + 7).min(limit)].to_vec(),
                    ..Default::default()
                }
            })
            .collect();
        // A step over the border of the generations is cut there and goes on behind it.
        let mut whole: Vec<v1::LogChunk> = Vec::new();
        for chunk in chunks {
            let position = chunk.position.unwrap();
            let end = position.offset + chunk.data.len() as u64;
            let short = position.generation == 1 && end == 100 && chunk.data.len() < 7;
            let rest = 7 - chunk.data.len();
            whole.push(chunk);
            if short {
                let position = Some(v1::LogPosition {
                    generation: 2,
                    offset: 0,
                });
                whole.push(v1::LogChunk {
                    position,
                    data: all[100..100 + rest].to_vec(),
                    ..Default::default()
                });
            }
        }
        if let Some(last) = whole.last_mut() {
            last.end = true;
        } else {
            let position = Some(v1::LogPosition {
                generation: 2,
                offset: 100,
            });
            whole.push(v1::LogChunk {
                position,
                end: true,
                ..Default::default()
            });
        }
        Ok(Response::new(self.breaking(stream::iter(whole))))
    }

    async fn restore(
        &self,
        _: Request<v1::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        let last = v1::RestoreProgress {
            done_bytes: 300,
            total_bytes: 300,
            restored: Some(v1::Checkpoint {
                id: "000000000005-x".to_owned(),
                step: Some(5),
                ..Default::default()
            }),
            path: "/w/checkpoints/5.pt".to_owned(),
            done: true,
            ..Default::default()
        };
        let progress = |done_bytes| v1::RestoreProgress {
            done_bytes,
            total_bytes: 300,
            ..Default::default()
        };
        let answer = self.breaking(stream::iter([progress(100), progress(200), last]));
        self.0.cut_every.store(0, SeqCst);
        Ok(Response::new(answer))
    }

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let call = self.0.calls.fetch_add(1, SeqCst);
        let build = format!("call-{call}");
        let all = self.0.of_bytes.load(SeqCst);
        let done = self.0.uploaded.load(SeqCst);
        self.0.uploaded.store(all.min(done + 1), SeqCst);
        Ok(Response::new(v1::StatusResponse {
            build,
            backup: Some(v1::BackupStatus {
                uploading_done_bytes: done,
                uploading_total_bytes: all,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn configure(
        &self,
        _: Request<v1::ConfigureRequest>,
    ) -> Result<Response<v1::ConfigureResponse>, Status> {
        Err(missing())
    }

    async fn acknowledge_events(
        &self,
        _: Request<v1::AcknowledgeEventsRequest>,
    ) -> Result<Response<v1::AcknowledgeEventsResponse>, Status> {
        Err(missing())
    }

    async fn start_session(
        &self,
        request: Request<v1::StartSessionRequest>,
    ) -> Result<Response<v1::StartSessionResponse>, Status> {
        let name = request.into_inner().name;
        let session = v1::Session {
            name,
            state: 1,
            pid: 4711,
            ..Default::default()
        };
        {
            let mut sessions = self.0.sessions.lock().unwrap();
            if sessions.iter().any(|known| known.name == session.name) {
                return Err(Status::already_exists("a live session has this name"));
            }
            sessions.push(session.clone());
        }
        self.0.lose_answer().await;
        Ok(Response::new(v1::StartSessionResponse {
            session: Some(session),
        }))
    }

    async fn list_sessions(
        &self,
        _: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let sessions = self.0.sessions.lock().unwrap().clone();
        Ok(Response::new(v1::ListSessionsResponse { sessions }))
    }

    async fn end_session(
        &self,
        request: Request<v1::EndSessionRequest>,
    ) -> Result<Response<v1::EndSessionResponse>, Status> {
        let name = request.into_inner().name;
        Err(Status::not_found(format!("no session `{name}`\u{1b}[2J")))
    }

    async fn send_line(
        &self,
        _: Request<v1::SendLineRequest>,
    ) -> Result<Response<v1::SendLineResponse>, Status> {
        self.0.calls.fetch_add(1, SeqCst);
        self.0.lose_answer().await;
        Ok(Response::new(v1::SendLineResponse {}))
    }

    async fn set_webhook(
        &self,
        _: Request<v1::SetWebhookRequest>,
    ) -> Result<Response<v1::SetWebhookResponse>, Status> {
        Err(missing())
    }

    async fn set_credentials(
        &self,
        _: Request<v1::SetCredentialsRequest>,
    ) -> Result<Response<v1::SetCredentialsResponse>, Status> {
        Err(missing())
    }

    async fn prove_bucket(
        &self,
        _: Request<v1::ProveBucketRequest>,
    ) -> Result<Response<v1::ProveBucketResponse>, Status> {
        std::future::pending::<()>().await;
        Err(missing())
    }

    async fn backup_now(
        &self,
        _: Request<v1::BackupNowRequest>,
    ) -> Result<Response<v1::BackupNowResponse>, Status> {
        Err(missing())
    }

    async fn list_checkpoints(
        &self,
        _: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        Err(missing())
    }

    async fn collect_results(
        &self,
        _: Request<v1::CollectResultsRequest>,
    ) -> Result<Response<v1::CollectResultsResponse>, Status> {
        while self.0.uploaded.load(SeqCst) < self.0.of_bytes.load(SeqCst) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        match self.0.of_bytes.load(SeqCst) {
            0 => std::future::pending().await,
            _ => Ok(Response::new(v1::CollectResultsResponse {
                manifest_key: "p/run/results/x.json".to_owned(),
                ..Default::default()
            })),
        }
    }

    async fn hash_files(
        &self,
        _: Request<v1::HashFilesRequest>,
    ) -> Result<Response<v1::HashFilesResponse>, Status> {
        Err(missing())
    }

    async fn preflight(
        &self,
        _: Request<v1::PreflightRequest>,
    ) -> Result<Response<v1::PreflightResponse>, Status> {
        Err(missing())
    }

    async fn shutdown(
        &self,
        _: Request<v1::ShutdownRequest>,
    ) -> Result<Response<v1::ShutdownResponse>, Status> {
        Err(missing())
    }
}

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_call_is_repeated_until_the_link_is_back() {
    let fake = Fake::default();
    let client = fake.client();
    let link = client.link();
    assert_eq!(*link.borrow(), Link::Unused);
    fake.0.refuse.store(3, SeqCst);
    assert_eq!(client.status(LIMIT).await.unwrap().build, "call-0");
    assert_eq!(fake.0.dials.load(SeqCst), 4);
    assert_eq!(*link.borrow(), Link::Connected);
    fake.0.cut();
    assert_eq!(client.status(LIMIT).await.unwrap().build, "call-1");
    assert_eq!(fake.0.dials.load(SeqCst), 5);
}

#[tokio::test]
async fn a_link_that_stays_away_ends_with_the_deadline_and_its_reason() {
    let fake = Fake::default();
    let client = fake.client();
    fake.0.refuse.store(usize::MAX, SeqCst);
    let err = client.status(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "the agent gave no answer to `status` in 1 s: nobody home"
    );
    let link = client.link().borrow().clone();
    assert!(
        matches!(link, Link::Lost { ref why, .. } if why == "nobody home"),
        "{link:?}"
    );
    assert_eq!(err.verdict(), None);
}

#[tokio::test]
async fn a_reason_that_time_does_not_cure_is_told_at_once() {
    let fake = Fake::default();
    fake.0.refuse.store(usize::MAX, SeqCst);
    fake.0.permanent.store(true, SeqCst);
    let err = fake
        .client()
        .status(Duration::from_secs(3600))
        .await
        .unwrap_err();
    assert!(matches!(err, AgentError::Unreachable { .. }), "{err}");
}

#[tokio::test]
async fn a_verdict_is_returned_at_once_and_cannot_steer_the_terminal() {
    let fake = Fake::default();
    let client = fake.client();
    let err = client
        .end_session("train", Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(err.verdict(), Some(Verdict::NotFound));
    assert_eq!(
        err.to_string(),
        "the agent refused `end_session`: no session `train`[2J"
    );
    assert_eq!(fake.0.dials.load(SeqCst), 1);
    let err = client.checkpoints().await.unwrap_err();
    assert_eq!(err.verdict(), Some(Verdict::Unknown));
    assert_eq!(*client.link().borrow(), Link::Connected);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_answers_meets_the_deadline() {
    let err = Fake::default().client().prove_bucket().await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "the agent gave no answer to `prove_bucket` in 120 s"
    );
}

#[tokio::test]
async fn a_session_whose_start_was_not_confirmed_is_not_started_twice() {
    let fake = Fake::default();
    let client = fake.client();
    fake.0.lose.store(true, SeqCst);
    let request = SessionRequest {
        name: "train".to_owned(),
        command: "x".to_owned(),
        ..Default::default()
    };
    assert_eq!(client.start_session(&request).await.unwrap().pid, 4711);
    assert_eq!(fake.0.sessions.lock().unwrap().len(), 1);
    // A name that somebody else took is a verdict.
    let err = client.start_session(&request).await.unwrap_err();
    assert_eq!(err.verdict(), Some(Verdict::AlreadyExists));
}

#[tokio::test]
async fn a_line_is_never_typed_twice() {
    let fake = Fake::default();
    let client = fake.client();
    fake.0.lose.store(true, SeqCst);
    let err = client.send_line("train", "quit").await.unwrap_err();
    assert!(matches!(err, AgentError::Ambiguous { .. }), "{err}");
    // One look, one line.
    assert_eq!(fake.0.calls.load(SeqCst), 2);
}

#[tokio::test]
async fn events_come_once_each_however_often_the_link_breaks() {
    let fake = Fake::default();
    fake.0.cut_every.store(4, SeqCst);
    let events = fake.client().events(3, true).take(28);
    let seen: Vec<u64> = events.map(|event| event.unwrap().seq).collect().await;
    assert_eq!(seen, (3..=30).collect::<Vec<u64>>());
    assert!(
        fake.0.asked.lock().unwrap().len() > 5,
        "the link never broke"
    );
}

#[tokio::test]
async fn waiting_for_an_event_can_be_cancelled_without_losing_one() {
    let fake = Fake::default();
    fake.0.cut_every.store(2, SeqCst);
    let mut events = fake.client().events(1, true);
    let mut seen = Vec::new();
    while seen.len() < 30 {
        tokio::select! {
            event = events.next() => seen.push(event.unwrap().unwrap().seq),
            () = tokio::time::sleep(Duration::from_millis(3)) => {}
        }
    }
    assert_eq!(seen, (1..=30).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_log_is_whole_however_often_the_link_breaks() {
    let fake = Fake::default();
    fake.0.cut_every.store(3, SeqCst);
    let mut pieces = fake.client().logs(
        "train",
        LogStart::At(LogPosition {
            generation: 1,
            offset: 0,
        }),
        true,
    );
    let mut data = Vec::new();
    let mut end = false;
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        data.extend_from_slice(&piece.data);
        end = piece.end;
    }
    assert!(end);
    assert_eq!(data, log_bytes());
    assert!(
        fake.0.asked.lock().unwrap().len() > 5,
        "the link never broke"
    );
}

#[tokio::test]
async fn a_tail_goes_on_where_it_stood() {
    let fake = Fake::default();
    fake.0.cut_every.store(1, SeqCst);
    let pieces = fake.client().logs("train", LogStart::Tail(20), true);
    let data: Vec<Vec<u8>> = pieces.map(|piece| piece.unwrap().data).collect().await;
    assert_eq!(data.concat(), &log_bytes()[180..]);
    assert_eq!(
        *fake.0.asked.lock().unwrap(),
        ["logs 180", "logs 187", "logs 194"]
    );
}

#[tokio::test]
async fn a_refused_stream_ends_with_the_verdict() {
    let mut pieces = Fake::default()
        .client()
        .logs("nobody", LogStart::Tail(1), true);
    let err = pieces.next().await.unwrap().unwrap_err();
    assert_eq!(err.verdict(), Some(Verdict::NotFound));
    assert!(pieces.next().await.is_none());
}

#[tokio::test]
async fn samples_without_following_end() {
    let fake = Fake::default();
    fake.0.cut_every.store(6, SeqCst);
    let samples = fake.client().samples(4, false);
    let seen: Vec<u64> = samples
        .map(|sample| sample.unwrap().time_us)
        .collect()
        .await;
    assert_eq!(seen, (5..=20).collect::<Vec<u64>>());
}

#[tokio::test]
async fn readings_that_are_followed_come_once_each_however_often_the_link_breaks() {
    let fake = Fake::default();
    fake.0.cut_every.store(4, SeqCst);
    let samples = fake.client().samples(4, true).take(16);
    let seen: Vec<u64> = samples
        .map(|sample| sample.unwrap().time_us)
        .collect()
        .await;
    assert_eq!(seen, (5..=20).collect::<Vec<u64>>());
    // Over each cable come four readings at most, of which the first was known.
    let asked = fake.0.asked.lock().unwrap().clone();
    assert!(asked.len() >= 6, "the link never broke: {asked:?}");
    assert_eq!(asked[0], "samples 4");
    assert!(
        asked[1..].iter().all(|later| *later != "samples 4"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_restore_is_begun_again_when_the_link_breaks() {
    let fake = Fake::default();
    fake.0.cut_every.store(2, SeqCst);
    let mut seen = Vec::new();
    let report = fake
        .client()
        .restore(None, |done, all| seen.push((done, all)))
        .await
        .unwrap();
    assert_eq!(report.restored.unwrap().step, Some(5));
    assert_eq!(report.path.as_deref(), Some("/w/checkpoints/5.pt"));
    assert_eq!(
        seen,
        [(100, 300), (200, 300), (100, 300), (200, 300), (300, 300)]
    );
}

#[tokio::test(start_paused = true)]
async fn results_may_take_as_long_as_they_move_and_no_longer() {
    let paths = ["out".to_owned()];
    let limit = Duration::from_secs(120);
    let fake = Fake::default();
    // A byte each ten seconds.
    fake.0.of_bytes.store(100, SeqCst);
    let began = tokio::time::Instant::now();
    let collected = fake.client().collect_results(&paths, limit).await.unwrap();
    assert!(collected.manifest_key.is_some());
    assert!(began.elapsed() > limit * 5, "{:?}", began.elapsed());

    let fake = Fake::default();
    let began = tokio::time::Instant::now();
    let stuck = fake.client().collect_results(&paths, limit).await;
    assert!(
        matches!(stuck, Err(AgentError::Deadline { .. })),
        "{stuck:?}"
    );
    assert!(began.elapsed() >= limit && began.elapsed() < limit * 2);
}
