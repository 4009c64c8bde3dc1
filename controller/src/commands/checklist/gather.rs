//! Reads what the checklist goes by: the record, copies of logs and of measurements, and what the box says now.

use std::{fs, path::Path};

use serde_json::Value;

use super::{
    copies,
    facts::{Brought, Facts, Money, Planned, Saves, Session},
};
use crate::{
    agent_client::{AgentStatus, SessionInfo, SessionState},
    commands::{Deps, cost, plan::gate, status, watching},
    error::CommandError,
    ledger,
    logbook::Logbook,
    run::{
        State, alarms, behind,
        bringing_up::{SETUP, SMOKE, TRAIN},
        diagnosis, ended_alone,
        fetching::FETCHED,
        marks, next, not_saved, readiness, silence,
        summary::{AttemptSummary, RunSummary},
        windows,
    },
    spec::{Results, RunSpec},
    store::{AttemptRecord, EventRecord, RunRecord, Store},
    ui::{Ui, text},
};

/// Files that list what code needs, by the tools that read them.
const LISTINGS: [&str; 9] = [
    "pyproject.toml",
    "requirements.txt",
    "uv.lock",
    "poetry.lock",
    "environment.yml",
    "environment.yaml",
    "Pipfile",
    "setup.py",
    "Cargo.toml",
];
/// Files that are looked at in a directory of results.
const MOST_FILES: u64 = 10_000;

/// Of a run file: nothing was begun.
pub(super) fn of_file(deps: &Deps, file: &str, spec: RunSpec) -> Facts {
    Facts {
        listing: listing(&spec),
        file: Some(file.to_owned()),
        onward: format!("spotter run {file}"),
        ..Facts::new(spec, deps.clock.now_us())
    }
}

/// Of a run: what is recorded, and what its box says where one runs.
pub(super) async fn of_run(
    ui: &mut Ui,
    deps: &Deps,
    name: Option<&str>,
    recorded: bool,
) -> Result<Facts, CommandError> {
    let run = deps.load_run(name)?;
    let store = deps.store()?;
    let answers = |attempt: &AttemptRecord| {
        matches!(
            attempt.state,
            State::Syncing | State::Smoke | State::Running | State::Finishing
        )
    };
    let latest = store.latest_attempt(&run.name)?;
    let asks = latest.is_some_and(|latest| answers(&latest)) && run.outcome.is_none() && !recorded;
    // It brings home what happened while nobody watched: the record is read after it.
    let marks = async {
        if !recorded {
            deps.read_bucket(&run).await;
        }
    };
    let (heard, ()) = tokio::join!(status::heard(ui, deps, &run.name, asks), marks);
    let (told, market) = heard?;
    if !recorded
        && run.outcome.is_some()
        && let Err(err) = cost::read_charges(deps, &store, &run).await
    {
        ui.warning(format_args!("the provider's bill was not read: {err}"));
    }
    let run = store.run(&run.name)?;
    let mut facts = Facts {
        outcome: run.outcome,
        reason: run.reason.clone(),
        file: None,
        ..of_file(deps, "", run.spec.clone())
    };
    let summary = watching::summary(&store, &run)?;
    facts.watched = summary.watched;
    facts.ended_alone.clone_from(&summary.training_end);
    if let (Some(end), Some(Ok(Some(word)))) = (&mut facts.ended_alone, &market) {
        end.billing = word.billing();
    }
    facts.step = summary.step;
    facts.onward = onward(&store, &run, &summary)?;
    facts.destroy = next::destroy(&store, &run)?;
    facts.money = money(deps, &store, &run, &summary)?;
    facts.plan = plan(&store, &run)?;
    facts.results = run.spec.results.as_ref().map(brought);
    let events = store.events(&run.name, 0)?;
    let fetched = events.iter().rfind(|event| event.kind == FETCHED);
    if let (Some(results), Some(fetched)) = (&mut facts.results, fetched) {
        results.at_us = fetched.time_us;
    }
    facts.saves = saves(&events, &summary);
    facts.attempts = store.attempts(&run.name)?;
    if let Some(latest) = facts.attempts.last().cloned() {
        of_attempt(deps, &store, &run, &latest, &events, &mut facts)?;
        if let Some(told) = told.filter(|told| told.attempt == latest.number) {
            of_box(&told, &mut facts);
        }
    }
    Ok(facts)
}

/// A file of the working directory that lists what its code needs.
fn listing(spec: &RunSpec) -> Option<String> {
    let workdir = spec.workdir.as_ref()?;
    let mut names = LISTINGS.into_iter();
    let found = names.find(|name| workdir.join(name).is_file())?;
    Some(found.to_owned())
}

fn onward(store: &Store, run: &RunRecord, summary: &RunSummary) -> Result<String, CommandError> {
    Ok(match (run.outcome, summary.watched) {
        (Some(_), _) => next::resume(store, run, "")?,
        (None, false) => format!("spotter up {}", run.name),
        (None, true) => format!("spotter status {}", run.name),
    })
}

