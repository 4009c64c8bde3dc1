//! `Site`: a rented box as the lifecycle needs it, and how to get to one. [`crate::machine`] is the real one (ssh, agent,
//! rsync); stories put a scripted one in its place.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use spotter_bucket::{Bucket, Ending, Target};

use crate::{
    agent_client::{
        AgentEvent, AgentStatus, BackupInfo, BoxConfig, CheckpointInfo, FileHash, FileList,
        LineInfo, LogPiece, LogPosition, PreflightReport, RestoreReport, SampleInfo, SessionInfo,
        SessionRequest,
    },
    credentials::key_ring::BoxKeys,
    provider::{InstanceId, SshAddress},
    spec::{BucketServer, RunSpec},
};

/// Which box to open.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Provider's name.
    pub provider: &'static str,
    /// Instance.
    pub instance: InstanceId,
    /// Run it works for.
    pub run: String,
    /// Where ssh may answer, best first.
    pub addresses: Vec<SshAddress>,
}

/// Why a box did not do what was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SiteError {
    /// No answer, or the link broke: says nothing about the box.
    #[error("{0}")]
    Unreachable(String),
    /// The same, and nothing came back at all: every address let the time pass.
    #[error("{0}")]
    NoAnswer(String),
    /// An answer, and it is no.
    #[error("{0}")]
    Refused(String),
    /// Agent and controller do not fit together: a mistake of ours, which every box would meet.
    #[error("{0}")]
    Fault(String),
    /// Something on this laptop is missing or wrong; another box would not help.
    #[error("{0}")]
    Local(String),
}

/// What a box may be given to reach the bucket of its run: found, and not handed over yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreshKeys {
    /// Nothing: the run has no bucket.
    NoBucket,
    /// No keys: requests are signed for it, as many as it needs next.
    Signed,
    /// These.
    Keys(BoxKeys),
}

/// What the bucket of a run says of keys that are tried from this laptop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// It takes what is stored with them.
    Works,
    /// It does not accept them, in its own words.
    Refused(String),
    /// Nothing that is about the keys: no answer, or one about something else. Why, for people.
    Unclear(String),
}

/// What a box was given to reach the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeysGiven {
    /// They reach the run's own prefix only.
    pub run_only: bool,
    /// When they end, microseconds since the epoch; `None`: nothing says so.
    pub expires_us: Option<u64>,
    /// Why they are the user's own where narrower ones were wished for.
    pub why_own: Option<String>,
    /// There are none: requests were signed for so many checkpoints like the last one in all.
    pub signed_for: Option<u32>,
}

impl KeysGiven {
    /// Which keys these are, for people; nothing of the user's own that do not end, which is what he would think.
    pub fn text(&self) -> Option<String> {
        if let Some(checkpoints) = self.signed_for {
            return Some(format!(
                "The box gets no bucket keys: {checkpoints} checkpoints are signed for, and more while somebody watches."
            ));
        }
        let whose = match (self.run_only, &self.why_own, self.expires_us) {
            (true, _, _) => "keys for this run's part of the bucket alone".to_owned(),
            (false, Some(why), _) => {
                format!("your own bucket keys: no narrower ones were given ({why})")
            }
            (false, None, Some(_)) => "your own bucket keys".to_owned(),
            (false, None, None) => return None,
        };
        let end = self.expires_us.map_or_else(String::new, |expires_us| {
            let ends = i64::try_from(expires_us)
                .ok()
                .and_then(|us| jiff::Timestamp::from_microsecond(us).ok())
                .unwrap_or_default();
            format!(
                "; they end {}, and are renewed while somebody watches",
                ends.strftime("%Y-%m-%d %H:%M UTC")
            )
        });
        Some(format!("The box gets {whose}{end}."))
    }

    /// After how long they are better handed over anew: at half of what is left of them, at most `most`.
    pub fn renew_in(&self, now_us: i64, most: Duration) -> Duration {
        let Some(expires_us) = self.expires_us else {
            return most;
        };
        let now_us = u64::try_from(now_us).unwrap_or_default();
        let left = Duration::from_micros(expires_us.saturating_sub(now_us));
        (left / 2).clamp(RENEW_AT_LEAST, most)
    }
}

