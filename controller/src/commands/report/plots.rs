//! The plots of a report (pure).

use std::collections::BTreeMap;

use super::{
    chart::{Axis, Chart, Level, Line, Series},
    curve::Curve,
    gather::{Gathered, LogCurves, Measured, OverSteps},
    model::{self, Period, Predictions},
    spans::Span,
};
use crate::{
    commands::plan::figures,
    ledger::{CostKind, Interval},
    ui::text,
};

/// How often steps may begin anew in a log, beside restarts, before its steps say nothing: a bar for each epoch does that.
const ANEW: u64 = 3;
/// Points of the curve of cost.
const COST_POINTS: usize = 500;

/// Every plot that has something to show.
pub(super) fn charts(
    known: &Gathered,
    predicted: &Predictions,
    period: Period,
    down: &[Span],
) -> Vec<Chart> {
    let mut charts = vec![loss(known), speed(known, predicted)];
    let time = OverTime {
        known,
        period,
        shades: down
            .iter()
            .map(|span| (period.s(span.0), period.s(span.1)))
            .collect(),
    };
    let measured = |of: fn(&Measured) -> &Curve| time.curve(of);
    let mut used = time.chart("GPU use", "%", measured(|one| &one.use_percent));
    used.levels.push(Level {
        label: String::new(),
        value: 100.0,
    });
    let mut memory = time.chart(
        "GPU memory, of the fullest",
        "GiB",
        measured(|one| &one.memory_gib),
    );
    let total = known
        .shown
        .iter()
        .rev()
        .find_map(|shown| shown.measured.memory_total_gib);
    memory.levels.extend(total.map(|value| Level {
        label: format!("{value:.0} GiB there are"),
        value,
    }));
    let power = time.chart("Power of all GPUs", "W", measured(|one| &one.power_w));
    charts.extend([used, memory, power, time.cost(predicted)]);
    charts.retain(|chart| chart.series.iter().any(|series| series.curve.count() > 0));
    charts
}

/// Whether steps are a good axis for these logs.
fn axis(known: &Gathered, of: impl Fn(&LogCurves) -> Option<&OverSteps>) -> Axis {
    let logs = || known.shown.iter().map(|shown| &shown.log);
    let count = |pick: fn(&OverSteps) -> &Curve| -> u64 {
        logs().filter_map(&of).map(|one| pick(one).count()).sum()
    };
    let has_steps = count(|one| &one.by_step) * 10 >= count(|one| &one.by_record) * 9;
    let is_steady = logs().all(|log| log.began_anew <= ANEW);
    match has_steps && is_steady {
        true => Axis::Steps,
        false => Axis::Records,
    }
}

fn on(axis: Axis, curves: &OverSteps) -> &Curve {
    match axis {
        Axis::Records => &curves.by_record,
        _ => &curves.by_step,
    }
}

fn over_steps(title: &'static str, unit: String, axis: Axis) -> Chart {
    Chart {
        title,
        unit,
        axis,
        series: Vec::new(),
        levels: Vec::new(),
        marks: Vec::new(),
        shades: Vec::new(),
        from_zero: false,
    }
}

/// One series for each attempt that printed something.
fn each_attempt<'a>(
    known: &'a Gathered,
    axis: Axis,
    line: Line,
    word: &str,
    of: impl Fn(&'a LogCurves) -> Option<&'a OverSteps>,
) -> Vec<Series> {
    let printed = known.shown.iter().filter_map(|shown| {
        let curves = of(&shown.log)?;
        let curve = on(axis, curves);
        (curve.count() > 0).then(|| (shown.attempt, curve.clone()))
    });
    let series = printed.map(|(attempt, curve)| Series {
        label: format!("{word}attempt {attempt}"),
        colour: attempt.saturating_sub(1) as usize,
        line,
        curve,
    });
    series.collect()
}

fn loss(known: &Gathered) -> Chart {
    let axis = axis(known, |log| Some(&log.loss));
    let mut chart = over_steps("Loss", "as printed".to_owned(), axis);
    chart.series = each_attempt(known, axis, Line::Band, "", |log| Some(&log.loss));
    let evaluated = each_attempt(known, axis, Line::Dashed, "evaluation, ", |log| {
        Some(&log.eval_loss)
    });
    chart.series.extend(evaluated);
    chart
}

fn speed(known: &Gathered, predicted: &Predictions) -> Chart {
    let mut units: BTreeMap<&'static str, u64> = BTreeMap::new();
    for shown in &known.shown {
        for (unit, curves) in &shown.log.speed {
            *units.entry(unit).or_default() += curves.by_record.count();
        }
    }
    let most = units.iter().max_by_key(|(_, count)| **count);
    let unit = most.map_or("tokens/s", |(unit, _)| *unit);
    let axis = axis(known, |log| log.speed.get(unit));
    let mut chart = over_steps("Speed", unit.to_owned(), axis);
    chart.from_zero = true;
    chart.series = each_attempt(known, axis, Line::Band, "", |log| log.speed.get(unit));
    if unit == "tokens/s" {
        chart.levels = predicted
            .speed
            .map(|range| Level {
                label: format!("{} predicted", figures::count(range.base)),
                value: range.base,
            })
            .into_iter()
            .collect();
    }
    chart
}

