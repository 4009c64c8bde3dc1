//! Calls about the bucket: its keys, checkpoints to and from it, results.

use std::time::Duration;

use spotter_bucket::{Batch, Credentials};
use spotter_proto::v1;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::{
    AgentClient, AgentError, Backoff, BackupInfo, BucketProof, CALL_LIMIT, CheckpointInfo,
    Collected, FileHash, FileList, LineInfo, MARGIN, MOVED_LOOK, RESTORE_SILENCE_LIMIT,
    RestoreReport, convert, refused, required, whole_seconds,
};

impl AgentClient {
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
                broken: Vec::new(),
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
            broken: answer.broken,
        })
    }
}
