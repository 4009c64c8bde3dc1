//! Scripted boxes at the `Site` seam: what their sessions print and how they end, which calls break, and the dead-man's switch.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use spotter::{
    agent_client::{
        AgentEvent, AgentStatus, BackupInfo, BoxConfig, CheckResult, CheckpointInfo, FileHash,
        FileList, LogPiece, LogPosition, PreflightReport, RestoreReport, SessionInfo,
        SessionRequest, SessionState, TrainingInfo,
    },
    provider::{Instance, InstanceId, Provider, hosts::is_host, memory::MemoryMarket},
    run::site::{KeysGiven, LeftLog, Place, Progress, Site, SiteError, Sites},
    spec::{BucketServer, RunSpec},
};
use spotter_bucket::{Bucket, Cause, EndedBy, Ending, Target, memory::MemoryBucket};
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
pub struct ScriptedBoxes(Arc<Mutex<Script>>, Arc<dyn Fleet>, Arc<MemoryBucket>);

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
    /// What the agent answers instead of taking its assignment; `None`: it takes it.
    pub refuses_to_configure: Option<SiteError>,
    /// Fetches that bring other bytes than the box said, by how many of them.
    pub torn_fetches: u32,
    /// What the backup says.
    pub backup: BackupInfo,
    /// Nothing is ever committed.
    pub no_commits: bool,
    /// Checkpoints are found, and none reaches the bucket.
    pub no_uploads: bool,
    /// Bytes of a checkpoint that is restored, and how long that takes.
    pub restores: (u64, Duration),
    /// Public key of the laptop.
    pub key: String,
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
            breaks: BTreeMap::new(),
            lost: BTreeMap::new(),
            hangs: None,
            lasts: BTreeMap::new(),
            checks: Vec::new(),
            refuses_to_configure: None,
            torn_fetches: 0,
            backup: BackupInfo::default(),
            no_commits: false,
            no_uploads: false,
            restores: (1, Duration::ZERO),
            key: "ssh-ed25519 AAAA story".to_owned(),
            commits: Vec::new(),
            endings: BTreeMap::new(),
            bucket_away: 0,
            left_log: LeftLog::default(),
            logs_away: 0,
            left_events: Vec::new(),
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
        );
        tokio::spawn(dead_mans_switches(boxes.clone()));
        boxes
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

/// A box on which no training starts in time stops itself, as `onstart` and the agent see to: `setup` and `smoke` are none.
async fn dead_mans_switches(boxes: ScriptedBoxes) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        boxes.catch_up();
        let alive = boxes.1.alive();
        let broke = boxes.script().end_what_is_not_paid();
        let mut due: Vec<u64> = {
            let mut script = boxes.script();
            let Some(limit) = script.switch else { continue };
            let runs = |id: &u64| {
                alive
                    .iter()
                    .any(|found| found.id == *id && found.contract_running && !found.ssh.is_empty())
            };
            script.up.retain(|id, _| runs(id));
            for found in alive.iter().filter(|found| runs(&found.id)) {
                script.up.entry(found.id).or_insert_with(Instant::now);
            }
            let trains = |id: u64, since: Instant| {
                script.sessions.iter().any(|session| {
                    session.instance == id && session.name == "train" && session.began >= since
                })
            };
            script
                .up
                .iter()
                .filter(|(id, since)| since.elapsed() >= limit && !trains(**id, **since))
                .map(|(id, _)| *id)
                .collect()
        };
        due.extend(broke);
        for id in due {
            boxes.1.stop(id).await.ok();
            boxes.end_container(id);
        }
    }
}

impl Session {
    fn now(&self) -> Instant {
        if let Some((_, _, at)) = self.over {
            return at;
        }
        let ends = [self.taken_back, self.ended_by_us];
        ends.into_iter()
            .flatten()
            .min()
            .unwrap_or_else(Instant::now)
    }

    fn step(&self, script: &Script) -> u64 {
        let stop = script
            .crash_at
            .map_or(script.total_steps, |(step, _)| step.min(script.total_steps));
        (self.first_step + self.now().duration_since(self.began).as_secs() / script.step_s)
            .min(stop.max(self.first_step))
    }

