//! `ps`: the runs, where each stands, what it costs, and who watches it. Asks the market about the boxes of runs that nobody watches, and
//! those that run for their news.

mod row;
mod table;

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use self::{row::row, table::table};
use crate::{
    commands::{
        Deps,
        market_word::{MarketWord, all_boxes_usd_per_hour, word},
        status,
    },
    error::CommandError,
    run::{State, causes, ended_alone::TrainingEnd, marks::Doubt, silence},
    store::{AttemptRecord, Store},
    ui::{Ui, text},
};

/// A box that trains is heard every few seconds: one that was not for so long may be gone, though whoever watches is not sure yet.
const HEARD_LATELY_US: i64 = 60_000_000;
/// Longest time that the table waits for boxes, and for the ends of those that are gone: what is not had by then comes with the next look.
const LOOK: Duration = Duration::from_secs(20);
/// Boxes that are asked at once.
const ASKED_AT_ONCE: usize = 8;

/// Show the runs: state, GPU, step, cost, and who watches
///
/// Ended runs are shown as long as a box of theirs may cost something.
#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// Ended runs too
    #[arg(short, long)]
    all: bool,
    /// Only what is on record; of runs that nobody watches neither the market nor the boxes are asked
    #[arg(long)]
    recorded: bool,
}

/// One run, as JSON. Times are microseconds since the epoch.
#[derive(Serialize)]
struct Row {
    run: String,
    /// State of the newest attempt; `planned` before there is one.
    state: String,
    /// How the run ended; null while it goes on.
    outcome: Option<&'static str>,
    reason: Option<String>,
    stop_requested: bool,
    attempt: u32,
    instance: Option<u64>,
    gpu: String,
    num_gpus: u32,
    rental: &'static str,
    step: Option<u64>,
    usd_per_hour: f64,
    /// What its newest box may cost though nothing is known to be charged.
    #[serde(skip)]
    at_most_usd_per_hour: Option<f64>,
    cost_usd: f64,
    /// Of that, traffic that nobody has billed so far, about.
    unbilled_traffic_usd: f64,
    created_us: i64,
    /// Step of the newest checkpoint in the bucket, and when it got there.
    saved_step: Option<u64>,
    saved_us: Option<i64>,
    /// The newest one in the bucket, where a mark there says that its data is damaged; null: none does, as far as was read.
    newest_damaged: Option<Doubt>,
    /// Checkpoints on the box that are in no bucket, each with the reason.
    unsaved: Vec<String>,
    /// What is wrong with the backup of the newest attempt, wherever it stands; null: nothing, or nothing is left that it is about.
    backup_alarm: Option<String>,
    /// Why the bucket refuses the keys of the box of a running training, long before that makes its backup late; null: it does not, as far
    /// as was told.
    refused: Option<String>,
    /// What contradicts the estimate of a running training; null: nothing.
    contradiction: Option<String>,
    /// How the training ended, by its box, while `state` still calls it running and nobody watches; null: it did not, as far as is known.
    training_end: Option<TrainingEnd>,
    /// Class of what ended the newest training; null: nothing did, or nobody knows.
    ended_by: Option<String>,
    /// What the market says of the box of a run that nobody watches, or of one that was not heard lately; null: it was not asked, or did
    /// not answer.
    market: Option<MarketWord>,
    /// Process that watches the run; null: nobody does, so nobody would recover it.
    watched_by_pid: Option<u32>,
    /// Since when nothing was heard of a box that the market calls running; null: it answers, as far as is known.
    silent_since_us: Option<i64>,
    /// What is told of that.
    #[serde(skip)]
    silence: Option<String>,
    /// When the box gave its last word to whoever watched or asked, to ten seconds; null: to nobody.
    last_word_us: Option<i64>,
    /// A mark for a training that was not heard lately.
    #[serde(skip)]
    no_word: Option<String>,
    /// The process that watches is stopped, and does nothing.
    #[serde(skip)]
    watcher_halted: bool,
    /// What to do about the box of a run that is over and that is kept for a look.
    #[serde(skip)]
    left_over: Option<String>,
}

#[derive(Serialize)]
struct Rows {
    runs: Vec<Row>,
}

