//! A training that went with a restart of its container is started again by the box itself, from the newest checkpoint on its disk and
//! before anybody is answered: whoever connects finds one that runs.
//!
//! What crashed, was stopped or was ended by a limit stays ended. Where values are needed that no box may keep, it waits for whoever
//! knows them. The intent is on disk before the start, so that a daemon that is killed in between goes on.

use std::{fs, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spotter_trainlog::live::Recogniser;
use tracing::{info, warn};

use super::{
    core::Core,
    dead_man, death, ending,
    run_file::RunFile,
    training::{CATCH_UP_BYTES, TRAINING_SESSION},
};
use crate::{
    chain,
    config::Home,
    events::EventSink,
    files, now_us,
    sessions::{
        CHECKPOINT, NewSession, Session, SessionState,
        again::{self, Again},
        processes, record,
    },
};

/// What a container's end does to a training it does within this long: ten seconds lie between its SIGTERM and its SIGKILL.
const EXPLAINED_US: u64 = 15_000_000;

/// A start that was decided.
#[derive(Debug, Serialize, Deserialize)]
struct Intent {
    v: u32,
    /// When; a training that started later is the one.
    since_us: u64,
    /// When the training that went had started.
    old_us: u64,
    command: String,
    dir: std::path::PathBuf,
    /// For the next time; its variables are those of this time.
    again: Again,
    /// What is told of it.
    detail: Value,
}

/// Starts the training again if it went with its container.
pub async fn go_on(core: &Arc<Core>) {
    let Ok(Some(intent)) = core.blocking(decide).await else {
        return;
    };
    let mut detail = intent.detail;
    let new = NewSession {
        name: TRAINING_SESSION.to_owned(),
        command: intent.command,
        env: intent.again.env.clone(),
        dir: intent.dir,
        timeout_s: 0,
        again: Some(intent.again),
        continues_us: Some(intent.old_us),
    };
    // The new one takes the place of the record that says how the old one ended.
    if let Some(running) = core.backup() {
        crate::aside(|| death::tell(core, &running));
    }
    match core.sessions.start(new).await {
        Ok(session) => {
            detail["started_us"] = json!(session.start.started_us);
            told(core, &detail);
        }
        Err(err) => waits(core, intent.old_us, &chain(&err)),
    }
    forget(&core.home);
}

/// Notes that the container ends: what ends with it did not end by itself.
pub fn note_termination(home: &Home) {
    if let Err(err) = fs::write(home.terminated_file(), now_us().to_string()) {
        warn!(error = %err, "a training that ends now will be taken for one that was stopped");
    }
}

fn told(core: &Core, detail: &Value) {
    info!(%detail, "the box was restarted, and its training goes on");
    core.journal.event("training.restarted", detail.clone());
}

fn waits(core: &Core, old_us: u64, reason: &str) {
    warn!(reason, "the training is not started again by its box");
    let detail = json!({ "session": TRAINING_SESSION, "started_us": old_us, "reason": reason });
    core.journal.event("training.not_restarted", detail);
}

fn forget(home: &Home) {
    let removed = fs::remove_file(home.restart_file());
    if let Err(err) = removed
        && err.kind() != std::io::ErrorKind::NotFound
    {
        warn!(error = %err, "a restart that is done is still on record");
    }
}

/// What to start, if anything; an older intent comes first.
fn decide(core: &Core) -> Option<Intent> {
    let run = core.run()?;
    let session = core.sessions.get(TRAINING_SESSION).ok();
    let begun = files::read_if_there(&core.home.restart_file()).ok()?;
    if let Some(mut intent) = begun.and_then(|bytes| serde_json::from_slice::<Intent>(&bytes).ok())
    {
        let started_us = session.map_or(0, |session| session.start.started_us);
        if started_us < intent.since_us {
            return Some(intent);
        }
        // Only the word of it is missing.
        intent.detail["started_us"] = json!(started_us);
        told(core, &intent.detail);
        forget(&core.home);
        return None;
    }
    let session = session?;
    let dir = core.sessions.dir(TRAINING_SESSION).ok()?;
    let again = record::read::<Again>(&dir, again::FILE).ok()??;
    let boot = processes::boot();
    let terminated = fs::read_to_string(core.home.terminated_file()).ok();
    let seen = Seen {
        session: &session,
        stop_asked: dir.join("stop.json").exists(),
        terminated_us: terminated.and_then(|text| text.parse().ok()),
        container_us: dead_man::container_started_us(&core.home, 0),
        boot: &boot,
    };
    let ended = ending::of(core).is_some_and(|one| one.started_us == session.start.started_us);
    if ended || !went_with_its_container(&seen) {
        return None;
    }
    match prepare(core, &run, &session, &dir, again) {
        Ok(intent) => Some(intent),
        Err(reason) => {
            waits(core, session.start.started_us, &reason);
            None
        }
    }
}

/// What a training and its container have been through.
struct Seen<'a> {
    session: &'a Session,
    /// Somebody asked for its end.
    stop_asked: bool,
    /// When a daemon was told to end, last.
    terminated_us: Option<u64>,
    /// When the container started, as far as is known.
    container_us: u64,
    /// This boot.
    boot: &'a str,
}

