//! `World`: the controller's real lifecycle and store over a market in memory and scripted boxes, under one paused clock.
//!
//! A scripted box trains one step a second, commits a checkpoint every ten steps, and ends as its script says.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use spotter::{
    agent_client::{
        AgentEvent, AgentStatus, BackupInfo, BoxConfig, CheckpointInfo, FileList, LogPiece,
        LogPosition, PreflightReport, RestoreReport, SessionInfo, SessionRequest, SessionState,
        TrainingInfo,
    },
    clock::Clock,
    logbook::Logbook,
    provider::{Provider, memory::MemoryMarket},
    run::{
        State,
        lease::Lease,
        lifecycle::{Goal, Lifecycle, Report},
        site::{Place, Progress, Site, SiteError, Sites},
    },
    spec::{Checkpoints, Limits, OnDone, Recover, RecoverPolicy, Resources, Results, RunSpec},
    store::{AttemptRecord, RunRecord, Store},
};
use tokio::time::Instant;

/// Steps between two checkpoints of a scripted box.
pub const CHECKPOINT_EVERY: u64 = 10;
/// 2026-01-01, where every story begins.
const EPOCH_US: i64 = 1_767_225_600_000_000;

/// Everything outside the controller.
pub struct World {
    /// The market.
    pub market: MemoryMarket,
    /// The boxes.
    pub boxes: ScriptedBoxes,
    /// The record.
    pub store: Arc<Store>,
    /// What people were told.
    pub told: Arc<Told>,
    clock: Clock,
    home: tempfile::TempDir,
}

/// Remembers what was said.
#[derive(Debug, Default)]
pub struct Told(pub Mutex<Vec<String>>);

impl Report for Told {
    fn status(&self, run: &str, text: &str) {
        self.0.lock().unwrap().push(format!("{run}: {text}"));
    }

    fn transfer(&self, _what: &str, _done_bytes: u64, _total_bytes: u64) {}

    fn training(&self, _run: &str, _training: &TrainingInfo) {}
}

/// The scripted boxes; clones share them.
#[derive(Clone)]
pub struct ScriptedBoxes(Arc<Mutex<Script>>, MemoryMarket);

/// What boxes do, and what they have done.
#[derive(Debug)]
pub struct Script {
    /// Steps of the whole training.
    pub total_steps: u64,
    /// Exit code at the end, and at which step a crash comes.
    pub crash_at: Option<(u64, i32)>,
    /// Boxes that never answer, by how many of them.
    pub dead_boxes: u32,
    /// Steps of committed checkpoints.
    pub commits: Vec<u64>,
    /// Trainings that were started: instance and first step.
    pub started: Vec<(u64, u64)>,
    running: Vec<Training>,
    restored: Vec<(u64, u64)>,
}

#[derive(Debug, Clone)]
struct Training {
    instance: u64,
    first_step: u64,
    began: Instant,
    taken_back: Option<Instant>,
    ended_by_us: bool,
}

impl ScriptedBoxes {
    /// Looks at or changes the script.
    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }
}

impl Training {
    fn step(&self, script: &Script) -> u64 {
        let now = self.taken_back.unwrap_or_else(Instant::now);
        let stop = script
            .crash_at
            .map_or(script.total_steps, |(step, _)| step.min(script.total_steps));
        (self.first_step + now.duration_since(self.began).as_secs()).min(stop.max(self.first_step))
    }

    fn info(&self, script: &Script) -> SessionInfo {
        let step = self.step(script);
        let (state, exit_code) = match script.crash_at {
            _ if self.ended_by_us => (SessionState::Stopped, None),
            Some((at, code)) if step >= at => (SessionState::Exited, Some(code)),
            _ if step >= script.total_steps => (SessionState::Exited, Some(0)),
            _ => (SessionState::Running, None),
        };
        SessionInfo {
            name: "train".to_owned(),
            state,
            exit_code,
            signal: None,
            started_us: EPOCH_US as u64,
            ended_us: None,
            pid: 1,
            log_bytes: 0,
            tmux: true,
            command: String::new(),
        }
    }
}

