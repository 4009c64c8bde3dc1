//! The box's own word, and the market's where the box says nothing: a status that waits for a dead link tells nobody anything.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    agent_client::AgentStatus,
    commands::{Deps, market_word::MarketWord, watching},
    error::CommandError,
    run::{believable_step, lease::Lease, silence, site::Site},
    store::{AttemptRecord, RunRecord, Store},
    ui::{Ui, text},
};

/// After so long without the box's own word the market is asked for its own.
const SOON: Duration = Duration::from_secs(5);
/// How much longer the box may take to answer then: a slow line is no silence.
const LATE: Duration = Duration::from_secs(4);
/// How much longer again where the market says that it runs: it may have come back at another address.
const RUNNING: Duration = Duration::from_secs(21);
/// All of that together, with what happened on a box that answers and the end of one that is gone: what is not had by then comes with the
/// next look.
const IN_ALL: Duration = Duration::from_secs(30);

/// Of a box that was not heard, the market may know more than the record.
pub(super) async fn market(
    ui: &mut Ui,
    deps: &Deps,
    run: &RunRecord,
    word: Result<Option<MarketWord>, String>,
) -> Result<(), CommandError> {
    let store = deps.store()?;
    let latest = store.latest_attempt(&run.name)?;
    if !latest.is_some_and(|latest| latest.may_cost()) {
        return Ok(());
    }
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
        None => ui.hint(format_args!(
            "nobody acts for it: `spotter up {}`",
            run.name
        )),
    }
    Ok(())
}

/// A box that went with nobody there left its last word in the bucket: what it says is taken into the record before that is shown.
async fn gone(
    ui: &Ui,
    deps: &Deps,
    run: &str,
    word: Option<MarketWord>,
) -> Result<(), CommandError> {
    let store = deps.store()?;
    let record = store.run(run)?;
    let Some(latest) = store.latest_attempt(run)?.filter(AttemptRecord::may_cost) else {
        return Ok(());
    };
    let acts = word.is_some_and(|word| word.acts) && record.outcome.is_none();
    if !acts || deps.take_end(ui, &record, word).await {
        return Ok(());
    }
    let Some(_lease) = Lease::take(&store, run)? else {
        return Ok(());
    };
    let lifecycle = deps.lifecycle(watching::ConsoleReport::new(ui))?;
    lifecycle.catch_up(&record, &latest).await;
    Ok(())
}

/// What the market was asked of a box that did not answer, and what it said.
pub(in crate::commands) type Silence = Option<Result<Option<MarketWord>, String>>;

/// The box's own word, or else the market's; neither where nobody is to be asked.
pub(in crate::commands) async fn heard(
    ui: &mut Ui,
    deps: &Deps,
    run: &str,
    asks: bool,
) -> Result<(Option<AgentStatus>, Silence), CommandError> {
    if !asks {
        return Ok((None, None));
    }
    let until = tokio::time::Instant::now() + IN_ALL;
    Ok(match live(ui, deps, run, until).await? {
        Heard::Box(agent) => (Some(*agent), None),
        Heard::Silence(market) => {
            let end = gone(ui, deps, run, market.as_ref().ok().copied().flatten());
            match tokio::time::timeout_at(until, end).await {
                Ok(taken) => taken?,
                Err(_) => tracing::debug!(run, "what its box left was not taken in in time"),
            }
            (None, Some(market))
        }
    })
}

/// The same for a list of runs: what the box of one tells soon is taken into the record. True: it was not to be reached, or its agent
/// refused; one that only takes its time is on a slow line, and not silent.
pub(in crate::commands) async fn news(ui: &Ui, deps: &Deps, run: &str) -> bool {
    let mut answered = false;
    let asked = async {
        let (site, status) = look(deps, run).await?;
        answered = true;
        bring_home(ui, deps, run, site.as_ref(), &status).await
    };
    let heard = tokio::time::timeout(SOON, asked).await;
    let Ok(Err(err)) = heard else { return false };
    tracing::debug!(%err, run, "the news of its box did not come home");
    !answered
}

/// The box, and what it says now, for whoever only looks.
async fn look(deps: &Deps, run: &str) -> Result<(Arc<dyn Site>, AgentStatus), CommandError> {
    let site = deps.look_at(run).await?;
    let status = site.status().await;
    let status = status.map_err(|err| CommandError::from_error(&err))?;
    Ok((site, status))
}

/// What a look at the box brought.
enum Heard {
    /// Its own word.
    Box(Box<AgentStatus>),
    /// None, and what the market says instead; else why it does not tell.
    Silence(Result<Option<MarketWord>, String>),
}

/// Asks the box, and the market as well when that takes long.
async fn live(
    ui: &mut Ui,
    deps: &Deps,
    run: &str,
    until: tokio::time::Instant,
) -> Result<Heard, CommandError> {
    ui.status(format_args!("Asking the box."));
    let began = Instant::now();
    let mut asked = std::pin::pin!(look(deps, run));
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
            let (late, market) = tokio::join!(tokio::time::timeout(LATE, &mut asked), market);
            let runs = matches!(&market, Ok(Some(word)) if word.news.is_none());
            let late = match late {
                Err(_) if runs => {
                    ui.status(format_args!(
                        "The market says that it runs: it gets {} s more.",
                        RUNNING.as_secs()
                    ));
                    tokio::time::timeout(RUNNING, asked).await
                }
                late => late,
            };
            (late.ok(), market)
        }
    };
    let why = match opened {
        Some(Ok((site, status))) => {
            let home = bring_home(ui, deps, run, site.as_ref(), &status);
            match tokio::time::timeout_at(until, home).await {
                Ok(Ok(())) => {}
                Ok(Err(err)) => {
                    tracing::debug!(%err, "what happened on the box was not brought home")
                }
                Err(_) => tracing::debug!("what happened on the box did not come home in time"),
            }
            return Ok(Heard::Box(Box::new(status)));
        }
        Some(Err(err)) => format!(": {err}"),
        None => format!(" within {} s", began.elapsed().as_secs()),
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
    let (Some(record), Some(attempt)) = (store.find_run(run)?, store.latest_attempt(run)?) else {
        return Ok(());
    };
    if status.attempt != attempt.number {
        return Ok(());
    }
    silence::keep_word(&store, &attempt, &mut None)?;
    silence::note_heard(&store, &attempt)?;
    let training = status.training.as_ref();
    let step = believable_step(training.and_then(|training| training.step));
    if step > attempt.last_step {
        store.record_step(run, attempt.number, step)?;
    }
    if status.last_event > attempt.last_event {
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

pub(super) fn heard_us(store: &Store, run: &str) -> Result<Option<i64>, CommandError> {
    let Some(latest) = store.latest_attempt(run)? else {
        return Ok(None);
    };
    let since_us = silence::since_us(store, &latest)?;
    Ok(since_us.or(silence::last_word_us(store, &latest)?))
}