/// Plots over the time of the run.
struct OverTime<'a> {
    known: &'a Gathered,
    period: Period,
    shades: Vec<(f64, f64)>,
}

impl OverTime<'_> {
    fn chart(&self, title: &'static str, unit: &str, curve: Curve) -> Chart {
        Chart {
            title,
            unit: unit.to_owned(),
            axis: Axis::Time {
                from_us: self.period.from_us,
                to_s: self.period.length_s(),
            },
            series: vec![Series {
                label: String::new(),
                colour: 0,
                line: Line::Band,
                curve,
            }],
            levels: Vec::new(),
            marks: model::marks(self.known, self.period, None),
            shades: self.shades.clone(),
            from_zero: true,
        }
    }

    /// What was measured in all attempts, by the seconds of the run.
    fn curve(&self, of: fn(&Measured) -> &Curve) -> Curve {
        let from_s = self.period.from_us as f64 / 1e6;
        let each = |shown: &super::gather::Shown| of(&shown.measured).points(usize::MAX);
        let points: Vec<_> = self.known.shown.iter().map(each).collect();
        let mut all = Curve::new(points.iter().map(Vec::len).sum::<usize>().max(2));
        for points in points {
            all.gap();
            for point in points {
                if point.after_gap {
                    all.gap();
                }
                all.add_range(point.x - from_s, (point.least, point.y, point.most));
            }
        }
        all
    }

    fn cost(&self, predicted: &Predictions) -> Chart {
        let intervals = &self.known.intervals;
        let mut all = spent(intervals, None, self.period);
        // The sum that is told everywhere: with bills, what was paid in advance, and what its boxes cost after its end.
        let counted_usd = self.known.summary.cost_usd;
        let last_usd = all.points(COST_POINTS).last().map(|point| point.y);
        if last_usd.is_some_and(|last_usd| (last_usd - counted_usd).abs() >= 0.00005) {
            all.add(self.period.length_s(), counted_usd);
        }
        let disk = spent(intervals, Some(CostKind::Disk), self.period);
        let mut chart = self.chart("Cost, by our own ledger", "$", all);
        if disk.count() > 0 {
            chart.series[0].label = "all".to_owned();
            chart.series.push(Series {
                label: "disk".to_owned(),
                colour: 1,
                line: Line::Dashed,
                curve: disk,
            });
        }
        let level = |value: f64, what: &str| Level {
            label: format!("{} {what}", text::usd(value)),
            value,
        };
        let budget = self.known.run.spec.limits.budget_usd;
        let spent_usd = self.known.summary.cost_usd;
        // A budget a hundred times as high would press all else to the floor.
        let near = |value: &f64| *value <= 10.0 * spent_usd;
        let budget = budget.filter(near).map(|usd| level(usd, "budget"));
        let planned = predicted.cost_usd.map(|range| range.base).filter(near);
        let planned = planned.map(|usd| level(usd, "predicted"));
        chart.levels.extend(budget.into_iter().chain(planned));
        chart
    }
}

/// What was spent up to each moment at which a price changed.
fn spent(intervals: &[Interval], kind: Option<CostKind>, period: Period) -> Curve {
    let ours: Vec<&Interval> = intervals
        .iter()
        .filter(|interval| kind.is_none_or(|kind| interval.kind == kind))
        .collect();
    let mut moments: Vec<i64> = ours
        .iter()
        .flat_map(|interval| [interval.from_us, interval.to_us.unwrap_or(period.to_us)])
        .chain([period.from_us, period.to_us])
        .filter(|us| (period.from_us..=period.to_us).contains(us))
        .collect();
    moments.sort_unstable();
    moments.dedup();
    let mut curve = Curve::new(COST_POINTS);
    if ours.is_empty() {
        return curve;
    }
    for at_us in moments {
        let until = |interval: &&Interval| {
            let to_us = interval.to_us.unwrap_or(at_us).min(at_us);
            let past = Interval {
                to_us: Some(to_us),
                ..(*interval).clone()
            };
            past.usd(at_us)
        };
        let usd = ours.iter().map(until).fold(0.0, |all, one| all + one);
        curve.add(period.s(at_us), usd);
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_adds_up_to_each_moment_at_which_a_price_changed() {
        const HOUR_US: i64 = 3_600_000_000;
        let interval = |kind, from, to: Option<i64>, usd_per_hour| Interval {
            attempt: 1,
            kind,
            from_us: from * HOUR_US,
            to_us: to.map(|to| to * HOUR_US),
            usd_per_hour,
        };
        let intervals = [
            interval(CostKind::Disk, 1, None, 0.5),
            interval(CostKind::Gpu, 2, Some(4), 2.0),
        ];
        let period = Period {
            from_us: HOUR_US,
            to_us: 6 * HOUR_US,
        };
        let points = |kind| {
            let curve = spent(&intervals, kind, period).points(100);
            curve
                .iter()
                .map(|point| (point.x / 3600.0, point.y))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            points(None),
            [(0.0, 0.0), (1.0, 0.5), (3.0, 5.5), (5.0, 6.5)]
        );
        assert_eq!(points(Some(CostKind::Disk)), [(0.0, 0.0), (5.0, 2.5)]);
        assert_eq!(spent(&[], None, period).count(), 0);
    }
}
