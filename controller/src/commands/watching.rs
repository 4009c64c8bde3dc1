//! What `run`, `up` and `wait` share: telling what goes on, leaving without harm, and the exit code of an ended run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    agent_client::TrainingInfo,
    commands::Deps,
    error::{CommandError, ErrorKind},
    run::{
        diagnosis, has_bucket,
        lifecycle::{Goal, Lifecycle, Report},
        next,
        summary::{RunSummary, summarise},
        vigil,
    },
    spec::Results,
    store::{AttemptRecord, Outcome, RunRecord, Store},
    ui::{self, Console, Progress, Ui, Unit, text},
};

/// Between two lines about the training's progress where there is no terminal to redraw.
const TRAINING_LINE: Duration = Duration::from_secs(30);

/// Tells what goes on, on stderr.
pub struct ConsoleReport {
    console: Console,
    runs: Mutex<HashMap<String, Shown>>,
}

/// What moves on the screen for one run.
#[derive(Default)]
struct Shown {
    /// Beside what was told last, which may take minutes, as a host that pulls an image does.
    clock: Option<Progress>,
    transfers: HashMap<String, Progress>,
    training: Option<(Progress, Instant)>,
}

impl ConsoleReport {
    /// Speaks through the console of `ui`.
    pub fn new(ui: &Ui) -> Arc<ConsoleReport> {
        Arc::new(ConsoleReport {
            console: ui.console().clone(),
            runs: Mutex::default(),
        })
    }

    fn with<T>(&self, run: &str, change: impl FnOnce(&mut Shown) -> T) -> T {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        change(runs.entry(run.to_owned()).or_default())
    }
}

impl Report for ConsoleReport {
    fn status(&self, run: &str, text: &str) {
        self.with(run, |shown| {
            shown.transfers.clear();
            shown.clock = None;
            self.console.status(format_args!("[{run}] {text}"));
            // A training that is heard of draws its bar again; one that was interrupted must not seem to go on.
            shown.training.take_if(|(progress, _)| progress.is_drawn());
            if shown.training.is_none() {
                let label = format!("[{run}] {}", text.trim_end_matches('.'));
                shown.clock = Some(self.console.progress(&label, Unit::Count, 0));
            }
        });
    }

    fn transfer(&self, run: &str, what: &str, done_bytes: u64, total_bytes: u64) {
        self.with(run, |shown| {
            shown.clock = None;
            shown
                .transfers
                .entry(what.to_owned())
                .or_insert_with(|| {
                    let label = format!("[{run}] {what}");
                    self.console.progress(&label, Unit::Bytes, total_bytes)
                })
                .set(done_bytes, total_bytes);
        });
    }

    fn training(&self, run: &str, training: &TrainingInfo) {
        let Some(step) = training.step else { return };
        let total = training.total_steps.unwrap_or(0);
        self.with(run, |shown| {
            shown.clock = None;
            let (progress, said) = shown.training.get_or_insert_with(|| {
                (
                    self.console.progress(run, Unit::Count, total),
                    Instant::now() - TRAINING_LINE,
                )
            });
            progress.set(step, total);
            let due = said.elapsed() >= TRAINING_LINE || Some(step) == training.total_steps;
            if due || progress.is_drawn() {
                *said = Instant::now();
                progress.message(&training_text(training));
            }
        });
    }
}

/// `loss 2.9447, 1,184 tokens/s`, as far as it was printed.
fn training_text(training: &TrainingInfo) -> String {
    let mut parts = Vec::new();
    if let Some(loss) = training.loss {
        parts.push(format!("loss {loss:.4}"));
    }
    if let Some(rate) = training.tokens_per_s {
        parts.push(format!("{rate:.0} tokens/s"));
    }
    parts.join(", ")
}

/// Watches a run until `goal` and shows how it ended; who leaves before is shown how it stands, as far as a program asks.
pub async fn watch_and_show(
    ui: &mut Ui,
    deps: &Deps,
    name: &str,
    goal: Goal,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let ended = watch(ui, deps, name, goal, stop).await?;
    let store = deps.store()?;
    match ended {
        Some(ended) => {
            let summary = summary(&store, &ended)?;
            ui.show(&summary, ui::attempts_table);
            if let Some(closing) = closing(&summary, ended.spec.results.as_ref()) {
                ui.status(format_args!("{closing}"));
            }
            verdict(&store, &ended)
        }
        None => show_left(ui, &store, name),
    }
}

