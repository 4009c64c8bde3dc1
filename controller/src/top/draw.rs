//! Puts the screen into a buffer of cells (pure). What matters is said by words and signs; colour only helps the eye.

mod list;
mod run;
mod shapes;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::Span,
};

use super::{
    keys::{HELP, Pane, Screen},
    model::{Line, ListRow, Tone, View},
};

/// Least columns and rows; less shows one line that says so.
pub const LEAST: (u16, u16) = (60, 16);

/// Everything that is on the screen.
pub struct Scene<'a> {
    /// What is looked at.
    pub screen: &'a Screen,
    /// The time.
    pub clock: &'a str,
    /// Every run.
    pub rows: &'a [ListRow],
    /// The run that is looked at; `None`: there is none.
    pub view: Option<&'a View>,
    /// The lines of its panes.
    pub lines: &'a dyn Fn(Pane) -> Vec<Line>,
}

/// Draws it. Answers how many lines of the pane fit.
pub fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>, colour: bool) -> usize {
    let mut canvas = Canvas { buffer, colour };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!(
            "too small: {} x {}, needs {} x {}; q leaves",
            area.width, area.height, LEAST.0, LEAST.1
        );
        canvas.text(area, 0, &text, Tone::Plain);
        return 1;
    }
    let [head, body, foot] = rows(area, [1, area.height - 2, 1]);
    header(&mut canvas, head, scene);
    footer(&mut canvas, foot, scene);
    if scene.screen.help {
        help(&mut canvas, body);
        return 1;
    }
    match scene.view.filter(|_| !scene.screen.list) {
        Some(view) => run::draw(&mut canvas, body, view, scene),
        None => {
            list::draw(&mut canvas, body, scene);
            1
        }
    }
}

fn header(canvas: &mut Canvas<'_>, area: Rect, scene: &Scene<'_>) {
    let style = Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD);
    canvas.buffer.set_style(area, style);
    let at = scene
        .rows
        .iter()
        .position(|row| row.name == scene.screen.run);
    let place = match (at, scene.rows.len()) {
        (Some(at), count) if count > 1 => format!("  run {} of {count}", at + 1),
        _ => String::new(),
    };
    let title = match scene.view.filter(|_| !scene.screen.list) {
        Some(view) => format!(" spotter top  {}  {}{place}", view.name, view.state.text),
        None if scene.rows.len() == 1 => " spotter top  1 run".to_owned(),
        None => format!(" spotter top  {} runs", scene.rows.len()),
    };
    let clock = format!("{} ", scene.clock);
    let room = area.width.saturating_sub(width(&clock));
    canvas.put(area.x, area.y, room, &title, style);
    canvas.put(area.x + room, area.y, width(&clock), &clock, style);
}

fn footer(canvas: &mut Canvas<'_>, area: Rect, scene: &Scene<'_>) {
    let screen = scene.screen;
    let text = if screen.typing {
        format!(" filter: {}_  (Enter keeps it, Esc ends it)", screen.filter)
    } else if let Some(note) = &screen.note {
        format!(" {note}")
    } else if screen.list {
        " Up/Down choose  Enter opens  ? keys  q leaves, the runs go on".to_owned()
    } else {
        let keys = match scene.rows.len() > 1 {
            true => "Left/Right run  Esc list  Tab pane  Up/Down",
            false => "Tab pane  Up/Down scroll",
        };
        format!(" {keys}  / filter  c copy  ? keys  q leave")
    };
    let tone = if screen.note.is_some() || screen.typing {
        Tone::Warn
    } else {
        Tone::Dim
    };
    canvas.text(area, 0, &text, tone);
}

fn help(canvas: &mut Canvas<'_>, area: Rect) {
    canvas.title(area, "keys", false);
    let lines = HELP
        .iter()
        .map(|(keys, what)| format!("  {keys:<14} {what}"));
    let more = [
        "",
        "A copy goes to the terminal as an OSC 52 sequence, which puts it into your own",
        "clipboard, through ssh as well. Some terminals ask first, or want it allowed;",
        "tmux wants `set -s set-clipboard on`.",
        "",
        "While this is open somebody watches: a training that contradicts its estimate",
        "is not ended for want of an answer. Any key goes back.",
    ];
    let copying = more.map(|line| format!("  {line}"));
    for (row, line) in lines.chain(copying).enumerate() {
        let row = u16::try_from(row + 1).unwrap_or(u16::MAX);
        if row < area.height {
            canvas.text(area, row, &line, Tone::Plain);
        }
    }
}

/// Where cells are put.
struct Canvas<'b> {
    buffer: &'b mut Buffer,
    colour: bool,
}

impl Canvas<'_> {
    /// Puts a text, cut with a sign where it is too long. Answers the column after it.
    fn put(&mut self, x: u16, y: u16, room: u16, text: &str, style: Style) -> u16 {
        let whole = width(text) <= room;
        let room_for_text = if whole { room } else { room.saturating_sub(1) };
        let (end, _) = self
            .buffer
            .set_stringn(x, y, text, usize::from(room_for_text), style);
        if !whole && room > 0 {
            return self.buffer.set_stringn(end, y, "…", 1, style).0;
        }
        end
    }

    /// A line of a region.
    fn text(&mut self, area: Rect, row: u16, text: &str, tone: Tone) {
        if row < area.height {
            let style = self.style(tone);
            self.put(area.x, area.y + row, area.width, text, style);
        }
    }

    /// The title of a region: its name, and a rule to its end.
    fn title(&mut self, area: Rect, title: &str, marked: bool) {
        let mark = if marked { "▶ " } else { "" };
        let style = Style::new().add_modifier(Modifier::BOLD);
        let dim = self.style(Tone::Dim);
        let end = self.put(
            area.x,
            area.y,
            area.width,
            &format!("{mark}{title} "),
            style,
        );
        let rest = area.right().saturating_sub(end);
        self.put(end, area.y, rest, &"─".repeat(usize::from(rest)), dim);
    }

    fn style(&self, tone: Tone) -> Style {
        let style = Style::new();
        match (tone, self.colour) {
            (Tone::Plain, _) => style,
            (Tone::Dim, _) => style.add_modifier(Modifier::DIM),
            (Tone::Warn, true) => style.fg(Color::Yellow).add_modifier(Modifier::BOLD),
            (Tone::Warn, false) => style.add_modifier(Modifier::BOLD),
            (Tone::Bad, true) => style
                .fg(Color::Black)
                .bg(Color::Yellow)
                .add_modifier(Modifier::BOLD),
            (Tone::Bad, false) => style.add_modifier(Modifier::BOLD | Modifier::REVERSED),
        }
    }

    /// For bars and curves.
    fn ink(&self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::Cyan),
            false => Style::new(),
        }
    }
}

fn width(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// Cuts a region into rows of these heights, from above; what does not fit is empty.
fn rows<const N: usize>(area: Rect, heights: [u16; N]) -> [Rect; N] {
    let mut y = area.y;
    heights.map(|height| {
        let height = height.min(area.bottom() - y);
        let row = Rect { y, height, ..area };
        y += height;
        row
    })
}

/// Cuts a region in two beside each other, with a gap; the left one has so many columns.
fn columns(area: Rect, left: u16) -> [Rect; 2] {
    let left = left.min(area.width);
    let gap = 2.min(area.width - left);
    let right = Rect {
        x: area.x + left + gap,
        width: area.width - left - gap,
        ..area
    };
    [
        Rect {
            width: left,
            ..area
        },
        right,
    ]
}

#[cfg(test)]
mod tests;
