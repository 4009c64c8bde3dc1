//! Lines of the checklist about what is put on the box (pure).

use super::{
    facts::{Facts, How},
    line::Told,
};
use crate::{run::busy::NOTHING_PERCENT, ui::text};

/// A process that holds so much of a GPU's memory computes there: a driver alone takes less.
const IN_USE_BYTES: u64 = 512 << 20;

pub(super) fn code(facts: &Facts) -> Told {
    let Some(workdir) = &facts.spec.workdir else {
        return Told::does_not_apply("no `workdir`: the run needs no code of yours");
    };
    // Nothing is started on a box before all of the code is there.
    let sessions = [&facts.setup, &facts.smoke, &facts.train];
    let first = sessions
        .into_iter()
        .flatten()
        .map(|session| session.began_us)
        .min();
    match first {
        Some(began_us) => Told::done(format!(
            "{} was copied before anything was started",
            workdir.display()
        ))
        .at(began_us),
        None if facts.trains_here() => Told::done(format!(
            "{} was copied before the training",
            workdir.display()
        )),
        None => facts.to_come(),
    }
}

pub(super) fn setup(facts: &Facts) -> Told {
    if facts.spec.setup.is_none() {
        return Told::does_not_apply("no `setup` in the run file");
    }
    let look = format!("spotter logs {} --session setup", facts.name());
    let Some(setup) = &facts.setup else {
        return match facts.trains_here() {
            true => Told::done("the training began, which it does after `setup` alone"),
            false => facts.to_come(),
        };
    };
    match setup.how() {
        How::EndedWell => Told::done("`setup` ended with code 0").at(setup.ended_us),
        How::Runs => Told::not_yet("`setup` runs", look).at(setup.began_us),
        How::EndedBadly => Told::wrong(format!("`setup` {}", setup.end()), look).at(setup.ended_us),
    }
}

pub(super) fn cuda(facts: &Facts) -> Told {
    if !facts.has_trained() {
        return match &facts.driver {
            Some(driver) => Told::not_yet(
                format!(
                    "driver {} answers; whether the code finds it shows when it trains",
                    driver.version
                ),
                &facts.onward,
            ),
            None => facts.to_come(),
        };
    }
    let window = facts
        .window
        .as_ref()
        .and_then(|window| window["gpu_utilisation_percent"].as_f64());
    // One that trains may still load: that its GPUs do nothing yet is no fault.
    let is_telling = |percent: &f64| facts.is_over() || *percent >= NOTHING_PERCENT;
    let mean = facts.mean_use_percent.filter(is_telling);
    if let Some(percent) = window.or(facts.observed_use_percent).or(mean) {
        let told = format!("its GPUs were {percent:.0} % busy");
        return match percent >= NOTHING_PERCENT {
            true => Told::done(told),
            false => Told::wrong(told, format!("spotter logs {}", facts.name())),
        };
    }
    let reading = facts.reading.as_ref().filter(|_| facts.trains_here());
    let now = reading.and_then(|reading| {
        let gpus = reading.gpus.iter();
        gpus.filter_map(|gpu| gpu.memory_used_bytes).max()
    });
    let at_us = reading.map(|reading| reading.time_us.cast_signed());
    let metrics = format!("spotter metrics --recorded {}", facts.name());
    match now.max(facts.memory_bytes) {
        Some(bytes) if bytes >= IN_USE_BYTES => {
            Told::done(format!("{} of GPU memory in use", text::bytes(bytes))).at(at_us)
        }
        Some(bytes) if facts.is_over() => Told::unknown(
            format!(
                "no reading says how busy its GPUs were; {} of memory was in use at most",
                text::bytes(bytes)
            ),
            metrics,
        ),
        None if facts.is_over() => Told::unknown("no reading of its GPUs is kept", metrics),
        _ => Told::not_yet(
            "no window of its training is closed yet",
            format!("spotter top {}", facts.name()),
        ),
    }
}

pub(super) fn flash(facts: &Facts) -> Told {
    if !facts.wants_flash() {
        return Told::does_not_apply("neither `needs`, `model` nor `setup` names it");
    }
    let installs = facts.setup_names("flash-attn") || facts.setup_names("flash_attn");
    if installs {
        return match facts.setup.is_none() && !facts.trains_here() {
            true => facts.to_come(),
            false => {
                let told = setup(facts);
                super::line::Told {
                    evidence: format!("{}, and names it", told.evidence),
                    ..told
                }
            }
        };
    }
    let can = match facts.promised.compute_cap {
        0 => String::new(),
        cap => format!(
            " on a GPU of compute capability {:.1}",
            f64::from(cap) / 100.0
        ),
    };
    Told::unknown(
        format!(
            "it is asked for{can}; whether `{}` has it is not looked at",
            facts.spec.image
        ),
        format!(
            "add `python -c 'import flash_attn'` to `setup` of {}",
            facts.run_file()
        ),
    )
}

pub(super) fn data(facts: &Facts) -> Told {
    let received = match facts.received_gb {
        Some(gb) if gb >= 0.1 => format!("; its box received {gb:.1} GB"),
        _ => String::new(),
    };
    match facts.step {
        Some(step) => Told::done(format!("it trains on it: step {step}{received}")),
        None if facts.trains_here() && !facts.is_over() => Told::not_yet(
            format!("the training has printed no step yet{received}"),
            format!("spotter logs {}", facts.name()),
        ),
        None => facts.to_come(),
    }
}
