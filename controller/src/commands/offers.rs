//! `offers`: what can be rented now, with the price of everything, and with a run file what each offer would do for it.

mod tables;

use std::{collections::BTreeSet, path::PathBuf};

use serde::Serialize;

use self::tables::{FORECASTS_LEAST_FIRST, MARKET_LEAST_FIRST, forecasts, market};
use crate::{
    commands::{
        Deps,
        plan::{
            known::{self, Known},
            options::{Candidate, Plan},
        },
    },
    error::CommandError,
    estimate::{
        calibrated::Shipped,
        evaluate::Method,
        gpus::{self, Gpus},
        outlook::Outlook,
        playbook::Verdict,
    },
    provider::{First, Offer, OfferQuery, Rental},
    run::{
        judge::{self, Asked},
        searching::{self, Breadth},
    },
    spec::{DEFAULT_DISK_GB, RunSpec, accelerators, query, values},
    ui::Ui,
};

/// Show what can be rented now, cheapest first
///
/// Prices are all in for the whole box: GPU and disk. STOPPED is what the disk costs while the box is stopped, $/TB what traffic
/// costs, down and up. One line per machine. With `--run`, each offer is judged for that run: does it fit, how long, how much. Columns
/// for which the terminal is too narrow are left out.
#[derive(Debug, clap::Args)]
pub struct OffersArgs {
    /// GPU and how many, such as `RTX 4090:1`; `any` [default: any, or what the run file says]
    #[arg(long, value_name = "NAME[:COUNT]")]
    gpus: Option<String>,
    /// Disk that the price is for [default: 50GB, or what the run file says]
    #[arg(long, value_parser = values::size_gb, allow_hyphen_values = true)]
    disk: Option<f64>,
    /// Prices to beat for boxes that may be taken back
    #[arg(long)]
    interruptible: bool,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=64), allow_negative_numbers = true)]
    limit: u32,
    /// A run file: its conditions, and what each offer would do for it
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Sort::Price)]
    sort: Sort,
    /// Every slice of a machine, not only the one that comes first
    #[arg(long)]
    all: bool,
    /// Every column, however wide the terminal is
    #[arg(long)]
    wide: bool,
    /// Further conditions in the market's query language, such as `reliability>0.95 inet_down>500`
    query: Vec<String>,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// The lowest price per hour
    Price,
    /// The lowest cost of the whole run (needs --run)
    Cost,
    /// The shortest run (needs --run)
    Time,
    /// The most for a dollar: tokens with --run, else peak speed
    Value,
}

/// One offer, as JSON.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    offer: &'a Offer,
    /// All in while it runs, $/h.
    running_usd_per_hour: f64,
    /// While it is stopped, $/h.
    stopped_usd_per_hour: f64,
    /// Nothing forbids it for the run of `--run`; absent where that cannot be told.
    go: Option<bool>,
    /// What forbids it.
    blockers: Vec<String>,
    /// What it would do for that run.
    outlook: Option<Outlook>,
    /// What may go wrong, worst first.
    risks: Vec<String>,
}

#[derive(Serialize)]
struct Rows<'a> {
    offers: Vec<Row<'a>>,
}

/// Runs the verb.
pub async fn offers(ui: &mut Ui, deps: &Deps, args: &OffersArgs) -> Result<(), CommandError> {
    let spec = run_file(args)?;
    let query = asked(args, spec.as_ref())?;
    // The cheapest of a market may be neither fast nor cheap for a whole run.
    let breadth = match args.sort {
        Sort::Price => Breadth::Cheapest(args.limit as usize),
        Sort::Cost | Sort::Time | Sort::Value => Breadth::All,
    };
    let seen = searching::look(deps.provider()?.as_ref(), &query, breadth).await?;
    let known = known::of(deps, spec.as_ref())?;
    let (rows, too_dear) = judged(&seen.offers, spec.as_ref(), &known);
    let mut rows = sorted(rows, args.sort);
    if !args.all {
        let mut machines = BTreeSet::new();
        rows.retain(|row| machines.insert(row.offer.machine_id));
    }
    rows.truncate(args.limit as usize);

    let rows = Rows { offers: rows };
    match ui.is_json() {
        true => ui.json(&rows),
        false => show(ui, args, spec.as_ref(), &rows.offers),
    }
    notes(ui, &rows.offers, too_dear, query.rental);
    if let Some(meant) = query.gpu_name.as_deref().and_then(gpus::meant)
        && rows.offers.is_empty()
    {
        ui.hint(format_args!("{meant}"));
    }
    if seen.cut && args.sort != Sort::Price {
        ui.hint(format_args!(
            "the market has more than these {} offers: the cheapest, the fastest and those with the most for a dollar were looked at. Narrow \
             it down with `--gpus` or `gpu_ram>=40`, and all that match are",
            seen.offers.len()
        ));
    }
    Ok(())
}

