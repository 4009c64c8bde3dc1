//! A report as one HTML file that stands alone (pure): no script, no network, plots as SVG within it.

use super::{
    chart::{Axis, Chart, Kind},
    markup::Markup,
    model::Report,
    svg::{self, COLOURS, NARROW, WIDE},
    tables::Grid,
};

/// How a file of ours is known, in its first bytes.
pub(super) const MARK: &str = "content=\"spotter report\"";

/// The style sheet. Colours are those of Okabe and Ito, which most of the colour-blind tell apart.
const STYLE: &str = include_str!("report.css");

/// Draws the page.
pub(super) fn page(report: &Report, made: &str) -> String {
    let mut out = Markup::new();
    out.element("html", &[("lang", "en")], |out| {
        out.element("head", &[], |out| head(out, report));
        out.element("body", &[], |out| {
            out.element("main", &[], |out| body(out, report, made));
        });
    });
    format!("<!doctype html>\n{}\n", out.finish())
}

fn head(out: &mut Markup, report: &Report) {
    out.empty("meta", &[("charset", "utf-8")]);
    out.empty(
        "meta",
        &[("name", "generator"), ("content", "spotter report")],
    );
    // Were anything of this ever a script or an address, a browser would not follow it.
    out.empty(
        "meta",
        &[
            ("http-equiv", "Content-Security-Policy"),
            ("content", "default-src 'none'; style-src 'unsafe-inline'"),
        ],
    );
    out.empty(
        "meta",
        &[
            ("name", "viewport"),
            ("content", "width=device-width, initial-scale=1"),
        ],
    );
    out.empty(
        "meta",
        &[("name", "color-scheme"), ("content", "light dark")],
    );
    out.words("title", &[], format!("{}: {}", report.name, report.state));
    out.style(STYLE);
}

fn body(out: &mut Markup, report: &Report, made: &str) {
    out.element("header", &[], |out| {
        out.element("h1", &[], |out| {
            out.text(&report.name);
            out.text(" ");
            let class = format!("state {}", report.verdict);
            out.words("span", &[("class", &class)], &report.state);
        });
        out.words("p", &[("class", "sub")], &report.subtitle);
        if let Some(reason) = &report.reason {
            out.words("p", &[("class", "reason")], reason);
        }
    });
    out.element("dl", &[("class", "headline")], |out| {
        for (name, value, more) in &report.headline {
            out.element("div", &[], |out| {
                out.words("dt", &[], name);
                out.words("dd", &[("class", "value")], value);
                out.words("dd", &[("class", "more")], more);
            });
        }
    });
    if !report.timeline.lanes.is_empty() {
        figure(out, "Attempts", "", |out| {
            let marks = report.timeline.lanes.iter().flat_map(|lane| &lane.marks);
            let kinds = marks.map(|mark| mark.kind).collect::<Vec<_>>();
            legend(out, |out| {
                swatch(out, "box rented", "has a box");
                swatch(out, "box trained", "trains");
                moments(out, &kinds);
            });
            for size in [WIDE, NARROW] {
                svg::timeline(out, &report.timeline, size);
            }
        });
    }
    for chart in &report.charts {
        plot(out, chart);
    }
    for grid in &report.grids {
        table(out, grid);
    }
    out.element("footer", &[], |out| {
        out.element("ul", &[], |out| {
            for note in &report.notes {
                out.words("li", &[], note);
            }
            out.words("li", &[], made);
        });
    });
}

fn figure(out: &mut Markup, title: &str, unit: &str, inner: impl FnOnce(&mut Markup)) {
    out.element("figure", &[], |out| {
        out.element("figcaption", &[], |out| {
            out.text(title);
            if !unit.is_empty() {
                out.words("small", &[], format!(" {unit}"));
            }
        });
        inner(out);
    });
}

fn plot(out: &mut Markup, chart: &Chart) {
    figure(out, chart.title, &chart.unit, |out| {
        let kinds: Vec<Kind> = chart.marks.iter().map(|mark| mark.kind).collect();
        let has_down = !chart.shades.is_empty() && matches!(chart.axis, Axis::Time { .. });
        let named = chart.series.iter().any(|series| !series.label.is_empty());
        if named || has_down || !kinds.is_empty() {
            legend(out, |out| {
                for series in chart.series.iter().filter(|one| !one.label.is_empty()) {
                    let dashed = match series.line {
                        super::chart::Line::Dashed => " dashed",
                        _ => "",
                    };
                    let class = format!("key c{}{dashed}", series.colour % COLOURS);
                    swatch(out, &class, &series.label);
                }
                if has_down {
                    swatch(out, "box down", "nothing trains");
                }
                moments(out, &kinds);
            });
        }
        for size in [WIDE, NARROW] {
            svg::chart(out, chart, size);
        }
    });
}

fn legend(out: &mut Markup, inner: impl FnOnce(&mut Markup)) {
    out.element("p", &[("class", "legend")], inner);
}

fn swatch(out: &mut Markup, class: &str, label: &str) {
    out.element("span", &[], |out| {
        out.empty("i", &[("class", class)]);
        out.text(label);
    });
}

fn moments(out: &mut Markup, kinds: &[Kind]) {
    for (kind, class, label) in [
        (Kind::Interruption, "bar cut", "interruption"),
        (Kind::Contradiction, "bar doubt", "contradicts its estimate"),
        (Kind::Checkpoint, "bar saved", "checkpoint"),
    ] {
        if kinds.contains(&kind) {
            swatch(out, class, label);
        }
    }
}

fn table(out: &mut Markup, grid: &Grid) {
    out.element("section", &[], |out| {
        out.words("h2", &[], grid.title);
        if grid.left_out > 0 {
            let text = format!(
                "The newest {}; {} before them are left out.",
                grid.rows.len(),
                grid.left_out
            );
            out.words("p", &[("class", "sub")], text);
        }
        out.element("div", &[("class", "scroll"), ("tabindex", "0")], |out| {
            out.element("table", &[], |out| rows(out, grid));
        });
    });
}

fn rows(out: &mut Markup, grid: &Grid) {
    let class = |column: &str| match column.ends_with('>') {
        true => "n",
        false => "t",
    };
    out.element("thead", &[], |out| {
        out.element("tr", &[], |out| {
            for column in grid.columns {
                let attributes = [("class", class(column)), ("scope", "col")];
                out.words("th", &attributes, column.trim_end_matches('>'));
            }
        });
    });
    out.element("tbody", &[], |out| {
        for row in &grid.rows {
            out.element("tr", &[], |out| {
                for (cell, column) in row.iter().zip(grid.columns) {
                    out.words("td", &[("class", class(column))], cell);
                }
            });
        }
    });
}