/// Runs the verb.
pub async fn ps(ui: &mut Ui, deps: &Deps, args: &PsArgs) -> Result<(), CommandError> {
    let mut rows = Rows { runs: Vec::new() };
    let mut ended = 0;
    if let Some(store) = deps.existing_store()? {
        let now_us = deps.clock.now_us();
        let mut alone = Vec::new();
        for run in store.runs()? {
            let attempts = store.attempts(&run.name)?;
            if args.all || run.outcome.is_none() || attempts.iter().any(AttemptRecord::may_cost) {
                let row = row(&store, &run, &attempts, now_us)?;
                let is_old = row.watched_by_pid.is_none() || unheard(&store, &attempts, now_us)?;
                if is_old && attempts.iter().any(AttemptRecord::may_cost) {
                    alone.push((rows.runs.len(), attempts.clone()));
                }
                rows.runs.push(row);
            } else {
                ended += 1;
            }
        }
        // Whoever watches keeps the record true as far as he hears of the box; of the others it says what was so when somebody last looked.
        if !args.recorded && !alone.is_empty() {
            ask(ui, deps, &mut rows.runs, alone).await?;
        }
    }
    if rows.runs.is_empty() && !ui.is_json() {
        match ended {
            0 => ui.status(format_args!("No runs.")),
            1 => ui.status(format_args!(
                "No run goes on. One has ended: `spotter ps --all`."
            )),
            _ => ui.status(format_args!(
                "No run goes on. {ended} have ended: `spotter ps --all`."
            )),
        }
        return Ok(());
    }
    ui.show(&rows, |rows| table(&rows.runs));
    for row in &rows.runs {
        let traffic = text::unbilled_traffic(row.unbilled_traffic_usd);
        if !traffic.is_empty() {
            ui.status(format_args!(
                "`{}` cost {} so far{traffic}.",
                row.run,
                text::usd(row.cost_usd)
            ));
        }
    }
    for row in &rows.runs {
        if let Some(doubt) = &row.newest_damaged {
            ui.warning(format_args!("`{}`: {}", row.run, doubt.text()));
        }
        for unsaved in causes::once_each(&row.unsaved, 1) {
            ui.warning(format_args!("`{}` is not saved: {unsaved}", row.run));
        }
        if let Some(silence) = &row.silence {
            ui.warning(format_args!("`{}`: {silence}", row.run));
        }
        // Of a run that is over with its box there is nothing to be done about it.
        let acts = row.outcome.is_none() || row.instance.is_some();
        if let Some(alarm) = row.backup_alarm.as_ref().filter(|_| acts) {
            ui.warning(format_args!(
                "the backup of `{}` is behind: {alarm}",
                row.run
            ));
        }
        if let Some(why) = &row.refused {
            ui.warning(format_args!("the box of `{}` is refused: {why}", row.run));
        }
    }
    for row in &rows.runs {
        if let Some(left_over) = &row.left_over {
            let why = row.reason.as_deref().unwrap_or_default();
            ui.warning(format_args!(
                "`{}` is over ({}: {why}); {left_over}",
                row.run,
                row.outcome.unwrap_or_default()
            ));
        }
        if row.outcome.is_none()
            && row.watched_by_pid.is_none()
            && row.market.is_some_and(|word| word.acts)
        {
            ui.warning(format_args!(
                "`{}` is not what its record says ({}) and nobody acts for it",
                row.run,
                row.market.and_then(|word| word.news).unwrap_or_default()
            ));
        }
    }
    for row in &rows.runs {
        if let Some(why) = &row.contradiction {
            ui.warning(format_args!(
                "`{}` contradicts its estimate: {why}",
                row.run
            ));
        }
    }
    let ended = |row: &&Row| row.training_end.is_some();
    let alone = rows
        .runs
        .iter()
        .filter(|row| row.outcome.is_none() && row.watched_by_pid.is_none());
    for row in alone.clone().filter(ended) {
        let told = row.training_end.as_ref().map(TrainingEnd::words);
        ui.warning(format_args!("`{}`: {}", row.run, told.unwrap_or_default()));
        ui.hint(format_args!("collect it with `spotter up {}`", row.run));
    }
    let alone: Vec<&str> = alone
        .filter(|row| !ended(row))
        .map(|row| row.run.as_str())
        .collect();
    match alone.as_slice() {
        [] => {}
        [run] => ui.hint(format_args!(
            "nobody watches `{run}`, so nobody would recover it: `spotter up {run}`"
        )),
        [first, ..] => ui.hint(format_args!(
            "nobody watches {} runs, so nobody would recover them: `spotter up {first}`, or `spotter wait {}` for all",
            alone.len(),
            alone.join(" ")
        )),
    }
    Ok(())
}

