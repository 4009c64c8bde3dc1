//! `spotter status`: one run in full.

mod asking;
mod box_says;

use serde::Serialize;

pub(super) use self::asking::{heard, news};
use self::{
    asking::{heard_us, market},
    box_says::show_agent,
};
use crate::{
    agent_client::AgentStatus,
    commands::{Deps, market_word::MarketWord, plan::gate, watching},
    error::CommandError,
    provider::hosts::is_host,
    run::{
        State, alarms,
        behind::{self, Waits},
        bringing_up::TRAIN,
        causes,
        diagnosis::Diagnosis,
        ended_alone, foresight, next, not_saved, restarts, silence,
        summary::{AttemptSummary, RunSummary},
        waiting::{self, Waiting},
        way_on, windows,
    },
    store::{AttemptRecord, RunRecord, Store},
    ui::{self, Ui, text},
};

/// Show one run in full: attempts, steps, checkpoints, money, and what its box says now
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Run; the only one that goes on, if there is one
    run: Option<String>,
    /// Only what is on record; the box is not asked
    #[arg(long)]
    recorded: bool,
}

/// Attempts that did not come up, of which the reason is shown.
const NOT_UP: usize = 3;

/// The record and the live box.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    summary: RunSummary,
    /// What is wrong with the backup of the newest attempt, as it was last told; `null`: nothing, or nothing is left that it is about.
    backup_alarm: Option<String>,
    /// Why the bucket refuses the keys of its box, as `ps` has it; `null`: it does not, as far as was told.
    refused: Option<String>,
    /// Finished checkpoints on boxes that do not train any more, and in no bucket yet.
    waits_on_box: Vec<Waits>,
    /// Checkpoints on the box that are in no bucket, each with the reason, as it was last told.
    unsaved: Vec<String>,
    /// What is told of a training that saves too rarely; `null`: it does not.
    rare_checkpoints: Option<String>,
    /// The newest window of the newest attempt's training, as its event has it; `null`: none was closed so far.
    window: Option<serde_json::Value>,
    /// What contradicts the estimate now; `null`: nothing.
    contradiction: Option<String>,
    /// What ends the run from outside and is near: the account's credit, the contract, a disk that fills.
    warnings: Vec<String>,
    /// How it waits for its box; `null`: it does not.
    waiting: Option<Waiting>,
    /// The newest choice by price of how it goes on, with what each way costs; `null`: none was made.
    way_on: Option<String>,
    /// What was planned for it, as its newest event `planned` has it; `null`: nothing was.
    plan: Option<serde_json::Value>,
    /// What the agent says; `null` when it was not asked or did not answer.
    agent: Option<AgentStatus>,
    /// What the market says of a box that was asked and did not answer; `null`: it was not asked, or knows nothing.
    market: Option<MarketWord>,
    /// When the box gave its last word to whoever watched, to ten seconds; `null`: to nobody.
    last_word_us: Option<i64>,
}

