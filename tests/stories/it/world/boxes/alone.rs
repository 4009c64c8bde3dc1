//! What a box does by itself: its sessions go on and end, its journal grows, and it stops when it should not run any longer.

use std::time::Duration;

use serde_json::json;
use spotter::agent_client::{AgentEvent, BoxConfig, SessionInfo, SessionState};
use spotter_bucket::{
    Cause, EndedBy, Ending,
    cadence::{self, Habit},
};
use tokio::time::Instant;

use super::{CHECKPOINT_EVERY, EPOCH_US, LINE_BYTES, Script, ScriptedBoxes, Session};

/// A box on which no training starts in time stops itself, as `onstart` and the agent see to: `setup` and `smoke` are none.
pub(super) async fn dead_mans_switches(boxes: ScriptedBoxes) {
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
    pub(super) fn now(&self) -> Instant {
        if let Some((_, _, at)) = self.over {
            return at;
        }
        let ends = [self.taken_back, self.ended_by_us];
        ends.into_iter()
            .flatten()
            .min()
            .unwrap_or_else(Instant::now)
    }

    pub(super) fn step(&self, script: &Script) -> u64 {
        let stop = script
            .crash_at
            .map_or(script.total_steps, |(step, _)| step.min(script.total_steps));
        (self.first_step + self.now().duration_since(self.began).as_secs() / script.step_s)
            .min(stop.max(self.first_step))
    }

    pub(super) fn ended(&self, script: &Script) -> Option<(SessionState, Option<i32>)> {
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
    pub(super) fn text(&self, script: &Script, from: usize, bytes: usize) -> String {
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

    pub(super) fn info(&self, script: &Script) -> SessionInfo {
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
    pub(super) fn session(&self, instance: u64, name: &str) -> Option<&Session> {
        self.sessions
            .iter()
            .rev()
            .find(|session| session.instance == instance && session.name == name)
    }

    pub(super) fn end_container(&mut self, instance: u64, at: Instant) {
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
    pub(super) fn end_what_is_not_paid(&mut self) -> Vec<u64> {
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
    pub(super) fn idle(&mut self) -> Vec<u64> {
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
    pub(super) fn date_us(&self, at: Instant) -> u64 {
        EPOCH_US as u64 + at.duration_since(self.begin).as_micros() as u64
    }

    /// An event of a box's agent that happens now.
    pub fn tell(&mut self, instance: u64, kind: &str, detail: serde_json::Value) {
        self.tell_at(Instant::now(), instance, kind, detail);
    }

    pub(super) fn tell_at(
        &mut self,
        at: Instant,
        instance: u64,
        kind: &str,
        detail: serde_json::Value,
    ) {
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

    /// As an agent does: tells once when too much lies between two checkpoints of a training that runs, and when that is over.
    fn judge_habit(&mut self, session: &Session) {
        if session.name != "train" || session.over.is_some() || session.ended(self).is_some() {
            return;
        }
        let since = |at: Instant| at.duration_since(self.begin);
        let began = since(session.began);
        let journal = self.journal.get(&session.instance);
        let (mut habit, mut told) = (
            Habit {
                began,
                first: Some((began, session.first_step)),
                saves: Vec::new(),
                now: (since(session.now()), Some(session.step(self))),
                path: String::new(),
            },
            false,
        );
        for event in journal.into_iter().flatten() {
            let at = Duration::from_micros(event.time_us - EPOCH_US as u64);
            match event.kind.as_str() {
                "checkpoint.found" if at >= began => {
                    habit.saves.push(at);
                    habit.path = event.detail["path"].as_str().unwrap_or_default().to_owned();
                }
                cadence::EVENT => told = true,
                cadence::ENDED => told = false,
                _ => {}
            }
        }
        match (cadence::at_risk(&habit), told) {
            (Some(risk), false) => {
                let detail = json!({ "text": risk.text(), "every_steps": risk.steps });
                self.tell(session.instance, cadence::EVENT, detail);
            }
            (None, true) => self.tell(session.instance, cadence::ENDED, json!({})),
            _ => {}
        }
    }

    /// What boxes did by themselves since somebody looked last.
    pub(super) fn catch_up(&mut self) {
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
                    json!({
                        "path": path, "id": commit_id(step), "step": step, "size_bytes": self.checkpoint_bytes,
                    }),
                );
            }
        }
        self.commits.sort_unstable();
        for index in 0..self.sessions.len() {
            self.judge_habit(&self.sessions[index].clone());
        }
        for index in 0..self.sessions.len() {
            let session = self.sessions[index].clone();
            if session.over.is_none()
                && let Some((state, code)) = session.ended(self)
            {
                self.sessions[index].over = Some((state, code, session.now()));
                let info = self.sessions[index].info(self);
                let state_word = format!("{state:?}").to_lowercase();
                self.tell(
                    session.instance,
                    "session.ended",
                    json!({"session": session.name, "state": state_word, "exit_code": code, "signal": info.signal,
                           "started_us": info.started_us, "ended_us": info.ended_us}),
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

/// Name of the commit of a step.
pub fn commit_id(step: u64) -> String {
    format!("{step:012}-01ARZ3NDEKTSV4RRFFQ69G5FAV")
}
