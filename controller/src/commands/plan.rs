//! `plan`: checks a run file and shows what it would rent and cost. Spends nothing.

mod evaluate;
mod figures;

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    commands::Deps,
    error::{CommandError, ErrorKind},
    estimate::evaluate::Method,
    provider::{Offer, OfferQuery, Rental},
    run::pricing::{self, Order},
    spec::RunSpec,
    ui::{Table, Ui, text},
};

/// Check a run file and show what it would rent and cost; spends nothing
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// The run file
    #[arg(default_value = "run.yaml")]
    file: PathBuf,
    /// At most so many offers
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=32))]
    limit: u32,
    /// Judge the estimator on a table of runs, instead of planning one
    #[arg(long, value_name = "FILE.tsv", conflicts_with_all = ["file", "limit"])]
    evaluate: Option<PathBuf>,
    /// How to estimate
    #[arg(long, value_enum, default_value_t = Method::Calibrated)]
    method: Method,
}

/// The plan, as JSON.
#[derive(Serialize)]
struct Plan<'a> {
    run: &'a str,
    gpu: Option<&'a str>,
    num_gpus: u32,
    disk_gb: f64,
    rental: Rental,
    max_price_usd_per_hour: Option<f64>,
    budget_usd: Option<f64>,
    checkpoints_to: Option<&'a str>,
    /// What would be taken first, then second, and so on.
    offers: Vec<Candidate<'a>>,
    /// Offers that match but cost too much.
    too_dear: usize,
}

#[derive(Serialize)]
struct Candidate<'a> {
    offer: u64,
    machine_id: u64,
    gpu: &'a str,
    geolocation: &'a str,
    reliability: f64,
    /// Bid that would be placed, $/h; absent for on-demand.
    bid_usd_per_hour: Option<f64>,
    /// All in while it runs, $/h.
    running_usd_per_hour: f64,
    /// While it is stopped, $/h.
    stopped_usd_per_hour: f64,
    /// Hours until `limits.budget` is spent; absent without one.
    budget_hours: Option<f64>,
}

/// Runs the verb.
pub async fn plan(ui: &mut Ui, deps: &Deps, args: &PlanArgs) -> Result<(), CommandError> {
    if let Some(table) = &args.evaluate {
        return evaluate::evaluate(ui, table, args.method);
    }
    let spec = RunSpec::load(&args.file)?;
    let resources = &spec.resources;
    let query = OfferQuery {
        gpu_name: resources.gpu_name.clone(),
        num_gpus: Some(resources.num_gpus),
        rental: resources.rental,
        disk_gb: resources.disk_gb,
        filters: resources.filters.clone(),
        // Several offers may lead to one machine, and some cost too much.
        limit: args.limit.saturating_mul(2).max(16),
    };
    let found = deps.provider()?.offers(&query).await?;

    let orders: Vec<_> = found
        .iter()
        .map(|offer| (offer, pricing::order(offer, resources)))
        .collect();
    let too_dear = orders.iter().filter(|(_, order)| order.is_err()).count();
    let cheapest_refusal = orders
        .iter()
        .find_map(|(_, order)| order.as_ref().err().copied());
    let mut affordable: Vec<(&Offer, Order)> = orders
        .iter()
        .filter_map(|(offer, order)| Some((*offer, order.as_ref().ok().copied()?)))
        .collect();
    affordable.sort_by(|a, b| {
        a.1.running_usd_per_hour()
            .total_cmp(&b.1.running_usd_per_hour())
    });
    affordable.truncate(args.limit as usize);

    let plan = Plan {
        run: &spec.name,
        gpu: resources.gpu_name.as_deref(),
        num_gpus: resources.num_gpus,
        disk_gb: resources.disk_gb,
        rental: resources.rental,
        max_price_usd_per_hour: resources.max_price_usd_per_hour,
        budget_usd: spec.limits.budget_usd,
        checkpoints_to: spec
            .checkpoints
            .as_ref()
            .and_then(|kept| kept.to.as_deref()),
        offers: affordable
            .iter()
            .map(|(offer, order)| candidate(&spec, offer, order))
            .collect(),
        too_dear,
    };
    summary(ui, &plan);
    if !plan.offers.is_empty() || ui.is_json() {
        ui.show(&plan, |plan| table(&plan.offers));
    }
    if !plan.offers.is_empty() {
        return Ok(());
    }

    let refused = CommandError::new(format!(
        "run `{}` cannot be rented as it is written",
        spec.name
    ));
    let refused = match cheapest_refusal {
        Some(why) => refused
            .because(format!(
                "{too_dear} offers match, and of the cheapest: {why}"
            ))
            .hint("raise `resources.max_price` or `resources.bid.max`"),
        None => refused
            .because(format!(
                "no offer has {} with {:.0} GB of disk and what `offers` asks for",
                what(&plan),
                plan.disk_gb
            ))
            .hint("loosen `resources`, and see what there is with `spotter offers`"),
    };
    Err(refused.kind(ErrorKind::NoGo))
}

fn candidate<'a>(spec: &RunSpec, offer: &'a Offer, order: &Order) -> Candidate<'a> {
    let running = order.running_usd_per_hour();
    Candidate {
        offer: offer.id,
        machine_id: offer.machine_id,
        gpu: &offer.gpu_name,
        geolocation: &offer.geolocation,
        reliability: offer.reliability,
        bid_usd_per_hour: order.bid_usd_per_hour,
        running_usd_per_hour: running,
        stopped_usd_per_hour: order.storage_usd_per_hour,
        budget_hours: spec
            .limits
            .budget_usd
            .filter(|_| running > 0.0)
            .map(|usd| usd / running),
    }
}

fn what(plan: &Plan<'_>) -> String {
    format!("{} x {}", plan.num_gpus, plan.gpu.unwrap_or("any GPU"))
}

fn summary(ui: &mut Ui, plan: &Plan<'_>) {
    ui.status(format_args!(
        "Run `{}`: {} {}, {:.0} GB of disk. Nothing is rented by this.",
        plan.run,
        what(plan),
        plan.rental.name(),
        plan.disk_gb
    ));
    if plan.checkpoints_to.is_none() {
        ui.warning(format_args!(
            "without `checkpoints.to`, what the box holds is lost when the box is"
        ));
    }
    if plan.budget_usd.is_none() {
        ui.hint(format_args!(
            "bound the cost of all attempts with `limits.budget`"
        ));
    }
}

fn table(candidates: &[Candidate<'_>]) -> Table {
    let mut table = Table::new(&[
        "OFFER>",
        "GPU",
        "WHERE",
        "REL>",
        "BID>",
        "RUNNING>",
        "STOPPED>",
        "BUDGET LASTS>",
    ]);
    for candidate in candidates {
        table.row([
            candidate.offer.to_string(),
            candidate.gpu.to_owned(),
            candidate.geolocation.to_owned(),
            format!("{:.1}%", candidate.reliability * 100.0),
            text::or_dash(candidate.bid_usd_per_hour.map(text::usd_per_hour)),
            text::usd_per_hour(candidate.running_usd_per_hour),
            text::usd_per_hour(candidate.stopped_usd_per_hour),
            text::or_dash(candidate.budget_hours.map(|hours| format!("{hours:.1} h"))),
        ]);
    }
    table
}