    fn ended(&self, script: &Script) -> Option<(SessionState, Option<i32>)> {
        use SessionState::{Exited, Signalled, Stopped};
        if let Some((state, code, _)) = self.over {
            return Some((state, code));
        }
        let lasted = self.now().duration_since(self.began);
        let by_itself = if self.name == "train" {
            let step = self.step(script);
            match script.crash_at {
                Some((at, code)) if step >= at => Some((Exited, Some(code))),
                _ if step >= script.total_steps => Some((Exited, Some(0))),
                _ => None,
            }
        } else {
            let (seconds, code) = script
                .lasts
                .get(self.name.as_str())
                .copied()
                .unwrap_or((1, 0));
            (lasted >= Duration::from_secs(seconds)).then_some((Exited, Some(code)))
        };
        let timed_out = self.timeout.is_some_and(|limit| lasted >= limit);
        match by_itself {
            Some(end) => Some(end),
            None if self.ended_by_us.is_some() || timed_out => Some((Stopped, None)),
            None if self.taken_back.is_some() => Some((Signalled, None)),
            None => None,
        }
    }

    /// What it printed from a byte on, at least as much as asked for if there is that much.
    fn text(&self, script: &Script, from: usize, bytes: usize) -> String {
        let head = format!("{} begins\n", self.name);
        let steps = match self.name.as_str() {
            "train" => (self.step(script) - self.first_step) as usize,
            _ => 0,
        };
        // Every line is as long as the others, so that a long log need not be made up from its start.
        let skipped = (from.saturating_sub(head.len()) / LINE_BYTES).min(steps);
        let mut text = if skipped == 0 {
            head.clone()
        } else {
            String::new()
        };
        let begin = if skipped == 0 {
            0
        } else {
            head.len() + skipped * LINE_BYTES
        };
        for index in skipped..steps {
            if begin + text.len() >= from.saturating_add(bytes) {
                break;
            }
            let step = self.first_step + index as u64 + 1;
            let line = format!("step {step}/{}", script.total_steps);
            text.push_str(&format!("{line:<width$}\n", width = LINE_BYTES - 1));
        }
        let whole = begin + text.len() == head.len() + steps * LINE_BYTES;
        if whole && let Some((_, code)) = self.ended(script) {
            text.push_str(&format!("{} ended {code:?}\n", self.name));
        }
        text.split_off((from - begin).min(text.len()))
    }

    fn info(&self, script: &Script) -> SessionInfo {
        let since_us = |at: Instant| script.date_us(at);
        let ended = self.ended(script);
        let (state, exit_code) = ended.unwrap_or((SessionState::Running, None));
        SessionInfo {
            name: self.name.clone(),
            state,
            exit_code,
            signal: (state == SessionState::Signalled).then_some(15),
            started_us: since_us(self.began),
            ended_us: ended.map(|_| since_us(self.now())),
            pid: 1,
            log_bytes: 1,
            tmux: true,
            command: String::new(),
        }
    }
}

impl Script {
    fn session(&self, instance: u64, name: &str) -> Option<&Session> {
        self.sessions
            .iter()
            .rev()
            .find(|session| session.instance == instance && session.name == name)
    }

    fn end_container(&mut self, instance: u64, at: Instant) {
        // The next one begins with a switch of its own.
        self.up.remove(&instance);
        for index in 0..self.sessions.len() {
            if self.sessions[index].instance != instance {
                continue;
            }
            self.sessions[index].taken_back.get_or_insert(at);
            // What had ended by itself stays so, whatever the script says later.
            let session = &self.sessions[index];
            let over = match (&session.over, session.ended(self)) {
                (None, Some((state, code))) if state != SessionState::Signalled => {
                    Some((state, code, session.now()))
                }
                _ => continue,
            };
            self.sessions[index].over = over;
        }
    }

    /// With nobody there a box ends its training when its money is over, leaves word of it in the bucket, and stops itself when the time for
    /// that is over, too; so does one whose training ended long ago. Answers which stop now.
    fn end_what_is_not_paid(&mut self) -> Vec<u64> {
        let now = Instant::now();
        let over: Vec<(u64, Instant)> = match self.alone {
            true => (self.money.iter())
                .map(|(instance, at)| (*instance, *at))
                .filter(|(_, at)| *at <= now)
                .collect(),
            false => Vec::new(),
        };
        let mut stop = self.idle();
        for (instance, at) in over {
            let live = |session: &Session| {
                session.instance == instance
                    && session.name == "train"
                    && session.ended(self).is_none()
            };
            let config = &self.assigned[&instance];
            let finish = config
                .allowance
                .map_or(Duration::ZERO, |allowed| allowed.finish);
            let attempt = config.attempt;
            if let Some(index) = self.sessions.iter().rposition(live) {
                let began_us = self.date_us(self.sessions[index].began);
                self.sessions[index].ended_by_us = Some(at);
                let mut ending = Ending::new(began_us, self.date_us(at), EndedBy::Request);
                ending.cause = Some(Cause {
                    by: "budget".to_owned(),
                    reason: "the money that was left for it is over".to_owned(),
                });
                self.endings.insert(attempt, ending);
                self.catch_up();
            }
            // Nobody takes all the time that he is given.
            if now >= at + finish.mul_f64(0.9) && self.endings.contains_key(&attempt) {
                self.money.remove(&instance);
                stop.push(instance);
            }
        }
        stop
    }

