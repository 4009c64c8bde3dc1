//! The real [`Site`]: ssh, the agent behind it, and rsync, made to one box. `keys`: what it is given to reach its bucket; `left`: what one
//! that is gone left there; `sites`: the way to all of them.

mod keys;
mod left;
mod sites;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::StreamExt;
use spotter_bucket::grants::NOT_GRANTED;

use crate::{
    agent_client::{
        AgentClient, AgentError, AgentEvent, AgentStatus, BackupInfo, BoxConfig, CheckpointInfo,
        FileHash, FileList, LineInfo, LogPiece, LogPosition, LogStart, PreflightReport,
        RestoreReport, SampleInfo, SessionInfo, SessionRequest, Verdict,
    },
    bootstrap::AgentBinary,
    credentials::{
        Place as Server,
        key_ring::{BoxKeys, KeyRing},
    },
    error::chain,
    run::site::{FreshKeys, KeysGiven, Progress, SAMPLES_AT_ONCE, Site, SiteError, Trial},
    spec::Checkpoints,
    sync::{self, SyncError},
    tunnel::{FailureKind, SshHome, Tunnel, TunnelError},
};

/// One try to connect; the lifecycle decides whether there is another.
const CONNECT: Duration = Duration::from_secs(25);
/// A heartbeat that takes longer than this counts as missed.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(5);
/// How long a reckoning of the money is handed on: whoever watches makes a new one every ten seconds.
const RECKONED: Duration = Duration::from_secs(30);
/// Hashing results of some tens of gigabytes, and the longest time in which nothing of them moves.
const RESULTS_LIMIT: Duration = Duration::from_secs(3600);
/// Longest time for what a box that goes leaves half done in the bucket: it is paid for meanwhile.
const TIDY_LIMIT: Duration = Duration::from_secs(4);
/// Between two looks at whether a box that saves needs more signed for it.
const GRANTS_LOOK: Duration = Duration::from_secs(3);
/// Bytes of a log read at one go; the rest follows at the next look.
const LOG_AT_ONCE_BYTES: usize = 4 << 20;
/// Events read at one go; the rest follows at the next look.
const EVENTS_AT_ONCE: usize = 500;

/// The way to boxes over ssh.
pub struct Machines {
    /// Keys, pins and sockets.
    pub ssh: SshHome,
    /// Agent that the user named.
    pub agent_path: Option<PathBuf>,
    /// This program's own file, beside which an agent may lie.
    pub executable: PathBuf,
    /// Read once, when the first box needs it.
    pub agent: OnceLock<Arc<AgentBinary>>,
    /// Bucket keys, found once and renewed in time.
    pub keys: Arc<KeyRing>,
    /// Whether a person may be at this program, who could answer.
    pub attended: bool,
}

/// A box that answers.
struct Machine {
    tunnel: Tunnel,
    client: AgentClient,
    keys: Arc<KeyRing>,
    run: String,
    checkpoints: Option<Checkpoints>,
    /// The run file, where it holds the URL of a webhook: it stays on the laptop.
    private: Option<PathBuf>,
    /// When the run's money is over, as far as the agent is to know.
    /// For how long the money lasts, and when that was reckoned: by the date, since other clocks stand still while a laptop sleeps.
    paid: Mutex<Option<(SystemTime, Duration)>>,
}

fn local(err: &dyn std::error::Error) -> SiteError {
    SiteError::Local(chain(err))
}

#[async_trait]
impl Site for Machine {
    async fn status(&self) -> Result<AgentStatus, SiteError> {
        let paid = *self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let left = paid.and_then(|(at, lasts)| {
            let age = at.elapsed().ok().filter(|age| *age <= RECKONED)?;
            Some(lasts.saturating_sub(age))
        });
        let answer = match left {
            Some(left) => self.client.status_telling(HEARTBEAT_LIMIT, left).await,
            None => self.client.status(HEARTBEAT_LIMIT).await,
        };
        answer.map_err(agent_failed)
    }

    fn allow(&self, money_lasts: Duration) {
        let reckoned = (SystemTime::now(), money_lasts);
        *self.paid.lock().unwrap_or_else(PoisonError::into_inner) = Some(reckoned);
    }

    async fn preflight(&self, gpus: u32, disk_bytes: u64) -> Result<PreflightReport, SiteError> {
        self.client
            .preflight(gpus, disk_bytes)
            .await
            .map_err(agent_failed)
    }

