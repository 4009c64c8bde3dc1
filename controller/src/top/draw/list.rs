//! All runs, one line each, and what is wrong with the one that is marked (pure).

use ratatui::{
    layout::Rect,
    style::{Modifier, Style},
};

use super::{
    Canvas, Scene, rows,
    shapes::{bar, wrap},
};
use crate::{
    top::{
        keys::Pane,
        model::{ListRow, Tone, grouped, short},
    },
    ui::text,
};

/// Draws the list.
pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, scene: &Scene<'_>) {
    let count = u16::try_from(scene.rows.len()).unwrap_or(u16::MAX);
    let table = (count + 1).min(area.height * 3 / 5);
    let [table, below] = rows(area, [table, area.height - table]);
    if scene.rows.is_empty() {
        canvas.text(
            area,
            0,
            "no runs so far: begin with `spotter init`",
            Tone::Plain,
        );
        return;
    }
    let is_wide = area.width >= 110;
    canvas.text(table, 0, &headings(is_wide), Tone::Dim);
    let at = scene
        .rows
        .iter()
        .position(|row| row.name == scene.screen.run);
    let at = at.unwrap_or(0);
    let fit = usize::from(table.height.saturating_sub(1));
    let first = at.saturating_sub(fit.saturating_sub(1));
    for (row, index) in (first..scene.rows.len()).take(fit).enumerate() {
        let row = u16::try_from(row + 1).unwrap_or(u16::MAX);
        let shown = &scene.rows[index];
        let tone = if shown.is_troubled {
            Tone::Warn
        } else {
            shown.state.tone
        };
        let mut style = canvas.style(tone);
        if index == at {
            style = Style::new().add_modifier(Modifier::REVERSED);
        }
        let text = cells(shown, is_wide, index == at);
        canvas.put(table.x, table.y + row, table.width, &text, style);
    }
    details(canvas, below, scene);
}

fn headings(is_wide: bool) -> String {
    let more = if is_wide { "     SAVED      COST" } else { "" };
    format!(
        "   {:<15} {:<12} {:>5} {:<8} {:>9} {:>6} {:>7} {:>8}{more}",
        "RUN", "STATE", "GPU", "", "STEP", "LEFT", "LOSS", "NOW"
    )
}

fn cells(row: &ListRow, is_wide: bool, marked: bool) -> String {
    let mark = if marked { "▶" } else { " " };
    let trouble = if row.is_troubled { "!" } else { " " };
    let used = row.used_percent.map(|used| format!("{used:.0} %"));
    let done = row.fraction.map_or_else(String::new, |done| bar(done, 8));
    let saved = if row.saved == "-" {
        "-".to_owned()
    } else {
        format!("{} ago", row.saved)
    };
    let more = match is_wide {
        true => format!(" {saved:>9} {:>9}", text::usd(row.cost_usd)),
        false => String::new(),
    };
    format!(
        "{mark}{trouble} {:<15} {:<12} {:>5} {done:<8} {:>9} {:>6} {:>7} {:>8}{more}",
        cut(&row.name, 15),
        cut(&row.state.text, 12),
        text::or_dash(used),
        text::or_dash(row.step.map(grouped)),
        row.left,
        text::or_dash(row.loss.map(short)),
        format!("${:.3}", row.usd_per_hour),
    )
}

fn cut(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// What is wrong with the marked run, and what happened last.
fn details(canvas: &mut Canvas<'_>, area: Rect, scene: &Scene<'_>) {
    let Some(view) = scene.view.filter(|_| area.height > 1) else {
        return;
    };
    let title = format!("{}: {} · {}", view.name, view.about, view.freshness.text);
    canvas.title(area, &title, false);
    let [_, inside] = rows(area, [1, area.height - 1]);
    let room = usize::from(inside.width);
    let alerts = view.alerts.iter();
    let mut lines: Vec<(String, Tone)> = alerts
        .flat_map(|alert| wrap(&format!("! {alert}"), room, 2))
        .map(|line| (line, Tone::Warn))
        .collect();
    lines.truncate(usize::from(inside.height / 2).max(1));
    let left = usize::from(inside.height) - lines.len().min(usize::from(inside.height));
    let events = (scene.lines)(Pane::Events);
    let newest = events.iter().skip(events.len().saturating_sub(left));
    lines.extend(newest.map(|event| (event.text.clone(), event.tone)));
    for (row, (line, tone)) in lines.iter().enumerate() {
        let row = u16::try_from(row).unwrap_or(u16::MAX);
        canvas.text(inside, row, line, *tone);
    }
}
