//! Holds the training against its estimate while it runs: looks once a second, closes a window every ten minutes, tells what
//! contradicts the estimate and acts by the run's policy; and holds the limits on time and on standing still. Works alone.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spotter_trainlog::live::Latest;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Duration, Instant},
};
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
    checkpoints::BackupState,
    events::EventSink,
    now_us,
    sessions::{NewSession, SessionState, record},
    telemetry::Sample,
    windows::{
        Act, Figures, Found, Judge, Reading, Standing, Tally, bottleneck,
        figures::GpuReading,
        triggers::{Contradiction, MEMORY_SHARE, actual_tokens_per_s},
    },
};

/// Beside the session: what windows remember.
const MEMORY: &str = "windows.json";
/// The session of the user's command.
const COMMAND_SESSION: &str = "on-contradiction";
/// Most of the time that a watcher has to end what the backup cannot keep up with, before the box does.
const WATCHERS_LEAD: Duration = Duration::from_secs(30);
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
        let Some((started_us, log_bytes)) = training(&core).await else {
            watched = None;
            continue;
        };
        if watched
            .as_ref()
            .is_none_or(|known| known.started_us != started_us)
        {
            watched = begin(&core, started_us);
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

/// When the training started, and how much it has printed; `None` while none runs.
async fn training(core: &Arc<Core>) -> Option<(u64, u64)> {
    let found = core
        .blocking(|core| core.sessions.get(TRAINING_SESSION))
        .await;
    let session = found.ok()?.ok()?;
    (session.state == SessionState::Running)
        .then_some((session.start.started_us, session.log_bytes))
}

fn begin(core: &Arc<Core>, started_us: u64) -> Option<Watched> {
    let dir = core.sessions.dir(TRAINING_SESSION).ok()?;
    let memory = record::read::<Memory>(&dir, MEMORY).unwrap_or_else(|err| {
        warn!(error = %err, "what the windows before showed cannot be read, beginning anew");
        None
    });
    let ending = ending::of(core).filter(|ending| ending.started_us == started_us);
    Some(Watched {
        started_us,
        dir,
        memory: memory.unwrap_or_default(),
        tally: Tally::default(),
        began_us: None,
        stepped: false,
        mark_us: None,
        moved: Instant::now(),
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
                memory_used_bytes: gpu.memory_used_bytes,
                memory_total_bytes: gpu.memory_total_bytes,
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
        io_pressure_percent: host.and_then(|host| host.io_pressure_percent.map(f64::from)),
        disk_blocked: host.and_then(|host| Some(host.processes_blocked? > 0)),
        disk_read_bytes_per_s: host.and_then(|host| Some(host.disk_read_bytes_per_s? as f64)),
        disk_free_bytes: host.and_then(|host| host.disk_free_bytes),
        network_rx_bytes: host.and_then(|host| host.network_rx_bytes),
        log_bytes,
        training,
    }
}

/// Whether a limit is reached; notes steps and the backup's standing on the way.
fn limits(
    core: &Core,
    run: &RunFile,
    watched: &mut Watched,
    reading: &Reading,
    backup: Option<&BackupState>,
) -> Option<Ending> {
    let step = reading.training.and_then(|training| training.step);
    let mark_us = reading.training.map(|training| training.printed.moved_us);
    if mark_us != watched.mark_us {
        watched.mark_us = mark_us;
        watched.moved = Instant::now();
    }
    let alarm = backup.filter(|state| state.alarm);
    watched.behind = alarm.and(watched.behind.or_else(|| Some(Instant::now())));
    if watched.ending {
        return None;
    }
    let now_us = now_us();
    let trained_s = now_us.saturating_sub(watched.started_us) / 1_000_000;
    let still = watched.moved.elapsed();
    let stands = stands_still(run, still).then_some(mark_us);
    // A log in which nothing was read may be that of a healthy training: that is told, and ends nothing.
    if stands == Some(None) && !watched.told_unread {
        watched.told_unread = true;
        core.journal.event("training.unread", unread(run));
    }
    let late = || {
        let behind = watched.behind?.elapsed();
        too_long_behind(run, behind, &alarm?.problem)
    };
    let (by, reason) = reached(run, trained_s, stands.flatten().map(|_| step))
        .or_else(late)
        .or_else(|| broke(run, now_us))?;
    Some(Ending::new(by, reason, watched.started_us))
}

/// Whether the training may not go on without its backup, and why in words (pure).
///
/// Whoever watches ends it at once, and has one more interval for what waits; we come a little later.
fn too_long_behind(run: &RunFile, behind: Duration, problem: &str) -> Option<(By, String)> {
    let plan = run.backup.as_ref().filter(|plan| plan.stop_when_behind)?;
    let every = Duration::from_secs(plan.every_s.into());
    if behind < every + every.min(WATCHERS_LEAD) {
        return None;
    }
    let why = match problem {
        "" => String::new(),
        why => format!(": {why}"),
    };
    let reason = format!(
        "its backup is behind, and `checkpoints.on_stale` is `stop`: for {} s more no checkpoint got to the bucket{why}",
        behind.as_secs()
    );
    Some((By::Backup, reason))
}

/// Whether the money for this box is over, and in words (pure).
fn broke(run: &RunFile, now_us: u64) -> Option<(By, String)> {
    let over = run.budget_until_us > 0 && now_us >= run.budget_until_us;
    over.then(|| {
        let reason = "`limits.budget` is used up, but for what its disk costs while it is stopped";
        (By::Budget, reason.to_owned())
    })
}

/// Which limit is reached, and in words (pure). `stands`: it stands still for too long, at this step where its log counts them.
fn reached(run: &RunFile, trained_s: u64, stands: Option<Option<u64>>) -> Option<(By, String)> {
    if run.max_runtime_s > 0 && trained_s >= u64::from(run.max_runtime_s) {
        let reason = format!("`limits.max_runtime` is over: this training ran for {trained_s} s");
        return Some((By::MaxRuntime, reason));
    }
    if let Some(step) = stands {
        let at = step.map_or_else(String::new, |step| format!(": it stands at step {step}"));
        let reason = format!(
            "nothing new in its log in {} s of `limits.no_progress`{at}",
            run.no_progress_s
        );
        return Some((By::NoProgress, reason));
    }
    None
}

/// Whether it has not moved on for as long as it may (pure).
fn stands_still(run: &RunFile, still: Duration) -> bool {
    run.no_progress_s > 0 && still.as_secs() >= u64::from(run.no_progress_s)
}

/// That `limits.no_progress` can hold nothing against a log in which no progress is read (pure).
fn unread(run: &RunFile) -> Value {
    let reason = format!(
        "no step, loss or bar was read in its log in {} s of `limits.no_progress`; if it prints some, say how with `progress`",
        run.no_progress_s
    );
    json!({"session": TRAINING_SESSION, "reason": reason})
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
mod tests {
    use nvml_probe::Gpu;

    use super::*;
    use crate::daemon::run_file::BackupPlan;
    use crate::telemetry::{GpuSample, HostSample};

    #[test]
    fn a_reading_holds_every_figure_that_telemetry_delivers() {
        let gpu = Gpu {
            utilisation_percent: Some(80),
            memory_busy_percent: Some(40),
            power_mw: Some(150_000),
            power_limit_mw: Some(300_000),
            pcie_tx_bytes_per_s: Some(2_000),
            pcie_rx_bytes_per_s: Some(5_000),
            throttle_reasons: Some(4),
            ..Gpu::default()
        };
        let sample = |reading: Gpu| Sample {
            time_us: 7,
            gpus: vec![GpuSample {
                reading,
                ..GpuSample::default()
            }],
            ..Sample::default()
        };
        let expected = GpuReading {
            utilisation_percent: Some(80.0),
            memory_busy_percent: Some(40.0),
            power_share: Some(0.5),
            pcie_bytes_per_s: Some(7_000.0),
            throttle_reasons: 4,
            ..GpuReading::default()
        };
        assert_eq!(reading(&sample(gpu.clone()), 9, None).gpus, [expected]);
        let failed = Gpu { error: 15, ..gpu };
        assert_eq!(reading(&sample(failed), 9, None).gpus, []);
        let waits = Sample {
            host: Some(HostSample {
                io_pressure_percent: Some(50.0),
                processes_blocked: Some(2),
                disk_read_bytes_per_s: Some(9),
                ..HostSample::default()
            }),
            ..Sample::default()
        };
        let got = reading(&waits, 9, None);
        let got = (
            got.io_pressure_percent,
            got.disk_blocked,
            got.disk_read_bytes_per_s,
        );
        assert_eq!(got, (Some(50.0), Some(true), Some(9.0)));
    }

    #[test]
    fn limits_are_held_on_time_and_on_steps_and_only_where_they_are_set() {
        let run = |max_runtime_s, no_progress_s| RunFile {
            max_runtime_s,
            no_progress_s,
            ..RunFile::for_tests()
        };
        let second = Duration::from_secs(1);
        // The mark of what was printed last, and the step of it.
        for (run, trained_s, still_s, printed, expected) in [
            (run(0, 0), u64::MAX, 1_000_000, Some(None), None),
            (run(100, 0), 99, 99, None, None),
            (run(100, 0), 100, 0, Some(Some(5)), Some(By::MaxRuntime)),
            (run(0, 60), 1_000, 59, Some(Some(5)), None),
            (run(0, 60), 1_000, 60, Some(Some(5)), Some(By::NoProgress)),
            (run(0, 60), 1_000, 60, Some(None), Some(By::NoProgress)),
            // Nothing was ever read in its log.
            (run(0, 60), 60, 1_000, None, None),
        ] {
            let stands = printed.filter(|_| stands_still(&run, second * still_s));
            let got = reached(&run, trained_s, stands);
            assert_eq!(got.as_ref().map(|(by, _)| *by), expected, "{got:?}");
        }
        let paid_until = |budget_until_us| RunFile {
            budget_until_us,
            ..RunFile::for_tests()
        };
        for (until_us, now_us, over) in [(0, u64::MAX, false), (7, 6, false), (7, 7, true)] {
            let got = broke(&paid_until(until_us), now_us);
            assert_eq!(got.map(|(by, _)| by), over.then_some(By::Budget));
        }
        let plan = |stop_when_behind, every_s| RunFile {
            backup: Some(BackupPlan {
                stop_when_behind,
                ..BackupPlan::for_tests(every_s)
            }),
            ..RunFile::for_tests()
        };
        for (run, behind_s, expected) in [
            (run(0, 0), 1_000_000, false),
            (plan(false, 600), 1_000_000, false),
            (plan(true, 600), 629, false),
            (plan(true, 600), 630, true),
            (plan(true, 5), 9, false),
            (plan(true, 5), 10, true),
        ] {
            let got = too_long_behind(&run, second * behind_s, "access denied");
            assert_eq!(got.is_some(), expected, "{behind_s} s: {got:?}");
            if let Some((by, reason)) = got {
                assert_eq!(by, By::Backup);
                assert!(
                    reason.ends_with("got to the bucket: access denied"),
                    "{reason}"
                );
            }
        }
        let (_, words) = reached(&run(0, 60), 60, Some(Some(7))).unwrap();
        assert!(words.ends_with("it stands at step 7"), "{words}");
        let words = unread(&run(0, 60))["reason"].to_string();
        assert!(words.contains("say how with `progress`"), "{words}");
    }
}
