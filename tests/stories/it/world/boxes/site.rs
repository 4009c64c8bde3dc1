//! A scripted box at the `Site` seam: what it answers to whoever reaches it.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::json;
use spotter::{
    agent_client::{
        AgentEvent, AgentStatus, BackupInfo, BoxConfig, CheckpointInfo, FileHash, FileList,
        HostInfo, LineInfo, LogPiece, LogPosition, PreflightReport, RestoreReport, SampleInfo,
        SessionInfo, SessionRequest, TrainingInfo,
    },
    credentials::key_ring::BoxKeys,
    run::site::{FreshKeys, KeysGiven, Place, Progress, Site, SiteError, Trial},
};
use spotter_bucket::{Credentials, credentials::NO_KEYS};
use tokio::time::Instant;

use super::{Script, ScriptedBox, ScriptedBoxes, Session, UnderWay};

impl Script {
    /// What the agent of a box reads of its network; `None`: it does not train, or tells of nothing.
    fn traffic(&self, instance: u64) -> Option<SampleInfo> {
        let training = self.session(instance, "train")?;
        let sent = self.sends_bytes_per_s * training.began.elapsed().as_secs();
        (self.sends_bytes_per_s > 0).then(|| SampleInfo {
            time_us: self.date_us(Instant::now()),
            gpus: Vec::new(),
            host: Some(HostInfo {
                network_rx_bytes: Some(0),
                network_tx_bytes: Some(sent),
                ..HostInfo::default()
            }),
            span_s: 0,
            processes: Vec::new(),
        })
    }
}

impl ScriptedBoxes {
    /// A box that answers, reached by one of the calls that do so.
    pub(super) async fn dial(
        &self,
        place: &Place,
        call: &'static str,
    ) -> Result<Arc<dyn Site>, SiteError> {
        if self.script().dead_boxes > 0 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            return Err(match self.script().deaf {
                true => SiteError::NoAnswer("no answer in time".to_owned()),
                false => SiteError::Unreachable("connection refused".to_owned()),
            });
        }
        let site = ScriptedBox {
            boxes: self.clone(),
            instance: place.instance,
        };
        drop(site.reach(call).await?);
        Ok(Arc::new(site))
    }
}

#[async_trait]
impl Site for ScriptedBox {
    async fn status(&self) -> Result<AgentStatus, SiteError> {
        let script = self.reach("status").await?;
        let training = script
            .session(self.instance, "train")
            .map(|training| TrainingInfo {
                time_us: 0,
                step: Some(training.step(&script)),
                total_steps: Some(script.total_steps),
                epoch: None,
                loss: None,
                eval_loss: None,
                learning_rate: None,
                tokens_per_s: None,
                samples_per_s: None,
                step_time_s: None,
                grad_norm: None,
            });
        let names = ["train", "smoke", "setup"];
        Ok(AgentStatus {
            version: "0.0.0".to_owned(),
            build: String::new(),
            now_us: script.date_us(Instant::now()),
            started_us: 0,
            boot: String::new(),
            run: None,
            attempt: (script.assigned.get(&self.instance)).map_or(0, |box_| box_.attempt),
            last_event: script
                .journal
                .get(&self.instance)
                .map_or(0, |journal| journal.len() as u64),
            oldest_unacknowledged_event: 0,
            sessions: names
                .iter()
                .filter_map(|name| Some(script.session(self.instance, name)?.info(&script)))
                .collect(),
            sample: (script.sample.clone()).or_else(|| script.traffic(self.instance)),
            training,
            backup: Some(script.backup.clone()),
            gpu_problem: None,
            gpu_driver: None,
        })
    }

    fn allow(&self, money_lasts: Duration) {
        let mut script = self.boxes.script();
        script.allowed = Some(money_lasts);
        script
            .money
            .insert(self.instance, Instant::now() + money_lasts);
    }

    async fn preflight(&self, _gpus: u32, _disk_bytes: u64) -> Result<PreflightReport, SiteError> {
        let script = self.reach("preflight").await?;
        Ok(PreflightReport {
            checks: script.checks.clone(),
            can_self_stop: true,
        })
    }

    async fn configure(&self, config: &BoxConfig) -> Result<String, SiteError> {
        let mut script = self.reach("configure").await?;
        script.configs.push(config.clone());
        script.assigned.insert(self.instance, config.clone());
        if let Some(allowed) = config.allowance {
            script
                .money
                .insert(self.instance, Instant::now() + allowed.left);
        }
        if let Some(err) = &script.refuses_to_configure {
            return Err(err.clone());
        }
        Ok(format!("/root/{}", config.workdir))
    }

