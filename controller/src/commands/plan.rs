//! `plan`: checks a run file and shows what it would rent, whether that fits, how long it takes and what it costs. Spends nothing.

mod evaluate;
pub(super) mod figures;
pub(super) mod gate;
pub(super) mod known;
pub(super) mod options;
mod page;
mod products;
pub(super) mod raising;
mod report;

use std::path::PathBuf;

use self::{
    known::Known,
    options::{Candidate, Plan},
    page::Page,
};
use crate::{
    commands::Deps,
    error::{CommandError, ErrorKind},
    estimate::{calibrated::Shipped, evaluate::Method, gpus},
    run::{
        judge::{self, Asked},
        offering::OFFERS_LISTED,
        pricing::TooDear,
        searching,
    },
    spec::RunSpec,
    ui::{Table, Ui, text},
};

/// Check a run file and show what it would rent and cost; spends nothing
///
/// Say in `model:` what is trained, and the plan tells whether it fits, how long it takes and what it costs. Exit code 20: no go.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// The run file
    #[arg(default_value = "run.yaml")]
    file: PathBuf,
    /// Compare these GPUs, such as `RTX 4090,A100,H100 SXM:2`: the best offer of each [default: the run file's, and the best of the market]
    #[arg(long, value_name = "NAME[:COUNT],...")]
    gpus: Option<String>,
    /// At most so many offers
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=32))]
    limit: u32,
    /// Judge the estimator on a table of runs, instead of planning one
    #[arg(long, value_name = "FILE.tsv", conflicts_with_all = ["file", "gpus", "limit", "markdown"])]
    evaluate: Option<PathBuf>,
    /// How to estimate
    #[arg(long, value_enum, default_value_t = Method::Calibrated)]
    method: Method,
    /// Print the plan as Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// Runs the verb.
pub async fn plan(ui: &mut Ui, deps: &Deps, args: &PlanArgs) -> Result<(), CommandError> {
    if let Some(table) = &args.evaluate {
        return evaluate::evaluate(ui, table, args.method);
    }
    let spec = RunSpec::load(&args.file)?;
    let provider = deps.provider()?;
    let found = match &args.gpus {
        Some(gpus) => {
            let wanted = products::wanted(gpus, spec.resources.num_gpus)?;
            let (found, none) = products::of(provider.as_ref(), &spec, &wanted).await?;
            for product in none {
                ui.status(format_args!("The market has no {product} that matches."));
                let name = product
                    .split_once(" x ")
                    .map_or(product.as_str(), |named| named.1);
                if let Some(meant) = gpus::meant(name) {
                    ui.hint(format_args!("{meant}"));
                }
            }
            found
        }
        // What `run` looks at, so that the first of these is what it would take.
        None => searching::for_run(provider.as_ref(), &spec, OFFERS_LISTED, true).await?,
    };
    // What a run would cost on other products can only be told where it is known how much is trained.
    let compares = spec
        .model
        .as_ref()
        .is_some_and(|model| model.tokens.is_some());
    let others = match args.gpus.is_none() && compares {
        true => products::any(provider.as_ref(), &spec).await?,
        false => Vec::new(),
    };

    let known = known::of(deps, Some(&spec))?;
    let asked = Asked {
        spec: &spec,
        method: args.method,
        calibration: &Shipped::get().calibration,
        known: &known,
        left_usd: spec.limits.budget_usd,
        going_on: None,
    };
    let verdicts = judge::judge(&asked, &found).one_per_machine();
    let refused = verdicts.too_dear;
    let options = match args.gpus {
        Some(_) => products::one_each(verdicts.offers),
        None => verdicts.offers,
    };
    let own = |judged: &judge::Judged<'_>| {
        let own = spec.resources.gpu_name.as_deref();
        own.is_some_and(|own| own.eq_ignore_ascii_case(&judged.offer.gpu_name))
            && judged.offer.num_gpus == spec.resources.num_gpus
    };
    let others = products::one_each(judge::judge(&asked, &others).offers);
    let others = others
        .into_iter()
        .filter(|judged| judged.go() && judged.avoided.is_none() && !own(judged))
        .take(products::SHOWN)
        .collect();
    let mut plan = Plan::of(&asked, options).beside(&asked, others);
    plan.too_dear = refused.len();
    plan.offers.truncate(args.limit as usize);
    show(ui, &spec, &plan, &known, args);
    if plan.go {
        return Ok(());
    }
    Err(no_go(&spec, &plan, refused.first().map(|(_, why)| *why)))
}

