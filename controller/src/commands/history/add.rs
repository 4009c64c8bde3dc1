//! `spotter history add`: an observation by hand.

use std::path::PathBuf;

use super::figures::Figures;
use crate::{
    commands::Deps,
    error::CommandError,
    run::observing,
    spec::RunSpec,
    store::{Observation, Source},
    ui::Ui,
};

/// Add what was seen elsewhere, by hand
///
/// The run file says what was trained and with which code. What is added here is what plans of that code go by.
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// Run file of what was trained
    #[arg(value_name = "FILE", default_value = "run.yaml")]
    file: PathBuf,
    #[command(flatten)]
    figures: Figures,
}

pub(super) fn add(ui: &mut Ui, deps: &Deps, args: &AddArgs) -> Result<(), CommandError> {
    let spec = RunSpec::load(&args.file)?;
    if args.figures.are_none() {
        return Err(
            CommandError::usage("nothing to add: no figure was given").hint(
                "give what you know, such as `--tokens-per-s 142k --peak-vram 21.5 --setup 20m`",
            ),
        );
    }
    let resources = &spec.resources;
    let gpu = match args.figures.gpu()? {
        Some((gpu, _)) => gpu,
        None => resources.gpu_name.clone().ok_or_else(|| {
            CommandError::usage("the run file takes any GPU: say which it was")
                .hint("as in `--gpu \"RTX 4090:1\"`")
        })?,
    };
    let mut seen = Observation::new(Source::Typed, &spec.name, &gpu, deps.clock.now_us());
    seen.num_gpus = Some(resources.num_gpus);
    seen.code = Some(observing::code(&spec));
    seen.model.clone_from(&spec.model);
    args.figures.put_into(&mut seen)?;
    deps.store()?
        .add_observations(std::slice::from_ref(&seen))?;
    if spec.model.is_none() {
        ui.hint(format_args!(
            "a speed is carried over to other GPUs only where `model:` says what is trained"
        ));
    }
    let all = deps.store()?.observations()?;
    let added = all.iter().rev().find(|record| record.seen == seen);
    ui.status(format_args!(
        "Added as observation {} of `{}` on {}.",
        added.map_or(0, |record| record.id),
        seen.run,
        seen.gpus()
    ));
    if ui.is_json() {
        ui.json(&added);
    }
    Ok(())
}