/// Keys are not handed over more often than this while nothing is wrong with them.
const RENEW_AT_LEAST: Duration = Duration::from_secs(5);

/// What a box that is gone left of a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LeftLog {
    /// Its pieces, in order.
    pub pieces: Vec<LogPiece>,
    /// Objects that lie there as well and are larger than any box leaves, for people: they were not read.
    pub too_large: Vec<String>,
}

/// Samples that come at one go at most: ten minutes of seconds. So many mean that there may be more.
pub const SAMPLES_AT_ONCE: usize = 600;

/// Called with bytes done and bytes in all.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// A box with an agent on it. Every call may be repeated.
#[async_trait]
pub trait Site: Send + Sync {
    /// The agent and the box right now.
    async fn status(&self) -> Result<AgentStatus, SiteError>;
    /// How long the run's money lasts from now on: told to the agent with each status from now on.
    fn allow(&self, money_lasts: Duration);
    /// Checks the box against what was promised.
    async fn preflight(&self, gpus: u32, disk_bytes: u64) -> Result<PreflightReport, SiteError>;
    /// Tells the agent its run; answers the absolute working directory. Where a backup is asked for, endpoint and region are
    /// filled in here: they belong to the keys.
    async fn configure(&self, config: &BoxConfig) -> Result<String, SiteError>;
    /// Finds the bucket keys that the box would get now; a token service may be asked for them.
    async fn fresh_keys(&self) -> Result<FreshKeys, SiteError>;
    /// Tries exactly these from here, where the box would use them; bounded in time, and nothing stays in the bucket.
    async fn try_keys(&self, keys: &BoxKeys) -> Trial;
    /// Hands them over, in the place of those that the box holds.
    async fn give_credentials(&self, keys: &FreshKeys) -> Result<KeysGiven, SiteError>;
    /// Says where the box tells the user while nobody watches; for `quiet` from now he is told from here.
    async fn set_webhook(&self, _url: &str, _quiet: Duration) -> Result<(), SiteError> {
        Ok(())
    }
    /// Proves from the box that the bucket can be written, read and deleted from.
    async fn prove_bucket(&self) -> Result<(), SiteError>;
    /// Measures the line between the box and its bucket; one that carries `enough_bytes_per_s` is not looked at long.
    async fn measure_line(&self, _enough_bytes_per_s: f64) -> Result<LineInfo, SiteError> {
        Ok(LineInfo::default())
    }
    /// Copies code to the working directory.
    async fn sync(&self, from: &Path, to: &str, progress: Progress<'_>) -> Result<(), SiteError>;
    /// Starts a session.
    async fn start_session(&self, request: &SessionRequest) -> Result<SessionInfo, SiteError>;
    /// Ends a session and answers when it has ended.
    async fn end_session(&self, name: &str, grace: Duration) -> Result<SessionInfo, SiteError>;
    /// What a session's log holds now from a place on; at most some megabytes at one go.
    async fn log(&self, session: &str, from: LogPosition) -> Result<Vec<LogPiece>, SiteError>;
    /// Last bytes of a session's log.
    async fn log_tail(&self, session: &str, bytes: u64) -> Result<Vec<u8>, SiteError>;
    /// Events from a sequence number on that exist now.
    async fn events(&self, from: u64) -> Result<Vec<AgentEvent>, SiteError>;
    /// What the box measured after a moment of its own clock, oldest first; at most [`SAMPLES_AT_ONCE`].
    async fn samples(&self, _after_us: u64) -> Result<Vec<SampleInfo>, SiteError> {
        Ok(Vec::new())
    }
    /// Says that events up to this one are stored.
    async fn acknowledge(&self, up_to: u64) -> Result<(), SiteError>;
    /// Commits what is finished; with `last`, quiet files count as finished at once.
    async fn backup_now(&self, deadline: Duration, last: bool) -> Result<BackupInfo, SiteError>;
    /// Committed checkpoints, newest first.
    async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, SiteError>;
    /// Brings the newest valid checkpoint to the box.
    async fn restore(&self, progress: Progress<'_>) -> Result<RestoreReport, SiteError>;
    /// Puts result files into the bucket.
    async fn collect_results(&self, paths: &[String]) -> Result<(), SiteError>;
    /// Lists result files with their hashes, and paths that do not exist.
    async fn hash_files(&self, paths: &[String]) -> Result<FileList, SiteError>;
    /// Copies files from the box's working directory to a directory here. `files`: what [`Site::hash_files`] found under the paths.
    async fn fetch(
        &self,
        from: &str,
        paths: &[String],
        files: &[FileHash],
        to: &Path,
        progress: Progress<'_>,
    ) -> Result<(), SiteError>;
    /// The agent wipes its bucket keys, which is done when this answers, and ends: the box is about to go. Refused while a session
    /// runs.
    async fn wipe(&self) -> Result<(), SiteError>;
}

/// The way to boxes.
#[async_trait]
pub trait Sites: Send + Sync {
    /// Public key that boxes must let in; made on first use.
    async fn public_key(&self) -> Result<String, SiteError>;
    /// Shell text that a box runs at each start, with its dead-man's switch.
    fn onstart(&self, spec: &RunSpec, provider_url: &str) -> Result<String, SiteError>;
    /// Proves from here that the bucket of a run can be written, read and deleted from; answers how many checkpoints it
    /// already holds for a run of this name. 0 when the run has no bucket.
    async fn prove_bucket(&self, spec: &RunSpec) -> Result<usize, SiteError>;
    /// The server of a run's bucket, by its run file and by what this shell and AWS's files name where that is silent.
    ///
    /// # Errors
    /// When a file that exists cannot be read.
    async fn bucket_server(&self, from_file: &BucketServer) -> Result<BucketServer, SiteError> {
        Ok(from_file.clone())
    }
    /// Where the bucket keys of this laptop came from, for people; `None`: there are none, or nobody knows.
    async fn keys_source(&self) -> Option<String> {
        None
    }
    /// What a box that was taken back left of a session's log in the bucket; nothing when it had no time or no bucket.
    async fn left_log(
        &self,
        spec: &RunSpec,
        attempt: u32,
        session: &str,
    ) -> Result<LeftLog, SiteError>;
    /// What a box that went left in the bucket of what happened on it, in order; nothing when it had no time or no bucket.
    async fn left_events(&self, spec: &RunSpec, attempt: u32)
    -> Result<Vec<AgentEvent>, SiteError>;
    /// What a box that ended itself left in the bucket of what it measured, oldest first; nothing when it did not.
    async fn left_samples(
        &self,
        _spec: &RunSpec,
        _attempt: u32,
    ) -> Result<Vec<SampleInfo>, SiteError> {
        Ok(Vec::new())
    }
    /// What a box that stopped itself left in the bucket of how its training ended; nothing when it did not.
    async fn left_ending(&self, spec: &RunSpec, attempt: u32) -> Result<Option<Ending>, SiteError>;
    /// Connects, puts the agent on the box if it is not there, and starts it.
    async fn open(
        &self,
        place: &Place,
        spec: &RunSpec,
        progress: Progress<'_>,
    ) -> Result<Arc<dyn Site>, SiteError>;
    /// Connects to the agent that is there, whichever it is, for whoever only looks: nothing is put on the box, no agent makes room, and
    /// to the box nobody is there.
    async fn look(&self, place: &Place, spec: &RunSpec) -> Result<Arc<dyn Site>, SiteError>;
    /// A client for a bucket with the keys of this laptop; `to` is `s3://bucket/prefix`.
    async fn bucket(
        &self,
        to: &str,
        _server: &BucketServer,
    ) -> Result<(Arc<dyn Bucket>, Target), SiteError> {
        Err(SiteError::Local(format!(
            "{to} cannot be reached from here"
        )))
    }
    /// Forgets pins and sockets of a box that is gone.
    fn forget(&self, place: &Place);
}