fn show(ui: &mut Ui, spec: &RunSpec, plan: &Plan<'_>, known: &Known, args: &PlanArgs) {
    ui.status(format_args!(
        "Run `{}`: {} {}, {:.0} GB of disk. Nothing is rented by this.",
        plan.run,
        args.gpus.clone().unwrap_or_else(|| plan.what()),
        plan.rental.name(),
        plan.disk_gb
    ));
    match &plan.checkpoints_to {
        None => ui.warning(format_args!(
            "without `checkpoints.to`, what the box holds is lost when the box is"
        )),
        // `run` tries it before it rents; a plan asks nobody but the market.
        Some(bucket) => ui.hint(format_args!(
            "the bucket `{bucket}` was not tried; `spotter doctor bucket {}` does that",
            args.file.display()
        )),
    }
    if plan.budget_usd.is_none() {
        ui.hint(format_args!(
            "bound the cost of all attempts with `limits.budget`"
        ));
    }
    if ui.is_json() {
        ui.json(plan);
        return;
    }
    let page: Page = match &spec.model {
        Some(model) if !plan.offers.is_empty() => report::page(plan, model, known),
        modelled => {
            if modelled.is_none() {
                ui.hint(format_args!(
                "say in `model:` what is trained, and the plan tells whether it fits, its time and its cost"
            ));
            }
            report::prices(plan)
        }
    };
    match (plan.offers.is_empty(), args.markdown) {
        (true, _) => {}
        (false, true) => ui.line(format_args!("{}", page.markdown().trim_end())),
        (false, false) => page.show(ui),
    }
}

/// Why this is no go, in the user's nouns, and what would help.
fn no_go(spec: &RunSpec, plan: &Plan<'_>, too_dear: Option<TooDear>) -> CommandError {
    let refused = CommandError::new(format!(
        "run `{}` cannot be rented as it is written",
        spec.name
    ))
    .kind(ErrorKind::NoGo);
    let Some(best) = plan.offers.first() else {
        return match too_dear {
            Some(why) => refused
                .because(format!(
                    "{} offers match, and of the cheapest: {why}",
                    plan.too_dear
                ))
                .hint("raise `resources.max_price` (or `--max-price`), or `resources.bid.max` (`--bid-max`)"),
            None => spec
                .resources
                .gpu_name
                .as_deref()
                .and_then(gpus::meant)
                .into_iter()
                .fold(refused, CommandError::hint)
                .because(format!(
                    "no offer has {} with {:.0} GB of disk and what `offers` asks for",
                    plan.what(),
                    plan.disk_gb
                ))
                .hint("loosen `resources`, and see what there is with `spotter offers`"),
        };
    };
    let refused = CommandError::new(format!(
        "run `{}` is a no go on each of the {} offers that were looked at",
        spec.name,
        plan.offers.len()
    ))
    .kind(ErrorKind::NoGo);
    let refused = refused.because(format!(
        "offer {}: {}",
        best.offer,
        best.blockers.join("; ")
    ));
    options::remedies(spec, best)
        .into_iter()
        .fold(refused, CommandError::hint)
}

impl Candidate<'_> {
    /// Hours until the budget is spent, for tables.
    fn lasts(&self) -> String {
        text::or_dash(self.budget_hours.map(|hours| format!("{hours:.1} h")))
    }
}

/// A table of the page, on the terminal.
fn terminal_table(columns: &[&'static str], rows: &[Vec<String>]) -> Table {
    let mut table = Table::new(columns);
    for row in rows {
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests;
