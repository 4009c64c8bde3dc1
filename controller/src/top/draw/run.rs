//! One run: how it stands, its money and GPUs, its curves, and the panes below (pure).

use ratatui::{
    layout::Rect,
    style::{Modifier, Style},
};

use super::{
    Canvas, Scene, columns, rows,
    shapes::{bar, bounds, curve, spark, wrap},
    width,
};
use crate::top::{
    keys::Pane,
    model::{Bar, GpuRow, Line, Plot, Tone, View, grouped, short},
};

/// From here on panes stand beside each other.
const WIDE: (u16, u16) = (110, 30);
/// Columns of a curve's scale.
const SCALE: u16 = 7;

/// Draws a run. Answers how many lines of the pane fit.
pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, view: &View, scene: &Scene<'_>) -> usize {
    let mut left = area;
    let mut take = |height: u16| {
        let [taken, rest] = rows(left, [height, left.height.saturating_sub(height)]);
        left = rest;
        taken
    };
    about(canvas, take(1), view);
    for alert in alert_lines(view, area) {
        canvas.text(take(1), 0, &alert, Tone::Warn);
    }
    for shown in [&view.progress, &view.saved, &view.money] {
        labelled(canvas, take(1), shown);
    }
    if let Some(note) = &view.gpu_note {
        let text = format!("GPUs     {}", note.text);
        canvas.text(take(1), 0, &text, note.tone);
    }
    let height = gpu_rows(view.gpus.len(), area.height);
    gpus(canvas, take(height), &view.gpus);
    if !view.host.is_empty() {
        let room = area.width.saturating_sub(9);
        let text = format!("box      {}", what_fits(&view.host, room));
        canvas.text(take(1), 0, &text, Tone::Dim);
    }
    let plots = left.height * 2 / 5;
    let [above, below] = rows(left, [plots, left.height - plots]);
    let [loss, speed] = columns(above, above.width / 2 - 1);
    plot(canvas, loss, &view.loss);
    plot(canvas, speed, &view.speed);
    panes(
        canvas,
        below,
        scene,
        area.width >= WIDE.0 && area.height >= WIDE.1,
    )
}

fn about(canvas: &mut Canvas<'_>, area: Rect, view: &View) {
    let about = width(&view.about).min(area.width);
    canvas.text(
        Rect {
            width: about,
            ..area
        },
        0,
        &view.about,
        Tone::Plain,
    );
    let room = area.width.saturating_sub(about + 2);
    let length = width(&view.freshness.text).min(room);
    let right = Rect {
        x: area.right() - length,
        width: length,
        ..area
    };
    canvas.text(right, 0, &view.freshness.text, view.freshness.tone);
}

/// What is wrong, in at most an eighth of the screen.
fn alert_lines(view: &View, area: Rect) -> Vec<String> {
    let most = usize::from(area.height / 8).max(2);
    let alerts = view.alerts.iter();
    let lines: Vec<_> = alerts
        .flat_map(|alert| wrap(&format!("! {alert}"), usize::from(area.width), 2))
        .collect();
    let left_out = lines.len().saturating_sub(most);
    let mut lines = lines;
    lines.truncate(most);
    if left_out > 0
        && let Some(last) = lines.last_mut()
    {
        let room = usize::from(area.width).saturating_sub(2);
        *last = last.chars().take(room).collect::<String>() + " …";
    }
    lines
}

/// A label, a bar, and as many words as fit.
fn labelled(canvas: &mut Canvas<'_>, area: Rect, shown: &Bar) {
    let (ink, style) = (canvas.ink(), canvas.style(shown.tone));
    let mut x = canvas.put(
        area.x,
        area.y,
        area.width,
        &format!("{:<9}", shown.label),
        Style::new(),
    );
    if let Some(fraction) = shown.fraction {
        let cells = usize::from(area.width / 10);
        x = canvas.put(x, area.y, area.width, &bar(fraction, cells), ink);
        x = canvas.put(
            x,
            area.y,
            7,
            &format!(" {:>3.0} % ", (fraction * 100.0).floor()),
            style,
        );
    }
    let room = area.right().saturating_sub(x);
    canvas.put(x, area.y, room, &what_fits(&shown.parts, room), style);
}

/// The words that fit into so many columns; the first ones in any case.
fn what_fits(parts: &[String], room: u16) -> String {
    let mut text = String::new();
    let mut fits = true;
    for part in parts {
        // What is in brackets is about the words before it.
        let is_aside = part.starts_with('(');
        let joint = if is_aside { " " } else { " · " };
        if text.is_empty() {
            text.clone_from(part);
            continue;
        }
        fits = (fits || !is_aside) && width(&text) + width(joint) + width(part) <= room;
        if fits {
            text = text + joint + part;
        }
    }
    text
}

