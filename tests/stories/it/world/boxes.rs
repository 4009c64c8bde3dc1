//! Scripted boxes: what their sessions print and how they end, which calls break. [`alone`] is what they do by themselves, [`site`]
//! what they answer.

mod alone;
mod site;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

pub use alone::commit_id;
use alone::dead_mans_switches;
use async_trait::async_trait;
use spotter::{
    agent_client::{
        AgentEvent, BackupInfo, BoxConfig, CheckResult, LineInfo, SampleInfo, SessionRequest,
        SessionState,
    },
    provider::{Instance, InstanceId, Provider, hosts::is_host, memory::MemoryMarket},
    run::site::{LeftLog, Place, Progress, Site, SiteError, Sites, Trial},
    spec::{BucketServer, RunSpec},
};
use spotter_bucket::{Bucket, Ending, Target, memory::MemoryBucket};
use tokio::time::Instant;

use super::{CHECKPOINT_EVERY, EPOCH_US};

/// Length of a line about a step.
const LINE_BYTES: usize = 32;

/// A market as its boxes live in it.
pub trait Fleet: Provider {
    /// Instances that exist.
    fn alive(&self) -> Vec<Instance>;

    /// Containers that the market ended since this was asked last, and when. One in which a story ends them itself tells of none.
    fn ended(&self) -> Vec<(InstanceId, Instant)> {
        Vec::new()
    }
}

impl Fleet for MemoryMarket {
    fn alive(&self) -> Vec<Instance> {
        MemoryMarket::alive(self)
    }
}

/// The scripted boxes; clones share them.
#[derive(Clone)]
pub struct ScriptedBoxes(
    Arc<Mutex<Script>>,
    Arc<dyn Fleet>,
    Arc<MemoryBucket>,
    /// Bucket keys of the shell that they are reached from, where it is another one than the script's.
    Option<&'static str>,
);

