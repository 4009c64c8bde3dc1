//! How far a run is, its newest checkpoint and its money, each against its limit (pure).

use super::{Bar, SILENT_US, Tone, ago, clock, grouped, span};
use crate::{
    lookout::facts::{Facts, Live, Reach, signed},
    run::to_come::STEADY,
    ui::text,
};

/// What is left of a training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Left {
    pub(super) low_s: f64,
    pub(super) base_s: f64,
    pub(super) high_s: f64,
}

/// Newest step, and how many there are in all.
pub fn steps(facts: &Facts) -> (Option<u64>, Option<u64>) {
    let live = facts.live.status.as_ref();
    let training = live.and_then(|status| status.training.as_ref());
    let step = training.and_then(|training| training.step);
    let total = training.and_then(|training| training.total_steps);
    (
        step.or(facts.recorded.step),
        // What the box says of its own training is newest; that it says no total is worth more than the total of an epoch.
        match training {
            Some(_) if step.is_some() => total,
            _ => facts.log.curve.total(),
        },
    )
}

/// How far it is, 0 to 1.
pub(super) fn fraction(facts: &Facts) -> Option<f64> {
    let (step, total) = steps(facts);
    let (step, total) = (step?, total.filter(|total| *total > 0)?);
    Some((step as f64 / total as f64).clamp(0.0, 1.0))
}

pub(super) fn left(facts: &Facts, now_us: i64) -> Option<Left> {
    if !facts.trains() {
        return None;
    }
    let around = |base_s: f64| Left {
        low_s: base_s * (1.0 - STEADY),
        base_s,
        high_s: base_s * (1.0 + STEADY),
    };
    let live = &facts.live;
    let training = live
        .status
        .as_ref()
        .and_then(|status| status.training.as_ref());
    if let (Some(step), Some(total)) = steps(facts) {
        let printed = training.and_then(|training| training.step_time_s);
        let step_s = live.steps_per_s().map(f64::recip).or(printed);
        if let Some(step_s) = step_s.filter(|seconds| *seconds > 0.0) {
            return Some(around(total.saturating_sub(step) as f64 * step_s));
        }
    }
    let to_come = facts.recorded.to_come?;
    // A window is closed every ten minutes: what it promised has begun to pass.
    let told = facts
        .recorded
        .window
        .as_ref()
        .and_then(|window| window["to_us"].as_i64());
    let passed_s = match told.filter(|_| to_come.measured) {
        Some(told_us) => (live.box_us(now_us) - told_us).max(0) as f64 / 1e6,
        None => 0.0,
    };
    let rest = |hours: f64| (hours * 3600.0 - passed_s).max(0.0);
    Some(Left {
        low_s: rest(to_come.hours.optimistic),
        base_s: rest(to_come.hours.base),
        high_s: rest(to_come.hours.pessimistic),
    })
}

pub(super) fn progress(facts: &Facts, left: Option<Left>, now_us: i64) -> Bar {
    let (step, total) = steps(facts);
    let mut parts = Vec::new();
    let mut tone = Tone::Plain;
    if let Some(silent_us) = silent_us(&facts.live, now_us).filter(|_| facts.trains())
        && silent_us > SILENT_US
    {
        parts.push(format!("! no progress printed for {}", ago(silent_us)));
        tone = Tone::Warn;
    }
    parts.push(match (step, total) {
        (None, _) if is_being_asked(facts) => "asking its box".to_owned(),
        (None, _) => "no step yet".to_owned(),
        (Some(step), None) => format!("step {}", grouped(step)),
        (Some(step), Some(total)) => format!("step {} of {}", grouped(step), grouped(total)),
    });
    if let Some(left) = left {
        let end_us = now_us.saturating_add((left.base_s * 1e6) as i64);
        let (base, low, high) = (span(left.base_s), span(left.low_s), span(left.high_s));
        parts.push(format!("{base} left ({low} to {high})"));
        parts.push(format!("until {}", clock(end_us)));
    }
    Bar {
        label: "progress",
        fraction: fraction(facts),
        parts,
        tone,
    }
}

/// What its box says is not known yet: "no step yet" would be told as if it had said so.
fn is_being_asked(facts: &Facts) -> bool {
    facts.reach == Reach::Connecting && facts.live.status.is_none()
}

/// For how long the training has printed nothing of its progress.
fn silent_us(live: &Live, now_us: i64) -> Option<i64> {
    let training = live.status.as_ref()?.training.as_ref()?;
    Some(live.box_us(now_us) - signed(training.time_us))
}

