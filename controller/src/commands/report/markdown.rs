//! The same report as Markdown (pure), for a pull request: tables, and curves as a line of bars. What others wrote stands in code spans,
//! where neither markup nor a mention of somebody comes out of it.

use std::fmt::Write as _;

use super::{
    chart::{Axis, Chart},
    curve::{Curve, Point},
    model::Report,
    svg,
    tables::Grid,
};
use crate::ui::sanitize;

/// How a file of ours is known, in its first bytes.
pub(super) const MARK: &str = "<!-- spotter report -->";

/// Bars of a curve.
const BARS: usize = 32;

/// Writes the report.
pub(super) fn page(report: &Report, made: &str) -> String {
    let mut out = format!("{MARK}\n");
    let name = code(&report.name);
    push(&mut out, &format!("## {name}: {}\n\n", report.state));
    push(&mut out, &format!("{}\n\n", words(&report.subtitle)));
    if let Some(reason) = &report.reason {
        push(&mut out, &format!("{}\n\n", words(reason)));
    }
    let rows: Vec<Vec<String>> = report
        .headline
        .iter()
        .map(|(name, value, more)| vec![(*name).to_owned(), value.clone(), more.clone()])
        .collect();
    table(&mut out, &["What", "Value>", "Held against"], &rows);
    curves(&mut out, &report.charts);
    for grid in &report.grids {
        section(&mut out, grid);
    }
    for note in report.notes.iter().map(String::as_str).chain([made]) {
        push(&mut out, &format!("- {}\n", words(note)));
    }
    out
}

fn section(out: &mut String, grid: &Grid) {
    // A pull request is read from its top: what is long is folded.
    let is_long = grid.rows.len() > 12;
    match is_long {
        true => push(
            out,
            &format!(
                "<details><summary>{} ({})</summary>\n\n",
                grid.title,
                grid.rows.len()
            ),
        ),
        false => push(out, &format!("### {}\n\n", grid.title)),
    }
    if grid.left_out > 0 {
        push(
            out,
            &format!(
                "The newest; {} before them are left out.\n\n",
                grid.left_out
            ),
        );
    }
    table(out, grid.columns, &grid.rows);
    if is_long {
        push(out, "</details>\n\n");
    }
}

fn curves(out: &mut String, charts: &[Chart]) {
    let mut rows = Vec::new();
    for chart in charts {
        for series in &chart.series {
            let points = series.curve.points(BARS);
            let (Some(first), Some(last)) = (points.first(), points.last()) else {
                continue;
            };
            let (least, most) = points.iter().fold((first.least, first.most), |all, point| {
                (all.0.min(point.least), all.1.max(point.most))
            });
            let label = match series.label.is_empty() {
                true => String::new(),
                false => format!(", {}", series.label),
            };
            let along = match chart.axis {
                Axis::Time { .. } => "time",
                Axis::Steps => "steps",
                Axis::Records => "records",
            };
            rows.push(vec![
                format!("{}{label} ({})", chart.title, chart.unit),
                format!("{} {along}", bars(&series.curve, chart.from_zero)),
                svg::number(least),
                svg::number(most),
                svg::number(last.y),
            ]);
        }
    }
    if rows.is_empty() {
        return;
    }
    push(out, "### Curves\n\n");
    table(
        out,
        &["Curve", "Over", "Least>", "Most>", "At the end>"],
        &rows,
    );
}

/// A curve as a line of bars; a blank where nothing is known.
fn bars(curve: &Curve, from_zero: bool) -> String {
    const BAR: [char; 8] = [
        '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}',
        '\u{2588}',
    ];
    let points = curve.points(BARS);
    let values = || points.iter().map(|point| point.y);
    let least = values().fold(f64::INFINITY, f64::min);
    let least = if from_zero { least.min(0.0) } else { least };
    let most = values().fold(f64::NEG_INFINITY, f64::max);
    let bar = |point: &Point| {
        let share = match most > least {
            true => (point.y - least) / (most - least),
            false => 0.5,
        };
        BAR[((share * 7.0).round() as usize).min(7)]
    };
    let mut text = String::new();
    for point in &points {
        if point.after_gap {
            text.push(' ');
        }
        text.push(bar(point));
    }
    text
}

fn table(out: &mut String, columns: &[&str], rows: &[Vec<String>]) {
    let names: Vec<&str> = columns
        .iter()
        .map(|name| name.trim_end_matches('>'))
        .collect();
    let rules: Vec<&str> = columns
        .iter()
        .map(|name| if name.ends_with('>') { "--:" } else { "---" })
        .collect();
    push(
        out,
        &format!("| {} |\n|{}|\n", names.join(" | "), rules.join("|")),
    );
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| words(cell)).collect();
        push(out, &format!("| {} |\n", cells.join(" | ")));
    }
    out.push('\n');
}

/// A text as it is where it cannot be taken for markup, else in a code span.
fn words(text: &str) -> String {
    let text = sanitize::line(text);
    let is_plain = |char: char| {
        char.is_ascii_alphanumeric() || " .,;:%/()+-'$".contains(char) || !char.is_ascii()
    };
    let begins = text.chars().next();
    // What begins so is a list, and two slashes an address.
    let is_list = begins.is_some_and(|first| "+-".contains(first)) && text.len() > 1;
    let is_number = text.parse::<f64>().is_ok();
    let is_address = text.contains("://") || text.contains("www.");
    // No letters of other scripts, but for our own bars: a code span shows them as well.
    match text.chars().all(is_plain) && (!is_list || is_number) && !is_address {
        true => text.into_owned(),
        false => code(&text),
    }
}

/// A code span that its text cannot end.
fn code(text: &str) -> String {
    let text = sanitize::line(text).replace('|', "\\|");
    let longest = text
        .split(|char| char != '`')
        .map(str::len)
        .max()
        .unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A blank keeps a text of backticks from joining the fence; both blanks are taken off again.
    let pad = if longest > 0 || text.starts_with(' ') {
        " "
    } else {
        ""
    };
    format!("{fence}{pad}{text}{pad}{fence}")
}

fn push(text: &mut String, more: &str) {
    text.write_str(more).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_comes_out_as_it_is_and_as_nothing_else() {
        for (text, expected) in [
            ("outbid after 3.5 h (98 %)", "outbid after 3.5 h (98 %)"),
            ("-3.5", "-3.5"),
            ("- item", "`- item`"),
            ("<script>alert(1)</script>", "`<script>alert(1)</script>`"),
            ("a|b", "`a\\|b`"),
            ("@somebody #12", "`@somebody #12`"),
            ("https://example.org", "`https://example.org`"),
            ("`x` ``", "``` `x` `` ```"),
            ("[a](b)\nnext\u{1b}[2J", "`[a](b) next`"),
            ("checkpoints/step_10", "`checkpoints/step_10`"),
            ("", ""),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
        assert_eq!(code("a"), "`a`");
    }

    #[test]
    fn a_curve_is_a_line_of_bars_with_its_gaps() {
        let mut curve = Curve::new(100);
        for x in 0..4 {
            curve.add(f64::from(x), f64::from(x));
        }
        curve.gap();
        curve.add(9.0, 3.0);
        assert_eq!(
            bars(&curve, false),
            "\u{2581}\u{2583}\u{2586}\u{2588} \u{2588}"
        );
    }
}