/// What boxes do, and what they have done.
#[derive(Debug)]
pub struct Script {
    /// Steps of the whole training.
    pub total_steps: u64,
    /// Seconds that a step takes.
    pub step_s: u64,
    /// Exit code at the end, and at which step a crash comes.
    pub crash_at: Option<(u64, i32)>,
    /// What the agent finds out about a crash; `None`: it does not tell.
    pub diagnosis: Option<serde_json::Value>,
    /// Boxes that never answer, by how many of them.
    pub dead_boxes: u32,
    /// Such a box lets packets vanish; others refuse.
    pub deaf: bool,
    /// Hosts of the user's that do not answer, by their instance.
    pub dead_hosts: BTreeSet<u64>,
    /// The link to every box is cut.
    pub cut: bool,
    /// Calls that break before they are carried out, by how many of them.
    pub breaks: BTreeMap<&'static str, u32>,
    /// Calls that are carried out and whose answer is lost.
    pub lost: BTreeMap<&'static str, u32>,
    /// A call that never ends.
    pub hangs: Option<&'static str>,
    /// How long `setup` and `smoke` take, and their exit code.
    pub lasts: BTreeMap<&'static str, (u64, i32)>,
    /// What the checks of a box find.
    pub checks: Vec<CheckResult>,
    /// What a box measures.
    pub sample: Option<SampleInfo>,
    /// What the lines of the next boxes carry, in the order in which they are measured; others are not.
    pub lines: VecDeque<LineInfo>,
    /// What the agent answers instead of taking its assignment; `None`: it takes it.
    pub refuses_to_configure: Option<SiteError>,
    /// Fetches that bring other bytes than the box said, by how many of them.
    pub torn_fetches: u32,
    /// What the backup says.
    pub backup: BackupInfo,
    /// On boxes of attempts up to this one nothing comes back from the bucket.
    pub no_egress: u32,
    /// Nothing is ever committed.
    pub no_commits: bool,
    /// Checkpoints are found, and none reaches the bucket.
    pub no_uploads: bool,
    /// Bytes that a box sends while it trains, each second; 0: its agent tells of no traffic.
    pub sends_bytes_per_s: u64,
    /// Bytes of each checkpoint, as its box tells.
    pub checkpoint_bytes: u64,
    /// Bytes of a checkpoint that is restored, and how long that takes.
    pub restores: (u64, Duration),
    /// Public key of the laptop.
    pub key: String,
    /// Id of the bucket keys of the laptop; `None`: it has none.
    pub bucket_key: Option<&'static str>,
    /// What a try of keys comes to, by their id; others work.
    pub trials: BTreeMap<&'static str, Trial>,
    /// Ids of the keys that were tried.
    pub tried: Vec<String>,
    /// Ids of the keys that boxes hold.
    pub held: BTreeMap<u64, String>,
    /// Steps of committed checkpoints.
    pub commits: Vec<u64>,
    /// What boxes that stopped themselves left in the bucket, by attempt.
    pub endings: BTreeMap<u32, Ending>,
    /// Questions about that which get no answer.
    pub bucket_away: u32,
    /// What boxes left in the bucket of their logs.
    pub left_log: LeftLog,
    /// Questions about that which get no answer.
    pub logs_away: u32,
    /// What boxes left there of what happened on them.
    pub left_events: Vec<AgentEvent>,
    /// What boxes left there of what they measured.
    pub left_samples: Vec<SampleInfo>,
    /// Trainings that were started: instance and first step.
    pub started: Vec<(u64, u64)>,
    /// Every call, and which box it was for.
    pub calls: Vec<(&'static str, u64)>,
    /// Assignments as they came.
    pub configs: Vec<BoxConfig>,
    /// How long the money lasts, as a box was told last by whoever watches.
    pub allowed: Option<Duration>,
    /// Nobody watches: a box whose money is over ends its training and stops itself.
    pub alone: bool,
    /// Requests of sessions as they came.
    pub requests: Vec<SessionRequest>,
    /// Boxes whose agent wiped its keys, which one that is destroyed cannot.
    pub wiped: Vec<u64>,
    begin: Instant,
    /// Calls that take their time and are under way.
    under_way: u32,
    /// Until when the money lasts, by box.
    money: BTreeMap<u64, Instant>,
    /// Assignments by box.
    assigned: BTreeMap<u64, BoxConfig>,
    switch: Option<Duration>,
    up: BTreeMap<u64, Instant>,
    sessions: Vec<Session>,
    journal: BTreeMap<u64, Vec<AgentEvent>>,
    restored: Vec<(u64, u64)>,
}

#[derive(Debug, Clone)]
struct Session {
    instance: u64,
    name: String,
    life: u64,
    first_step: u64,
    looked_at: u64,
    began: Instant,
    timeout: Option<Duration>,
    taken_back: Option<Instant>,
    ended_by_us: Option<Instant>,
    /// How it ended and when, once that was seen.
    over: Option<(SessionState, Option<i32>, Instant)>,
}

impl ScriptedBoxes {
    /// Boxes of a market, whose switches watch over them.
    pub fn new(market: impl Fleet + 'static, total_steps: u64) -> Self {
        let script = Script {
            total_steps,
            step_s: 1,
            crash_at: None,
            diagnosis: None,
            dead_boxes: 0,
            deaf: false,
            dead_hosts: BTreeSet::new(),
            cut: false,
            no_egress: 0,
            breaks: BTreeMap::new(),
            lost: BTreeMap::new(),
            hangs: None,
            lasts: BTreeMap::new(),
            checks: Vec::new(),
            sample: None,
            lines: VecDeque::new(),
            refuses_to_configure: None,
            torn_fetches: 0,
            backup: BackupInfo::default(),
            no_commits: false,
            no_uploads: false,
            sends_bytes_per_s: 0,
            checkpoint_bytes: 0,
            restores: (1, Duration::ZERO),
            key: "ssh-ed25519 AAAA story".to_owned(),
            bucket_key: Some("OWN"),
            trials: BTreeMap::new(),
            tried: Vec::new(),
            held: BTreeMap::new(),
            commits: Vec::new(),
            endings: BTreeMap::new(),
            bucket_away: 0,
            left_log: LeftLog::default(),
            logs_away: 0,
            left_events: Vec::new(),
            left_samples: Vec::new(),
            started: Vec::new(),
            calls: Vec::new(),
            configs: Vec::new(),
            allowed: None,
            alone: false,
            requests: Vec::new(),
            wiped: Vec::new(),
            begin: Instant::now(),
            under_way: 0,
            money: BTreeMap::new(),
            assigned: BTreeMap::new(),
            switch: None,
            up: BTreeMap::new(),
            sessions: Vec::new(),
            journal: BTreeMap::new(),
            restored: Vec::new(),
        };
        let boxes = Self(
            Arc::new(Mutex::new(script)),
            Arc::new(market),
            Arc::default(),
            None,
        );
        tokio::spawn(dead_mans_switches(boxes.clone()));
        boxes
    }

