//! `offers`: what can be rented now, with the price of everything, and with a run file what each offer would do for it.

use std::{collections::BTreeSet, path::PathBuf};

use serde::Serialize;

use crate::{
    commands::{
        Deps,
        plan::{
            figures,
            known::{self, Known},
            options::{Candidate, Plan},
        },
    },
    error::CommandError,
    estimate::{calibrated::Shipped, evaluate::Method, gpus::Gpus, outlook::Outlook},
    provider::{Offer, OfferQuery, Rental},
    run::judge::{self, Asked},
    spec::{DEFAULT_DISK_GB, RunSpec, accelerators, query, values},
    ui::{Table, Ui, text},
};

/// Show what can be rented now, cheapest first
///
/// Prices are all in for the whole box: GPU and disk. STOPPED is what the disk costs while the box is stopped, $/TB what traffic
/// costs, down and up. One line per machine. With `--run`, each offer is judged for that run: does it fit, how long, how much.
#[derive(Debug, clap::Args)]
pub struct OffersArgs {
    /// GPU and how many, such as `RTX 4090:1`; `any` [default: any, or what the run file says]
    #[arg(long, value_name = "NAME[:COUNT]")]
    gpus: Option<String>,
    /// Disk that the price is for [default: 50GB, or what the run file says]
    #[arg(long, value_parser = values::size_gb)]
    disk: Option<f64>,
    /// Prices to beat for boxes that may be taken back
    #[arg(long)]
    interruptible: bool,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=64))]
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
    /// What it would do for that run.
    outlook: Option<Outlook>,
    /// What may go wrong, worst first.
    risks: Vec<String>,
}

#[derive(Serialize)]
struct Rows<'a> {
    offers: Vec<Row<'a>>,
}

/// Offers that the market names at most.
const MOST_OFFERS: u32 = 64;