fn plan(store: &Store, run: &RunRecord) -> Result<Option<Planned>, CommandError> {
    let event = store.newest_event(&run.name, 0, gate::PLANNED)?;
    Ok(event.map(|event| Planned {
        needed: event.detail["needed"] == true,
        refused: event.detail["no_plan"] == true,
        line: gate::line(&event.detail),
        at_us: event.time_us,
    }))
}

fn money(
    deps: &Deps,
    store: &Store,
    run: &RunRecord,
    summary: &RunSummary,
) -> Result<Money, CommandError> {
    let intervals = store.intervals(&run.name)?;
    let now_us = deps.clock.now_us();
    let bills = store.charges(&run.name)?;
    let doubtful = bills.iter().find(|bill| {
        let plausible = ledger::is_plausible(&intervals, bill.attempt, bill.cost, now_us);
        bill.is_final && !plausible
    });
    Ok(Money {
        cost_usd: summary.cost_usd,
        usd_per_hour: summary.usd_per_hour,
        ledger_usd: summary.ledger_usd,
        unbilled_traffic_usd: summary.unbilled_traffic_usd,
        // Before the first box there is nothing to bill.
        charged_usd: summary.charged_usd.filter(|_| !bills.is_empty()),
        apart_usd: summary
            .attempts
            .iter()
            .filter_map(AttemptSummary::reconciliation)
            .map(|held| held.difference_usd())
            .sum(),
        doubtful: doubtful.map(|bill| {
            format!(
                "the bill of attempt {} cannot be right: {} were charged",
                bill.attempt,
                text::usd(bill.cost.total_usd())
            )
        }),
    })
}

/// Checkpoints, by what boxes told.
fn saves(events: &[EventRecord], summary: &RunSummary) -> Saves {
    let of = |kind: &'static str| events.iter().filter(move |event| event.kind == kind);
    let found = of("checkpoint.found").map(|event| (event.time_us, event.detail["step"].as_u64()));
    let committed = of("checkpoint.committed").map(marks::written).max();
    let mut steps: Vec<u64> = of("checkpoint.found")
        .filter_map(|event| event.detail["step"].as_u64())
        .collect();
    steps.sort_unstable();
    steps.dedup();
    let mut gaps: Vec<u64> = steps.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    Saves {
        found: of("checkpoint.found").count() as u64,
        every_steps: gaps.get(gaps.len() / 2).copied(),
        newest_found: found.max().map(|(at_us, step)| (step, at_us)),
        committed: summary.checkpoints_committed,
        kept: summary.checkpoints_kept,
        newest: committed.map(|(.., step, at_us)| (step, at_us)),
        damaged: summary.newest_damaged.clone(),
        alarm: None,
        waits: None,
        rare: None,
        unsaved: Vec::new(),
    }
}

fn of_attempt(
    deps: &Deps,
    store: &Store,
    run: &RunRecord,
    latest: &AttemptRecord,
    events: &[EventRecord],
    facts: &mut Facts,
) -> Result<(), CommandError> {
    let (name, number) = (run.name.as_str(), latest.number);
    facts.promised = readiness::promised(store, &latest.label)?;
    facts.setup = session(events, number, SETUP);
    facts.smoke = session(events, number, SMOKE);
    facts.train = session(events, number, TRAIN).filter(|_| !latest.awaits_training());
    let failure = diagnosis::of(store, latest)?;
    facts.failure = failure.map(|found| {
        let what = format!("{}: {}; {}", found.class, found.meaning, found.advice);
        (
            what,
            format!("spotter logs {name} --session {}", found.session),
        )
    });
    if facts.step.is_none() {
        let unread = store.newest_event(name, number, "training.unread")?;
        facts.unread = unread.and_then(|event| Some(event.detail["reason"].as_str()?.to_owned()));
    }
    if latest.started_us > 0 {
        facts.window = windows::newest(store, latest)?;
        facts.loss = facts
            .window
            .as_ref()
            .and_then(|window| window["loss"].as_f64());
    }
    facts.saves.alarm = behind::backup(store, latest)?;
    facts.saves.waits =
        behind::waits(store, run, latest)?.map(|waits| (waits.text(), waits.instance.is_some()));
    if run.outcome.is_none() && latest.state == State::Running {
        facts.silent = silence::warning(store, run, latest)?;
        facts.disk_fills = alarms::disk(store, name, number)?;
        facts.contradiction = windows::contradiction(store, latest)?.map(|why| {
            let grave = facts.window.as_ref().is_none_or(windows::is_grave);
            let answer = match grave {
                true => format!("spotter accept {name}"),
                false => format!("spotter status {name}"),
            };
            (why, answer)
        });
    }
    if latest.may_cost() {
        facts.saves.rare = alarms::rare(store, name, number)?;
    }
    facts.saves.unsaved = alarms::unsaved(store, name, number)?;
    facts.not_saved = match latest.is_kept_for_a_look() && latest.may_cost() {
        true => latest.reason.clone(),
        false => not_saved::warning(store, latest)?,
    };
    let known = store.observations()?;
    let of_run = known.iter().rev().map(|known| &known.seen);
    facts.observed_use_percent = of_run
        .filter(|seen| seen.run == run.name && seen.attempt.is_some())
        .find_map(|seen| seen.gpu_utilisation_percent);
    facts.received_gb = store.measured(name, number)?.received_gb;
    copies::read(&Logbook::new(deps.config.home()), events, facts);
    Ok(())
}

