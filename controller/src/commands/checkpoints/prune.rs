//! `spotter checkpoints prune`.

use std::time::Duration;

use serde_json::json;
use spotter_bucket::{Best, Keep};

use super::{Place, failed, open};
use crate::{
    checkpoints::prune::{self, Order, PruneError, Pruned},
    commands::Deps,
    error::CommandError,
    run::summary::DELETED,
    spec::{DEFAULT_KEEP_GRACE, DEFAULT_KEEP_LAST, values},
    store::RunRecord,
    ui::{Table, Ui, text},
};

/// Delete what need not be kept: the checkpoint at once, its data when the grace is over
///
/// Pinned ones stay, and so does the data of whatever is being read. For a run that has ended, data that uploads left which never
/// came to their end goes too, when it is a day old.
#[derive(Debug, clap::Args)]
pub(super) struct PruneArgs {
    /// Run
    run: String,
    /// How many newest stay, at least 2; `keep.last` of the run when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    keep_last: Option<u32>,
    /// The first of each so many steps stays; `keep.every_steps` of the run when not given, 0: none
    #[arg(long, value_name = "K")]
    keep_every_steps: Option<u32>,
    /// The best by a value of the training stay, such as val_loss:2 or accuracy:2:max; `keep.best` of the run when not given, val_loss:0:
    /// none
    #[arg(long, value_name = "METRIC:COUNT[:min|max]", value_parser = keep_best)]
    keep_best: Option<Best>,
    /// How long the data of a deleted one stays, such as 1h; `keep.grace` of the run when not given
    #[arg(long, value_name = "TIME", value_parser = values::duration, allow_hyphen_values = true)]
    grace: Option<Duration>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn prune(ui: &mut Ui, deps: &Deps, args: &PruneArgs) -> Result<(), CommandError> {
    let (shelf, record) = open(deps, Some(ui.console()), Some(&args.run), &args.place).await?;
    let of = record
        .as_ref()
        .and_then(|run| run.spec.checkpoints.as_ref());
    let keep_last = of.map_or(DEFAULT_KEEP_LAST, |of| of.keep_last);
    let every_steps = of.map_or(0, |of| of.keep_every_steps);
    let grace = of.map_or(DEFAULT_KEEP_GRACE, |of| of.keep_grace);
    let what = format!("the checkpoints of `{}` were not pruned", shelf.run);
    // The first answer tells the server's time, by which everything here goes.
    shelf
        .vault()
        .ids()
        .await
        .map_err(|err| failed(&shelf, &what, err))?;
    let best = args
        .keep_best
        .clone()
        .or_else(|| of.and_then(|of| of.keep_best.clone()));
    let order = Order {
        keep: Keep {
            last: args.keep_last.unwrap_or(keep_last),
            every_steps: args.keep_every_steps.unwrap_or(every_steps).into(),
            best: best.filter(|best| best.count > 0),
        },
        grace: args.grace.unwrap_or(grace),
        at_rest: record.as_ref().is_some_and(is_at_rest),
        dry_run: args.dry_run,
        now_us: shelf.server_us(&deps.clock),
    };
    let pruned = prune::prune(&shelf, &order)
        .await
        .map_err(|err| match err {
            PruneError::Bucket(err) => failed(&shelf, &what, err),
            err @ PruneError::NewestDamaged { .. } => {
                CommandError::new(&what).cause(err).hint(format!(
                    "nothing was deleted; see which are whole with `spotter checkpoints verify {}`",
                    shelf.run
                ))
            }
        })?;
    if let (Some(run), false) = (&record, pruned.dry_run) {
        for one in &pruned.deleted {
            let detail = json!({"id": one.id, "step": one.step, "where": "bucket"});
            deps.store()?
                .note(&run.name, 0, deps.clock.now_us(), DELETED, &detail)?;
        }
    }
    tell(ui, &shelf.run, &pruned);
    ui.show(&pruned, table);
    Ok(())
}

/// `val_loss:2` or `mAP:1:max`.
fn keep_best(text: &str) -> Result<Best, String> {
    let mut parts = text.split(':');
    let metric = values::metric(parts.next().unwrap_or_default())?;
    let count = parts.next().ok_or("say how many, as in val_loss:2")?;
    let count = values::count(count, 0..=1000)?;
    let highest = match (parts.next(), parts.next()) {
        (None, _) => values::is_better_when_high(&metric)
            .map_err(|_| format!("say which are better, as in {metric}:{count}:max or :min"))?,
        (Some("min"), None) => false,
        (Some("max"), None) => true,
        _ => return Err("expected METRIC:COUNT, METRIC:COUNT:min or METRIC:COUNT:max".to_owned()),
    };
    Ok(Best {
        metric,
        count,
        highest,
    })
}

fn is_at_rest(run: &RunRecord) -> bool {
    run.outcome.is_some()
}

fn tell(ui: &mut Ui, run: &str, pruned: &Pruned) {
    let done = if pruned.dry_run {
        "Would delete"
    } else {
        "Deleted"
    };
    let freed: u64 = pruned.purged.iter().map(|one| one.size_bytes).sum();
    ui.status(format_args!(
        "{done} {} checkpoints, and {} of data of {} that were deleted before.",
        pruned.deleted.len(),
        text::bytes(freed),
        pruned.purged.len(),
    ));
    if let Some(next) = pruned.waiting.iter().map(|one| one.due_us).min() {
        ui.status(format_args!(
            "Data of {} deleted ones stays until its grace is over, the first at {}: prune again then, or let the run do it.",
            pruned.waiting.len(),
            text::time(next as i64),
        ));
    }
    if let [first, ..] = pruned.newer.as_slice() {
        ui.warning(format_args!(
            "{} of a newer spotter, or not to be read with these keys: no data was freed, since it may be theirs",
            match pruned.newer.len() {
                1 => format!("checkpoint {first} is"),
                count => format!("{count} checkpoints, such as {first}, are"),
            },
        ));
        ui.hint(format_args!(
            "install the spotter that wrote it, or a newer one, then `spotter checkpoints prune {run}`"
        ));
    }
    if pruned.orphans + pruned.aborted_uploads > 0 {
        ui.status(format_args!(
            "{done} {} objects ({}) and {} uploads that never became a checkpoint.",
            pruned.orphans,
            text::bytes(pruned.orphan_bytes),
            pruned.aborted_uploads,
        ));
    }
}

fn table(pruned: &Pruned) -> Table {
    let mut table = Table::new(&["ACTION", "SIZE>", "ID"]);
    let would = |action: &str| match pruned.dry_run {
        true => format!("would {action}"),
        false => action.to_owned(),
    };
    for one in &pruned.deleted {
        table.row([would("delete"), text::bytes(one.size_bytes), one.id.clone()]);
    }
    for one in &pruned.purged {
        table.row([
            would("free its data"),
            text::bytes(one.size_bytes),
            one.id.clone(),
        ]);
    }
    table
}
