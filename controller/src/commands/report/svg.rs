//! Draws plots as SVG (pure). Colours and type are the style sheet's: light, dark and paper need no second drawing. Two sizes are
//! drawn, one for screens and paper, one for phones, where the first would be too small to read.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{
    chart::{Axis, Chart, Kind, Line, Mark, Series, Timeline},
    curve::Point,
    markup::Markup,
};

/// A size to draw for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Class of the drawing.
    pub(super) class: &'static str,
    width: u32,
    height: u32,
    points: usize,
    ticks: usize,
}

/// For screens and paper.
pub(super) const WIDE: Size = Size {
    class: "wide",
    width: 960,
    height: 260,
    points: 1000,
    ticks: 8,
};
/// For phones.
pub(super) const NARROW: Size = Size {
    class: "narrow",
    width: 360,
    height: 230,
    points: 300,
    ticks: 5,
};

const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
const LANE: f64 = 26.0;

/// Colours of the style sheet.
pub(super) const COLOURS: usize = 7;

/// The place of a value on the paper.
struct Frame {
    size: Size,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        let width = f64::from(self.size.width) - LEFT - RIGHT;
        let share = (value - self.x.0) / (self.x.1 - self.x.0);
        LEFT + width * share.clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value - self.y.0) / (self.y.1 - self.y.0);
        self.floor() - (self.floor() - TOP) * share.clamp(0.0, 1.0)
    }

    fn floor(&self) -> f64 {
        self.height - BOTTOM
    }

    fn right(&self) -> f64 {
        f64::from(self.size.width) - RIGHT
    }
}

/// A length on the paper: a tenth of a unit is less than anybody sees.
fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// Draws a plot.
pub(super) fn chart(out: &mut Markup, chart: &Chart, size: Size) {
    let series: Vec<(&Series, Vec<Point>)> = chart
        .series
        .iter()
        .map(|series| (series, series.curve.points(size.points)))
        .collect();
    let points = || series.iter().flat_map(|(_, points)| points);
    let x = match chart.axis {
        Axis::Time { to_s, .. } => (0.0, to_s.max(1.0)),
        Axis::Steps | Axis::Records => {
            let (least, most) = range(points().map(|point| (point.x, point.x)));
            (least, most.max(least + 1.0))
        }
    };
    let levels = chart.levels.iter().map(|level| (level.value, level.value));
    let (mut least, mut most) = range(
        points()
            .map(|point| (point.least, point.most))
            .chain(levels),
    );
    if chart.from_zero {
        least = least.min(0.0);
    }
    if most - least < least.abs() * 1e-6 || most <= least {
        most = least + least.abs().max(1.0) * 0.1;
    }
    let ticks = ticks(least, most, 4);
    let y = (
        ticks.first().copied().unwrap_or(least).min(least),
        ticks.last().copied().unwrap_or(most).max(most),
    );
    let frame = Frame {
        size,
        height: f64::from(size.height),
        x,
        y,
    };
    let label = format!("{}, {}", chart.title, chart.unit);
    svg(out, &frame, &label, |out| {
        for (from, to) in &chart.shades {
            shade(out, &frame, *from, *to);
        }
        for tick in &ticks {
            let height = at(frame.y(*tick));
            grid(out, (LEFT, frame.right()), (&height, &height));
            let attributes = [("x", &*at(LEFT - 6.0)), ("y", &height), ("class", "ty")];
            out.words("text", &attributes, number(*tick));
        }
        x_axis(out, &frame, chart.axis);
        for level in &chart.levels {
            let height = at(frame.y(level.value));
            let (left, right) = (at(LEFT), at(frame.right()));
            out.empty(
                "line",
                &[
                    ("class", "level"),
                    ("x1", &left),
                    ("x2", &right),
                    ("y1", &height),
                    ("y2", &height),
                ],
            );
            let above = at((frame.y(level.value) - 4.0).max(TOP + 8.0));
            let attributes = [("x", &*right), ("y", &above), ("class", "tl")];
            out.words("text", &attributes, &level.label);
        }
        for mark in &chart.marks {
            moment(out, &frame, mark);
        }
        for (series, points) in &series {
            let colour = format!("c{}", series.colour % COLOURS);
            if series.line == Line::Band {
                for run in runs(points) {
                    band(out, &frame, run, &colour);
                }
            }
            for run in runs(points) {
                curve(out, &frame, run, series.line, &colour);
            }
        }
    });
}

fn svg(out: &mut Markup, frame: &Frame, label: &str, inner: impl FnOnce(&mut Markup)) {
    let place = format!("0 0 {} {}", frame.size.width, at(frame.height));
    let attributes = [
        ("class", frame.size.class),
        ("viewBox", &*place),
        ("role", "img"),
        ("aria-label", label),
    ];
    out.element("svg", &attributes, inner);
}

