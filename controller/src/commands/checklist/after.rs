//! Lines of the checklist about the end of a run and its money (pure).

use super::{
    facts::{Facts, of_step},
    line::Told,
};
use crate::{
    spec::OnDone,
    store::{AttemptRecord, Outcome},
    ui::text,
};

/// Bills and record may be so far apart, as a share of the bill, or in dollars where that is more.
const APART: f64 = 0.05;
const APART_USD: f64 = 0.01;

/// What is only there at the end.
fn goes_on(facts: &Facts) -> Told {
    if let Some(end) = &facts.ended_alone {
        return Told::not_yet(end.words(), wait(facts)).at(end.ended_us);
    }
    match (facts.step, facts.newest()) {
        (Some(step), _) if facts.runs_now() => {
            Told::not_yet(format!("it trains, at step {step}"), wait(facts))
        }
        _ => facts.to_come(),
    }
}

fn wait(facts: &Facts) -> String {
    match facts.watched {
        true => format!("spotter wait {}", facts.name()),
        false => facts.onward.clone(),
    }
}

/// What finds out again which checkpoints are whole.
pub(super) fn verify(facts: &Facts) -> String {
    format!("spotter checkpoints verify {}", facts.name())
}

/// It ended as it should, or as somebody wanted.
fn is_finished(facts: &Facts) -> bool {
    facts
        .outcome
        .is_some_and(|outcome| outcome == Outcome::Done || outcome.is_by_order())
}

pub(super) fn model(facts: &Facts) -> Told {
    let name = facts.name();
    if !facts.is_over() || !facts.has_trained() {
        return goes_on(facts);
    }
    let box_is_there = facts.attempts.iter().any(AttemptRecord::may_cost);
    // An older one that was passed over is no final model.
    let steps = (facts.saves.newest, facts.saves.newest_found);
    let newest_is_saved =
        matches!(steps, (Some((Some(saved), _)), Some((Some(found), _))) if saved >= found);
    if let Some(unsaved) = facts.saves.unsaved.first().filter(|_| !newest_is_saved) {
        return Told::wrong(
            format!("not in the bucket: {unsaved}"),
            match box_is_there {
                true => format!("spotter fetch {name} PATH --to DIR"),
                false => facts.onward.clone(),
            },
        );
    }
    if let Some((waits, is_there)) = &facts.saves.waits {
        return Told::wrong(
            waits,
            match is_there {
                true => format!("spotter fetch {name} PATH --to DIR"),
                false => facts.onward.clone(),
            },
        );
    }
    if let Some(doubt) = &facts.saves.damaged {
        return Told::wrong(doubt.text(), verify(facts));
    }
    match facts.saves.newest {
        Some((step, at_us)) if is_finished(facts) => {
            let reached = facts
                .step
                .map_or_else(String::new, |step| format!("; the log ends at step {step}"));
            Told::done(format!("in the bucket, of {}{reached}", of_step(step))).at(at_us)
        }
        Some((step, at_us)) => Told::not_yet(
            format!(
                "the training did not end well; {} is in the bucket",
                of_step(step)
            ),
            &facts.onward,
        )
        .at(at_us),
        None if facts.results.is_some() && is_finished(facts) => results(facts),
        None if box_is_there && !is_finished(facts) => Told::not_yet(
            "the training did not end well, and what it trained is on the disk of its box",
            &facts.onward,
        ),
        None if box_is_there => Told::wrong(
            "what it trained is on the disk of its box alone",
            format!("spotter fetch {name} PATH --to DIR"),
        ),
        None => Told::wrong(
            "its box is gone, and nothing of it is in a bucket or here",
            &facts.onward,
        ),
    }
}