    async fn fresh_keys(&self) -> Result<FreshKeys, SiteError> {
        let found = self.boxes.3.or(self.boxes.script().bucket_key);
        let lacking =
            || SiteError::Local("no bucket keys: AWS_ACCESS_KEY_ID is not set".to_owned());
        let id = found.ok_or_else(lacking)?;
        Ok(FreshKeys::Keys(BoxKeys {
            credentials: Credentials {
                access_key_id: id.to_owned(),
                secret_access_key: "secret".to_owned(),
                session_token: None,
                expires_us: None,
            },
            run_only: false,
            why_own: None,
        }))
    }

    async fn try_keys(&self, keys: &BoxKeys) -> Trial {
        let mut script = self.boxes.script();
        let id = keys.credentials.access_key_id.clone();
        let trial = script.trials.get(&*id).cloned();
        script.tried.push(id);
        trial.unwrap_or(Trial::Works)
    }

    async fn give_credentials(&self, keys: &FreshKeys) -> Result<KeysGiven, SiteError> {
        let mut script = self.reach("give_credentials").await?;
        if let FreshKeys::Keys(keys) = keys {
            let id = keys.credentials.access_key_id.clone();
            script.held.insert(self.instance, id);
        }
        Ok(KeysGiven::default())
    }

    async fn prove_bucket(&self) -> Result<(), SiteError> {
        let script = self.reach("prove_bucket").await?;
        let attempt = script.assigned.get(&self.instance).map(|box_| box_.attempt);
        if attempt.is_some_and(|attempt| attempt <= script.no_egress) {
            let why = "PutObject runs: no answer in 30 s";
            return Err(SiteError::Refused(why.to_owned()));
        }
        let Some(held) = script.held.get(&self.instance) else {
            return Err(SiteError::Refused(format!("PutObject runs: {NO_KEYS}")));
        };
        match script.trials.get(&**held) {
            Some(Trial::Refused(why)) => Err(SiteError::Refused(why.clone())),
            _ => Ok(()),
        }
    }

    async fn measure_line(&self, _enough_bytes_per_s: f64) -> Result<LineInfo, SiteError> {
        let mut script = self.reach("measure_line").await?;
        Ok(script.lines.pop_front().unwrap_or_default())
    }

    async fn sync(
        &self,
        _from: &Path,
        _to: &str,
        _progress: Progress<'_>,
    ) -> Result<(), SiteError> {
        let _under_way = UnderWay::begin(&self.boxes);
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.reach("sync").await.map(drop)
    }

    async fn start_session(&self, request: &SessionRequest) -> Result<SessionInfo, SiteError> {
        let mut script = self.reach("start_session").await?;
        let restored = script
            .restored
            .iter()
            .rev()
            .find(|(instance, _)| *instance == self.instance);
        let first_step = restored.map_or(0, |(_, step)| *step);
        let before = script.session(self.instance, &request.name).cloned();
        if let Some(live) = before
            .as_ref()
            .filter(|before| before.ended(&script).is_none())
        {
            return Ok(live.info(&script));
        }
        let session = Session {
            instance: self.instance,
            name: request.name.clone(),
            life: before.map_or(0, |before| before.life + 1),
            first_step,
            looked_at: first_step,
            began: Instant::now(),
            timeout: request.timeout,
            taken_back: None,
            ended_by_us: None,
            over: None,
        };
        if request.name == "train" {
            script.started.push((self.instance, first_step));
        }
        script.requests.push(request.clone());
        script.tell(
            self.instance,
            "session.started",
            json!({"session": request.name}),
        );
        script.sessions.push(session.clone());
        let info = session.info(&script);
        self.answer(&mut script, "start_session", info)
    }

    async fn end_session(&self, name: &str, _grace: Duration) -> Result<SessionInfo, SiteError> {
        let mut script = self.reach("end_session").await?;
        let position = script
            .sessions
            .iter()
            .rposition(|session| session.instance == self.instance && session.name == name);
        let position = position.ok_or_else(|| SiteError::Refused("no such session".to_owned()))?;
        script.sessions[position].ended_by_us = Some(Instant::now());
        script.catch_up();
        let info = script.sessions[position].info(&script);
        self.answer(&mut script, "end_session", info)
    }