    async fn configure(&self, config: &BoxConfig) -> Result<String, SiteError> {
        let mut config = config.clone();
        if let Some(backup) = &mut config.backup {
            let access = self.keys.access().await.map_err(|err| local(&err))?;
            let place = match &self.checkpoints {
                Some(kept) => access.place.at(&kept.server),
                None => access.place,
            };
            backup.authorities = place.authorities().map_err(|err| local(&err))?;
            Server {
                endpoint: backup.endpoint,
                region: backup.region,
                style: backup.style,
                ..
            } = place;
        }
        // Images of the marketplace keep work on /workspace; elsewhere the home directory is what is ours.
        let there = self
            .tunnel
            .exec("test -d /workspace -a -w /workspace && echo yes", &[])
            .await
            .map_err(tunnel_failed)?;
        if there.ok() {
            config.workdir = format!("/workspace/{}", config.workdir);
        }
        self.client.configure(&config).await.map_err(agent_failed)
    }

    async fn fresh_keys(&self) -> Result<FreshKeys, SiteError> {
        self.find_keys().await
    }

    async fn try_keys(&self, keys: &BoxKeys) -> Trial {
        self.try_from_here(keys).await
    }

    async fn give_credentials(&self, keys: &FreshKeys) -> Result<KeysGiven, SiteError> {
        self.hand_over(keys).await
    }

    async fn set_webhook(&self, url: &str, quiet: Duration) -> Result<(), SiteError> {
        let told = self.client.set_webhook(url, quiet).await;
        told.map_err(agent_failed)
    }

    async fn prove_bucket(&self) -> Result<(), SiteError> {
        match self
            .client
            .prove_bucket()
            .await
            .map_err(agent_failed)?
            .problem
        {
            None => Ok(()),
            Some(problem) => Err(SiteError::Refused(problem)),
        }
    }

    async fn measure_line(&self, enough_bytes_per_s: f64) -> Result<LineInfo, SiteError> {
        let measured = self.client.measure_line(enough_bytes_per_s).await;
        measured.map_err(agent_failed)
    }

    async fn sync(&self, from: &Path, to: &str, progress: Progress<'_>) -> Result<(), SiteError> {
        let (private, mut least) = (self.private.as_deref(), 0);
        sync::push(&self.tunnel, from, to, private, &mut |at| {
            least = at.least_bytes(least);
            progress(at.bytes, least);
        })
        .await
        .map(drop)
        .map_err(sync_failed)
    }

    async fn start_session(&self, request: &SessionRequest) -> Result<SessionInfo, SiteError> {
        match self.client.start_session(request).await {
            // The answer of an earlier try was lost: the session is the one we asked for.
            Err(AgentError::Refused {
                verdict: Verdict::AlreadyExists,
                ..
            }) => {
                let sessions = self.client.sessions().await.map_err(agent_failed)?;
                let session = sessions
                    .into_iter()
                    .find(|session| session.name == request.name);
                session.ok_or_else(|| {
                    SiteError::Refused(format!(
                        "session `{}` is taken and not listed",
                        request.name
                    ))
                })
            }
            other => other.map_err(agent_failed),
        }
    }

    async fn end_session(&self, name: &str, grace: Duration) -> Result<SessionInfo, SiteError> {
        self.client
            .end_session(name, grace)
            .await
            .map_err(agent_failed)
    }

    async fn log(&self, session: &str, from: LogPosition) -> Result<Vec<LogPiece>, SiteError> {
        let mut stream = self.client.logs(session, LogStart::At(from), false);
        let mut pieces = Vec::new();
        let mut bytes = 0;
        while bytes < LOG_AT_ONCE_BYTES
            && let Some(piece) = stream.next().await
        {
            let piece = piece.map_err(agent_failed)?;
            bytes += piece.data.len();
            pieces.push(piece);
        }
        Ok(pieces)
    }

    async fn log_tail(&self, session: &str, bytes: u64) -> Result<Vec<u8>, SiteError> {
        let mut pieces = self.client.logs(session, LogStart::Tail(bytes), false);
        let mut tail = Vec::new();
        while let Some(piece) = pieces.next().await {
            tail.extend_from_slice(&piece.map_err(agent_failed)?.data);
            // A log that grows while it is read has no end of its own.
            if tail.len() as u64 > bytes.saturating_mul(4) {
                break;
            }
        }
        Ok(tail)
    }

    async fn events(&self, from: u64) -> Result<Vec<AgentEvent>, SiteError> {
        let mut stream = self.client.events(from, false);
        let mut events = Vec::new();
        while events.len() < EVENTS_AT_ONCE
            && let Some(event) = stream.next().await
        {
            events.push(event.map_err(agent_failed)?);
        }
        Ok(events)
    }

    async fn samples(&self, after_us: u64) -> Result<Vec<SampleInfo>, SiteError> {
        let mut stream = self.client.samples_between(after_us, 0);
        let mut samples = Vec::new();
        while samples.len() < SAMPLES_AT_ONCE
            && let Some(sample) = stream.next().await
        {
            samples.push(sample.map_err(agent_failed)?);
        }
        Ok(samples)
    }