/// Where a run stands that was left before its end: programs get their one value in any case.
pub fn show_left(ui: &mut Ui, store: &Store, name: &str) -> Result<(), CommandError> {
    if ui.is_json() {
        let left = summary(store, &store.run(name)?)?;
        ui.json(&left);
    }
    Ok(())
}

/// Watches a run until `goal` or until `stop`; leaving never harms it.
pub async fn watch(
    ui: &mut Ui,
    deps: &Deps,
    name: &str,
    goal: Goal,
    stop: CancellationToken,
) -> Result<Option<RunRecord>, CommandError> {
    let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
    tokio::select! {
        run = vigil::keep(&lifecycle, name, goal) => run.map(Some),
        () = stop.cancelled() => {
            leave(ui, deps, &lifecycle, name).await?;
            Ok(None)
        }
    }
}

/// Ctrl-C: before the training runs it may end the run; afterwards it only stops looking.
async fn leave(
    ui: &mut Ui,
    deps: &Deps,
    lifecycle: &Lifecycle,
    name: &str,
) -> Result<(), CommandError> {
    let store = deps.store()?;
    let trains = store
        .latest_attempt(name)?
        .is_some_and(|attempt| attempt.started_us > 0);
    for line in deps.money(Some(name)) {
        ui.status(format_args!("Money: {line}."));
    }
    if !trains && store.run(name)?.outcome.is_none() {
        let end = ui.confirm(&format!(
            "`{name}` does not train yet: end it and destroy its box?"
        ));
        if end == Some(true) {
            store.request_stop(name)?;
            vigil::keep(lifecycle, name, Goal::End).await?;
            return Ok(());
        }
    }
    if let Some(acting) = store.lease(name)? {
        ui.status(format_args!(
            "Left `{name}` to the spotter that acts for it, pid {}.",
            acting.pid
        ));
        return Ok(());
    }
    ui.status(format_args!(
        "Left `{name}` as it is; nobody watches it now."
    ));
    ui.hint(format_args!(
        "watch it again, and recover it from interruptions, with `spotter up {name}`"
    ));
    Ok(())
}

/// A run from the store, put together.
pub fn summary(store: &Store, run: &RunRecord) -> Result<RunSummary, CommandError> {
    let name = &run.name;
    let attempts = store.attempts(name)?;
    let watched = store.lease(name)?.is_some();
    let (intervals, charges, events) = (
        store.intervals(name)?,
        store.charges(name)?,
        store.events(name, 0)?,
    );
    Ok(summarise(
        run,
        &attempts,
        &intervals,
        &charges,
        &events,
        watched,
        store.now_us(),
    ))
}

/// How a run that was interrupted and not carried on can go on; nothing for others.
pub fn ways_on(store: &Store, run: &RunRecord) -> Result<Vec<String>, CommandError> {
    let name = &run.name;
    if run.outcome != Some(Outcome::Interrupted) {
        return Ok(Vec::new());
    }
    let latest = store.latest_attempt(name)?;
    let mut ways = Vec::new();
    if let Some(kept) = latest.filter(|latest| latest.may_cost() && latest.started_us > 0) {
        ways.push(format!(
            "wait for its own box with `{}`; its disk costs ${:.4}/h until `{}`",
            next::resume(store, run, "--here ")?,
            kept.storage_usd_per_hour,
            next::destroy(store, run)?
        ));
    }
    ways.push(format!(
        "go on with another box: `{}`",
        next::resume(store, run, "--elsewhere ")?
    ));
    Ok(ways)
}

