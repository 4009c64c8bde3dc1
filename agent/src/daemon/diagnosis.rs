//! Says once for each session that ended by itself what ended it: from its log, its exit code or signal, the kernel's count
//! of kills for want of memory and the GPUs' own errors. What it means is told in the run's own numbers.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use spotter_trainlog::{
    Reader,
    failure::{Class, Diagnosis, End, Facts, XidEvent, conclude, explain},
};
use tracing::warn;

use super::{core::Core, full_disk, training::TRAINING_SESSION};
use crate::{
    chain,
    events::EventSink,
    sessions::{Session, SessionState, processes, record},
    telemetry::Sample,
};

/// How much of a log is read for what ended it: causes stand near the end, behind the words of other ranks.
const LOG_BYTES: u64 = 32 << 20;
/// Journal entries read at once.
const EVENTS_AT_ONCE: usize = 256;
/// Kind of the event that tells of a GPU's error, with its code in `xid`.
const XID_EVENT: &str = "gpu.xid";
/// Says in the session's directory that the session was looked at.
const DONE: &str = "diagnosis.json";
/// Before what the disk refused is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// How long before an end the use of memory tells of it.
const LAST_US: u64 = 60_000_000;
const GIB: f64 = (1_u64 << 30) as f64;

/// What is not noted beside its session, by name and start: the class, when it is in the journal already, and when that was tried.
/// A disk that refuses the note must not have it told again and again.
pub type Unnoted = HashMap<(String, u64), (Option<Class>, Instant)>;

/// What was found, as it is noted beside the session.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Format version.
    v: u32,
    /// The class of what ended it; `none` when nothing did.
    class: String,
}

/// Tells of every session that has ended since the last look. Blocks on files.
pub fn report(core: &Core, sessions: &[Session]) {
    for session in sessions {
        let Ok(dir) = core.sessions.dir(&session.name) else {
            continue;
        };
        if session.state == SessionState::Running || dir.join(DONE).exists() {
            continue;
        }
        let key = (session.name.clone(), session.start.started_us);
        let mut unnoted = core.undiagnosed();
        let before = unnoted.get(&key).copied();
        if before.is_some_and(|(_, at)| at.elapsed() < AGAIN) {
            continue;
        }
        let mut told = before.and_then(|(class, _)| class);
        match report_one(core, session, &dir, &mut told) {
            Ok(()) => {
                unnoted.remove(&key);
            }
            Err(problem) => {
                unnoted.insert(key, (told, Instant::now()));
                warn!(
                    session = session.name,
                    problem, "what ended a session was not found out, will retry"
                );
            }
        }
    }
}

/// `told`: the class of what the journal holds already.
fn report_one(
    core: &Core,
    session: &Session,
    dir: &Path,
    told: &mut Option<Class>,
) -> Result<(), String> {
    let class = match *told {
        Some(class) => class,
        None => *told.insert(tell(core, session, dir)?),
    };
    let note = Note {
        v: 1,
        class: class.as_str().to_owned(),
    };
    record::write(dir, DONE, &note).map_err(|err| err.to_string())
}

/// Finds out and tells what ended a session.
fn tell(core: &Core, session: &Session, dir: &Path) -> Result<Class, String> {
    let found = match session.state {
        SessionState::Exited | SessionState::Signalled | SessionState::Oom => {
            let xids = xids(core, session).map_err(|err| err.to_string())?;
            let mut end = end(session, xids);
            if end.oom_kills.is_none() {
                end.memory_percent = memory_percent(core, session);
            }
            conclude(read_log(core, session, dir)?, &end)
        }
        // Ended on request, or gone with its box: nothing that it printed is the cause.
        _ => None,
    };
    let class = found.as_ref().map_or(Class::None, |found| found.class);
    if let Some(found) = found {
        let facts = facts(core, session, &found);
        let told = explain(&found, &facts);
        core.journal.event(
            "session.diagnosed",
            json!({
                "session": session.name,
                "started_us": session.start.started_us,
                "class": found.class.as_str(),
                "evidence": found.evidence,
                "line": (found.line > 0).then_some(found.line),
                "meaning": told.meaning,
                "advice": told.advice,
                "gpu_peak_gib": facts.gpu_peak_gib,
                "gpu_total_gib": facts.gpu_total_gib,
                "host_peak_gib": facts.host_peak_gib,
                "host_limit_gib": facts.host_limit_gib,
                "last_step": facts.last_step,
            }),
        );
    }
    Ok(class)
}