/// Whether a training ended because its container did, and that is another one now (pure).
fn went_with_its_container(seen: &Seen<'_>) -> bool {
    let (session, start) = (seen.session, &seen.session.start);
    let restarted = start.boot != seen.boot || seen.container_us > start.started_us;
    if !restarted || seen.stop_asked {
        return false;
    }
    let Some(end) = &session.end else {
        return session.state == SessionState::Lost;
    };
    // A container that is given time to end tells every process: that is no end of its own, and no person's wish.
    let by_signal = match session.state {
        SessionState::Stopped => !end.timed_out,
        SessionState::Exited | SessionState::Signalled => {
            matches!(end.signal, Some(9 | 15)) || matches!(end.exit_code, Some(137 | 143))
        }
        SessionState::Running | SessionState::Oom | SessionState::Lost => false,
    };
    let explained = seen
        .terminated_us
        .is_some_and(|at_us| at_us.abs_diff(end.ended_us) <= EXPLAINED_US);
    by_signal && explained
}

/// Chooses checkpoint and command, and keeps the intent; says in words why the box cannot do it alone.
fn prepare(
    core: &Core,
    run: &RunFile,
    session: &Session,
    dir: &Path,
    mut again: Again,
) -> Result<Intent, String> {
    if !again.secrets.is_empty() {
        let names = again.secrets.join(", ");
        return Err(format!("it needs {names}, which no box keeps"));
    }
    let Some(times) = again.times.checked_sub(1) else {
        return Err("all attempts of `recover.attempts` are used".to_owned());
    };
    if run.budget_until_us > 0 && now_us() >= run.budget_until_us {
        return Err("its budget may be used up, which whoever watches can tell".to_owned());
    }
    let life_us = session.ended_us.saturating_sub(session.start.started_us);
    let life_s = u32::try_from(life_us / 1_000_000).unwrap_or(u32::MAX);
    if run.max_runtime_s > 0 && life_s >= run.max_runtime_s {
        return Err("`limits.max_runtime` is over".to_owned());
    }
    again.times = times;
    let backup = core.backup();
    let had = again
        .env
        .get(CHECKPOINT)
        .is_some_and(|path| !path.is_empty());
    let local = match &backup {
        None => None,
        Some(running) => {
            let kernel = |boot: &str| boot.rsplit_once('-').map(|(kernel, _)| kernel.to_owned());
            let lost_power = kernel(&session.start.boot) != kernel(&processes::boot());
            let newest = running.backup.newest_local(lost_power);
            newest.map_err(|err| format!("its checkpoints cannot be read: {err}"))?
        }
    };
    if let (None, Some(running)) = (&local, &backup)
        && (had || running.backup.has_saved())
    {
        return Err("no checkpoint on this disk is known to be whole".to_owned());
    }
    let command = match local {
        Some(_) if !again.resume.is_empty() => &again.resume,
        _ => &again.fresh,
    };
    let path = local
        .as_ref()
        .map_or_else(String::new, |local| local.path.display().to_string());
    let detail = json!({
        "session": TRAINING_SESSION,
        "old_us": session.start.started_us,
        "ended_us": session.ended_us,
        "last_step": last_step(core, run, dir),
        "step": local.as_ref().and_then(|local| local.step),
        "checkpoint": path,
        "uploads_wait": backup.is_some_and(|running| {
            running.plan.presigned || core.credentials.get().is_none()
        }),
    });
    let command = command.clone();
    again.env.insert(CHECKPOINT.to_owned(), path);
    let intent = Intent {
        v: 1,
        since_us: now_us(),
        old_us: session.start.started_us,
        command,
        dir: session.spec.dir.clone(),
        again,
        detail,
    };
    // The limit is one for all its lives; whoever watches tells anew what is left of it.
    if run.max_runtime_s > 0 {
        let shorter = RunFile {
            max_runtime_s: run.max_runtime_s - life_s,
            ..run.clone()
        };
        let kept = core.keep_run(shorter);
        kept.map_err(|err| format!("what is left of its limits cannot be noted: {err}"))?;
    }
    let bytes = serde_json::to_vec(&intent).expect("texts and numbers are always JSON");
    match files::write_durably(&core.home.restart_file(), &bytes) {
        Ok(()) => Ok(intent),
        // Not without it: whoever comes next could not know, and would start a second one.
        Err(err) => Err(format!("it cannot be noted: {err}")),
    }
}