    async fn log(&self, session: &str, from: LogPosition) -> Result<Vec<LogPiece>, SiteError> {
        let script = self.reach("log").await?;
        let found = script
            .session(self.instance, session)
            .ok_or_else(|| SiteError::Refused("no such session".to_owned()))?;
        let offset = if from.generation == found.life {
            from.offset as usize
        } else {
            0
        };
        // A few bytes at a time, so that a break can come in the middle.
        let mut data = found.text(&script, offset, 400).into_bytes();
        data.truncate(400);
        let position = LogPosition {
            generation: found.life,
            offset: offset as u64,
        };
        Ok(vec![LogPiece {
            position,
            data,
            gap_bytes: 0,
            end: false,
        }])
    }

    async fn log_tail(&self, _session: &str, _bytes: u64) -> Result<Vec<u8>, SiteError> {
        drop(self.reach("log_tail").await?);
        Ok(b"Traceback (most recent call last):\nValueError: no\n".to_vec())
    }

    async fn events(&self, from: u64) -> Result<Vec<AgentEvent>, SiteError> {
        let script = self.reach("events").await?;
        let journal = script.journal.get(&self.instance);
        Ok(journal
            .into_iter()
            .flatten()
            .filter(|event| event.seq >= from)
            .take(7)
            .cloned()
            .collect())
    }

    async fn acknowledge(&self, _up_to: u64) -> Result<(), SiteError> {
        self.reach("acknowledge").await.map(drop)
    }

    async fn backup_now(&self, _deadline: Duration, _last: bool) -> Result<BackupInfo, SiteError> {
        let mut script = self.reach("backup_now").await?;
        let backup = script.backup.clone();
        self.answer(&mut script, "backup_now", backup)
    }

    async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, SiteError> {
        let script = self.reach("checkpoints").await?;
        Ok(script
            .commits
            .iter()
            .rev()
            .map(|step| checkpoint(*step))
            .collect())
    }

    async fn restore(&self, _progress: Progress<'_>) -> Result<RestoreReport, SiteError> {
        let (size_bytes, takes) = self.boxes.script().restores;
        tokio::time::sleep(takes).await;
        let mut script = self.reach("restore").await?;
        let Some(step) = script.commits.last().copied() else {
            return Ok(RestoreReport::default());
        };
        script.restored.push((self.instance, step));
        Ok(RestoreReport {
            restored: Some(CheckpointInfo {
                size_bytes,
                ..checkpoint(step)
            }),
            path: Some(format!("/root/checkpoints/step-{step}")),
            skipped: Vec::new(),
        })
    }

    async fn collect_results(&self, _paths: &[String]) -> Result<(), SiteError> {
        self.reach("collect_results").await.map(drop)
    }

    async fn hash_files(&self, paths: &[String]) -> Result<FileList, SiteError> {
        drop(self.reach("hash_files").await?);
        let files = paths.iter().map(|path| FileHash {
            path: path.clone(),
            size_bytes: RESULT.len() as u64,
            blake3: blake3::hash(RESULT).to_hex().to_string(),
        });
        Ok(FileList {
            files: files.collect(),
            missing: Vec::new(),
            meant: paths.to_vec(),
            leading_out: Vec::new(),
            broken: Vec::new(),
        })
    }

    async fn fetch(
        &self,
        _from: &str,
        paths: &[String],
        _files: &[FileHash],
        to: &Path,
        _progress: Progress<'_>,
    ) -> Result<(), SiteError> {
        let torn = {
            let mut script = self.reach("fetch").await?;
            let torn = script.torn_fetches > 0;
            script.torn_fetches = script.torn_fetches.saturating_sub(1);
            torn
        };
        // As long as it should be, so that only its hash tells.
        let bytes = if torn { b"weight\0" } else { RESULT };
        for path in paths {
            std::fs::write(to.join(path), bytes).unwrap();
        }
        Ok(())
    }

    async fn wipe(&self) -> Result<(), SiteError> {
        let mut script = self.reach("wipe").await?;
        let busy = script
            .sessions
            .iter()
            .any(|session| session.instance == self.instance && session.ended(&script).is_none());
        if busy {
            return Err(SiteError::Refused("a session is running".to_owned()));
        }
        script.wiped.push(self.instance);
        Ok(())
    }
}

/// What every result file holds.
const RESULT: &[u8; 7] = b"weights";

fn checkpoint(step: u64) -> CheckpointInfo {
    CheckpointInfo {
        id: format!("{step:012}-STORY"),
        step: Some(step),
        attempt: 1,
        committed_us: 0,
        size_bytes: 1,
        files: 1,
        path: format!("step-{step}"),
    }
}