/// What the log says, read anew: the daemon may not have been there for all of it.
fn read_log(core: &Core, session: &Session, dir: &Path) -> Result<Option<Diagnosis>, String> {
    let log = core.logs.of_session(dir).map_err(|err| err.to_string())?;
    let start = log.tail(LOG_BYTES).map_err(|err| chain(&err))?;
    let progress = core
        .run()
        .filter(|_| session.name == TRAINING_SESSION)
        .and_then(|run| run.expression());
    let mut reader = Reader::with(progress);
    let mut at = start;
    loop {
        let chunk = log.read(at).map_err(|err| chain(&err))?;
        if chunk.is_empty() {
            break;
        }
        reader.feed(&chunk.data, &mut |_| {});
        at = chunk.next();
    }
    reader.end(&mut |_| {});
    let whole = start.offset == 0;
    Ok(reader.diagnosis().map(|found| Diagnosis {
        // Counted from where reading began, a number would lead nowhere.
        line: if whole { found.line } else { 0 },
        ..found
    }))
}

/// How a session ended, as the verdict needs it.
fn end(session: &Session, xids: Vec<XidEvent>) -> End {
    let record = session.end.as_ref();
    let oom_kills = record.map_or(0, |end| end.oom_kills);
    End {
        exit_code: record.and_then(|end| end.exit_code),
        signal: record.and_then(|end| end.signal),
        // A counter that cannot be read stands at 0 for ever.
        oom_kills: (oom_kills > 0 || processes::oom_kills().is_some()).then_some(oom_kills),
        memory_percent: None,
        xids,
        machine_ends: session.start.boot != processes::boot(),
    }
}

/// Most of the box's memory that was in use in the last minute of a session, percent.
fn memory_percent(core: &Core, session: &Session) -> Option<u8> {
    let until_us = session.ended_us.saturating_add(2_000_000);
    let samples = core
        .telemetry
        .since(session.ended_us.saturating_sub(LAST_US))
        .take_while(|sample| sample.time_us <= until_us);
    let facts = peaks(samples);
    let share = facts.host_peak_gib? / facts.host_limit_gib.filter(|limit| *limit > 0.0)?;
    Some((share * 100.0).clamp(0.0, 100.0) as u8)
}

/// Errors that the GPUs reported while a session ran, and shortly after: the driver may be slower than the program's end.
fn xids(core: &Core, session: &Session) -> std::io::Result<Vec<XidEvent>> {
    let since_us = session.start.started_us;
    let (mut found, mut from) = (Vec::new(), 1);
    loop {
        let entries = core.journal.read(from, EVENTS_AT_ONCE)?;
        let Some(last) = entries.last() else {
            return Ok(found);
        };
        from = last.seq + 1;
        let told = entries
            .iter()
            .filter(|entry| entry.kind == XID_EVENT && entry.time_us >= since_us)
            .filter_map(|entry| {
                Some(XidEvent {
                    code: u32::try_from(entry.detail["xid"].as_u64()?).ok()?,
                    before_end_s: session.ended_us.saturating_sub(entry.time_us) / 1_000_000,
                })
            });
        found.extend(told);
    }
}

/// A training that found no room ends within this, microseconds.
const FAILING_US: u64 = 60_000_000;