/// Rows for so many GPUs: one each, or two in a row where there are many.
fn gpu_rows(count: usize, height: u16) -> u16 {
    let most = (height / 5).max(2);
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    match count <= most {
        true => count,
        false => count.div_ceil(2).min(most),
    }
}

fn gpus(canvas: &mut Canvas<'_>, area: Rect, gpus: &[GpuRow]) {
    let height = usize::from(area.height);
    if gpus.len() <= height {
        for (row, gpu) in gpus.iter().enumerate() {
            gpu_row(canvas, row_of(area, row), gpu);
        }
        return;
    }
    let halves = columns(area, area.width / 2 - 1);
    let fit = height * 2;
    let shown = if gpus.len() > fit {
        fit - 1
    } else {
        gpus.len()
    };
    for (index, gpu) in gpus[..shown].iter().enumerate() {
        gpu_row(canvas, row_of(halves[index % 2], index / 2), gpu);
    }
    if shown < gpus.len() {
        let text = format!("and {} more GPUs on a higher screen", gpus.len() - shown);
        canvas.text(row_of(halves[shown % 2], shown / 2), 0, &text, Tone::Warn);
    }
}

fn row_of(area: Rect, row: usize) -> Rect {
    let row = u16::try_from(row).unwrap_or(u16::MAX);
    Rect {
        y: area.y.saturating_add(row),
        height: 1,
        ..area
    }
}

/// `GPU 0    ███▏░░ 53 % ▂▃▅▇ memory ██░░ 18.1 of 24.0 GiB 312 W 71 C`, narrower where there is less room.
fn gpu_row(canvas: &mut Canvas<'_>, area: Rect, gpu: &GpuRow) {
    let is_wide = area.width >= 70;
    let (ink, plain) = (canvas.ink(), Style::new());
    let sign = if gpu.is_troubled { "!" } else { " " };
    let label = match is_wide {
        true => format!("GPU {:<3}{sign} ", gpu.index),
        false => format!("{:>2}{sign}", gpu.index),
    };
    let tone = if gpu.is_troubled {
        Tone::Warn
    } else {
        Tone::Plain
    };
    let style = canvas.style(tone);
    let mut x = canvas.put(area.x, area.y, area.width, &label, style);
    let cells = usize::from(if is_wide { area.width / 10 } else { 5 });
    let used = gpu.used_percent;
    x = canvas.put(
        x,
        area.y,
        area.width,
        &bar(used.unwrap_or(0.0) / 100.0, cells),
        ink,
    );
    let used = used.map_or_else(|| "   - % ".to_owned(), |used| format!(" {used:>3.0} % "));
    x = canvas.put(x, area.y, 7, &used, plain);
    let memory = gpu.memory_bytes.map(|(used, total)| {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        (
            used as f64 / total.max(1) as f64,
            format!("{:.1}/{:.0}G", gib(used), gib(total)),
        )
    });
    let mut end = String::new();
    if let Some((share, words)) = &memory {
        end = match is_wide {
            true => format!(" memory {} {words}", bar(*share, cells / 2)),
            false => format!(" {words}"),
        };
    }
    if is_wide || width(&end) + 20 < area.width {
        end += &format!(" {}", gpu.figures);
    }
    let room = area.right().saturating_sub(x);
    let sparks = room.saturating_sub(width(&end));
    if sparks >= 4 {
        let cells = usize::from(sparks.min(60));
        x = canvas.put(
            x,
            area.y,
            sparks,
            &spark(&gpu.history, gpu.span_s, cells),
            ink,
        );
    }
    let room = area.right().saturating_sub(x);
    canvas.put(x, area.y, room, &end, plain);
}

fn plot(canvas: &mut Canvas<'_>, area: Rect, plot: &Plot) {
    if area.height == 0 {
        return;
    }
    let steps = match (plot.points.first(), plot.points.last()) {
        (Some((first, _)), Some((last, _))) => {
            format!(
                ", steps {} to {}",
                grouped(*first as u64),
                grouped(*last as u64)
            )
        }
        _ => String::new(),
    };
    let mut title = format!("{}{steps}", plot.title);
    if width(&title) + 1 > area.width {
        title.clone_from(&plot.title);
    }
    canvas.title(area, &title, false);
    let [_, inside] = rows(area, [1, area.height - 1]);
    let Some((low, high)) = bounds(plot.points.iter().map(|(_, y)| *y)) else {
        return;
    };
    let (cells, height) = (inside.width.saturating_sub(SCALE), inside.height);
    if height == 0 || cells == 0 {
        return;
    }
    let (dim, ink) = (canvas.style(Tone::Dim), canvas.ink());
    let lines = curve(&plot.points, usize::from(cells), usize::from(height));
    for (row, line) in lines.iter().enumerate() {
        let at = row_of(inside, row);
        let scale = match row {
            0 => short(high),
            row if row + 1 == lines.len() => short(low),
            _ => String::new(),
        };
        canvas.put(at.x, at.y, SCALE, &format!("{scale:>6} "), dim);
        canvas.put(at.x + SCALE, at.y, cells, line, ink);
    }
}