/// Runs the verb.
pub async fn offers(ui: &mut Ui, deps: &Deps, args: &OffersArgs) -> Result<(), CommandError> {
    let spec = run_file(args)?;
    let query = asked(args, spec.as_ref())?;
    let found = deps.provider()?.offers(&query).await?;
    let known = known::of(deps, spec.as_ref())?;
    let (rows, too_dear) = judged(&found, spec.as_ref(), &known);
    let mut rows = sorted(rows, args.sort);
    if !args.all {
        let mut machines = BTreeSet::new();
        rows.retain(|row| machines.insert(row.offer.machine_id));
    }
    rows.truncate(args.limit as usize);

    let wide = ui.width().is_none_or(|width| width >= WIDE);
    let rows = Rows { offers: rows };
    ui.show(&rows, |rows| {
        match spec.as_ref().is_some_and(|spec| spec.model.is_some()) {
            true => forecasts(&rows.offers, wide),
            false => market(&rows.offers, wide),
        }
    });
    notes(ui, &rows.offers, too_dear, query.rental);
    if found.len() >= MOST_OFFERS as usize && args.sort != Sort::Price {
        ui.hint(format_args!(
            "the market names its {MOST_OFFERS} cheapest offers: narrow it down with `--gpus` or `gpu_ram>=40`, and dearer ones appear"
        ));
    }
    Ok(())
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
        // Several offers may be slices of one machine, and what costs least may not be what comes first.
        limit: MOST_OFFERS,
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
        outlook,
        risks,
        ..
    } in plan.offers
    {
        let known = found.iter().find(|known| known.id == offer);
        rows.extend(known.map(|known| Row {
            go: outlook.is_some().then_some(go),
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

/// Columns of a terminal that takes every column of the tables.
const WIDE: u16 = 112;

fn market(rows: &[Row<'_>], wide: bool) -> Table {
    let mut table = match wide {
        true => Table::new(&[
            "OFFER>", "GPU", "VRAM>", "RAM>", "DISK>", "REL>", "DOWN/UP>", "NVLINK>", "CUDA>",
            "HOST", "MAX>", "$/TB>", "RUNNING>", "STOPPED>",
        ]),
        false => Table::new(&[
            "OFFER>", "GPU", "VRAM>", "RAM>", "DISK>", "REL>", "DOWN/UP>", "RUNNING>", "STOPPED>",
        ]),
    };
    for row in rows {
        let offer = row.offer;
        let mut cells = vec![
            offer.id.to_string(),
            gpus(offer),
            // Both in GB; the market's VRAM is MiB and its RAM MB.
            format!("{:.0}G", offer.vram_mib as f64 / 1024.0),
            format!("{:.0}G", offer.ram_mb as f64 / 1000.0),
            format!("{:.0}G", offer.disk_gb),
            format!("{:.1}%", offer.reliability * 100.0),
            format!("{:.0}/{:.0}", offer.inet_down_mbps, offer.inet_up_mbps),
        ];
        if wide {
            cells.extend([
                text::or_dash(
                    (offer.nvlink_gbps > 0.0).then(|| format!("{:.0}", offer.nvlink_gbps)),
                ),
                format!("{:.1}", offer.cuda),
                host(offer).to_owned(),
                rental_span(offer),
                traffic(offer),
            ]);
        }
        cells.extend([
            text::usd_per_hour(row.running_usd_per_hour),
            text::usd_per_hour(row.stopped_usd_per_hour),
        ]);
        table.row(cells);
    }
    table
}

fn forecasts(rows: &[Row<'_>], wide: bool) -> Table {
    let mut table = match wide {
        true => Table::new(&[
            "OFFER>",
            "GPU",
            "FIT",
            "TOKENS/S>",
            "HOURS>",
            "COST>",
            "RANGE>",
            "RUNNING>",
            "REL>",
            "DOWN/UP>",
            "MAX>",
            "RISKS>",
        ]),
        false => Table::new(&[
            "OFFER>",
            "GPU",
            "FIT",
            "TOKENS/S>",
            "HOURS>",
            "COST>",
            "RANGE>",
            "RUNNING>",
        ]),
    };
    for row in rows {
        let offer = row.offer;
        let outlook = row.outlook.as_ref();
        // A speed at which it cannot run is none.
        let forecast = outlook
            .filter(|outlook| outlook.runs())
            .map(|outlook| &outlook.forecast);
        let fit = match outlook {
            None => "unknown",
            Some(outlook) if !outlook.go() => "no go",
            Some(outlook) => outlook.fit().word(),
        };
        let cost = forecast.and_then(|forecast| forecast.cost_usd);
        let mut cells = vec![
            offer.id.to_string(),
            gpus(offer),
            fit.to_owned(),
            text::or_dash(forecast.map(|forecast| figures::count(forecast.tokens_per_s.base))),
            text::or_dash(
                forecast.and_then(|forecast| Some(figures::hours(forecast.wall_hours?.base))),
            ),
            text::or_dash(cost.map(|cost| figures::dollars(cost.base))),
            text::or_dash(cost.map(|cost| {
                format!(
                    "{}-{}",
                    figures::dollars(cost.optimistic),
                    figures::dollars(cost.pessimistic)
                )
            })),
            text::usd_per_hour(row.running_usd_per_hour),
        ];
        if wide {
            cells.extend([
                format!("{:.1}%", offer.reliability * 100.0),
                format!("{:.0}/{:.0}", offer.inet_down_mbps, offer.inet_up_mbps),
                rental_span(offer),
                row.risks.len().to_string(),
            ]);
        }
        table.row(cells);
    }
    table
}

fn gpus(offer: &Offer) -> String {
    format!("{} x {}", offer.num_gpus, offer.gpu_name)
}

fn host(offer: &Offer) -> &'static str {
    match (offer.datacenter, offer.verified) {
        (true, _) => "datacenter",
        (false, true) => "verified",
        (false, false) => "unverified",
    }
}

/// Longest rental: `12h`, `30d`.
fn rental_span(offer: &Offer) -> String {
    let hours = offer.max_duration_s / 3600.0;
    if hours < 48.0 {
        format!("{hours:.0}h")
    } else {
        format!("{:.0}d", hours / 24.0)
    }
}

/// Price of a terabyte down and up, dollars.
fn traffic(offer: &Offer) -> String {
    format!(
        "{:.0}/{:.0}",
        offer.inet_down_usd_per_gb * 1000.0,
        offer.inet_up_usd_per_gb * 1000.0
    )
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
    let forbidden: Vec<&Row<'_>> = rows.iter().filter(|row| row.go == Some(false)).collect();
    let why = forbidden
        .first()
        .and_then(|row| Some((row.offer.id, row.outlook.as_ref()?.blockers.first()?)));
    if let Some((offer, why)) = why {
        ui.status(format_args!(
            "{} are no go, such as {offer}: {why}.",
            forbidden.len()
        ));
    }
}

#[cfg(test)]
mod tests;
