//! `spotter resume`: starts a run that has ended again.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    commands::{
        Deps,
        plan::{
            gate::{self, Start},
            raising,
        },
        watching,
    },
    doctor::diagnosis::KeyFault,
    error::CommandError,
    run::{
        State,
        lease::Lease,
        lifecycle::{Goal, Lifecycle},
        silence,
        site::SiteError,
        to_come, windows,
    },
    spec::{
        accelerators::{self, Accelerators},
        values,
    },
    store::{AttemptRecord, Outcome, RunRecord, Store},
    ui::{Ui, text},
};

/// Event of the run as a whole: what was known of the time and money to come when it was started again.
const FORECAST: &str = "resume.forecast";

/// Start a run that crashed, was stopped or was given up again
///
/// On its own box where that is kept, with your code as it is now; else on a new one. With a bucket the training goes on from the
/// newest checkpoint. Where the market took the box back, say whether it is waited for (`--here`) or another one is taken
/// (`--elsewhere`, without a word, too). A run that still goes on is left to `spotter up`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// Run
    run: String,
    /// Rent another box, even if its own is kept, or waited for
    #[arg(long)]
    elsewhere: bool,
    /// Its own box or none: one that the market took back is waited for, see `recover`
    #[arg(long, conflicts_with = "elsewhere")]
    here: bool,
    /// From now on, at most so many dollars for the whole run, with what it has spent
    #[arg(long, value_name = "USD", value_parser = values::usd, allow_hyphen_values = true)]
    budget: Option<f64>,
    /// From now on, at most so much time for training, with what it has trained
    #[arg(long, value_name = "TIME", value_parser = values::duration, allow_hyphen_values = true)]
    max_runtime: Option<Duration>,
    /// Rent another box, with these GPUs, such as "RTX 4090:1": from now on the run's `resources.accelerators`
    #[arg(long, value_name = "NAME[:COUNT]", value_parser = accelerators::parse, conflicts_with = "here")]
    gpus: Option<Accelerators>,
    /// Rent another box, with so much disk, such as 80GB: from now on the run's `resources.disk`
    #[arg(long, value_name = "SIZE", value_parser = values::size_gb, allow_hyphen_values = true, conflicts_with = "here")]
    disk: Option<f64>,
    /// Go on without a whole plan, however long the run may take and whatever it may cost
    #[arg(long)]
    no_plan: bool,
    /// Leave as soon as the training runs
    #[arg(long)]
    detach: bool,
}

/// Whether a run waits for its box.
fn waits(store: &Store, run: &RunRecord) -> Result<bool, CommandError> {
    let latest = store.latest_attempt(&run.name)?;
    Ok(latest.is_some_and(|latest| latest.state == State::Waiting))
}

/// Refuses when the run's own box is gone: whoever says `--here` does not want to pay for another one.
async fn has_box(lifecycle: &Lifecycle, run: &RunRecord) -> Result<(), CommandError> {
    let name = &run.name;
    let latest = lifecycle.store.latest_attempt(name)?;
    let there = match latest.filter(AttemptRecord::may_cost) {
        Some(AttemptRecord {
            instance: Some(id), ..
        }) => lifecycle.find_box(id).await?.is_some(),
        _ => false,
    };
    if there {
        return Ok(());
    }
    Err(CommandError::new(format!(
        "run `{name}` was not started again: its own box does not exist any more"
    ))
    .about(name)
    .hint(format!(
        "go on with another box: `spotter resume --elsewhere {name}`"
    )))
}

