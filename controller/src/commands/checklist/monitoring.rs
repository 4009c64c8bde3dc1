//! Lines of the checklist about a training that runs (pure).

use super::{
    execution::{names_tensorboard, owes},
    facts::{Facts, of_step},
    line::Told,
};
use crate::{
    lookout::facts::troubles,
    run::{busy::NOTHING_PERCENT, windows},
    ui::text,
};

/// GPUs that were used less than this while the training was active were idle, by the same measure as a window's.
const BUSY_PERCENT: f64 = 60.0;

/// What contradicts the estimate is about the loss alone.
fn is_about_the_loss(facts: &Facts) -> bool {
    let found = facts
        .window
        .as_ref()
        .and_then(|window| window["contradictions"].as_array());
    found.is_some_and(|found| {
        !found.is_empty() && found.iter().all(|one| one["trigger"] == "metric")
    })
}

pub(super) fn gpus(facts: &Facts) -> Told {
    let name = facts.name();
    let gpus = facts.reading.iter().flat_map(|reading| &reading.gpus);
    let ill = gpus
        .map(|gpu| (gpu.index, troubles(gpu)))
        .find(|(_, troubles)| !troubles.is_empty());
    if let Some((index, troubles)) = ill.filter(|_| facts.runs_now()) {
        return Told::wrong(
            format!("GPU {index}: {}", troubles.join(", ")),
            format!("spotter metrics {name}"),
        );
    }
    if let Some((why, answer)) = &facts.contradiction
        && !is_about_the_loss(facts)
    {
        return Told::wrong(why, answer);
    }
    if let Some(window) = &facts.window {
        let told = windows::line(window);
        return match window["gpu_utilisation_percent"].as_f64() {
            Some(percent) if percent < NOTHING_PERCENT => {
                Told::wrong(told, format!("spotter logs {name}"))
            }
            _ => Told::done(told).at(window["to_us"].as_i64()),
        };
    }
    let steady = facts
        .observed_use_percent
        .map(|percent| (percent, "over its steady part"));
    // Of one that trains a window will tell.
    let ended = facts.is_over() || facts.ended_alone.is_some();
    let mean = facts
        .mean_use_percent
        .filter(|_| ended)
        .map(|percent| (percent, "over the time in which it trained"));
    if let Some((percent, when)) = steady.or(mean) {
        let told = format!("{percent:.0} % {when}");
        let is_low = percent < BUSY_PERCENT && steady.is_none();
        return match percent {
            _ if is_low && facts.is_brief => Told::unknown(
                format!("{told}, which was too short to tell"),
                format!("spotter metrics --recorded {name}"),
            ),
            _ if percent < NOTHING_PERCENT => Told::wrong(told, format!("spotter logs {name}")),
            _ if percent < BUSY_PERCENT => Told::wrong(
                format!("{told}, below {BUSY_PERCENT:.0} %: they waited for something else"),
                format!("spotter report {name}"),
            ),
            _ => Told::done(told),
        };
    }
    match facts.has_trained() && !facts.is_over() {
        true => Told::not_yet(
            "no window of its training is closed yet",
            format!("spotter top {name}"),
        ),
        false if facts.has_trained() => Told::unknown(
            "no reading of its GPUs is kept",
            format!("spotter metrics --recorded {name}"),
        ),
        false => facts.to_come(),
    }
}

pub(super) fn logs(facts: &Facts) -> Told {
    let name = facts.name();
    if let Some((what, advice)) = &facts.failure {
        return Told::wrong(what, advice);
    }
    if let Some((why, answer)) = &facts.contradiction
        && is_about_the_loss(facts)
    {
        return Told::wrong(why, answer);
    }
    match (&facts.log, facts.step) {
        (Some(log), step) if log.bytes > 0 => {
            let step = step.map_or_else(String::new, |step| format!(", to step {step}"));
            Told::done(format!("{} in {}{step}", text::bytes(log.bytes), log.path)).at(log.at_us)
        }
        (_, Some(step)) => Told::done(format!("its box read it to step {step}")),
        _ if facts.has_trained() => {
            Told::not_yet("nothing of it is here yet", format!("spotter logs {name}"))
        }
        _ => facts.to_come(),
    }
}

pub(super) fn curves(facts: &Facts) -> Told {
    match (facts.step, facts.loss) {
        // No step beside it: the newest may be of a later line.
        (Some(_), Some(loss)) => Told::done(format!(
            "last loss {loss:.4}: `spotter top` and `spotter report` draw it over its steps"
        )),
        (Some(_), None) => Told::unknown(
            "steps are read, and no loss beside them",
            format!("spotter logs {}", facts.name()),
        ),
        (None, _) if names_tensorboard(facts) => Told::unknown(
            "a command of the run file names TensorBoard; spotter does not look at it",
            format!("spotter ssh {}", facts.name()),
        ),
        (None, _) => facts.to_come(),
    }
}

pub(super) fn disk(facts: &Facts) -> Told {
    if let Some(fills) = facts.disk_fills.as_ref().filter(|_| !facts.is_over()) {
        return Told::wrong(fills, format!("spotter ssh {}", facts.name()));
    }
    let host = facts.reading.as_ref().and_then(|reading| {
        let host = reading.host.as_ref()?;
        Some((
            host.disk_free_bytes?,
            host.disk_total_bytes?,
            reading.time_us.cast_signed(),
        ))
    });
    match host {
        Some((free, all, at_us)) => Told::done(format!(
            "{} of {} free",
            text::bytes(free),
            text::bytes(all)
        ))
        .at(at_us),
        None if facts.has_trained() => Told::unknown(
            "no reading of its disk is here",
            match facts.is_over() {
                true => format!("spotter metrics --recorded {}", facts.name()),
                false => format!("spotter status {}", facts.name()),
            },
        ),
        None => facts.to_come(),
    }
}

pub(super) fn saved_lately(facts: &Facts) -> Told {
    let name = facts.name();
    let saves = &facts.saves;
    let checkpoints = facts.spec.checkpoints.as_ref();
    if checkpoints.is_none_or(|kept| kept.to.is_none()) {
        return Told::does_not_apply("no `checkpoints.to`: nothing is saved while it trains");
    }
    if let Some(unsaved) = saves.unsaved.first() {
        let more = match saves.unsaved.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        return Told::wrong(
            format!("not saved: {unsaved}{more}"),
            format!("spotter doctor bucket {name}"),
        );
    }
    if let Some(told) = owes(facts) {
        return told;
    }
    match saves.newest {
        Some((step, at_us)) => {
            Told::done(format!("{}, {}", of_step(step), facts.ago(at_us))).at(at_us)
        }
        None if facts.has_trained() && !facts.is_over() => Told::not_yet(
            "nothing of it is in the bucket yet",
            format!("spotter status {name}"),
        ),
        None => facts.to_come(),
    }
}
