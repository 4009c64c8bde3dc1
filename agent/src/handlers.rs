//! One short function per call of the contract: decode, ask, encode. [`to_status`] is the one place for gRPC codes.

pub mod reflection;
mod refusal;
mod streams;

use std::{
    collections::BTreeMap, future::Future, path::PathBuf, pin::Pin, sync::Arc, time::Duration,
};

use spotter_bucket::{Bucket, Credentials, Stock};
use spotter_proto::v1::{self, agent_server::Agent};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use self::refusal::{Refusal, to_status};
use crate::tasks;
use crate::{
    convert,
    daemon::{backup::RunningBackup, core::Core, death, presence::Seat},
    files, now_us, preflight,
    sessions::{NewSession, Session, SessionState},
    webhook::Url,
};

/// Longest wait that a caller may ask for.
const DEADLINE_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Longest time that somebody who does not say so again is believed to tell the user himself.
const QUIET_LIMIT: Duration = Duration::from_secs(10 * 60);

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The contract, answered from the daemon's parts.
pub struct Handlers {
    core: Arc<Core>,
}

impl Handlers {
    /// Answers from these parts.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    fn backup(&self) -> Result<RunningBackup, Status> {
        self.core
            .backup()
            .ok_or_else(|| to_status(Refusal::NoBackup))
    }

    /// Runs work to its end even if the caller goes away: half a start would be nobody's.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Status> {
        let done = tasks::spawn_to_the_end(&self.core.tasks, work).await;
        done.map_err(|err| to_status(Refusal::Broken(err.to_string())))?
            .map_err(to_status)
    }

    /// Runs work that blocks on files.
    async fn blocking<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
        &self,
        work: impl FnOnce(&Core) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Status> {
        let done = self.core.blocking(work).await;
        done.map_err(|err| to_status(Refusal::Broken(err.to_string())))?
            .map_err(to_status)
    }

    async fn encode(&self, session: Session) -> v1::Session {
        let windows = if session.spec.tmux {
            self.core.sessions.windows().await
        } else {
            Vec::new()
        };
        convert::session(session, &windows)
    }

    async fn sessions(&self) -> Result<Vec<v1::Session>, Status> {
        let sessions = self.blocking(|core| core.sessions.list()).await?;
        // Only what runs has a window, and asking costs a process.
        let shown = sessions
            .iter()
            .any(|session| session.state == SessionState::Running && session.spec.tmux);
        let windows = if shown {
            self.core.sessions.windows().await
        } else {
            Vec::new()
        };
        Ok(sessions
            .into_iter()
            .map(|session| convert::session(session, &windows))
            .collect())
    }
}

