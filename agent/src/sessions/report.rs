//! Puts what happened to sessions into the journal, each thing once, also across crashes of the daemon.

use std::{
    collections::HashMap,
    io,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use tracing::warn;

use super::{
    Sessions, processes,
    record::{self, Reported, Session, SessionState},
};
use crate::events::EventSink;

/// Before a note that the disk refused is written again.
const AGAIN: Duration = Duration::from_secs(30);

/// What is in the journal and could not be noted beside its session, by name and start: a full disk must not tell it twice.
pub(super) type Unnoted = HashMap<(String, u64), (Reported, Instant)>;

impl Sessions {
    /// Puts what happened to sessions into the journal, each once. Returns them, newest first. Blocks on files; called often.
    pub fn report(&self) -> Vec<Session> {
        let mut unnoted = self
            .reporting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let sessions = match self.list() {
            Ok(sessions) => sessions,
            Err(err) => {
                warn!(error = %err, "sessions cannot be listed, will retry");
                return Vec::new();
            }
        };
        for session in &sessions {
            let dir = self.home.sessions().join(&session.name);
            if let Err(err) = self.report_one(session, &dir, &mut unnoted) {
                warn!(session = session.name, error = %err, "a session's report cannot be noted, will retry");
            }
        }
        sessions
    }

    fn report_one(&self, session: &Session, dir: &Path, unnoted: &mut Unnoted) -> io::Result<()> {
        let noted: Reported = record::read(dir, "reported.json")?.unwrap_or_default();
        let key = (session.name.clone(), session.start.started_us);
        let told = unnoted.get(&key).copied();
        let mut reported = told.map_or(noted, |(told, _)| told);
        let before = reported;
        if !reported.started {
            self.journal
                .event("session.started", started_detail(session));
            reported.started = true;
        }
        if !reported.ended && session.state != SessionState::Running {
            let leftover_killed = session.state == SessionState::Lost && kill_leftover(session);
            self.journal
                .event("session.ended", ended_detail(session, leftover_killed));
            reported.ended = true;
        }
        let waits = told.is_some_and(|(_, at)| at.elapsed() < AGAIN);
        if reported == noted || (reported == before && waits) {
            return Ok(());
        }
        match record::write(dir, "reported.json", &reported) {
            Ok(()) => {
                unnoted.remove(&key);
                Ok(())
            }
            Err(err) => {
                unnoted.insert(key, (reported, Instant::now()));
                Err(err)
            }
        }
    }

    /// A crash may have come between an event and its note: what the journal holds is not reported again.
    pub(super) fn repair_reports(&self) -> io::Result<()> {
        for session in self.list()? {
            let dir = self.home.sessions().join(&session.name);
            let mut reported: Reported = record::read(&dir, "reported.json")?.unwrap_or_default();
            if reported.started && (reported.ended || session.state == SessionState::Running) {
                continue;
            }
            let before = reported;
            let mut from = 1;
            loop {
                let entries = self.journal.read(from, 256)?;
                let Some(last) = entries.last() else { break };
                from = last.seq + 1;
                for entry in &entries {
                    let same = entry.detail["session"] == session.name.as_str()
                        && entry.detail["started_us"] == session.start.started_us;
                    reported.started |= same && entry.kind == "session.started";
                    reported.ended |= same && entry.kind == "session.ended";
                }
            }
            if reported != before {
                record::write(&dir, "reported.json", &reported)?;
            }
        }
        Ok(())
    }
}

fn started_detail(session: &Session) -> Value {
    json!({
        "session": session.name,
        "pid": session.start.pid,
        "tmux": session.spec.tmux,
        "started_us": session.start.started_us,
    })
}

fn ended_detail(session: &Session, leftover_killed: bool) -> Value {
    let mut detail = json!({
        "session": session.name,
        "state": session.state.as_str(),
        "started_us": session.start.started_us,
        "ended_us": session.ended_us,
        "log_bytes": session.log_bytes,
    });
    match &session.end {
        Some(end) => {
            detail["exit_code"] = json!(end.exit_code);
            detail["signal"] = json!(end.signal);
            detail["oom_kills"] = json!(end.oom_kills);
            detail["timed_out"] = json!(end.timed_out);
            detail["log_dropped_bytes"] = json!(end.log_dropped_bytes);
        }
        None => {
            let restarted = session.start.boot != processes::boot();
            detail["cause"] = json!(if restarted {
                "the box was restarted"
            } else {
                "its shim was killed"
            });
            detail["leftover_killed"] = json!(leftover_killed);
        }
    }
    detail
}

/// Ends a command that outlived its shim: nobody logs it or would know its end, and its run goes on elsewhere.
fn kill_leftover(session: &Session) -> bool {
    let start = &session.start;
    let is_it = start.boot == processes::boot()
        && processes::start_time(start.pid) == Some(start.pid_starttime);
    is_it && killpg(Pid::from_raw(start.pid), Signal::SIGKILL).is_ok()
}