pub(super) fn saved(facts: &Facts, now_us: i64) -> Bar {
    let (recorded, live) = (&facts.recorded, &facts.live);
    let bar = |fraction, parts: Vec<String>, tone| Bar {
        label: "saved",
        fraction,
        parts,
        tone,
    };
    let Some(every_s) = recorded.save_every_s else {
        return bar(None, vec!["no backup is asked for".to_owned()], Tone::Dim);
    };
    let backup = live
        .status
        .as_ref()
        .and_then(|status| status.backup.as_ref());
    let told = backup.and_then(|backup| Some((backup.last_step, signed(backup.last_commit_us?))));
    // A box knows its own commits; the record also those of boxes before it.
    let newest = [told, recorded.saved]
        .into_iter()
        .flatten()
        .max_by_key(|(_, at)| *at);
    // A box that has read the bucket knows what is in it.
    let kept = backup
        .filter(|backup| backup.last_commit_us.is_some())
        .map_or(recorded.kept, |backup| backup.committed);
    let committed = recorded.committed.max(kept);
    let (mut parts, age_us) = match newest {
        Some((step, at_us)) => {
            let step = step.map_or_else(String::new, |step| format!("step {}, ", grouped(step)));
            let age_us = (live.box_us(now_us) - at_us).max(0);
            (vec![format!("{step}{} ago", ago(age_us))], Some(age_us))
        }
        None if facts.trains() && recorded.started_us > 0 => {
            let age_us = (now_us - recorded.started_us).max(0);
            (
                vec![format!("nothing yet, training for {}", ago(age_us))],
                Some(age_us),
            )
        }
        None => (vec!["nothing".to_owned()], None),
    };
    let in_bucket = (committed > 0).then(|| match committed - kept {
        0 => format!("{kept} in the bucket"),
        _ => format!("{kept} in the bucket, {committed} ever"),
    });
    if !facts.trains() {
        parts.extend(in_bucket);
        return bar(None, parts, Tone::Dim);
    }
    parts.push(format!("limit {}", span(every_s as f64)));
    if let Some(backup) = backup {
        if backup.uploading_total_bytes > 0 {
            parts.push(format!(
                "sending {} of {}",
                text::bytes(backup.uploading_done_bytes),
                text::bytes(backup.uploading_total_bytes)
            ));
        } else if backup.pending > 0 {
            parts.push(format!("{} waiting", backup.pending));
        }
    }
    parts.extend(in_bucket);
    let fraction = age_us.map(|age_us| age_us as f64 / 1e6 / every_s.max(1) as f64);
    let is_late = fraction.is_some_and(|fraction| fraction > 1.0);
    let tone = match (backup.is_some_and(|backup| backup.alarm), is_late) {
        (true, _) => {
            parts.insert(0, "! BEHIND".to_owned());
            Tone::Bad
        }
        (false, true) => {
            parts.insert(0, "! over the limit".to_owned());
            Tone::Warn
        }
        (false, false) => Tone::Plain,
    };
    bar(fraction.map(|fraction| fraction.min(1.0)), parts, tone)
}

pub(super) fn money(facts: &Facts, left: Option<Left>) -> Bar {
    let recorded = &facts.recorded;
    let mut parts = vec![
        format!(
            "{} now",
            text::now_usd_per_hour(recorded.usd_per_hour, recorded.at_most_usd_per_hour)
        ),
        format!("{} so far", text::usd(recorded.cost_usd)),
    ];
    if let Some(left) = left.filter(|_| recorded.usd_per_hour > 0.0) {
        let usd = |seconds: f64| text::usd(seconds / 3600.0 * recorded.usd_per_hour);
        let (base, low, high) = (usd(left.base_s), usd(left.low_s), usd(left.high_s));
        parts.push(format!("{base} to come"));
        parts.push(format!("({low} to {high})"));
    }
    let budget = recorded.budget_usd.filter(|budget| *budget > 0.0);
    let fraction = budget.map(|budget| recorded.cost_usd / budget);
    parts.extend(budget.map(|budget| format!("budget {}", text::usd(budget))));
    let mut tone = Tone::Plain;
    if fraction.is_some_and(|fraction| fraction >= 0.9) {
        parts.insert(0, "! budget nearly used up".to_owned());
        tone = Tone::Warn;
    }
    if recorded.is_over && recorded.usd_per_hour > 0.0 {
        parts.insert(0, "! still paid for".to_owned());
        tone = Tone::Warn;
    }
    Bar {
        label: "money",
        fraction: fraction.map(|fraction| fraction.min(1.0)),
        parts,
        tone,
    }
}
