//! The agent's calls in our own types; reconnects by itself. Contract types stop here.
//!
//! A broken link is never a verdict: calls are repeated within their deadline, streams go on where they stood, for ever, until
//! dropped. What the agent decided is returned at once. [`types`] are the words, [`follow`] the streams, [`link`] tells a
//! break from an answer, [`dial`] is how a byte stream to the agent is had.

mod convert;
mod dial;
mod follow;
mod link;
mod types;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use spotter_bucket::{Batch, Credentials};
use spotter_proto::v1::{self, agent_client::AgentClient as Contract};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

pub use convert::left_samples;
pub use dial::{BridgeDial, Dial, DialError, Io};
pub use follow::Followed;
pub use link::{AgentError, Link, Verdict};
use link::{Backoff, Shared, refused};
pub use types::*;

/// Longest time for a call that only asks or notes something, reconnecting included.
pub const CALL_LIMIT: Duration = Duration::from_secs(60);
/// What a call may take on top of the time that the agent was given for its work.
const MARGIN: Duration = Duration::from_secs(30);
/// A silent link is noticed after this and [`KEEPALIVE_TIMEOUT`]: half the time that ssh itself would take.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at whether anything moves in a call that reports nothing.
const MOVED_LOOK: Duration = Duration::from_secs(10);
/// A restore that reports nothing for this long has failed: the agent reports at least every few seconds.
const RESTORE_SILENCE_LIMIT: Duration = Duration::from_secs(300);

/// A client of one agent; cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentClient {
    contract: Contract<Channel>,
    shared: Arc<Shared>,
    unattended: bool,
}

impl AgentClient {
    /// A client that dials when it first needs to, and again after every break.
    pub fn new(dial: Arc<dyn Dial>) -> AgentClient {
        let shared = Arc::new(Shared::new());
        let endpoint = Endpoint::from_static("http://agent.invalid")
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            // 2 MB is what an ssh channel has in flight; larger windows would only fill buffers.
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(4 << 20);
        let channel = endpoint.connect_with_connector_lazy(dial::connector(dial, shared.clone()));
        AgentClient {
            contract: Contract::new(channel),
            shared,
            unattended: false,
        }
    }

    /// The same for a program that acts with no person at it who could answer; the agent hears it with each status.
    #[must_use]
    pub fn unattended(mut self) -> AgentClient {
        self.unattended = true;
        self
    }

