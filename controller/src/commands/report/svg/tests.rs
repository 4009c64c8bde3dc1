//! Small plots as they are drawn, and the numbers on their axes.

use super::*;
use crate::commands::report::{
    chart::{Lane, Level},
    curve::Curve,
};

fn drawn(draw: impl FnOnce(&mut Markup)) -> String {
    let mut out = Markup::new();
    draw(&mut out);
    // An element a line: what changes shows.
    out.finish().replace("><", ">\n<")
}

fn small(series: Vec<Series>) -> Chart {
    Chart {
        title: "Loss",
        unit: "as printed".to_owned(),
        axis: Axis::Steps,
        series,
        levels: Vec::new(),
        marks: Vec::new(),
        shades: Vec::new(),
        from_zero: false,
    }
}

fn series(values: &[(f64, f64)], line: Line) -> Series {
    let mut curve = Curve::new(100);
    for (x, y) in values {
        curve.add(*x, *y);
    }
    Series {
        label: "attempt <1>".to_owned(),
        colour: 8,
        line,
        curve,
    }
}

#[test]
fn a_plot_has_axes_curves_levels_moments_and_times_without_training() {
    let mut used = series(&[(0.0, 20.0), (60.0, 80.0), (120.0, f64::NAN)], Line::Band);
    used.curve.add(600.0, 50.0);
    let chart = Chart {
        title: "GPU use",
        unit: "%".to_owned(),
        axis: Axis::Time {
            from_us: 1_800_000_000_000_000,
            to_s: 600.0,
        },
        levels: vec![Level {
            label: "100 \" there".to_owned(),
            value: 100.0,
        }],
        marks: vec![
            Mark {
                at_s: 300.0,
                kind: Kind::Interruption,
                label: "</title><script>".to_owned(),
            },
            Mark {
                at_s: 60.0,
                kind: Kind::Checkpoint,
                label: "checkpoint of step 10".to_owned(),
            },
        ],
        shades: vec![(120.0, 600.0)],
        from_zero: true,
        ..small(vec![used])
    };
    insta::assert_snapshot!("plot", drawn(|out| super::chart(out, &chart, NARROW)));
}

#[test]
fn a_range_is_drawn_behind_its_mean() {
    let mut curve = Curve::new(100);
    for (x, range) in [(1.0, (1.0, 2.0, 3.0)), (2.0, (1.5, 1.5, 1.5))] {
        curve.add_range(x, range);
    }
    let mut one = series(&[], Line::Band);
    one.curve = curve;
    let text = drawn(|out| super::chart(out, &small(vec![one]), WIDE));
    let band = text.find("class=\"band c1\"").unwrap();
    let line = text.find("class=\"line c1\"").unwrap();
    assert!(band < line, "{text}");
    assert_eq!(text.matches("<polygon").count(), 1);
}

#[test]
fn attempts_lie_one_below_the_other() {
    let line = Timeline {
        to_s: 7200.0,
        from_us: 0,
        lanes: vec![
            Lane {
                label: "try 1".to_owned(),
                rented: (0.0, 3600.0),
                trained: vec![(600.0, 3000.0)],
                marks: Vec::new(),
            },
            Lane {
                label: "try 2".to_owned(),
                rented: (4000.0, 7200.0),
                ..Lane::default()
            },
        ],
    };
    insta::assert_snapshot!("timeline", drawn(|out| timeline(out, &line, NARROW)));
}

#[test]
fn plots_of_one_value_or_none_have_room_all_the_same() {
    for values in [
        &[][..],
        &[(5.0, 0.0)],
        &[(5.0, 3.0), (5.0, 3.0)],
        &[(1e9, 1e-9)],
    ] {
        let text = drawn(|out| super::chart(out, &small(vec![series(values, Line::Band)]), WIDE));
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}

#[test]
fn ticks_are_round_and_numbers_short() {
    for ((least, most), expected) in [
        ((0.0, 100.0), "0 50 100"),
        ((2.1, 2.9), "2 2.2 2.4 2.6 2.8 3"),
        ((5.0, 5.0), "5"),
        ((-1.0, 1.0), "-1 -0.5 0 0.5 1"),
    ] {
        let texts: Vec<String> = ticks(least, most, 4).into_iter().map(number).collect();
        assert_eq!(texts.join(" "), expected);
    }
    for (value, expected) in [
        (0.0, "0"),
        (0.25, "0.25"),
        (2.0, "2"),
        (12.5, "12.5"),
        (1500.0, "1500"),
        (15_000.0, "15k"),
        (999_960.0, "1M"),
        (2_500_000.0, "2.5M"),
        (-3.5, "-3.5"),
        (0.015, "0.015"),
        (0.00012, "1.2e-4"),
        (4e9, "4G"),
    ] {
        assert_eq!(number(value), expected);
    }
    let (ticks, name) = time_ticks(2.5 * 3600.0, 4, 0);
    assert_eq!(name, "minutes after 1970-01-01 00:00 UTC");
    let texts: Vec<&str> = ticks.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["0", "50", "100", "150"]);
}