fn show(ui: &mut Ui, args: &OffersArgs, spec: Option<&RunSpec>, rows: &[Row<'_>]) {
    let (mut table, least_first) = match spec.is_some_and(|spec| spec.model.is_some()) {
        true => (forecasts(rows), FORECASTS_LEAST_FIRST),
        false => (market(rows, spec.is_some()), MARKET_LEAST_FIRST),
    };
    let left_out = match ui.width() {
        Some(width) if !args.wide => table.fit(width, least_first),
        _ => Vec::new(),
    };
    match args.wide {
        true => ui.wide_table(&table),
        false => ui.table(&table),
    }
    if !left_out.is_empty() {
        ui.hint(format_args!(
            "the terminal is too narrow for {}: `--wide` shows every column",
            left_out.join(", ")
        ));
    }
}

/// The run file with what the flags say instead.
fn run_file(args: &OffersArgs) -> Result<Option<RunSpec>, CommandError> {
    let mut spec = args.run.as_deref().map(RunSpec::load).transpose()?;
    if let Some(spec) = &mut spec {
        spec.resources.disk_gb = args.disk.unwrap_or(spec.resources.disk_gb);
        if args.interruptible {
            spec.resources.rental = Rental::Interruptible;
        }
    }
    let told = spec.as_ref().and_then(|spec| spec.model.as_ref());
    let flag = match args.sort {
        Sort::Price | Sort::Value => return Ok(spec),
        Sort::Cost => "cost",
        Sort::Time => "time",
    };
    match told {
        Some(model) if model.tokens.is_some() => Ok(spec),
        _ => Err(CommandError::usage(format!(
            "--sort {flag} needs --run with a file that says in `model:` what is trained and on how many tokens"
        ))),
    }
}

fn asked(args: &OffersArgs, spec: Option<&RunSpec>) -> Result<OfferQuery, CommandError> {
    let resources = spec.map(|spec| &spec.resources);
    let (gpu_name, num_gpus) = match args.gpus.as_deref() {
        Some("any") => (None, None),
        Some(text) => {
            let found = accelerators::parse(text)
                .map_err(|why| CommandError::usage(format!("--gpus: {why}")))?;
            // A bare name means any number of them here: this only looks.
            let count = text.contains(':').then_some(found.num_gpus);
            (Some(found.gpu_name), count)
        }
        None => resources.map_or((None, None), |resources| {
            (resources.gpu_name.clone(), Some(resources.num_gpus))
        }),
    };
    let words = args.query.join(" ");
    // What is typed comes after what the file says, and replaces it.
    let mut filters = resources.map_or_else(Vec::new, |resources| resources.filters.clone());
    let typed = query::parse(&words);
    filters.extend(typed.map_err(|why| CommandError::usage(format!("query `{words}`: {why}")))?);
    Ok(OfferQuery {
        gpu_name,
        num_gpus,
        rental: match (args.interruptible, resources) {
            (true, _) => Rental::Interruptible,
            (false, Some(resources)) => resources.rental,
            (false, None) => Rental::OnDemand,
        },
        disk_gb: args
            .disk
            .or_else(|| Some(resources?.disk_gb))
            .unwrap_or(DEFAULT_DISK_GB),
        filters,
        hosts: Vec::new(),
        limit: searching::PAGE,
        first: First::Cheapest,
    })
}

/// Each offer with its price and, for a run, what it would do; and how many cost more than the run file allows.
fn judged<'a>(found: &'a [Offer], spec: Option<&RunSpec>, known: &Known) -> (Vec<Row<'a>>, usize) {
    let Some(spec) = spec else {
        let rows = found
            .iter()
            .map(|offer| row(offer, offer.running_usd_per_hour()));
        return (rows.collect(), 0);
    };
    let asked = Asked {
        spec,
        method: Method::Calibrated,
        calibration: &Shipped::get().calibration,
        known,
        left_usd: spec.limits.budget_usd,
        going_on: None,
    };
    let verdicts = judge::judge(&asked, found);
    let too_dear = verdicts.too_dear.len();
    let plan = Plan::of(&asked, verdicts.offers);
    let mut rows: Vec<Row<'a>> = Vec::new();
    for Candidate {
        offer,
        running_usd_per_hour,
        go,
        blockers,
        outlook,
        risks,
        ..
    } in plan.offers
    {
        let known = found.iter().find(|known| known.id == offer);
        rows.extend(known.map(|known| Row {
            go: (outlook.is_some() || !go).then_some(go),
            blockers,
            outlook,
            risks,
            ..row(known, running_usd_per_hour)
        }));
    }
    (rows, too_dear)
}