/// Shows it.
pub async fn status(ui: &mut Ui, deps: &Deps, args: &StatusArgs) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    let store = deps.store()?;
    let latest = store.latest_attempt(&run.name)?;
    let comes_up = latest.is_some_and(|latest| {
        latest.may_cost() && matches!(latest.state, State::Renting | State::Loading)
    });
    if comes_up && !args.recorded && store.lease(&run.name)?.is_none() {
        // Nobody saw it come up: what it costs only the market knows, which is taken into the record. Its word is shown below.
        let _ = deps.market_boxes().await;
    }
    let asks = watching::summary(&store, &run)?.state.is_some_and(|state| {
        matches!(
            state,
            State::Syncing | State::Smoke | State::Running | State::Finishing
        )
    });
    let asks = asks && !args.recorded;
    // What the box has to tell is taken in before anything is shown: a screen gives one answer.
    let marks = async {
        if !args.recorded {
            deps.read_bucket(&run).await;
        }
    };
    let (heard, ()) = tokio::join!(heard(ui, deps, &run.name, asks), marks);
    let (agent, silent) = heard?;
    let run = store.run(&run.name)?;
    let mut summary = watching::summary(&store, &run)?;
    let latest = store.latest_attempt(&run.name)?;
    let backup_alarm = match &latest {
        Some(attempt) => behind::backup(&store, attempt)?,
        None => None,
    };
    let refused = match &latest {
        Some(attempt) => alarms::refused(&store, attempt)?,
        None => None,
    };
    let alone = run.outcome.is_none() && !summary.watched;
    let told = agent.as_ref().filter(|_| alone);
    if let (Some(session), Some(latest)) = (told.and_then(|agent| agent.session(TRAIN)), &latest) {
        let end = ended_alone::of_box(session, latest);
        summary.training_end = end.or(summary.training_end);
    }
    if let (Some(end), Some(Ok(Some(word)))) = (&mut summary.training_end, &silent) {
        end.billing = word.billing();
    }
    let mut waits = Vec::new();
    for attempt in store.attempts(&run.name)? {
        let is_there = |waits: &Waits| waits.instance.is_some();
        waits.extend(behind::waits(&store, &run, &attempt)?.filter(is_there));
    }
    let costs = store
        .latest_attempt(&run.name)?
        .filter(|attempt| attempt.may_cost());
    let (unsaved, rare) = match costs {
        Some(attempt) => (
            alarms::unsaved(&store, &run.name, attempt.number)?,
            alarms::rare(&store, &run.name, attempt.number)?,
        ),
        None => (Vec::new(), None),
    };
    let warnings = match summary.attempts.last() {
        Some(attempt) if summary.outcome.is_none() => {
            let mut warnings = foresight::warnings(&store, &run.name, attempt.number)?;
            warnings.extend(alarms::disk(&store, &run.name, attempt.number)?);
            if let Some(latest) = store.latest_attempt(&run.name)? {
                warnings.extend(silence::warning(&store, &run, &latest)?);
                warnings.extend(not_saved::warning(&store, &latest)?);
            }
            warnings
        }
        _ => Vec::new(),
    };
    let way_on = way_on::newest(&store, &run.name)?;
    let waiting = match store.latest_attempt(&run.name)? {
        Some(attempt) => waiting::of(&store, &run, &attempt)?,
        None => None,
    };
    let plan = store
        .newest_event(&run.name, 0, gate::PLANNED)?
        .map(|event| event.detail);
    if ui.is_json() {
        let (window, contradiction) = windows_of(&store, &run.name)?;
        let mut warnings = warnings;
        warnings.extend(not_restarted(&store, &run)?);
        ui.json(&Status {
            summary,
            backup_alarm,
            refused,
            waits_on_box: waits,
            unsaved,
            rare_checkpoints: rare,
            window,
            contradiction,
            warnings,
            waiting,
            way_on,
            plan,
            agent,
            market: silent.and_then(|word| word.ok().flatten()),
            last_word_us: heard_us(&store, &run.name)?,
        });
        return Ok(());
    }
    record(
        ui,
        &summary,
        backup_alarm.as_deref(),
        &unsaved,
        rare.as_deref(),
    );
    if let Some(why) = &refused {
        ui.line(format_args!("  refused      {why}"));
    }
    for waits in &waits {
        ui.line(format_args!("  on its box   {}", waits.text()));
    }
    if let Some(plan) = &plan {
        ui.line(format_args!("  plan         {}", gate::line(plan)));
    }
    if let Some(way_on) = way_on.filter(|_| waiting.is_none()) {
        ui.line(format_args!("  way on       {way_on}"));
    }
    if let Some(waiting) = &waiting {
        ui.line(format_args!("  waits        {}", waiting.text()));
        ui.hint(format_args!(
            "go on with another box instead: `spotter resume --elsewhere {}`",
            run.name
        ));
    }
    let ways = watching::ways_on(&store, &run)?;
    let left_over = next::left_over(&store, &run)?.filter(|_| ways.is_empty());
    for hint in ways.iter().chain(&left_over) {
        ui.hint(format_args!("{hint}"));
    }
    for warning in &warnings {
        ui.warning(format_args!("{warning}"));
    }
    if let Some(agent) = &agent {
        show_agent(ui, agent);
    }
    let backup = agent.as_ref().and_then(|agent| agent.backup.as_ref());
    let refusals = [
        backup_alarm,
        refused,
        backup.and_then(|backup| backup.problem.clone()),
    ];
    let mut mends = refusals
        .iter()
        .flatten()
        .filter_map(|why| alarms::mend_keys(&run.name, why));
    if let Some(mend) = mends.next() {
        ui.hint(format_args!("{mend}"));
    }
    let not_restarted = not_restarted(&store, &run)?;
    if let Some(why) = &not_restarted {
        ui.warning(format_args!("{why}"));
        ui.hint(format_args!("go on with `spotter up {}`", run.name));
    } else if let Some(end) = &summary.training_end {
        ui.warning(format_args!("{}", end.words()));
        ui.hint(format_args!("collect it with `spotter up {}`", run.name));
    }
    if let Some(word) = silent {
        market(ui, deps, &run, word).await?;
    } else if agent.is_none() && !args.recorded && !summary.watched {
        let latest = store.latest_attempt(&run.name)?;
        if let Some(latest) = latest.filter(AttemptRecord::may_cost) {
            let word = deps.market_word(&latest).await;
            market(ui, deps, &run, word).await?;
        }
    }
    let (window, contradiction) = windows_of(&store, &run.name)?;
    if let Some(window) = &window {
        ui.line(format_args!("  window       {}", windows::line(window)));
        if let Some(evidence) = window["bottleneck"]["evidence"].as_str() {
            ui.line(format_args!("  bottleneck   {evidence}"));
        }
    }
    if let Some(why) = contradiction {
        ui.line(format_args!("  CONTRADICTED {why}"));
        ui.hint(format_args!(
            "{}",
            windows::answer(&run.name, &run.spec.validate, window.as_ref())
        ));
    }
    Ok(())
}

