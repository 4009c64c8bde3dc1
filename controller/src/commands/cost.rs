//! `cost`: what runs cost now, so far and to come, by our own ledger and by the provider's charges. [`said`] tells it.

mod said;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    commands::{
        Deps,
        market_word::{all_boxes_usd_per_hour, word},
    },
    error::CommandError,
    ledger::{self, Cost, CostKind, Parts, Reconciliation},
    provider::{Instance, InstanceId, Provider, ProviderError, volumes::VolumeId},
    run::{
        State, ended_alone, next, prepaying,
        to_come::{self, ToCome},
        waiting,
    },
    store::{AttemptRecord, ObservationRecord, Outcome, RunRecord, Store, counting},
    ui::{Ui, text},
};

/// Show what runs cost: now, so far, and how long budget and credit last
///
/// Asks the provider what it charged and holds that against our own ledger. GPU and storage are counted by the second, traffic by
/// the counters of the box until the provider's bill is there. Each sum says how much of it is billed, and how much is reckoned here
/// and not billed yet. Boxes that are stopped and still paid for are named.
#[derive(Debug, clap::Args)]
pub struct CostArgs {
    /// Run; all, if none is named
    run: Option<String>,
    /// Only what is on record; the provider is not asked
    #[arg(long)]
    recorded: bool,
}

/// Everything, as JSON.
#[derive(Serialize)]
struct Costs {
    /// Spendable dollars of the account; null when the provider was not asked.
    credit_usd: Option<f64>,
    /// Hours that the credit lasts at the price of these runs, and of the account's volumes; null when nothing is paid for.
    credit_hours: Option<f64>,
    /// What all of them cost now, $/h.
    usd_per_hour: f64,
    /// What all of them cost so far.
    total_usd: f64,
    #[serde(flatten)]
    of_it: Parts,
    runs: Vec<RunCost>,
    /// Disks of the account that outlive boxes, and are paid for until they are removed.
    volumes: Vec<VolumeCost>,
}

/// A volume, which belongs to no run.
#[derive(Debug, Serialize)]
pub(super) struct VolumeCost {
    volume: VolumeId,
    machine_id: u64,
    size_gb: f64,
    /// What it costs; null where the provider does not say.
    usd_per_hour: Option<f64>,
}

impl VolumeCost {
    /// The same in one sentence.
    pub(super) fn text(&self) -> String {
        let rate = match self.usd_per_hour {
            Some(usd) => format!(
                "{}, {} a day",
                text::usd_per_hour(usd),
                text::usd(usd * 24.0)
            ),
            None => "a price that the provider does not say".to_owned(),
        };
        format!(
            "volume {} ({:.0} GB on machine {}) is paid for at {rate}, whatever boxes there are; remove it with `spotter volumes rm {}`",
            self.volume, self.size_gb, self.machine_id, self.volume
        )
    }
}

/// The volumes of the account; none where they cannot be listed, which is told.
pub(super) async fn volumes(ui: &mut Ui, provider: &dyn Provider) -> Vec<VolumeCost> {
    let found = match provider.volumes().await {
        Ok(found) => found,
        // Without an account, or a market that has any, there are none.
        Err(ProviderError::NoKey { .. } | ProviderError::Refused { status: 405, .. }) => Vec::new(),
        Err(err) => {
            ui.warning(format_args!("volumes of the account are left out: {err}"));
            Vec::new()
        }
    };
    let costs = found.into_iter().map(|disk| VolumeCost {
        volume: disk.id,
        machine_id: disk.machine_id,
        size_gb: disk.size_gb,
        usd_per_hour: disk.usd_per_hour,
    });
    costs.collect()
}

/// One run.
#[derive(Serialize)]
struct RunCost {
    run: String,
    outcome: Option<&'static str>,
    usd_per_hour: f64,
    /// What its newest box may cost though nothing is known to be charged.
    #[serde(skip)]
    at_most_usd_per_hour: Option<f64>,
    /// So far: what the provider charged for a box that is gone, else our own figure with its traffic.
    cost: Cost,
    /// That, and what was paid in advance for boxes that are gone and was not used up.
    total_usd: f64,
    unused_prepaid_usd: f64,
    #[serde(flatten)]
    of_it: Parts,
    budget_usd: Option<f64>,
    /// Hours that the budget lasts at the present price; null without a budget, or when nothing is paid for.
    budget_hours: Option<f64>,
    /// Until its training ends; null where nobody can tell, or nothing trains.
    to_come: Option<ToCome>,
    attempts: Vec<AttemptCost>,
    /// Where it stands, when its training has ended and nobody has collected it.
    #[serde(skip)]
    standing: Option<String>,
    /// What ends its boxes.
    #[serde(skip)]
    destroy: String,
    /// Why a box of it that does not run is there by design, and what lets it go without loss.
    #[serde(skip)]
    kept: Option<(u32, String)>,
}