fn row(offer: &Offer, running_usd_per_hour: f64) -> Row<'_> {
    Row {
        offer,
        running_usd_per_hour,
        stopped_usd_per_hour: offer.storage_usd_per_hour,
        go: None,
        blockers: Vec::new(),
        outlook: None,
        risks: Vec::new(),
    }
}

/// What can go before what cannot; then as asked.
fn sorted(mut rows: Vec<Row<'_>>, sort: Sort) -> Vec<Row<'_>> {
    let key = |row: &Row<'_>| {
        let forecast = row.outlook.as_ref().map(|outlook| &outlook.forecast);
        let place = match sort {
            Sort::Price => Some(row.running_usd_per_hour),
            Sort::Cost => forecast.and_then(|forecast| Some(forecast.cost_usd?.base)),
            Sort::Time => forecast.and_then(|forecast| Some(forecast.wall_hours?.base)),
            Sort::Value => match forecast {
                Some(forecast) => Some(row.running_usd_per_hour / forecast.tokens_per_s.base),
                None => peak_tflops(row.offer).map(|peak| row.running_usd_per_hour / peak),
            },
        };
        (row.go == Some(false), place.unwrap_or(f64::INFINITY))
    };
    rows.sort_by(|a, b| {
        let (a, b) = (key(a), key(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    rows
}

/// Dense 16-bit peak of the whole box, TFLOP/s.
fn peak_tflops(offer: &Offer) -> Option<f64> {
    let vram_gib = offer.vram_mib as f64 / 1024.0;
    let gpu = Gpus::shipped().find(&offer.gpu_name, Some(vram_gib))?;
    Some(gpu.tensor_tflops * f64::from(offer.num_gpus))
}

fn notes(ui: &mut Ui, rows: &[Row<'_>], too_dear: usize, rental: Rental) {
    if rows.is_empty() {
        ui.status(format_args!("Nothing matches."));
    } else if rental == Rental::Interruptible {
        ui.hint(format_args!(
            "RUNNING is the price to beat now; somebody may bid more at any time"
        ));
    }
    if too_dear > 0 {
        ui.status(format_args!(
            "{too_dear} more cost too much for the run file."
        ));
    }
    for mark in marks(rows) {
        ui.status(format_args!("{mark}"));
    }
}

/// Offers that a note names; of more it says how many.
const NAMED: usize = 4;
/// Notes at most: a screen is for offers.
const MARKS: usize = 8;

/// Why rows are marked as they are, each reason once with the offers that it is about (pure).
fn marks(rows: &[Row<'_>]) -> Vec<String> {
    let mut reasons: Vec<(&str, String, Vec<u64>)> = Vec::new();
    let mut add = |word, why: String, offer| match reasons
        .iter_mut()
        .find(|(known, reason, _)| *known == word && *reason == why)
    {
        Some((.., offers)) => offers.push(offer),
        None => reasons.push((word, why, vec![offer])),
    };
    for row in rows {
        let id = row.offer.id;
        match (row.go, &row.outlook) {
            (Some(false), _) => {
                for blocker in &row.blockers {
                    add("no go", blocker.clone(), id);
                }
            }
            (_, Some(outlook)) => {
                let word = outlook.fit().word();
                let checks = outlook.checks.iter();
                for check in checks.filter(|check| check.verdict != Verdict::Fits) {
                    add(word, format!("{}: {}", check.what, check.detail), id);
                }
            }
            (Some(true), None) => add(
                "unknown",
                format!("nothing is known of a {}", row.offer.gpu_name),
                id,
            ),
            (None, None) => {}
        }
        for risk in &row.risks {
            add("risk", risk.clone(), id);
        }
    }
    let hidden = reasons.len().saturating_sub(MARKS);
    let mut marks: Vec<String> = reasons
        .into_iter()
        .take(MARKS)
        .map(|(word, why, offers)| {
            let named: Vec<String> = offers.iter().take(NAMED).map(u64::to_string).collect();
            let more = match offers.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{word}: {why} ({}{more})", named.join(", "))
        })
        .collect();
    if hidden > 0 {
        marks.push(format!(
            "{hidden} more such notes: see each offer's with `--json`"
        ));
    }
    marks
}

#[cfg(test)]
mod tests;