/// The newest step that the training printed, by the end of its log.
fn last_step(core: &Core, run: &RunFile, dir: &Path) -> Option<u64> {
    let log = core.logs.of_session(dir).ok()?;
    let mut at = log.tail(CATCH_UP_BYTES).ok()?;
    let mut recogniser = Recogniser::with(run.expression());
    loop {
        let chunk = log.read(at).ok()?;
        if chunk.is_empty() {
            return recogniser.latest()?.step;
        }
        at = chunk.next();
        recogniser.feed(&chunk.data, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::record::{End, EndReason, Spec, Start};

    fn session(state: SessionState, end: Option<End>) -> Session {
        Session {
            name: TRAINING_SESSION.to_owned(),
            state,
            spec: Spec::sample(),
            start: Start {
                v: 1,
                pid: 1,
                pid_starttime: 1,
                shim_pid: 1,
                boot: "kernel-1".to_owned(),
                started_us: 1_000_000_000,
            },
            end,
            ended_us: 2_000_000_000,
            log_bytes: 0,
        }
    }

    fn end(reason: EndReason, exit_code: Option<i32>, signal: Option<i32>) -> Option<End> {
        Some(End {
            v: 1,
            reason,
            exit_code,
            signal,
            oom_kills: 0,
            timed_out: false,
            ended_us: 2_000_000_000,
            log_bytes: 0,
            log_dropped_bytes: 0,
        })
    }

    #[test]
    fn only_what_went_with_its_container_is_started_again() {
        use EndReason::{Exited, Oom, Signal, Stopped};
        let check = |session: &Session, container_us, stop_asked, terminated_us, expected| {
            let seen = Seen {
                session,
                stop_asked,
                terminated_us,
                container_us,
                boot: "kernel-1",
            };
            let found = went_with_its_container(&seen);
            assert_eq!(found, expected, "{:?} {:?}", session.state, session.end);
        };
        let (old, new) = (500_000_000, 3_000_000_000);
        let told = Some(1_999_000_000);
        let lost = session(SessionState::Lost, None);
        check(&lost, new, false, None, true);
        check(&lost, old, false, None, false);
        check(&lost, new, true, None, false);
        check(
            &session(SessionState::Running, None),
            new,
            false,
            None,
            false,
        );

        let stopped = session(SessionState::Stopped, end(Stopped, None, Some(15)));
        check(&stopped, new, false, told, true);
        check(&stopped, old, false, told, false);
        check(&stopped, new, true, told, false);
        check(&stopped, new, false, None, false);
        check(&stopped, new, false, Some(1_900_000_000), false);
        for (state, reason, code, signal, expected) in [
            (SessionState::Signalled, Signal, None, Some(9), true),
            (SessionState::Signalled, Signal, None, Some(11), false),
            (SessionState::Exited, Exited, Some(143), None, true),
            (SessionState::Exited, Exited, Some(0), None, false),
            (SessionState::Exited, Exited, Some(1), None, false),
            (SessionState::Oom, Oom, None, Some(9), false),
        ] {
            let ended = session(state, end(reason, code, signal));
            check(&ended, new, false, told, expected);
            check(&ended, new, false, None, false);
        }
        let mut late = end(Stopped, None, Some(15));
        late.as_mut().unwrap().timed_out = true;
        check(
            &session(SessionState::Stopped, late),
            new,
            false,
            told,
            false,
        );
    }

    #[test]
    fn a_container_that_is_another_one_shows_by_its_first_process_too() {
        let lost = session(SessionState::Lost, None);
        let seen = Seen {
            session: &lost,
            stop_asked: false,
            terminated_us: None,
            container_us: 0,
            boot: "kernel-77",
        };
        assert!(went_with_its_container(&seen));
    }
}