fn grid(out: &mut Markup, (from, to): (f64, f64), (y1, y2): (&str, &str)) {
    let (x1, x2) = (at(from), at(to));
    let line = [
        ("class", "grid"),
        ("x1", &*x1),
        ("x2", &*x2),
        ("y1", y1),
        ("y2", y2),
    ];
    out.empty("line", &line);
}

fn shade(out: &mut Markup, frame: &Frame, from: f64, to: f64) {
    let (left, right) = (frame.x(from), frame.x(to));
    out.element(
        "rect",
        &[
            ("class", "down"),
            ("x", &at(left)),
            ("y", &at(TOP)),
            ("width", &at((right - left).max(0.5))),
            ("height", &at(frame.floor() - TOP)),
        ],
        |rect| rect.words("title", &[], "nothing was trained"),
    );
}

/// Stretches without a gap.
fn runs(points: &[Point]) -> impl Iterator<Item = &[Point]> {
    points.chunk_by(|_, next| !next.after_gap)
}

fn curve(out: &mut Markup, frame: &Frame, points: &[Point], line: Line, colour: &str) {
    if let [one] = points {
        out.empty(
            "circle",
            &[
                ("class", &format!("dot {colour}")),
                ("cx", &at(frame.x(one.x))),
                ("cy", &at(frame.y(one.y))),
                ("r", "2.5"),
            ],
        );
        return;
    }
    let mut path = String::new();
    for point in points {
        let (x, y) = (at(frame.x(point.x)), at(frame.y(point.y)));
        push(&mut path, &format!("{x},{y} "));
    }
    let class = match line {
        Line::Dashed => format!("line dashed {colour}"),
        Line::Band => format!("line {colour}"),
    };
    let attributes = [("class", &*class), ("points", path.trim_end())];
    out.empty("polyline", &attributes);
}

fn band(out: &mut Markup, frame: &Frame, points: &[Point], colour: &str) {
    if points.len() < 2 || points.iter().all(|point| point.least == point.most) {
        return;
    }
    let mut path = String::new();
    let corner = |x: f64, y: f64| format!("{},{} ", at(frame.x(x)), at(frame.y(y)));
    for point in points {
        push(&mut path, &corner(point.x, point.most));
    }
    for point in points.iter().rev() {
        push(&mut path, &corner(point.x, point.least));
    }
    let class = format!("band {colour}");
    let attributes = [("class", &*class), ("points", path.trim_end())];
    out.empty("polygon", &attributes);
}

fn push(text: &mut String, more: &str) {
    text.write_str(more).expect("a String takes everything");
}

/// A moment on a plot: a line where it matters, else a tick on the floor.
fn moment(out: &mut Markup, frame: &Frame, mark: &Mark) {
    let x = at(frame.x(mark.at_s));
    let (class, top) = match mark.kind {
        Kind::Interruption => ("cut", TOP),
        Kind::Contradiction => ("doubt", TOP),
        Kind::Checkpoint => ("saved", frame.floor() - 6.0),
    };
    out.element(
        "line",
        &[
            ("class", class),
            ("x1", &x),
            ("x2", &x),
            ("y1", &at(top)),
            ("y2", &at(frame.floor())),
        ],
        |line| line.words("title", &[], &mark.label),
    );
}

fn x_axis(out: &mut Markup, frame: &Frame, axis: Axis) {
    let floor = at(frame.floor());
    let (ticks, name) = match axis {
        Axis::Time { from_us, to_s } => time_ticks(to_s, frame.size.ticks, from_us),
        Axis::Steps | Axis::Records => {
            let ticks = ticks(frame.x.0, frame.x.1, frame.size.ticks)
                .into_iter()
                .filter(|tick| (frame.x.0..=frame.x.1).contains(tick))
                .map(|tick| (tick, number(tick)))
                .collect();
            let name = match axis {
                Axis::Records => "record of the log",
                _ => "step",
            };
            (ticks, name.to_owned())
        }
    };
    for (tick, text) in &ticks {
        let x = at(frame.x(*tick));
        out.empty(
            "line",
            &[
                ("class", "axis"),
                ("x1", &x),
                ("x2", &x),
                ("y1", &floor),
                ("y2", &at(frame.floor() + 4.0)),
            ],
        );
        let below = at(frame.floor() + 16.0);
        out.words("text", &[("x", &x), ("y", &below), ("class", "tx")], text);
    }
    out.empty(
        "line",
        &[
            ("class", "axis"),
            ("x1", &at(LEFT)),
            ("x2", &at(frame.right())),
            ("y1", &floor),
            ("y2", &floor),
        ],
    );
    let middle = at((LEFT + frame.right()) / 2.0);
    let below = at(frame.floor() + 34.0);
    let attributes = [("x", &*middle), ("y", &*below), ("class", "tx name")];
    out.words("text", &attributes, name);
}