    /// The same boxes, reached from a shell with other bucket keys.
    pub fn with_bucket_key(&self, id: &'static str) -> Self {
        let Self(script, fleet, bucket, _) = self.clone();
        Self(script, fleet, bucket, Some(id))
    }

    /// Looks at or changes the script.
    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    /// The bucket, as the laptop sees it.
    pub fn bucket(&self) -> &MemoryBucket {
        &self.2
    }

    /// The container of a box ends, and every session with it.
    pub fn end_container(&self, instance: u64) {
        self.script().end_container(instance, Instant::now());
    }

    /// Whether something is under way between laptop and boxes.
    pub fn is_busy(&self) -> bool {
        self.script().under_way > 0
    }

    /// When a box does something by itself next: its training ends, or, with nobody there, its money.
    pub fn next_due(&self) -> Option<Instant> {
        self.catch_up();
        let script = self.script();
        let live = |session: &&Session| session.name == "train" && session.ended(&script).is_none();
        let live = script.sessions.iter().filter(live);
        let ends = live.clone().map(|session| {
            let steps = script.total_steps.saturating_sub(session.first_step);
            session.began + Duration::from_secs(steps * script.step_s)
        });
        let money = live
            .filter(|_| script.alone)
            .filter_map(|session| script.money.get(&session.instance).copied());
        ends.chain(money).min()
    }

    /// What the market did to boxes since somebody looked last happens to what ran on them.
    fn catch_up(&self) {
        let _ = self.1.alive();
        for (instance, at) in self.1.ended() {
            self.script().end_container(instance, at);
        }
    }

    /// The box ends its training itself.
    pub fn end_session(&self, instance: u64) {
        let mut script = self.script();
        for session in script.sessions.iter_mut() {
            if session.instance == instance && session.name == "train" {
                session.ended_by_us.get_or_insert_with(Instant::now);
            }
        }
        script.catch_up();
    }

    /// What the agent of a box has told so far.
    pub fn journal(&self, instance: u64) -> Vec<AgentEvent> {
        self.script()
            .journal
            .get(&instance)
            .cloned()
            .unwrap_or_default()
    }