/// How a run ended, a sentence (pure); `None`: it goes on, or its error says it.
pub(super) fn closing(summary: &RunSummary, results: Option<&Results>) -> Option<String> {
    let name = &summary.name;
    let cost = text::usd(summary.cost_usd);
    let traffic = text::unbilled_traffic(summary.unbilled_traffic_usd);
    let rented = summary.attempts.iter();
    let boxes = match rented.filter(|one| one.instance.is_some()).count() {
        1 => "one box".to_owned(),
        several => format!("{several} boxes"),
    };
    let step = summary.step.map(|step| format!(" at step {step}"));
    let step = step.unwrap_or_default();
    let redone = match summary.steps_redone {
        0 => String::new(),
        steps => format!(", {steps} steps trained twice"),
    };
    match summary.outcome? {
        Outcome::Done => {
            let home = results.map_or_else(String::new, |results| {
                format!("; results are in {}", results.to.display())
            });
            Some(format!(
                "`{name}` is done{step}: {boxes}{redone}, {cost} in all{traffic}{home}."
            ))
        }
        Outcome::Stopped if summary.cost_usd == 0.0 && summary.step.is_none() => Some(format!(
            "`{name}` was stopped before its training began; it cost nothing."
        )),
        Outcome::Stopped => Some(format!(
            "`{name}` was stopped{step}: {boxes}{redone}, {cost} in all{traffic}."
        )),
        _ => None,
    }
}

/// What `failure_class` calls a disk on which nothing more went.
const DISK_FULL: &str = "disk_full";

/// The disk that a run whose disk was full is started again with, GB.
fn larger_gb(run: &RunRecord) -> f64 {
    (run.spec.resources.disk_gb * 2.0).round()
}

/// How a run goes on whose disk was full (pure): on its own box the same disk is as full as it was. `larger`: what starts it again with
/// [`larger_gb`]; `resume`: on its own box; `costs`: that box is there.
fn after_a_full_disk(run: &RunRecord, larger: &str, resume: &str, costs: bool) -> Vec<String> {
    let name = &run.name;
    let mut ways = Vec::new();
    let rents = run.spec.resources.hosts.is_empty();
    // Another box has what is in the bucket, and nothing else.
    if rents && (has_bucket(run) || !costs) {
        ways.push(format!(
            "go on with another box that has more disk: `{larger}`"
        ));
    }
    if costs {
        let start = if rents { "--start " } else { "" };
        ways.push(format!(
            "make room on its own (fewer checkpoints, caches elsewhere) with `spotter ssh {start}{name}`, then go on there with `{resume}`"
        ));
    }
    ways
}