struct ScriptedBox {
    boxes: ScriptedBoxes,
    instance: u64,
}

impl ScriptedBox {
    /// A box answers while its contract runs.
    fn reach(&self) -> Result<MutexGuard<'_, Script>, SiteError> {
        let up = self
            .boxes
            .1
            .alive()
            .iter()
            .any(|instance| instance.id == self.instance && instance.contract_running);
        if !up {
            return Err(SiteError::Unreachable("no route to host".to_owned()));
        }
        let mut script = self.boxes.0.lock().unwrap();
        // What the box did by itself since somebody looked last.
        let mut commits = Vec::new();
        for training in &script.running {
            let step = training.step(&script);
            commits.extend(
                (training.first_step + 1..=step).filter(|step| step % CHECKPOINT_EVERY == 0),
            );
        }
        script.commits.extend(commits);
        script.commits.sort_unstable();
        script.commits.dedup();
        Ok(script)
    }
}

#[async_trait]
impl Sites for ScriptedBoxes {
    async fn public_key(&self) -> Result<String, SiteError> {
        Ok("ssh-ed25519 AAAA story".to_owned())
    }

    fn onstart(&self, _spec: &RunSpec, _provider_url: &str) -> Result<String, SiteError> {
        Ok("true".to_owned())
    }

    async fn prove_bucket(&self, _spec: &RunSpec) -> Result<usize, SiteError> {
        Ok(self.script().commits.len())
    }

    async fn open(
        &self,
        place: &Place,
        _spec: &RunSpec,
        _progress: Progress<'_>,
    ) -> Result<Arc<dyn Site>, SiteError> {
        if self.script().dead_boxes > 0 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            return Err(SiteError::Unreachable("connection timed out".to_owned()));
        }
        let site = ScriptedBox {
            boxes: self.clone(),
            instance: place.instance,
        };
        drop(site.reach()?);
        Ok(Arc::new(site))
    }

    async fn left_log(
        &self,
        _spec: &RunSpec,
        _attempt: u32,
        _session: &str,
    ) -> Result<Vec<LogPiece>, SiteError> {
        Ok(Vec::new())
    }

    fn forget(&self, _place: &Place) {
        let mut script = self.script();
        script.dead_boxes = script.dead_boxes.saturating_sub(1);
    }
}

