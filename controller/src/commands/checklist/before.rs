//! Lines of the checklist before anything is rented, as far as facts bear them out (pure).

use super::{
    facts::{Facts, How, of_step},
    line::Told,
};
use crate::{run::bringing_up::SMOKE, ui::text};

/// Programs that hold files against their hashes.
const SUMS: [&str; 8] = [
    "sha256sum",
    "sha512sum",
    "sha1sum",
    "md5sum",
    "b3sum",
    "b2sum",
    "shasum",
    "cksum",
];
/// Without a single checkpoint for so many times its interval, a training writes none.
const OVERDUE: u32 = 3;

pub(super) fn code_tested(facts: &Facts) -> Told {
    let name = facts.name();
    if facts.spec.smoke.is_none() {
        return match facts.step {
            Some(step) => Told::done(format!("no `smoke`, and the code trained to step {step}")),
            None => Told::unknown(
                "what you tried on your machine spotter does not see, and there is no `smoke`",
                format!("add `smoke: {{run: COMMAND}}` to {}", facts.run_file()),
            ),
        };
    }
    let Some(smoke) = &facts.smoke else {
        // A training begins after its smoke alone.
        return match facts.trains_here() {
            true => Told::done("`smoke` came before the training"),
            false => facts.to_come(),
        };
    };
    match smoke.how() {
        How::EndedWell => Told::done("`smoke` ended with code 0").at(smoke.ended_us),
        How::Runs => Told::not_yet(
            "`smoke` runs",
            format!("spotter logs {name} --session {SMOKE}"),
        )
        .at(smoke.began_us),
        How::EndedBadly => Told::wrong(
            format!("`smoke` {}", smoke.end()),
            format!("spotter logs {name} --session {SMOKE}"),
        )
        .at(smoke.ended_us),
    }
}

pub(super) fn dependencies(facts: &Facts) -> Told {
    match (&facts.listing, &facts.spec.setup) {
        (Some(file), _) => Told::done(format!("`{file}` in the working directory")),
        (None, Some(setup)) => Told::done(format!("`setup`: {}", first_line(setup))),
        (None, None) if facts.step.is_some() => {
            Told::does_not_apply(format!("it trains on what `{}` has", facts.spec.image))
        }
        (None, None) => Told::unknown(
            format!(
                "neither `setup` nor a list of packages: all must be in `{}`",
                facts.spec.image
            ),
            format!("add `setup: COMMAND` to {}", facts.run_file()),
        ),
    }
}

/// The first line that does something.
fn first_line(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| !line.is_empty()).unwrap_or_default()
}

pub(super) fn checkpointing(facts: &Facts) -> Told {
    let saves = &facts.saves;
    let Some(wanted) = &facts.spec.checkpoints else {
        let add = format!(
            "add `checkpoints: {{dir: DIR, to: s3://BUCKET/PREFIX}}` to {}",
            facts.run_file()
        );
        let what = "no `checkpoints` in the run file: an interruption costs all of the training";
        return match facts.runs_now() {
            true => Told::wrong(what, add),
            false if facts.is_over() => Told::does_not_apply("no `checkpoints` in the run file"),
            false => Told::not_yet(what, add),
        };
    };
    if let Some(rare) = saves.rare.as_ref().filter(|_| !facts.is_over()) {
        return Told::wrong(rare, format!("spotter logs {}", facts.name()));
    }
    if let Some((step, at_us)) = saves.newest_found.or(saves.newest) {
        let found = saves.found.max(saves.committed);
        let every = saves
            .every_steps
            .map_or_else(String::new, |steps| format!(", every {steps} steps"));
        return Told::done(format!(
            "{found} finished{every}, newest of {}",
            of_step(step)
        ))
        .at(at_us);
    }
    let Some(newest) = facts.newest().filter(|_| facts.trains_here()) else {
        return facts.to_come();
    };
    let passed_us = facts.now_us.saturating_sub(newest.started_us);
    let limit_us = (wanted.every * OVERDUE).as_micros();
    let told = format!(
        "none is finished in `{}`, and one is expected every {}",
        wanted.dir,
        text::duration(wanted.every)
    );
    let is_late = facts.runs_now() && i128::from(passed_us) > limit_us.cast_signed();
    match is_late || facts.is_over() {
        true => Told::wrong(told, format!("spotter logs {}", facts.name())),
        false => Told::not_yet(told, format!("spotter top {}", facts.name())),
    }
    .at(newest.started_us)
}

pub(super) fn logging(facts: &Facts) -> Told {
    let name = facts.name();
    let try_it = || match &facts.log {
        Some(log) => format!("spotter parse {}", log.path),
        None => format!("spotter logs {name}"),
    };
    match (facts.step, &facts.unread) {
        (Some(step), _) => {
            let loss = facts.loss.map(|loss| format!("; last loss {loss:.4}"));
            Told::done(format!(
                "step {step} read in its log{}",
                loss.unwrap_or_default()
            ))
        }
        (None, Some(why)) => Told::wrong(format!("nothing was read in its log: {why}"), try_it()),
        (None, None) if facts.trains_here() && !facts.is_over() => {
            Told::not_yet("no step was read in its log so far", try_it())
        }
        (None, None) if facts.has_trained() => match facts.log {
            Some(_) => Told::wrong("no step was ever read in its log", try_it()),
            None => Told::unknown(
                "no copy of its log is here, and no step of it was told",
                try_it(),
            ),
        },
        (None, None) => facts.to_come(),
    }
}

pub(super) fn data(facts: &Facts) -> Told {
    let Some(sum) = SUMS.into_iter().find(|sum| facts.setup_names(sum)) else {
        return Told::unknown(
            "spotter does not know your data, and `setup` holds no file against a hash",
            format!("add `sha256sum -c FILE` to `setup` of {}", facts.run_file()),
        );
    };
    let name = facts.name();
    match facts.setup.as_ref().map(|setup| (setup.how(), setup)) {
        Some((How::EndedWell, setup)) => {
            Told::done(format!("`setup` has `{sum}` in it and ended with code 0"))
                .at(setup.ended_us)
        }
        Some((How::EndedBadly, setup)) => Told::wrong(
            format!("`setup` has `{sum}` in it and {}", setup.end()),
            format!("spotter logs {name} --session setup"),
        )
        .at(setup.ended_us),
        Some((How::Runs, setup)) => Told::not_yet(
            "`setup` runs",
            format!("spotter logs {name} --session setup"),
        )
        .at(setup.began_us),
        None => facts.to_come(),
    }
}
