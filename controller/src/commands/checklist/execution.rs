//! Lines of the checklist about the training on its box (pure).

use super::{
    facts::{Facts, of_step},
    line::Told,
};
use crate::{
    provider::Rental,
    run::{alarms, ended_alone::How},
    store::Outcome,
    ui::text,
};

pub(super) fn session(facts: &Facts) -> Told {
    let name = facts.name();
    match &facts.train {
        Some(train) => Told::done(match (train.tmux, train.ended_us) {
            (true, _) => "session `train`, in a window of tmux",
            // The window goes with its session.
            (false, Some(_)) => "session `train`, which has ended",
            (false, None) => {
                "session `train`, in a terminal of the agent's own: the box has no tmux"
            }
        })
        .at(train.began_us),
        None if facts.trains_here() => Told::unknown(
            "it was started, and its box has told nothing of it here yet",
            format!("spotter status {name}"),
        ),
        None => facts.to_come(),
    }
}

pub(super) fn measured(facts: &Facts) -> Told {
    let name = facts.name();
    if let Some(problem) = &facts.gpu_problem {
        return Told::wrong(
            format!("its GPUs cannot be read: {problem}"),
            format!("spotter ssh {name}"),
        );
    }
    if let Some(silent) = &facts.silent {
        return Told::wrong(silent, format!("spotter status {name}"));
    }
    match &facts.reading {
        Some(reading) => {
            let at_us = reading.time_us.cast_signed();
            let window = facts.window.as_ref();
            let windows = window
                .and_then(|window| window["window"].as_u64())
                .map_or_else(String::new, |number| format!(", window {number} closed"));
            let gpus = reading.gpus.len();
            Told::done(format!("{gpus} GPUs, read {}{windows}", facts.ago(at_us))).at(at_us)
        }
        None if facts.has_trained() => Told::not_yet(
            "no reading of its box is here: whoever watches copies them",
            match facts.is_over() {
                true => format!("spotter metrics --recorded {name}"),
                false => format!("spotter metrics {name}"),
            },
        ),
        None => facts.to_come(),
    }
}

/// A command of the run file names it.
pub(super) fn names_tensorboard(facts: &Facts) -> bool {
    let commands = [facts.spec.setup.as_ref(), Some(&facts.spec.run)];
    commands
        .into_iter()
        .flatten()
        .any(|text| text.contains("tensorboard"))
}

pub(super) fn tensorboard(facts: &Facts) -> Told {
    match names_tensorboard(facts) {
        false => Told::does_not_apply("no command of the run file starts it"),
        true => Told::unknown(
            "a command of the run file names it; spotter does not look at it",
            format!("spotter ssh {}", facts.name()),
        ),
    }
}

pub(super) fn training(facts: &Facts) -> Told {
    let Some(newest) = facts.newest().filter(|_| facts.trains_here()) else {
        let failed = facts.outcome == Some(Outcome::Failed);
        return match (&facts.reason, failed) {
            (Some(why), true) => Told::wrong(why, &facts.onward),
            _ => facts.to_come(),
        };
    };
    let from = newest
        .resumed_step
        .map_or_else(String::new, |step| format!(", from step {step}"));
    let told = format!("attempt {}{from}", newest.number);
    match &facts.ended_alone {
        Some(end) if end.how != How::Finished => {
            Told::wrong(format!("{told}: {}", end.words()), &facts.onward).at(end.ended_us)
        }
        Some(end) => Told::done(format!("{told}: {}", end.words())).at(newest.started_us),
        None => Told::done(told).at(newest.started_us),
    }
}

pub(super) fn detached(facts: &Facts) -> Told {
    let Some(train) = &facts.train else {
        return session(facts);
    };
    let told = match (facts.is_over(), facts.watched) {
        (true, _) => "its box owned it".to_owned(),
        (false, true) => "its box owns it; a process here watches it".to_owned(),
        (false, false) => {
            let name = facts.name();
            match facts.spec.resources.rental {
                Rental::Interruptible => format!(
                    "its box owns it; nobody watches, so an interruption is not recovered until `spotter up {name}`"
                ),
                Rental::OnDemand => {
                    format!("its box owns it; nobody watches until `spotter up {name}`")
                }
            }
        }
    };
    Told::done(told).at(train.began_us)
}

/// What the backup owes: that it fails, or what waits on a box that does not train any more; `None`: nothing.
pub(super) fn owes(facts: &Facts) -> Option<Told> {
    let name = facts.name();
    let saves = &facts.saves;
    if let Some(alarm) = &saves.alarm {
        let words = match facts.runs_now() {
            true => "the backup is behind",
            false => "the backup failed",
        };
        let next = alarms::mend_keys(name, alarm).filter(|_| !facts.is_over());
        return Some(Told::wrong(
            format!("{words}: {alarm}"),
            next.unwrap_or_else(|| format!("spotter doctor bucket {name}")),
        ));
    }
    let (waits, is_there) = saves.waits.as_ref()?;
    Some(match (is_there, facts.is_over()) {
        (true, _) | (false, false) => Told::not_yet(waits, &facts.onward),
        (false, true) => Told::wrong(waits, &facts.onward),
    })
}

pub(super) fn backup(facts: &Facts) -> Told {
    let name = facts.name();
    let saves = &facts.saves;
    let checkpoints = facts.spec.checkpoints.as_ref();
    let Some(to) = checkpoints.and_then(|checkpoints| checkpoints.to.as_ref()) else {
        let home = facts.spec.results.is_some();
        return match (facts.has_trained(), facts.spec.brings_nothing_home()) {
            (true, true) if !facts.is_over() => Told::wrong(
                "no `checkpoints.to` and no `results`: all that it trains is on its box alone",
                format!("spotter fetch {name} PATH --to DIR"),
            ),
            (true, _) if home => {
                Told::does_not_apply("no `checkpoints.to`; `results` come home at the end")
            }
            _ => Told::not_yet(
                "no `checkpoints.to`: nothing outlives the box",
                format!(
                    "add `checkpoints: {{dir: DIR, to: s3://BUCKET/PREFIX}}` to {}",
                    facts.run_file()
                ),
            ),
        };
    };
    if let Some(doubt) = saves.damaged.as_ref().filter(|_| !facts.is_over()) {
        return Told::wrong(doubt.text(), super::after::verify(facts));
    }
    if let Some(told) = owes(facts) {
        return told;
    }
    match saves.newest {
        Some((step, at_us)) => {
            let (kept, all) = (saves.kept, saves.committed);
            Told::done(format!(
                "{kept} in {to}, newest of {}; {all} committed in all",
                of_step(step)
            ))
            .at(at_us)
        }
        None if facts.trains_here() && !facts.is_over() => Told::not_yet(
            format!(
                "nothing in {to} yet; saved every {}",
                checkpoints.map_or_else(String::new, |kept| text::duration(kept.every))
            ),
            format!("spotter status {name}"),
        ),
        None if facts.has_trained() && facts.is_over() => {
            Told::wrong(format!("nothing of it ever reached {to}"), &facts.onward)
        }
        None => facts.to_come(),
    }
}