/// One attempt.
#[derive(Serialize)]
struct AttemptCost {
    attempt: u32,
    state: State,
    instance: Option<u64>,
    gpu: String,
    usd_per_hour: f64,
    /// The box does not run, and its disk is paid for until it is destroyed.
    stopped_but_paid: bool,
    ledger: Cost,
    /// What the provider charged; null when it was never asked.
    charged: Option<Cost>,
    /// The bill is closed: it was read hours after the box was gone.
    charged_is_final: bool,
    #[serde(flatten)]
    of_it: Parts,
    /// What counts of the two.
    #[serde(skip)]
    counted: Cost,
    /// The bill is closed and cannot be true.
    #[serde(skip)]
    is_doubtful: bool,
    /// Charged minus ours, without traffic; null without a charge.
    difference_usd: Option<f64>,
}

/// Runs the verb.
pub async fn cost(ui: &mut Ui, deps: &Deps, args: &CostArgs) -> Result<(), CommandError> {
    let Some(store) = deps.existing_store()? else {
        if let Some(name) = &args.run {
            return Err(CommandError::usage(format!("there is no run `{name}`")));
        }
        ui.status(format_args!("No runs."));
        return Ok(());
    };
    let mut runs = match &args.run {
        Some(name) => vec![store.run(name)?],
        None => store.runs()?,
    };
    let mut credit_usd = None;
    let mut disks = Vec::new();
    if !args.recorded {
        let provider = deps.provider()?;
        credit_usd = match provider.account().await {
            // Nobody bills for hosts of one's own, and nobody needs an account for them.
            Err(ProviderError::NoKey { .. }) if runs.iter().all(is_on_hosts) => None,
            account => Some(account?.credit_usd),
        };
        if args.run.is_none() && credit_usd.is_some() {
            disks = volumes(ui, provider.as_ref()).await;
        }
    }
    let mut boxes = None;
    if !args.recorded && any_alone(&store, &runs)? {
        match deps.market_boxes().await {
            Ok(found) => {
                for run in &mut runs {
                    let latest = store.latest_attempt(&run.name)?;
                    let said = latest.and_then(|latest| word(&latest, &found));
                    if deps.take_end(ui, run, said).await {
                        *run = store.run(&run.name)?;
                    }
                }
                boxes = Some(found);
            }
            Err(why) => ui.warning(format_args!(
                "runs that nobody watches are shown as they were last seen: {why}"
            )),
        }
    }
    if !args.recorded {
        for run in &runs {
            read_charges(deps, &store, run).await?;
        }
    }
    let now_us = deps.clock.now_us();
    let known = store.observations()?;
    let runs: Vec<RunCost> = runs
        .iter()
        .map(|run| run_cost(&store, run, &known, boxes.as_ref(), now_us))
        .collect::<Result<_, _>>()?;
    let usd_per_hour: f64 = runs.iter().map(|run| run.usd_per_hour).sum();
    let disks_usd_per_hour: f64 = disks.iter().filter_map(|disk| disk.usd_per_hour).sum();
    let costs = Costs {
        credit_usd,
        credit_hours: credit_usd.and_then(|usd| lasts(usd, usd_per_hour + disks_usd_per_hour)),
        usd_per_hour,
        total_usd: runs.iter().map(|run| run.total_usd).sum(),
        of_it: runs.iter().map(|run| run.of_it).sum(),
        runs,
        volumes: disks,
    };
    let one = args.run.is_some();
    ui.show(&costs, |costs| match one {
        true => said::attempts_table(&costs.runs[0]),
        false => said::runs_table(&costs.runs),
    });
    said::notes(ui, &costs);
    Ok(())
}

fn is_on_hosts(run: &RunRecord) -> bool {
    !run.spec.resources.hosts.is_empty()
}