/// The run's own numbers.
fn facts(core: &Core, session: &Session, found: &Diagnosis) -> Facts {
    let run = core.run();
    let full = (found.class == Class::DiskFull).then(|| {
        let workdir = core.workdir();
        let plan = run.as_ref().and_then(|run| run.backup.as_ref());
        let mut written = vec![workdir.clone()];
        written.extend(plan.map(|plan| plan.dir.clone()));
        full_disk::find(&found.evidence, &workdir, &written)
    });
    let full = full.flatten();
    let until_us = session.ended_us.saturating_add(2_000_000);
    let samples = core
        .telemetry
        .since(session.start.started_us)
        .take_while(|sample| sample.time_us <= until_us);
    // As telemetry saw them, on a thread of its own: a mount that hangs must not hold up what happened to sessions.
    let seen = core.telemetry.latest().and_then(|sample| sample.host);
    let gib = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / GIB);
    // What could not be written whole is deleted as a rule, and then there is room again: what was free when it failed counts.
    let least = core
        .telemetry
        .since(session.ended_us.saturating_sub(FAILING_US))
        .take_while(|sample| sample.time_us <= until_us)
        .filter_map(|sample| sample.host?.disk_free_bytes)
        .min();
    let now = match &full {
        Some(full) => Some(full.free_bytes),
        None => seen.as_ref().and_then(|host| host.disk_free_bytes),
    };
    let least = least.filter(|_| full.as_ref().is_none_or(|full| full.is_workdirs));
    Facts {
        micro_batch: run.as_ref().and_then(|run| run.micro_batch).map(u64::from),
        disk: full.as_ref().map(|full| full.mount.display().to_string()),
        disk_free_gib: gib(least.into_iter().chain(now).min()),
        shm_gib: gib(seen.as_ref().and_then(|host| host.shm_total_bytes)),
        last_step: core.training().and_then(|latest| latest.step),
        ..peaks(samples)
    }
}

/// The highest use of memory in these samples, and whose it is.
fn peaks(samples: impl Iterator<Item = Sample>) -> Facts {
    let mut facts = Facts::default();
    let mut fullest = 0.0;
    for sample in samples {
        for gpu in &sample.gpus {
            let Some((used, total)) = gpu.memory_bytes() else {
                continue;
            };
            let share = used as f64 / total.max(1) as f64;
            if share >= fullest {
                fullest = share;
                facts.gpu_peak_gib = Some(used as f64 / GIB);
                facts.gpu_total_gib = Some(total as f64 / GIB);
                facts.gpu = Some(gpu.name.to_string());
            }
        }
        let Some(host) = &sample.host else { continue };
        if let Some(used) = host.memory_used_bytes {
            let used = used as f64 / GIB;
            facts.host_peak_gib = Some(facts.host_peak_gib.map_or(used, |peak| peak.max(used)));
        }
        facts.host_limit_gib = host
            .memory_limit_bytes
            .map(|bytes| bytes as f64 / GIB)
            .or(facts.host_limit_gib);
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{GpuSample, HostSample};

    #[test]
    fn the_peak_is_that_of_the_fullest_gpu_and_not_of_the_largest() {
        let gib = 1_u64 << 30;
        let gpu = |used: u64, total: u64| {
            let mut gpu = GpuSample {
                name: "L4".into(),
                ..GpuSample::default()
            };
            gpu.memory_used_bytes = Some(used * gib);
            gpu.memory_total_bytes = Some(total * gib);
            gpu
        };
        let sample = |gpus, host_gib: u64| Sample {
            time_us: 1,
            gpus,
            host: Some(HostSample {
                memory_used_bytes: Some(host_gib * gib),
                memory_limit_bytes: Some(64 * gib),
                ..HostSample::default()
            }),
            ..Sample::default()
        };
        let facts = peaks(
            [
                sample(vec![gpu(23, 24), gpu(40, 80)], 50),
                sample(vec![gpu(2, 24), gpu(41, 80)], 10),
                sample(vec![GpuSample::default()], 20),
            ]
            .into_iter(),
        );
        assert_eq!(
            (facts.gpu_peak_gib, facts.gpu_total_gib),
            (Some(23.0), Some(24.0))
        );
        assert_eq!(
            (facts.host_peak_gib, facts.host_limit_gib),
            (Some(50.0), Some(64.0))
        );
        assert_eq!(facts.gpu.as_deref(), Some("L4"));
    }
}