/// Why a box that was restarted did not go on with its training by itself, a sentence; `None` when it had not to, or it goes on again.
fn not_restarted(store: &Store, run: &RunRecord) -> Result<Option<String>, CommandError> {
    let latest = store.latest_attempt(&run.name)?;
    let Some(latest) = latest.filter(|latest| latest.state == State::Running) else {
        return Ok(None);
    };
    let why = restarts::why_not(store, &latest)?.filter(|_| run.outcome.is_none());
    Ok(why.map(|why| {
        format!("its box was restarted and did not start the training again by itself: {why}")
    }))
}

/// The newest window, and what contradicts the estimate while it runs.
fn windows_of(
    store: &Store,
    run: &str,
) -> Result<(Option<serde_json::Value>, Option<String>), CommandError> {
    let Some(attempt) = store.latest_attempt(run)? else {
        return Ok((None, None));
    };
    let contradiction = match attempt.state {
        State::Running => windows::contradiction(store, &attempt)?,
        _ => None,
    };
    Ok((windows::newest(store, &attempt)?, contradiction))
}

/// The newest attempts whose training did not start, and whose reason the run's own does not say (pure).
fn not_up(summary: &RunSummary) -> Vec<&AttemptSummary> {
    let newest = summary.attempts.last().map(|newest| newest.number);
    let is_one = |attempt: &&AttemptSummary| {
        let comes_up = newest == Some(attempt.number)
            && matches!(
                attempt.state,
                State::Loading | State::Preparing | State::Syncing | State::Smoke
            );
        let never_trained = attempt.from_step.is_none() || comes_up;
        let said = |reason: &String| {
            let whole = summary.reason.as_deref().unwrap_or_default();
            whole.contains(reason.as_str())
        };
        never_trained && attempt.reason.as_ref().is_some_and(|reason| !said(reason))
    };
    let mut found: Vec<_> = summary
        .attempts
        .iter()
        .rev()
        .filter(is_one)
        .take(NOT_UP)
        .collect();
    found.reverse();
    found
}