    /// How the link is, now and as it changes.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    /// Makes one call, again and again while only the link is at fault.
    async fn call<T, F>(
        &self,
        call: &'static str,
        limit: Duration,
        ask: impl Fn(Contract<Channel>) -> F,
    ) -> Result<T, AgentError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let began = Instant::now();
        let mut backoff = Backoff::new();
        let mut why = None;
        loop {
            let left = limit.saturating_sub(began.elapsed());
            let Ok(answer) = timeout(left, ask(self.contract.clone())).await else {
                return Err(AgentError::Deadline { call, limit, why });
            };
            let status = match answer {
                Ok(answer) => {
                    self.shared.connected();
                    return Ok(answer.into_inner());
                }
                Err(status) => status,
            };
            let Some(failure) = self.shared.link_failure(&status) else {
                return Err(refused(call, &status));
            };
            if failure.permanent {
                return Err(AgentError::Unreachable { why: failure.why });
            }
            why = Some(failure.why);
            let pause = backoff.next();
            if began.elapsed() + pause >= limit {
                return Err(AgentError::Deadline { call, limit, why });
            }
            sleep(pause).await;
        }
    }

    /// What the agent is and how its box is. `limit` bounds the wait: a heartbeat wants a short one.
    ///
    /// # Errors
    /// [`AgentError::Deadline`] when nothing came through in time.
    pub async fn status(&self, limit: Duration) -> Result<AgentStatus, AgentError> {
        self.ask_status(limit, 0, false).await
    }

    /// The same for a program that no person sits at: to the agent nobody is there by this connection.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn status_in_passing(&self, limit: Duration) -> Result<AgentStatus, AgentError> {
        self.ask_status(limit, 0, true).await
    }

    /// The same, and on the way tells the agent how long the run's money lasts from now on.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn status_telling(
        &self,
        limit: Duration,
        money_lasts: Duration,
    ) -> Result<AgentStatus, AgentError> {
        // 0 would say nothing.
        self.ask_status(limit, whole_seconds(money_lasts).max(1), false)
            .await
    }

    async fn ask_status(
        &self,
        limit: Duration,
        budget_left_s: u32,
        only_looks: bool,
    ) -> Result<AgentStatus, AgentError> {
        let request = v1::StatusRequest {
            budget_left_s,
            only_looks,
            unattended: self.unattended,
        };
        let answer = self.call(
            "status",
            limit,
            |mut to| async move { to.status(request).await },
        );
        answer.await.map(AgentStatus::from)
    }

    /// Tells the agent what it works for; repeating it is harmless. Returns the absolute working directory.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn configure(&self, config: &BoxConfig) -> Result<String, AgentError> {
        let request = v1::ConfigureRequest::from(config);
        let answer = self.call("configure", CALL_LIMIT, |mut to| {
            let request = request.clone();
            async move { to.configure(request).await }
        });
        Ok(answer.await?.workdir)
    }

    /// Says that events up to `up_to` are stored here.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn acknowledge_events(&self, up_to: u64) -> Result<(), AgentError> {
        let request = v1::AcknowledgeEventsRequest { up_to };
        let answer = self.call("acknowledge_events", CALL_LIMIT, |mut to| async move {
            to.acknowledge_events(request).await
        });
        answer.await.map(|_| ())
    }

    /// Starts a session. A repetition after a lost answer finds the session that the first try started.
    ///
    /// # Errors
    /// [`Verdict::AlreadyExists`] when a live session has the name.
    pub async fn start_session(&self, request: &SessionRequest) -> Result<SessionInfo, AgentError> {
        let message = v1::StartSessionRequest::from(request);
        let tries = AtomicU32::new(0);
        let answer = self.call("start_session", CALL_LIMIT, |mut to| {
            tries.fetch_add(1, Ordering::Relaxed);
            let message = message.clone();
            async move { to.start_session(message).await }
        });
        match answer.await {
            Ok(answer) => required("start_session", answer.session).map(SessionInfo::from),
            Err(err)
                if err.verdict() == Some(Verdict::AlreadyExists)
                    && tries.load(Ordering::Relaxed) > 1 =>
            {
                let sessions = self.sessions().await?;
                sessions
                    .into_iter()
                    .find(|session| session.name == request.name)
                    .ok_or(err)
            }
            Err(err) => Err(err),
        }
    }

    /// All sessions, newest first.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, AgentError> {
        let answer = self.call("list_sessions", CALL_LIMIT, |mut to| async move {
            to.list_sessions(v1::ListSessionsRequest {}).await
        });
        Ok(answer
            .await?
            .sessions
            .into_iter()
            .map(SessionInfo::from)
            .collect())
    }

    /// Ends a session: SIGTERM, SIGKILL after `grace`. Answers when it has ended.
    ///
    /// # Errors
    /// [`Verdict::NotFound`] when there is no such session.
    pub async fn end_session(
        &self,
        name: &str,
        grace: Duration,
    ) -> Result<SessionInfo, AgentError> {
        let request = v1::EndSessionRequest {
            name: name.to_owned(),
            grace_s: whole_seconds(grace),
        };
        let answer = self.call("end_session", grace + MARGIN, |mut to| {
            let request = request.clone();
            async move { to.end_session(request).await }
        });
        required("end_session", answer.await?.session).map(SessionInfo::from)
    }

    /// Types one line into a session. Never repeated: typed twice is not typed once.
    ///
    /// # Errors
    /// [`AgentError::Ambiguous`] when the link broke while it was on its way.
    pub async fn send_line(&self, session: &str, line: &str) -> Result<(), AgentError> {
        const CALL: &str = "send_line";
        // A dead link is found, and replaced, by a call that may be repeated.
        self.status(CALL_LIMIT).await?;
        let request = v1::SendLineRequest {
            session: session.to_owned(),
            line: line.to_owned(),
        };
        let mut to = self.contract.clone();
        match timeout(CALL_LIMIT, to.send_line(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(match self.shared.link_failure(&status) {
                Some(failure) => AgentError::Ambiguous {
                    call: CALL,
                    why: failure.why,
                },
                None => refused(CALL, &status),
            }),
            Err(_) => Err(AgentError::Ambiguous {
                call: CALL,
                why: format!("no answer in {} s", CALL_LIMIT.as_secs()),
            }),
        }
    }

    /// Gives the agent bucket keys, which it holds in memory, and with `persist` on its disk.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn set_credentials(
        &self,
        keys: &Credentials,
        persist: bool,
    ) -> Result<(), AgentError> {
        let answer = self.call("set_credentials", CALL_LIMIT, |mut to| {
            let request = v1::SetCredentialsRequest {
                access_key_id: keys.access_key_id.clone(),
                secret_access_key: keys.secret_access_key.clone(),
                session_token: keys.session_token.clone().unwrap_or_default(),
                expires_us: keys.expires_us.unwrap_or(0),
                persist,
                grants: None,
            };
            async move { to.set_credentials(request).await }
        });
        answer.await.map(|_| ())
    }

    /// Gives the agent of a box without keys more that it may do; it holds that in memory.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn give_grants(&self, batch: Batch) -> Result<(), AgentError> {
        let grants = convert::grants(batch);
        let answer = self.call("set_credentials", CALL_LIMIT, |mut to| {
            let request = v1::SetCredentialsRequest {
                grants: Some(grants.clone()),
                ..v1::SetCredentialsRequest::default()
            };
            async move { to.set_credentials(request).await }
        });
        answer.await.map(|_| ())
    }

    /// Says where the box tells the user while nobody watches, and that for `quiet` from now he is told from here.
    ///
    /// # Errors
    /// See [`AgentError`]; no text holds the URL.
    pub async fn set_webhook(&self, url: &str, quiet: Duration) -> Result<(), AgentError> {
        let answer = self.call("set_webhook", CALL_LIMIT, |mut to| {
            let request = v1::SetWebhookRequest {
                url: url.to_owned(),
                quiet_s: u32::try_from(quiet.as_secs()).unwrap_or(u32::MAX),
            };
            async move { to.set_webhook(request).await }
        });
        answer.await.map(|_| ())
    }

    /// Proves that the bucket can be written, read and deleted from the box.
    ///
    /// # Errors
    /// Only when there was no answer: a bucket that does not work is in the proof.
    pub async fn prove_bucket(&self) -> Result<BucketProof, AgentError> {
        let answer = self.call("prove_bucket", 2 * CALL_LIMIT, |mut to| async move {
            to.prove_bucket(v1::ProveBucketRequest {}).await
        });
        let answer = answer.await?;
        let problem = match answer.ok {
            true => None,
            false if answer.problem.is_empty() => Some("the agent did not say why".to_owned()),
            false => Some(answer.problem),
        };
        Ok(BucketProof {
            problem,
            clock_offset_s: answer.clock_offset_s,
        })
    }

    /// Measures the line between the box and its bucket. `enough_bytes_per_s`: one that carries this is not looked at long.
    ///
    /// # Errors
    /// See [`AgentError`]. Why it cannot be measured is no error.
    pub async fn measure_line(&self, enough_bytes_per_s: f64) -> Result<LineInfo, AgentError> {
        let request = v1::MeasureLineRequest { enough_bytes_per_s };
        let answer = self.call("measure_line", CALL_LIMIT, |mut to| async move {
            to.measure_line(request).await
        });
        let answer = answer.await?;
        let told =
            |bytes_per_s: f64| Some(bytes_per_s).filter(|rate| rate.is_finite() && *rate > 0.0);
        Ok(LineInfo {
            up_bytes_per_s: told(answer.up_bytes_per_s),
            down_bytes_per_s: told(answer.down_bytes_per_s),
            not_measured: Some(answer.not_measured).filter(|why| !why.is_empty()),
            own_server: answer.own_server,
        })
    }

    /// Backs up what is finished now; answers when all of it is committed, or `deadline` has passed. `last`: the session has
    /// ended, quiet files are finished.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn backup_now(
        &self,
        deadline: Duration,
        last: bool,
    ) -> Result<BackupInfo, AgentError> {
        let request = v1::BackupNowRequest {
            deadline_s: whole_seconds(deadline),
            r#final: last,
        };
        let answer = self.call("backup_now", deadline + MARGIN, |mut to| async move {
            to.backup_now(request).await
        });
        required("backup_now", answer.await?.backup).map(BackupInfo::from)
    }

    /// Committed checkpoints of the run, newest first.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, AgentError> {
        let answer = self.call("list_checkpoints", 2 * CALL_LIMIT, |mut to| async move {
            to.list_checkpoints(v1::ListCheckpointsRequest {}).await
        });
        Ok(answer
            .await?
            .checkpoints
            .into_iter()
            .map(CheckpointInfo::from)
            .collect())
    }

    /// Restores a commit (`None`: the newest valid one) into the checkpoint directory. `progress` hears done and all bytes.
    /// Begun again when the link breaks; the agent keeps what it has.
    ///
    /// # Errors
    /// [`AgentError::Deadline`] when nothing moves for five minutes.
    pub async fn restore(
        &self,
        id: Option<&str>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<RestoreReport, AgentError> {
        const CALL: &str = "restore";
        let limit = RESTORE_SILENCE_LIMIT;
        let request = v1::RestoreRequest {
            id: id.unwrap_or_default().to_owned(),
        };
        let mut moved = Instant::now();
        let mut furthest = 0;
        let mut backoff = Backoff::new();
        let mut why = None;
        loop {
            let left = limit.saturating_sub(moved.elapsed());
            let mut to = self.contract.clone();
            let opened = timeout(left, to.restore(request.clone())).await;
            let status = match opened {
                Err(_) => {
                    return Err(AgentError::Deadline {
                        call: CALL,
                        limit,
                        why,
                    });
                }
                Ok(Ok(answer)) => {
                    let mut stream = answer.into_inner();
                    loop {
                        let Ok(next) = timeout(limit, stream.message()).await else {
                            return Err(AgentError::Deadline {
                                call: CALL,
                                limit,
                                why,
                            });
                        };
                        match next {
                            Ok(Some(message)) => {
                                self.shared.connected();
                                if message.done_bytes > furthest || message.done {
                                    furthest = message.done_bytes;
                                    moved = Instant::now();
                                }
                                progress(message.done_bytes, message.total_bytes);
                                if message.done {
                                    return Ok(RestoreReport {
                                        restored: message.restored.map(CheckpointInfo::from),
                                        path: (!message.path.is_empty()).then_some(message.path),
                                        skipped: message.skipped,
                                    });
                                }
                            }
                            Ok(None) => {
                                break Status::unavailable(
                                    "the agent ended the restore without a last word",
                                );
                            }
                            Err(status) => break status,
                        }
                    }
                }
                Ok(Err(status)) => status,
            };
            let Some(failure) = self.shared.link_failure(&status) else {
                return Err(refused(CALL, &status));
            };
            if failure.permanent {
                return Err(AgentError::Unreachable { why: failure.why });
            }
            why = Some(failure.why);
            let pause = backoff.next();
            if moved.elapsed() + pause >= limit {
                return Err(AgentError::Deadline {
                    call: CALL,
                    limit,
                    why,
                });
            }
            sleep(pause).await;
        }
    }

    /// Brings result files to the bucket, next to the checkpoints. A repetition goes on where a link broke.
    ///
    /// # Errors
    /// [`AgentError::Deadline`] when no byte has moved for `limit`, as far as anybody can tell.
    pub async fn collect_results(
        &self,
        paths: &[String],
        limit: Duration,
    ) -> Result<Collected, AgentError> {
        const CALL: &str = "collect_results";
        let answer = self.call(CALL, Duration::MAX, |mut to| {
            let request = v1::CollectResultsRequest {
                paths: paths.to_vec(),
            };
            async move { to.collect_results(request).await }
        });
        let mut answer = std::pin::pin!(answer);
        let (mut done, mut moved) = (0, Instant::now());
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer?,
                () = sleep(MOVED_LOOK) => {}
            }
            let status = self.status(CALL_LIMIT).await.ok();
            let now = status.and_then(|status| Some(status.backup?.uploading_done_bytes));
            if let Some(now) = now.filter(|now| *now != done) {
                (done, moved) = (now, Instant::now());
            }
            if moved.elapsed() >= limit {
                let why = None;
                return Err(AgentError::Deadline {
                    call: CALL,
                    limit,
                    why,
                });
            }
        };
        Ok(Collected {
            list: FileList {
                files: answer.files.into_iter().map(FileHash::from).collect(),
                missing: answer.missing,
                meant: Vec::new(),
                leading_out: Vec::new(),
            },
            manifest_key: (!answer.manifest_key.is_empty()).then_some(answer.manifest_key),
        })
    }

    /// Regular files under the paths, with size and hash.
    ///
    /// # Errors
    /// [`AgentError::Deadline`] after `limit`.
    pub async fn hash_files(
        &self,
        paths: &[String],
        limit: Duration,
    ) -> Result<FileList, AgentError> {
        let answer = self.call("hash_files", limit, |mut to| {
            let request = v1::HashFilesRequest {
                paths: paths.to_vec(),
            };
            async move { to.hash_files(request).await }
        });
        let answer = answer.await?;
        Ok(FileList {
            files: answer.files.into_iter().map(FileHash::from).collect(),
            missing: answer.missing,
            meant: answer.meant,
            leading_out: answer.leading_out,
        })
    }

    /// Checks the box. `gpus` and `disk_bytes` are what was promised; 0: not checked.
    ///
    /// # Errors
    /// Only when there was no answer: a check that fails is in the report.
    pub async fn preflight(
        &self,
        gpus: u32,
        disk_bytes: u64,
    ) -> Result<PreflightReport, AgentError> {
        let request = v1::PreflightRequest { gpus, disk_bytes };
        let answer = self
            .call("preflight", 2 * CALL_LIMIT, |mut to| async move {
                to.preflight(request).await
            })
            .await?;
        Ok(PreflightReport {
            checks: answer.checks.into_iter().map(CheckResult::from).collect(),
            can_self_stop: answer.can_self_stop,
        })
    }

    /// Stops the daemon; sessions go on. `wipe` also removes what the agent keeps on disk, before a box is destroyed: when it
    /// answers, the bucket keys are overwritten.
    ///
    /// # Errors
    /// When the agent refused. With `wipe` also when its answer did not come; without, a link that breaks here is what was asked for.
    pub async fn shutdown(&self, wipe: bool) -> Result<(), AgentError> {
        let call = "shutdown";
        let mut to = self.contract.clone();
        let answer = timeout(MARGIN, to.shutdown(v1::ShutdownRequest { wipe })).await;
        let broken = match answer {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(status)) => match self.shared.link_failure(&status) {
                None => return Err(refused(call, &status)),
                Some(failure) => {
                    let why = failure.why;
                    AgentError::Ambiguous { call, why }
                }
            },
            Err(_) => AgentError::Deadline {
                call,
                limit: MARGIN,
                why: None,
            },
        };
        if wipe { Err(broken) } else { Ok(()) }
    }
}

fn required<T>(call: &'static str, field: Option<T>) -> Result<T, AgentError> {
    let message = "its answer lacks what was asked for".to_owned();
    field.ok_or(AgentError::Refused {
        call,
        verdict: Verdict::Failed,
        message,
    })
}

/// Rounded up, so that a short time never becomes none.
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}
