//! `spotter status`: one run in full.

use std::time::Duration;

use serde::Serialize;

use crate::{
    agent_client::{AgentStatus, GpuInfo, SessionState},
    commands::{Deps, market_word::MarketWord, plan::gate, watching},
    error::CommandError,
    provider::hosts::is_host,
    run::{
        State, alarms,
        bringing_up::TRAIN,
        diagnosis::Diagnosis,
        foresight,
        lease::Lease,
        next, not_saved, restarts, silence,
        site::Site,
        summary::RunSummary,
        waiting::{self, Waiting},
        way_on, windows,
    },
    store::{AttemptRecord, RunRecord, Store},
    ui::{self, Ui, text},
};

/// After so long without the box's own word the market is asked for its own.
const SOON: Duration = Duration::from_secs(5);
/// How much longer the box may take to answer then: a slow line is no silence.
const LATE: Duration = Duration::from_secs(4);
/// Longest time for bringing home what happened on a box that answers.
const EVENTS_LIMIT: Duration = Duration::from_secs(25);

/// Show one run in full: attempts, steps, checkpoints, money, and what its box says now
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Run; the only one that goes on, if there is one
    run: Option<String>,
    /// Only what is on record; the box is not asked
    #[arg(long)]
    recorded: bool,
}

/// The record and the live box.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    summary: RunSummary,
    /// What is wrong with the backup of a running training, as it was last told; `null`: nothing.
    backup_alarm: Option<String>,
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
    let summary = watching::summary(&store, &run)?;
    let asks = summary.state.is_some_and(|state| {
        matches!(
            state,
            State::Syncing | State::Smoke | State::Running | State::Finishing
        )
    });
    let asks = asks && !args.recorded;
    let backup_alarm = match summary.attempts.last() {
        Some(attempt) if summary.state == Some(State::Running) => {
            alarms::backup(&store, &run.name, attempt.number)?
        }
        _ => None,
    };
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
        let (agent, silent) = heard(ui, deps, &run.name, asks).await?;
        let (window, contradiction) = windows_of(&store, &run.name)?;
        let mut warnings = warnings;
        warnings.extend(not_restarted(&store, &run)?);
        ui.json(&Status {
            summary,
            backup_alarm,
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
    // The record is there at once; a box behind a silent link takes its time.
    record(
        ui,
        &summary,
        backup_alarm.as_deref(),
        &unsaved,
        rare.as_deref(),
    );
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
    let (agent, silent) = heard(ui, deps, &run.name, asks).await?;
    if let Some(agent) = &agent {
        show_agent(ui, agent);
    }
    let backup = agent.as_ref().and_then(|agent| agent.backup.as_ref());
    let refusals = [
        backup_alarm,
        backup.and_then(|backup| backup.problem.clone()),
    ];
    let mut mends = refusals
        .iter()
        .flatten()
        .filter_map(|why| alarms::mend_keys(&run.name, why));
    if let Some(mend) = mends.next() {
        ui.hint(format_args!("{mend}"));
    }
    let ended = agent
        .as_ref()
        .and_then(|agent| agent.session(TRAIN))
        .is_some_and(|session| !session.is_running());
    let not_restarted = not_restarted(&store, &run)?;
    if let Some(why) = &not_restarted {
        ui.warning(format_args!("{why}"));
        ui.hint(format_args!("go on with `spotter up {}`", run.name));
    } else if run.outcome.is_none() && ended && !summary.watched {
        ui.warning(format_args!(
            "the training has ended and its box is still paid for"
        ));
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

/// What is known without asking anybody.
fn record(
    ui: &mut Ui,
    summary: &RunSummary,
    backup_alarm: Option<&str>,
    unsaved: &[String],
    rare: Option<&str>,
) {
    let state = match summary.outcome {
        Some(outcome) => outcome.name(),
        None => summary.state.map_or("planned", State::name),
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
        "  cost         {} so far for all attempts, as billed or metered; {} now",
        text::usd(summary.cost_usd),
        text::usd_per_hour(summary.usd_per_hour)
    ));
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
        let watched = if summary.watched {
            "yes"
        } else {
            "nobody watches: an interruption is not recovered until `up`"
        };
        ui.line(format_args!("  watched      {watched}"));
    }
    if let Some(alarm) = backup_alarm {
        ui.line(format_args!("  backup       BEHIND: {alarm}"));
    }
    for checkpoint in unsaved {
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

/// Of a box that was not heard, the market may know more than the record.
async fn market(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    word: Result<Option<MarketWord>, String>,
) -> Result<(), CommandError> {
    let store = deps.store()?;
    let latest = store.latest_attempt(&run.name)?;
    let Some(latest) = latest.filter(AttemptRecord::may_cost) else {
        return Ok(());
    };
    let word = match word {
        Ok(Some(word)) => word,
        Ok(None) => return Ok(()),
        Err(why) => {
            ui.warning(format_args!("this is what was last seen: {why}"));
            return Ok(());
        }
    };
    ui.line(format_args!(
        "  market       {}, {} now for this box",
        word.news.unwrap_or("as recorded"),
        text::usd_per_hour(word.usd_per_hour)
    ));
    if run.outcome.is_some() || !word.acts {
        return Ok(());
    }
    match store.lease(&run.name)? {
        Some(acting) => ui.status(format_args!(
            "The spotter that acts for it (pid {}) sees to that.",
            acting.pid
        )),
        None => {
            ui.hint(format_args!(
                "nobody acts for it: `spotter up {}`",
                run.name
            ));
            in_bucket(ui, deps, run, &latest).await?;
        }
    }
    Ok(())
}

/// A box that went with nobody there left its last word in the bucket, which the record above does not have.
async fn in_bucket(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    latest: &AttemptRecord,
) -> Result<(), CommandError> {
    let store = deps.store()?;
    let saved = || alarms::newest_saved(&store, &run.name, (1..=latest.number).rev());
    let before = saved()?;
    let Some(_lease) = Lease::take(&store, &run.name)? else {
        return Ok(());
    };
    let lifecycle = deps.lifecycle(watching::ConsoleReport::new(ui))?;
    lifecycle.catch_up(run, latest).await;
    let now = saved()?;
    if now != before
        && let Some((Some(step), _)) = now
    {
        ui.line(format_args!(
            "  since then   it went on to save step {step}, which is in the bucket"
        ));
    }
    Ok(())
}

/// What the market was asked of a box that did not answer, and what it said.
type Silence = Option<Result<Option<MarketWord>, String>>;

/// The box's own word, or else the market's; neither where nobody is to be asked.
pub(super) async fn heard(
    ui: &mut Ui,
    deps: &Deps,
    run: &str,
    asks: bool,
) -> Result<(Option<AgentStatus>, Silence), CommandError> {
    if !asks {
        return Ok((None, None));
    }
    Ok(match live(ui, deps, run).await? {
        Heard::Box(agent) => (Some(*agent), None),
        Heard::Silence(market) => (None, Some(market)),
    })
}

/// What a look at the box brought.
enum Heard {
    /// Its own word.
    Box(Box<AgentStatus>),
    /// None, and what the market says instead; else why it does not tell.
    Silence(Result<Option<MarketWord>, String>),
}

/// Asks the box, and the market as well when that takes long.
async fn live(ui: &mut Ui, deps: &Deps, run: &str) -> Result<Heard, CommandError> {
    ui.status(format_args!("Asking the box."));
    let asked = async {
        let site = deps.open_site(run).await?;
        let status = site
            .status()
            .await
            .map_err(|err| CommandError::from_error(&err))?;
        Ok::<_, CommandError>((site, status))
    };
    let mut asked = std::pin::pin!(asked);
    let latest = deps.store()?.latest_attempt(run)?;
    let market = async {
        match &latest {
            Some(latest) => deps.market_word(latest).await,
            None => Ok(None),
        }
    };
    let (opened, market) = match tokio::time::timeout(SOON, &mut asked).await {
        Ok(Ok(opened)) => (Some(Ok(opened)), Ok(None)),
        Ok(Err(err)) => (Some(Err(err)), market.await),
        Err(_) => {
            ui.status(format_args!(
                "The box has not answered within {} s; asking the market.",
                SOON.as_secs()
            ));
            let (late, market) = tokio::join!(tokio::time::timeout(LATE, asked), market);
            (late.ok(), market)
        }
    };
    let why = match opened {
        Some(Ok((site, status))) => {
            let home = bring_home(ui, deps, run, site.as_ref(), &status);
            match tokio::time::timeout(EVENTS_LIMIT, home).await {
                Ok(Ok(())) => {}
                Ok(Err(err)) => {
                    tracing::debug!(%err, "what happened on the box was not brought home")
                }
                Err(_) => tracing::debug!("what happened on the box did not come home in time"),
            }
            return Ok(Heard::Box(Box::new(status)));
        }
        Some(Err(err)) => format!(": {err}"),
        None => format!(" within {} s", (SOON + LATE).as_secs()),
    };
    ui.warning(format_args!(
        "the box does not answer{why}{}; what is shown is its record",
        last_word(deps, run)?
    ));
    Ok(Heard::Silence(market))
}

/// What happened while nobody watched comes home with whoever looks first.
async fn bring_home(
    ui: &Ui,
    deps: &Deps,
    run: &str,
    site: &dyn Site,
    status: &AgentStatus,
) -> Result<(), CommandError> {
    let store = deps.store()?;
    if let (Some(record), Some(attempt)) = (store.find_run(run)?, store.latest_attempt(run)?)
        && status.last_event > attempt.last_event
        && status.attempt == attempt.number
    {
        deps.lifecycle(watching::ConsoleReport::new(ui))?
            .bring_events(&record, attempt, site)
            .await
            .map_err(|err| CommandError::from_error(&err))?;
    }
    Ok(())
}

/// When the box was heard last, as far as somebody watched: `; its last word came 7 min ago`.
fn last_word(deps: &Deps, run: &str) -> Result<String, CommandError> {
    let store = deps.store()?;
    let Some(heard_us) = heard_us(&store, run)? else {
        return Ok(String::new());
    };
    let age_us = store.now_us().saturating_sub(heard_us).max(0);
    let age = Duration::from_secs(age_us.unsigned_abs() / 1_000_000);
    Ok(format!(
        "; its last word came {} ago, at {}",
        text::duration(age),
        text::time(heard_us)
    ))
}

fn heard_us(store: &Store, run: &str) -> Result<Option<i64>, CommandError> {
    let Some(latest) = store.latest_attempt(run)? else {
        return Ok(None);
    };
    let since_us = silence::since_us(store, &latest)?;
    Ok(since_us.or(silence::last_word_us(store, &latest)?))
}

fn show_agent(ui: &mut Ui, agent: &AgentStatus) {
    if let Some(session) = agent.session(TRAIN) {
        let how = if session.state == SessionState::Running {
            "running"
        } else {
            "ended"
        };
        ui.line(format_args!(
            "  training     {how}, {} of log",
            text::bytes(session.log_bytes)
        ));
    }
    if let Some(training) = &agent.training {
        let loss = training
            .loss
            .map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
        let rate = training
            .tokens_per_s
            .map_or_else(String::new, |rate| format!(", {rate:.0} tokens/s"));
        let total = training
            .total_steps
            .map_or_else(String::new, |total| format!(" of {total}"));
        ui.line(format_args!(
            "  last line    step {}{total}{loss}{rate}",
            text::or_dash(training.step)
        ));
    }
    if let Some(backup) = &agent.backup {
        let alarm = if backup.alarm { ", BEHIND" } else { "" };
        ui.line(format_args!(
            "  backup       {} waiting, {} not saved{alarm}",
            backup.pending,
            text::bytes(backup.unsaved_bytes)
        ));
        if let Some(expires_us) = backup.keys_expire_us {
            let left_us = expires_us.saturating_sub(agent.now_us);
            let when = match left_us {
                0 => "have ended: hand over others with `spotter up`".to_owned(),
                left_us => format!("end in {}", text::duration(Duration::from_micros(left_us))),
            };
            match backup.checkpoints_left {
                None => ui.line(format_args!("  bucket keys  {when}")),
                Some(0) => ui.line(format_args!(
                    "  signed for   no more checkpoints, LOW: sign for more with `spotter up`"
                )),
                Some(left) => ui.line(format_args!(
                    "  signed for   {left} more checkpoints; the signatures {when}"
                )),
            }
        }
        if let Some(problem) = &backup.problem {
            ui.line(format_args!("  problem      {problem}"));
        }
    }
    let Some(sample) = &agent.sample else { return };
    for gpu in &sample.gpus {
        let memory = match (gpu.memory_used_bytes, gpu.memory_total_bytes) {
            (Some(used), Some(total)) => format!("{} of {}", text::bytes(used), text::bytes(total)),
            _ => "-".to_owned(),
        };
        ui.line(format_args!(
            "  gpu {}        {} %, {memory}, {} W, {} C{}  {}",
            gpu.index,
            text::or_dash(gpu.utilisation_percent),
            gpu.power_mw
                .map_or_else(|| "-".to_owned(), |power| (power / 1000).to_string()),
            text::or_dash(gpu.temperature_c),
            troubles(gpu),
            gpu.name
        ));
    }
    if let Some(problem) = &agent.gpu_problem {
        let what = if sample.gpus.is_empty() {
            "no readings: "
        } else {
            ""
        };
        ui.line(format_args!("  gpu          {what}{problem}"));
    }
}

/// What holds a GPU back or is wrong with it, as the end of its line; nothing when all is well.
fn troubles(gpu: &GpuInfo) -> String {
    /// Clocks-event reasons that cost speed, in NVML's bits.
    const REASONS: [(u64, &str); 5] = [
        (0x4, "power cap"),
        (0x8, "hardware slowdown"),
        (0x20, "heat"),
        (0x40, "heat (hardware)"),
        (0x80, "power brake"),
    ];
    let mask = gpu.throttle_reasons.unwrap_or(0);
    let reasons = REASONS.iter().filter(|(bit, _)| mask & bit != 0);
    let reasons: Vec<_> = reasons.map(|(_, words)| *words).collect();
    let mut words = String::new();
    if !reasons.is_empty() {
        words += &format!(", held back by {}", reasons.join(" and "));
    }
    if gpu.xid_count > 0 {
        words += &format!(", {} Xid errors, last {}", gpu.xid_count, gpu.last_xid);
    }
    if gpu.ecc_uncorrected.unwrap_or(0) > 0 || gpu.remap_failed == Some(1) {
        words += ", memory is failing";
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpus_line_ends_with_what_holds_it_back() {
        let check = |throttle, xids, ecc, expected: &str| {
            let gpu = GpuInfo {
                throttle_reasons: throttle,
                xid_count: xids,
                last_xid: if xids > 0 { 79 } else { 0 },
                ecc_uncorrected: ecc,
                ..GpuInfo::default()
            };
            assert_eq!(troubles(&gpu), expected);
        };
        check(None, 0, None, "");
        check(Some(0x1), 0, Some(0), "");
        check(Some(0x4), 0, None, ", held back by power cap");
        check(
            Some(0x24),
            2,
            Some(1),
            ", held back by power cap and heat, 2 Xid errors, last 79, memory is failing",
        );
    }
}