/// What the box says now is newer than all of it.
fn of_box(told: &AgentStatus, facts: &mut Facts) {
    let live = |name: &str| told.session(name).map(of_session);
    facts.setup = live(SETUP).or(facts.setup.take());
    facts.smoke = live(SMOKE).or(facts.smoke.take());
    let awaits = facts.newest().is_some_and(AttemptRecord::awaits_training);
    if !awaits {
        facts.train = live(TRAIN).or(facts.train.take());
    }
    let alone = !facts.is_over() && !facts.watched;
    let ended = told.session(TRAIN).filter(|_| alone);
    if let (Some(session), Some(newest)) = (ended, facts.newest()) {
        let end = ended_alone::of_box(session, newest);
        facts.ended_alone = end.or(facts.ended_alone.take());
    }
    if let Some(training) = &told.training {
        facts.step = training.step.or(facts.step);
        facts.loss = training.loss.or(facts.loss);
    }
    facts.reading = told.sample.clone().or(facts.reading.take());
    facts.gpu_problem.clone_from(&told.gpu_problem);
    facts.driver.clone_from(&told.gpu_driver);
    if let Some(backup) = &told.backup
        && backup.last_commit_us.is_some()
    {
        facts.saves.kept = backup.committed;
        facts.saves.committed = facts.saves.committed.max(backup.committed);
    }
}

fn of_session(info: &SessionInfo) -> Session {
    let state = match info.state {
        SessionState::Lost => "lost with its box",
        SessionState::Stopped => "stopped",
        SessionState::Oom => "out of memory",
        SessionState::Signalled => "by a signal",
        SessionState::Exited | SessionState::Running => "",
    };
    Session {
        began_us: info.started_us.cast_signed(),
        ended_us: info.ended_us.map(u64::cast_signed),
        exit_code: info.exit_code.map(i64::from),
        state: state.to_owned(),
        log_bytes: info.log_bytes,
        tmux: info.tmux,
    }
}

/// The newest session of that name, as the agent of an attempt told it.
fn session(events: &[EventRecord], attempt: u32, name: &str) -> Option<Session> {
    let of = |kind: &'static str| {
        events.iter().rev().filter(move |event| {
            event.attempt == attempt && event.kind == kind && event.detail["session"] == name
        })
    };
    let number = |detail: &Value, key: &str| detail[key].as_i64();
    let began = of("session.started").next();
    let began_us = began.and_then(|event| number(&event.detail, "started_us"));
    let ended = of("session.ended").next().filter(|event| {
        began_us.is_none_or(|began_us| number(&event.detail, "started_us") >= Some(began_us))
    });
    let began_us = began_us.or_else(|| number(&ended?.detail, "started_us"))?;
    let end = ended.map(|event| &event.detail);
    Some(Session {
        began_us,
        ended_us: ended.map(|event| number(&event.detail, "ended_us").unwrap_or(event.time_us)),
        exit_code: end.and_then(|end| number(end, "exit_code")),
        state: end
            .and_then(|end| end["state"].as_str())
            .unwrap_or_default()
            .to_owned(),
        log_bytes: end.and_then(|end| end["log_bytes"].as_u64()).unwrap_or(0),
        tmux: began.is_some_and(|event| event.detail["tmux"] == true),
    })
}

/// What of the results lies where they go.
fn brought(results: &Results) -> Brought {
    let mut found = Brought::default();
    for name in &results.fetch {
        let is_pattern = name.contains(['*', '?', '[']);
        match is_pattern {
            true => {
                let pattern = results.to.join(name.trim_start_matches("./"));
                let paths = glob::glob(&pattern.to_string_lossy());
                for path in paths.into_iter().flatten().flatten() {
                    add(&path, &mut found);
                }
            }
            false => add(&results.to.join(name), &mut found),
        }
    }
    found
}

fn add(path: &Path, found: &mut Brought) {
    // A link to a directory may lead back to where it lies.
    let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    if is_dir {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            add(&entry.path(), found);
        }
        return;
    }
    let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file);
    if let Some(meta) = meta.filter(|_| found.files < MOST_FILES) {
        found.files += 1;
        found.bytes += meta.len();
    }
}