/// Ticks of a time axis in the unit that fits, and the name of the axis.
fn time_ticks(to_s: f64, about: usize, from_us: i64) -> (Vec<(f64, String)>, String) {
    let (unit_s, unit) = match to_s {
        short if short < 180.0 => (1.0, "seconds"),
        short if short < 3.0 * 3600.0 => (60.0, "minutes"),
        middle if middle < 72.0 * 3600.0 => (3600.0, "hours"),
        _ => (86_400.0, "days"),
    };
    let ticks = ticks(0.0, to_s / unit_s, about)
        .into_iter()
        .filter(|tick| *tick * unit_s <= to_s)
        .map(|tick| (tick * unit_s, number(tick)))
        .collect();
    let start = Timestamp::from_microsecond(from_us).unwrap_or_default();
    let name = format!("{unit} after {}", start.strftime("%Y-%m-%d %H:%M UTC"));
    (ticks, name)
}

/// Draws the attempts, one below the other.
pub(super) fn timeline(out: &mut Markup, line: &Timeline, size: Size) {
    let frame = Frame {
        size,
        height: TOP + LANE * line.lanes.len() as f64 + BOTTOM,
        x: (0.0, line.to_s.max(1.0)),
        y: (0.0, 1.0),
    };
    svg(out, &frame, "Attempts over time", |out| {
        for (index, lane) in line.lanes.iter().enumerate() {
            let top = TOP + LANE * index as f64;
            let attributes = [
                ("x", &*at(LEFT - 6.0)),
                ("y", &*at(top + LANE / 2.0)),
                ("class", "ty"),
            ];
            out.words("text", &attributes, &lane.label);
            bar(out, &frame, lane.rented, (top + 8.0, LANE - 16.0), "rented");
            for trained in &lane.trained {
                bar(out, &frame, *trained, (top + 4.0, LANE - 8.0), "trained");
            }
            for mark in &lane.marks {
                let x = frame.x(mark.at_s);
                let class = match mark.kind {
                    Kind::Interruption => "cut",
                    Kind::Contradiction => "doubt",
                    Kind::Checkpoint => "saved",
                };
                let (from, to) = match mark.kind {
                    // Below its bar, where it stands out.
                    Kind::Checkpoint => (top + LANE - 4.0, top + LANE + 1.0),
                    _ => (top + 1.0, top + LANE - 1.0),
                };
                out.element(
                    "line",
                    &[
                        ("class", class),
                        ("x1", &at(x)),
                        ("x2", &at(x)),
                        ("y1", &at(from)),
                        ("y2", &at(to)),
                    ],
                    |line| line.words("title", &[], &mark.label),
                );
            }
        }
        let axis = Axis::Time {
            from_us: line.from_us,
            to_s: line.to_s,
        };
        x_axis(out, &frame, axis);
    });
}

fn bar(
    out: &mut Markup,
    frame: &Frame,
    (from, to): (f64, f64),
    (top, height): (f64, f64),
    class: &str,
) {
    let (left, right) = (frame.x(from), frame.x(to));
    out.empty(
        "rect",
        &[
            ("class", class),
            ("x", &at(left)),
            ("y", &at(top)),
            ("width", &at((right - left).max(1.0))),
            ("height", &at(height)),
        ],
    );
}

fn range(pairs: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    let (least, most) = pairs.fold((f64::INFINITY, f64::NEG_INFINITY), |all, pair| {
        (all.0.min(pair.0), all.1.max(pair.1))
    });
    match least <= most {
        true => (least, most),
        false => (0.0, 1.0),
    }
}

/// About so many round numbers, from the last below the least to the first above the most.
fn ticks(least: f64, most: f64, about: usize) -> Vec<f64> {
    let span = most - least;
    if !(span.is_finite() && span > 0.0) {
        return vec![least];
    }
    let rough = span / about.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let first = (least / step + 1e-9).floor() as i64;
    let last = (most / step - 1e-9).ceil() as i64;
    (first..=last).map(|index| index as f64 * step).collect()
}

/// A number as short as it can be: `1.5k`, `40M`, `0.25`.
pub(super) fn number(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        large if large >= 999_950_000.0 => (value / 1e9, "G"),
        large if large >= 999_950.0 => (value / 1e6, "M"),
        large if large >= 10_000.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 0.1 || small == 0.0 => 2,
        tiny if tiny >= 0.001 => 4,
        _ => return format!("{value:.1e}"),
    };
    let text = format!("{scaled:.digits$}");
    let short = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{short}{unit}")
}

#[cfg(test)]
mod tests;
