//! Holds the training against its estimate while it runs: looks once a second, closes a window every ten minutes, tells what
//! contradicts the estimate and acts by the run's policy; and holds the limits on time and on standing still. Works alone.

mod limits;

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spotter_trainlog::live::Latest;
use tokio::{sync::broadcast::error::RecvError, time::Instant};
use tracing::warn;

use super::{
    core::Core,
    ending::{self, By, Ending},
    presence,
    run_file::{RunFile, Validation},
    training::TRAINING_SESSION,
};
use crate::{
    chain,
    events::EventSink,
    sessions::{NewSession, Session, SessionState, record},
    telemetry::Sample,
    windows::{
        Act, Figures, Found, Judge, Reading, Standing, Tally, bottleneck,
        figures::GpuReading,
        triggers::{Contradiction, MEMORY_SHARE, actual_tokens_per_s},
    },
};
use limits::{Seen, limits};

/// Beside the session: what windows remember.
const MEMORY: &str = "windows.json";
/// The session of the user's command.
const COMMAND_SESSION: &str = "on-contradiction";
/// Longest time that the command may take, seconds.
const COMMAND_LIMIT_S: u32 = 3600;

/// What windows remember of the ones before, kept through a restart of the daemon.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Memory {
    v: u32,
    judge: Judge,
    standing: Standing,
}

/// The training that is watched.
struct Watched {
    started_us: u64,
    dir: PathBuf,
    memory: Memory,
    tally: Tally,
    /// When the open window began; absent until the job is active.
    began_us: Option<u64>,
    /// A step was seen.
    stepped: bool,
    /// When the log last moved on, by its own mark; absent before it printed anything of a training.
    mark_us: Option<u64>,
    /// The same by our clock, or when this watch began.
    moved: Instant,
    /// What the last look showed.
    seen: Option<Seen>,
    /// When it last did anything, by our clock: it printed, its GPUs were busy or something was fetched.
    busy: Instant,
    /// That nothing of a training was read for as long as it may stand still was told.
    told_unread: bool,
    /// Since when the backup has been behind, as long as it is.
    behind: Option<Instant>,
    ending: bool,
}