pub(super) fn logs(facts: &Facts) -> Told {
    let name = facts.name();
    if !facts.is_over() || !facts.has_trained() {
        return match &facts.log {
            Some(log) if log.bytes > 0 => Told::not_yet(
                format!("{} so far in {}", text::bytes(log.bytes), log.path),
                wait(facts),
            )
            .at(log.at_us),
            _ => goes_on(facts),
        };
    }
    let written = facts.train.as_ref().map(|train| train.log_bytes);
    match (&facts.log, written.filter(|bytes| *bytes > 0)) {
        (Some(log), Some(written)) if log.bytes >= written => {
            Told::done(format!("all {} in {}", text::bytes(log.bytes), log.path)).at(log.at_us)
        }
        (Some(log), Some(written)) => Told::wrong(
            format!(
                "{} of {} in {}",
                text::bytes(log.bytes),
                text::bytes(written),
                log.path
            ),
            format!("spotter logs {name}"),
        )
        .at(log.at_us),
        (Some(log), None) => Told::unknown(
            format!(
                "{} in {}; how much there was nobody told",
                text::bytes(log.bytes),
                log.path
            ),
            format!("spotter logs {name}"),
        )
        .at(log.at_us),
        (None, _) if !is_finished(facts) && facts.attempts.iter().any(AttemptRecord::may_cost) => {
            Told::not_yet("its log is on the disk of its box alone", &facts.onward)
        }
        (None, _) => Told::wrong(
            "no log of its training is here",
            format!("spotter logs {name}"),
        ),
    }
}

pub(super) fn results(facts: &Facts) -> Told {
    let name = facts.name();
    let Some(wanted) = &facts.spec.results else {
        return Told::does_not_apply("no `results` in the run file");
    };
    if !facts.is_over() || !facts.has_trained() {
        return goes_on(facts);
    }
    if let Some(why) = facts
        .not_saved
        .as_ref()
        .filter(|why| why.contains("result"))
    {
        return Told::wrong(why, format!("spotter fetch {name} PATH --to DIR"));
    }
    let (names, to) = (wanted.fetch.join(", "), wanted.to.display());
    match &facts.results {
        Some(found) if is_finished(facts) && found.files > 0 => Told::done(format!(
            "{} files, {} in {to}",
            found.files,
            text::bytes(found.bytes)
        ))
        .at(found.at_us),
        // A training that was stopped half-way need not have any.
        _ if facts.outcome.is_some_and(Outcome::is_by_order) => Told::not_yet(
            format!("nothing in {to}: it was ended before its own end"),
            &facts.onward,
        ),
        _ if is_finished(facts) => Told::wrong(
            format!("it ended well, and nothing of {names} is in {to}"),
            format!("spotter fetch {name} {} --to {to}", wanted.fetch.join(" ")),
        ),
        _ => Told::not_yet(
            format!("the training did not end well: no {names}"),
            &facts.onward,
        ),
    }
}

pub(super) fn verified(facts: &Facts) -> Told {
    use super::line::Standing;

    let told = results(facts);
    match told.state {
        // A run ends well only when every file here was held against the hash that its box named.
        Standing::Done => Told::done(format!(
            "held against the hashes of the box when they came: {}",
            told.evidence
        ))
        .at(told.at_us),
        Standing::DoesNotApply => match facts.saves.kept {
            0 => Told::does_not_apply("no `results`, and nothing in a bucket"),
            kept => Told::unknown(
                format!("{kept} checkpoints are in the bucket; nothing was pulled by this run"),
                format!("spotter checkpoints verify {}", facts.name()),
            ),
        },
        _ => told,
    }
}

