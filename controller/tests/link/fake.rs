//! A small agent in memory, whose cable can be cut at will.

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
use spotter::agent_client::{AgentClient, Dial, DialError, Io};
use spotter_proto::v1::{self, agent_server};
use tokio::task::AbortHandle;
use tonic::{Request, Response, Status, transport::Server};
use tower::util::MapRequestLayer;

/// What the small agent knows, and the cables to it.
#[derive(Default)]
pub struct World {
    pub calls: AtomicU64,
    /// The first call by each cable.
    pub first: Mutex<Vec<String>>,
    /// Statuses for which nobody is there.
    pub in_passing: AtomicU64,
    pub sessions: Mutex<Vec<v1::Session>>,
    pub cables: Mutex<Vec<AbortHandle>>,
    pub dials: AtomicUsize,
    /// So many of the next dials fail.
    pub refuse: AtomicUsize,
    /// A refused dial says that trying again is of no use.
    pub permanent: AtomicBool,
    /// The next answer that can be lost is.
    pub lose: AtomicBool,
    /// The cable is cut after every so many messages of a stream; 0: never.
    pub cut_every: AtomicUsize,
    /// Stream requests as they came.
    pub asked: Mutex<Vec<String>>,
    /// Bytes that are in the bucket, of so many in all: one more with each status.
    pub uploaded: AtomicU64,
    pub of_bytes: AtomicU64,
}

impl World {
    pub fn cut(&self) {
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
pub struct Fake(pub Arc<World>);

impl Fake {
    pub fn client(&self) -> AgentClient {
        AgentClient::new(Arc::new(self.clone()))
    }

    /// Cuts the cable behind every n-th message.
    pub fn breaking<T: Send + 'static>(
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
        let (world, is_first) = (self.0.clone(), Arc::new(AtomicBool::new(true)));
        let note = MapRequestLayer::new(move |request: http::Request<tonic::body::Body>| {
            if is_first.swap(false, SeqCst) {
                let call = request.uri().path().rsplit('/').next().unwrap_or_default();
                world.first.lock().unwrap().push(call.to_owned());
            }
            request
        });
        tokio::spawn(
            Server::builder()
                .layer(note)
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
pub fn log_bytes() -> Vec<u8> {
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
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let looks = u64::from(request.get_ref().only_looks);
        self.0.in_passing.fetch_add(looks, SeqCst);
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

    async fn measure_line(
        &self,
        _: Request<v1::MeasureLineRequest>,
    ) -> Result<Response<v1::MeasureLineResponse>, Status> {
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