/// Tells what is to come of a training that contradicted its estimate, by what was seen of it, before anything is paid for again.
fn forecast(ui: &mut Ui, store: &Store, run: &RunRecord) -> Result<Option<Value>, CommandError> {
    let latest = store.latest_attempt(&run.name)?;
    let Some(attempt) = latest.filter(|_| run.outcome == Some(Outcome::Contradicted)) else {
        return Ok(None);
    };
    let window = windows::newest(store, &attempt)?.unwrap_or_default();
    let seen = window["actual_tokens_per_s"].as_f64();
    let predicted = window["predicted_tokens_per_s"].as_f64();
    if let (Some(seen), Some(predicted)) = (seen, predicted.filter(|speed| *speed > 0.0)) {
        ui.status(format_args!(
            "`{}` did {seen:.0} tokens/s, {:.0} % of the predicted {predicted:.0}.",
            run.name,
            seen / predicted * 100.0
        ));
    }
    let usd_per_hour = attempt.gpu_usd_per_hour + attempt.storage_usd_per_hour;
    let known = store.observations()?;
    let rest = to_come::of_attempt(store, run, &attempt, &known, usd_per_hour)?;
    match rest {
        Some(rest) => {
            let by = match rest.measured {
                true => "at the pace that was seen",
                false => "by its estimate",
            };
            ui.status(format_args!(
                "Starting it again: about {:.1} h ({:.1} to {:.1}) and {} ({} to {}) are to come, {by} and at {} as before.",
                rest.hours.base,
                rest.hours.optimistic,
                rest.hours.pessimistic,
                text::usd(rest.usd.base),
                text::usd(rest.usd.optimistic),
                text::usd(rest.usd.pessimistic),
                text::usd_per_hour(usd_per_hour)
            ));
        }
        None => ui.status(format_args!(
            "Starting it again: what is to come cannot be told, for neither its log nor `model` says how much is left; it costs {} as before.",
            text::usd_per_hour(usd_per_hour)
        )),
    }
    Ok(Some(json!({
        "attempt": attempt.number,
        "tokens_per_s": seen,
        "predicted_tokens_per_s": predicted,
        "usd_per_hour": usd_per_hour,
        "to_come": rest,
    })))
}

/// Refuses when the bucket does not accept the keys at all, before a box costs money. What else it says is for the box to find out.
async fn keys_are_good(deps: &Deps, run: &RunRecord) -> Result<(), CommandError> {
    let sites = deps.sites()?;
    let Err(err @ SiteError::Refused(_)) = sites.prove_bucket(&run.spec).await else {
        return Ok(());
    };
    let kept = run.spec.checkpoints.as_ref();
    let (Some(fault), Some(to)) = (
        KeyFault::of_answer(&err.to_string()),
        kept.and_then(|kept| kept.to.as_deref()),
    ) else {
        return Ok(());
    };
    let source = sites.keys_source().await;
    let told = fault.told(to, source.as_deref());
    Err(
        CommandError::new(format!("run `{}` was not started again: {told}", run.name))
            .cause(err)
            .about(&run.name)
            .hint(fault.hint(
                source.as_deref(),
                &format!("`spotter resume {}` again", run.name),
            )),
    )
}