#[tonic::async_trait]
impl Agent for Handlers {
    type EventsStream = Answers<v1::Event>;
    type SamplesStream = Answers<v1::Sample>;
    type LogsStream = Answers<v1::LogChunk>;
    type RestoreStream = Answers<v1::RestoreProgress>;

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let core = &self.core;
        if let Some(seat) = request.extensions().get::<Seat>() {
            let said = request.get_ref();
            if said.only_looks {
                seat.give_up();
            }
            match said.unattended {
                true => seat.leave_unattended(),
                false => seat.attend(),
            }
        }
        core.renew_budget(request.into_inner().budget_left_s);
        let run = core.run();
        Ok(Response::new(v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: core.build().await.to_owned(),
            now_us: now_us(),
            started_us: core.started_us,
            boot: core.boot.clone(),
            attempt: run.as_ref().map_or(0, |run| run.attempt),
            run: run.map(|run| run.run).unwrap_or_default(),
            last_event: core.journal.last(),
            oldest_unacknowledged_event: core.journal.oldest_unacknowledged(),
            sessions: self.sessions().await?,
            sample: core.telemetry.latest().map(convert::sample),
            training: core.training().map(convert::training),
            backup: core.backup().map(|running| {
                let left = running.bucket.stock().map(Stock::left);
                convert::backup(running.backup.state(), core.credentials.expires_us(), left)
            }),
            gpu_problem: core.telemetry.gpu_problem(),
            gpu_driver: core.telemetry.driver().as_deref().map(convert::gpu_driver),
        }))
    }

    async fn configure(
        &self,
        request: Request<v1::ConfigureRequest>,
    ) -> Answer<v1::ConfigureResponse> {
        let wish = convert::wish(request.into_inner());
        let workdir = self.core.configure(wish).await.map_err(to_status)?;
        Ok(Response::new(v1::ConfigureResponse {
            workdir: workdir.display().to_string(),
        }))
    }

    async fn events(&self, request: Request<v1::EventsRequest>) -> Answer<Self::EventsStream> {
        let request = request.into_inner();
        let from = request.from.max(1);
        Ok(Response::new(streams::events(
            &self.core,
            from,
            request.follow,
        )))
    }

    async fn acknowledge_events(
        &self,
        request: Request<v1::AcknowledgeEventsRequest>,
    ) -> Answer<v1::AcknowledgeEventsResponse> {
        let up_to = request.into_inner().up_to;
        self.blocking(move |core| core.journal.acknowledge(up_to))
            .await?;
        Ok(Response::new(v1::AcknowledgeEventsResponse {}))
    }

    async fn samples(&self, request: Request<v1::SamplesRequest>) -> Answer<Self::SamplesStream> {
        let request = request.into_inner();
        let until_us = match request.until_us {
            0 => u64::MAX,
            _ if request.follow => u64::MAX,
            until_us => until_us,
        };
        Ok(Response::new(streams::samples(
            &self.core,
            request.after_us,
            until_us,
            request.follow,
        )))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        let request = request.into_inner();
        let name = request.session.clone();
        let log = self
            .blocking(move |core| {
                core.sessions.get(&name)?;
                core.logs
                    .of_session(&core.sessions.dir(&name)?)
                    .map_err(Refusal::from)
            })
            .await?;
        let from = match request.position {
            _ if request.tail_bytes > 0 => {
                let log = log.clone();
                self.blocking(move |_| log.tail(request.tail_bytes)).await?
            }
            Some(position) => convert::position(position),
            None => log.beginning(),
        };
        Ok(Response::new(streams::logs(
            &self.core,
            request.session,
            log,
            from,
            request.follow,
        )))
    }

    async fn start_session(
        &self,
        request: Request<v1::StartSessionRequest>,
    ) -> Answer<v1::StartSessionResponse> {
        let request = request.into_inner();
        let mut env = BTreeMap::new();
        env.extend(request.env);
        let new = NewSession {
            name: request.name,
            command: request.command,
            again: request.again.map(|again| convert::again(again, &env)),
            env,
            dir: self.core.workdir().join(request.dir),
            timeout_s: request.timeout_s,
            continues_us: None,
        };
        let core = self.core.clone();
        let session = self
            .to_the_end(async move { Ok(core.sessions.start(new).await?) })
            .await?;
        Ok(Response::new(v1::StartSessionResponse {
            session: Some(self.encode(session).await),
        }))
    }

    async fn list_sessions(
        &self,
        _: Request<v1::ListSessionsRequest>,
    ) -> Answer<v1::ListSessionsResponse> {
        Ok(Response::new(v1::ListSessionsResponse {
            sessions: self.sessions().await?,
        }))
    }

    async fn end_session(
        &self,
        request: Request<v1::EndSessionRequest>,
    ) -> Answer<v1::EndSessionResponse> {
        let request = request.into_inner();
        let grace = seconds(request.grace_s);
        let session = self
            .core
            .sessions
            .end(&request.name, grace)
            .await
            .map_err(to_status)?;
        Ok(Response::new(v1::EndSessionResponse {
            session: Some(self.encode(session).await),
        }))
    }

    async fn send_line(
        &self,
        request: Request<v1::SendLineRequest>,
    ) -> Answer<v1::SendLineResponse> {
        let request = request.into_inner();
        let core = self.core.clone();
        // To the end, so that a text is never left without its Enter.
        self.to_the_end(async move {
            Ok(core
                .sessions
                .send_line(&request.session, &request.line)
                .await?)
        })
        .await?;
        Ok(Response::new(v1::SendLineResponse {}))
    }

    async fn set_credentials(
        &self,
        request: Request<v1::SetCredentialsRequest>,
    ) -> Answer<v1::SetCredentialsResponse> {
        let request = request.into_inner();
        if let Some(grants) = request.grants {
            let running = self.backup()?;
            let stock = running.bucket.stock().ok_or_else(|| {
                to_status(Refusal::Invalid("this box works with keys".to_owned()))
            })?;
            stock.add(convert::grants(grants));
            running.backup.credentials_changed();
            return Ok(Response::new(v1::SetCredentialsResponse {}));
        }
        let credentials = Credentials {
            access_key_id: request.access_key_id,
            secret_access_key: request.secret_access_key,
            session_token: Some(request.session_token).filter(|token| !token.is_empty()),
            expires_us: Some(request.expires_us).filter(|expires| *expires > 0),
        };
        if credentials.access_key_id.is_empty() || credentials.secret_access_key.is_empty() {
            return Err(to_status(Refusal::Invalid(
                "half of a key pair is empty".to_owned(),
            )));
        }
        let persist = request.persist;
        self.blocking(move |core| {
            core.set_credentials(&credentials, persist).map_err(|err| {
                Refusal::Broken(format!("the keys were not kept on the disk: {err}"))
            })
        })
        .await?;
        Ok(Response::new(v1::SetCredentialsResponse {}))
    }

    async fn set_webhook(
        &self,
        request: Request<v1::SetWebhookRequest>,
    ) -> Answer<v1::SetWebhookResponse> {
        let request = request.into_inner();
        let url = Zeroizing::new(request.url);
        let url = match url.is_empty() {
            true => None,
            false => {
                let read = Url::parse(&url);
                Some(read.map_err(|why| to_status(Refusal::Invalid(why.to_owned())))?)
            }
        };
        let quiet = Duration::from_secs(request.quiet_s.into()).min(QUIET_LIMIT);
        let newest = self.core.journal.last();
        self.core.telling.hand_over(url, quiet, newest);
        Ok(Response::new(v1::SetWebhookResponse {}))
    }

    async fn prove_bucket(
        &self,
        _: Request<v1::ProveBucketRequest>,
    ) -> Answer<v1::ProveBucketResponse> {
        let running = self.backup()?;
        let proof = running.prove().await;
        let clock_offset_s = running.bucket.clock_offset_s();
        let problem = proof.err().unwrap_or_default();
        Ok(Response::new(v1::ProveBucketResponse {
            ok: problem.is_empty(),
            problem,
            clock_offset_s,
        }))
    }

    async fn measure_line(
        &self,
        request: Request<v1::MeasureLineRequest>,
    ) -> Answer<v1::MeasureLineResponse> {
        let enough_bytes_per_s = request.into_inner().enough_bytes_per_s;
        let measured = self.backup()?.measure_line(enough_bytes_per_s).await;
        Ok(Response::new(convert::line(measured)))
    }

    async fn backup_now(
        &self,
        request: Request<v1::BackupNowRequest>,
    ) -> Answer<v1::BackupNowResponse> {
        let request = request.into_inner();
        let running = self.backup()?;
        crate::aside(|| death::tell(&self.core, &running));
        let state = running
            .backup
            .backup_now(seconds(request.deadline_s), request.r#final)
            .await
            .map_err(to_status)?;
        let left = running.bucket.stock().map(Stock::left);
        Ok(Response::new(v1::BackupNowResponse {
            backup: Some(convert::backup(
                state,
                self.core.credentials.expires_us(),
                left,
            )),
        }))
    }

    async fn list_checkpoints(
        &self,
        _: Request<v1::ListCheckpointsRequest>,
    ) -> Answer<v1::ListCheckpointsResponse> {
        let found = self.backup()?.backup.list().await.map_err(to_status)?;
        let checkpoints = found.into_iter().map(convert::checkpoint).collect();
        Ok(Response::new(v1::ListCheckpointsResponse { checkpoints }))
    }

    async fn restore(&self, request: Request<v1::RestoreRequest>) -> Answer<Self::RestoreStream> {
        let id = Some(request.into_inner().id).filter(|id| !id.is_empty());
        let running = self.backup()?;
        Ok(Response::new(streams::restore(&self.core, running, id)))
    }

    async fn collect_results(
        &self,
        request: Request<v1::CollectResultsRequest>,
    ) -> Answer<v1::CollectResultsResponse> {
        let paths = request.into_inner().paths;
        let workdir = self.core.workdir();
        let (files, missing, manifest_key) = match self.core.backup() {
            Some(running) => {
                let kept = running
                    .backup
                    .collect_results(&workdir, &paths)
                    .await
                    .map_err(to_status)?;
                (kept.files, kept.missing, kept.manifest_key)
            }
            None => {
                let hashed = self
                    .blocking(move |_| files::hash_files(&workdir, &paths))
                    .await?;
                (hashed.files, hashed.missing, String::new())
            }
        };
        let files = files.into_iter().map(convert::file_hash).collect();
        Ok(Response::new(v1::CollectResultsResponse {
            files,
            missing,
            manifest_key,
        }))
    }

    async fn hash_files(
        &self,
        request: Request<v1::HashFilesRequest>,
    ) -> Answer<v1::HashFilesResponse> {
        let paths = request.into_inner().paths;
        let hashed = self
            .blocking(move |core| files::hash_files(&core.workdir(), &paths))
            .await?;
        let names = |paths: &[PathBuf]| -> Vec<String> {
            let name = |path: &PathBuf| path.to_string_lossy().into_owned();
            paths.iter().map(name).collect()
        };
        let files = hashed.files.into_iter().map(convert::file_hash).collect();
        Ok(Response::new(v1::HashFilesResponse {
            files,
            missing: hashed.missing,
            leading_out: names(&hashed.leading_out),
            broken: names(&hashed.broken),
            meant: hashed
                .meant
                .iter()
                .map(|path| match path.as_os_str().is_empty() {
                    true => ".".to_owned(),
                    false => path.to_string_lossy().into_owned(),
                })
                .collect(),
        }))
    }

    async fn preflight(
        &self,
        request: Request<v1::PreflightRequest>,
    ) -> Answer<v1::PreflightResponse> {
        let request = request.into_inner();
        let promise = preflight::Promise {
            gpus: request.gpus,
            disk_bytes: request.disk_bytes,
        };
        let core = &self.core;
        let provider_url = core.provider_url();
        let offset_s = core.backup().map(|running| running.bucket.clock_offset_s());
        let workdir: PathBuf = core.workdir();
        let report = preflight::preflight(
            &core.home,
            &workdir,
            &core.telemetry,
            &provider_url,
            offset_s,
            promise,
        )
        .await;
        Ok(Response::new(convert::preflight(report)))
    }

    async fn shutdown(
        &self,
        request: Request<v1::ShutdownRequest>,
    ) -> Answer<v1::ShutdownResponse> {
        let wipe = request.into_inner().wipe;
        if wipe {
            // The keys at once: whoever asked destroys the box as soon as the answer is there.
            self.blocking(|core| {
                if core.is_busy()? {
                    return Err(Refusal::Busy);
                }
                Ok(core.credentials.wipe()?)
            })
            .await?;
        }
        self.core.shut_down(wipe);
        Ok(Response::new(v1::ShutdownResponse {}))
    }
}

fn seconds(asked: u32) -> Duration {
    Duration::from_secs(asked.into()).min(DEADLINE_LIMIT)
}