#[async_trait]
impl Site for ScriptedBox {
    async fn status(&self) -> Result<AgentStatus, SiteError> {
        let script = self.reach()?;
        let mine = script
            .running
            .iter()
            .find(|training| training.instance == self.instance);
        let training = mine.map(|training| TrainingInfo {
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
        Ok(AgentStatus {
            version: "0.0.0".to_owned(),
            build: String::new(),
            now_us: 0,
            started_us: 0,
            boot: String::new(),
            run: None,
            attempt: 0,
            last_event: 0,
            oldest_unacknowledged_event: 0,
            sessions: mine
                .map(|training| training.info(&script))
                .into_iter()
                .collect(),
            sample: None,
            training,
            backup: Some(BackupInfo::default()),
            gpu_problem: None,
        })
    }

    async fn preflight(&self, _gpus: u32, _disk_bytes: u64) -> Result<PreflightReport, SiteError> {
        drop(self.reach()?);
        Ok(PreflightReport {
            checks: Vec::new(),
            can_self_stop: true,
        })
    }

    async fn configure(&self, config: &BoxConfig) -> Result<String, SiteError> {
        drop(self.reach()?);
        Ok(format!("/root/{}", config.workdir))
    }

    async fn give_credentials(&self) -> Result<(), SiteError> {
        self.reach().map(drop)
    }

    async fn prove_bucket(&self) -> Result<(), SiteError> {
        self.reach().map(drop)
    }

    async fn sync(
        &self,
        _from: &Path,
        _to: &str,
        _progress: Progress<'_>,
    ) -> Result<(), SiteError> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.reach().map(drop)
    }

    async fn start_session(&self, _request: &SessionRequest) -> Result<SessionInfo, SiteError> {
        let mut script = self.reach()?;
        let restored = script
            .restored
            .iter()
            .rev()
            .find(|(instance, _)| *instance == self.instance);
        let first_step = restored.map_or(0, |(_, step)| *step);
        let training = Training {
            instance: self.instance,
            first_step,
            began: Instant::now(),
            taken_back: None,
            ended_by_us: false,
        };
        script.started.push((self.instance, first_step));
        script.running.push(training.clone());
        Ok(training.info(&script))
    }

    async fn end_session(&self, _name: &str, _grace: Duration) -> Result<SessionInfo, SiteError> {
        let mut script = self.reach()?;
        let position = script
            .running
            .iter()
            .position(|training| training.instance == self.instance);
        let position = position.ok_or_else(|| SiteError::Refused("no such session".to_owned()))?;
        script.running[position].ended_by_us = true;
        let training = script.running[position].clone();
        Ok(training.info(&script))
    }

    async fn log(&self, _session: &str, _from: LogPosition) -> Result<Vec<LogPiece>, SiteError> {
        self.reach().map(|_| Vec::new())
    }

    async fn log_tail(&self, _session: &str, _bytes: u64) -> Result<Vec<u8>, SiteError> {
        drop(self.reach()?);
        Ok(b"Traceback (most recent call last):\nValueError: no\n".to_vec())
    }

    async fn events(&self, _from: u64) -> Result<Vec<AgentEvent>, SiteError> {
        self.reach().map(|_| Vec::new())
    }

    async fn acknowledge(&self, _up_to: u64) -> Result<(), SiteError> {
        self.reach().map(drop)
    }

    async fn backup_now(&self, _deadline: Duration, _last: bool) -> Result<BackupInfo, SiteError> {
        drop(self.reach()?);
        Ok(BackupInfo::default())
    }

    async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, SiteError> {
        Ok(self
            .reach()?
            .commits
            .iter()
            .rev()
            .map(|step| checkpoint(*step))
            .collect())
    }

    async fn restore(&self, _progress: Progress<'_>) -> Result<RestoreReport, SiteError> {
        let mut script = self.reach()?;
        let Some(step) = script.commits.last().copied() else {
            return Ok(RestoreReport::default());
        };
        script.restored.push((self.instance, step));
        Ok(RestoreReport {
            restored: Some(checkpoint(step)),
            path: Some(format!("/root/checkpoints/step-{step}")),
            skipped: Vec::new(),
        })
    }

    async fn collect_results(&self, _paths: &[String]) -> Result<(), SiteError> {
        self.reach().map(drop)
    }

    async fn hash_files(&self, _paths: &[String]) -> Result<FileList, SiteError> {
        drop(self.reach()?);
        Ok(FileList::default())
    }

    async fn fetch(
        &self,
        _from: &str,
        _paths: &[String],
        _to: &Path,
        _progress: Progress<'_>,
    ) -> Result<(), SiteError> {
        self.reach().map(drop)
    }

    async fn wipe(&self) -> Result<(), SiteError> {
        self.reach().map(drop)
    }
}

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

impl World {
    /// A market of `machines`, boxes that train `total_steps`.
    pub fn new(machines: u64, total_steps: u64) -> World {
        let home = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let clock = Clock::new(move || EPOCH_US + start.elapsed().as_micros() as i64);
        let store = Arc::new(Store::open(&home.path().join("store.db"), clock.clone()).unwrap());
        let market = MemoryMarket::new(machines);
        let script = Script {
            total_steps,
            crash_at: None,
            dead_boxes: 0,
            commits: Vec::new(),
            started: Vec::new(),
            running: Vec::new(),
            restored: Vec::new(),
        };
        let boxes = ScriptedBoxes(Arc::new(Mutex::new(script)), market.clone());
        World {
            market,
            boxes,
            store,
            told: Arc::default(),
            clock,
            home,
        }
    }