/// Whether a run that nobody watches may be paid for: its record is as old as the last look.
fn any_alone(store: &Store, runs: &[RunRecord]) -> Result<bool, CommandError> {
    for run in runs {
        let may_cost = store
            .attempts(&run.name)?
            .iter()
            .any(AttemptRecord::may_cost);
        if may_cost && !is_on_hosts(run) && store.lease(&run.name)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads what the provider charged for attempts whose bill is still open on record.
pub(super) async fn read_charges(
    deps: &Deps,
    store: &Store,
    run: &RunRecord,
) -> Result<(), CommandError> {
    let read = store.charges(&run.name)?;
    let mut open = store.attempts(&run.name)?;
    open.retain(|attempt| {
        !read
            .iter()
            .any(|charge| charge.attempt == attempt.number && charge.is_final)
    });
    let mut ids = Vec::new();
    for attempt in &open {
        ids.extend(store.billed_instances(attempt)?);
    }
    if ids.is_empty() {
        return Ok(());
    }
    let since_s = run.created_us as f64 / 1e6;
    let charges = deps.provider()?.charges(since_s, &ids).await?;
    for attempt in &open {
        store.record_bill(attempt, &charges, deps.clock.now_us())?;
    }
    Ok(())
}

fn run_cost(
    store: &Store,
    run: &RunRecord,
    known: &[ObservationRecord],
    boxes: Option<&BTreeMap<InstanceId, Instance>>,
    now_us: i64,
) -> Result<RunCost, CommandError> {
    let intervals = store.intervals(&run.name)?;
    let charges = store.charges(&run.name)?;
    let counting = counting(&charges, &intervals);
    let mut cost = Cost::default();
    let mut attempts = Vec::new();
    for attempt in store.attempts(&run.name)? {
        let number = attempt.number;
        let ledger = ledger::attempt_cost(&intervals, number, now_us);
        let charge = charges.iter().find(|charge| charge.attempt == number);
        let charged = charge.map(|charge| charge.cost);
        let charged_is_final = charge.is_some_and(|charge| charge.is_final);
        let counts = counting.iter().find(|counts| counts.attempt == number);
        let counted = ledger::counted(&intervals, number, counts, now_us);
        cost += counted;
        let is_doubtful = charged_is_final
            && charged
                .is_some_and(|charged| !ledger::is_plausible(&intervals, number, charged, now_us));
        let is_open = |kind: CostKind| {
            intervals.iter().any(|interval| {
                interval.attempt == number && interval.kind == kind && interval.to_us.is_none()
            })
        };
        let up = matches!(attempt.state, State::Renting | State::Loading);
        let difference = charged.map(|charged| Reconciliation { ledger, charged }.difference_usd());
        attempts.push(AttemptCost {
            attempt: number,
            state: attempt.state,
            instance: attempt.instance,
            gpu: attempt.gpu.clone(),
            usd_per_hour: ledger::rate_usd_per_hour(&intervals, Some(number)),
            stopped_but_paid: is_open(CostKind::Disk) && !is_open(CostKind::Gpu) && !up,
            ledger,
            charged,
            charged_is_final,
            of_it: Parts::of(counted, charged),
            counted,
            is_doubtful,
            difference_usd: difference,
        });
    }
    let usd_per_hour = match boxes.filter(|_| !is_on_hosts(run)) {
        // Whoever watches keeps the record true.
        Some(boxes) if store.lease(&run.name)?.is_none() => {
            all_boxes_usd_per_hour(&store.attempts(&run.name)?, boxes)
        }
        _ => ledger::rate_usd_per_hour(&intervals, None),
    };
    // The sum that `ps`, `status` and `report` show, and that is held against limits.
    let spent = prepaying::of_run(store, &run.name, now_us)?;
    let total_usd = spent.total_usd;
    let budget_usd = run.spec.limits.budget_usd;
    Ok(RunCost {
        run: run.name.clone(),
        outcome: run.outcome.map(|outcome| outcome.name()),
        usd_per_hour,
        at_most_usd_per_hour: at_most(store, run, boxes)?,
        cost,
        total_usd,
        unused_prepaid_usd: spent.unused_usd,
        of_it: spent.of_it,
        budget_usd,
        budget_hours: budget_usd.and_then(|budget| lasts(budget - total_usd, usd_per_hour)),
        to_come: to_come::of_run(store, run, known, usd_per_hour)?,
        attempts,
        standing: standing(store, run, boxes)?,
        destroy: next::destroy(store, run)?,
        kept: kept(store, run)?,
    })
}

/// What the newest box of a run may cost though nothing is known to be charged, $/h; `None`: it is gone.
fn at_most(
    store: &Store,
    run: &RunRecord,
    boxes: Option<&BTreeMap<InstanceId, Instance>>,
) -> Result<Option<f64>, CommandError> {
    let latest = store.latest_attempt(&run.name)?;
    let is_there = |latest: &AttemptRecord| {
        let said = boxes.and_then(|boxes| word(latest, boxes));
        latest.may_cost() && latest.instance.is_some() && said.is_none_or(|word| !word.is_gone())
    };
    let there = latest.filter(is_there);
    Ok(there.as_ref().map(AttemptRecord::at_most_usd_per_hour))
}

/// How a training ended that nobody watches and the record still calls running, and what its box costs: as `ps` has it.
fn standing(
    store: &Store,
    run: &RunRecord,
    boxes: Option<&BTreeMap<InstanceId, Instance>>,
) -> Result<Option<String>, CommandError> {
    let latest = store.latest_attempt(&run.name)?;
    let Some(latest) = latest.filter(|_| run.outcome.is_none()) else {
        return Ok(None);
    };
    // Whoever watches collects it.
    if store.lease(&run.name)?.is_some() {
        return Ok(None);
    }
    let mut end = ended_alone::of(store, run, &latest)?;
    let said = boxes.and_then(|boxes| word(&latest, boxes));
    if let (Some(end), Some(said)) = (&mut end, said) {
        end.billing = said.billing();
    }
    Ok(end.map(|end| end.standing()))
}

/// The newest attempt of a run that is to go on, and what becomes of its box, a clause; `None`: nothing is to go on there.
fn kept(store: &Store, run: &RunRecord) -> Result<Option<(u32, String)>, CommandError> {
    let latest = store.latest_attempt(&run.name)?;
    let Some(latest) = latest.filter(AttemptRecord::was_taken_back) else {
        return Ok(None);
    };
    let is_watched = store.lease(&run.name)?.is_some();
    let text = match waiting::of(store, run, &latest)? {
        Some(waiting) => waits(&run.name, &waiting.text(), is_watched),
        None if run.outcome.is_none() => goes_elsewhere(&run.name),
        None if run.outcome == Some(Outcome::Interrupted) && latest.started_us > 0 => {
            let here = next::resume(store, run, "--here ")?;
            let elsewhere = next::resume(store, run, "--elsewhere ")?;
            waits_for_a_word(&here, &elsewhere)
        }
        None => return Ok(None),
    };
    Ok(Some((latest.number, text)))
}

/// Of a box that is waited for; `how`: as [`waiting::Waiting::text`] has it.
fn waits(run: &str, how: &str, is_watched: bool) -> String {
    let by_whom = match is_watched {
        true => "it goes on there by itself".to_owned(),
        false => format!("it goes on once somebody watches, `spotter up {run}`"),
    };
    format!(
        "it waits {how}; {by_whom}. `spotter resume --elsewhere {run}` goes on with another box, and lets this one go when nothing is on it \
         alone"
    )
}

/// Of a box that is not waited for.
fn goes_elsewhere(run: &str) -> String {
    format!(
        "it was interrupted and goes on with another box while somebody watches: `spotter up {run}`; then this one goes when nothing is on \
         it alone"
    )
}

/// Of a box whose run ended with its interruption; `here` and `elsewhere`: commands that go on.
fn waits_for_a_word(here: &str, elsewhere: &str) -> String {
    format!(
        "it waits for your word. `{here}` waits for it; `{elsewhere}` goes on with another box, and lets this one go when nothing is on it \
         alone"
    )
}

/// Hours that some money lasts.
fn lasts(usd: f64, usd_per_hour: f64) -> Option<f64> {
    (usd_per_hour > 0.0).then(|| (usd / usd_per_hour).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_box_that_is_to_be_gone_on_with_is_told_in_whole_sentences() {
        let how = "for instance 7 until noon at the latest";
        let table = [
            (
                waits("r", how, true),
                "it waits for instance 7 until noon at the latest; it goes on there by itself. `spotter resume --elsewhere r` goes on with another box, and lets this one go when nothing is on it alone",
            ),
            (
                waits("r", how, false),
                "it waits for instance 7 until noon at the latest; it goes on once somebody watches, `spotter up r`. `spotter resume --elsewhere r` goes on with another box, and lets this one go when nothing is on it alone",
            ),
            (
                goes_elsewhere("r"),
                "it was interrupted and goes on with another box while somebody watches: `spotter up r`; then this one goes when nothing is on it alone",
            ),
            (
                waits_for_a_word("spotter resume --here r", "spotter resume --elsewhere r"),
                "it waits for your word. `spotter resume --here r` waits for it; `spotter resume --elsewhere r` goes on with another box, and lets this one go when nothing is on it alone",
            ),
        ];
        for (told, expected) in table {
            assert_eq!(told, expected);
        }
    }
}