    /// With nobody there, boxes whose training has been over for long enough.
    fn idle(&mut self) -> Vec<u64> {
        if !self.alone {
            return Vec::new();
        }
        self.catch_up();
        let is_idle = |(instance, config): (&u64, &BoxConfig)| {
            let limit = config.idle_stop?;
            let (state, _, at) = self.session(*instance, "train")?.over?;
            let idle = state == SessionState::Exited && at.elapsed() >= limit;
            idle.then_some(*instance)
        };
        self.assigned.iter().filter_map(is_idle).collect()
    }

    /// The date by the clock of every box, microseconds since the epoch.
    fn date_us(&self, at: Instant) -> u64 {
        EPOCH_US as u64 + at.duration_since(self.begin).as_micros() as u64
    }

    /// An event of a box's agent that happens now.
    pub fn tell(&mut self, instance: u64, kind: &str, detail: serde_json::Value) {
        self.tell_at(Instant::now(), instance, kind, detail);
    }

    fn tell_at(&mut self, at: Instant, instance: u64, kind: &str, detail: serde_json::Value) {
        let time_us = self.date_us(at);
        let journal = self.journal.entry(instance).or_default();
        journal.push(AgentEvent {
            seq: journal.len() as u64 + 1,
            time_us,
            kind: kind.to_owned(),
            run: String::new(),
            attempt: 1,
            detail,
        });
    }

    /// What boxes did by themselves since somebody looked last.
    fn catch_up(&mut self) {
        let mut news = Vec::new();
        for index in 0..self.sessions.len() {
            let session = &self.sessions[index];
            let step = session.step(self);
            if session.name == "train" && !self.no_commits {
                let written = |step| {
                    let trained = Duration::from_secs((step - session.first_step) * self.step_s);
                    (session.instance, step, session.began + trained)
                };
                news.extend(
                    (session.looked_at + 1..=step)
                        .filter(|step| step % CHECKPOINT_EVERY == 0)
                        .map(written),
                );
            }
            self.sessions[index].looked_at = step;
        }
        for (instance, step, at) in news {
            let path = format!("step-{step}");
            self.tell_at(
                at,
                instance,
                "checkpoint.found",
                json!({ "path": path, "step": step }),
            );
            if !self.no_uploads && !self.commits.contains(&step) {
                self.commits.push(step);
                self.tell(
                    instance,
                    "checkpoint.committed",
                    json!({ "path": path, "step": step }),
                );
            }
        }
        self.commits.sort_unstable();
        for index in 0..self.sessions.len() {
            let session = self.sessions[index].clone();
            if session.over.is_none()
                && let Some((state, code)) = session.ended(self)
            {
                self.sessions[index].over = Some((state, code, session.now()));
                self.tell(
                    session.instance,
                    "session.ended",
                    json!({"session": session.name}),
                );
                if state == SessionState::Exited
                    && code != Some(0)
                    && let Some(mut found) = self.diagnosis.clone()
                {
                    found["session"] = json!(session.name);
                    found["started_us"] = json!(session.info(self).started_us);
                    self.tell(session.instance, "session.diagnosed", found);
                }
            }
        }
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

    async fn open(
        &self,
        place: &Place,
        _spec: &RunSpec,
        _progress: Progress<'_>,
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
        drop(site.reach("open").await?);
        Ok(Arc::new(site))
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
            attempt: 0,
            last_event: script
                .journal
                .get(&self.instance)
                .map_or(0, |journal| journal.len() as u64),
            oldest_unacknowledged_event: 0,
            sessions: names
                .iter()
                .filter_map(|name| Some(script.session(self.instance, name)?.info(&script)))
                .collect(),
            sample: None,
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

    async fn give_credentials(&self) -> Result<KeysGiven, SiteError> {
        drop(self.reach("give_credentials").await?);
        Ok(KeysGiven::default())
    }

    async fn prove_bucket(&self) -> Result<(), SiteError> {
        self.reach("prove_bucket").await.map(drop)
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
        })
    }

    async fn fetch(
        &self,
        _from: &str,
        paths: &[String],
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