    /// A lifecycle as one `spotter` process would have it.
    pub fn lifecycle(&self) -> Lifecycle {
        Lifecycle {
            store: Arc::clone(&self.store),
            provider: Arc::new(self.market.clone()),
            sites: Arc::new(self.boxes.clone()),
            clock: self.clock.clone(),
            logbook: Logbook::new(self.home.path()),
            report: Arc::clone(&self.told) as Arc<dyn Report>,
            shell: Arc::new(|_| None),
        }
    }

    /// Writes a run down.
    pub fn plan(&self, spec: &RunSpec) {
        self.store
            .create_run(&RunRecord {
                name: spec.name.clone(),
                spec: spec.clone(),
                created_us: self.clock.now_us(),
                stop_requested: false,
                outcome: None,
                reason: None,
            })
            .unwrap();
    }

    /// Carries a run to its end, holding its lease.
    pub async fn drive(&self, name: &str) -> RunRecord {
        let _lease = Lease::take(&self.store, name)
            .unwrap()
            .expect("nobody else watches");
        self.lifecycle().drive(name, Goal::End).await.unwrap()
    }

    /// The market takes a box back, and its training ends with it.
    pub fn outbid(&self, instance: Option<u64>) {
        let instance = instance.expect("a box that trains has a number");
        self.market.outbid(instance);
        let mut script = self.boxes.script();
        for training in script
            .running
            .iter_mut()
            .filter(|training| training.instance == instance)
        {
            training.taken_back = Some(Instant::now());
        }
    }

    /// Waits until the newest attempt is in a state.
    pub async fn until(&self, name: &str, number: u32, state: State) -> AttemptRecord {
        for _ in 0..100_000 {
            if let Some(attempt) = self.store.latest_attempt(name).unwrap()
                && attempt.number == number
                && attempt.state == state
            {
                return attempt;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("attempt {number} of {name} never was {state}");
    }

    /// Attempts of a run.
    pub fn attempts(&self, name: &str) -> Vec<AttemptRecord> {
        self.store.attempts(name).unwrap()
    }

    /// Dollars of a run by the ledger and by the market's own account.
    pub async fn money(&self, name: &str) -> (f64, f64) {
        let ours = self.lifecycle().spent_usd(name).unwrap();
        let instances: Vec<u64> = self
            .attempts(name)
            .iter()
            .filter_map(|attempt| attempt.instance)
            .collect();
        let charges = self.market.charges(0.0, &instances).await.unwrap();
        (
            ours,
            charges
                .iter()
                .map(spotter::provider::Charge::total_usd)
                .sum(),
        )
    }
}

/// An interruptible run with a bucket.
pub fn spec(name: &str) -> RunSpec {
    RunSpec {
        name: name.to_owned(),
        workdir: None,
        resources: Resources {
            gpu_name: Some("RTX 4090".to_owned()),
            num_gpus: 1,
            disk_gb: 40.0,
            rental: spotter::provider::Rental::Interruptible,
            filters: Vec::new(),
            max_price_usd_per_hour: None,
            bid_headroom: 0.15,
            bid_max_usd_per_hour: None,
        },
        model: None,
        image: "image".to_owned(),
        onstart: None,
        envs: std::collections::BTreeMap::new(),
        setup: None,
        run: "train".to_owned(),
        resume: None,
        checkpoints: Some(Checkpoints {
            dir: "checkpoints".to_owned(),
            to: Some("s3://bucket/runs".to_owned()),
            every: Duration::from_secs(600),
            keep_last: 2,
            settle: None,
        }),
        recover: Recover {
            policy: RecoverPolicy::Elsewhere,
            attempts: 5,
        },
        limits: Limits {
            bring_up: Duration::from_secs(45 * 60),
            budget_usd: None,
        },
        results: None::<Results>,
        on_done: OnDone::Destroy,
    }
}