pub(super) fn destroyed(facts: &Facts) -> Told {
    let name = facts.name();
    let left: Vec<&AttemptRecord> = facts
        .attempts
        .iter()
        .filter(|attempt| attempt.may_cost())
        .collect();
    let gone_us = facts.attempts.iter().map(|attempt| attempt.gone_us).max();
    let rented = facts
        .attempts
        .iter()
        .filter(|attempt| attempt.instance.is_some())
        .count();
    if facts.is_on_hosts() {
        return Told::does_not_apply("a host of yours: nothing is rented");
    }
    if !facts.is_over() {
        return goes_on(facts);
    }
    let Some(newest) = left.last() else {
        return match rented {
            0 => Told::does_not_apply("nothing was rented"),
            1 => Told::done("its box is gone, by the provider's word").at(gone_us),
            count => Told::done(format!(
                "its {count} boxes are gone, by the provider's word"
            ))
            .at(gone_us),
        };
    };
    let told = format!(
        "instance {} of attempt {} still costs {}",
        text::or_dash(newest.instance),
        newest.number,
        text::usd_per_hour(facts.money.usd_per_hour)
    );
    if facts.has_trained() && !is_finished(facts) {
        return Told::not_yet(
            format!("{told}: the training did not end well"),
            &facts.onward,
        );
    }
    match (facts.spec.on_done, &facts.not_saved) {
        (_, Some(why)) => Told::wrong(
            format!("{told}: {why}"),
            format!("spotter fetch {name} PATH --to DIR, then {}", facts.destroy),
        ),
        (OnDone::Destroy, None) => Told::wrong(told, &facts.destroy),
        (OnDone::Stop | OnDone::Keep, None) => Told::not_yet(
            format!("{told}, as `on_done` of the run file wants"),
            &facts.destroy,
        ),
    }
}

pub(super) fn planned(facts: &Facts) -> Told {
    match (&facts.plan, &facts.file) {
        (Some(plan), _) if plan.refused && plan.needed => {
            Told::does_not_apply(format!("begun with `--no-plan`: {}", plan.line)).at(plan.at_us)
        }
        (Some(plan), _) => Told::done(&plan.line).at(plan.at_us),
        (None, Some(file)) => {
            Told::not_yet("nothing was planned yet", format!("spotter plan {file}"))
        }
        (None, None) => Told::does_not_apply("it was begun without a plan"),
    }
}

pub(super) fn budget(facts: &Facts) -> Told {
    let spent = facts.money.cost_usd;
    if facts.is_on_hosts() {
        return Told::does_not_apply("a host of yours: nobody bills for it");
    }
    let Some(budget) = facts.spec.limits.budget_usd else {
        let told = format!("no `limits.budget`; {} so far", text::usd(spent));
        return match facts.is_over() {
            true => Told::does_not_apply(told),
            false => Told::not_yet(
                told,
                format!("add `limits: {{budget: DOLLARS}}` to {}", facts.run_file()),
            ),
        };
    };
    let told = format!("{} of {}", text::usd(spent), text::usd(budget));
    match spent > budget {
        true => Told::wrong(told, format!("spotter cost {}", facts.name())),
        false => Told::done(told),
    }
}

pub(super) fn bill(facts: &Facts) -> Told {
    let money = &facts.money;
    let look = format!("spotter cost {}", facts.name());
    if facts.is_on_hosts() {
        return Told::does_not_apply("a host of yours: nobody bills for it");
    }
    if let Some(doubtful) = &money.doubtful {
        return Told::wrong(doubtful, look);
    }
    if facts.newest().is_none() {
        return facts.to_come();
    }
    let is_gone = facts.is_over() && !facts.attempts.iter().any(AttemptRecord::may_cost);
    match money.charged_usd.filter(|_| is_gone) {
        Some(charged) => {
            let told = format!(
                "{} billed for what was metered at {}",
                text::usd(charged),
                text::usd(money.ledger_usd)
            );
            let unbilled = text::unbilled_traffic(money.unbilled_traffic_usd);
            match money.apart_usd.abs() > (charged * APART).max(APART_USD) {
                true => Told::wrong(told, look),
                false if !unbilled.is_empty() => Told::not_yet(told + &unbilled, look),
                false => Told::done(told),
            }
        }
        None => Told::not_yet(
            format!(
                "{} metered here so far; the provider's bill is whole when its boxes are gone",
                text::usd(money.ledger_usd)
            ),
            look,
        ),
    }
}