/// Opens the run again, then carries it on.
pub async fn resume(
    ui: &mut Ui,
    deps: &Deps,
    args: &ResumeArgs,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let run = deps.load_run(Some(&args.run))?;
    // Its box may have ended it with nobody there.
    let mut run = tokio::select! {
        run = deps.end_if_over(ui, run) => run?,
        () = stop.cancelled() => return Ok(()),
    };
    let before = run.spec.limits.clone();
    let limits = &mut run.spec.limits;
    limits.budget_usd = args.budget.or(limits.budget_usd);
    limits.max_runtime = args.max_runtime.or(limits.max_runtime);
    if let Some(gpus) = &args.gpus {
        run.spec.resources.gpu_name = Some(gpus.gpu_name.clone());
        run.spec.resources.num_gpus = gpus.num_gpus;
    }
    run.spec.resources.disk_gb = args.disk.unwrap_or(run.spec.resources.disk_gb);
    // Its own box has the GPUs and the disk that it has.
    let elsewhere = args.elsewhere || args.gpus.is_some() || args.disk.is_some();
    let store = deps.store()?;
    let refused = |text: String| CommandError::usage(text).about(&run.name);
    let here = match run.outcome {
        None if elsewhere && waits(&store, &run)? => false,
        None => {
            let (name, err) = (
                &run.name,
                refused(format!("run `{}` has not ended", run.name)),
            );
            // A box that gives no word is not gone on with.
            let latest = store.latest_attempt(name)?;
            let silence = match &latest {
                Some(latest) => silence::since_us(&store, latest)?,
                None => None,
            };
            return Err(match (silence, elsewhere) {
                (None, false) => err.hint(format!("go on with it: `spotter up {name}`")),
                _ => err.hint(format!(
                    "end it first, its disk kept, with `spotter stop {name}`; then go on with `spotter resume --elsewhere {name}`"
                )),
            });
        }
        Some(Outcome::Done) => {
            return Err(refused(format!("run `{}` has ended well", run.name))
                .hint("train on under another name with `spotter run --name`"));
        }
        // The market has that box, or nobody has.
        Some(Outcome::Interrupted | Outcome::Lost) => args.here,
        Some(
            Outcome::Crashed
            | Outcome::Stopped
            | Outcome::Failed
            | Outcome::Limit
            | Outcome::Contradicted,
        ) => {
            let latest = store.latest_attempt(&run.name)?;
            let taken = latest.is_some_and(|latest| latest.was_taken_back());
            args.here || (!elsewhere && !taken)
        }
    };
    if args.disk.is_some() && !run.spec.resources.hosts.is_empty() {
        return Err(refused(format!("run `{}` is on hosts of yours", run.name))
            .hint("theirs is the disk that it gets"));
    }
    let lifecycle = deps.lifecycle(watching::ConsoleReport::new(ui))?;
    let planned = match args.gpus {
        None => raising::pass(deps, &run, &before, args.no_plan)?,
        Some(_) => {
            if !run.spec.resources.hosts.is_empty() {
                return Err(refused(format!("run `{}` is on hosts of yours", run.name))
                    .hint("theirs are the GPUs that it gets"));
            }
            lifecycle.has_money_elsewhere(&run).await?;
            let offer = lifecycle.find_offer(&run).await?;
            let (spec, start) = (&run.spec, Start::Resume);
            Some(gate::pass(ui, deps, spec, &offer, start, args.no_plan)?)
        }
    };
    keys_are_good(deps, &run).await?;
    // With other GPUs its plan has said it.
    let forecast = match args.gpus {
        None => forecast(ui, &store, &run)?,
        Some(_) => None,
    };
    {
        let Some(_lease) = Lease::take(&store, &run.name)? else {
            return Err(CommandError::new(format!(
                "run `{}` was not started again: another spotter acts for it",
                run.name
            ))
            .about(&run.name));
        };
        match run.outcome {
            None => {
                // Whoever watched may have ended it meanwhile.
                let mut now = store.run(&run.name)?;
                if now.outcome.is_some() {
                    return Err(refused(format!("run `{}` has ended meanwhile", run.name))
                        .hint(format!("look again: `spotter status {}`", run.name)));
                }
                now.spec.limits = run.spec.limits.clone();
                now.spec.resources = run.spec.resources.clone();
                lifecycle.go_elsewhere(&now).await?;
            }
            Some(_) => {
                if args.here {
                    has_box(&lifecycle, &run).await?;
                }
                lifecycle.reopen(&run, here).await?;
            }
        }
        if let Some(forecast) = &forecast {
            store.note(&run.name, 0, deps.clock.now_us(), FORECAST, forecast)?;
        }
        if let Some(planned) = &planned {
            store.note(&run.name, 0, deps.clock.now_us(), gate::PLANNED, planned)?;
        }
    }
    let goal = if args.detach {
        Goal::Running
    } else {
        Goal::End
    };
    watching::watch_and_show(ui, deps, &run.name, goal, stop).await
}