    /// What a session printed to its end.
    pub fn printed(&self, instance: u64, name: &str) -> String {
        let script = self.script();
        script
            .session(instance, name)
            .map_or_else(String::new, |session| session.text(&script, 0, usize::MAX))
    }
}

struct ScriptedBox {
    boxes: ScriptedBoxes,
    instance: u64,
}

/// A call that takes its time, until it is over or nobody waits for it any more.
struct UnderWay(ScriptedBoxes);

impl UnderWay {
    fn begin(boxes: &ScriptedBoxes) -> Self {
        boxes.script().under_way += 1;
        Self(boxes.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.script().under_way -= 1;
    }
}

fn unreachable() -> SiteError {
    SiteError::Unreachable("no route to host".to_owned())
}

impl ScriptedBox {
    /// A box answers while its contract runs.
    async fn reach(&self, call: &'static str) -> Result<MutexGuard<'_, Script>, SiteError> {
        if self.boxes.script().hangs == Some(call) {
            std::future::pending::<()>().await;
        }
        // What is asked all the time is quick; everything else takes its time.
        if !matches!(call, "status" | "log" | "events" | "acknowledge") {
            let _under_way = UnderWay::begin(&self.boxes);
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        self.boxes.catch_up();
        let up = self.boxes.1.alive().iter().any(|instance| {
            instance.id == self.instance
                && instance.contract_running
                && instance.actual == spotter::provider::Actual::Running
        });
        let mut script = self.boxes.script();
        script.calls.push((call, self.instance));
        let up = up || (is_host(self.instance) && !script.dead_hosts.contains(&self.instance));
        if !up || script.cut {
            return Err(unreachable());
        }
        if let Some(left) = script.breaks.get_mut(call).filter(|left| **left > 0) {
            *left -= 1;
            return Err(unreachable());
        }
        script.catch_up();
        Ok(script)
    }

    /// The answer, unless it is lost on its way.
    fn answer<T>(
        &self,
        script: &mut Script,
        call: &'static str,
        answer: T,
    ) -> Result<T, SiteError> {
        if let Some(left) = script.lost.get_mut(call).filter(|left| **left > 0) {
            *left -= 1;
            return Err(unreachable());
        }
        Ok(answer)
    }
}

#[async_trait]
impl Sites for ScriptedBoxes {
    async fn public_key(&self) -> Result<String, SiteError> {
        Ok(self.script().key.clone())
    }

    fn onstart(&self, spec: &RunSpec, _provider_url: &str) -> Result<String, SiteError> {
        self.script().switch = Some(spec.bring_up());
        Ok("true".to_owned())
    }

    async fn prove_bucket(&self, _spec: &RunSpec) -> Result<usize, SiteError> {
        Ok(self.script().commits.len())
    }

    async fn keys_source(&self) -> Option<String> {
        Some("the environment".to_owned())
    }

    async fn open(
        &self,
        place: &Place,
        _spec: &RunSpec,
        _progress: Progress<'_>,
    ) -> Result<Arc<dyn Site>, SiteError> {
        self.dial(place, "open").await
    }

    async fn look(&self, place: &Place, _spec: &RunSpec) -> Result<Arc<dyn Site>, SiteError> {
        self.dial(place, "look").await
    }

    async fn left_log(
        &self,
        _spec: &RunSpec,
        _attempt: u32,
        _session: &str,
    ) -> Result<LeftLog, SiteError> {
        let mut script = self.script();
        if script.logs_away > 0 {
            script.logs_away -= 1;
            return Err(SiteError::Unreachable(
                "the bucket does not answer".to_owned(),
            ));
        }
        Ok(script.left_log.clone())
    }

    async fn left_samples(
        &self,
        _spec: &RunSpec,
        _attempt: u32,
    ) -> Result<Vec<SampleInfo>, SiteError> {
        Ok(self.script().left_samples.clone())
    }

    async fn left_events(
        &self,
        _spec: &RunSpec,
        attempt: u32,
    ) -> Result<Vec<AgentEvent>, SiteError> {
        let left = self.script().left_events.clone();
        Ok(left
            .into_iter()
            .filter(|event| event.attempt == attempt)
            .collect())
    }

    async fn left_ending(
        &self,
        _spec: &RunSpec,
        attempt: u32,
    ) -> Result<Option<Ending>, SiteError> {
        let mut script = self.script();
        if script.bucket_away > 0 {
            script.bucket_away -= 1;
            return Err(SiteError::Unreachable(
                "the bucket does not answer".to_owned(),
            ));
        }
        Ok(script.endings.get(&attempt).cloned())
    }

    async fn bucket(
        &self,
        to: &str,
        _server: &BucketServer,
    ) -> Result<(Arc<dyn Bucket>, Target), SiteError> {
        let target = Target::parse(to, None, None).unwrap();
        Ok((self.2.clone(), target))
    }

    fn forget(&self, _place: &Place) {
        let mut script = self.script();
        script.dead_boxes = script.dead_boxes.saturating_sub(1);
    }
}