fn panes(canvas: &mut Canvas<'_>, area: Rect, scene: &Scene<'_>, is_wide: bool) -> usize {
    let marked = scene.screen.pane;
    if !is_wide {
        return pane(canvas, area, scene, marked, true);
    }
    let [main, side] = columns(area, area.width * 11 / 20);
    let half = side.height / 2;
    let others = [Pane::Log, Pane::Events, Pane::Windows]
        .into_iter()
        .filter(|other| *other != marked);
    for (other, area) in others.zip(rows(side, [half, side.height - half])) {
        pane(canvas, area, scene, other, false);
    }
    pane(canvas, main, scene, marked, true)
}

/// A pane. Answers how many lines fit.
fn pane(
    canvas: &mut Canvas<'_>,
    area: Rect,
    scene: &Scene<'_>,
    which: Pane,
    marked: bool,
) -> usize {
    if area.height < 2 {
        return 1;
    }
    let screen = scene.screen;
    let lines = (scene.lines)(which);
    let cursor = screen.cursor.filter(|_| marked);
    canvas.title(area, &pane_title(scene, which, marked, lines.len()), marked);
    let [_, inside] = rows(area, [1, area.height - 1]);
    let height = usize::from(inside.height);
    if lines.is_empty() {
        let nothing = match (marked && !screen.filter.is_empty(), which) {
            (true, _) => "no line has that text",
            (false, Pane::Log) => "nothing is printed so far",
            (false, Pane::Events) => "nothing has happened so far",
            (false, Pane::Windows) => {
                "no window is closed so far: the first ends after ten minutes of training"
            }
            (false, Pane::Attempts) => "no box so far",
        };
        canvas.text(inside, 0, nothing, Tone::Dim);
        return height;
    }
    let at = match cursor {
        Some(cursor) => lines.partition_point(|line| line.id < cursor),
        None => lines.len() - 1,
    };
    let shown = around(
        &lines,
        at.min(lines.len() - 1),
        cursor.is_some(),
        height,
        |line| {
            match which {
                // Logs are wide, and their beginning says most.
                Pane::Log => vec![line.text.clone()],
                _ => wrap(&line.text, usize::from(inside.width), 4),
            }
        },
    );
    for (row, (text, tone, is_marked)) in shown.iter().enumerate() {
        let mut style = canvas.style(*tone);
        if *is_marked {
            style = Style::new().add_modifier(Modifier::REVERSED);
        }
        let at = row_of(inside, row);
        canvas.put(at.x, at.y, at.width, text, style);
    }
    height
}

/// Rows of the lines around one: it in the middle, or at the end while the newest is followed.
fn around(
    lines: &[Line],
    at: usize,
    is_marked: bool,
    height: usize,
    rows_of: impl Fn(&Line) -> Vec<String>,
) -> Vec<(String, Tone, bool)> {
    let rows = |index: usize| {
        let line = &lines[index];
        let mark = is_marked && index == at;
        let rows = rows_of(line).into_iter();
        rows.map(move |text| (text, line.tone, mark))
            .collect::<Vec<_>>()
    };
    let mut shown = rows(at);
    let (mut before, mut after) = (at, at + 1);
    // As much after it as before it, while there is any.
    while shown.len() < height && (before > 0 || after < lines.len()) {
        if after < lines.len() {
            shown.extend(rows(after));
            after += 1;
        }
        if before > 0 && shown.len() < height {
            before -= 1;
            let mut above = rows(before);
            above.append(&mut shown);
            shown = above;
        }
    }
    // The newest line counts when it is followed, the marked one when it is not.
    let excess = shown.len().saturating_sub(height);
    let from = match is_marked {
        true => {
            let first = shown.iter().position(|(_, _, mark)| *mark).unwrap_or(0);
            excess.min(first)
        }
        false => excess,
    };
    shown.drain(..from);
    shown.truncate(height);
    shown
}

fn pane_title(scene: &Scene<'_>, which: Pane, marked: bool, count: usize) -> String {
    let screen = scene.screen;
    if !marked {
        return which.name().to_owned();
    }
    let mut title = String::new();
    for (index, pane) in Pane::ALL.iter().enumerate() {
        let name = pane.name();
        title += &match *pane == which {
            true => format!("[{name}] "),
            false => format!("{} {name} ", index + 1),
        };
    }
    if !screen.filter.is_empty() {
        title += &format!(" filter `{}`: {count} lines", screen.filter);
    } else if screen.cursor.is_some() {
        title += " End follows";
    }
    title.trim_end().to_owned()
}