/// What is known without asking anybody.
fn record(
    ui: &mut Ui,
    summary: &RunSummary,
    backup_alarm: Option<&str>,
    unsaved: &[String],
    rare: Option<&str>,
) {
    let state = match (summary.outcome, &summary.training_end) {
        (Some(outcome), _) => outcome.name().to_owned(),
        (None, Some(end)) => end.standing(),
        (None, None) => summary.state.map_or("planned", State::name).to_owned(),
    };
    ui.line(format_args!("{}  {state}", summary.name));
    let found = summary
        .attempts
        .last()
        .and_then(|last| last.diagnosis.as_ref());
    if let Some(reason) = &summary.reason {
        // What it means stands below, once.
        let meaning = found.map(|found| format!(": {}", found.meaning));
        let short = meaning.and_then(|meaning| reason.strip_suffix(meaning.as_str()));
        ui.line(format_args!("  reason       {}", short.unwrap_or(reason)));
    }
    if let Some(found) = found {
        show_diagnosis(ui, found);
    }
    for attempt in not_up(summary) {
        ui.line(format_args!(
            "  not up       attempt {}: {}",
            attempt.number,
            attempt.reason.as_deref().unwrap_or_default()
        ));
    }
    if let Some(step) = summary.step {
        ui.line(format_args!("  step         {step}"));
    }
    let last = summary
        .last_checkpoint_step
        .map_or_else(String::new, |step| format!(", newest of step {step}"));
    ui.line(format_args!(
        "  checkpoints  {} committed{last}",
        summary.checkpoints_committed
    ));
    ui.line(format_args!(
        "  cost         {} so far for all attempts, as billed or metered{}; {} now",
        text::usd(summary.cost_usd),
        text::unbilled_traffic(summary.unbilled_traffic_usd),
        text::now_usd_per_hour(summary.usd_per_hour, summary.at_most_usd_per_hour)
    ));
    if let Some(doubt) = &summary.newest_damaged {
        ui.line(format_args!("  damaged      {}", doubt.text()));
    }
    let older = match summary.attempts.split_last() {
        Some((_, older)) => older,
        None => &[],
    };
    for old in older.iter().filter(|old| old.state != State::Gone) {
        if let Some(id) = old.instance.filter(|id| !is_host(*id)) {
            ui.line(format_args!(
                "  old box      instance {id} of attempt {} is still there, and its disk is paid for",
                old.number
            ));
        }
    }
    if summary.outcome.is_none() {
        let watched = match (summary.watched, &summary.training_end) {
            (true, _) => "yes",
            (false, Some(_)) => "nobody watches, and its training is over: `up` collects it",
            (false, None) => "nobody watches: an interruption is not recovered until `up`",
        };
        ui.line(format_args!("  watched      {watched}"));
    }
    if let Some(alarm) = backup_alarm {
        ui.line(format_args!("  backup       BEHIND: {alarm}"));
    }
    for checkpoint in causes::once_each(unsaved, usize::MAX) {
        ui.line(format_args!("  not saved    {checkpoint}"));
    }
    if let Some(rare) = rare {
        ui.line(format_args!("  at risk      {rare}"));
    }
    for interruption in &summary.interruptions {
        ui.line(format_args!("  interrupted  {}", interruption.text()));
    }
    ui.table(&ui::attempts_table(summary));
}

/// What ended the training, and what to do about it.
fn show_diagnosis(ui: &mut Ui, found: &Diagnosis) {
    let line = found.line.map_or_else(String::new, |line| {
        format!(" (line {line} of `{}`)", found.session)
    });
    ui.line(format_args!(
        "  ended by     {}: {}",
        found.class, found.meaning
    ));
    ui.line(format_args!("  evidence     {}{line}", found.evidence));
    ui.line(format_args!("  next         {}", found.advice));
}