/// What the market says of the boxes of `alone`, by their places in `rows`; a run that ended meanwhile with its box is shown as ended.
async fn ask(
    ui: &mut Ui,
    deps: &Deps,
    rows: &mut [Row],
    alone: Vec<(usize, Vec<AttemptRecord>)>,
) -> Result<(), CommandError> {
    let boxes = match deps.market_boxes().await {
        Ok(boxes) => boxes,
        Err(why) => {
            ui.warning(format_args!(
                "runs that nobody watches, or whose boxes give no word, are shown as they were last seen: {why}"
            ));
            return Ok(());
        }
    };
    let store = deps.store()?;
    let said = |attempts: &[AttemptRecord]| attempts.last().and_then(|latest| word(latest, &boxes));
    // What happened while nobody watched is taken in before anything is shown.
    let up = alone.iter().filter(|(index, attempts)| {
        let runs = said(attempts).is_none_or(|word| word.news.is_none());
        let trains = attempts
            .last()
            .is_some_and(|latest| latest.state == State::Running);
        rows[*index].watched_by_pid.is_none() && trains && runs
    });
    let asked = up.map(|(index, _)| (*index, rows[*index].run.clone()));
    let (asked, console) = (asked.collect::<Vec<_>>(), &*ui);
    let mut gone = Vec::new();
    for (index, attempts) in &alone {
        gone.push((*index, store.run(&rows[*index].run)?, said(attempts)));
    }
    let until = Instant::now() + LOOK;
    let silent = stream::iter(asked)
        .map(|(index, run)| async move { (index, status::news(console, deps, &run).await) })
        .buffer_unordered(ASKED_AT_ONCE)
        .take_until(sleep_until(until))
        .collect::<BTreeMap<usize, bool>>();
    let ended = stream::iter(gone)
        .map(|(index, run, said)| async move { (index, deps.take_end(console, &run, said).await) })
        .buffer_unordered(ASKED_AT_ONCE)
        .take_until(sleep_until(until))
        .collect::<BTreeMap<usize, bool>>();
    let (silent, ended) = tokio::join!(silent, ended);
    for (index, attempts) in alone {
        let said = said(&attempts);
        // Something may have come of it in either case.
        let (run, known) = (
            store.run(&rows[index].run)?,
            store.attempts(&rows[index].run)?,
        );
        rows[index] = row(&store, &run, &known, deps.clock.now_us())?;
        if ended.get(&index) == Some(&true) {
            continue;
        }
        let now = &mut rows[index];
        // Older boxes of a run that are not destroyed yet cost their disks as well.
        now.usd_per_hour = all_boxes_usd_per_hour(&attempts, &boxes);
        now.market = said;
        if said.is_some_and(|word| word.is_gone()) {
            now.at_most_usd_per_hour = None;
        }
        if let (Some(end), Some(word)) = (&mut now.training_end, said) {
            end.billing = word.billing();
        }
        if silent.get(&index) == Some(&true) {
            now.no_word = Some("no answer".to_owned());
        }
    }
    Ok(())
}

/// Whether a box that trains by the record was not heard for so long that the market may know more, though somebody watches.
fn unheard(store: &Store, attempts: &[AttemptRecord], now_us: i64) -> Result<bool, CommandError> {
    let Some(latest) = attempts
        .last()
        .filter(|latest| latest.state == State::Running)
    else {
        return Ok(false);
    };
    let heard_us = silence::last_word_us(store, latest)?;
    Ok(heard_us.is_some_and(|heard_us| now_us.saturating_sub(heard_us) > HEARD_LATELY_US))
}