    async fn acknowledge(&self, up_to: u64) -> Result<(), SiteError> {
        self.client
            .acknowledge_events(up_to)
            .await
            .map_err(agent_failed)
    }

    async fn backup_now(&self, deadline: Duration, last: bool) -> Result<BackupInfo, SiteError> {
        let mut saving = std::pin::pin!(self.client.backup_now(deadline, last));
        let Some(granting) = self.granting().await? else {
            return saving.await.map_err(agent_failed);
        };
        let saved = loop {
            tokio::select! {
                saved = &mut saving => break saved.map_err(agent_failed)?,
                () = tokio::time::sleep(GRANTS_LOOK) => {}
            }
            // The last one may take more than what was signed for.
            let wants = |status: AgentStatus| status.backup?.problem;
            let problem = self.status().await.ok().and_then(wants);
            if problem.is_some_and(|problem| problem.contains(NOT_GRANTED))
                && let Err(err) = self.give_grants(&granting).await
            {
                tracing::warn!(%err, "nothing more was signed for the box, will try again");
            }
        };
        // Its commit is where everybody looks for it.
        let _ = granting.adopt().await;
        Ok(saved)
    }

    async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, SiteError> {
        self.client.checkpoints().await.map_err(agent_failed)
    }

    async fn restore(&self, progress: Progress<'_>) -> Result<RestoreReport, SiteError> {
        self.client
            .restore(None, progress)
            .await
            .map_err(agent_failed)
    }

    async fn collect_results(&self, paths: &[String]) -> Result<(), SiteError> {
        self.client
            .collect_results(paths, RESULTS_LIMIT)
            .await
            .map(drop)
            .map_err(agent_failed)
    }

    async fn hash_files(&self, paths: &[String]) -> Result<FileList, SiteError> {
        self.client
            .hash_files(paths, RESULTS_LIMIT)
            .await
            .map_err(agent_failed)
    }

    async fn fetch(
        &self,
        from: &str,
        paths: &[String],
        files: &[FileHash],
        to: &Path,
        progress: Progress<'_>,
    ) -> Result<(), SiteError> {
        let mut least = 0;
        sync::fetch(&self.tunnel, from, paths, files, to, &mut |at| {
            least = at.least_bytes(least);
            progress(at.bytes, least);
        })
        .await
        .map(drop)
        .map_err(sync_failed)
    }

    async fn wipe(&self) -> Result<(), SiteError> {
        let granting = self.granting().await.ok().flatten();
        let attempt = match &granting {
            Some(_) => self.status().await?.attempt,
            None => 0,
        };
        self.client.shutdown(true).await.map_err(agent_failed)?;
        if let Some(granting) = granting {
            // Another box of the run may be saving: what was begun for that one goes on. The next round ends what this leaves.
            let tidy = async {
                let _ = granting.adopt().await;
                granting.abort_uploads(attempt..=attempt).await;
            };
            let _ = tokio::time::timeout(TIDY_LIMIT, tidy).await;
        }
        Ok(())
    }
}

/// The same for the first connection of all, which tells most of a box.
fn not_connected(err: TunnelError) -> SiteError {
    match err.nothing_answered() {
        true => SiteError::NoAnswer(chain(&err)),
        false => tunnel_failed(err),
    }
}

fn tunnel_failed(err: TunnelError) -> SiteError {
    let words = chain(&err);
    match &err {
        TunnelError::Local { .. } => SiteError::Local(words),
        _ if err.kind() == FailureKind::HostKey => SiteError::Refused(words),
        _ => SiteError::Unreachable(words),
    }
}

fn agent_failed(err: AgentError) -> SiteError {
    let words = chain(&err);
    match err {
        // It does not understand what we ask: that is in the two programs, not in the box.
        AgentError::Refused {
            verdict: Verdict::Invalid | Verdict::Unknown,
            ..
        } => SiteError::Fault(words),
        AgentError::Refused { .. } => SiteError::Refused(words),
        AgentError::Deadline { .. }
        | AgentError::Unreachable { .. }
        | AgentError::Ambiguous { .. } => SiteError::Unreachable(words),
    }
}

fn sync_failed(err: SyncError) -> SiteError {
    let words = chain(&err);
    match err {
        SyncError::Files { source, .. } => match sync_failed(*source) {
            SiteError::Unreachable(_) => SiteError::Unreachable(words),
            SiteError::Refused(_) => SiteError::Refused(words),
            _ => SiteError::Local(words),
        },
        SyncError::Tunnel(err) => tunnel_failed(err),
        SyncError::Interrupted { .. } => SiteError::Unreachable(words),
        _ => SiteError::Local(words),
    }
}