/// What an ended run makes of the exit code.
pub fn verdict(store: &Store, run: &RunRecord) -> Result<(), CommandError> {
    let reason = run.reason.clone();
    let attempt = store.latest_attempt(&run.name)?;
    let costs = attempt.as_ref().is_some_and(AttemptRecord::may_cost);
    let kept = attempt.as_ref().and_then(|attempt| {
        let kept = attempt.may_cost() && attempt.is_kept_for_a_look();
        attempt.reason.clone().filter(|_| kept)
    });
    let found = match attempt {
        Some(attempt) => diagnosis::of(store, &attempt)?,
        None => None,
    };
    let ways = ways_on(store, run)?;
    let (resume, destroy) = (next::resume(store, run, "")?, next::destroy(store, run)?);
    let elsewhere = next::resume(store, run, "--elsewhere ")?;
    let more_gb = larger_gb(run);
    let larger = next::resume_with_disk(store, run, &format!("--disk {more_gb:.0}GB "), more_gb)?;
    let is_disk_full = found.as_ref().is_some_and(|found| found.class == DISK_FULL);
    let failed = |text: &str, kind: ErrorKind| {
        let mut err = CommandError::new(format!("run `{}` {text}", run.name))
            .kind(kind)
            .about(&run.name);
        if let Some(reason) = reason {
            err = err.because(reason);
        }
        if let Some(found) = &found {
            let shown = found.shown(err.causes());
            err = err.because(shown);
            // What it says of a full disk is told below, with what to type.
            if !is_disk_full {
                err = err.hint(found.advice.as_str());
            }
        }
        Err(err)
    };
    let name = &run.name;
    // Something that was ordered was not done; where nothing was, the box is kept as promised.
    if run.outcome == Some(Outcome::Done)
        && !run.spec.brings_nothing_home()
        && let Some(kept) = kept
    {
        let text = format!("run `{name}` ended well, but not all of it is brought home");
        let err = CommandError::new(text).because(kept).about(name);
        let left_over = next::left_over(store, run)?;
        return Err(left_over.into_iter().fold(err, CommandError::hint));
    }
    match run.outcome {
        None | Some(Outcome::Done | Outcome::Stopped) => Ok(()),
        Some(Outcome::Crashed) if is_disk_full => {
            failed("crashed", ErrorKind::Crashed).map_err(|err: CommandError| {
                let ways = after_a_full_disk(run, &larger, &resume, costs);
                let err = ways.into_iter().fold(err, CommandError::hint);
                err.hint(format!("read its log with `spotter logs {name}`"))
                    .hint(format!("end the box with `{destroy}`"))
            })
        }
        Some(Outcome::Crashed) => {
            failed("crashed", ErrorKind::Crashed).map_err(|err: CommandError| {
                err.hint(format!("read its log with `spotter logs {name}`"))
                    .hint(format!(
                        "start it again on its box with `{resume}`, or end the box with `{destroy}`"
                    ))
            })
        }
        Some(Outcome::Contradicted) => failed(
            "was ended because it contradicted its estimate",
            ErrorKind::Contradicted,
        )
        .map_err(|err: CommandError| {
            err.hint(format!(
                "see its windows with `spotter events {name}`, and go on with `{resume}`"
            ))
        }),
        Some(Outcome::Limit) => {
            failed("was ended by a limit", ErrorKind::Limit).map_err(|err: CommandError| {
                let again = format!("when the reason is gone, go on with `{resume}`");
                match costs {
                    true => err.hint(format!("{again}; end the box for good with `{destroy}`")),
                    false => err.hint(again),
                }
            })
        }
        Some(Outcome::Interrupted) => {
            failed("was interrupted and not carried on", ErrorKind::Interrupted)
                .map_err(|err: CommandError| ways.into_iter().fold(err, CommandError::hint))
        }
        Some(Outcome::Lost) => {
            failed("was lost with its box", ErrorKind::Lost).map_err(|err: CommandError| {
                err.hint(format!(
                    "go on from its newest checkpoint in the bucket with `{elsewhere}`"
                ))
            })
        }
        Some(Outcome::Failed) => {
            failed("did not start", ErrorKind::Failed).map_err(|err: CommandError| {
                let err = err.hint(format!("see what happened with `spotter events {name}`"));
                // Nothing else can be gone on with.
                match elsewhere.contains("--budget") {
                    true => err.hint(format!("give it more: `{elsewhere}`")),
                    false => err,
                }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::RunSpec;

    #[test]
    fn a_full_disk_is_answered_with_a_larger_one_or_with_room_on_it_and_not_with_the_same() {
        let check = |bucket: bool, costs: bool, expected: &[&str]| {
            let mut spec = RunSpec::from_flags_for_tests();
            spec.resources.disk_gb = 40.0;
            if !bucket {
                spec.checkpoints = None;
            }
            let run = RunRecord {
                name: "r".to_owned(),
                spec,
                created_us: 0,
                stop_requested: false,
                outcome: Some(Outcome::Crashed),
                reason: None,
            };
            assert_eq!(larger_gb(&run), 80.0);
            let ways = after_a_full_disk(
                &run,
                "spotter resume --disk 80GB r --budget 44.00",
                "spotter resume r --budget 40.00",
                costs,
            );
            assert_eq!(ways.len(), expected.len(), "{ways:?}");
            for (way, expected) in ways.iter().zip(expected) {
                assert!(way.contains(expected), "{way}");
            }
        };
        let larger = "`spotter resume --disk 80GB r --budget 44.00`";
        let room =
            "`spotter ssh --start r`, then go on there with `spotter resume r --budget 40.00`";
        check(true, true, &[larger, room]);
        check(true, false, &[larger]);
        // What was trained is on that disk alone.
        check(false, true, &[room]);
        check(false, false, &[larger]);
    }
}