/// Watches one training after the other until the daemon stops.
pub async fn watch(core: Arc<Core>) {
    let mut samples = core.telemetry.subscribe();
    let mut watched: Option<Watched> = None;
    loop {
        let sample = tokio::select! {
            () = core.stop.cancelled() => return,
            sample = samples.recv() => match sample {
                Ok(sample) => sample,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        };
        let Some(run) = core.run() else { continue };
        let Some(session) = training(&core).await else {
            watched = None;
            continue;
        };
        let (started_us, log_bytes) = (session.start.started_us, session.log_bytes);
        if watched
            .as_ref()
            .is_none_or(|known| known.started_us != started_us)
        {
            watched = begin(&core, &session);
        }
        let Some(watched) = &mut watched else {
            continue;
        };
        // What an earlier training printed says nothing of this one.
        let printed = core
            .training()
            .filter(|latest| latest.time_us >= started_us);
        let reading = reading(&sample, log_bytes, printed);
        let state = core.backup().map(|running| running.backup.state());
        if let Some(ending) = limits(&core, &run, watched, &reading, state.as_ref()) {
            watched.ending = true;
            ending::begin(&core, ending);
        }
        if let Some(validation) = &run.validation {
            look(&core, &run, validation, watched, &reading).await;
        }
    }
}

/// The training, while it runs.
async fn training(core: &Arc<Core>) -> Option<Session> {
    let found = core
        .blocking(|core| core.sessions.get(TRAINING_SESSION))
        .await;
    let session = found.ok()?.ok()?;
    (session.state == SessionState::Running).then_some(session)
}

fn begin(core: &Arc<Core>, session: &Session) -> Option<Watched> {
    let started_us = session.start.started_us;
    let dir = core.sessions.dir(TRAINING_SESSION).ok()?;
    let memory = record::read::<Memory>(&dir, MEMORY).unwrap_or_else(|err| {
        warn!(error = %err, "what the windows before showed cannot be read, beginning anew");
        None
    });
    let ending = ending::of(core).filter(|ending| ending.started_us == started_us);
    let mut memory = memory.unwrap_or_default();
    memory.judge.resumed = session.spec.resumed;
    Some(Watched {
        started_us,
        dir,
        memory,
        tally: Tally::default(),
        began_us: None,
        stepped: false,
        mark_us: None,
        moved: Instant::now(),
        seen: None,
        busy: Instant::now(),
        told_unread: false,
        behind: None,
        ending: ending.is_some(),
    })
}

/// What windows see of a sample. `training`: what the trainer of this session printed last.
fn reading(sample: &Sample, log_bytes: u64, training: Option<Latest>) -> Reading {
    let host = sample.host.as_ref();
    let cores = host.and_then(|host| Some(f64::from(host.cpu_percent?) / 100.0));
    let limit = host.and_then(|host| host.cpu_limit_cores).map(f64::from);
    Reading {
        time_us: sample.time_us,
        gpus: sample
            .gpus
            .iter()
            .filter(|gpu| gpu.error == 0)
            .map(|gpu| GpuReading {
                utilisation_percent: gpu.utilisation_percent.map(f64::from),
                memory_used_bytes: gpu.memory_bytes().map(|(used, _)| used),
                memory_total_bytes: gpu.memory_bytes().map(|(_, total)| total),
                throttle_reasons: gpu.throttle_reasons.unwrap_or(0),
                memory_busy_percent: gpu.memory_busy_percent.map(f64::from),
                power_share: gpu
                    .power_mw
                    .zip(gpu.power_limit_mw.filter(|limit| *limit > 0))
                    .map(|(power, limit)| f64::from(power) / f64::from(limit)),
                pcie_bytes_per_s: gpu
                    .pcie_tx_bytes_per_s
                    .zip(gpu.pcie_rx_bytes_per_s)
                    .map(|(sent, received)| sent as f64 + received as f64),
            })
            .collect(),
        cpu_share: cores
            .zip(limit)
            .map(|(cores, limit)| cores / limit.max(0.01)),
        cpu_cores: cores,
        io_pressure_percent: host
            .filter(|host| host.pressure_of_machine != Some(true))
            .and_then(|host| host.io_pressure_percent.map(f64::from)),
        disk_blocked: host.and_then(|host| Some(host.processes_blocked? > 0)),
        disk_read_bytes_per_s: host
            .filter(|host| host.disks_of_machine != Some(true))
            .and_then(|host| Some(host.disk_read_bytes_per_s? as f64)),
        disk_free_bytes: host.and_then(|host| host.disk_free_bytes),
        network_rx_bytes: host.and_then(|host| host.network_rx_bytes),
        log_bytes,
        training,
    }
}

/// One look: the window grows, and is closed when its time has come.
async fn look(
    core: &Arc<Core>,
    run: &RunFile,
    validation: &Validation,
    watched: &mut Watched,
    reading: &Reading,
) {
    let window_us = u64::from(validation.window_s) * 1_000_000;
    // Loading and compiling are no training: the first step begins it, or a whole window without any.
    let stepped = reading
        .training
        .is_some_and(|training| training.step.is_some());
    let began_us = match watched.began_us {
        Some(began_us) if watched.stepped || !stepped => began_us,
        _ => {
            let waited_us = reading.time_us.saturating_sub(watched.started_us);
            if stepped || waited_us >= window_us {
                watched.began_us = Some(reading.time_us);
                watched.stepped = stepped;
                // What was printed before a restart of the daemon was counted then.
                watched.tally = match watched.memory.judge.windows {
                    0 => Tally::default(),
                    _ => Tally::after(reading.training.as_ref()),
                };
            }
            return;
        }
    };
    watched.tally.add(reading, MEMORY_SHARE);
    if reading.time_us.saturating_sub(began_us) < window_us {
        return;
    }
    watched.began_us = Some(reading.time_us);
    let next = watched.tally.next();
    let tally = std::mem::replace(&mut watched.tally, next);
    tally_closed(core, run, validation, watched, &tally, began_us).await;
}

async fn tally_closed(
    core: &Arc<Core>,
    run: &RunFile,
    validation: &Validation,
    watched: &mut Watched,
    tally: &Tally,
    began_us: u64,
) {
    let figures = tally.figures(watched.memory.judge.promised);
    let found = watched.memory.judge.close(&figures, &validation.expected);
    let there = core
        .presence
        .unattended_since_us()
        .is_none_or(|left_us| left_us >= began_us)
        || presence::is_logged_in();
    let act = watched
        .memory
        .standing
        .window(weight(&found), there, &validation.policy);
    watched.memory.v = 1;
    let detail = detail(&figures, watched, validation, &found);
    core.journal.event("window", detail.clone());
    let told = |kind: &str| core.journal.event(kind, detail.clone());
    match act {
        Act::Nothing => {}
        Act::Clear => told("window.cleared"),
        Act::Tell => told("window.contradicted"),
        Act::Run(command) => {
            told("window.contradicted");
            // It takes its time to start, and is not to be started twice.
            keep(watched);
            if let Err(problem) = run_command(core, run, command, &found).await {
                warn!(problem, "the command for contradictions did not start");
            }
        }
        Act::Stop { unanswered } if !watched.ending => {
            told("window.contradicted");
            watched.ending = true;
            let why = in_words(&found);
            let reason = if unanswered {
                format!("{why}; nobody answered for a whole window")
            } else {
                why
            };
            ending::begin(
                core,
                Ending::new(By::Contradiction, reason, watched.started_us),
            );
        }
        Act::Stop { .. } => {}
    }
    // Last: what is kept as done must be done. Killed before this, a daemon looks at this window as if it had not been.
    keep(watched);
}

/// Keeps what windows remember for later daemons.
fn keep(watched: &Watched) {
    if let Err(err) = record::write(&watched.dir, MEMORY, &watched.memory) {
        warn!(error = %err, "what the windows showed cannot be kept: a restart would begin them anew");
    }
}

/// What was found, by the gravest of it.
fn weight(found: &[Contradiction]) -> Found {
    match found {
        [] => Found::Nothing,
        _ if found.iter().any(|one| one.grave) => Found::Grave,
        _ => Found::Light,
    }
}

/// The figures, what was predicted, and what contradicts it.
fn detail(
    figures: &Figures,
    watched: &Watched,
    validation: &Validation,
    found: &[Contradiction],
) -> Value {
    let mut detail = serde_json::to_value(figures).unwrap_or_default();
    let expected = &validation.expected;
    let actual = actual_tokens_per_s(figures, expected);
    detail["window"] = json!(watched.memory.judge.windows);
    detail["session"] = json!(TRAINING_SESSION);
    detail["started_us"] = json!(watched.started_us);
    detail["actual_tokens_per_s"] = json!(actual);
    detail["predicted_tokens_per_s"] = json!(expected.tokens_per_s);
    detail["of_predicted"] = json!(actual.zip(expected.tokens_per_s).map(|(is, was)| is / was));
    detail["bottleneck"] = json!(bottleneck(figures));
    detail["contradictions"] = json!(found);
    detail
}

fn in_words(found: &[Contradiction]) -> String {
    let words: Vec<&str> = found.iter().map(|one| one.evidence.as_str()).collect();
    words.join("; ")
}

/// Runs the user's command in a session of its own, with what was found in its environment.
async fn run_command(
    core: &Arc<Core>,
    run: &RunFile,
    command: String,
    found: &[Contradiction],
) -> Result<(), String> {
    let triggers: Vec<&str> = found.iter().map(|one| one.trigger.as_str()).collect();
    let new = NewSession {
        name: COMMAND_SESSION.to_owned(),
        command,
        env: [
            ("SPOTTER_RUN", run.run.clone()),
            ("SPOTTER_CONTRADICTIONS", triggers.join(",")),
            ("SPOTTER_EVIDENCE", in_words(found)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect(),
        dir: run.workdir.clone(),
        timeout_s: COMMAND_LIMIT_S,
        ..NewSession::default()
    };
    core.sessions
        .start(new)
        .await
        .map(drop)
        .map_err(|err| chain(&err))
}

#[cfg(test)]
mod tests;
